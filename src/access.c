/*-------------------------------------------------------------------------
 *
 * access.c
 *		Who may see which scopes of a domain.
 *
 * An access relation gives a user scopes: R(S) is what it says in a snapshot
 * S. Rows of those scopes are the user's, so a grant brings rows, and a
 * revocation takes them, though no row of theirs has changed.
 *
 * An access table is tracked, with the user first in its scope, so its own log
 * tells what changed for one user: the entries of that user that are new to
 * the cursor. An entry touches its scope unless it is an update in place, or
 * the user has the scope by another row that is not new: then nothing has
 * changed for the user. A scope that is touched is taken back and given again:
 * where the user had it before, the client forgets it; where the user has it
 * in S, it is loaded whole. The domain's log is read only for the scopes that
 * are not touched; of the others it would also tell what happened before the
 * user was let in.
 *
 * Whether the user had the scope before is told by the net of enters and
 * leaves in one transaction, as for rows (see changes.c), so that a row that
 * passes through a scope within a transaction tells nobody of it.
 *
 * A view cannot be followed. Its R(S) is read each time and hashed into the
 * cursor; with another hash the client loads anew.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "sync_ext.h"
#include "access.h"
#include "catalog.h"
#include "logscan.h"
#include "plan.h"
#include "textform.h"

/* One key of one new entry of the access table's log, of the user asked for. */
typedef struct Change
{
	uint64		xid;
	int			order;			/* in the log, within the transaction */
	bool		enters;
	Datum	   *scope;
	MinimalTuple key;
} Change;

/* A row of the access relation that is the user's in S. */
typedef struct Granted
{
	Datum	   *scope;
	MinimalTuple key;			/* NULL for a view */
} Granted;

struct SxRights
{
	SxAccess   *access;
	SxScopes   *now;
	SxScopes   *touched;
	uint64		hash;
	uint64		own;			/* the reader's transaction */
	int			ngranted;		/* in the order of scope */
	Granted    *granted;
	int			nchanges;		/* in the order of scope, key, transaction */
	Change	   *changes;
};

/* ---- the relation ---- */

/* The row of sync.access for a domain, or NULL. */
static HeapTuple
access_row(Relation rel, Oid index, Oid root)
{
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_access_rel, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(root));
	scan = systable_beginscan(rel, index, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		tuple = heap_copytuple(tuple);
	systable_endscan(scan);
	return tuple;
}

/*
 * Where the domain's scope columns are in the scope of the access table. Says
 * what is wrong, or NULL.
 */
static const char *
find_places(SxAccess *access, AttrNumber user_att, int16 *scope_atts)
{
	SxTable    *table = sx_tracked_get(access->via);

	if (!table->tracked || table->root != access->via ||
		table->nscopes == 0 || !OidIsValid(table->log_by_scope))
		return "The table is no longer tracked, so grants and revocations would go unseen.";
	if (table->scopes[0].attnum != user_att)
		return "The table is tracked with a scope that does not begin with the user.";
	access->table = table;
	access->places = palloc(sizeof(int) * access->domain->nscopes);
	for (int i = 0; i < access->domain->nscopes; i++)
	{
		access->places[i] = -1;
		for (int j = 1; j < table->nscopes; j++)
			if (table->scopes[j].attnum == scope_atts[i])
				access->places[i] = j;
		if (access->places[i] < 0)
			return "The table is tracked without a scope column of the domain.";
	}
	return NULL;
}

/* Finds the columns of the relation. Says what is wrong, or NULL. */
static const char *
find_columns(SxAccess *access, AttrNumber user_att, ArrayType *scope)
{
	SxTable    *domain = access->domain;
	int16	   *scope_atts = (int16 *) ARR_DATA_PTR(scope);

	if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(access->via)))
		return "It was dropped.";
	if (ArrayGetNItems(ARR_NDIM(scope), ARR_DIMS(scope)) != domain->nscopes)
		return "The domain has another scope by now.";
	access->user_column = get_attname(access->via, user_att, true);
	access->user_type = get_atttype(access->via, user_att);
	access->scope_columns = palloc(sizeof(char *) * domain->nscopes);
	for (int i = 0; i < domain->nscopes; i++)
	{
		access->scope_columns[i] = get_attname(access->via, scope_atts[i], true);
		if (access->user_column == NULL || access->scope_columns[i] == NULL)
			return "A column was dropped.";
		if (get_atttype(access->via, scope_atts[i]) != domain->scopes[i].type)
			return "A scope column is of another type than the domain's.";
	}
	access->is_table = get_rel_relkind(access->via) != RELKIND_VIEW;
	return access->is_table ? find_places(access, user_att, scope_atts) : NULL;
}

