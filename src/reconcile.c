/*-------------------------------------------------------------------------
 *
 * reconcile.c
 *		Comparing a client's whole copy with what it should hold.
 *
 *	{"client", "user_id", "policy", "time", "cutoff", "dry_run",
 *	 "domains": {"project": {"since", "filter", "params", "rows": [{"key",
 *	  "modified_at", "created_at", "updated_at", "deleted_at", "pending",
 *	  "data", "assumed"}, ...]}, ...}}
 *	-> {"time", "dry_run", "domains": {"project": {"state", "forget", "upsert",
 *		"remove", "cursor", "stored", "deleted", "send", "refused"}, ...}}
 *
 * For a client that has no cursor, or lost it. It says of every row that it
 * holds which version that is, and which rows it has changed since; and gets
 * what makes its copy equal to the database, and a cursor to go on from.
 *
 * First the client's changes of all domains are applied, as one push. Then all
 * domains are compared, in one snapshot taken after that: what the changes of
 * one table did to another, by a foreign key's cascade or a trigger, is seen
 * in the other, whatever the order of the domains. What is absent at the client
 * is never deleted here: that a row was never received looks just the same.
 *
 * A row that the client has changed is one that it flags ("pending"), gives
 * values for ("data") or marks as deleted; or, where it flags nothing, one with
 * a time later than the cutoff, which is the client's as well. No time of a
 * client is compared with the server's, except by the policy "newer_wins",
 * which push corrects.
 *
 *	here		at the client				answer
 *	----		-------------				------
 *	no row		unchanged					remove
 *	row			no row						upsert
 *	row			unchanged, same version		-
 *	row			unchanged, other version	upsert
 *	-			changed, values given		as push decides: stored, or refused and
 *											then as if unchanged
 *	-			changed, no values			send
 *	-			deleted						as push decides: deleted, or refused and
 *											then as if unchanged
 *
 * A row that was stored is also an upsert where it differs from the values that
 * the client gave (a default, a trigger, columns that were not given), and a
 * remove where the filter does not select it.
 *
 * The same version says the same, unless DDL or a replaced view made rows say
 * something else without touching them. That leaves a reset marker, and a
 * client that says since when it has its copy gets every row where there is a
 * newer one, or where nobody knows any more.
 *
 * The comparison is one full join of the rows that the client should hold with
 * those that it holds, in a tuplestore. It gives keys and places of rows that
 * differ; only those are looked up and made documents. So memory is that of
 * the request, of the answer, and a few times work_mem.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/datum.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "sync_ext.h"
#include "changes.h"
#include "cursor.h"
#include "plan.h"
#include "policy.h"
#include "push.h"
#include "request.h"
#include "rowjson.h"
#include "rows.h"
#include "selection.h"
#include "tick.h"
#include "validity.h"

PG_FUNCTION_INFO_V1(sync_ext_reconcile);

/* Differences that are handled at once. */
#define FETCH_BATCH	250

/* What jsonb holds in one array; with this a clear word comes before it. */
#define MAX_LIST	(255 << 20)

/* A row that the client has changed. */
typedef struct Change
{
	int			row;			/* its place in the client's rows */
	bool		deletes;
	bool		pushed;			/* else values are missing */
	Jsonb	   *data;			/* values given */
	/* what push said */
	bool		applied;
	char	   *status;
	char	   *sqlstate;
	char	   *message;
	char	   *detail;
	char	   *hint;
	char	   *path;			/* in the request */
	char	   *modified_at;
} Change;

typedef struct Domain
{
	char	   *name;
	SxSelection selection;
	JsonbContainer *rows;		/* what the client holds ... */
	int			nrows;
	SxKeys	   *held;			/* ... typed, to be joined */
	SxCursor   *since;			/* when it was last equal; NULL: not said */
	Change	   *changes;
	int			nchanges;
	int			room;
	SxShape    *shape;			/* of the table's rows, once needed */

	/* the answer's lists */
	StringInfo	upsert;
	StringInfo	remove;
	StringInfo	stored;
	StringInfo	deleted;
	StringInfo	send;
	StringInfo	refused;
} Domain;

typedef struct Reconciling
{
	const char *client;
	const char *user_id;
	const char *policy;
	const char *time;
	bool		dry_run;
	bool		has_cutoff;
	TimestampTz cutoff;
	Domain	   *domains;
	int			ndomains;
	JsonbParseState *push;		/* the request to push, as far as it is read */
	int			npushed;

	/* rows of one statement share their time: the last that was parsed */
	char		time_text[MAXDATELEN + 1];
	TimestampTz time_value;

	MemoryContext answer;		/* all that lives until the end */
	MemoryContext step;			/* one row, or one batch */

	/* for the context of errors */
	Domain	   *domain;
	int			row;			/* -1: none */
} Reconciling;

/* Where in the request it is what an error is about. */
static void
in_request(void *arg)
{
	Reconciling *all = arg;

	if (all->domain == NULL)
		return;
	if (all->row >= 0)
		errcontext("domains.%s.rows[%d] of the request", all->domain->name,
				   all->row);
	else
		errcontext("domains.%s of the request", all->domain->name);
}

