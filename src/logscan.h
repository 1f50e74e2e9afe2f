/*-------------------------------------------------------------------------
 *
 * logscan.h
 *		Reading a change log, through its indexes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_LOGSCAN_H
#define SYNC_EXT_LOGSCAN_H

#include "access/relscan.h"
#include "executor/tuptable.h"
#include "nodes/params.h"
#include "utils/snapshot.h"

#include "cursor.h"
#include "filter.h"
#include "scopes.h"
#include "tracked.h"

/* One key of one log entry. Datums point into the scan. */
typedef struct SxLogItem
{
	SxPosition	position;		/* kind is left to the caller */
	SxOp		op;
	const char *origin;			/* NULL: nobody's own */
	Datum	   *key;
	ItemPointerData tid;		/* where the row was then, or invalid */
	TupleTableSlot *row;		/* key columns, then scope columns */
} SxLogItem;

typedef struct SxLogScan SxLogScan;

/*
 * Prepares to read entries of a table's log that "snapshot" sees, whose keys
 * pass the filter's log conjuncts and the policies, and whose scope is allowed
 * (NULL: any). With "by_allowed" they are read scope by scope, unless the
 * filter names scopes: then position.scan is a place in "allowed". "now" is
 * that snapshot as a set. Everything is allocated in the current memory
 * context, and released by the end call.
 */
extern SxLogScan *sx_logscan_begin(SxTable *table, SxFilter *filter,
								   List *policies, ParamListInfo params,
								   const SxScopes *allowed, bool by_allowed,
								   Snapshot snapshot, const SxSnapshot *now);
extern void sx_logscan_end(SxLogScan *scan);

/*
 * Starts over: entries of transactions that "target" has and "seen" has not,
 * in the order of scan, transaction and sequence, from a position on (of kind
 * SX_POSITION_NONE: from the start).
 */
extern void sx_logscan_between(SxLogScan *scan, const SxSnapshot *seen,
							   const SxSnapshot *target,
							   const SxPosition *from);

/* The same for the entries of one transaction. */
extern void sx_logscan_own(SxLogScan *scan, uint64 xid,
						   const SxPosition *from);

/*
 * Whether there are at most n entries between two snapshots, passing or not.
 * The scan must be started over afterwards.
 */
extern bool sx_logscan_is_short(SxLogScan *scan, const SxSnapshot *seen,
								const SxSnapshot *target, int n);

/* The next item, or NULL. It is valid until the next call. */
extern SxLogItem *sx_logscan_next(SxLogScan *scan);

/*
 * One row of a log: keys that changed alike, none of which is looked at. Values
 * point into the scan.
 */
typedef struct SxLogEntry
{
	uint64		xid;
	SxOp		op;
	const char *origin;			/* NULL: nobody's own */
	int			nkeys;
	Datum	   *scopes;
	bool	   *scope_nulls;
} SxLogEntry;

/*
 * The next row of the log, for a scan without a filter, which asks for nothing
 * but entries. False when there is none; valid until the next call.
 */
extern bool sx_logscan_next_entry(SxLogScan *scan, SxLogEntry *entry);

/* Takes an item, which is valid until the next. */
typedef void (*SxTakeItem) (void *arg, const SxLogItem *item);

/*
 * All entries from transaction "low" on that "snapshot" sees, whose first
 * scope column has a value; those of one transaction in their order.
 */
extern void sx_logscan_of(SxTable *table, Datum first, uint64 low,
						  Snapshot snapshot, SxTakeItem take, void *arg);

/* Whether a row of key and scope columns passes, and its scope is allowed. */
extern bool sx_logscan_passes(SxLogScan *scan, TupleTableSlot *row);

/* A slot for such a row. */
extern TupleTableSlot *sx_logscan_row(SxLogScan *scan);

/*
 * The newest logged transaction that the snapshot sees finished, or 0 where
 * there is none from "low" on.
 */
extern uint64 sx_logscan_newest(Oid heap, Oid index, Snapshot snapshot,
								const SxSnapshot *now, uint64 low);

/* The same over the logs and markers of all tables. */
extern uint64 sx_logscan_newest_of_all(Snapshot snapshot,
									   const SxSnapshot *now);

/* The same for the reset markers of a table. */
extern uint64 sx_logscan_newest_marker(Oid root, Snapshot snapshot,
									   const SxSnapshot *now, uint64 low);

/* Whether this transaction left a marker for the table, visible to S. */
extern bool sx_logscan_has_marker(Oid root, Snapshot snapshot, uint64 xid);

/* Transactions below this one may be missing from the table's log. */
extern uint64 sx_logscan_pruned_below(Oid root, Snapshot snapshot);

#endif							/* SYNC_EXT_LOGSCAN_H */
