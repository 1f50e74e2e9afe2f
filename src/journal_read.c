/*-------------------------------------------------------------------------
 *
 * journal_read.c
 *		Reading streams: sync.entries(), sync.entry_ids(), sync.missing().
 *
 * A client's place in a stream is a time: it has all entries up to it, and as
 * what is visible at a time is final, it asks for what has a later one. A
 * cursor holds that time, and beside it what a time cannot know: which stream
 * of which database, and where in WAL, so that a place that a failover lost is
 * recognised.
 *
 * An answer is made under one snapshot: the latest sync snapshot, where the
 * client has nothing or entries that it lacks were trimmed away, and the
 * entries after that. Entries that one call stored share a time, and a page
 * never ends between them.
 *
 * Entries of the reader's own transaction come last, as it holds the stream;
 * they are delivered, and never count as seen, since the transaction may roll
 * back and others then take their times.
 *
 * A combined entry has the time of its last part, so a client whose place lies
 * between its parts gets all of it, and knows by the ids of actions which ones
 * it has.
 *
 * Two sets of ids play no part in time. In sync.entries(ids) the client names
 * what it wants; in sync.missing() what it has.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "sync_ext.h"
#include "catalog.h"
#include "cursor.h"
#include "journal.h"
#include "probe.h"

PG_FUNCTION_INFO_V1(sync_ext_entries);
PG_FUNCTION_INFO_V1(sync_ext_entry_ids);
PG_FUNCTION_INFO_V1(sync_ext_missing);

#define COLUMN_KIND		0
#define COLUMN_ID		1
#define COLUMN_AT		2
#define COLUMN_DATA		3
#define COLUMN_BYTES	4
#define COLUMN_CURSOR	5
#define COLUMNS			6

/* An id that the client named. */
typedef struct Named
{
	uint8		hash[SX_JOURNAL_HASH];	/* hash key */
	text	   *id;
	bool		present;		/* as an entry */
} Named;

typedef struct Reading
{
	SxStream	stream;
	int			max_rows;		/* 0: all */
	ReturnSetInfo *set;
	Snapshot	snapshot;
	uint64		own;			/* the reader's transaction, or 0 */
	uint64		question;

	TimestampTz place;			/* what the client will have seen */
	bool		place_is_final; /* own entries follow: it stays */
	uint64		newest_xid;		/* of what was shown; to be flushed */
	int			rows;			/* entries so far */
	bool		cut;			/* the page is full */

	HTAB	   *named;			/* of Named */
	Datum		entry_kind;
} Reading;

/* ---- the answer ---- */

static void
tell(Reading *reading, Datum kind, Datum *id, TimestampTz at, Datum *data,
	 Datum *bytes, bytea *cursor)
{
	Datum		values[COLUMNS] = {0};
	bool		nulls[COLUMNS];

	memset(nulls, true, sizeof(nulls));
	values[COLUMN_KIND] = kind;
	nulls[COLUMN_KIND] = false;
	if (id != NULL)
	{
		values[COLUMN_ID] = *id;
		nulls[COLUMN_ID] = false;
	}
	values[COLUMN_AT] = TimestampTzGetDatum(at);
	nulls[COLUMN_AT] = TIMESTAMP_NOT_FINITE(at);
	if (data != NULL)
	{
		values[COLUMN_DATA] = *data;
		nulls[COLUMN_DATA] = false;
	}
	if (bytes != NULL)
	{
		values[COLUMN_BYTES] = *bytes;
		nulls[COLUMN_BYTES] = false;
	}
	values[COLUMN_CURSOR] = PointerGetDatum(cursor);
	nulls[COLUMN_CURSOR] = cursor == NULL;
	tuplestore_putvalues(reading->set->setResult, reading->set->setDesc,
						 values, nulls);
}

static void
add_member(JsonbParseState **state, const char *name, const char *value)
{
	JsonbValue	string;

	string.type = jbvString;
	string.val.string.val = unconstify(char *, name);
	string.val.string.len = strlen(name);
	pushJsonbValue(state, WJB_KEY, &string);
	string.val.string.val = unconstify(char *, value);
	string.val.string.len = strlen(value);
	pushJsonbValue(state, WJB_VALUE, &string);
}

