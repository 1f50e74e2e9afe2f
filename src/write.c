/*-------------------------------------------------------------------------
 *
 * write.c
 *		Writing rows for mutations, each compared with what is there.
 *
 * A mutation is written by one statement that says which version of the row it
 * was decided for, and finds nothing where the row has another by then:
 *
 *	UPDATE t SET ... WHERE key = ... AND modified_at = <that version>
 *
 * Every change gives a row a later modified_at, and the statement waits for
 * whoever is changing the row, so comparing and writing are one step, as with
 * a lock taken before. What has a base is tried at once; only what the
 * statement did not find is read, decided, and tried again for the version
 * that was read. So a batch without conflicts costs one statement, and one
 * with conflicts one statement and one read more.
 *
 *	the row is		insert		update		upsert		delete
 *	not there		insert		conflict	insert (1)	applied
 *	as known (2)	update		update		update		delete
 *	equal already	applied		applied		applied		-
 *	otherwise		the policy	the policy	the policy	the policy
 *
 *	(1) unless it was known to the client: then somebody deleted it, and only
 *	client_wins inserts it anew. The same goes for an insert that comes again
 *	with the provisional key for which the row was made.
 *	(2) its modified_at is "base"; or its columns are as in "assumed"; or
 *	nobody else changed it after "since"; or the client itself wrote it last.
 *	An update or a delete that says none of these is taken as it comes.
 *
 * A soft-deleted row is there, and known by its modified_at like any other;
 * writing it makes it live again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "sync_ext.h"
#include "cursor.h"
#include "logscan.h"
#include "plan.h"
#include "validity.h"
#include "watch.h"
#include "write.h"

/* A row that changes faster than we can write it: the client tries later. */
#define MAX_TRIES 10

typedef enum Action
{
	ACTION_NONE,				/* it is decided */
	ACTION_READ,
	ACTION_INSERT,
	ACTION_UPDATE,
	ACTION_DELETE
} Action;

typedef struct Work
{
	SxMutation *mutation;
	Action		action;
	bool		known;			/* the client holds the row that it writes */
	bool		windowed;		/* only for the version in [low, low + 1 ms) */
	TimestampTz low;
	bool		live;			/* only where it is not soft-deleted */
	int			tries;

	/* what was read */
	bool		found;
	bool		deleted;
	TimestampTz version;
	SxValues	row;
	SxOwnWrite	own;
} Work;

static TimestampTz
whole_milliseconds(TimestampTz time)
{
	TimestampTz rest = time % 1000;

	return time - (rest < 0 ? rest + 1000 : rest);
}

void
sx_write_reset(SxMutation *mutation)
{
	mutation->status = SX_STATUS_OPEN;
	mutation->sets = NULL;
	mutation->tell = false;
	mutation->written = false;
	mutation->gone = false;
	mutation->new_key = NULL;
	if (mutation->trigger_key)
	{
		mutation->has_key = false;
		mutation->key_made = false;
		mutation->trigger_key = false;
	}
}

static void
refuse(SxWriter *writer, Work *work, SxStatus status, int sqlstate, const char *message,
	   const char *detail, const char *hint)
{
	SxMutation *mutation = work->mutation;
	MemoryContext old = MemoryContextSwitchTo(writer->context);

	work->action = ACTION_NONE;
	mutation->status = status;
	mutation->refusal.sqlstate = sqlstate;
	mutation->refusal.message = pstrdup(message);
	mutation->refusal.detail = pstrdup(detail);
	mutation->refusal.hint = pstrdup(hint);
	mutation->refusal.path = psprintf("mutations[%d]", mutation->number);
	MemoryContextSwitchTo(old);
}

static void
applied(Work *work)
{
	SxMutation *mutation = work->mutation;

	work->action = ACTION_NONE;
	mutation->status = SX_STATUS_APPLIED;
	if (mutation->op == SX_MUTATION_DELETE)
	{
		mutation->gone = true;
		mutation->tell = false;
	}
	else if (!work->known)
		mutation->tell = true;
}

static void
conflict(Work *work)
{
	work->action = ACTION_NONE;
	work->mutation->status = SX_STATUS_CONFLICT;
	work->mutation->tell = true;
}

/* ---- what is known of a row ---- */

