/*-------------------------------------------------------------------------
 *
 * rowjson.c
 *		Rows and keys as JSON objects, to and fro.
 *
 * PostgreSQL's own to_jsonb() decides how a value looks. The types of which
 * most rows are made have a shorter way to the same result: for a whole row
 * to_jsonb() looks up every column's type again, reads numbers from their
 * text, and sorts the names, which costs more than finding the row.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/uuid.h"

#include "sync_ext.h"
#include "guc.h"
#include "rowjson.h"

static void
string_value(JsonbValue *value, char *text)
{
	value->type = jbvString;
	value->val.string.val = text;
	value->val.string.len = strlen(text);
}

static void
number_value(JsonbValue *value, Datum numeric, bool big)
{
	if (big && sx_guc_big_numbers == SX_BIG_NUMBERS_TEXT)
	{
		string_value(value,
					 DatumGetCString(DirectFunctionCall1(numeric_out, numeric)));
		return;
	}
	value->type = jbvNumeric;
	value->val.numeric = DatumGetNumeric(numeric);
}

static void
set_to_jsonb(FmgrInfo *to_jsonb, Oid type)
{
	fmgr_info(F_TO_JSONB, to_jsonb);
	fmgr_info_set_expr((Node *) makeFuncExpr(F_TO_JSONB, JSONBOID,
											 list_make1(makeNullConst(type, -1, InvalidOid)),
											 InvalidOid, InvalidOid,
											 COERCE_EXPLICIT_CALL),
					   to_jsonb);
}

/* Whatever to_jsonb() makes of it. */
static void
any_value(JsonbValue *value, Datum datum, FmgrInfo *to_jsonb)
{
	Jsonb	   *json = DatumGetJsonbP(FunctionCall1(to_jsonb, datum));

	if (!JB_ROOT_IS_SCALAR(json) || !JsonbExtractScalar(&json->root, value))
	{
		value->type = jbvBinary;
		value->val.binary.data = &json->root;
		value->val.binary.len = VARSIZE(json) - VARHDRSZ;
	}
}

static void
text_value(JsonbValue *value, Datum datum)
{
	text	   *string = DatumGetTextPP(datum);

	value->type = jbvString;
	value->val.string.val = VARDATA_ANY(string);
	value->val.string.len = VARSIZE_ANY_EXHDR(string);
}

/* False where there is no short way. */
static bool
common_value(JsonbValue *value, Datum datum, Oid base_type)
{
	switch (base_type)
	{
		case BOOLOID:
			value->type = jbvBool;
			value->val.boolean = DatumGetBool(datum);
			return true;
		case INT2OID:
			number_value(value, DirectFunctionCall1(int2_numeric, datum), false);
			return true;
		case INT4OID:
			number_value(value, DirectFunctionCall1(int4_numeric, datum), false);
			return true;
		case INT8OID:
			number_value(value, DirectFunctionCall1(int8_numeric, datum), true);
			return true;
		case NUMERICOID:
			if (sx_guc_big_numbers == SX_BIG_NUMBERS_TEXT)
			{
				number_value(value, datum, true);
				return true;
			}
			return false;
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
			text_value(value, datum);
			/* too long for jsonb: let to_jsonb() say so */
			return value->val.string.len <= JENTRY_OFFLENMASK;
		case UUIDOID:
			string_value(value,
						 DatumGetCString(DirectFunctionCall1(uuid_out, datum)));
			return true;
		case DATEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			string_value(value, JsonEncodeDateTime(NULL, datum, base_type, NULL));
			return true;
		default:
			return false;
	}
}

void
sx_rowjson_value(JsonbValue *value, Datum datum, Oid type)
{
	FmgrInfo	to_jsonb;

	if (common_value(value, datum, getBaseType(type)))
		return;
	set_to_jsonb(&to_jsonb, type);
	any_value(value, datum, &to_jsonb);
}

/* ---- rows ---- */

typedef struct ShapeColumn
{
	JsonbValue	name;
	int			number;			/* from 0 */
	Oid			base_type;
	FmgrInfo	to_jsonb;		/* for types that are not common */
} ShapeColumn;

struct SxShape
{
	TupleDesc	desc;
	int			ncolumns;
	ShapeColumn *columns;		/* in the order of a jsonb object's members */
	Datum	   *values;
	bool	   *nulls;
};

static int
compare_names(const void *a, const void *b)
{
	const JsonbValue *x = &((const ShapeColumn *) a)->name;
	const JsonbValue *y = &((const ShapeColumn *) b)->name;

	if (x->val.string.len != y->val.string.len)
		return x->val.string.len < y->val.string.len ? -1 : 1;
	return memcmp(x->val.string.val, y->val.string.val, x->val.string.len);
}

