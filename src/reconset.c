/*-------------------------------------------------------------------------
 *
 * reconset.c
 *		Range-based set reconciliation, Negentropy protocol version 1.
 *
 * Both sides order their items. A message is a list of adjacent ranges, from
 * the lowest item possible up to infinity, and says of each one of these:
 *
 *	Skip			nothing more to say
 *	Fingerprint		a hash of the sum and the number of the sender's ids in it
 *	IdList			all of the sender's ids in it
 *
 * Who receives a fingerprint that differs from its own splits the range and
 * answers with fingerprints of the parts, or with its ids where they are few.
 * The initiator learns the differences from the id lists that it receives; who
 * receives one from the initiator answers with its own.
 *
 * How to split is free. Messages are what costs, in bytes and round trips, so:
 *
 * - A message is read twice: first to see how many ranges differ. Few are
 *	 split into many parts, which saves round trips; many into four, which is
 *	 where the bytes for each difference are fewest.
 * - A range in which the other side lacks a single id of ours is recognised:
 *	 its fingerprint is ours without that id (find_lone()). In ranges small
 *	 enough to try this, most differences are of this kind, on one side or the
 *	 other, and that saves the last rounds and the lists.
 * - The answer to an id list narrows the range down to the differences, and
 *	 skips what both sides have.
 *
 * Other implementations need not know of any of this: each list is complete in
 * the range that it is sent for.
 *
 * A frame limit cuts a message at a range: what is not dealt with becomes one
 * last range up to infinity with its fingerprint, which the other side splits
 * again. Since a frame has room for more than that range, each message settles
 * or splits something.
 *
 *-------------------------------------------------------------------------
 */
#ifndef FRONTEND
#include "postgres.h"
#else
#include "postgres_fe.h"
#endif

#include "port/pg_bswap.h"

#include "reconset.h"

#define FINGERPRINT_SIZE	16
#define DIGEST_SIZE			32

/* Ranges that a message consists of, about, while few of them differ. */
#define WANTED_PARTS		256
#define MIN_PARTS			4
#define MAX_PARTS			64

/* Up to so many ids are sent rather than split. */
#define MAX_LISTED			8

/* Up to so many ids it is worth a hash each to look for a lone one. */
#define MAX_TRIED			256

#define MAX_VARINT_SIZE		10
#define MAX_BOUND_SIZE		(MAX_VARINT_SIZE + 1 + SX_RECONSET_ID_SIZE)
#define MAX_RANGE_SIZE		(MAX_BOUND_SIZE + 1 + FINGERPRINT_SIZE)

/* What a cut needs: a Skip to where it is, and a fingerprint to infinity. */
#define CUT_SIZE			(MAX_BOUND_SIZE + 1 + 2 + 1 + FINGERPRINT_SIZE)

typedef enum RangeMode
{
	MODE_SKIP = 0,
	MODE_FINGERPRINT = 1,
	MODE_ID_LIST = 2
} RangeMode;

/* A message that is being read. */
typedef struct Reader
{
	const uint8 *next;
	const uint8 *end;
	uint64		last_timestamp;
	SxReconsetItem lower;		/* of the next range */
	const char *problem;		/* not NULL: malformed */
} Reader;

/* One range of it; payload points into the message. */
typedef struct Range
{
	SxReconsetItem lower;
	SxReconsetItem upper;
	RangeMode	mode;
	const uint8 *payload;
	uint64		nids;			/* of an id list */
} Range;

/* A message that is being written. */
typedef struct Writer
{
	SxReconsetSource *source;
	StringInfo	out;
	uint64		limit;
	uint64		last_timestamp;
	SxReconsetItem covered;		/* the upper bound of the last range */
	bool		full;			/* it was cut: nothing more goes in */
} Writer;

/* What is done for one message, on either side. */
typedef struct Round
{
	SxReconsetSource *source;
	Writer		writer;
	bool		initiator;
	SxReconsetFound found;		/* the initiator's */
	void	   *found_arg;
	StringInfoData differs;		/* a byte for each range: is it to be split? */
	uint64		parts;			/* to split into */
} Round;

static const SxReconsetItem lowest = {0};
static const SxReconsetItem infinity = {.timestamp = SX_RECONSET_INFINITY};

