/*-------------------------------------------------------------------------
 *
 * cursor.h
 *		The type sync.cursor, and arithmetic on the snapshots inside it.
 *
 * A cursor says exactly which transactions a client has seen. It is a
 * snapshot, never a time; see the comment at the top of cursor.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_CURSOR_H
#define SYNC_EXT_CURSOR_H

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"
#include "fmgr.h"
#include "utils/snapshot.h"

/*
 * A set of transactions: all top-level ones below xmax but those in xip,
 * which is sorted. xip may hold subtransactions too, which harm nobody: no
 * log entry carries one.
 *
 * A standby cannot tell the ones from the others, so a cursor must name the
 * subtransactions that run, too. The set of a primary's snapshot has them
 * apart: a cursor need not, where PostgreSQL had lost count of them.
 */
typedef struct SxSnapshot
{
	uint64		xmax;
	int			nxip;
	uint64	   *xip;
	int			nsub;
	uint64	   *sub;			/* sorted, like xip */
} SxSnapshot;

typedef enum SxPositionKind
{
	SX_POSITION_NONE,
	SX_POSITION_LOG,			/* between two snapshots */
	SX_POSITION_OWN,			/* in the reading transaction's own changes */
	SX_POSITION_LOAD,			/* in a first load, by key */
	SX_POSITION_STREAM			/* in a journal, by time */
} SxPositionKind;

/* What is told of a round, LOG or OWN, in the order of the first three. */
typedef enum SxPhase
{
	SX_PHASE_ENTRIES,			/* of the log; all that there is without a user */
	SX_PHASE_FORGET,			/* scopes that were lost */
	SX_PHASE_GRANTED			/* rows of scopes that were gained */
} SxPhase;

/* What a position has passed already of the transaction that it cuts. */
#define SX_PASSED_ENTERS	1
#define SX_PASSED_OTHERS	2

/* Where a page was cut. */
typedef struct SxPosition
{
	SxPositionKind kind;
	SxPhase		phase;			/* LOG, OWN */
	uint32		scan;			/* ENTRIES: which of the filter's scopes; LOAD:
								 * 1 after a reset */
	uint64		xid;			/* ENTRIES: the entry that comes next; OWN: the
								 * transaction; STREAM: the time of the last
								 * entry told */
	int32		seq;
	uint32		item;			/* and the key in the entry */
	uint32		passed;			/* ENTRIES: SX_PASSED_ what of the same scan and
								 * transaction */

	/*
	 * As text, none so far where nkeys is 0. LOAD, GRANTED: the last key that
	 * was examined. FORGET: the last scope told. ENTRIES, where they are read
	 * by the user's scopes: the scope.
	 */
	int			nkeys;
	char	  **keys;
} SxPosition;

/* A cursor, unpacked. */
typedef struct SxCursor
{
	bool		is_time;		/* stands for a tick; only "time" is set */
	TimestampTz time;
	uint64		generation;		/* extension, system and database */
	TimeLineID	timeline;
	XLogRecPtr	lsn;
	uint64		question;		/* what it is bound to; 0: anything */
	uint64		rights;			/* of the user: by a view a hash; by a table 1
								 * where what was granted since may have been
								 * shown already */
	SxSnapshot	seen;
	bool		has_target;		/* a page: it goes on to this snapshot */
	SxSnapshot	target;
	SxSnapshot	read;			/* what its rows may show already */
	SxPosition	position;
} SxCursor;

/*
 * Unpacks a cursor into the current memory context. Raises
 * invalid_text_representation where the bytes are not a cursor.
 */
extern SxCursor *sx_cursor_decode(bytea *datum);

/* Packs a cursor, in the current memory context. */
extern bytea *sx_cursor_encode(const SxCursor *cursor);

/* The text form of a packed cursor, in the current memory context. */
extern char *sx_cursor_text(bytea *datum);

/* The input function, which other files call for text that they are given. */
extern Datum sync_ext_cursor_in(PG_FUNCTION_ARGS);

/* Whether the set holds this top-level transaction. */
extern bool sx_snapshot_has(const SxSnapshot *snapshot, uint64 xid);

/*
 * The set that an MVCC snapshot sees, its own transaction left out: what a
 * transaction has written so far can still be rolled back. The result is in
 * the current memory context. Works on a standby, too.
 */
extern SxSnapshot *sx_snapshot_of(Snapshot snapshot);

/*
 * The same set for transactions below xmax. Where too many of them run, xmax
 * is lowered: what lies above counts as not seen, and is seen twice.
 */
extern SxSnapshot *sx_snapshot_below(const SxSnapshot *snapshot, uint64 xmax);

/* Whether everything in "inner" is in "outer", too. */
extern bool sx_snapshot_contains(const SxSnapshot *outer,
								 const SxSnapshot *inner);

/* The oldest transaction that is not in the set. */
extern uint64 sx_snapshot_xmin(const SxSnapshot *snapshot);

/* The full form of a transaction id of this epoch or the one before. */
extern uint64 sx_full_xid(TransactionId xid);

/* The top-level transaction's full id, or 0 when it has none yet. */
extern uint64 sx_own_xid(void);

/*
 * Where this server's WAL stands: what is on disk, or on a standby what was
 * replayed, and the timeline that it is on.
 */
extern XLogRecPtr sx_wal_position(TimeLineID *timeline);

typedef enum SxHistory
{
	SX_HISTORY_SHARED,			/* the place lies in our past */
	SX_HISTORY_BEHIND,			/* we are a standby that has not come so far */
	SX_HISTORY_OTHER			/* our history left the cursor's before it */
} SxHistory;

/* How a place in WAL relates to this server's history. */
extern SxHistory sx_history_of(TimeLineID timeline, XLogRecPtr lsn);

#endif							/* SYNC_EXT_CURSOR_H */
