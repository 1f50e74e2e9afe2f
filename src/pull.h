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
 * What sync.pull(request) answers, read in the active snapshot. Raises
 * invalid_parameter_value where the request is malformed.
 */
extern Jsonb *sx_pull_run(Jsonb *request);

#endif							/* SYNC_EXT_PULL_H */
