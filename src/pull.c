/*-------------------------------------------------------------------------
 *
 * pull.c
 *		Changes of many domains in one snapshot, as JSON.
 *
 *	{"client", "user_id", "session", "domains": {"project": {"since", "filter", "params",
 *	 "exclude", "max_rows"}, ...}}
 *	-> {"time", "domains": {"project": {"state", "reset", "forget", "upsert",
 *		"remove", "cursor"}, ...}}
 *
 * In a session the client need not say since when: it is the session's
 * last_sync; nor who the user is, where a domain has an access relation. The
 * answers name the real keys of provisional ones ("local_ids").
 *
 * The function is STABLE, so all domains are read in the snapshot of the
 * statement that calls it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/datetime.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "sync_ext.h"
#include "access.h"
#include "changes.h"
#include "cursor.h"
#include "pull.h"
#include "request.h"
#include "session.h"
#include "tick.h"

PG_FUNCTION_INFO_V1(sync_ext_pull);

static int
max_rows_member(JsonbContainer *object, const char *path)
{
	JsonbValue *value = sx_request_member(object, "max_rows");
	char	   *text;
	int			max_rows = 0;

	if (value == NULL)
		return 0;
	if (value->type == jbvNumeric)
	{
		text = DatumGetCString(DirectFunctionCall1(numeric_out,
												   NumericGetDatum(value->val.numeric)));
		if (strspn(text, "0123456789") == strlen(text) && strlen(text) < 10)
			max_rows = atoi(text);
	}
	if (max_rows < 1)
		sx_request_malformed(psprintf("%s.max_rows", path),
							 "is not a whole number of at least 1",
							 "Leave it out to get everything at once.");
	return max_rows;
}

/* ---- one domain ---- */

typedef struct Answer
{
	StringInfo	forgets;
	StringInfo	upserts;
	StringInfo	removes;
	bool		reset;
	SxChangeKind state;
	char	   *cursor;
	MemoryContext context;
} Answer;

static void
append_json(StringInfo list, Jsonb *json)
{
	if (list->len > 0)
		appendStringInfoString(list, ", ");
	(void) JsonbToCString(list, &json->root, VARSIZE(json));
}

static void
take_change(void *arg, const SxChange *change)
{
	Answer	   *answer = arg;

	switch (change->kind)
	{
		case SX_CHANGE_RESET:
			answer->reset = true;
			break;
		case SX_CHANGE_FORGET:
			append_json(answer->forgets, change->key);
			break;
		case SX_CHANGE_UPSERT:
			append_json(answer->upserts, change->data);
			break;
		case SX_CHANGE_REMOVE:
			append_json(answer->removes, change->key);
			break;
		case SX_CHANGE_MORE:
		case SX_CHANGE_UP_TO_DATE:
			{
				MemoryContext old = MemoryContextSwitchTo(answer->context);

				answer->state = change->kind;
				answer->cursor = sx_cursor_text(change->cursor);
				MemoryContextSwitchTo(old);
			}
			break;
	}
}

/*
 * The user of a session, or of a push, may see no more of a domain than its
 * access relation says; a domain that has none concerns everybody.
 */
static const char *
user_where_named(const char *user_id, const char *domain)
{
	return user_id == NULL ||
		sx_access_find(sx_tracked_by_domain(domain)) == NULL ? NULL : user_id;
}

/* Where in the request it is what an error is about. */
static void
in_domain(void *arg)
{
	errcontext("domains.%s of the request", (const char *) arg);
}

