/*-------------------------------------------------------------------------
 *
 * journal.h
 *		Streams: rights on them, and their locks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_JOURNAL_H
#define SYNC_EXT_JOURNAL_H

#include "datatype/timestamp.h"
#include "utils/snapshot.h"

#include "cursor.h"

/* The name of a stream has at most this many bytes; the table says so, too. */
#define SX_JOURNAL_MAX_NAME	255

/* An id has at most this many bytes, so that any client can keep it. */
#define SX_JOURNAL_MAX_ID	255

/*
 * An entry has at most this many bytes: it is made, stored, and sent in one
 * piece, several times in memory on the way.
 */
#define SX_JOURNAL_MAX_ENTRY (16 * 1024 * 1024)

/* A call has at most this many entries, for the same reason. */
#define SX_JOURNAL_MAX_CALL 1000000

/* Ids that begin so are made here. */
#define SX_JOURNAL_OWN_IDS	"sync:"

#define SX_JOURNAL_HASH		32	/* bytes of SHA-256 */

typedef enum SxJournalRight
{
	SX_JOURNAL_READ,
	SX_JOURNAL_APPEND,
	SX_JOURNAL_COMPACT
} SxJournalRight;

typedef struct SxStream
{
	int32		id;
	bool		opaque;			/* kind "opaque", else "actions" */
	char	   *name;
	/* once it is locked: */
	bool		compacted;		/* ids may be in the ledger */
	uint64		version;		/* of the catalog; 0: not known yet */
} SxStream;

/*
 * Finds a stream and checks the current user's right on it. Raises
 * undefined_object and insufficient_privilege. Takes no lock on the stream.
 */
extern void sx_journal_open(text *name, SxJournalRight right,
							SxStream *stream);

/*
 * Holds a stream until the transaction ends: nobody else appends to it,
 * compacts or drops it. Raises undefined_object where it is gone by then.
 * Whoever holds it sees with SnapshotSelf all that is in it.
 */
extern void sx_journal_lock(SxStream *stream);

/*
 * What every session knows of streams is void: one was made or removed, or
 * compacted for the first time.
 */
extern void sx_journal_forget_streams(void);

/* Whether the stream has come to a time: has an entry that is not earlier. */
extern bool sx_journal_has_come_to(int32 stream_id, Snapshot snapshot,
								   TimestampTz at);

/* Whether it has a snapshot; then up to which time the latest goes. */
extern bool sx_journal_last_snapshot(int32 stream_id, Snapshot snapshot,
									 TimestampTz *upto);

/* SHA-256 of a text's UTF-8 bytes. */
extern void sx_journal_hash_text(const char *text, int len, uint8 *hash);

/* SHA-256 of an entry's content; jsonb counts as its text. */
extern void sx_journal_digest(bool opaque, Datum content, uint8 *digest);

/*
 * Before a commit is shown it is on disk: flushes what a transaction wrote
 * into a stream. Commits of one stream are in WAL in the order of their
 * times, so the newest transaction shown does for all before it.
 */
extern void sx_journal_flush(uint64 xid);

#endif							/* SYNC_EXT_JOURNAL_H */
