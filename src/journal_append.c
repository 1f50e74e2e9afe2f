/*-------------------------------------------------------------------------
 *
 * journal_append.c
 *		Storing entries: sync.append() and sync.put().
 *
 * The stream is locked first. Under the lock an id is known, in sync.entry or,
 * where its entry was combined or trimmed away, in the ledger, or nobody else
 * stores it meanwhile. What is new takes one time, later than all in the
 * stream, and the order of the call.
 *
 * Rows are inserted and looked up straight through the access methods: the
 * writer has no privilege on the tables, and this is the path that has to keep
 * up with a plain INSERT. Nearly always all entries of a call are new, so they
 * are inserted first, and the unique index tells while it takes them whether
 * one is known. Only then all of them are taken back, each is looked up, and
 * those that are new are inserted again.
 *
 * The unique index is visited in the order of hashes, so each page of it once.
 *
 * A call may come again, in part, in another order or with more: what was
 * stored says "duplicate" with its first time. So a client that lost an answer
 * just sends again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#include "sync_ext.h"
#include "capture.h"
#include "catalog.h"
#include "direct.h"
#include "event.h"
#include "guc.h"
#include "journal.h"
#include "journal_append.h"
#include "journal_ids.h"
#include "journal_news.h"
#include "probe.h"
#include "tracked.h"

PG_FUNCTION_INFO_V1(sync_ext_append);
PG_FUNCTION_INFO_V1(sync_ext_put);

/* Rows that go into the table at once. */
#define INSERT_BATCH 1000

/* An entry that a client sent. */
typedef struct Sent
{
	SxNewEntry	entry;
	int			order;			/* in the call */
	bool		duplicate;		/* of one that is stored, or ... */
	bool		repeated;		/* ... of one in the same call */
} Sent;

typedef struct Call
{
	SxStream	stream;
	int			n;
	Sent	   *sent;
	Sent	  **by_hash;		/* in the order of hashes, then of the call */
} Call;

/* sync.entry and its indexes, open for one call. */
typedef struct Store
{
	Relation	heap;
	Relation	by_time;
	Relation	by_hash;
	Relation	by_xid;
	SxDirectIndex *others;		/* that somebody else made */
	int			nothers;
	IndexInfo  *info;
	TupleDesc	row;			/* that slots need not pin */
} Store;

/*
 * The indexes are looked up when the table is locked. REINDEX CONCURRENTLY puts
 * others into their place, and until then has others beside them, which are
 * filled, too.
 */
static void
open_store(Store *store)
{
	SxCatalog	catalog;

	store->heap = table_open(sx_catalog_get()->entry, RowExclusiveLock);
	catalog = *sx_catalog_get();
	store->by_time = index_open(catalog.entry_by_time, RowExclusiveLock);
	store->by_hash = index_open(catalog.entry_by_hash, RowExclusiveLock);
	store->by_xid = index_open(catalog.entry_by_xid, RowExclusiveLock);
	store->others = sx_direct_open_indexes(store->heap,
										   list_make3_oid(catalog.entry_by_time,
														  catalog.entry_by_hash,
														  catalog.entry_by_xid),
										   &store->nothers);
	store->info = makeNode(IndexInfo);
	store->row = CreateTupleDescCopy(RelationGetDescr(store->heap));
}

/* The locks stay until the transaction ends, as for any INSERT. */
static void
close_store(Store *store)
{
	index_close(store->by_time, NoLock);
	index_close(store->by_hash, NoLock);
	index_close(store->by_xid, NoLock);
	sx_direct_close_indexes(store->others, store->nothers);
	table_close(store->heap, NoLock);
	pfree(store->info);
	FreeTupleDesc(store->row);
}

/* ---- inserting ---- */

static void
index_values(Relation index, SxNewEntry *entry, Datum *values)
{
	Form_pg_index form = index->rd_index;

	for (int i = 0; i < form->indnatts; i++)
		values[i] = entry->values[form->indkey.values[i] - 1];
}

static void
insert_into_index(Store *store, Relation index, SxNewEntry *entry)
{
	Datum		values[INDEX_MAX_KEYS];
	bool		nulls[INDEX_MAX_KEYS] = {false};

	index_values(index, entry, values);
	(void) sx_index_insert(index, values, nulls, &entry->tid, store->heap,
						   UNIQUE_CHECK_NO, store->info);
}