/* ---- what the client holds ---- */

/* One element of "rows". */
typedef struct HeldRow
{
	JsonbValue	key;			/* jbvNull: not given */
	JsonbValue	data;
	JsonbValue	assumed;
	bool		has_pending;
	bool		pending;
	/* times as they were given, or NULL */
	char	   *modified_at;
	char	   *created_at;
	char	   *updated_at;
	char	   *deleted_at;
} HeldRow;

static char *
row_path(Reconciling *all, const char *member)
{
	return psprintf("domains.%s.rows[%d]%s%s", all->domain->name, all->row,
					*member == '\0' ? "" : ".", member);
}

static void
bad_member(Reconciling *all, const char *name, const char *problem,
		   const char *hint)
{
	sx_request_malformed(row_path(all, name), problem, hint);
}

static JsonbValue
object_of(Reconciling *all, const char *name, const JsonbValue *value)
{
	if (value->type != jbvNull && !sx_request_is_object(value))
		bad_member(all, name, "is not an object",
				   "Give an object with columns and their values.");
	return *value;
}

static char *
time_of(Reconciling *all, const char *name, const JsonbValue *value)
{
	if (value->type == jbvNull)
		return NULL;
	if (value->type != jbvString)
		bad_member(all, name, "is not a string",
				   "Give a time as text, in ISO 8601, or null.");
	return pnstrdup(value->val.string.val, value->val.string.len);
}

static bool
is_named(const JsonbValue *name, const char *known)
{
	return name->val.string.len == strlen(known) &&
		memcmp(name->val.string.val, known, name->val.string.len) == 0;
}

static void
read_pending(Reconciling *all, const JsonbValue *value, HeldRow *row)
{
	if (value->type == jbvNull)
		return;
	if (value->type != jbvBool)
		bad_member(all, "pending", "is not a boolean",
				   "Say true where the row has changes that were not sent.");
	row->has_pending = true;
	row->pending = value->val.boolean;
}

/* One pass over the members, since there may be a million rows. */
static void
read_members(Reconciling *all, JsonbContainer *object, HeldRow *row)
{
	JsonbIterator *iterator = JsonbIteratorInit(object);
	JsonbIteratorToken token;
	JsonbValue	name;
	JsonbValue	value;

	memset(row, 0, sizeof(HeldRow));
	row->key.type = row->data.type = row->assumed.type = jbvNull;
	while ((token = JsonbIteratorNext(&iterator, &name, true)) != WJB_DONE)
	{
		if (token != WJB_KEY)
			continue;
		(void) JsonbIteratorNext(&iterator, &value, true);
		if (is_named(&name, "key"))
			row->key = object_of(all, "key", &value);
		else if (is_named(&name, "modified_at"))
			row->modified_at = time_of(all, "modified_at", &value);
		else if (is_named(&name, "updated_at"))
			row->updated_at = time_of(all, "updated_at", &value);
		else if (is_named(&name, "created_at"))
			row->created_at = time_of(all, "created_at", &value);
		else if (is_named(&name, "deleted_at"))
			row->deleted_at = time_of(all, "deleted_at", &value);
		else if (is_named(&name, "data"))
			row->data = object_of(all, "data", &value);
		else if (is_named(&name, "assumed"))
			row->assumed = object_of(all, "assumed", &value);
		else if (is_named(&name, "pending"))
			read_pending(all, &value, row);
		else
			bad_member(all, pnstrdup(name.val.string.val, name.val.string.len),
					   "is not known",
					   "Known members are: key, modified_at, created_at, updated_at, deleted_at, pending, data, assumed.");
	}
}

static TimestampTz
parse_time(Reconciling *all, const char *text)
{
	Datum		value;

	if (*text != '\0' && strcmp(text, all->time_text) == 0)
		return all->time_value;
	value = DirectFunctionCall3(timestamptz_in, CStringGetDatum(text),
								ObjectIdGetDatum(InvalidOid),
								Int32GetDatum(-1));
	all->time_value = DatumGetTimestampTz(value);
	if (strlen(text) < sizeof(all->time_text))
		strcpy(all->time_text, text);
	else
		all->time_text[0] = '\0';
	return all->time_value;
}

static bool
after_cutoff(Reconciling *all, const char *time)
{
	return time != NULL && parse_time(all, time) > all->cutoff;
}

/* Whether the client has changed the row since it was in touch. */
static bool
is_changed(Reconciling *all, const HeldRow *row)
{
	if (row->has_pending)
		return row->pending;
	if (row->data.type != jbvNull || row->deleted_at != NULL)
		return true;
	return all->has_cutoff && (after_cutoff(all, row->updated_at) ||
							   after_cutoff(all, row->created_at));
}

