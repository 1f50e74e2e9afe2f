/*-------------------------------------------------------------------------
 *
 * push.c
 *		What a client changed while it was away.
 *
 *	{"client", "user_id", "session", "atomic", "policy", "since", "time",
 *	 "pull", "mutations": [{"id", "domain", "op", "key", "data", "base",
 *	 "assumed", "pending", "at"}, ...]}
 *	-> {"results": [{"id", "status", "key", ...}, ...], "pull"}
 *
 * All is written as the caller, in the caller's transaction, and each mutation
 * is answered on its own. A subtransaction for each would be the simple way,
 * and the expensive one: so all are tried in one, as runs of statements, and
 * where that fails the batch is halved, down to the mutation that is to blame.
 * That one is refused, and those after it go on.
 *
 * A mutation may fail only for the order inside the batch: a child that comes
 * before its parent. Those wait for the end, and with them every later one of
 * the same row, so that the row ends as its author left it. There each is
 * tried together with those that it needs (order.c), until a pass helps no
 * more; what is left is refused.
 *
 * Deferred constraints would let the commit fail, and with it everything. So
 * they are asked before a subtransaction is released, in one more that is
 * always rolled back: the constraints stay deferred, and are checked again at
 * the commit.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "sync_ext.h"
#include "cascade.h"
#include "cursor.h"
#include "ledger.h"
#include "mutation.h"
#include "object.h"
#include "order.h"
#include "plan.h"
#include "pull.h"
#include "push.h"
#include "request.h"
#include "rowjson.h"
#include "rows.h"
#include "session.h"
#include "watch.h"
#include "write.h"

PG_FUNCTION_INFO_V1(sync_ext_push);

typedef struct RowId
{
	uint64		key_hash;
	Oid			root;
	uint32		unused;			/* so that all bytes are set */
} RowId;

typedef struct RowNote
{
	RowId		row;			/* hash key */
	int			run;
} RowNote;

typedef struct Push
{
	MemoryContext caller;		/* of the answer */
	MemoryContext context;
	MemoryContext step;			/* of one attempt */
	char	   *client;			/* NULL: nobody named */
	char	   *user_id;
	char	   *session_id;
	SxDevice	device;
	SxWriter	writer;
	int64		skew;			/* our clock - the client's */
	bool		has_skew;		/* as the request shows it */
	bool		all_or_nothing;
	JsonbContainer *pull;
	SxMutation **mutations;
	int			n;

	bool		check_deferred; /* there are constraints that may be deferred */
	bool		may_wait;		/* refused for order: wait for the end */
	HTAB	   *waiting_rows;
	SxMutation **waiting;
	int			nwaiting;

	TimestampTz told;			/* the time that the answer told last ... */
	char	   *told_time;		/* ... as text; NULL: none yet */
} Push;

/* ---- the request ---- */

static SxPolicy
read_policy(JsonbContainer *request)
{
	static const char *const names[] = {
		"reject", "client_wins", "newer_wins", "merge"
	};
	char	   *policy = sx_request_string(request, "", "policy");

	if (policy == NULL)
		return SX_POLICY_REJECT;
	for (int i = 0; i < (int) lengthof(names); i++)
		if (strcmp(policy, names[i]) == 0)
			return (SxPolicy) i;
	sx_request_malformed("policy", psprintf("is \"%s\", which is not known", policy),
						 "It is one of reject, client_wins, newer_wins, merge.");
}

static bool
read_atomic(JsonbContainer *request)
{
	char	   *atomic = sx_request_string(request, "", "atomic");

	if (atomic == NULL || strcmp(atomic, "row") == 0)
		return false;
	if (strcmp(atomic, "all") == 0)
		return true;
	sx_request_malformed("atomic", psprintf("is \"%s\", which is not known", atomic),
						 "It is one of row, all.");
}

/* The one that the session has measured holds until there is another. */
static void
read_skew(Push *push, JsonbContainer *request, const SxSession *session)
{
	char	   *text = sx_request_string(request, "", "time");
	TimestampTz time;

	push->skew = session->offset;
	if (text == NULL)
		return;
	time = DatumGetTimestampTz(DirectFunctionCall3(timestamptz_in,
												   CStringGetDatum(text),
												   ObjectIdGetDatum(InvalidOid),
												   Int32GetDatum(-1)));
	if (TIMESTAMP_NOT_FINITE(time))
		sx_request_malformed("time", "is not a time", "Give what the device's clock shows.");
	push->skew = GetCurrentTimestamp() - time;
	push->has_skew = true;
}

/* Where in the request it is what an error is about. */
static void
in_part(void *arg)
{
	errcontext("%s of the request", (const char *) arg);
}

