/*
 * Tests of src/reconset.c as a program of its own.
 *
 *   check           random sets against a plain difference, broken messages
 *   check peer      answers commands on stdin, for wire.py
 *
 * Built and run by check.sh.
 */
#include "postgres_fe.h"

#include <time.h>

#include "source.h"

static int	passed = 0;
static int	failed = 0;

static void
report(bool good, const char *what)
{
	if (good)
		passed++;
	else
	{
		failed++;
		printf("FAILED: %s\n", what);
	}
}

/* A generator with a seed, so that a failure can be repeated. */
static uint64 state = UINT64CONST(0x9e3779b97f4a7c15);

static uint64
any(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state * UINT64CONST(0x2545f4914f6cdd1d);
}

static uint64
below(uint64 n)
{
	return n == 0 ? 0 : any() % n;
}

/* ----------
 * Two sides and their conversation
 * ----------
 */

typedef struct Found
{
	SxReconsetItem *have;
	SxReconsetItem *need;
	uint64		nhave;
	uint64		nneed;
	uint64		size;
	bool		again;			/* ids may be told again: messages are cut */
} Found;

static void
found(void *arg, bool have, const uint8 *id)
{
	Found	   *result = arg;
	SxReconsetItem *list = have ? result->have : result->need;
	uint64	   *n = have ? &result->nhave : &result->nneed;

	for (uint64 i = 0; result->again && i < *n; i++)
	{
		if (memcmp(list[i].id, id, SX_RECONSET_ID_SIZE) == 0)
			return;
	}
	if (*n >= result->size)
		abort();
	list[*n].timestamp = 0;
	memcpy(list[*n].id, id, SX_RECONSET_ID_SIZE);
	(*n)++;
}

typedef struct Talk
{
	uint64		sent;			/* bytes, by the initiator */
	uint64		received;
	int			trips;
	uint64		longest;
	bool		good;
} Talk;

static Talk
talk(ArraySource *client, ArraySource *server, uint32 client_limit,
	 uint32 server_limit, Found *result)
{
	Talk		t = {.good = false};
	StringInfoData out;
	StringInfoData in;
	const char *problem = NULL;

	initStringInfo(&out);
	initStringInfo(&in);
	sx_reconset_initiate(&client->source, client_limit, &out);
	for (t.trips = 1; t.trips < 200000; t.trips++)
	{
		SxReconsetResult status;

		t.sent += out.len;
		t.longest = Max(t.longest, (uint64) out.len);
		if (client_limit != 0 && out.len > (int) client_limit)
			break;
		if (sx_reconset_respond(&server->source, (uint8 *) out.data, out.len,
								server_limit, &in, &problem) !=
			SX_RECONSET_ANSWERED)
			break;
		t.received += in.len;
		t.longest = Max(t.longest, (uint64) in.len);
		if (server_limit != 0 && in.len > (int) server_limit)
			break;
		status = sx_reconset_continue(&client->source, (uint8 *) in.data,
									  in.len, client_limit, &out, found,
									  result, &problem);
		if (status == SX_RECONSET_DONE)
		{
			t.good = true;
			break;
		}
		if (status != SX_RECONSET_ANSWERED)
			break;
	}
	pfree(out.data);
	pfree(in.data);
	return t;
}

typedef enum Shape
{
	HASHES,						/* ids are random, timestamps 0 */
	TIMES,						/* timestamps, too: of neighbours often equal */
	CLOSE,						/* ids begin with the same 16 bytes */
	NSHAPES
} Shape;

static SxReconsetItem
random_item(Shape shape, uint64 nth)
{
	SxReconsetItem item;

	for (int i = 0; i < SX_RECONSET_ID_SIZE; i++)
		item.id[i] = shape == CLOSE && i < 16 ? 0xff : (uint8) any();
	/* no two are equal */
	for (int i = 0; i < 4; i++)
		item.id[26 + i] = (uint8) (nth >> (8 * (3 - i)));
	/* and some end with zeros, as bounds do */
	if (below(4) == 0)
		item.id[30] = item.id[31] = 0;
	item.timestamp = shape == TIMES ? below(1 + nth / 3) : 0;
	if (shape == TIMES && below(50) == 0)
		item.timestamp = SX_RECONSET_INFINITY - 1;
	return item;
}

