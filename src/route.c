/*-------------------------------------------------------------------------
 *
 * route.c
 *		Which connected clients must hear of what.
 *
 * The answer is made in three steps, none of which looks at a client that is
 * not concerned.
 *
 * First the logs tell which scopes of which domains changed since the cursor
 * (news.c). Then, for a domain that an access relation rules, that relation
 * tells whose those scopes are: one query for each domain, an index lookup for
 * each scope. An access table's own entries name the users whom it let in or
 * out; the clients of both must fetch, one to load and one to forget. All this
 * ends up in a relation of "concerns":
 *
 *	 user	 clients of a user, if they subscribe to the domain, or to the scope
 *			 that is named
 *	 own	 clients of a user, subscribed or not: an autosubscribe domain
 *	 scope	 clients that subscribe to the domain, or to the scope that is named
 *	 domain	 clients that subscribe to the domain or to any scope of it: the log
 *			 cannot tell more (a reset marker, a pruned log), or the access
 *			 relation is a view over a table that changed
 *	 all	 all clients: the same for an autosubscribe domain
 *	 new	 clients and subscriptions made by transactions that are new to the
 *			 cursor: they may have pulled before the change was visible, and
 *			 were not there to be named when it became so. A cursor that says
 *			 nothing here makes everybody new.
 *
 * The third step joins them, in one query, to the clients that are connected.
 *
 * Users and scopes are compared by hashes that their types make, as the hash
 * access method does, and not by text, which may differ where values are equal
 * (a uuid in capitals, citext, 1.0). A type that has no hash gives all values
 * the same: its clients are woken for nothing, but never missed.
 *
 * The entries of streams are a domain, too, without an access relation: its
 * scope is the stream.
 *
 * The author of a change need not be told. Where a user is concerned by two
 * scopes, both must have been changed by the same author.
 *
 * The caller's own transaction does not count, since it may yet roll back; but
 * the clients that it connected are there to be named.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/typcache.h"
#include "utils/xid8.h"

#include "sync_ext.h"
#include "access.h"
#include "catalog.h"
#include "cursor.h"
#include "durable.h"
#include "logscan.h"
#include "news.h"
#include "plan.h"
#include "route.h"
#include "rowjson.h"
#include "tracked.h"
#include "validity.h"

PG_FUNCTION_INFO_V1(sync_ext_affected);
PG_FUNCTION_INFO_V1(sync_ext_hash_value);
PG_FUNCTION_INFO_V1(sync_ext_parse_scope);

/* Numbers of columns of sync.access that nobody else reads. */
#define Anum_access_tables	7

/* In queries: no operator but the server's own is ever found. */
#define SAME(a, b) a " OPERATOR(pg_catalog.=) " b

/* Stands for the whole domain where a scope's hash is expected. */
#define WHOLE_DOMAIN	0

typedef enum ConcernKind
{
	CONCERN_USER = 'u',
	CONCERN_OWN = 'o',
	CONCERN_SCOPE = 's',
	CONCERN_DOMAIN = 'd',
	CONCERN_ALL = 'a',
	CONCERN_NEW = 'n'
} ConcernKind;

/* How a domain is subscribed to. */
typedef struct Interest
{
	Oid			root;
	bool		autosubscribe;
	bool		by_scope;		/* somebody subscribes to a single scope */
} Interest;

/* What two concerns have in common that are one. */
typedef struct ConcernKey
{
	char		kind;
	Oid			root;
	int64		user_hash;
	int64		scope_hash;
} ConcernKey;

typedef struct Concern
{
	ConcernKey	key;			/* hash key */
	const char *domain;
	const char *author;			/* who need not be told, or NULL */
} Concern;

/* A row of sync.access. */
typedef struct Rule
{
	Oid			rel;
	Oid			via;
	List	   *tables;			/* whose changes change it, as oids */
} Rule;

typedef struct Routing
{
	Snapshot	snapshot;
	SxSnapshot *now;
	SxSnapshot	seen;
	bool		everybody;		/* the cursor says nothing here */
	List	   *rules;			/* of Rule */
	List	   *interests;		/* of Interest */
	HTAB	   *concerns;		/* of Concern */
	SxDurable	durable;
	uint64		newest;			/* transaction that was looked at */
} Routing;

/* ---- hashes ---- */

/* Equal for equal values of a type; 0 where the type has no hash. */
static uint64
hash_value(Oid typeid, Oid collation, Datum value)
{
	TypeCacheEntry *type = lookup_type_cache(typeid,
											 TYPECACHE_HASH_EXTENDED_PROC_FINFO);

	if (!OidIsValid(type->hash_extended_proc_finfo.fn_oid))
		return 0;
	return DatumGetUInt64(FunctionCall2Coll(&type->hash_extended_proc_finfo,
											collation, value,
											UInt64GetDatum(0)));
}