/* ----------
 * Items, bounds and fingerprints
 * ----------
 */

static int
compare_items(const SxReconsetItem *a, const SxReconsetItem *b)
{
	if (a->timestamp != b->timestamp)
		return a->timestamp < b->timestamp ? -1 : 1;
	return memcmp(a->id, b->id, SX_RECONSET_ID_SIZE);
}

/* The shortest bound that is above "below", and not above "item". */
static SxReconsetItem
bound_between(const SxReconsetItem *below, const SxReconsetItem *item)
{
	SxReconsetItem bound = {.timestamp = item->timestamp};
	int			common = 0;

	if (below->timestamp != item->timestamp)
		return bound;
	while (common < SX_RECONSET_ID_SIZE - 1 &&
		   below->id[common] == item->id[common])
		common++;
	memcpy(bound.id, item->id, common + 1);
	return bound;
}

/* The same for two neighbours in the set. */
static SxReconsetItem
bound_before_rank(SxReconsetSource *source, uint64 rank)
{
	SxReconsetItem below;
	SxReconsetItem item;

	source->item(source, rank - 1, &below);
	source->item(source, rank, &item);
	return bound_between(&below, &item);
}

static inline uint64
add_words(uint64 a, uint64 b, uint64 *carry)
{
	uint64		sum = a + b;
	uint64		with_carry = sum + *carry;

	*carry = (sum < a) | (with_carry < sum);
	return with_carry;
}

void
sx_reconset_add(SxReconsetSum *sum, const SxReconsetSum *other)
{
	uint64		carry = 0;

	for (int i = 0; i < 4; i++)
		sum->word[i] = add_words(sum->word[i], other->word[i], &carry);
}

void
sx_reconset_subtract(SxReconsetSum *sum, const SxReconsetSum *other)
{
	uint64		carry = 1;		/* adds the two's complement */

	for (int i = 0; i < 4; i++)
		sum->word[i] = add_words(sum->word[i], ~other->word[i], &carry);
}

static void
id_to_sum(SxReconsetSum *sum, const uint8 *id)
{
	for (int i = 0; i < 4; i++)
	{
		uint64		word;

		memcpy(&word, id + i * sizeof(word), sizeof(word));
#ifdef WORDS_BIGENDIAN
		word = pg_bswap64(word);
#endif
		sum->word[i] = word;
	}
}

void
sx_reconset_add_id(SxReconsetSum *sum, const uint8 *id)
{
	SxReconsetSum number;

	id_to_sum(&number, id);
	sx_reconset_add(sum, &number);
}

static int
encode_varint(uint8 *buffer, uint64 value)
{
	int			len = 1;

	for (uint64 rest = value >> 7; rest != 0; rest >>= 7)
		len++;
	for (int i = len - 1; i >= 0; i--)
	{
		buffer[i] = (value & 0x7f) | (i < len - 1 ? 0x80 : 0);
		value >>= 7;
	}
	return len;
}

static void
fingerprint_of_sum(SxReconsetSource *source, const SxReconsetSum *sum,
				   uint64 count, uint8 *fingerprint)
{
	uint8		data[SX_RECONSET_ID_SIZE + MAX_VARINT_SIZE];
	uint8		digest[DIGEST_SIZE];
	int			len;

	for (int i = 0; i < 4; i++)
	{
		uint64		word = sum->word[i];

#ifdef WORDS_BIGENDIAN
		word = pg_bswap64(word);
#endif
		memcpy(data + i * sizeof(word), &word, sizeof(word));
	}
	len = SX_RECONSET_ID_SIZE + encode_varint(data + SX_RECONSET_ID_SIZE, count);
	source->sha256(source, data, len, digest);
	memcpy(fingerprint, digest, FINGERPRINT_SIZE);
}

static void
fingerprint_of_ranks(SxReconsetSource *source, uint64 from, uint64 to,
					 uint8 *fingerprint)
{
	SxReconsetSum sum;

	source->sum(source, from, to, &sum);
	fingerprint_of_sum(source, &sum, to - from, fingerprint);
}

/* ----------
 * Reading
 * ----------
 */