/* Are these the items, told once each and in whatever order? */
static bool
same_ids(SxReconsetItem *told, uint64 ntold, SxReconsetItem *items, uint64 n)
{
	SxReconsetItem *copy;
	bool		same;

	if (ntold != n)
		return false;
	copy = malloc((n + 1) * sizeof(*copy));
	memcpy(copy, items, n * sizeof(*copy));
	for (uint64 i = 0; i < n; i++)
		copy[i].timestamp = 0;
	qsort(copy, n, sizeof(*copy), array_compare);
	qsort(told, n, sizeof(*told), array_compare);
	same = memcmp(copy, told, n * sizeof(*copy)) == 0;
	free(copy);
	return same;
}

static Talk
reconcile_random(Shape shape, uint64 common, uint64 client_only,
				 uint64 server_only, uint32 client_limit, uint32 server_limit,
				 const char *what)
{
	uint64		nclient = common + client_only;
	uint64		nserver = common + server_only;
	SxReconsetItem *client_items = calloc(nclient + 1, sizeof(SxReconsetItem));
	SxReconsetItem *server_items = calloc(nserver + 1, sizeof(SxReconsetItem));
	SxReconsetItem *alone[2];
	ArraySource client;
	ArraySource server;
	Found		result = {
		.size = client_only + server_only,
		.again = client_limit != 0 || server_limit != 0
	};
	Talk		t;
	char		label[200];
	uint64		nth = 0;

	for (uint64 i = 0; i < common; i++)
		client_items[i] = server_items[i] = random_item(shape, nth++);
	for (uint64 i = common; i < nclient; i++)
		client_items[i] = random_item(shape, nth++);
	for (uint64 i = common; i < nserver; i++)
		server_items[i] = random_item(shape, nth++);
	alone[0] = malloc((client_only + 1) * sizeof(SxReconsetItem));
	alone[1] = malloc((server_only + 1) * sizeof(SxReconsetItem));
	memcpy(alone[0], client_items + common, client_only * sizeof(SxReconsetItem));
	memcpy(alone[1], server_items + common, server_only * sizeof(SxReconsetItem));
	array_init(&client, client_items, nclient);
	array_init(&server, server_items, nserver);
	result.have = malloc((result.size + 1) * sizeof(SxReconsetItem));
	result.need = malloc((result.size + 1) * sizeof(SxReconsetItem));

	t = talk(&client, &server, client_limit, server_limit, &result);
	t.good = t.good &&
		same_ids(result.have, result.nhave, alone[0], client_only) &&
		same_ids(result.need, result.nneed, alone[1], server_only);
	snprintf(label, sizeof(label),
			 "%s: shape %d, %d common, %d and %d alone, limits %d and %d",
			 what, (int) shape, (int) common, (int) client_only,
			 (int) server_only, (int) client_limit, (int) server_limit);
	report(t.good, label);

	array_free(&client);
	array_free(&server);
	free(alone[0]);
	free(alone[1]);
	free(result.have);
	free(result.need);
	return t;
}

