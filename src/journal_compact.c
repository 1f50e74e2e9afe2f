/*-------------------------------------------------------------------------
 *
 * journal_compact.c
 *		Making streams shorter: sync.snapshot(), sync.combine(), sync.trim().
 *
 * All of them hold the stream, so no entry is stored meanwhile, and read it as
 * it is after the lock was got, whatever the transaction's isolation.
 *
 * A snapshot names the time of an entry that exists: its author must have seen
 * that one, hence all before it. Since times only grow, no entry can come to
 * have a time up to that of a snapshot.
 *
 * Entries between the latest snapshot and a time become one by sync.combine().
 * It takes the time and the transaction of the last of them, so that whoever
 * has seen that one has seen all of it. It never reaches across
 * a snapshot: then a client would load the snapshot and apply the actions
 * before it once more. A snapshot cannot be made in its middle either, for
 * there is no entry with such a time any more.
 *
 * sync.trim() deletes what the latest snapshot holds, older snapshots too.
 *
 * An id that loses its entry goes to the ledger first, with the time and a
 * digest of the content, so that it is known for ever.
 *
 * These commit synchronously. Readers flush what they show by the transaction
 * that stored it, which a combined entry no longer tells.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "sync_ext.h"
#include "capture.h"
#include "catalog.h"
#include "event.h"
#include "guc.h"
#include "journal.h"
#include "journal_append.h"
#include "journal_ids.h"
#include "journal_news.h"
#include "plan.h"
#include "tracked.h"

PG_FUNCTION_INFO_V1(sync_ext_snapshot);
PG_FUNCTION_INFO_V1(sync_ext_combine);
PG_FUNCTION_INFO_V1(sync_ext_trim);

typedef struct Compaction
{
	SxStream	stream;
	SxUser		caller;
	Snapshot	snapshot;
} Compaction;

/*
 * Checks the right, holds the stream, and goes on as the extension's owner, in
 * a snapshot that sees all that the stream has.
 */
static void
begin(FunctionCallInfo fcinfo, Compaction *work, const char *function)
{
	PreventCommandIfReadOnly(function);
	PreventCommandIfParallelMode(function);
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("stream must not be null"),
				 errdetail("The call is %s.", function),
				 errhint("sync.streams lists the streams.")));
	sx_journal_open(PG_GETARG_TEXT_PP(0), SX_JOURNAL_COMPACT, &work->stream);
	sx_journal_lock(&work->stream);
	if (!work->stream.compacted)
		sx_journal_forget_streams();
	ForceSyncCommit();
	work->caller = sx_catalog_become(sx_catalog_get()->owner);
	sx_plan_connect();
	/* what an earlier call in this statement did counts, too */
	CommandCounterIncrement();
	PushActiveSnapshot(GetLatestSnapshot());
}

static void
end(Compaction *work)
{
	PopActiveSnapshot();
	SPI_finish();
	sx_catalog_restore_user(work->caller);
}

/* Runs a query about the stream, which is $1. Returns how many rows. */
static uint64
run(Compaction *work, const char *sql, int nargs, const Oid *types,
	const Datum *values, const char *nulls)
{
	Oid			all_types[8] = {INT4OID};
	Datum		all_values[8] = {Int32GetDatum(work->stream.id)};
	char		all_nulls[9] = "        ";
	SPIPlanPtr	plan;
	int			code;

	for (int i = 0; i < nargs; i++)
	{
		all_types[i + 1] = types[i];
		all_values[i + 1] = values[i];
		all_nulls[i + 1] = nulls == NULL ? ' ' : nulls[i];
	}
	plan = SPI_prepare(sql, nargs + 1, all_types);
	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", sql,
			 SPI_result_code_string(SPI_result));
	UpdateActiveSnapshotCommandId();
	code = SPI_execute_snapshot(plan, all_values, all_nulls,
								GetActiveSnapshot(), InvalidSnapshot, false,
								true, 0);
	if (code < 0)
		elog(ERROR, "could not execute \"%s\": %s", sql,
			 SPI_result_code_string(code));
	CommandCounterIncrement();
	return SPI_processed;
}

static uint64
run_upto(Compaction *work, const char *sql, TimestampTz upto)
{
	Oid			types[1] = {TIMESTAMPTZOID};
	Datum		values[1] = {TimestampTzGetDatum(upto)};

	return run(work, sql, 1, types, values, NULL);
}

/* An answer's only time; false where it is null or there is none. */
static bool
result_time(TimestampTz *at)
{
	bool		isnull = true;

	if (SPI_processed > 0)
		*at = DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[0],
												SPI_tuptable->tupdesc, 1,
												&isnull));
	return !isnull;
}