static bool
same_values(TupleDesc desc, Bitmapset *columns, SxValues *a, SxValues *b)
{
	int			attnum = -1;

	while ((attnum = bms_next_member(columns, attnum)) >= 0)
	{
		Form_pg_attribute attr = TupleDescAttr(desc, attnum - 1);
		Datum		x = a->values[attnum - 1];
		Datum		y = b->values[attnum - 1];

		if (a->nulls[attnum - 1] != b->nulls[attnum - 1])
			return false;
		if (a->nulls[attnum - 1] ||
			datum_image_eq(x, y, attr->attbyval, attr->attlen))
			continue;
		/* 1.0 is 1.00: a client's numbers know no trailing zeroes */
		if (getBaseType(attr->atttypid) != NUMERICOID ||
			!DatumGetBool(DirectFunctionCall2(numeric_eq, x, y)))
			return false;
	}
	return true;
}

/* Whether a base is one of the versions from "first" to the present one. */
static bool
base_within(SxMutation *mutation, TimestampTz first, TimestampTz last)
{
	return mutation->has_base &&
		whole_milliseconds(mutation->base) >= whole_milliseconds(first) &&
		mutation->base <= last;
}

static bool
ledger_knows(SxMutation *mutation, SxOwnWrite *own, TimestampTz version)
{
	return own->found && own->has_version && own->version == version &&
		(!own->has_known_from ||
		 base_within(mutation, own->known_from, version));
}

/* Whether the client itself wrote the row last, or had it touched. */
static bool
is_own_write(Work *work)
{
	SxMutation *mutation = work->mutation;
	const SxWatched *watched = sx_watch_find(mutation->table->root,
											 mutation->key_hash);

	if (watched == NULL)
		return ledger_knows(mutation, &work->own, work->version);
	if (!watched->has_version || watched->version != work->version)
		return false;
	if (watched->direct || !watched->had_version)
		return true;
	return base_within(mutation, watched->first_version, work->version) ||
		ledger_knows(mutation, &work->own, watched->first_version);
}

static bool
is_own_deletion(Work *work)
{
	const SxWatched *watched = sx_watch_find(work->mutation->table->root,
											 work->mutation->key_hash);

	if (watched != NULL)
		return !watched->has_version;
	return work->own.found && !work->own.has_version;
}

/* ---- what others changed after "since" ---- */

typedef struct Changed
{
	Oid			root;
	bool		all;			/* the cursor says nothing of this table */
	SxSnapshot *upto;			/* the log was read so far */
	HTAB	   *keys;			/* hashes of keys */
	uint64	   *own_xids;
	int			nown_xids;
} Changed;