static Change *
add_change(Domain *domain)
{
	if (domain->nchanges == domain->room)
	{
		domain->room = Max(64, domain->room * 2);
		domain->changes = domain->changes == NULL ?
			palloc(sizeof(Change) * domain->room) :
			repalloc_huge(domain->changes, sizeof(Change) * domain->room);
	}
	memset(&domain->changes[domain->nchanges], 0, sizeof(Change));
	return &domain->changes[domain->nchanges++];
}

static void
add_object(JsonbParseState **state, const char *name, JsonbValue *object)
{
	sx_request_put_name(state, name);
	pushJsonbValue(state, WJB_VALUE, object);
}

/* The change as push takes it. */
static void
add_mutation(JsonbParseState **request, Domain *domain, HeldRow *row)
{
	bool		deletes = row->deleted_at != NULL;

	pushJsonbValue(request, WJB_BEGIN_OBJECT, NULL);
	sx_request_put_text(request, "domain", domain->name);
	sx_request_put_text(request, "op", deletes ? "delete" : "upsert");
	add_object(request, "key", &row->key);
	if (!deletes)
		add_object(request, "data", &row->data);
	if (row->assumed.type != jbvNull)
		add_object(request, "assumed", &row->assumed);
	sx_request_put_text(request, "base", row->modified_at);
	sx_request_put_text(request, "at", deletes ? row->deleted_at :
			   row->updated_at != NULL ? row->updated_at : row->created_at);
	pushJsonbValue(request, WJB_END_OBJECT, NULL);
}

static void
read_change(Reconciling *all, HeldRow *row)
{
	MemoryContext old = MemoryContextSwitchTo(all->answer);
	Change	   *change = add_change(all->domain);

	change->row = all->row;
	change->deletes = row->deleted_at != NULL;
	change->pushed = change->deletes || row->data.type != jbvNull;
	if (change->pushed)
	{
		add_mutation(&all->push, all->domain, row);
		all->npushed++;
	}
	if (change->pushed && !change->deletes)
		change->data = JsonbValueToJsonb(&row->data);
	MemoryContextSwitchTo(old);
}

/*
 * The relation of held rows: the key, the version that is held, and which of
 * the changes it is.
 */
static SxKeys *
begin_held(SxTable *table)
{
	TupleDesc	desc = CreateTemplateTupleDesc(table->nkeys + 2);

	for (int i = 0; i < table->nkeys; i++)
	{
		TupleDescInitEntry(desc, i + 1, psprintf("k%d", i + 1),
						   table->keys[i].type, table->keys[i].typmod, 0);
		TupleDescInitEntryCollation(desc, i + 1, table->keys[i].collation);
	}
	TupleDescInitEntry(desc, table->nkeys + 1, "version", TIMESTAMPTZOID, -1, 0);
	TupleDescInitEntry(desc, table->nkeys + 2, "change", INT4OID, -1, 0);
	return sx_keys_begin(desc);
}

static void
read_row(Reconciling *all, JsonbContainer *object)
{
	Domain	   *domain = all->domain;
	int			nkeys = domain->selection.table->nkeys;
	Datum		values[INDEX_MAX_KEYS + 2];
	bool		nulls[INDEX_MAX_KEYS + 2] = {false};
	HeldRow		row;
	const char *version;
	bool		changed;

	read_members(all, object, &row);
	if (row.key.type == jbvNull)
		bad_member(all, "key", "is missing",
				   "Give each row its key, an object with the key columns.");
	sx_rowjson_parse_key(domain->selection.table, row.key.val.binary.data,
						 "the key", values);

	/* A client with one time has the server's there until it changes the row. */
	changed = is_changed(all, &row);
	version = row.modified_at != NULL ? row.modified_at :
		changed ? NULL : row.updated_at;
	nulls[nkeys] = version == NULL;
	values[nkeys] = version == NULL ? (Datum) 0 :
		TimestampTzGetDatum(parse_time(all, version));
	nulls[nkeys + 1] = !changed;
	values[nkeys + 1] = Int32GetDatum(domain->nchanges);
	sx_keys_put(domain->held, values, nulls);
	if (changed)
		read_change(all, &row);
}

static void
read_rows(Reconciling *all, Domain *domain)
{
	JsonbIterator *iterator = JsonbIteratorInit(domain->rows);
	JsonbIteratorToken token;
	JsonbValue	value;
	MemoryContext old;

	domain->held = begin_held(domain->selection.table);
	all->row = 0;
	old = MemoryContextSwitchTo(all->step);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token != WJB_ELEM)
			continue;
		if (!sx_request_is_object(&value))
			bad_member(all, "", "is not an object",
					   "Give {\"key\": {...}, \"modified_at\": ...} for each row.");
		read_row(all, value.val.binary.data);
		if (all->row++ % 256 == 255)
		{
			MemoryContextReset(all->step);
			CHECK_FOR_INTERRUPTS();
		}
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(all->step);
	domain->nrows = all->row;
	all->row = -1;
}

/* ---- the request ---- */

