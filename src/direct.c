/*-------------------------------------------------------------------------
 *
 * direct.c
 *		Inserting into the extension's own tables without SQL.
 *
 * A writer has no right on the log and needs none; and no executor is started
 * for what is one heap tuple and one or two btree entries.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/index.h"
#include "catalog/pg_am.h"
#include "catalog/pg_index.h"
#include "executor/executor.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/rel.h"

#include "sync_ext.h"
#include "direct.h"

/* ---- indexes ---- */

/*
 * Which indexes a table has is asked when it is open, and not known before:
 * REINDEX CONCURRENTLY makes another one beside each, which writers have to
 * fill, and then puts it into the place of the first.
 */
static void
open_index(SxDirectIndex *index, Relation heap, Oid relid)
{
	Form_pg_index form;

	index->rel = index_open(relid, RowExclusiveLock);
	form = index->rel->rd_index;
	index->plain = index->rel->rd_rel->relam == BTREE_AM_OID &&
		heap_attisnull(index->rel->rd_indextuple, Anum_pg_index_indexprs, NULL) &&
		heap_attisnull(index->rel->rd_indextuple, Anum_pg_index_indpred, NULL);
	index->by_value = index->plain;
	for (int i = 0; i < form->indnatts; i++)
		if (!TupleDescAttr(RelationGetDescr(index->rel), i)->attbyval)
			index->by_value = false;
	/* what ours need to know is in the relation: btree uses nothing of it */
	index->info = index->plain ? makeNode(IndexInfo) : BuildIndexInfo(index->rel);
	index->estate = index->plain ? NULL : CreateExecutorState();
	index->slot = index->plain ? NULL :
		MakeSingleTupleTableSlot(RelationGetDescr(heap), &TTSOpsVirtual);
}

static void
close_index(SxDirectIndex *index)
{
	sx_index_insert_cleanup(index->rel, index->info);
	index_close(index->rel, NoLock);
	pfree(index->info);
	if (index->estate == NULL)
		return;
	ExecDropSingleTupleTableSlot(index->slot);
	FreeExecutorState(index->estate);
}

SxDirectIndex *
sx_direct_open_indexes(Relation heap, List *without, int *n)
{
	List	   *relids = RelationGetIndexList(heap);
	SxDirectIndex *indexes = palloc(sizeof(SxDirectIndex) *
									Max(list_length(relids), 1));
	ListCell   *cell;

	*n = 0;
	foreach(cell, relids)
	{
		SxDirectIndex *index = &indexes[*n];

		if (list_member_oid(without, lfirst_oid(cell)))
			continue;
		open_index(index, heap, lfirst_oid(cell));
		if (index->rel->rd_index->indisready)
			(*n)++;
		else
			close_index(index);
	}
	list_free(relids);
	return indexes;
}

/* What an index has of a row; false where it leaves the row out. */
static bool
form_entry(SxDirectIndex *index, Relation heap, Datum *values, bool *nulls,
		   Datum *index_values, bool *index_nulls)
{
	Form_pg_index form = index->rel->rd_index;
	ExprContext *context;

	if (index->plain)
	{
		for (int i = 0; i < form->indnatts; i++)
		{
			index_values[i] = values[form->indkey.values[i] - 1];
			index_nulls[i] = nulls[form->indkey.values[i] - 1];
		}
		return true;
	}
	ResetPerTupleExprContext(index->estate);
	ExecClearTuple(index->slot);
	memcpy(index->slot->tts_values, values,
		   sizeof(Datum) * RelationGetDescr(heap)->natts);
	memcpy(index->slot->tts_isnull, nulls,
		   sizeof(bool) * RelationGetDescr(heap)->natts);
	ExecStoreVirtualTuple(index->slot);
	context = GetPerTupleExprContext(index->estate);
	context->ecxt_scantuple = index->slot;
	if (index->info->ii_Predicate != NIL)
	{
		if (index->info->ii_PredicateState == NULL)
			index->info->ii_PredicateState =
				ExecPrepareQual(index->info->ii_Predicate, index->estate);
		if (!ExecQual(index->info->ii_PredicateState, context))
			return false;
	}
	FormIndexDatum(index->info, index->slot, index->estate, index_values,
				   index_nulls);
	return true;
}