typedef struct Reset
{
	const char *reason;
	const char *message;
	const char *hint;
} Reset;

static const Reset other_generation = {
	"other_generation",
	"The cursor is of another database, or of this one before it was restored, cloned or upgraded.",
	"Load anew, and send again what the answer does not hold."
};
static const Reset other_question = {
	"other_question",
	"The cursor came from another stream, from one of this name that was dropped, or from another question.",
	"Keep one cursor for each stream."
};
static const Reset other_history = {
	"other_history",
	"The client has seen entries that this server lost in a failover or a crash.",
	"Load anew, and send again what the answer does not hold: sync.missing() tells."
};
static const Reset unknown_time = {
	"unknown_time",
	"The time is later than any in the stream.",
	"Give the time that the last answer closed with, not a clock's."
};

static void
tell_reset(Reading *reading, const Reset *reset)
{
	JsonbParseState *state = NULL;
	Datum		data;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	add_member(&state, "reason", reset->reason);
	add_member(&state, "message", reset->message);
	add_member(&state, "hint", reset->hint);
	data = JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&state,
														   WJB_END_OBJECT,
														   NULL)));
	tell(reading, CStringGetTextDatum("reset"), NULL, DT_NOBEGIN, &data, NULL,
		 NULL);
}

static bytea *
make_cursor(Reading *reading, TimestampTz place)
{
	SxCursor	cursor = {0};

	cursor.generation = sx_catalog_get()->generation_id;
	cursor.question = reading->question;
	cursor.position.kind = SX_POSITION_STREAM;
	cursor.position.xid = (uint64) place;
	cursor.lsn = sx_wal_position(&cursor.timeline);
	return sx_cursor_encode(&cursor);
}

static void
tell_end(Reading *reading)
{
	sx_journal_flush(reading->newest_xid);
	tell(reading, CStringGetTextDatum(reading->cut ? "more" : "up-to-date"),
		 NULL, reading->place, NULL, NULL,
		 make_cursor(reading, reading->place));
}

static Datum *
column(TupleTableSlot *slot, AttrNumber attribute, Datum *value)
{
	bool		isnull;

	*value = slot_getattr(slot, attribute, &isnull);
	return isnull ? NULL : value;
}

static uint64
xid_of(TupleTableSlot *slot, AttrNumber attribute)
{
	bool		isnull;

	return DatumGetUInt64(slot_getattr(slot, attribute, &isnull));
}

/* What was shown: it counts as seen, unless it can still be rolled back. */
static void
note_shown(Reading *reading, uint64 xid, TimestampTz at)
{
	if (xid == reading->own)
		reading->place_is_final = true;
	else if (!reading->place_is_final)
	{
		reading->place = at;
		reading->newest_xid = xid;
	}
}

static void
tell_entry(Reading *reading, TupleTableSlot *slot)
{
	Datum		id;
	Datum		data;
	Datum		bytes;

	tell(reading, reading->entry_kind, column(slot, Anum_entry_id, &id),
		 DatumGetTimestampTz(slot->tts_values[Anum_entry_at - 1]),
		 column(slot, Anum_entry_data, &data),
		 column(slot, Anum_entry_bytes, &bytes), NULL);
	reading->rows++;
}

/* ---- snapshots ---- */

/* How far the stream was trimmed, as this snapshot sees it. */
static TimestampTz
trimmed_upto(Reading *reading)
{
	const SxCatalog *catalog = sx_catalog_get();
	SxProbe		probe;
	ScanKeyData key;
	TupleTableSlot *slot;
	TimestampTz upto = DT_NOBEGIN;
	bool		isnull;

	sx_probe_stream_key(&key, reading->stream.id);
	sx_probe_open(&probe, catalog->stream_trimmed,
				  catalog->stream_trimmed_by_id, reading->snapshot, 1);
	slot = sx_probe_first(&probe, &key, ForwardScanDirection);
	if (slot != NULL)
		upto = DatumGetTimestampTz(slot_getattr(slot,
												Anum_stream_trimmed_upto,
												&isnull));
	sx_probe_close(&probe);
	return upto;
}

