/*-------------------------------------------------------------------------
 *
 * mutation.c
 *		One change that a client asks for, and what became of it.
 *
 * Values are converted by the server's own jsonb_populate_record(), so JSON
 * means for a column what it means there. Columns that the server computes
 * (modified_at and generated ones) are passed over: clients send rows back as
 * they got them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "common/int.h"
#include "executor/executor.h"
#include "nodes/makefuncs.h"
#include "rewrite/rewriteHandler.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "sync_ext.h"
#include "mutation.h"
#include "request.h"
#include "rowjson.h"

const char *
sx_mutation_status(SxStatus status)
{
	switch (status)
	{
		case SX_STATUS_APPLIED:
			return "applied";
		case SX_STATUS_DUPLICATE:
			return "duplicate";
		case SX_STATUS_SUPERSEDED:
			return "superseded";
		case SX_STATUS_CONFLICT:
			return "conflict";
		case SX_STATUS_RETRY:
			return "retry";
		case SX_STATUS_OPEN:
		case SX_STATUS_REJECTED:
			break;
	}
	return "rejected";
}

/* ---- reading the request ---- */

static char *
path_of(SxMutation *mutation, const char *member)
{
	return psprintf("mutations[%d]%s%s", mutation->number,
					*member == '\0' ? "" : ".", member);
}

typedef enum Member
{
	MEMBER_ID,
	MEMBER_DOMAIN,
	MEMBER_OP,
	MEMBER_KEY,
	MEMBER_DATA,
	MEMBER_BASE,
	MEMBER_ASSUMED,
	MEMBER_PENDING,
	MEMBER_AT
} Member;

static const char *const members[] = {
	"id", "domain", "op", "key", "data", "base", "assumed", "pending", "at",
	NULL
};

static void
malformed_member(SxMutation *mutation, Member member, const char *problem,
				 const char *hint)
{
	sx_request_malformed(path_of(mutation, members[member]), problem, hint);
}

/* NULL where it is not there. */
static char *
read_string(SxMutation *mutation, const JsonbValue *values, Member member)
{
	const JsonbValue *value = &values[member];

	if (value->type == jbvNull)
		return NULL;
	if (value->type != jbvString)
		malformed_member(mutation, member, "is not a string",
						 "Give a string, or null.");
	return pnstrdup(value->val.string.val, value->val.string.len);
}

static SxMutationOp
read_op(SxMutation *mutation, const JsonbValue *values)
{
	static const char *const names[] = {"insert", "update", "upsert", "delete"};
	char	   *op = read_string(mutation, values, MEMBER_OP);

	for (int i = 0; op != NULL && i < (int) lengthof(names); i++)
		if (strcmp(op, names[i]) == 0)
		{
			pfree(op);
			return (SxMutationOp) i;
		}
	malformed_member(mutation, MEMBER_OP,
					 op == NULL ? "is missing" :
					 psprintf("is \"%s\", which is not known", op),
					 "It is one of insert, update, upsert, delete.");
	pg_unreachable();
}

static bool
read_time(SxMutation *mutation, const JsonbValue *values, Member member,
		  TimestampTz *time)
{
	char	   *text = read_string(mutation, values, member);

	if (text == NULL)
		return false;
	*time = DatumGetTimestampTz(DirectFunctionCall3(timestamptz_in,
													CStringGetDatum(text),
													ObjectIdGetDatum(InvalidOid),
													Int32GetDatum(-1)));
	pfree(text);
	return true;
}

static bool
read_bool(SxMutation *mutation, const JsonbValue *values, Member member)
{
	if (values[member].type == jbvNull)
		return false;
	if (values[member].type != jbvBool)
		malformed_member(mutation, member, "is not true or false",
						 "Leave it out where it is false.");
	return values[member].val.boolean;
}

