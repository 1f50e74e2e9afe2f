/*-------------------------------------------------------------------------
 *
 * ledger.c
 *		Which clients there are, and what they have pushed.
 *
 * sync.mutation has a row for each mutation, and one for each row that was
 * touched beside. Three questions are asked of it: was this id with this
 * content applied already; what was this client's last write to this row; and
 * was a later mutation of the row applied than the one that comes again. For
 * the last, a mutation keeps the number that it got when it was first seen,
 * also when it was refused then; the clock of a device says nothing. The last
 * write is told by another number, the one of the push that applied it.
 *
 * Rows are inserted without SQL, in the transaction that wrote the data: the
 * two are there both or neither. Nothing but the lock on the client's row
 * keeps ids unique. It is taken by an UPDATE, so that a REPEATABLE READ
 * transaction that does not see the other push fails instead of writing twice.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#include "sync_ext.h"
#include "catalog.h"
#include "cursor.h"
#include "direct.h"
#include "guc.h"
#include "ledger.h"
#include "plan.h"
#include "rowjson.h"
#include "watch.h"

/* Columns of sync.mutation; sql/parts/75_push.sql has the same order. */
#define Anum_mutation_device		1
#define Anum_mutation_place			2
#define Anum_mutation_seq			3
#define Anum_mutation_id			4
#define Anum_mutation_digest		5
#define Anum_mutation_rel			6
#define Anum_mutation_key_hash		7
#define Anum_mutation_key			8
#define Anum_mutation_applied		9
#define Anum_mutation_xid			10
#define Anum_mutation_at			11
#define Anum_mutation_known_from	12
#define Anum_mutation_modified_at	13
#define Natts_mutation				13

static int
run(const char *sql, int nargs, Oid *types, Datum *values, const char *nulls,
	int expected)
{
	int			result = SPI_execute_plan(sx_plan_get(sql, nargs, types), values,
										  nulls, false, 0);

	if (result != expected)
		elog(ERROR, "could not run \"%s\": %s", sql,
			 SPI_result_code_string(result));
	return (int) SPI_processed;
}

/* ---- clients ---- */

#define DEVICE_COLUMNS "number, role::pg_catalog.oid, user_id, last_sync, next_seq"

static Oid
read_device(SxDevice *device, MemoryContext context)
{
	bool		isnull;

	device->number = DatumGetInt64(sx_plan_value(0, 1, &isnull));
	device->user_id = sx_plan_text(0, 3, context);
	device->last_sync = sx_plan_text(0, 4, context);
	device->next_seq = DatumGetInt64(sx_plan_value(0, 5, &isnull));
	return DatumGetObjectId(sx_plan_value(0, 2, &isnull));
}

static void
check_owner(const char *client, Oid role)
{
	if (!has_privs_of_role(GetUserId(), role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("client \"%s\" belongs to another role", client),
				 errdetail("A client belongs to the role that used its name first."),
				 errhint("Give each client a name of its own, such as a UUID; sync.forget_client() frees a name.")));
}

static void
check_user(const SxDevice *device, const char *user_id)
{
	if (user_id != NULL && device->user_id != NULL &&
		strcmp(user_id, device->user_id) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("client \"%s\" belongs to another user", device->client),
				 errdetail("It was used for another user than \"%s\" before.",
						   user_id),
				 errhint("Give each client a name of its own, such as a UUID; sync.forget_client() frees a name.")));
}

bool
sx_ledger_find(SxDevice *device, const char *client)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			types[] = {TEXTOID};
	Datum		values[1];
	SxUser		user;
	Oid			role = InvalidOid;
	bool		found;

	memset(device, 0, sizeof(SxDevice));
	device->client = pstrdup(client);
	sx_plan_connect();
	values[0] = CStringGetTextDatum(client);
	user = sx_catalog_become(sx_catalog_get()->owner);
	found = run("SELECT " DEVICE_COLUMNS
				" FROM sync.device WHERE client OPERATOR(pg_catalog.=) $1",
				1, types, values, NULL, SPI_OK_SELECT) > 0;
	sx_catalog_restore_user(user);
	if (found)
		role = read_device(device, context);
	SPI_finish();
	if (found)
		check_owner(client, role);
	return found;
}

