/*-------------------------------------------------------------------------
 *
 * capture.c
 *		The triggers that append changes to the log, and what a transaction
 *		does before it commits.
 *
 *	CREATE TRIGGER sync_capture AFTER INSERT OR UPDATE OR DELETE ON table
 *		FOR EACH ROW EXECUTE FUNCTION sync.capture();		-- ENABLE ALWAYS
 *	CREATE TRIGGER sync_statement
 *		AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON table
 *		FOR EACH STATEMENT EXECUTE FUNCTION sync.statement();	-- ENABLE ALWAYS
 *
 * What makes a log entry for each row expensive is the tuple header and the
 * index entry. So entries wait in memory, and keys that changed alike (same
 * table, op, origin and scope values) go into one log row as arrays. They are
 * inserted at the end of the statement, when there are many, before the
 * transaction commits or is prepared, and before any read of the log. The
 * statement trigger alone would not do: a logical replication worker fires
 * none.
 *
 * An entry belongs to the subtransaction in which the row changed: it must go
 * when that one rolls back, and stay when a later one does. So entries wait in
 * levels, one for each subtransaction that made some; a level is inserted only
 * while its subtransaction is the current one, before it commits into its
 * parent, or it is dropped when that one aborts.
 *
 * An entry also says where the row's new version is, so that a reader need not
 * look the key up in an index. It is a hint: the row may have moved since.
 *
 * The log is written through the heap and index access methods, not by SQL:
 * the writer has no right on the log, needs none, and pays for no executor. An
 * entry is inserted with the command id at which its row changed, so a later
 * statement of the same transaction sees it, even when it waited longer.
 *
 * Order matters in one place only: readers take the first entry of a key in a
 * transaction and scope for how the key stood before. Within a statement no
 * key enters a scope and then leaves it; leaves are opened before enters, and
 * other statements have a later command id, which closes the open rows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "lib/stringinfo.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#include "sync_ext.h"
#include "capture.h"
#include "cascade.h"
#include "catalog.h"
#include "cursor.h"
#include "direct.h"
#include "event.h"
#include "guc.h"
#include "rowjson.h"
#include "stamp.h"
#include "tick.h"
#include "wake.h"

PG_FUNCTION_INFO_V1(sync_ext_capture);
PG_FUNCTION_INFO_V1(sync_ext_statement);
PG_FUNCTION_INFO_V1(sync_ext_mark_reset);

/*
 * A log row holds no more keys than fit into this: rows stay well below the
 * size at which PostgreSQL would compress them, and four fill a page.
 */
#define MAX_ROW_KEY_BYTES	1700
#define MAX_ROW_KEYS		250

/* Entries are inserted when this many keys wait. */
#define MAX_WAITING			16384

#define BUCKETS				256

/* A log row in the making. */
typedef struct Entry
{
	struct Entry *next;			/* in order of making */
	struct Entry *chain;		/* in its bucket */
	uint32		hash;
	Oid			root;
	SxOp		op;
	CommandId	cid;
	char	   *origin;
	Datum	   *scopes;
	bool	   *scope_nulls;
	int			nkeys;			/* keys so far */
	int			room;
	Size		bytes;			/* that they take */
	Datum	   *keys;			/* nkeys times the columns of the key */
	ItemPointerData *tids;		/* of the rows, unless they are gone */
} Entry;

/* What one subtransaction has waiting. */
typedef struct Level
{
	struct Level *below;
	SubTransactionId subid;
	MemoryContext context;		/* of the entries; reset when inserted */
	Entry	   *first;
	Entry	   *last;
	Entry	   *recent;			/* the row that took the last key */
	int			waiting;		/* keys in all */
	Entry	  **buckets;		/* NULL while there is but one entry */
	SxEvent    *events;			/* in TopTransactionContext */
} Level;

static Level *levels = NULL;

/* Log rows of the current transaction so far: their order in it. */
static int32 sequence = 0;

