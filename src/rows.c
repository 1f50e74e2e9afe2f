/*-------------------------------------------------------------------------
 *
 * rows.c
 *		Reading the rows themselves, by SQL and as the caller.
 *
 * Privileges, row-level security and the source view all hold because these
 * are ordinary queries of the caller, in the snapshot that is active.
 *
 * Keys are looked up one by one, first where the log says that the row is,
 * which spares the search in the index; and the source view, which may aggregate, is
 * asked by a subquery for one key at a time, too.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "sync_ext.h"
#include "guc.h"
#include "plan.h"
#include "rows.h"
#include "textform.h"

/* Rows that a load fetches at once, when all are wanted. */
#define LOAD_BATCH 1000

static const char *
column(const char *name)
{
	return psprintf(SX_ALIAS ".%s", quote_identifier(name));
}

/* ---- building queries ---- */

/* The columns of a relation that JavaScript would read wrong, as text. */
static void
append_big_numbers(StringInfo sql, Oid relid, const char *alias)
{
	HeapTuple	tuple;
	bool		any = false;

	if (sx_guc_big_numbers != SX_BIG_NUMBERS_TEXT)
		return;
	for (AttrNumber attnum = 1;
		 HeapTupleIsValid(tuple = SearchSysCache2(ATTNUM,
												  ObjectIdGetDatum(relid),
												  Int16GetDatum(attnum)));
		 attnum++)
	{
		Form_pg_attribute attr = (Form_pg_attribute) GETSTRUCT(tuple);
		Oid			type = getBaseType(attr->atttypid);

		if (!attr->attisdropped && (type == INT8OID || type == NUMERICOID))
		{
			appendStringInfo(sql, "%s%s, %s.%s::pg_catalog.text",
							 any ? ", " : " OPERATOR(pg_catalog.||) pg_catalog.jsonb_build_object(",
							 quote_literal_cstr(NameStr(attr->attname)), alias,
							 quote_identifier(NameStr(attr->attname)));
			any = true;
		}
		ReleaseSysCache(tuple);
	}
	if (any)
		appendStringInfoChar(sql, ')');
}

void
sx_rows_append_source(StringInfo sql, SxTable *table)
{
	appendStringInfo(sql, " FROM %s s WHERE ", sx_plan_relation(table->source));
	for (int i = 0; i < table->nkeys; i++)
	{
		SxColumn   *key = &table->keys[i];
		AttrNumber	attnum = get_attnum(table->source, key->name);

		if (attnum == InvalidAttrNumber)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("source view \"%s\" lacks key column \"%s\"",
							get_rel_name(table->source), key->name),
					 errhint("The view must show every key column under its name.")));
		appendStringInfoString(sql, i == 0 ? "" : " AND ");
		sx_plan_equal(sql, psprintf("s.%s", quote_identifier(key->name)),
					  get_atttype(table->source, attnum),
					  column(key->name), key->type);
	}
}

/*
 * The document of the row "t", or, where no view makes it, the row itself, of
 * which sx_rowjson_row() makes one. (The cast keeps a column named like the
 * alias from being taken for the row.)
 */
static void
append_document(StringInfo sql, SxTable *table)
{
	if (!OidIsValid(table->source))
	{
		appendStringInfo(sql, SX_ALIAS ".*::%s", sx_plan_relation(table->root));
		return;
	}
	appendStringInfoString(sql, "(SELECT pg_catalog.to_jsonb(s.*)");
	append_big_numbers(sql, table->source, "s");
	sx_rows_append_source(sql, table);
	appendStringInfoChar(sql, ')');
}

bool
sx_rows_append_condition(StringInfo sql, SxTable *table, SxFilter *filter)
{
	bool		any = false;

	if (filter != NULL)
	{
		appendStringInfo(sql, "(%s)", filter->sql);
		any = true;
	}
	if (table->deleted_at != InvalidAttrNumber)
	{
		appendStringInfo(sql, "%s%s IS NULL", any ? " AND " : "",
						 column(get_attname(table->root, table->deleted_at, false)));
		any = true;
	}
	return any;
}