static Changed *
begin_changed(SxWriter *writer, SxTable *table, Snapshot snapshot,
			  SxSnapshot *now)
{
	MemoryContext old = MemoryContextSwitchTo(writer->context);
	Changed    *changed = palloc0(sizeof(Changed));
	SxCursor   *cursor = sx_cursor_decode(writer->since);
	SxSnapshot *seen = cursor->position.kind == SX_POSITION_LOAD ?
		&cursor->target : &cursor->seen;
	HASHCTL		control;

	changed->root = table->root;
	changed->all = sx_validity_of_cursor(cursor, snapshot) != NULL;
	if (!changed->all)
	{
		sx_validity_check_snapshot(now, seen);
		changed->all = sx_validity_of_log(table, seen, snapshot, now,
										  sx_own_xid()) != NULL;
	}
	changed->upto = palloc0(sizeof(SxSnapshot));
	*changed->upto = *seen;
	memset(&control, 0, sizeof(control));
	control.keysize = sizeof(uint64);
	control.entrysize = sizeof(uint64);
	control.hcxt = writer->context;
	changed->keys = hash_create("sync_ext changed keys", 64, &control,
								HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	if (writer->device != NULL)
		changed->own_xids = sx_ledger_xids(writer->device, &changed->nown_xids);
	writer->changed = lappend(writer->changed, changed);
	MemoryContextSwitchTo(old);
	return changed;
}

/* Newest first, as sx_ledger_xids() gives them. */
static int
compare_xids(const void *a, const void *b)
{
	uint64		x = *(const uint64 *) a;
	uint64		y = *(const uint64 *) b;

	return x > y ? -1 : x < y;
}

/*
 * What a cascade did has no origin. Others may have written, too, in a
 * transaction in which the client pushed.
 */
static bool
is_own_entry(SxWriter *writer, Changed *changed, SxLogItem *item,
			 uint64 key_hash)
{
	if (writer->device == NULL)
		return false;
	if (item->origin != NULL)
		return strcmp(item->origin, writer->device->client) == 0;
	return bsearch(&item->position.xid, changed->own_xids, changed->nown_xids,
				   sizeof(uint64), compare_xids) != NULL &&
		sx_ledger_wrote(writer->device, changed->root, key_hash,
						item->position.xid);
}

/*
 * Reads on in the log, to the present: the rows that are judged by it were
 * read before. Own entries of this transaction are no others'.
 */
static Changed *
read_changed(SxWriter *writer, SxTable *table)
{
	Changed    *changed = NULL;
	ListCell   *cell;
	SxPosition	start = {0};
	SxLogScan  *scan;
	SxLogItem  *item;
	SxSnapshot *now;
	Snapshot	snapshot;

	foreach(cell, writer->changed)
		if (((Changed *) lfirst(cell))->root == table->root)
			changed = lfirst(cell);

	PushActiveSnapshot(GetTransactionSnapshot());
	snapshot = GetActiveSnapshot();
	now = sx_snapshot_of(snapshot);
	if (changed == NULL)
		changed = begin_changed(writer, table, snapshot, now);
	if (!changed->all)
	{
		scan = sx_logscan_begin(table, NULL, NIL, NULL, NULL, false, snapshot,
								now);
		sx_logscan_between(scan, changed->upto, now, &start);
		while ((item = sx_logscan_next(scan)) != NULL)
		{
			uint64		hash;

			CHECK_FOR_INTERRUPTS();
			hash = sx_mutation_hash_key(table, item->key);
			if (is_own_entry(writer, changed, item, hash))
				continue;
			(void) hash_search(changed->keys, &hash, HASH_ENTER, NULL);
		}
		sx_logscan_end(scan);
		changed->upto->xmax = now->xmax;
		changed->upto->nxip = now->nxip;
		changed->upto->xip = MemoryContextAlloc(writer->context,
												sizeof(uint64) * Max(now->nxip, 1));
		memcpy(changed->upto->xip, now->xip, sizeof(uint64) * now->nxip);
	}
	PopActiveSnapshot();
	return changed;
}

static bool
changed_by_others(Changed *changed, SxMutation *mutation)
{
	return changed->all ||
		hash_search(changed->keys, &mutation->key_hash, HASH_FIND, NULL) != NULL;
}

/* ---- deciding ---- */

/* Whether a mutation says nothing of the row that it was made for. */
static bool
is_blind(SxWriter *writer, SxMutation *mutation)
{
	return !mutation->has_base && mutation->assumed_json == NULL &&
		writer->since == NULL;
}

static bool
by_since(SxWriter *writer, SxMutation *mutation)
{
	return !mutation->has_base && mutation->assumed_json == NULL &&
		writer->since != NULL;
}

/* Whether the row that was read is the one that the client knew. */
static bool
is_as_known(SxWriter *writer, Work *work, Changed *changed)
{
	SxMutation *mutation = work->mutation;

	work->known = true;
	if (mutation->has_base &&
		whole_milliseconds(mutation->base) == whole_milliseconds(work->version))
		return true;
	/* the answer to an earlier push may have been lost: the row is told */
	work->known = sx_watch_find(mutation->table->root, mutation->key_hash) != NULL;
	if (is_own_write(work))
		return true;
	work->known = true;
	if (mutation->op != SX_MUTATION_INSERT && by_since(writer, mutation) &&
		!changed_by_others(changed, mutation))
		return true;

	work->known = false;
	if (mutation->assumed_json != NULL &&
		same_values(mutation->table->row, mutation->assumed_columns,
					&mutation->assumed, &work->row))
		return true;
	return is_blind(writer, mutation) &&
		(mutation->op == SX_MUTATION_UPDATE || mutation->op == SX_MUTATION_DELETE);
}

/* To be written over the version that was read, and no other. */
static void
write_over(Work *work, Bitmapset *columns)
{
	SxMutation *mutation = work->mutation;
	SxTable    *table = mutation->table;

	work->windowed = true;
	work->low = whole_milliseconds(work->version);
	work->live = false;
	mutation->sets = columns;
	if (mutation->op == SX_MUTATION_DELETE && table->deleted_at == 0)
	{
		work->action = ACTION_DELETE;
		return;
	}
	work->action = ACTION_UPDATE;
	if (mutation->op != SX_MUTATION_DELETE && work->deleted &&
		!bms_is_member(table->deleted_at, columns))
		mutation->sets = bms_add_member(bms_copy(columns), table->deleted_at);
	if (bms_is_empty(mutation->sets))
		applied(work);			/* nothing to set */
}

/* Whether only one side changed each column, and then writes the client's. */
static bool
merge(Work *work)
{
	SxMutation *mutation = work->mutation;
	TupleDesc	desc = mutation->table->row;
	Bitmapset  *columns = NULL;
	int			attnum = -1;

	if (mutation->assumed_json == NULL || work->deleted ||
		mutation->op == SX_MUTATION_DELETE)
		return false;
	while ((attnum = bms_next_member(mutation->columns, attnum)) >= 0)
	{
		Bitmapset  *column = bms_make_singleton(attnum);
		bool		assumed = bms_is_member(attnum, mutation->assumed_columns);

		if (same_values(desc, column, &mutation->row, &work->row) ||
			(assumed &&
			 same_values(desc, column, &mutation->row, &mutation->assumed)))
			continue;
		if (!assumed ||
			!same_values(desc, column, &mutation->assumed, &work->row))
			return false;
		columns = bms_add_member(columns, attnum);
	}
	write_over(work, columns);
	return true;
}

/* The row is not as the client knew it. */
static void
settle(SxWriter *writer, Work *work)
{
	SxMutation *mutation = work->mutation;

	work->known = false;
	switch (writer->policy)
	{
		case SX_POLICY_CLIENT_WINS:
			write_over(work, mutation->columns);
			return;
		case SX_POLICY_NEWER_WINS:
			if (!mutation->has_at)
				refuse(writer, work, SX_STATUS_REJECTED, ERRCODE_INVALID_PARAMETER_VALUE,
					   "malformed request",
					   psprintf("mutations[%d].at is missing.", mutation->number),
					   "Under the policy newer_wins say when the client made the change.");
			else if (Min(mutation->at, writer->now) > work->version)
				write_over(work, mutation->columns);
			else
				conflict(work);
			return;
		case SX_POLICY_MERGE:
			if (merge(work))
				return;
			break;
		case SX_POLICY_REJECT:
			break;
	}
	conflict(work);
}

static void
decide_absent(SxWriter *writer, Work *work)
{
	SxMutation *mutation = work->mutation;

	if (mutation->op == SX_MUTATION_DELETE)
	{
		work->known = true;
		applied(work);
	}
	else if (mutation->op == SX_MUTATION_UPDATE)
		conflict(work);
	else if (mutation->op == SX_MUTATION_UPSERT &&
			 (mutation->has_base || mutation->assumed_json != NULL) &&
			 writer->policy != SX_POLICY_CLIENT_WINS && !is_own_deletion(work))
		conflict(work);
	else if (mutation->was_made && writer->policy != SX_POLICY_CLIENT_WINS &&
			 !is_own_deletion(work))
		conflict(work);
	else if (work->tries > 3)
		refuse(writer, work, SX_STATUS_REJECTED, ERRCODE_UNIQUE_VIOLATION,
			   "row was not inserted",
			   "A row with this key exists that may not be seen, or a trigger suppressed the row.",
			   "Look at the table's row-level security policies and triggers.");
	else
	{
		work->action = ACTION_INSERT;
		work->known = true;
		mutation->sets = mutation->columns;
	}
}

/* 'a' = 'A' may hold, but a client tells them apart: it learns the row's own. */
static void
find_key(SxWriter *writer, Work *work)
{
	SxMutation *mutation = work->mutation;
	SxTable    *table = mutation->table;
	Datum		key[INDEX_MAX_KEYS];
	MemoryContext old = MemoryContextSwitchTo(writer->context);

	for (int i = 0; i < table->nkeys; i++)
		key[i] = work->row.values[table->keys[i].attnum - 1];
	if (sx_mutation_set_new_key(mutation, key, mutation->key_hash))
		mutation->tell = true;
	MemoryContextSwitchTo(old);
}

/* What becomes of a mutation, now that its row was read. */
static void
decide(SxWriter *writer, Work *work, Changed *changed)
{
	SxMutation *mutation = work->mutation;
	bool		tried = work->windowed && !work->live;
	TimestampTz low = work->low;
	bool		as_known;

	if (work->tries > MAX_TRIES)
	{
		refuse(writer, work, SX_STATUS_RETRY, ERRCODE_T_R_SERIALIZATION_FAILURE,
			   "could not write the row due to concurrent updates",
			   "Others change it all the time.", "Push it again.");
		return;
	}
	if (!work->found)
	{
		decide_absent(writer, work);
		return;
	}
	find_key(writer, work);
	if (tried && low == whole_milliseconds(work->version))
	{
		/* others of its statement missed; this one had nothing to change */
		if (work->action == ACTION_READ && mutation->op != SX_MUTATION_DELETE &&
			same_values(mutation->table->row, mutation->sets, &mutation->row,
						&work->row))
		{
			applied(work);
			return;
		}
		refuse(writer, work, SX_STATUS_REJECTED, ERRCODE_INSUFFICIENT_PRIVILEGE,
			   "row was not written",
			   "A row-level security policy or a trigger keeps it as it is.",
			   "Look at the table's row-level security policies and triggers.");
		return;
	}
	if (mutation->op == SX_MUTATION_DELETE && work->deleted)
	{
		work->known = true;
		applied(work);
		return;
	}
	as_known = is_as_known(writer, work, changed);
	/* without a statement: its author need not have the right to update */
	if (mutation->op != SX_MUTATION_DELETE && !work->deleted &&
		same_values(mutation->table->row, mutation->columns, &mutation->row,
					&work->row))
		applied(work);
	else if (as_known)
		write_over(work, mutation->columns);
	else
		settle(writer, work);
}

/* ---- reading ---- */

static void
append_key_join(StringInfo sql, SxTable *table)
{
	for (int i = 0; i < table->nkeys; i++)
	{
		appendStringInfoString(sql, i == 0 ? "" : " AND ");
		sx_plan_equal(sql, psprintf(SX_ALIAS ".%s",
									quote_identifier(table->keys[i].name)),
					  table->keys[i].type, psprintf("k.k%d", i + 1),
					  table->keys[i].type);
	}
}

static const char *
modified_at_of(SxTable *table)
{
	return quote_identifier(get_attname(table->root, table->modified_at, false));
}

static const char *
deleted_at_of(SxTable *table)
{
	return quote_identifier(get_attname(table->root, table->deleted_at, false));
}

static void
init_key_columns(TupleDesc desc, SxTable *table, int first)
{
	for (int i = 0; i < table->nkeys; i++)
	{
		TupleDescInitEntry(desc, first + i, psprintf("k%d", i + 1),
						   table->keys[i].type, table->keys[i].typmod, 0);
		TupleDescInitEntryCollation(desc, first + i, table->keys[i].collation);
	}
}

static void
take_row(Work *work, SPITupleTable *rows, int number)
{
	HeapTuple	tuple = rows->vals[number];
	HeapTupleHeader header;
	HeapTupleData row;
	TupleDesc	desc;
	bool		isnull;
	Datum		value;

	value = SPI_getbinval(tuple, rows->tupdesc, 2, &isnull);
	work->version = isnull ? 0 : DatumGetTimestampTz(value);
	work->deleted = DatumGetBool(SPI_getbinval(tuple, rows->tupdesc, 3, &isnull));
	value = SPI_getbinval(tuple, rows->tupdesc, 4, &isnull);
	header = DatumGetHeapTupleHeaderCopy(value);
	row.t_len = HeapTupleHeaderGetDatumLength(header);
	ItemPointerSetInvalid(&row.t_self);
	row.t_tableOid = InvalidOid;
	row.t_data = header;
	desc = lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(header),
								  HeapTupleHeaderGetTypMod(header));
	work->row.values = palloc(sizeof(Datum) * desc->natts);
	work->row.nulls = palloc(sizeof(bool) * desc->natts);
	heap_deform_tuple(&row, desc, work->row.values, work->row.nulls);
	ReleaseTupleDesc(desc);
	work->found = true;
}

