/*-------------------------------------------------------------------------
 *
 * policy.c
 *		Row-level security, as far as the log can follow it.
 *
 * Rows are read by a query of the caller, so the server itself applies the
 * policies to them. A removal has no row any more, only the key and scope
 * values that were logged; so policies over key and scope are applied to
 * those, and nobody hears of the end of a row that they could not read.
 *
 * A policy may also ask who is asking: a setting, a role, a function. What
 * such an expression says now holds for the whole answer. It is evaluated once
 * and stands as a constant in the conjuncts, and in the text that makes the
 * question of a cursor: with another value, rows are there that never changed,
 * so it is another question.
 *
 * What rows a policy lets through may change without a change of the rows, and
 * without such a value that tells of it, when it holds a subquery, calls a
 * function of columns that is not immutable, or asks what time it is. Those
 * count among the policies that the log cannot answer. The time is not part of
 * the question, or every answer would be a reset.
 *
 * Where a user_id says which scopes concern the client, removals are given for
 * those scopes, whatever such a policy would have said.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteManip.h"
#include "tcop/deparse_utility.h"
#include "tcop/tcopprot.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"

#include "sync_ext.h"
#include "filter.h"
#include "policy.h"

PG_FUNCTION_INFO_V1(sync_ext_why_unlogged);
PG_FUNCTION_INFO_V1(sync_ext_enables_row_security);

/* ---- present values ---- */

/*
 * Functions of the server that say something else each time: the time, and
 * all that are volatile. Those of users are often called volatile for want of
 * a word in their definition, and are taken to say who asks.
 */
static bool
is_never_the_same(Oid function, void *context)
{
	if (function >= FirstNormalObjectId)
		return false;
	if (func_volatile(function) == PROVOLATILE_VOLATILE)
		return true;
	if (get_func_nargs(function) > 0)
		return false;
	switch (get_func_rettype(function))
	{
		case TIMESTAMPTZOID:
		case TIMESTAMPOID:
		case TIMETZOID:
		case TIMEOID:
		case DATEOID:
			return true;
		default:
			return false;
	}
}

static bool
is_time(Node *node)
{
	if (!IsA(node, SQLValueFunction))
		return false;
	switch (((SQLValueFunction *) node)->op)
	{
		case SVFOP_CURRENT_ROLE:
		case SVFOP_CURRENT_USER:
		case SVFOP_USER:
		case SVFOP_SESSION_USER:
		case SVFOP_CURRENT_CATALOG:
		case SVFOP_CURRENT_SCHEMA:
			return false;
		default:
			return true;
	}
}

/* Whether an expression has no value of its own, for the whole answer. */
static bool
has_no_value(Node *node, void *context)
{
	if (node == NULL)
		return false;
	switch (nodeTag(node))
	{
		case T_Var:
		case T_Param:
		case T_Aggref:
		case T_GroupingFunc:
		case T_WindowFunc:
		case T_SubLink:
		case T_Query:
		case T_CaseTestExpr:
		case T_CoerceToDomainValue:
		case T_SetToDefault:
		case T_CurrentOfExpr:
		case T_NextValueExpr:
		case T_PlaceHolderVar:
			return true;
		default:
			break;
	}
	if (is_time(node) || check_functions_in_node(node, is_never_the_same, NULL))
		return true;
	return expression_tree_walker(node, has_no_value, context);
}

/* Whether a node is an expression, and not a part of another or of a query. */
static bool
is_expression(Node *node)
{
	switch (nodeTag(node))
	{
		case T_FuncExpr:
		case T_OpExpr:
		case T_DistinctExpr:
		case T_NullIfExpr:
		case T_ScalarArrayOpExpr:
		case T_SubscriptingRef:
		case T_SQLValueFunction:
		case T_CoerceViaIO:
		case T_CoerceToDomain:
		case T_RelabelType:
		case T_ArrayExpr:
		case T_ArrayCoerceExpr:
		case T_BoolExpr:
		case T_CaseExpr:
		case T_CoalesceExpr:
		case T_MinMaxExpr:
		case T_NullTest:
		case T_BooleanTest:
		case T_RowCompareExpr:
		case T_FieldSelect:
			return get_typtype(exprType(node)) != TYPTYPE_PSEUDO &&
				!expression_returns_set(node);
		default:
			return false;
	}
}

