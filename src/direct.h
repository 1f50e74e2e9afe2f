/*-------------------------------------------------------------------------
 *
 * direct.h
 *		Inserting into the extension's own tables without SQL.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_DIRECT_H
#define SYNC_EXT_DIRECT_H

#include "nodes/execnodes.h"
#include "utils/relcache.h"

/* One of our tables, open for some inserts. */
typedef struct SxDirect
{
	Relation	heap;
	int			nindexes;
	Relation	indexes[2];
	IndexInfo  *info;
	struct SxDirectBulk *bulk;	/* what waits; NULL: nothing */
} SxDirect;

/*
 * Opens a table and up to two of its indexes, all that it has, which must be
 * on plain columns, not unique and not partial. The table is plain, a heap,
 * and has no triggers or constraints to check. The writer's rights are not
 * asked: it is not the writer who writes here.
 */
extern void sx_direct_open(SxDirect *target, Oid heap, Oid index1, Oid index2);

/* Inserts a row and its index entries, as of this command of ours. */
extern void sx_direct_insert(SxDirect *target, Datum *values, bool *nulls,
							 CommandId cid);

/*
 * The same for one of many rows: they go in together, and at the latest when
 * the table is closed. Until then what the values point to must last. The
 * columns of the indexes must be passed by value and not null.
 */
extern void sx_direct_put(SxDirect *target, Datum *values, bool *nulls,
						  CommandId cid);

/* Closes it; the locks stay until the transaction ends, as for any INSERT. */
extern void sx_direct_close(SxDirect *target);

#endif							/* SYNC_EXT_DIRECT_H */
