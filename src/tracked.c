/*-------------------------------------------------------------------------
 *
 * tracked.c
 *		What is known of a tracked table, or of a detail, cached.
 *
 * The triggers ask for each row, so all that they need is in one entry for
 * each relation: a leaf of a partitioned table has an entry of its own, in its
 * own column numbers, that points to the root's log.
 *
 * Every invalidation callback of the extension is registered here, and only
 * here: a backend has few places for them, and they cannot be taken back. A
 * callback may come at any moment a lock is taken, also while an entry is in
 * use or being made; so it only unsets flags. A stale entry is replaced when
 * it is asked for the next time, and freed at the end of the transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/nbtree.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/tupconvert.h"
#include "access/xact.h"
#include "catalog/partition.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "common/hashfn.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "sync_ext.h"
#include "catalog.h"
#include "tracked.h"

static HTAB *tables = NULL;
static List *replaced = NIL;	/* contexts of entries that were replaced */
static uint64 epoch = 1;

/* ---- invalidation ---- */

static void
relation_changed(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS status;
	SxTable    *table;

	sx_catalog_invalidate(relid);
	epoch++;

	/* the log's indexes are known here as well: REINDEX may replace them */
	hash_seq_init(&status, tables);
	while ((table = hash_seq_search(&status)) != NULL)
		if (!OidIsValid(relid) || relid == table->relid || relid == table->log)
			table->valid = false;
}

/* A function, operator, type or schema changed: plans and filters may. */
static void
object_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	epoch++;
}

void
sx_tracked_init(void)
{
	HASHCTL		control;

	memset(&control, 0, sizeof(control));
	control.keysize = sizeof(Oid);
	control.entrysize = sizeof(SxTable);
	control.hcxt = CacheMemoryContext;
	tables = hash_create("sync_ext tables", 32, &control,
						 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);

	CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(PROCOID, object_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(OPEROID, object_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(TYPEOID, object_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, object_changed, (Datum) 0);
}

uint64
sx_tracked_epoch(void)
{
	return epoch;
}

void
sx_tracked_end_xact(void)
{
	ListCell   *cell;

	if (replaced == NIL)
		return;
	foreach(cell, replaced)
		MemoryContextDelete((MemoryContext) lfirst(cell));
	list_free(replaced);
	replaced = NIL;
}

/* ---- making an entry ---- */

/* The row of one of our tables with this value in an indexed column. */
static HeapTuple
own_row(Relation rel, Oid index, AttrNumber attnum, RegProcedure equal,
		Datum value)
{
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, attnum, BTEqualStrategyNumber, equal, value);
	scan = systable_beginscan(rel, index, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		tuple = heap_copytuple(tuple);
	systable_endscan(scan);
	return tuple;
}

static Datum
own_value(Relation rel, HeapTuple tuple, AttrNumber attnum, bool *isnull)
{
	bool		null;
	Datum		value = heap_getattr(tuple, attnum, RelationGetDescr(rel), &null);

	if (isnull != NULL)
		*isnull = null;
	else if (null)
		elog(ERROR, "unexpected null in \"%s\"", RelationGetRelationName(rel));
	return value;
}

/* An int2[] as attribute numbers, in the current memory context. */
static int
attnums_of(Datum value, AttrNumber **attnums)
{
	ArrayType  *array = DatumGetArrayTypeP(value);
	int			n = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));

	*attnums = palloc(sizeof(AttrNumber) * Max(n, 1));
	memcpy(*attnums, ARR_DATA_PTR(array), sizeof(AttrNumber) * n);
	return n;
}

/*
 * A column of the root in this relation's numbering: a partition may have its
 * columns in another order. 0 where it was dropped.
 */
static AttrNumber
local_attnum(Relation root, Relation rel, AttrNumber attnum)
{
	Form_pg_attribute attr;

	if (attnum < 1 || attnum > RelationGetDescr(root)->natts)
		return InvalidAttrNumber;
	attr = TupleDescAttr(RelationGetDescr(root), attnum - 1);
	if (attr->attisdropped)
		return InvalidAttrNumber;
	if (root == rel)
		return attnum;
	return get_attnum(RelationGetRelid(rel), NameStr(attr->attname));
}

