/*-------------------------------------------------------------------------
 *
 * watch.c
 *		What the statements of a push do to tracked rows.
 *
 * The capture trigger sees every row that changes, with its old and its new
 * version: those that a mutation is for, those that a cascade touches, those
 * that somebody's trigger changes beside. So it is asked, and no RETURNING,
 * for which the caller might lack the right to read.
 *
 * Three things come of it. The final modified_at of every row. Whether a row
 * is now what its author holds, or has to be told: as it was not written as
 * sent, or some trigger changed it beside, before or after. And which versions of a row
 * came about by the push itself: an edit that rests on the version before
 * those is no conflict. That holds for a row that a cascade touched, too, as
 * long as nobody else changed it in between: the trigger sees the old version,
 * and it must be the one that the chain of our own ended with.
 *
 * Events are a list, each pointing to the one before of the same row; going
 * back to a mark undoes what a failed subtransaction did.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "executor/tuptable.h"
#include "utils/datum.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "sync_ext.h"
#include "capture.h"
#include "watch.h"

typedef struct RowId
{
	uint64		key_hash;
	Oid			root;
	uint32		unused;			/* so that all bytes are set */
} RowId;

typedef struct Head
{
	RowId		row;			/* hash key */
	int			event;			/* the newest, or -1 */
} Head;

typedef struct Event
{
	SxWatched	watched;
	int			before;			/* of the same row, or -1 */
} Event;

struct SxWatch
{
	MemoryContext context;
	HTAB	   *heads;
	Event	   *events;
	int			nevents;
	int			room;

	/* the statement that runs */
	CommandId	command;
	SxMutation **mutations;
	int			nmutations;
	int			next;			/* the one that comes probably next */
	Oid			leaf;			/* whose columns "map" is for */
	AttrNumber *map;			/* of the root's columns */
};

static SxWatch *watch = NULL;

static void watch_change(SxTable *table, TriggerData *trigger);

SxWatch *
sx_watch_begin(void)
{
	SxWatch    *before = watch;
	SxWatch    *begun = palloc0(sizeof(SxWatch));
	HASHCTL		control;

	memset(&control, 0, sizeof(control));
	control.keysize = sizeof(RowId);
	control.entrysize = sizeof(Head);
	control.hcxt = CurrentMemoryContext;
	begun->context = CurrentMemoryContext;
	begun->heads = hash_create("sync_ext watched rows", 64, &control,
							   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	begun->room = 64;
	begun->events = palloc(sizeof(Event) * begun->room);
	watch = begun;
	sx_capture_watcher = watch_change;
	return before;
}

void
sx_watch_end(SxWatch *before)
{
	watch = before;
	if (watch == NULL)
		sx_capture_watcher = NULL;
}

int
sx_watch_mark(void)
{
	return watch->nevents;
}

static Head *
head_of(Oid root, uint64 key_hash, bool make)
{
	RowId		row = {0};
	Head	   *head;
	bool		found;

	row.root = root;
	row.key_hash = key_hash;
	head = hash_search(watch->heads, &row, make ? HASH_ENTER : HASH_FIND,
					   &found);
	if (make && !found)
		head->event = -1;
	return head;
}

void
sx_watch_back_to(int mark)
{
	watch->mutations = NULL;
	watch->nmutations = 0;
	while (watch->nevents > mark)
	{
		Event	   *event = &watch->events[--watch->nevents];

		head_of(event->watched.root, event->watched.key_hash, true)->event =
			event->before;
	}
}

void
sx_watch_statement(SxMutation **mutations, int n)
{
	/* SPI would do so, too: it is the statement's number, then */
	CommandCounterIncrement();
	watch->command = GetCurrentCommandId(false);
	watch->mutations = mutations;
	watch->nmutations = n;
	watch->next = 0;
	watch->leaf = InvalidOid;
}

void
sx_watch_statement_done(void)
{
	watch->mutations = NULL;
	watch->nmutations = 0;
}

const SxWatched *
sx_watch_find(Oid root, uint64 key_hash)
{
	Head	   *head = head_of(root, key_hash, false);

	if (head == NULL || head->event < 0)
		return NULL;
	return &watch->events[head->event].watched;
}

const SxWatched *
sx_watch_next(int *state)
{
	while (*state < watch->nevents)
	{
		int			number = (*state)++;
		SxWatched  *watched = &watch->events[number].watched;

		if (head_of(watched->root, watched->key_hash, false)->event == number)
			return watched;
	}
	return NULL;
}

/* ---- from the trigger ---- */

/* Whether two versions of a row differ in more than their modified_at. */
static bool
differ(TupleTableSlot *a, TupleTableSlot *b, AttrNumber modified_at)
{
	TupleDesc	desc = a->tts_tupleDescriptor;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(desc, i);
		bool		a_null;
		bool		b_null;
		Datum		x;
		Datum		y;

		if (attr->attisdropped || i + 1 == modified_at)
			continue;
		x = slot_getattr(a, i + 1, &a_null);
		y = slot_getattr(b, i + 1, &b_null);
		if (a_null != b_null ||
			(!a_null && !datum_image_eq(x, y, attr->attbyval, attr->attlen)))
			return true;
	}
	return false;
}