static bool
malformed(Reader *reader, const char *problem)
{
	reader->problem = problem;
	return false;
}

static bool
read_varint(Reader *reader, uint64 *value)
{
	const uint8 *start = reader->next;

	*value = 0;
	for (;;)
	{
		uint8		byte;

		if (reader->next == reader->end)
			return malformed(reader, "a number is cut off");
		byte = *reader->next++;
		if (byte == 0x80 && reader->next == start + 1)
			return malformed(reader, "a number has leading zeros");
		if (*value > (PG_UINT64_MAX >> 7))
			return malformed(reader, "a number exceeds 64 bits");
		*value = (*value << 7) | (byte & 0x7f);
		if ((byte & 0x80) == 0)
			return true;
	}
}

static bool
read_bytes(Reader *reader, uint64 len, const uint8 **bytes)
{
	if (len > (uint64) (reader->end - reader->next))
		return malformed(reader, "it ends inside of a range");
	*bytes = reader->next;
	reader->next += len;
	return true;
}

static bool
read_bound(Reader *reader, SxReconsetItem *bound)
{
	uint64		offset;
	uint64		len;
	const uint8 *prefix;

	if (!read_varint(reader, &offset) || !read_varint(reader, &len))
		return false;
	if (len > SX_RECONSET_ID_SIZE)
		return malformed(reader, "the prefix of an id is longer than an id");
	if (!read_bytes(reader, len, &prefix))
		return false;

	*bound = infinity;
	if (offset != 0)
	{
		if (offset - 1 >= SX_RECONSET_INFINITY - reader->last_timestamp)
			return malformed(reader, "a timestamp exceeds 64 bits");
		bound->timestamp = reader->last_timestamp + offset - 1;
		reader->last_timestamp = bound->timestamp;
		memcpy(bound->id, prefix, len);
	}
	if (compare_items(bound, &reader->lower) < 0)
		return malformed(reader, "a range ends before it begins");
	return true;
}

/* Reads the next range, or returns false at the end or at what is malformed. */
static bool
read_range(Reader *reader, Range *range)
{
	uint64		mode;

	if (reader->next == reader->end)
		return false;
	range->lower = reader->lower;
	if (!read_bound(reader, &range->upper) || !read_varint(reader, &mode))
		return false;
	reader->lower = range->upper;

	switch (mode)
	{
		case MODE_SKIP:
			range->mode = MODE_SKIP;
			return true;
		case MODE_FINGERPRINT:
			range->mode = MODE_FINGERPRINT;
			return read_bytes(reader, FINGERPRINT_SIZE, &range->payload);
		case MODE_ID_LIST:
			range->mode = MODE_ID_LIST;
			if (!read_varint(reader, &range->nids))
				return false;
			if (range->nids > PG_INT32_MAX)
				return malformed(reader, "it ends inside of a range");
			return read_bytes(reader, range->nids * SX_RECONSET_ID_SIZE,
							  &range->payload);
		default:
			return malformed(reader, "a range has an unknown mode");
	}
}

/* The ranges of a message; its version was looked at. */
static Reader
begin_reading(const uint8 *message, size_t len)
{
	Reader		reader = {
		.next = message + 1,
		.end = message + len,
		.lower = lowest
	};

	return reader;
}

/* ----------
 * Writing
 * ----------
 */

static void
begin_writing(Writer *writer, SxReconsetSource *source, uint32 frame_limit,
			  StringInfo out)
{
	writer->source = source;
	writer->out = out;
	writer->limit = frame_limit != 0 ?
		Max(frame_limit, SX_RECONSET_MIN_FRAME) : SX_RECONSET_MAX_FRAME;
	writer->last_timestamp = 0;
	writer->covered = lowest;
	writer->full = false;
	resetStringInfo(out);
	appendStringInfoCharMacro(out, (char) SX_RECONSET_VERSION);
}

static void
write_varint(Writer *writer, uint64 value)
{
	uint8		buffer[MAX_VARINT_SIZE];

	appendBinaryStringInfo(writer->out, (char *) buffer,
						   encode_varint(buffer, value));
}

