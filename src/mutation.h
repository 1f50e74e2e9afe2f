/*-------------------------------------------------------------------------
 *
 * mutation.h
 *		One change that a client asks for, and what became of it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_MUTATION_H
#define SYNC_EXT_MUTATION_H

#include "datatype/timestamp.h"
#include "utils/elog.h"
#include "utils/jsonb.h"

#include "tracked.h"

/*
 * The longest id of a mutation, and the longest provisional key, in bytes.
 * They stand in indexes, whose entries are short.
 */
#define SX_MUTATION_ID_LENGTH 255

typedef enum SxMutationOp
{
	SX_MUTATION_INSERT,
	SX_MUTATION_UPDATE,
	SX_MUTATION_UPSERT,
	SX_MUTATION_DELETE
} SxMutationOp;

typedef enum SxStatus
{
	SX_STATUS_OPEN,				/* not yet decided */
	SX_STATUS_APPLIED,
	SX_STATUS_DUPLICATE,		/* was applied before */
	SX_STATUS_SUPERSEDED,		/* a later one of its key was */
	SX_STATUS_CONFLICT,
	SX_STATUS_REJECTED,
	SX_STATUS_RETRY
} SxStatus;

/* Why a mutation was refused. */
typedef struct SxRefusal
{
	int			sqlstate;
	char	   *message;
	char	   *detail;
	char	   *hint;
	char	   *path;			/* of the place in the request */
} SxRefusal;

/* A row's columns, by attribute number - 1. */
typedef struct SxValues
{
	Datum	   *values;
	bool	   *nulls;
} SxValues;

typedef struct SxMutation
{
	/* what was asked for */
	int			number;			/* its place in the request */
	JsonbContainer *object;
	char	   *id;				/* NULL: none */
	JsonbValue	given_id;		/* as it was given; null: none */
	uint64		digest;			/* of id, op, domain, key and data; 0: unknown */
	char	   *domain;
	SxMutationOp op;
	SxTable    *table;
	Jsonb	   *key_json;		/* as given, provisional keys replaced */
	Jsonb	   *data_json;
	Jsonb	   *assumed_json;
	bool		pending;		/* its key is provisional */
	char	   *local_id;
	bool		was_made;		/* in an earlier push: if it is gone, it went */
	bool		has_base;
	TimestampTz base;			/* the modified_at that the client knew */
	bool		has_at;
	TimestampTz at;				/* when the client made it, by our clock */

	/* the same, in the table's types */
	bool		has_key;		/* else a trigger of the table makes it */
	bool		key_made;		/* the server made it: the answer tells */
	Datum	   *key;
	uint64		key_hash;
	bool		moves;			/* it changes its own key */
	Bitmapset  *columns;		/* that it sets */
	SxValues	row;
	Bitmapset  *assumed_columns;	/* of the row that the client assumed */
	SxValues	assumed;

	/* how it was dealt with */
	SxStatus	status;
	Bitmapset  *sets;			/* the columns that the statement sets */
	bool		recalled;		/* applied before ... */
	Jsonb	   *recalled_key;	/* to a row with a key that the server made */
	bool		remembered;		/* refused before: "seq" is from then */
	int64		seq;
	SxRefusal	refusal;
	bool		tell;			/* the answer holds the row */
	bool		written;		/* a row changed for it */
	bool		trigger_key;	/* it came without a key; a trigger made it */
	bool		gone;			/* after it there is no row */
	Datum	   *new_key;		/* where it is not the one above */
	uint64		new_key_hash;
	bool		has_modified_at;
	TimestampTz modified_at;
	Jsonb	   *data;			/* the row, for the answer */
} SxMutation;

/* The name that a status has in answers. */
extern const char *sx_mutation_status(SxStatus status);

/*
 * Reads what a mutation asks for, as far as no type of the table is needed.
 * Raises invalid_parameter_value where it is malformed, naming the path, and
 * undefined_object for an unknown domain. "skew" is what brings the client's
 * times to our clock, in microseconds.
 */
extern void sx_mutation_read(SxMutation *mutation, int64 skew);

/*
 * Converts its values to the table's types, in the current memory context.
 * Raises what input functions raise, and undefined_column.
 */
extern void sx_mutation_convert(SxMutation *mutation);

/*
 * Raises a serialization failure where the table's columns are not those any
 * more for which the values were converted.
 */
extern void sx_mutation_check_table(SxTable *table);

/*
 * Makes the key of a new row that came without one, by the defaults of its
 * columns. False where a column has none: a trigger of the table may make it.
 */
extern bool sx_mutation_make_key(SxMutation *mutation);

/*
 * The path of the value on which sx_mutation_convert() fails, after it did.
 * Each value is tried in a subtransaction of its own.
 */
extern char *sx_mutation_blame(SxMutation *mutation);

/* Makes a refusal of an error, in the current memory context. */
extern void sx_mutation_refuse(SxMutation *mutation, ErrorData *error,
							   const char *path);

/* Gives it a key; the hash goes with it. In the current memory context. */
extern void sx_mutation_set_key(SxMutation *mutation, const Datum *key);

/*
 * The key that its row has, or gets, where that is not the same to a client;
 * returns whether it is not. In the current memory context.
 */
extern bool sx_mutation_set_new_key(SxMutation *mutation, const Datum *key,
									uint64 key_hash);

/* A hash of a key, the same for keys that are equal. */
extern uint64 sx_mutation_hash_key(SxTable *table, const Datum *key);

/* The key after the mutation. */
extern Datum *sx_mutation_final_key(SxMutation *mutation);
extern uint64 sx_mutation_final_hash(SxMutation *mutation);

/*
 * Columns of the key that the server makes when a row comes without them, as
 * a set of places in the key.
 */
extern Bitmapset *sx_mutation_made_columns(SxTable *table);

/* Evaluates the default of a key column, as the caller. */
extern Datum sx_mutation_make_column(SxTable *table, int place);

/*
 * What conversions need to know of a table is kept in this context, from now
 * on; returns the one before. A push says so when it begins, and gives the
 * former back when it ends.
 */
extern MemoryContext sx_mutation_keep_in(MemoryContext context);

#endif							/* SYNC_EXT_MUTATION_H */