static void
check_random_sets(void)
{
	static const uint64 sizes[] = {0, 1, 2, 7, 8, 9, 31, 32, 33, 255, 256, 257,
	1000, 5000};
	static const uint64 differences[] = {0, 1, 2, 5, 40, 700};

	for (Shape shape = 0; shape < NSHAPES; shape++)
	{
		for (int i = 0; i < (int) lengthof(sizes); i++)
		{
			for (int j = 0; j < (int) lengthof(differences); j++)
			{
				for (int k = 0; k < (int) lengthof(differences); k++)
				{
					reconcile_random(shape, sizes[i], differences[j],
									 differences[k], 0, 0, "random sets");
					reconcile_random(shape, sizes[i], differences[j],
									 differences[k],
									 SX_RECONSET_MIN_FRAME * below(2),
									 SX_RECONSET_MIN_FRAME + below(3000),
									 "small frames");
				}
			}
		}
	}
	for (int i = 0; i < 2000; i++)
		reconcile_random(below(NSHAPES), below(3000), below(60), below(60),
						 below(3) == 0 ? 4096 + below(9000) : 0,
						 below(3) == 0 ? 4096 + below(9000) : 0, "random");
	reconcile_random(HASHES, 0, 0, 50000, 0, 4096, "all from the server");
	reconcile_random(HASHES, 0, 50000, 0, 4096, 4096, "all from the client");
	reconcile_random(HASHES, 20000, 20000, 20000, 4096, 4096, "a third each");
}

/* What the documentation promises. */
static void
check_cost(uint64 size, uint64 client_only, uint64 server_only,
		   uint64 max_bytes, int max_trips)
{
	Talk		t = reconcile_random(HASHES, size - Max(client_only, server_only),
									 client_only, server_only, 0, 0, "cost");
	char		label[200];

	snprintf(label, sizeof(label),
			 "%d ids, %d and %d alone: %d bytes there, %d back, %d round trips",
			 (int) size, (int) client_only, (int) server_only, (int) t.sent,
			 (int) t.received, t.trips);
	printf("%s\n", label);
	report(t.sent + t.received < max_bytes && t.trips <= max_trips, label);
}

/* ----------
 * Messages that are none
 * ----------
 */

static void
check_message(ArraySource *server, const char *message, size_t len,
			  SxReconsetResult expected, const char *what)
{
	StringInfoData out;
	const char *problem = NULL;
	Found		result = {.size = 0};
	SxReconsetResult status;

	initStringInfo(&out);
	status = sx_reconset_respond(&server->source, (const uint8 *) message, len,
								 0, &out, &problem);
	report(status == expected &&
		   (status == SX_RECONSET_MALFORMED) == (problem != NULL), what);
	if (expected == SX_RECONSET_UNKNOWN_VERSION)
		report(out.len == 1 && out.data[0] == SX_RECONSET_VERSION,
			   "an unknown version is answered with the known one");
	if (expected == SX_RECONSET_MALFORMED)
		report(out.len == 0, "a malformed message is not answered");
	if (expected != SX_RECONSET_ANSWERED)
	{
		problem = NULL;
		status = sx_reconset_continue(&server->source, (const uint8 *) message,
									  len, 0, &out, found, &result, &problem);
		report(status == expected && out.len == 0, what);
	}
	pfree(out.data);
}

#define BAD(message, what) \
	check_message(server, message, sizeof(message) - 1, \
				  SX_RECONSET_MALFORMED, what)
#define GOOD(message, what) \
	check_message(server, message, sizeof(message) - 1, \
				  SX_RECONSET_ANSWERED, what)
#define UNKNOWN(message, what) \
	check_message(server, message, sizeof(message) - 1, \
				  SX_RECONSET_UNKNOWN_VERSION, what)
#define TEN "0123456789"

