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

void
sx_direct_close(SxDirect *target)
{
	for (int i = 0; i < target->nindexes; i++)
		index_close(target->indexes[i], NoLock);
	table_close(target->heap, NoLock);
	pfree(target->info);
}
