/*-------------------------------------------------------------------------
 *
 * write.h
 *		Writing rows for mutations, each compared with what is there.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_WRITE_H
#define SYNC_EXT_WRITE_H

#include "ledger.h"
#include "mutation.h"

typedef enum SxPolicy
{
	SX_POLICY_REJECT,
	SX_POLICY_CLIENT_WINS,
	SX_POLICY_NEWER_WINS,
	SX_POLICY_MERGE
} SxPolicy;

typedef struct SxWriter
{
	MemoryContext context;		/* lives as long as the mutations */
	SxPolicy	policy;
	TimestampTz now;			/* no client's time lies beyond it */
	SxDevice   *device;			/* NULL: nobody named */
	bytea	   *since;			/* what the client has seen; NULL: not said */
	List	   *changed;		/* what others changed after that, by table */
} SxWriter;

/*
 * Writes as the caller. The mutations are of one table, and each of another
 * row. Their status is set: applied, conflict, rejected or retry. Raises what
 * the statements raise; what was done then is the caller's to roll back.
 */
extern void sx_write_run(SxWriter *writer, SxMutation **mutations, int n);

/* Forgets what was done to a mutation, as it was rolled back. */
extern void sx_write_reset(SxMutation *mutation);

#endif							/* SYNC_EXT_WRITE_H */
