/*-------------------------------------------------------------------------
 *
 * session.c
 *		Sync sessions, and provisional keys.
 *
 *	begin_session -> push with "pending" keys -> pull -> end_session
 *
 * A client has one session at a time, and beginning one that is open returns
 * it: so every step can be repeated when its answer was lost. What moves is
 * moved by end_session alone, when the client says that it has everything:
 * its last_sync, and the provisional keys, which until then can be sent again
 * in whatever session, also in the next one when this was swept away.
 *
 * Beginning, pushing and ending lock the client's row (ledger.c) before they
 * look at the session, so that they go one after the other: two that begin at
 * once get the same session, and a push that waited for the end finds it ended.
 *
 * Real keys are made before anything is written, by the defaults of the key's
 * columns. So a reference to a record that comes later, or in a circle, is
 * rewritten like any other, and deferred constraints do the rest.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/hsearch.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "sync_ext.h"
#include "catalog.h"
#include "cursor.h"
#include "plan.h"
#include "request.h"
#include "rowjson.h"
#include "session.h"

PG_FUNCTION_INFO_V1(sync_ext_begin_session);
PG_FUNCTION_INFO_V1(sync_ext_end_session);

/* Runs a kept statement as the extension's owner. */
static int
run(const char *sql, int nargs, Oid *types, Datum *values, const char *nulls,
	bool read_only)
{
	SxUser		user = sx_catalog_become(sx_catalog_get()->owner);
	int			result = SPI_execute_plan(sx_plan_get(sql, nargs, types), values,
										  nulls, read_only, 0);

	sx_catalog_restore_user(user);
	if (result < 0)
		elog(ERROR, "could not run \"%s\": %s", sql,
			 SPI_result_code_string(result));
	return (int) SPI_processed;
}

/* ---- sessions ---- */

static void
no_session(const char *id)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("sync session \"%s\" does not exist", id),
			 errdetail("It was ended, or it was given up for being abandoned."),
			 errhint("Call sync.begin_session() and send the same again: nothing is applied twice.")));
}

/* Where in the request it is what uuid_in() does not like. */
static void
in_session(void *arg)
{
	errcontext("session of the request");
}

static Datum
read_id(const char *id)
{
	ErrorContextCallback callback;
	Datum		result;

	callback.callback = in_session;
	callback.arg = NULL;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	result = DirectFunctionCall1(uuid_in, CStringGetDatum(id));
	error_context_stack = callback.previous;
	return result;
}

void
sx_session_get(SxSession *session, const char *id, const char *client,
			   const char *user_id)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			types[] = {UUIDOID};
	Datum		values[1];
	SxDevice	device;
	bool		isnull;

	values[0] = read_id(id);
	memset(session, 0, sizeof(SxSession));
	sx_plan_connect();
	/* not read-only: the statement that began it may be this one */
	if (run("SELECT d.client, d.user_id, s.last_sync,"
			" pg_catalog.date_part('epoch', s.device_offset)"
			" FROM sync.session s JOIN sync.device d ON d.number OPERATOR(pg_catalog.=) s.device"
			" WHERE s.id OPERATOR(pg_catalog.=) $1 AND s.ended_at IS NULL",
			1, types, values, NULL, false) == 0)
		no_session(id);
	session->client = sx_plan_text(0, 1, context);
	session->user_id = sx_plan_text(0, 2, context);
	session->last_sync = sx_plan_text(0, 3, context);
	session->offset = (int64) (DatumGetFloat8(sx_plan_value(0, 4, &isnull)) * USECS_PER_SEC);
	if (isnull)
		session->offset = 0;
	SPI_finish();
	/* whose is it? before anything is told of it */
	(void) sx_ledger_find(&device, session->client);
	if (client != NULL && strcmp(client, session->client) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("sync session \"%s\" is not one of client \"%s\"", id, client),
				 errdetail("It was begun for client \"%s\".", session->client),
				 errhint("Give the client that the session was begun for, or none.")));
	if (user_id != NULL && session->user_id != NULL &&
		strcmp(user_id, session->user_id) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("sync session \"%s\" is not one of user \"%s\"", id, user_id),
				 errdetail("It was begun for user \"%s\".", session->user_id),
				 errhint("Give the user that the session was begun for, or none.")));
}

