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

/* The policies that hold for the caller's SELECT on a table. */
typedef struct SxPolicies
{
	/*
	 * Conjuncts over the log's row (key columns, then scope columns), with the
	 * settings and functions that they ask for replaced by their present
	 * values.
	 */
	List	   *quals;
	bool		residual;		/* there are others, which the log cannot answer */

	/*
	 * Changes whenever the policies do, or what the settings and functions
	 * that they ask for say, subqueries included.
	 */
	const char *text;
} SxPolicies;

/*
 * Reads the caller's policies. There are none where row-level security does
 * not concern the caller. With "required" raises feature_not_supported where
 * some would be residual: then nobody can say whether the caller could read a
 * row that is gone. In the current memory context.
 */
extern SxPolicies *sx_policy_read(SxTable *table, bool required);

#endif							/* SYNC_EXT_POLICY_H */
