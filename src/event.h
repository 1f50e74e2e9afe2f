/*-------------------------------------------------------------------------
 *
 * event.h
 *		Change events: one notification for each domain that a transaction
 *		changed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_EVENT_H
#define SYNC_EXT_EVENT_H

#include "lib/stringinfo.h"

/* A notification holds less than 8000 bytes: BLCKSZ - NAMEDATALEN - 128. */
#define SX_MAX_PAYLOAD 7999

/* What one (sub)transaction did to one domain. */
typedef struct SxEvent
{
	char	   *domain;
	uint64		count;			/* changed rows */
	bool		reset;			/* a reset marker was written */
	bool		mixed;			/* changes of more than one origin */
	char	   *origin;			/* of all of them, or NULL */
	StringInfo	keys;			/* JSON, comma-separated; NULL: too many */
	struct SxEvent *next;
} SxEvent;

/* Whether the writer has to say which keys it changed. */
extern bool sx_event_wants_keys(void);

/*
 * Counts a change into a list of events, allocating in "context". "key" is
 * one JSON object, or NULL where keys are not asked for.
 */
extern void sx_event_add(SxEvent **events, MemoryContext context,
						 const char *domain, uint64 count, bool reset,
						 const char *origin, const char *key);

/* Adds the events of a subtransaction to those of its parent. */
extern void sx_event_merge(SxEvent **events, MemoryContext context,
						   const SxEvent *other);

/*
 * Queues the notifications, in the mode where writers send them. Called before a transaction commits, when it
 * changed something, and not before it is prepared: PREPARE cannot carry them.
 */
extern void sx_event_send(const SxEvent *events, uint64 xid);

/*
 * Queues one notification. "origin" is the client that made all the changes,
 * or NULL; "keys" a list of JSON objects, left out where NULL or too long.
 */
extern void sx_event_notify(const char *domain, uint64 count, uint64 xid,
							const char *origin, bool reset, const char *keys);

#endif							/* SYNC_EXT_EVENT_H */