/* Whether the current transaction has read its own changes. */
static bool was_read = false;

/* ---- levels ---- */

static Level *
current_level(void)
{
	SubTransactionId subid = GetCurrentSubTransactionId();
	Level	   *level;

	if (levels != NULL && levels->subid == subid)
		return levels;

	level = MemoryContextAllocZero(TopTransactionContext, sizeof(Level));
	level->context = AllocSetContextCreate(TopTransactionContext,
										   "sync_ext waiting entries",
										   ALLOCSET_DEFAULT_SIZES);
	level->subid = subid;
	level->below = levels;
	levels = level;
	return level;
}

static void
forget_waiting(Level *level)
{
	level->first = level->last = level->recent = NULL;
	level->waiting = 0;
	level->buckets = NULL;
	MemoryContextReset(level->context);
}

/* ---- inserting ---- */

static void
next_sequence(Datum *value)
{
	if (sequence == PG_INT32_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("too many changes in one transaction"),
				 errdetail("A transaction can write %d log rows.", PG_INT32_MAX),
				 errhint("Commit in between.")));
	*value = Int32GetDatum(++sequence);
}

static Datum
tid_array(Entry *entry, int first, int n)
{
	Datum	   *elements = palloc(sizeof(Datum) * n);

	for (int i = 0; i < n; i++)
		elements[i] = PointerGetDatum(&entry->tids[first + i]);
	return PointerGetDatum(construct_array(elements, n, TIDOID,
										   sizeof(ItemPointerData), false,
										   TYPALIGN_SHORT));
}

static Datum
key_array(SxTable *table, Entry *entry, int column)
{
	SxColumn   *key = &table->keys[column];
	Datum	   *elements = palloc(sizeof(Datum) * entry->nkeys);

	for (int i = 0; i < entry->nkeys; i++)
		elements[i] = entry->keys[i * table->nkeys + column];
	return PointerGetDatum(construct_array(elements, entry->nkeys, key->type,
										   key->typlen, key->typbyval,
										   key->typalign));
}

static int
log_columns(SxTable *table)
{
	return SX_LOG_FIXED + table->nkeys + table->nscopes;
}

static void
insert_entry(SxTable *table, SxDirect *target, Entry *entry, Datum xid)
{
	int			natts = log_columns(table);
	Datum	   *values = palloc0(sizeof(Datum) * natts);
	bool	   *nulls = palloc0(sizeof(bool) * natts);
	int			rows = table->packed ? 1 : entry->nkeys;

	values[SX_LOG_XID - 1] = xid;
	values[SX_LOG_OP - 1] = CharGetDatum((char) entry->op);
	if (entry->origin != NULL)
		values[SX_LOG_ORIGIN - 1] = CStringGetTextDatum(entry->origin);
	else
		nulls[SX_LOG_ORIGIN - 1] = true;
	for (int i = 0; i < table->nscopes; i++)
	{
		values[SX_LOG_FIXED + table->nkeys + i] = entry->scopes[i];
		nulls[SX_LOG_FIXED + table->nkeys + i] = entry->scope_nulls[i];
	}

	for (int row = 0; row < rows; row++)
	{
		next_sequence(&values[SX_LOG_SEQ - 1]);
		nulls[SX_LOG_TIDS - 1] = entry->tids == NULL;
		if (entry->tids != NULL)
			values[SX_LOG_TIDS - 1] = table->packed ?
				tid_array(entry, 0, entry->nkeys) : tid_array(entry, row, 1);
		for (int i = 0; i < table->nkeys; i++)
			values[SX_LOG_FIXED + i] = table->packed ?
				key_array(table, entry, i) :
				entry->keys[row * table->nkeys + i];
		sx_direct_insert(target, values, nulls, entry->cid);
	}
}

