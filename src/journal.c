/*-------------------------------------------------------------------------
 *
 * journal.c
 *		Streams: rights on them, and their locks.
 *
 * A stream is an append-only sequence of entries with ids that clients made.
 * Whoever writes to a stream holds a lock on it until the transaction ends,
 * and takes the entry's time while holding it, later than all times in the
 * stream. So the order of times is the order of commits, and what is visible
 * at a time is final: a transaction that is still to commit took its times
 * after this one. That makes a time an exact place in a stream, which it could
 * not be in a table. Different streams share no lock and no row.
 *
 * The lock is one of the lock manager's, on the stream's number, and not on its
 * row: it writes no WAL, leaves nothing to clean up, and a prepared
 * transaction keeps it. Lock order: the stream's row (only where row-level
 * security asks for it, or drop_stream deletes it), then the stream.
 *
 * Rights on a stream are rights on its row in sync.streams, table privileges
 * and row-level security alike: SELECT to read, UPDATE to append, DELETE to
 * compact. Nobody ever updates the row, which the guard below sees to.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/xid8.h"

#include "sync_ext.h"
#include "catalog.h"
#include "durable.h"
#include "journal.h"
#include "journal_ids.h"
#include "plan.h"
#include "probe.h"

PG_FUNCTION_INFO_V1(sync_ext_guard_journal);
PG_FUNCTION_INFO_V1(sync_ext_remove_stream);

/* ---- rights ---- */

static void
no_such_stream(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("stream \"%s\" does not exist", name),
			 errdetail("There is none with this name in sync.streams, or none that you may see."),
			 errhint("sync.create_stream() makes one.")));
}

static void
no_right(const char *name, const char *doing, const char *privilege)
{
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied to %s stream \"%s\"", doing, name),
			 errdetail("Role \"%s\" lacks %s on table sync.streams, or a row-level security policy withholds it.",
					   GetUserNameFromId(GetUserId(), true), privilege),
			 errhint("GRANT %s ON sync.streams is the right to %s streams; policies on that table narrow it.",
					 privilege, doing)));
}

/* ---- what is known of streams ---- */

/*
 * Who appends looks its stream up here. What is known holds as long as the
 * catalog's version does, which a relcache invalidation of sync.streams ends:
 * whoever makes or removes a stream sends one. Removing takes the stream's lock
 * as well, and whoever gets a lock reads such messages first; so when a stream
 * is locked and the version is still the same, the stream is there.
 */
typedef struct KnownStream
{
	char		name[SX_JOURNAL_MAX_NAME + 1];	/* hash key, padded with zeros */
	int32		id;
	bool		opaque;
	bool		compacted;
} KnownStream;

/* An application with more streams than this looks them up again. */
#define MAX_KNOWN	1000

static HTAB *known_streams = NULL;
static uint64 known_version = 0;

static void
known_key(const char *name, char *key)
{
	memset(key, 0, SX_JOURNAL_MAX_NAME + 1);
	strlcpy(key, name, SX_JOURNAL_MAX_NAME + 1);
}

static bool
find_known(SxStream *stream)
{
	uint64		version = sx_catalog_get()->version;
	char		key[SX_JOURNAL_MAX_NAME + 1];
	KnownStream *known;

	if (known_streams == NULL || known_version != version ||
		strlen(stream->name) > SX_JOURNAL_MAX_NAME)
		return false;
	known_key(stream->name, key);
	known = hash_search(known_streams, key, HASH_FIND, NULL);
	if (known == NULL)
		return false;
	stream->id = known->id;
	stream->opaque = known->opaque;
	stream->compacted = known->compacted;
	stream->version = version;
	return true;
}

static void
remember(const SxStream *stream)
{
	char		key[SX_JOURNAL_MAX_NAME + 1];
	KnownStream *known;

	if (known_streams != NULL &&
		(known_version != stream->version ||
		 hash_get_num_entries(known_streams) >= MAX_KNOWN))
	{
		hash_destroy(known_streams);
		known_streams = NULL;
	}
	if (known_streams == NULL)
	{
		HASHCTL		control;

		memset(&control, 0, sizeof(control));
		control.keysize = sizeof(known->name);
		control.entrysize = sizeof(KnownStream);
		known_streams = hash_create("sync_ext streams", 16, &control,
									HASH_ELEM | HASH_BLOBS);
		known_version = stream->version;
	}
	known_key(stream->name, key);
	known = hash_search(known_streams, key, HASH_ENTER, NULL);
	known->id = stream->id;
	known->opaque = stream->opaque;
	known->compacted = stream->compacted;
}

