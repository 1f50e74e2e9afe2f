/*-------------------------------------------------------------------------
 *
 * filter.c
 *		A caller's filter: parsed, checked, and split.
 *
 * A filter is one boolean expression over the columns of the table, with
 * parameters. PostgreSQL's own parser reads it, inside a statement whose tree
 * must then hold a WHERE clause and nothing else, and analyses it against the
 * table alone. What enters a query is the deparsed tree, never the text.
 *
 * It must be immutable: the rows that a filter selects must change by changes
 * of the rows alone, or a client would miss those that now() brought in. For
 * the same reason it can hold no subquery: changes of the other table would
 * go unseen. Only a question that is asked once, of whole rows and not of the
 * log, may hold both.
 *
 * The conjuncts on key and scope columns are applied to the log, too, so that
 * a narrow filter reads a narrow part of it: see changes.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/nbtree.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/analyze.h"
#include "parser/parse_clause.h"
#include "parser/parse_collate.h"
#include "parser/parse_node.h"
#include "parser/parse_param.h"
#include "parser/parse_relation.h"
#include "rewrite/rewriteManip.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/typcache.h"

#include "sync_ext.h"
#include "filter.h"

/* Filters are the callers', so the number kept is bounded. */
#define MAX_FILTERS		256

typedef struct CachedFilter
{
	uint64		hash;			/* hash key */
	uint64		epoch;			/* when it was made */
	Oid			relid;
	Oid			userid;
	char	   *search_path;
	char	   *text;
	MemoryContext context;
	SxFilter   *filter;
} CachedFilter;

static HTAB *filters = NULL;
static List *replaced = NIL;	/* contexts of filters that were replaced */

/* ---- reading it ---- */

static void
not_an_expression(const char *text, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_SYNTAX_ERROR),
			 errmsg("filter is not one expression"),
			 errdetail("%s The filter is \"%s\".", detail, text),
			 errhint("Give what could stand after WHERE, with values as parameters: company_id = $1 AND status = $2.")));
}

/*
 * What the parser finds wrong points into our statement: say what was given
 * instead, and what it should be.
 */
static void
rethrow(const char *text)
{
	ErrorData  *error;

	MemoryContextSwitchTo(TopTransactionContext);
	error = CopyErrorData();
	FlushErrorState();
	error->cursorpos = 0;
	error->internalpos = 0;
	if (error->detail == NULL)
		error->detail = psprintf("The filter is \"%s\".", text);
	if (error->hint == NULL)
		error->hint = pstrdup("A filter is one boolean expression over the columns of the table, with parameters $1, $2, and so on.");
	ReThrowError(error);
}

/*
 * The raw tree of the expression. It is parsed twice: bare, where a clause,
 * a second statement or a comment would show in the tree, and in parentheses,
 * where what closes them early would.
 */
static Node *
raw_expression(const char *text)
{

	Node	   *expression = NULL;

	/* The grammar has no place for comments, so they would go unseen. */
	for (const char *c = text; *c != '\0'; c++)
	{
		if (*c == '\'' || *c == '"')
		{
			const char *end = strchr(c + 1, *c);

			if (end == NULL)
				break;
			c = end;
		}
		else if ((c[0] == '-' && c[1] == '-') || (c[0] == '/' && c[1] == '*'))
			not_an_expression(text, "It holds a comment.");
		else if (*c == ';')
			not_an_expression(text, "It holds a semicolon.");
	}

	for (int i = 0; i < 2; i++)
	{
		char	   *sql = psprintf(i == 0 ? "SELECT 1 WHERE (%s\n)" :
								   "SELECT 1 WHERE %s\n", text);
		List	   *statements = sx_raw_parser(sql);
		SelectStmt *select;
		SelectStmt	expected;

		if (list_length(statements) != 1)
			not_an_expression(text, "It holds more than one statement.");
		select = (SelectStmt *) linitial_node(RawStmt, statements)->stmt;
		if (!IsA(select, SelectStmt) || select->whereClause == NULL)
			not_an_expression(text, "It is empty, or no expression.");

		/* all but the target list and WHERE must be as in a bare SELECT */
		memset(&expected, 0, sizeof(expected));
		expected.type = T_SelectStmt;
		expected.targetList = select->targetList;
		expected.whereClause = select->whereClause;
		expected.limitOption = select->limitOption;
		if (!equal(select, &expected) || select->limitCount != NULL)
			not_an_expression(text, "It holds another clause.");
		expression = select->whereClause;
	}
	return expression;
}