/* Strings and numbers name mutations. */
static void
read_id(SxMutation *mutation, const JsonbValue *value)
{
	char	   *id;

	if (value->type == jbvNull)
		return;
	if (value->type != jbvString && value->type != jbvNumeric)
		malformed_member(mutation, MEMBER_ID, "is neither a string nor a number",
						 "Give each mutation an id of its own, or none.");
	mutation->given_id = *value;
	id = value->type == jbvString ?
		pnstrdup(value->val.string.val, value->val.string.len) :
		DatumGetCString(DirectFunctionCall1(numeric_out,
											NumericGetDatum(value->val.numeric)));
	if (strlen(id) > SX_MUTATION_ID_LENGTH)
		malformed_member(mutation, MEMBER_ID,
						 psprintf("has %zu bytes", strlen(id)),
						 psprintf("An id has at most %d bytes.",
								  SX_MUTATION_ID_LENGTH));
	mutation->id = id;
}

static Jsonb *
read_object(SxMutation *mutation, JsonbValue *values, Member member)
{
	if (values[member].type == jbvNull)
		return NULL;
	if (!sx_request_is_object(&values[member]))
		malformed_member(mutation, member, "is not an object",
						 "Give {\"column\": value, ...}.");
	return JsonbValueToJsonb(&values[member]);
}

static uint64
digest_bytes(uint64 digest, const void *bytes, Size length)
{
	return hash_combine64(digest, hash_bytes_extended(bytes, (int) length, 0));
}

static uint64
digest_object(uint64 digest, Jsonb *object)
{
	if (object == NULL)
		return hash_combine64(digest, 1);
	return digest_bytes(digest, VARDATA(object), VARSIZE(object) - VARHDRSZ);
}

/* The same for a mutation that comes again, and hardly for another one. */
static uint64
digest_of(SxMutation *mutation)
{
	uint64		digest = (uint64) mutation->op;

	if (mutation->id != NULL)
		digest = digest_bytes(digest, mutation->id, strlen(mutation->id));
	digest = digest_bytes(digest, mutation->domain, strlen(mutation->domain));
	digest = digest_object(digest, mutation->key_json);
	return digest_object(digest, mutation->data_json);
}

void
sx_mutation_read(SxMutation *mutation, int64 skew)
{
	JsonbValue	values[lengthof(members)];
	bool		known = sx_request_members(mutation->object, members, values);
	char	   *domain;

	/* first, so that every answer can name it */
	read_id(mutation, &values[MEMBER_ID]);
	if (!known)
		sx_request_check_members(mutation->object, path_of(mutation, ""), members);
	mutation->op = read_op(mutation, values);
	domain = read_string(mutation, values, MEMBER_DOMAIN);
	if (domain == NULL)
		malformed_member(mutation, MEMBER_DOMAIN, "is missing",
						 "Name the domain of the row.");
	mutation->table = sx_tracked_by_domain(domain);
	mutation->domain = mutation->table->domain;
	pfree(domain);
	mutation->key_json = read_object(mutation, values, MEMBER_KEY);
	mutation->data_json = read_object(mutation, values, MEMBER_DATA);
	mutation->assumed_json = read_object(mutation, values, MEMBER_ASSUMED);
	if (mutation->data_json == NULL && mutation->op != SX_MUTATION_DELETE)
		malformed_member(mutation, MEMBER_DATA, "is missing",
						 "Give the columns to write.");
	mutation->pending = read_bool(mutation, values, MEMBER_PENDING);
	mutation->has_base = read_time(mutation, values, MEMBER_BASE, &mutation->base);
	mutation->has_at = read_time(mutation, values, MEMBER_AT, &mutation->at);
	if (mutation->has_at && !TIMESTAMP_NOT_FINITE(mutation->at) &&
		pg_add_s64_overflow(mutation->at, skew, &mutation->at))
		mutation->at = skew < 0 ? DT_NOBEGIN : DT_NOEND;
	mutation->digest = digest_of(mutation);
}

/* ---- converting ---- */