static bool
latest_snapshot(Compaction *work, TimestampTz *upto)
{
	run(work, "SELECT upto FROM sync.stream_snapshot WHERE stream_id OPERATOR(pg_catalog.=) $1"
		" ORDER BY upto DESC LIMIT 1", 0, NULL, NULL, NULL);
	return result_time(upto);
}

static TimestampTz
upto_argument(FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("upto must not be null"),
				 errdetail("It says what you have seen of the stream."),
				 errhint("Give the time of the last entry.")));
	return PG_GETARG_TIMESTAMPTZ(1);
}

static const char *
show_time(TimestampTz at)
{
	return timestamptz_to_str(at);
}

static void
check_is_entry(Compaction *work, TimestampTz upto)
{
	if (run_upto(work, "SELECT at FROM sync.entry WHERE stream_id OPERATOR(pg_catalog.=) $1"
				 " AND at OPERATOR(pg_catalog.=) $2 LIMIT 1", upto) > 0)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("stream \"%s\" has no entry with the time upto",
					work->stream.name),
			 errdetail("The time is %s. There was none, or it is part of a combined entry or of a snapshot by now.",
					   show_time(upto)),
			 errhint("Give the time of an entry that sync.entries() tells now, having seen all up to it.")));
}

static char *
new_id(const char *what)
{
	char	   *uuid = DatumGetCString(
		DirectFunctionCall1(uuid_out,
							DirectFunctionCall1(gen_random_uuid, (Datum) 0)));

	return psprintf("%s%s:%s", SX_JOURNAL_OWN_IDS, what, uuid);
}

/* ---- snapshot ---- */

/*
 * A snapshot of that time exists: the same one is an answer that was lost, and
 * its id comes back.
 */
static char *
same_snapshot(Compaction *work, TimestampTz upto, Datum *state)
{
	bool		isnull;
	Oid			types[3] = {TIMESTAMPTZOID, JSONBOID, BYTEAOID};
	Datum		values[3] = {TimestampTzGetDatum(upto), state[0], state[1]};
	const char	nulls[] = {' ', state[0] == 0 ? 'n' : ' ',
	state[1] == 0 ? 'n' : ' '};

	if (run(work, "SELECT id FROM sync.stream_snapshot WHERE stream_id OPERATOR(pg_catalog.=) $1"
			" AND upto OPERATOR(pg_catalog.=) $2"
			" AND (data OPERATOR(pg_catalog.=) $3 OR bytes OPERATOR(pg_catalog.=) $4)",
			3, types, values, nulls) == 0)
		return NULL;
	return TextDatumGetCString(SPI_getbinval(SPI_tuptable->vals[0],
											 SPI_tuptable->tupdesc, 1,
											 &isnull));
}

static void
check_state(FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(2) != PG_ARGISNULL(3))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("a snapshot has either a state or bytes"),
			 errdetail(PG_ARGISNULL(2) ? "Both are null." : "Both are given."),
			 errhint("Give JSON as state, anything else as bytes.")));
}

static void
check_kind(Compaction *work, FunctionCallInfo fcinfo)
{
	if (!work->stream.opaque || PG_ARGISNULL(2))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("stream \"%s\" is opaque", work->stream.name),
			 errdetail("A state in JSON would show what its entries hide."),
			 errhint("Give the state as bytes.")));
}

/* sync.snapshot(stream, upto, state, bytes) */
Datum
sync_ext_snapshot(PG_FUNCTION_ARGS)
{
	static const Oid types[] = {TIMESTAMPTZOID, TEXTOID, TEXTOID, JSONBOID,
		BYTEAOID};
	Compaction	work;
	MemoryContext caller = CurrentMemoryContext;
	TimestampTz upto = upto_argument(fcinfo);
	TimestampTz latest;
	Datum		state[2];
	char	   *id = NULL;
	text	   *result;

	check_state(fcinfo);
	begin(fcinfo, &work, "sync.snapshot()");
	check_kind(&work, fcinfo);
	state[0] = PG_ARGISNULL(2) ? 0 : PG_GETARG_DATUM(2);
	state[1] = PG_ARGISNULL(3) ? 0 : PG_GETARG_DATUM(3);

	if (latest_snapshot(&work, &latest))
	{
		if (latest == upto)
			id = same_snapshot(&work, upto, state);
		if (id == NULL && latest >= upto)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("stream \"%s\" has a snapshot that is not older",
							work.stream.name),
					 errdetail("The one given is up to %s, the latest up to %s.",
							   pstrdup(show_time(upto)), show_time(latest)),
					 errhint("Load the latest snapshot and the entries after it, and make one that is later.")));
	}
	if (id == NULL)
	{
		const char *origin = *sx_guc_client == '\0' ? NULL : sx_guc_client;
		Datum		values[5];
		const char	nulls[] = {' ', ' ', origin == NULL ? 'n' : ' ',
		state[0] == 0 ? 'n' : ' ', state[1] == 0 ? 'n' : ' '};

		check_is_entry(&work, upto);
		id = new_id("snapshot");
		values[0] = TimestampTzGetDatum(upto);
		values[1] = CStringGetTextDatum(id);
		values[2] = origin == NULL ? 0 : CStringGetTextDatum(origin);
		values[3] = state[0];
		values[4] = state[1];
		/* the guard fills xid in */
		run(&work, "INSERT INTO sync.stream_snapshot (stream_id, upto, xid, id, origin, data, bytes)"
			" VALUES ($1, $2, '0', $3, $4, $5, $6)", 5, types, values, nulls);
		if (sx_guc_notify != SX_NOTIFY_OFF)
			sx_capture_event(SX_ENTRIES_DOMAIN, 1, origin, sx_event_wants_keys() ?
							 sx_journal_news_key(work.stream.name, id) : NULL);
	}
	caller = MemoryContextSwitchTo(caller);
	result = cstring_to_text(id);
	MemoryContextSwitchTo(caller);
	end(&work);
	PG_RETURN_TEXT_P(result);
}

