/*-------------------------------------------------------------------------
 *
 * worker.c
 *		The background worker of a database: it tells of changes, and prunes.
 *
 * The worker looks into the change logs for what has committed since its last
 * snapshot, and sends one notification for each domain, in a transaction of
 * its own. So no writer waits for the lock that notifications take, or fails
 * because their queue is full. It holds its snapshot in memory: after its
 * start, whatever ended the one before, it tells everybody to look ("count":0)
 * and begins anew.
 *
 * Commits wake it (wake.c) if the library was preloaded. It also looks by
 * itself: a prepared transaction that commits calls nobody. Not preloaded, it
 * does nothing else.
 *
 * What goes wrong is reported and tried again: the queue may be full, the
 * extension may be dropped in the midst of it. The snapshot moves on when a
 * transaction has committed, so nothing is left out.
 *
 * At most one worker runs in a database; it holds a lock for as long as it
 * lives. It is an advisory lock, since others do not survive an error, of a
 * class that SQL functions cannot ask for. DROP EXTENSION is not kept waiting:
 * nothing else is locked outside the worker's short transactions, in which it
 * gives up before the deadlock detector would look at anybody.
 *
 * The log is pruned in a process of its own, since that may take long; the
 * same one forgets what clients pushed long ago, and sessions that were given up.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "pgstat.h"
#include "portability/instr_time.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "sync_ext.h"
#include "catalog.h"
#include "cursor.h"
#include "event.h"
#include "guc.h"
#include "news.h"
#include "plan.h"
#include "wake.h"
#include "worker.h"

PG_FUNCTION_INFO_V1(sync_ext_launch_worker);
PG_FUNCTION_INFO_V1(sync_ext_is_preloaded);

/* How often to look, in milliseconds: when commits wake us, and when not. */
#define LOOK_WHEN_WOKEN		1000
#define LOOK_WHEN_POLLING	100

/* After a failure, and between chores. */
#define RETRY_AFTER			1000
#define CHORES_EVERY		1000

/* Application servers that are silent need not be found at once. */
#define SWEEP_EVERY			10000

/* Seconds until the postmaster starts a worker that failed. */
#define RESTART_AFTER		5

/*
 * The last part of the lock's name, which is 1 or 2 in those that SQL can take;
 * sync.worker_pid() knows it, too.
 */
#define WORKER_LOCK			21337

/* What a worker is told by who starts it. */
typedef struct WorkerOrder
{
	bool		kept;
	uint64		starter;		/* the transaction that started it, or 0 */
} WorkerOrder;

typedef enum ExtensionState
{
	EXTENSION_ABSENT,
	EXTENSION_OTHER_VERSION,
	EXTENSION_READY
} ExtensionState;

typedef struct Worker
{
	MemoryContext context;		/* of all that outlives a transaction */
	WorkerOrder order;
	bool		was_ready;		/* the extension was there */
	bool		told_version;	/* that the versions differ is in the log */

	SxSnapshot *seen;			/* NULL: begin anew */
	MemoryContext seen_context; /* of "seen" */
	MemoryContext next_context; /* of what it will be after this round */
	uint64		generation;		/* that it belongs to */

	/* a monotonic clock's milliseconds */
	int64		not_before;		/* no look before this */
	int64		look_at;
	int64		chores_at;
	int64		sweep_at;
	int64		prune_at;		/* 0: not known yet */
	BackgroundWorkerHandle *pruner;

	/* for sync.worker_state */
	bool		changed;		/* there is something to write */
	TimestampTz started_at;
	TimestampTz notified_at;	/* 0: never */
	int64		notifications;
	TimestampTz failed_at;		/* 0: never */
	char	   *failure;
} Worker;

static Worker worker;

/* Whether the database let us in. */
static bool connected = false;

/*
 * A clock that nobody sets: the server's time may go back by an hour, and the
 * worker must not sleep through it.
 */
static int64
clock_ms(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return (int64) INSTR_TIME_GET_MILLISEC(now);
}

/* ---- starting ---- */