void
sx_session_use(const char *id, const int64 *offset)
{
	Oid			types[] = {UUIDOID, FLOAT8OID};
	Datum		values[2];
	char		nulls[] = "  ";

	values[0] = read_id(id);
	values[1] = offset == NULL ? (Datum) 0 :
		Float8GetDatum((double) *offset / USECS_PER_SEC);
	nulls[1] = offset == NULL ? 'n' : ' ';
	sx_plan_connect();
	if (run("UPDATE sync.session SET seen_at = pg_catalog.clock_timestamp(),"
			" device_offset = coalesce(pg_catalog.make_interval(secs => $2), device_offset)"
			" WHERE id OPERATOR(pg_catalog.=) $1 AND ended_at IS NULL",
			2, types, values, nulls, false) == 0)
		no_session(id);
	SPI_finish();
}

/* A cursor as a result, from its text. */
static Datum
cursor_datum(char *text)
{
	return DirectFunctionCall1(sync_ext_cursor_in, CStringGetDatum(text));
}

/*
 * sync.begin_session(client text, user_id text, device_time timestamptz)
 *	returns (session uuid, last_sync, max_checkin sync.cursor, server_time)
 */
Datum
sync_ext_begin_session(PG_FUNCTION_ARGS)
{
	TimestampTz server_time = GetCurrentTimestamp();
	MemoryContext context = CurrentMemoryContext;
	Oid			types[] = {INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID, TEXTOID};
	Datum		arguments[4];
	char		nulls[] = "    ";
	SxDevice	device;
	char	   *last_sync;
	char	   *max_checkin;
	pg_uuid_t  *id = palloc(sizeof(pg_uuid_t));
	TupleDesc	desc;
	Datum		values[4];
	bool		isnull[4] = {false};
	bool		ignored;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("client must not be null"),
				 errhint("Give each client a name of its own, such as a UUID.")));
	if (!PG_ARGISNULL(2) && TIMESTAMP_NOT_FINITE(PG_GETARG_TIMESTAMPTZ(2)))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("device_time must be finite"),
				 errhint("Give what the device's clock shows, or null.")));
	sx_ledger_claim(&device, text_to_cstring(PG_GETARG_TEXT_PP(0)),
					PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1)),
					0);
	sx_plan_connect();
	arguments[0] = Int64GetDatum(device.number);
	arguments[1] = TimestampTzGetDatum(server_time);
	arguments[2] = PG_ARGISNULL(2) ? (Datum) 0 : PG_GETARG_DATUM(2);
	nulls[2] = PG_ARGISNULL(2) ? 'n' : ' ';
	arguments[3] = device.last_sync == NULL ? (Datum) 0 :
		CStringGetTextDatum(device.last_sync);
	nulls[3] = device.last_sync == NULL ? 'n' : ' ';
	if (run("UPDATE sync.session SET seen_at = $2,"
			" device_offset = coalesce($2 OPERATOR(pg_catalog.-) $3, device_offset)"
			" WHERE device OPERATOR(pg_catalog.=) $1 AND ended_at IS NULL"
			" RETURNING id, last_sync, max_checkin",
			3, types, arguments, nulls, false) == 0)
		(void) run("INSERT INTO sync.session (device, began_at, seen_at, device_offset, last_sync, max_checkin)"
				   " VALUES ($1, $2, $2, $2 OPERATOR(pg_catalog.-) $3, $4, sync.current_cursor()::pg_catalog.text)"
				   " RETURNING id, last_sync, max_checkin",
				   4, types, arguments, nulls, false);
	*id = *DatumGetUUIDP(sx_plan_value(0, 1, &ignored));
	last_sync = sx_plan_text(0, 2, context);
	max_checkin = sx_plan_text(0, 3, context);
	SPI_finish();

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[0] = UUIDPGetDatum(id);
	isnull[1] = last_sync == NULL;
	values[1] = last_sync == NULL ? (Datum) 0 : cursor_datum(last_sync);
	values[2] = cursor_datum(max_checkin);
	values[3] = TimestampTzGetDatum(server_time);
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, isnull));
}

