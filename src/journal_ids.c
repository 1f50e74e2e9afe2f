/*-------------------------------------------------------------------------
 *
 * journal_ids.c
 *		The ids of a stream as a set that can be compared over a wire.
 *
 * An id is in the set as its SHA-256, which is what the unique index of
 * sync.entry holds. The fingerprints that reconset.c sends are made of sums of
 * hashes, and to add a million of them up for each message would cost more
 * than to send them. But sums can be kept: sync.journal_sums has, for each
 * stream, the number of ids and the sum of their hashes in 2^bits buckets, by
 * how the hashes begin. A bucket holds some tens of ids. So the sum of any
 * range comes from the buckets inside of it and the ids of the two at its
 * ends, and these are read through the index, only where they are asked for.
 *
 * Who appends does not pay for that with a row to update for each entry: the
 * sums count the entries up to a time, and what came later, the tail, is added
 * up by who asks. About once in 4096 entries, which is when a hash ends with
 * twelve zero bits, an append adds the tail to the sums; so no counter is
 * needed either. What it writes is 40 bytes for each bucket, of which there is
 * one for 32 to 128 entries.
 *
 * It is all one to a reader: sums, tail and index are seen by one snapshot,
 * and whoever writes them holds the stream's lock. Entries that go (combine,
 * trim) take a part of the sums along, of which nobody keeps track: the sums
 * are made again from the entries that are left. Where there are no sums
 * (after a restore, since they are not dumped, until an append makes them) the
 * stream is read as a whole, and the sums are made in memory.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/visibilitymap.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "port/pg_bswap.h"
#include "storage/bufmgr.h"
#include "storage/predicate.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "sync_ext.h"
#include "catalog.h"
#include "journal_ids.h"

#define HASH_SIZE			SX_RECONSET_ID_SIZE

/* Buckets are made for so many entries, and made anew beyond that. */
#define WANTED_PER_BUCKET	32
#define MAX_PER_BUCKET		128

/* No more than these, 2.5 MB: from there on, buckets grow with the stream. */
#define MAX_BITS			16

/* An append with a hash that ends so adds the tail to the sums. */
#define FOLDING_MASK		0x0fff

/*
 * Unless it is this short: ids are the clients' choice, and nobody shall make
 * the server write sums with each entry.
 */
#define MIN_TAIL			256

typedef struct Bucket
{
	uint64		count;
	SxReconsetSum sum;
} Bucket;

/* A stream's sums, as they are stored. */
typedef struct Sums
{
	bool		exist;
	ItemPointerData tid;		/* of their row */
	TimestampTz at;				/* entries up to here are counted */
	int			bits;
	int			nbuckets;
	Bucket	   *buckets;
} Sums;

/* A bucket whose hashes were read, in order. */
typedef struct Loaded
{
	uint8	   *hashes;
} Loaded;

typedef struct StreamIds
{
	SxReconsetSource source;	/* first, so that one is the other */
	MemoryContext context;
	SxSha256	sha256;
	int32		stream_id;
	Snapshot	snapshot;
	int			bits;
	int			nbuckets;
	uint64	   *first_rank;		/* [nbuckets + 1] */
	SxReconsetSum *sum_before;	/* [nbuckets + 1] */
	Loaded	   *loaded;			/* [nbuckets] */

	/* for reading hashes */
	Relation	heap;
	Relation	index;
	IndexScanDesc scan;
	TupleTableSlot *slot;
	Buffer		visibility_map;
} StreamIds;

void
sx_journal_ids_hash(const char *id, Size len, uint8 *hash)
{
	SxSha256	sha256 = sx_sha256_create();

	sx_sha256_digest(sha256, id, len, hash);
	sx_sha256_free(sha256);
}

/* ---- buckets ---- */

static int
bucket_of(const uint8 *hash, int bits)
{
	return ((hash[0] << 8) | hash[1]) >> (MAX_BITS - bits);
}