static void
read_rows(SxTable *table, Work **works, int n)
{
	MemoryContext context = CurrentMemoryContext;
	TupleDesc	desc = CreateTemplateTupleDesc(table->nkeys + 1);
	StringInfoData sql;
	SxKeys	   *keys;
	bool		nulls[INDEX_MAX_KEYS + 1] = {false};

	TupleDescInitEntry(desc, 1, "ord", INT4OID, -1, 0);
	init_key_columns(desc, table, 2);
	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT k.ord, " SX_ALIAS ".%s, ", modified_at_of(table));
	if (table->deleted_at != 0)
		appendStringInfo(&sql, SX_ALIAS ".%s IS NOT NULL, ", deleted_at_of(table));
	else
		appendStringInfoString(&sql, "false, ");
	/* with a cast, it is the row even where a column has the alias's name */
	appendStringInfo(&sql, SX_ALIAS ".*::%1$s FROM " SX_KEYS " k JOIN %1$s " SX_ALIAS " ON ",
					 sx_plan_relation(table->root));
	append_key_join(&sql, table);

	sx_plan_connect();
	keys = sx_keys_begin(desc);
	for (int i = 0; i < n; i++)
	{
		Datum		values[INDEX_MAX_KEYS + 1];

		works[i]->found = false;
		values[0] = Int32GetDatum(i);
		memcpy(values + 1, works[i]->mutation->key, sizeof(Datum) * table->nkeys);
		sx_keys_put(keys, values, nulls);
	}
	sx_keys_end(keys, 1);
	/* not read-only: each read is to see the latest */
	if (SPI_execute_plan(sx_plan_get(sql.data, 0, NULL), NULL, NULL, false, 0) !=
		SPI_OK_SELECT)
		elog(ERROR, "could not run \"%s\"", sql.data);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		SPITupleTable *rows = SPI_tuptable;
		bool		isnull;
		int			ord = DatumGetInt32(SPI_getbinval(rows->vals[i],
													  rows->tupdesc, 1,
													  &isnull));
		MemoryContext old = MemoryContextSwitchTo(context);

		take_row(works[ord], rows, (int) i);
		MemoryContextSwitchTo(old);
	}
	tuplestore_end(keys->store);
	SPI_finish();
}