static void
insert_entry(SxDirectIndex *index, Relation heap, Datum *index_values,
			 bool *index_nulls, ItemPointer tid)
{
	(void) sx_index_insert(index->rel, index_values, index_nulls, tid, heap,
						   index->rel->rd_index->indisunique ?
						   UNIQUE_CHECK_YES : UNIQUE_CHECK_NO, index->info);
}

void
sx_direct_insert_into(SxDirectIndex *index, Relation heap, Datum *values,
					  bool *nulls, ItemPointer tid)
{
	Datum		index_values[INDEX_MAX_KEYS];
	bool		index_nulls[INDEX_MAX_KEYS];

	if (form_entry(index, heap, values, nulls, index_values, index_nulls))
		insert_entry(index, heap, index_values, index_nulls, tid);
}

void
sx_direct_close_indexes(SxDirectIndex *indexes, int n)
{
	for (int i = 0; i < n; i++)
		close_index(&indexes[i]);
	pfree(indexes);
}

/* ---- one row ---- */

void
sx_direct_open(SxDirect *target, Oid heap, int natts)
{
	int			all;

	target->heap = table_open(heap, RowExclusiveLock);
	all = RelationGetDescr(target->heap)->natts;
	target->natts = natts;
	target->values = all > natts ? palloc0(sizeof(Datum) * all) : NULL;
	target->nulls = all > natts ? palloc(sizeof(bool) * all) : NULL;
	if (all > natts)
		memset(target->nulls, true, sizeof(bool) * all);
	target->indexes = sx_direct_open_indexes(target->heap, NIL,
											 &target->nindexes);
	target->bulk = NULL;
}

/* A row of all columns that the table has. */
static void
widen(SxDirect *target, Datum **values, bool **nulls)
{
	if (target->values == NULL)
		return;
	memcpy(target->values, *values, sizeof(Datum) * target->natts);
	memcpy(target->nulls, *nulls, sizeof(bool) * target->natts);
	*values = target->values;
	*nulls = target->nulls;
}

static void
insert_row(SxDirect *target, Datum *values, bool *nulls, CommandId cid)
{
	HeapTuple	tuple = heap_form_tuple(RelationGetDescr(target->heap), values,
										nulls);

	tuple->t_tableOid = RelationGetRelid(target->heap);
	heap_insert(target->heap, tuple, cid, 0, NULL);
	for (int i = 0; i < target->nindexes; i++)
		sx_direct_insert_into(&target->indexes[i], target->heap, values, nulls,
							  &tuple->t_self);
	heap_freetuple(tuple);
}

void
sx_direct_insert(SxDirect *target, Datum *values, bool *nulls, CommandId cid)
{
	widen(target, &values, &nulls);
	insert_row(target, values, nulls, cid);
}

/* ---- many rows ---- */

#define BULK_ROWS 100

/* What an index will have of one row; as many values as it has columns. */
typedef struct IndexEntry
{
	ItemPointerData tid;
	Datum		values[FLEXIBLE_ARRAY_MEMBER];
} IndexEntry;

/*
 * Rows go in by some at a time, the entries of an index in its order, at the
 * end: pages are found in the cache, and split where the next entry goes.
 */
typedef struct SxDirectBulk
{
	CommandId	cid;
	int			nslots;
	TupleTableSlot *slots[BULK_ROWS];
	Size		n;				/* entries of each index */
	Size		room;
	Size	   *entry_size;		/* of each index */
	char	  **entries;
} SxDirectBulk;

static SxDirectBulk *
begin_bulk(SxDirect *target)
{
	SxDirectBulk *bulk = palloc0(sizeof(SxDirectBulk));

	bulk->room = BULK_ROWS;
	bulk->entry_size = palloc(sizeof(Size) * Max(target->nindexes, 1));
	bulk->entries = palloc(sizeof(char *) * Max(target->nindexes, 1));
	for (int i = 0; i < BULK_ROWS; i++)
		bulk->slots[i] = MakeSingleTupleTableSlot(RelationGetDescr(target->heap),
												  &TTSOpsVirtual);
	for (int i = 0; i < target->nindexes; i++)
	{
		bulk->entry_size[i] = offsetof(IndexEntry, values) +
			sizeof(Datum) * target->indexes[i].rel->rd_index->indnatts;
		bulk->entries[i] = palloc(bulk->entry_size[i] * bulk->room);
	}
	return bulk;
}