static void
check_broken_messages(ArraySource *server)
{
	BAD("", "an empty message");
	UNKNOWN("\x60", "version 0");
	UNKNOWN("\x62\x00\x00\x00", "version 2");
	UNKNOWN("{}", "something else");
	GOOD("\x61", "no range");
	GOOD("\x61\x00\x00\x00", "one Skip");
	GOOD("\x61\x01\x00\x00", "an empty range");
	GOOD("\x61\x00\x00\x01" TEN "012345", "a fingerprint");
	GOOD("\x61\x00\x00\x02\x00", "an empty list");
	GOOD("\x61\x01\x01\x80\x00\x01\x01\x81\x00", "two ranges");
	GOOD("\x61\x00\x00\x00\x00\x00\x02\x00", "an empty range at the end");
	BAD("\x61\x00", "no length of the prefix");
	BAD("\x61\x00\x00", "no mode");
	BAD("\x61\x00\x00\x03", "mode 3");
	BAD("\x61\x00\x00\x04", "mode 4");
	BAD("\x61\x00\x00\x81\x00", "mode 128");
	BAD("\x61\x00\x00\x80\x00", "leading zeros");
	BAD("\x61\x80", "a cut number");
	BAD("\x61\x82\x80\x80\x80\x80\x80\x80\x80\x80\x00\x00\x00",
		"a number of 65 bits");
	GOOD("\x61\x81\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x00\x00",
		 "the highest timestamp");
	BAD("\x61\x81\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x00\x00\x02\x00\x00",
		"timestamps that add up to more");
	BAD("\x61\x01\x21" TEN TEN TEN "012\x00", "a prefix of 33 bytes");
	BAD("\x61\x01\x20" TEN TEN TEN "01", "a cut prefix");
	BAD("\x61\x01\x01\x81\x00\x01\x01\x80\x00", "ranges in another order");
	BAD("\x61\x00\x00\x00\x01\x00\x00", "a range after infinity");
	BAD("\x61\x00\x00\x01" TEN "01234", "a cut fingerprint");
	BAD("\x61\x00\x00\x02", "a list without length");
	BAD("\x61\x00\x00\x02\x01" TEN TEN TEN "0", "a cut list");
	BAD("\x61\x00\x00\x02\x90\x80\x80\x80\x80\x80\x80\x80\x00",
		"a list longer than memory");
	BAD("\x61\x00\x00\x02\x81\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
		"a list longer than any number");
}

/* Nothing that may come over a wire crashes; neither side goes on for ever. */
static void
check_mutations(ArraySource *client, ArraySource *server)
{
	StringInfoData messages[2];
	StringInfoData out;
	const char *problem;
	bool		good = true;

	initStringInfo(&messages[0]);
	initStringInfo(&messages[1]);
	initStringInfo(&out);
	for (int i = 0; i < 20000; i++)
	{
		int			which = (int) below(2);
		StringInfo	message = &messages[which];

		sx_reconset_initiate(&client->source, 0, &messages[0]);
		sx_reconset_respond(&server->source, (uint8 *) messages[0].data,
							messages[0].len, 0, &messages[1], &problem);
		for (uint64 n = below(6); n > 0; n--)
		{
			uint64		at = below(message->len);

			switch (below(3))
			{
				case 0:
					message->data[at] = (char) any();
					break;
				case 1:
					message->data[at] ^= (char) (1 << below(8));
					break;
				default:
					message->len = (int) at;
			}
		}
		if (which == 0)
			sx_reconset_respond(&server->source, (uint8 *) message->data,
								message->len, 4096, &out, &problem);
		else
		{
			Found		result = {.size = 100000};

			result.have = malloc(result.size * sizeof(SxReconsetItem));
			result.need = malloc(result.size * sizeof(SxReconsetItem));
			sx_reconset_continue(&client->source, (uint8 *) message->data,
								 message->len, 4096, &out, found, &result,
								 &problem);
			free(result.have);
			free(result.need);
		}
		good = good && out.len <= 4096;
	}
	report(good, "20000 damaged messages are answered within the frame limit");
	pfree(messages[0].data);
	pfree(messages[1].data);
	pfree(out.data);
}

static void
fill_random(ArraySource *array, uint64 count, uint64 first)
{
	SxReconsetItem *items = malloc((count + 1) * sizeof(SxReconsetItem));

	for (uint64 i = 0; i < count; i++)
	{
		state = i + first + 1;
		for (int j = 0; j < 20; j++)
			any();
		items[i] = random_item(HASHES, i + first);
	}
	array_init(array, items, count);
}

/* ----------
 * The peer of wire.py
 * ----------
 */

