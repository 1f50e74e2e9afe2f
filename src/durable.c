/*-------------------------------------------------------------------------
 *
 * durable.c
 *		What is shown to a client must be on disk.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "storage/lwlock.h"

#include "sync_ext.h"
#include "cursor.h"
#include "durable.h"

void
sx_durable_note(SxDurable *durable, uint64 xid)
{
	if (durable->nxids > 0 && durable->xids[durable->nxids - 1] == xid)
		return;
	if (durable->nxids == durable->room)
	{
		durable->room = Max(64, durable->room * 2);
		durable->xids = durable->xids == NULL ?
			palloc(sizeof(uint64) * durable->room) :
			repalloc_huge(durable->xids, sizeof(uint64) * durable->room);
	}
	durable->xids[durable->nxids++] = xid;
}

/*
 * The end of what is in WAL. Where the last record ended exactly at a page the
 * insert position lies behind the next page's header, which is not there yet,
 * and cannot be flushed.
 */
static XLogRecPtr
wal_end(void)
{
	XLogRecPtr	position = GetXLogInsertRecPtr();

	if (XLogSegmentOffset(position, wal_segment_size) == SizeOfXLogLongPHD)
		return position - SizeOfXLogLongPHD;
	if (position % XLOG_BLCKSZ == SizeOfXLogShortPHD)
		return position - SizeOfXLogShortPHD;
	return position;
}

/* The end of the last commit record among them. */
static XLogRecPtr
commits_end(SxDurable *durable)
{
	XLogRecPtr	end = InvalidXLogRecPtr;
	uint64		oldest;

	/* Where the commit log was truncated all was flushed long ago. */
	LWLockAcquire(XactTruncationLock, LW_SHARED);
	oldest = sx_full_xid(sx_oldest_clog_xid());
	for (int i = 0; i < durable->nxids; i++)
	{
		XLogRecPtr	lsn;

		if (durable->xids[i] < oldest)
			continue;
		lsn = TransactionIdGetCommitLSN((TransactionId) durable->xids[i]);
		if (lsn > end)
			end = lsn;
	}
	LWLockRelease(XactTruncationLock);
	return end;
}

void
sx_durable_flush(SxDurable *durable, bool everything)
{
	XLogRecPtr	upto;

	if (RecoveryInProgress() || (!everything && durable->nxids == 0))
		return;
	upto = everything ? wal_end() : commits_end(durable);
	if (upto != InvalidXLogRecPtr && upto > sx_flushed_lsn())
		XLogFlush(upto);
}