static char *
lookup_query(SxTable *table, SxFilter *filter, bool by_tid)
{
	StringInfoData sql;
	StringInfoData condition;
	bool		conditional;

	initStringInfo(&condition);
	conditional = sx_rows_append_condition(&condition, table, filter);

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT k.ord, ");
	for (int i = 0; i < table->nkeys; i++)
		appendStringInfo(&sql, "%s, ", column(table->keys[i].name));
	for (int i = 0; i < table->nscopes; i++)
		appendStringInfo(&sql, "%s, ", column(table->scopes[i].name));
	if (table->deleted_at != InvalidAttrNumber)
		appendStringInfo(&sql, "%s IS NOT NULL, ",
						 column(get_attname(table->root, table->deleted_at, false)));
	appendStringInfo(&sql, "%s, ",
					 column(get_attname(table->root, table->modified_at, false)));
	if (conditional)
		appendStringInfo(&sql, "CASE WHEN %s THEN ", condition.data);
	append_document(&sql, table);
	appendStringInfo(&sql, "%s FROM " SX_KEYS " k JOIN %s " SX_ALIAS " ON ",
					 conditional ? " END" : "", sx_plan_relation(table->root));
	if (by_tid)
		appendStringInfoString(&sql, SX_ALIAS ".ctid OPERATOR(pg_catalog.=) k.tid AND ");
	for (int i = 0; i < table->nkeys; i++)
	{
		appendStringInfoString(&sql, i == 0 ? "" : " AND ");
		sx_plan_equal(&sql, column(table->keys[i].name), table->keys[i].type,
					  psprintf("k.k%d", i + 1), table->keys[i].type);
	}
	return sql.data;
}

/*
 * The schema of the ordering operator of a key column, which need not be on
 * the caller's search path.
 */
static Oid
ordering_schema(SxColumn *key)
{
	TypeCacheEntry *type = lookup_type_cache(key->type, TYPECACHE_GT_OPR);
	HeapTuple	tuple;
	Oid			schema;

	if (!OidIsValid(type->gt_opr))
		return InvalidOid;
	tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(type->gt_opr));
	if (!HeapTupleIsValid(tuple))
		return InvalidOid;
	schema = ((Form_pg_operator) GETSTRUCT(tuple))->oprnamespace;
	ReleaseSysCache(tuple);
	return schema;
}

char *
sx_rows_key_operator(SxTable *table, const char *name)
{
	Oid			schema = ordering_schema(&table->keys[0]);

	for (int i = 1; i < table->nkeys; i++)
		if (ordering_schema(&table->keys[i]) != schema)
			schema = InvalidOid;
	if (!OidIsValid(schema))
		return pstrdup(name);
	return psprintf("OPERATOR(%s.%s)",
					quote_identifier(get_namespace_name(schema)), name);
}

static void
append_after(StringInfo sql, SxTable *table, int nparams)
{
	for (int i = 0; i < table->nkeys; i++)
		appendStringInfo(sql, "%s%s", i == 0 ? "(" : ", ",
						 column(table->keys[i].name));
	appendStringInfo(sql, ") %s (", sx_rows_key_operator(table, ">"));
	for (int i = 0; i < table->nkeys; i++)
		appendStringInfo(sql, "%s$%d", i == 0 ? "" : ", ", nparams + i + 1);
	appendStringInfoChar(sql, ')');
}

void
sx_rows_append_scopes(StringInfo sql, SxTable *table)
{
	appendStringInfoString(sql, " JOIN " SX_SCOPES " r ON ");
	for (int i = 0; i < table->nscopes; i++)
	{
		appendStringInfoString(sql, i == 0 ? "" : " AND ");
		sx_plan_equal(sql, column(table->scopes[i].name),
					  table->scopes[i].type, psprintf("r.s%d", i + 1),
					  table->scopes[i].type);
	}
}