static void
print_hex(const char *word, const void *bytes, size_t len)
{
	printf("%s", word);
	for (size_t i = 0; i < len; i++)
		printf("%02x", ((const uint8 *) bytes)[i]);
	printf("\n");
}

static int
digit(char c)
{
	return c >= 'a' ? c - 'a' + 10 : c - '0';
}

static uint8 *
from_hex(const char *text, size_t *len)
{
	uint8	   *bytes = malloc(strlen(text) / 2 + 1);

	*len = strlen(text) / 2;
	for (size_t i = 0; i < *len; i++)
		bytes[i] = (uint8) (digit(text[2 * i]) << 4 | digit(text[2 * i + 1]));
	return bytes;
}

static void
print_found(void *arg, bool have, const uint8 *id)
{
	(void) arg;
	print_hex(have ? "have " : "need ", id, SX_RECONSET_ID_SIZE);
}

/*
 * Commands, one a line: add TIMESTAMP ID, initiate LIMIT, respond LIMIT
 * MESSAGE, continue LIMIT MESSAGE; all in hex but the numbers. The answer to
 * the last three ends with a line that begins with "message" or "result".
 */
static int
be_peer(void)
{
	static char line[8 * 1024 * 1024];
	SxReconsetItem *items = NULL;
	uint64		count = 0;
	uint64		size = 0;
	bool		ready = false;
	ArraySource array;
	StringInfoData out;
	const char *problem;

	initStringInfo(&out);
	while (fgets(line, sizeof(line), stdin) != NULL)
	{
		char	   *command = strtok(line, " \n");
		char	   *number = strtok(NULL, " \n");
		char	   *text = strtok(NULL, " \n");
		size_t		len = 0;
		uint8	   *bytes = from_hex(text == NULL ? "" : text, &len);
		uint32		limit = (uint32) strtoul(number, NULL, 10);
		SxReconsetResult status = SX_RECONSET_ANSWERED;

		if (strcmp(command, "add") == 0)
		{
			if (count == size)
			{
				size = size * 2 + 1000;
				items = realloc(items, size * sizeof(SxReconsetItem));
			}
			items[count].timestamp = strtoull(number, NULL, 10);
			memcpy(items[count++].id, bytes, SX_RECONSET_ID_SIZE);
			free(bytes);
			continue;
		}
		if (!ready)
			array_init(&array, items, count);
		ready = true;
		if (strcmp(command, "initiate") == 0)
			sx_reconset_initiate(&array.source, limit, &out);
		else if (strcmp(command, "respond") == 0)
			status = sx_reconset_respond(&array.source, bytes, len, limit,
										 &out, &problem);
		else
			status = sx_reconset_continue(&array.source, bytes, len, limit,
										  &out, print_found, NULL, &problem);
		free(bytes);
		if (status == SX_RECONSET_ANSWERED ||
			status == SX_RECONSET_UNKNOWN_VERSION)
			print_hex("message ", out.data, out.len);
		else
			printf("result %s\n",
				   status == SX_RECONSET_DONE ? "done" : problem);
		fflush(stdout);
	}
	return 0;
}

int
main(int argc, char **argv)
{
	ArraySource client;
	ArraySource server;

	if (argc > 1 && strcmp(argv[1], "peer") == 0)
		return be_peer();

	check_random_sets();
	check_cost(1000000, 50, 50, 64 * 1024, 4);
	check_cost(1000000, 100, 0, 64 * 1024, 4);
	check_cost(1000000, 0, 100, 64 * 1024, 4);
	check_cost(1000000, 1, 0, 8 * 1024, 3);
	check_cost(1000000, 0, 0, 2 * 1024, 1);

	fill_random(&client, 700, 0);
	fill_random(&server, 700, 100);
	check_broken_messages(&server);
	check_mutations(&client, &server);
	array_free(&client);
	array_free(&server);

	printf("%d passed, %d failed\n", passed, failed);
	return failed == 0 ? 0 : 1;
}
