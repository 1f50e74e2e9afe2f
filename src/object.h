/*-------------------------------------------------------------------------
 *
 * object.h
 *		Building JSON objects of which there are many.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_OBJECT_H
#define SYNC_EXT_OBJECT_H

#include "utils/jsonb.h"

/* As many as the columns of a key, and more than a result has. */
#define SX_OBJECT_MEMBERS INDEX_MAX_KEYS

/* An object that is being built. Begin with n = 0. */
typedef struct SxObject
{
	int			n;
	JsonbPair	pairs[SX_OBJECT_MEMBERS];
} SxObject;

/* Room for the members of finished objects; begin with zeroes. */
typedef struct SxObjectPool
{
	JsonbPair  *pairs;
	int			left;
} SxObjectPool;

/* Members, each name once. Names and values must last as long as the object. */
extern void sx_object_add(SxObject *object, const char *name,
						  const JsonbValue *value);

/* Nothing is added for NULL. */
extern void sx_object_add_text(SxObject *object, const char *name,
							   const char *text);
extern void sx_object_add_json(SxObject *object, const char *name,
							   Jsonb *json);

/*
 * The object as a value that JsonbValueToJsonb() takes, also as a part of
 * another one; in the current memory context.
 */
extern JsonbValue sx_object_finish(SxObject *object, SxObjectPool *pool);

#endif							/* SYNC_EXT_OBJECT_H */