void
sx_journal_forget_streams(void)
{
	CacheInvalidateRelcacheByRelid(sx_catalog_get()->streams);
}

static bool
find_by_name(text *name, Snapshot snapshot, SxStream *stream)
{
	const SxCatalog *catalog = sx_catalog_get();
	SxProbe		probe;
	ScanKeyData key;
	TupleTableSlot *slot;
	bool		isnull;

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_TEXTEQ,
				PointerGetDatum(name));
	sx_probe_open(&probe, catalog->streams, catalog->streams_by_name, snapshot,
				  1);
	slot = sx_probe_first(&probe, &key, ForwardScanDirection);
	if (slot != NULL)
	{
		text	   *kind = DatumGetTextPP(slot_getattr(slot, Anum_streams_kind,
													   &isnull));

		stream->id = DatumGetInt32(slot_getattr(slot, Anum_streams_id, &isnull));
		stream->opaque = *VARDATA_ANY(kind) == 'o';
	}
	sx_probe_close(&probe);
	return slot != NULL;
}

/*
 * Asks PostgreSQL itself what policies say of the stream's row, as the current
 * user. FOR KEY SHARE asks the policies for UPDATE, and conflicts with nobody
 * who appends.
 */
static bool
policies_allow(text *name, bool writing)
{
	static const char *const reading_query =
		"SELECT FROM sync.streams WHERE stream OPERATOR(pg_catalog.=) $1";
	static const char *const writing_query =
		"SELECT FROM sync.streams WHERE stream OPERATOR(pg_catalog.=) $1 FOR KEY SHARE";
	Oid			types[1] = {TEXTOID};
	Datum		values[1] = {PointerGetDatum(name)};
	SPIPlanPtr	plan;
	bool		allowed;

	sx_plan_connect();
	plan = sx_plan_get(writing ? writing_query : reading_query, 1, types);
	if (SPI_execute_plan(plan, values, NULL, !writing, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look a stream up");
	allowed = SPI_processed > 0;
	SPI_finish();
	return allowed;
}

/*
 * A dump does not hold the policies on a table of an extension. Where they
 * were in use, nobody is let through before somebody has thought of them.
 */
static void
check_not_lost(void)
{
	const SxCatalog *catalog = sx_catalog_get();

	if (!catalog->streams_secured ||
		sx_is_relation_owner(catalog->streams, GetUserId()))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("row-level security of sync.streams was lost"),
			 errdetail("It was enabled when this database was dumped, and a dump does not hold policies on an extension's tables."),
			 errhint("Create the policies again and run ALTER TABLE sync.streams ENABLE ROW LEVEL SECURITY, or run it with DISABLE where you can do without.")));
}

void
sx_journal_open(text *name, SxJournalRight right, SxStream *stream)
{
	static const struct
	{
		const char *doing;
		const char *privilege;
		AclMode		mode;
	}			rights[] = {
		[SX_JOURNAL_READ] = {"read", "SELECT", ACL_SELECT},
		[SX_JOURNAL_APPEND] = {"append to", "UPDATE", ACL_UPDATE},
		[SX_JOURNAL_COMPACT] = {"compact", "DELETE", ACL_DELETE},
	};
	const SxCatalog *catalog = sx_catalog_get();
	bool		found;
	int			rls;

	stream->name = text_to_cstring(name);
	stream->version = 0;
	if (pg_class_aclcheck(catalog->streams, GetUserId(),
						  rights[right].mode) != ACLCHECK_OK)
		no_right(stream->name, rights[right].doing, rights[right].privilege);

	if (right == SX_JOURNAL_READ)
		found = find_by_name(name, GetActiveSnapshot(), stream);
	else
	{
		/* an old snapshot must not hide a stream from who adds to it */
		found = find_known(stream);
		if (!found)
		{
			Snapshot	latest = RegisterSnapshot(GetLatestSnapshot());

			found = find_by_name(name, latest, stream);
			UnregisterSnapshot(latest);
		}
	}

	rls = check_enable_rls(sx_catalog_get()->streams, InvalidOid, true);
	if (rls == RLS_NONE)
		check_not_lost();
	if (rls == RLS_ENABLED)
	{
		/* who may not see a stream is not told whether there is one */
		if (!found || !policies_allow(name, false))
			no_such_stream(stream->name);
		if (right != SX_JOURNAL_READ && !policies_allow(name, true))
			no_right(stream->name, rights[right].doing, rights[right].privilege);
	}
	if (!found)
		no_such_stream(stream->name);
}

