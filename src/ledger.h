/*-------------------------------------------------------------------------
 *
 * ledger.h
 *		Which clients there are, and what they have pushed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_LEDGER_H
#define SYNC_EXT_LEDGER_H

#include "mutation.h"

typedef struct SxDevice
{
	int64		number;
	char	   *client;
	char	   *user_id;		/* NULL: not known */
	char	   *last_sync;		/* NULL: none */
	int64		next_seq;		/* the first of those that were taken */
	int64		touch_place;	/* of rows that are touched beside */
} SxDevice;

/*
 * Locks a client's row until the transaction ends, making it where it is new,
 * and takes "n" numbers for its mutations. What one client sends at the same
 * time goes one after the other, therefore. Raises insufficient_privilege
 * where the client is another role's or another user's.
 */
extern void sx_ledger_claim(SxDevice *device, const char *client,
							const char *user_id, int n);

/* The same without the lock; false where the client is not known. */
extern bool sx_ledger_find(SxDevice *device, const char *client);

/*
 * Finds those that were pushed before: applied ones become duplicates, those
 * that were refused get back their number.
 */
extern void sx_ledger_recall(const SxDevice *device, SxMutation **mutations,
							 int n);

/* A client's last write to a row. */
typedef struct SxOwnWrite
{
	bool		found;
	bool		has_known_from;	/* else it wrote the row itself */
	TimestampTz known_from;
	bool		has_version;	/* else the row went with it */
	TimestampTz version;
} SxOwnWrite;

/* Last writes to rows of tables, n of each. */
extern void sx_ledger_own_writes(const SxDevice *device, int n,
								 const Oid *roots, const uint64 *key_hashes,
								 SxOwnWrite *writes);

/* Whether one with a higher number was applied to the row. */
extern bool sx_ledger_is_superseded(const SxDevice *device, Oid root,
									uint64 key_hash, int64 seq);

/* Whether a push of this client in that transaction wrote or touched the row. */
extern bool sx_ledger_wrote(const SxDevice *device, Oid root, uint64 key_hash,
							uint64 xid);

/* The transactions in which this client pushed, newest first. */
extern uint64 *sx_ledger_xids(const SxDevice *device, int *n);

/*
 * Remembers what was done: each mutation, and the rows that were touched
 * beside, as sx_watch has them.
 */
extern void sx_ledger_remember(const SxDevice *device, SxMutation **mutations,
							   int n);

#endif							/* SYNC_EXT_LEDGER_H */
