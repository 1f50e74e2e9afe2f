/*-------------------------------------------------------------------------
 *
 * validity.h
 *		Whether a cursor still says something here.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_VALIDITY_H
#define SYNC_EXT_VALIDITY_H

#include "utils/snapshot.h"

#include "cursor.h"
#include "tracked.h"

/* Why a cursor is void, and what the client is told. */
typedef struct SxReset
{
	const char *reason;
	const char *message;
	const char *hint;
} SxReset;

/* Of another domain, filter, user or parameters: for who knows the question. */
extern const SxReset sx_reset_other_question;

/*
 * Whether the cursor is of this database and of its history; a time becomes
 * the tick that it stands for, in cursor->seen. "now" is the snapshot as a
 * set. Returns why it is void, or NULL. Raises t_r_serialization_failure where
 * a standby has not come so far. The snapshots inside are not looked at: see
 * sx_validity_check_snapshot().
 */
extern const SxReset *sx_validity_of_cursor(SxCursor *cursor,
											Snapshot snapshot);

/*
 * Raises t_r_serialization_failure where the reading snapshot, as a set, is
 * older than what the client has seen.
 */
extern void sx_validity_check_snapshot(const SxSnapshot *now,
									   const SxSnapshot *seen);

/* Whether a reset marker is new to "seen", as far as markers reach back. */
extern bool sx_validity_has_marker(SxTable *table, const SxSnapshot *seen,
								   Snapshot snapshot, const SxSnapshot *now,
								   uint64 own);

/*
 * Whether a table's log reaches back to "seen", and no reset marker is new to
 * it. "own" is the reader's transaction, or 0. Returns why not, or NULL.
 */
extern const SxReset *sx_validity_of_log(SxTable *table,
										 const SxSnapshot *seen,
										 Snapshot snapshot,
										 const SxSnapshot *now, uint64 own);

#endif							/* SYNC_EXT_VALIDITY_H */
