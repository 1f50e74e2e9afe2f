/*-------------------------------------------------------------------------
 *
 * lag.c
 *		How far a cursor has come, as a time.
 *
 * A cursor of one domain ends at the last change of that domain, and so at the
 * time of that, though other domains went on: it does not say which domain it
 * is of. The time that an answer hands out has no such limit.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#include "sync_ext.h"
#include "catalog.h"
#include "cursor.h"
#include "logscan.h"
#include "validity.h"

PG_FUNCTION_INFO_V1(sync_ext_cursor_time);

/*
 * Whether all that a tick had seen is in "seen", but for what no log knows of:
 * nothing was logged after "newest".
 */
static bool
has_seen(const SxSnapshot *seen, HeapTuple tick, TupleDesc desc, uint64 newest)
{
	SxSnapshot	then = {0};
	ArrayType  *running;
	bool		isnull;

	then.xmax = U64FromFullTransactionId(DatumGetFullTransactionId(
		heap_getattr(tick, Anum_tick_xmax, desc, &isnull)));
	then.xmax = Min(then.xmax, newest + 1);
	if (then.xmax > seen->xmax)
		return false;
	running = DatumGetArrayTypeP(heap_getattr(tick, Anum_tick_xip, desc,
											  &isnull));
	then.nxip = ArrayGetNItems(ARR_NDIM(running), ARR_DIMS(running));
	then.xip = (uint64 *) ARR_DATA_PTR(running);
	return sx_snapshot_contains(seen, &then);
}

/*
 * sync.cursor_time(cursor): the newest tick that the cursor contains, NULL
 * where it contains none, or says nothing here. Clients are mostly up to date,
 * so the newest tick is looked at first.
 */
Datum
sync_ext_cursor_time(PG_FUNCTION_ARGS)
{
	SxCursor   *cursor = sx_cursor_decode(PG_GETARG_BYTEA_PP(0));
	Snapshot	snapshot = GetActiveSnapshot();
	uint64		newest;
	bool		found = false;
	TimestampTz at = 0;
	const SxCatalog *catalog;
	Relation	rel;
	Relation	index;
	SysScanDesc scan;
	HeapTuple	tuple;

	if (sx_validity_of_cursor(cursor, snapshot) != NULL ||
		cursor->position.kind == SX_POSITION_STREAM)
		PG_RETURN_NULL();
	newest = sx_logscan_newest_of_all(snapshot, sx_snapshot_of(snapshot));
	catalog = sx_catalog_get();
	rel = table_open(catalog->tick, AccessShareLock);
	index = index_open(sx_catalog_get()->tick_by_time, AccessShareLock);
	scan = systable_beginscan_ordered(rel, index, snapshot, 0, NULL);
	while (!found &&
		   HeapTupleIsValid(tuple = systable_getnext_ordered(scan, BackwardScanDirection)))
	{
		bool		isnull;

		CHECK_FOR_INTERRUPTS();
		found = has_seen(&cursor->seen, tuple, RelationGetDescr(rel), newest);
		at = DatumGetTimestampTz(heap_getattr(tuple, Anum_tick_at,
											  RelationGetDescr(rel), &isnull));
	}
	systable_endscan_ordered(scan);
	index_close(index, NoLock);
	table_close(rel, NoLock);
	if (!found)
		PG_RETURN_NULL();
	PG_RETURN_TIMESTAMPTZ(at);
}