/* The end of the next range: a bound, and the mode. */
static void
write_bound(Writer *writer, const SxReconsetItem *bound, RangeMode mode)
{
	int			len = SX_RECONSET_ID_SIZE;

	if (bound->timestamp == SX_RECONSET_INFINITY)
	{
		write_varint(writer, 0);
		len = 0;
	}
	else
	{
		write_varint(writer, 1 + bound->timestamp - writer->last_timestamp);
		writer->last_timestamp = bound->timestamp;
	}
	while (len > 0 && bound->id[len - 1] == 0)
		len--;
	write_varint(writer, len);
	appendBinaryStringInfo(writer->out, (const char *) bound->id, len);
	write_varint(writer, mode);
	writer->covered = *bound;
}

static void
skip_to(Writer *writer, const SxReconsetItem *bound)
{
	if (compare_items(&writer->covered, bound) < 0)
		write_bound(writer, bound, MODE_SKIP);
}

/* How many bytes have room after a Skip, with a cut after them. */
static uint64
room(Writer *writer)
{
	uint64		used = writer->out->len + MAX_BOUND_SIZE + 1 + CUT_SIZE;

	return used < writer->limit ? writer->limit - used : 0;
}

/* Leaves all from here on, which is a rank, to the next message. */
static void
cut(Writer *writer, const SxReconsetItem *lower, uint64 rank)
{
	uint8		fingerprint[FINGERPRINT_SIZE];

	skip_to(writer, lower);
	fingerprint_of_ranks(writer->source, rank, writer->source->count,
						 fingerprint);
	write_bound(writer, &infinity, MODE_FINGERPRINT);
	appendBinaryStringInfo(writer->out, (char *) fingerprint,
						   FINGERPRINT_SIZE);
	writer->full = true;
}

static void
write_fingerprint(Writer *writer, const SxReconsetItem *lower,
				  const SxReconsetItem *upper, uint64 from, uint64 to)
{
	uint8		fingerprint[FINGERPRINT_SIZE];

	if (writer->full)
		return;
	if (room(writer) < MAX_RANGE_SIZE)
	{
		cut(writer, lower, from);
		return;
	}
	skip_to(writer, lower);
	fingerprint_of_ranks(writer->source, from, to, fingerprint);
	write_bound(writer, upper, MODE_FINGERPRINT);
	appendBinaryStringInfo(writer->out, (char *) fingerprint,
						   FINGERPRINT_SIZE);
}

/* All our ids from one rank to below another one, or as many as fit. */
static void
write_ids(Writer *writer, const SxReconsetItem *lower,
		  const SxReconsetItem *upper, uint64 from, uint64 to)
{
	uint64		overhead = MAX_BOUND_SIZE + 1 + MAX_VARINT_SIZE;
	uint64		end = to;
	uint64		fitting;
	SxReconsetItem bound = *upper;

	if (writer->full)
		return;
	fitting = room(writer) <= overhead ? 0 :
		(room(writer) - overhead) / SX_RECONSET_ID_SIZE;
	if (fitting == 0)
	{
		cut(writer, lower, from);
		return;
	}
	if (to - from > fitting)
	{
		end = from + fitting;
		bound = bound_before_rank(writer->source, end);
	}

	skip_to(writer, lower);
	write_bound(writer, &bound, MODE_ID_LIST);
	write_varint(writer, end - from);
	for (uint64 rank = from; rank < end; rank++)
	{
		SxReconsetItem item;

		writer->source->item(writer->source, rank, &item);
		appendBinaryStringInfo(writer->out, (char *) item.id,
							   SX_RECONSET_ID_SIZE);
	}
	if (end < to)
		cut(writer, &bound, end);
}

/* Fingerprints of the parts of a range, or its ids if they are few. */
static void
write_split(Writer *writer, const SxReconsetItem *lower,
			const SxReconsetItem *upper, uint64 from, uint64 to,
			uint64 parts)
{
	uint64		count = to - from;
	SxReconsetItem part_lower = *lower;

	if (count <= MAX_LISTED)
	{
		write_ids(writer, lower, upper, from, to);
		return;
	}
	parts = Min(parts, count / 2);
	for (uint64 i = 0; i < parts && !writer->full; i++)
	{
		uint64		end = from + count / parts + (i < count % parts ? 1 : 0);
		SxReconsetItem part_upper = *upper;

		if (end < to)
			part_upper = bound_before_rank(writer->source, end);
		write_fingerprint(writer, &part_lower, &part_upper, from, end);
		part_lower = part_upper;
		from = end;
	}
}