/* ---- the lock ---- */

static bool
stream_exists(int32 stream_id)
{
	const SxCatalog *catalog = sx_catalog_get();
	SxProbe		probe;
	ScanKeyData key;
	bool		found;

	sx_probe_stream_key(&key, stream_id);
	sx_probe_open(&probe, catalog->streams, catalog->streams_by_id,
				  SnapshotSelf, 1);
	found = sx_probe_first(&probe, &key, ForwardScanDirection) != NULL;
	sx_probe_close(&probe);
	return found;
}

static void
lock_stream(int32 stream_id)
{
	LockDatabaseObject(sx_catalog_get()->streams, (Oid) stream_id, 0,
					   ExclusiveLock);
}

static bool
ledger_has_any(int32 stream_id)
{
	const SxCatalog *catalog = sx_catalog_get();
	SxProbe		probe;
	ScanKeyData key;
	bool		found;

	sx_probe_stream_key(&key, stream_id);
	sx_probe_open(&probe, catalog->entry_ledger, catalog->entry_ledger_by_hash,
				  SnapshotSelf, 1);
	found = sx_probe_first(&probe, &key, ForwardScanDirection) != NULL;
	sx_probe_close(&probe);
	return found;
}

void
sx_journal_lock(SxStream *stream)
{
	uint64		version;

	lock_stream(stream->id);
	version = sx_catalog_get()->version;
	if (stream->version == version)
		return;
	if (!stream_exists(stream->id))
		no_such_stream(stream->name);
	stream->compacted = ledger_has_any(stream->id);
	stream->version = version;
	remember(stream);
}

/* ---- entries ---- */

bool
sx_journal_last_snapshot(int32 stream_id, Snapshot snapshot, TimestampTz *upto)
{
	const SxCatalog *catalog = sx_catalog_get();
	SxProbe		probe;
	ScanKeyData key;
	TupleTableSlot *slot;
	bool		isnull;

	sx_probe_stream_key(&key, stream_id);
	sx_probe_open(&probe, catalog->stream_snapshot,
				  catalog->stream_snapshot_by_time, snapshot, 1);
	slot = sx_probe_first(&probe, &key, BackwardScanDirection);
	if (slot != NULL)
		*upto = DatumGetTimestampTz(slot_getattr(slot,
												 Anum_stream_snapshot_upto,
												 &isnull));
	sx_probe_close(&probe);
	return slot != NULL;
}

bool
sx_journal_has_come_to(int32 stream_id, Snapshot snapshot, TimestampTz at)
{
	const SxCatalog *catalog = sx_catalog_get();
	SxProbe		probe;
	ScanKeyData keys[2];
	bool		found;
	TimestampTz upto;

	sx_probe_stream_key(&keys[0], stream_id);
	ScanKeyInit(&keys[1], 2, BTGreaterEqualStrategyNumber, F_TIMESTAMPTZ_GE,
				TimestampTzGetDatum(at));
	sx_probe_open(&probe, catalog->entry, catalog->entry_by_time, snapshot, 2);
	/* from the end: what was trimmed away may still lie before it, dead */
	found = sx_probe_first(&probe, keys, BackwardScanDirection) != NULL;
	sx_probe_close(&probe);
	/* where entries were trimmed away, a snapshot goes as far */
	return found ||
		(sx_journal_last_snapshot(stream_id, snapshot, &upto) && upto >= at);
}

