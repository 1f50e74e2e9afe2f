/*-------------------------------------------------------------------------
 *
 * scopes.c
 *		Sets of scope values.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/qunique.h"
#include "utils/typcache.h"

#include "sync_ext.h"
#include "scopes.h"

int
sx_scopes_compare(SxTable *table, const Datum *a, const Datum *b)
{
	for (int i = 0; i < table->nscopes; i++)
	{
		SxColumn   *column = &table->scopes[i];
		TypeCacheEntry *type = lookup_type_cache(column->type,
												 TYPECACHE_CMP_PROC_FINFO);
		int			result;

		if (!OidIsValid(type->cmp_proc_finfo.fn_oid))
			elog(ERROR, "type %u of a scope column has no order", column->type);
		result = DatumGetInt32(FunctionCall2Coll(&type->cmp_proc_finfo,
												 column->collation, a[i], b[i]));
		if (result != 0)
			return result;
	}
	return 0;
}

int
sx_scopes_place(const SxScopes *scopes, const Datum *values, bool *found)
{
	int			low = 0;
	int			high = scopes->n;

	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (sx_scopes_compare(scopes->table, sx_scopes_at(scopes, middle),
							  values) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	*found = low < scopes->n &&
		sx_scopes_compare(scopes->table, sx_scopes_at(scopes, low), values) == 0;
	return low;
}

bool
sx_scopes_has(const SxScopes *scopes, const Datum *values, const bool *nulls)
{
	bool		found;

	for (int i = 0; i < scopes->table->nscopes; i++)
		if (nulls[i])
			return false;
	(void) sx_scopes_place(scopes, values, &found);
	return found;
}

static int
compare_values(const void *a, const void *b, void *table)
{
	return sx_scopes_compare(table, a, b);
}

SxScopes *
sx_scopes_make(SxTable *table, int n, Datum *values)
{
	SxScopes   *scopes = palloc(sizeof(SxScopes));
	Size		width = sizeof(Datum) * table->nscopes;

	qsort_arg(values, n, width, compare_values, table);
	scopes->table = table;
	scopes->values = values;
	scopes->n = qunique_arg(values, n, width, compare_values, table);
	return scopes;
}

SxScopes *
sx_scopes_without(const SxScopes *a, const SxScopes *b)
{
	SxScopes   *rest = palloc(sizeof(SxScopes));
	int			width = a->table->nscopes;

	rest->table = a->table;
	rest->n = 0;
	rest->values = palloc(sizeof(Datum) * (Size) Max(a->n * width, 1));
	for (int i = 0; i < a->n; i++)
	{
		bool		found;

		(void) sx_scopes_place(b, sx_scopes_at(a, i), &found);
		if (!found)
			memcpy(rest->values + rest->n++ * width, sx_scopes_at(a, i),
				   sizeof(Datum) * width);
	}
	return rest;
}

SxScopes *
sx_scopes_union(const SxScopes *a, const SxScopes *b)
{
	int			width = a->table->nscopes;
	Datum	   *values = palloc(sizeof(Datum) * (Size) Max((a->n + b->n) * width, 1));

	memcpy(values, a->values, sizeof(Datum) * a->n * width);
	memcpy(values + a->n * width, b->values, sizeof(Datum) * b->n * width);
	return sx_scopes_make(a->table, a->n + b->n, values);
}