/*
 * Tells the latest snapshot, if there is one. Returns the time up to which it
 * goes, from which entries go on.
 */
static TimestampTz
tell_snapshot(Reading *reading)
{
	const SxCatalog *catalog = sx_catalog_get();
	SxProbe		probe;
	ScanKeyData key;
	TupleTableSlot *slot;
	TimestampTz upto = DT_NOBEGIN;

	sx_probe_stream_key(&key, reading->stream.id);
	sx_probe_open(&probe, catalog->stream_snapshot,
				  catalog->stream_snapshot_by_time, reading->snapshot, 1);
	slot = sx_probe_first(&probe, &key, BackwardScanDirection);
	if (slot != NULL)
	{
		Datum		id;
		Datum		data;
		Datum		bytes;
		bool		isnull;

		upto = DatumGetTimestampTz(slot_getattr(slot,
												Anum_stream_snapshot_upto,
												&isnull));
		tell(reading, CStringGetTextDatum("snapshot"),
			 column(slot, Anum_stream_snapshot_id, &id), upto,
			 column(slot, Anum_stream_snapshot_data, &data),
			 column(slot, Anum_stream_snapshot_bytes, &bytes), NULL);
		note_shown(reading, xid_of(slot, Anum_stream_snapshot_xid), upto);
	}
	sx_probe_close(&probe);
	return upto;
}

/* ---- entries in the order of time ---- */

typedef bool (*Wanted) (Reading *reading, TupleTableSlot *slot);

/*
 * Tells the entries after a time, those that are wanted. Entries that are
 * not are passed over, and count as seen.
 */
static void
tell_entries(Reading *reading, TimestampTz after, Wanted wanted)
{
	const SxCatalog *catalog = sx_catalog_get();
	SxProbe		probe;
	ScanKeyData keys[2];
	TupleTableSlot *slot;

	sx_probe_stream_key(&keys[0], reading->stream.id);
	ScanKeyInit(&keys[1], 2, BTGreaterStrategyNumber, F_TIMESTAMPTZ_GT,
				TimestampTzGetDatum(after));
	sx_probe_open(&probe, catalog->entry, catalog->entry_by_time,
				  reading->snapshot, 2);
	for (slot = sx_probe_first(&probe, keys, ForwardScanDirection);
		 slot != NULL;
		 slot = sx_probe_next(&probe, ForwardScanDirection))
	{
		TimestampTz at;
		bool		wants;

		CHECK_FOR_INTERRUPTS();
		slot_getsomeattrs(slot, Natts_entry);
		at = DatumGetTimestampTz(slot->tts_values[Anum_entry_at - 1]);
		wants = wanted == NULL || wanted(reading, slot);

		/* full, and this is no part of the call that came last */
		if (wants && reading->max_rows > 0 &&
			reading->rows >= reading->max_rows && at > reading->place &&
			!reading->place_is_final)
		{
			reading->cut = true;
			break;
		}
		if (wants)
			tell_entry(reading, slot);
		note_shown(reading, xid_of(slot, Anum_entry_xid), at);
	}
	sx_probe_close(&probe);
}

/* ---- the cursor ---- */

static void
retry(const char *detail, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("snapshot is older than what the cursor has seen"),
			 errdetail("%s", detail),
			 errhint("%s", hint)));
}

static void
retry_snapshot(void)
{
	if (RecoveryInProgress())
		retry("This standby has not replayed all of it.",
			  "Call sync.wait_for() with the cursor in a statement before, or ask the primary.");
	retry("The transaction began before the cursor was made.",
		  "Ask again in a new transaction.");
}

