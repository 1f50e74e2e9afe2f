/*
 * A target for libFuzzer: one message, read by both sides. The first byte
 * chooses the size of the set and the frame limit.
 *
 *   test/reconset/check.sh fuzz [SECONDS]
 *
 * Beyond not crashing, which the sanitizers watch: nothing exceeds the frame
 * limit, and what is written can be read.
 */
#include "postgres_fe.h"

#include "source.h"

#define NSIZES 4

static ArraySource sources[NSIZES];

static void
prepare(void)
{
	static const int sizes[NSIZES] = {0, 3, 200, 3000};

	for (int i = 0; i < NSIZES; i++)
	{
		SxReconsetItem *items = calloc(sizes[i] + 1, sizeof(SxReconsetItem));

		for (int j = 0; j < sizes[i]; j++)
		{
			SHA256((uint8 *) &j, sizeof(j), items[j].id);
			items[j].timestamp = i == 2 ? j / 5 : 0;
		}
		array_init(&sources[i], items, sizes[i]);
	}
}

static void
found(void *arg, bool have, const uint8 *id)
{
	volatile uint8 *byte = arg;

	*byte ^= id[have ? 0 : SX_RECONSET_ID_SIZE - 1];
}

int			LLVMFuzzerTestOneInput(const uint8 *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8 *data, size_t size)
{
	const char *problem;
	StringInfoData out;
	StringInfoData again;
	SxReconsetSource *source;
	uint32		limit;
	uint8		byte = 0;

	if (sources[1].items == NULL)
		prepare();
	if (size == 0)
		return 0;
	source = &sources[data[0] % NSIZES].source;
	limit = data[0] & 0x80 ? 4096 : 0;
	data++;
	size--;

	initStringInfo(&out);
	initStringInfo(&again);
	if (sx_reconset_respond(source, data, size, limit, &out, &problem) ==
		SX_RECONSET_ANSWERED)
	{
		if (limit != 0 && out.len > (int) limit)
			abort();
		if (sx_reconset_continue(source, (uint8 *) out.data, out.len, 0,
								 &again, found, &byte,
								 &problem) == SX_RECONSET_MALFORMED)
			abort();
	}
	if (sx_reconset_continue(source, data, size, limit, &out, found, &byte,
							 &problem) == SX_RECONSET_ANSWERED)
	{
		if (limit != 0 && out.len > (int) limit)
			abort();
		if (sx_reconset_respond(source, (uint8 *) out.data, out.len, 0,
								&again, &problem) != SX_RECONSET_ANSWERED)
			abort();
	}
	pfree(out.data);
	pfree(again.data);
	return 0;
}