static void
read_request(Push *push, JsonbContainer *request)
{
	static const char *const known[] = {
		"client", "user_id", "session", "atomic", "policy", "since", "time",
		"pull", "mutations", NULL
	};
	JsonbContainer *mutations;
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	value;
	SxSession	session = {0};
	SxMutation *all;
	ErrorContextCallback callback;
	char	   *since;

	sx_request_check_members(request, "", known);
	push->client = sx_request_string(request, "", "client");
	push->user_id = sx_request_string(request, "", "user_id");
	push->session_id = sx_request_string(request, "", "session");
	push->all_or_nothing = read_atomic(request);
	push->pull = sx_request_object(request, "", "pull");
	push->writer.policy = read_policy(request);
	since = sx_request_string(request, "", "since");
	if (push->session_id != NULL)
	{
		sx_session_get(&session, push->session_id, push->client, push->user_id);
		push->client = session.client;
		if (!sx_request_has(request, "since"))
			since = session.last_sync;
	}

	callback.callback = in_part;
	callback.arg = pstrdup("since");
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	if (since != NULL)
		push->writer.since = DatumGetByteaPP(
			DirectFunctionCall1(sync_ext_cursor_in, CStringGetDatum(since)));
	callback.arg = pstrdup("time");
	read_skew(push, request, &session);
	error_context_stack = callback.previous;

	mutations = sx_request_array(request, "", "mutations");
	if (mutations == NULL)
		sx_request_malformed("mutations", "is missing",
							 "Give {\"mutations\": [...]}.");
	push->mutations = MemoryContextAllocHuge(push->context,
											 sizeof(SxMutation *) *
											 (JsonContainerSize(mutations) + 1));
	all = MemoryContextAllocExtended(push->context,
									 sizeof(SxMutation) *
									 (JsonContainerSize(mutations) + 1),
									 MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	iterator = JsonbIteratorInit(mutations);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		SxMutation *mutation;

		if (token != WJB_ELEM)
			continue;
		if (!sx_request_is_object(&value))
			sx_request_malformed(psprintf("mutations[%d]", push->n),
								 "is not an object",
								 "Give {\"domain\", \"op\", \"key\", \"data\"}.");
		mutation = &all[push->n];
		mutation->number = push->n;
		mutation->object = value.val.binary.data;
		if (push->client == NULL &&
			sx_request_member(mutation->object, "id") != NULL)
			sx_request_malformed("client", "is missing",
								 "Mutations with an id are remembered for a client: name it.");
		push->mutations[push->n++] = mutation;
	}
}

/* ---- errors, one mutation at a time ---- */

/* Errors that concern the whole statement are no mutation's answer. */
static bool
is_for_all(ErrorData *error)
{
	switch (ERRCODE_TO_CATEGORY(error->sqlerrcode))
	{
		case MAKE_SQLSTATE('2', '5', '0', '0', '0'):	/* transaction state */
		case MAKE_SQLSTATE('5', '7', '0', '0', '0'):	/* intervention, timeout */
			return true;
		default:
			return false;
	}
}

/* After an error: its data, and the subtransaction is no more. */
static ErrorData *
roll_back(MemoryContext context, ResourceOwner owner)
{
	ErrorData  *error;

	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	FlushErrorState();
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return error;
}

/* The path that an error of ours begins its detail with. */
static char *
blamed_path(ErrorData *error)
{
	if (error->detail == NULL ||
		(error->sqlerrcode != ERRCODE_INVALID_PARAMETER_VALUE &&
		 error->sqlerrcode != ERRCODE_UNDEFINED_COLUMN) ||
		strncmp(error->detail, "mutations[", strlen("mutations[")) != 0)
		return NULL;
	return pnstrdup(error->detail, strcspn(error->detail, " "));
}

typedef void (*Step) (Push *push, SxMutation *mutation);

/*
 * Takes a step with every mutation that is still open. One that raises an
 * error is refused, and the others go on: a subtransaction for each error.
 */
static void
step_each(Push *push, Step step, bool converts)
{
	ResourceOwner owner = CurrentResourceOwner;
	volatile int i = 0;

	while (i < push->n)
	{
		BeginInternalSubTransaction(NULL);
		MemoryContextSwitchTo(push->context);
		PG_TRY();
		{
			for (; i < push->n; i++)
			{
				CHECK_FOR_INTERRUPTS();
				if (push->mutations[i]->status == SX_STATUS_OPEN)
					step(push, push->mutations[i]);
			}
			ReleaseCurrentSubTransaction();
			MemoryContextSwitchTo(push->context);
			CurrentResourceOwner = owner;
		}
		PG_CATCH();
		{
			SxMutation *mutation = push->mutations[i];
			ErrorData  *error = roll_back(push->context, owner);
			char	   *path = blamed_path(error);

			if (is_for_all(error))
				ReThrowError(error);
			if (path == NULL && converts)
				path = sx_mutation_blame(mutation);
			sx_mutation_refuse(mutation, error, path);
			i++;
		}
		PG_END_TRY();
	}
}

/* ---- preparing ---- */

static void
read_step(Push *push, SxMutation *mutation)
{
	mutation->seq = push->device.next_seq + mutation->number;
	sx_mutation_read(mutation, push->skew);
	if (mutation->pending && push->session_id == NULL)
		sx_request_malformed(psprintf("mutations[%d].pending", mutation->number),
							 "is true outside of a session",
							 "Call sync.begin_session(), and give its id as \"session\".");
}

static SxLocalIds *local_ids = NULL;

static void
assign_step(Push *push, SxMutation *mutation)
{
	sx_session_assign(local_ids, mutation);
}

static void
rewrite_step(Push *push, SxMutation *mutation)
{
	sx_session_rewrite(local_ids, mutation);
}

static void
convert_step(Push *push, SxMutation *mutation)
{
	sx_mutation_convert(mutation);
	if (mutation->local_id != NULL && mutation->pending)
		mutation->key_made = true;
	if (!mutation->has_key)
		(void) sx_mutation_make_key(mutation);
	if (mutation->key_json != NULL)
		pfree(mutation->key_json);
	if (mutation->data_json != NULL)
		pfree(mutation->data_json);
	mutation->key_json = mutation->data_json = NULL;
	/* one that comes again after a later one of its row was applied */
	if (mutation->remembered && mutation->has_key &&
		sx_ledger_is_superseded(&push->device, mutation->table->root,
								mutation->key_hash, mutation->seq))
	{
		mutation->status = SX_STATUS_SUPERSEDED;
		mutation->tell = true;
	}
}

