/*-------------------------------------------------------------------------
 *
 * journal.h
 *		Streams: rights on them, their locks, and looking into their tables.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_JOURNAL_H
#define SYNC_EXT_JOURNAL_H

#include "access/relscan.h"
#include "access/skey.h"
#include "datatype/timestamp.h"
#include "executor/tuptable.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"

#include "cursor.h"

/* The domain of entries, in events. */
#define SX_JOURNAL_DOMAIN	"sync.entries"

/* The name of a stream has at most this many bytes; the table says so, too. */
#define SX_JOURNAL_MAX_NAME	255

/* An id has at most this many bytes, so that any client can keep it. */
#define SX_JOURNAL_MAX_ID	255

/*
 * An entry has at most this many bytes: it is made, stored, and sent in one
 * piece, several times in memory on the way.
 */
#define SX_JOURNAL_MAX_ENTRY (16 * 1024 * 1024)

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

/*
 * Whether the stream has an entry or a snapshot; then the time of the last
 * one, in this snapshot.
 */
extern bool sx_journal_last_time(int32 stream_id, Snapshot snapshot,
								 TimestampTz *at);

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

/* ---- looking into tables ---- */

/* An index scan that is used again and again. */
typedef struct SxProbe
{
	Relation	heap;
	Relation	index;
	IndexScanDesc scan;
	int			nkeys;
	TupleTableSlot *slot;
} SxProbe;

/* On relations that the caller has open. */
extern void sx_probe_begin(SxProbe *probe, Relation heap, Relation index,
						   Snapshot snapshot, int nkeys);
extern void sx_probe_end(SxProbe *probe);

/* On relations that it opens and closes itself. */
extern void sx_probe_open(SxProbe *probe, Oid heap, Oid index,
						  Snapshot snapshot, int nkeys);

/* The first row in this direction, or NULL; valid until the next. */
extern TupleTableSlot *sx_probe_first(SxProbe *probe, ScanKey keys,
									  ScanDirection direction);
extern TupleTableSlot *sx_probe_next(SxProbe *probe, ScanDirection direction);
extern void sx_probe_close(SxProbe *probe);

/* Makes the key (stream_id) or (stream_id, hash). */
extern void sx_probe_stream_key(ScanKey key, int32 stream_id);
extern void sx_probe_hash_keys(ScanKey keys, int32 stream_id, bytea *hash);

#endif							/* SYNC_EXT_JOURNAL_H */
