/*-------------------------------------------------------------------------
 *
 * selection.h
 *		What a client should hold of a domain, as part of a query.
 *
 * For questions that are asked once and of whole rows, not of the log.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_SELECTION_H
#define SYNC_EXT_SELECTION_H

#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "nodes/params.h"

#include "access.h"
#include "filter.h"
#include "plan.h"
#include "tracked.h"

typedef struct SxSelection
{
	SxTable    *table;
	SxFilter   *filter;			/* NULL: all rows */
	ParamListInfo params;
	bool		can_follow;		/* by sync.changes(), from a cursor on */
	SxAccess   *access;			/* NULL: no user is given */
	Datum		user;
	SxKeys	   *scopes;			/* that the user may see, between begin and end */
} SxSelection;

/*
 * Finds the domain, checks what the caller may read, and reads the filter, its
 * parameters and the user; all but the domain may be NULL. The filter may hold
 * subqueries. Raises what sx_tracked_by_domain(), sx_rows_check_privileges(),
 * sx_access_for(), sx_filter_get_once() and sx_filter_params() raise.
 */
extern void sx_selection_open(SxSelection *selection, const char *domain,
							  const char *filter, ArrayType *params,
							  const char *user_id);

/*
 * Connects to SPI for queries of the selection, and reads what the user may
 * see, in the active snapshot. Raises what sx_access_read() raises.
 */
extern void sx_selection_begin(SxSelection *selection);

/* Disconnects. */
extern void sx_selection_end(SxSelection *selection);

/*
 * Appends "FROM ... WHERE ...", whose rows, of the alias SX_ALIAS, are those
 * that the client should hold. More conjuncts may follow.
 */
extern void sx_selection_append(SxSelection *selection, StringInfo sql);

/*
 * Runs a query that has such a part, as the caller and in the active snapshot,
 * between sx_selection_begin() and sx_selection_end(). Its parameters are those of the
 * filter, and after them those of "more", which may be NULL.
 */
extern Portal sx_selection_query(SxSelection *selection, const char *sql,
								 ParamListInfo more);

#endif							/* SYNC_EXT_SELECTION_H */
