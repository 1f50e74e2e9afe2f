/*-------------------------------------------------------------------------
 *
 * fingerprint.c
 *		Count and hash of what a client should hold.
 *
 * A client that computes the same over its copy knows whether it is equal, and
 * with ranges, where it is not. So the rule must be simple, and mean the same
 * in any language:
 *
 *	row		the values of the key columns, in the order of the key, each
 *			followed by a zero byte, and the version; all as UTF-8 text
 *	value	what the client finds in the key's JSON: a string as it is, anything
 *			else as its JSON text
 *	version	modified_at in whole milliseconds since 1970 (UTC), rounded down;
 *			nothing where it is null
 *	hash	h = 14695981039346656037
 *			for each byte: h = (h xor byte) * 1099511628211			(FNV-1a)
 *			h = (h xor (h >> 33)) * 18397679294719823053
 *			h = (h xor (h >> 33)) * 14181476777654086739
 *			h = h xor (h >> 33)							(as in MurmurHash3)
 *
 * modulo 2^64, and the hash of many rows is the sum of theirs modulo 2^64. The
 * second part of the hash is not decoration: where rows differ in their last
 * bytes only, FNV-1a's low bits are so regular that two rows which exchange
 * their versions would often leave the sum as it is.
 *
 * A sum needs no order. It cannot tell a copy that somebody forged, and it does
 * not have to: it is the client's own copy.
 *
 * Ranges are cut where the keys are, in an order that clients can compute, too:
 * text is compared by its bytes, whatever the collation of the column.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "parser/parse_coerce.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "sync_ext.h"
#include "fingerprint.h"
#include "rowjson.h"
#include "rows.h"
#include "selection.h"

PG_FUNCTION_INFO_V1(sync_ext_fingerprint);

/* Rows that are fetched at once. */
#define FETCH_BATCH	1000

/* A client with more ranges than this to look into had better load anew. */
#define MAX_RANGES	10000

#define FNV_OFFSET	UINT64CONST(14695981039346656037)
#define FNV_PRIME	UINT64CONST(1099511628211)
#define MIX_FIRST	UINT64CONST(18397679294719823053)
#define MIX_SECOND	UINT64CONST(14181476777654086739)

uint64
sx_fingerprint_hash(const char *bytes, int length)
{
	uint64		hash = FNV_OFFSET;

	for (int i = 0; i < length; i++)
		hash = (hash ^ (unsigned char) bytes[i]) * FNV_PRIME;
	hash = (hash ^ (hash >> 33)) * MIX_FIRST;
	hash = (hash ^ (hash >> 33)) * MIX_SECOND;
	return hash ^ (hash >> 33);
}

/* ---- the bytes of a row ---- */

typedef struct Counting
{
	SxSelection selection;
	Oid		   *base_types;		/* of the key columns */
	bool		zoned;			/* a key's text may depend on the time zone */
	int64		limit;			/* rows in a range; 0: no limit */

	Jsonb	   *after;			/* the range that is being counted */
	Jsonb	   *upto;
	int64		count;
	uint64		hash;

	StringInfoData bytes;		/* of one row */
	MemoryContext row;
	Tuplestorestate *store;
	TupleDesc	desc;
} Counting;

static void
append_number(StringInfo bytes, int64 number)
{
	enlargeStringInfo(bytes, 24);	/* 19 digits, sign and zero */
	/* in 13 it does not return the length */
	pg_lltoa(number, bytes->data + bytes->len);
	bytes->len += strlen(bytes->data + bytes->len);
}

/* As column_value() in rowjson.c has it, with a shorter way for most keys. */
static void
append_value(Counting *counting, Datum value, int number)
{
	StringInfo	bytes = &counting->bytes;

	switch (counting->base_types[number])
	{
		case INT2OID:
			append_number(bytes, DatumGetInt16(value));
			break;
		case INT4OID:
			append_number(bytes, DatumGetInt32(value));
			break;
		case INT8OID:
			append_number(bytes, DatumGetInt64(value));
			break;
		default:
			{
				MemoryContext old = MemoryContextSwitchTo(counting->row);
				int			start = bytes->len;
				char	   *utf8;

				sx_rowjson_append_value(bytes, value,
										counting->selection.table->keys[number].type);
				if (GetDatabaseEncoding() != PG_UTF8)
				{
					utf8 = pg_server_to_any(bytes->data + start,
											bytes->len - start, PG_UTF8);
					if (utf8 != bytes->data + start)
					{
						bytes->len = start;
						appendStringInfoString(bytes, utf8);
					}
				}
				MemoryContextSwitchTo(old);
				MemoryContextReset(counting->row);
			}
			break;
	}
	appendStringInfoChar(bytes, '\0');
}