/* Whether rows enter and leave by changes of the table's own rows alone. */
static bool
can_be_followed(Node *expression)
{
	return !checkExprHasSubLink(expression) &&
		!contain_mutable_functions(expression);
}

static void
check_once(Node *expression, const char *text)
{
	if (contain_volatile_functions(expression))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("filter must not be volatile"),
				 errdetail("It calls a function whose result changes within a statement. The filter is \"%s\".",
						   text),
				 errhint("Pass the value as a parameter.")));
}

static void
check_followed(Node *expression, const char *text)
{
	if (checkExprHasSubLink(expression))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("filter must not contain a subquery"),
				 errdetail("Changes of the other table would go unseen. The filter is \"%s\".",
						   text),
				 errhint("Rows that a user may see by way of another table are what an access relation is for.")));
	if (contain_mutable_functions(expression))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("filter must be immutable"),
				 errdetail("It calls a function that is stable or volatile, so rows would enter and leave without a change. The filter is \"%s\".",
						   text),
				 errhint("Pass the value as a parameter, instead of now() or a setting; compare timestamptz with timestamptz.")));
}

static void
check_columns(Node *expression, const char *text)
{
	if (contain_var_clause(expression))
	{
		List	   *vars = pull_var_clause(expression, 0);
		ListCell   *cell;

		foreach(cell, vars)
			if (((Var *) lfirst(cell))->varattno < 0)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("filter must not use a system column"),
						 errdetail("The filter is \"%s\".", text),
						 errhint("System columns change without a change of the row.")));
	}
}

static void
check_parameter_types(Oid *types, int n)
{
	for (int i = 0; i < n; i++)
		if (!OidIsValid(types[i]) || types[i] == UNKNOWNOID)
			ereport(ERROR,
					(errcode(ERRCODE_INDETERMINATE_DATATYPE),
					 errmsg("could not determine data type of parameter $%d",
							i + 1)));
}

static Node *
analyse(SxTable *table, const char *text, Oid **param_types, int *nparams)
{
	Node	   *raw = raw_expression(text);
	ParseState *pstate = make_parsestate(NULL);
	Relation	rel = table_open(table->relid, AccessShareLock);
	ParseNamespaceItem *item;
	Query	   *query;
	Node	   *expression;

	sx_setup_parameters(pstate, param_types, nparams);
	item = addRangeTableEntryForRelation(pstate, rel, AccessShareLock,
										 makeAlias(SX_ALIAS, NIL), false,
										 false);
	addNSItemToQuery(pstate, item, false, true, true);
	/* the table's own name may qualify its columns, too */
	expression = transformWhereClause(pstate, raw, EXPR_KIND_WHERE, "WHERE");
	assign_expr_collations(pstate, expression);

	query = makeNode(Query);
	query->commandType = CMD_SELECT;
	query->jointree = makeFromExpr(NIL, expression);
	check_variable_parameters(pstate, query);
	check_parameter_types(*param_types, *nparams);
	expression = query->jointree->quals;
	if (pstate->p_hasAggs || pstate->p_hasWindowFuncs || pstate->p_hasTargetSRFs)
		elog(ERROR, "unexpected aggregate in a filter");
	free_parsestate(pstate);
	table_close(rel, NoLock);
	return expression;
}

/* ---- splitting it ---- */

/* The place of a column in the log's row, or 0. */
static int
log_place(SxTable *table, AttrNumber attnum)
{
	for (int i = 0; i < table->nkeys; i++)
		if (table->keys[i].attnum == attnum)
			return i + 1;
	for (int i = 0; i < table->nscopes; i++)
		if (table->scopes[i].attnum == attnum)
			return table->nkeys + i + 1;
	return 0;
}

static bool
log_answers(SxTable *table, Node *conjunct)
{
	List	   *vars = pull_var_clause(conjunct, 0);
	ListCell   *cell;

	foreach(cell, vars)
		if (log_place(table, ((Var *) lfirst(cell))->varattno) == 0)
			return false;
	return vars != NIL;
}

Node *
sx_filter_over_log_row(Node *node, void *table)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Var))
	{
		Var		   *var = copyObject((Var *) node);

		var->varno = 1;
		var->varattno = log_place(table, var->varattno);
		return (Node *) var;
	}
	return expression_tree_mutator(node, sx_filter_over_log_row, table);
}

static Node *
without_relabel(Node *node)
{
	while (node != NULL && IsA(node, RelabelType))
		node = (Node *) ((RelabelType *) node)->arg;
	return node;
}