/* How many bits make as many buckets as there should be. */
static int
wanted_bits(uint64 count)
{
	int			bits = 0;

	while (bits < MAX_BITS && count > (uint64) WANTED_PER_BUCKET << bits)
		bits++;
	return bits;
}

static void
add_to_bucket(Bucket *bucket, const uint8 *hash)
{
	bucket->count++;
	sx_reconset_add_id(&bucket->sum, hash);
}

/* Makes one of two neighbours until there are so many as are wanted. */
static void
merge_buckets(Sums *sums, int bits)
{
	int			each = 1 << (sums->bits - bits);

	for (int i = 0; i < 1 << bits; i++)
	{
		Bucket		merged = sums->buckets[i * each];

		for (int j = 1; j < each; j++)
		{
			merged.count += sums->buckets[i * each + j].count;
			sx_reconset_add(&merged.sum, &sums->buckets[i * each + j].sum);
		}
		sums->buckets[i] = merged;
	}
	sums->bits = bits;
	sums->nbuckets = 1 << bits;
}

static uint64
count_all(const Sums *sums)
{
	uint64		count = 0;

	for (int i = 0; i < sums->nbuckets; i++)
		count += sums->buckets[i].count;
	return count;
}

/* ---- the stored sums ---- */

static void
stream_key(ScanKey key, int32 stream_id)
{
	ScanKeyInit(key, 1, BTEqualStrategyNumber, F_INT4EQ,
				Int32GetDatum(stream_id));
}

