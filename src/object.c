/*-------------------------------------------------------------------------
 *
 * object.c
 *		Building JSON objects of which there are many.
 *
 * pushJsonbValue() makes room for eight members where there are five, and
 * keeps a state for each object: more than a kilobyte for a small one. An
 * answer has as many as the request has mutations.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "sync_ext.h"
#include "object.h"

/* Members that are allocated together. */
#define POOL_PAIRS 1024

/* The tree of a packed value, as a value inside of another cannot be packed. */
static JsonbValue *
unpack(JsonbContainer *container)
{
	JsonbParseState *state = NULL;
	JsonbValue *whole = NULL;
	JsonbIterator *iterator = JsonbIteratorInit(container);
	JsonbIteratorToken token;
	JsonbValue	value;

	while ((token = JsonbIteratorNext(&iterator, &value, false)) != WJB_DONE)
		whole = pushJsonbValue(&state, token,
							   token == WJB_KEY || token == WJB_VALUE ||
							   token == WJB_ELEM ? &value : NULL);
	return whole;
}

void
sx_object_add(SxObject *object, const char *name, const JsonbValue *value)
{
	JsonbPair  *pair = &object->pairs[object->n++];

	Assert(object->n <= SX_OBJECT_MEMBERS);
	pair->key.type = jbvString;
	pair->key.val.string.val = unconstify(char *, name);
	pair->key.val.string.len = strlen(name);
	pair->value = value->type == jbvBinary ?
		*unpack(value->val.binary.data) : *value;
	pair->order = object->n;
}

void
sx_object_add_text(SxObject *object, const char *name, const char *text)
{
	JsonbValue	value;

	if (text == NULL)
		return;
	value.type = jbvString;
	value.val.string.val = unconstify(char *, text);
	value.val.string.len = strlen(text);
	sx_object_add(object, name, &value);
}

void
sx_object_add_json(SxObject *object, const char *name, Jsonb *json)
{
	JsonbValue	value;

	if (json == NULL)
		return;
	value.type = jbvBinary;
	value.val.binary.data = &json->root;
	value.val.binary.len = VARSIZE(json) - VARHDRSZ;
	sx_object_add(object, name, &value);
}

/* The order of an object's members: by length, then by bytes. */
static bool
is_before(const JsonbValue *a, const JsonbValue *b)
{
	if (a->val.string.len != b->val.string.len)
		return a->val.string.len < b->val.string.len;
	return memcmp(a->val.string.val, b->val.string.val, a->val.string.len) < 0;
}

JsonbValue
sx_object_finish(SxObject *object, SxObjectPool *pool)
{
	JsonbValue	value;
	JsonbPair  *pairs;

	if (pool->left < object->n)
	{
		pool->pairs = palloc(sizeof(JsonbPair) * POOL_PAIRS);
		pool->left = POOL_PAIRS;
	}
	pairs = pool->pairs;
	pool->pairs += object->n;
	pool->left -= object->n;

	for (int i = 0; i < object->n; i++)
	{
		int			place = i;

		for (; place > 0 && is_before(&object->pairs[i].key, &pairs[place - 1].key); place--)
			pairs[place] = pairs[place - 1];
		pairs[place] = object->pairs[i];
	}
	value.type = jbvObject;
	value.val.object.nPairs = object->n;
	value.val.object.pairs = pairs;
	return value;
}