bool
sx_worker_start(Oid database, bool kept, BackgroundWorkerHandle **handle)
{
	BackgroundWorker entry;
	WorkerOrder order;

	memset(&order, 0, sizeof(order));
	order.kept = kept;
	order.starter = sx_own_xid();
	StaticAssertStmt(sizeof(order) <= BGW_EXTRALEN, "order is too long");

	memset(&entry, 0, sizeof(entry));
	strlcpy(entry.bgw_name, "sync_ext worker", BGW_MAXLEN);
	strlcpy(entry.bgw_type, "sync_ext worker", BGW_MAXLEN);
	entry.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	entry.bgw_start_time = BgWorkerStart_RecoveryFinished;
	entry.bgw_restart_time = kept ? BGW_NEVER_RESTART : RESTART_AFTER;
	strlcpy(entry.bgw_library_name, SX_LIBRARY, BGW_MAXLEN);
	strlcpy(entry.bgw_function_name, "sx_worker_main", BGW_MAXLEN);
	entry.bgw_main_arg = ObjectIdGetDatum(database);
	memcpy(entry.bgw_extra, &order, sizeof(order));
	entry.bgw_notify_pid = MyProcPid;
	return RegisterDynamicBackgroundWorker(&entry, handle);
}

static int
running_worker(void)
{
	int			pid = 0;
	bool		isnull;

	sx_plan_connect();
	if (SPI_execute("SELECT sync.worker_pid()", false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look for the worker");
	if (SPI_processed > 0)
		pid = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0],
										  SPI_tuptable->tupdesc, 1, &isnull));
	SPI_finish();
	return pid;
}

/*
 * sync.launch_worker(): starts one for this database, and waits until it is at
 * work. False where it ended instead; then it is not started again either.
 */
Datum
sync_ext_launch_worker(PG_FUNCTION_ARGS)
{
	BackgroundWorkerHandle *handle;
	pid_t		pid;
	BgwHandleStatus status;

	if (!sx_worker_start(MyDatabaseId, false, &handle))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("could not start a sync worker"),
				 errdetail("All %d background workers are in use.",
						   max_worker_processes),
				 errhint("Raise max_worker_processes, and restart the server.")));
	status = WaitForBackgroundWorkerStartup(handle, &pid);
	while (status == BGWH_STARTED)
	{
		if (running_worker() == (int) pid)
			PG_RETURN_BOOL(true);
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 10, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		status = GetBackgroundWorkerPid(handle, &pid);
	}
	TerminateBackgroundWorker(handle);
	PG_RETURN_BOOL(false);
}

/* sync.is_preloaded() */
Datum
sync_ext_is_preloaded(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(sx_wake_available());
}

/* ---- beginning and ending ---- */

/*
 * The stock handlers end a process with an exit code for which the postmaster
 * starts it again, also after DROP DATABASE. So we end by ourselves, and what
 * goes on meanwhile is cancelled like a query.
 */
void
sx_worker_end(SIGNAL_ARGS)
{
	int			saved = errno;

	ShutdownRequestPending = true;
	QueryCancelPending = true;
	InterruptPending = true;
	SetLatch(MyLatch);
	errno = saved;
}

/*
 * A worker that its database does not let in is not to be started again every
 * few seconds: the database is gone, or takes no connections.
 */
static void
exit_for_good(int code, Datum arg)
{
	if (!connected && code != 0)
		proc_exit(0);
}

static void
override(const char *name, const char *value)
{
	if (GetConfigOption(name, true, false) != NULL)
		SetConfigOption(name, value, PGC_SUSET, PGC_S_OVERRIDE);
}

/*
 * Settings of the database that are meant for sessions of people must not
 * stop us; nor do we wait for disks and standbys, who have told us of nothing.
 */
static void
connect_to(Oid database)
{
	char		half[32];

	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	connected = true;
	snprintf(half, sizeof(half), "%d", Max(DeadlockTimeout / 2, 1));
	override("lock_timeout", half);
	override("search_path", "pg_catalog, pg_temp");
	override("default_transaction_read_only", "off");
	override("default_transaction_isolation", "read committed");
	override("default_transaction_deferrable", "off");
	override("transaction_timeout", "0");
	override("synchronous_commit", "off");
	override("jit", "off");
}

static void
begin_transaction(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
}

static void
end_transaction(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
}

