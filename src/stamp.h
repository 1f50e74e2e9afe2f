/*-------------------------------------------------------------------------
 *
 * stamp.h
 *		The BEFORE ROW trigger that sets modified_at.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_STAMP_H
#define SYNC_EXT_STAMP_H

/*
 * Makes UPDATEs of this table (its root, if partitioned) count as changes
 * though they change nothing, until it is called again with InvalidOid.
 * Returns what was set before; the caller restores it, also after an error.
 */
extern Oid	sx_stamp_force(Oid root);

/* The root whose UPDATEs are forced to count, or InvalidOid. */
extern Oid	sx_stamp_forced(void);

/* Whether a row moved to another partition in this command. */
extern bool sx_stamp_saw_move(void);

/* Forgets the state of a transaction that ended. */
extern void sx_stamp_end_xact(void);

#endif							/* SYNC_EXT_STAMP_H */