static const Reset *
check_history(const SxCursor *cursor)
{
	if (cursor->generation != sx_catalog_get()->generation_id)
		return &other_generation;
	switch (sx_history_of(cursor->timeline, cursor->lsn))
	{
		case SX_HISTORY_SHARED:
			return NULL;
		case SX_HISTORY_OTHER:
			return &other_history;
		case SX_HISTORY_BEHIND:
			retry("This standby has not replayed the WAL up to the cursor.",
				  "Call sync.wait_for() with the cursor in a statement before, or ask the primary.");
	}
	return NULL;
}

/* The time of the last row of a table that a set of transactions has seen. */
static TimestampTz
last_seen(Reading *reading, Oid heap, Oid index, AttrNumber at_column,
		  AttrNumber xid_column, const SxSnapshot *seen)
{
	SxProbe		probe;
	ScanKeyData key;
	TupleTableSlot *slot;
	TimestampTz at = DT_NOBEGIN;

	sx_probe_stream_key(&key, reading->stream.id);
	sx_probe_open(&probe, heap, index, reading->snapshot, 1);
	for (slot = sx_probe_first(&probe, &key, BackwardScanDirection);
		 slot != NULL;
		 slot = sx_probe_next(&probe, BackwardScanDirection))
	{
		Datum		value;

		CHECK_FOR_INTERRUPTS();
		if (!sx_snapshot_has(seen, xid_of(slot, xid_column)))
			continue;
		at = DatumGetTimestampTz(*column(slot, at_column, &value));
		break;
	}
	sx_probe_close(&probe);
	return at;
}

/*
 * A cursor that is bound to nothing, from sync.current_cursor(), is a set of
 * transactions. Those of a stream committed in the order of its times, so the
 * set ends at the last entry of one that it holds; the way there is as long as
 * what is new.
 */
static TimestampTz
place_of_snapshot(Reading *reading, const SxSnapshot *seen)
{
	const SxCatalog *catalog = sx_catalog_get();
	TimestampTz entry;
	TimestampTz snapshot;

	if (!sx_snapshot_contains(sx_snapshot_of(reading->snapshot), seen))
		retry_snapshot();
	entry = last_seen(reading, catalog->entry, catalog->entry_by_time,
					  Anum_entry_at, Anum_entry_xid, seen);
	snapshot = last_seen(reading, catalog->stream_snapshot,
						 catalog->stream_snapshot_by_time,
						 Anum_stream_snapshot_upto, Anum_stream_snapshot_xid,
						 seen);
	return Max(entry, snapshot);
}

/* Turns a cursor into a place, or says why it is void. */
static const Reset *
find_place(Reading *reading, const SxCursor *cursor)
{
	const Reset *reset;
	TimestampTz place;

	if (cursor->is_time)
	{
		if (!sx_journal_has_come_to(reading->stream.id, reading->snapshot,
									cursor->time))
		{
			if (RecoveryInProgress())
				retry("This standby does not know the time yet.",
					  "Ask again later, or ask the primary.");
			return &unknown_time;
		}
		reading->place = cursor->time;
		return NULL;
	}

	reset = check_history(cursor);
	if (reset != NULL)
		return reset;
	if (cursor->question == 0)
	{
		reading->place = place_of_snapshot(reading, &cursor->seen);
		return NULL;
	}
	if (cursor->question != reading->question ||
		cursor->position.kind != SX_POSITION_STREAM)
		return &other_question;
	/* nothing that is the stream's goes without leaving its time */
	place = (TimestampTz) cursor->position.xid;
	if (place != DT_NOBEGIN &&
		!sx_journal_has_come_to(reading->stream.id, reading->snapshot, place))
		retry_snapshot();
	reading->place = place;
	return NULL;
}

/* ---- ids that the client names ---- */

static bytea *
hash_datum(const uint8 *hash)
{
	bytea	   *result = palloc(VARHDRSZ + SX_JOURNAL_HASH);

	SET_VARSIZE(result, VARHDRSZ + SX_JOURNAL_HASH);
	memcpy(VARDATA(result), hash, SX_JOURNAL_HASH);
	return result;
}