/* sync.end_session(session uuid, last sync.cursor) */
Datum
sync_ext_end_session(PG_FUNCTION_ARGS)
{
	Oid			types[] = {UUIDOID, TEXTOID};
	Datum		arguments[2];
	SxDevice	device;
	char	   *client;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("session and last must not be null"),
				 errdetail("The next session's window begins at \"last\"."),
				 errhint("Give max_checkin, or a cursor that the session's pulls returned.")));
	arguments[0] = PG_GETARG_DATUM(0);
	sx_plan_connect();
	if (run("SELECT d.client FROM sync.session s"
			" JOIN sync.device d ON d.number OPERATOR(pg_catalog.=) s.device"
			" WHERE s.id OPERATOR(pg_catalog.=) $1",
			1, types, arguments, NULL, false) == 0)
		no_session(DatumGetCString(DirectFunctionCall1(uuid_out, arguments[0])));
	client = sx_plan_text(0, 1, CurrentMemoryContext);
	sx_ledger_claim(&device, client, NULL, 0);
	arguments[1] = CStringGetTextDatum(sx_cursor_text(PG_GETARG_BYTEA_PP(1)));

	/*
	 * One that was ended before moves nothing: a later session may have moved
	 * on since. While the claim waited, it may also have been given up.
	 */
	if (run("WITH s AS (UPDATE sync.session SET ended_at = pg_catalog.clock_timestamp(),"
			" seen_at = pg_catalog.clock_timestamp() WHERE id OPERATOR(pg_catalog.=) $1"
			" AND ended_at IS NULL RETURNING device),"
			" l AS (DELETE FROM sync.local_id USING s WHERE local_id.device OPERATOR(pg_catalog.=) s.device)"
			" UPDATE sync.device SET last_sync = $2 FROM s WHERE number OPERATOR(pg_catalog.=) s.device",
			2, types, arguments, NULL, false) == 0 &&
		run("SELECT FROM sync.session WHERE id OPERATOR(pg_catalog.=) $1",
			1, types, arguments, NULL, false) == 0)
		no_session(DatumGetCString(DirectFunctionCall1(uuid_out, arguments[0])));
	SPI_finish();
	PG_RETURN_VOID();
}

/* ---- provisional keys ---- */

typedef struct LocalIdKey
{
	Oid			root;
	const char *text;
} LocalIdKey;

typedef struct LocalId
{
	LocalIdKey	id;				/* hash key */
	Jsonb	   *key;			/* the columns that replace it */
	bool		remembered;		/* since an earlier push */
} LocalId;

/* A foreign key, as far as a provisional key can stand in it. */
typedef struct Reference
{
	Oid			root;			/* of the table that it refers to */
	int			n;
	char	   *columns[INDEX_MAX_KEYS];
	char	   *made[INDEX_MAX_KEYS];	/* key columns there */
} Reference;

/* What is to be known of a table. */
typedef struct Referrer
{
	Oid			root;
	List	   *made;			/* names of key columns that the server makes */
	List	   *references;
} Referrer;

struct SxLocalIds
{
	MemoryContext context;
	HTAB	   *map;
	List	   *referrers;
};

static uint32
hash_local_id(const void *key, Size size)
{
	const LocalIdKey *id = key;

	return hash_combine(hash_bytes((const unsigned char *) id->text,
								   strlen(id->text)),
						hash_uint32(id->root));
}

static int
match_local_ids(const void *a, const void *b, Size size)
{
	const LocalIdKey *left = a;
	const LocalIdKey *right = b;

	return left->root == right->root ? strcmp(left->text, right->text) : 1;
}

static LocalId *
find_local_id(SxLocalIds *ids, Oid root, const char *text)
{
	LocalIdKey	id;

	id.root = root;
	id.text = text;
	return hash_search(ids->map, &id, HASH_FIND, NULL);
}

/* The key is kept as it is given; a text that has one keeps it. */
static void
put_local_id(SxLocalIds *ids, Oid root, const char *text, Jsonb *key,
			 bool remembered)
{
	LocalIdKey	id;
	LocalId    *entry;
	bool		found;

	id.root = root;
	id.text = MemoryContextStrdup(ids->context, text);
	entry = hash_search(ids->map, &id, HASH_ENTER, &found);
	if (found)
		return;
	entry->key = key;
	entry->remembered = remembered;
}

/*
 * Columns of a table whose values are those of columns of another: a foreign
 * key, or several of them one after the other, as where
 *
 *	tree (company, plot) -> plot (company, id),  plot (company) -> company (id)
 *
 * and a provisional company stands in a tree.
 */
