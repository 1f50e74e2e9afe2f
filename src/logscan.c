/*-------------------------------------------------------------------------
 *
 * logscan.c
 *		Reading a change log, through its indexes.
 *
 * The log is read by the index access method and not by SQL: who reads changes
 * has no right on the log, the order of entries is the index's, and the cost
 * must follow the entries that are new, whatever a planner believes.
 *
 * What is new to a cursor is a list of ranges of transaction ids: one for each
 * transaction that was running then and is seen now, and one from the cursor's
 * xmax on. Inside that one, transactions that still run are stepped over in
 * the index, by their id, without looking at their entries: there may be a
 * million of them, and every poll would look again.
 *
 * A filter that sets every scope column equal to a value is read in the index
 * that begins with those columns, once for each value when it is a list. So
 * are the scopes that a user may see. All else is read in the index on the
 * transaction alone.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/nbtree.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/typcache.h"
#include "utils/xid8.h"

#include "sync_ext.h"
#include "catalog.h"
#include "logscan.h"

typedef struct XidRange
{
	uint64		low;			/* inclusive */
	uint64		high;			/* exclusive */
	int32		low_seq;		/* entries of "low" begin here */
} XidRange;

static bool next_range(SxLogScan *scan);
static bool next_in_range(SxLogScan *scan);

struct SxLogScan
{
	SxTable    *table;
	SxFilter   *filter;
	Snapshot	snapshot;
	const SxSnapshot *now;

	Relation	heap;
	Relation	index;
	IndexScanDesc scan;
	TupleTableSlot *entry;
	int			nprefix;		/* scope columns in the index */
	Oid			prefix_functions[INDEX_MAX_KEYS];	/* that they equal by */
	Oid			prefix_subtypes[INDEX_MAX_KEYS];
	int			nscans;			/* value tuples for them */
	Datum	   *prefixes;		/* nscans times nprefix */
	const SxScopes *allowed;	/* NULL: all, or the prefixes see to it */

	EState	   *estate;			/* for the log conjuncts */
	ExprContext *econtext;
	ExprState  *passes;
	TupleTableSlot *row;

	/* where we are */
	const SxSnapshot *target;	/* NULL: the reader's own transaction */
	XidRange   *ranges;
	int			nranges;
	SxPosition	from;
	uint32		current_scan;
	int			current_range;
	bool		in_range;
	XidRange	range;			/* what is left of it */
	bool		has_entry;
	uint32		nitems;
	uint32		next_item;
	Datum	  **arrays;			/* key columns of the entry */
	Datum	   *tids;			/* NULL: none */
	Datum	   *key;
	char	   *origin;
	MemoryContext entry_context;
	SxLogItem	item;
};

/* ---- one probe ---- */

static void
xid_key(ScanKey key, AttrNumber attnum, StrategyNumber strategy, uint64 xid)
{
	ScanKeyInit(key, attnum, strategy,
				strategy == BTLessStrategyNumber ? F_XID8LT : F_XID8GE,
				FullTransactionIdGetDatum(FullTransactionIdFromU64(xid)));
}

static uint64
index_xid(IndexScanDesc scan, AttrNumber attnum)
{
	bool		isnull;

	return U64FromFullTransactionId(DatumGetFullTransactionId(
		index_getattr(scan->xs_itup, attnum, scan->xs_itupdesc, &isnull)));
}

/*
 * The newest transaction of an index with a visible entry, below a prefix of
 * at most one oid, and not older than "low"; what still runs is stepped over.
 * The bound is what keeps a poll cheap: without it btree looks at every entry
 * of the last page.
 */