void
sx_ledger_claim(SxDevice *device, const char *client, const char *user_id,
				int n)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			types[] = {TEXTOID, TEXTOID, INT8OID, OIDOID};
	Datum		values[4];
	char		nulls[] = "    ";
	SxUser		user;
	Oid			role;

	if (*client == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("client must not be empty"),
				 errdetail("What a client pushed is remembered under its name."),
				 errhint("Give each client a name of its own, such as a UUID.")));
	if (strlen(client) > SX_GUC_CLIENT_LENGTH)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("client is too long"),
				 errdetail("The name begins with \"%s\" and has %zu bytes; at most %d are possible.",
						   pnstrdup(client, pg_mbcliplen(client, strlen(client), 40)),
						   strlen(client), SX_GUC_CLIENT_LENGTH),
				 errhint("Give each client a name of its own, such as a UUID.")));
	memset(device, 0, sizeof(SxDevice));
	device->client = pstrdup(client);
	sx_plan_connect();
	values[0] = CStringGetTextDatum(client);
	values[1] = user_id == NULL ? (Datum) 0 : CStringGetTextDatum(user_id);
	nulls[1] = user_id == NULL ? 'n' : ' ';
	values[2] = Int64GetDatum(n + 1);	/* one for all that is touched beside */
	values[3] = ObjectIdGetDatum(GetUserId());
	user = sx_catalog_become(sx_catalog_get()->owner);
	if (run("UPDATE sync.device SET seen_at = pg_catalog.clock_timestamp(),"
			" next_seq = next_seq OPERATOR(pg_catalog.+) $3, user_id = coalesce(user_id, $2)"
			" WHERE client OPERATOR(pg_catalog.=) $1 RETURNING " DEVICE_COLUMNS,
			3, types, values, nulls, SPI_OK_UPDATE_RETURNING) == 0)
		run("INSERT INTO sync.device AS d (client, role, user_id, next_seq, seen_at)"
			" VALUES ($1, $4, $2, $3 OPERATOR(pg_catalog.+) 1, pg_catalog.clock_timestamp())"
			" ON CONFLICT (client) DO UPDATE SET seen_at = excluded.seen_at,"
			" next_seq = d.next_seq OPERATOR(pg_catalog.+) $3, user_id = coalesce(d.user_id, $2)"
			" RETURNING " DEVICE_COLUMNS,
			4, types, values, nulls, SPI_OK_INSERT_RETURNING);
	sx_catalog_restore_user(user);
	role = read_device(device, context);
	device->touch_place = device->next_seq - 1;
	device->next_seq -= n + 1;
	SPI_finish();
	check_owner(client, role);
	check_user(device, user_id);
}

/* ---- what was pushed before ---- */

/* sync.mutation and an index on it, open for reading as of now. */
typedef struct Reading
{
	Relation	heap;
	Relation	index;
	IndexScanDesc scan;
	TupleTableSlot *slot;
} Reading;

/* The lock on the client's row is held, so that nothing more comes meanwhile. */
static void
begin_reading(Reading *reading, const char *index, int nkeys)
{
	Oid			schema = sx_catalog_get()->schema;

	reading->heap = table_open(get_relname_relid("mutation", schema),
							   AccessShareLock);
	reading->index = index_open(get_relname_relid(index, schema),
								AccessShareLock);
	reading->slot = table_slot_create(reading->heap, NULL);
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	reading->scan = sx_index_beginscan(reading->heap, reading->index,
									   GetActiveSnapshot(), nkeys);
}

static void
end_reading(Reading *reading)
{
	index_endscan(reading->scan);
	PopActiveSnapshot();
	ExecDropSingleTupleTableSlot(reading->slot);
	index_close(reading->index, NoLock);
	table_close(reading->heap, NoLock);
}