/* False where the id is there already. */
static bool
insert_hash(Store *store, SxNewEntry *entry)
{
	Datum		values[INDEX_MAX_KEYS];
	bool		nulls[INDEX_MAX_KEYS] = {false};

	index_values(store->by_hash, entry, values);
	return sx_index_insert(store->by_hash, values, nulls, &entry->tid,
						   store->heap, UNIQUE_CHECK_PARTIAL, store->info);
}

static int
compare_entries(const void *a, const void *b)
{
	const SxNewEntry *x = *(SxNewEntry *const *) a;
	const SxNewEntry *y = *(SxNewEntry *const *) b;

	return memcmp(VARDATA(x->hash), VARDATA(y->hash), SX_JOURNAL_HASH);
}

/* Columns that the owner added have nothing in them. */
static void
copy_row(Store *store, SxNewEntry *entry, Datum *values, bool *nulls)
{
	memset(nulls, true, sizeof(bool) * store->row->natts);
	memcpy(values, entry->values, sizeof(Datum) * Natts_entry);
	memcpy(nulls, entry->nulls, sizeof(bool) * Natts_entry);
}

static void
insert_into_others(Store *store, int n, SxNewEntry **entries)
{
	Datum	   *values;
	bool	   *nulls;

	if (store->nothers == 0)
		return;
	values = palloc0(sizeof(Datum) * store->row->natts);
	nulls = palloc(sizeof(bool) * store->row->natts);
	for (int other = 0; other < store->nothers; other++)
		for (int i = 0; i < n; i++)
		{
			copy_row(store, entries[i], values, nulls);
			sx_direct_insert_into(&store->others[other], store->heap, values,
								  nulls, &entries[i]->tid);
		}
	pfree(values);
	pfree(nulls);
}

static void
insert_rows(Store *store, int n, SxNewEntry **entries)
{
	TupleTableSlot **slots = palloc(sizeof(TupleTableSlot *) * n);

	for (int i = 0; i < n; i++)
	{
		slots[i] = MakeSingleTupleTableSlot(store->row, &TTSOpsVirtual);
		copy_row(store, entries[i], slots[i]->tts_values, slots[i]->tts_isnull);
		ExecStoreVirtualTuple(slots[i]);
	}
	table_multi_insert(store->heap, slots, n, GetCurrentCommandId(true), 0,
					   NULL);
	for (int i = 0; i < n; i++)
	{
		entries[i]->tid = slots[i]->tts_tid;
		ExecDropSingleTupleTableSlot(slots[i]);
	}
}

/* False where an id is there already; then the rows must be taken back. */
static bool
insert_batch(Store *store, int n, SxNewEntry **entries)
{
	SxNewEntry **sorted = palloc(sizeof(SxNewEntry *) * n);

	insert_rows(store, n, entries);
	for (int i = 0; i < n; i++)
		sorted[i] = entries[i];
	qsort(sorted, n, sizeof(SxNewEntry *), compare_entries);
	for (int i = 0; i < n; i++)
		if (!insert_hash(store, sorted[i]))
			return false;
	for (int i = 0; i < n; i++)
		insert_into_index(store, store->by_time, entries[i]);
	insert_into_others(store, n, entries);
	return true;
}

static void
fill_row(const SxStream *stream, SxNewEntry *entry, int ord, TimestampTz at,
		 uint64 xid, Datum origin)
{
	entry->at = at;
	entry->values[Anum_entry_stream_id - 1] = Int32GetDatum(stream->id);
	entry->values[Anum_entry_ord - 1] = Int32GetDatum(ord);
	entry->values[Anum_entry_at - 1] = TimestampTzGetDatum(at);
	entry->values[Anum_entry_xid - 1] = UInt64GetDatum(xid);
	entry->values[Anum_entry_hash - 1] = PointerGetDatum(entry->hash);
	entry->values[Anum_entry_id - 1] = PointerGetDatum(entry->id);
	entry->values[Anum_entry_origin - 1] = origin;
	entry->nulls[Anum_entry_origin - 1] = origin == 0;
	entry->values[Anum_entry_data - 1] = entry->content;
	entry->nulls[Anum_entry_data - 1] = stream->opaque;
	entry->values[Anum_entry_bytes - 1] = entry->content;
	entry->nulls[Anum_entry_bytes - 1] = !stream->opaque;
}