static uint64
newest_in_index(Relation heap, Relation index, Snapshot snapshot,
				const SxSnapshot *now, Oid prefix, uint64 low)
{
	TupleTableSlot *slot = table_slot_create(heap, NULL);
	ScanKeyData keys[3];
	int			nprefix = 0;
	uint64		below = now->xmax;
	uint64		newest = 0;
	IndexScanDesc scan;

	if (OidIsValid(prefix))
		ScanKeyInit(&keys[nprefix++], 1, BTEqualStrategyNumber, F_OIDEQ,
					ObjectIdGetDatum(prefix));
	scan = sx_index_beginscan(heap, index, snapshot, nprefix + 2);
	scan->xs_want_itup = true;

	for (;;)
	{
		bool		again = false;

		xid_key(&keys[nprefix], nprefix + 1, BTGreaterEqualStrategyNumber, low);
		xid_key(&keys[nprefix + 1], nprefix + 1, BTLessStrategyNumber, below);
		index_rescan(scan, keys, nprefix + 2, NULL, 0);
		while (index_getnext_tid(scan, BackwardScanDirection) != NULL)
		{
			uint64		xid = index_xid(scan, nprefix + 1);

			CHECK_FOR_INTERRUPTS();
			if (!sx_snapshot_has(now, xid))
			{
				below = xid;
				again = true;
				break;
			}
			if (index_fetch_heap(scan, slot))
			{
				newest = xid;
				break;
			}
		}
		if (!again)
			break;
	}

	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	return newest;
}

uint64
sx_logscan_newest(Oid heap_oid, Oid index_oid, Snapshot snapshot,
				  const SxSnapshot *now, uint64 low)
{
	Relation	heap = table_open(heap_oid, AccessShareLock);
	Relation	index = index_open(index_oid, AccessShareLock);
	uint64		newest = newest_in_index(heap, index, snapshot, now,
										 InvalidOid, low);

	index_close(index, NoLock);
	table_close(heap, NoLock);
	return newest;
}

/* Over all logs and all markers. */
uint64
sx_logscan_newest_of_all(Snapshot snapshot, const SxSnapshot *now)
{
	SxCatalog	catalog = *sx_catalog_get();
	Relation	rel = table_open(catalog.change_log, AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, snapshot, 0,
										  NULL);
	HeapTuple	tuple;
	List	   *tables = NIL;
	ListCell   *cell;
	uint64		newest = 0;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		Datum		root = heap_getattr(tuple, Anum_change_log_rel,
										RelationGetDescr(rel), &isnull);

		tables = lappend_oid(tables, DatumGetObjectId(root));
	}
	systable_endscan(scan);
	table_close(rel, NoLock);

	foreach(cell, tables)
	{
		Oid			root = lfirst_oid(cell);
		SxTable    *table;

		if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(root)))
			continue;
		table = sx_tracked_get(root);
		if (!table->tracked)
			continue;
		newest = Max(newest, sx_logscan_newest(table->log, table->log_by_xid,
											   snapshot, now, newest));
		newest = Max(newest, sx_logscan_newest_marker(root, snapshot, now,
													  newest));
		newest = Max(newest, sx_logscan_pruned_below(root, snapshot));
	}
	/* the entries of journals are their own log */
	newest = Max(newest, sx_logscan_newest(catalog.entry, catalog.entry_by_xid,
										   snapshot, now, newest));
	newest = Max(newest, sx_logscan_newest(catalog.stream_snapshot,
										   catalog.stream_snapshot_by_xid,
										   snapshot, now, newest));
	return newest;
}

uint64
sx_logscan_newest_marker(Oid root, Snapshot snapshot, const SxSnapshot *now,
						 uint64 low)
{
	const SxCatalog *catalog = sx_catalog_get();
	Oid			index_oid = catalog->reset_marker_by_rel;
	Relation	heap = table_open(catalog->reset_marker, AccessShareLock);
	Relation	index = index_open(index_oid, AccessShareLock);
	uint64		newest = newest_in_index(heap, index, snapshot, now, root,
										 low);

	index_close(index, NoLock);
	table_close(heap, NoLock);
	return newest;
}

bool
sx_logscan_has_marker(Oid root, Snapshot snapshot, uint64 xid)
{
	const SxCatalog *catalog = sx_catalog_get();
	Oid			index_oid = catalog->reset_marker_by_rel;
	Relation	heap = table_open(catalog->reset_marker, AccessShareLock);
	Relation	index = index_open(index_oid, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(heap, NULL);
	IndexScanDesc scan = sx_index_beginscan(heap, index, snapshot, 2);
	ScanKeyData keys[2];
	bool		found;

	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(root));
	ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_XID8EQ,
				FullTransactionIdGetDatum(FullTransactionIdFromU64(xid)));
	index_rescan(scan, keys, 2, NULL, 0);
	found = index_getnext_slot(scan, ForwardScanDirection, slot);
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, NoLock);
	table_close(heap, NoLock);
	return found;
}

