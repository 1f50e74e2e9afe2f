/*-------------------------------------------------------------------------
 *
 * pull.h
 *		Changes of many domains in one snapshot, as JSON.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_PULL_H
#define SYNC_EXT_PULL_H

#include "utils/jsonb.h"

/*
 * What sync.pull(request) answers, read in the active snapshot. Where the
 * request names neither a user nor a session it is for "known_user" (NULL:
 * nobody) in those domains that have an access relation. Raises
 * invalid_parameter_value where the request is malformed.
 */
extern Jsonb *sx_pull_run(Jsonb *request, const char *known_user);

#endif							/* SYNC_EXT_PULL_H */