/* ----------
 * Answering ranges
 * ----------
 */

/*
 * Looks for the one id of ours without which our fingerprint is theirs.
 */
static bool
find_lone(SxReconsetSource *source, uint64 from, uint64 to,
		  const uint8 *theirs, uint64 *rank)
{
	SxReconsetSum all;

	if (to - from > MAX_TRIED)
		return false;
	source->sum(source, from, to, &all);
	for (*rank = from; *rank < to; (*rank)++)
	{
		SxReconsetItem item;
		SxReconsetSum number;
		SxReconsetSum others = all;
		uint8		fingerprint[FINGERPRINT_SIZE];

		source->item(source, *rank, &item);
		id_to_sum(&number, item.id);
		sx_reconset_subtract(&others, &number);
		fingerprint_of_sum(source, &others, to - from - 1, fingerprint);
		if (memcmp(fingerprint, theirs, FINGERPRINT_SIZE) == 0)
			return true;
	}
	return false;
}

/* Ids from "from" to below "to" are ours alone, and the neighbours are not. */
static void
write_own(Writer *writer, const Range *range, uint64 first, uint64 last,
		  uint64 from, uint64 to)
{
	SxReconsetItem lower = range->lower;
	SxReconsetItem upper = range->upper;

	if (from > first)
		lower = bound_before_rank(writer->source, from);
	if (to < last)
		upper = bound_before_rank(writer->source, to);
	write_ids(writer, &lower, &upper, from, to);
}

static void
answer_fingerprint(Round *round, const Range *range, uint64 from, uint64 to)
{
	uint64		lone;

	if (!find_lone(round->source, from, to, range->payload, &lone))
		write_split(&round->writer, &range->lower, &range->upper, from, to,
					round->parts);
	else if (round->initiator)
	{
		SxReconsetItem item;

		round->source->item(round->source, lone, &item);
		round->found(round->found_arg, true, item.id);
	}
	else
		write_own(&round->writer, range, from, to, lone, lone + 1);
}

static int
compare_ids(const void *a, const void *b)
{
	return memcmp(*(const uint8 *const *) a, *(const uint8 *const *) b,
				  SX_RECONSET_ID_SIZE);
}

/* An id list of theirs, sorted and each id once. */
static const uint8 **
sort_ids(const Range *range, uint64 *count)
{
	const uint8 **ids = palloc(Max(range->nids, 1) * sizeof(*ids));

	*count = 0;
	for (uint64 i = 0; i < range->nids; i++)
		ids[i] = range->payload + i * SX_RECONSET_ID_SIZE;
	qsort(ids, range->nids, sizeof(*ids), compare_ids);
	for (uint64 i = 0; i < range->nids; i++)
	{
		if (*count == 0 || compare_ids(&ids[*count - 1], &ids[i]) != 0)
			ids[(*count)++] = ids[i];
	}
	return ids;
}

/*
 * Which of our ids in a range do they have, and which of theirs do we lack?
 * One byte for each of ours and theirs says whether it is on both sides.
 * Theirs carry no timestamps, so there is no merging: each is looked up.
 */
typedef struct Comparison
{
	uint64		from;			/* our ranks in the range */
	uint64		to;
	bool	   *ours_shared;
	const uint8 **theirs;
	uint64		ntheirs;
	bool	   *theirs_shared;
	uint64		nshared;
} Comparison;

static void
compare_lists(SxReconsetSource *source, const Range *range, uint64 from,
			  uint64 to, Comparison *comparison)
{
	comparison->from = from;
	comparison->to = to;
	comparison->theirs = sort_ids(range, &comparison->ntheirs);
	comparison->theirs_shared = palloc0(Max(comparison->ntheirs, 1));
	comparison->ours_shared = palloc0(Max(to - from, 1));
	comparison->nshared = 0;
	for (uint64 rank = from; comparison->ntheirs > 0 && rank < to; rank++)
	{
		SxReconsetItem item;
		const uint8 *id = item.id;
		const uint8 **match;

		source->item(source, rank, &item);
		match = bsearch(&id, comparison->theirs, comparison->ntheirs,
						sizeof(id), compare_ids);
		if (match == NULL)
			continue;
		comparison->ours_shared[rank - from] = true;
		comparison->theirs_shared[match - comparison->theirs] = true;
		comparison->nshared++;
	}
}