/*
 * Inserts entries. False where one of them is there already; then the first
 * "inserted" rows are there, and must be taken back.
 */
static bool
insert(Store *store, const SxStream *stream, int n, SxNewEntry **entries,
	   TimestampTz at, uint64 xid, const char *origin, int *inserted)
{
	Datum		origin_text = origin == NULL ? (Datum) 0 :
		CStringGetTextDatum(origin);
	MemoryContext context = NULL;
	bool		unique = true;

	for (int i = 0; i < n; i++)
		fill_row(stream, entries[i], i, at, xid, origin_text);
	if (n > INSERT_BATCH)
		context = AllocSetContextCreate(CurrentMemoryContext, "sync_ext insert",
										ALLOCSET_DEFAULT_SIZES);
	for (*inserted = 0; *inserted < n && unique;)
	{
		int			count = Min(INSERT_BATCH, n - *inserted);
		MemoryContext old = MemoryContextSwitchTo(context != NULL ? context :
												  CurrentMemoryContext);

		CHECK_FOR_INTERRUPTS();
		unique = insert_batch(store, count, entries + *inserted);
		*inserted += count;
		MemoryContextSwitchTo(old);
		if (context != NULL)
			MemoryContextReset(context);
	}
	if (context != NULL)
		MemoryContextDelete(context);
	if (unique)
		insert_into_index(store, store->by_xid, entries[0]);
	return unique;
}

/* Rows of this command can be deleted by the next one. */
static void
take_back(Store *store, int n, SxNewEntry **entries)
{
	CommandCounterIncrement();
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		simple_table_tuple_delete(store->heap, &entries[i]->tid, SnapshotSelf);
	}
}

static void
add_to_sums(const SxStream *stream, int n, SxNewEntry **entries)
{
	uint8	   *hashes = palloc(SX_JOURNAL_HASH * (Size) n);

	for (int i = 0; i < n; i++)
		memcpy(hashes + (Size) i * SX_JOURNAL_HASH, VARDATA(entries[i]->hash),
			   SX_JOURNAL_HASH);
	sx_journal_ids_appended(stream->id, hashes, n);
	pfree(hashes);
}

void
sx_append_insert(const SxStream *stream, int n, SxNewEntry **entries,
				 TimestampTz at, uint64 xid, const char *origin)
{
	Store		store;
	int			inserted;

	open_store(&store);
	if (!insert(&store, stream, n, entries, at, xid, origin, &inserted))
		elog(ERROR, "an id of stream \"%s\" is in use", stream->name);
	add_to_sums(stream, n, entries);
	close_store(&store);
}

/* ---- what is known already ---- */

static void
other_content(const char *stream, text *id, const char *where)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNIQUE_VIOLATION),
			 errmsg("entry \"%s\" of stream \"%s\" has other content",
					text_to_cstring(id), stream),
			 errdetail("%s", where),
			 errhint("Entries are immutable: give what is new an id of its own.")));
}

static bool
same_content(Datum a, Datum b)
{
	return datumIsEqual(PointerGetDatum(PG_DETOAST_DATUM(a)),
						PointerGetDatum(PG_DETOAST_DATUM(b)), false, -1);
}

static void
find_entry(Call *call, SxProbe *probe, Sent *sent)
{
	ScanKeyData keys[2];
	TupleTableSlot *slot;
	bool		isnull;

	sx_probe_hash_keys(keys, call->stream.id, sent->entry.hash);
	slot = sx_probe_first(probe, keys, ForwardScanDirection);
	if (slot == NULL)
		return;
	if (!same_content(slot_getattr(slot, call->stream.opaque ?
								   Anum_entry_bytes : Anum_entry_data, &isnull),
					  sent->entry.content))
		other_content(call->stream.name, sent->entry.id,
					  "An entry with this id was stored before.");
	sent->duplicate = true;
	sent->entry.at = DatumGetTimestampTz(slot_getattr(slot, Anum_entry_at,
													  &isnull));
}