typedef struct Link
{
	Oid			relid;			/* the other */
	int			n;
	AttrNumber	here[INDEX_MAX_KEYS];
	AttrNumber	there[INDEX_MAX_KEYS];
} Link;

/*
 * What a foreign key of the table at the end of a link makes of it, or NULL.
 * Without a link it is the foreign key itself.
 */
static Link *
go_on(const Link *link, const ForeignKeyCacheInfo *info)
{
	Link	   *next = palloc0(sizeof(Link));

	next->relid = info->confrelid;
	next->n = info->nkeys;
	for (int j = 0; j < info->nkeys; j++)
	{
		int			i = 0;

		while (link != NULL && i < link->n && link->there[i] != info->conkey[j])
			i++;
		if (link != NULL && i == link->n)
			return NULL;
		next->here[j] = link != NULL ? link->here[i] : info->conkey[j];
		next->there[j] = info->confkey[j];
	}
	return next;
}

/* Foreign keys may go in circles. */
static bool
is_there(List *links, const Link *link)
{
	ListCell   *cell;

	foreach(cell, links)
		if (memcmp(lfirst(cell), link, sizeof(Link)) == 0)
			return true;
	return false;
}

/* Those that begin with "from", or at the table itself where it is NULL. */
static List *
add_links(List *links, const Link *from, Oid relid)
{
	Relation	rel = table_open(relid, AccessShareLock);
	ListCell   *cell;

	foreach(cell, copyObject(RelationGetFKeyList(rel)))
	{
		Link	   *next = go_on(from, lfirst(cell));

		if (next != NULL && !is_there(links, next))
			links = lappend(links, next);
	}
	table_close(rel, AccessShareLock);
	return links;
}

/* The part of a link that a provisional key can stand in, or NULL. */
static Reference *
make_reference(SxTable *table, const Link *link)
{
	SxTable    *target = sx_tracked_get(link->relid);
	Reference  *reference = palloc0(sizeof(Reference));
	Bitmapset  *made;
	int			place = -1;

	if (!target->tracked || target->root != target->relid)
		return NULL;
	reference->root = target->root;
	made = sx_mutation_made_columns(target);
	while ((place = bms_next_member(made, place)) >= 0)
	{
		int			i = 0;

		while (i < link->n && link->there[i] != target->keys[place].attnum)
			i++;
		if (i == link->n)
			return NULL;
		reference->columns[reference->n] = get_attname(table->root,
													   link->here[i], false);
		reference->made[reference->n++] = pstrdup(target->keys[place].name);
	}
	return reference->n > 0 ? reference : NULL;
}

/* Where provisional keys of other tables, or of its own, can stand in it. */
static List *
references_of(SxTable *table)
{
	List	   *links = NIL;
	List	   *references = NIL;

	links = add_links(links, NULL, table->root);
	for (int i = 0; i < list_length(links); i++)
	{
		Link	   *link = list_nth(links, i);
		Reference  *reference = make_reference(table, link);

		CHECK_FOR_INTERRUPTS();
		if (reference != NULL)
			references = lappend(references, reference);
		links = add_links(links, link, link->relid);
	}
	return references;
}

static Referrer *
referrer_of(SxLocalIds *ids, SxTable *table)
{
	ListCell   *cell;
	Referrer   *referrer;
	MemoryContext old;
	Bitmapset  *made;
	int			place = -1;

	foreach(cell, ids->referrers)
	{
		referrer = lfirst(cell);
		if (referrer->root == table->root)
			return referrer;
	}
	old = MemoryContextSwitchTo(ids->context);
	referrer = palloc0(sizeof(Referrer));
	referrer->root = table->root;
	made = sx_mutation_made_columns(table);
	while ((place = bms_next_member(made, place)) >= 0)
		referrer->made = lappend(referrer->made,
								 pstrdup(table->keys[place].name));
	referrer->references = references_of(table);
	ids->referrers = lappend(ids->referrers, referrer);
	MemoryContextSwitchTo(old);
	return referrer;
}