static void
append_version(StringInfo bytes, TimestampTz at)
{
	int64		since_1970;

	if (TIMESTAMP_NOT_FINITE(at))
	{
		appendStringInfoString(bytes, TIMESTAMP_IS_NOBEGIN(at) ?
							   "-infinity" : "infinity");
		return;
	}
	since_1970 = at + (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;
	append_number(bytes, since_1970 / 1000 - (since_1970 % 1000 < 0 ? 1 : 0));
}

static void
put_range(Counting *counting, Jsonb *upto)
{
	Datum		values[4];
	bool		nulls[4] = {counting->after == NULL, upto == NULL, false, false};

	values[0] = PointerGetDatum(counting->after);
	values[1] = PointerGetDatum(upto);
	values[2] = Int64GetDatum(counting->count);
	values[3] = CStringGetTextDatum(psprintf("%016llx",
											 (unsigned long long) counting->hash));
	tuplestore_putvalues(counting->store, counting->desc, values, nulls);
	counting->after = upto;
	counting->count = 0;
	counting->hash = 0;
}

static void
count_row(Counting *counting, HeapTuple tuple, TupleDesc desc)
{
	SxTable    *table = counting->selection.table;
	Datum		values[INDEX_MAX_KEYS + 1];
	bool		nulls[INDEX_MAX_KEYS + 1];

	heap_deform_tuple(tuple, desc, values, nulls);

	/* Rows that follow the last of a range show that it is not the last. */
	if (counting->limit > 0 && counting->count == counting->limit)
		put_range(counting, counting->upto);

	resetStringInfo(&counting->bytes);
	for (int i = 0; i < table->nkeys; i++)
		append_value(counting, values[i], i);
	if (!nulls[table->nkeys])
		append_version(&counting->bytes,
					   DatumGetTimestampTz(values[table->nkeys]));
	counting->hash += sx_fingerprint_hash(counting->bytes.data,
										  counting->bytes.len);
	counting->count++;
	if (counting->limit > 0 && counting->count == counting->limit)
		counting->upto = sx_rowjson_key(table, values);
}

/* ---- the query ---- */

/*
 * The key columns in an order that does not depend on a collation, or, from
 * "param" on, the parameters to compare them with.
 */
static void
append_keys(StringInfo sql, SxTable *table, int param)
{
	for (int i = 0; i < table->nkeys; i++)
	{
		appendStringInfoString(sql, i == 0 ? "" : ", ");
		if (param > 0)
			appendStringInfo(sql, "$%d", param + i);
		else
			appendStringInfo(sql, SX_ALIAS ".%s",
							 quote_identifier(table->keys[i].name));
		if (OidIsValid(table->keys[i].collation) &&
			table->keys[i].collation != C_COLLATION_OID)
			appendStringInfoString(sql, " COLLATE pg_catalog.\"C\"");
	}
}

static ParamListInfo
bounds(Counting *counting, Jsonb *after, Jsonb *upto)
{
	SxTable    *table = counting->selection.table;
	ParamListInfo params = makeParamList(2 * table->nkeys);

	params->numParams = 0;
	for (int i = 0; i < 2; i++)
	{
		Jsonb	   *bound = i == 0 ? after : upto;
		const char *name = i == 0 ? "after" : "upto";
		Datum		key[INDEX_MAX_KEYS];

		if (bound == NULL)
			continue;
		if (!JB_ROOT_IS_OBJECT(bound))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("%s is not a key", name),
					 errdetail("It is %s.",
							   JsonbToCString(NULL, &bound->root, VARSIZE(bound))),
					 errhint("Give an object with the key columns, as in an answer, or leave it out.")));
		sx_rowjson_parse_key(table, &bound->root, name, key);
		for (int j = 0; j < table->nkeys; j++)
		{
			ParamExternData *param = &params->params[params->numParams++];

			param->value = key[j];
			param->isnull = false;
			param->pflags = PARAM_FLAG_CONST;
			param->ptype = table->keys[j].type;
		}
	}
	return params;
}

/* The part of the query that its two forms have in common. */
static void
append_from(StringInfo sql, Counting *counting, Jsonb *after, Jsonb *upto)
{
	SxSelection *selection = &counting->selection;
	int			param = selection->filter == NULL ? 1 :
		selection->filter->nparams + 1;

	sx_selection_append(selection, sql);
	for (int i = 0; i < 2; i++)
	{
		if ((i == 0 ? after : upto) == NULL)
			continue;
		appendStringInfoString(sql, " AND (");
		append_keys(sql, selection->table, 0);
		appendStringInfo(sql, ") %s (", sx_rows_key_operator(selection->table,
															 i == 0 ? ">" : "<="));
		append_keys(sql, selection->table, param);
		appendStringInfoChar(sql, ')');
		param += selection->table->nkeys;
	}
}

