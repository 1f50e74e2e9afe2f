/*
 * A set in memory under reconset, for the tests and the fuzzer: a sorted
 * array, with the sums of all its beginnings.
 */
#ifndef TEST_RECONSET_SOURCE_H
#define TEST_RECONSET_SOURCE_H

#include "postgres_fe.h"

#include <openssl/sha.h>

#include "reconset.h"

typedef struct ArraySource
{
	SxReconsetSource source;
	SxReconsetItem *items;
	SxReconsetSum *sums;		/* [n]: of the items below rank n */
} ArraySource;

static inline int
array_compare(const void *a, const void *b)
{
	const SxReconsetItem *x = a;
	const SxReconsetItem *y = b;

	if (x->timestamp != y->timestamp)
		return x->timestamp < y->timestamp ? -1 : 1;
	return memcmp(x->id, y->id, SX_RECONSET_ID_SIZE);
}

static inline void
array_item(SxReconsetSource *source, uint64 rank, SxReconsetItem *item)
{
	if (rank >= source->count)
		abort();
	*item = ((ArraySource *) source)->items[rank];
}

static inline uint64
array_lower_bound(SxReconsetSource *source, const SxReconsetItem *bound)
{
	uint64		low = 0;
	uint64		high = source->count;

	while (low < high)
	{
		uint64		middle = low + (high - low) / 2;

		if (array_compare(&((ArraySource *) source)->items[middle], bound) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static inline void
array_sum(SxReconsetSource *source, uint64 from, uint64 to, SxReconsetSum *sum)
{
	if (from > to || to > source->count)
		abort();
	*sum = ((ArraySource *) source)->sums[to];
	sx_reconset_subtract(sum, &((ArraySource *) source)->sums[from]);
}

static inline void
array_sha256(SxReconsetSource *source, const uint8 *data, size_t len,
			 uint8 *digest)
{
	(void) source;
	SHA256(data, len, digest);
}

/* Takes the items over; each must be there once. */
static inline void
array_init(ArraySource *array, SxReconsetItem *items, uint64 count)
{
	array->source.count = count;
	array->source.item = array_item;
	array->source.lower_bound = array_lower_bound;
	array->source.sum = array_sum;
	array->source.sha256 = array_sha256;
	array->items = items;
	array->sums = calloc(count + 1, sizeof(SxReconsetSum));
	qsort(items, count, sizeof(*items), array_compare);
	for (uint64 i = 0; i < count; i++)
	{
		array->sums[i + 1] = array->sums[i];
		sx_reconset_add_id(&array->sums[i + 1], items[i].id);
	}
}

static inline void
array_free(ArraySource *array)
{
	free(array->items);
	free(array->sums);
}

#endif
