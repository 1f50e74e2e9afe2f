/*-------------------------------------------------------------------------
 *
 * tick.h
 *		Times that stand for snapshots.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_TICK_H
#define SYNC_EXT_TICK_H

#include "datatype/timestamp.h"
#include "utils/snapshot.h"

#include "cursor.h"

/*
 * Leaves a tick, if the newest one is older than a second. Called before a
 * transaction that logged changes commits.
 */
extern void sx_tick_leave(void);

/*
 * The time of the newest tick that the snapshot sees: the server time to hand
 * out. False where there is none.
 */
extern bool sx_tick_newest(Snapshot snapshot, TimestampTz *at);

/*
 * The newest tick not after this time: what it had seen, in the current
 * memory context. NULL where there is none.
 */
extern SxSnapshot *sx_tick_find(Snapshot snapshot, TimestampTz time);

#endif							/* SYNC_EXT_TICK_H */
