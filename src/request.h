/*-------------------------------------------------------------------------
 *
 * request.h
 *		Reading the members of a JSON request, and saying what is wrong.
 *
 * A path names a place in the request, as in "domains.project"; the empty one
 * is the request itself.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_REQUEST_H
#define SYNC_EXT_REQUEST_H

#include "utils/array.h"
#include "utils/jsonb.h"

/* Raises invalid_parameter_value: this place of the request "is ...". */
extern _Noreturn void sx_request_malformed(const char *path, const char *problem,
										   const char *hint);

/* The path of a member, in the current memory context. */
extern char *sx_request_path(const char *path, const char *name);

/* A member of an object; NULL where it is not there, and where it is null. */
extern JsonbValue *sx_request_member(JsonbContainer *object, const char *name);

/* Whether an object has a member of this name, be it null. */
extern bool sx_request_has(JsonbContainer *object, const char *name);

/*
 * Takes an object apart: values[i] is the member known[i], of type jbvNull
 * where it is not there. False where it has a member that is not in the list,
 * which ends with NULL; sx_request_check_members() then says which.
 */
extern bool sx_request_members(JsonbContainer *object,
							   const char *const *known, JsonbValue *values);

/*
 * Raises unless every member is one of those known, a NULL-terminated list: a
 * misspelt "filter" is no filter.
 */
extern void sx_request_check_members(JsonbContainer *object, const char *path,
									 const char *const *known);

/* Members of a certain type, or NULL; raise where they have another. */
extern char *sx_request_string(JsonbContainer *object, const char *path,
							   const char *name);
extern JsonbContainer *sx_request_object(JsonbContainer *object,
										 const char *path, const char *name);
extern JsonbContainer *sx_request_array(JsonbContainer *object,
										const char *path, const char *name);

/*
 * The member "params": an array of text, or NULL. Strings are taken as they
 * are, other values by their JSON text.
 */
extern ArrayType *sx_request_params(JsonbContainer *object, const char *path);

/* Whether a value is an object, or an array; not a container of a scalar. */
extern bool sx_request_is_object(const JsonbValue *value);
extern bool sx_request_is_array(const JsonbValue *value);

/*
 * For requests that are made here: the name of a member, and a member of text,
 * which is left out where it is NULL. The name must last until the request is
 * finished, the text is copied.
 */
extern void sx_request_put_name(JsonbParseState **state, const char *name);
extern void sx_request_put_text(JsonbParseState **state, const char *name,
								const char *text);

#endif							/* SYNC_EXT_REQUEST_H */
