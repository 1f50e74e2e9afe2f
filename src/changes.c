/*-------------------------------------------------------------------------
 *
 * changes.c
 *		What changed since a cursor, for a filter.
 *
 * An answer has two steps. The log says which keys have changed since the
 * cursor; then the rows of those keys are read as the caller, in the same
 * snapshot S. A row that the filter selects is an upsert, as it is now; a key
 * whose row is not selected is a remove, unless its log entries show that the
 * client cannot have had it. Where the log says nothing, there is no second
 * step.
 *
 * Membership before. For a key, in one new transaction and within the part of
 * the log that the filter reads, let "net" be the enters less the leaves. The
 * key is there after the transaction or is not, so net > 0 means that it was
 * not there before, and net < 0 that it was. With net = 0 the first entry
 * decides: it was there unless that is an enter. (Trigger order can make an
 * enter come first although the key was there: a row trigger that deletes and
 * inserts again. Then the row is in the scope still, and that is checked.)
 * Where rows may share a key for a while, by a deferrable constraint, nothing
 * is concluded, and the remove is sent. One too many harms nobody.
 *
 * A page may begin in the midst of a transaction. What it passed over is looked
 * up again for the keys that it could make a difference to: those whose row is
 * not selected, and only where the transaction has both enters and other
 * entries before and after the cut. (So the pages of a bulk load or a bulk
 * deletion need it never.)
 *
 * Pages. A page that max_rows cuts gives a cursor with what the client has
 * seen (c), the target T, which is what S saw when the first page was made,
 * and a position between the two. The next page goes on from there, with rows
 * as they are by then. When T is reached the page goes on with what is new to
 * T, and so on, and only when that is exhausted is the client up to date.
 * A first load pages by key instead, and then catches up from T.
 *
 * Rights. With a user, only scopes that the access relation gives the user in
 * S are read (see access.c). What lies between two such snapshots is a round,
 * and it begins with what grants and revocations did in it: scopes to forget,
 * then the rows of scopes that were gained, and only then the log, for the
 * scopes that nothing has touched since the cursor. All is read by the rights
 * in S, so a page never gives what was revoked after the page before; and a
 * scope that a later round touches is left to that one, which takes it back
 * and gives it again. A row that moved into such a scope has left, until that
 * round gives it: its remove waits for the end of the answer, where it may
 * turn out to be needless.
 *
 * Named keys. A client may hold rows that no entry of the log takes from it: it
 * was told of them otherwise, by the answer to a push, or loads anew what it has
 * a copy of. So the page that ends a delivery looks up every key that exclude
 * names there, and removes those that are not selected. That needs no place in
 * the cursor, and so no list that is the same on every page. Such removes do
 * not count for max_rows: there are no more of them than the request names.
 *
 * The reader's own transaction may write more after this, and may roll back:
 * its changes are delivered last, and never count as seen.
 *
 * What is told is on disk: see durable.h.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "common/hashfn.h"
#include "nodes/nodes.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "sync_ext.h"
#include "access.h"
#include "capture.h"
#include "catalog.h"
#include "changes.h"
#include "cursor.h"
#include "durable.h"
#include "filter.h"
#include "logscan.h"
#include "rowjson.h"
#include "rows.h"
#include "policy.h"
#include "textform.h"
#include "tick.h"
#include "tracked.h"
#include "validity.h"

PG_FUNCTION_INFO_V1(sync_ext_changes);
PG_FUNCTION_INFO_V1(sync_ext_current_cursor);

/* So many scopes of a user are looked up without counting entries first. */
#define FEW_SCOPES		16

/* Keys that are looked up at once: enough of them, but no more memory. */
#define LOOKUP_BATCH	250

/*
 * A page examines at most this many log entries for each row wanted, and at
 * least so many: a key that changed a million times is one row.
 */
#define EXAMINED_PER_ROW	100
#define EXAMINED_AT_LEAST	100000

typedef struct KeyHash
{
	MinimalTuple image;			/* of table->key_row */
} KeyHash;

typedef enum KeyState
{
	KEY_KNOWN,					/* named in exclude, no entry so far */
	KEY_PENDING,				/* to be looked up */
	KEY_SILENT,					/* looked up; the client need not know */
	KEY_LEFT,					/* a remove, unless a later round loads it */
	KEY_TOLD					/* in the answer */
} KeyState;

/* What one transaction did to a key, in one part of the log. */
typedef struct Run
{
	uint64		xid;			/* 0: nothing */
	uint32		scan;
	int			net;
	bool		entered_first;
} Run;

/* What is known of a key in the answer being made. */
typedef struct Key
{
	KeyHash		hash;			/* hash key */
	KeyState	state;
	bool		excluded;		/* named in exclude, with ... */
	TimestampTz excluded_at;	/* ... this modified_at */

	ItemPointerData tid;		/* where its row was last, or invalid */

	bool		foreign;		/* a change that is not the client's own */
	bool		entered;		/* an enter by UPDATE */
	bool		moved;			/* left or entered */
	bool		own_delete;

	/* membership before, by the transactions that are complete ... */
	bool		was_there;
	bool		perhaps_there;
	Run			run;			/* ... and the one whose entries are being read */
	Run			cut;			/* the one in whose midst the page began ... */
	Run			passed;			/* ... and what it did before that */
	bool		wants_passed;	/* that is to be looked up */
	bool		cut_is_whole;	/* that is in "cut", too */
} Key;

typedef struct Reading
{
	const SxRequest *request;
	SxTakeChange take;
	void	   *arg;

	SxTable    *table;
	SxFilter   *filter;
	ParamListInfo params;
	SxPolicies *policies;		/* the caller's row security */
	uint64		question;

	SxAccess   *access;			/* NULL: no user is given */
	Datum		user;
	SxRights   *rights;			/* the user's, in S */
	const SxScopes *visible;	/* those scopes that nothing has touched */
	const SxScopes *later;		/* those that a later round touches, or NULL */
	const SxScopes *forgotten;	/* in this answer, or NULL */

	Snapshot	snapshot;		/* S ... */
	SxSnapshot *now;			/* ... as a set */
	SxSnapshot *tight;			/* what an up-to-date cursor says */
	uint64		own;			/* the reader's transaction, or 0 */

	HTAB	   *keys;
	MemoryContext answer;		/* keys, and what lives as long */
	MemoryContext change;		/* one change */
	List	   *excluded;		/* of Key */
	List	   *pending;		/* of Key */
	List	   *left;			/* of Key */
	int			told;			/* data rows so far, those in "left" among them */
	int64		examined;

	SxLogScan  *scan;
	SxPosition	began;			/* where in the log this page began, if there */
	SxPosition	last;			/* the transaction of the last entry, and what
								 * of it was passed */
	TupleTableSlot *scope_row;
	SxDurable	durable;		/* transactions that were examined */
	bool		flush_all;		/* rows may be newer than those */
	bool		catching_up;	/* loaded keys must not come twice */
	bool		by_visible;		/* the log is read by them */
	bool		granting;		/* what is loaded was not there before */
	bool		may_hold_more;	/* than the cursor says */
	SxShape    *shape;			/* of the table's rows, once needed */

	/* first load */
	SxPosition	loaded;			/* the last key that was examined ... */
	MinimalTuple last_loaded;	/* ... and what to make it of */
	int			load_rows;
	bool		load_cut;
	bool		after_reset;
} Reading;