/* Takes over what one row says of a mutation that comes again. */
static void
recall_one(SxMutation *mutation, TupleTableSlot *row)
{
	bool		isnull;
	Datum		value = slot_getattr(row, Anum_mutation_id, &isnull);

	if (isnull || strcmp(TextDatumGetCString(value), mutation->id) != 0)
		return;
	mutation->seq = DatumGetInt64(slot_getattr(row, Anum_mutation_seq, &isnull));
	if (!DatumGetBool(slot_getattr(row, Anum_mutation_applied, &isnull)))
	{
		mutation->remembered = true;
		return;
	}
	mutation->status = SX_STATUS_DUPLICATE;
	mutation->tell = true;
	value = slot_getattr(row, Anum_mutation_key, &isnull);
	if (!isnull)
	{
		mutation->recalled_key = (Jsonb *) PG_DETOAST_DATUM_COPY(value);
		mutation->key_made = true;
	}
}

void
sx_ledger_recall(const SxDevice *device, SxMutation **mutations, int n)
{
	Reading		reading;
	ScanKeyData keys[2];

	begin_reading(&reading, "mutation_by_digest", lengthof(keys));
	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(device->number));
	for (int i = 0; i < n; i++)
	{
		SxMutation *mutation = mutations[i];

		CHECK_FOR_INTERRUPTS();
		if (mutation->id == NULL || mutation->status != SX_STATUS_OPEN)
			continue;
		ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_INT8EQ,
					Int64GetDatum((int64) mutation->digest));
		index_rescan(reading.scan, keys, lengthof(keys), NULL, 0);
		/* refused, then applied: there are two rows */
		while (mutation->status == SX_STATUS_OPEN &&
			   index_getnext_slot(reading.scan, ForwardScanDirection,
								  reading.slot))
			recall_one(mutation, reading.slot);
		ExecClearTuple(reading.slot);
	}
	end_reading(&reading);
}

/* ---- what was done to a row ---- */

/* Starts over with what is remembered of a row, from a place on. */
static void
read_row(Reading *reading, const SxDevice *device, uint64 key_hash, int64 after)
{
	ScanKeyData keys[3];

	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(device->number));
	ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum((int64) key_hash));
	ScanKeyInit(&keys[2], 3, BTGreaterStrategyNumber, F_INT8GT,
				Int64GetDatum(after));
	index_rescan(reading->scan, keys, lengthof(keys), NULL, 0);
}

/* The next that was applied, newest first. */
static bool
next_applied(Reading *reading, Oid root)
{
	bool		isnull;

	while (index_getnext_slot(reading->scan, BackwardScanDirection,
							  reading->slot))
	{
		CHECK_FOR_INTERRUPTS();
		if (DatumGetObjectId(slot_getattr(reading->slot, Anum_mutation_rel,
										  &isnull)) == root && !isnull &&
			DatumGetBool(slot_getattr(reading->slot, Anum_mutation_applied,
									  &isnull)))
			return true;
	}
	return false;
}

/* False where nothing was to be written. */
static bool
take_own_write(SxOwnWrite *own, TupleTableSlot *row)
{
	bool		isnull;

	own->known_from =
		DatumGetTimestampTz(slot_getattr(row, Anum_mutation_known_from, &isnull));
	own->has_known_from = !isnull;
	if (own->has_known_from && TIMESTAMP_IS_NOEND(own->known_from))
		return false;
	own->version =
		DatumGetTimestampTz(slot_getattr(row, Anum_mutation_modified_at, &isnull));
	own->has_version = !isnull;
	own->found = true;
	return true;
}

void
sx_ledger_own_writes(const SxDevice *device, int n, const Oid *roots,
					 const uint64 *key_hashes, SxOwnWrite *writes)
{
	Reading		reading;

	memset(writes, 0, sizeof(SxOwnWrite) * n);
	if (n == 0)
		return;
	begin_reading(&reading, "mutation_by_key", 3);
	for (int i = 0; i < n; i++)
	{
		read_row(&reading, device, key_hashes[i], 0);
		while (next_applied(&reading, roots[i]) &&
			   !take_own_write(&writes[i], reading.slot))
			 /* the one before */ ;
		ExecClearTuple(reading.slot);
	}
	end_reading(&reading);
}

/* The place of a mutation is never before its number. */
bool
sx_ledger_is_superseded(const SxDevice *device, Oid root, uint64 key_hash,
						int64 seq)
{
	Reading		reading;
	bool		superseded = false;
	bool		isnull;

	begin_reading(&reading, "mutation_by_key", 3);
	read_row(&reading, device, key_hash, seq);
	while (!superseded && next_applied(&reading, root))
		superseded = DatumGetInt64(slot_getattr(reading.slot, Anum_mutation_seq,
												&isnull)) > seq;
	end_reading(&reading);
	return superseded;
}

