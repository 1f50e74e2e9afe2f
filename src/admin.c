/*-------------------------------------------------------------------------
 *
 * admin.c
 *		The right to administer, checked here; the work is in PL/pgSQL.
 *
 * A table's owner may track it, though only the extension's owner may write
 * sync.tracked. PL/pgSQL cannot do this well: a SECURITY DEFINER function does
 * not know its caller. So the function that users call checks the caller here,
 * and calls its namesake do_... as the extension's owner.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "catalog/pg_proc.h"
#include "storage/lmgr.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "sync_ext.h"
#include "capture.h"
#include "catalog.h"
#include "tracked.h"

PG_FUNCTION_INFO_V1(sync_ext_administer);
PG_FUNCTION_INFO_V1(sync_ext_set_access);
PG_FUNCTION_INFO_V1(sync_ext_reset);
PG_FUNCTION_INFO_V1(sync_ext_forget_table);

static void
check_owner(Oid relid)
{
	char	   *name = get_rel_name(relid);

	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));
	if (!sx_is_relation_owner(relid, GetUserId()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of relation %s", name),
				 errdetail("Role \"%s\" does not own it.",
						   GetUserNameFromId(GetUserId(), false)),
				 errhint("Ask its owner.")));
}

/* The internal namesake of the function that is being called. */
static Oid
namesake(Oid function)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Form_pg_proc form;
	char	   *name;
	Oid			found;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	form = (Form_pg_proc) GETSTRUCT(tuple);
	name = psprintf("do_%s", NameStr(form->proname));
	found = GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid,
							CStringGetDatum(name),
							PointerGetDatum(&form->proargtypes),
							ObjectIdGetDatum(form->pronamespace));
	ReleaseSysCache(tuple);
	if (!OidIsValid(found))
		elog(ERROR, "function \"%s.%s\" is missing", SX_SCHEMA, name);
	return found;
}

/* The owner's table, which nobody else can change meanwhile. */
static void
lock_owned(Oid relid)
{
	check_owner(relid);
	LockRelationOid(relid, ShareRowExclusiveLock);
	check_owner(relid);
}

/* Calls the namesake with the same arguments, as the extension's owner. */
static void
call_namesake(FunctionCallInfo fcinfo)
{
	LOCAL_FCINFO(inner, FUNC_MAX_ARGS);
	FmgrInfo	function;
	SxUser		saved;

	fmgr_info(namesake(fcinfo->flinfo->fn_oid), &function);
	InitFunctionCallInfoData(*inner, &function, PG_NARGS(), InvalidOid, NULL,
							 NULL);
	for (int i = 0; i < PG_NARGS(); i++)
		inner->args[i] = fcinfo->args[i];
	saved = sx_catalog_become(sx_catalog_get()->owner);
	(void) FunctionCallInvoke(inner);
	sx_catalog_restore_user(saved);
}

/* sync.track(), sync.untrack(), sync.cascade(), sync.uncascade() */
Datum
sync_ext_administer(PG_FUNCTION_ARGS)
{
	Oid		   *types;
	int			ntypes;

	/* of the function, not of the call: a fast-path call has no expression */
	(void) get_func_signature(fcinfo->flinfo->fn_oid, &types, &ntypes);
	for (int i = 0; i < PG_NARGS(); i++)
	{
		/* the first two, if tables, are those that triggers are made on */
		bool		is_table = i < 2 && i < ntypes &&
			types[i] == REGCLASSOID;

		if (is_table && PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("table must not be null")));
		if (is_table)
			lock_owned(PG_GETARG_OID(i));
	}
	call_namesake(fcinfo);
	PG_RETURN_VOID();
}

/* sync.set_access(domain, via, user_column) */
Datum
sync_ext_set_access(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("domain must not be null"),
				 errhint("sync.tracked lists the domains.")));
	lock_owned(sx_tracked_by_domain(text_to_cstring(PG_GETARG_TEXT_PP(0)))->root);
	if (!PG_ARGISNULL(1))
		lock_owned(PG_GETARG_OID(1));
	call_namesake(fcinfo);
	PG_RETURN_VOID();
}

/* sync.reset(domain) */
Datum
sync_ext_reset(PG_FUNCTION_ARGS)
{
	char	   *domain = text_to_cstring(PG_GETARG_TEXT_PP(0));
	SxTable    *table = sx_tracked_by_domain(domain);

	PreventCommandDuringRecovery("sync.reset()");
	check_owner(table->root);
	sx_capture_mark(table);
	PG_RETURN_VOID();
}

/* sync.forget_table(rel): all sessions make their entries anew. */
Datum
sync_ext_forget_table(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	List	   *relations;
	ListCell   *cell;

	if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
		PG_RETURN_VOID();
	relations = find_all_inheritors(relid, NoLock, NULL);
	foreach(cell, relations)
		if (SearchSysCacheExists1(RELOID, ObjectIdGetDatum(lfirst_oid(cell))))
			CacheInvalidateRelcacheByRelid(lfirst_oid(cell));
	PG_RETURN_VOID();
}