/* False where a column is gone. */
static bool
make_columns(Relation root, Relation rel, int n, AttrNumber *attnums,
			 SxColumn **columns)
{
	*columns = palloc0(sizeof(SxColumn) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		SxColumn   *column = &(*columns)[i];
		Form_pg_attribute attr;

		column->attnum = local_attnum(root, rel, attnums[i]);
		if (column->attnum == InvalidAttrNumber)
			return false;
		attr = TupleDescAttr(RelationGetDescr(rel), column->attnum - 1);
		column->name = pstrdup(NameStr(attr->attname));
		column->type = attr->atttypid;
		column->typmod = attr->atttypmod;
		column->collation = attr->attcollation;
		column->typlen = attr->attlen;
		column->typbyval = attr->attbyval;
		column->typalign = attr->attalign;
		column->equality = lookup_type_cache(attr->atttypid,
											 TYPECACHE_EQ_OPR)->eq_opr;
	}
	return true;
}

/*
 * Whether rows may share a key for a while: the unique constraint is checked
 * at the end of the statement or later, or there is none that we know.
 */
static bool
is_key_deferrable(Relation rel, int nkeys, SxColumn *keys)
{
	List	   *indexes = RelationGetIndexList(rel);
	ListCell   *cell;
	bool		deferrable = true;

	foreach(cell, indexes)
	{
		Relation	index = index_open(lfirst_oid(cell), AccessShareLock);
		Form_pg_index form = index->rd_index;
		int			matches = 0;

		for (int i = 0; i < nkeys; i++)
			for (int j = 0; j < form->indnkeyatts; j++)
				if (form->indkey.values[j] == keys[i].attnum)
					matches++;
		if (form->indisunique && form->indimmediate && form->indisvalid &&
			form->indnkeyatts == nkeys && matches == nkeys &&
			RelationGetIndexPredicate(index) == NIL)
			deferrable = false;
		index_close(index, AccessShareLock);
	}
	list_free(indexes);
	return deferrable;
}

/*
 * The foreign keys of this table that change its rows by themselves. Rows
 * that they change were not what the writing client's own statement did, and
 * nothing else tells: their triggers run at depth 1.
 */
static void
find_fk_actions(SxTable *table, Relation rel)
{
	List	   *fks = RelationGetFKeyList(rel);
	ListCell   *cell;

	foreach(cell, fks)
	{
		ForeignKeyCacheInfo *fk = lfirst(cell);
		HeapTuple	tuple = SearchSysCache1(CONSTROID,
											ObjectIdGetDatum(fk->conoid));
		Form_pg_constraint form;

		if (!HeapTupleIsValid(tuple))
			continue;
		form = (Form_pg_constraint) GETSTRUCT(tuple);
		if ((form->confdeltype != FKCONSTR_ACTION_NOACTION &&
			 form->confdeltype != FKCONSTR_ACTION_RESTRICT) ||
			(form->confupdtype != FKCONSTR_ACTION_NOACTION &&
			 form->confupdtype != FKCONSTR_ACTION_RESTRICT))
		{
			table->fk_actions = true;
			for (int i = 0; i < fk->nkeys; i++)
				table->fk_columns = bms_add_member(table->fk_columns,
												   fk->conkey[i]);
		}
		ReleaseSysCache(tuple);
	}
}

static TupleDesc
make_key_row(int nkeys, SxColumn *keys)
{
	TupleDesc	desc = CreateTemplateTupleDesc(nkeys);

	for (int i = 0; i < nkeys; i++)
	{
		TupleDescInitEntry(desc, i + 1, keys[i].name, keys[i].type,
						   keys[i].typmod, 0);
		TupleDescInitEntryCollation(desc, i + 1, keys[i].collation);
	}
	return desc;
}

static void
fill_log(SxTable *table, const SxCatalog *catalog)
{
	Relation	rel = table_open(catalog->change_log, AccessShareLock);
	HeapTuple	tuple = own_row(rel, catalog->change_log_by_rel,
								Anum_change_log_rel, F_OIDEQ,
								ObjectIdGetDatum(table->root));
	char		name[NAMEDATALEN];

	if (HeapTupleIsValid(tuple))
	{
		table->log = DatumGetObjectId(own_value(rel, tuple,
												Anum_change_log_log, NULL));
		table->packed = DatumGetBool(own_value(rel, tuple,
											   Anum_change_log_packed, NULL));
		snprintf(name, sizeof(name), "log_%u_by_xid", table->root);
		table->log_by_xid = get_relname_relid(name, catalog->schema);
		snprintf(name, sizeof(name), "log_%u_by_scope", table->root);
		table->log_by_scope = get_relname_relid(name, catalog->schema);
	}
	table_close(rel, AccessShareLock);
}