uint64
sx_logscan_pruned_below(Oid root, Snapshot snapshot)
{
	const SxCatalog *catalog = sx_catalog_get();
	Oid			index_oid = catalog->change_log_by_rel;
	Relation	heap = table_open(catalog->change_log, AccessShareLock);
	Relation	index = index_open(index_oid, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(heap, NULL);
	IndexScanDesc scan = sx_index_beginscan(heap, index, snapshot, 1);
	ScanKeyData key;
	uint64		pruned = 0;
	bool		isnull;

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(root));
	index_rescan(scan, &key, 1, NULL, 0);
	if (index_getnext_slot(scan, ForwardScanDirection, slot))
		pruned = U64FromFullTransactionId(DatumGetFullTransactionId(
			slot_getattr(slot, Anum_change_log_pruned, &isnull)));
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, NoLock);
	table_close(heap, NoLock);
	return pruned;
}

/* ---- beginning ---- */

static TupleDesc
row_desc(SxTable *table)
{
	TupleDesc	desc = CreateTemplateTupleDesc(table->nkeys + table->nscopes);

	for (int i = 0; i < table->nkeys + table->nscopes; i++)
	{
		SxColumn   *column = i < table->nkeys ? &table->keys[i] :
			&table->scopes[i - table->nkeys];

		TupleDescInitEntry(desc, i + 1, column->name, column->type,
						   column->typmod, 0);
		TupleDescInitEntryCollation(desc, i + 1, column->collation);
	}
	return desc;
}

/* The function of a type's own equality. */
static Oid
equality_of(Oid type)
{
	return get_opcode(lookup_type_cache(type, TYPECACHE_EQ_OPR)->eq_opr);
}

static Datum
evaluate(SxLogScan *scan, Expr *expression, bool *isnull)
{
	ExprState  *state = ExecInitExprWithParams(
		expression_planner((Expr *) copyObject(expression)),
		scan->econtext->ecxt_param_list_info);

	return ExecEvalExpr(state, scan->econtext, isnull);
}

/*
 * The values that the scope columns are set equal to: one tuple, or as many as
 * a list has elements. None where one of them is null: nothing is equal to it.
 */
static void
find_prefixes(SxLogScan *scan)
{
	SxTable    *table = scan->table;
	Datum		values[INDEX_MAX_KEYS];
	int			list = -1;
	Datum	   *elements = NULL;
	int			nelements = 1;

	for (int i = 0; i < table->nscopes; i++)
	{
		SxScopeEqual *equal = &scan->filter->scopes[i];
		bool		isnull;

		values[i] = evaluate(scan, equal->value, &isnull);
		if (isnull)
		{
			scan->nscans = 0;
			return;
		}
		if (equal->is_array)
		{
			ArrayType  *array = DatumGetArrayTypeP(values[i]);
			int16		typlen;
			bool		typbyval;
			char		typalign;
			bool	   *nulls;
			int			kept = 0;

			get_typlenbyvalalign(ARR_ELEMTYPE(array), &typlen, &typbyval,
								 &typalign);
			deconstruct_array(array, ARR_ELEMTYPE(array), typlen, typbyval,
							  typalign, &elements, &nulls, &nelements);
			for (int j = 0; j < nelements; j++)
				if (!nulls[j])
					elements[kept++] = elements[j];
			nelements = kept;
			list = i;
		}
	}

	scan->nscans = nelements;
	scan->prefixes = palloc(sizeof(Datum) * (Size) (nelements + 1) * table->nscopes);
	for (int i = 0; i < nelements; i++)
	{
		if (list >= 0)
			values[list] = elements[i];
		memcpy(&scan->prefixes[i * table->nscopes], values,
			   sizeof(Datum) * table->nscopes);
	}
}

