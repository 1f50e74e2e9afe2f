/*-------------------------------------------------------------------------
 *
 * changes.h
 *		What changed since a cursor, for a filter.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_CHANGES_H
#define SYNC_EXT_CHANGES_H

#include "datatype/timestamp.h"
#include "utils/array.h"
#include "utils/jsonb.h"

/* What sync.changes() is asked; NULL where nothing is given. */
typedef struct SxRequest
{
	const char *domain;
	bytea	   *since;
	const char *filter;
	ArrayType  *params;			/* of text */
	const char *user_id;
	const char *client;
	Jsonb	   *exclude;
	int			max_rows;		/* 0: all */
	bool		only_cursor;	/* as if all had been loaded already */
} SxRequest;

typedef enum SxChangeKind
{
	SX_CHANGE_RESET,
	SX_CHANGE_FORGET,
	SX_CHANGE_UPSERT,
	SX_CHANGE_REMOVE,
	SX_CHANGE_MORE,
	SX_CHANGE_UP_TO_DATE
} SxChangeKind;

typedef struct SxChange
{
	SxChangeKind kind;
	Jsonb	   *key;			/* UPSERT, REMOVE; FORGET: the scope */
	Jsonb	   *data;			/* UPSERT; RESET: the reason */
	bool		has_modified_at;
	TimestampTz modified_at;	/* UPSERT; UP_TO_DATE: the server time */
	bytea	   *cursor;			/* MORE, UP_TO_DATE */
} SxChange;

/* The name that a kind has in SQL. */
extern const char *sx_change_name(SxChangeKind kind);

/* Takes a change, which lives until the next. */
typedef void (*SxTakeChange) (void *arg, const SxChange *change);

/*
 * Answers a request in the active snapshot. The last change is MORE or
 * UP_TO_DATE. Raises undefined_object for an unknown domain, what the filter
 * and the parameters raise, and t_r_serialization_failure when the snapshot is
 * older than the cursor.
 */
extern void sx_changes_read(const SxRequest *request, SxTakeChange take,
							void *arg);

#endif							/* SYNC_EXT_CHANGES_H */