/* Whether the log's columns are of the types of the key and the scope. */
static bool
log_fits(SxTable *table)
{
	Relation	log = try_relation_open(table->log, AccessShareLock);
	TupleDesc	desc;
	bool		fits;

	if (log == NULL)
		return false;
	desc = RelationGetDescr(log);
	fits = desc->natts == SX_LOG_FIXED + table->nkeys + table->nscopes;
	for (int i = 0; fits && i < table->nkeys; i++)
	{
		Oid			type = table->keys[i].type;

		fits = TupleDescAttr(desc, SX_LOG_FIXED + i)->atttypid ==
			(table->packed ? get_array_type(type) : type);
	}
	for (int i = 0; fits && i < table->nscopes; i++)
		fits = TupleDescAttr(desc, SX_LOG_FIXED + table->nkeys + i)->atttypid ==
			table->scopes[i].type;
	relation_close(log, AccessShareLock);
	return fits;
}

/* Whether sync.tracked has the root; fills what follows from its row. */
static bool
fill_tracked(SxTable *table, Relation root, Relation rel,
			 const SxCatalog *catalog)
{
	Relation	own = table_open(catalog->tracked, AccessShareLock);
	HeapTuple	tuple = own_row(own, catalog->tracked_by_rel, Anum_tracked_rel,
								F_OIDEQ,
								ObjectIdGetDatum(RelationGetRelid(root)));
	AttrNumber *attnums;
	Datum		value;
	bool		isnull;

	if (!HeapTupleIsValid(tuple))
	{
		table_close(own, AccessShareLock);
		return false;
	}

	table->root = RelationGetRelid(root);
	table->domain = TextDatumGetCString(own_value(own, tuple,
												  Anum_tracked_domain, NULL));
	value = own_value(own, tuple, Anum_tracked_source, &isnull);
	table->source = isnull ? InvalidOid : DatumGetObjectId(value);
	value = own_value(own, tuple, Anum_tracked_modified_att, NULL);
	table->modified_at = local_attnum(root, rel, DatumGetInt16(value));
	value = own_value(own, tuple, Anum_tracked_deleted_att, &isnull);
	table->deleted_at = isnull ? InvalidAttrNumber :
		local_attnum(root, rel, DatumGetInt16(value));

	table->nkeys = attnums_of(own_value(own, tuple, Anum_tracked_key_atts, NULL),
							  &attnums);
	table->tracked = make_columns(root, rel, table->nkeys, attnums,
								  &table->keys);
	table->nscopes = attnums_of(own_value(own, tuple, Anum_tracked_scope_atts,
										  NULL), &attnums);
	table->tracked = table->tracked &&
		make_columns(root, rel, table->nscopes, attnums, &table->scopes);
	table_close(own, AccessShareLock);

	fill_log(table, catalog);

	/*
	 * The event trigger that follows DDL may not have run yet, or not at all:
	 * what it would have put right is not taken for granted here.
	 */
	table->tracked = table->tracked && OidIsValid(table->log) &&
		OidIsValid(table->log_by_xid) &&
		table->modified_at != InvalidAttrNumber &&
		TupleDescAttr(RelationGetDescr(rel),
					  table->modified_at - 1)->atttypid == TIMESTAMPTZOID &&
		log_fits(table);
	if (!table->tracked)
		return true;

	table->by_tid = root->rd_rel->relkind == RELKIND_RELATION;
	table->key_deferrable = is_key_deferrable(rel, table->nkeys, table->keys);
	find_fk_actions(table, rel);
	table->key_row = make_key_row(table->nkeys, table->keys);
	return true;
}

