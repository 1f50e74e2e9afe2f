/*-------------------------------------------------------------------------
 *
 * news.h
 *		What is new in all logs and streams, for those who wake others: which
 *		domains, in which scopes, and whose changes they were.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_NEWS_H
#define SYNC_EXT_NEWS_H

#include "lib/stringinfo.h"
#include "nodes/pg_list.h"
#include "utils/snapshot.h"

#include "cursor.h"
#include "durable.h"
#include "tracked.h"

/* News of one scope: one combination of values of the scope columns. */
typedef struct SxNewsScope
{
	Datum	   *values;			/* table->nscopes of them */
	bool	   *nulls;
	bool		membership;		/* more than updates in place: rows came or
								 * went, or moved */

	/*
	 * The client that need not be told, or NULL: it made all these changes,
	 * and none of them moved a row into the scope or out of it, which the
	 * author may have to learn from the server.
	 */
	const char *author;
} SxNewsScope;

/* News of one domain. */
typedef struct SxNews
{
	SxTable    *table;
	bool		reset;			/* a new marker, or the log was pruned: the
								 * log's entries were not looked at */
	uint64		count;			/* changed rows */
	uint64		xid;			/* the newest transaction */
	const char *origin;			/* of all of them, or NULL */
	StringInfo	keys;			/* JSON, comma-separated; NULL: not asked for,
								 * or too many */
	int			nscopes;		/* 0 where they were not asked for */
	SxNewsScope *scopes;
} SxNews;

/*
 * What transactions have logged, or stored in streams, that "now", the snapshot as a set, has and
 * "seen" has not; a list of SxNews in the current memory context, without the
 * domains that have no news. The reader's own transaction does not count: it
 * may yet roll back. Each domain without news costs three probes of an index;
 * with news, a step for each log row, not for each key that it names.
 *
 * "max_keys" is how many bytes of JSON may name the changed keys, 0 for none.
 * The transactions that were examined are noted in "durable".
 */
extern List *sx_news_since(const SxSnapshot *seen, Snapshot snapshot,
						   const SxSnapshot *now, bool with_scopes,
						   int max_keys, SxDurable *durable);

#endif							/* SYNC_EXT_NEWS_H */