static void
flush_rows(SxDirect *target)
{
	SxDirectBulk *bulk = target->bulk;

	if (bulk->nslots == 0)
		return;
	table_multi_insert(target->heap, bulk->slots, bulk->nslots, bulk->cid, 0,
					   NULL);
	for (int row = 0; row < bulk->nslots; row++, bulk->n++)
	{
		TupleTableSlot *slot = bulk->slots[row];

		for (int i = 0; i < target->nindexes; i++)
		{
			Form_pg_index form = target->indexes[i].rel->rd_index;
			IndexEntry *entry;

			if (bulk->n == bulk->room)
				bulk->entries[i] = repalloc_huge(bulk->entries[i],
												 bulk->entry_size[i] * bulk->room * 2);
			entry = (IndexEntry *) (bulk->entries[i] + bulk->entry_size[i] * bulk->n);
			entry->tid = slot->tts_tid;
			for (int j = 0; j < form->indnatts; j++)
				entry->values[j] = slot->tts_values[form->indkey.values[j] - 1];
		}
		if (bulk->n == bulk->room)
			bulk->room *= 2;
		ExecClearTuple(slot);
	}
	bulk->nslots = 0;
}

/* Whether all that indexes have of a row are values that need no memory. */
static bool
can_wait(SxDirect *target, bool *nulls)
{
	for (int i = 0; i < target->nindexes; i++)
	{
		Form_pg_index form = target->indexes[i].rel->rd_index;

		if (!target->indexes[i].by_value)
			return false;
		for (int j = 0; j < form->indnatts; j++)
			if (nulls[form->indkey.values[j] - 1])
				return false;
	}
	return true;
}

void
sx_direct_put(SxDirect *target, Datum *values, bool *nulls, CommandId cid)
{
	SxDirectBulk *bulk;
	TupleTableSlot *slot;
	int			natts = RelationGetDescr(target->heap)->natts;

	widen(target, &values, &nulls);
	if (!can_wait(target, nulls))
	{
		insert_row(target, values, nulls, cid);
		return;
	}
	if (target->bulk == NULL)
		target->bulk = begin_bulk(target);
	bulk = target->bulk;
	if (bulk->nslots == BULK_ROWS || (bulk->nslots > 0 && bulk->cid != cid))
		flush_rows(target);
	bulk->cid = cid;
	slot = bulk->slots[bulk->nslots++];
	memcpy(slot->tts_values, values, sizeof(Datum) * natts);
	memcpy(slot->tts_isnull, nulls, sizeof(bool) * natts);
	ExecStoreVirtualTuple(slot);
}

/* As numbers: for most types that is the order of the index, for all it is one. */
static int
compare_entries(const void *a, const void *b, void *arg)
{
	const IndexEntry *x = a;
	const IndexEntry *y = b;

	for (int i = 0; i < *(int *) arg; i++)
		if (x->values[i] != y->values[i])
			return (int64) x->values[i] < (int64) y->values[i] ? -1 : 1;
	return 0;
}

static void
flush_bulk(SxDirect *target)
{
	SxDirectBulk *bulk = target->bulk;
	bool		nulls[INDEX_MAX_KEYS] = {false};

	flush_rows(target);
	for (int i = 0; i < target->nindexes; i++)
	{
		int			natts = target->indexes[i].rel->rd_index->indnatts;

		qsort_arg(bulk->entries[i], bulk->n, bulk->entry_size[i],
				  compare_entries, &natts);
		for (Size j = 0; j < bulk->n; j++)
		{
			IndexEntry *entry = (IndexEntry *) (bulk->entries[i] +
												bulk->entry_size[i] * j);

			CHECK_FOR_INTERRUPTS();
			insert_entry(&target->indexes[i], target->heap, entry->values,
						 nulls, &entry->tid);
		}
		pfree(bulk->entries[i]);
	}
	for (int i = 0; i < BULK_ROWS; i++)
		ExecDropSingleTupleTableSlot(bulk->slots[i]);
	pfree(bulk->entry_size);
	pfree(bulk->entries);
	pfree(bulk);
	target->bulk = NULL;
}

void
sx_direct_close(SxDirect *target)
{
	if (target->bulk != NULL)
		flush_bulk(target);
	sx_direct_close_indexes(target->indexes, target->nindexes);
	if (target->values != NULL)
	{
		pfree(target->values);
		pfree(target->nulls);
	}
	table_close(target->heap, NoLock);
}