static void
count_entry(SxTable *table, Level *level, Entry *entry)
{
	/* A leave has its enter, which counts. */
	if (entry->op == SX_OP_LEAVE)
		return;
	if (!sx_event_wants_keys())
	{
		sx_event_add(&level->events, TopTransactionContext, table->domain,
					 entry->nkeys, false, entry->origin, NULL);
		return;
	}
	for (int i = 0; i < entry->nkeys; i++)
		sx_event_add(&level->events, TopTransactionContext, table->domain, 1,
					 false, entry->origin,
					 sx_rowjson_key_text(table, &entry->keys[i * table->nkeys]));
}

static void
insert_waiting(Level *level)
{
	Datum		xid;
	Entry	   *entry;
	Oid			open_root = InvalidOid;
	SxTable    *table = NULL;
	SxDirect	target;
	MemoryContext old;

	xid = FullTransactionIdGetDatum(GetTopFullTransactionId());
	old = MemoryContextSwitchTo(level->context);
	for (entry = level->first; entry != NULL; entry = entry->next)
	{
		if (entry->root != open_root)
		{
			if (OidIsValid(open_root))
				sx_direct_close(&target);
			open_root = InvalidOid;
			table = sx_tracked_get(entry->root);
			/* untracked, or dropped, in this very transaction */
			if (!table->tracked)
				continue;
			sx_direct_open(&target, table->log, log_columns(table));
			open_root = entry->root;
		}
		insert_entry(table, &target, entry, xid);
		count_entry(table, level, entry);
	}
	if (OidIsValid(open_root))
		sx_direct_close(&target);
	MemoryContextSwitchTo(old);

	forget_waiting(level);
}

void
sx_capture_flush(void)
{
	if (levels != NULL && levels->waiting > 0 &&
		levels->subid == GetCurrentSubTransactionId())
		insert_waiting(levels);
}

/* ---- collecting ---- */

static uint32
hash_scopes(SxTable *table, Datum *values, bool *nulls)
{
	uint32		hash = 0;

	for (int i = 0; i < table->nscopes; i++)
	{
		uint32		one = 0;

		if (!nulls[i])
			one = datum_image_hash(values[i], table->scopes[i].typbyval,
								   table->scopes[i].typlen);
		hash = hash_combine(hash, one);
	}
	return hash;
}