static SxLogScan *
open_scan(SxTable *table, bool by_scope, Snapshot snapshot,
		  const SxSnapshot *now)
{
	SxLogScan  *scan = palloc0(sizeof(SxLogScan));

	scan->table = table;
	scan->snapshot = snapshot;
	scan->now = now;
	scan->nprefix = by_scope ? table->nscopes : 0;
	scan->nscans = 1;
	scan->row = MakeSingleTupleTableSlot(row_desc(table), &TTSOpsVirtual);
	scan->estate = CreateExecutorState();
	scan->econtext = CreateExprContext(scan->estate);
	scan->heap = table_open(table->log, AccessShareLock);
	scan->index = index_open(by_scope ? table->log_by_scope : table->log_by_xid,
							 AccessShareLock);
	scan->entry = table_slot_create(scan->heap, NULL);
	scan->scan = sx_index_beginscan(scan->heap, scan->index, snapshot,
									scan->nprefix + 3);
	scan->scan->xs_want_itup = true;
	scan->arrays = palloc0(sizeof(Datum *) * table->nkeys);
	scan->key = palloc0(sizeof(Datum) * table->nkeys);
	scan->entry_context = AllocSetContextCreate(CurrentMemoryContext,
												"sync_ext log entry",
												ALLOCSET_DEFAULT_SIZES);
	return scan;
}

SxLogScan *
sx_logscan_begin(SxTable *table, SxFilter *filter, List *policies,
				 ParamListInfo params, const SxScopes *allowed,
				 bool by_allowed, Snapshot snapshot, const SxSnapshot *now)
{
	bool		by_filter = filter != NULL && filter->by_scope &&
		OidIsValid(table->log_by_scope);
	bool		by_scope = by_filter || (allowed != NULL && by_allowed);
	SxLogScan  *scan = open_scan(table, by_scope, snapshot, now);
	List	   *quals;

	scan->filter = filter;
	scan->econtext->ecxt_param_list_info = params;
	quals = list_concat_copy(policies, filter == NULL ? NIL : filter->log_quals);
	if (quals != NIL)
		scan->passes = ExecInitExprWithParams(
			expression_planner(make_ands_explicit(copyObject(quals))), params);

	for (int i = 0; i < scan->nprefix; i++)
	{
		scan->prefix_functions[i] = by_filter ? filter->scopes[i].function :
			equality_of(table->scopes[i].type);
		scan->prefix_subtypes[i] = by_filter ? filter->scopes[i].subtype :
			InvalidOid;
	}
	if (by_filter)
		find_prefixes(scan);
	else if (by_scope)
	{
		scan->nscans = allowed->n;
		scan->prefixes = allowed->values;
	}
	if (by_filter || !by_scope)
		scan->allowed = allowed;
	return scan;
}

bool
sx_logscan_is_short(SxLogScan *scan, const SxSnapshot *seen,
					const SxSnapshot *target, int n)
{
	sx_logscan_between(scan, seen, target, NULL);
	while (n >= 0)
	{
		if (!scan->in_range && !next_range(scan))
			return true;
		if (next_in_range(scan))
			n--;
		else
			scan->in_range = false;
	}
	return false;
}

void
sx_logscan_end(SxLogScan *scan)
{
	index_endscan(scan->scan);
	ExecDropSingleTupleTableSlot(scan->entry);
	ExecDropSingleTupleTableSlot(scan->row);
	index_close(scan->index, NoLock);
	table_close(scan->heap, NoLock);
	FreeExecutorState(scan->estate);
}

/* ---- ranges ---- */

static void
add_range(SxLogScan *scan, uint64 low, uint64 high)
{
	if (low >= high)
		return;
	scan->ranges[scan->nranges].low = low;
	scan->ranges[scan->nranges].high = high;
	scan->ranges[scan->nranges].low_seq = 0;
	scan->nranges++;
}

static void
start(SxLogScan *scan, const SxPosition *from)
{
	memset(&scan->from, 0, sizeof(scan->from));
	if (from != NULL && from->kind != SX_POSITION_NONE)
		scan->from = *from;
	scan->current_scan = scan->from.scan;
	scan->current_range = -1;
	scan->in_range = false;
	scan->has_entry = false;
}