const char *
sx_change_name(SxChangeKind kind)
{
	switch (kind)
	{
		case SX_CHANGE_RESET:
			return "reset";
		case SX_CHANGE_FORGET:
			return "forget";
		case SX_CHANGE_UPSERT:
			return "upsert";
		case SX_CHANGE_REMOVE:
			return "remove";
		case SX_CHANGE_MORE:
			return "more";
		case SX_CHANGE_UP_TO_DATE:
			return "up-to-date";
	}
	return NULL;
}

/* ---- telling ---- */

static void
image_values(Reading *reading, MinimalTuple image, Datum *values)
{
	bool		nulls[INDEX_MAX_KEYS];
	HeapTupleData tuple;

	tuple.t_len = image->t_len + MINIMAL_TUPLE_OFFSET;
	tuple.t_data = (HeapTupleHeader) ((char *) image - MINIMAL_TUPLE_OFFSET);
	heap_deform_tuple(&tuple, reading->table->key_row, values, nulls);
}

static Jsonb *
document(Reading *reading, SxRow *row)
{
	HeapTupleHeader plain;

	if (!row->is_plain)
		return DatumGetJsonbP(row->data);
	plain = DatumGetHeapTupleHeader(row->data);
	if (reading->shape == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(reading->answer);
		TupleDesc	desc = lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(plain),
												  HeapTupleHeaderGetTypMod(plain));

		reading->shape = sx_rowjson_shape(desc);
		ReleaseTupleDesc(desc);
		MemoryContextSwitchTo(old);
	}
	return sx_rowjson_row(reading->shape, plain);
}

static void
tell_upsert(Reading *reading, SxRow *row)
{
	MemoryContext old = MemoryContextSwitchTo(reading->change);
	SxChange	change = {.kind = SX_CHANGE_UPSERT};

	change.key = sx_rowjson_key(reading->table, row->key);
	change.data = document(reading, row);
	change.has_modified_at = row->has_modified_at;
	change.modified_at = row->modified_at;
	reading->take(reading->arg, &change);
	reading->told++;
	MemoryContextSwitchTo(old);
	MemoryContextReset(reading->change);
}

static void
tell_remove(Reading *reading, Datum *key)
{
	MemoryContext old = MemoryContextSwitchTo(reading->change);
	SxChange	change = {.kind = SX_CHANGE_REMOVE};

	change.key = sx_rowjson_key(reading->table, key);
	reading->take(reading->arg, &change);
	reading->told++;
	MemoryContextSwitchTo(old);
	MemoryContextReset(reading->change);
}

static void
tell_forget(Reading *reading, const Datum *scope)
{
	MemoryContext old = MemoryContextSwitchTo(reading->change);
	SxChange	change = {.kind = SX_CHANGE_FORGET};

	change.key = sx_rowjson_columns(reading->table->nscopes,
									reading->table->scopes, scope);
	reading->take(reading->arg, &change);
	reading->told++;
	MemoryContextSwitchTo(old);
	MemoryContextReset(reading->change);
}

static void
add_member(JsonbParseState **state, const char *name, const char *text)
{
	JsonbValue	value;

	value.type = jbvString;
	value.val.string.val = unconstify(char *, name);
	value.val.string.len = strlen(name);
	pushJsonbValue(state, WJB_KEY, &value);
	value.val.string.val = unconstify(char *, text);
	value.val.string.len = strlen(text);
	pushJsonbValue(state, WJB_VALUE, &value);
}

static void
tell_reset(Reading *reading, const SxReset *reset)
{
	JsonbParseState *state = NULL;
	SxChange	change = {.kind = SX_CHANGE_RESET};

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	add_member(&state, "reason", reset->reason);
	add_member(&state, "message", reset->message);
	add_member(&state, "hint", reset->hint);
	change.data = JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
	reading->take(reading->arg, &change);
}

static void
note_xid(Reading *reading, uint64 xid)
{
	MemoryContext old = MemoryContextSwitchTo(reading->answer);

	sx_durable_note(&reading->durable, xid);
	MemoryContextSwitchTo(old);
}

/* What the cursor says of the user's rights. */
static uint64
rights_of(Reading *reading, SxChangeKind kind)
{
	SxRights   *rights;

	if (reading->access == NULL)
		return 0;
	if (!reading->access->is_table)
		return sx_rights_hash(reading->rights);
	/* the pages that follow are of the same cursor */
	if (kind == SX_CHANGE_MORE && reading->may_hold_more)
		return 1;
	if (reading->own == 0)
		return 0;
	/* grants of the reader's own are shown, and come again */
	rights = sx_access_read(reading->access, reading->user, reading->tight,
							reading->snapshot, reading->now, reading->own);
	return sx_rights_touched(rights)->n > 0 ? 1 : 0;
}

/* Tells the removes that no round has made needless. */
static void
tell_left(Reading *reading)
{
	ListCell   *cell;

	foreach(cell, reading->left)
	{
		Key		   *key = lfirst(cell);
		Datum		values[INDEX_MAX_KEYS];

		if (key->state != KEY_LEFT)
			continue;
		key->state = KEY_TOLD;
		image_values(reading, key->hash.image, values);
		reading->told--;
		tell_remove(reading, values);
	}
}

static void
tell_end(Reading *reading, SxChangeKind kind, SxCursor *cursor)
{
	SxChange	change = {.kind = kind};

	tell_left(reading);
	sx_durable_flush(&reading->durable, reading->flush_all);
	cursor->generation = sx_catalog_get()->generation_id;
	cursor->question = reading->question;
	cursor->rights = rights_of(reading, kind);
	cursor->lsn = sx_wal_position(&cursor->timeline);
	change.cursor = sx_cursor_encode(cursor);
	if (kind == SX_CHANGE_UP_TO_DATE)
		change.has_modified_at = sx_tick_newest(reading->snapshot,
												&change.modified_at);
	reading->take(reading->arg, &change);
}

static void
tell_up_to_date(Reading *reading)
{
	SxCursor	cursor = {0};

	cursor.seen = *reading->tight;
	tell_end(reading, SX_CHANGE_UP_TO_DATE, &cursor);
}

static void
tell_more(Reading *reading, const SxSnapshot *seen, const SxSnapshot *target,
		  const SxPosition *position)
{
	SxCursor	cursor = {0};

	cursor.seen = *seen;
	cursor.has_target = true;
	cursor.target = *target;
	cursor.read = *reading->tight;
	cursor.position = *position;
	/* rows told hold changes whose entries come after the cut */
	reading->flush_all = true;
	tell_end(reading, SX_CHANGE_MORE, &cursor);
}

/* ---- keys ---- */

static uint32
hash_key(const void *key, Size size)
{
	MinimalTuple image = ((const KeyHash *) key)->image;

	return hash_bytes((const unsigned char *) image, image->t_len);
}

static int
match_key(const void *a, const void *b, Size size)
{
	MinimalTuple x = ((const KeyHash *) a)->image;
	MinimalTuple y = ((const KeyHash *) b)->image;

	return x->t_len != y->t_len || memcmp(x, y, x->t_len) != 0;
}

