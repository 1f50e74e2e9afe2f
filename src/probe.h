/*-------------------------------------------------------------------------
 *
 * probe.h
 *		Looking into the journals' tables, through their indexes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_PROBE_H
#define SYNC_EXT_PROBE_H

#include "access/relscan.h"
#include "access/skey.h"
#include "executor/tuptable.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"

/* An index scan that is used again and again. */
typedef struct SxProbe
{
	Relation	heap;
	Relation	index;
	IndexScanDesc scan;
	int			nkeys;
	TupleTableSlot *slot;
} SxProbe;

/* On relations that the caller has open. */
extern void sx_probe_begin(SxProbe *probe, Relation heap, Relation index,
						   Snapshot snapshot, int nkeys);
extern void sx_probe_end(SxProbe *probe);

/* On relations that it opens and closes itself. */
extern void sx_probe_open(SxProbe *probe, Oid heap, Oid index,
						  Snapshot snapshot, int nkeys);

/* The first row in this direction, or NULL; valid until the next. */
extern TupleTableSlot *sx_probe_first(SxProbe *probe, ScanKey keys,
									  ScanDirection direction);
extern TupleTableSlot *sx_probe_next(SxProbe *probe, ScanDirection direction);
extern void sx_probe_close(SxProbe *probe);

/* Makes the key (stream_id) or (stream_id, hash). */
extern void sx_probe_stream_key(ScanKey key, int32 stream_id);
extern void sx_probe_hash_keys(ScanKey keys, int32 stream_id, bytea *hash);

#endif							/* SYNC_EXT_PROBE_H */