static bool
same_origin(const char *a, const char *b)
{
	return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

static bool
takes(SxTable *table, Entry *entry, SxOp op, CommandId cid,
	  const char *origin, Datum *scopes, bool *nulls)
{
	if (entry->root != table->root || entry->op != op || entry->cid != cid ||
		entry->nkeys >= MAX_ROW_KEYS || entry->bytes >= MAX_ROW_KEY_BYTES ||
		!same_origin(entry->origin, origin))
		return false;
	for (int i = 0; i < table->nscopes; i++)
	{
		if (entry->scope_nulls[i] != nulls[i])
			return false;
		if (!nulls[i] &&
			!datum_image_eq(entry->scopes[i], scopes[i],
							table->scopes[i].typbyval, table->scopes[i].typlen))
			return false;
	}
	return true;
}

static void
put_in_bucket(Level *level, Entry *entry)
{
	entry->chain = level->buckets[entry->hash % BUCKETS];
	level->buckets[entry->hash % BUCKETS] = entry;
}

/* Most statements make one entry; the buckets are for more. */
static void
make_buckets(Level *level)
{
	level->buckets = palloc0(sizeof(Entry *) * BUCKETS);
	for (Entry *entry = level->first; entry != NULL; entry = entry->next)
		put_in_bucket(level, entry);
}

/* A copy that no longer points into a page or out of line. */
static Datum
own_copy(SxColumn *column, Datum value)
{
	if (column->typlen == -1)
		return PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
	return datumCopy(value, column->typbyval, column->typlen);
}

static Entry *
new_entry(SxTable *table, Level *level, uint32 hash, SxOp op, CommandId cid,
		  const char *origin, Datum *scopes, bool *nulls)
{
	Entry	   *entry = palloc0(sizeof(Entry));

	entry->hash = hash;
	entry->root = table->root;
	entry->op = op;
	entry->cid = cid;
	entry->origin = origin == NULL ? NULL : pstrdup(origin);
	if (table->nscopes > 0)
	{
		entry->scopes = palloc(sizeof(Datum) * table->nscopes);
		entry->scope_nulls = palloc(sizeof(bool) * table->nscopes);
		for (int i = 0; i < table->nscopes; i++)
		{
			entry->scope_nulls[i] = nulls[i];
			entry->scopes[i] = nulls[i] ? (Datum) 0 :
				own_copy(&table->scopes[i], scopes[i]);
		}
	}
	if (level->last == NULL)
		level->first = entry;
	else
		level->last->next = entry;
	level->last = entry;
	if (level->buckets != NULL)
		put_in_bucket(level, entry);
	return entry;
}

static Entry *
find_entry(SxTable *table, Level *level, SxOp op, CommandId cid,
		   const char *origin, Datum *scopes, bool *nulls)
{
	Entry	   *entry = level->recent;
	uint32		hash;

	if (entry != NULL && takes(table, entry, op, cid, origin, scopes, nulls))
		return entry;

	hash = hash_combine(hash_scopes(table, scopes, nulls), (uint32) op);
	if (level->buckets == NULL && level->first != NULL)
		make_buckets(level);
	for (entry = level->buckets == NULL ? NULL : level->buckets[hash % BUCKETS];
		 entry != NULL; entry = entry->chain)
	{
		if (entry->hash == hash &&
			takes(table, entry, op, cid, origin, scopes, nulls))
			return entry;
	}
	return new_entry(table, level, hash, op, cid, origin, scopes, nulls);
}

static void
add_room(SxTable *table, Entry *entry, bool with_tids)
{
	bool		first = entry->room == 0;

	entry->room = first ? 1 : Min(entry->room * 4, MAX_ROW_KEYS);
	entry->keys = first ?
		palloc(sizeof(Datum) * entry->room * table->nkeys) :
		repalloc(entry->keys, sizeof(Datum) * entry->room * table->nkeys);
	if (with_tids)
		entry->tids = first ?
			palloc(sizeof(ItemPointerData) * entry->room) :
			repalloc(entry->tids, sizeof(ItemPointerData) * entry->room);
}

static void
add_key(SxTable *table, Entry *entry, Datum *key, ItemPointer tid)
{
	bool		with_tids = table->by_tid && entry->op != SX_OP_DELETE &&
		entry->op != SX_OP_LEAVE;

	if (entry->nkeys == entry->room)
		add_room(table, entry, with_tids);
	if (with_tids)
	{
		entry->tids[entry->nkeys] = *tid;
		entry->bytes += sizeof(ItemPointerData);
	}
	for (int i = 0; i < table->nkeys; i++)
	{
		SxColumn   *column = &table->keys[i];
		Datum		copy = own_copy(column, key[i]);

		entry->keys[entry->nkeys * table->nkeys + i] = copy;
		entry->bytes += column->typlen == -1 ?
			MAXALIGN(VARSIZE_ANY(DatumGetPointer(copy))) :
			datumGetSize(copy, column->typbyval, column->typlen);
	}
	entry->nkeys++;
}

static void
append(SxTable *table, SxOp op, const char *origin, Datum *key,
	   Datum *scopes, bool *scope_nulls, ItemPointer tid)
{
	Level	   *level = current_level();
	CommandId	cid = GetCurrentCommandId(true);
	MemoryContext old;
	Entry	   *entry;

	if (level->waiting >= MAX_WAITING ||
		(level->last != NULL && level->last->cid != cid))
		insert_waiting(level);

	old = MemoryContextSwitchTo(level->context);
	entry = find_entry(table, level, op, cid, origin, scopes, scope_nulls);
	add_key(table, entry, key, tid);
	level->recent = entry;
	level->waiting++;
	MemoryContextSwitchTo(old);
}

static void
append_slot(SxTable *table, SxOp op, const char *origin, TupleTableSlot *slot)
{
	Datum		key[INDEX_MAX_KEYS];
	Datum		scopes[INDEX_MAX_KEYS];
	bool		nulls[INDEX_MAX_KEYS];
	bool		isnull;

	for (int i = 0; i < table->nkeys; i++)
	{
		key[i] = slot_getattr(slot, table->keys[i].attnum, &isnull);
		/* NOT NULL was dropped after the table was tracked */
		if (isnull)
			ereport(ERROR,
					(errcode(ERRCODE_NOT_NULL_VIOLATION),
					 errmsg("null value in column \"%s\", which is part of the key of sync domain \"%s\"",
							table->keys[i].name, table->domain),
					 errhint("Set the column NOT NULL, or track the table by another key.")));
	}
	for (int i = 0; i < table->nscopes; i++)
		scopes[i] = slot_getattr(slot, table->scopes[i].attnum, &nulls[i]);
	append(table, op, origin, key, scopes, nulls, &slot->tts_tid);
}

void
sx_capture_key(SxTable *table, Datum *key)
{
	ItemPointerData nowhere;

	ItemPointerSetInvalid(&nowhere);
	append(table, SX_OP_UPDATE, NULL, key, NULL, NULL, &nowhere);
}

void
sx_capture_note_read(void)
{
	was_read = true;
}

/* ---- the row trigger ---- */

void		(*sx_capture_watcher) (SxTable *table, TriggerData *trigger) = NULL;

static bool
same_column(TupleTableSlot *a, TupleTableSlot *b, AttrNumber attnum)
{
	Form_pg_attribute attr = TupleDescAttr(a->tts_tupleDescriptor, attnum - 1);
	bool		a_null;
	bool		b_null;
	Datum		x = slot_getattr(a, attnum, &a_null);
	Datum		y = slot_getattr(b, attnum, &b_null);

	if (a_null || b_null)
		return a_null && b_null;
	return datum_image_eq(x, y, attr->attbyval, attr->attlen);
}

static bool
same_columns(SxColumn *columns, int n, TupleTableSlot *a, TupleTableSlot *b)
{
	for (int i = 0; i < n; i++)
		if (!same_column(a, b, columns[i].attnum))
			return false;
	return true;
}

static bool
is_deleted(SxTable *table, TupleTableSlot *slot)
{
	return table->deleted_at != InvalidAttrNumber &&
		!slot_attisnull(slot, table->deleted_at);
}

/*
 * Whether an UPDATE was a change. The stamp moved modified_at if it was; where
 * no stamp fired (replicated changes) the images decide.
 */
static bool
is_change(SxTable *table, TriggerData *trigger)
{
	if (table->tracked && sx_stamp_forced() == table->root)
		return true;
	if (table->tracked &&
		(sx_stamp_forced() == table->root ||
		 !same_column(trigger->tg_trigslot, trigger->tg_newslot,
						  table->modified_at)))
		return true;
	return !sx_tracked_same_row(table, trigger->tg_trigtuple,
								trigger->tg_newtuple,
								table->tracked ? table->modified_at :
								InvalidAttrNumber);
}

/*
 * The client whose own statement made this change, or NULL. What a trigger or
 * a cascade did is not its own, and is delivered to it as well. Rows that a
 * foreign key's action reached come at depth 1, like the client's: so there is
 * no origin where such an action may have been at work.
 */
static const char *
origin_of(SxTable *table, TriggerData *trigger)
{
	if (sx_guc_client == NULL || *sx_guc_client == '\0' ||
		sx_stamp_forced() == table->root ||
		DatumGetInt32(DirectFunctionCall1(pg_trigger_depth, (Datum) 0)) > 1)
		return NULL;
	/* An UPDATE to another partition: its author may not know the whole row. */
	if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event) &&
		table->relid != table->root && sx_stamp_saw_move())
		return NULL;
	if (table->fk_actions)
	{
		int			attnum = -1;

		if (TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
			return NULL;
		if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
		{
			while ((attnum = bms_next_member(table->fk_columns, attnum)) >= 0)
				if (!same_column(trigger->tg_trigslot,
									 trigger->tg_newslot, attnum))
					return NULL;
		}
	}
	return sx_guc_client;
}