void
sx_logscan_between(SxLogScan *scan, const SxSnapshot *seen,
				   const SxSnapshot *target, const SxPosition *from)
{
	scan->ranges = palloc(sizeof(XidRange) * (seen->nxip + 1));
	scan->nranges = 0;
	scan->target = target;
	for (int i = 0; i < seen->nxip; i++)
		if (sx_snapshot_has(target, seen->xip[i]))
			add_range(scan, seen->xip[i], seen->xip[i] + 1);
	add_range(scan, seen->xmax, target->xmax);
	start(scan, from);
}

void
sx_logscan_own(SxLogScan *scan, uint64 xid, const SxPosition *from)
{
	scan->ranges = palloc(sizeof(XidRange));
	scan->nranges = 0;
	scan->target = NULL;
	add_range(scan, xid, xid + 1);
	start(scan, from);
}

/* ---- entries ---- */

static void
rescan(SxLogScan *scan)
{
	ScanKeyData keys[INDEX_MAX_KEYS];
	int			n = 0;

	for (int i = 0; i < scan->nprefix; i++)
		ScanKeyEntryInitialize(&keys[n++], 0, i + 1, BTEqualStrategyNumber,
							   scan->prefix_subtypes[i],
							   scan->table->scopes[i].collation,
							   scan->prefix_functions[i],
							   scan->prefixes[scan->current_scan * scan->nprefix + i]);
	xid_key(&keys[n++], scan->nprefix + 1, BTGreaterEqualStrategyNumber,
			scan->range.low);
	/* the first transaction alone, where we begin in its midst */
	xid_key(&keys[n++], scan->nprefix + 1, BTLessStrategyNumber,
			scan->range.low_seq > 0 ? scan->range.low + 1 : scan->range.high);
	/* a scan always has the number of keys that it began with */
	ScanKeyInit(&keys[n++], scan->nprefix + 2, BTGreaterEqualStrategyNumber,
				F_INT4GE, Int32GetDatum(scan->range.low_seq));
	index_rescan(scan->scan, keys, n, NULL, 0);
}

/* Leaves out what a position has passed already. False: all of the range. */
static bool
cut_range(SxLogScan *scan, XidRange *range)
{
	if (scan->from.kind == SX_POSITION_NONE ||
		scan->current_scan != scan->from.scan ||
		range->low > scan->from.xid)
		return true;
	if (range->high <= scan->from.xid)
		return false;
	range->low = scan->from.xid;
	range->low_seq = scan->from.seq;
	return true;
}

/* Begins the next range; false when there is none. */
static bool
next_range(SxLogScan *scan)
{
	while ((int) scan->current_scan < scan->nscans)
	{
		while (++scan->current_range < scan->nranges)
		{
			scan->range = scan->ranges[scan->current_range];
			if (!cut_range(scan, &scan->range))
				continue;
			rescan(scan);
			scan->in_range = true;
			return true;
		}
		scan->current_scan++;
		scan->current_range = -1;
	}
	return false;
}

/* What is left of the range begins after "xid"; false when nothing is. */
static bool
step_over(SxLogScan *scan, uint64 xid)
{
	scan->range.low = xid + 1;
	scan->range.low_seq = 0;
	if (scan->range.low >= scan->range.high)
		return false;
	rescan(scan);
	return true;
}

/* The next visible entry of the range in scan->entry. */
static bool
next_in_range(SxLogScan *scan)
{
	for (;;)
	{
		uint64		xid;

		CHECK_FOR_INTERRUPTS();
		if (index_getnext_tid(scan->scan, ForwardScanDirection) == NULL)
		{
			/* that was only the transaction in whose midst we began */
			if (scan->range.low_seq > 0 && step_over(scan, scan->range.low))
				continue;
			return false;
		}
		xid = index_xid(scan->scan, scan->nprefix + 1);
		if (scan->target != NULL &&
			(!sx_snapshot_has(scan->target, xid) ||
			 !sx_snapshot_has(scan->now, xid)))
		{
			if (!step_over(scan, xid))
				return false;
			continue;
		}
		if (index_fetch_heap(scan->scan, scan->entry))
			return true;
	}
}

