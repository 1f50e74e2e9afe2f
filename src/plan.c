/*-------------------------------------------------------------------------
 *
 * plan.c
 *		SPI plans that are kept, and the relation of keys that they join.
 *
 * Keys reach a query as a named tuplestore, as transition tables do: it takes
 * columns of any type, and any number of rows without a long parameter.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/nbtree.h"
#include "access/transam.h"
#include "access/xact.h"
#include "common/hashfn.h"
#include "executor/tstoreReceiver.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/queryenvironment.h"
#include "utils/syscache.h"
#include "utils/tuplestore.h"
#include "utils/typcache.h"
#include "catalog/pg_operator.h"

#include "sync_ext.h"
#include "plan.h"

/* Filters are part of the queries, so their number has to be bounded. */
#define MAX_PLANS 256

typedef struct KeptPlan
{
	uint64		hash;			/* hash key */
	char	   *sql;
	int			nargs;
	Oid		   *argtypes;
	SPIPlanPtr	plan;
} KeptPlan;

static HTAB *plans = NULL;
static List *evicted = NIL;

static void
end_xact(XactEvent event, void *arg)
{
	ListCell   *cell;

	if (evicted == NIL ||
		(event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT &&
		 event != XACT_EVENT_PREPARE))
		return;
	foreach(cell, evicted)
		SPI_freeplan((SPIPlanPtr) lfirst(cell));
	list_free(evicted);
	evicted = NIL;
}

void
sx_plan_init(void)
{
	RegisterXactCallback(end_xact, NULL);
}

/*
 * A plan may be evicted while a caller up the stack executes it, so it is
 * freed when the transaction has ended.
 */
static void
forget_plan(KeptPlan *kept)
{
	if (kept->plan != NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		evicted = lappend(evicted, kept->plan);
		MemoryContextSwitchTo(old);
	}
	if (kept->sql != NULL)
		pfree(kept->sql);
	if (kept->argtypes != NULL)
		pfree(kept->argtypes);
	kept->plan = NULL;
	kept->sql = NULL;
	kept->argtypes = NULL;
}

static void
forget_all_plans(void)
{
	HASH_SEQ_STATUS status;
	KeptPlan   *kept;

	hash_seq_init(&status, plans);
	while ((kept = hash_seq_search(&status)) != NULL)
	{
		forget_plan(kept);
		hash_search(plans, &kept->hash, HASH_REMOVE, NULL);
	}
}

static bool
is_plan_of(KeptPlan *kept, const char *sql, int nargs, Oid *argtypes)
{
	return kept->plan != NULL && strcmp(kept->sql, sql) == 0 &&
		kept->nargs == nargs &&
		(nargs == 0 || memcmp(kept->argtypes, argtypes, sizeof(Oid) * nargs) == 0);
}

/*
 * Makes the plan now, looking keys up one by one in the index: the plan is
 * kept, and the table that is small today, or has few keys asked of it, will
 * not be so tomorrow. The settings must not last into the execution, where
 * the plans of other people's triggers would be made under them.
 */
static void
make_generic_plan(SPIPlanPtr plan)
{
	static const char *const discouraged[] = {
		"enable_seqscan", "enable_hashjoin", "enable_mergejoin",
		/* what is disabled looks dear, and would be compiled each time */
		"jit"
	};
	int			level = NewGUCNestLevel();
	CachedPlan *cached;

	for (int i = 0; i < (int) lengthof(discouraged); i++)
		(void) set_config_option(discouraged[i], "off", PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0,
								 false);
	cached = SPI_plan_get_cached_plan(plan);
	if (cached != NULL)
		sx_release_cached_plan(cached);
	AtEOXact_GUC(true, level);
}

void
sx_plan_connect(void)
{
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
}