static char *
load_query(SxTable *table, SxFilter *filter, bool by_scope, bool after,
		   int limit)
{
	StringInfoData sql;
	StringInfoData condition;
	bool		conditional;

	initStringInfo(&condition);
	conditional = sx_rows_append_condition(&condition, table, filter);

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT 0, ");
	for (int i = 0; i < table->nkeys; i++)
		appendStringInfo(&sql, "%s, ", column(table->keys[i].name));
	appendStringInfo(&sql, "%s, ",
					 column(get_attname(table->root, table->modified_at, false)));
	append_document(&sql, table);
	appendStringInfo(&sql, " FROM %s " SX_ALIAS, sx_plan_relation(table->root));
	if (by_scope)
		sx_rows_append_scopes(&sql, table);
	if (conditional)
		appendStringInfo(&sql, " WHERE %s", condition.data);
	if (after)
	{
		appendStringInfoString(&sql, conditional ? " AND " : " WHERE ");
		append_after(&sql, table, filter == NULL ? 0 : filter->nparams);
	}
	appendStringInfoString(&sql, " ORDER BY ");
	for (int i = 0; i < table->nkeys; i++)
		appendStringInfo(&sql, "%s%s", i == 0 ? "" : ", ",
						 column(table->keys[i].name));
	if (limit > 0)
		appendStringInfo(&sql, " LIMIT %d", limit);
	return sql.data;
}

/* ---- running them ---- */

/* The values of a filter's parameters as SPI takes them. */
static int
spi_params(SxFilter *filter, ParamListInfo params, int extra, Oid **types,
		   Datum **values, char **nulls)
{
	int			n = filter == NULL ? 0 : filter->nparams;

	*types = palloc(sizeof(Oid) * (n + extra));
	*values = palloc(sizeof(Datum) * (n + extra));
	*nulls = palloc(n + extra + 1);
	for (int i = 0; i < n; i++)
	{
		(*types)[i] = params->params[i].ptype;
		(*values)[i] = params->params[i].value;
		(*nulls)[i] = params->params[i].isnull ? 'n' : ' ';
	}
	return n;
}

static void
read_row(SxTable *table, SPITupleTable *rows, int number, bool has_scopes,
		 SxRow *row)
{
	HeapTuple	tuple = rows->vals[number];
	TupleDesc	desc = rows->tupdesc;
	int			attnum = 1;
	bool		isnull;
	Datum		value;

	row->ord = DatumGetInt32(SPI_getbinval(tuple, desc, attnum++, &isnull));
	for (int i = 0; i < table->nkeys; i++)
		row->key[i] = SPI_getbinval(tuple, desc, attnum++, &isnull);
	for (int i = 0; has_scopes && i < table->nscopes; i++)
		row->scopes[i] = SPI_getbinval(tuple, desc, attnum++,
									   &row->scope_nulls[i]);
	if (has_scopes && table->deleted_at != InvalidAttrNumber)
		row->deleted = DatumGetBool(SPI_getbinval(tuple, desc, attnum++,
												  &isnull));
	value = SPI_getbinval(tuple, desc, attnum++, &isnull);
	row->has_modified_at = !isnull;
	row->modified_at = isnull ? 0 : DatumGetTimestampTz(value);
	row->data = SPI_getbinval(tuple, desc, attnum++, &isnull);
	row->selected = !isnull;
	row->is_plain = !OidIsValid(table->source);
}

static void
prepare_row(SxTable *table, SxRow *row)
{
	memset(row, 0, sizeof(SxRow));
	row->key = palloc(sizeof(Datum) * table->nkeys);
	row->scopes = palloc(sizeof(Datum) * Max(table->nscopes, 1));
	row->scope_nulls = palloc(sizeof(bool) * Max(table->nscopes, 1));
}

