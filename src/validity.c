/*-------------------------------------------------------------------------
 *
 * validity.c
 *		Whether a cursor still says something here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"

#include "sync_ext.h"
#include "catalog.h"
#include "logscan.h"
#include "tick.h"
#include "validity.h"

static const SxReset other_generation = {
	"other_generation",
	"The cursor is of another database, or of this one before it was restored, cloned or upgraded.",
	"Load anew; the cursor of this answer is of this database."
};
const SxReset sx_reset_other_question = {
	"other_question",
	"The cursor came from another domain, filter, parameters or user.",
	"Keep one cursor for each question."
};
static const SxReset other_history = {
	"other_history",
	"The client has seen changes that this server lost in a failover or a crash.",
	"Load anew; what was lost cannot be told apart."
};
static const SxReset pruned = {
	"pruned",
	"The log no longer reaches back to the cursor.",
	"Ask more often, or call sync.prune() with a longer interval."
};
static const SxReset marker = {
	"marker",
	"The table was truncated, tracked anew or altered, or reset on purpose.",
	"Load anew."
};
static const SxReset unknown_time = {
	"unknown_time",
	"The time is later than any that this server has handed out.",
	"Give the time that the last answer contained, not a clock's."
};

static void
retry(const char *detail, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("snapshot is older than what the cursor has seen"),
			 errdetail("%s", detail),
			 errhint("%s", hint)));
}

void
sx_validity_check_snapshot(const SxSnapshot *now, const SxSnapshot *seen)
{
	if (!sx_snapshot_contains(now, seen))
		retry(RecoveryInProgress() ?
			  "This standby has not replayed all of it." :
			  "The transaction began before the cursor was made.",
			  RecoveryInProgress() ?
			  "Call sync.wait_for() with the cursor in a statement before, or ask the primary." :
			  "Ask again in a new transaction.");
}

/* Turns a time into the tick it stands for. */
static const SxReset *
resolve_time(SxCursor *cursor, Snapshot snapshot)
{
	TimestampTz newest;
	SxSnapshot *tick;

	if (!sx_tick_newest(snapshot, &newest) || cursor->time > newest)
	{
		if (RecoveryInProgress())
			retry("This standby does not know the time yet.",
				  "Ask again later, or ask the primary.");
		return &unknown_time;
	}
	tick = sx_tick_find(snapshot, cursor->time);
	if (tick == NULL)
		return &pruned;
	cursor->seen = *tick;
	return NULL;
}

const SxReset *
sx_validity_of_cursor(SxCursor *cursor, Snapshot snapshot)
{
	if (cursor->is_time)
		return resolve_time(cursor, snapshot);
	if (cursor->generation != sx_catalog_get()->generation_id)
		return &other_generation;
	switch (sx_history_of(cursor->timeline, cursor->lsn))
	{
		case SX_HISTORY_SHARED:
			return NULL;
		case SX_HISTORY_OTHER:
			return &other_history;
		case SX_HISTORY_BEHIND:
			retry("This standby has not replayed the WAL up to the cursor.",
				  "Call sync.wait_for() with the cursor in a statement before, or ask the primary.");
	}
	return NULL;
}

bool
sx_validity_has_marker(SxTable *table, const SxSnapshot *seen,
					   Snapshot snapshot, const SxSnapshot *now, uint64 own)
{
	uint64		newest = sx_logscan_newest_marker(table->root, snapshot, now,
												  sx_snapshot_xmin(seen));

	if (own != 0 && sx_logscan_has_marker(table->root, snapshot, own))
		return true;
	if (newest == 0)
		return false;
	if (newest >= seen->xmax)
		return true;
	for (int i = 0; i < seen->nxip; i++)
		if (sx_snapshot_has(now, seen->xip[i]) &&
			sx_logscan_has_marker(table->root, snapshot, seen->xip[i]))
			return true;
	return false;
}

const SxReset *
sx_validity_of_log(SxTable *table, const SxSnapshot *seen, Snapshot snapshot,
				   const SxSnapshot *now, uint64 own)
{
	if (sx_snapshot_xmin(seen) < sx_logscan_pruned_below(table->root, snapshot))
		return &pruned;
	if (sx_validity_has_marker(table, seen, snapshot, now, own))
		return &marker;
	return NULL;
}
