/*-------------------------------------------------------------------------
 *
 * launcher.h
 *		Keeps a worker running in each database of sync.databases.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_LAUNCHER_H
#define SYNC_EXT_LAUNCHER_H

/* Registers the launcher, when the library is being preloaded. */
extern void sx_launcher_init(void);

/* The entry point of the background worker. */
extern PGDLLEXPORT void sx_launcher_main(Datum arg);

#endif							/* SYNC_EXT_LAUNCHER_H */