static void
read_own_writes(SxWriter *writer, SxTable *table, Work **works, int n)
{
	Oid		   *roots = palloc(sizeof(Oid) * n);
	uint64	   *hashes = palloc(sizeof(uint64) * n);
	SxOwnWrite *writes = palloc(sizeof(SxOwnWrite) * n);

	for (int i = 0; i < n; i++)
	{
		roots[i] = table->root;
		hashes[i] = works[i]->mutation->key_hash;
	}
	sx_ledger_own_writes(writer->device, n, roots, hashes, writes);
	for (int i = 0; i < n; i++)
		works[i]->own = writes[i];
}

static void
read_and_decide(SxWriter *writer, SxTable *table, Work *works, int n)
{
	Work	  **reads = palloc(sizeof(Work *) * n);
	Changed    *changed = NULL;
	int			nreads = 0;

	for (int i = 0; i < n; i++)
		if (works[i].action == ACTION_READ)
			reads[nreads++] = &works[i];
	if (nreads == 0)
		return;
	read_rows(table, reads, nreads);
	if (writer->device != NULL)
		read_own_writes(writer, table, reads, nreads);
	for (int i = 0; i < nreads; i++)
	{
		if (changed == NULL && reads[i]->found &&
			by_since(writer, reads[i]->mutation))
			changed = read_changed(writer, table);
		decide(writer, reads[i], changed);
	}
}