static void
read_sums(int32 stream_id, Snapshot snapshot, Sums *sums)
{
	const SxCatalog *catalog = sx_catalog_get();
	Oid			index_oid = catalog->journal_sums_pkey;
	Relation	heap = table_open(catalog->journal_sums, AccessShareLock);
	Relation	index = index_open(index_oid, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(heap, NULL);
	IndexScanDesc scan = sx_index_beginscan(heap, index, snapshot, 1);
	ScanKeyData key;

	memset(sums, 0, sizeof(*sums));
	stream_key(&key, stream_id);
	index_rescan(scan, &key, 1, NULL, 0);
	if (index_getnext_slot(scan, ForwardScanDirection, slot))
	{
		bool		isnull;
		Datum		value;
		bytea	   *stored;

		sums->exist = true;
		sums->tid = slot->tts_tid;
		sums->at = DatumGetTimestampTz(slot_getattr(slot, Anum_journal_sums_at,
													&isnull));
		sums->bits = DatumGetInt32(slot_getattr(slot, Anum_journal_sums_bits,
												&isnull));
		sums->nbuckets = 1 << sums->bits;
		value = slot_getattr(slot, Anum_journal_sums_sums, &isnull);
		stored = DatumGetByteaP(value);
		if (sums->bits < 0 || sums->bits > MAX_BITS ||
			VARSIZE(stored) - VARHDRSZ != sums->nbuckets * sizeof(Bucket))
			elog(ERROR, "the sums of stream %d are damaged", stream_id);
		/* copied, since a bytea is not aligned as these are */
		sums->buckets = palloc(sums->nbuckets * sizeof(Bucket));
		memcpy(sums->buckets, VARDATA(stored),
			   sums->nbuckets * sizeof(Bucket));
		if (PointerGetDatum(stored) != value)
			pfree(stored);
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, NoLock);
	table_close(heap, NoLock);
}

/*
 * Writes the row, or removes it where nothing is left to be counted. The
 * stream's lock keeps others away, so a plain update is enough; it asks for no
 * right of the user, whom the row does not concern.
 */
static void
write_sums(int32 stream_id, Sums *sums)
{
	Relation	heap = table_open(sx_catalog_get()->journal_sums,
								  RowExclusiveLock);
	Size		size = sums->nbuckets * sizeof(Bucket);
	int			natts = RelationGetDescr(heap)->natts;
	Datum	   *values = palloc0(sizeof(Datum) * natts);
	bool	   *nulls = palloc(sizeof(bool) * natts);
	bytea	   *stored = palloc(VARHDRSZ + size);
	HeapTuple	tuple;

	SET_VARSIZE(stored, VARHDRSZ + size);
	memcpy(VARDATA(stored), sums->buckets, size);
	/* columns that the owner added have nothing in them */
	memset(nulls, true, sizeof(bool) * natts);
	memset(nulls, false, sizeof(bool) * Natts_journal_sums);
	values[Anum_journal_sums_stream_id - 1] = Int32GetDatum(stream_id);
	values[Anum_journal_sums_at - 1] = TimestampTzGetDatum(sums->at);
	values[Anum_journal_sums_bits - 1] = Int32GetDatum(sums->bits);
	values[Anum_journal_sums_sums - 1] = PointerGetDatum(stored);
	tuple = heap_form_tuple(RelationGetDescr(heap), values, nulls);
	if (sums->exist)
		CatalogTupleUpdate(heap, &sums->tid, tuple);
	else
		CatalogTupleInsert(heap, tuple);
	heap_freetuple(tuple);
	pfree(stored);
	table_close(heap, NoLock);
	/* another append of this statement may have to write it again */
	CommandCounterIncrement();
}

static void
remove_sums(const Sums *sums)
{
	Relation	heap;

	if (!sums->exist)
		return;
	heap = table_open(sx_catalog_get()->journal_sums, RowExclusiveLock);
	CatalogTupleDelete(heap, (ItemPointer) &sums->tid);
	table_close(heap, NoLock);
	CommandCounterIncrement();
}

/* Adds the entries after sums->at, and moves that on. */
static void
add_tail(int32 stream_id, Snapshot snapshot, Sums *sums)
{
	const SxCatalog *catalog = sx_catalog_get();
	Oid			index_oid = catalog->entry_by_time;
	Relation	heap = table_open(catalog->entry, AccessShareLock);
	Relation	index = index_open(index_oid, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(heap, NULL);
	IndexScanDesc scan = sx_index_beginscan(heap, index, snapshot, 2);
	ScanKeyData keys[2];

	stream_key(&keys[0], stream_id);
	ScanKeyInit(&keys[1], 2, BTGreaterStrategyNumber, F_TIMESTAMPTZ_GT,
				TimestampTzGetDatum(sums->at));
	index_rescan(scan, keys, 2, NULL, 0);
	while (index_getnext_slot(scan, ForwardScanDirection, slot))
	{
		bool		isnull;
		bytea	   *stored;
		const uint8 *hash;

		CHECK_FOR_INTERRUPTS();
		stored = DatumGetByteaPP(slot_getattr(slot, Anum_entry_hash, &isnull));
		hash = (const uint8 *) VARDATA_ANY(stored);
		add_to_bucket(&sums->buckets[bucket_of(hash, sums->bits)], hash);
		sums->at = DatumGetTimestampTz(slot_getattr(slot, Anum_entry_at,
													&isnull));
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, NoLock);
	table_close(heap, NoLock);
}

/* ---- writing ---- */

/*
 * Makes the sums from all entries, in one pass: into the most buckets that
 * there can be, which are then merged to as many as this stream should have.
 */
void
sx_journal_ids_rebuild(int32 stream_id)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "sync_ext sums of a stream",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Sums		sums;
	uint64		count;

	read_sums(stream_id, SnapshotSelf, &sums);
	sums.at = DT_NOBEGIN;
	sums.bits = MAX_BITS;
	sums.nbuckets = 1 << MAX_BITS;
	sums.buckets = palloc0(sums.nbuckets * sizeof(Bucket));
	add_tail(stream_id, SnapshotSelf, &sums);
	count = count_all(&sums);
	merge_buckets(&sums, wanted_bits(count));
	if (count == 0)
		remove_sums(&sums);
	else
		write_sums(stream_id, &sums);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

static void
fold_tail(int32 stream_id)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "sync_ext sums of a stream",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Sums		sums;
	uint64		counted;
	uint64		count;
	bool		fits;

	/* Under the stream's lock, what is committed or our own is all there is. */
	read_sums(stream_id, SnapshotSelf, &sums);
	fits = sums.exist;
	counted = count_all(&sums);
	if (fits)
		add_tail(stream_id, SnapshotSelf, &sums);
	count = count_all(&sums);
	fits = fits && (sums.bits == MAX_BITS ||
					count <= (uint64) MAX_PER_BUCKET << sums.bits);
	if (fits && count - counted >= MIN_TAIL)
		write_sums(stream_id, &sums);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	if (!fits)
		sx_journal_ids_rebuild(stream_id);
}

void
sx_journal_ids_appended(int32 stream_id, const uint8 *hashes, int n)
{
	for (int i = 0; i < n; i++)
	{
		const uint8 *end = hashes + (Size) (i + 1) * HASH_SIZE;

		if ((((end[-2] << 8) | end[-1]) & FOLDING_MASK) == 0)
		{
			fold_tail(stream_id);
			return;
		}
	}
}

/* ---- reading ---- */

static bytea *
bucket_bound(int bucket, int bits)
{
	bytea	   *bound = palloc0(VARHDRSZ + HASH_SIZE);
	uint16		prefix = pg_hton16((uint16) (bucket << (MAX_BITS - bits)));

	SET_VARSIZE(bound, VARHDRSZ + HASH_SIZE);
	memcpy(VARDATA(bound), &prefix, sizeof(prefix));
	return bound;
}

static void
start_bucket_scan(StreamIds *ids, int bucket)
{
	ScanKeyData keys[3];
	int			nkeys = 0;

	stream_key(&keys[nkeys++], ids->stream_id);
	ScanKeyInit(&keys[nkeys++], 2, BTGreaterEqualStrategyNumber, F_BYTEAGE,
				PointerGetDatum(bucket_bound(bucket, ids->bits)));
	if (bucket + 1 < ids->nbuckets)
		ScanKeyInit(&keys[nkeys++], 2, BTLessStrategyNumber, F_BYTEALT,
					PointerGetDatum(bucket_bound(bucket + 1, ids->bits)));
	if (ids->scan != NULL)
		index_endscan(ids->scan);
	ids->scan = sx_index_beginscan(ids->heap, ids->index, ids->snapshot,
								   nkeys);
	ids->scan->xs_want_itup = true;
	index_rescan(ids->scan, keys, nkeys, NULL, 0);
}

/*
 * The next hash, from the index alone where the page is known to be visible
 * to all, as an index-only scan does it.
 */
static bool
next_hash(StreamIds *ids, uint8 *hash)
{
	ItemPointer tid;

	while ((tid = index_getnext_tid(ids->scan, ForwardScanDirection)) != NULL)
	{
		BlockNumber block = ItemPointerGetBlockNumber(tid);
		bool		isnull;
		bytea	   *stored;

		CHECK_FOR_INTERRUPTS();
		if (!VM_ALL_VISIBLE(ids->heap, block, &ids->visibility_map))
		{
			if (!index_fetch_heap(ids->scan, ids->slot))
				continue;
			ExecClearTuple(ids->slot);
		}
		else
			PredicateLockPage(ids->heap, block, ids->snapshot);
		stored = DatumGetByteaPP(index_getattr(ids->scan->xs_itup, 2,
											   ids->scan->xs_itupdesc,
											   &isnull));
		memcpy(hash, VARDATA_ANY(stored), HASH_SIZE);
		return true;
	}
	return false;
}

/* The hashes of a bucket of which the sums are known. */
static const uint8 *
load_bucket(StreamIds *ids, int bucket)
{
	Loaded	   *loaded = &ids->loaded[bucket];
	uint64		expected = ids->first_rank[bucket + 1] - ids->first_rank[bucket];
	uint64		n = 0;
	uint8		hash[HASH_SIZE];
	MemoryContext old;

	if (loaded->hashes != NULL)
		return loaded->hashes;
	old = MemoryContextSwitchTo(ids->context);
	loaded->hashes = MemoryContextAllocHuge(ids->context,
											Max(expected, 1) * HASH_SIZE);
	start_bucket_scan(ids, bucket);
	while (next_hash(ids, hash))
	{
		if (n < expected)
			memcpy(loaded->hashes + n * HASH_SIZE, hash, HASH_SIZE);
		n++;
	}
	MemoryContextSwitchTo(old);
	if (n != expected)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the sums over a stream's ids do not fit its entries"),
				 errdetail("Stream %d has %llu ids in bucket %d of %d, and %llu are counted.",
						   ids->stream_id, (unsigned long long) n, bucket,
						   ids->nbuckets, (unsigned long long) expected),
				 errhint("Entries were changed past the functions of sync_ext. Delete the stream's row from sync.journal_sums: it is made again.")));
	return loaded->hashes;
}