/*
 * A row that came and goes in one transaction is no news, unless that
 * transaction has shown it: one leave more makes it a removal.
 */
static void
append_leave(SxTable *table, SxOp op, const char *origin, TupleTableSlot *slot)
{
	if (was_read)
		append_slot(table, SX_OP_LEAVE, origin, slot);
	append_slot(table, op, origin, slot);
}

/*
 * A row that is marked as deleted is not there: marking it is a leave, and
 * what happens to it afterwards is nobody's news until it enters again.
 */
static void
capture_row(SxTable *table, TriggerData *trigger)
{
	const char *origin = origin_of(table, trigger);
	TupleTableSlot *old = trigger->tg_trigslot;
	TupleTableSlot *new = trigger->tg_newslot;

	if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
	{
		if (!is_deleted(table, old))
			append_slot(table, SX_OP_INSERT, origin, old);
		return;
	}
	if (TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
	{
		if (!is_deleted(table, old))
			append_leave(table, SX_OP_DELETE, origin, old);
		return;
	}
	if (same_columns(table->keys, table->nkeys, old, new) &&
		same_columns(table->scopes, table->nscopes, old, new) &&
		!is_deleted(table, old) && !is_deleted(table, new))
	{
		append_slot(table, SX_OP_UPDATE, origin, new);
		return;
	}
	if (!is_deleted(table, old))
		append_leave(table, SX_OP_LEAVE, origin, old);
	if (!is_deleted(table, new))
		append_slot(table, SX_OP_ENTER, origin, new);
}

Datum
sync_ext_capture(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	SxTable    *table;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_AFTER(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" must be fired after INSERT, UPDATE or DELETE, for each row",
						"sync.capture")));

	table = sx_tracked_get(RelationGetRelid(trigger->tg_relation));
	if (!table->tracked && table->nmasters == 0)
		return PointerGetDatum(NULL);
	if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) &&
		!is_change(table, trigger))
		return PointerGetDatum(NULL);

	if (table->tracked)
		capture_row(table, trigger);
	if (table->tracked && sx_capture_watcher != NULL)
		sx_capture_watcher(table, trigger);
	for (int i = 0; i < table->nmasters; i++)
	{
		sx_cascade_collect(table, &table->masters[i], trigger->tg_trigslot);
		if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
			sx_cascade_collect(table, &table->masters[i], trigger->tg_newslot);
	}
	return PointerGetDatum(NULL);
}