static void
note(Oid root, uint64 key_hash, bool direct, TupleTableSlot *old,
	 TupleTableSlot *new, AttrNumber modified_at)
{
	bool		altered = !direct &&
		(old == NULL || new == NULL || differ(old, new, modified_at));
	Head	   *head = head_of(root, key_hash, true);
	Event	   *event;
	bool		isnull = true;
	Datum		value = (Datum) 0;

	if (watch->nevents == watch->room)
	{
		watch->room *= 2;
		watch->events = repalloc_huge(watch->events,
									  sizeof(Event) * watch->room);
	}
	event = &watch->events[watch->nevents];
	event->before = head->event;
	if (head->event >= 0)
	{
		event->watched = watch->events[head->event].watched;
		event->watched.direct |= direct;
	}
	else
	{
		memset(&event->watched, 0, sizeof(SxWatched));
		event->watched.root = root;
		event->watched.key_hash = key_hash;
		event->watched.direct = direct;
		if (old != NULL)
			value = slot_getattr(old, modified_at, &isnull);
		event->watched.had_version = !isnull;
		event->watched.first_version = isnull ? 0 : DatumGetTimestampTz(value);
	}
	event->watched.altered |= altered;
	isnull = true;
	if (new != NULL)
		value = slot_getattr(new, modified_at, &isnull);
	event->watched.has_version = !isnull;
	event->watched.version = isnull ? 0 : DatumGetTimestampTz(value);
	head->event = watch->nevents++;
}

static uint64
slot_key(SxTable *table, TupleTableSlot *slot, Datum *key)
{
	bool		isnull;

	for (int i = 0; i < table->nkeys; i++)
		key[i] = slot_getattr(slot, table->keys[i].attnum, &isnull);
	return sx_mutation_hash_key(table, key);
}

static bool
is_for(SxMutation *mutation, uint64 key_hash, bool insert)
{
	/* a key that a trigger makes: such a mutation runs alone */
	if (!mutation->has_key)
		return insert && !mutation->written;
	/* and so does one that changes its key, maybe into another partition */
	if (mutation->moves && insert && mutation->gone)
		return true;
	return mutation->key_hash == key_hash;
}

/*
 * The mutation for which a row was inserted whose key a trigger had changed. A
 * statement for several cannot tell which it was: they are tried one by one.
 */
static SxMutation *
mutation_of_other_key(void)
{
	SxMutation *mutation = watch->mutations[0];

	if (watch->nmutations > 1)
		ereport(ERROR,
				(errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
				 errmsg("a trigger changed the key of a row of sync domain \"%s\"",
						mutation->domain)));
	if (mutation->written)
		return mutation->gone ? mutation : NULL;	/* into another partition */
	return mutation->op == SX_MUTATION_INSERT ||
		mutation->op == SX_MUTATION_UPSERT ? mutation : NULL;
}

/*
 * The mutation that a statement was for when it changed this row: mostly the
 * one after the last, as rows are written in the order of the mutations.
 */
static SxMutation *
mutation_of(SxTable *table, uint64 key_hash, bool insert)
{
	if (watch->nmutations == 0 ||
		watch->mutations[0]->table->root != table->root)
		return NULL;
	for (int i = 0; i < watch->nmutations; i++)
	{
		int			place = (watch->next + i) % watch->nmutations;
		SxMutation *mutation = watch->mutations[place];

		if (!is_for(mutation, key_hash, insert))
			continue;
		watch->next = place + 1;
		return mutation;
	}
	return insert ? mutation_of_other_key() : NULL;
}

/* The root's columns in a leaf's numbering. */
static AttrNumber
local_column(SxTable *table, AttrNumber attnum)
{
	if (table->relid == table->root)
		return attnum;
	if (watch->leaf != table->relid)
	{
		SxTable    *root = sx_tracked_get(table->root);
		MemoryContext old = MemoryContextSwitchTo(watch->context);

		watch->map = palloc0(sizeof(AttrNumber) * root->row->natts);
		for (int i = 0; i < root->row->natts; i++)
		{
			Form_pg_attribute attr = TupleDescAttr(root->row, i);

			if (!attr->attisdropped)
				watch->map[i] = get_attnum(table->relid, NameStr(attr->attname));
		}
		watch->leaf = table->relid;
		MemoryContextSwitchTo(old);
	}
	return watch->map[attnum - 1];
}

