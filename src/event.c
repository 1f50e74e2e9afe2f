/*-------------------------------------------------------------------------
 *
 * event.c
 *		Change events: one notification for each domain that a transaction
 *		changed.
 *
 * An event is a hint; the log is the truth. So an event may be missing (a
 * prepared transaction sends none) and says little: the domain, how many rows,
 * the transaction, whose changes they all are, and, where a setting asks for
 * it, which keys. It carries no data, since LISTEN knows no rights.
 *
 * Who sends it is a matter of sync.notify: the writer, before it commits, or
 * the worker, which finds in the log what has committed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "commands/async.h"
#include "utils/json.h"
#include "utils/memutils.h"

#include "sync_ext.h"
#include "event.h"
#include "guc.h"

bool
sx_event_wants_keys(void)
{
	return sx_guc_notify_keys && sx_guc_notify == SX_NOTIFY_COMMIT;
}

static SxEvent *
find_or_make(SxEvent **events, MemoryContext context, const char *domain,
			 bool *made)
{
	SxEvent    *event;
	MemoryContext old;

	*made = false;
	for (event = *events; event != NULL; event = event->next)
		if (strcmp(event->domain, domain) == 0)
			return event;

	old = MemoryContextSwitchTo(context);
	event = palloc0(sizeof(SxEvent));
	event->domain = pstrdup(domain);
	if (sx_event_wants_keys())
		event->keys = makeStringInfo();
	MemoryContextSwitchTo(old);
	event->next = *events;
	*events = event;
	*made = true;
	return event;
}

static void
add_origin(SxEvent *event, MemoryContext context, const char *origin,
		   bool mixed, bool first)
{
	if (first)
	{
		event->mixed = mixed;
		event->origin = origin == NULL ? NULL :
			MemoryContextStrdup(context, origin);
		return;
	}
	if (mixed ||
		(origin == NULL) != (event->origin == NULL) ||
		(origin != NULL && strcmp(origin, event->origin) != 0))
		event->mixed = true;
}

static void
add_keys(SxEvent *event, const char *keys)
{
	if (event->keys == NULL)
		return;
	if (keys == NULL || event->keys->len + strlen(keys) > SX_MAX_PAYLOAD)
	{
		event->keys = NULL;
		return;
	}
	if (event->keys->len > 0 && *keys != '\0')
		appendStringInfoChar(event->keys, ',');
	appendStringInfoString(event->keys, keys);
}

void
sx_event_add(SxEvent **events, MemoryContext context, const char *domain,
			 uint64 count, bool reset, const char *origin, const char *key)
{
	bool		first;
	SxEvent    *event = find_or_make(events, context, domain, &first);

	event->count += count;
	event->reset = event->reset || reset;
	if (count > 0)
		add_origin(event, context, origin, false,
				   first || event->count == count);
	if (key != NULL || count > 0)
		add_keys(event, key);
}

void
sx_event_merge(SxEvent **events, MemoryContext context, const SxEvent *other)
{
	for (; other != NULL; other = other->next)
	{
		bool		first;
		SxEvent    *event = find_or_make(events, context, other->domain, &first);

		event->count += other->count;
		event->reset = event->reset || other->reset;
		if (other->count > 0)
		{
			add_origin(event, context, other->origin, other->mixed,
					   event->count == other->count);
			add_keys(event, other->keys == NULL ? NULL : other->keys->data);
		}
	}
}

void
sx_event_notify(const char *domain, uint64 count, uint64 xid,
				const char *origin, bool reset, const char *keys)
{
	StringInfoData payload;

	initStringInfo(&payload);
	appendStringInfoString(&payload, "{\"domain\":");
	escape_json(&payload, domain);
	appendStringInfo(&payload,
					 ",\"count\":" UINT64_FORMAT ",\"xid\":" UINT64_FORMAT,
					 count, xid);
	appendStringInfoString(&payload, ",\"origin\":");
	if (origin == NULL)
		appendStringInfoString(&payload, "null");
	else
		escape_json(&payload, origin);
	if (reset)
		appendStringInfoString(&payload, ",\"reset\":true");
	if (keys != NULL && *keys != '\0' &&
		payload.len + strlen(keys) + strlen(",\"keys\":[]}") <= SX_MAX_PAYLOAD)
		appendStringInfo(&payload, ",\"keys\":[%s]", keys);
	appendStringInfoChar(&payload, '}');
	Async_Notify(sx_guc_channel, payload.data);
	pfree(payload.data);
}

void
sx_event_send(const SxEvent *events, uint64 xid)
{
	if (sx_guc_notify != SX_NOTIFY_COMMIT)
		return;

	for (; events != NULL; events = events->next)
		sx_event_notify(events->domain, events->count, xid,
						events->mixed ? NULL : events->origin, events->reset,
						events->keys == NULL ? NULL : events->keys->data);
}
