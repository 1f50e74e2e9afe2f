/*-------------------------------------------------------------------------
 *
 * journal_append.h
 *		Storing entries.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_JOURNAL_APPEND_H
#define SYNC_EXT_JOURNAL_APPEND_H

#include "storage/itemptr.h"

#include "catalog.h"
#include "journal.h"

/* An entry that is to be stored. */
typedef struct SxNewEntry
{
	text	   *id;
	bytea	   *hash;			/* of the id; with a four-byte header */
	Datum		content;		/* jsonb or bytea, as the stream's kind is */
	TimestampTz at;
	Datum		values[Natts_entry];	/* filled in by sx_append_insert() */
	bool		nulls[Natts_entry];
	ItemPointerData tid;
} SxNewEntry;

/*
 * Inserts entries, whose ids are not in use, at a time of the stream, in this
 * order. The caller holds the stream's lock. Asks for no privilege on the
 * table, and fires no trigger.
 */
extern void sx_append_insert(const SxStream *stream, int n,
							 SxNewEntry **entries, TimestampTz at,
							 uint64 xid, const char *origin);

#endif							/* SYNC_EXT_JOURNAL_APPEND_H */
