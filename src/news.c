/*-------------------------------------------------------------------------
 *
 * news.c
 *		What is new in all logs, for those who wake others.
 *
 * The log is read in the order of transactions, whole rows of it at a time:
 * a row of a packed log names hundreds of keys, of which nobody here needs to
 * know more than their number. Where the keys themselves are asked for, they
 * are read in a second pass, which is short because their JSON must be.
 *
 * What the reader's own transaction has written is left out by "now", which
 * never holds it, though the snapshot sees it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "common/hashfn.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "sync_ext.h"
#include "catalog.h"
#include "journal_news.h"
#include "logscan.h"
#include "news.h"
#include "rowjson.h"
#include "validity.h"

/* News of one domain, while its log is being read. */
typedef struct Gathering
{
	SxNews	   *news;
	bool		mixed;			/* of more than one origin */
	TupleDesc	scope_row;
	HTAB	   *scopes;			/* of Scope */
	List	   *order;			/* the same, as they were met */
	MemoryContext context;		/* for what the result holds */
	MemoryContext entry;		/* for one entry */
} Gathering;

typedef struct Scope
{
	MinimalTuple image;			/* hash key */
	const char *author;
	bool		mixed;
	bool		membership;
} Scope;

static uint32
hash_scope(const void *key, Size size)
{
	MinimalTuple image = *(const MinimalTuple *) key;

	return hash_bytes((const unsigned char *) image, image->t_len);
}

static int
match_scope(const void *a, const void *b, Size size)
{
	MinimalTuple x = *(const MinimalTuple *) a;
	MinimalTuple y = *(const MinimalTuple *) b;

	return x->t_len != y->t_len || memcmp(x, y, x->t_len) != 0;
}

static void
make_scopes(Gathering *gathering, SxTable *table)
{
	HASHCTL		control;

	gathering->entry = AllocSetContextCreate(gathering->context,
											 "sync_ext news entry",
											 ALLOCSET_SMALL_SIZES);
	gathering->scope_row = CreateTemplateTupleDesc(table->nscopes);
	for (int i = 0; i < table->nscopes; i++)
		TupleDescInitEntry(gathering->scope_row, i + 1, table->scopes[i].name,
						   table->scopes[i].type, table->scopes[i].typmod, 0);

	memset(&control, 0, sizeof(control));
	control.keysize = sizeof(MinimalTuple);
	control.entrysize = sizeof(Scope);
	control.hash = hash_scope;
	control.match = match_scope;
	control.hcxt = gathering->context;
	gathering->scopes = hash_create("sync_ext news", 64, &control,
									HASH_ELEM | HASH_FUNCTION | HASH_COMPARE |
									HASH_CONTEXT);
}

/*
 * The scope of an entry. Values that are equal but look different ("a" and "A"
 * of citext) make two scopes, which harms nobody.
 */
static Scope *
find_scope(Gathering *gathering, const SxLogEntry *entry, bool *found)
{
	SxTable    *table = gathering->news->table;
	MemoryContext old;
	Datum		values[INDEX_MAX_KEYS];
	MinimalTuple image;
	Scope	   *scope;

	MemoryContextReset(gathering->entry);
	old = MemoryContextSwitchTo(gathering->entry);
	for (int i = 0; i < table->nscopes; i++)
	{
		values[i] = entry->scopes[i];
		if (!entry->scope_nulls[i] && table->scopes[i].typlen == -1)
			values[i] = PointerGetDatum(PG_DETOAST_DATUM(values[i]));
	}
	image = sx_form_minimal_tuple(gathering->scope_row, values,
								  entry->scope_nulls);
	MemoryContextSwitchTo(old);
	scope = hash_search(gathering->scopes, &image, HASH_ENTER, found);
	if (!*found)
	{
		scope->image = sx_copy_minimal_tuple(image);
		gathering->order = lappend(gathering->order, scope);
	}
	return scope;
}