static void
read_keys(SxLogScan *scan)
{
	SxTable    *table = scan->table;
	bool		isnull;

	scan->nitems = 1;
	for (int i = 0; i < table->nkeys; i++)
	{
		SxColumn   *column = &table->keys[i];
		Datum		value = slot_getattr(scan->entry, SX_LOG_FIXED + i + 1,
										 &isnull);
		int			n;

		if (!table->packed)
		{
			scan->key[i] = value;
			continue;
		}
		deconstruct_array(DatumGetArrayTypeP(value), column->type,
						  column->typlen, column->typbyval, column->typalign,
						  &scan->arrays[i], NULL, &n);
		scan->nitems = n;
	}
	for (int i = 0; i < table->nscopes; i++)
	{
		bool	   *row_null = &scan->row->tts_isnull[table->nkeys + i];

		scan->row->tts_values[table->nkeys + i] =
			slot_getattr(scan->entry, SX_LOG_FIXED + table->nkeys + i + 1,
						 row_null);
	}
}

static void
read_tids(SxLogScan *scan)
{
	bool		isnull;
	Datum		value = slot_getattr(scan->entry, SX_LOG_TIDS, &isnull);
	int			n;

	scan->tids = NULL;
	if (!isnull)
		deconstruct_array(DatumGetArrayTypeP(value), TIDOID,
						  sizeof(ItemPointerData), false, TYPALIGN_SHORT,
						  &scan->tids, NULL, &n);
}

static void
read_entry(SxLogScan *scan)
{
	MemoryContext old;
	Datum		value;
	bool		isnull;

	MemoryContextReset(scan->entry_context);
	old = MemoryContextSwitchTo(scan->entry_context);
	ExecClearTuple(scan->row);
	scan->item.position.scan = scan->current_scan;
	scan->item.position.xid = U64FromFullTransactionId(DatumGetFullTransactionId(
		slot_getattr(scan->entry, SX_LOG_XID, &isnull)));
	scan->item.position.seq = DatumGetInt32(slot_getattr(scan->entry,
														 SX_LOG_SEQ, &isnull));
	scan->item.op = (SxOp) DatumGetChar(slot_getattr(scan->entry, SX_LOG_OP,
													 &isnull));
	value = slot_getattr(scan->entry, SX_LOG_ORIGIN, &isnull);
	scan->item.origin = isnull ? NULL : TextDatumGetCString(value);
	read_keys(scan);
	read_tids(scan);
	scan->next_item = 0;
	if (scan->from.kind != SX_POSITION_NONE &&
		scan->item.position.scan == scan->from.scan &&
		scan->item.position.xid == scan->from.xid &&
		scan->item.position.seq == scan->from.seq)
		scan->next_item = scan->from.item;
	scan->has_entry = true;
	MemoryContextSwitchTo(old);
}

bool
sx_logscan_passes(SxLogScan *scan, TupleTableSlot *row)
{
	int			nkeys = scan->table->nkeys;
	bool		isnull;
	Datum		result;

	if (scan->allowed != NULL &&
		!sx_scopes_has(scan->allowed, row->tts_values + nkeys,
					   row->tts_isnull + nkeys))
		return false;
	if (scan->passes == NULL)
		return true;
	ResetExprContext(scan->econtext);
	scan->econtext->ecxt_scantuple = row;
	result = ExecEvalExprSwitchContext(scan->passes, scan->econtext, &isnull);
	return !isnull && DatumGetBool(result);
}

TupleTableSlot *
sx_logscan_row(SxLogScan *scan)
{
	return MakeSingleTupleTableSlot(scan->row->tts_tupleDescriptor,
									&TTSOpsVirtual);
}