/* The same for the scope of a row, none of whose values is null. */
static int64
hash_scope(SxTable *table, const Datum *values)
{
	uint64		hash = 0;

	for (int i = 0; i < table->nscopes; i++)
		hash = hash_combine64(hash, hash_value(table->scopes[i].type,
											   table->scopes[i].collation,
											   values[i]));
	/* positive, so that these are one range of the index */
	hash &= PG_INT64_MAX;
	return hash == WHOLE_DOMAIN ? 1 : (int64) hash;
}

static bool
has_null(int n, const bool *nulls)
{
	for (int i = 0; i < n; i++)
		if (nulls[i])
			return true;
	return false;
}

static void
run(const char *sql, int nargs, Oid *types, Datum *values, const char *nulls,
	Snapshot snapshot)
{
	int			result = SPI_execute_snapshot(sx_plan_get(sql, nargs, types),
											  values, nulls, snapshot,
											  InvalidSnapshot, true, false, 0);

	if (result != SPI_OK_SELECT)
		elog(ERROR, "could not run \"%s\": %s", sql,
			 SPI_result_code_string(result));
}

/*
 * Runs a query as the extension's owner that gives at most one row; false where
 * it gives none.
 */
static bool
ask(Routing *routing, const char *sql, const char *argument, bool *answers,
	int nanswers)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1];
	SxUser		saved;
	bool		found;

	sx_plan_connect();
	values[0] = argument == NULL ? (Datum) 0 : CStringGetTextDatum(argument);
	saved = sx_catalog_become(sx_catalog_get()->owner);
	run(sql, 1, types, values, argument == NULL ? "n" : " ", routing->snapshot);
	sx_catalog_restore_user(saved);
	found = SPI_processed > 0;
	for (int i = 0; found && i < nanswers; i++)
	{
		bool		isnull;

		answers[i] = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0],
												SPI_tuptable->tupdesc, i + 1,
												&isnull));
	}
	SPI_finish();
	return found;
}

/* ---- concerns ---- */

static void
make_concerns(Routing *routing)
{
	HASHCTL		control;

	memset(&control, 0, sizeof(control));
	control.keysize = sizeof(ConcernKey);
	control.entrysize = sizeof(Concern);
	control.hcxt = CurrentMemoryContext;
	routing->concerns = hash_create("sync_ext concerns", 128, &control,
									HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* With two authors each must hear of what the other did. */
static void
add_concern(Routing *routing, ConcernKind kind, SxTable *table,
			int64 user_hash, int64 scope_hash, const char *author)
{
	ConcernKey	key;
	Concern    *concern;
	bool		found;

	memset(&key, 0, sizeof(key));
	key.kind = kind;
	key.root = table->root;
	key.user_hash = user_hash;
	key.scope_hash = scope_hash;
	concern = hash_search(routing->concerns, &key, HASH_ENTER, &found);
	if (!found)
	{
		concern->domain = table->domain;
		concern->author = author;
	}
	else if (concern->author != NULL &&
			 (author == NULL || strcmp(concern->author, author) != 0))
		concern->author = NULL;
}

/* Asked outside of SPI, whose memory goes with it. */
static Interest *
interest_in(Routing *routing, SxTable *table)
{
	Interest   *interest;
	bool		answers[2] = {false, false};
	ListCell   *cell;

	foreach(cell, routing->interests)
	{
		interest = lfirst(cell);
		if (interest->root == table->root)
			return interest;
	}
	(void) ask(routing,
			   "SELECT EXISTS (SELECT FROM sync.tracked t"
			   " WHERE " SAME("t.domain", "$1") " AND t.autosubscribe),"
			   " EXISTS (SELECT FROM sync.subscription s"
			   " WHERE " SAME("s.domain", "$1") " AND s.scope_hash OPERATOR(pg_catalog.>) 0)",
			   table->domain, answers, lengthof(answers));
	interest = palloc(sizeof(Interest));
	interest->root = table->root;
	interest->autosubscribe = answers[0];
	interest->by_scope = answers[1];
	routing->interests = lappend(routing->interests, interest);
	return interest;
}

static void
concern_domain(Routing *routing, SxTable *table)
{
	add_concern(routing, interest_in(routing, table)->autosubscribe ?
				CONCERN_ALL : CONCERN_DOMAIN, table, 0, WHOLE_DOMAIN, NULL);
}

static void
concern_user(Routing *routing, SxTable *table, Interest *interest,
			 int64 user_hash, const Datum *scope, const char *author)
{
	add_concern(routing, interest->autosubscribe ? CONCERN_OWN : CONCERN_USER,
				table, user_hash, WHOLE_DOMAIN, author);
	if (interest->by_scope && !interest->autosubscribe)
		add_concern(routing, CONCERN_USER, table, user_hash,
					hash_scope(table, scope), author);
}

/* ---- who has a scope ---- */

static TupleDesc
scopes_desc(SxTable *table)
{
	TupleDesc	desc = CreateTemplateTupleDesc(table->nscopes + 1);

	TupleDescInitEntry(desc, 1, "ord", INT4OID, -1, 0);
	for (int i = 0; i < table->nscopes; i++)
	{
		TupleDescInitEntry(desc, i + 2, psprintf("k%d", i + 1),
						   table->scopes[i].type, table->scopes[i].typmod, 0);
		TupleDescInitEntryCollation(desc, i + 2, table->scopes[i].collation);
	}
	return desc;
}

static char *
users_query(SxTable *table, SxAccess *access)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT k.ord, a.%s FROM " SX_KEYS " k JOIN %s a ON ",
					 quote_identifier(access->user_column),
					 sx_plan_relation(access->via));
	for (int i = 0; i < table->nscopes; i++)
	{
		if (i > 0)
			appendStringInfoString(&sql, " AND ");
		sx_plan_equal(&sql, psprintf("a.%s",
									 quote_identifier(access->scope_columns[i])),
					  table->scopes[i].type, psprintf("k.k%d", i + 1),
					  table->scopes[i].type);
	}
	if (access->is_table && access->table->deleted_at != InvalidAttrNumber)
		appendStringInfo(&sql, " WHERE a.%s IS NULL",
						 quote_identifier(get_attname(access->via,
													  access->table->deleted_at,
													  false)));
	return sql.data;
}