SPIPlanPtr
sx_plan_get(const char *sql, int nargs, Oid *argtypes)
{
	uint64		hash = hash_bytes_extended((const unsigned char *) sql,
										   strlen(sql), nargs);
	KeptPlan   *kept;
	SPIPlanPtr	plan;
	bool		found;

	if (plans == NULL)
	{
		HASHCTL		control;

		memset(&control, 0, sizeof(control));
		control.keysize = sizeof(uint64);
		control.entrysize = sizeof(KeptPlan);
		control.hcxt = TopMemoryContext;
		plans = hash_create("sync_ext plans", MAX_PLANS, &control,
							HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}

	kept = hash_search(plans, &hash, HASH_FIND, NULL);
	if (kept != NULL && is_plan_of(kept, sql, nargs, argtypes))
	{
		if (!SPI_plan_is_valid(kept->plan))
			make_generic_plan(kept->plan);
		return kept->plan;
	}

	plan = SPI_prepare_cursor(sql, nargs, argtypes, CURSOR_OPT_GENERIC_PLAN);
	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", sql,
			 SPI_result_code_string(SPI_result));
	if (SPI_keepplan(plan) != 0)
		elog(ERROR, "could not keep a plan");

	if (hash_get_num_entries(plans) >= MAX_PLANS)
		forget_all_plans();
	kept = hash_search(plans, &hash, HASH_ENTER, &found);
	if (found)
		forget_plan(kept);
	kept->sql = MemoryContextStrdup(TopMemoryContext, sql);
	kept->nargs = nargs;
	kept->argtypes = MemoryContextAlloc(TopMemoryContext,
										sizeof(Oid) * Max(nargs, 1));
	if (nargs > 0)
		memcpy(kept->argtypes, argtypes, sizeof(Oid) * nargs);
	kept->plan = plan;
	make_generic_plan(plan);
	return plan;
}

SxKeys *
sx_keys_begin(TupleDesc desc)
{
	SxKeys	   *keys = palloc(sizeof(SxKeys));

	keys->desc = desc;
	keys->store = tuplestore_begin_heap(false, false, work_mem);
	return keys;
}

void
sx_keys_put(SxKeys *keys, Datum *values, bool *nulls)
{
	tuplestore_putvalues(keys->store, keys->desc, values, nulls);
}

void
sx_keys_end_as(SxKeys *keys, const char *name, double expected)
{
	EphemeralNamedRelation enr = palloc0(sizeof(EphemeralNamedRelationData));

	enr->md.name = pstrdup(name);
	enr->md.tupdesc = keys->desc;
	enr->md.enrtype = ENR_NAMED_TUPLESTORE;
	enr->md.enrtuples = expected;
	enr->reldata = keys->store;
	if (SPI_register_relation(enr) != SPI_OK_REL_REGISTER)
		elog(ERROR, "could not register \"%s\"", name);
}

void
sx_keys_end(SxKeys *keys, double expected)
{
	sx_keys_end_as(keys, SX_KEYS, expected);
}

char *
sx_plan_relation(Oid relid)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
									  get_rel_name(relid));
}

void
sx_plan_equal(StringInfo sql, const char *left, Oid left_type,
			  const char *right, Oid right_type)
{
	TypeCacheEntry *type = lookup_type_cache(left_type,
											 TYPECACHE_BTREE_OPFAMILY |
											 TYPECACHE_EQ_OPR);
	Oid			operator = InvalidOid;
	bool		cast = false;
	HeapTuple	tuple;
	Form_pg_operator form;

	if (OidIsValid(type->btree_opf))
		operator = get_opfamily_member(type->btree_opf,
									   getBaseType(left_type),
									   getBaseType(right_type),
									   BTEqualStrategyNumber);
	if (!OidIsValid(operator))
	{
		operator = type->eq_opr;
		cast = left_type != right_type;
	}
	tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(operator));
	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("could not identify an equality operator for type %s",
						format_type_be(left_type))));
	form = (Form_pg_operator) GETSTRUCT(tuple);
	appendStringInfo(sql, "%s OPERATOR(%s.%s) %s", left,
					 quote_identifier(get_namespace_name(form->oprnamespace)),
					 NameStr(form->oprname), right);
	if (cast)
		appendStringInfo(sql, "::%s", format_type_be_qualified(left_type));
	ReleaseSysCache(tuple);
}

Datum
sx_plan_value(int row, int number, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, number,
						 isnull);
}

char *
sx_plan_text(int row, int number, MemoryContext context)
{
	bool		isnull;
	Datum		value = sx_plan_value(row, number, &isnull);

	return isnull ? NULL :
		MemoryContextStrdup(context, TextDatumGetCString(value));
}
