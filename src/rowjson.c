/*-------------------------------------------------------------------------
 *
 * rowjson.c
 *		Keys as JSON objects, to and fro.
 *
 * PostgreSQL's own to_jsonb() decides how a value looks; only integers, texts
 * and uuids, of which most keys are made, have a shorter way to the same
 * result.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
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

/* Whatever to_jsonb() makes of it. */
static void
any_value(JsonbValue *value, Datum datum, Oid type)
{
	FmgrInfo	to_jsonb;
	Jsonb	   *json;

	fmgr_info(F_TO_JSONB, &to_jsonb);
	fmgr_info_set_expr((Node *) makeFuncExpr(F_TO_JSONB, JSONBOID,
											 list_make1(makeNullConst(type, -1, InvalidOid)),
											 InvalidOid, InvalidOid,
											 COERCE_EXPLICIT_CALL),
					   &to_jsonb);
	json = DatumGetJsonbP(FunctionCall1(&to_jsonb, datum));
	if (!JB_ROOT_IS_SCALAR(json) || !JsonbExtractScalar(&json->root, value))
	{
		value->type = jbvBinary;
		value->val.binary.data = &json->root;
		value->val.binary.len = VARSIZE(json) - VARHDRSZ;
	}
}

static void
column_value(JsonbValue *value, Datum datum, Oid type)
{
	switch (getBaseType(type))
	{
		case INT2OID:
			number_value(value, DirectFunctionCall1(int2_numeric, datum), false);
			return;
		case INT4OID:
			number_value(value, DirectFunctionCall1(int4_numeric, datum), false);
			return;
		case INT8OID:
			number_value(value, DirectFunctionCall1(int8_numeric, datum), true);
			return;
		case NUMERICOID:
			if (sx_guc_big_numbers == SX_BIG_NUMBERS_TEXT)
			{
				number_value(value, datum, true);
				return;
			}
			break;
		case TEXTOID:
		case VARCHAROID:
			string_value(value, TextDatumGetCString(datum));
			return;
		case UUIDOID:
			string_value(value,
						 DatumGetCString(DirectFunctionCall1(uuid_out, datum)));
			return;
		default:
			break;
	}
	any_value(value, datum, type);
}

Jsonb *
sx_rowjson_key(SxTable *table, const Datum *key)
{
	JsonbParseState *state = NULL;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < table->nkeys; i++)
	{
		JsonbValue	name;
		JsonbValue	value;

		string_value(&name, table->keys[i].name);
		column_value(&value, key[i], table->keys[i].type);
		pushJsonbValue(&state, WJB_KEY, &name);
		pushJsonbValue(&state, WJB_VALUE, &value);
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

char *
sx_rowjson_key_text(SxTable *table, const Datum *key)
{
	Jsonb	   *json = sx_rowjson_key(table, key);

	return JsonbToCString(NULL, &json->root, VARSIZE(json));
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