static void
read_domain(Reconciling *all, Domain *domain, JsonbContainer *object)
{
	static const char *const known[] = {
		"since", "filter", "params", "rows", NULL
	};
	char	   *path = sx_request_path("domains", domain->name);
	char	   *since;

	sx_request_check_members(object, path, known);
	domain->rows = sx_request_array(object, path, "rows");
	if (domain->rows == NULL)
		sx_request_malformed(sx_request_path(path, "rows"), "is missing",
							 "Give what the client holds for this filter; [] where that is nothing.");
	sx_selection_open(&domain->selection, domain->name,
					  sx_request_string(object, path, "filter"),
					  sx_request_params(object, path), all->user_id);
	since = sx_request_string(object, path, "since");
	if (since != NULL)
		domain->since = sx_cursor_decode(DatumGetByteaPP(
			DirectFunctionCall1(sync_ext_cursor_in, CStringGetDatum(since))));
	domain->upsert = makeStringInfo();
	domain->remove = makeStringInfo();
	domain->stored = makeStringInfo();
	domain->deleted = makeStringInfo();
	domain->send = makeStringInfo();
	domain->refused = makeStringInfo();
}

static void
read_domains(Reconciling *all, JsonbContainer *domains)
{
	JsonbIterator *iterator = JsonbIteratorInit(domains);
	JsonbIteratorToken token;
	JsonbValue	value;

	all->domains = palloc0(sizeof(Domain) * Max(JsonContainerSize(domains), 1));
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token != WJB_KEY)
			continue;
		all->domain = &all->domains[all->ndomains++];
		all->domain->name = pnstrdup(value.val.string.val, value.val.string.len);
		(void) JsonbIteratorNext(&iterator, &value, true);
		if (!sx_request_is_object(&value))
			sx_request_malformed(sx_request_path("domains", all->domain->name),
								 "is not an object",
								 "Give {\"rows\": [...]}.");
		read_domain(all, all->domain, value.val.binary.data);
	}
	all->domain = NULL;
}

static bool
boolean_member(JsonbContainer *object, const char *name)
{
	JsonbValue *value = sx_request_member(object, name);

	if (value == NULL)
		return false;
	if (value->type != jbvBool)
		sx_request_malformed(name, "is not a boolean", "Give true or false.");
	return value->val.boolean;
}

static void
check_policy(const char *policy)
{
	static const char *const known[] = {
		"reject", "client_wins", "newer_wins", "merge"
	};

	if (policy == NULL)
		return;
	for (int i = 0; i < (int) lengthof(known); i++)
		if (strcmp(policy, known[i]) == 0)
			return;
	sx_request_malformed("policy", psprintf("is \"%s\"", policy),
						 "Give reject, client_wins, newer_wins or merge.");
}

static void
read_request(Reconciling *all, Jsonb *request)
{
	static const char *const known[] = {
		"client", "user_id", "policy", "time", "cutoff", "dry_run", "domains",
		NULL
	};
	JsonbContainer *domains;
	char	   *cutoff;

	if (!JB_ROOT_IS_OBJECT(request))
		sx_request_malformed("", "is not an object",
							 "Give {\"domains\": {\"name\": {\"rows\": [...]}}}.");
	sx_request_check_members(&request->root, "", known);
	all->client = sx_request_string(&request->root, "", "client");
	all->user_id = sx_request_string(&request->root, "", "user_id");
	all->policy = sx_request_string(&request->root, "", "policy");
	check_policy(all->policy);
	all->time = sx_request_string(&request->root, "", "time");
	all->dry_run = boolean_member(&request->root, "dry_run");
	cutoff = sx_request_string(&request->root, "", "cutoff");
	all->has_cutoff = cutoff != NULL;
	if (cutoff != NULL)
		all->cutoff = parse_time(all, cutoff);
	domains = sx_request_object(&request->root, "", "domains");
	if (domains == NULL)
		sx_request_malformed("domains", "is missing",
							 "Give {\"domains\": {\"name\": {\"rows\": [...]}}}.");
	read_domains(all, domains);
}

/* ---- applying the client's changes ---- */

/*
 * What failed for a passing reason would be overwritten at the client by an
 * answer, so there is none: the client asks again.
 */
static void
raise_retry(Reconciling *all, Change *change)
{
	const char *state = change->sqlstate != NULL &&
		strlen(change->sqlstate) == 5 ? change->sqlstate : "40001";

	all->row = change->row;
	ereport(ERROR,
			(errcode(MAKE_SQLSTATE(state[0], state[1], state[2], state[3],
								   state[4])),
			 errmsg("could not apply a change of the client: %s",
					change->message == NULL ? "other transactions are in the way" :
					change->message),
			 errdetail("It is domains.%s.rows[%d].", all->domain->name,
					   change->row),
			 errhint("Nothing was changed. Send the same request again.")));
}

/* "mutations[7].data.price" is a place in another request than the caller's. */
static char *
path_here(Reconciling *all, Change *change, const char *path)
{
	const char *rest = path == NULL ? NULL : strchr(path, ']');

	if (rest == NULL)
		return NULL;
	return psprintf("domains.%s.rows[%d]%s", all->domain->name, change->row,
					rest + 1);
}