static void
find_ledger_row(Call *call, SxProbe *probe, Sent *sent)
{
	ScanKeyData keys[2];
	TupleTableSlot *slot;
	bool		isnull;
	uint8		digest[SX_JOURNAL_HASH];
	bytea	   *known;

	sx_probe_hash_keys(keys, call->stream.id, sent->entry.hash);
	slot = sx_probe_first(probe, keys, ForwardScanDirection);
	if (slot == NULL)
		return;
	sx_journal_digest(call->stream.opaque, sent->entry.content, digest);
	known = DatumGetByteaPP(slot_getattr(slot, Anum_entry_ledger_digest,
										 &isnull));
	if (memcmp(VARDATA_ANY(known), digest, SX_JOURNAL_HASH) != 0)
		other_content(call->stream.name, sent->entry.id,
					  "An entry with this id was stored before, and is part of another one or of a snapshot by now.");
	sent->duplicate = true;
	sent->entry.at = DatumGetTimestampTz(slot_getattr(slot,
													  Anum_entry_ledger_at,
													  &isnull));
}

static int
compare_sent(const void *a, const void *b)
{
	const Sent *x = *(Sent *const *) a;
	const Sent *y = *(Sent *const *) b;
	int			order = memcmp(VARDATA(x->entry.hash), VARDATA(y->entry.hash),
							   SX_JOURNAL_HASH);

	return order != 0 ? order : x->order - y->order;
}

static bool
same_id(const Sent *a, const Sent *b)
{
	return memcmp(VARDATA(a->entry.hash), VARDATA(b->entry.hash),
				  SX_JOURNAL_HASH) == 0;
}

static void
sort_by_hash(Call *call)
{
	call->by_hash = palloc(sizeof(Sent *) * call->n);
	for (int i = 0; i < call->n; i++)
		call->by_hash[i] = &call->sent[i];
	qsort(call->by_hash, call->n, sizeof(Sent *), compare_sent);
	for (int i = 1; i < call->n; i++)
	{
		Sent	   *before = call->by_hash[i - 1];
		Sent	   *sent = call->by_hash[i];

		if (!same_id(before, sent))
			continue;
		if (!same_content(before->entry.content, sent->entry.content))
			other_content(call->stream.name, sent->entry.id,
						  "The call holds two entries with this id.");
		sent->duplicate = sent->repeated = true;
	}
}

static void
find_in_entries(Call *call, Store *store)
{
	SxProbe		entries;

	/* also what this command has stored, in a call before this one */
	sx_probe_begin(&entries, store->heap, store->by_hash, SnapshotSelf, 2);
	for (int i = 0; i < call->n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (!call->by_hash[i]->duplicate)
			find_entry(call, &entries, call->by_hash[i]);
	}
	sx_probe_end(&entries);
}

static void
find_in_ledger(Call *call)
{
	const SxCatalog *catalog = sx_catalog_get();
	SxProbe		ledger;

	sx_probe_open(&ledger, catalog->entry_ledger, catalog->entry_ledger_by_hash,
				  SnapshotSelf, 2);
	for (int i = 0; i < call->n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (!call->by_hash[i]->duplicate)
			find_ledger_row(call, &ledger, call->by_hash[i]);
	}
	sx_probe_close(&ledger);
}

/* ---- storing ---- */

static void
announce(Call *call)
{
	const char *origin = *sx_guc_client == '\0' ? NULL : sx_guc_client;
	uint64		stored = 0;

	if (sx_guc_notify == SX_NOTIFY_OFF)
		return;
	for (int i = 0; i < call->n; i++)
	{
		if (call->sent[i].duplicate)
			continue;
		stored++;
		if (sx_event_wants_keys())
			sx_capture_event(SX_ENTRIES_DOMAIN, 1, origin,
							 sx_journal_news_key(call->stream.name,
												 text_to_cstring(call->sent[i].entry.id)));
	}
	if (!sx_event_wants_keys())
		sx_capture_event(SX_ENTRIES_DOMAIN, stored, origin, NULL);
}

/*
 * The last time in a stream that is not earlier than "from", from the index:
 * whether the entry is there does not matter, since one that was rolled back
 * only leaves a time out. The bound is what keeps this cheap: without it btree
 * looks at every entry of the last page.
 */
