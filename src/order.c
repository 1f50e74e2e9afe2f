/*-------------------------------------------------------------------------
 *
 * order.c
 *		Which mutations of a batch need others of it.
 *
 * A row that refers to another by a foreign key needs the mutation that makes
 * that other row; where rows refer to each other in a circle, which deferred
 * constraints allow, each needs all of them. What a mutation needs, and what
 * that needs in turn, can be applied together when none of it can alone, and
 * a mutation that nothing can help stays alone.
 *
 * Where several mutations are for one row, it is the first that others need:
 * the later ones follow it anyway.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "utils/hsearch.h"
#include "utils/rel.h"
#include "utils/relcache.h"

#include "sync_ext.h"
#include "order.h"

typedef struct RowId
{
	uint64		key_hash;
	Oid			root;
	uint32		unused;			/* so that all bytes are set */
} RowId;

typedef struct Maker
{
	RowId		row;			/* hash key */
	int			number;			/* the first mutation of the row */
} Maker;

struct SxOrder
{
	SxMutation **mutations;
	int			n;
	HTAB	   *makers;
	List	  **needs;			/* of each: numbers */
	bool	   *given_up;
	int			question;
	int		   *visited;		/* by which question */
	int		   *stack;			/* of the search: members, and for each ... */
	int		   *next;			/* ... which of its needs comes next */
};

static Maker *
maker_of(SxOrder *order, Oid root, uint64 key_hash, bool make, bool *found)
{
	RowId		row = {0};

	row.root = root;
	row.key_hash = key_hash;
	return hash_search(order->makers, &row, make ? HASH_ENTER : HASH_FIND,
					   found);
}

/* A column's value after the mutation, as far as the mutation sets it. */
static bool
value_of(SxMutation *mutation, AttrNumber attnum, Datum *value)
{
	SxTable    *table = mutation->table;

	for (int i = 0; i < table->nkeys; i++)
		if (table->keys[i].attnum == attnum && mutation->has_key)
		{
			*value = mutation->key[i];
			return true;
		}
	*value = mutation->row.values[attnum - 1];
	return bms_is_member(attnum, mutation->columns) &&
		!mutation->row.nulls[attnum - 1];
}

/* The mutation that makes the row to which a foreign key refers, or -1. */
static int
referred_to(SxOrder *order, SxMutation *mutation, ForeignKeyCacheInfo *info)
{
	SxTable    *target = sx_tracked_get(info->confrelid);
	Datum		key[INDEX_MAX_KEYS];
	Maker	   *maker;

	if (!target->tracked || target->relid != target->root ||
		target->nkeys != info->nkeys)
		return -1;
	for (int i = 0; i < target->nkeys; i++)
	{
		int			j;

		for (j = 0; j < info->nkeys; j++)
			if (info->confkey[j] == target->keys[i].attnum)
				break;
		if (j == info->nkeys ||
			TupleDescAttr(mutation->table->row,
						  info->conkey[j] - 1)->atttypid != target->keys[i].type ||
			!value_of(mutation, info->conkey[j], &key[i]))
			return -1;
	}
	maker = maker_of(order, target->root, sx_mutation_hash_key(target, key),
					 false, NULL);
	return maker == NULL ? -1 : maker->number;
}

SxOrder *
sx_order_begin(SxMutation **mutations, int n)
{
	SxOrder    *order = palloc0(sizeof(SxOrder));
	HASHCTL		control;

	memset(&control, 0, sizeof(control));
	control.keysize = sizeof(RowId);
	control.entrysize = sizeof(Maker);
	control.hcxt = CurrentMemoryContext;
	order->mutations = mutations;
	order->n = n;
	order->makers = hash_create("sync_ext rows that wait", n, &control,
								HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	order->needs = palloc0(sizeof(List *) * n);
	order->given_up = palloc0(sizeof(bool) * n);
	order->visited = palloc0(sizeof(int) * n);
	order->stack = palloc(sizeof(int) * n);
	order->next = palloc(sizeof(int) * n);
	for (int i = 0; i < n; i++)
	{
		bool		found;
		Maker	   *maker;

		if (!mutations[i]->has_key)
			continue;
		maker = maker_of(order, mutations[i]->table->root,
						 mutations[i]->key_hash, true, &found);
		if (!found)
			maker->number = i;
	}
	for (int i = 0; i < n; i++)
	{
		Relation	rel;
		ListCell   *cell;

		CHECK_FOR_INTERRUPTS();
		if (mutations[i]->op == SX_MUTATION_DELETE)
			continue;
		rel = table_open(mutations[i]->table->root, AccessShareLock);
		foreach(cell, copyObject(RelationGetFKeyList(rel)))
		{
			int			needed = referred_to(order, mutations[i], lfirst(cell));

			if (needed >= 0 && needed != i)
				order->needs[i] = list_append_unique_int(order->needs[i], needed);
		}
		table_close(rel, AccessShareLock);
	}
	return order;
}

void
sx_order_give_up(SxOrder *order, int i)
{
	order->given_up[i] = true;
}

static void
visit(SxOrder *order, int number, int *depth)
{
	order->visited[number] = order->question;
	order->next[number] = 0;
	order->stack[(*depth)++] = number;
}

/* Depth first, with a stack of our own: a chain may be as long as the batch. */
int
sx_order_closure(SxOrder *order, int i, SxMutation **closure, int *numbers)
{
	int			depth = 0;
	int			n = 0;

	order->question++;
	visit(order, i, &depth);
	while (depth > 0)
	{
		int			number = order->stack[depth - 1];

		if (order->next[number] < list_length(order->needs[number]))
		{
			int			needed = list_nth_int(order->needs[number],
											  order->next[number]++);

			if (order->visited[needed] == order->question ||
				order->mutations[needed]->status != SX_STATUS_OPEN)
				continue;
			if (order->given_up[needed])
				return 0;
			visit(order, needed, &depth);
			continue;
		}
		numbers[n] = number;
		closure[n++] = order->mutations[number];
		depth--;
	}
	return n;
}