static Oid
user_collation(SxAccess *access)
{
	Oid			type;
	int32		typmod;
	Oid			collation;

	get_atttypetypmodcoll(access->via,
						  get_attnum(access->via, access->user_column),
						  &type, &typmod, &collation);
	return collation;
}

/*
 * Those who have the scopes that changed. A table is asked as its owner, so
 * that its row security hides nobody; a view, which may compute anything, as
 * the caller.
 */
static void
concern_users(Routing *routing, SxNews *news, SxAccess *access)
{
	SxTable    *table = news->table;
	Interest   *interest = interest_in(routing, table);
	Oid			collation = user_collation(access);
	char	   *sql = users_query(table, access);
	Datum	   *values = palloc(sizeof(Datum) * (table->nscopes + 1));
	bool	   *nulls = palloc0(sizeof(bool) * (table->nscopes + 1));
	SxKeys	   *keys;
	SxUser		saved;

	sx_plan_connect();
	keys = sx_keys_begin(scopes_desc(table));
	for (int i = 0; i < news->nscopes; i++)
	{
		if (has_null(table->nscopes, news->scopes[i].nulls))
			continue;
		values[0] = Int32GetDatum(i);
		memcpy(values + 1, news->scopes[i].values,
			   sizeof(Datum) * table->nscopes);
		sx_keys_put(keys, values, nulls);
	}
	sx_keys_end(keys, 1);
	if (access->is_table)
		saved = sx_catalog_become(sx_catalog_owner_of(access->via));
	run(sql, 0, NULL, NULL, NULL, routing->snapshot);
	if (access->is_table)
		sx_catalog_restore_user(saved);

	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		SxNewsScope *scope;
		bool		isnull;
		Datum		user;

		scope = &news->scopes[DatumGetInt32(SPI_getbinval(tuple,
														  SPI_tuptable->tupdesc,
														  1, &isnull))];
		user = SPI_getbinval(tuple, SPI_tuptable->tupdesc, 2, &isnull);
		if (!isnull)
			concern_user(routing, table, interest,
						 (int64) hash_value(access->user_type, collation, user),
						 scope->values, scope->author);
	}
	tuplestore_end(keys->store);
	SPI_finish();
}

/* ---- what changed ---- */

static void
read_rules(Routing *routing)
{
	Relation	rel = table_open(sx_catalog_get()->access, AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false,
										  routing->snapshot, 0, NULL);
	TupleDesc	desc = RelationGetDescr(rel);
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Rule	   *rule = palloc0(sizeof(Rule));
		ArrayType  *tables;
		bool		isnull;

		rule->rel = DatumGetObjectId(heap_getattr(tuple, Anum_access_rel, desc,
												  &isnull));
		rule->via = DatumGetObjectId(heap_getattr(tuple, Anum_access_via, desc,
												  &isnull));
		tables = DatumGetArrayTypeP(heap_getattr(tuple, Anum_access_tables,
												 desc, &isnull));
		for (int i = 0; i < ArrayGetNItems(ARR_NDIM(tables), ARR_DIMS(tables)); i++)
			rule->tables = lappend_oid(rule->tables,
									   ((Oid *) ARR_DATA_PTR(tables))[i]);
		routing->rules = lappend(routing->rules, rule);
	}
	systable_endscan(scan);
	table_close(rel, NoLock);
}