SxAccess *
sx_access_try(SxTable *domain, const char **problem)
{
	const SxCatalog *catalog = sx_catalog_get();
	Oid			index = catalog->access_by_rel;
	Relation	rel = table_open(catalog->access, AccessShareLock);
	HeapTuple	tuple = access_row(rel, index, domain->root);
	TupleDesc	desc = RelationGetDescr(rel);
	SxAccess   *access;
	AttrNumber	user_att;
	Datum		scope;
	bool		null_user;
	bool		null_scope;
	bool		isnull;

	*problem = NULL;
	if (!HeapTupleIsValid(tuple))
	{
		table_close(rel, AccessShareLock);
		return NULL;
	}
	access = palloc0(sizeof(SxAccess));
	access->domain = domain;
	access->via = DatumGetObjectId(heap_getattr(tuple, Anum_access_via, desc,
												&isnull));
	user_att = DatumGetInt16(heap_getattr(tuple, Anum_access_user_att, desc,
										  &null_user));
	scope = heap_getattr(tuple, Anum_access_scope_atts, desc, &null_scope);
	table_close(rel, AccessShareLock);
	if (null_user || null_scope)
		*problem = "It lacks one of its columns.";
	else
		*problem = find_columns(access, user_att, DatumGetArrayTypePCopy(scope));
	return access;
}

SxAccess *
sx_access_find(SxTable *domain)
{
	const char *problem;
	SxAccess   *access = sx_access_try(domain, &problem);

	if (problem != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("access relation of sync domain \"%s\" cannot be used any more",
						domain->domain),
				 errdetail("%s", problem),
				 errhint("Call sync.set_access() again.")));
	return access;
}

SxAccess *
sx_access_for(SxTable *domain, const char *user_id)
{
	SxAccess   *access = sx_access_find(domain);

	if (access == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("sync domain \"%s\" has no access relation",
						domain->domain),
				 errdetail("The user given is \"%s\".", user_id),
				 errhint("Call sync.set_access(), or leave user_id out: without an access relation the domain concerns everybody who may read the table.")));
	return access;
}

Datum
sx_access_user(SxAccess *access, const char *user_id)
{
	Oid			input;
	Oid			ioparam;

	getTypeInputInfo(access->user_type, &input, &ioparam);
	return OidInputFunctionCall(input, unconstify(char *, user_id), ioparam, -1);
}

/* ---- R(S) ---- */

static const char *
column(const char *name)
{
	return psprintf("a.%s", quote_identifier(name));
}

static char *
rights_query(SxAccess *access)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	for (int i = 0; i < access->domain->nscopes; i++)
		appendStringInfo(&sql, "%s%s", i == 0 ? "" : ", ",
						 column(access->scope_columns[i]));
	for (int i = 0; access->is_table && i < access->table->nkeys; i++)
		appendStringInfo(&sql, ", %s", column(access->table->keys[i].name));
	appendStringInfo(&sql, " FROM %s a WHERE ", sx_plan_relation(access->via));
	sx_plan_equal(&sql, column(access->user_column), access->user_type, "$1",
				  access->user_type);
	for (int i = 0; i < access->domain->nscopes; i++)
		appendStringInfo(&sql, " AND %s IS NOT NULL",
						 column(access->scope_columns[i]));
	if (access->is_table && access->table->deleted_at != InvalidAttrNumber)
		appendStringInfo(&sql, " AND %s IS NULL",
						 column(get_attname(access->via,
											access->table->deleted_at, false)));
	return sql.data;
}

