/*-------------------------------------------------------------------------
 *
 * tick.c
 *		Times that stand for snapshots.
 *
 * A client that can keep only a time is served by ticks. A tick is a snapshot
 * with a time, left by a writer at most once a second. The server time that
 * answers hand out is the time of the newest tick that the reading snapshot
 * sees, never a clock; given back, it stands for the newest tick not after it.
 *
 * Why nothing is lost: say a reader with snapshot S is handed the time t of a
 * tick that S sees. A tick whose snapshot is later than S sees that tick as
 * well, and takes a time of at least t + 1, whatever the clock says. So every
 * tick with a time up to t has a snapshot no later than S, and what S did not
 * see is new to it.
 *
 * The snapshot of a tick ends at the writer's own transaction w. Whoever reads
 * the tick knows that w committed; after a crash that kept it, no id up to w
 * is given out again, so this snapshot is as safe as a tight one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#include "sync_ext.h"
#include "catalog.h"
#include "direct.h"
#include "tick.h"

PG_FUNCTION_INFO_V1(sync_ext_leave_tick);

/* Microseconds between ticks. */
#define TICK_INTERVAL 1000000

/* When this backend looked last, so that most commits need not. */
static TimestampTz last_look = 0;

/*
 * The newest visible tick, not after "limit" where one is given, in a slot of
 * the caller's. The columns are by value or point into the slot.
 */
static bool
newest_tick(Relation rel, Oid index_oid, Snapshot snapshot,
			const TimestampTz *limit, TupleTableSlot *slot)
{
	Relation	index = index_open(index_oid, AccessShareLock);
	IndexScanDesc scan = sx_index_beginscan(rel, index, snapshot,
											limit == NULL ? 0 : 1);
	ScanKeyData key;
	bool		found;

	if (limit != NULL)
		ScanKeyInit(&key, 1, BTLessEqualStrategyNumber, F_TIMESTAMPTZ_LE,
					TimestampTzGetDatum(*limit));
	index_rescan(scan, &key, limit == NULL ? 0 : 1, NULL, 0);
	found = index_getnext_slot(scan, BackwardScanDirection, slot);
	index_endscan(scan);
	index_close(index, NoLock);
	return found;
}

bool
sx_tick_newest(Snapshot snapshot, TimestampTz *at)
{
	const SxCatalog *catalog = sx_catalog_get();
	Oid			index = catalog->tick_by_time;
	Relation	rel = table_open(catalog->tick, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	bool		found = newest_tick(rel, index, snapshot, NULL, slot);
	bool		isnull;

	if (found)
		*at = DatumGetTimestampTz(slot_getattr(slot, Anum_tick_at, &isnull));
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, NoLock);
	return found;
}

static SxSnapshot *
snapshot_of_slot(TupleTableSlot *slot)
{
	SxSnapshot *result = palloc0(sizeof(SxSnapshot));
	bool		isnull;
	ArrayType  *array;

	result->xmax = U64FromFullTransactionId(
		DatumGetFullTransactionId(slot_getattr(slot, Anum_tick_xmax, &isnull)));
	array = DatumGetArrayTypePCopy(slot_getattr(slot, Anum_tick_xip, &isnull));
	result->nxip = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
	result->xip = palloc(sizeof(uint64) * Max(result->nxip, 1));
	memcpy(result->xip, ARR_DATA_PTR(array), sizeof(uint64) * result->nxip);
	return result;
}

SxSnapshot *
sx_tick_find(Snapshot snapshot, TimestampTz time)
{
	const SxCatalog *catalog = sx_catalog_get();
	Oid			index = catalog->tick_by_time;
	Relation	rel = table_open(catalog->tick, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	SxSnapshot *result = NULL;

	if (newest_tick(rel, index, snapshot, &time, slot))
		result = snapshot_of_slot(slot);
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, NoLock);
	return result;
}

static void
insert_tick(const SxSnapshot *seen, TimestampTz at)
{
	const SxCatalog *catalog = sx_catalog_get();
	SxDirect	target;
	Datum		values[Natts_tick];
	bool		nulls[Natts_tick] = {false};
	Datum	   *xip = palloc(sizeof(Datum) * Max(seen->nxip, 1));

	for (int i = 0; i < seen->nxip; i++)
		xip[i] = UInt64GetDatum(seen->xip[i]);
	values[Anum_tick_at - 1] = TimestampTzGetDatum(at);
	values[Anum_tick_xmax - 1] = UInt64GetDatum(seen->xmax);
	values[Anum_tick_xip - 1] =
		PointerGetDatum(construct_array(xip, seen->nxip, XID8OID, 8,
										FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	sx_direct_open(&target, catalog->tick, Natts_tick);
	sx_direct_insert(&target, values, nulls, GetCurrentCommandId(true));
	sx_direct_close(&target);
}

static void
leave_tick(bool always)
{
	uint64		own = U64FromFullTransactionId(GetTopFullTransactionId());
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TimestampTz now = GetCurrentTimestamp();	/* after the snapshot */
	TimestampTz newest;
	bool		found = sx_tick_newest(snapshot, &newest);

	last_look = now;
	now -= now % 1000;
	if (always || !found || now - newest >= TICK_INTERVAL)
	{
		if (found && now <= newest)
			now = newest + 1000;
		insert_tick(sx_snapshot_below(sx_snapshot_of(snapshot), own), now);
	}
	else if (now < newest)
	{
		/*
		 * The clock stepped back. Ticks go on from the newest one, a
		 * millisecond at a time, so that clients' times go on, too.
		 */
		insert_tick(sx_snapshot_below(sx_snapshot_of(snapshot), own),
					newest + 1000);
	}
	UnregisterSnapshot(snapshot);
}

void
sx_tick_leave(void)
{
	TimestampTz now = GetCurrentTimestamp();
	MemoryContext context;
	MemoryContext old;

	if (now >= last_look && now - last_look < TICK_INTERVAL)
		return;
	context = AllocSetContextCreate(CurrentMemoryContext, "sync_ext tick",
									ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	leave_tick(false);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/* sync.leave_tick(): the first one, when the extension is created. */
Datum
sync_ext_leave_tick(PG_FUNCTION_ARGS)
{
	leave_tick(true);
	PG_RETURN_VOID();
}