static Rule *
rule_of(Routing *routing, SxTable *table)
{
	ListCell   *cell;

	foreach(cell, routing->rules)
	{
		Rule	   *rule = lfirst(cell);

		if (rule->rel == table->root)
			return rule;
	}
	return NULL;
}

/* A row without a scope concerns only those who want all of the domain. */
static void
concern_subscribers(Routing *routing, SxNews *news)
{
	SxTable    *table = news->table;
	Interest   *interest = interest_in(routing, table);
	bool		by_scope = interest->by_scope && !interest->autosubscribe;

	for (int i = 0; i < news->nscopes; i++)
	{
		SxNewsScope *scope = &news->scopes[i];

		add_concern(routing, interest->autosubscribe ? CONCERN_ALL : CONCERN_SCOPE,
					table, 0, WHOLE_DOMAIN, scope->author);
		if (by_scope && !has_null(table->nscopes, scope->nulls))
			add_concern(routing, CONCERN_SCOPE, table, 0,
						hash_scope(table, scope->values), scope->author);
	}
}

/*
 * The domain's own changes. An access relation that DDL has broken is for those
 * who read to complain of; routing goes on without it.
 */
static void
concern_of_changes(Routing *routing, SxNews *news)
{
	const char *problem = NULL;
	SxAccess   *access = NULL;

	if (rule_of(routing, news->table) != NULL)
		access = sx_access_try(news->table, &problem);
	if (news->reset || problem != NULL)
		concern_domain(routing, news->table);
	else if (access == NULL)
		concern_subscribers(routing, news);
	else
		concern_users(routing, news, access);
}

/*
 * The table's entries let users into scopes of the domain that it rules, or
 * out of them. Whoever wrote them, the user's clients have to learn of it.
 */
static void
concern_of_grants(Routing *routing, SxNews *news, SxAccess *access)
{
	SxTable    *domain = access->domain;
	Interest   *interest = interest_in(routing, domain);
	Datum	   *values = palloc(sizeof(Datum) * domain->nscopes);
	bool	   *nulls = palloc(sizeof(bool) * domain->nscopes);

	for (int i = 0; i < news->nscopes; i++)
	{
		SxNewsScope *scope = &news->scopes[i];

		if (!scope->membership || scope->nulls[0])
			continue;
		for (int j = 0; j < domain->nscopes; j++)
		{
			values[j] = scope->values[access->places[j]];
			nulls[j] = scope->nulls[access->places[j]];
		}
		if (has_null(domain->nscopes, nulls))
			continue;
		concern_user(routing, domain, interest,
					 (int64) hash_value(access->user_type,
										news->table->scopes[0].collation,
										scope->values[0]),
					 values, NULL);
	}
}

/* What the changes of a table mean for the domains that it has a say in. */
static void
concern_of_access(Routing *routing, SxNews *news)
{
	ListCell   *cell;

	foreach(cell, routing->rules)
	{
		Rule	   *rule = lfirst(cell);
		SxTable    *domain;
		SxAccess   *access;
		const char *problem;

		if (!list_member_oid(rule->tables, news->table->root))
			continue;
		domain = sx_tracked_get(rule->rel);
		if (!domain->tracked)
			continue;
		access = sx_access_try(domain, &problem);
		if (news->reset || rule->via != news->table->root || problem != NULL)
			concern_domain(routing, domain);
		else
			concern_of_grants(routing, news, access);
	}
}

/* ---- who is new ---- */

/* The newest transaction in one of our tables that was seen to finish. */
static uint64
newest_in(Routing *routing, const char *table, const char *index, uint64 low)
{
	Oid			schema = sx_catalog_get()->schema;
	uint64		newest = sx_logscan_newest(get_relname_relid(table, schema),
										   get_relname_relid(index, schema),
										   routing->snapshot, routing->now, low);

	if (newest != 0)
		sx_durable_note(&routing->durable, newest);
	return newest;
}

static void
examine_clients(Routing *routing, uint64 low)
{
	uint64		client = newest_in(routing, "client", "client_by_xid", low);
	uint64		subscription = newest_in(routing, "subscription",
										 "subscription_by_xid", low);

	routing->newest = Max(routing->newest, Max(client, subscription));
}

/* ---- who is connected ---- */

