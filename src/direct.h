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

/* An index that is open for inserts. */
typedef struct SxDirectIndex
{
	Relation	rel;
	IndexInfo  *info;
	bool		plain;			/* btree on columns, of all rows */
	bool		by_value;		/* and all of them are passed by value */
	EState	   *estate;			/* for those that are not plain */
	TupleTableSlot *slot;
} SxDirectIndex;

/* One of our tables, open for some inserts. */
typedef struct SxDirect
{
	Relation	heap;
	int			natts;			/* columns that the rows given have */
	Datum	   *values;			/* where the table has more: a row of it */
	bool	   *nulls;
	int			nindexes;
	SxDirectIndex *indexes;
	struct SxDirectBulk *bulk;	/* what waits; NULL: nothing */
} SxDirect;

/*
 * Opens a table and its indexes, whichever it has. The table is plain, a heap,
 * and has no triggers or constraints to check. The writer's rights are not
 * asked: it is not the writer who writes here. Rows have the first natts
 * columns; what the owner added behind them stays empty.
 */
extern void sx_direct_open(SxDirect *target, Oid heap, int natts);

/* Inserts a row and its index entries, as of this command of ours. */
extern void sx_direct_insert(SxDirect *target, Datum *values, bool *nulls,
							 CommandId cid);

/*
 * The same for one of many rows: they go in together, and at the latest when
 * the table is closed. Until then what the values point to must last.
 */
extern void sx_direct_put(SxDirect *target, Datum *values, bool *nulls,
						  CommandId cid);

/* Closes it; the locks stay until the transaction ends, as for any INSERT. */
extern void sx_direct_close(SxDirect *target);

/*
 * The parts of it that concern indexes, for who inserts rows in a way of its
 * own. Opens all that are to be kept, without those in the list.
 */
extern SxDirectIndex *sx_direct_open_indexes(Relation heap, List *without,
											 int *n);
extern void sx_direct_insert_into(SxDirectIndex *index, Relation heap,
								  Datum *values, bool *nulls, ItemPointer tid);
extern void sx_direct_close_indexes(SxDirectIndex *indexes, int n);

#endif							/* SYNC_EXT_DIRECT_H */