void
sx_journal_hash_text(const char *text, int len, uint8 *hash)
{
	char	   *utf8 = pg_server_to_any(text, len, PG_UTF8);

	sx_journal_ids_hash(utf8, utf8 == text ? len : strlen(utf8), hash);
}

void
sx_journal_digest(bool opaque, Datum content, uint8 *digest)
{
	if (opaque)
	{
		bytea	   *bytes = DatumGetByteaPP(content);

		sx_journal_ids_hash(VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes),
							digest);
	}
	else
	{
		Jsonb	   *json = DatumGetJsonbP(content);
		char	   *text = JsonbToCString(NULL, &json->root, VARSIZE(json));

		sx_journal_hash_text(text, strlen(text), digest);
	}
}

void
sx_journal_flush(uint64 xid)
{
	SxDurable	durable = {0};

	if (xid == 0)
		return;
	sx_durable_note(&durable, xid);
	sx_durable_flush(&durable, false);
	pfree(durable.xids);
}

/* ---- guarding the tables ---- */

static bool
ledger_has(int32 stream_id, bytea *hash)
{
	const SxCatalog *catalog = sx_catalog_get();
	SxProbe		probe;
	ScanKeyData keys[2];
	bool		found;

	sx_probe_hash_keys(keys, stream_id, hash);
	sx_probe_open(&probe, catalog->entry_ledger, catalog->entry_ledger_by_hash,
				  SnapshotSelf, 2);
	found = sx_probe_first(&probe, keys, ForwardScanDirection) != NULL;
	sx_probe_close(&probe);
	return found;
}

static bool
later_snapshot_exists(int32 stream_id, TimestampTz upto)
{
	TimestampTz last;

	return sx_journal_last_snapshot(stream_id, SnapshotSelf, &last) &&
		last > upto;
}

static void
guarded(const char *message, const char *detail, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("%s", message),
			 errdetail("%s", detail),
			 errhint("%s", hint)));
}

static void
check_insert(Relation rel)
{
	if (!sx_is_relation_owner(RelationGetRelid(rel), GetUserId()))
		guarded(psprintf("rows cannot be inserted into \"%s.%s\"", SX_SCHEMA,
						 RelationGetRelationName(rel)),
				"Ids and times of a stream hold only as long as they are given by the functions for it.",
				"Use sync.append(), sync.put() and sync.snapshot().");
}

static void
check_delete(Relation rel, HeapTuple row)
{
	const SxCatalog *catalog = sx_catalog_get();
	Oid			relid = RelationGetRelid(rel);
	TupleDesc	desc = RelationGetDescr(rel);
	bool		isnull;
	int32		stream_id = DatumGetInt32(heap_getattr(row, 1, desc, &isnull));

	if (!stream_exists(stream_id))
		return;
	if (relid == catalog->entry &&
		ledger_has(stream_id, DatumGetByteaPP(heap_getattr(row, Anum_entry_hash,
														   desc, &isnull))))
		return;
	if (relid == catalog->stream_snapshot &&
		later_snapshot_exists(stream_id, DatumGetTimestampTz(
			heap_getattr(row, Anum_stream_snapshot_upto, desc, &isnull))))
		return;
	guarded(psprintf("rows of \"%s.%s\" cannot be deleted", SX_SCHEMA,
					 RelationGetRelationName(rel)),
			"What a stream holds goes only when a later entry or a snapshot holds it.",
			"Use sync.combine(), sync.trim() or sync.drop_stream().");
}

/*
 * A stream's number is what cursors and entries know it by, so it must be one
 * that never was another stream's. Who may INSERT can write OVERRIDING SYSTEM
 * VALUE, therefore its number is always taken here; only the owner's is left,
 * for a dump that is restored.
 */
static HeapTuple
with_new_number(Relation streams, HeapTuple row)
{
	Oid			sequence = get_relname_relid("streams_id_seq",
											 RelationGetNamespace(streams));
	int			column = Anum_streams_id;
	bool		isnull = false;
	Datum		id;

	if (sx_is_relation_owner(RelationGetRelid(streams), GetUserId()))
		return row;
	id = Int32GetDatum((int32) nextval_internal(sequence, false));
	return heap_modify_tuple_by_cols(row, RelationGetDescr(streams), 1, &column,
									 &id, &isnull);
}

