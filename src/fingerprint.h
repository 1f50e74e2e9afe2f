/*-------------------------------------------------------------------------
 *
 * fingerprint.h
 *		The hash of a row's key and version, that clients can compute.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_FINGERPRINT_H
#define SYNC_EXT_FINGERPRINT_H

/*
 * The hash of the bytes that stand for a row: FNV-1a with 64 bits, and the
 * finalizer of MurmurHash3 upon it.
 */
extern uint64 sx_fingerprint_hash(const char *bytes, int length);

#endif							/* SYNC_EXT_FINGERPRINT_H */