SxShape *
sx_rowjson_shape(TupleDesc desc)
{
	SxShape    *shape = palloc(sizeof(SxShape));

	shape->desc = CreateTupleDescCopy(desc);
	shape->ncolumns = 0;
	shape->columns = palloc0(sizeof(ShapeColumn) * Max(desc->natts, 1));
	shape->values = palloc(sizeof(Datum) * Max(desc->natts, 1));
	shape->nulls = palloc(sizeof(bool) * Max(desc->natts, 1));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(shape->desc, i);
		ShapeColumn *column = &shape->columns[shape->ncolumns];

		if (attr->attisdropped)
			continue;
		string_value(&column->name, NameStr(attr->attname));
		column->number = i;
		column->base_type = getBaseType(attr->atttypid);
		set_to_jsonb(&column->to_jsonb, attr->atttypid);
		shape->ncolumns++;
	}
	qsort(shape->columns, shape->ncolumns, sizeof(ShapeColumn), compare_names);
	return shape;
}

Jsonb *
sx_rowjson_row(SxShape *shape, HeapTupleHeader row)
{
	JsonbParseState *state = NULL;
	HeapTupleData tuple;

	tuple.t_len = HeapTupleHeaderGetDatumLength(row);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = InvalidOid;
	tuple.t_data = row;
	heap_deform_tuple(&tuple, shape->desc, shape->values, shape->nulls);

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < shape->ncolumns; i++)
	{
		ShapeColumn *column = &shape->columns[i];
		Datum		datum = shape->values[column->number];
		JsonbValue	value;

		if (shape->nulls[column->number])
			value.type = jbvNull;
		else if (!common_value(&value, datum, column->base_type))
			any_value(&value, datum, &column->to_jsonb);
		pushJsonbValue(&state, WJB_KEY, &column->name);
		pushJsonbValue(&state, WJB_VALUE, &value);
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/* ---- keys ---- */

void
sx_rowjson_push_columns(JsonbParseState **state, int n, SxColumn *columns,
						const Datum *values)
{
	for (int i = 0; i < n; i++)
	{
		JsonbValue	name;
		JsonbValue	value;

		string_value(&name, columns[i].name);
		sx_rowjson_value(&value, values[i], columns[i].type);
		pushJsonbValue(state, WJB_KEY, &name);
		pushJsonbValue(state, WJB_VALUE, &value);
	}
}

Jsonb *
sx_rowjson_columns(int n, SxColumn *columns, const Datum *values)
{
	JsonbParseState *state = NULL;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	sx_rowjson_push_columns(&state, n, columns, values);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

Jsonb *
sx_rowjson_key(SxTable *table, const Datum *key)
{
	return sx_rowjson_columns(table->nkeys, table->keys, key);
}

char *
sx_rowjson_key_text(SxTable *table, const Datum *key)
{
	Jsonb	   *json = sx_rowjson_key(table, key);

	return JsonbToCString(NULL, &json->root, VARSIZE(json));
}

void
sx_rowjson_append_value(StringInfo text, Datum value, Oid type)
{
	JsonbValue	json;
	Jsonb	   *whole;

	sx_rowjson_value(&json, value, type);
	if (json.type == jbvString)
	{
		appendBinaryStringInfo(text, json.val.string.val, json.val.string.len);
		return;
	}
	whole = JsonbValueToJsonb(&json);
	(void) JsonbToCString(text, &whole->root, VARSIZE(whole));
}

char *
sx_rowjson_member(JsonbContainer *object, const char *name)
{
	JsonbValue	key;
	JsonbValue *value;

	string_value(&key, unconstify(char *, name));
	value = findJsonbValueFromContainer(object, JB_FOBJECT, &key);
	if (value == NULL || value->type == jbvNull)
		return NULL;
	switch (value->type)
	{
		case jbvString:
			return pnstrdup(value->val.string.val, value->val.string.len);
		case jbvNumeric:
			return DatumGetCString(DirectFunctionCall1(numeric_out,
													   NumericGetDatum(value->val.numeric)));
		case jbvBool:
			return pstrdup(value->val.boolean ? "true" : "false");
		default:
			{
				Jsonb	   *json = JsonbValueToJsonb(value);

				return JsonbToCString(NULL, &json->root, VARSIZE(json));
			}
	}
}

void
sx_rowjson_parse_key(SxTable *table, JsonbContainer *object, const char *what,
					 Datum *key)
{
	for (int i = 0; i < table->nkeys; i++)
	{
		SxColumn   *column = &table->keys[i];
		char	   *text = sx_rowjson_member(object, column->name);
		Oid			input;
		Oid			ioparam;

		if (text == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("%s lacks key column \"%s\"", what, column->name),
					 errdetail("It is %s.",
							   JsonbToCString(NULL, object, 0)),
					 errhint("Give every column of the key of sync domain \"%s\".",
							 table->domain)));

		/* An array column travels as a JSON array. */
		if (*text == '[' && OidIsValid(get_element_type(getBaseType(column->type))))
			for (char *c = text; *c != '\0'; c++)
				*c = *c == '[' ? '{' : *c == ']' ? '}' : *c;
		getTypeInputInfo(column->type, &input, &ioparam);
		key[i] = OidInputFunctionCall(input, text, ioparam, column->typmod);
	}
}
