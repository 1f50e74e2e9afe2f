/*-------------------------------------------------------------------------
 *
 * probe.c
 *		Looking into the journals' tables, through their indexes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "utils/fmgroids.h"

#include "sync_ext.h"
#include "probe.h"

void
sx_probe_begin(SxProbe *probe, Relation heap, Relation index,
			   Snapshot snapshot, int nkeys)
{
	probe->heap = heap;
	probe->index = index;
	probe->slot = table_slot_create(heap, NULL);
	probe->scan = sx_index_beginscan(heap, index, snapshot, nkeys);
	probe->nkeys = nkeys;
}

void
sx_probe_end(SxProbe *probe)
{
	index_endscan(probe->scan);
	ExecDropSingleTupleTableSlot(probe->slot);
}

void
sx_probe_open(SxProbe *probe, Oid heap, Oid index, Snapshot snapshot,
			  int nkeys)
{
	Relation	heap_rel = table_open(heap, AccessShareLock);

	sx_probe_begin(probe, heap_rel, index_open(index, AccessShareLock),
				   snapshot, nkeys);
}

TupleTableSlot *
sx_probe_next(SxProbe *probe, ScanDirection direction)
{
	return index_getnext_slot(probe->scan, direction, probe->slot) ?
		probe->slot : NULL;
}

TupleTableSlot *
sx_probe_first(SxProbe *probe, ScanKey keys, ScanDirection direction)
{
	index_rescan(probe->scan, keys, probe->nkeys, NULL, 0);
	return sx_probe_next(probe, direction);
}

void
sx_probe_close(SxProbe *probe)
{
	sx_probe_end(probe);
	index_close(probe->index, NoLock);
	table_close(probe->heap, NoLock);
}

void
sx_probe_stream_key(ScanKey key, int32 stream_id)
{
	ScanKeyInit(key, 1, BTEqualStrategyNumber, F_INT4EQ,
				Int32GetDatum(stream_id));
}

void
sx_probe_hash_keys(ScanKey keys, int32 stream_id, bytea *hash)
{
	sx_probe_stream_key(&keys[0], stream_id);
	ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_BYTEAEQ,
				PointerGetDatum(hash));
}