static void
free_comparison(Comparison *comparison)
{
	pfree(comparison->ours_shared);
	pfree(comparison->theirs_shared);
	pfree(comparison->theirs);
}

/*
 * Where an id of theirs, which came without its timestamp, lies in our order.
 * Known only inside of a range that begins and ends with the same timestamp.
 */
static bool
place_id(const Range *range, const uint8 *id, SxReconsetItem *item)
{
	item->timestamp = range->lower.timestamp;
	memcpy(item->id, id, SX_RECONSET_ID_SIZE);
	return range->lower.timestamp == range->upper.timestamp &&
		compare_items(item, &range->lower) >= 0 &&
		compare_items(item, &range->upper) < 0;
}

static bool
all_placed(const Range *range, const Comparison *comparison)
{
	SxReconsetItem item;

	for (uint64 i = 0; i < comparison->ntheirs; i++)
	{
		if (!comparison->theirs_shared[i] &&
			!place_id(range, comparison->theirs[i], &item))
			return false;
	}
	return true;
}

/*
 * The responder's answer to an id list: walks over the ids of both sides in
 * order, and lists ours in every run of ids that only one side has. Such a
 * range may be empty: that tells the initiator that the ids are its own only.
 */
static void
write_differences(Writer *writer, const Range *range, Comparison *comparison)
{
	SxReconsetSource *source = writer->source;
	uint64		rank = comparison->from;
	uint64		their = 0;
	uint64		run_from = rank;
	bool		in_run = false;
	bool		any = false;
	SxReconsetItem run_lower = range->lower;
	SxReconsetItem last = lowest;

	while (!writer->full)
	{
		SxReconsetItem ours;
		SxReconsetItem theirs;
		bool		have_ours = rank < comparison->to;
		bool		have_theirs;
		bool		take_ours;
		bool		shared;
		SxReconsetItem *item;

		while (their < comparison->ntheirs && comparison->theirs_shared[their])
			their++;
		have_theirs = their < comparison->ntheirs;
		if (!have_ours && !have_theirs)
			break;

		if (have_ours)
			source->item(source, rank, &ours);
		if (have_theirs)
			(void) place_id(range, comparison->theirs[their], &theirs);
		take_ours = have_ours &&
			(!have_theirs || compare_items(&ours, &theirs) < 0);
		item = take_ours ? &ours : &theirs;
		shared = take_ours && comparison->ours_shared[rank - comparison->from];

		if (in_run && shared)
		{
			SxReconsetItem upper = bound_between(&last, item);

			write_ids(writer, &run_lower, &upper, run_from, rank);
			in_run = false;
		}
		else if (!in_run && !shared)
		{
			run_lower = any ? bound_between(&last, item) : range->lower;
			run_from = rank;
			in_run = true;
		}

		last = *item;
		any = true;
		if (take_ours)
			rank++;
		else
			their++;
	}
	if (in_run)
		write_ids(writer, &run_lower, &range->upper, run_from, comparison->to);
}

static void
tell_differences(Round *round, const Comparison *comparison)
{
	for (uint64 rank = comparison->from; rank < comparison->to; rank++)
	{
		SxReconsetItem item;

		if (comparison->ours_shared[rank - comparison->from])
			continue;
		round->source->item(round->source, rank, &item);
		round->found(round->found_arg, true, item.id);
	}
	for (uint64 i = 0; i < comparison->ntheirs; i++)
	{
		if (!comparison->theirs_shared[i])
			round->found(round->found_arg, false, comparison->theirs[i]);
	}
}

static void
answer_ids(Round *round, const Range *range, uint64 from, uint64 to)
{
	Comparison	comparison;

	compare_lists(round->source, range, from, to, &comparison);
	if (round->initiator)
		tell_differences(round, &comparison);
	else if (all_placed(range, &comparison))
		write_differences(&round->writer, range, &comparison);
	else
		write_ids(&round->writer, &range->lower, &range->upper, from, to);
	free_comparison(&comparison);
}

