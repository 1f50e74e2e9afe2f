/*-------------------------------------------------------------------------
 *
 * watch.h
 *		What the statements of a push do to tracked rows.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_WATCH_H
#define SYNC_EXT_WATCH_H

#include "mutation.h"

/* What happened to one row so far. */
typedef struct SxWatched
{
	Oid			root;
	uint64		key_hash;
	bool		direct;			/* a mutation wrote it, not only a trigger */
	bool		altered;		/* a trigger changed more than its version */
	bool		had_version;	/* false: the push made the row */
	TimestampTz first_version;	/* modified_at before the push */
	bool		has_version;	/* false: the row is gone */
	TimestampTz version;		/* modified_at now */
} SxWatched;

typedef struct SxWatch SxWatch;

/*
 * Begins to watch, in the current memory context; returns what watched before,
 * for sx_watch_end(), which has to be called on errors, too.
 */
extern SxWatch *sx_watch_begin(void);
extern void sx_watch_end(SxWatch *before);

/* How far it has come; and back to there, when a subtransaction failed. */
extern int	sx_watch_mark(void);
extern void sx_watch_back_to(int mark);

/*
 * The statement that comes next is for these mutations, each of another row
 * of one table. Those whose rows it wrote are marked so.
 */
extern void sx_watch_statement(SxMutation **mutations, int n);
extern void sx_watch_statement_done(void);

/* What happened to a row, or NULL. Valid until something more happens. */
extern const SxWatched *sx_watch_find(Oid root, uint64 key_hash);

/* All of them, one after the other; begin with *state = 0. */
extern const SxWatched *sx_watch_next(int *state);

#endif							/* SYNC_EXT_WATCH_H */