/* ---- writing ---- */

/* The columns of an INSERT, or that an UPDATE sets, as attribute numbers. */
static int
columns_of(SxMutation *mutation, Action action, AttrNumber *attnums)
{
	SxTable    *table = mutation->table;
	int			attnum = -1;
	int			n = 0;

	if (action == ACTION_INSERT && mutation->has_key)
		for (int i = 0; i < table->nkeys; i++)
			attnums[n++] = table->keys[i].attnum;
	while ((attnum = bms_next_member(mutation->sets, attnum)) >= 0)
		attnums[n++] = attnum;
	return n;
}

static char *
insert_query(SxTable *table, SxMutation *mutation, int n, AttrNumber *attnums)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "INSERT INTO %s ", sx_plan_relation(table->root));
	if (n == 0)
	{
		appendStringInfoString(&sql, "DEFAULT VALUES");
		return sql.data;
	}
	for (int i = 0; i < n; i++)
		appendStringInfo(&sql, "%s%s", i == 0 ? "(" : ", ",
						 quote_identifier(get_attname(table->root, attnums[i], false)));
	/* a key that we made from the column's own sequence is the system's value */
	appendStringInfo(&sql, ")%s SELECT ",
					 mutation->key_made ? " OVERRIDING SYSTEM VALUE" : "");
	for (int i = 0; i < n; i++)
		appendStringInfo(&sql, "%sk.c%d", i == 0 ? "" : ", ", i + 1);
	appendStringInfoString(&sql, " FROM " SX_KEYS " k");
	/* a deferrable key cannot be asked for: it raises an error */
	if (mutation->has_key && !table->key_deferrable)
	{
		for (int i = 0; i < table->nkeys; i++)
			appendStringInfo(&sql, "%s%s", i == 0 ? " ON CONFLICT (" : ", ",
							 quote_identifier(table->keys[i].name));
		appendStringInfoString(&sql, ") DO NOTHING");
	}
	return sql.data;
}

static void
append_conditions(StringInfo sql, SxTable *table, Work *work)
{
	append_key_join(sql, table);
	if (work->windowed)
		appendStringInfo(sql, " AND " SX_ALIAS ".%1$s OPERATOR(pg_catalog.>=) k.low"
						 " AND " SX_ALIAS ".%1$s OPERATOR(pg_catalog.<) k.high",
						 modified_at_of(table));
	if (work->live)
		appendStringInfo(sql, " AND " SX_ALIAS ".%s IS NULL", deleted_at_of(table));
}

static char *
update_query(SxTable *table, Work *work, int n, AttrNumber *attnums)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "UPDATE %s AS " SX_ALIAS " SET ",
					 sx_plan_relation(table->root));
	for (int i = 0; i < n; i++)
		appendStringInfo(&sql, "%s%s = k.c%d", i == 0 ? "" : ", ",
						 quote_identifier(get_attname(table->root, attnums[i], false)),
						 i + 1);
	appendStringInfoString(&sql, " FROM " SX_KEYS " k WHERE ");
	append_conditions(&sql, table, work);
	return sql.data;
}

