/*-------------------------------------------------------------------------
 *
 * policy.h
 *		Row-level security, as far as the log can follow it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_POLICY_H
#define SYNC_EXT_POLICY_H

#include "lib/stringinfo.h"
#include "nodes/pg_list.h"

#include "tracked.h"

/*
 * The policies that hold for the caller's SELECT on a table, as conjuncts over
 * the log's row (key columns, then scope columns), with the settings and
 * functions that they ask for replaced by their present values. Empty where
 * row-level security does not concern the caller.
 *
 * Where a policy looks at more than the log holds, it cannot say whether the
 * caller could read a row that is gone: raises feature_not_supported if
 * "required", else returns those conjuncts that the log can answer.
 */
extern List *sx_policy_quals(SxTable *table, bool required);

/*
 * Appends a text that changes whenever the caller's policies on a table do, or
 * what the settings and functions that they ask for say, subqueries included.
 * Appends nothing where row-level security does not concern the caller.
 */
extern void sx_policy_describe(SxTable *table, StringInfo text);

#endif							/* SYNC_EXT_POLICY_H */