/* The key of one that needs no more than to be answered. */
static void
answer_key_step(Push *push, SxMutation *mutation)
{
	Jsonb	   *data = mutation->data_json;

	if (mutation->recalled_key != NULL)
		mutation->key_json = mutation->recalled_key;
	if (mutation->key_json != NULL)
		mutation->data_json = NULL;
	mutation->assumed_json = NULL;
	sx_mutation_convert(mutation);
	mutation->data_json = data;
}

/* The same id twice in one push, with the same content. */
static void
find_twins(Push *push, SxMutation **first)
{
	HASHCTL		control;
	HTAB	   *ids;

	memset(&control, 0, sizeof(control));
	control.keysize = sizeof(uint64) * 2;
	control.entrysize = sizeof(uint64) * 2 + sizeof(SxMutation *);
	control.hcxt = push->context;
	ids = hash_create("sync_ext ids", push->n, &control,
					  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	for (int i = 0; i < push->n; i++)
	{
		SxMutation *mutation = push->mutations[i];
		uint64		key[2];
		char	   *entry;
		bool		found;

		first[i] = NULL;
		if (mutation->id == NULL || mutation->status != SX_STATUS_OPEN)
			continue;
		key[0] = mutation->digest;
		key[1] = hash_bytes_extended((unsigned char *) mutation->id,
									 strlen(mutation->id), 0);
		entry = hash_search(ids, key, HASH_ENTER, &found);
		if (found)
		{
			first[i] = *(SxMutation **) (entry + sizeof(key));
			mutation->status = SX_STATUS_DUPLICATE;
		}
		else
			*(SxMutation **) (entry + sizeof(key)) = mutation;
	}
	hash_destroy(ids);
}

static void
find_table_step(Push *push, SxMutation *mutation)
{
	mutation->table = sx_tracked_by_domain(mutation->domain);
	mutation->domain = mutation->table->domain;
}

/*
 * Values are made for the columns that a table has now, so these must not
 * change before they are written. The locks are taken outside of all
 * subtransactions, which would release them when they fail.
 */
static void
lock_tables(Push *push)
{
	uint64		epoch;

	do
	{
		Oid			last = InvalidOid;

		epoch = sx_tracked_epoch();
		for (int i = 0; i < push->n; i++)
		{
			SxMutation *mutation = push->mutations[i];

			if (mutation->status != SX_STATUS_OPEN ||
				mutation->table->root == last)
				continue;
			last = mutation->table->root;
			LockRelationOid(last, AccessShareLock);
		}
		if (epoch != sx_tracked_epoch())
			step_each(push, find_table_step, false);
	} while (epoch != sx_tracked_epoch());
}

static void
prepare(Push *push, SxMutation **twins)
{
	SxMutation **duplicates = palloc(sizeof(SxMutation *) * (push->n + 1));
	int			nduplicates = 0;
	Push		others = *push;

	step_each(push, read_step, false);
	lock_tables(push);
	find_twins(push, twins);
	if (push->client != NULL)
		sx_ledger_recall(&push->device, push->mutations, push->n);
	for (int i = 0; i < push->n; i++)
		if (push->mutations[i]->status == SX_STATUS_DUPLICATE && twins[i] == NULL)
		{
			/* so that the steps take it */
			push->mutations[i]->status = SX_STATUS_OPEN;
			push->mutations[i]->recalled = true;
			duplicates[nduplicates++] = push->mutations[i];
		}
	others.mutations = duplicates;
	others.n = nduplicates;

	if (push->session_id != NULL)
	{
		local_ids = sx_session_local_ids(&push->device, push->mutations, push->n);
		step_each(push, assign_step, false);
		step_each(push, rewrite_step, false);
	}
	if (nduplicates > 0)
		step_each(&others, answer_key_step, false);
	for (int i = 0; i < nduplicates; i++)
	{
		duplicates[i]->status = SX_STATUS_DUPLICATE;
		duplicates[i]->tell = true;
	}
	step_each(push, convert_step, true);
}

/* ---- applying ---- */

static RowNote *
note_of(HTAB *rows, SxMutation *mutation, bool *found)
{
	RowId		row = {0};

	row.root = mutation->table->root;
	row.key_hash = mutation->key_hash;
	return hash_search(rows, &row, found == NULL ? HASH_FIND : HASH_ENTER, found);
}

static HTAB *
make_rows(MemoryContext context)
{
	HASHCTL		control;

	memset(&control, 0, sizeof(control));
	control.keysize = sizeof(RowId);
	control.entrysize = sizeof(RowNote);
	control.hcxt = context;
	return hash_create("sync_ext pushed rows", 64, &control,
					   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* Runs: of one table, and no row twice. Others' rows may depend on the order. */
static void
write_runs(Push *push, SxMutation **mutations, int n)
{
	HTAB	   *rows = n > 1 ? make_rows(CurrentMemoryContext) : NULL;
	int			first = 0;
	int			run = 0;

	for (int i = 0; i < n; i++)
	{
		SxMutation *mutation = mutations[i];
		bool		breaks = i > first &&
			(mutation->table->root != mutations[first]->table->root ||
			 mutation->moves || mutations[i - 1]->moves || !mutation->has_key);
		bool		found = false;

		CHECK_FOR_INTERRUPTS();
		if (n > 1)
		{
			RowNote    *note = note_of(rows, mutation, &found);

			if (found && note->run == run)
				breaks = i > first;
			note->run = breaks ? run + 1 : run;
		}
		if (breaks)
		{
			sx_write_run(&push->writer, mutations + first, i - first);
			first = i;
			run++;
		}
	}
	sx_write_run(&push->writer, mutations + first, n - first);
}

/* Raises what deferred constraints have to say, and leaves them deferred. */
static void
ask_deferred_constraints(void)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;
	int			mark = sx_watch_mark();

	BeginInternalSubTransaction(NULL);
	PG_TRY();
	{
		sx_plan_connect();
		if (SPI_execute("SET CONSTRAINTS ALL IMMEDIATE", false, 0) != SPI_OK_UTILITY)
			elog(ERROR, "could not set constraints immediate");
		SPI_finish();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
	}
	PG_CATCH();
	{
		error = roll_back(context, owner);
	}
	PG_END_TRY();
	/* what deferred triggers wrote is rolled back, and written at the commit */
	sx_watch_back_to(mark);
	if (error != NULL)
		ReThrowError(error);
}

/*
 * Tries mutations in a subtransaction. When it fails all is as before; a
 * single one is refused.
 */
static bool
attempt(Push *push, SxMutation **mutations, int n)
{
	ResourceOwner owner = CurrentResourceOwner;
	int			mark = sx_watch_mark();
	volatile bool done = false;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(push->step);
	PG_TRY();
	{
		write_runs(push, mutations, n);
		if (push->check_deferred)
			ask_deferred_constraints();
		ReleaseCurrentSubTransaction();
		CurrentResourceOwner = owner;
		done = true;
	}
	PG_CATCH();
	{
		ErrorData  *error = roll_back(push->context, owner);

		sx_watch_back_to(mark);
		for (int i = 0; i < n; i++)
			sx_write_reset(mutations[i]);
		if (is_for_all(error))
			ReThrowError(error);
		if (n == 1)
			sx_mutation_refuse(mutations[0], error, NULL);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(push->context);
	MemoryContextReset(push->step);
	return done;
}

/* Whether another order may let it pass. */
static bool
is_for_order(SxMutation *mutation)
{
	return mutation->status == SX_STATUS_REJECTED &&
		ERRCODE_TO_CATEGORY(mutation->refusal.sqlstate) ==
		ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION &&
		mutation->refusal.sqlstate != ERRCODE_NOT_NULL_VIOLATION &&
		mutation->refusal.sqlstate != ERRCODE_CHECK_VIOLATION;
}

static void
make_wait(Push *push, SxMutation *mutation)
{
	bool		found;

	mutation->status = SX_STATUS_OPEN;
	push->waiting[push->nwaiting++] = mutation;
	if (mutation->has_key)
		(void) note_of(push->waiting_rows, mutation, &found);
}

/* Those whose row waits already wait as well; returns how many are left. */
static int
pass_over_waiting(Push *push, SxMutation **mutations, int n)
{
	int			left = 0;

	if (push->nwaiting == 0)
		return n;
	for (int i = 0; i < n; i++)
	{
		if (mutations[i]->has_key &&
			note_of(push->waiting_rows, mutations[i], NULL) != NULL)
			make_wait(push, mutations[i]);
		else
			mutations[left++] = mutations[i];
	}
	return left;
}

static void
apply(Push *push, SxMutation **mutations, int n)
{
	CHECK_FOR_INTERRUPTS();
	n = pass_over_waiting(push, mutations, n);
	if (n == 0 || attempt(push, mutations, n))
		return;
	if (n > 1)
	{
		apply(push, mutations, n / 2);
		apply(push, mutations + n / 2, n - n / 2);
	}
	else if (push->may_wait && is_for_order(mutations[0]))
		make_wait(push, mutations[0]);
}

/* Mutations that waited, and room for what one of them needs. */
typedef struct Waiting
{
	SxMutation **mutations;
	int			n;
	SxOrder    *order;
	bool	   *tried;
	SxMutation **closure;
	int		   *numbers;
} Waiting;

static void
begin_waiting(Push *push, Waiting *waiting, SxMutation **mutations, int n)
{
	waiting->mutations = mutations;
	waiting->n = n;
	waiting->order = sx_order_begin(mutations, n);
	waiting->tried = palloc0(sizeof(bool) * n);
	waiting->closure = MemoryContextAllocHuge(push->context,
											  sizeof(SxMutation *) * n);
	waiting->numbers = palloc(sizeof(int) * n);
}

/*
 * Together with what it needs, or alone. What can be applied neither way is
 * not tried with others that need it: it would fail with each of them.
 */
static void
apply_one_waiting(Push *push, Waiting *waiting, int i)
{
	SxMutation *mutation = waiting->mutations[i];
	int			size;

	CHECK_FOR_INTERRUPTS();
	if (waiting->tried[i] || mutation->status != SX_STATUS_OPEN)
		return;
	waiting->tried[i] = true;
	size = sx_order_closure(waiting->order, i, waiting->closure,
							waiting->numbers);
	if (size > 1 && attempt(push, waiting->closure, size))
		return;
	apply(push, &mutation, 1);
	if (waiting->mutations[i]->status != SX_STATUS_APPLIED)
		sx_order_give_up(waiting->order, i);
}

/*
 * Those that waited: all at once, or each with what it needs. Where that
 * fails, what it needs comes first, each member by itself: so who is to blame
 * is found in as many steps as there are members.
 */
static void
apply_waiting(Push *push, SxMutation **mutations, int n)
{
	Waiting		waiting;
	int		   *members;

	if (push->may_wait && attempt(push, mutations, n))
		return;
	begin_waiting(push, &waiting, mutations, n);
	members = palloc(sizeof(int) * n);
	for (int i = 0; i < n; i++)
	{
		SxMutation *mutation = mutations[i];
		int			size;

		CHECK_FOR_INTERRUPTS();
		if (waiting.tried[i] || mutation->status != SX_STATUS_OPEN)
			continue;
		if (pass_over_waiting(push, &mutation, 1) == 0)
		{
			waiting.tried[i] = true;
			sx_order_give_up(waiting.order, i);
			continue;
		}
		size = sx_order_closure(waiting.order, i, waiting.closure,
								waiting.numbers);
		if (size > 1 && attempt(push, waiting.closure, size))
			continue;
		memcpy(members, waiting.numbers, sizeof(int) * size);
		for (int j = 0; j < size; j++)
			apply_one_waiting(push, &waiting, members[j]);
		apply_one_waiting(push, &waiting, i);
	}
}

/* One pass over those that are open; returns how many wait after it. */
static int
apply_pass(Push *push, SxMutation **mutations, int n, bool first, bool may_wait)
{
	push->may_wait = may_wait;
	push->nwaiting = 0;
	push->waiting = MemoryContextAllocHuge(push->context,
										   sizeof(SxMutation *) * (n + 1));
	push->waiting_rows = make_rows(push->context);
	if (first)
		apply(push, mutations, n);
	else
		apply_waiting(push, mutations, n);
	hash_destroy(push->waiting_rows);
	return push->nwaiting;
}

static void
apply_all(Push *push)
{
	SxMutation **open = MemoryContextAllocHuge(push->context,
											   sizeof(SxMutation *) * (push->n + 1));
	int			n = 0;
	int			waiting;

	for (int i = 0; i < push->n; i++)
		if (push->mutations[i]->status == SX_STATUS_OPEN)
			open[n++] = push->mutations[i];
	waiting = apply_pass(push, open, n, true, true);
	while (waiting > 0)
	{
		n = waiting;
		open = push->waiting;
		waiting = apply_pass(push, open, n, false, true);
		if (waiting == n)
		{
			/* refused for good; what comes after them is tried all the same */
			open = push->waiting;
			(void) apply_pass(push, open, n, false, false);
			break;
		}
	}
}

/* Whether all is as the client wanted it. */
static bool
succeeded(Push *push)
{
	for (int i = 0; i < push->n; i++)
		if (push->mutations[i]->status != SX_STATUS_APPLIED &&
			push->mutations[i]->status != SX_STATUS_DUPLICATE &&
			push->mutations[i]->status != SX_STATUS_SUPERSEDED)
			return false;
	return true;
}

static void
apply_all_or_nothing(Push *push)
{
	ResourceOwner owner = CurrentResourceOwner;
	bool		ok;
	SxStatus	otherwise = SX_STATUS_RETRY;	/* if nothing worse happened */

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(push->context);
	apply_all(push);
	ok = succeeded(push);
	if (ok)
		ReleaseCurrentSubTransaction();
	else
		RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(push->context);
	CurrentResourceOwner = owner;
	if (ok)
		return;

	sx_watch_back_to(0);
	for (int i = 0; i < push->n; i++)
		if (push->mutations[i]->status == SX_STATUS_REJECTED ||
			push->mutations[i]->status == SX_STATUS_CONFLICT)
			otherwise = SX_STATUS_REJECTED;
	for (int i = 0; i < push->n; i++)
	{
		SxMutation *mutation = push->mutations[i];

		if (mutation->status != SX_STATUS_APPLIED)
			continue;
		sx_write_reset(mutation);
		mutation->status = otherwise;
		mutation->refusal.sqlstate = ERRCODE_TRANSACTION_ROLLBACK;
		mutation->refusal.message = "not applied, as another mutation was refused";
		mutation->refusal.detail = "The request asks for all or nothing.";
		mutation->refusal.hint = "Settle the others, and push all of them again.";
		mutation->refusal.path = psprintf("mutations[%d]", mutation->number);
	}
}

/*
 * Masters that a later mutation made: touched now, and not before commit, so
 * that the answer has their last version. Not by the client, as ever.
 */
static void
touch_missing_masters(void)
{
	int			level = NewGUCNestLevel();

	(void) set_config_option("sync.client", "", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	sx_cascade_retry();
	AtEOXact_GUC(true, level);
}

/* Asks the catalog only when it may have changed. */
static bool
has_deferrable_constraints(void)
{
	static uint64 epoch = 0;
	static bool found = false;

	if (epoch == sx_tracked_epoch())
		return found;
	sx_plan_connect();
	if (SPI_execute_plan(sx_plan_get("SELECT FROM pg_catalog.pg_trigger WHERE tgdeferrable LIMIT 1",
									 0, NULL), NULL, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read pg_trigger");
	found = SPI_processed > 0;
	SPI_finish();
	epoch = sx_tracked_epoch();
	return found;
}

/* ---- the rows, for the answer ---- */

typedef struct Telling
{
	SxMutation **mutations;
	SxShape    *shape;
	MemoryContext context;
	MemoryContext scratch;
} Telling;

static bool
take_row(void *arg, SxRow *row)
{
	Telling    *telling = arg;
	SxMutation *mutation = telling->mutations[row->ord];
	MemoryContext old;
	Jsonb	   *data;

	if (!row->selected)
		return true;
	/* a snapshot from before another one's deletion sees two rows of the key */
	if (mutation->status == SX_STATUS_APPLIED && mutation->has_modified_at &&
		row->has_modified_at && row->modified_at != mutation->modified_at)
		return true;
	if (row->has_modified_at)
	{
		mutation->has_modified_at = true;
		mutation->modified_at = row->modified_at;
	}
	if (!mutation->tell)
		return true;			/* only the version was asked for */

	/* what building it leaves behind is not kept */
	old = MemoryContextSwitchTo(telling->scratch);
	data = row->is_plain ?
		sx_rowjson_row(telling->shape, DatumGetHeapTupleHeader(row->data)) :
		DatumGetJsonbP(row->data);
	(void) MemoryContextSwitchTo(telling->context);
	mutation->data = (Jsonb *) PG_DETOAST_DATUM_COPY(JsonbPGetDatum(data));
	(void) MemoryContextSwitchTo(old);
	MemoryContextReset(telling->scratch);
	return true;
}

/* Reads the rows of one table. The caller may lack the right: no rows then. */
static void
tell_rows(Push *push, SxTable *table, SxMutation **mutations, int n)
{
	ResourceOwner owner = CurrentResourceOwner;
	Datum	  **keys = palloc(sizeof(Datum *) * n);
	ItemPointer *tids = palloc0(sizeof(ItemPointer) * n);
	Telling		telling;

	for (int i = 0; i < n; i++)
		keys[i] = sx_mutation_final_key(mutations[i]);
	telling.mutations = mutations;
	telling.shape = sx_rowjson_shape(table->row);
	telling.context = push->context;
	telling.scratch = push->step;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(push->context);
	PG_TRY();
	{
		sx_rows_check_privileges(table);
		sx_rows_lookup(table, NULL, NULL, n, keys, tids, take_row, &telling);
		ReleaseCurrentSubTransaction();
		CurrentResourceOwner = owner;
	}
	PG_CATCH();
	{
		ErrorData  *error = roll_back(push->context, owner);

		if (error->sqlerrcode != ERRCODE_INSUFFICIENT_PRIVILEGE)
			ReThrowError(error);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(push->context);
}

static bool
needs_row(SxMutation *mutation)
{
	if (!mutation->has_key || mutation->gone)
		return false;
	switch (mutation->status)
	{
		case SX_STATUS_APPLIED:
			return mutation->tell || !mutation->has_modified_at;
		case SX_STATUS_DUPLICATE:
		case SX_STATUS_SUPERSEDED:
		case SX_STATUS_CONFLICT:
			return true;
		default:
			return false;
	}
}

/*
 * The final state of every row: a later mutation, or a cascade, may have
 * changed it once more.
 */
static void
tell_all(Push *push)
{
	SxMutation **wanted = MemoryContextAllocHuge(push->context,
												 sizeof(SxMutation *) * (push->n + 1));
	int			n = 0;

	for (int i = 0; i < push->n; i++)
	{
		SxMutation *mutation = push->mutations[i];
		const SxWatched *watched;

		if (mutation->status == SX_STATUS_APPLIED &&
			(watched = sx_watch_find(mutation->table->root,
									 sx_mutation_final_hash(mutation))) != NULL)
		{
			mutation->has_modified_at = watched->has_version;
			mutation->modified_at = watched->version;
			mutation->gone |= !watched->has_version;
			mutation->tell |= watched->altered;
		}
		if (needs_row(mutation))
			wanted[n++] = mutation;
	}
	if (n == 0)
		return;

	PushActiveSnapshot(GetTransactionSnapshot());
	while (n > 0)
	{
		SxTable    *table = wanted[0]->table;
		SxMutation **of_table = MemoryContextAllocHuge(push->context,
													   sizeof(SxMutation *) * n);
		int			left = 0;
		int			taken = 0;

		for (int i = 0; i < n; i++)
			if (wanted[i]->table->root == table->root)
				of_table[taken++] = wanted[i];
			else
				wanted[left++] = wanted[i];
		tell_rows(push, table, of_table, taken);
		n = left;
	}
	PopActiveSnapshot();
}

/* A mutation that was in the batch twice. */
static void
answer_twins(Push *push, SxMutation **twins)
{
	for (int i = 0; i < push->n; i++)
	{
		SxMutation *mutation = push->mutations[i];
		SxMutation *first = twins[i];
		int			number = mutation->number;

		if (first == NULL)
			continue;
		*mutation = *first;
		mutation->number = number;
		if (first->status == SX_STATUS_APPLIED)
			mutation->status = SX_STATUS_DUPLICATE;
	}
}

/* ---- the answer ---- */

/* Rows that are written together often share their time. */
static const char *
time_text(Push *push, TimestampTz time)
{
	if (push->told_time == NULL || push->told != time)
	{
		push->told_time = palloc(MAXDATELEN + 1);
		push->told = time;
		JsonEncodeDateTime(push->told_time, TimestampTzGetDatum(time),
						   TIMESTAMPTZOID, NULL);
	}
	return push->told_time;
}

static JsonbValue
key_object(SxObjectPool *pool, SxMutation *mutation)
{
	SxTable    *table = mutation->table;
	Datum	   *key = sx_mutation_final_key(mutation);
	SxObject	object;

	object.n = 0;
	for (int i = 0; i < table->nkeys; i++)
	{
		JsonbValue	value;

		sx_rowjson_value(&value, key[i], table->keys[i].type);
		sx_object_add(&object, table->keys[i].name, &value);
	}
	return sx_object_finish(&object, pool);
}

static void
add_refusal(SxObject *result, SxRefusal *refusal)
{
	if (refusal->message == NULL)
		return;
	/* its buffer is static, and the text is taken only at the end */
	sx_object_add_text(result, "sqlstate",
					   pstrdup(unpack_sql_state(refusal->sqlstate)));
	sx_object_add_text(result, "message", refusal->message);
	sx_object_add_text(result, "detail", refusal->detail);
	sx_object_add_text(result, "hint", refusal->hint);
	sx_object_add_text(result, "path", refusal->path);
}

static JsonbValue
result_of(Push *push, SxObjectPool *pool, SxMutation *mutation)
{
	bool		refused = mutation->status == SX_STATUS_REJECTED ||
		mutation->status == SX_STATUS_RETRY;
	SxObject	result;
	JsonbValue	key;

	result.n = 0;
	if (mutation->given_id.type == jbvString ||
		mutation->given_id.type == jbvNumeric)
		sx_object_add(&result, "id", &mutation->given_id);
	sx_object_add_text(&result, "status", sx_mutation_status(mutation->status));
	if (mutation->has_key && !(refused && mutation->key_made))
	{
		key = key_object(pool, mutation);
		sx_object_add(&result, "key", &key);
	}
	else
		sx_object_add_json(&result, "key", mutation->key_json);
	sx_object_add_text(&result, "local_id", mutation->local_id);
	if (refused)
		add_refusal(&result, &mutation->refusal);
	else
	{
		sx_object_add_json(&result, "data", mutation->data);
		if (mutation->has_modified_at)
			sx_object_add_text(&result, "modified_at",
							   time_text(push, mutation->modified_at));
	}
	return sx_object_finish(&result, pool);
}

/* ---- the pull inside ---- */

/* Whether the client knows the row now, as it stands. */
static bool
is_told(SxMutation *mutation)
{
	if (!mutation->has_key || !mutation->has_modified_at || mutation->gone)
		return false;
	if (mutation->status == SX_STATUS_APPLIED)
		return !mutation->tell || mutation->data != NULL;
	return mutation->data != NULL;
}

static void
push_excluded(Push *push, JsonbParseState **state, const char *domain,
			  Jsonb *excluded)
{
	sx_request_put_name(state, "exclude");
	pushJsonbValue(state, WJB_BEGIN_ARRAY, NULL);
	if (excluded != NULL)
	{
		JsonbIterator *iterator = JsonbIteratorInit(&excluded->root);
		JsonbIteratorToken token;
		JsonbValue	value;

		while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
			if (token == WJB_ELEM)
				pushJsonbValue(state, WJB_ELEM, &value);
	}
	for (int i = 0; i < push->n; i++)
	{
		SxMutation *mutation = push->mutations[i];

		if (mutation->domain == NULL || strcmp(mutation->domain, domain) != 0 ||
			!is_told(mutation))
			continue;
		pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
		sx_rowjson_push_columns(state, mutation->table->nkeys,
								mutation->table->keys,
								sx_mutation_final_key(mutation));
		sx_request_put_text(state, "modified_at", time_text(push, mutation->modified_at));
		pushJsonbValue(state, WJB_END_OBJECT, NULL);
	}
	pushJsonbValue(state, WJB_END_ARRAY, NULL);
}

static void
push_domain(Push *push, JsonbParseState **state, const char *domain,
			JsonbContainer *object)
{
	JsonbIterator *iterator = JsonbIteratorInit(object);
	JsonbIteratorToken token;
	JsonbValue	value;
	JsonbValue *excluded = sx_request_member(object, "exclude");
	bool		skip = false;

	sx_request_put_name(state, domain);
	pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			skip = value.val.string.len == strlen("exclude") &&
				memcmp(value.val.string.val, "exclude", strlen("exclude")) == 0;
		if ((token == WJB_KEY || token == WJB_VALUE) && !skip)
			pushJsonbValue(state, token, &value);
	}
	if (excluded != NULL && !sx_request_is_array(excluded))
		sx_request_malformed(psprintf("pull.domains.%s.exclude", domain),
							 "is not an array",
							 "Give [{key columns..., \"modified_at\": ...}, ...].");
	push_excluded(push, state, domain,
				  excluded == NULL ? NULL : JsonbValueToJsonb(excluded));
	pushJsonbValue(state, WJB_END_OBJECT, NULL);
}

/*
 * Whoever lets a device write the mutations and the pull, but names its user
 * himself, need not look for another one inside.
 */
static char *
given_in_pull(Push *push, const char *name, const char *value)
{
	char	   *given = sx_request_string(push->pull, "pull", name);

	if (given != NULL && value != NULL && strcmp(given, value) != 0)
		sx_request_malformed(psprintf("pull.%s", name), "is another than the push's",
							 "Leave it out: the pull inside is the same client's and user's.");
	return given;
}

/* The pull that the request holds, for the same client, and without what the
 * results tell. */
static Jsonb *
pull_request(Push *push)
{
	JsonbParseState *state = NULL;
	JsonbIterator *iterator = JsonbIteratorInit(push->pull);
	JsonbIteratorToken token;
	JsonbValue	name;
	JsonbValue	value;
	char	   *given;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	given = given_in_pull(push, "client", push->client);
	sx_request_put_text(&state, "client", given != NULL ? given : push->client);
	given = given_in_pull(push, "session", push->session_id);
	sx_request_put_text(&state, "session",
						given != NULL ? given : push->session_id);
	sx_request_put_text(&state, "user_id",
						given_in_pull(push, "user_id", push->user_id));
	while ((token = JsonbIteratorNext(&iterator, &name, true)) != WJB_DONE)
	{
		char	   *member;

		if (token != WJB_KEY)
			continue;
		(void) JsonbIteratorNext(&iterator, &value, true);
		member = pnstrdup(name.val.string.val, name.val.string.len);
		if (value.type == jbvNull || strcmp(member, "client") == 0 ||
			strcmp(member, "user_id") == 0 || strcmp(member, "session") == 0)
			continue;
		sx_request_put_name(&state, member);
		if (strcmp(member, "domains") == 0 && sx_request_is_object(&value))
		{
			JsonbIterator *domains = JsonbIteratorInit(value.val.binary.data);
			JsonbValue	domain;
			JsonbValue	object;

			pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
			while ((token = JsonbIteratorNext(&domains, &domain, true)) != WJB_DONE)
			{
				char	   *text;

				if (token != WJB_KEY)
					continue;
				(void) JsonbIteratorNext(&domains, &object, true);
				text = pnstrdup(domain.val.string.val, domain.val.string.len);
				if (!sx_request_is_object(&object))
					sx_request_malformed(psprintf("pull.domains.%s", text),
										 "is not an object",
										 "Give {\"since\": ...}, or {} to load it.");
				push_domain(push, &state, text, object.val.binary.data);
			}
			pushJsonbValue(&state, WJB_END_OBJECT, NULL);
		}
		else
			pushJsonbValue(&state, WJB_VALUE, &value);
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/* In a snapshot that is taken after the writes, and so holds them. */
static Jsonb *
pull(Push *push)
{
	Jsonb	   *request = pull_request(push);
	Jsonb	   *answer;
	ErrorContextCallback callback;

	callback.callback = in_part;
	callback.arg = pstrdup("pull");
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	answer = sx_pull_run(request, push->user_id);
	PopActiveSnapshot();
	error_context_stack = callback.previous;
	return answer;
}

static Jsonb *
answer(Push *push)
{
	SxObjectPool pool = {0};
	SxObject	object;
	JsonbValue	results;
	JsonbValue	whole;

	results.type = jbvArray;
	results.val.array.rawScalar = false;
	results.val.array.nElems = push->n;
	results.val.array.elems = MemoryContextAllocHuge(push->context,
													 sizeof(JsonbValue) *
													 (push->n + 1));
	for (int i = 0; i < push->n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		results.val.array.elems[i] = result_of(push, &pool, push->mutations[i]);
	}
	object.n = 0;
	sx_object_add(&object, "results", &results);
	if (push->pull != NULL)
		sx_object_add_json(&object, "pull", pull(push));
	whole = sx_object_finish(&object, &pool);
	(void) MemoryContextSwitchTo(push->caller);
	return JsonbValueToJsonb(&whole);
}

/* ---- all of it ---- */

/*
 * Whether what was done before in this transaction has left nothing for its
 * end: that would be blamed on the mutations.
 */
static bool
deferred_constraints_hold(void)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool hold = true;

	BeginInternalSubTransaction(NULL);
	(void) MemoryContextSwitchTo(context);
	PG_TRY();
	{
		ask_deferred_constraints();
		ReleaseCurrentSubTransaction();
		(void) MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
	}
	PG_CATCH();
	{
		ErrorData  *error = roll_back(context, owner);

		if (is_for_all(error))
			ReThrowError(error);
		hold = false;
	}
	PG_END_TRY();
	return hold;
}

static Jsonb *
run(Push *push, Jsonb *request)
{
	SxMutation **twins;

	read_request(push, &request->root);
	if (push->client != NULL)
	{
		sx_ledger_claim(&push->device, push->client, push->user_id, push->n);
		if (push->session_id != NULL)
			sx_session_use(push->session_id,
						   push->has_skew ? &push->skew : NULL);
		push->writer.device = &push->device;
	}
	push->writer.context = push->context;
	push->writer.now = GetCurrentTimestamp();
	push->check_deferred = has_deferrable_constraints() &&
		deferred_constraints_hold();
	(void) set_config_option("sync.client", push->client == NULL ? "" : push->client,
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true,
							 0, false);

	twins = MemoryContextAllocHuge(push->context,
								   sizeof(SxMutation *) * (push->n + 1));
	prepare(push, twins);
	if (push->all_or_nothing)
		apply_all_or_nothing(push);
	else
		apply_all(push);
	touch_missing_masters();
	CommandCounterIncrement();
	tell_all(push);
	if (push->client != NULL)
	{
		sx_ledger_remember(&push->device, push->mutations, push->n);
		if (push->session_id != NULL)
			sx_session_remember(&push->device, push->mutations, push->n);
	}
	answer_twins(push, twins);
	return answer(push);
}

Jsonb *
sx_push_run(Jsonb *request)
{
	MemoryContext kept;
	SxWatch    *watch;
	SxLocalIds *outer_ids = local_ids;
	Push		push = {0};
	Jsonb	   *volatile result = NULL;
	int			level;

	if (!JB_ROOT_IS_OBJECT(request))
		sx_request_malformed("", "is not an object",
							 "Give {\"mutations\": [...]}.");
	push.caller = CurrentMemoryContext;
	push.context = AllocSetContextCreate(push.caller, "sync_ext push",
										 ALLOCSET_DEFAULT_SIZES);
	push.step = AllocSetContextCreate(push.context, "sync_ext push attempt",
									  ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(push.context);
	kept = sx_mutation_keep_in(push.context);
	watch = sx_watch_begin();
	level = NewGUCNestLevel();
	PG_TRY();
	{
		result = run(&push, request);
	}
	PG_FINALLY();
	{
		sx_watch_end(watch);
		(void) sx_mutation_keep_in(kept);
		local_ids = outer_ids;
	}
	PG_END_TRY();
	AtEOXact_GUC(true, level);
	(void) MemoryContextSwitchTo(push.caller);
	MemoryContextDelete(push.context);
	return result;
}

Datum
sync_ext_push(PG_FUNCTION_ARGS)
{
	PG_RETURN_JSONB_P(sx_push_run(PG_GETARG_JSONB_P(0)));
}
