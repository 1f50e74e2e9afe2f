/*-------------------------------------------------------------------------
 *
 * route.h
 *		Which connected clients must hear of what.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_ROUTE_H
#define SYNC_EXT_ROUTE_H

#include "nodes/pg_list.h"
#include "utils/snapshot.h"

#include "cursor.h"

/* A client that must fetch a domain. */
typedef struct SxAffected
{
	char	   *client;
	char	   *user_id;
	char	   *domain;
} SxAffected;

/* Takes one, which lives until the next. */
typedef void (*SxTakeAffected) (void *arg, const SxAffected *affected);

/*
 * Names the clients that transactions new to "since" concern, NULL: all of
 * them, in the active snapshot; only those of one application server where
 * that is given. Returns the cursor to go on from, in the current memory
 * context. Raises object_not_in_prerequisite_state where the server is not
 * known, feature_not_supported on a standby, and t_r_serialization_failure
 * when the snapshot is older than the cursor.
 */
extern bytea *sx_route_affected(bytea *since, const char *server,
								SxTakeAffected take, void *arg);

#endif							/* SYNC_EXT_ROUTE_H */