static TupleDesc
lookup_desc(SxTable *table)
{
	TupleDesc	desc = CreateTemplateTupleDesc(table->nkeys + 2);

	TupleDescInitEntry(desc, 1, "ord", INT4OID, -1, 0);
	TupleDescInitEntry(desc, 2, "tid", TIDOID, -1, 0);
	for (int i = 0; i < table->nkeys; i++)
	{
		TupleDescInitEntry(desc, i + 3, psprintf("k%d", i + 1),
						   table->keys[i].type, table->keys[i].typmod, 0);
		TupleDescInitEntryCollation(desc, i + 3, table->keys[i].collation);
	}
	return desc;
}

/* Looks up the keys that were not found so far, in one of the two ways. */
static void
look_up(SxTable *table, SxFilter *filter, ParamListInfo params, int n,
		Datum **keys, ItemPointer *tids, bool by_tid, bool *found,
		SxTakeRow take, void *arg)
{
	MemoryContext caller = CurrentMemoryContext;
	char	   *sql = lookup_query(table, filter, by_tid);
	Oid		   *types;
	Datum	   *values;
	char	   *nulls;
	int			nparams = spi_params(filter, params, 0, &types, &values, &nulls);
	Datum	   *key = palloc(sizeof(Datum) * (table->nkeys + 2));
	bool	   *key_nulls = palloc0(sizeof(bool) * (table->nkeys + 2));
	SxKeys	   *relation;
	SxRow		row;
	int			result;
	int			wanted = 0;

	prepare_row(table, &row);
	sx_plan_connect();
	relation = sx_keys_begin(lookup_desc(table));
	for (int i = 0; i < n; i++)
	{
		if (found[i] || (by_tid && !ItemPointerIsValid(tids[i])))
			continue;
		key[0] = Int32GetDatum(i);
		key[1] = PointerGetDatum(tids[i]);
		key_nulls[1] = !ItemPointerIsValid(tids[i]);
		memcpy(key + 2, keys[i], sizeof(Datum) * table->nkeys);
		sx_keys_put(relation, key, key_nulls);
		wanted++;
	}
	sx_keys_end(relation, 1);

	if (wanted > 0)
	{
		result = SPI_execute_plan(sx_plan_get(sql, nparams, types), values,
								  nulls, true, 0);
		if (result != SPI_OK_SELECT)
			elog(ERROR, "could not run \"%s\": %s", sql,
				 SPI_result_code_string(result));
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			MemoryContext old;

			read_row(table, SPI_tuptable, i, true, &row);
			found[row.ord] = true;
			old = MemoryContextSwitchTo(caller);
			(void) take(arg, &row);
			MemoryContextSwitchTo(old);
		}
	}
	tuplestore_end(relation->store);
	SPI_finish();
}

void
sx_rows_lookup(SxTable *table, SxFilter *filter, ParamListInfo params,
			   int n, Datum **keys, ItemPointer *tids, SxTakeRow take,
			   void *arg)
{
	bool	   *found = palloc0(sizeof(bool) * n);

	if (table->by_tid)
		look_up(table, filter, params, n, keys, tids, true, found, take, arg);
	look_up(table, filter, params, n, keys, tids, false, found, take, arg);
}

void
sx_rows_position(SxTable *table, const Datum *key, SxPosition *position)
{
	position->nkeys = table->nkeys;
	position->keys = sx_textform_print(table->nkeys, table->keys, key);
}

static void
add_position(SxTable *table, const SxPosition *after, int n, Oid *types,
			 Datum *values, char *nulls)
{
	Datum	   *key = sx_textform_parse(table->nkeys, table->keys, after->keys);

	for (int i = 0; i < table->nkeys; i++)
	{
		types[n + i] = table->keys[i].type;
		values[n + i] = key[i];
		nulls[n + i] = ' ';
	}
}