static void
read_names(Reading *reading, ArrayType *array, const char *argument)
{
	HASHCTL		control;
	Datum	   *ids;
	bool	   *nulls;
	int			n;

	if (ARR_NDIM(array) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be a list", argument),
				 errdetail("It is an array of %d dimensions.", ARR_NDIM(array)),
				 errhint("Give an array of ids.")));
	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &ids, &nulls,
					  &n);
	memset(&control, 0, sizeof(control));
	control.keysize = SX_JOURNAL_HASH;
	control.entrysize = sizeof(Named);
	control.hcxt = CurrentMemoryContext;
	reading->named = hash_create("sync_ext ids", Max(n, 16), &control,
								 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	for (int i = 0; i < n; i++)
	{
		uint8		hash[SX_JOURNAL_HASH];
		Named	   *named;
		bool		found;
		text	   *id = (text *) DatumGetPointer(ids[i]);

		CHECK_FOR_INTERRUPTS();
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("%s must not contain null", argument),
					 errdetail("Element %d is null.", i + 1),
					 errhint("Give an array of ids.")));
		sx_journal_hash_text(VARDATA_ANY(id), VARSIZE_ANY_EXHDR(id), hash);
		named = hash_search(reading->named, hash, HASH_ENTER, &found);
		named->id = id;
		named->present = false;
	}
}

static Named *
find_named(Reading *reading, TupleTableSlot *slot)
{
	bytea	   *hash = (bytea *) DatumGetPointer(
		slot->tts_values[Anum_entry_hash - 1]);

	return hash_search(reading->named, VARDATA_ANY(hash), HASH_FIND, NULL);
}

static bool
is_missing(Reading *reading, TupleTableSlot *slot)
{
	Named	   *named = find_named(reading, slot);

	if (named != NULL)
		named->present = true;
	return named == NULL;
}

/*
 * What an id that is no entry any more is part of: an entry, whose hash comes
 * back in "hash", or a snapshot. An entry may have been combined again.
 */
typedef enum Holder
{
	HOLDER_NONE,				/* the id was never stored */
	HOLDER_ENTRY,
	HOLDER_SNAPSHOT
} Holder;

static Holder
find_holder(Reading *reading, SxProbe *ledger, uint8 *hash)
{
	Holder		holder = HOLDER_NONE;

	for (;;)
	{
		ScanKeyData keys[2];
		TupleTableSlot *slot;
		Datum		value;
		Datum	   *held_by;

		CHECK_FOR_INTERRUPTS();
		sx_probe_hash_keys(keys, reading->stream.id, hash_datum(hash));
		slot = sx_probe_first(ledger, keys, ForwardScanDirection);
		if (slot == NULL)
			return holder;
		held_by = column(slot, Anum_entry_ledger_held_by, &value);
		if (held_by == NULL)
			return HOLDER_SNAPSHOT;
		memcpy(hash, VARDATA_ANY(DatumGetPointer(*held_by)), SX_JOURNAL_HASH);
		holder = HOLDER_ENTRY;
	}
}

static void
open_ledger(Reading *reading, SxProbe *ledger)
{
	const SxCatalog *catalog = sx_catalog_get();

	sx_probe_open(ledger, catalog->entry_ledger, catalog->entry_ledger_by_hash,
				  reading->snapshot, 2);
}

/* ---- sync.entries(ids) ---- */

typedef struct Found
{
	TimestampTz at;
	int32		ord;
	MinimalTuple row;
} Found;

static int
compare_found(const void *a, const void *b)
{
	const Found *x = a;
	const Found *y = b;

	if (x->at != y->at)
		return x->at < y->at ? -1 : 1;
	return x->ord < y->ord ? -1 : x->ord > y->ord ? 1 : 0;
}

/*
 * Tells the entries that hold the ids named, in the order of time, and before
 * them the snapshot, where one holds an id.
 */
