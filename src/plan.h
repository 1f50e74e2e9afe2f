/*-------------------------------------------------------------------------
 *
 * plan.h
 *		SPI plans that are kept, and the relation of keys that they join.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_PLAN_H
#define SYNC_EXT_PLAN_H

#include "executor/spi.h"
#include "lib/stringinfo.h"

#include "tracked.h"

/* The name under which queries see the keys that they are given ... */
#define SX_KEYS "sync_keys"

/* ... and the scopes that they are restricted to. */
#define SX_SCOPES "sync_scopes"

/* Registers the transaction callback. Called once, at load. */
extern void sx_plan_init(void);

/* SPI_connect(), which fails only where something is wrong with the nesting. */
extern void sx_plan_connect(void);

/* A value of the latest result; columns count from 1. */
extern Datum sx_plan_value(int row, int number, bool *isnull);

/* The same of type text, copied into a context; NULL for null. */
extern char *sx_plan_text(int row, int number, MemoryContext context);

/*
 * The kept plan of a query, prepared when it is asked for the first time.
 * Must be called between SPI_connect() and SPI_finish(), with the relation
 * of keys already registered if the query uses it. The cache is keyed by
 * text and argument types; plans are generic, look keys up in indexes, and
 * follow DDL by themselves.
 */
extern SPIPlanPtr sx_plan_get(const char *sql, int nargs, Oid *argtypes);

/*
 * Keys for a query: a relation SX_KEYS with the columns of "desc", in the
 * order in which they are put. Registered with the current SPI connection,
 * which also frees it. "expected" is the number that the planner believes: 1
 * for a plan that is kept, for any number.
 */
typedef struct SxKeys
{
	TupleDesc	desc;
	Tuplestorestate *store;
} SxKeys;

extern SxKeys *sx_keys_begin(TupleDesc desc);
extern void sx_keys_put(SxKeys *keys, Datum *values, bool *nulls);
extern void sx_keys_end(SxKeys *keys, double expected);

/* The same under another name, for a query that is given two relations. */
extern void sx_keys_end_as(SxKeys *keys, const char *name, double expected);

/* "schema.name" of a relation, quoted. */
extern char *sx_plan_relation(Oid relid);

/*
 * Appends "left = right" for two types, with the operator that the btree
 * family of the left type has, qualified; or, where it has none, with the
 * right side cast to the left type.
 */
extern void sx_plan_equal(StringInfo sql, const char *left, Oid left_type,
						  const char *right, Oid right_type);

#endif							/* SYNC_EXT_PLAN_H */