/* A provisional key as text; NULL where a column is missing or null. */
static char *
text_of(Jsonb *object, int n, char **names)
{
	StringInfoData list;

	if (object == NULL || n == 0)
		return NULL;
	if (n == 1)
		return sx_rowjson_member(&object->root, names[0]);
	initStringInfo(&list);
	for (int i = 0; i < n; i++)
	{
		char	   *text = sx_rowjson_member(&object->root, names[i]);

		if (text == NULL)
			return NULL;
		appendStringInfoString(&list, i == 0 ? "[" : ", ");
		escape_json(&list, text);
	}
	appendStringInfoChar(&list, ']');
	return list.data;
}

static int
names_of(Referrer *referrer, char **names)
{
	ListCell   *cell;
	int			n = 0;

	foreach(cell, referrer->made)
		names[n++] = lfirst(cell);
	return n;
}

/* The mutation's own provisional key, if it is one. */
static char *
own_text(SxMutation *mutation, Referrer *referrer)
{
	char	   *names[INDEX_MAX_KEYS];
	int			n = names_of(referrer, names);

	return text_of(mutation->key_json != NULL ? mutation->key_json :
				   mutation->data_json, n, names);
}

static SxLocalIds *
make_local_ids(void)
{
	SxLocalIds *ids = palloc0(sizeof(SxLocalIds));
	HASHCTL		control;

	memset(&control, 0, sizeof(control));
	control.keysize = sizeof(LocalIdKey);
	control.entrysize = sizeof(LocalId);
	control.hash = hash_local_id;
	control.match = match_local_ids;
	control.hcxt = CurrentMemoryContext;
	ids->context = CurrentMemoryContext;
	ids->map = hash_create("sync_ext provisional keys", 64, &control,
						   HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
	return ids;
}

static int
ask_for(SxKeys *keys, Oid root, const char *text)
{
	Datum		row[2];
	bool		nulls[2] = {false};

	if (text == NULL || strlen(text) > SX_MUTATION_ID_LENGTH)
		return 0;
	row[0] = ObjectIdGetDatum(root);
	row[1] = CStringGetTextDatum(text);
	sx_keys_put(keys, row, nulls);
	return 1;
}

/* Whatever in a mutation may be a provisional key; returns how many. */
static int
ask_for_all(SxLocalIds *ids, SxKeys *keys, SxMutation *mutation)
{
	Referrer   *referrer = referrer_of(ids, mutation->table);
	int			n = ask_for(keys, mutation->table->root,
							own_text(mutation, referrer));
	Jsonb	   *objects[] = {
		mutation->key_json, mutation->data_json, mutation->assumed_json
	};
	ListCell   *cell;

	foreach(cell, referrer->references)
	{
		Reference  *reference = lfirst(cell);

		for (int i = 0; i < (int) lengthof(objects); i++)
			n += ask_for(keys, reference->root,
						 text_of(objects[i], reference->n, reference->columns));
	}
	return n;
}

static void
take_local_ids(SxLocalIds *ids, int n)
{
	for (int i = 0; i < n; i++)
	{
		bool		isnull;
		Oid			root = DatumGetObjectId(sx_plan_value(i, 1, &isnull));
		char	   *provisional = TextDatumGetCString(sx_plan_value(i, 2, &isnull));
		MemoryContext old = MemoryContextSwitchTo(ids->context);
		Jsonb	   *key = (Jsonb *) PG_DETOAST_DATUM_COPY(sx_plan_value(i, 3, &isnull));

		put_local_id(ids, root, provisional, key, true);
		MemoryContextSwitchTo(old);
	}
}

SxLocalIds *
sx_session_local_ids(const SxDevice *device, SxMutation **mutations, int n)
{
	SxLocalIds *ids = make_local_ids();
	TupleDesc	desc = CreateTemplateTupleDesc(2);
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(device->number)};
	SxKeys	   *keys;
	int			asked = 0;

	TupleDescInitEntry(desc, 1, "rel", REGCLASSOID, -1, 0);
	TupleDescInitEntry(desc, 2, "local_id", TEXTOID, -1, 0);
	sx_plan_connect();
	keys = sx_keys_begin(desc);
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (mutations[i]->status == SX_STATUS_OPEN)
			asked += ask_for_all(ids, keys, mutations[i]);
	}
	sx_keys_end(keys, 1);
	if (asked > 0)
		take_local_ids(ids, run("SELECT l.rel::pg_catalog.oid, l.local_id, l.key FROM " SX_KEYS " k"
								" JOIN sync.local_id l ON l.device OPERATOR(pg_catalog.=) $1"
								" AND l.rel OPERATOR(pg_catalog.=) k.rel"
								" AND l.local_id OPERATOR(pg_catalog.=) k.local_id",
								1, types, values, NULL, false));
	tuplestore_end(keys->store);
	SPI_finish();
	return ids;
}