static void
tell_named(Reading *reading, TimestampTz after, bool from_start)
{
	const SxCatalog *catalog = sx_catalog_get();
	SxProbe		probe;
	SxProbe		ledger;
	HASH_SEQ_STATUS sequence;
	Named	   *named;
	Found	   *found = palloc(sizeof(Found) *
							   Max(hash_get_num_entries(reading->named), 1));
	bool		in_snapshot = false;
	int			n = 0;
	TupleTableSlot *slot;

	sx_probe_open(&probe, catalog->entry, catalog->entry_by_hash,
				  reading->snapshot, 2);
	open_ledger(reading, &ledger);
	hash_seq_init(&sequence, reading->named);
	while ((named = hash_seq_search(&sequence)) != NULL)
	{
		uint8		hash[SX_JOURNAL_HASH];
		ScanKeyData keys[2];
		Datum		value;

		memcpy(hash, named->hash, SX_JOURNAL_HASH);
		sx_probe_hash_keys(keys, reading->stream.id, hash_datum(hash));
		slot = sx_probe_first(&probe, keys, ForwardScanDirection);
		if (slot == NULL)
		{
			Holder		holder = find_holder(reading, &ledger, hash);

			in_snapshot = in_snapshot || holder == HOLDER_SNAPSHOT;
			if (holder != HOLDER_ENTRY)
				continue;
			sx_probe_hash_keys(keys, reading->stream.id, hash_datum(hash));
			slot = sx_probe_first(&probe, keys, ForwardScanDirection);
			if (slot == NULL)
				continue;
		}
		found[n].at = DatumGetTimestampTz(*column(slot, Anum_entry_at, &value));
		found[n].ord = DatumGetInt32(*column(slot, Anum_entry_ord, &value));
		if (found[n].at > after)
			found[n++].row = ExecCopySlotMinimalTuple(slot);
	}
	sx_probe_close(&ledger);

	if (in_snapshot && from_start)
	{
		tell_snapshot(reading);
		reading->place = DT_NOBEGIN;
	}
	qsort(found, n, sizeof(Found), compare_found);
	slot = MakeSingleTupleTableSlot(RelationGetDescr(probe.heap),
									&TTSOpsMinimalTuple);
	for (int i = 0; i < n; i++)
	{
		/* several ids may have become one entry */
		if (i > 0 && compare_found(&found[i - 1], &found[i]) == 0)
			continue;
		if (reading->max_rows > 0 && reading->rows >= reading->max_rows &&
			found[i].at > reading->place && !reading->place_is_final)
		{
			reading->cut = true;
			break;
		}
		ExecStoreMinimalTuple(found[i].row, slot, false);
		slot_getallattrs(slot);
		tell_entry(reading, slot);
		note_shown(reading, xid_of(slot, Anum_entry_xid), found[i].at);
	}
	ExecDropSingleTupleTableSlot(slot);
	sx_probe_close(&probe);
}

/* ---- sync.missing() ---- */

/*
 * Up to where the client has everything: the latest snapshot that it names,
 * of those that exist.
 */
static TimestampTz
has_upto(Reading *reading)
{
	const SxCatalog *catalog = sx_catalog_get();
	SxProbe		probe;
	ScanKeyData key;
	TupleTableSlot *slot;
	TimestampTz upto = DT_NOBEGIN;

	sx_probe_stream_key(&key, reading->stream.id);
	sx_probe_open(&probe, catalog->stream_snapshot,
				  catalog->stream_snapshot_by_time, reading->snapshot, 1);
	for (slot = sx_probe_first(&probe, &key, BackwardScanDirection);
		 slot != NULL;
		 slot = sx_probe_next(&probe, BackwardScanDirection))
	{
		Datum		value;
		text	   *id = DatumGetTextPP(*column(slot, Anum_stream_snapshot_id,
												&value));
		uint8		hash[SX_JOURNAL_HASH];

		sx_journal_hash_text(VARDATA_ANY(id), VARSIZE_ANY_EXHDR(id), hash);
		if (hash_search(reading->named, hash, HASH_FIND, NULL) == NULL)
			continue;
		upto = DatumGetTimestampTz(*column(slot, Anum_stream_snapshot_upto,
										   &value));
		break;
	}
	sx_probe_close(&probe);
	return upto;
}