static void
read_result(Reconciling *all, Change *change, JsonbContainer *result)
{
	change->status = sx_rowjson_member(result, "status");
	change->sqlstate = sx_rowjson_member(result, "sqlstate");
	change->message = sx_rowjson_member(result, "message");
	change->detail = sx_rowjson_member(result, "detail");
	if (change->detail != NULL &&
		strncmp(change->detail, "mutations[", strlen("mutations[")) == 0)
		change->detail = path_here(all, change, change->detail);
	change->hint = sx_rowjson_member(result, "hint");
	change->path = path_here(all, change, sx_rowjson_member(result, "path"));
	change->modified_at = sx_rowjson_member(result, "modified_at");
	if (change->status == NULL)
		elog(ERROR, "push gave no status");
	if (strcmp(change->status, "retry") == 0)
		raise_retry(all, change);
	change->applied = strcmp(change->status, "applied") == 0 ||
		strcmp(change->status, "duplicate") == 0;
}

/* Results come in the order of the mutations. */
static void
read_results(Reconciling *all, Jsonb *answer)
{
	JsonbContainer *results = sx_request_array(&answer->root, "", "results");
	int			n = 0;

	for (int i = 0; i < all->ndomains; i++)
	{
		all->domain = &all->domains[i];
		for (int j = 0; j < all->domain->nchanges; j++)
		{
			Change	   *change = &all->domain->changes[j];
			JsonbValue *result;

			if (!change->pushed)
				continue;
			result = getIthJsonbValueFromContainer(results, n++);
			if (result == NULL || !sx_request_is_object(result))
				elog(ERROR, "push did not answer mutation %d", n - 1);
			read_result(all, change, result->val.binary.data);
		}
	}
	all->domain = NULL;
}

static void
push(Reconciling *all)
{
	JsonbParseState **request = &all->push;

	pushJsonbValue(request, WJB_END_ARRAY, NULL);
	sx_request_put_text(request, "client", all->client);
	sx_request_put_text(request, "user_id", all->user_id);
	sx_request_put_text(request, "policy", all->policy);
	sx_request_put_text(request, "time", all->time);
	read_results(all, sx_push_run(JsonbValueToJsonb(pushJsonbValue(request,
																   WJB_END_OBJECT,
																   NULL))));
}

/* ---- comparing ---- */

/* A row that the client shall be told. */
typedef struct Wanted
{
	Datum	   *key;
	ItemPointerData tid;
	Change	   *change;			/* it was stored; NULL: tell it anyway */
} Wanted;

typedef struct Lookup
{
	Reconciling *all;
	Domain	   *domain;
	Wanted	   *wanted;
	int			n;
} Lookup;

static void
append_json(StringInfo list, Jsonb *json)
{
	if (list->len > MAX_LIST)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("too much differs for one answer"),
				 errdetail("A list of the answer has more than %d MB.",
						   MAX_LIST >> 20),
				 errhint("Load the domain by sync.pull(), in pages and with \"exclude\", or reconcile it by parts of its filter.")));
	if (list->len > 0)
		appendStringInfoString(list, ", ");
	(void) JsonbToCString(list, &json->root, VARSIZE(json));
}

static Jsonb *
document(Reconciling *all, Domain *domain, SxRow *row)
{
	HeapTupleHeader plain;

	if (!row->is_plain)
		return DatumGetJsonbP(row->data);
	plain = DatumGetHeapTupleHeader(row->data);
	if (domain->shape == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(all->answer);
		TupleDesc	desc = lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(plain),
												  HeapTupleHeaderGetTypMod(plain));

		domain->shape = sx_rowjson_shape(desc);
		ReleaseTupleDesc(desc);
		MemoryContextSwitchTo(old);
	}
	return sx_rowjson_row(domain->shape, plain);
}

/*
 * Whether the client's values are the whole document, but for the version,
 * which it is told with what was stored.
 */
static bool
has_document(SxTable *table, Jsonb *data, Jsonb *document)
{
	const char *modified_at = get_attname(table->root, table->modified_at, false);
	JsonbIterator *iterator = JsonbIteratorInit(&document->root);
	JsonbIteratorToken token;
	JsonbValue	name;
	JsonbValue	value;

	while ((token = JsonbIteratorNext(&iterator, &name, true)) != WJB_DONE)
	{
		JsonbValue *given;

		if (token != WJB_KEY)
			continue;
		(void) JsonbIteratorNext(&iterator, &value, true);
		if (is_named(&name, modified_at))
			continue;
		given = findJsonbValueFromContainer(&data->root, JB_FOBJECT, &name);
		if (given == NULL ||
			compareJsonbContainers(&JsonbValueToJsonb(given)->root,
								   &JsonbValueToJsonb(&value)->root) != 0)
			return false;
	}
	return true;
}

static bool
take_row(void *arg, SxRow *row)
{
	Lookup	   *lookup = arg;
	Domain	   *domain = lookup->domain;
	Change	   *change = lookup->wanted[row->ord].change;
	Jsonb	   *data;

	if (!row->selected)
		return true;
	data = document(lookup->all, domain, row);
	if (change == NULL || change->data == NULL ||
		!has_document(domain->selection.table, change->data, data))
		append_json(domain->upsert, data);
	return true;
}