static void
make_buckets(StreamIds *ids, int bits)
{
	ids->bits = bits;
	ids->nbuckets = 1 << bits;
	ids->first_rank = palloc0((ids->nbuckets + 1) * sizeof(uint64));
	ids->sum_before = palloc0((ids->nbuckets + 1) * sizeof(SxReconsetSum));
	ids->loaded = palloc0(ids->nbuckets * sizeof(Loaded));
}

/*
 * Without sums the whole stream is read, and put into buckets here: a message
 * may ask for many sums of it.
 */
static void
load_everything(StreamIds *ids)
{
	uint64		size = 1024;
	uint64		n = 0;
	uint64		rank = 0;
	uint8	   *hashes = palloc(size * HASH_SIZE);

	ids->bits = 0;
	ids->nbuckets = 1;
	start_bucket_scan(ids, 0);
	for (;;)
	{
		if (n == size)
		{
			size *= 2;
			hashes = repalloc_huge(hashes, size * HASH_SIZE);
		}
		if (!next_hash(ids, hashes + n * HASH_SIZE))
			break;
		n++;
	}
	make_buckets(ids, wanted_bits(n));
	for (int i = 0; i < ids->nbuckets; i++)
	{
		ids->loaded[i].hashes = hashes + rank * HASH_SIZE;
		ids->sum_before[i + 1] = ids->sum_before[i];
		for (; rank < n && bucket_of(hashes + rank * HASH_SIZE, ids->bits) == i; rank++)
			sx_reconset_add_id(&ids->sum_before[i + 1], hashes + rank * HASH_SIZE);
		ids->first_rank[i + 1] = rank;
	}
}

