/*-------------------------------------------------------------------------
 *
 * launcher.c
 *		Keeps a worker running in each database of sync.databases.
 *
 * The library has to be preloaded for this; the postmaster then starts one
 * launcher, on a standby when that is promoted. It is connected to no
 * database, so it keeps none from being dropped.
 *
 * A worker that ends is started again, soon at first, and then less and less
 * often while it keeps ending at once. A database that is not there (yet, or
 * any more) is looked for again and again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "sync_ext.h"
#include "guc.h"
#include "launcher.h"
#include "wake.h"
#include "worker.h"

PG_FUNCTION_INFO_V1(sync_ext_is_listed);

/* Milliseconds between two looks at databases and workers. */
#define LOOK_EVERY		1000

/* A worker is started again after this many looks, at least and at most. */
#define FIRST_PAUSE		1
#define LONGEST_PAUSE	60

/* One that has lived for so many looks had no trouble with starting. */
#define SETTLED			60

/* Seconds until the postmaster starts the launcher again. */
#define RESTART_AFTER	5

/* A worker that we keep running. Nothing here goes by the clock, but by looks. */
typedef struct Kept
{
	Oid			database;
	BackgroundWorkerHandle *handle; /* NULL: to be started */
	bool		wanted;			/* still in the list */
	int			lived;			/* looks since it was started */
	int			pause;			/* before the next start */
	int			waited;			/* of that pause */
} Kept;

static MemoryContext launcher_context = NULL;
static List *kept = NIL;

/* ---- the list ---- */

/* The names in sync.databases, in the current memory context. */
static List *
listed_names(void)
{
	List	   *names;

	if (sx_guc_databases == NULL ||
		!SplitGUCList(pstrdup(sx_guc_databases), ',', &names))
		return NIL;
	return names;
}

static bool
is_listed(List *names, const char *name)
{
	ListCell   *cell;

	foreach(cell, names)
		if (strcmp(lfirst(cell), name) == 0)
			return true;
	return false;
}

/* sync.is_listed(): does the launcher keep a worker in this database? */
Datum
sync_ext_is_listed(PG_FUNCTION_ARGS)
{
	char	   *own = get_database_name(MyDatabaseId);

	PG_RETURN_BOOL(sx_wake_available() && own != NULL &&
				   is_listed(listed_names(), own));
}

static Kept *
find_kept(Oid database)
{
	ListCell   *cell;

	foreach(cell, kept)
		if (((Kept *) lfirst(cell))->database == database)
			return lfirst(cell);
	return NULL;
}

static void
want(Oid database)
{
	Kept	   *one = find_kept(database);

	if (one == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(launcher_context);

		one = palloc0(sizeof(Kept));
		one->database = database;
		kept = lappend(kept, one);
		MemoryContextSwitchTo(old);
	}
	one->wanted = true;
}

static void
read_list(void)
{
	ListCell   *cell;
	List	   *names;
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;

	foreach(cell, kept)
		((Kept *) lfirst(cell))->wanted = false;

	StartTransactionCommand();
	names = listed_names();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	/* no index and no cache: those need catalogs that only a database has */
	scan = table_beginscan_catalog(rel, 0, NULL);
	while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_database database = (Form_pg_database) GETSTRUCT(tuple);

		if (database->datallowconn &&
			is_listed(names, NameStr(database->datname)))
			want(database->oid);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
}

/* ---- the workers ---- */

static void
forget_handle(Kept *one)
{
	pfree(one->handle);
	one->handle = NULL;
}

static void
start_one(Kept *one)
{
	MemoryContext old = MemoryContextSwitchTo(launcher_context);

	one->lived = one->waited = 0;
	if (!sx_worker_start(one->database, true, &one->handle))
	{
		one->handle = NULL;
		ereport(WARNING,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("could not start the sync worker of database %u",
						one->database),
				 errdetail("All %d background workers are in use.",
						   max_worker_processes),
				 errhint("Raise max_worker_processes, and restart the server.")));
		one->pause = LONGEST_PAUSE;
	}
	MemoryContextSwitchTo(old);
}

static void
look_at_one(Kept *one)
{
	pid_t		pid;

	if (one->handle != NULL)
	{
		if (GetBackgroundWorkerPid(one->handle, &pid) != BGWH_STOPPED)
		{
			one->lived++;
			return;
		}
		forget_handle(one);
		one->pause = one->lived >= SETTLED || one->pause == 0 ? FIRST_PAUSE :
			Min(one->pause * 2, LONGEST_PAUSE);
		one->waited = 0;
	}
	if (one->waited++ >= one->pause)
		start_one(one);
}

static void
look_at_workers(void)
{
	ListCell   *cell;

	foreach(cell, kept)
	{
		Kept	   *one = lfirst(cell);

		if (one->wanted)
		{
			look_at_one(one);
			continue;
		}
		if (one->handle != NULL)
		{
			TerminateBackgroundWorker(one->handle);
			forget_handle(one);
		}
		kept = foreach_delete_current(kept, cell);
		pfree(one);
	}
}

/* The next launcher does not know of our workers. */
static void
stop_all(int code, Datum arg)
{
	ListCell   *cell;

	foreach(cell, kept)
	{
		Kept	   *one = lfirst(cell);

		if (one->handle != NULL)
			TerminateBackgroundWorker(one->handle);
	}
}

/* ---- the loop ---- */

void
sx_launcher_main(Datum arg)
{
	pqsignal(SIGTERM, sx_worker_end);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	launcher_context = AllocSetContextCreate(TopMemoryContext,
											 "sync_ext launcher",
											 ALLOCSET_DEFAULT_SIZES);
	before_shmem_exit(stop_all, (Datum) 0);

	while (!ShutdownRequestPending)
	{
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		read_list();
		look_at_workers();
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 LOOK_EVERY, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
	/* not 0, so that it comes back if an administrator ended it */
	proc_exit(1);
}

void
sx_launcher_init(void)
{
	BackgroundWorker entry;

	/* pg_upgrade wants the databases for itself */
	if (!process_shared_preload_libraries_in_progress || IsBinaryUpgrade)
		return;
	memset(&entry, 0, sizeof(entry));
	strlcpy(entry.bgw_name, "sync_ext launcher", BGW_MAXLEN);
	strlcpy(entry.bgw_type, "sync_ext launcher", BGW_MAXLEN);
	entry.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	entry.bgw_start_time = BgWorkerStart_RecoveryFinished;
	entry.bgw_restart_time = RESTART_AFTER;
	strlcpy(entry.bgw_library_name, SX_LIBRARY, BGW_MAXLEN);
	strlcpy(entry.bgw_function_name, "sx_launcher_main", BGW_MAXLEN);
	RegisterBackgroundWorker(&entry);
}