/* The documents of the rows that are wanted: they were selected already. */
static void
look_up(Lookup *lookup)
{
	Datum	  **keys = palloc(sizeof(Datum *) * lookup->n);
	ItemPointer *tids = palloc(sizeof(ItemPointer) * lookup->n);

	if (lookup->n == 0)
		return;
	for (int i = 0; i < lookup->n; i++)
	{
		keys[i] = lookup->wanted[i].key;
		tids[i] = &lookup->wanted[i].tid;
	}
	sx_rows_lookup(lookup->domain->selection.table, NULL, NULL, lookup->n, keys,
				   tids, take_row, lookup);
}

/* One row of the join: either side may be absent. */
typedef struct Difference
{
	Datum	   *here;			/* key, or NULL */
	ItemPointerData tid;
	TimestampTz version;
	bool		has_version;
	Datum	   *held;			/* key, or NULL */
	Change	   *change;			/* of the held row, or NULL */
} Difference;

static void
want(Lookup *lookup, Difference *difference, Change *stored)
{
	Wanted	   *wanted = &lookup->wanted[lookup->n++];

	wanted->key = difference->here;
	wanted->tid = difference->tid;
	wanted->change = stored;
}

static void
append_text(StringInfo list, const char *name, const char *text)
{
	if (text == NULL)
		return;
	appendStringInfo(list, ", \"%s\": ", name);
	escape_json(list, text);
}

static void
tell_refused(Domain *domain, Jsonb *key, Change *change)
{
	StringInfo	list = domain->refused;

	appendStringInfo(list, "%s{\"key\": ", list->len > 0 ? ", " : "");
	(void) JsonbToCString(list, &key->root, VARSIZE(key));
	appendStringInfo(list, ", \"status\": \"%s\"", change->status);
	append_text(list, "sqlstate", change->sqlstate);
	append_text(list, "message", change->message);
	append_text(list, "detail", change->detail);
	append_text(list, "hint", change->hint);
	append_text(list, "path", change->path);
	appendStringInfoChar(list, '}');
}

static void
tell_stored(Domain *domain, Jsonb *key, Difference *difference)
{
	StringInfo	list = domain->stored;
	Change	   *change = difference->change;
	char		buffer[MAXDATELEN + 1];

	appendStringInfo(list, "%s{\"key\": ", list->len > 0 ? ", " : "");
	(void) JsonbToCString(list, &key->root, VARSIZE(key));
	appendStringInfoString(list, ", \"modified_at\": ");
	if (difference->here != NULL && difference->has_version)
	{
		/* a later change of the same call may have touched it again */
		JsonEncodeDateTime(buffer, TimestampTzGetDatum(difference->version),
						   TIMESTAMPTZOID, NULL);
		escape_json(list, buffer);
	}
	else if (change->modified_at != NULL)
		escape_json(list, change->modified_at);
	else
		appendStringInfoString(list, "null");
	appendStringInfoChar(list, '}');
}

/* A held row that the client has changed: the table at the top, last rows. */
static void
decide_changed(Lookup *lookup, Difference *difference)
{
	Domain	   *domain = lookup->domain;
	Change	   *change = difference->change;
	Jsonb	   *key = sx_rowjson_key(domain->selection.table, difference->held);
	bool		stored = false;

	if (!change->pushed)
	{
		append_json(domain->send, key);
		return;
	}
	if (!change->applied)
		tell_refused(domain, key, change);
	else if (!change->deletes)
	{
		tell_stored(domain, key, difference);
		stored = true;
	}

	if (difference->here != NULL)
		want(lookup, difference, stored ? change : NULL);
	else if (change->applied && change->deletes)
		append_json(domain->deleted, key);
	else
		append_json(domain->remove, key);
}

static void
decide(Lookup *lookup, Difference *difference)
{
	Domain	   *domain = lookup->domain;

	if (difference->held == NULL)
		want(lookup, difference, NULL);
	else if (difference->change != NULL)
		decide_changed(lookup, difference);
	else if (difference->here != NULL)
		want(lookup, difference, NULL);
	else
		append_json(domain->remove,
					sx_rowjson_key(domain->selection.table, difference->held));
}

/* 'a' = 'A' may hold, but a client tells them apart. */
static bool
is_same_key(SxTable *table, Datum *a, Datum *b)
{
	for (int i = 0; i < table->nkeys; i++)
		if (!datum_image_eq(a[i], b[i], table->keys[i].typbyval,
							table->keys[i].typlen))
			return false;
	return true;
}