/* ---- combine ---- */

typedef struct Combined
{
	JsonbParseState *state;
	Jsonb	   *actions;
	int			nparts;
	Size		size;
	uint64		xid;			/* of the last part */
	char	   *origin;			/* of all parts, or NULL */
	bool		mixed;
} Combined;

static void
add_actions(JsonbParseState **state, Jsonb *actions)
{
	JsonbIterator *iterator = JsonbIteratorInit(&actions->root);
	JsonbIteratorToken token;
	JsonbValue	value;

	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
		if (token == WJB_ELEM)
			pushJsonbValue(state, WJB_ELEM, &value);
}

static void
check_size(Compaction *work, Size size)
{
	if (size <= SX_JOURNAL_MAX_ENTRY)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("the entries of stream \"%s\" are too large to be combined",
					work->stream.name),
			 errdetail("Together they have more than %d bytes.",
					   SX_JOURNAL_MAX_ENTRY),
			 errhint("Give an earlier time, or make a snapshot and call sync.trim().")));
}

static void
add_part(Compaction *work, Combined *combined, HeapTuple row, TupleDesc desc)
{
	bool		isnull;
	Datum		origin = SPI_getbinval(row, desc, 2, &isnull);
	char	   *name = isnull ? NULL : TextDatumGetCString(origin);
	Jsonb	   *actions;

	if (combined->nparts == 0)
		combined->origin = name;
	else if ((name == NULL) != (combined->origin == NULL) ||
			 (name != NULL && strcmp(name, combined->origin) != 0))
		combined->mixed = true;
	combined->xid = DatumGetUInt64(SPI_getbinval(row, desc, 1, &isnull));
	actions = DatumGetJsonbP(SPI_getbinval(row, desc, 3, &isnull));
	combined->size += VARSIZE(actions);
	check_size(work, combined->size);
	add_actions(&combined->state, actions);
	combined->nparts++;
}

/* Reads the parts, in their order, a bounded number of them at a time. */
static void
read_parts(Compaction *work, TimestampTz after, TimestampTz upto,
		   Combined *combined)
{
	Oid			types[3] = {INT4OID, TIMESTAMPTZOID, TIMESTAMPTZOID};
	Datum		values[3] = {Int32GetDatum(work->stream.id),
		TimestampTzGetDatum(after), TimestampTzGetDatum(upto)};
	SPIPlanPtr	plan;
	Portal		portal;

	plan = SPI_prepare("SELECT xid, origin, data FROM sync.entry"
					   " WHERE stream_id OPERATOR(pg_catalog.=) $1"
					   " AND at OPERATOR(pg_catalog.>) $2 AND at OPERATOR(pg_catalog.<=) $3"
					   " ORDER BY at, ord", 3, types);
	if (plan == NULL)
		elog(ERROR, "could not prepare a query of entries");
	UpdateActiveSnapshotCommandId();
	/* read-only: in the active snapshot */
	portal = SPI_cursor_open(NULL, plan, values, NULL, true);
	pushJsonbValue(&combined->state, WJB_BEGIN_ARRAY, NULL);
	for (;;)
	{
		SPI_cursor_fetch(portal, true, 100);
		if (SPI_processed == 0)
			break;
		for (uint64 i = 0; i < SPI_processed; i++)
			add_part(work, combined, SPI_tuptable->vals[i],
					 SPI_tuptable->tupdesc);
		/* the actions point into rows, which stay until SPI_finish() */
		CHECK_FOR_INTERRUPTS();
	}
	SPI_cursor_close(portal);
	combined->actions = JsonbValueToJsonb(pushJsonbValue(&combined->state,
														 WJB_END_ARRAY, NULL));
}

