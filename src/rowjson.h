/*-------------------------------------------------------------------------
 *
 * rowjson.h
 *		Rows and keys as JSON objects, to and fro.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_ROWJSON_H
#define SYNC_EXT_ROWJSON_H

#include "lib/stringinfo.h"
#include "utils/jsonb.h"

#include "tracked.h"

/* What is known of a row type, so that it need not be asked for each row. */
typedef struct SxShape SxShape;

/* For rows of this type, in the current memory context, which must last. */
extern SxShape *sx_rowjson_shape(TupleDesc desc);

/* The row as to_jsonb() makes it, in the current memory context. */
extern Jsonb *sx_rowjson_row(SxShape *shape, HeapTupleHeader row);

/* Values as {"column": value, ...}, in the current memory context. */
extern Jsonb *sx_rowjson_columns(int n, SxColumn *columns,
								 const Datum *values);

/* The same into an object that is being built. */
extern void sx_rowjson_push_columns(JsonbParseState **state, int n,
									SxColumn *columns, const Datum *values);

/* One value, in the current memory context; it may be a packed container. */
extern void sx_rowjson_value(JsonbValue *value, Datum datum, Oid type);

/* The same for a key. */
extern Jsonb *sx_rowjson_key(SxTable *table, const Datum *key);

/* The same as text. */
extern char *sx_rowjson_key_text(SxTable *table, const Datum *key);

/*
 * Appends what a client has for a value: a string as it is, anything else as
 * its JSON text.
 */
extern void sx_rowjson_append_value(StringInfo text, Datum value, Oid type);

/*
 * Reads the key out of an object, other members being ignored. Raises
 * invalid_parameter_value where a column is missing or null, naming "what",
 * and what the type's input raises where a value is not of its type.
 */
extern void sx_rowjson_parse_key(SxTable *table, JsonbContainer *object,
								 const char *what, Datum *key);

/* A member of an object as text; NULL where it is missing or null. */
extern char *sx_rowjson_member(JsonbContainer *object, const char *name);

#endif							/* SYNC_EXT_ROWJSON_H */