#define NCONCERN_COLUMNS 7		/* the last two bound what is new */

static TupleDesc
concerns_desc(void)
{
	TupleDesc	desc = CreateTemplateTupleDesc(NCONCERN_COLUMNS);

	TupleDescInitEntry(desc, 1, "kind", CHAROID, -1, 0);
	TupleDescInitEntry(desc, 2, "domain", TEXTOID, -1, 0);
	TupleDescInitEntry(desc, 3, "user_hash", INT8OID, -1, 0);
	TupleDescInitEntry(desc, 4, "scope_hash", INT8OID, -1, 0);
	TupleDescInitEntry(desc, 5, "author", TEXTOID, -1, 0);
	TupleDescInitEntry(desc, 6, "low", XID8OID, -1, 0);
	TupleDescInitEntry(desc, 7, "high", XID8OID, -1, 0);
	return desc;
}

/*
 * For each kind of concern the clients in question, "c". Each step of a search
 * is a subquery with OFFSET 0, which keeps the planner from turning the search
 * round: what it knows of these tables, which are filled in a minute and
 * emptied in another, is not to be relied on.
 */
typedef struct Branch
{
	ConcernKind kind;
	const char *sql;
} Branch;

#define LOOKUP(columns, table, condition, alias) \
	" CROSS JOIN LATERAL (SELECT " columns " FROM " table " WHERE " condition \
	" OFFSET 0) " alias
#define FIND_CLIENT(client) \
	LOOKUP("x.client, x.user_id, x.server", "sync.client x", \
		   SAME("x.client", client), "c")
#define IS_NEW \
	"x.xid OPERATOR(pg_catalog.>=) k.low AND x.xid OPERATOR(pg_catalog.<) k.high"
#define IS_DOMAIN(domain) \
	"(EXISTS (SELECT FROM sync.tracked t WHERE " SAME("t.domain", domain) ")" \
	" OR " SAME(domain, "'" SX_ENTRIES_DOMAIN "'") ")"

static const Branch branches[] = {
	{
		CONCERN_USER,
		"SELECT c.client, c.user_id, k.domain FROM " SX_KEYS " k"
		LOOKUP("x.client", "sync.client_user x",
			   SAME("x.user_hash", "k.user_hash"), "u")
		LOOKUP("x.client", "sync.subscription x",
			   SAME("x.client", "u.client") " AND " SAME("x.domain", "k.domain")
			   " AND " SAME("x.scope_hash", "k.scope_hash"), "s")
		FIND_CLIENT("u.client")
	},
	{
		CONCERN_OWN,
		"SELECT c.client, c.user_id, k.domain FROM " SX_KEYS " k"
		LOOKUP("x.client", "sync.client_user x",
			   SAME("x.user_hash", "k.user_hash"), "u")
		FIND_CLIENT("u.client")
	},
	{
		CONCERN_SCOPE,
		"SELECT c.client, c.user_id, k.domain FROM " SX_KEYS " k"
		LOOKUP("x.client", "sync.subscription x",
			   SAME("x.domain", "k.domain")
			   " AND " SAME("x.scope_hash", "k.scope_hash"), "s")
		FIND_CLIENT("s.client")
	},
	{
		CONCERN_DOMAIN,
		"SELECT c.client, c.user_id, k.domain FROM " SX_KEYS " k"
		LOOKUP("x.client", "sync.subscription x", SAME("x.domain", "k.domain"),
			   "s")
		FIND_CLIENT("s.client")
	},
	{
		CONCERN_ALL,
		"SELECT c.client, c.user_id, k.domain FROM " SX_KEYS " k"
		" CROSS JOIN sync.client c"
	},
	{
		CONCERN_NEW,
		"SELECT c.client, c.user_id, s.domain FROM " SX_KEYS " k"
		LOOKUP("x.client, x.user_id, x.server", "sync.client x", IS_NEW, "c")
		LOOKUP("x.domain", "sync.subscription x",
			   SAME("x.client", "c.client") " AND " IS_DOMAIN("x.domain"), "s")
	},
	{
		CONCERN_NEW,
		"SELECT c.client, c.user_id, t.domain FROM " SX_KEYS " k"
		LOOKUP("x.client, x.user_id, x.server", "sync.client x", IS_NEW, "c")
		LOOKUP("x.domain", "sync.tracked x", "x.autosubscribe", "t")
	},
	{
		CONCERN_NEW,
		"SELECT c.client, c.user_id, s.domain FROM " SX_KEYS " k"
		LOOKUP("x.client, x.domain", "sync.subscription x",
			   IS_NEW " AND " IS_DOMAIN("x.domain"), "s")
		FIND_CLIENT("s.client")
	}
};

