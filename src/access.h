/*-------------------------------------------------------------------------
 *
 * access.h
 *		Who may see which scopes of a domain.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_ACCESS_H
#define SYNC_EXT_ACCESS_H

#include "utils/snapshot.h"

#include "cursor.h"
#include "scopes.h"
#include "tracked.h"

/* The access relation of a domain. */
typedef struct SxAccess
{
	SxTable    *domain;			/* the table that it rules */
	Oid			via;
	bool		is_table;		/* tracked; else a view */
	SxTable    *table;			/* its entry; NULL for a view */
	char	   *user_column;
	Oid			user_type;
	char	  **scope_columns;	/* in the order of the domain's scope */
	int		   *places;			/* tables: of these in their own scope */
} SxAccess;

/*
 * The access relation of a domain, in the current memory context, or NULL
 * where it has none. Raises object_not_in_prerequisite_state where DDL has
 * made it unusable.
 */
extern SxAccess *sx_access_find(SxTable *domain);

/*
 * The same, but an unusable one is returned as far as it was found out, and
 * *problem says what is wrong; else it is NULL.
 */
extern SxAccess *sx_access_try(SxTable *domain, const char **problem);

/*
 * The access relation of a domain for which a user is named. Raises
 * invalid_parameter_value where it has none: then the user means nothing.
 */
extern SxAccess *sx_access_for(SxTable *domain, const char *user_id);

/* The user's value for the user column, by the type's input function. */
extern Datum sx_access_user(SxAccess *access, const char *user_id);

/* What an access relation says of a user. */
typedef struct SxRights SxRights;

/*
 * Reads a user's rights in the active snapshot, into the current memory
 * context. Grants and revocations are those that are new to "seen", the
 * reader's own included; NULL: none are asked for. A table is read as its
 * owner, for whom row security is off, after the caller's right to SELECT it
 * was checked; a view is read as the caller. Raises insufficient_privilege.
 */
extern SxRights *sx_access_read(SxAccess *access, Datum user,
								const SxSnapshot *seen, Snapshot snapshot,
								const SxSnapshot *now, uint64 own);

/* The scopes that the user may see in S. */
extern const SxScopes *sx_rights_now(const SxRights *rights);

/* Those that grants or revocations have touched; none for a view. */
extern const SxScopes *sx_rights_touched(const SxRights *rights);

/* Of what the user may see, for a view; 0 for a table. */
extern uint64 sx_rights_hash(const SxRights *rights);

/*
 * Those that grants or revocations have touched that "target" does not have,
 * the reader's own among them. NULL: none, for there is nothing after those.
 */
extern const SxScopes *sx_rights_touched_later(const SxRights *rights,
											   const SxSnapshot *target);

/* What grants and revocations of one round did. */
typedef struct SxGrants
{
	SxScopes   *forget;			/* the user had them before */
	SxScopes   *load;			/* the user has them now, and perhaps had not */
} SxGrants;

/*
 * The grants and revocations of transactions that "target" has and "seen" has
 * not; or, with target NULL, of the reader's own transaction. "later" are the
 * scopes that are touched after it: those are loaded then. The rights were read
 * with the same "seen". With "forget_loaded" what is to be loaded is forgotten
 * first, since the client may hold some of it.
 */
extern SxGrants *sx_rights_round(const SxRights *rights,
								 const SxSnapshot *seen,
								 const SxSnapshot *target,
								 const SxScopes *later, bool forget_loaded);

#endif							/* SYNC_EXT_ACCESS_H */