static void
make_keys(Reading *reading)
{
	HASHCTL		control;

	memset(&control, 0, sizeof(control));
	control.keysize = sizeof(KeyHash);
	control.entrysize = sizeof(Key);
	control.hash = hash_key;
	control.match = match_key;
	control.hcxt = reading->answer;
	reading->keys = hash_create("sync_ext keys", 128, &control,
								HASH_ELEM | HASH_FUNCTION | HASH_COMPARE |
								HASH_CONTEXT);
}

/* The canonical image of a key: equal images are the same key to a client. */
static MinimalTuple
key_image(Reading *reading, Datum *key)
{
	bool		no_nulls[INDEX_MAX_KEYS] = {false};
	SxTable    *table = reading->table;
	Datum		plain[INDEX_MAX_KEYS];

	for (int i = 0; i < table->nkeys; i++)
		plain[i] = table->keys[i].typlen == -1 ?
			PointerGetDatum(PG_DETOAST_DATUM(key[i])) : key[i];
	return sx_form_minimal_tuple(table->key_row, plain, no_nulls);
}

static Key *
find_key(Reading *reading, Datum *values, bool make)
{
	MemoryContext old = MemoryContextSwitchTo(reading->answer);
	KeyHash		hash;
	Key		   *key;
	bool		found = true;

	hash.image = key_image(reading, values);
	key = hash_search(reading->keys, &hash, make ? HASH_ENTER : HASH_FIND,
					  &found);
	if (make && !found)
	{
		memset((char *) key + sizeof(KeyHash), 0, sizeof(Key) - sizeof(KeyHash));
		key->state = KEY_SILENT;
		ItemPointerSetInvalid(&key->tid);
	}
	else
		pfree(hash.image);
	MemoryContextSwitchTo(old);
	return key;
}

/* ---- exclude ---- */

static void
bad_exclude(const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("malformed exclude"),
			 errdetail("%s", detail),
			 errhint("Give an array of objects, each with the key columns and \"modified_at\".")));
}

static void
read_exclude(Reading *reading)
{
	Jsonb	   *exclude = reading->request->exclude;
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	value;

	if (exclude == NULL)
		return;
	if (!JB_ROOT_IS_ARRAY(exclude) || JB_ROOT_IS_SCALAR(exclude))
		bad_exclude("It is not an array.");

	iterator = JsonbIteratorInit(&exclude->root);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		Datum		values[INDEX_MAX_KEYS];
		Key		   *key;
		char	   *at;

		if (token != WJB_ELEM)
			continue;
		if (value.type != jbvBinary ||
			!JsonContainerIsObject(value.val.binary.data))
			bad_exclude("An element is not an object.");
		sx_rowjson_parse_key(reading->table, value.val.binary.data,
							 "an element of exclude", values);
		at = sx_rowjson_member(value.val.binary.data, "modified_at");
		key = find_key(reading, values, true);
		if (!key->excluded)
			reading->excluded = lappend(reading->excluded, key);
		if (at == NULL)
			bad_exclude("An element lacks \"modified_at\".");
		key->excluded = true;
		key->state = KEY_KNOWN;
		key->excluded_at = DatumGetTimestampTz(
			DirectFunctionCall3(timestamptz_in, CStringGetDatum(at),
								ObjectIdGetDatum(InvalidOid),
								Int32GetDatum(-1)));
	}
}

static bool
is_excluded(Key *key, SxRow *row)
{
	return key->excluded && row->has_modified_at &&
		key->excluded_at == row->modified_at && !key->moved;
}

/* ---- looking up ---- */

static bool
run_was_there(const Run *run)
{
	return run->xid != 0 &&
		(run->net < 0 || (run->net == 0 && !run->entered_first));
}

static bool
run_perhaps_there(const Run *run)
{
	return run->xid != 0 && run->net == 0 && run->entered_first;
}

static bool
was_there(Reading *reading, Key *key)
{
	return key->was_there || reading->table->key_deferrable ||
		run_was_there(&key->run) || run_was_there(&key->cut);
}

static bool
perhaps_there(Key *key)
{
	return key->perhaps_there || run_perhaps_there(&key->run) ||
		run_perhaps_there(&key->cut);
}

/*
 * Whether the client knows already, having made every change itself. Only
 * where the log alone shows that membership did not change: an enter by
 * UPDATE brings a row that the client may never have had, and so may a change
 * of a column that only the filter's other conjuncts look at.
 */
static bool
is_own(Reading *reading, Key *key)
{
	return reading->request->client != NULL && !key->foreign &&
		!key->entered && (key->run.xid != 0 || key->cut.xid != 0) &&
		!reading->policies->residual &&
		(reading->filter == NULL || !reading->filter->residual);
}

/* Whether the user may see the row, if one is given. */
static bool
is_allowed(Reading *reading, SxRow *row)
{
	return reading->rights == NULL ||
		sx_scopes_has(sx_rights_now(reading->rights), row->scopes,
					  row->scope_nulls);
}

/*
 * Whether a later round takes the row's scope back and gives it again. Told
 * here, the row would come before the scope is forgotten.
 */
static bool
comes_later(Reading *reading, SxRow *row)
{
	return reading->later != NULL &&
		sx_scopes_has(reading->later, row->scopes, row->scope_nulls);
}

typedef struct Lookup
{
	Reading    *reading;
	Key		  **keys;
	bool	   *done;
	bool	   *later;			/* not done: a later round may load it */
	bool	   *in_scope;		/* not done: the row is where the log is read */
} Lookup;

static bool
row_in_scope(Reading *reading, SxRow *row)
{
	SxTable    *table = reading->table;
	TupleTableSlot *slot = reading->scope_row;

	ExecClearTuple(slot);
	for (int i = 0; i < table->nkeys; i++)
	{
		slot->tts_values[i] = row->key[i];
		slot->tts_isnull[i] = false;
	}
	for (int i = 0; i < table->nscopes; i++)
	{
		slot->tts_values[table->nkeys + i] = row->scopes[i];
		slot->tts_isnull[table->nkeys + i] = row->scope_nulls[i];
	}
	ExecStoreVirtualTuple(slot);
	/* also where the scan need not ask, because it reads only those scopes */
	if (reading->visible != NULL &&
		!sx_scopes_has(reading->visible, row->scopes, row->scope_nulls))
		return false;
	return sx_logscan_passes(reading->scan, slot);
}

static bool
take_looked_up(void *arg, SxRow *row)
{
	Lookup	   *lookup = arg;
	Reading    *reading = lookup->reading;
	Key		   *key = lookup->keys[row->ord];
	MinimalTuple image = key_image(reading, row->key);
	bool		same = image->t_len == key->hash.image->t_len &&
		memcmp(image, key->hash.image, image->t_len) == 0;

	heap_free_minimal_tuple(image);

	/* 'a' = 'A' may hold, but a client tells them apart */
	if (!same)
		return true;
	if (row->selected && is_allowed(reading, row) && comes_later(reading, row))
	{
		lookup->later[row->ord] = true;
		return true;
	}
	if (!row->selected || !is_allowed(reading, row))
	{
		if (reading->scan != NULL && !row->deleted &&
			(perhaps_there(key) || key->cut.xid != 0))
			lookup->in_scope[row->ord] = row_in_scope(reading, row);
		return true;
	}
	lookup->done[row->ord] = true;
	if (is_own(reading, key) || is_excluded(key, row))
	{
		key->state = KEY_SILENT;
		return true;
	}
	key->state = KEY_TOLD;
	tell_upsert(reading, row);
	return true;
}

