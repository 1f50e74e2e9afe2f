/*-------------------------------------------------------------------------
 *
 * capture.h
 *		The triggers that append changes to the log, and what a transaction
 *		does before it commits.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_CAPTURE_H
#define SYNC_EXT_CAPTURE_H

#include "commands/trigger.h"

#include "tracked.h"

/* Registers the transaction callbacks. Called once, at load. */
extern void sx_capture_init(void);

/* Who wants to see every change of a tracked row when it is captured. */
extern void (*sx_capture_watcher) (SxTable *table, TriggerData *trigger);

/*
 * Inserts the entries that wait in memory, as far as the current
 * subtransaction may. Called at the end of a statement, before the log is
 * read, and before the transaction commits or is prepared.
 */
extern void sx_capture_flush(void);

/*
 * Inserts a reset marker for a tracked table: what was known before is void.
 */
extern void sx_capture_mark(SxTable *table);

/*
 * Logs a key of a table as changed without a row at hand. For a master that
 * another transaction is inserting; the table has no scope.
 */
extern void sx_capture_key(SxTable *table, Datum *key);

/*
 * Counts a change of a domain that has no tracked table into the events of
 * the current subtransaction. "key" is one JSON object, or NULL where keys are
 * not asked for.
 */
extern void sx_capture_event(const char *domain, uint64 count,
							 const char *origin, const char *key);

/*
 * The transaction has read its own changes: somebody may hold rows that it
 * removes later.
 */
extern void sx_capture_note_read(void);

#endif							/* SYNC_EXT_CAPTURE_H */