/* The next key of the entry that passes, or NULL. */
static SxLogItem *
next_item(SxLogScan *scan)
{
	SxTable    *table = scan->table;

	while (scan->next_item < scan->nitems)
	{
		uint32		place = scan->next_item++;

		ExecClearTuple(scan->row);
		for (int i = 0; i < table->nkeys; i++)
		{
			if (table->packed)
				scan->key[i] = scan->arrays[i][place];
			scan->row->tts_values[i] = scan->key[i];
			scan->row->tts_isnull[i] = false;
		}
		ExecStoreVirtualTuple(scan->row);
		if (!sx_logscan_passes(scan, scan->row))
			continue;
		scan->item.position.item = place;
		ItemPointerSetInvalid(&scan->item.tid);
		if (scan->tids != NULL)
			scan->item.tid = *(ItemPointer) DatumGetPointer(scan->tids[place]);
		scan->item.key = scan->key;
		scan->item.row = scan->row;
		return &scan->item;
	}
	return NULL;
}

SxLogItem *
sx_logscan_next(SxLogScan *scan)
{
	for (;;)
	{
		SxLogItem  *item;

		if (!scan->has_entry)
		{
			if (!scan->in_range && !next_range(scan))
				return NULL;
			if (!next_in_range(scan))
			{
				scan->in_range = false;
				continue;
			}
			read_entry(scan);
		}
		item = next_item(scan);
		if (item != NULL)
			return item;
		scan->has_entry = false;
	}
}

void
sx_logscan_of(SxTable *table, Datum first, uint64 low, Snapshot snapshot,
			  SxTakeItem take, void *arg)
{
	SxLogScan  *scan = open_scan(table, true, snapshot, NULL);
	ScanKeyData keys[2];

	ScanKeyEntryInitialize(&keys[0], 0, 1, BTEqualStrategyNumber, InvalidOid,
						   table->scopes[0].collation,
						   equality_of(table->scopes[0].type), first);
	xid_key(&keys[1], table->nscopes + 1, BTGreaterEqualStrategyNumber, low);
	index_endscan(scan->scan);
	scan->scan = sx_index_beginscan(scan->heap, scan->index, snapshot, 2);
	index_rescan(scan->scan, keys, 2, NULL, 0);
	while (index_getnext_slot(scan->scan, ForwardScanDirection, scan->entry))
	{
		SxLogItem  *item;

		CHECK_FOR_INTERRUPTS();
		read_entry(scan);
		while ((item = next_item(scan)) != NULL)
			take(arg, item);
	}
	sx_logscan_end(scan);
}

/* ---- whole entries ---- */

static int
count_keys(SxLogScan *scan)
{
	bool		isnull;
	ArrayType  *keys;

	if (!scan->table->packed)
		return 1;
	keys = DatumGetArrayTypeP(slot_getattr(scan->entry, SX_LOG_FIXED + 1,
										   &isnull));
	return ArrayGetNItems(ARR_NDIM(keys), ARR_DIMS(keys));
}

bool
sx_logscan_next_entry(SxLogScan *scan, SxLogEntry *entry)
{
	int			first_scope = SX_LOG_FIXED + scan->table->nkeys;
	MemoryContext old;
	Datum		value;
	bool		isnull;

	for (;;)
	{
		if (!scan->in_range && !next_range(scan))
			return false;
		if (next_in_range(scan))
			break;
		scan->in_range = false;
	}

	MemoryContextReset(scan->entry_context);
	old = MemoryContextSwitchTo(scan->entry_context);
	slot_getsomeattrs(scan->entry, first_scope + scan->table->nscopes);
	entry->xid = U64FromFullTransactionId(DatumGetFullTransactionId(
		slot_getattr(scan->entry, SX_LOG_XID, &isnull)));
	entry->op = (SxOp) DatumGetChar(slot_getattr(scan->entry, SX_LOG_OP,
												 &isnull));
	value = slot_getattr(scan->entry, SX_LOG_ORIGIN, &isnull);
	entry->origin = isnull ? NULL : TextDatumGetCString(value);
	entry->nkeys = count_keys(scan);
	entry->scopes = scan->entry->tts_values + first_scope;
	entry->scope_nulls = scan->entry->tts_isnull + first_scope;
	MemoryContextSwitchTo(old);
	return true;
}