/* jsonb_populate_record() for one row type, looked up once. */
typedef struct Converter
{
	Oid			relid;			/* hash key */
	TupleDesc	desc;
	TupleDesc	row;			/* the same, of the table's entry */
	FmgrInfo	function;
	Datum		blank;
	AttrNumber *places;			/* columns of the last object's members */
	EState	   *estate;
	ExprState **makers;			/* of key columns that the server makes */
	struct Converter *next;
} Converter;

#define MAX_PLACES 64

static Converter *converters = NULL;
static MemoryContext converter_context = NULL;
static MemoryContext scratch = NULL;	/* of one conversion */

MemoryContext
sx_mutation_keep_in(MemoryContext context)
{
	MemoryContext before = converter_context;

	converter_context = context;
	converters = NULL;
	scratch = NULL;
	return before;
}

static Converter *
converter_of(SxTable *table)
{
	Oid			rowtype = get_rel_type_id(table->root);
	Converter  *converter;
	MemoryContext old;
	Datum	   *values;
	bool	   *nulls;

	for (converter = converters; converter != NULL; converter = converter->next)
		if (converter->relid == table->root)
			return converter;

	if (scratch == NULL)
		scratch = AllocSetContextCreate(converter_context,
										"sync_ext push conversion",
										ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(converter_context);
	converter = palloc0(sizeof(Converter));
	converter->relid = table->root;
	converter->row = table->row;
	converter->desc = lookup_rowtype_tupdesc_copy(rowtype, -1);
	fmgr_info(F_JSONB_POPULATE_RECORD, &converter->function);
	fmgr_info_set_expr((Node *) makeFuncExpr(F_JSONB_POPULATE_RECORD, rowtype,
											 list_make1(makeNullConst(rowtype, -1, InvalidOid)),
											 InvalidOid, InvalidOid,
											 COERCE_EXPLICIT_CALL),
					   &converter->function);
	/* not NULL: a domain over an absent column is not to be checked */
	values = palloc0(sizeof(Datum) * converter->desc->natts);
	nulls = palloc(sizeof(bool) * converter->desc->natts);
	memset(nulls, true, sizeof(bool) * converter->desc->natts);
	converter->blank = HeapTupleGetDatum(heap_form_tuple(converter->desc,
														 values, nulls));
	converter->places = palloc0(sizeof(AttrNumber) * MAX_PLACES);
	converter->next = converters;
	converters = converter;
	MemoryContextSwitchTo(old);
	return converter;
}

void
sx_mutation_check_table(SxTable *table)
{
	TupleDesc	was = converter_of(table)->row;
	TupleDesc	now = sx_tracked_get(table->root)->row;

	if (now == was)
		return;
	for (int i = 0; i < was->natts; i++)
		if (now == NULL || i >= now->natts ||
			TupleDescAttr(now, i)->attisdropped != TupleDescAttr(was, i)->attisdropped ||
			TupleDescAttr(now, i)->atttypid != TupleDescAttr(was, i)->atttypid)
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("columns of relation \"%s\" changed while rows were pushed to it",
							get_rel_name(table->root)),
					 errdetail("A trigger of another table of the same push did that."),
					 errhint("Push it again.")));
}

/*
 * The column that a member of the data is for. Mutations of one batch mostly
 * have the same members in the same order, so the last one's are tried first.
 */
static AttrNumber
column_of(Converter *converter, int place, const JsonbValue *name)
{
	TupleDesc	desc = converter->desc;
	AttrNumber	guess = place < MAX_PLACES ? converter->places[place] : 0;

	for (int i = -1; i < desc->natts; i++)
	{
		AttrNumber	attnum = i < 0 ? guess : i + 1;
		Form_pg_attribute attr;

		if (attnum == 0)
			continue;
		attr = TupleDescAttr(desc, attnum - 1);
		if (attr->attisdropped ||
			strlen(NameStr(attr->attname)) != name->val.string.len ||
			memcmp(NameStr(attr->attname), name->val.string.val,
				   name->val.string.len) != 0)
			continue;
		if (place < MAX_PLACES)
			converter->places[place] = attnum;
		return attnum;
	}
	return InvalidAttrNumber;
}

