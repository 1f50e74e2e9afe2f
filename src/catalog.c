/*-------------------------------------------------------------------------
 *
 * catalog.c
 *		The extension's own tables, and who it is inside this database.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "common/hashfn.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/uuid.h"

#include "sync_ext.h"
#include "catalog.h"

PG_FUNCTION_INFO_V1(sync_ext_forget_generation);

static SxCatalog catalog;
static bool catalog_valid = false;

static Oid
own_relation(Oid schema, const char *name)
{
	Oid			relid = get_relname_relid(name, schema);

	if (!OidIsValid(relid))
		elog(ERROR, "relation \"%s.%s\" is missing", SX_SCHEMA, name);
	return relid;
}

Oid
sx_catalog_owner_of(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relid);
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

/*
 * The generation tells one life of a database from another: a dump restored
 * elsewhere makes a new extension, pg_upgrade a new system, and two databases
 * of one cluster differ anyway.
 */
static uint64
read_generation(Oid relid)
{
	Relation	rel = table_open(relid, AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan = table_beginscan(rel, snapshot, 0, NULL);
	HeapTuple	tuple = heap_getnext(scan, ForwardScanDirection);
	struct
	{
		uint64		system;
		pg_uuid_t	uuid;
		Oid			database;
	}			identity;

	memset(&identity, 0, sizeof(identity));
	identity.system = GetSystemIdentifier();
	identity.database = MyDatabaseId;
	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;
		Datum		uuid = heap_getattr(tuple, 1, RelationGetDescr(rel), &isnull);

		if (!isnull)
			identity.uuid = *DatumGetUUIDP(uuid);
	}
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);

	return hash_bytes_extended((unsigned char *) &identity, sizeof(identity), 0);
}

static bool
has_rows(Oid relid)
{
	Relation	rel = table_open(relid, AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan = table_beginscan(rel, snapshot, 0, NULL);
	bool		found = heap_getnext(scan, ForwardScanDirection) != NULL;

	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
	return found;
}

const SxCatalog *
sx_catalog_find(void)
{
	Oid			schema;

	if (catalog_valid)
		return &catalog;

	schema = get_namespace_oid(SX_SCHEMA, true);
	if (!OidIsValid(schema) ||
		!OidIsValid(get_relname_relid("generation", schema)))
		return NULL;

	catalog.version++;
	catalog.schema = schema;
	catalog.tracked = own_relation(schema, "tracked");
	catalog.tracked_by_rel = own_relation(schema, "tracked_pkey");
	catalog.tracked_by_domain = own_relation(schema, "tracked_domain_key");
	catalog.cascades = own_relation(schema, "cascades");
	catalog.cascades_by_detail = own_relation(schema, "cascades_pkey");
	catalog.access = own_relation(schema, "access");
	catalog.access_by_rel = own_relation(schema, "access_pkey");
	catalog.change_log = own_relation(schema, "change_log");
	catalog.change_log_by_rel = own_relation(schema, "change_log_pkey");
	catalog.reset_marker = own_relation(schema, "reset_marker");
	catalog.reset_marker_by_rel = own_relation(schema, "reset_marker_by_rel");
	catalog.tick = own_relation(schema, "tick");
	catalog.tick_by_time = own_relation(schema, "tick_by_time");
	catalog.streams = own_relation(schema, "streams");
	catalog.streams_by_id = own_relation(schema, "streams_pkey");
	catalog.streams_by_name = own_relation(schema, "streams_stream_key");
	catalog.stream_security = own_relation(schema, "stream_security");
	catalog.entry = own_relation(schema, "entry");
	catalog.entry_by_time = own_relation(schema, "entry_pkey");
	catalog.entry_by_hash = own_relation(schema, "entry_hash_key");
	catalog.entry_by_xid = own_relation(schema, "entry_by_xid");
	catalog.stream_snapshot = own_relation(schema, "stream_snapshot");
	catalog.stream_snapshot_by_time = own_relation(schema, "stream_snapshot_pkey");
	catalog.stream_snapshot_by_xid = own_relation(schema, "stream_snapshot_by_xid");
	catalog.stream_trimmed = own_relation(schema, "stream_trimmed");
	catalog.stream_trimmed_by_id = own_relation(schema, "stream_trimmed_pkey");
	catalog.entry_ledger = own_relation(schema, "entry_ledger");
	catalog.entry_ledger_by_hash = own_relation(schema, "entry_ledger_pkey");
	catalog.journal_sums = own_relation(schema, "journal_sums");
	catalog.journal_sums_pkey = own_relation(schema, "journal_sums_pkey");
	catalog.generation = own_relation(schema, "generation");
	catalog.owner = sx_catalog_owner_of(catalog.tracked);

	/*
	 * Reading the table may accept an invalidation message, which then unsets
	 * the flag: set it first, so that what is stale is read again next time.
	 */
	catalog_valid = true;
	catalog.generation_id = read_generation(catalog.generation);
	catalog.streams_secured = has_rows(catalog.stream_security);
	return &catalog;
}

const SxCatalog *
sx_catalog_get(void)
{
	const SxCatalog *found = sx_catalog_find();

	if (found == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"sync_ext\" does not exist in this database"),
				 errhint("Run CREATE EXTENSION sync_ext.")));
	return found;
}

void
sx_catalog_invalidate(Oid relid)
{
	if (!catalog_valid)
		return;
	if (!OidIsValid(relid) ||
		relid == catalog.tracked || relid == catalog.cascades ||
		relid == catalog.access ||
		relid == catalog.change_log || relid == catalog.reset_marker ||
		relid == catalog.tick || relid == catalog.generation ||
		relid == catalog.streams || relid == catalog.entry ||
		relid == catalog.stream_snapshot || relid == catalog.stream_trimmed ||
		relid == catalog.entry_ledger || relid == catalog.journal_sums)
		catalog_valid = false;
}

/* After sync.generation changed: every backend reads it again. */
Datum
sync_ext_forget_generation(PG_FUNCTION_ARGS)
{
	CacheInvalidateRelcacheByRelid(sx_catalog_get()->generation);
	PG_RETURN_VOID();
}

SxUser
sx_catalog_become(Oid userid)
{
	SxUser		saved;

	GetUserIdAndSecContext(&saved.userid, &saved.context);
	SetUserIdAndSecContext(userid,
						   saved.context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_NOFORCE_RLS);
	return saved;
}

void
sx_catalog_restore_user(SxUser saved)
{
	SetUserIdAndSecContext(saved.userid, saved.context);
}