static char *
delete_query(SxTable *table, Work *work)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "DELETE FROM %s AS " SX_ALIAS " USING " SX_KEYS " k WHERE ",
					 sx_plan_relation(table->root));
	append_conditions(&sql, table, work);
	return sql.data;
}

/* A relation of keys, versions and values, one row for each mutation. */
static TupleDesc
write_desc(SxTable *table, int n, AttrNumber *attnums)
{
	TupleDesc	desc = CreateTemplateTupleDesc(table->nkeys + 2 + n);
	int			first = table->nkeys + 3;

	init_key_columns(desc, table, 1);
	TupleDescInitEntry(desc, table->nkeys + 1, "low", TIMESTAMPTZOID, -1, 0);
	TupleDescInitEntry(desc, table->nkeys + 2, "high", TIMESTAMPTZOID, -1, 0);
	for (int i = 0; i < n; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(table->row, attnums[i] - 1);

		TupleDescInitEntry(desc, first + i, psprintf("c%d", i + 1),
						   attr->atttypid, attr->atttypmod, attr->attndims);
		TupleDescInitEntryCollation(desc, first + i, attr->attcollation);
	}
	return desc;
}

static void
put_work(SxKeys *keys, SxTable *table, Work *work, int n, AttrNumber *attnums,
		 Datum *values, bool *nulls)
{
	SxMutation *mutation = work->mutation;
	int			place = 0;

	for (int i = 0; i < table->nkeys; i++, place++)
	{
		nulls[place] = !mutation->has_key;
		values[place] = mutation->has_key ? mutation->key[i] : (Datum) 0;
	}
	nulls[place] = nulls[place + 1] = !work->windowed;
	values[place++] = TimestampTzGetDatum(work->low);
	values[place++] = TimestampTzGetDatum(work->low + 1000);
	for (int i = 0; i < n; i++, place++)
	{
		values[place] = mutation->row.values[attnums[i] - 1];
		nulls[place] = mutation->row.nulls[attnums[i] - 1];
	}
	sx_keys_put(keys, values, nulls);
}

/* Executes one statement for mutations that are written alike. */
static void
write_group(SxWriter *writer, SxTable *table, Work **works, int n)
{
	Work	   *first = works[0];
	AttrNumber *attnums = palloc(sizeof(AttrNumber) * (table->row->natts + table->nkeys));
	int			ncolumns = columns_of(first->mutation, first->action, attnums);
	int			width = table->nkeys + 2 + ncolumns;
	Datum	   *values = palloc(sizeof(Datum) * width);
	bool	   *nulls = palloc(sizeof(bool) * width);
	SxMutation **mutations = palloc(sizeof(SxMutation *) * n);
	SxKeys	   *keys;
	char	   *sql;
	int			result;
	uint64		written;

	if (first->action == ACTION_INSERT)
		sql = insert_query(table, first->mutation, ncolumns, attnums);
	else if (first->action == ACTION_UPDATE)
		sql = update_query(table, first, ncolumns, attnums);
	else
		sql = delete_query(table, first);

	sx_plan_connect();
	keys = sx_keys_begin(write_desc(table, ncolumns, attnums));
	for (int i = 0; i < n; i++)
	{
		put_work(keys, table, works[i], ncolumns, attnums, values, nulls);
		mutations[i] = works[i]->mutation;
	}
	sx_keys_end(keys, 1);
	sx_watch_statement(mutations, n);
	result = SPI_execute_plan(sx_plan_get(sql, 0, NULL), NULL, NULL, false, 0);
	if (result < 0)
		elog(ERROR, "could not run \"%s\": %s", sql,
			 SPI_result_code_string(result));
	sx_watch_statement_done();
	written = SPI_processed;
	tuplestore_end(keys->store);
	SPI_finish();

	/* what changed nothing is seen by no trigger, but it was found */
	for (int i = 0; i < n; i++)
	{
		if (works[i]->mutation->written || written == n)
		{
			applied(works[i]);
			continue;
		}
		works[i]->action = ACTION_READ;
		works[i]->tries++;
		if (!works[i]->mutation->has_key)
			refuse(writer, works[i], SX_STATUS_REJECTED, ERRCODE_TRIGGERED_ACTION_EXCEPTION,
				   "row was not inserted", "A trigger suppressed it.",
				   "Look at the table's triggers.");
	}
}