/* The columns that an object names, those that the server computes excepted. */
static Bitmapset *
columns_of(SxMutation *mutation, Converter *converter, Jsonb *object,
		   const char *what)
{
	SxTable    *table = mutation->table;
	Bitmapset  *columns = NULL;
	JsonbIterator *iterator = JsonbIteratorInit(&object->root);
	JsonbIteratorToken token;
	JsonbValue	name;
	int			place = 0;

	while ((token = JsonbIteratorNext(&iterator, &name, true)) != WJB_DONE)
	{
		AttrNumber	attnum;

		if (token != WJB_KEY)
			continue;
		attnum = column_of(converter, place++, &name);
		if (attnum == InvalidAttrNumber)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%.*s\" of relation \"%s\" does not exist",
							name.val.string.len, name.val.string.val,
							get_rel_name(table->root)),
					 errdetail("%s.%.*s names it.", path_of(mutation, what),
							   name.val.string.len, name.val.string.val),
					 errhint("sync.describe('%s') lists the columns.%s",
							 table->domain,
							 OidIsValid(table->source) ?
							 " Write the table that the domain tracks; its document comes from a view." : "")));
		if (attnum != table->modified_at &&
			TupleDescAttr(converter->desc, attnum - 1)->attgenerated == '\0')
			columns = bms_add_member(columns, attnum);
	}
	return columns;
}

/*
 * The row that an object gives, in a memory context; there is one that lasts
 * until the next conversion. What input functions leave behind is not kept: a
 * batch may be large.
 */
static void
populate(Converter *converter, Jsonb *object, SxValues *row,
		 MemoryContext context)
{
	LOCAL_FCINFO(fcinfo, 2);
	MemoryContext old = MemoryContextSwitchTo(scratch);
	HeapTupleData tuple;
	Datum		result;

	MemoryContextReset(scratch);
	InitFunctionCallInfoData(*fcinfo, &converter->function, 2, InvalidOid,
							 NULL, NULL);
	fcinfo->args[0].value = converter->blank;
	fcinfo->args[0].isnull = false;
	fcinfo->args[1].value = JsonbPGetDatum(object);
	fcinfo->args[1].isnull = false;
	result = FunctionCallInvoke(fcinfo);

	(void) MemoryContextSwitchTo(context);
	tuple.t_len = HeapTupleHeaderGetDatumLength(DatumGetHeapTupleHeader(result));
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = InvalidOid;
	tuple.t_data = palloc(tuple.t_len);
	memcpy(tuple.t_data, DatumGetPointer(result), tuple.t_len);
	row->values = palloc(sizeof(Datum) * converter->desc->natts);
	row->nulls = palloc(sizeof(bool) * converter->desc->natts);
	heap_deform_tuple(&tuple, converter->desc, row->values, row->nulls);
	(void) MemoryContextSwitchTo(old);
}

/* Finds the key: in "key", else in the data. False where a column lacks. */
static bool
convert_key(SxMutation *mutation, Converter *converter)
{
	SxTable    *table = mutation->table;
	Datum		key[INDEX_MAX_KEYS];
	SxValues   *from = &mutation->row;
	Bitmapset  *given = mutation->columns;
	SxValues	row;

	if (mutation->key_json != NULL)
	{
		given = columns_of(mutation, converter, mutation->key_json, "key");
		populate(converter, mutation->key_json, &row, scratch);
		from = &row;
	}
	for (int i = 0; i < table->nkeys; i++)
	{
		AttrNumber	attnum = table->keys[i].attnum;

		if (bms_is_member(attnum, given) && !from->nulls[attnum - 1])
		{
			key[i] = from->values[attnum - 1];
			continue;
		}
		if (mutation->key_json == NULL && mutation->op == SX_MUTATION_INSERT)
			return false;
		sx_request_malformed(path_of(mutation, "key"),
							 psprintf("lacks column \"%s\"",
									  table->keys[i].name),
							 psprintf("Give every column of the key of sync domain \"%s\".",
									  table->domain));
	}
	sx_mutation_set_key(mutation, key);
	return true;
}