/* Whether an entry was trimmed away that the client lacks. */
static bool
lacks_trimmed(Reading *reading, TimestampTz upto)
{
	const SxCatalog *catalog = sx_catalog_get();
	SxProbe		probe;
	ScanKeyData key;
	TupleTableSlot *slot;
	bool		lacks = false;

	sx_probe_stream_key(&key, reading->stream.id);
	sx_probe_open(&probe, catalog->entry_ledger, catalog->entry_ledger_by_hash,
				  reading->snapshot, 1);
	for (slot = sx_probe_first(&probe, &key, ForwardScanDirection);
		 slot != NULL && !lacks;
		 slot = sx_probe_next(&probe, ForwardScanDirection))
	{
		Datum		value;
		bytea	   *hash;

		CHECK_FOR_INTERRUPTS();
		if (column(slot, Anum_entry_ledger_held_by, &value) != NULL ||
			DatumGetTimestampTz(*column(slot, Anum_entry_ledger_at,
										&value)) <= upto)
			continue;
		hash = DatumGetByteaPP(*column(slot, Anum_entry_ledger_hash, &value));
		lacks = hash_search(reading->named, VARDATA_ANY(hash), HASH_FIND,
							NULL) == NULL;
	}
	sx_probe_close(&probe);
	return lacks;
}

/* Tells which of the named ids were never stored. */
static void
tell_wanted(Reading *reading)
{
	const SxCatalog *catalog = sx_catalog_get();
	SxProbe		entries;
	SxProbe		ledger;
	HASH_SEQ_STATUS sequence;
	Named	   *named;
	Datum		kind = CStringGetTextDatum("wanted");

	sx_probe_open(&entries, catalog->entry, catalog->entry_by_hash,
				  reading->snapshot, 2);
	open_ledger(reading, &ledger);
	hash_seq_init(&sequence, reading->named);
	while ((named = hash_seq_search(&sequence)) != NULL)
	{
		uint8		hash[SX_JOURNAL_HASH];
		Datum		id = PointerGetDatum(named->id);
		int			prefix = strlen(SX_JOURNAL_OWN_IDS);
		ScanKeyData keys[2];

		CHECK_FOR_INTERRUPTS();
		if (named->present ||
			(VARSIZE_ANY_EXHDR(named->id) >= prefix &&
			 memcmp(VARDATA_ANY(named->id), SX_JOURNAL_OWN_IDS, prefix) == 0))
			continue;
		/* entries that a snapshot holds were not looked at */
		memcpy(hash, named->hash, SX_JOURNAL_HASH);
		sx_probe_hash_keys(keys, reading->stream.id, hash_datum(hash));
		if (sx_probe_first(&entries, keys, ForwardScanDirection) == NULL &&
			find_holder(reading, &ledger, hash) == HOLDER_NONE)
			tell(reading, kind, &id, DT_NOBEGIN, NULL, NULL, NULL);
	}
	sx_probe_close(&ledger);
	sx_probe_close(&entries);
}

/* ---- SQL ---- */

static void
begin(FunctionCallInfo fcinfo, Reading *reading)
{
	struct
	{
		char		what[16];
		int32		stream_id;
	}			question;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("stream must not be null"),
				 errhint("sync.streams lists the streams.")));
	sx_journal_open(PG_GETARG_TEXT_PP(0), SX_JOURNAL_READ, &reading->stream);
	reading->set = (ReturnSetInfo *) fcinfo->resultinfo;
	reading->snapshot = GetActiveSnapshot();
	reading->own = sx_own_xid();
	reading->place = DT_NOBEGIN;
	reading->entry_kind = CStringGetTextDatum("entry");

	memset(&question, 0, sizeof(question));
	strcpy(question.what, "stream");
	question.stream_id = reading->stream.id;
	reading->question = hash_bytes_extended((unsigned char *) &question,
											sizeof(question), 0);
}