static void
pull_domain(StringInfo out, const char *domain, JsonbContainer *object,
			const char *client, const char *user_id, const char *known_user,
			SxSession *session)
{
	static const char *const known[] = {
		"since", "filter", "params", "exclude", "max_rows", NULL
	};
	char	   *path = psprintf("domains.%s", domain);
	SxRequest	request = {0};
	Answer		answer = {0};
	JsonbValue *exclude = sx_request_member(object, "exclude");
	char	   *since = sx_request_string(object, path, "since");
	ErrorContextCallback callback;

	callback.callback = in_domain;
	callback.arg = unconstify(char *, domain);
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	sx_request_check_members(object, path, known);
	request.domain = domain;
	/* an explicit null asks for everything, as ever */
	if (session != NULL && !sx_request_has(object, "since"))
		since = session->last_sync;
	if (since != NULL)
		request.since = DatumGetByteaPP(
			DirectFunctionCall1(sync_ext_cursor_in, CStringGetDatum(since)));
	request.filter = sx_request_string(object, path, "filter");
	request.params = sx_request_params(object, path);
	request.max_rows = max_rows_member(object, path);
	request.client = client;
	request.user_id = user_id != NULL ? user_id :
		user_where_named(known_user, domain);
	if (exclude != NULL)
		request.exclude = JsonbValueToJsonb(exclude);

	answer.forgets = makeStringInfo();
	answer.upserts = makeStringInfo();
	answer.removes = makeStringInfo();
	answer.context = CurrentMemoryContext;
	sx_changes_read(&request, take_change, &answer);

	escape_json(out, domain);
	appendStringInfo(out, ": {\"state\": \"%s\", ", sx_change_name(answer.state));
	if (answer.reset)
		appendStringInfoString(out, "\"reset\": true, ");
	if (session != NULL)
		sx_session_append_local_ids(out, session->client, domain);
	appendStringInfo(out,
					 "\"forget\": [%s], \"upsert\": [%s], \"remove\": [%s], \"cursor\": \"%s\"}",
					 answer.forgets->data, answer.upserts->data, answer.removes->data, answer.cursor);
	pfree(answer.forgets->data);
	pfree(answer.upserts->data);
	pfree(answer.removes->data);
	error_context_stack = callback.previous;
}

Jsonb *
sx_pull_run(Jsonb *request, const char *known_user)
{
	static const char *const known[] = {
		"client", "user_id", "session", "domains", NULL
	};
	SxSession	session = {0};
	JsonbValue *domains;
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	value;
	StringInfoData out;
	TimestampTz at;
	char	   *client;
	char	   *user_id;
	char	   *session_id;
	char	   *domain = NULL;
	int			n = 0;

	if (!JB_ROOT_IS_OBJECT(request))
		sx_request_malformed("", "is not an object",
							 "Give {\"domains\": {...}}.");
	sx_request_check_members(&request->root, "", known);
	client = sx_request_string(&request->root, "", "client");
	user_id = sx_request_string(&request->root, "", "user_id");
	session_id = sx_request_string(&request->root, "", "session");
	if (session_id != NULL)
	{
		sx_session_get(&session, session_id, client, user_id);
		known_user = session.user_id;
	}
	domains = sx_request_member(&request->root, "domains");
	if (domains == NULL || !sx_request_is_object(domains))
		sx_request_malformed("domains", "is not an object",
							 "Give {\"domains\": {\"name\": {\"since\": ...}}}.");

	initStringInfo(&out);
	appendStringInfoString(&out, "{\"time\": ");
	if (sx_tick_newest(GetActiveSnapshot(), &at))
	{
		char		buffer[MAXDATELEN + 1];

		JsonEncodeDateTime(buffer, TimestampTzGetDatum(at), TIMESTAMPTZOID, NULL);
		escape_json(&out, buffer);
	}
	else
		appendStringInfoString(&out, "null");
	appendStringInfoString(&out, ", \"domains\": {");

	iterator = JsonbIteratorInit(domains->val.binary.data);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			domain = pnstrdup(value.val.string.val, value.val.string.len);
		if (token != WJB_VALUE)
			continue;
		if (!sx_request_is_object(&value))
			sx_request_malformed(psprintf("domains.%s", domain),
								 "is not an object",
								 "Give {\"since\": ...}, or {} to load it.");
		appendStringInfoString(&out, n++ == 0 ? "" : ", ");
		pull_domain(&out, domain, value.val.binary.data, client, user_id,
					known_user, session_id == NULL ? NULL : &session);
	}
	appendStringInfoString(&out, "}}");
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(out.data)));
}

Datum
sync_ext_pull(PG_FUNCTION_ARGS)
{
	PG_RETURN_JSONB_P(sx_pull_run(PG_GETARG_JSONB_P(0), NULL));
}