static void
replace_parts(Compaction *work, TimestampTz after, TimestampTz upto,
			  Combined *combined, char *id)
{
	static const Oid types[] = {TIMESTAMPTZOID, TIMESTAMPTZOID, BYTEAOID};
	SxNewEntry	entry = {0};
	SxNewEntry *entries[1] = {&entry};
	Datum		values[3];

	entry.id = cstring_to_text(id);
	entry.hash = palloc(VARHDRSZ + SX_JOURNAL_HASH);
	SET_VARSIZE(entry.hash, VARHDRSZ + SX_JOURNAL_HASH);
	sx_journal_hash_text(id, strlen(id), (uint8 *) VARDATA(entry.hash));
	entry.content = JsonbPGetDatum(combined->actions);
	check_size(work, VARSIZE(combined->actions));

	values[0] = TimestampTzGetDatum(after);
	values[1] = TimestampTzGetDatum(upto);
	values[2] = PointerGetDatum(entry.hash);
	run(work, "INSERT INTO sync.entry_ledger (stream_id, at, hash, digest, held_by)"
		" SELECT stream_id, at, hash, pg_catalog.sha256(pg_catalog.convert_to(data::pg_catalog.text, 'UTF8')), $4"
		" FROM sync.entry WHERE stream_id OPERATOR(pg_catalog.=) $1"
		" AND at OPERATOR(pg_catalog.>) $2 AND at OPERATOR(pg_catalog.<=) $3",
		3, types, values, NULL);
	run(work, "DELETE FROM sync.entry WHERE stream_id OPERATOR(pg_catalog.=) $1"
		" AND at OPERATOR(pg_catalog.>) $2 AND at OPERATOR(pg_catalog.<=) $3",
		2, types, values, NULL);
	sx_append_insert(&work->stream, 1, entries, upto, combined->xid,
					 combined->mixed ? NULL : combined->origin);
	/* the sums are made from what is there */
	CommandCounterIncrement();
	sx_journal_ids_rebuild(work->stream.id);
}

/* sync.combine(stream, upto): the id of the combined entry, or NULL. */
Datum
sync_ext_combine(PG_FUNCTION_ARGS)
{
	Compaction	work;
	MemoryContext caller = CurrentMemoryContext;
	TimestampTz upto = upto_argument(fcinfo);
	TimestampTz after;
	Combined	combined = {0};
	text	   *result = NULL;

	begin(fcinfo, &work, "sync.combine()");
	if (work.stream.opaque)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("stream \"%s\" is opaque", work.stream.name),
				 errdetail("The server cannot combine what it cannot read."),
				 errhint("A client can make a snapshot, and sync.trim() then deletes the entries.")));
	check_is_entry(&work, upto);
	if (!latest_snapshot(&work, &after))
		after = DT_NOBEGIN;
	if (upto > after)
		read_parts(&work, after, upto, &combined);
	if (combined.nparts > 1)
	{
		char	   *id = new_id("entry");

		replace_parts(&work, after, upto, &combined, id);
		caller = MemoryContextSwitchTo(caller);
		result = cstring_to_text(id);
		MemoryContextSwitchTo(caller);
	}
	end(&work);
	if (result == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(result);
}

/* ---- trim ---- */

/* sync.trim(stream): how many entries went. */
Datum
sync_ext_trim(PG_FUNCTION_ARGS)
{
	Compaction	work;
	TimestampTz upto;
	int64		trimmed = 0;

	begin(fcinfo, &work, "sync.trim()");
	if (latest_snapshot(&work, &upto))
	{
		run_upto(&work, "INSERT INTO sync.entry_ledger (stream_id, at, hash, digest)"
				 " SELECT stream_id, at, hash, pg_catalog.sha256(coalesce(bytes, pg_catalog.convert_to(data::pg_catalog.text, 'UTF8')))"
				 " FROM sync.entry WHERE stream_id OPERATOR(pg_catalog.=) $1"
				 " AND at OPERATOR(pg_catalog.<=) $2", upto);
		trimmed = run_upto(&work, "DELETE FROM sync.entry WHERE stream_id OPERATOR(pg_catalog.=) $1"
						   " AND at OPERATOR(pg_catalog.<=) $2", upto);
		run_upto(&work, "DELETE FROM sync.stream_snapshot WHERE stream_id OPERATOR(pg_catalog.=) $1"
				 " AND upto OPERATOR(pg_catalog.<) $2", upto);
		run_upto(&work, "INSERT INTO sync.stream_trimmed AS t (stream_id, upto) VALUES ($1, $2)"
				 " ON CONFLICT (stream_id) DO UPDATE SET upto = EXCLUDED.upto"
				 " WHERE t.upto OPERATOR(pg_catalog.<) EXCLUDED.upto", upto);
		if (trimmed > 0)
			sx_journal_ids_rebuild(work.stream.id);
	}
	end(&work);
	PG_RETURN_INT64(trimmed);
}