static bool
is_key(SxTable *table, AttrNumber attnum)
{
	for (int i = 0; i < table->nkeys; i++)
		if (table->keys[i].attnum == attnum)
			return true;
	return false;
}

/*
 * Whether a row is now what its author holds: what it sent, and in the other
 * columns what was there; or nothing, where it was not there.
 */
static bool
is_as_sent(SxTable *table, SxMutation *mutation, TupleTableSlot *old,
		   TupleTableSlot *new)
{
	SxTable    *root = mutation->table;

	for (int i = 0; i < root->row->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(root->row, i);
		AttrNumber	attnum = i + 1;
		AttrNumber	local;
		bool		isnull;
		bool		expected_null = true;
		Datum		value;
		Datum		expected = (Datum) 0;

		if (attr->attisdropped || attnum == root->modified_at)
			continue;
		local = local_column(table, attnum);
		value = slot_getattr(new, local, &isnull);
		if (bms_is_member(attnum, mutation->sets))
		{
			/* a length or a precision may have made it another value */
			if (attr->atttypmod >= 0 && attr->atttypid != VARCHAROID)
				return false;
			expected = mutation->row.values[i];
			expected_null = mutation->row.nulls[i];
		}
		else if (old != NULL)
			expected = slot_getattr(old, local, &expected_null);
		else if (!is_key(root, attnum))
		{
			/* its author may hold a row of that key, which is gone */
			if (mutation->op == SX_MUTATION_UPSERT &&
				attnum != root->deleted_at && attr->attgenerated == '\0')
				return false;
		}
		else
		{
			/* a key that a trigger made is told anyway */
			expected = value;
			expected_null = false;
		}
		if (isnull != expected_null ||
			(!isnull && !datum_image_eq(value, expected, attr->attbyval,
										attr->attlen)))
			return false;
	}
	return true;
}

static void
mark_written(SxTable *table, SxMutation *mutation, TriggerData *trigger,
			 TupleTableSlot *new, const Datum *new_key, uint64 new_hash)
{
	MemoryContext old = MemoryContextSwitchTo(watch->context);
	bool		insert = TRIGGER_FIRED_BY_INSERT(trigger->tg_event);

	mutation->gone = new == NULL;
	if (!mutation->has_key)
	{
		sx_mutation_set_key(mutation, new_key);
		mutation->key_made = true;
		mutation->trigger_key = true;
	}
	else if (new != NULL &&
			 sx_mutation_set_new_key(mutation, new_key, new_hash))
		mutation->tell |= insert || new_hash == mutation->key_hash;
	MemoryContextSwitchTo(old);

	/* a row that moved to another partition comes as a DELETE and an INSERT */
	if (new != NULL &&
		((insert && mutation->written) ||
		 !is_as_sent(table, mutation, insert ? NULL : trigger->tg_trigslot, new)))
		mutation->tell = true;
	mutation->written = true;
}

/*
 * Whether the statement itself changed the row, and not what it set off: the
 * actions of foreign keys fire their triggers on the statement's own level,
 * but are commands of their own.
 */
static bool
is_of_statement(TriggerData *trigger)
{
	CommandId	command;

	if (watch->nmutations == 0)
		return false;
	if (TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
		command = HeapTupleHeaderGetCmax(trigger->tg_trigtuple->t_data);
	else if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
		command = HeapTupleHeaderGetCmin(trigger->tg_newtuple->t_data);
	else
		command = HeapTupleHeaderGetCmin(trigger->tg_trigtuple->t_data);
	return command == watch->command;
}

static void
watch_change(SxTable *table, TriggerData *trigger)
{
	bool		insert = TRIGGER_FIRED_BY_INSERT(trigger->tg_event);
	bool		update = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event);
	TupleTableSlot *old = insert ? NULL : trigger->tg_trigslot;
	TupleTableSlot *new = update ? trigger->tg_newslot :
		insert ? trigger->tg_trigslot : NULL;
	Datum		old_key[INDEX_MAX_KEYS];
	Datum		new_key[INDEX_MAX_KEYS];
	uint64		old_hash = 0;
	uint64		new_hash = 0;
	SxMutation *mutation = NULL;

	if (old != NULL)
		old_hash = slot_key(table, old, old_key);
	if (new != NULL)
		new_hash = slot_key(table, new, new_key);
	if (is_of_statement(trigger))
		mutation = mutation_of(table, old != NULL ? old_hash : new_hash, insert);
	if (mutation != NULL)
		mark_written(table, mutation, trigger, new, new_key, new_hash);

	if (update && old_hash == new_hash)
		note(table->root, new_hash, mutation != NULL, old, new,
			 table->modified_at);
	else
	{
		if (old != NULL)
			note(table->root, old_hash, mutation != NULL, old, NULL,
				 table->modified_at);
		if (new != NULL)
			note(table->root, new_hash, mutation != NULL, NULL, new,
				 table->modified_at);
	}
}
