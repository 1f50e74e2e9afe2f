/*-------------------------------------------------------------------------
 *
 * journal_ids.h
 *		The ids of a stream as a set that can be compared over a wire.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_JOURNAL_IDS_H
#define SYNC_EXT_JOURNAL_IDS_H

#include "utils/snapshot.h"

#include "reconset.h"

/* What an id of any form enters the set as: SHA-256 of its UTF-8 bytes. */
extern void sx_journal_ids_hash(const char *id, Size len, uint8 *hash);

/*
 * Entries with these hashes, SX_RECONSET_ID_SIZE bytes each and n of them,
 * were inserted by the current command or one before it. The stream's lock is
 * held. Mostly this looks at the hashes; now and then it adds what is new to
 * the stream's sums.
 */
extern void sx_journal_ids_appended(int32 stream_id, const uint8 *hashes,
									int n);

/*
 * Entries were deleted: makes the stream's sums from what is there. The
 * stream's lock is held.
 */
extern void sx_journal_ids_rebuild(int32 stream_id);

/*
 * The ids of a stream's entries, as this snapshot sees them, with timestamp 0
 * each. Lives in a memory context below the current one; close it to free
 * that. What is read of the stream is what is asked of the set.
 */
extern SxReconsetSource *sx_journal_ids_open(int32 stream_id,
											 Snapshot snapshot);
extern void sx_journal_ids_close(SxReconsetSource *source);

#endif							/* SYNC_EXT_JOURNAL_IDS_H */