static void
read_max_rows(FunctionCallInfo fcinfo, int argument, Reading *reading)
{
	if (PG_ARGISNULL(argument))
		return;
	reading->max_rows = PG_GETARG_INT32(argument);
	if (reading->max_rows < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_rows must be at least 1"),
				 errdetail("It is %d.", reading->max_rows),
				 errhint("Leave it out to get everything at once.")));
}

/* A list of ids is a question of its own: its pages are no place in a stream. */
static void
bind_to_ids(Reading *reading, ArrayType *ids)
{
	reading->question = hash_bytes_extended((unsigned char *) VARDATA_ANY(ids),
											VARSIZE_ANY_EXHDR(ids),
											reading->question);
}

/* sync.entries(stream, after, ids, max_rows) */
Datum
sync_ext_entries(PG_FUNCTION_ARGS)
{
	Reading		reading = {0};
	ArrayType  *ids = PG_ARGISNULL(2) ? NULL : PG_GETARG_ARRAYTYPE_P(2);
	const Reset *reset = NULL;
	bool		from_start = PG_ARGISNULL(1);
	TimestampTz after;

	begin(fcinfo, &reading);
	sx_init_materialized_result(fcinfo);
	read_max_rows(fcinfo, 3, &reading);
	if (ids != NULL)
	{
		read_names(&reading, ids, "ids");
		bind_to_ids(&reading, ids);
	}
	if (!from_start)
		reset = find_place(&reading, sx_cursor_decode(PG_GETARG_BYTEA_PP(1)));
	if (reset != NULL)
	{
		tell_reset(&reading, reset);
		from_start = true;
	}

	after = reading.place;
	if (ids != NULL)
		tell_named(&reading, after, from_start);
	else
	{
		if (from_start || after < trimmed_upto(&reading))
		{
			TimestampTz upto = tell_snapshot(&reading);

			after = Max(after, upto);
		}
		tell_entries(&reading, after, NULL);
	}
	tell_end(&reading);
	return (Datum) 0;
}

/* sync.entry_ids(stream) */
Datum
sync_ext_entry_ids(PG_FUNCTION_ARGS)
{
	Reading		reading = {0};
	const SxCatalog *catalog;
	SxProbe		probe;
	ScanKeyData key;
	TupleTableSlot *slot;

	begin(fcinfo, &reading);
	sx_init_materialized_scalars(fcinfo);
	catalog = sx_catalog_get();
	sx_probe_stream_key(&key, reading.stream.id);
	sx_probe_open(&probe, catalog->entry, catalog->entry_by_time,
				  reading.snapshot, 1);
	for (slot = sx_probe_first(&probe, &key, ForwardScanDirection);
		 slot != NULL;
		 slot = sx_probe_next(&probe, ForwardScanDirection))
	{
		Datum		id;
		bool		isnull = false;

		CHECK_FOR_INTERRUPTS();
		(void) column(slot, Anum_entry_id, &id);
		note_shown(&reading, xid_of(slot, Anum_entry_xid), 0);
		tuplestore_putvalues(reading.set->setResult, reading.set->setDesc, &id,
							 &isnull);
	}
	sx_probe_close(&probe);
	sx_journal_flush(reading.newest_xid);
	return (Datum) 0;
}

/* sync.missing(stream, have, max_rows) */
Datum
sync_ext_missing(PG_FUNCTION_ARGS)
{
	Reading		reading = {0};
	TimestampTz upto;

	begin(fcinfo, &reading);
	sx_init_materialized_result(fcinfo);
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("have must not be null"),
				 errdetail("The stream is \"%s\".", reading.stream.name),
				 errhint("A client that has nothing gives '{}'.")));
	read_max_rows(fcinfo, 2, &reading);
	read_names(&reading, PG_GETARG_ARRAYTYPE_P(1), "have");

	upto = has_upto(&reading);
	if (upto < trimmed_upto(&reading) && lacks_trimmed(&reading, upto))
		upto = tell_snapshot(&reading);
	else
		reading.place = upto;
	tell_entries(&reading, upto, is_missing);
	if (!reading.cut)
		tell_wanted(&reading);
	tell_end(&reading);
	return (Datum) 0;
}