static bool
is_the_only_one(void)
{
	LOCKTAG		tag;
	bool		result;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, ExtensionRelationId, InvalidOid,
						 WORKER_LOCK);
	StartTransactionCommand();
	result = LockAcquire(&tag, ExclusiveLock, true, true) !=
		LOCKACQUIRE_NOT_AVAIL;
	CommitTransactionCommand();
	return result;
}

static void
stop_pruner(int code, Datum arg)
{
	if (worker.pruner != NULL)
		TerminateBackgroundWorker(worker.pruner);
}

/* ---- the extension may come and go ---- */

static ExtensionState
look_for_extension(void)
{
	Relation	rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	ExtensionState state = EXTENSION_ABSENT;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber,
				F_NAMEEQ, CStringGetDatum("sync_ext"));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;
		Datum		version = heap_getattr(tuple, Anum_pg_extension_extversion,
										   RelationGetDescr(rel), &isnull);

		state = strcmp(TextDatumGetCString(version), SYNC_EXT_VERSION) == 0 ?
			EXTENSION_READY : EXTENSION_OTHER_VERSION;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return state;
}

/*
 * The library in this process is not the one that the extension needs. A new
 * process loads the new library, unless the postmaster holds the old one.
 */
static void
meet_other_version(void)
{
	if (worker.was_ready && !sx_wake_available())
		proc_exit(1);
	if (worker.told_version)
		return;
	ereport(WARNING,
			(errmsg("sync worker waits: its library is version %s, which the extension is not",
					SYNC_EXT_VERSION),
			 errhint("Run ALTER EXTENSION sync_ext UPDATE, or install the library of the extension's version and restart the server.")));
	worker.told_version = true;
}

/* Nobody made the extension, nor is about to. */
static bool
is_not_wanted(void)
{
	SxSnapshot *now;

	if (worker.order.kept)
		return false;
	if (worker.was_ready || worker.order.starter == 0)
		return true;
	/* started in the transaction that creates it? */
	now = sx_snapshot_of(GetActiveSnapshot());
	return sx_snapshot_has(now, worker.order.starter);
}

/* Another extension, or another life of it, has not heard of us. */
static void
begin_anew(void)
{
	worker.seen = NULL;
	worker.changed = true;
	worker.prune_at = 0;
}

/*
 * Whether there is an extension to work for; called in a transaction. Ends
 * the process where there is none and no hope for one.
 */
static bool
is_ready(void)
{
	switch (look_for_extension())
	{
		case EXTENSION_READY:
			worker.was_ready = true;
			worker.told_version = false;
			return true;
		case EXTENSION_OTHER_VERSION:
			meet_other_version();
			break;
		case EXTENSION_ABSENT:
			if (is_not_wanted())
			{
				ereport(LOG,
						(errmsg("sync worker ends: the extension is not there")));
				end_transaction();
				proc_exit(0);
			}
			break;
	}
	begin_anew();
	return false;
}

/* ---- telling ---- */

