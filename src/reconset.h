/*-------------------------------------------------------------------------
 *
 * reconset.h
 *		Range-based set reconciliation: two sides find out in which ids they
 *		differ, for a cost that follows the differences.
 *
 * The wire format is version 1 of the Negentropy protocol. Nothing here knows
 * of SQL, or where the ids are kept, and neither side keeps anything between
 * two messages. Like the server's own src/common, this compiles in a program
 * outside of the server, too (-DFRONTEND): the tests and the fuzzer do that.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_RECONSET_H
#define SYNC_EXT_RECONSET_H

#include "lib/stringinfo.h"

#define SX_RECONSET_ID_SIZE 32
#define SX_RECONSET_VERSION 0x61	/* version 1 */

/* A frame limit has to leave room for a message that gets somewhere. */
#define SX_RECONSET_MIN_FRAME 4096

/* "No limit" is this: what follows comes with the next message. */
#define SX_RECONSET_MAX_FRAME (64 * 1024 * 1024)

/* The timestamp of the bound above everything; no item's. */
#define SX_RECONSET_INFINITY PG_UINT64_MAX

/* An item of a set, or a bound between items; ordered by both fields. */
typedef struct SxReconsetItem
{
	uint64		timestamp;
	uint8		id[SX_RECONSET_ID_SIZE];
} SxReconsetItem;

/* Ids added up as little-endian numbers modulo 2^256, lowest word first. */
typedef struct SxReconsetSum
{
	uint64		word[4];
} SxReconsetSum;

/*
 * The set of one side, as its owner keeps it: "count" items in order, each
 * with a rank from 0. Must not change while a message is worked on.
 */
typedef struct SxReconsetSource SxReconsetSource;
struct SxReconsetSource
{
	uint64		count;

	/* The item with that rank, below count. */
	void		(*item) (SxReconsetSource *source, uint64 rank,
						 SxReconsetItem *item);

	/* The rank of the first item that is not below the bound, or count. */
	uint64		(*lower_bound) (SxReconsetSource *source,
								const SxReconsetItem *bound);

	/* The sum of the ids with ranks from "from" to below "to". */
	void		(*sum) (SxReconsetSource *source, uint64 from, uint64 to,
						SxReconsetSum *sum);

	/* SHA-256; the place where it lives differs between the users. */
	void		(*sha256) (SxReconsetSource *source, const uint8 *data,
						   size_t len, uint8 *digest);
};

typedef enum SxReconsetResult
{
	SX_RECONSET_ANSWERED,		/* send what was written */
	SX_RECONSET_DONE,			/* the initiator knows all: nothing to send */
	SX_RECONSET_UNKNOWN_VERSION,	/* the responder writes which it knows */
	SX_RECONSET_MALFORMED		/* the message is none; nothing was written */
} SxReconsetResult;

/*
 * What the initiator learns: it alone has the id, or it needs it. Where frame
 * limits cut messages, it may be told so again: a cut reaches over ranges that
 * were settled before.
 */
typedef void (*SxReconsetFound) (void *arg, bool have, const uint8 *id);

/* Writes the initiator's first message. */
extern void sx_reconset_initiate(SxReconsetSource *source, uint32 frame_limit,
								 StringInfo out);

/*
 * Answers a message as the responder. A frame limit is a size in bytes that
 * no message exceeds, at least SX_RECONSET_MIN_FRAME, or 0. For a malformed
 * message, *problem says in a word what is wrong with it.
 */
extern SxReconsetResult sx_reconset_respond(SxReconsetSource *source,
											const uint8 *message, size_t len,
											uint32 frame_limit, StringInfo out,
											const char **problem);

/*
 * Works on an answer as the initiator: tells what the answer settles, and
 * writes the next message unless all is done. An unknown version means that
 * the responder knows only the version in *message. What was told of a
 * message that turns out malformed is void.
 */
extern SxReconsetResult sx_reconset_continue(SxReconsetSource *source,
											 const uint8 *message, size_t len,
											 uint32 frame_limit, StringInfo out,
											 SxReconsetFound found, void *arg,
											 const char **problem);

/* Sums: *sum += id, *sum += other, *sum -= other. */
extern void sx_reconset_add_id(SxReconsetSum *sum, const uint8 *id);
extern void sx_reconset_add(SxReconsetSum *sum, const SxReconsetSum *other);
extern void sx_reconset_subtract(SxReconsetSum *sum,
								 const SxReconsetSum *other);

#endif							/* SYNC_EXT_RECONSET_H */