static bool
same_origin(const char *a, const char *b)
{
	return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

static void
gather_scope(Gathering *gathering, const SxLogEntry *entry)
{
	bool		moved = entry->op == SX_OP_LEAVE || entry->op == SX_OP_ENTER;
	bool		found;
	Scope	   *scope = find_scope(gathering, entry, &found);

	if (!found)
	{
		scope->author = entry->origin == NULL ? NULL : pstrdup(entry->origin);
		scope->mixed = false;
		scope->membership = false;
	}
	scope->mixed = scope->mixed || moved ||
		!same_origin(scope->author, entry->origin);
	scope->membership = scope->membership || entry->op != SX_OP_UPDATE;
}

static void
gather(Gathering *gathering, const SxLogEntry *entry, bool first)
{
	SxNews	   *news = gathering->news;

	if (first && entry->origin != NULL)
		news->origin = pstrdup(entry->origin);
	if (!same_origin(news->origin, entry->origin))
		gathering->mixed = true;
	news->xid = Max(news->xid, entry->xid);
	/* a leave has its enter, which counts */
	if (entry->op != SX_OP_LEAVE)
		news->count += entry->nkeys;
	if (gathering->scopes != NULL)
		gather_scope(gathering, entry);
}

/* Turns what was gathered into an array. */
static void
finish_scopes(Gathering *gathering)
{
	SxNews	   *news = gathering->news;
	int			n = news->table->nscopes;
	ListCell   *cell;

	news->scopes = palloc_extended(sizeof(SxNewsScope) *
								   (Size) Max(list_length(gathering->order), 1),
								   MCXT_ALLOC_HUGE);
	foreach(cell, gathering->order)
	{
		Scope	   *from = lfirst(cell);
		SxNewsScope *to = &news->scopes[news->nscopes++];
		HeapTupleData tuple;

		tuple.t_len = from->image->t_len + MINIMAL_TUPLE_OFFSET;
		tuple.t_data = (HeapTupleHeader) ((char *) from->image -
										  MINIMAL_TUPLE_OFFSET);
		to->values = palloc(sizeof(Datum) * Max(n, 1));
		to->nulls = palloc(sizeof(bool) * Max(n, 1));
		heap_deform_tuple(&tuple, gathering->scope_row, to->values, to->nulls);
		to->membership = from->membership;
		to->author = from->mixed ? NULL : from->author;
	}
}

static void
read_entries(SxNews *news, SxLogScan *scan, bool with_scopes,
			 SxDurable *durable)
{
	Gathering	gathering = {.news = news, .context = CurrentMemoryContext};
	SxLogEntry	entry;
	bool		first = true;

	if (with_scopes)
		make_scopes(&gathering, news->table);
	while (sx_logscan_next_entry(scan, &entry))
	{
		sx_durable_note(durable, entry.xid);
		gather(&gathering, &entry, first);
		first = false;
	}
	if (gathering.mixed)
		news->origin = NULL;
	if (with_scopes)
		finish_scopes(&gathering);
}

static void
read_keys(SxNews *news, SxLogScan *scan, int max_keys)
{
	StringInfo	keys = makeStringInfo();
	SxLogItem  *item;

	while ((item = sx_logscan_next(scan)) != NULL)
	{
		char	   *key;

		if (item->op == SX_OP_LEAVE)
			continue;
		key = sx_rowjson_key_text(news->table, item->key);
		if (keys->len + (int) strlen(key) >= max_keys)
			return;
		if (keys->len > 0)
			appendStringInfoChar(keys, ',');
		appendStringInfoString(keys, key);
	}
	news->keys = keys;
}

/* Whether the log may hold an entry that is new; the newest such in *xid. */
static bool
has_news(SxTable *table, const SxSnapshot *seen, Snapshot snapshot,
		 const SxSnapshot *now, uint64 *xid)
{
	*xid = sx_logscan_newest(table->log, table->log_by_xid, snapshot, now,
							 sx_snapshot_xmin(seen));
	if (*xid == 0)
		return false;
	if (*xid >= seen->xmax)
		return true;
	for (int i = 0; i < seen->nxip; i++)
		if (sx_snapshot_has(now, seen->xip[i]))
			return true;
	return false;
}

/* Where the log cannot tell, its newest transaction is what counts as seen. */
static void
tell_reset(SxNews *news, const SxSnapshot *seen, Snapshot snapshot,
		   const SxSnapshot *now, uint64 newest, SxDurable *durable)
{
	Oid			root = news->table->root;
	uint64		marker = sx_logscan_newest_marker(root, snapshot, now,
												  sx_snapshot_xmin(seen));
	uint64		pruned = sx_logscan_pruned_below(root, snapshot);

	news->reset = true;
	news->xid = Max(newest, marker);
	if (news->xid != 0)
		sx_durable_note(durable, news->xid);
	/* what was pruned was on disk */
	if (pruned > 0)
		news->xid = Max(news->xid, pruned - 1);
}

/* What is new in one table's log; NULL: nothing. */
static SxNews *
news_of(SxTable *table, const SxSnapshot *seen, Snapshot snapshot,
		const SxSnapshot *now, bool with_scopes, int max_keys,
		SxDurable *durable)
{
	bool		reset = sx_validity_of_log(table, seen, snapshot, now, 0) != NULL;
	uint64		newest;
	bool		logged = has_news(table, seen, snapshot, now, &newest);
	SxNews	   *news;
	SxLogScan  *scan;

	if (!reset && !logged)
		return NULL;
	news = palloc0(sizeof(SxNews));
	news->table = table;
	if (reset)
	{
		tell_reset(news, seen, snapshot, now, newest, durable);
		return news;
	}

	scan = sx_logscan_begin(table, NULL, NIL, NULL, NULL, false, snapshot, now);
	sx_logscan_between(scan, seen, now, NULL);
	read_entries(news, scan, with_scopes, durable);
	/* one byte of JSON for each key, at the very least */
	if (max_keys > 0 && news->count > 0 && news->count < max_keys)
	{
		sx_logscan_between(scan, seen, now, NULL);
		read_keys(news, scan, max_keys);
	}
	sx_logscan_end(scan);
	/* what finished since may have logged nothing here */
	return news->xid == 0 ? NULL : news;
}

/* The tracked tables. */
static List *
tracked_tables(Snapshot snapshot)
{
	Relation	rel = table_open(sx_catalog_get()->change_log, AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, snapshot, 0,
										  NULL);
	HeapTuple	tuple;
	List	   *roots = NIL;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;

		roots = lappend_oid(roots, DatumGetObjectId(
			heap_getattr(tuple, Anum_change_log_rel, RelationGetDescr(rel),
						 &isnull)));
	}
	systable_endscan(scan);
	table_close(rel, NoLock);
	return roots;
}

List *
sx_news_since(const SxSnapshot *seen, Snapshot snapshot, const SxSnapshot *now,
			  bool with_scopes, int max_keys, SxDurable *durable)
{
	List	   *all = NIL;
	ListCell   *cell;
	SxNews	   *news;

	foreach(cell, tracked_tables(snapshot))
	{
		Oid			root = lfirst_oid(cell);
		SxTable    *table;

		/* dropped since the snapshot was taken */
		if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(root)))
			continue;
		table = sx_tracked_get(root);
		if (!table->tracked)
			continue;
		news = news_of(table, seen, snapshot, now, with_scopes, max_keys,
					   durable);
		if (news != NULL)
			all = lappend(all, news);
	}
	news = sx_journal_news_since(seen, snapshot, now, with_scopes, max_keys,
								 durable);
	return news == NULL ? all : lappend(all, news);
}