/* The query for the kinds of concerns that there are: often for one alone. */
static char *
clients_query(const char *kinds)
{
	StringInfoData sql;
	bool		any = false;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT DISTINCT z.client, z.user_id, z.domain FROM (");
	for (int i = 0; i < (int) lengthof(branches); i++)
	{
		if (strchr(kinds, branches[i].kind) == NULL)
			continue;
		appendStringInfo(&sql,
						 "%s%s WHERE k.kind OPERATOR(pg_catalog.=) '%c'"
						 " AND ($1 IS NULL OR " SAME("c.server", "$1") ")"
						 " AND (k.author IS NULL OR c.client OPERATOR(pg_catalog.<>) k.author COLLATE \"C\")",
						 any ? " UNION ALL " : "", branches[i].sql,
						 branches[i].kind);
		any = true;
	}
	appendStringInfoString(&sql, ") z");
	return sql.data;
}

static void
put_concern(SxKeys *keys, const Concern *concern)
{
	Datum		values[NCONCERN_COLUMNS] = {0};
	bool		nulls[NCONCERN_COLUMNS] = {false};

	values[0] = CharGetDatum(concern->key.kind);
	values[1] = CStringGetTextDatum(concern->domain);
	values[2] = Int64GetDatum(concern->key.user_hash);
	values[3] = Int64GetDatum(concern->key.scope_hash);
	nulls[4] = concern->author == NULL;
	if (!nulls[4])
		values[4] = CStringGetTextDatum(concern->author);
	nulls[5] = nulls[6] = true;
	sx_keys_put(keys, values, nulls);
}

static void
put_new(SxKeys *keys, uint64 low, uint64 high)
{
	Datum		values[NCONCERN_COLUMNS] = {0};
	bool		nulls[NCONCERN_COLUMNS];

	memset(nulls, true, sizeof(nulls));
	nulls[0] = nulls[5] = nulls[6] = false;
	values[0] = CharGetDatum(CONCERN_NEW);
	values[5] = FullTransactionIdGetDatum(FullTransactionIdFromU64(low));
	values[6] = FullTransactionIdGetDatum(FullTransactionIdFromU64(high));
	sx_keys_put(keys, values, nulls);
}

static void
put_all_new(Routing *routing, SxKeys *keys)
{
	const SxSnapshot *seen = &routing->seen;

	if (routing->everybody)
	{
		put_new(keys, 0, PG_UINT64_MAX);
		return;
	}
	put_new(keys, seen->xmax, PG_UINT64_MAX);
	for (int i = 0; i < seen->nxip; i++)
		if (sx_snapshot_has(routing->now, seen->xip[i]))
			put_new(keys, seen->xip[i], seen->xip[i] + 1);
}

/* The concerns as the query's relation; their kinds in the array. */
static void
put_concerns(Routing *routing, SxKeys *keys, bool anybody_new, char *kinds)
{
	HASH_SEQ_STATUS status;
	Concern    *concern;
	int			nkinds = 0;

	kinds[0] = '\0';
	hash_seq_init(&status, routing->concerns);
	while ((concern = hash_seq_search(&status)) != NULL)
	{
		put_concern(keys, concern);
		if (strchr(kinds, concern->key.kind) == NULL)
		{
			kinds[nkinds++] = concern->key.kind;
			kinds[nkinds] = '\0';
		}
	}
	if (anybody_new)
	{
		put_all_new(routing, keys);
		kinds[nkinds++] = CONCERN_NEW;
		kinds[nkinds] = '\0';
	}
}

/* In an order of their own, so that the same plan serves the same kinds. */
static void
sort_kinds(char *kinds)
{
	static const char order[] = {
		CONCERN_USER, CONCERN_OWN, CONCERN_SCOPE, CONCERN_DOMAIN, CONCERN_ALL,
		CONCERN_NEW, '\0'
	};
	char		sorted[sizeof(order)];
	int			n = 0;

	for (const char *kind = order; *kind != '\0'; kind++)
		if (strchr(kinds, *kind) != NULL)
			sorted[n++] = *kind;
	sorted[n] = '\0';
	strcpy(kinds, sorted);
}

static void
tell_clients(Routing *routing, bool anybody_new, const char *server,
			 SxTakeAffected take, void *arg)
{
	char		kinds[16];
	Oid			types[1] = {TEXTOID};
	Datum		values[1];
	SxKeys	   *keys;
	SxUser		saved;

	if (!anybody_new && hash_get_num_entries(routing->concerns) == 0)
		return;
	sx_plan_connect();
	keys = sx_keys_begin(concerns_desc());
	put_concerns(routing, keys, anybody_new, kinds);
	sort_kinds(kinds);
	sx_keys_end(keys, 1);

	values[0] = server == NULL ? (Datum) 0 : CStringGetTextDatum(server);
	saved = sx_catalog_become(sx_catalog_get()->owner);
	run(clients_query(kinds), 1, types, values, server == NULL ? "n" : " ",
		routing->snapshot);
	sx_catalog_restore_user(saved);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		SxAffected	affected;

		CHECK_FOR_INTERRUPTS();
		affected.client = SPI_getvalue(tuple, desc, 1);
		affected.user_id = SPI_getvalue(tuple, desc, 2);
		affected.domain = SPI_getvalue(tuple, desc, 3);
		take(arg, &affected);
	}
	tuplestore_end(keys->store);
	SPI_finish();
}

