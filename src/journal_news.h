/*-------------------------------------------------------------------------
 *
 * journal_news.h
 *		What is new in the streams, for those who wake others.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_JOURNAL_NEWS_H
#define SYNC_EXT_JOURNAL_NEWS_H

#include "utils/snapshot.h"

#include "news.h"

/*
 * News of the domain of entries, SX_ENTRIES_DOMAIN, as sx_news_since() tells
 * those of a table; NULL where there are none.
 */
extern SxNews *sx_journal_news_since(const SxSnapshot *seen,
									 Snapshot snapshot,
									 const SxSnapshot *now, bool with_scopes,
									 int max_keys, SxDurable *durable);

/* An entry or a snapshot as events name it: a JSON object. */
extern char *sx_journal_news_key(const char *stream, const char *id);

#endif							/* SYNC_EXT_JOURNAL_NEWS_H */