static bool
last_time_in_index(Store *store, int32 stream_id, TimestampTz from,
				   TimestampTz *at)
{
	IndexScanDesc scan = sx_index_beginscan(store->heap, store->by_time,
											SnapshotSelf, 2);
	ScanKeyData keys[2];
	bool		found;
	bool		isnull;

	sx_probe_stream_key(&keys[0], stream_id);
	ScanKeyInit(&keys[1], 2, BTGreaterEqualStrategyNumber, F_TIMESTAMPTZ_GE,
				TimestampTzGetDatum(from));
	scan->xs_want_itup = true;
	index_rescan(scan, keys, 2, NULL, 0);
	found = index_getnext_tid(scan, BackwardScanDirection) != NULL;
	if (found)
		*at = DatumGetTimestampTz(index_getattr(scan->xs_itup, 2,
												scan->xs_itupdesc, &isnull));
	index_endscan(scan);
	return found;
}

/*
 * The time of what is stored now: the clock's, read while the stream is held,
 * and later than all that the stream has, whatever the clock says.
 */
static TimestampTz
next_time(Call *call, Store *store)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz last;

	now -= now % 1000;
	if (last_time_in_index(store, call->stream.id, now, &last))
		return last + 1000;
	/* entries that were trimmed away are in the snapshot */
	if (call->stream.compacted &&
		sx_journal_last_snapshot(call->stream.id, SnapshotSelf, &last) &&
		last >= now)
		return last + 1000;
	return now;
}

/*
 * Stores what is not known to be a duplicate. False where one is; then nothing
 * is stored.
 */
static bool
store_new(Call *call, Store *store)
{
	SxNewEntry **entries = palloc(sizeof(SxNewEntry *) * call->n);
	int			n = 0;
	int			inserted;

	for (int i = 0; i < call->n; i++)
		if (!call->sent[i].duplicate)
			entries[n++] = &call->sent[i].entry;
	if (n == 0)
		return true;
	if (!insert(store, &call->stream, n, entries, next_time(call, store),
				U64FromFullTransactionId(GetTopFullTransactionId()),
				*sx_guc_client == '\0' ? NULL : sx_guc_client, &inserted))
	{
		take_back(store, inserted, entries);
		return false;
	}
	add_to_sums(&call->stream, n, entries);
	announce(call);
	return true;
}

static void
store(Call *call)
{
	Store		store;

	if (call->n == 0)
		return;
	open_store(&store);
	sort_by_hash(call);
	if (call->stream.compacted)
		find_in_ledger(call);
	if (!store_new(call, &store))
	{
		find_in_entries(call, &store);
		if (!store_new(call, &store))
			elog(ERROR, "an id of stream \"%s\" was stored meanwhile",
				 call->stream.name);
	}
	close_store(&store);
}

/* A repeated id in one call has the time of the one before it. */
static void
fill_in_times(Call *call)
{
	for (int i = 1; i < call->n; i++)
	{
		Sent	   *before = call->by_hash[i - 1];
		Sent	   *sent = call->by_hash[i];

		if (sent->repeated)
			sent->entry.at = before->entry.at;
	}
}

static void
answer(FunctionCallInfo fcinfo, Call *call)
{
	ReturnSetInfo *set = (ReturnSetInfo *) fcinfo->resultinfo;
	Datum		stored = CStringGetTextDatum("stored");
	Datum		duplicate = CStringGetTextDatum("duplicate");

	if (call->n > 0)
		fill_in_times(call);
	for (int i = 0; i < call->n; i++)
	{
		Sent	   *sent = &call->sent[i];
		Datum		values[3] = {
			PointerGetDatum(sent->entry.id),
			TimestampTzGetDatum(sent->entry.at),
			sent->duplicate ? duplicate : stored
		};
		bool		nulls[3] = {false};

		tuplestore_putvalues(set->setResult, set->setDesc, values, nulls);
	}
}

/* ---- what clients send ---- */

static void
malformed(const char *message, const char *detail, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("%s", message),
			 errdetail("%s", detail),
			 errhint("%s", hint)));
}

static void
check_id(const char *what, const char *id, int len)
{
	if (len < 1 || len > SX_JOURNAL_MAX_ID)
		malformed(psprintf("%s must have 1 to %d bytes", what,
						   SX_JOURNAL_MAX_ID),
				  psprintf("It has %d bytes: \"%.*s%s\".", len,
						   pg_mbcliplen(id, len, 40), id, len > 40 ? "..." : ""),
				  "Give a UUID, or a hash of what is longer.");
}