static Node *
value_of(Node *expression)
{
	EState	   *estate = CreateExecutorState();
	Oid			type = exprType(expression);
	int32		typmod = exprTypmod(expression);
	Oid			collation = exprCollation(expression);
	int16		typlen;
	bool		typbyval;
	ExprState  *state;
	Datum		value;
	bool		isnull;

	get_typlenbyval(type, &typlen, &typbyval);
	state = ExecPrepareExpr((Expr *) expression, estate);
	value = ExecEvalExprSwitchContext(state, GetPerTupleExprContext(estate),
									  &isnull);
	/* by its value, and out of the executor's memory */
	if (isnull)
		value = (Datum) 0;
	else if (typlen == -1)
		value = PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
	else
		value = datumCopy(value, typbyval, typlen);
	FreeExecutorState(estate);
	return (Node *) makeConst(type, typmod, collation, typlen, value, isnull,
							  typbyval);
}

static Node *with_values(Node *node, void *evaluate);

static bool
is_constant(Node *node, bool value)
{
	return IsA(node, Const) && !((Const *) node)->constisnull &&
		DatumGetBool(((Const *) node)->constvalue) == value;
}

/*
 * The arms of AND and OR in their order, up to one that settles the matter.
 * Those after it are not asked: what they look at does not count.
 */
static Node *
with_values_of_arms(BoolExpr *expression, bool *evaluate)
{
	bool		settles = expression->boolop == OR_EXPR;
	List	   *arms = NIL;
	ListCell   *cell;

	foreach(cell, expression->args)
	{
		Node	   *arm = with_values(lfirst(cell), evaluate);

		if (is_constant(arm, settles))
			return arm;
		if (!is_constant(arm, !settles))
			arms = lappend(arms, arm);
	}
	if (arms == NIL)
		return makeBoolConst(!settles, false);
	if (list_length(arms) == 1)
		return linitial(arms);
	return (Node *) makeBoolExpr(expression->boolop, arms, -1);
}

/*
 * Replaces what has a value by it, in subqueries, too; or by NULL where only
 * the shape matters, and nobody's functions should run.
 */
static Node *
with_values(Node *node, void *evaluate)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Query))
		return (Node *) query_tree_mutator((Query *) node, with_values,
										   evaluate, 0);
	if (IsA(node, BoolExpr) && ((BoolExpr *) node)->boolop != NOT_EXPR)
		return with_values_of_arms((BoolExpr *) node, evaluate);
	if (is_expression(node) && !has_no_value(node, NULL))
		return *(bool *) evaluate ? value_of(node) :
			(Node *) makeNullConst(exprType(node), exprTypmod(node),
								   exprCollation(node));
	return expression_tree_mutator(node, with_values, evaluate);
}

/* ---- what the log can answer ---- */

/*
 * Why the log cannot answer a policy, or NULL if it can. "logged" are the
 * columns that it holds.
 */
static const char *
why_unlogged(Node *policy, Oid relid, Bitmapset *logged)
{
	List	   *vars;
	ListCell   *cell;

	if (checkExprHasSubLink(policy))
		return "It holds a subquery, so rows may come and go without being changed.";
	vars = pull_var_clause(policy, 0);
	foreach(cell, vars)
	{
		AttrNumber	attnum = ((Var *) lfirst(cell))->varattno;

		if (attnum <= 0)
			return "It looks at the whole row, or at a system column.";
		if (!bms_is_member(attnum, logged))
			return psprintf("It looks at column \"%s\", which is neither key nor scope.",
							get_attname(relid, attnum, false));
	}
	if (contain_mutable_functions(policy))
		return "It asks for the time, or calls a function of columns that is not immutable, so rows may come and go without being changed.";
	return NULL;
}

static Bitmapset *
logged_columns(SxTable *table)
{
	Bitmapset  *logged = NULL;

	for (int i = 0; i < table->nkeys; i++)
		logged = bms_add_member(logged, table->keys[i].attnum);
	for (int i = 0; i < table->nscopes; i++)
		logged = bms_add_member(logged, table->scopes[i].attnum);
	return logged;
}

