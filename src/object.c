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

#include "miscadmin.h"

#include "sync_ext.h"
#include "object.h"

/* Members that are allocated together. */
#define POOL_PAIRS 1024

void
sx_object_add(SxObject *object, const char *name, const JsonbValue *value)
{
	JsonbPair  *pair = &object->pairs[object->n++];

	Assert(object->n <= SX_OBJECT_MEMBERS);
	pair->key.type = jbvString;
	pair->key.val.string.val = unconstify(char *, name);
	pair->key.val.string.len = strlen(name);
	pair->value = *value;
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

static JsonbPair *
take_pairs(SxObjectPool *pool, int n)
{
	JsonbPair  *pairs;

	if (pool->left < n)
	{
		pool->left = Max(n, POOL_PAIRS);
		pool->pairs = palloc(sizeof(JsonbPair) * pool->left);
	}
	pairs = pool->pairs;
	pool->pairs += n;
	pool->left -= n;
	return pairs;
}

/* The tree of a packed value, as a value inside of another cannot be packed. */
static JsonbValue
unpack(JsonbContainer *container, SxObjectPool *pool)
{
	JsonbIterator *iterator = JsonbIteratorInit(container);
	JsonbIteratorToken token;
	JsonbValue	whole;
	JsonbValue	value;
	JsonbPair  *pairs = NULL;
	JsonbValue *elems = NULL;
	int			n = 0;

	check_stack_depth();
	if (JsonContainerIsObject(container))
	{
		pairs = take_pairs(pool, JsonContainerSize(container));
		whole.type = jbvObject;
		whole.val.object.nPairs = JsonContainerSize(container);
		whole.val.object.pairs = pairs;
	}
	else
	{
		elems = palloc(sizeof(JsonbValue) * Max(JsonContainerSize(container), 1));
		whole.type = jbvArray;
		whole.val.array.nElems = JsonContainerSize(container);
		whole.val.array.elems = elems;
		whole.val.array.rawScalar = JsonContainerIsScalar(container);
	}
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			pairs[n].key = value;
		if (token != WJB_VALUE && token != WJB_ELEM)
			continue;
		if (value.type == jbvBinary)
			value = unpack(value.val.binary.data, pool);
		if (token == WJB_VALUE)
			pairs[n++].value = value;
		else
			elems[n++] = value;
	}
	return whole;
}

JsonbValue
sx_object_finish(SxObject *object, SxObjectPool *pool)
{
	JsonbPair  *pairs = take_pairs(pool, object->n);
	JsonbValue	whole;

	for (int i = 0; i < object->n; i++)
	{
		JsonbValue *value = &object->pairs[i].value;
		int			place = i;

		if (value->type == jbvBinary)
			*value = unpack(value->val.binary.data, pool);
		for (; place > 0 && is_before(&object->pairs[i].key, &pairs[place - 1].key); place--)
			pairs[place] = pairs[place - 1];
		pairs[place] = object->pairs[i];
	}
	whole.type = jbvObject;
	whole.val.object.nPairs = object->n;
	whole.val.object.pairs = pairs;
	return whole;
}