static void
set_entry(SxNewEntry *entry, const char *id, int len, Datum content, Size size)
{
	check_id("the id of an entry", id, len);
	if (len >= strlen(SX_JOURNAL_OWN_IDS) &&
		memcmp(id, SX_JOURNAL_OWN_IDS, strlen(SX_JOURNAL_OWN_IDS)) == 0)
		malformed("the id of an entry must not begin with \"" SX_JOURNAL_OWN_IDS "\"",
				  psprintf("It is \"%.*s\".", len, id),
				  "Ids that begin so are those of snapshots and combined entries.");
	if (size > SX_JOURNAL_MAX_ENTRY)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("entry \"%.*s\" is too large", len, id),
				 errdetail("It has %zu bytes, and %d are the most.", size,
						   SX_JOURNAL_MAX_ENTRY),
				 errhint("Store large content in parts, or elsewhere, and append what refers to it.")));
	entry->id = cstring_to_text_with_len(id, len);
	entry->hash = palloc(VARHDRSZ + SX_JOURNAL_HASH);
	SET_VARSIZE(entry->hash, VARHDRSZ + SX_JOURNAL_HASH);
	sx_journal_hash_text(id, len, (uint8 *) VARDATA(entry->hash));
	entry->content = content;
}

/* An action is an object with an id; the rest of it is the application's. */
static void
check_action(const JsonbValue *action, const char *path)
{
	JsonbValue	value;
	JsonbValue *id;

	if (action->type != jbvBinary ||
		!JsonContainerIsObject(action->val.binary.data))
		malformed("malformed entries",
				  psprintf("An element of %s is not an object.", path),
				  "An action is an object with an \"id\", a string, and what else you like.");
	id = getKeyJsonValueFromContainer(action->val.binary.data, "id", 2, &value);
	if (id == NULL || id->type != jbvString)
		malformed("malformed entries",
				  psprintf("An element of %s has no \"id\" that is a string.", path),
				  "Every action has an id of its own, which it keeps when entries are combined.");
	check_id("the id of an action", id->val.string.val, id->val.string.len);
}

static void
check_actions(const JsonbValue *actions, const char *path)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	value;

	if (actions == NULL || actions->type != jbvBinary ||
		!JsonContainerIsArray(actions->val.binary.data) ||
		JsonContainerIsScalar(actions->val.binary.data) ||
		JsonContainerSize(actions->val.binary.data) == 0)
		malformed("malformed entries",
				  psprintf("%s is not an array of one action or more.", path),
				  "Give entries as [{\"id\": \"...\", \"actions\": [{\"id\": \"...\", ...}, ...]}, ...].");
	iterator = JsonbIteratorInit(actions->val.binary.data);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
		if (token == WJB_ELEM)
			check_action(&value, path);
}

static void
read_entry(SxNewEntry *entry, const JsonbValue *element, int n)
{
	JsonbContainer *object;
	JsonbValue	id_value;
	JsonbValue	actions_value;
	JsonbValue *id;
	JsonbValue *actions;
	Jsonb	   *content;

	if (element->type != jbvBinary ||
		!JsonContainerIsObject(element->val.binary.data))
		malformed("malformed entries", psprintf("Element %d is not an object.", n),
				  "Give entries as [{\"id\": \"...\", \"actions\": [...]}, ...].");
	object = element->val.binary.data;
	id = getKeyJsonValueFromContainer(object, "id", 2, &id_value);
	actions = getKeyJsonValueFromContainer(object, "actions", 7, &actions_value);
	if (id == NULL || id->type != jbvString)
		malformed("malformed entries",
				  psprintf("Element %d has no \"id\" that is a string.", n),
				  "The client makes the id when it makes the entry, and sends it again with the entry.");
	if (JsonContainerSize(object) != (actions == NULL ? 1 : 2))
		malformed("malformed entries",
				  psprintf("Element %d has members other than \"id\" and \"actions\".", n),
				  "What belongs to an action goes into the action.");
	check_actions(actions, psprintf("\"actions\" of element %d", n));
	content = JsonbValueToJsonb(actions);
	set_entry(entry, id->val.string.val, id->val.string.len,
			  PointerGetDatum(content), VARSIZE(content));
}