static bool
alike(Work *a, Work *b)
{
	return a->action == b->action && a->windowed == b->windowed &&
		a->live == b->live &&
		bms_equal(a->mutation->sets, b->mutation->sets) &&
		a->mutation->has_key && b->mutation->has_key &&
		a->mutation->key_made == b->mutation->key_made &&
		!a->mutation->moves && !b->mutation->moves;
}

static void
write_groups(SxWriter *writer, SxTable *table, Work *works, int n)
{
	Work	  **group = palloc(sizeof(Work *) * n);
	int			size = 0;

	for (int i = 0; i < n; i++)
	{
		Work	   *work = &works[i];

		if (work->action == ACTION_NONE || work->action == ACTION_READ)
			continue;
		if (size > 0 && !alike(group[0], work))
		{
			write_group(writer, table, group, size);
			size = 0;
		}
		group[size++] = work;
	}
	if (size > 0)
		write_group(writer, table, group, size);
}

/* ---- a run ---- */

/* A soft-deleted row carries the time, unless the client gave one. */
static void
prepare_soft_delete(SxWriter *writer, SxMutation *mutation)
{
	SxTable    *table = mutation->table;
	AttrNumber	attnum = table->deleted_at;
	Oid			type = getBaseType(TupleDescAttr(table->row, attnum - 1)->atttypid);
	Datum		now = TimestampTzGetDatum(GetCurrentTimestamp());
	Datum	   *value = &mutation->row.values[attnum - 1];
	MemoryContext old;

	/* null is what the row had there when its author deleted it */
	if (!bms_is_member(attnum, mutation->columns) ||
		mutation->row.nulls[attnum - 1])
	{
		mutation->row.nulls[attnum - 1] = false;
		switch (type)
		{
			case TIMESTAMPTZOID:
				*value = now;
				break;
			case TIMESTAMPOID:
				*value = DirectFunctionCall1(timestamptz_timestamp, now);
				break;
			case DATEOID:
				*value = DirectFunctionCall1(timestamptz_date, now);
				break;
			default:
				/* sync.track() takes no other */
				elog(ERROR, "unexpected type %u of column %s", type,
					 deleted_at_of(table));
		}
	}
	old = MemoryContextSwitchTo(writer->context);
	mutation->columns = bms_make_singleton(attnum);
	MemoryContextSwitchTo(old);
}

/* What can be tried at once, without reading the row first. */
static void
prepare(SxWriter *writer, Work *work)
{
	SxMutation *mutation = work->mutation;
	SxTable    *table = mutation->table;
	bool		soft = table->deleted_at != 0;

	if (mutation->op == SX_MUTATION_DELETE)
	{
		if (soft)
			prepare_soft_delete(writer, mutation);
		else
			mutation->columns = NULL;
	}
	mutation->sets = mutation->columns;
	work->action = ACTION_READ;
	if (mutation->op == SX_MUTATION_INSERT ||
		(mutation->op == SX_MUTATION_UPSERT && is_blind(writer, mutation)))
	{
		/*
		 * A snapshot that is kept may see a row that somebody has deleted
		 * since: inserted beside it, both would be told.
		 */
		bool		look = table->key_deferrable || IsolationUsesXactSnapshot();

		work->action = mutation->was_made || (look && mutation->has_key) ?
			ACTION_READ : ACTION_INSERT;
		work->known = true;
		return;
	}
	if (mutation->op != SX_MUTATION_DELETE && bms_is_empty(mutation->columns))
		return;
	if (mutation->has_base)
	{
		work->windowed = true;
		work->low = whole_milliseconds(mutation->base);
		work->known = true;
	}
	else if (!is_blind(writer, mutation) || mutation->op == SX_MUTATION_UPSERT)
		return;
	work->live = soft;
	work->action = mutation->op == SX_MUTATION_DELETE && !soft ?
		ACTION_DELETE : ACTION_UPDATE;
}

void
sx_write_run(SxWriter *writer, SxMutation **mutations, int n)
{
	SxTable    *table = mutations[0]->table;
	Work	   *works = palloc0(sizeof(Work) * n);
	bool		open = true;

	sx_mutation_check_table(table);
	for (int i = 0; i < n; i++)
	{
		works[i].mutation = mutations[i];
		prepare(writer, &works[i]);
	}
	while (open)
	{
		CHECK_FOR_INTERRUPTS();
		read_and_decide(writer, table, works, n);
		write_groups(writer, table, works, n);
		open = false;
		for (int i = 0; i < n; i++)
			if (works[i].action != ACTION_NONE)
				open = true;
	}
	/* made in a context that does not last */
	for (int i = 0; i < n; i++)
		mutations[i]->sets = NULL;
}