/* ---- the caller's policies ---- */

/*
 * What the rewriter adds to the caller's SELECT, as conjuncts. It knows the
 * roles, commands and kinds of policies, and it is asked each time: policies
 * may have been altered.
 */
static List *
policies_of_caller(SxTable *table)
{
	bool		evaluate = true;
	List	   *policies = NIL;
	char	   *sql;
	RawStmt    *raw;
	Query	   *query;
	RangeTblEntry *rte;
	ListCell   *cell;

	if (check_enable_rls(table->root, InvalidOid, true) != RLS_ENABLED)
		return NIL;
	sql = psprintf("SELECT 1 FROM %s",
				   quote_qualified_identifier(get_namespace_name(get_rel_namespace(table->root)),
											  get_rel_name(table->root)));
	raw = linitial_node(RawStmt, sx_raw_parser(sql));
	query = linitial_node(Query, sx_analyze_and_rewrite(raw, sql));
	rte = linitial_node(RangeTblEntry, query->rtable);
	foreach(cell, rte->securityQuals)
		policies = list_concat(policies,
							   make_ands_implicit((Expr *) with_values(lfirst(cell), &evaluate)));
	return policies;
}

SxPolicies *
sx_policy_read(SxTable *table, bool required)
{
	SxPolicies *policies = palloc0(sizeof(SxPolicies));
	Bitmapset  *logged = logged_columns(table);
	StringInfoData text;
	ListCell   *cell;
	List	   *conjuncts = policies_of_caller(table);

	initStringInfo(&text);
	foreach(cell, conjuncts)
	{
		Node	   *policy = lfirst(cell);
		const char *reason = why_unlogged(policy, table->root, logged);

		appendStringInfo(&text, " %s", nodeToString(policy));
		if (reason == NULL)
		{
			policies->quals = lappend(policies->quals,
									  sx_filter_over_log_row(policy, table));
			continue;
		}
		policies->residual = true;
		if (required)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("row-level security of sync domain \"%s\" cannot be decided from its log",
							table->domain),
					 errdetail("A policy that holds for role \"%s\" looks at more than the log holds, so nobody can say which rows that are gone the role could read. %s",
							   GetUserNameFromId(GetUserId(), false), reason),
					 errhint("Track the table with the columns of its policies as scope, or give a user_id, or leave since out to load anew.")));
	}
	policies->text = text.data;
	return policies;
}

/* ---- SQL ---- */

/*
 * sync.why_unlogged(rel, policy, logged): what can be said before anybody
 * asks. The trees that can be given are those of the catalogs.
 */
Datum
sync_ext_why_unlogged(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	Node	   *policy = stringToNode(TextDatumGetCString(PG_GETARG_DATUM(1)));
	Datum	   *columns;
	int			n;
	Bitmapset  *logged = NULL;
	bool		evaluate = false;
	const char *reason;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(2), INT2OID, sizeof(int16), true,
					  TYPALIGN_SHORT, &columns, NULL, &n);
	for (int i = 0; i < n; i++)
		logged = bms_add_member(logged, DatumGetInt16(columns[i]));
	reason = why_unlogged(with_values(policy, &evaluate), relid, logged);
	if (reason == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(reason));
}

/* sync.enables_row_security(command) */
Datum
sync_ext_enables_row_security(PG_FUNCTION_ARGS)
{
	CollectedCommand *command = (CollectedCommand *) PG_GETARG_POINTER(0);
	ListCell   *cell;

	if (command->type != SCT_AlterTable)
		PG_RETURN_BOOL(false);
	foreach(cell, command->d.alterTable.subcmds)
	{
		Node	   *part = ((CollectedATSubcmd *) lfirst(cell))->parsetree;

		if (IsA(part, AlterTableCmd) &&
			((AlterTableCmd *) part)->subtype == AT_EnableRowSecurity)
			PG_RETURN_BOOL(true);
	}
	PG_RETURN_BOOL(false);
}