/* The scope column that a side of an operator is, or -1. */
static int
scope_of(SxTable *table, Node *node)
{
	node = without_relabel(node);
	if (node == NULL || !IsA(node, Var))
		return -1;
	for (int i = 0; i < table->nscopes; i++)
		if (table->scopes[i].attnum == ((Var *) node)->varattno)
			return i;
	return -1;
}

/* Whether the operator is the equality of the index on this scope column. */
static bool
is_index_equality(SxColumn *scope, Oid operator, Oid collation)
{
	TypeCacheEntry *type = lookup_type_cache(scope->type,
											 TYPECACHE_BTREE_OPFAMILY);

	return OidIsValid(type->btree_opf) &&
		get_op_opfamily_strategy(operator, type->btree_opf) == BTEqualStrategyNumber &&
		(!OidIsValid(collation) || collation == scope->collation);
}

static void
note_scope_equal(SxTable *table, SxFilter *filter, Node *conjunct)
{
	Oid			operator;
	Oid			collation;
	Node	   *left;
	Node	   *right;
	bool		is_array = IsA(conjunct, ScalarArrayOpExpr);
	Oid			left_type;
	Oid			right_type;
	int			scope;

	if (IsA(conjunct, OpExpr) && list_length(((OpExpr *) conjunct)->args) == 2)
	{
		OpExpr	   *op = (OpExpr *) conjunct;

		operator = op->opno;
		collation = op->inputcollid;
		left = linitial(op->args);
		right = lsecond(op->args);
		if (scope_of(table, left) < 0)
		{
			Node	   *swap = left;

			left = right;
			right = swap;
			operator = get_commutator(operator);
		}
	}
	else if (is_array && ((ScalarArrayOpExpr *) conjunct)->useOr)
	{
		ScalarArrayOpExpr *op = (ScalarArrayOpExpr *) conjunct;

		operator = op->opno;
		collation = op->inputcollid;
		left = linitial(op->args);
		right = lsecond(op->args);
	}
	else
		return;

	scope = scope_of(table, left);
	if (scope < 0 || !OidIsValid(operator) || contain_var_clause(right) ||
		filter->scopes[scope].value != NULL ||
		!is_index_equality(&table->scopes[scope], operator, collation))
		return;
	op_input_types(operator, &left_type, &right_type);
	filter->scopes[scope].value = (Expr *) right;
	filter->scopes[scope].is_array = is_array;
	filter->scopes[scope].function = get_opcode(operator);
	filter->scopes[scope].subtype = right_type;
}

static void
split(SxTable *table, SxFilter *filter, Node *expression)
{
	List	   *conjuncts = make_ands_implicit((Expr *) canonicalize_qual((Expr *) eval_const_expressions(NULL, expression), false));
	ListCell   *cell;
	int			arrays = 0;

	foreach(cell, conjuncts)
	{
		Node	   *conjunct = lfirst(cell);

		if (!log_answers(table, conjunct))
		{
			filter->residual = true;
			continue;
		}
		note_scope_equal(table, filter, conjunct);
		filter->log_quals = lappend(filter->log_quals,
									sx_filter_over_log_row(conjunct, table));
	}

	filter->by_scope = table->nscopes > 0;
	for (int i = 0; i < table->nscopes; i++)
	{
		if (filter->scopes[i].value == NULL)
			filter->by_scope = false;
		else if (filter->scopes[i].is_array)
			arrays++;
	}
	/* several lists would be as many scans as their product */
	if (arrays > 1)
		filter->by_scope = false;
}

/* ---- cache ---- */

/* "can_follow": where it is asked once, else NULL. */
static SxFilter *
make_filter(SxTable *table, const char *text, bool *can_follow)
{
	SxFilter   *filter = palloc0(sizeof(SxFilter));
	Node	   *expression = analyse(table, text, &filter->param_types,
									 &filter->nparams);
	int			level;

	if (can_follow == NULL)
		check_followed(expression, text);
	else
	{
		check_once(expression, text);
		*can_follow = can_be_followed(expression);
	}
	check_columns(expression, text);

	/* What the deparsed text leaves unqualified depends on the path. */
	level = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	filter->sql = deparse_expression(expression,
									 deparse_context_for(SX_ALIAS, table->relid),
									 true, false);
	AtEOXact_GUC(true, level);

	/* the log is not asked where nothing is followed */
	if (can_follow == NULL)
		split(table, filter, expression);
	return filter;
}

static void
forget(CachedFilter *cached)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	if (cached->context != NULL)
		replaced = lappend(replaced, cached->context);
	cached->context = NULL;
	MemoryContextSwitchTo(old);
}