/*
 * Whether a column of the key that the data hold, too, has another value
 * there; else it is taken out of what an UPDATE sets.
 */
static bool
settle_key_columns(SxMutation *mutation)
{
	SxTable    *table = mutation->table;
	bool		moves = false;

	for (int i = 0; i < table->nkeys; i++)
	{
		SxColumn   *column = &table->keys[i];
		AttrNumber	attnum = column->attnum;

		if (bms_is_member(attnum, mutation->columns) &&
			!mutation->row.nulls[attnum - 1] &&
			!datum_image_eq(mutation->row.values[attnum - 1], mutation->key[i],
							column->typbyval, column->typlen))
			moves = true;
	}
	if (moves && (mutation->op == SX_MUTATION_INSERT ||
				  mutation->op == SX_MUTATION_UPSERT))
		sx_request_malformed(path_of(mutation, "data"), "holds another key than \"key\"",
							 "A row that is new has one key.");
	if (moves)
		return true;
	for (int i = 0; i < table->nkeys; i++)
	{
		AttrNumber	attnum = table->keys[i].attnum;

		mutation->columns = bms_del_member(mutation->columns, attnum);
		mutation->row.values[attnum - 1] = mutation->key[i];
		mutation->row.nulls[attnum - 1] = false;
	}
	return false;
}

void
sx_mutation_convert(SxMutation *mutation)
{
	Converter  *converter = converter_of(mutation->table);

	mutation->columns = NULL;
	if (mutation->data_json != NULL)
	{
		mutation->columns = columns_of(mutation, converter,
									   mutation->data_json, "data");
		populate(converter, mutation->data_json, &mutation->row,
				 CurrentMemoryContext);
	}
	else
	{
		mutation->row.values = palloc0(sizeof(Datum) * converter->desc->natts);
		mutation->row.nulls = palloc0(sizeof(bool) * converter->desc->natts);
	}
	if (mutation->assumed_json != NULL)
	{
		mutation->assumed_columns = columns_of(mutation, converter,
											   mutation->assumed_json,
											   "assumed");
		populate(converter, mutation->assumed_json, &mutation->assumed,
				 CurrentMemoryContext);
	}
	mutation->has_key = convert_key(mutation, converter);
	if (mutation->has_key)
		mutation->moves = settle_key_columns(mutation);
}

bool
sx_mutation_make_key(SxMutation *mutation)
{
	SxTable    *table = mutation->table;
	Bitmapset  *made = sx_mutation_made_columns(table);
	Datum		key[INDEX_MAX_KEYS];

	for (int i = 0; i < table->nkeys; i++)
	{
		AttrNumber	attnum = table->keys[i].attnum;

		if (bms_is_member(attnum, mutation->columns) &&
			!mutation->row.nulls[attnum - 1])
			key[i] = mutation->row.values[attnum - 1];
		else if (bms_is_member(i, made))
			key[i] = sx_mutation_make_column(table, i);
		else
			return false;
	}
	sx_mutation_set_key(mutation, key);
	(void) settle_key_columns(mutation);
	mutation->key_made = true;
	return true;
}

static bool
converts(Converter *converter, Jsonb *object)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool ok = true;
	SxValues	row;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		populate(converter, object, &row, scratch);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		ok = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return ok;
}

