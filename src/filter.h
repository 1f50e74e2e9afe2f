/*-------------------------------------------------------------------------
 *
 * filter.h
 *		A caller's filter: parsed, checked, and split.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_FILTER_H
#define SYNC_EXT_FILTER_H

#include "nodes/params.h"
#include "nodes/pg_list.h"
#include "utils/array.h"

#include "tracked.h"

/* "scope column = value", which the log's scope index can look up. */
typedef struct SxScopeEqual
{
	Expr	   *value;			/* without columns; NULL: the column is free */
	bool		is_array;		/* "= ANY (value)" */
	Oid			function;		/* of the operator */
	Oid			subtype;		/* of the value, or of its elements */
} SxScopeEqual;

typedef struct SxFilter
{
	char	   *sql;			/* deparsed, over columns of alias SX_ALIAS */
	int			nparams;
	Oid		   *param_types;

	/*
	 * The conjuncts on nothing but key and scope, which the log can answer:
	 * over a row of the key columns followed by the scope columns.
	 */
	List	   *log_quals;
	bool		residual;		/* there are other conjuncts */
	bool		by_scope;		/* every scope column is set equal */
	SxScopeEqual scopes[INDEX_MAX_KEYS];
} SxFilter;

/* The alias of the tracked table in queries, and in a filter's SQL. */
#define SX_ALIAS "t"

/*
 * Parses a filter against a table. Raises what the parser raises, and
 * syntax_error or feature_not_supported for what is more than one immutable
 * expression. The result is cached, and valid until the transaction ends.
 */
extern SxFilter *sx_filter_get(SxTable *table, const char *text);

/*
 * The same for a question that is asked once, and not followed from a cursor
 * on: subqueries and stable functions are allowed, volatile ones are not.
 * *can_follow says whether sx_filter_get() takes the filter, too. Made anew at
 * each call, in the current memory context.
 */
extern SxFilter *sx_filter_get_once(SxTable *table, const char *text,
									bool *can_follow);

/*
 * The values of a filter's parameters, from text, in the current context.
 * Raises invalid_parameter_value where their number is wrong.
 */
extern ParamListInfo sx_filter_params(SxFilter *filter, ArrayType *values);

/*
 * A copy of an expression over the table's key and scope columns that looks at
 * the log's row instead. "table" is an SxTable; the type is a tree mutator's.
 */
extern Node *sx_filter_over_log_row(Node *node, void *table);

/* Registers the transaction callback. Called once, at load. */
extern void sx_filter_init(void);

#endif							/* SYNC_EXT_FILTER_H */
