/*-------------------------------------------------------------------------
 *
 * guc.c
 *		The settings, all of them named sync.*.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/varlena.h"

#include "sync_ext.h"
#include "guc.h"

/* How int8 and numeric travel: JavaScript loses digits of large numbers. */
int			sx_guc_big_numbers = SX_BIG_NUMBERS_NUMBER;

/* The channel of change events. */
char	   *sx_guc_channel = NULL;

/* Who writes: the origin of the log entries that follow. */
char	   *sx_guc_client = NULL;

/* How long a client may stay away before what it pushed is forgotten. */
int			sx_guc_client_retention = 30 * 24 * 60;

/* The databases in which the launcher keeps a worker running. */
char	   *sx_guc_databases = NULL;

/* Who sends change events, if anybody does. */
int			sx_guc_notify = SX_NOTIFY_COMMIT;

/* Whether events name the changed keys. LISTEN knows no rights. */
bool		sx_guc_notify_keys = false;

/* How often the worker prunes, and how long clients may stay away. */
int			sx_guc_prune_every = 600;
int			sx_guc_retention = 7 * 24 * 60;

/* When an application server that is silent is given up. */
int			sx_guc_server_timeout = 120;

/*
 * The worker lets this time pass between two rounds of notifications. A change
 * after a quiet time is told at once; under load changes are told together.
 */
int			sx_guc_worker_delay = 20;

static const struct config_enum_entry notify_modes[] = {
	{"off", SX_NOTIFY_OFF, false},
	{"commit", SX_NOTIFY_COMMIT, false},
	{"worker", SX_NOTIFY_WORKER, false},
	{NULL, 0, false}
};

static const struct config_enum_entry big_number_forms[] = {
	{"number", SX_BIG_NUMBERS_NUMBER, false},
	{"text", SX_BIG_NUMBERS_TEXT, false},
	{NULL, 0, false}
};

static bool
check_channel(char **newval, void **extra, GucSource source)
{
	if (**newval != '\0' && strlen(*newval) < NAMEDATALEN)
		return true;
	GUC_check_errdetail("A channel has 1 to %d bytes.", NAMEDATALEN - 1);
	return false;
}

static bool
check_client(char **newval, void **extra, GucSource source)
{
	if (strlen(*newval) <= SX_GUC_CLIENT_LENGTH)
		return true;
	GUC_check_errdetail("A client's name has at most %d bytes.",
						SX_GUC_CLIENT_LENGTH);
	return false;
}

static bool
check_databases(char **newval, void **extra, GucSource source)
{
	char	   *list = pstrdup(*newval);
	List	   *names;
	bool		valid = SplitGUCList(list, ',', &names);

	if (!valid)
		GUC_check_errdetail("List syntax is invalid.");
	list_free(names);
	pfree(list);
	return valid;
}

void
sx_guc_init(void)
{
	DefineCustomEnumVariable("sync.big_numbers",
							 gettext_noop("How bigint and numeric values travel in JSON."),
							 gettext_noop("\"text\" sends them as strings, for clients whose numbers are doubles."),
							 &sx_guc_big_numbers,
							 SX_BIG_NUMBERS_NUMBER,
							 big_number_forms,
							 PGC_USERSET,
							 0,
							 NULL, NULL, NULL);

	DefineCustomStringVariable("sync.channel",
							   gettext_noop("The channel on which change events are sent."),
							   NULL,
							   &sx_guc_channel,
							   "sync",
							   PGC_SUSET,
							   0,
							   check_channel, NULL, NULL);

	DefineCustomStringVariable("sync.client",
							   gettext_noop("The client for which this session or transaction writes."),
							   gettext_noop("Recorded as the origin of its changes."),
							   &sx_guc_client,
							   "",
							   PGC_USERSET,
							   0,
							   check_client, NULL, NULL);

	/* Like all that the worker goes by: see sync.prune_every. */
	DefineCustomIntVariable("sync.client_retention",
							gettext_noop("How long the worker remembers what clients pushed, and their sessions."),
							gettext_noop("Zero: for ever. Who comes back later and sends the same again gets it applied again."),
							&sx_guc_client_retention,
							30 * 24 * 60, 0, INT_MAX / 60,
							PGC_SUSET,
							GUC_UNIT_MIN,
							NULL, NULL, NULL);

	DefineCustomStringVariable("sync.databases",
							   gettext_noop("Databases in which a worker is kept running."),
							   gettext_noop("Needs sync_ext in shared_preload_libraries."),
							   &sx_guc_databases,
							   "",
							   PGC_SIGHUP,
							   GUC_LIST_INPUT,
							   check_databases, NULL, NULL);

	DefineCustomEnumVariable("sync.notify",
							 gettext_noop("Who sends change events."),
							 gettext_noop("\"commit\" sends them with the writer's commit, \"worker\" lets a background worker send them, \"off\" sends none."),
							 &sx_guc_notify,
							 SX_NOTIFY_COMMIT,
							 notify_modes,
							 PGC_SUSET,
							 0,
							 NULL, NULL, NULL);

	DefineCustomBoolVariable("sync.notify_keys",
							 gettext_noop("Whether change events name the changed keys."),
							 gettext_noop("Anybody who may connect may LISTEN."),
							 &sx_guc_notify_keys,
							 false,
							 PGC_SUSET,
							 0,
							 NULL, NULL, NULL);

	/*
	 * What the worker goes by can be set for a database or a role, too, but
	 * not by those who merely write.
	 */
	DefineCustomIntVariable("sync.prune_every",
							gettext_noop("How often the worker prunes the change logs."),
							gettext_noop("Zero turns it off."),
							&sx_guc_prune_every,
							600, 0, INT_MAX / 1000,
							PGC_SUSET,
							GUC_UNIT_S,
							NULL, NULL, NULL);

	DefineCustomIntVariable("sync.retention",
							gettext_noop("How long the worker keeps log entries."),
							gettext_noop("Clients that stay away longer load anew."),
							&sx_guc_retention,
							7 * 24 * 60, 1, INT_MAX / 60,
							PGC_SUSET,
							GUC_UNIT_MIN,
							NULL, NULL, NULL);

	DefineCustomIntVariable("sync.server_timeout",
							gettext_noop("How long an application server may be silent before its clients are forgotten."),
							NULL,
							&sx_guc_server_timeout,
							120, 1, INT_MAX / 1000,
							PGC_SUSET,
							GUC_UNIT_S,
							NULL, NULL, NULL);

	DefineCustomIntVariable("sync.worker_delay",
							gettext_noop("The time between two rounds of notifications of the worker."),
							gettext_noop("Changes of that time are told together."),
							&sx_guc_worker_delay,
							20, 0, 60000,
							PGC_SUSET,
							GUC_UNIT_MS,
							NULL, NULL, NULL);

	MarkGUCPrefixReserved("sync");
}