/* The columns of compare_query(). */
static void
read_difference(Lookup *lookup, HeapTuple tuple, TupleDesc desc,
				Difference *difference)
{
	int			nkeys = lookup->domain->selection.table->nkeys;
	Datum	   *values = palloc(sizeof(Datum) * (2 * nkeys + 3));
	bool	   *nulls = palloc(sizeof(bool) * (2 * nkeys + 3));

	memset(difference, 0, sizeof(Difference));
	heap_deform_tuple(tuple, desc, values, nulls);
	if (!nulls[0])
	{
		difference->here = values;
		difference->has_version = !nulls[nkeys];
		difference->version = DatumGetTimestampTz(values[nkeys]);
		difference->tid = *(ItemPointer) DatumGetPointer(values[nkeys + 1]);
	}
	if (!nulls[nkeys + 2])
		difference->held = values + nkeys + 2;
	if (!nulls[2 * nkeys + 2])
		difference->change = &lookup->domain->changes[DatumGetInt32(values[2 * nkeys + 2])];
}

static void
take_differences(Lookup *lookup, SPITupleTable *rows, uint64 n)
{
	SxTable    *table = lookup->domain->selection.table;

	for (uint64 i = 0; i < n; i++)
	{
		Difference	difference;
		Difference	other;

		read_difference(lookup, rows->vals[i], rows->tupdesc, &difference);
		if (difference.here != NULL && difference.held != NULL &&
			!is_same_key(table, difference.here, difference.held))
		{
			other = difference;
			other.held = NULL;
			other.change = NULL;
			decide(lookup, &other);
			difference.here = NULL;
		}
		decide(lookup, &difference);
	}
	look_up(lookup);
}

/* Whether rows of the same version say what they said when the client got them. */
static bool
versions_hold(Domain *domain)
{
	Snapshot	snapshot = GetActiveSnapshot();
	SxSnapshot *now = sx_snapshot_of(snapshot);

	if (domain->since == NULL)
		return true;
	if (sx_validity_of_cursor(domain->since, snapshot) != NULL)
		return false;
	sx_validity_check_snapshot(now, &domain->since->seen);
	return !sx_validity_has_marker(domain->selection.table,
								   &domain->since->seen, snapshot, now,
								   sx_own_xid());
}

static char *
compare_query(SxSelection *selection, bool by_version)
{
	SxTable    *table = selection->table;
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	for (int i = 1; i <= table->nkeys; i++)
		appendStringInfo(&sql, "h.h%d, ", i);
	appendStringInfoString(&sql, "h.version, h.tid, ");
	for (int i = 1; i <= table->nkeys; i++)
		appendStringInfo(&sql, "k.k%d, ", i);
	appendStringInfoString(&sql, "k.change FROM (SELECT ");
	for (int i = 0; i < table->nkeys; i++)
		appendStringInfo(&sql, SX_ALIAS ".%s AS h%d, ",
						 quote_identifier(table->keys[i].name), i + 1);
	appendStringInfo(&sql, SX_ALIAS ".%s AS version, " SX_ALIAS ".ctid AS tid",
					 quote_identifier(get_attname(table->root,
												  table->modified_at, false)));
	sx_selection_append(selection, &sql);
	appendStringInfoString(&sql, ") h FULL JOIN " SX_KEYS " k ON ");
	for (int i = 0; i < table->nkeys; i++)
	{
		appendStringInfoString(&sql, i == 0 ? "" : " AND ");
		sx_plan_equal(&sql, psprintf("h.h%d", i + 1), table->keys[i].type,
					  psprintf("k.k%d", i + 1), table->keys[i].type);
	}
	if (by_version)
		appendStringInfoString(&sql, " WHERE h.h1 IS NULL OR k.k1 IS NULL OR k.change IS NOT NULL"
							   " OR (h.version OPERATOR(pg_catalog.=) k.version) IS NOT TRUE");
	return sql.data;
}

static void
compare(Reconciling *all, Domain *domain)
{
	Portal		portal;

	sx_selection_begin(&domain->selection);
	sx_keys_end(domain->held, domain->nrows);
	portal = sx_selection_query(&domain->selection,
								compare_query(&domain->selection,
											  versions_hold(domain)), NULL);
	for (;;)
	{
		MemoryContext old;
		SPITupleTable *rows;
		Lookup		lookup = {all, domain, NULL, 0};

		SPI_cursor_fetch(portal, true, FETCH_BATCH);
		if (SPI_processed == 0)
			break;
		rows = SPI_tuptable;
		old = MemoryContextSwitchTo(all->step);
		lookup.wanted = palloc(sizeof(Wanted) * SPI_processed);
		take_differences(&lookup, rows, SPI_processed);
		MemoryContextSwitchTo(old);
		MemoryContextReset(all->step);
		SPI_freetuptable(rows);
	}
	SPI_cursor_close(portal);
	tuplestore_end(domain->held->store);
	sx_selection_end(&domain->selection);
}

/* ---- the answer ---- */

typedef struct KeptCursor
{
	MemoryContext context;		/* a change lives only until the next */
	char	   *text;
} KeptCursor;

static void
keep_cursor(void *arg, const SxChange *change)
{
	KeptCursor *kept = arg;
	MemoryContext old = MemoryContextSwitchTo(kept->context);

	kept->text = sx_cursor_text(change->cursor);
	MemoryContextSwitchTo(old);
}