SxKeys *
sx_rows_register_scopes(SxTable *table, const SxScopes *scopes)
{
	TupleDesc	desc = CreateTemplateTupleDesc(table->nscopes);
	bool		nulls[INDEX_MAX_KEYS] = {false};
	SxKeys	   *relation;

	for (int i = 0; i < table->nscopes; i++)
	{
		TupleDescInitEntry(desc, i + 1, psprintf("s%d", i + 1),
						   table->scopes[i].type, table->scopes[i].typmod, 0);
		TupleDescInitEntryCollation(desc, i + 1, table->scopes[i].collation);
	}
	relation = sx_keys_begin(desc);
	for (int i = 0; i < scopes->n; i++)
		sx_keys_put(relation, sx_scopes_at(scopes, i), nulls);
	sx_keys_end_as(relation, SX_SCOPES, scopes->n);
	return relation;
}

void
sx_rows_load(SxTable *table, SxFilter *filter, ParamListInfo params,
			 const SxScopes *scopes, const SxPosition *after, int expected,
			 SxTakeRow take, void *arg)
{
	char	   *sql = load_query(table, filter, scopes != NULL, after != NULL,
								 expected);
	MemoryContext caller = CurrentMemoryContext;
	Oid		   *types;
	Datum	   *values;
	char	   *nulls;
	int			n = spi_params(filter, params, table->nkeys, &types, &values,
							   &nulls);
	SxKeys	   *relation = NULL;
	Portal		portal;
	SxRow		row;
	bool		more = true;

	prepare_row(table, &row);
	if (after != NULL)
	{
		add_position(table, after, n, types, values, nulls);
		n += table->nkeys;
	}

	sx_plan_connect();
	if (scopes != NULL)
		relation = sx_rows_register_scopes(table, scopes);
	portal = SPI_cursor_open_with_args(NULL, sql, n, types, values, nulls, true,
									   CURSOR_OPT_NO_SCROLL |
									   (expected == 0 ? 0 : CURSOR_OPT_FAST_PLAN));
	while (more)
	{
		SPI_cursor_fetch(portal, true, LOAD_BATCH);
		if (SPI_processed == 0)
			break;
		for (uint64 i = 0; i < SPI_processed && more; i++)
		{
			MemoryContext old;
			SPITupleTable *rows = SPI_tuptable;
			uint64		processed = SPI_processed;

			read_row(table, rows, i, false, &row);
			old = MemoryContextSwitchTo(caller);
			more = take(arg, &row);
			MemoryContextSwitchTo(old);
			SPI_processed = processed;
			SPI_tuptable = rows;
		}
		SPI_freetuptable(SPI_tuptable);
	}
	SPI_cursor_close(portal);
	if (relation != NULL)
		tuplestore_end(relation->store);
	SPI_finish();
}

/* ---- privileges ---- */

static void
check_select(Oid relid)
{
	if (pg_class_aclcheck(relid, GetUserId(), ACL_SELECT) == ACLCHECK_OK ||
		pg_attribute_aclcheck_all(relid, GetUserId(), ACL_SELECT,
								  ACLMASK_ALL) == ACLCHECK_OK)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied for table %s", get_rel_name(relid)),
			 errdetail("Role \"%s\" may not SELECT all its columns.",
					   GetUserNameFromId(GetUserId(), false)),
			 errhint("Changes are whole rows: grant SELECT on the table.")));
}

/* CREATE OR REPLACE VIEW forgets the option that tracking asked for. */
static void
check_invoker(Oid view_oid)
{
	Relation	view = relation_open(view_oid, AccessShareLock);

	if (!sx_view_is_invoker(view))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("source view \"%s\" is not security_invoker",
						RelationGetRelationName(view)),
				 errdetail("It would show rows that the caller may not read."),
				 errhint("ALTER VIEW %s SET (security_invoker = true);",
						 sx_plan_relation(view_oid))));
	relation_close(view, AccessShareLock);
}

void
sx_rows_check_privileges(SxTable *table)
{
	check_select(table->root);
	if (OidIsValid(table->source))
	{
		check_select(table->source);
		check_invoker(table->source);
	}
}