/* ----------
 * Messages
 * ----------
 */

/*
 * The first reading: is the message one, and which fingerprints differ?
 */
static bool
survey(Round *round, const uint8 *message, size_t len, const char **problem)
{
	Reader		reader = begin_reading(message, len);
	Range		range;
	uint64		from = 0;
	uint64		ndiffering = 0;

	initStringInfo(&round->differs);
	while (read_range(&reader, &range))
	{
		uint64		to = round->source->lower_bound(round->source,
													&range.upper);
		bool		differs = false;

		if (range.mode == MODE_FINGERPRINT)
		{
			uint8		fingerprint[FINGERPRINT_SIZE];

			fingerprint_of_ranks(round->source, from, to, fingerprint);
			differs = memcmp(fingerprint, range.payload, FINGERPRINT_SIZE) != 0;
		}
		appendStringInfoCharMacro(&round->differs, differs ? 1 : 0);
		ndiffering += differs ? 1 : 0;
		from = to;
	}
	*problem = reader.problem;
	round->parts = WANTED_PARTS / Max(ndiffering, 1);
	round->parts = Min(Max(round->parts, MIN_PARTS), MAX_PARTS);
	return reader.problem == NULL;
}

/* The second one: answer. */
static void
answer(Round *round, const uint8 *message, size_t len)
{
	Reader		reader = begin_reading(message, len);
	Range		range;
	uint64		from = 0;

	for (int i = 0; !round->writer.full && read_range(&reader, &range); i++)
	{
		uint64		to = round->source->lower_bound(round->source,
													&range.upper);

		if (compare_items(&range.lower, &range.upper) == 0)
			continue;			/* holds nothing, whatever it says */
		if (range.mode == MODE_ID_LIST)
			answer_ids(round, &range, from, to);
		else if (round->differs.data[i])
			answer_fingerprint(round, &range, from, to);
		from = to;
	}
}

void
sx_reconset_initiate(SxReconsetSource *source, uint32 frame_limit,
					 StringInfo out)
{
	Writer		writer;

	begin_writing(&writer, source, frame_limit, out);
	write_split(&writer, &lowest, &infinity, 0, source->count, MAX_PARTS);
}

SxReconsetResult
sx_reconset_respond(SxReconsetSource *source, const uint8 *message, size_t len,
					uint32 frame_limit, StringInfo out, const char **problem)
{
	Round		round = {.source = source};
	bool		sound;

	if (len == 0)
	{
		*problem = "it is empty";
		return SX_RECONSET_MALFORMED;
	}
	begin_writing(&round.writer, source, frame_limit, out);
	if (message[0] != SX_RECONSET_VERSION)
		return SX_RECONSET_UNKNOWN_VERSION; /* our own has been written */
	sound = survey(&round, message, len, problem);
	if (sound)
		answer(&round, message, len);
	else
		resetStringInfo(out);
	pfree(round.differs.data);
	return sound ? SX_RECONSET_ANSWERED : SX_RECONSET_MALFORMED;
}

SxReconsetResult
sx_reconset_continue(SxReconsetSource *source, const uint8 *message,
					 size_t len, uint32 frame_limit, StringInfo out,
					 SxReconsetFound found, void *arg, const char **problem)
{
	Round		round = {
		.source = source,
		.initiator = true,
		.found = found,
		.found_arg = arg
	};
	bool		sound;

	resetStringInfo(out);
	if (len == 0)
	{
		*problem = "it is empty";
		return SX_RECONSET_MALFORMED;
	}
	if (message[0] != SX_RECONSET_VERSION)
		return SX_RECONSET_UNKNOWN_VERSION;
	begin_writing(&round.writer, source, frame_limit, out);
	sound = survey(&round, message, len, problem);
	if (sound)
		answer(&round, message, len);
	pfree(round.differs.data);
	if (sound && out->len > 1)
		return SX_RECONSET_ANSWERED;
	resetStringInfo(out);
	return sound ? SX_RECONSET_DONE : SX_RECONSET_MALFORMED;
}
