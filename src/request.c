/*-------------------------------------------------------------------------
 *
 * request.c
 *		Reading the members of a JSON request, and saying what is wrong.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "sync_ext.h"
#include "request.h"

void
sx_request_malformed(const char *path, const char *problem, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("malformed request"),
			 errdetail("%s %s.", *path == '\0' ? "the request" : path, problem),
			 errhint("%s", hint)));
}

char *
sx_request_path(const char *path, const char *name)
{
	return psprintf("%s%s%s", path, *path == '\0' ? "" : ".", name);
}

JsonbValue *
sx_request_member(JsonbContainer *object, const char *name)
{
	JsonbValue	key;
	JsonbValue *value;

	key.type = jbvString;
	key.val.string.val = unconstify(char *, name);
	key.val.string.len = strlen(name);
	value = findJsonbValueFromContainer(object, JB_FOBJECT, &key);
	return value == NULL || value->type == jbvNull ? NULL : value;
}

bool
sx_request_has(JsonbContainer *object, const char *name)
{
	JsonbValue	key;

	key.type = jbvString;
	key.val.string.val = unconstify(char *, name);
	key.val.string.len = strlen(name);
	return findJsonbValueFromContainer(object, JB_FOBJECT, &key) != NULL;
}

/* The place of a name in a list, or -1. */
static int
place_of(const JsonbValue *name, const char *const *known)
{
	for (int i = 0; known[i] != NULL; i++)
		if (strlen(known[i]) == name->val.string.len &&
			memcmp(known[i], name->val.string.val, name->val.string.len) == 0)
			return i;
	return -1;
}

bool
sx_request_members(JsonbContainer *object, const char *const *known,
				   JsonbValue *values)
{
	JsonbIterator *iterator = JsonbIteratorInit(object);
	JsonbIteratorToken token;
	JsonbValue	value;
	bool		all_known = true;
	int			place = -1;

	for (int i = 0; known[i] != NULL; i++)
		values[i].type = jbvNull;
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			place = place_of(&value, known);
			all_known &= place >= 0;
		}
		else if (token == WJB_VALUE && place >= 0)
			values[place] = value;
	}
	return all_known;
}

void
sx_request_check_members(JsonbContainer *object, const char *path,
						 const char *const *known)
{
	JsonbIterator *iterator = JsonbIteratorInit(object);
	JsonbIteratorToken token;
	JsonbValue	name;
	StringInfoData list;

	while ((token = JsonbIteratorNext(&iterator, &name, true)) != WJB_DONE)
	{
		if (token != WJB_KEY || place_of(&name, known) >= 0)
			continue;
		initStringInfo(&list);
		for (int i = 0; known[i] != NULL; i++)
			appendStringInfo(&list, "%s%s", i == 0 ? "" : ", ", known[i]);
		sx_request_malformed(sx_request_path(path,
											 pnstrdup(name.val.string.val,
													  name.val.string.len)),
							 "is not known",
							 psprintf("Known members are: %s.", list.data));
	}
}

char *
sx_request_string(JsonbContainer *object, const char *path, const char *name)
{
	JsonbValue *value = sx_request_member(object, name);

	if (value == NULL)
		return NULL;
	if (value->type != jbvString)
		sx_request_malformed(sx_request_path(path, name), "is not a string",
							 "Give a string, or null.");
	return pnstrdup(value->val.string.val, value->val.string.len);
}

bool
sx_request_is_object(const JsonbValue *value)
{
	return value->type == jbvBinary &&
		JsonContainerIsObject(value->val.binary.data);
}

bool
sx_request_is_array(const JsonbValue *value)
{
	return value->type == jbvBinary &&
		JsonContainerIsArray(value->val.binary.data) &&
		!JsonContainerIsScalar(value->val.binary.data);
}

JsonbContainer *
sx_request_object(JsonbContainer *object, const char *path, const char *name)
{
	JsonbValue *value = sx_request_member(object, name);

	if (value == NULL)
		return NULL;
	if (!sx_request_is_object(value))
		sx_request_malformed(sx_request_path(path, name), "is not an object",
							 "Give an object, or null.");
	return value->val.binary.data;
}

JsonbContainer *
sx_request_array(JsonbContainer *object, const char *path, const char *name)
{
	JsonbValue *value = sx_request_member(object, name);

	if (value == NULL)
		return NULL;
	if (!sx_request_is_array(value))
		sx_request_malformed(sx_request_path(path, name), "is not an array",
							 "Give an array, or null.");
	return value->val.binary.data;
}

ArrayType *
sx_request_params(JsonbContainer *object, const char *path)
{
	JsonbValue *value = sx_request_member(object, "params");
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	element;
	Datum	   *texts;
	bool	   *nulls;
	int			n = 0;
	int			dims[1];
	int			lower[1] = {1};

	if (value == NULL)
		return NULL;
	if (!sx_request_is_array(value))
		sx_request_malformed(sx_request_path(path, "params"), "is not an array",
							 "Give one value for each of $1, $2, and so on.");
	texts = palloc(sizeof(Datum) * (JsonContainerSize(value->val.binary.data) + 1));
	nulls = palloc(sizeof(bool) * (JsonContainerSize(value->val.binary.data) + 1));
	iterator = JsonbIteratorInit(value->val.binary.data);
	while ((token = JsonbIteratorNext(&iterator, &element, true)) != WJB_DONE)
	{
		char	   *text = NULL;
		Jsonb	   *json;

		if (token != WJB_ELEM)
			continue;
		if (element.type == jbvString)
			text = pnstrdup(element.val.string.val, element.val.string.len);
		else if (element.type != jbvNull)
		{
			json = JsonbValueToJsonb(&element);
			text = JsonbToCString(NULL, &json->root, VARSIZE(json));
		}
		nulls[n] = text == NULL;
		texts[n] = text == NULL ? (Datum) 0 : CStringGetTextDatum(text);
		n++;
	}
	dims[0] = n;
	if (n == 0)
		return construct_empty_array(TEXTOID);
	return construct_md_array(texts, nulls, 1, dims, lower, TEXTOID, -1, false,
							  TYPALIGN_INT);
}

void
sx_request_put_name(JsonbParseState **state, const char *name)
{
	JsonbValue	value;

	value.type = jbvString;
	value.val.string.val = unconstify(char *, name);
	value.val.string.len = strlen(name);
	pushJsonbValue(state, WJB_KEY, &value);
}

void
sx_request_put_text(JsonbParseState **state, const char *name,
					const char *text)
{
	JsonbValue	value;

	if (text == NULL)
		return;
	sx_request_put_name(state, name);
	value.type = jbvString;
	value.val.string.val = pstrdup(text);
	value.val.string.len = strlen(text);
	pushJsonbValue(state, WJB_VALUE, &value);
}