static void
fill_masters(SxTable *table, Relation root, Relation rel,
			 const SxCatalog *catalog)
{
	Relation	own = table_open(catalog->cascades, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_cascades_detail, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(RelationGetRelid(root)));
	scan = systable_beginscan(own, catalog->cascades_by_detail, true, NULL, 1,
							  &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		SxMaster   *master;
		bool		usable = true;

		table->masters = table->masters == NULL ?
			palloc(sizeof(SxMaster)) :
			repalloc(table->masters, sizeof(SxMaster) * (table->nmasters + 1));
		master = &table->masters[table->nmasters];
		master->relid = DatumGetObjectId(own_value(own, tuple,
												   Anum_cascades_master, NULL));
		master->nkeys = attnums_of(own_value(own, tuple,
											 Anum_cascades_fk_atts, NULL),
								   &master->fk);
		attnums_of(own_value(own, tuple, Anum_cascades_ref_atts, NULL),
				   &master->refs);
		for (int i = 0; i < master->nkeys; i++)
		{
			master->fk[i] = local_attnum(root, rel, master->fk[i]);
			usable = usable && master->fk[i] != InvalidAttrNumber;
		}
		if (usable)
		{
			table->nmasters++;
			table->root = RelationGetRelid(root);
		}
	}
	systable_endscan(scan);
	table_close(own, AccessShareLock);
}

/* Whether anything of ours is known of this root. */
static bool
fill_from_root(SxTable *table, Relation root, Relation rel,
			   const SxCatalog *catalog)
{
	bool		found = fill_tracked(table, root, rel, catalog);

	fill_masters(table, root, rel, catalog);
	return found || table->nmasters > 0;
}

static void
make_entry(SxTable *table)
{
	const SxCatalog *found = sx_catalog_find();
	SxCatalog	catalog;
	Relation	rel;
	MemoryContext old;
	List	   *roots;
	ListCell   *cell;

	table->context = AllocSetContextCreate(CacheMemoryContext,
										   "sync_ext table",
										   ALLOCSET_SMALL_SIZES);
	table->root = table->relid;
	if (found == NULL)
		return;
	catalog = *found;

	rel = relation_open(table->relid, AccessShareLock);
	old = MemoryContextSwitchTo(table->context);
	table->row = CreateTupleDescCopyConstr(RelationGetDescr(rel));

	roots = list_make1_oid(table->relid);
	if (rel->rd_rel->relispartition)
		roots = list_concat(roots, get_partition_ancestors(table->relid));
	foreach(cell, roots)
	{
		Oid			relid = lfirst_oid(cell);
		Relation	root = relid == table->relid ? rel :
			relation_open(relid, AccessShareLock);
		bool		done = fill_from_root(table, root, rel, &catalog);

		if (root != rel)
			relation_close(root, NoLock);
		if (done)
			break;
	}

	MemoryContextSwitchTo(old);
	relation_close(rel, NoLock);
}

SxTable *
sx_tracked_get(Oid relid)
{
	bool		found;
	SxTable    *table = hash_search(tables, &relid, HASH_ENTER, &found);
	SxTable		fresh;

	if (found && table->valid)
		return table;

	/*
	 * A nested use of the stale entry may still hold pointers into it, so it
	 * lives on until the transaction ends.
	 */
	if (found && table->context != NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		replaced = lappend(replaced, table->context);
		MemoryContextSwitchTo(old);
		table->context = NULL;
	}
	if (!found)
		memset((char *) table + sizeof(Oid), 0, sizeof(SxTable) - sizeof(Oid));

	/*
	 * Making the entry takes locks and so accepts invalidation messages, some
	 * of them for this very relation. "valid" is set before, so a message
	 * unsets it, and the next caller makes the entry again.
	 */
	table->valid = true;
	memset(&fresh, 0, sizeof(fresh));
	fresh.relid = relid;
	PG_TRY();
	{
		make_entry(&fresh);
	}
	PG_CATCH();
	{
		table = hash_search(tables, &relid, HASH_FIND, NULL);
		table->valid = false;
		if (fresh.context != NULL)
			MemoryContextDelete(fresh.context);
		PG_RE_THROW();
	}
	PG_END_TRY();

	/* Entries never move, but a nested call may have filled this one. */
	if (table->context != NULL)
	{
		MemoryContextDelete(fresh.context);
		return table;
	}
	fresh.valid = table->valid;
	*table = fresh;
	return table;
}

/*
 * Where a domain was found before: a guess, which the entry confirms, since
 * whatever changes a domain invalidates the entry of its table.
 */