static MinimalTuple
key_image(SxTable *table, const Datum *key)
{
	bool		no_nulls[INDEX_MAX_KEYS] = {false};
	Datum		plain[INDEX_MAX_KEYS];

	for (int i = 0; i < table->nkeys; i++)
		plain[i] = table->keys[i].typlen == -1 ?
			PointerGetDatum(PG_DETOAST_DATUM(key[i])) : key[i];
	return sx_form_minimal_tuple(table->key_row, plain, no_nulls);
}

static Datum *
copy_scope(SxTable *domain, const Datum *values)
{
	Datum	   *copy = palloc(sizeof(Datum) * domain->nscopes);

	for (int i = 0; i < domain->nscopes; i++)
		copy[i] = datumCopy(values[i], domain->scopes[i].typbyval,
							domain->scopes[i].typlen);
	return copy;
}

static void
check_select(Oid relid)
{
	if (pg_class_aclcheck(relid, GetUserId(), ACL_SELECT) == ACLCHECK_OK ||
		pg_attribute_aclcheck_all(relid, GetUserId(), ACL_SELECT,
								  ACLMASK_ALL) == ACLCHECK_OK)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied for access table %s", get_rel_name(relid)),
			 errdetail("Role \"%s\" may not SELECT from it.",
					   GetUserNameFromId(GetUserId(), false)),
			 errhint("Who gives user_id learns what the user may see: grant SELECT on the table.")));
}

