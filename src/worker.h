/*-------------------------------------------------------------------------
 *
 * worker.h
 *		The background worker of a database: it tells of changes, and prunes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_WORKER_H
#define SYNC_EXT_WORKER_H

#include "postmaster/bgworker.h"

/*
 * What a background worker loads: named as in the control file, so that it is
 * found wherever CREATE EXTENSION finds it.
 */
#define SX_LIBRARY "$libdir/sync_ext"

/*
 * Starts a worker for a database: false where max_worker_processes leaves no
 * room. One that is "kept" waits where the extension is not there, and is
 * started again by the launcher; others end then, and are started again by the
 * postmaster. The handle is allocated in the current memory context.
 */
extern bool sx_worker_start(Oid database, bool kept,
							BackgroundWorkerHandle **handle);

/*
 * Ends a background process of ours: sets ShutdownRequestPending, and cancels
 * what the process waits for. A handler for SIGTERM.
 */
extern void sx_worker_end(SIGNAL_ARGS);

/* The entry points of the background workers. */
extern PGDLLEXPORT void sx_worker_main(Datum database);
extern PGDLLEXPORT void sx_worker_prune_main(Datum database);

#endif							/* SYNC_EXT_WORKER_H */