typedef struct DomainGuess
{
	uint64		hash;			/* hash key */
	Oid			relid;
} DomainGuess;

static HTAB *guesses = NULL;

static DomainGuess *
domain_guess(const char *domain, bool make)
{
	uint64		hash = hash_bytes_extended((const unsigned char *) domain,
										   strlen(domain), 0);

	if (guesses == NULL)
	{
		HASHCTL		control;

		memset(&control, 0, sizeof(control));
		control.keysize = sizeof(uint64);
		control.entrysize = sizeof(DomainGuess);
		control.hcxt = CacheMemoryContext;
		guesses = hash_create("sync_ext domains", 32, &control,
							  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	return hash_search(guesses, &hash, make ? HASH_ENTER : HASH_FIND, NULL);
}

static SxTable *
find_domain(const char *domain)
{
	const SxCatalog *catalog = sx_catalog_get();
	Relation	rel = table_open(catalog->tracked, AccessShareLock);
	HeapTuple	tuple = own_row(rel, catalog->tracked_by_domain,
								Anum_tracked_domain, F_TEXTEQ,
								CStringGetTextDatum(domain));
	Oid			relid = InvalidOid;
	SxTable    *table = NULL;

	if (HeapTupleIsValid(tuple))
		relid = DatumGetObjectId(own_value(rel, tuple, Anum_tracked_rel, NULL));
	table_close(rel, AccessShareLock);

	if (OidIsValid(relid) &&
		SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
		table = sx_tracked_get(relid);
	if (strcmp(domain, SX_ENTRIES_DOMAIN) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("sync domain \"%s\" has no rows", domain),
				 errdetail("It is the domain of the streams' entries."),
				 errhint("sync.entries() reads a stream, sync.append() and sync.put() store in it; who may do so is a matter of rights on sync.streams.")));
	if (table == NULL || !table->tracked)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("sync domain \"%s\" does not exist", domain),
				 errdetail("No tracked table has this domain."),
				 errhint("sync.track() makes a table a domain; sync.tracked lists them.")));
	domain_guess(domain, true)->relid = relid;
	return table;
}

SxTable *
sx_tracked_by_domain(const char *domain)
{
	DomainGuess *guess = domain_guess(domain, false);

	if (guess != NULL)
	{
		SxTable    *table = hash_search(tables, &guess->relid, HASH_FIND, NULL);

		if (table != NULL && table->valid && table->tracked &&
			strcmp(table->domain, domain) == 0)
			return table;
	}
	return find_domain(domain);
}

SxTable *
sx_tracked_entries(void)
{
	SxTable    *table = palloc0(sizeof(SxTable));
	SxColumn   *stream = palloc0(sizeof(SxColumn));

	stream->name = pstrdup("stream");
	stream->type = TEXTOID;
	stream->typmod = -1;
	stream->collation = C_COLLATION_OID;
	stream->typlen = -1;
	stream->typalign = TYPALIGN_INT;
	table->relid = table->root = sx_catalog_get()->entry;
	table->domain = pstrdup(SX_ENTRIES_DOMAIN);
	table->nscopes = 1;
	table->scopes = stream;
	return table;
}

/* ---- comparing rows ---- */

bool
sx_tracked_same_row(SxTable *table, HeapTuple a, HeapTuple b,
					AttrNumber ignored)
{
	TupleDesc	desc = table->row;
	int			natts = desc->natts;
	Datum	   *x = palloc(sizeof(Datum) * natts * 2);
	Datum	   *y = x + natts;
	bool	   *x_null = palloc(sizeof(bool) * natts * 2);
	bool	   *y_null = x_null + natts;
	bool		same = true;

	heap_deform_tuple(a, desc, x, x_null);
	heap_deform_tuple(b, desc, y, y_null);
	for (int i = 0; i < natts && same; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(desc, i);

		/*
		 * Stored generated columns are not computed yet in a BEFORE trigger,
		 * and virtual ones never are; both follow from the other columns.
		 */
		if (attr->attisdropped || attr->attgenerated != '\0' || i + 1 == ignored)
			continue;
		same = x_null[i] == y_null[i] &&
			(x_null[i] ||
			 datum_image_eq(x[i], y[i], attr->attbyval, attr->attlen));
	}
	pfree(x);
	pfree(x_null);
	return same;
}