/*
 * Looks a list of keys up. "take" gets the lookup, and notes there which keys
 * are done with. Returns the values of the keys, in the current context.
 */
static Datum **
look_up(Reading *reading, List *keys, SxTakeRow take, Lookup *lookup)
{
	int			n = list_length(keys);
	Datum	  **values = palloc(sizeof(Datum *) * n);
	ItemPointer *tids;
	ListCell   *cell;
	int			i = 0;

	lookup->reading = reading;
	lookup->keys = palloc(sizeof(Key *) * n);
	lookup->done = palloc0(sizeof(bool) * n);
	lookup->later = palloc0(sizeof(bool) * n);
	lookup->in_scope = palloc0(sizeof(bool) * n);
	tids = palloc(sizeof(ItemPointer) * n);
	foreach(cell, keys)
	{
		lookup->keys[i] = lfirst(cell);
		values[i] = palloc(sizeof(Datum) * reading->table->nkeys);
		image_values(reading, lookup->keys[i]->hash.image, values[i]);
		tids[i] = &lookup->keys[i]->tid;
		i++;
	}
	sx_rows_lookup(reading->table, reading->filter, reading->params, n, values,
				   tids, take, lookup);
	return values;
}

/*
 * Whether what was passed over of a transaction may say something else of the
 * key than what was seen of it.
 */
static bool
is_undecided(Reading *reading, Key *key)
{
	uint32		other = key->cut.entered_first ? SX_PASSED_OTHERS :
		SX_PASSED_ENTERS;

	return key->cut.xid != 0 && !key->cut_is_whole &&
		(reading->began.passed & other) != 0;
}

static void
count_run(Run *run, const SxLogItem *item)
{
	bool		enters = item->op == SX_OP_INSERT || item->op == SX_OP_ENTER;
	bool		leaves = item->op == SX_OP_DELETE || item->op == SX_OP_LEAVE;

	if (run->xid == 0)
	{
		run->xid = item->position.xid;
		run->scan = item->position.scan;
		run->entered_first = enters;
	}
	run->net += enters ? 1 : leaves ? -1 : 0;
}

static bool
is_before_cut(Reading *reading, const SxPosition *position)
{
	const SxPosition *began = &reading->began;

	return position->scan == began->scan && position->xid == began->xid &&
		(position->seq < began->seq ||
		 (position->seq == began->seq && position->item < began->item));
}

/* Reads what the page has passed over of the transaction that it cuts. */
static void
read_passed(Reading *reading, List *keys)
{
	SxPosition	start = {.kind = SX_POSITION_LOG};
	SxLogItem  *item;
	ListCell   *cell;

	start.scan = reading->began.scan;
	start.xid = reading->began.xid;
	sx_logscan_own(reading->scan, start.xid, &start);
	while ((item = sx_logscan_next(reading->scan)) != NULL &&
		   is_before_cut(reading, &item->position))
	{
		Key		   *key = find_key(reading, item->key, false);

		if (key != NULL && key->wants_passed)
			count_run(&key->passed, item);
	}
	foreach(cell, keys)
	{
		Key		   *key = lfirst(cell);

		key->wants_passed = false;
		key->cut_is_whole = true;
		if (key->passed.xid == 0)
			continue;
		key->cut.net += key->passed.net;
		key->cut.entered_first = key->passed.entered_first;
	}
}

/* Of the keys that were looked up and are not selected. */
static void
decide_cut(Reading *reading, Lookup *lookup, int n)
{
	List	   *keys = NIL;

	for (int i = 0; i < n; i++)
	{
		Key		   *key = lookup->keys[i];

		if (lookup->done[i] || key->excluded || key->was_there ||
			run_was_there(&key->run) || !is_undecided(reading, key))
			continue;
		key->wants_passed = true;
		keys = lappend(keys, key);
	}
	if (keys != NIL)
		read_passed(reading, keys);
}

/* The key is gone from where it was; the answer keeps a place for that. */
static void
leave(Reading *reading, Key *key)
{
	MemoryContext old = MemoryContextSwitchTo(reading->answer);

	key->state = KEY_LEFT;
	reading->left = lappend(reading->left, key);
	reading->told++;
	MemoryContextSwitchTo(old);
}