char *
sx_mutation_blame(SxMutation *mutation)
{
	Converter  *converter;
	struct
	{
		const char *name;
		Jsonb	   *object;
	}			parts[] = {
		{"key", mutation->key_json},
		{"data", mutation->data_json},
		{"assumed", mutation->assumed_json}
	};

	if (mutation->table == NULL)
		return path_of(mutation, "");
	converter = converter_of(mutation->table);
	for (int i = 0; i < (int) lengthof(parts); i++)
	{
		JsonbIterator *iterator;
		JsonbIteratorToken token;
		JsonbValue	name;
		JsonbValue	value;

		if (parts[i].object == NULL)
			continue;
		iterator = JsonbIteratorInit(&parts[i].object->root);
		while ((token = JsonbIteratorNext(&iterator, &name, true)) != WJB_DONE)
		{
			JsonbParseState *state = NULL;

			if (token != WJB_KEY)
				continue;
			(void) JsonbIteratorNext(&iterator, &value, true);
			pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
			pushJsonbValue(&state, WJB_KEY, &name);
			pushJsonbValue(&state, WJB_VALUE, &value);
			if (column_of(converter, MAX_PLACES, &name) == InvalidAttrNumber ||
				!converts(converter,
						  JsonbValueToJsonb(pushJsonbValue(&state,
														   WJB_END_OBJECT,
														   NULL))))
				return psprintf("%s.%s.%.*s", path_of(mutation, ""),
								parts[i].name, name.val.string.len,
								name.val.string.val);
		}
	}
	return path_of(mutation, "");
}