static int
tell_all_to_look(void)
{
	int			told;

	sx_plan_connect();
	if (SPI_execute("SELECT domain FROM sync.domains", true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the domains");
	told = (int) SPI_processed;
	for (int i = 0; i < told; i++)
		sx_event_notify(SPI_getvalue(SPI_tuptable->vals[i],
									 SPI_tuptable->tupdesc, 1),
						0, 0, NULL, false, NULL);
	SPI_finish();
	return told;
}

static int
tell_news(Snapshot snapshot, const SxSnapshot *now)
{
	/* A hint that names a commit which a crash undoes is harmless: no flush. */
	SxDurable	durable = {0};
	List	   *news = sx_news_since(worker.seen, snapshot, now, false,
									 sx_guc_notify_keys ? SX_MAX_PAYLOAD : 0,
									 &durable);
	ListCell   *cell;

	foreach(cell, news)
	{
		SxNews	   *item = lfirst(cell);

		sx_event_notify(item->table->domain, item->count, item->xid,
						item->origin, item->reset,
						item->keys == NULL ? NULL : item->keys->data);
	}
	return list_length(news);
}

/* Counts only when the round has committed; until then "seen" stays. */
static SxSnapshot *
copy_for_next_round(const SxSnapshot *snapshot)
{
	SxSnapshot *copy;
	MemoryContext old;

	MemoryContextReset(worker.next_context);
	old = MemoryContextSwitchTo(worker.next_context);
	copy = palloc0(sizeof(SxSnapshot));
	copy->xmax = snapshot->xmax;
	copy->nxip = snapshot->nxip;
	copy->xip = palloc(sizeof(uint64) * Max(snapshot->nxip, 1));
	memcpy(copy->xip, snapshot->xip, sizeof(uint64) * snapshot->nxip);
	MemoryContextSwitchTo(old);
	return copy;
}

static void
go_on_from(SxSnapshot *next)
{
	MemoryContext former = worker.seen_context;

	worker.seen = next;
	worker.seen_context = worker.next_context;
	worker.next_context = former;
}

/* One round: look, tell, remember what was seen. */
static void
look(void)
{
	SxSnapshot *now;
	SxSnapshot *next;
	uint64		generation;
	int			told;

	worker.look_at = clock_ms() +
		(sx_wake_available() ? LOOK_WHEN_WOKEN : LOOK_WHEN_POLLING);
	sx_wake_clear();
	begin_transaction();
	if (!is_ready() || sx_guc_notify != SX_NOTIFY_WORKER)
	{
		worker.seen = NULL;
		worker.look_at = clock_ms() + LOOK_WHEN_WOKEN;
		end_transaction();
		return;
	}

	pgstat_report_activity(STATE_RUNNING, "looking for changes");
	now = sx_snapshot_of(GetActiveSnapshot());
	generation = sx_catalog_get()->generation_id;
	if (worker.generation != generation)
		begin_anew();
	told = worker.seen != NULL ?
		tell_news(GetActiveSnapshot(), now) : tell_all_to_look();
	next = copy_for_next_round(now);
	end_transaction();
	pgstat_report_activity(STATE_IDLE, NULL);

	go_on_from(next);
	worker.generation = generation;
	if (told > 0)
	{
		worker.notifications += told;
		worker.notified_at = GetCurrentTimestamp();
		worker.changed = true;
		worker.not_before = clock_ms() + sx_guc_worker_delay;
	}
}

/* ---- chores ---- */

static void
write_state(void)
{
	Oid			types[] = {TIMESTAMPTZOID, TIMESTAMPTZOID, INT8OID,
	TIMESTAMPTZOID, TEXTOID};
	Datum		values[lengthof(types)];
	char		nulls[] = "     ";

	values[0] = TimestampTzGetDatum(worker.started_at);
	values[1] = TimestampTzGetDatum(worker.notified_at);
	values[2] = Int64GetDatum(worker.notifications);
	values[3] = TimestampTzGetDatum(worker.failed_at);
	values[4] = (Datum) 0;
	if (worker.notified_at == 0)
		nulls[1] = 'n';
	if (worker.failed_at == 0)
		nulls[3] = nulls[4] = 'n';
	else
		values[4] = CStringGetTextDatum(worker.failure);
	sx_plan_connect();
	if (SPI_execute_with_args(
			"INSERT INTO sync.worker_state AS s"
			" (started_at, notified_at, notifications, failed_at, failure)"
			" VALUES ($1, $2, $3, $4, $5)"
			" ON CONFLICT (id) DO UPDATE SET started_at = excluded.started_at,"
			" notified_at = coalesce(excluded.notified_at, s.notified_at),"
			" notifications = excluded.notifications,"
			" failed_at = coalesce(excluded.failed_at, s.failed_at),"
			" failure = coalesce(excluded.failure, s.failure)",
			lengthof(types), types, values, nulls, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not write the state of the worker");
	SPI_finish();
}

static void
sweep_servers(void)
{
	sx_plan_connect();
	if (SPI_execute("SELECT sync.sweep_servers()", false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not sweep silent servers");
	SPI_finish();
}

/* Prunes, and says so; in a transaction of its own. */
static void
prune(void)
{
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(sx_guc_retention)};

	begin_transaction();
	pgstat_report_activity(STATE_RUNNING, "pruning the change logs");
	if (look_for_extension() == EXTENSION_READY)
	{
		sx_plan_connect();
		if (SPI_execute_with_args(
				"INSERT INTO sync.worker_state AS s (pruned, pruned_at)"
				" VALUES (sync.prune(make_interval(mins => $1)), clock_timestamp())"
				" ON CONFLICT (id) DO UPDATE SET pruned = excluded.pruned,"
				" pruned_at = excluded.pruned_at",
				lengthof(types), types, values, NULL, false, 0) != SPI_OK_INSERT)
			elog(ERROR, "could not prune");
		SPI_finish();
	}
	end_transaction();
	pgstat_report_activity(STATE_IDLE, NULL);
	pgstat_report_stat(true);	/* autovacuum has to hear of it */
}

/*
 * Forgets what clients pushed long ago; in a transaction of its own. That
 * reads the whole ledger, so it is done thirty times in the time that is kept,
 * and no oftener.
 */
static void
sweep_clients(void)
{
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(sx_guc_client_retention)};

	if (sx_guc_client_retention == 0)
		return;
	begin_transaction();
	pgstat_report_activity(STATE_RUNNING, "forgetting old pushes and sessions");
	if (look_for_extension() == EXTENSION_READY)
	{
		sx_plan_connect();
		if (SPI_execute_with_args(
				"INSERT INTO sync.worker_state AS s (swept, swept_at)"
				" SELECT sync.sweep(make_interval(mins => $1)), clock_timestamp()"
				" WHERE NOT EXISTS (SELECT FROM sync.worker_state w"
				" WHERE clock_timestamp() - w.swept_at"
				" BETWEEN interval '0' AND make_interval(mins => $1) / 30)"
				" ON CONFLICT (id) DO UPDATE SET swept = excluded.swept,"
				" swept_at = excluded.swept_at",
				lengthof(types), types, values, NULL, false, 0) != SPI_OK_INSERT)
			elog(ERROR, "could not sweep");
		SPI_finish();
	}
	end_transaction();
	pgstat_report_activity(STATE_IDLE, NULL);
	pgstat_report_stat(true);	/* autovacuum has to hear of it */
}

void
sx_worker_prune_main(Datum database)
{
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	connect_to(DatumGetObjectId(database));
	prune();
	sweep_clients();
}

/* In a process of its own, or here where none can be had. */
static void
start_pruning(void)
{
	BackgroundWorker entry;
	MemoryContext old;
	pid_t		pid;
	bool		started;

	if (worker.pruner != NULL)
	{
		if (GetBackgroundWorkerPid(worker.pruner, &pid) != BGWH_STOPPED)
			return;
		pfree(worker.pruner);
		worker.pruner = NULL;
	}

	memset(&entry, 0, sizeof(entry));
	strlcpy(entry.bgw_name, "sync_ext pruner", BGW_MAXLEN);
	strlcpy(entry.bgw_type, "sync_ext pruner", BGW_MAXLEN);
	entry.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	entry.bgw_start_time = BgWorkerStart_RecoveryFinished;
	entry.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(entry.bgw_library_name, SX_LIBRARY, BGW_MAXLEN);
	strlcpy(entry.bgw_function_name, "sx_worker_prune_main", BGW_MAXLEN);
	entry.bgw_main_arg = ObjectIdGetDatum(MyDatabaseId);
	entry.bgw_notify_pid = MyProcPid;

	old = MemoryContextSwitchTo(worker.context);
	started = RegisterDynamicBackgroundWorker(&entry, &worker.pruner);
	MemoryContextSwitchTo(old);
	if (!started)
	{
		worker.pruner = NULL;
		prune();
		sweep_clients();
	}
}

/*
 * When to prune for the first time: at once if that was due while no worker
 * ran, so that one which is often started anew prunes as well.
 */
static int64
first_prune(void)
{
	int64		wait = 0;
	bool		isnull;

	sx_plan_connect();
	if (SPI_execute("SELECT extract(epoch FROM clock_timestamp() - pruned_at)::int8"
					" FROM sync.worker_state WHERE pruned_at <= clock_timestamp()",
					true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read the state of the worker");
	if (SPI_processed > 0)
		wait = sx_guc_prune_every -
			DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
										SPI_tuptable->tupdesc, 1, &isnull));
	SPI_finish();
	return clock_ms() + Max(wait, 0) * 1000;
}

static void
chores(void)
{
	int64		now = clock_ms();
	bool		sweep = now >= worker.sweep_at;
	bool		wrote = worker.changed;

	worker.chores_at = now + CHORES_EVERY;
	if (!sweep && !wrote && (worker.prune_at == 0 || now < worker.prune_at))
		return;

	begin_transaction();
	if (!is_ready())
	{
		end_transaction();
		return;
	}
	if (wrote)
		write_state();
	if (sweep)
	{
		worker.sweep_at = now + SWEEP_EVERY;
		sweep_servers();
	}
	if (worker.prune_at == 0)
		worker.prune_at = first_prune();
	end_transaction();
	if (wrote)
		worker.changed = false;
	pgstat_report_stat(true);

	if (sx_guc_prune_every > 0 && now >= worker.prune_at)
	{
		worker.prune_at = now + (int64) sx_guc_prune_every * 1000;
		start_pruning();
	}
}

/* ---- the loop ---- */

static void
wait_for_work(void)
{
	for (;;)
	{
		int64		now = clock_ms();
		int64		until;

		CHECK_FOR_INTERRUPTS();
		if (ShutdownRequestPending)
			return;
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			/* the mode may be another one now, and the time to prune */
			worker.look_at = worker.chores_at = 0;
			worker.prune_at = 0;
			return;
		}
		until = Max(worker.not_before, Min(worker.look_at, worker.chores_at));
		if (now >= until ||
			(now >= worker.not_before && sx_wake_called()))
			return;
		if (sx_wake_called())
			until = worker.not_before;
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 until - now, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}

/* Runs a step of the loop. False where it failed, which is in the log then. */
static bool
attempt(void (*step) (void))
{
	volatile bool done = true;

	PG_TRY();
	{
		step();
	}
	PG_CATCH();
	{
		MemoryContext old = MemoryContextSwitchTo(worker.context);
		ErrorData  *error = CopyErrorData();

		MemoryContextSwitchTo(old);
		HOLD_INTERRUPTS();
		if (!ShutdownRequestPending)
			EmitErrorReport();
		AbortOutOfAnyTransaction();
		FlushErrorState();
		RESUME_INTERRUPTS();

		if (worker.failure != NULL)
			pfree(worker.failure);
		worker.failure = MemoryContextStrdup(worker.context,
											 error->message == NULL ?
											 "unknown" : error->message);
		FreeErrorData(error);
		worker.failed_at = GetCurrentTimestamp();
		worker.changed = true;
		done = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(worker.context);
	return done;
}

void
sx_worker_main(Datum database)
{
	pqsignal(SIGTERM, sx_worker_end);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	on_proc_exit(exit_for_good, (Datum) 0);
	BackgroundWorkerUnblockSignals();
	connect_to(DatumGetObjectId(database));
	if (!is_the_only_one())
	{
		ereport(LOG,
				(errmsg("sync worker ends: another one is at work in this database")));
		proc_exit(0);
	}

	memcpy(&worker.order, MyBgworkerEntry->bgw_extra, sizeof(WorkerOrder));
	worker.context = AllocSetContextCreate(TopMemoryContext, "sync_ext worker",
										   ALLOCSET_DEFAULT_SIZES);
	worker.seen_context = AllocSetContextCreate(worker.context,
												"sync_ext worker snapshot",
												ALLOCSET_SMALL_SIZES);
	worker.next_context = AllocSetContextCreate(worker.context,
												"sync_ext worker snapshot",
												ALLOCSET_SMALL_SIZES);
	MemoryContextSwitchTo(worker.context);
	worker.started_at = GetCurrentTimestamp();
	worker.changed = true;
	sx_wake_attach();
	before_shmem_exit(stop_pruner, (Datum) 0);

	while (!ShutdownRequestPending)
	{
		int64		now = clock_ms();

		if (now >= worker.not_before &&
			(now >= worker.look_at || sx_wake_called()) &&
			!attempt(look))
			worker.not_before = clock_ms() + RETRY_AFTER;
		if (clock_ms() >= worker.chores_at && !ShutdownRequestPending)
			(void) attempt(chores);
		(void) attempt(wait_for_work);
	}
	proc_exit(0);
}