bool
sx_ledger_wrote(const SxDevice *device, Oid root, uint64 key_hash, uint64 xid)
{
	Reading		reading;
	bool		wrote = false;

	begin_reading(&reading, "mutation_by_key", 3);
	read_row(&reading, device, key_hash, 0);
	while (!wrote && next_applied(&reading, root))
	{
		bool		isnull;
		Datum		value = slot_getattr(reading.slot, Anum_mutation_xid, &isnull);

		wrote = !isnull &&
			U64FromFullTransactionId(DatumGetFullTransactionId(value)) == xid;
	}
	end_reading(&reading);
	return wrote;
}

uint64 *
sx_ledger_xids(const SxDevice *device, int *n)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(device->number)};
	uint64	   *xids;
	SxUser		user;

	sx_plan_connect();
	user = sx_catalog_become(sx_catalog_get()->owner);
	*n = run("SELECT DISTINCT m.xid FROM sync.mutation m"
			 " WHERE m.device OPERATOR(pg_catalog.=) $1 AND m.xid IS NOT NULL ORDER BY m.xid DESC",
			 1, types, values, NULL, SPI_OK_SELECT);
	sx_catalog_restore_user(user);
	xids = SPI_palloc(sizeof(uint64) * Max(*n, 1));
	for (int i = 0; i < *n; i++)
	{
		bool		isnull;

		xids[i] = U64FromFullTransactionId(DatumGetFullTransactionId(sx_plan_value(i, 1,
																			&isnull)));
	}
	SPI_finish();
	return xids;
}

/* ---- remembering ---- */