/*
 * After a crash nobody is known here. A server that asks must not be told that
 * all is quiet.
 */
static void
check_server(Routing *routing, const char *server)
{
	if (ask(routing, server == NULL ?
			"SELECT 1 FROM sync.server s WHERE $1 IS NULL LIMIT 1" :
			"SELECT 1 FROM sync.server s WHERE " SAME("s.server", "$1"),
			server, NULL, 0))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 server == NULL ? errmsg("no application server is known here") :
			 errmsg("application server \"%s\" is not known here", server),
			 errdetail("It never connected a client, was silent for too long, or the database has crashed since."),
			 errhint("Call sync.heartbeat(), then sync.connect() for every client, and ask again with the same cursor.")));
}

/* ---- an answer ---- */

/* What the cursor has seen; else everybody is new. */
static void
read_cursor(Routing *routing, bytea *since)
{
	SxCursor   *cursor;

	routing->everybody = true;
	if (since == NULL)
		return;
	cursor = sx_cursor_decode(since);
	/* one that is bound to a question has passed over what is not its own */
	if (sx_validity_of_cursor(cursor, routing->snapshot) != NULL ||
		cursor->question != 0)
		return;
	sx_validity_check_snapshot(routing->now, &cursor->seen);
	routing->seen = cursor->seen;
	routing->everybody = false;
}

static void
examine_logs(Routing *routing)
{
	List	   *all = sx_news_since(&routing->seen, routing->snapshot,
									routing->now, true, 0, &routing->durable);
	ListCell   *cell;

	if (all == NIL)
		return;
	read_rules(routing);
	foreach(cell, all)
	{
		SxNews	   *news = lfirst(cell);

		routing->newest = Max(routing->newest, news->xid);
		concern_of_changes(routing, news);
		concern_of_access(routing, news);
	}
}

static bytea *
next_cursor(Routing *routing)
{
	SxCursor	cursor = {0};

	sx_durable_flush(&routing->durable, false);
	cursor.seen = *sx_snapshot_below(routing->now, routing->newest + 1);
	cursor.generation = sx_catalog_get()->generation_id;
	cursor.lsn = sx_wal_position(&cursor.timeline);
	return sx_cursor_encode(&cursor);
}

bytea *
sx_route_affected(bytea *since, const char *server, SxTakeAffected take,
				  void *arg)
{
	Routing		routing = {0};
	uint64		clients_seen;

	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a standby does not know who is connected"),
				 errdetail("Clients are known where they were connected, which is never replicated."),
				 errhint("Ask the primary.")));

	routing.snapshot = GetActiveSnapshot();
	routing.now = sx_snapshot_of(routing.snapshot);
	check_server(&routing, server);
	make_concerns(&routing);
	read_cursor(&routing, since);

	if (routing.everybody)
	{
		routing.newest = sx_logscan_newest_of_all(routing.snapshot, routing.now);
		if (routing.newest != 0)
			sx_durable_note(&routing.durable, routing.newest);
		examine_clients(&routing, 0);
		tell_clients(&routing, true, server, take, arg);
		return next_cursor(&routing);
	}

	examine_logs(&routing);
	clients_seen = routing.newest;
	routing.newest = 0;
	examine_clients(&routing, sx_snapshot_xmin(&routing.seen));
	tell_clients(&routing, routing.newest != 0 || sx_own_xid() != 0, server,
				 take, arg);
	routing.newest = Max(Max(routing.newest, clients_seen),
						 routing.seen.xmax - 1);
	return next_cursor(&routing);
}

/* ---- SQL ---- */

typedef struct Rows
{
	Tuplestorestate *store;
	TupleDesc	desc;
} Rows;

static void
put_affected(void *arg, const SxAffected *affected)
{
	Rows	   *rows = arg;
	Datum		values[4] = {0};
	bool		nulls[4] = {false, false, false, true};

	values[0] = CStringGetTextDatum(affected->client);
	values[1] = CStringGetTextDatum(affected->user_id);
	values[2] = CStringGetTextDatum(affected->domain);
	tuplestore_putvalues(rows->store, rows->desc, values, nulls);
}