/* ---- the statement trigger ---- */

void
sx_capture_mark(SxTable *table)
{
	const SxCatalog *catalog = sx_catalog_get();
	Datum		values[Natts_reset_marker];
	bool		nulls[Natts_reset_marker] = {false};
	SxDirect	target;
	Level	   *level = current_level();

	values[Anum_reset_marker_rel - 1] = ObjectIdGetDatum(table->root);
	values[Anum_reset_marker_xid - 1] =
		FullTransactionIdGetDatum(GetTopFullTransactionId());
	sx_direct_open(&target, catalog->reset_marker, Natts_reset_marker);
	sx_direct_insert(&target, values, nulls, GetCurrentCommandId(true));
	sx_direct_close(&target);
	sx_event_add(&level->events, TopTransactionContext, table->domain, 0, true,
				 NULL, NULL);
}

void
sx_capture_event(const char *domain, uint64 count, const char *origin,
				 const char *key)
{
	sx_event_add(&current_level()->events, TopTransactionContext, domain, count,
				 false, origin, key);
}

/* A table was emptied: nobody says of which rows, so all is void. */
static void
mark_with_masters(SxTable *table, List **marked)
{
	if (list_member_oid(*marked, table->root))
		return;
	*marked = lappend_oid(*marked, table->root);
	if (table->tracked)
		sx_capture_mark(table);
	for (int i = 0; i < table->nmasters; i++)
		mark_with_masters(sx_tracked_get(table->masters[i].relid), marked);
}