static void
prepare_row(const SxDevice *device, Datum *values, bool *nulls)
{
	memset(nulls, false, sizeof(bool) * Natts_mutation);
	values[Anum_mutation_device - 1] = Int64GetDatum(device->number);
	values[Anum_mutation_applied - 1] = BoolGetDatum(true);
	values[Anum_mutation_digest - 1] = Int64GetDatum(0);
	values[Anum_mutation_xid - 1] =
		FullTransactionIdGetDatum(GetTopFullTransactionId());
	values[Anum_mutation_at - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	nulls[Anum_mutation_id - 1] = true;
	nulls[Anum_mutation_key - 1] = true;
	nulls[Anum_mutation_known_from - 1] = true;
	nulls[Anum_mutation_modified_at - 1] = true;
}

/* sync.mutation, open for writing. */
typedef struct Target
{
	SxDirect	direct;
	bool		many;
} Target;

/* Whether there is anything to remember of a mutation. */
static bool
is_memorable(const SxMutation *mutation)
{
	switch (mutation->status)
	{
		case SX_STATUS_APPLIED:
			return true;
		case SX_STATUS_CONFLICT:
		case SX_STATUS_REJECTED:
		case SX_STATUS_RETRY:
			return mutation->id != NULL && mutation->digest != 0 &&
				!mutation->remembered;
		default:
			return false;
	}
}

/* The values must last until the target is closed. */
static void
add(Target *target, Datum *values, bool *nulls)
{
	if (target->many)
		sx_direct_put(&target->direct, values, nulls, GetCurrentCommandId(true));
	else
		sx_direct_insert(&target->direct, values, nulls, GetCurrentCommandId(true));
}

static void
remember_mutation(Target *target, const SxDevice *device,
				  SxMutation *mutation, Datum *values, bool *nulls)
{
	bool		applied = mutation->status == SX_STATUS_APPLIED;
	bool		keyed;			/* its key is not the one that was sent */

	values[Anum_mutation_place - 1] =
		Int64GetDatum(device->next_seq + mutation->number);
	values[Anum_mutation_seq - 1] = Int64GetDatum(mutation->seq);
	nulls[Anum_mutation_id - 1] = mutation->id == NULL;
	if (mutation->id != NULL)
		values[Anum_mutation_id - 1] = CStringGetTextDatum(mutation->id);
	values[Anum_mutation_digest - 1] = Int64GetDatum((int64) mutation->digest);
	values[Anum_mutation_applied - 1] = BoolGetDatum(applied);
	nulls[Anum_mutation_rel - 1] = mutation->table == NULL;
	if (mutation->table != NULL)
		values[Anum_mutation_rel - 1] = ObjectIdGetDatum(mutation->table->root);
	values[Anum_mutation_key_hash - 1] =
		Int64GetDatum((int64) sx_mutation_final_hash(mutation));
	keyed = applied && (mutation->key_made || mutation->new_key != NULL);
	nulls[Anum_mutation_key - 1] = !keyed;
	if (keyed)
		values[Anum_mutation_key - 1] =
			JsonbPGetDatum(sx_rowjson_key(mutation->table,
										  sx_mutation_final_key(mutation)));
	nulls[Anum_mutation_modified_at - 1] =
		!applied || !mutation->has_modified_at;
	values[Anum_mutation_modified_at - 1] =
		TimestampTzGetDatum(mutation->modified_at);
	/* what wrote nothing is nobody's last write */
	nulls[Anum_mutation_known_from - 1] = mutation->written;
	values[Anum_mutation_known_from - 1] = TimestampTzGetDatum(DT_NOEND);
	add(target, values, nulls);
}

/*
 * Rows that were touched beside. Where the chain of our own writes goes back
 * further than this push, so does what is remembered.
 */
static void
remember_touched(Target *target, const SxDevice *device, Datum *values,
				 bool *nulls)
{
	const SxWatched *watched;
	int			state = 0;
	int			n = 0;
	int			room = 16;
	SxWatched  *touched = palloc(sizeof(SxWatched) * room);
	Oid		   *roots;
	uint64	   *hashes;
	SxOwnWrite *writes;

	while ((watched = sx_watch_next(&state)) != NULL)
	{
		if (watched->direct || !watched->had_version || !watched->has_version)
			continue;
		if (n == room)
			touched = repalloc_huge(touched, sizeof(SxWatched) * (room *= 2));
		touched[n++] = *watched;
	}
	roots = palloc(sizeof(Oid) * Max(n, 1));
	hashes = palloc(sizeof(uint64) * Max(n, 1));
	writes = palloc(sizeof(SxOwnWrite) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		roots[i] = touched[i].root;
		hashes[i] = touched[i].key_hash;
	}
	sx_ledger_own_writes(device, n, roots, hashes, writes);
	for (int i = 0; i < n; i++)
	{
		bool		chained = writes[i].found && writes[i].has_version &&
			writes[i].version == touched[i].first_version;

		values[Anum_mutation_place - 1] = Int64GetDatum(device->touch_place);
		values[Anum_mutation_seq - 1] = Int64GetDatum(0);
		nulls[Anum_mutation_id - 1] = true;
		nulls[Anum_mutation_rel - 1] = false;
		nulls[Anum_mutation_key - 1] = true;
		values[Anum_mutation_applied - 1] = BoolGetDatum(true);
		values[Anum_mutation_rel - 1] = ObjectIdGetDatum(touched[i].root);
		values[Anum_mutation_key_hash - 1] =
			Int64GetDatum((int64) touched[i].key_hash);
		nulls[Anum_mutation_known_from - 1] = chained && !writes[i].has_known_from;
		values[Anum_mutation_known_from - 1] =
			TimestampTzGetDatum(chained ? writes[i].known_from :
								touched[i].first_version);
		nulls[Anum_mutation_modified_at - 1] = false;
		values[Anum_mutation_modified_at - 1] =
			TimestampTzGetDatum(touched[i].version);
		add(target, values, nulls);
	}
}

void
sx_ledger_remember(const SxDevice *device, SxMutation **mutations, int n)
{
	Oid			schema = sx_catalog_get()->schema;
	Datum		values[Natts_mutation];
	bool		nulls[Natts_mutation];
	Target		target;

	target.many = n > 1;
	sx_direct_open(&target.direct, get_relname_relid("mutation", schema),
				   Natts_mutation);
	prepare_row(device, values, nulls);
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (is_memorable(mutations[i]))
			remember_mutation(&target, device, mutations[i], values, nulls);
	}
	prepare_row(device, values, nulls);
	remember_touched(&target, device, values, nulls);
	sx_direct_close(&target.direct);
}