static void
forget_all(void)
{
	HASH_SEQ_STATUS status;
	CachedFilter *cached;

	hash_seq_init(&status, filters);
	while ((cached = hash_seq_search(&status)) != NULL)
	{
		forget(cached);
		hash_search(filters, &cached->hash, HASH_REMOVE, NULL);
	}
}

static void
end_xact(XactEvent event, void *arg)
{
	ListCell   *cell;

	if (replaced == NIL ||
		(event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT &&
		 event != XACT_EVENT_PREPARE))
		return;
	foreach(cell, replaced)
		MemoryContextDelete((MemoryContext) lfirst(cell));
	list_free(replaced);
	replaced = NIL;
}

void
sx_filter_init(void)
{
	RegisterXactCallback(end_xact, NULL);
}

static bool
is_filter_of(CachedFilter *cached, SxTable *table, const char *text)
{
	return cached->context != NULL &&
		cached->epoch == sx_tracked_epoch() &&
		cached->relid == table->relid &&
		cached->userid == GetUserId() &&
		strcmp(cached->search_path, namespace_search_path) == 0 &&
		strcmp(cached->text, text) == 0;
}

SxFilter *
sx_filter_get(SxTable *table, const char *text)
{
	uint64		hash = hash_bytes_extended((const unsigned char *) text,
										   strlen(text), table->relid);
	CachedFilter *cached;
	MemoryContext context;
	MemoryContext old;
	SxFilter   *volatile filter = NULL;
	uint64		epoch;
	bool		found;

	if (filters == NULL)
	{
		HASHCTL		control;

		memset(&control, 0, sizeof(control));
		control.keysize = sizeof(uint64);
		control.entrysize = sizeof(CachedFilter);
		control.hcxt = CacheMemoryContext;
		filters = hash_create("sync_ext filters", MAX_FILTERS, &control,
							  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	cached = hash_search(filters, &hash, HASH_FIND, NULL);
	if (cached != NULL && is_filter_of(cached, table, text))
		return cached->filter;

	/* In a context of the transaction, until nothing can go wrong any more. */
	epoch = sx_tracked_epoch();
	context = AllocSetContextCreate(CurrentMemoryContext, "sync_ext filter",
									ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(context);
	PG_TRY();
	{
		filter = make_filter(table, text, NULL);
	}
	PG_CATCH();
	{
		rethrow(text);
	}
	PG_END_TRY();

	if (hash_get_num_entries(filters) >= MAX_FILTERS)
		forget_all();
	cached = hash_search(filters, &hash, HASH_ENTER, &found);
	if (!found)
		cached->context = NULL;
	forget(cached);
	cached->epoch = epoch;
	cached->relid = table->relid;
	cached->userid = GetUserId();
	cached->search_path = pstrdup(namespace_search_path);
	cached->text = pstrdup(text);
	cached->filter = filter;
	MemoryContextSetParent(context, CacheMemoryContext);
	cached->context = context;
	MemoryContextSwitchTo(old);
	return filter;
}

SxFilter *
sx_filter_get_once(SxTable *table, const char *text, bool *can_follow)
{
	SxFilter   *volatile filter = NULL;

	PG_TRY();
	{
		filter = make_filter(table, text, can_follow);
	}
	PG_CATCH();
	{
		rethrow(text);
	}
	PG_END_TRY();
	return filter;
}

/* ---- parameters ---- */

ParamListInfo
sx_filter_params(SxFilter *filter, ArrayType *values)
{
	ParamListInfo params;
	Datum	   *texts = NULL;
	bool	   *nulls = NULL;
	int			n = 0;

	if (values != NULL)
		deconstruct_array(values, TEXTOID, -1, false, TYPALIGN_INT, &texts,
						  &nulls, &n);
	if (n != (filter == NULL ? 0 : filter->nparams))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("wrong number of filter parameters"),
				 errdetail("The filter has %d, but %d were given.",
						   filter == NULL ? 0 : filter->nparams, n),
				 errhint("Give params one text value for each of $1, $2, and so on.")));
	if (n == 0)
		return NULL;

	params = makeParamList(n);
	for (int i = 0; i < n; i++)
	{
		ParamExternData *param = &params->params[i];
		Oid			input;
		Oid			ioparam;
		char	   *value = nulls[i] ? NULL : TextDatumGetCString(texts[i]);

		getTypeInputInfo(filter->param_types[i], &input, &ioparam);
		param->ptype = filter->param_types[i];
		param->pflags = PARAM_FLAG_CONST;
		param->isnull = nulls[i];
		param->value = OidInputFunctionCall(input, value, ioparam, -1);
	}
	return params;
}
