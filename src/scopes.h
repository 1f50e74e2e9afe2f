/*-------------------------------------------------------------------------
 *
 * scopes.h
 *		Sets of scope values.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_SCOPES_H
#define SYNC_EXT_SCOPES_H

#include "tracked.h"

/*
 * A set of values of a table's scope columns, none of them null, in the order
 * of their types' btree operators. "table" lends the types.
 */
typedef struct SxScopes
{
	SxTable    *table;
	int			n;
	Datum	   *values;			/* n times table->nscopes */
} SxScopes;

/* The values at a place of the set. */
#define sx_scopes_at(scopes, i) ((scopes)->values + (i) * (scopes)->table->nscopes)

/* Orders two scope values of a table. */
extern int sx_scopes_compare(SxTable *table, const Datum *a, const Datum *b);

/*
 * The first place whose values are not before these; *found says whether they
 * are equal.
 */
extern int sx_scopes_place(const SxScopes *scopes, const Datum *values,
						   bool *found);

/* Whether values, which may be null, are in the set. */
extern bool sx_scopes_has(const SxScopes *scopes, const Datum *values,
						  const bool *nulls);

/*
 * The set of n values, which are sorted in place, and kept. They lie one after
 * the other, table->nscopes each, none of them null.
 */
extern SxScopes *sx_scopes_make(SxTable *table, int n, Datum *values);

/* Those of "a" that are not in "b". In the current memory context. */
extern SxScopes *sx_scopes_without(const SxScopes *a, const SxScopes *b);

/* Those of either. In the current memory context. */
extern SxScopes *sx_scopes_union(const SxScopes *a, const SxScopes *b);

#endif							/* SYNC_EXT_SCOPES_H */
