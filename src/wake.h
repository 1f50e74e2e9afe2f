/*-------------------------------------------------------------------------
 *
 * wake.h
 *		How a commit wakes the worker of its database.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_WAKE_H
#define SYNC_EXT_WAKE_H

/*
 * Asks for shared memory, when the library is being preloaded. Without it the
 * functions below do nothing, and workers have to look by themselves.
 */
extern void sx_wake_init(void);

/* Whether commits can wake workers: whether the library was preloaded. */
extern bool sx_wake_available(void);

/*
 * Wakes the worker of this database, if it has one. Called when a transaction
 * has committed and is visible to others; allocates nothing and never fails.
 */
extern void sx_wake_worker(void);

/* The calling process is the worker of its database from now on. */
extern void sx_wake_attach(void);

/* Whether anybody has called since sx_wake_clear(). */
extern bool sx_wake_called(void);

/* To be called before the snapshot is taken in which the worker looks. */
extern void sx_wake_clear(void);

#endif							/* SYNC_EXT_WAKE_H */
