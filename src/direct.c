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
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/rel.h"

#include "sync_ext.h"
#include "direct.h"

void
sx_direct_open(SxDirect *target, Oid heap, Oid index1, Oid index2)
{
	target->heap = table_open(heap, RowExclusiveLock);
	target->nindexes = 0;
	if (OidIsValid(index1))
		target->indexes[target->nindexes++] = index_open(index1,
														 RowExclusiveLock);
	if (OidIsValid(index2))
		target->indexes[target->nindexes++] = index_open(index2,
														 RowExclusiveLock);
	target->info = makeNode(IndexInfo);
	target->bulk = NULL;
}

void
sx_direct_insert(SxDirect *target, Datum *values, bool *nulls, CommandId cid)
{
	HeapTuple	tuple = heap_form_tuple(RelationGetDescr(target->heap), values,
										nulls);

	tuple->t_tableOid = RelationGetRelid(target->heap);
	heap_insert(target->heap, tuple, cid, 0, NULL);
	for (int i = 0; i < target->nindexes; i++)
	{
		Relation	index = target->indexes[i];
		Form_pg_index form = index->rd_index;
		Datum		index_values[INDEX_MAX_KEYS];
		bool		index_nulls[INDEX_MAX_KEYS];

		for (int j = 0; j < form->indnatts; j++)
		{
			index_values[j] = values[form->indkey.values[j] - 1];
			index_nulls[j] = nulls[form->indkey.values[j] - 1];
		}
		(void) sx_index_insert(index, index_values, index_nulls,
							   &tuple->t_self, target->heap, target->info);
	}
	heap_freetuple(tuple);
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
	Size		entry_size[2];
	char	   *entries[2];
} SxDirectBulk;

static SxDirectBulk *
begin_bulk(SxDirect *target)
{
	SxDirectBulk *bulk = palloc0(sizeof(SxDirectBulk));

	bulk->room = BULK_ROWS;
	for (int i = 0; i < BULK_ROWS; i++)
		bulk->slots[i] = MakeSingleTupleTableSlot(RelationGetDescr(target->heap),
												  &TTSOpsVirtual);
	for (int i = 0; i < target->nindexes; i++)
	{
		bulk->entry_size[i] = offsetof(IndexEntry, values) +
			sizeof(Datum) * target->indexes[i]->rd_index->indnatts;
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
			Form_pg_index form = target->indexes[i]->rd_index;
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

void
sx_direct_put(SxDirect *target, Datum *values, bool *nulls, CommandId cid)
{
	SxDirectBulk *bulk;
	TupleTableSlot *slot;
	int			natts = RelationGetDescr(target->heap)->natts;

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
		int			natts = target->indexes[i]->rd_index->indnatts;

		qsort_arg(bulk->entries[i], bulk->n, bulk->entry_size[i],
				  compare_entries, &natts);
		for (Size j = 0; j < bulk->n; j++)
		{
			IndexEntry *entry = (IndexEntry *) (bulk->entries[i] +
												bulk->entry_size[i] * j);

			CHECK_FOR_INTERRUPTS();
			(void) sx_index_insert(target->indexes[i], entry->values, nulls,
								   &entry->tid, target->heap, target->info);
		}
		pfree(bulk->entries[i]);
	}
	for (int i = 0; i < BULK_ROWS; i++)
		ExecDropSingleTupleTableSlot(bulk->slots[i]);
	pfree(bulk);
	target->bulk = NULL;
}

void
sx_direct_close(SxDirect *target)
{
	if (target->bulk != NULL)
		flush_bulk(target);
	for (int i = 0; i < target->nindexes; i++)
		index_close(target->indexes[i], NoLock);
	table_close(target->heap, NoLock);
	pfree(target->info);
}