/*
 * Whether sync.changes() will go on from a cursor: not with a filter that it
 * does not take, nor where it could not say which removals concern the caller.
 */
static bool
can_follow(Reconciling *all, Domain *domain)
{
	return !all->dry_run && domain->selection.can_follow &&
		(all->user_id != NULL ||
		 !sx_policy_read(domain->selection.table, false)->residual);
}

/*
 * The cursor of this snapshot for the domain's question; NULL where nobody can
 * go on from it. Asking for it also sees to it that what was read is on disk.
 */
static char *
cursor_of(Reconciling *all, Domain *domain, JsonbContainer *object)
{
	SxRequest	request = {0};
	KeptCursor	kept = {.context = CurrentMemoryContext};
	char	   *path = sx_request_path("domains", domain->name);

	request.domain = domain->name;
	request.user_id = all->user_id;
	request.only_cursor = true;
	if (domain->selection.can_follow)
	{
		request.filter = sx_request_string(object, path, "filter");
		request.params = sx_request_params(object, path);
	}
	sx_changes_read(&request, keep_cursor, &kept);
	return can_follow(all, domain) ? kept.text : NULL;
}

static void
append_domain(StringInfo out, Domain *domain, const char *cursor)
{
	escape_json(out, domain->name);
	appendStringInfo(out, ": {\"state\": \"up-to-date\", \"forget\": [], \"upsert\": [%s], \"remove\": [%s], \"cursor\": ",
					 domain->upsert->data, domain->remove->data);
	if (cursor == NULL)
		appendStringInfoString(out, "null");
	else
		escape_json(out, cursor);
	appendStringInfo(out, ", \"stored\": [%s], \"deleted\": [%s], \"send\": [%s], \"refused\": [%s]}",
					 domain->stored->data, domain->deleted->data,
					 domain->send->data, domain->refused->data);
}

static void
append_time(StringInfo out)
{
	TimestampTz at;
	char		buffer[MAXDATELEN + 1];

	if (!sx_tick_newest(GetActiveSnapshot(), &at))
	{
		appendStringInfoString(out, "null");
		return;
	}
	JsonEncodeDateTime(buffer, TimestampTzGetDatum(at), TIMESTAMPTZOID, NULL);
	escape_json(out, buffer);
}

/* Compares all domains in one snapshot, which sees what was pushed. */
static void
answer(Reconciling *all, JsonbContainer *domains, StringInfo out)
{
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());

	appendStringInfoString(out, "{\"time\": ");
	append_time(out);
	if (all->dry_run)
		appendStringInfoString(out, ", \"dry_run\": true");
	appendStringInfoString(out, ", \"domains\": {");
	for (int i = 0; i < all->ndomains; i++)
	{
		JsonbValue *object;

		all->domain = &all->domains[i];
		compare(all, all->domain);
		object = sx_request_member(domains, all->domain->name);
		appendStringInfoString(out, i == 0 ? "" : ", ");
		append_domain(out, all->domain,
					  cursor_of(all, all->domain, object->val.binary.data));
	}
	all->domain = NULL;
	appendStringInfoString(out, "}}");
	PopActiveSnapshot();
}

/*
 * A dry run does everything, in a subtransaction that is then rolled back.
 * What the answer is made of lives in the caller's memory.
 */
static void
apply_and_compare(Reconciling *all, JsonbContainer *domains, StringInfo out)
{
	MemoryContext old = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	/* Where there is nothing to write, a standby will do. */
	if (all->npushed == 0)
	{
		answer(all, domains, out);
		return;
	}
	if (!all->dry_run)
	{
		push(all);
		answer(all, domains, out);
		return;
	}

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(old);
	PG_TRY();
	{
		push(all);
		answer(all, domains, out);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(old);
		error = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(old);
	CurrentResourceOwner = owner;
	if (error != NULL)
		ReThrowError(error);
}

Datum
sync_ext_reconcile(PG_FUNCTION_ARGS)
{
	Jsonb	   *request = PG_GETARG_JSONB_P(0);
	Reconciling all = {0};
	StringInfoData out;
	ErrorContextCallback callback;

	all.row = -1;
	all.answer = CurrentMemoryContext;
	all.step = AllocSetContextCreate(CurrentMemoryContext,
									 "sync_ext reconcile",
									 ALLOCSET_DEFAULT_SIZES);
	callback.callback = in_request;
	callback.arg = &all;
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	read_request(&all, request);
	pushJsonbValue(&all.push, WJB_BEGIN_OBJECT, NULL);
	sx_request_put_name(&all.push, "mutations");
	pushJsonbValue(&all.push, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < all.ndomains; i++)
	{
		all.domain = &all.domains[i];
		read_rows(&all, all.domain);
	}
	all.domain = NULL;

	initStringInfo(&out);
	apply_and_compare(&all, sx_request_object(&request->root, "", "domains"),
					  &out);
	error_context_stack = callback.previous;
	PG_RETURN_DATUM(DirectFunctionCall1(jsonb_in, CStringGetDatum(out.data)));
}