/* Looks the pending keys up and tells what has to be told. */
static void
resolve(Reading *reading)
{
	int			n = list_length(reading->pending);
	Lookup		lookup;
	Datum	  **values;
	MemoryContext context;
	MemoryContext old;

	if (n == 0)
		return;
	context = AllocSetContextCreate(CurrentMemoryContext, "sync_ext lookup",
									ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	values = look_up(reading, reading->pending, take_looked_up, &lookup);
	decide_cut(reading, &lookup, n);

	for (int i = 0; i < n; i++)
	{
		Key		   *key = lookup.keys[i];

		if (lookup.done[i])
			continue;
		if (lookup.in_scope[i] && perhaps_there(key))
			key->was_there = true;
		key->state = KEY_SILENT;
		if (!key->excluded &&
			(!was_there(reading, key) ||
			 (is_own(reading, key) && key->own_delete)))
			continue;
		if (lookup.later[i])
		{
			leave(reading, key);
			continue;
		}
		key->state = KEY_TOLD;
		tell_remove(reading, values[i]);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	list_free(reading->pending);
	reading->pending = NIL;
}

/* ---- gathering keys from the log ---- */

/* Whether the page began in the midst of this transaction. */
static bool
is_cut(Reading *reading, const SxPosition *position)
{
	return reading->began.passed != 0 && position->xid == reading->began.xid &&
		position->scan == reading->began.scan;
}

static void
count_entry(Reading *reading, Key *key, SxLogItem *item)
{
	const char *client = reading->request->client;
	bool		enters = item->op == SX_OP_INSERT || item->op == SX_OP_ENTER;
	bool		leaves = item->op == SX_OP_DELETE || item->op == SX_OP_LEAVE;
	bool		rights_changed = reading->rights != NULL &&
		sx_rights_touched(reading->rights)->n > 0;
	bool		own = client != NULL && item->origin != NULL &&
		strcmp(item->origin, client) == 0;

	if (is_cut(reading, &item->position))
		count_run(&key->cut, item);
	else
	{
		if (key->run.xid != item->position.xid ||
			key->run.scan != item->position.scan)
		{
			key->was_there = key->was_there || run_was_there(&key->run);
			key->perhaps_there = key->perhaps_there ||
				run_perhaps_there(&key->run);
			memset(&key->run, 0, sizeof(Run));
		}
		count_run(&key->run, item);
	}
	if (ItemPointerIsValid(&item->tid))
		key->tid = item->tid;
	key->foreign = key->foreign || !own;
	key->entered = key->entered || item->op == SX_OP_ENTER;
	/* it may have left where a revocation keeps the log from being read */
	key->moved = key->moved || item->op == SX_OP_ENTER || leaves ||
		(rights_changed && enters);
	key->own_delete = item->op == SX_OP_DELETE && own;
}

typedef enum GatherResult
{
	GATHER_END,					/* the log holds no more */
	GATHER_BATCH,				/* keys enough for now; resolve, and go on */
	GATHER_CUT					/* the page may examine no more */
} GatherResult;

static int64
examined_bound(int max_rows)
{
	return Max((int64) EXAMINED_AT_LEAST, (int64) max_rows * EXAMINED_PER_ROW);
}

static void
note_passed(Reading *reading, const SxLogItem *item)
{
	SxPosition *last = &reading->last;

	if (last->xid != item->position.xid || last->scan != item->position.scan)
	{
		last->xid = item->position.xid;
		last->scan = item->position.scan;
		last->passed = 0;
	}
	last->passed |= item->op == SX_OP_INSERT || item->op == SX_OP_ENTER ?
		SX_PASSED_ENTERS : SX_PASSED_OTHERS;
}

/*
 * Collects pending keys from the scan, as many as there is room for. "next" is
 * where to go on.
 */
static GatherResult
gather(Reading *reading, SxPosition *next)
{
	int			max_rows = reading->request->max_rows;
	int			room = max_rows == 0 ? LOOKUP_BATCH :
		Min(LOOKUP_BATCH, max_rows - reading->told);
	int			npending = 0;
	SxLogItem  *item;
	MemoryContext old;

	while ((item = sx_logscan_next(reading->scan)) != NULL)
	{
		Key		   *key = find_key(reading, item->key, true);

		if (key->state == KEY_TOLD || key->state == KEY_LEFT)
		{
			/* the row that is told may hold this change, too */
			note_xid(reading, item->position.xid);
			note_passed(reading, item);
			continue;
		}
		if ((key->state != KEY_PENDING && npending >= room) ||
			(max_rows > 0 && reading->examined >= examined_bound(max_rows)))
		{
			*next = item->position;
			next->passed = next->xid == reading->last.xid &&
				next->scan == reading->last.scan ? reading->last.passed : 0;
			return reading->examined >= examined_bound(max_rows) &&
				max_rows > 0 ? GATHER_CUT : GATHER_BATCH;
		}
		reading->examined++;
		note_xid(reading, item->position.xid);
		note_passed(reading, item);
		count_entry(reading, key, item);
		if (key->state == KEY_PENDING)
			continue;
		key->state = KEY_PENDING;
		npending++;
		old = MemoryContextSwitchTo(reading->answer);
		reading->pending = lappend(reading->pending, key);
		MemoryContextSwitchTo(old);
	}
	return GATHER_END;
}

/*
 * The place of a scope in the user's list is good for this answer only; in a
 * cursor the scope is named. One that is not there any more is passed over.
 */
static void
name_scope(Reading *reading, SxPosition *position)
{
	SxTable    *table = reading->table;

	position->nkeys = 0;
	if (!reading->by_visible || position->scan >= reading->visible->n)
		return;
	position->nkeys = table->nscopes;
	position->keys = sx_textform_print(table->nscopes, table->scopes,
									   sx_scopes_at(reading->visible,
													position->scan));
}

static void
find_scope(Reading *reading, SxPosition *position)
{
	SxTable    *table = reading->table;
	bool		found;

	if (!reading->by_visible || position->nkeys != table->nscopes)
		return;
	position->scan = sx_scopes_place(reading->visible,
									 sx_textform_parse(table->nscopes,
													   table->scopes,
													   position->keys),
									 &found);
	if (found)
		return;
	position->xid = 0;
	position->seq = 0;
	position->item = 0;
	position->passed = 0;
}

/*
 * Tells the changes between two snapshots, or the reader's own when target is
 * NULL, from a position on. False when the page was cut, at "next".
 */
static bool
read_log(Reading *reading, const SxSnapshot *seen, const SxSnapshot *target,
		 const SxPosition *from, SxPosition *next)
{
	SxPosition	position = {0};

	if (from != NULL && from->kind != SX_POSITION_NONE)
	{
		position = *from;
		find_scope(reading, &position);
	}
	reading->began = position;
	reading->last = position;
	for (;;)
	{
		GatherResult result;

		if (target != NULL)
			sx_logscan_between(reading->scan, seen, target, &position);
		else
			sx_logscan_own(reading->scan, reading->own, &position);
		result = gather(reading, &position);
		resolve(reading);
		if (result == GATHER_END)
			return true;
		position.kind = target != NULL ? SX_POSITION_LOG : SX_POSITION_OWN;
		if (result == GATHER_CUT ||
			(reading->request->max_rows > 0 &&
			 reading->told >= reading->request->max_rows))
		{
			name_scope(reading, &position);
			*next = position;
			return false;
		}
	}
}

/* ---- loads ---- */

static bool
take_loaded(void *arg, SxRow *row)
{
	Reading    *reading = arg;
	int			max_rows = reading->request->max_rows;
	Key		   *key = NULL;
	bool		remember = reading->catching_up || reading->granting;

	if (max_rows > 0 && reading->told >= max_rows)
	{
		reading->load_cut = true;
		return false;
	}
	reading->load_rows++;
	/* a view that has no document for the row does not select it */
	if (reading->excluded != NIL || remember)
		key = find_key(reading, row->key, remember);
	if (row->selected && key != NULL && key->state == KEY_LEFT)
		reading->told--;
	if (row->selected && (key == NULL || reading->after_reset ||
						  reading->granting || !is_excluded(key, row)))
		tell_upsert(reading, row);
	/* a named key that is not selected is looked at again in the end */
	if (row->selected ? key != NULL :
		remember && !key->excluded && key->state != KEY_LEFT)
		key->state = KEY_TOLD;
	if (max_rows > 0)
	{
		MemoryContext old = MemoryContextSwitchTo(reading->answer);

		if (reading->last_loaded != NULL)
			heap_free_minimal_tuple(reading->last_loaded);
		reading->last_loaded = key_image(reading, row->key);
		MemoryContextSwitchTo(old);
	}
	return true;
}

/* Makes a position of the last key that was examined. */
static void
note_loaded(Reading *reading)
{
	Datum		values[INDEX_MAX_KEYS];

	if (reading->last_loaded == NULL)
		return;
	image_values(reading, reading->last_loaded, values);
	sx_rows_position(reading->table, values, &reading->loaded);
}

/*
 * Loads rows of some scopes (NULL: all) after the position in reading->loaded,
 * which is moved on. False when the page was cut.
 */
static bool
load_rows(Reading *reading, const SxScopes *scopes)
{
	int			max_rows = reading->request->max_rows;

	/*
	 * Rows that exclude leaves out, or a view hides, do not count: a page may
	 * take more than one query.
	 */
	for (;;)
	{
		int			limit = max_rows == 0 ? 0 :
			Max(max_rows - reading->told, 0) + 1;

		reading->load_rows = 0;
		sx_rows_load(reading->table, reading->filter, reading->params, scopes,
					 reading->loaded.nkeys > 0 ? &reading->loaded : NULL,
					 limit, take_loaded, reading);
		note_loaded(reading);
		if (reading->load_cut)
			return false;
		if (limit == 0 || reading->load_rows < limit)
			return true;
	}
}

/*
 * Loads rows after a position, all of them where that is NULL. False when the
 * page was cut.
 */
static bool
read_load(Reading *reading, const SxPosition *after)
{
	reading->flush_all = true;
	if (after != NULL)
	{
		reading->loaded = *after;
		reading->after_reset = after->scan == 1;
	}
	reading->loaded.kind = SX_POSITION_LOAD;
	reading->loaded.scan = reading->after_reset ? 1 : 0;
	return load_rows(reading, reading->visible);
}

/* ---- named keys ---- */

static bool
take_named(void *arg, SxRow *row)
{
	Lookup	   *lookup = arg;
	Key		   *key = lookup->keys[row->ord];
	MinimalTuple image = key_image(lookup->reading, row->key);

	if (row->selected && is_allowed(lookup->reading, row) &&
		image->t_len == key->hash.image->t_len &&
		memcmp(image, key->hash.image, image->t_len) == 0)
		lookup->done[row->ord] = true;
	heap_free_minimal_tuple(image);
	return true;
}

/* Tells removes of those keys that are not selected. */
static void
remove_unselected(Reading *reading, List *keys)
{
	Lookup		lookup;
	Datum	  **values = look_up(reading, keys, take_named, &lookup);

	for (int i = 0; i < list_length(keys); i++)
	{
		if (lookup.done[i])
			continue;
		/* nobody knows when it went */
		reading->flush_all = true;
		lookup.keys[i]->state = KEY_TOLD;
		tell_remove(reading, values[i]);
	}
}

/*
 * Looks up what exclude names, but for keys that this answer has told, or will
 * tell as left.
 */
static void
tell_named(Reading *reading)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "sync_ext named keys",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	ListCell   *cell;
	List	   *keys = NIL;

	foreach(cell, reading->excluded)
	{
		Key		   *key = lfirst(cell);

		if (key->state == KEY_TOLD || key->state == KEY_LEFT)
			continue;
		keys = lappend(keys, key);
		if (list_length(keys) < LOOKUP_BATCH)
			continue;
		remove_unselected(reading, keys);
		keys = NIL;
		MemoryContextReset(context);
	}
	if (keys != NIL)
		remove_unselected(reading, keys);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/* ---- grants and revocations ---- */

/* Tells scopes to forget; false when the page was cut. */
static bool
tell_forgets(Reading *reading, const SxScopes *scopes, const SxPosition *from,
			 SxPosition *next)
{
	SxTable    *table = reading->table;
	int			max_rows = reading->request->max_rows;
	int			place = 0;
	bool		found;

	if (from->phase == SX_PHASE_FORGET && from->nkeys > 0)
	{
		place = sx_scopes_place(scopes,
								sx_textform_parse(table->nscopes, table->scopes,
												  from->keys), &found);
		place += found ? 1 : 0;
	}
	*next = *from;
	for (; place < scopes->n; place++)
	{
		if (max_rows > 0 && reading->told >= max_rows)
			return false;
		tell_forget(reading, sx_scopes_at(scopes, place));
		next->nkeys = table->nscopes;
		next->keys = sx_textform_print(table->nscopes, table->scopes,
									   sx_scopes_at(scopes, place));
	}
	reading->forgotten = reading->forgotten == NULL ? scopes :
		sx_scopes_union(reading->forgotten, scopes);
	return true;
}

/* Tells the rows of scopes that were gained; false when the page was cut. */
static bool
tell_granted(Reading *reading, const SxScopes *scopes, const SxPosition *from,
			 SxPosition *next)
{
	bool		done;

	if (scopes->n == 0)
		return true;
	memset(&reading->loaded, 0, sizeof(SxPosition));
	if (from->phase == SX_PHASE_GRANTED)
		reading->loaded = *from;
	reading->last_loaded = NULL;
	reading->load_cut = false;
	reading->granting = true;
	done = load_rows(reading, scopes);
	reading->granting = false;
	*next = reading->loaded;
	return done;
}

/*
 * What grants and revocations did in a round: of transactions between two
 * snapshots, or of the reader's own when target is NULL. False when the page
 * was cut, at "next".
 */
static bool
tell_rights(Reading *reading, const SxSnapshot *seen, const SxSnapshot *target,
			const SxPosition *from, SxPosition *next)
{
	SxPosition	start = {.phase = SX_PHASE_FORGET};
	SxGrants   *grants;

	reading->later = NULL;
	if (reading->rights == NULL || !reading->access->is_table ||
		sx_rights_touched(reading->rights)->n == 0)
		return true;
	reading->later = sx_rights_touched_later(reading->rights, target);
	if (from != NULL && from->kind != SX_POSITION_NONE)
	{
		if (from->phase == SX_PHASE_ENTRIES)
			return true;
		start = *from;
	}
	start.kind = target != NULL ? SX_POSITION_LOG : SX_POSITION_OWN;
	start.xid = target != NULL ? 0 : reading->own;

	reading->flush_all = true;
	grants = sx_rights_round(reading->rights, seen, target, reading->later,
							 reading->may_hold_more);
	if (reading->forgotten != NULL)
		grants->forget = sx_scopes_without(grants->forget, reading->forgotten);
	if (start.phase == SX_PHASE_FORGET &&
		!tell_forgets(reading, grants->forget, &start, next))
		return false;
	if (!tell_granted(reading, grants->load, &start, next))
	{
		next->kind = start.kind;
		next->phase = SX_PHASE_GRANTED;
		next->xid = start.xid;
		return false;
	}
	return true;
}

/* ---- the cursor ---- */

static const SxReset rights_changed = {
	"access",
	"What the user may see has changed.",
	"Load anew. An access relation that is a table tells what has changed; a view cannot."
};

/* What the client has seen for sure: up to there it need not be told. */
static const SxSnapshot *
base_of(const SxCursor *cursor)
{
	return cursor->position.kind == SX_POSITION_LOAD ? &cursor->target :
		&cursor->seen;
}

/* Whether the position can be one of this question. */
static bool
is_position(Reading *reading, const SxCursor *cursor)
{
	const SxPosition *position = &cursor->position;
	bool		by_key = position->kind == SX_POSITION_LOAD ||
		position->phase == SX_PHASE_GRANTED;

	if (position->kind == SX_POSITION_NONE)
		return true;
	if (!cursor->has_target ||
		(reading->access == NULL && position->phase != SX_PHASE_ENTRIES))
		return false;
	return position->nkeys == 0 ||
		position->nkeys == (by_key ? reading->table->nkeys :
							reading->table->nscopes);
}

/* Whether the log and the history reach back to the cursor; else why not. */
static const SxReset *
check_cursor(Reading *reading, SxCursor *cursor)
{
	const SxReset *reset = sx_validity_of_cursor(cursor, reading->snapshot);
	const SxSnapshot *base;

	if (reset != NULL)
		return reset;
	if (cursor->question != 0 && cursor->question != reading->question)
		return &sx_reset_other_question;
	if (!is_position(reading, cursor))
		return &sx_reset_other_question;
	base = base_of(cursor);
	sx_validity_check_snapshot(reading->now, base);
	if (cursor->has_target)
	{
		sx_validity_check_snapshot(reading->now, &cursor->target);
		sx_validity_check_snapshot(reading->now, &cursor->read);
	}
	reset = sx_validity_of_log(reading->table, base, reading->snapshot,
							   reading->now, reading->own);
	if (reset == NULL && reading->access != NULL && reading->access->is_table)
		reset = sx_validity_of_log(reading->access->table, base,
								   reading->snapshot, reading->now,
								   reading->own);
	return reset;
}

/* Whether a finished transaction is in "now" that "seen" lacks. */
static bool
nothing_finished(Reading *reading, const SxSnapshot *seen)
{
	if (reading->tight->xmax > seen->xmax)
		return false;
	for (int i = 0; i < seen->nxip; i++)
		if (sx_snapshot_has(reading->now, seen->xip[i]))
			return false;
	return true;
}

static uint64
question_of(Reading *reading)
{
	StringInfoData text;
	uint64		hash;

	initStringInfo(&text);
	appendStringInfo(&text, "%u %s", reading->table->root,
					 reading->filter == NULL ? "" : reading->filter->sql);
	/* by value: what 'today' means changes */
	for (int i = 0; reading->params != NULL && i < reading->params->numParams; i++)
	{
		ParamExternData *param = &reading->params->params[i];
		int16		typlen;
		bool		typbyval;

		get_typlenbyval(param->ptype, &typlen, &typbyval);
		appendStringInfo(&text, " %u %d %u", param->ptype, param->isnull,
						 param->isnull ? 0 :
						 datum_image_hash(param->value, typbyval, typlen));
	}
	if (reading->access != NULL)
		appendStringInfo(&text, " for %u.%s %s", reading->access->via,
						 reading->access->user_column,
						 reading->request->user_id);
	appendStringInfoString(&text, reading->policies->text);
	hash = hash_bytes_extended((unsigned char *) text.data, text.len, 0);
	return hash == 0 ? 1 : hash;
}

/* ---- an answer ---- */

/* What the user may see, and what of it has changed since "seen". */
static void
read_rights(Reading *reading, const SxSnapshot *seen)
{
	if (reading->access == NULL)
		return;
	reading->rights = sx_access_read(reading->access, reading->user, seen,
									 reading->snapshot, reading->now,
									 reading->own);
	reading->visible = sx_scopes_without(sx_rights_now(reading->rights),
										 sx_rights_touched(reading->rights));
}

static SxLogScan *
make_scan(Reading *reading, bool by_visible)
{
	return sx_logscan_begin(reading->table, reading->filter,
							reading->policies->quals, reading->params, reading->visible, by_visible,
							reading->snapshot, reading->now);
}

/*
 * A user's scopes are looked up one by one in the log's index, unless they are
 * more than there are entries to look at. A page goes on as it began.
 */
static void
begin_scan(Reading *reading, const SxSnapshot *seen, const SxPosition *from)
{
	bool		by_filter = reading->filter != NULL && reading->filter->by_scope;
	bool		resumed = from != NULL && from->kind != SX_POSITION_NONE &&
		from->phase == SX_PHASE_ENTRIES;

	if (reading->visible == NULL || by_filter)
		reading->scan = make_scan(reading, false);
	else if (resumed || reading->visible->n <= FEW_SCOPES)
	{
		reading->by_visible = !resumed || from->nkeys > 0;
		reading->scan = make_scan(reading, reading->by_visible);
	}
	else
	{
		reading->scan = make_scan(reading, false);
		reading->by_visible = !sx_logscan_is_short(reading->scan, seen,
												   reading->tight,
												   reading->visible->n);
		if (reading->by_visible)
		{
			sx_logscan_end(reading->scan);
			reading->scan = make_scan(reading, true);
		}
	}
	reading->scope_row = sx_logscan_row(reading->scan);
}

/* One round: rights, then the log. False when the page was cut, at "next". */
static bool
read_round(Reading *reading, const SxSnapshot *seen, const SxSnapshot *target,
		   const SxPosition *from, SxPosition *next)
{
	if (!tell_rights(reading, seen, target, from, next))
		return false;
	if (from != NULL && from->phase != SX_PHASE_ENTRIES)
		from = NULL;
	return read_log(reading, seen, target, from, next);
}

/*
 * A round goes by what is touched since its own beginning: what the one before
 * has loaded, perhaps pages ago, is told by its log from there on.
 */
static void
begin_round(Reading *reading, const SxSnapshot *seen, const SxPosition *from)
{
	if (reading->scan != NULL)
	{
		if (reading->access == NULL || !reading->access->is_table)
			return;
		read_rights(reading, seen);
		sx_logscan_end(reading->scan);
	}
	begin_scan(reading, seen, from);
}

/*
 * Tells what is new to "seen", phase by phase: up to the target of a page cut
 * earlier, up to now, and the reader's own.
 */
static void
tell_changes(Reading *reading, const SxSnapshot *seen,
			 const SxSnapshot *target, const SxPosition *from)
{
	SxPosition	next = {0};

	begin_round(reading, seen, from);
	if (target != NULL)
	{
		reading->flush_all = true;
		if (!read_round(reading, seen, target, from, &next))
		{
			tell_more(reading, seen, target, &next);
			return;
		}
		seen = target;
		from = NULL;
		begin_round(reading, seen, NULL);
	}
	/*
	 * Also where the page was cut in the reader's own changes: others may have
	 * committed since, and the answer ends with a cursor that has seen them.
	 */
	if (!read_round(reading, seen, reading->tight, NULL, &next))
	{
		tell_more(reading, seen, reading->tight, &next);
		return;
	}
	if (reading->own != 0)
	{
		/* a position in a transaction that is over says nothing */
		if (from != NULL && (from->kind != SX_POSITION_OWN ||
							 from->xid != reading->own))
			from = NULL;
		begin_round(reading, reading->tight, from);
		if (!read_round(reading, reading->tight, NULL, from, &next))
		{
			tell_more(reading, reading->tight, reading->tight, &next);
			return;
		}
	}
	tell_named(reading);
	tell_up_to_date(reading);
}

static void
tell_load(Reading *reading, const SxCursor *cursor)
{
	const SxSnapshot *target = cursor == NULL ? reading->tight : &cursor->target;

	reading->catching_up = cursor != NULL;
	if (!read_load(reading, cursor == NULL ? NULL : &cursor->position))
	{
		tell_more(reading, target, target, &reading->loaded);
		return;
	}
	if (cursor != NULL)
	{
		tell_changes(reading, target, NULL, NULL);
		return;
	}
	tell_named(reading);
	tell_up_to_date(reading);
}

/* The newest transaction in a table's log, or that left a marker for it. */
static uint64
newest_of(Reading *reading, SxTable *table, uint64 low)
{
	uint64		newest = sx_logscan_newest(table->log, table->log_by_xid,
										   reading->snapshot, reading->now,
										   low);
	uint64		newest_marker = sx_logscan_newest_marker(table->root,
														 reading->snapshot,
														 reading->now, low);

	if (newest != 0)
		note_xid(reading, newest);
	if (newest_marker != 0)
		note_xid(reading, newest_marker);
	return Max(newest, newest_marker);
}

/*
 * The tight snapshot of S for this question: it ends at the newest transaction
 * that logged a change or left a marker, and never before "low", up to which
 * somebody has looked already.
 */
static void
tighten(Reading *reading, uint64 low)
{
	uint64		newest = newest_of(reading, reading->table, low);

	if (reading->access != NULL && reading->access->is_table)
		newest = Max(newest, newest_of(reading, reading->access->table, low));
	reading->tight = sx_snapshot_below(reading->now, Max(newest + 1, low));
}

static uint64
pruned_below(Reading *reading)
{
	uint64		pruned = sx_logscan_pruned_below(reading->table->root,
												 reading->snapshot);

	if (reading->access != NULL && reading->access->is_table)
		pruned = Max(pruned,
					 sx_logscan_pruned_below(reading->access->table->root,
											 reading->snapshot));
	return pruned;
}

static void
answer(Reading *reading, SxCursor *cursor)
{
	const SxReset *reset = NULL;
	bool		is_view = reading->access != NULL && !reading->access->is_table;
	uint64		low = pruned_below(reading);

	if (cursor != NULL)
		reset = check_cursor(reading, cursor);
	if (is_view)
	{
		read_rights(reading, NULL);
		if (cursor != NULL && reset == NULL &&
			cursor->rights != sx_rights_hash(reading->rights))
			reset = &rights_changed;
	}
	if (cursor == NULL || reset != NULL)
	{
		tighten(reading, low);
		if (reset != NULL)
		{
			/*
			 * Rows may say something else by now with the same modified_at (a
			 * new column, a truncated detail), so exclude leaves none out.
			 */
			reading->after_reset = true;
			tell_reset(reading, reset);
		}
		if (!is_view)
			read_rights(reading, NULL);
		if (reading->request->only_cursor)
		{
			reading->flush_all = true;
			tell_up_to_date(reading);
			return;
		}
		tell_load(reading, NULL);
		return;
	}

	low = Max(cursor->seen.xmax, low);
	if (cursor->has_target)
		low = Max(low, Max(cursor->target.xmax, cursor->read.xmax));
	tighten(reading, low);
	if (!cursor->has_target && reading->own == 0 &&
		reading->excluded == NIL && nothing_finished(reading, &cursor->seen))
	{
		tell_up_to_date(reading);
		return;
	}
	if (!is_view)
		read_rights(reading, base_of(cursor));
	/*
	 * A grant that is new to the cursor may have been shown: to who keeps a
	 * time, which is a little older than what it came with, and to who asked
	 * in the transaction that made it. Then the client holds rows of that
	 * scope that may be gone by now.
	 */
	reading->may_hold_more = cursor->is_time || cursor->question == 0 ||
		(!is_view && cursor->rights != 0);
	if (cursor->position.kind == SX_POSITION_LOAD)
		tell_load(reading, cursor);
	else
		tell_changes(reading, &cursor->seen,
					 cursor->position.kind == SX_POSITION_LOG ?
					 &cursor->target : NULL, &cursor->position);
}

void
sx_changes_read(const SxRequest *request, SxTakeChange take, void *arg)
{
	Reading		reading = {0};
	SxCursor   *cursor = NULL;
	MemoryContext old;

	/* What waits in memory belongs to what this transaction has done. */
	sx_capture_flush();

	reading.answer = AllocSetContextCreate(CurrentMemoryContext,
										   "sync_ext answer",
										   ALLOCSET_DEFAULT_SIZES);
	reading.change = AllocSetContextCreate(reading.answer, "sync_ext change",
										   ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(reading.answer);

	reading.request = request;
	reading.take = take;
	reading.arg = arg;
	reading.table = sx_tracked_by_domain(request->domain);
	sx_rows_check_privileges(reading.table);
	if (request->user_id != NULL)
	{
		reading.access = sx_access_for(reading.table, request->user_id);
		reading.user = sx_access_user(reading.access, request->user_id);
	}
	if (request->filter != NULL)
		reading.filter = sx_filter_get(reading.table, request->filter);
	reading.params = sx_filter_params(reading.filter, request->params);
	/* where the word of the server decides, policies need not */
	reading.policies = sx_policy_read(reading.table,
									  request->since != NULL &&
									  request->user_id == NULL);
	reading.question = question_of(&reading);

	reading.snapshot = GetActiveSnapshot();
	reading.now = sx_snapshot_of(reading.snapshot);
	reading.own = sx_own_xid();
	if (reading.own != 0)
		sx_capture_note_read();
	if (request->since != NULL)
		cursor = sx_cursor_decode(request->since);
	make_keys(&reading);
	read_exclude(&reading);

	answer(&reading, cursor);

	if (reading.scan != NULL)
		sx_logscan_end(reading.scan);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(reading.answer);
}

/* ---- SQL ---- */

typedef struct Rows
{
	Tuplestorestate *store;
	TupleDesc	desc;
} Rows;

static void
put_change(void *arg, const SxChange *change)
{
	Rows	   *result = arg;
	Datum		values[5] = {0};
	bool		nulls[5];

	values[0] = CStringGetTextDatum(sx_change_name(change->kind));
	nulls[0] = false;
	nulls[1] = change->key == NULL;
	values[1] = PointerGetDatum(change->key);
	nulls[2] = change->data == NULL;
	values[2] = PointerGetDatum(change->data);
	nulls[3] = !change->has_modified_at;
	values[3] = TimestampTzGetDatum(change->modified_at);
	nulls[4] = change->cursor == NULL;
	values[4] = PointerGetDatum(change->cursor);
	tuplestore_putvalues(result->store, result->desc, values, nulls);
}

static char *
text_argument(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(n));
}

Datum
sync_ext_changes(PG_FUNCTION_ARGS)
{
	SxRequest	request = {0};
	ReturnSetInfo *set = (ReturnSetInfo *) fcinfo->resultinfo;
	Rows		result;

	sx_init_materialized_result(fcinfo);
	result.store = set->setResult;
	result.desc = set->setDesc;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("domain must not be null"),
				 errhint("sync.tracked lists the domains.")));
	request.domain = text_argument(fcinfo, 0);
	request.since = PG_ARGISNULL(1) ? NULL : PG_GETARG_BYTEA_PP(1);
	request.filter = text_argument(fcinfo, 2);
	request.params = PG_ARGISNULL(3) ? NULL : PG_GETARG_ARRAYTYPE_P(3);
	request.user_id = text_argument(fcinfo, 4);
	request.client = text_argument(fcinfo, 5);
	request.exclude = PG_ARGISNULL(6) ? NULL : PG_GETARG_JSONB_P(6);
	if (!PG_ARGISNULL(7))
	{
		request.max_rows = PG_GETARG_INT32(7);
		if (request.max_rows < 1)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("max_rows must be at least 1"),
					 errdetail("It is %d.", request.max_rows),
					 errhint("Leave it out to get everything at once.")));
	}
	sx_changes_read(&request, put_change, &result);
	return (Datum) 0;
}

/*
 * sync.current_cursor(): all that is visible now counts as seen, whatever the
 * question. So the newest transaction of any log counts.
 */
Datum
sync_ext_current_cursor(PG_FUNCTION_ARGS)
{
	SxCursor	cursor = {0};
	SxDurable	durable = {0};
	Snapshot	snapshot;
	SxSnapshot *now;
	uint64		newest;

	sx_capture_flush();
	snapshot = GetActiveSnapshot();
	now = sx_snapshot_of(snapshot);
	newest = sx_logscan_newest_of_all(snapshot, now);
	if (newest > 0)
		sx_durable_note(&durable, newest);
	sx_durable_flush(&durable, false);
	cursor.seen = *sx_snapshot_below(now, newest + 1);
	cursor.generation = sx_catalog_get()->generation_id;
	cursor.lsn = sx_wal_position(&cursor.timeline);
	PG_RETURN_BYTEA_P(sx_cursor_encode(&cursor));
}