/* A key for a new row, from the defaults of the columns that have one. */
static Jsonb *
make_key(SxTable *table)
{
	JsonbParseState *state = NULL;
	Bitmapset  *made = sx_mutation_made_columns(table);
	int			place = -1;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	while ((place = bms_next_member(made, place)) >= 0)
	{
		SxColumn   *column = &table->keys[place];
		Oid			output;
		bool		varlena;
		JsonbValue	value;

		getTypeOutputInfo(column->type, &output, &varlena);
		value.type = jbvString;
		value.val.string.val = column->name;
		value.val.string.len = strlen(column->name);
		pushJsonbValue(&state, WJB_KEY, &value);
		value.val.string.val =
			OidOutputFunctionCall(output, sx_mutation_make_column(table, place));
		value.val.string.len = strlen(value.val.string.val);
		pushJsonbValue(&state, WJB_VALUE, &value);
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

static void
check_pending(SxMutation *mutation, Referrer *referrer, const char *text)
{
	char	   *path = psprintf("mutations[%d].key", mutation->number);

	if (mutation->op != SX_MUTATION_INSERT && mutation->op != SX_MUTATION_UPSERT)
		sx_request_malformed(psprintf("mutations[%d].pending", mutation->number),
							 "is true, but the row is not new",
							 "Only an insert or an upsert makes a key.");
	if (referrer->made == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("sync domain \"%s\" takes no provisional keys",
						mutation->domain),
				 errdetail("No column of its key has a default."),
				 errhint("Give a column of the key a default, such as gen_random_uuid(), or make it an identity column.")));
	if (text == NULL)
		sx_request_malformed(path, "is missing",
							 "Give the provisional key, by which other records refer to it.");
	if (strlen(text) > SX_MUTATION_ID_LENGTH)
		sx_request_malformed(path, psprintf("has %zu bytes", strlen(text)),
							 psprintf("A provisional key has at most %d bytes.",
									  SX_MUTATION_ID_LENGTH));
}

void
sx_session_assign(SxLocalIds *ids, SxMutation *mutation)
{
	Referrer   *referrer;
	LocalId    *entry;
	char	   *text;

	if (!mutation->pending)
		return;
	referrer = referrer_of(ids, mutation->table);
	text = own_text(mutation, referrer);
	check_pending(mutation, referrer, text);
	mutation->local_id = text;
	entry = find_local_id(ids, mutation->table->root, text);
	if (entry != NULL)
		mutation->was_made = entry->remembered;
	else if (mutation->recalled)
		put_local_id(ids, mutation->table->root, text, mutation->recalled_key, true);
	else
		put_local_id(ids, mutation->table->root, text, make_key(mutation->table), false);
}

/* The object with the values of "key" under these names, where it has them. */
static Jsonb *
replace(Jsonb *object, int n, char **names, char **made, Jsonb *key)
{
	JsonbParseState *state = NULL;
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	name;
	JsonbValue	value;

	if (object == NULL)
		return NULL;
	iterator = JsonbIteratorInit(&object->root);
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	while ((token = JsonbIteratorNext(&iterator, &name, true)) != WJB_DONE)
	{
		JsonbValue *put = &value;

		if (token != WJB_KEY)
			continue;
		(void) JsonbIteratorNext(&iterator, &value, true);
		for (int i = 0; i < n; i++)
			if (strlen(names[i]) == name.val.string.len &&
				memcmp(names[i], name.val.string.val, name.val.string.len) == 0)
				put = sx_request_member(&key->root, made[i]);
		pushJsonbValue(&state, WJB_KEY, &name);
		pushJsonbValue(&state, WJB_VALUE, put);
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

static void
rewrite_reference(SxLocalIds *ids, Reference *reference, Jsonb **object)
{
	char	   *text = text_of(*object, reference->n, reference->columns);
	LocalId    *entry;

	if (text == NULL)
		return;
	entry = find_local_id(ids, reference->root, text);
	if (entry != NULL)
		*object = replace(*object, reference->n, reference->columns,
						  reference->made, entry->key);
}

static void
rewrite_own_key(SxLocalIds *ids, Referrer *referrer, SxMutation *mutation)
{
	char	   *names[INDEX_MAX_KEYS];
	int			n = names_of(referrer, names);
	char	   *text = own_text(mutation, referrer);
	LocalId    *entry;

	if (text == NULL)
		return;
	entry = find_local_id(ids, mutation->table->root, text);
	if (entry == NULL)
		return;
	mutation->local_id = text;
	mutation->key_made = true;
	mutation->key_json = replace(mutation->key_json, n, names, names, entry->key);
	mutation->data_json = replace(mutation->data_json, n, names, names, entry->key);
	mutation->assumed_json = replace(mutation->assumed_json, n, names, names, entry->key);
}

void
sx_session_rewrite(SxLocalIds *ids, SxMutation *mutation)
{
	Referrer   *referrer;
	ListCell   *cell;

	if (hash_get_num_entries(ids->map) == 0)
		return;
	referrer = referrer_of(ids, mutation->table);
	rewrite_own_key(ids, referrer, mutation);
	foreach(cell, referrer->references)
	{
		rewrite_reference(ids, lfirst(cell), &mutation->data_json);
		rewrite_reference(ids, lfirst(cell), &mutation->key_json);
		rewrite_reference(ids, lfirst(cell), &mutation->assumed_json);
	}
}

void
sx_session_remember(const SxDevice *device, SxMutation **mutations, int n)
{
	TupleDesc	desc = CreateTemplateTupleDesc(3);
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(device->number)};
	SxKeys	   *keys;
	int			given = 0;

	TupleDescInitEntry(desc, 1, "rel", OIDOID, -1, 0);
	TupleDescInitEntry(desc, 2, "local_id", TEXTOID, -1, 0);
	TupleDescInitEntry(desc, 3, "key", JSONBOID, -1, 0);
	sx_plan_connect();
	keys = sx_keys_begin(desc);
	for (int i = 0; i < n; i++)
	{
		SxMutation *mutation = mutations[i];
		Datum		row[3];
		bool		nulls[3] = {false};

		CHECK_FOR_INTERRUPTS();
		if (!mutation->has_key || mutation->local_id == NULL)
			continue;
		/*
		 * Not only the one that made the key: where that was refused, a later
		 * one of the row may have been applied, and the first comes again.
		 */
		if (mutation->status != SX_STATUS_APPLIED &&
			!(mutation->pending && mutation->recalled))
			continue;
		row[0] = ObjectIdGetDatum(mutation->table->root);
		row[1] = CStringGetTextDatum(mutation->local_id);
		row[2] = JsonbPGetDatum(sx_rowjson_key(mutation->table,
											   sx_mutation_final_key(mutation)));
		sx_keys_put(keys, row, nulls);
		given++;
	}
	sx_keys_end(keys, 1);
	if (given > 0)
		(void) run("INSERT INTO sync.local_id (device, rel, local_id, key)"
				   " SELECT $1, k.rel, k.local_id, k.key FROM " SX_KEYS " k ON CONFLICT DO NOTHING",
				   1, types, values, NULL, false);
	tuplestore_end(keys->store);
	SPI_finish();
}

void
sx_session_append_local_ids(StringInfo out, const char *client,
							const char *domain)
{
	SxTable    *table = sx_tracked_by_domain(domain);
	Oid			types[] = {TEXTOID, OIDOID};
	Datum		values[2];
	bool		isnull;
	Datum		list;

	values[0] = CStringGetTextDatum(client);
	values[1] = ObjectIdGetDatum(table->root);
	sx_plan_connect();
	(void) run("SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('local_id', l.local_id, 'key', l.key)"
			   " ORDER BY l.local_id) FROM sync.local_id l JOIN sync.device d ON d.number OPERATOR(pg_catalog.=) l.device"
			   " WHERE d.client OPERATOR(pg_catalog.=) $1 AND l.rel OPERATOR(pg_catalog.=) $2",
			   2, types, values, NULL, true);
	list = sx_plan_value(0, 1, &isnull);
	if (!isnull)
	{
		Jsonb	   *json = DatumGetJsonbP(list);

		appendStringInfo(out, "\"local_ids\": %s, ",
						 JsonbToCString(NULL, &json->root, VARSIZE(json)));
	}
	SPI_finish();
}