void
sx_mutation_refuse(SxMutation *mutation, ErrorData *error, const char *path)
{
	SxRefusal  *refusal = &mutation->refusal;

	switch (ERRCODE_TO_CATEGORY(error->sqlerrcode))
	{
		case MAKE_SQLSTATE('5', '3', '0', '0', '0'):	/* insufficient resources */
		case MAKE_SQLSTATE('5', '8', '0', '0', '0'):	/* system error */
		case MAKE_SQLSTATE('4', '0', '0', '0', '0'):	/* serialization, deadlock */
			mutation->status = SX_STATUS_RETRY;
			break;
		default:
			mutation->status = SX_STATUS_REJECTED;
			break;
	}
	if (error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
		mutation->status = SX_STATUS_RETRY;
	refusal->sqlstate = error->sqlerrcode;
	refusal->message = pstrdup(error->message != NULL ? error->message : "");
	refusal->detail = error->detail == NULL ? NULL : pstrdup(error->detail);
	refusal->hint = error->hint == NULL ? NULL : pstrdup(error->hint);
	if (path != NULL)
		refusal->path = pstrdup(path);
	else if (error->column_name != NULL)
		refusal->path = psprintf("%s.%s", path_of(mutation, "data"),
								 error->column_name);
	else
		refusal->path = path_of(mutation, "");
}

/* ---- keys ---- */

/*
 * Whether a type's own hash has 32 bits only: those of whole numbers and times
 * of 64 bits fold them, so that all of (1 << 32 | 2) and (2 << 32 | 1) and 3
 * are the same. Keys are made like that. Equal values have equal bits there.
 */
static bool
hash_is_folded(const SxColumn *column, const TypeCacheEntry *type)
{
	return column->typbyval && column->typlen == sizeof(int64) &&
		type->hash_extended_proc < FirstGenbkiObjectId &&
		type->hash_extended_proc != F_HASHFLOAT8EXTENDED;
}

uint64
sx_mutation_hash_key(SxTable *table, const Datum *key)
{
	uint64		hash = 0;

	for (int i = 0; i < table->nkeys; i++)
	{
		SxColumn   *column = &table->keys[i];
		TypeCacheEntry *type = lookup_type_cache(column->type,
												 TYPECACHE_HASH_EXTENDED_PROC_FINFO);
		uint64		one;
		int64		bits;

		if (hash_is_folded(column, type))
		{
			bits = DatumGetInt64(key[i]);
			one = hash_bytes_extended((unsigned char *) &bits, sizeof(bits), 0);
		}
		else if (OidIsValid(type->hash_extended_proc))
			one = DatumGetUInt64(FunctionCall2Coll(&type->hash_extended_proc_finfo,
												   column->collation, key[i],
												   Int64GetDatum(0)));
		else
			one = datum_image_hash(key[i], column->typbyval, column->typlen);
		hash = hash_combine64(hash, one);
	}
	return hash;
}

void
sx_mutation_set_key(SxMutation *mutation, const Datum *key)
{
	SxTable    *table = mutation->table;

	mutation->key = palloc(sizeof(Datum) * table->nkeys);
	for (int i = 0; i < table->nkeys; i++)
		mutation->key[i] = datumCopy(key[i], table->keys[i].typbyval,
									 table->keys[i].typlen);
	mutation->key_hash = sx_mutation_hash_key(table, mutation->key);
	mutation->has_key = true;
}

bool
sx_mutation_set_new_key(SxMutation *mutation, const Datum *key, uint64 key_hash)
{
	SxTable    *table = mutation->table;
	bool		differs = false;

	for (int i = 0; i < table->nkeys && !differs; i++)
		differs = !datum_image_eq(key[i], mutation->key[i],
								  table->keys[i].typbyval,
								  table->keys[i].typlen);
	mutation->new_key = NULL;
	if (!differs)
		return false;
	mutation->new_key = palloc(sizeof(Datum) * table->nkeys);
	for (int i = 0; i < table->nkeys; i++)
		mutation->new_key[i] = datumCopy(key[i], table->keys[i].typbyval,
										 table->keys[i].typlen);
	mutation->new_key_hash = key_hash;
	return true;
}

Datum *
sx_mutation_final_key(SxMutation *mutation)
{
	return mutation->new_key != NULL ? mutation->new_key : mutation->key;
}

uint64
sx_mutation_final_hash(SxMutation *mutation)
{
	return mutation->new_key != NULL ? mutation->new_key_hash :
		mutation->key_hash;
}

Bitmapset *
sx_mutation_made_columns(SxTable *table)
{
	TupleDesc	desc = table->row;
	Bitmapset  *made = NULL;

	for (int i = 0; i < table->nkeys; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(desc,
											   table->keys[i].attnum - 1);

		if ((attr->atthasdef && attr->attgenerated == '\0') ||
			attr->attidentity != '\0')
			made = bms_add_member(made, i);
	}
	return made;
}

/* Evaluating the defaults of key columns, prepared once for a push. */
static void
prepare_makers(Converter *converter, SxTable *table)
{
	MemoryContext old = MemoryContextSwitchTo(converter_context);
	Relation	rel = table_open(table->root, RowExclusiveLock);
	Bitmapset  *made = sx_mutation_made_columns(table);
	int			place = -1;

	/* a sequence must not move for who may not insert */
	if (pg_class_aclcheck(table->root, GetUserId(), ACL_INSERT) != ACLCHECK_OK &&
		pg_attribute_aclcheck_all(table->root, GetUserId(), ACL_INSERT,
								  ACLMASK_ANY) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, get_relkind_objtype(rel->rd_rel->relkind),
					   RelationGetRelationName(rel));
	converter->estate = CreateExecutorState();
	converter->makers = palloc0(sizeof(ExprState *) * table->nkeys);
	while ((place = bms_next_member(made, place)) >= 0)
		converter->makers[place] =
			ExecPrepareExpr((Expr *) build_column_default(rel, table->keys[place].attnum),
							converter->estate);
	table_close(rel, NoLock);
	MemoryContextSwitchTo(old);
}

Datum
sx_mutation_make_column(SxTable *table, int place)
{
	Converter  *converter = converter_of(table);
	SxColumn   *column = &table->keys[place];
	ExprContext *econtext;
	Datum		value;
	bool		isnull;

	if (converter->makers == NULL)
		prepare_makers(converter, table);
	econtext = GetPerTupleExprContext(converter->estate);
	value = ExecEvalExprSwitchContext(converter->makers[place], econtext,
									  &isnull);
	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_NOT_NULL_VIOLATION),
				 errmsg("the default of key column \"%s\" is null",
						column->name)));
	value = datumCopy(value, column->typbyval, column->typlen);
	ResetExprContext(econtext);
	return value;
}