static void
count_buckets(StreamIds *ids, const Sums *sums)
{
	for (int i = 0; i < ids->nbuckets; i++)
	{
		ids->first_rank[i + 1] = ids->first_rank[i] + sums->buckets[i].count;
		ids->sum_before[i + 1] = ids->sum_before[i];
		sx_reconset_add(&ids->sum_before[i + 1], &sums->buckets[i].sum);
	}
}

/* The bucket in which a rank below the count lies. */
static int
bucket_of_rank(StreamIds *ids, uint64 rank)
{
	int			low = 0;
	int			high = ids->nbuckets - 1;

	while (low < high)
	{
		int			middle = low + (high - low + 1) / 2;

		if (ids->first_rank[middle] <= rank)
			low = middle;
		else
			high = middle - 1;
	}
	return low;
}

static void
ids_item(SxReconsetSource *source, uint64 rank, SxReconsetItem *item)
{
	StreamIds  *ids = (StreamIds *) source;
	int			bucket = bucket_of_rank(ids, rank);
	const uint8 *hashes = load_bucket(ids, bucket);

	item->timestamp = 0;
	memcpy(item->id, hashes + (rank - ids->first_rank[bucket]) * HASH_SIZE,
		   HASH_SIZE);
}

static uint64
ids_lower_bound(SxReconsetSource *source, const SxReconsetItem *bound)
{
	StreamIds  *ids = (StreamIds *) source;
	const uint8 *hashes;
	int			bucket;
	uint64		low = 0;
	uint64		high;

	/* once for each range of a message, which may have millions */
	CHECK_FOR_INTERRUPTS();
	if (bound->timestamp > 0)
		return source->count;
	bucket = bucket_of(bound->id, ids->bits);
	high = ids->first_rank[bucket + 1] - ids->first_rank[bucket];
	if (high == 0)
		return ids->first_rank[bucket];
	hashes = load_bucket(ids, bucket);
	while (low < high)
	{
		uint64		middle = low + (high - low) / 2;

		if (memcmp(hashes + middle * HASH_SIZE, bound->id, HASH_SIZE) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return ids->first_rank[bucket] + low;
}

/* The sum of all ids below a rank. */
static void
sum_below(StreamIds *ids, uint64 rank, SxReconsetSum *sum)
{
	int			bucket;
	const uint8 *hashes;

	if (rank == ids->source.count)
	{
		*sum = ids->sum_before[ids->nbuckets];
		return;
	}
	bucket = bucket_of_rank(ids, rank);
	*sum = ids->sum_before[bucket];
	if (rank == ids->first_rank[bucket])
		return;
	hashes = load_bucket(ids, bucket);
	for (uint64 i = 0; i < rank - ids->first_rank[bucket]; i++)
		sx_reconset_add_id(sum, hashes + i * HASH_SIZE);
}

static void
ids_sum(SxReconsetSource *source, uint64 from, uint64 to, SxReconsetSum *sum)
{
	StreamIds  *ids = (StreamIds *) source;
	SxReconsetSum below;

	CHECK_FOR_INTERRUPTS();
	sum_below(ids, to, sum);
	sum_below(ids, from, &below);
	sx_reconset_subtract(sum, &below);
}

static void
ids_sha256(SxReconsetSource *source, const uint8 *data, size_t len,
		   uint8 *digest)
{
	sx_sha256_digest(((StreamIds *) source)->sha256, data, len, digest);
}

SxReconsetSource *
sx_journal_ids_open(int32 stream_id, Snapshot snapshot)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "sync_ext ids of a stream",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	StreamIds  *ids = palloc0(sizeof(StreamIds));
	const SxCatalog *catalog;
	Oid			index_oid;
	Sums		sums;

	read_sums(stream_id, snapshot, &sums);
	ids->context = context;
	ids->sha256 = sx_sha256_create();
	ids->stream_id = stream_id;
	ids->snapshot = snapshot;

	catalog = sx_catalog_get();
	index_oid = catalog->entry_by_hash;
	ids->heap = table_open(catalog->entry, AccessShareLock);
	ids->index = index_open(index_oid, AccessShareLock);
	ids->slot = table_slot_create(ids->heap, NULL);
	ids->visibility_map = InvalidBuffer;
	if (sums.exist)
	{
		make_buckets(ids, sums.bits);
		add_tail(stream_id, snapshot, &sums);
		count_buckets(ids, &sums);
	}
	else
		load_everything(ids);

	ids->source.count = ids->first_rank[ids->nbuckets];
	ids->source.item = ids_item;
	ids->source.lower_bound = ids_lower_bound;
	ids->source.sum = ids_sum;
	ids->source.sha256 = ids_sha256;
	MemoryContextSwitchTo(old);
	return &ids->source;
}

void
sx_journal_ids_close(SxReconsetSource *source)
{
	StreamIds  *ids = (StreamIds *) source;

	if (ids->scan != NULL)
		index_endscan(ids->scan);
	if (BufferIsValid(ids->visibility_map))
		ReleaseBuffer(ids->visibility_map);
	ExecDropSingleTupleTableSlot(ids->slot);
	index_close(ids->index, NoLock);
	table_close(ids->heap, NoLock);
	sx_sha256_free(ids->sha256);
	MemoryContextDelete(ids->context);
}
