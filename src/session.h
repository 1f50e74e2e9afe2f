/*-------------------------------------------------------------------------
 *
 * session.h
 *		Sync sessions, and provisional keys.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_SESSION_H
#define SYNC_EXT_SESSION_H

#include "ledger.h"
#include "mutation.h"

typedef struct SxSession
{
	char	   *client;
	char	   *user_id;
	char	   *last_sync;		/* NULL: none */
	int64		offset;			/* server's clock - device's, in microseconds */
} SxSession;

/*
 * An open session, by its id. Raises undefined_object where there is none, and
 * insufficient_privilege where it is another role's, or not the client's or
 * the user's that were named; NULL: nobody was.
 */
extern void sx_session_get(SxSession *session, const char *id,
						   const char *client, const char *user_id);

/*
 * Says that the session is in use, after its client was claimed: so it is open
 * until the transaction ends. Raises undefined_object where it was ended since
 * it was looked up. "offset", where not NULL, is what was measured now.
 */
extern void sx_session_use(const char *id, const int64 *offset);

/* The provisional keys of a client, with those that a push brings. */
typedef struct SxLocalIds SxLocalIds;

/*
 * Those that are remembered of a client, as far as the mutations that are still
 * open may mean them: it may have more than fit. In the current memory context.
 */
extern SxLocalIds *sx_session_local_ids(const SxDevice *device,
										SxMutation **mutations, int n);

/*
 * Makes the real key of a mutation whose key is provisional, or takes the one
 * that it got before. All of a batch come first, as any of them may refer to a
 * later one.
 */
extern void sx_session_assign(SxLocalIds *ids, SxMutation *mutation);

/*
 * Puts real keys in the place of provisional ones: in the mutation's own key,
 * and in what refers to other rows by a foreign key.
 */
extern void sx_session_rewrite(SxLocalIds *ids, SxMutation *mutation);

/* Remembers the keys of those that were applied, now or before. */
extern void sx_session_remember(const SxDevice *device, SxMutation **mutations,
								int n);

/* [{"local_id", "key"}, ...] of a domain, appended as JSON; none: nothing. */
extern void sx_session_append_local_ids(StringInfo out, const char *client,
										const char *domain);

#endif							/* SYNC_EXT_SESSION_H */
