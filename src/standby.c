/*-------------------------------------------------------------------------
 *
 * standby.c
 *		Waiting for a standby to catch up with a cursor.
 *
 * The wait is a statement of its own, before the read: the snapshot of the
 * statement that waits is too old for what it waits for.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "sync_ext.h"
#include "cursor.h"

PG_FUNCTION_INFO_V1(sync_ext_wait_for);

/* Nothing wakes us when WAL is replayed; so look this often. */
#define POLL_MILLISECONDS 5

/*
 * sync.wait_for(cursor, timeout): true once this server has what the cursor
 * has seen; at once on a primary, and for a time, which has no place in WAL.
 */
Datum
sync_ext_wait_for(PG_FUNCTION_ARGS)
{
	SxCursor   *cursor = sx_cursor_decode(PG_GETARG_BYTEA_PP(0));
	Datum		timeout = PG_GETARG_DATUM(1);
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz until = DatumGetTimestampTz(
		DirectFunctionCall2(timestamptz_pl_interval, TimestampTzGetDatum(now),
							timeout));

	if (cursor->is_time)
		PG_RETURN_BOOL(true);
	while (RecoveryInProgress())
	{
		switch (sx_history_of(cursor->timeline, cursor->lsn))
		{
			case SX_HISTORY_SHARED:
				PG_RETURN_BOOL(true);
			case SX_HISTORY_OTHER:
				/* it will never be here; the read will say so */
				PG_RETURN_BOOL(true);
			case SX_HISTORY_BEHIND:
				break;
		}
		if (GetCurrentTimestamp() >= until)
			PG_RETURN_BOOL(false);
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 POLL_MILLISECONDS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	PG_RETURN_BOOL(true);
}
