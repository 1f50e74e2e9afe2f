/*-------------------------------------------------------------------------
 *
 * journal_news.c
 *		What is new in the streams, for those who wake others.
 *
 * The entries are their own log: each says which transaction stored it. The
 * first entry of each call is found by its transaction, and stands for all of
 * the call, which have the same stream and origin. So do snapshots, each for
 * itself.
 *
 * What was compacted meanwhile is told all the same. A combined entry has the
 * transaction of its last part, and trimmed entries went only when there was a
 * snapshot, of a later transaction than theirs: whoever had not seen one of
 * them has not seen what took its place.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#include "sync_ext.h"
#include "catalog.h"
#include "journal_news.h"
#include "logscan.h"
#include "probe.h"
#include "tracked.h"

/* The table that is read: sync.entry or sync.stream_snapshot. */
typedef struct Source
{
	Oid			heap;
	Oid			by_xid;
	AttrNumber	xid;
	AttrNumber	at;
	AttrNumber	id;
	AttrNumber	origin;
} Source;

typedef struct StreamNews
{
	int32		id;				/* hash key */
	char	   *name;			/* NULL: it was dropped */
	const char *author;
	bool		mixed;
} StreamNews;

typedef struct Gathering
{
	SxNews	   *news;
	Snapshot	snapshot;
	SxDurable  *durable;
	bool		mixed;			/* of more than one origin */
	bool		with_keys;
	int			max_keys;
	HTAB	   *streams;		/* of StreamNews */
} Gathering;

char *
sx_journal_news_key(const char *stream, const char *id)
{
	StringInfoData key;

	initStringInfo(&key);
	appendStringInfoString(&key, "{\"stream\": ");
	escape_json(&key, stream);
	appendStringInfoString(&key, ", \"id\": ");
	escape_json(&key, id);
	appendStringInfoChar(&key, '}');
	return key.data;
}

