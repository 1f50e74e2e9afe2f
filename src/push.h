/*-------------------------------------------------------------------------
 *
 * push.h
 *		What a client changed while it was away.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_PUSH_H
#define SYNC_EXT_PUSH_H

#include "utils/jsonb.h"

/*
 * What sync.push(request) answers. Writes as the caller; what it wrote is
 * visible to the next snapshot that is taken. results[i] is the answer to
 * mutations[i]. Raises invalid_parameter_value where the request itself is
 * malformed; what is wrong with one mutation is that mutation's answer.
 */
extern Jsonb *sx_push_run(Jsonb *request);

#endif							/* SYNC_EXT_PUSH_H */
