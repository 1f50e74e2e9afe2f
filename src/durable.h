/*-------------------------------------------------------------------------
 *
 * durable.h
 *		What is shown to a client must be on disk.
 *
 * What a snapshot sees may include commits that are not yet on disk
 * (synchronous_commit = off). Were they lost in a crash, a client would hold
 * what never was, and their transaction ids would be given out again; so they
 * are flushed before anybody is told.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_DURABLE_H
#define SYNC_EXT_DURABLE_H

#include "nodes/pg_list.h"

/* Transactions that were examined. Begins zeroed. */
typedef struct SxDurable
{
	uint64	   *xids;
	int			nxids;
	int			room;
} SxDurable;

/*
 * Remembers a transaction, in the memory context that is current at the first
 * call.
 */
extern void sx_durable_note(SxDurable *durable, uint64 xid);

/*
 * Flushes WAL up to the commits of these transactions, or, with "everything",
 * up to its end. Nothing to do on a standby, or where commits are synchronous.
 */
extern void sx_durable_flush(SxDurable *durable, bool everything);

#endif							/* SYNC_EXT_DURABLE_H */