/*
 * sync.guard_journal(): trigger on the journals' tables. Whoever got a
 * privilege on one of them can break no promise with it; the functions for it
 * keep the rules, so they pass. A dump that is restored passes as well: its
 * rows become rows of this transaction.
 */
Datum
sync_ext_guard_journal(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	const SxCatalog *catalog = sx_catalog_get();
	Relation	rel;
	Oid			relid;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BEFORE(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" must be fired before INSERT, UPDATE, DELETE or TRUNCATE",
						"sync.guard_journal")));
	rel = trigger->tg_relation;
	relid = RelationGetRelid(rel);
	if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
	{
		int			column = relid == catalog->entry ? Anum_entry_xid :
			relid == catalog->stream_snapshot ? Anum_stream_snapshot_xid : 0;
		Datum		xid = FullTransactionIdGetDatum(GetTopFullTransactionId());
		bool		isnull = false;

		if (relid == catalog->streams)
		{
			sx_journal_forget_streams();
			return PointerGetDatum(with_new_number(rel, trigger->tg_trigtuple));
		}
		check_insert(rel);
		if (column == 0)
			return PointerGetDatum(trigger->tg_trigtuple);
		return PointerGetDatum(
			heap_modify_tuple_by_cols(trigger->tg_trigtuple,
									  RelationGetDescr(rel), 1, &column, &xid,
									  &isnull));
	}
	if (TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
	{
		check_delete(rel, trigger->tg_trigtuple);
		return PointerGetDatum(trigger->tg_trigtuple);
	}
	if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) &&
		relid == catalog->stream_trimmed &&
		sx_is_relation_owner(relid, GetUserId()))
		return PointerGetDatum(trigger->tg_newtuple);
	guarded(psprintf("\"%s.%s\" cannot be %s", SX_SCHEMA,
					 RelationGetRelationName(rel),
					 TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event) ?
					 "truncated" : "updated"),
			"What a stream holds is immutable, and clients keep copies of it.",
			"Append another entry, or see sync.combine(), sync.trim() and sync.drop_stream().");
	return (Datum) 0;
}

/* ---- removing streams ---- */

/*
 * sync.remove_stream(): trigger after DELETE on sync.streams, whoever deletes.
 * Appends that hold the stream commit first, and what they stored must go as
 * well, so the snapshot is taken after the lock.
 */
Datum
sync_ext_remove_stream(PG_FUNCTION_ARGS)
{
	static const char *const tables[] = {
		"entry", "stream_snapshot", "stream_trimmed", "entry_ledger",
		"journal_sums"
	};
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	Oid			types[1] = {INT4OID};
	Datum		values[1];
	bool		isnull;
	SxUser		saved;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_AFTER(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		!TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" must be fired after DELETE, for each row",
						"sync.remove_stream")));
	values[0] = heap_getattr(trigger->tg_trigtuple, Anum_streams_id,
							 RelationGetDescr(trigger->tg_relation), &isnull);
	lock_stream(DatumGetInt32(values[0]));
	sx_journal_forget_streams();

	saved = sx_catalog_become(sx_catalog_get()->owner);
	sx_plan_connect();
	PushActiveSnapshot(GetLatestSnapshot());
	for (int i = 0; i < lengthof(tables); i++)
	{
		SPIPlanPtr	plan = SPI_prepare(
			psprintf("DELETE FROM %s.%s WHERE stream_id OPERATOR(pg_catalog.=) $1",
					 SX_SCHEMA, tables[i]), 1, types);

		if (plan == NULL ||
			SPI_execute_snapshot(plan, values, NULL, GetActiveSnapshot(),
								 InvalidSnapshot, false, true, 0) != SPI_OK_DELETE)
			elog(ERROR, "could not remove what a stream held");
	}
	PopActiveSnapshot();
	SPI_finish();
	sx_catalog_restore_user(saved);
	return PointerGetDatum(NULL);
}