static void
begin_call(FunctionCallInfo fcinfo, Call *call, bool opaque,
		   const char *function)
{
	PreventCommandIfReadOnly(function);
	PreventCommandIfParallelMode(function);
	sx_init_materialized_scalars(fcinfo);
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("stream must not be null"),
				 errdetail("The call is %s.", function),
				 errhint("sync.streams lists the streams.")));
	sx_journal_open(PG_GETARG_TEXT_PP(0), SX_JOURNAL_APPEND, &call->stream);
	if (call->stream.opaque != opaque)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("stream \"%s\" has another kind", call->stream.name),
				 errdetail("Its entries are %s.", call->stream.opaque ?
						   "bytes that the server cannot read (opaque)" :
						   "actions"),
				 errhint("Use %s.", call->stream.opaque ? "sync.put()" :
						 "sync.append()")));
}

static void
set_count(Call *call, int n)
{
	if (n > SX_JOURNAL_MAX_CALL)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("too many entries in one call"),
				 errdetail("There are %d, and %d are the most.", n,
						   SX_JOURNAL_MAX_CALL),
				 errhint("Store them in several calls.")));
	call->n = n;
	call->sent = palloc0(sizeof(Sent) * Max(n, 1));
}

static void
finish_call(FunctionCallInfo fcinfo, Call *call)
{
	sx_journal_lock(&call->stream);
	store(call);
	answer(fcinfo, call);
}

/* sync.append(stream, entries) */
Datum
sync_ext_append(PG_FUNCTION_ARGS)
{
	Call		call = {0};
	Jsonb	   *entries;
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	element;
	int			n = 0;

	begin_call(fcinfo, &call, false, "sync.append()");
	entries = PG_ARGISNULL(1) ? NULL : PG_GETARG_JSONB_P(1);
	if (entries == NULL || !JB_ROOT_IS_ARRAY(entries) ||
		JB_ROOT_IS_SCALAR(entries))
		malformed("malformed entries", entries == NULL ? "They are null." :
				  "They are not an array.",
				  "Give entries as [{\"id\": \"...\", \"actions\": [...]}, ...].");
	set_count(&call, JB_ROOT_COUNT(entries));
	iterator = JsonbIteratorInit(&entries->root);
	while ((token = JsonbIteratorNext(&iterator, &element, true)) != WJB_DONE)
	{
		if (token != WJB_ELEM)
			continue;
		call.sent[n].order = n;
		read_entry(&call.sent[n].entry, &element, n);
		n++;
	}
	finish_call(fcinfo, &call);
	return (Datum) 0;
}

static void
no_nulls(const char *array, int n)
{
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("%s must not contain null", array),
			 errdetail("Element %d is null.", n + 1),
			 errhint("Give an id and bytes for each entry.")));
}

/* sync.put(stream, ids, data) */
Datum
sync_ext_put(PG_FUNCTION_ARGS)
{
	Call		call = {0};
	ArrayType  *id_array;
	ArrayType  *data_array;
	Datum	   *ids;
	Datum	   *data;
	bool	   *id_nulls;
	bool	   *data_nulls;
	int			n;
	int			ndata;

	begin_call(fcinfo, &call, true, "sync.put()");
	if (PG_ARGISNULL(1) || PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("ids and data must not be null"),
				 errdetail("The stream is \"%s\".", call.stream.name),
				 errhint("Give an id and bytes for each entry.")));
	id_array = PG_GETARG_ARRAYTYPE_P(1);
	data_array = PG_GETARG_ARRAYTYPE_P(2);
	deconstruct_array(id_array, TEXTOID, -1, false, TYPALIGN_INT, &ids,
					  &id_nulls, &n);
	deconstruct_array(data_array, BYTEAOID, -1, false, TYPALIGN_INT, &data,
					  &data_nulls, &ndata);
	if (n != ndata || ARR_NDIM(id_array) > 1 || ARR_NDIM(data_array) > 1)
		malformed("ids and data must be two lists of the same length",
				  psprintf("There are %d ids and %d elements of data.", n,
						   ndata),
				  "Give an id and bytes for each entry.");
	set_count(&call, n);
	for (int i = 0; i < n; i++)
	{
		if (id_nulls[i])
			no_nulls("ids", i);
		if (data_nulls[i])
			no_nulls("data", i);
		call.sent[i].order = i;
		set_entry(&call.sent[i].entry, VARDATA_ANY(DatumGetPointer(ids[i])),
				  VARSIZE_ANY_EXHDR(DatumGetPointer(ids[i])), data[i],
				  VARSIZE_ANY_EXHDR(DatumGetPointer(data[i])));
	}
	finish_call(fcinfo, &call);
	return (Datum) 0;
}