Datum
sync_ext_affected(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *set = (ReturnSetInfo *) fcinfo->resultinfo;
	Datum		values[4] = {0};
	bool		nulls[4] = {true, true, true, false};
	Rows		rows;

	sx_init_materialized_result(fcinfo);
	rows.store = set->setResult;
	rows.desc = set->setDesc;
	values[3] = PointerGetDatum(sx_route_affected(
		PG_ARGISNULL(0) ? NULL : PG_GETARG_BYTEA_PP(0),
		PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1)),
		put_affected, &rows));
	tuplestore_putvalues(rows.store, rows.desc, values, nulls);
	return (Datum) 0;
}

/* sync.hash_value(type, collation, text) */
Datum
sync_ext_hash_value(PG_FUNCTION_ARGS)
{
	Oid			type = PG_GETARG_OID(0);
	Oid			collation = PG_GETARG_OID(1);
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(2));
	Oid			input;
	Oid			ioparam;

	getTypeInputInfo(type, &input, &ioparam);
	PG_RETURN_INT64((int64) hash_value(type, collation,
									   OidInputFunctionCall(input, name,
															ioparam, -1)));
}

static void
bad_scope(SxTable *table, Jsonb *scope, const char *detail)
{
	StringInfoData names;

	initStringInfo(&names);
	for (int i = 0; i < table->nscopes; i++)
		appendStringInfo(&names, "%s\"%s\"", i == 0 ? "" : ", ",
						 table->scopes[i].name);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("malformed scope for sync domain \"%s\"", table->domain),
			 errdetail("%s It is %s.", detail,
					   JsonbToCString(NULL, &scope->root, VARSIZE(scope))),
			 table->nscopes == 0 ?
			 errhint("The domain has no scope columns: leave the scope out.") :
			 errhint("Give an object with a value for each scope column: %s.",
					 names.data)));
}

/* The members must be the scope columns, no more and no fewer. */
static void
check_scope_members(SxTable *table, Jsonb *scope)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	value;

	if (!JB_ROOT_IS_OBJECT(scope))
		bad_scope(table, scope, "It is not an object.");
	iterator = JsonbIteratorInit(&scope->root);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		char	   *name;
		bool		known = false;

		if (token != WJB_KEY)
			continue;
		name = pnstrdup(value.val.string.val, value.val.string.len);
		for (int i = 0; i < table->nscopes; i++)
			if (strcmp(table->scopes[i].name, name) == 0)
				known = true;
		if (!known)
			bad_scope(table, scope,
					  psprintf("\"%s\" is not a scope column.", name));
	}
	for (int i = 0; i < table->nscopes; i++)
		if (sx_rowjson_member(&scope->root, table->scopes[i].name) == NULL)
			bad_scope(table, scope,
					  psprintf("\"%s\" is missing or null.",
							   table->scopes[i].name));
	if (table->nscopes == 0)
		bad_scope(table, scope, "There is nothing to name.");
}

/* sync.parse_scope(domain, given) */
Datum
sync_ext_parse_scope(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Datum		result[2] = {0};
	bool		nulls[2] = {true, false};
	Datum		values[INDEX_MAX_KEYS];
	char	   *domain;
	SxTable    *table;
	Jsonb	   *scope;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	desc = BlessTupleDesc(desc);
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("domain must not be null"),
				 errdetail("It is null."),
				 errhint("sync.domains lists the domains.")));
	domain = text_to_cstring(PG_GETARG_TEXT_PP(0));
	table = strcmp(domain, SX_ENTRIES_DOMAIN) == 0 ? sx_tracked_entries() :
		sx_tracked_by_domain(domain);
	result[1] = Int64GetDatum(WHOLE_DOMAIN);
	if (!PG_ARGISNULL(1))
	{
		scope = PG_GETARG_JSONB_P(1);
		check_scope_members(table, scope);
		for (int i = 0; i < table->nscopes; i++)
		{
			SxColumn   *column = &table->scopes[i];
			Oid			input;
			Oid			ioparam;

			getTypeInputInfo(column->type, &input, &ioparam);
			values[i] = OidInputFunctionCall(input,
											 sx_rowjson_member(&scope->root,
															   column->name),
											 ioparam, column->typmod);
		}
		result[0] = JsonbPGetDatum(sx_rowjson_columns(table->nscopes,
													  table->scopes, values));
		nulls[0] = false;
		result[1] = Int64GetDatum(hash_scope(table, values));
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, result, nulls)));
}