/* Runs the query; returns its rows in the current memory context. */
static Granted *
read_granted(SxAccess *access, Datum user, int *n)
{
	SxTable    *domain = access->domain;
	MemoryContext caller = CurrentMemoryContext;
	char	   *sql = rights_query(access);
	Granted    *granted;
	int			result;

	sx_plan_connect();
	result = SPI_execute_plan(sx_plan_get(sql, 1, &access->user_type), &user,
							  NULL, true, 0);
	if (result != SPI_OK_SELECT)
		elog(ERROR, "could not run \"%s\": %s", sql,
			 SPI_result_code_string(result));
	*n = SPI_processed;
	granted = MemoryContextAllocHuge(caller, sizeof(Granted) * Max(*n, 1));
	for (int i = 0; i < *n; i++)
	{
		Datum		values[INDEX_MAX_KEYS * 2];
		bool		nulls[INDEX_MAX_KEYS * 2];
		MemoryContext old;

		heap_deform_tuple(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, values,
						  nulls);
		old = MemoryContextSwitchTo(caller);
		granted[i].scope = copy_scope(domain, values);
		granted[i].key = access->is_table ?
			key_image(access->table, values + domain->nscopes) : NULL;
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	return granted;
}

/* ---- what is new in the access table's log ---- */

typedef struct Collect
{
	SxRights   *rights;
	const SxSnapshot *seen;
	const SxSnapshot *now;
	uint64		own;
	int			room;
} Collect;

static void
collect_change(void *arg, const SxLogItem *item)
{
	Collect    *collect = arg;
	SxRights   *rights = collect->rights;
	SxAccess   *access = rights->access;
	SxTable    *table = access->table;
	Datum		scope[INDEX_MAX_KEYS];
	uint64		xid = item->position.xid;
	Change	   *change;

	if (item->op == SX_OP_UPDATE ||
		(xid != collect->own &&
		 (!sx_snapshot_has(collect->now, xid) ||
		  sx_snapshot_has(collect->seen, xid))))
		return;
	for (int i = 0; i < access->domain->nscopes; i++)
	{
		int			place = table->nkeys + access->places[i];

		/* a null scope is nobody's */
		if (item->row->tts_isnull[place])
			return;
		scope[i] = item->row->tts_values[place];
	}
	if (rights->nchanges == collect->room)
	{
		collect->room = Max(16, collect->room * 2);
		rights->changes = rights->changes == NULL ?
			palloc(sizeof(Change) * collect->room) :
			repalloc_huge(rights->changes, sizeof(Change) * collect->room);
	}
	change = &rights->changes[rights->nchanges];
	change->xid = xid;
	change->order = rights->nchanges++;
	change->enters = item->op == SX_OP_INSERT || item->op == SX_OP_ENTER;
	change->scope = copy_scope(access->domain, scope);
	change->key = key_image(table, item->key);
}

static int
compare_images(MinimalTuple a, MinimalTuple b)
{
	return a->t_len != b->t_len ? (a->t_len < b->t_len ? -1 : 1) :
		memcmp(a, b, a->t_len);
}

/* By scope, key, transaction and order. */
static int
compare_changes(const void *a, const void *b, void *domain)
{
	const Change *x = a;
	const Change *y = b;
	int			result = sx_scopes_compare(domain, x->scope, y->scope);

	if (result == 0)
		result = compare_images(x->key, y->key);
	if (result == 0)
		result = (x->xid > y->xid) - (x->xid < y->xid);
	return result != 0 ? result : x->order - y->order;
}

/* Whether a change is one of those that a round, and what follows it, leaves. */
static bool
is_later(const SxRights *rights, const Change *change, const SxSnapshot *target)
{
	return target == NULL || change->xid == rights->own ||
		!sx_snapshot_has(target, change->xid);
}

/* The first change that is not before a row that the user has. */
static int
place_of(const SxRights *rights, const Granted *granted)
{
	SxTable    *domain = rights->access->domain;
	int			low = 0;
	int			high = rights->nchanges;

	while (low < high)
	{
		int			middle = (low + high) / 2;
		const Change *change = &rights->changes[middle];
		int			result = sx_scopes_compare(domain, change->scope,
											   granted->scope);

		if (result == 0)
			result = compare_images(change->key, granted->key);
		if (result < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* Whether a row that the user has is new to "target" (NULL: to the cursor). */
static bool
has_change(const SxRights *rights, const Granted *granted,
		   const SxSnapshot *target)
{
	SxTable    *domain = rights->access->domain;

	for (int i = place_of(rights, granted); i < rights->nchanges; i++)
	{
		const Change *change = &rights->changes[i];

		if (sx_scopes_compare(domain, change->scope, granted->scope) != 0 ||
			compare_images(change->key, granted->key) != 0)
			return false;
		if (is_later(rights, change, target))
			return true;
	}
	return false;
}

static int
compare_granted(const void *a, const void *b, void *domain)
{
	return sx_scopes_compare(domain, ((const Granted *) a)->scope,
							 ((const Granted *) b)->scope);
}

/*
 * The scopes of the changes that are new to "target" (NULL: to the cursor),
 * but for those that the user has by a row that is not.
 */
static SxScopes *
touched_scopes(const SxRights *rights, const SxSnapshot *target)
{
	SxTable    *domain = rights->access->domain;
	int			width = domain->nscopes;
	Datum	   *all = palloc(sizeof(Datum) * (Size) Max(rights->nchanges * width, 1));
	Datum	   *kept = palloc(sizeof(Datum) * (Size) Max(rights->ngranted * width, 1));
	int			nall = 0;
	int			nkept = 0;

	for (int i = 0; i < rights->nchanges; i++)
		if (is_later(rights, &rights->changes[i], target))
			memcpy(all + nall++ * width, rights->changes[i].scope,
				   sizeof(Datum) * width);
	if (nall > 0)
		for (int i = 0; i < rights->ngranted; i++)
			if (!has_change(rights, &rights->granted[i], target))
				memcpy(kept + nkept++ * width, rights->granted[i].scope,
					   sizeof(Datum) * width);
	return sx_scopes_without(sx_scopes_make(domain, nall, all),
							 sx_scopes_make(domain, nkept, kept));
}

static uint64
hash_scopes(const SxScopes *scopes)
{
	uint64		hash = 1;

	for (int i = 0; i < scopes->n; i++)
	{
		char	  **texts = sx_textform_print(scopes->table->nscopes,
											  scopes->table->scopes,
											  sx_scopes_at(scopes, i));

		for (int j = 0; j < scopes->table->nscopes; j++)
			hash = hash_combine64(hash,
								  hash_bytes_extended((unsigned char *) texts[j],
													  strlen(texts[j]), j));
	}
	return hash == 0 ? 1 : hash;
}

SxRights *
sx_access_read(SxAccess *access, Datum user, const SxSnapshot *seen,
			   Snapshot snapshot, const SxSnapshot *now, uint64 own)
{
	SxRights   *rights = palloc0(sizeof(SxRights));
	SxTable    *domain = access->domain;
	int			width = domain->nscopes;
	Granted    *granted;
	Datum	   *values;
	int			n;

	rights->access = access;
	if (access->is_table)
	{
		SxUser		saved;

		check_select(access->via);
		saved = sx_catalog_become(sx_catalog_owner_of(access->via));
		granted = read_granted(access, user, &n);
		sx_catalog_restore_user(saved);
	}
	else
		granted = read_granted(access, user, &n);
	values = palloc_extended(sizeof(Datum) * (Size) Max(n * width, 1),
							 MCXT_ALLOC_HUGE);
	qsort_arg(granted, n, sizeof(Granted), compare_granted, domain);
	for (int i = 0; i < n; i++)
		memcpy(values + i * width, granted[i].scope, sizeof(Datum) * width);
	rights->now = sx_scopes_make(domain, n, values);
	rights->own = own;
	rights->ngranted = n;
	rights->granted = granted;

	if (!access->is_table)
		rights->hash = hash_scopes(rights->now);
	else if (seen != NULL)
	{
		Collect		collect = {rights, seen, now, own, 0};

		sx_logscan_of(access->table, user, sx_snapshot_xmin(seen), snapshot,
					  collect_change, &collect);
		qsort_arg(rights->changes, rights->nchanges, sizeof(Change),
				  compare_changes, domain);
	}
	rights->touched = touched_scopes(rights, NULL);
	return rights;
}

const SxScopes *
sx_rights_now(const SxRights *rights)
{
	return rights->now;
}

const SxScopes *
sx_rights_touched(const SxRights *rights)
{
	return rights->touched;
}

const SxScopes *
sx_rights_touched_later(const SxRights *rights, const SxSnapshot *target)
{
	return target == NULL ? sx_scopes_make(rights->access->domain, 0, NULL) :
		touched_scopes(rights, target);
}

uint64
sx_rights_hash(const SxRights *rights)
{
	return rights->hash;
}

/* ---- one round ---- */

/* What the changes of one key of one scope in one transaction say. */
static bool
was_there(const Change *changes, int n)
{
	int			net = 0;

	for (int i = 0; i < n; i++)
		net += changes[i].enters ? 1 : -1;
	return net < 0 || (net == 0 && !changes[0].enters);
}

/*
 * A scope that is touched since the beginning of the round, and not since its
 * end, is to be loaded in it: before, its entries were not read, and after it
 * they are.
 */
SxGrants *
sx_rights_round(const SxRights *rights, const SxSnapshot *seen,
				const SxSnapshot *target, const SxScopes *later,
				bool forget_loaded)
{
	SxTable    *domain = rights->access->domain;
	int			width = domain->nscopes;
	Datum	   *before = palloc(sizeof(Datum) * (Size) Max(rights->nchanges * width, 1));
	int			nbefore = 0;
	SxGrants   *grants = palloc(sizeof(SxGrants));
	SxScopes   *touched = sx_scopes_without(rights->touched, later);
	SxScopes   *kept;

	for (int i = 0; i < rights->nchanges;)
	{
		const Change *first = &rights->changes[i];
		int			n = 1;

		while (i + n < rights->nchanges && first[n].xid == first->xid &&
			   compare_images(first[n].key, first->key) == 0 &&
			   sx_scopes_compare(domain, first[n].scope, first->scope) == 0)
			n++;
		i += n;

		if (target != NULL ? is_later(rights, first, target) ||
			sx_snapshot_has(seen, first->xid) : first->xid != rights->own)
			continue;
		if (rights->access->table->key_deferrable || was_there(first, n))
			memcpy(before + nbefore++ * width, first->scope,
				   sizeof(Datum) * width);
	}

	grants->forget = sx_scopes_make(domain, nbefore, before);
	kept = sx_scopes_without(grants->forget, rights->touched);
	grants->forget = sx_scopes_without(grants->forget, kept);
	grants->load = sx_scopes_without(touched,
									 sx_scopes_without(touched, rights->now));
	if (forget_loaded)
		grants->forget = sx_scopes_union(grants->forget, grants->load);
	return grants;
}
