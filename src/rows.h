/*-------------------------------------------------------------------------
 *
 * rows.h
 *		Reading the rows themselves, by SQL and as the caller.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_ROWS_H
#define SYNC_EXT_ROWS_H

#include "datatype/timestamp.h"
#include "lib/stringinfo.h"
#include "nodes/params.h"

#include "cursor.h"
#include "filter.h"
#include "plan.h"
#include "scopes.h"
#include "tracked.h"

/* A row as the caller sees it. Datums live until the next row. */
typedef struct SxRow
{
	int			ord;			/* lookups: which of the keys given */
	Datum	   *key;			/* as it stands in the row */
	Datum	   *scopes;			/* lookups only */
	bool	   *scope_nulls;
	bool		deleted;		/* lookups only: marked so */
	bool		selected;		/* by the filter; loads give no others */
	Datum		data;			/* when selected: the document as jsonb ... */
	bool		is_plain;		/* ... or the row itself, where no view makes it */
	bool		has_modified_at;
	TimestampTz modified_at;
} SxRow;

/* Takes a row; false stops a load. */
typedef bool (*SxTakeRow) (void *arg, SxRow *row);

/*
 * Looks keys up, in the active snapshot. Keys that have no row that the
 * caller sees give none. "keys" holds n times the columns of the key, "tids"
 * where the rows were last seen, or invalid: where a row is not there (any
 * more) it is looked up by its key.
 */
extern void sx_rows_lookup(SxTable *table, SxFilter *filter,
						   ParamListInfo params, int n, Datum **keys,
						   ItemPointer *tids, SxTakeRow take, void *arg);

/*
 * Reads the rows that the filter selects in the order of their keys, those of
 * some scopes only where "scopes" is not NULL, and those after a position only
 * where "after" is not NULL. "expected" is how many are wanted, 0 for all;
 * take() may well stop earlier or later.
 */
extern void sx_rows_load(SxTable *table, SxFilter *filter,
						 ParamListInfo params, const SxScopes *scopes,
						 const SxPosition *after, int expected,
						 SxTakeRow take, void *arg);

/* Puts a key into a position: text that reads back to the same. */
extern void sx_rows_position(SxTable *table, const Datum *key,
							 SxPosition *position);

/*
 * Appends "filter and not deleted", or nothing at all: then false. Columns are
 * those of SX_ALIAS.
 */
extern bool sx_rows_append_condition(StringInfo sql, SxTable *table,
									 SxFilter *filter);

/*
 * Appends " FROM view s WHERE ..." for the rows of the source view that belong
 * to a row of SX_ALIAS.
 */
extern void sx_rows_append_source(StringInfo sql, SxTable *table);

/*
 * Appends " JOIN scopes ON ...", which leaves only those rows of SX_ALIAS that
 * are in scopes given by sx_rows_register_scopes(). These are distinct, so the
 * join repeats no row.
 */
extern void sx_rows_append_scopes(StringInfo sql, SxTable *table);

/*
 * Gives queries of the current SPI connection the scopes to restrict rows to.
 * The caller ends the store of the relation, after the last of them.
 */
extern SxKeys *sx_rows_register_scopes(SxTable *table, const SxScopes *scopes);

/*
 * An operator that orders keys (">"), as SQL: qualified, since it need not be
 * on the caller's search path.
 */
extern char *sx_rows_key_operator(SxTable *table, const char *name);

/*
 * Raises insufficient_privilege unless the caller may read the whole row, and
 * the source view where the domain has one.
 */
extern void sx_rows_check_privileges(SxTable *table);

#endif							/* SYNC_EXT_ROWS_H */
