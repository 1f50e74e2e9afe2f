/*-------------------------------------------------------------------------
 *
 * selection.c
 *		What a client should hold of a domain, as part of a query.
 *
 * It must be what sync.changes() would give in the same snapshot: the rows
 * that the filter selects, of the scopes that the user may see where one is
 * given, without those that are marked as deleted, and, where a source view
 * makes the documents, without those that it has no document for. Privileges
 * and row-level security hold because the query is the caller's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "sync_ext.h"
#include "plan.h"
#include "rows.h"
#include "selection.h"

void
sx_selection_open(SxSelection *selection, const char *domain,
				  const char *filter, ArrayType *params, const char *user_id)
{
	memset(selection, 0, sizeof(SxSelection));
	selection->table = sx_tracked_by_domain(domain);
	selection->can_follow = true;
	sx_rows_check_privileges(selection->table);
	if (user_id != NULL)
	{
		selection->access = sx_access_for(selection->table, user_id);
		selection->user = sx_access_user(selection->access, user_id);
	}
	if (filter != NULL)
		selection->filter = sx_filter_get_once(selection->table, filter,
											   &selection->can_follow);
	selection->params = sx_filter_params(selection->filter, params);
}

void
sx_selection_begin(SxSelection *selection)
{
	SxRights   *rights;

	sx_plan_connect();
	if (selection->access == NULL)
		return;
	rights = sx_access_read(selection->access, selection->user, NULL,
							GetActiveSnapshot(), NULL, 0);
	selection->scopes = sx_rows_register_scopes(selection->table,
												sx_rights_now(rights));
}

void
sx_selection_end(SxSelection *selection)
{
	if (selection->scopes != NULL)
		tuplestore_end(selection->scopes->store);
	selection->scopes = NULL;
	SPI_finish();
}

void
sx_selection_append(SxSelection *selection, StringInfo sql)
{
	SxTable    *table = selection->table;

	appendStringInfo(sql, " FROM %s " SX_ALIAS, sx_plan_relation(table->root));
	if (selection->access != NULL)
		sx_rows_append_scopes(sql, table);
	appendStringInfoString(sql, " WHERE ");
	if (!sx_rows_append_condition(sql, table, selection->filter))
		appendStringInfoString(sql, "true");
	if (OidIsValid(table->source))
	{
		appendStringInfoString(sql, " AND EXISTS (SELECT");
		sx_rows_append_source(sql, table);
		appendStringInfoChar(sql, ')');
	}
}

Portal
sx_selection_query(SxSelection *selection, const char *sql, ParamListInfo more)
{
	int			n = selection->filter == NULL ? 0 : selection->filter->nparams;
	int			nmore = more == NULL ? 0 : more->numParams;
	ParamListInfo all = makeParamList(n + nmore);
	Oid		   *types = palloc(sizeof(Oid) * (n + nmore + 1));
	SPIPlanPtr	plan;
	Portal		portal;

	for (int i = 0; i < n + nmore; i++)
	{
		all->params[i] = i < n ? selection->params->params[i] :
			more->params[i - n];
		types[i] = all->params[i].ptype;
	}
	plan = SPI_prepare_cursor(sql, n + nmore, types, CURSOR_OPT_NO_SCROLL);
	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", sql,
			 SPI_result_code_string(SPI_result));
	portal = SPI_cursor_open_with_paramlist(NULL, plan, all, true);
	return portal;
}
