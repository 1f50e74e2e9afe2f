/*-------------------------------------------------------------------------
 *
 * tracked.h
 *		What is known of a tracked table, or of a detail, cached.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_TRACKED_H
#define SYNC_EXT_TRACKED_H

#include "access/attnum.h"
#include "access/tupdesc.h"
#include "fmgr.h"
#include "nodes/bitmapset.h"
#include "utils/relcache.h"

/* The domain of the streams' entries, which no table can have. */
#define SX_ENTRIES_DOMAIN	"sync.entries"

/* A key or scope column. */
typedef struct SxColumn
{
	AttrNumber	attnum;			/* in the table that the entry is for */
	char	   *name;
	Oid			type;
	int32		typmod;
	Oid			collation;
	int16		typlen;
	bool		typbyval;
	char		typalign;
	Oid			equality;		/* operator of the key; the type's own */
} SxColumn;

/* A master of this table. */
typedef struct SxMaster
{
	Oid			relid;
	int			nkeys;
	AttrNumber *fk;				/* columns here, in this table's numbering */
	AttrNumber *refs;			/* columns there, in the master's numbering */
} SxMaster;

typedef struct SxTable
{
	Oid			relid;			/* hash key: a root, a leaf or a detail */
	bool		valid;
	MemoryContext context;		/* holds all that follows */

	Oid			root;			/* itself, or the partitioned table above */
	bool		tracked;		/* false: only a detail, or nothing of ours */
	char	   *domain;
	Oid			source;
	Oid			log;
	Oid			log_by_xid;
	Oid			log_by_scope;	/* InvalidOid without a scope */
	bool		packed;			/* log rows hold arrays of keys */
	bool		by_tid;			/* and where the rows were: not partitioned */
	int			nkeys;
	SxColumn   *keys;
	int			nscopes;
	SxColumn   *scopes;
	AttrNumber	modified_at;
	AttrNumber	deleted_at;		/* 0: no soft deletes */

	TupleDesc	row;			/* the table's own, with missing values */
	TupleDesc	key_row;		/* the key columns alone */
	bool		key_deferrable; /* two rows may share a key for a while */
	bool		fk_actions;		/* foreign keys here have actions */
	Bitmapset  *fk_columns;		/* their columns */

	int			nmasters;
	SxMaster   *masters;
} SxTable;

/* Registers the invalidation callbacks of the whole extension. Once. */
extern void sx_tracked_init(void);

/*
 * What is known of a relation. Never NULL: where nothing of ours is there the
 * entry says so. Valid until the transaction ends, though it may be stale by
 * then; hot paths ask again for each row, which is a hash lookup.
 */
extern SxTable *sx_tracked_get(Oid relid);

/*
 * The tracked root table of a domain. Raises undefined_object where no table
 * has it, wrong_object_type for the domain of entries.
 */
extern SxTable *sx_tracked_by_domain(const char *domain);

/*
 * What stands for the domain of entries where clients are woken: its scope is
 * the name of the stream, and nothing else is filled in. Made in the current
 * memory context.
 */
extern SxTable *sx_tracked_entries(void);

/* Changes whenever anything that a plan or a filter rests on may have. */
extern uint64 sx_tracked_epoch(void);

/* Frees entries that were replaced. Called when a transaction has ended. */
extern void sx_tracked_end_xact(void);

/*
 * Whether two rows of this table have the same binary image, "ignored" and
 * generated columns left out. Both are tuples of the entry's row type.
 */
extern bool sx_tracked_same_row(SxTable *table, HeapTuple a, HeapTuple b,
								AttrNumber ignored);

#endif							/* SYNC_EXT_TRACKED_H */
