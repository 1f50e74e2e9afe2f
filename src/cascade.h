/*-------------------------------------------------------------------------
 *
 * cascade.h
 *		A change of a detail row counts as a change of its master row.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_CASCADE_H
#define SYNC_EXT_CASCADE_H

#include "executor/tuptable.h"

#include "tracked.h"

/* Remembers the master of a detail row that changed, to be touched. */
extern void sx_cascade_collect(SxTable *detail, SxMaster *master,
							   TupleTableSlot *slot);

/* Touches the masters remembered. At the end of a statement. */
extern void sx_cascade_apply(void);

/* Tries again those that were not found. They are tried once more before commit. */
extern void sx_cascade_retry(void);

/* The last time, before commit. */
extern void sx_cascade_before_commit(void);

/* A subtransaction ended: committed into its parent, or aborted. */
extern void sx_cascade_end_subxact(SubTransactionId subid,
								   SubTransactionId parent, bool committed);

/* Forgets the transaction that ended. */
extern void sx_cascade_end_xact(void);

#endif							/* SYNC_EXT_CASCADE_H */