Datum
sync_ext_statement(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_AFTER(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_STATEMENT(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" must be fired after INSERT, UPDATE, DELETE or TRUNCATE, for each statement",
						"sync.statement")));

	sx_capture_flush();
	sx_cascade_apply();
	if (TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event))
	{
		List	   *marked = NIL;

		mark_with_masters(sx_tracked_get(RelationGetRelid(trigger->tg_relation)),
						  &marked);
	}
	return PointerGetDatum(NULL);
}

/*
 * sync.mark_reset(rel oid): for the administration functions, which nobody
 * else may call. With "masters" it reaches the tables above, too.
 */
Datum
sync_ext_mark_reset(PG_FUNCTION_ARGS)
{
	List	   *marked = NIL;

	mark_with_masters(sx_tracked_get(PG_GETARG_OID(0)), &marked);
	PG_RETURN_VOID();
}

/* ---- transactions ---- */

static void
before_commit(bool prepare)
{
	/* Touching masters may log changes, so it comes first. */
	sx_cascade_before_commit();
	sx_capture_flush();
	/* the extension may have been dropped in this very transaction */
	if (levels == NULL || sx_catalog_find() == NULL)
		return;
	sx_tick_leave();
	if (!prepare)
		sx_event_send(levels->events,
					  U64FromFullTransactionId(GetTopFullTransactionId()));
}

static void
forget_transaction(void)
{
	levels = NULL;				/* its memory goes with the transaction */
	sequence = 0;
	was_read = false;
	sx_cascade_end_xact();
	sx_stamp_end_xact();
	sx_tracked_end_xact();
}

static void
transaction_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			before_commit(false);
			break;
		case XACT_EVENT_PRE_PREPARE:
			before_commit(true);
			break;
		case XACT_EVENT_COMMIT:
			/* others see it now; nothing here may fail any more */
			if (levels != NULL && levels->events != NULL &&
				sx_guc_notify == SX_NOTIFY_WORKER)
				sx_wake_worker();
			forget_transaction();
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			forget_transaction();
			break;
		default:
			/* parallel workers write nothing */
			break;
	}
}

static void
commit_level(SubTransactionId subid, SubTransactionId parent)
{
	Level	   *level = levels;

	if (level == NULL || level->subid != subid)
		return;
	if (level->below == NULL || level->below->subid != parent)
	{
		level->subid = parent;
		return;
	}
	sx_event_merge(&level->below->events, TopTransactionContext, level->events);
	levels = level->below;
	MemoryContextDelete(level->context);
}

static void
subtransaction_callback(SubXactEvent event, SubTransactionId subid,
						SubTransactionId parent, void *arg)
{
	switch (event)
	{
		case SUBXACT_EVENT_PRE_COMMIT_SUB:
			sx_capture_flush();
			break;
		case SUBXACT_EVENT_COMMIT_SUB:
			commit_level(subid, parent);
			sx_cascade_end_subxact(subid, parent, true);
			break;
		case SUBXACT_EVENT_ABORT_SUB:
			if (levels != NULL && levels->subid == subid)
			{
				Level	   *level = levels;

				levels = level->below;
				MemoryContextDelete(level->context);
			}
			sx_cascade_end_subxact(subid, parent, false);
			break;
		default:
			break;
	}
}

void
sx_capture_init(void)
{
	RegisterXactCallback(transaction_callback, NULL);
	RegisterSubXactCallback(subtransaction_callback, NULL);
}