static int64
count_rows(Counting *counting, Jsonb *after, Jsonb *upto, ParamListInfo params)
{
	StringInfoData sql;
	Portal		portal;
	int64		count;
	bool		isnull;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT pg_catalog.count(*)");
	append_from(&sql, counting, after, upto);
	portal = sx_selection_query(&counting->selection, sql.data, params);
	SPI_cursor_fetch(portal, true, 1);
	count = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
										SPI_tuptable->tupdesc, 1, &isnull));
	SPI_cursor_close(portal);
	return count;
}

/* A batch, with the text of keys as a client has it that asks in UTC. */
static void
count_batch(Counting *counting)
{
	int			level = 0;

	if (counting->zoned)
	{
		level = NewGUCNestLevel();
		(void) set_config_option("timezone", "UTC", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	}
	for (uint64 i = 0; i < SPI_processed; i++)
		count_row(counting, SPI_tuptable->vals[i], SPI_tuptable->tupdesc);
	if (counting->zoned)
		AtEOXact_GUC(true, level);
}

static void
count_all(Counting *counting, Jsonb *after, Jsonb *upto, int ranges)
{
	SxTable    *table = counting->selection.table;
	ParamListInfo params = bounds(counting, after, upto);
	StringInfoData sql;
	Portal		portal;

	sx_selection_begin(&counting->selection);
	if (ranges > 1)
		counting->limit = Max(1, (count_rows(counting, after, upto, params) +
								  ranges - 1) / ranges);

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	for (int i = 0; i < table->nkeys; i++)
		appendStringInfo(&sql, SX_ALIAS ".%s, ",
						 quote_identifier(table->keys[i].name));
	appendStringInfo(&sql, SX_ALIAS ".%s",
					 quote_identifier(get_attname(table->root,
												  table->modified_at, false)));
	append_from(&sql, counting, after, upto);
	if (ranges > 1)
	{
		appendStringInfoString(&sql, " ORDER BY ");
		append_keys(&sql, table, 0);
	}

	portal = sx_selection_query(&counting->selection, sql.data, params);
	for (;;)
	{
		SPI_cursor_fetch(portal, true, FETCH_BATCH);
		if (SPI_processed == 0)
			break;
		CHECK_FOR_INTERRUPTS();
		count_batch(counting);
		SPI_freetuptable(SPI_tuptable);
	}
	SPI_cursor_close(portal);
	put_range(counting, upto);
	sx_selection_end(&counting->selection);
}

/* ---- SQL ---- */

static int
ranges_argument(FunctionCallInfo fcinfo, int n)
{
	int			ranges = PG_ARGISNULL(n) ? 1 : PG_GETARG_INT32(n);

	if (ranges < 1 || ranges > MAX_RANGES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("ranges must be between 1 and %d", MAX_RANGES),
				 errdetail("It is %d.", ranges),
				 errhint("Ask for some tens of ranges, and then again within those that differ.")));
	return ranges;
}

Datum
sync_ext_fingerprint(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *set = (ReturnSetInfo *) fcinfo->resultinfo;
	Counting	counting = {0};
	SxTable    *table;
	Jsonb	   *after = PG_ARGISNULL(4) ? NULL : PG_GETARG_JSONB_P(4);
	Jsonb	   *upto = PG_ARGISNULL(5) ? NULL : PG_GETARG_JSONB_P(5);

	sx_init_materialized_result(fcinfo);
	counting.store = set->setResult;
	counting.desc = set->setDesc;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("domain must not be null"),
				 errhint("sync.tracked lists the domains.")));
	sx_selection_open(&counting.selection,
					  text_to_cstring(PG_GETARG_TEXT_PP(0)),
					  PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1)),
					  PG_ARGISNULL(2) ? NULL : PG_GETARG_ARRAYTYPE_P(2),
					  PG_ARGISNULL(3) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(3)));
	table = counting.selection.table;
	counting.base_types = palloc(sizeof(Oid) * table->nkeys);
	for (int i = 0; i < table->nkeys; i++)
	{
		counting.base_types[i] = getBaseType(table->keys[i].type);
		if (counting.base_types[i] != UUIDOID &&
			TypeCategory(counting.base_types[i]) != TYPCATEGORY_NUMERIC &&
			TypeCategory(counting.base_types[i]) != TYPCATEGORY_STRING)
			counting.zoned = true;
	}
	counting.after = after;
	initStringInfo(&counting.bytes);
	counting.row = AllocSetContextCreate(CurrentMemoryContext,
										 "sync_ext fingerprint",
										 ALLOCSET_SMALL_SIZES);
	count_all(&counting, after, upto, ranges_argument(fcinfo, 6));
	return (Datum) 0;
}