static void
make_streams(Gathering *gathering)
{
	HASHCTL		control;

	memset(&control, 0, sizeof(control));
	control.keysize = sizeof(int32);
	control.entrysize = sizeof(StreamNews);
	control.hcxt = CurrentMemoryContext;
	gathering->streams = hash_create("sync_ext news of streams", 64, &control,
									 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

static char *
name_of(Gathering *gathering, int32 stream_id)
{
	const SxCatalog *catalog = sx_catalog_get();
	SxProbe		probe;
	ScanKeyData key;
	TupleTableSlot *slot;
	char	   *name = NULL;
	bool		isnull;

	sx_probe_stream_key(&key, stream_id);
	sx_probe_open(&probe, catalog->streams, catalog->streams_by_id,
				  gathering->snapshot, 1);
	slot = sx_probe_first(&probe, &key, ForwardScanDirection);
	if (slot != NULL)
		name = TextDatumGetCString(slot_getattr(slot, Anum_streams_stream,
												&isnull));
	sx_probe_close(&probe);
	return name;
}

static bool
same_origin(const char *a, const char *b)
{
	return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

static StreamNews *
find_stream(Gathering *gathering, int32 stream_id, const char *origin)
{
	bool		found;
	StreamNews *stream = hash_search(gathering->streams, &stream_id,
									 HASH_ENTER, &found);

	if (!found)
	{
		stream->name = name_of(gathering, stream_id);
		stream->author = origin == NULL ? NULL : pstrdup(origin);
		stream->mixed = false;
	}
	else if (!same_origin(stream->author, origin))
		stream->mixed = true;
	return stream;
}

static void
add_key(Gathering *gathering, const char *stream, const char *id)
{
	StringInfo	keys = gathering->news->keys;
	char	   *key;

	if (!gathering->with_keys)
		return;
	key = sx_journal_news_key(stream, id);
	if (keys->len + (int) strlen(key) >= gathering->max_keys)
	{
		gathering->with_keys = false;
		return;
	}
	if (keys->len > 0)
		appendStringInfoChar(keys, ',');
	appendStringInfoString(keys, key);
	pfree(key);
}

/*
 * The entries that one call stored. Without keys their number is enough, and
 * that is in the last one: nothing of a call goes without all of it.
 */
static uint64
count_call(Gathering *gathering, SxProbe *probe, int32 stream_id,
		   TimestampTz at, const char *stream)
{
	ScanKeyData keys[2];
	TupleTableSlot *slot;
	uint64		count = 0;
	bool		isnull;

	sx_probe_stream_key(&keys[0], stream_id);
	ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_TIMESTAMPTZ_EQ,
				TimestampTzGetDatum(at));
	if (!gathering->with_keys)
	{
		slot = sx_probe_first(probe, keys, BackwardScanDirection);
		return slot == NULL ? 0 :
			1 + DatumGetInt32(slot_getattr(slot, Anum_entry_ord, &isnull));
	}
	for (slot = sx_probe_first(probe, keys, ForwardScanDirection);
		 slot != NULL;
		 slot = sx_probe_next(probe, ForwardScanDirection))
	{
		CHECK_FOR_INTERRUPTS();
		count++;
		add_key(gathering, stream,
				TextDatumGetCString(slot_getattr(slot, Anum_entry_id,
												 &isnull)));
		if (!gathering->with_keys)
			return count_call(gathering, probe, stream_id, at, stream);
	}
	return count;
}

/* Takes a snapshot, or the first entry of a call. */
static void
gather(Gathering *gathering, const Source *source, SxProbe *calls,
	   TupleTableSlot *slot, uint64 xid)
{
	SxNews	   *news = gathering->news;
	bool		first = news->count == 0;
	bool		isnull;
	Datum		value = slot_getattr(slot, source->origin, &isnull);
	char	   *origin = isnull ? NULL : TextDatumGetCString(value);
	int32		stream_id = DatumGetInt32(slot_getattr(slot, 1, &isnull));
	StreamNews *stream = find_stream(gathering, stream_id, origin);

	sx_durable_note(gathering->durable, xid);
	news->xid = Max(news->xid, xid);
	if (stream->name == NULL)
		return;
	if (first)
		news->origin = origin;
	else if (!same_origin(news->origin, origin))
		gathering->mixed = true;
	if (calls != NULL)
		news->count += count_call(gathering, calls, stream_id,
								  DatumGetTimestampTz(slot_getattr(slot, source->at,
																   &isnull)),
								  stream->name);
	else
	{
		news->count++;
		add_key(gathering, stream->name,
				TextDatumGetCString(slot_getattr(slot, source->id, &isnull)));
	}
}

/* Reads what transactions of a range have stored that "now" has. */
static void
read_range(Gathering *gathering, const Source *source, SxProbe *probe,
		   SxProbe *calls, const SxSnapshot *now, uint64 low, uint64 high)
{
	ScanKeyData keys[2];
	TupleTableSlot *slot;

	ScanKeyInit(&keys[0], 1, BTGreaterEqualStrategyNumber, F_XID8GE,
				FullTransactionIdGetDatum(FullTransactionIdFromU64(low)));
	ScanKeyInit(&keys[1], 1, BTLessStrategyNumber, F_XID8LT,
				FullTransactionIdGetDatum(FullTransactionIdFromU64(high)));
	for (slot = sx_probe_first(probe, keys, ForwardScanDirection);
		 slot != NULL;
		 slot = sx_probe_next(probe, ForwardScanDirection))
	{
		bool		isnull;
		uint64		xid = DatumGetUInt64(slot_getattr(slot, source->xid,
													  &isnull));

		CHECK_FOR_INTERRUPTS();
		if (sx_snapshot_has(now, xid))
			gather(gathering, source, calls, slot, xid);
	}
}

static void
read_source(Gathering *gathering, const Source *source, bool in_calls,
			const SxSnapshot *seen, const SxSnapshot *now)
{
	uint64		newest = sx_logscan_newest(source->heap, source->by_xid,
										   gathering->snapshot, now,
										   sx_snapshot_xmin(seen));
	SxProbe		probe;
	SxProbe		calls;

	if (newest == 0)
		return;
	sx_probe_open(&probe, source->heap, source->by_xid, gathering->snapshot, 2);
	if (in_calls)
		sx_probe_open(&calls, source->heap, sx_catalog_get()->entry_by_time,
					  gathering->snapshot, 2);
	for (int i = 0; i < seen->nxip; i++)
		if (sx_snapshot_has(now, seen->xip[i]))
			read_range(gathering, source, &probe, in_calls ? &calls : NULL, now,
					   seen->xip[i], seen->xip[i] + 1);
	if (newest >= seen->xmax)
		read_range(gathering, source, &probe, in_calls ? &calls : NULL, now,
				   seen->xmax, now->xmax);
	if (in_calls)
		sx_probe_close(&calls);
	sx_probe_close(&probe);
}

/* Turns what was gathered into an array. */
static void
finish_scopes(Gathering *gathering)
{
	SxNews	   *news = gathering->news;
	HASH_SEQ_STATUS status;
	StreamNews *stream;

	news->scopes = palloc_extended(sizeof(SxNewsScope) *
								   Max(hash_get_num_entries(gathering->streams),
									   1), MCXT_ALLOC_HUGE);
	hash_seq_init(&status, gathering->streams);
	while ((stream = hash_seq_search(&status)) != NULL)
	{
		SxNewsScope *scope;

		if (stream->name == NULL)
			continue;
		scope = &news->scopes[news->nscopes++];
		scope->values = palloc(sizeof(Datum));
		scope->values[0] = CStringGetTextDatum(stream->name);
		scope->nulls = palloc0(sizeof(bool));
		scope->membership = true;
		scope->author = stream->mixed ? NULL : stream->author;
	}
}

SxNews *
sx_journal_news_since(const SxSnapshot *seen, Snapshot snapshot,
					  const SxSnapshot *now, bool with_scopes, int max_keys,
					  SxDurable *durable)
{
	SxCatalog	catalog = *sx_catalog_get();
	const Source entries = {
		catalog.entry, catalog.entry_by_xid, Anum_entry_xid, Anum_entry_at,
		Anum_entry_id, Anum_entry_origin
	};
	const Source snapshots = {
		catalog.stream_snapshot, catalog.stream_snapshot_by_xid,
		Anum_stream_snapshot_xid, Anum_stream_snapshot_upto,
		Anum_stream_snapshot_id, Anum_stream_snapshot_origin
	};
	Gathering	gathering = {
		.snapshot = snapshot, .durable = durable, .max_keys = max_keys,
		.with_keys = max_keys > 0
	};
	SxNews	   *news = palloc0(sizeof(SxNews));

	gathering.news = news;
	if (max_keys > 0)
		news->keys = makeStringInfo();
	make_streams(&gathering);
	read_source(&gathering, &entries, true, seen, now);
	read_source(&gathering, &snapshots, false, seen, now);
	if (news->xid == 0)
		return NULL;
	news->table = sx_tracked_entries();
	if (gathering.mixed)
		news->origin = NULL;
	if (!gathering.with_keys)
		news->keys = NULL;
	if (with_scopes)
		finish_scopes(&gathering);
	return news;
}
