/*-------------------------------------------------------------------------
 *
 * catalog.h
 *		The extension's own tables, and who it is inside this database.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_CATALOG_H
#define SYNC_EXT_CATALOG_H

#include "access/relscan.h"
#include "utils/snapshot.h"

/* Columns of sync.tracked; sql/parts/10_tables.sql has the same order. */
#define Anum_tracked_rel			1
#define Anum_tracked_domain			2
#define Anum_tracked_source			7
#define Anum_tracked_key_atts		9
#define Anum_tracked_scope_atts		10
#define Anum_tracked_modified_att	11
#define Anum_tracked_deleted_att	12

/* Columns of sync.cascades. */
#define Anum_cascades_detail		1
#define Anum_cascades_master		2
#define Anum_cascades_fk_atts		5
#define Anum_cascades_ref_atts		6

/* Columns of sync.access. */
#define Anum_access_rel				1
#define Anum_access_via				2
#define Anum_access_user_att		5
#define Anum_access_scope_atts		6

/* Columns of sync.change_log. */
#define Anum_change_log_rel			1
#define Anum_change_log_log			2
#define Anum_change_log_pruned		3
#define Anum_change_log_packed		4

/* Columns of sync.reset_marker, and of its index. */
#define Anum_reset_marker_rel		1
#define Anum_reset_marker_xid		2
#define Natts_reset_marker			2

/* Columns of sync.tick. */
#define Anum_tick_at				1
#define Anum_tick_xmax				2
#define Anum_tick_xip				3
#define Natts_tick					3

/* Columns of sync.streams. */
#define Anum_streams_id				1
#define Anum_streams_stream			2
#define Anum_streams_kind			3

/* Columns of sync.entry. */
#define Anum_entry_stream_id		1
#define Anum_entry_ord				2
#define Anum_entry_at				3
#define Anum_entry_xid				4
#define Anum_entry_hash				5
#define Anum_entry_id				6
#define Anum_entry_origin			7
#define Anum_entry_data				8
#define Anum_entry_bytes			9
#define Natts_entry					9

/* Columns of sync.stream_snapshot. */
#define Anum_stream_snapshot_stream_id	1
#define Anum_stream_snapshot_upto	2
#define Anum_stream_snapshot_xid	3
#define Anum_stream_snapshot_id		4
#define Anum_stream_snapshot_origin	5
#define Anum_stream_snapshot_data	6
#define Anum_stream_snapshot_bytes	7

/* Columns of sync.stream_trimmed. */
#define Anum_stream_trimmed_upto	2

/* Columns of sync.entry_ledger. */
#define Anum_entry_ledger_stream_id	1
#define Anum_entry_ledger_at		2
#define Anum_entry_ledger_hash		3
#define Anum_entry_ledger_digest	4
#define Anum_entry_ledger_held_by	5

/* Columns of sync.journal_sums. */
#define Anum_journal_sums_stream_id	1
#define Anum_journal_sums_at		2
#define Anum_journal_sums_bits		3
#define Anum_journal_sums_sums		4
#define Natts_journal_sums			4

typedef struct SxCatalog
{
	uint64		version;		/* another one whenever this was read anew */
	Oid			schema;
	Oid			owner;			/* of the extension's tables */
	Oid			tracked;
	Oid			tracked_by_rel;
	Oid			tracked_by_domain;
	Oid			cascades;
	Oid			cascades_by_detail;
	Oid			access;
	Oid			access_by_rel;
	Oid			change_log;
	Oid			change_log_by_rel;
	Oid			reset_marker;
	Oid			reset_marker_by_rel;
	Oid			tick;
	Oid			tick_by_time;
	Oid			streams;
	Oid			streams_by_id;
	Oid			streams_by_name;
	bool		streams_secured;	/* row-level security was enabled there */
	Oid			stream_security;
	Oid			entry;
	Oid			entry_by_time;
	Oid			entry_by_hash;
	Oid			entry_by_xid;
	Oid			stream_snapshot;
	Oid			stream_snapshot_by_time;
	Oid			stream_snapshot_by_xid;
	Oid			stream_trimmed;
	Oid			stream_trimmed_by_id;
	Oid			entry_ledger;
	Oid			entry_ledger_by_hash;
	Oid			journal_sums;
	Oid			journal_sums_pkey;
	Oid			generation;
	uint64		generation_id;	/* extension, system and database, hashed */
} SxCatalog;

/*
 * The oids of the extension in this database. Raises undefined_object where
 * it was not created here. The result is valid until the next invalidation
 * message is accepted; copy what must live longer.
 */
extern const SxCatalog *sx_catalog_get(void);

/* The same, but NULL where the extension is not there. */
extern const SxCatalog *sx_catalog_find(void);

/*
 * A relation changed, or any with InvalidOid: forget what was known if it is
 * ours. Called by the invalidation callback in tracked.c, so it frees nothing.
 */
extern void sx_catalog_invalidate(Oid relid);

/*
 * Runs the rest of a function as the extension's owner, until
 * sx_catalog_restore_user(); an error restores the user as well. The caller
 * has checked what the user may do.
 */
typedef struct SxUser
{
	Oid			userid;
	int			context;
} SxUser;

extern SxUser sx_catalog_become(Oid userid);
extern void sx_catalog_restore_user(SxUser saved);

/* The owner of any relation. */
extern Oid	sx_catalog_owner_of(Oid relid);

#endif							/* SYNC_EXT_CATALOG_H */
