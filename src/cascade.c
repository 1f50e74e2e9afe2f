/*-------------------------------------------------------------------------
 *
 * cascade.c
 *		A change of a detail row counts as a change of its master row.
 *
 * The row trigger (capture.c) collects the masters of the rows that changed,
 * the old and the new one; the statement trigger touches them by one UPDATE
 * for each master table, which stamps and logs them like any other. A master
 * that has masters itself passes it on by its own triggers. Each master is
 * touched at most once in a transaction, so self references and cycles end.
 *
 * Masters are locked in the order of their keys before they are updated, as
 * two statements would deadlock otherwise: UPDATE takes no order of rows.
 *
 * The UPDATE runs as the master's owner with row security off, as foreign keys
 * do: the writer need not see the master, nor be allowed to change it.
 *
 * A master that is not found may be one that another transaction is inserting
 * (with a deferred foreign key, or with none). It is looked for again before
 * commit. By then a foreign key has made sure that it is there. Without one it
 * may still be missing, and appear the moment after; then its key is logged
 * without the row, or, where the row's scope would be needed for that, all of
 * the domain is reset.
 *
 * A rollback to a savepoint forgets what was collected since, and un-touches
 * what was touched since; such a master is touched before commit.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "sync_ext.h"
#include "capture.h"
#include "cascade.h"
#include "catalog.h"
#include "plan.h"
#include "stamp.h"

/* One way to refer to a table: masters by these columns of theirs. */
typedef struct Reference
{
	struct Reference *next;
	Oid			master;
	int			nkeys;
	AttrNumber	refs[INDEX_MAX_KEYS];
	Oid			types[INDEX_MAX_KEYS];	/* of the detail's columns */
	bool		enforced;		/* by a foreign key of every detail */
	TupleDesc	desc;			/* ord, k1, k2, ...; of SX_KEYS */
} Reference;

typedef enum TouchState
{
	TOUCH_WAITING,				/* for the end of the statement */
	TOUCH_TRYING,				/* its UPDATE runs */
	TOUCH_MISSING,				/* not found, or un-touched */
	TOUCH_DONE
} TouchState;

typedef struct TouchKey
{
	Reference  *reference;
	MinimalTuple key;			/* of reference->desc, ord being null */
} TouchKey;

typedef struct Touch
{
	TouchKey	key;			/* hash key */
	TouchState	state;
	SubTransactionId since;		/* collected first in this one */
	SubTransactionId last;		/* and changed its state in this one */
} Touch;

static HTAB *touches = NULL;
static Reference *references = NULL;
static List *waiting = NIL;		/* of Touch */
static bool retrying = false;	/* before commit, for what was missing */

/* ---- collecting ---- */

static uint32
hash_touch(const void *key, Size size)
{
	const TouchKey *touch = key;

	return hash_bytes((const unsigned char *) touch->key, touch->key->t_len) ^
		touch->reference->master;
}

static int
match_touch(const void *a, const void *b, Size size)
{
	const TouchKey *x = a;
	const TouchKey *y = b;

	return x->reference != y->reference || x->key->t_len != y->key->t_len ||
		memcmp(x->key, y->key, x->key->t_len) != 0;
}

static void *
copy_touch_key(void *to, const void *from, Size size)
{
	const TouchKey *source = from;
	TouchKey   *copy = to;
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);

	copy->reference = source->reference;
	copy->key = sx_copy_minimal_tuple(source->key);
	MemoryContextSwitchTo(old);
	return to;
}

static void
make_table(void)
{
	HASHCTL		control;

	memset(&control, 0, sizeof(control));
	control.keysize = sizeof(TouchKey);
	control.entrysize = sizeof(Touch);
	control.hash = hash_touch;
	control.match = match_touch;
	control.keycopy = copy_touch_key;
	control.hcxt = TopTransactionContext;
	touches = hash_create("sync_ext touched masters", 64, &control,
						  HASH_ELEM | HASH_FUNCTION | HASH_COMPARE |
						  HASH_KEYCOPY | HASH_CONTEXT);
}

/* Whether a foreign key of the detail makes sure that masters exist. */
static bool
is_enforced(Oid detail, SxMaster *master)
{
	Relation	rel = table_open(detail, AccessShareLock);
	List	   *fks = RelationGetFKeyList(rel);
	ListCell   *cell;
	bool		found = false;

	foreach(cell, fks)
	{
		ForeignKeyCacheInfo *fk = lfirst(cell);
		int			matches = 0;

		if (fk->confrelid != master->relid || fk->nkeys != master->nkeys)
			continue;
		for (int i = 0; i < fk->nkeys; i++)
			for (int j = 0; j < master->nkeys; j++)
				if (fk->conkey[i] == master->fk[j] &&
					fk->confkey[i] == master->refs[j])
					matches++;
		if (matches == master->nkeys)
			found = true;
	}
	table_close(rel, NoLock);
	return found;
}

static Reference *
find_reference(SxTable *detail, SxMaster *master)
{
	Oid			types[INDEX_MAX_KEYS];
	Reference  *reference;
	bool		enforced;
	MemoryContext old;

	for (int i = 0; i < master->nkeys; i++)
		types[i] = TupleDescAttr(detail->row, master->fk[i] - 1)->atttypid;
	enforced = is_enforced(detail->relid, master);
	for (reference = references; reference != NULL; reference = reference->next)
		if (reference->master == master->relid &&
			reference->nkeys == master->nkeys &&
			reference->enforced == enforced &&
			memcmp(reference->refs, master->refs,
				   sizeof(AttrNumber) * master->nkeys) == 0 &&
			memcmp(reference->types, types, sizeof(Oid) * master->nkeys) == 0)
			return reference;

	old = MemoryContextSwitchTo(TopTransactionContext);
	reference = palloc0(sizeof(Reference));
	reference->master = master->relid;
	reference->nkeys = master->nkeys;
	reference->enforced = enforced;
	memcpy(reference->refs, master->refs, sizeof(AttrNumber) * master->nkeys);
	memcpy(reference->types, types, sizeof(Oid) * master->nkeys);
	reference->desc = CreateTemplateTupleDesc(master->nkeys + 1);
	TupleDescInitEntry(reference->desc, 1, "ord", INT4OID, -1, 0);
	for (int i = 0; i < master->nkeys; i++)
	{
		char		name[NAMEDATALEN];

		snprintf(name, sizeof(name), "k%d", i + 1);
		TupleDescInitEntry(reference->desc, i + 2, name, types[i], -1, 0);
		TupleDescInitEntryCollation(reference->desc, i + 2,
									TupleDescAttr(detail->row, master->fk[i] - 1)->attcollation);
	}
	reference->next = references;
	references = reference;
	MemoryContextSwitchTo(old);
	return reference;
}

void
sx_cascade_collect(SxTable *detail, SxMaster *master, TupleTableSlot *slot)
{
	/* What the last row's master was asked for: mostly it is the next's. */
	static SxMaster *recent_master = NULL;
	static Reference *recent = NULL;
	Datum		values[INDEX_MAX_KEYS + 1];
	bool		nulls[INDEX_MAX_KEYS + 1];
	TouchKey	key;
	Touch	   *touch;
	bool		found;
	MemoryContext old;

	nulls[0] = true;
	for (int i = 0; i < master->nkeys; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(detail->row, master->fk[i] - 1);

		values[i + 1] = slot_getattr(slot, master->fk[i], &nulls[i + 1]);
		if (nulls[i + 1])
			return;
		if (attr->attlen == -1)
			values[i + 1] = PointerGetDatum(PG_DETOAST_DATUM(values[i + 1]));
	}

	if (touches == NULL)
	{
		make_table();
		recent_master = NULL;
	}
	if (recent_master != master)
	{
		recent = find_reference(detail, master);
		recent_master = master;
	}
	key.reference = recent;
	key.key = sx_form_minimal_tuple(recent->desc, values, nulls);
	touch = hash_search(touches, &key, HASH_ENTER, &found);
	heap_free_minimal_tuple(key.key);
	if (found && touch->state != TOUCH_MISSING)
		return;

	if (!found)
		touch->since = GetCurrentSubTransactionId();
	touch->last = GetCurrentSubTransactionId();
	touch->state = TOUCH_WAITING;
	old = MemoryContextSwitchTo(TopTransactionContext);
	waiting = lappend(waiting, touch);
	MemoryContextSwitchTo(old);
}

/* ---- touching ---- */

static char *
column_name(Oid relid, AttrNumber attnum)
{
	return pstrdup(quote_identifier(get_attname(relid, attnum, false)));
}

static void
append_join(StringInfo sql, Reference *reference)
{
	for (int i = 0; i < reference->nkeys; i++)
	{
		char	   *left = psprintf("m.%s", column_name(reference->master,
														reference->refs[i]));

		appendStringInfoString(sql, i == 0 ? "" : " AND ");
		sx_plan_equal(sql, left,
					  get_atttype(reference->master, reference->refs[i]),
					  psprintf("k.k%d", i + 1), reference->types[i]);
	}
}

static void
run(const char *sql)
{
	/*
	 * The transaction's snapshot is too old for a master that came later, and
	 * that the foreign key has found (a partitioned one is looked up so).
	 */
	int			result = SPI_execute_snapshot(sx_plan_get(sql, 0, NULL), NULL,
											  NULL,
											  retrying && IsolationUsesXactSnapshot() ?
											  GetLatestSnapshot() : InvalidSnapshot,
											  InvalidSnapshot, false, true, 0);

	if (result < 0)
		elog(ERROR, "could not run \"%s\": %s", sql,
			 SPI_result_code_string(result));
}

static void
lock_and_update(Reference *reference, SxTable *master)
{
	StringInfoData lock;
	StringInfoData update;
	char	   *relation = sx_plan_relation(reference->master);
	char	   *modified_at = column_name(reference->master,
										  master->modified_at);

	initStringInfo(&lock);
	appendStringInfo(&lock, "SELECT 1 FROM %s m, " SX_KEYS " k WHERE ",
					 relation);
	append_join(&lock, reference);
	appendStringInfoString(&lock, " ORDER BY ");
	for (int i = 0; i < master->nkeys; i++)
		appendStringInfo(&lock, "%sm.%s", i == 0 ? "" : ", ",
						 quote_identifier(master->keys[i].name));
	appendStringInfoString(&lock, " FOR NO KEY UPDATE OF m");
	run(lock.data);

	initStringInfo(&update);
	appendStringInfo(&update,
					 "UPDATE %s m SET %s = m.%s FROM " SX_KEYS " k WHERE ",
					 relation, modified_at, modified_at);
	append_join(&update, reference);
	appendStringInfoString(&update, " RETURNING k.ord");
	run(update.data);
}

/* Marks what the UPDATE returned as done; what it did not is missing. */
static void
note_found(List *batch)
{
	SPITupleTable *rows = SPI_tuptable;
	Touch	  **found = palloc(sizeof(Touch *) * list_length(batch));
	ListCell   *cell;
	int			n = 0;

	foreach(cell, batch)
	{
		found[n] = lfirst(cell);
		found[n++]->state = TOUCH_MISSING;
	}
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;
		int			ord = DatumGetInt32(SPI_getbinval(rows->vals[i],
													  rows->tupdesc, 1,
													  &isnull));

		found[ord]->state = TOUCH_DONE;
	}
}

static void
touch_batch(Reference *reference, List *batch)
{
	SxTable    *master = sx_tracked_get(reference->master);
	HeapTuple	owner_tuple;
	SxUser		saved;
	Oid			forced;
	SxKeys	   *keys;
	int			ord = 0;
	ListCell   *cell;

	/* untracked in this transaction; its event trigger says so */
	if (!master->tracked)
		return;

	sx_plan_connect();
	keys = sx_keys_begin(reference->desc);
	foreach(cell, batch)
	{
		Touch	   *touch = lfirst(cell);
		Datum		values[INDEX_MAX_KEYS + 1];
		bool		nulls[INDEX_MAX_KEYS + 1];
		HeapTupleData tuple;

		/* so that what the UPDATE sets off does not collect it again */
		touch->state = TOUCH_TRYING;
		touch->last = GetCurrentSubTransactionId();
		tuple.t_len = touch->key.key->t_len + MINIMAL_TUPLE_OFFSET;
		tuple.t_data = (HeapTupleHeader) ((char *) touch->key.key -
										  MINIMAL_TUPLE_OFFSET);
		heap_deform_tuple(&tuple, reference->desc, values, nulls);
		values[0] = Int32GetDatum(ord++);
		nulls[0] = false;
		sx_keys_put(keys, values, nulls);
	}
	sx_keys_end(keys, 1);

	owner_tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(reference->master));
	if (!HeapTupleIsValid(owner_tuple))
		elog(ERROR, "cache lookup failed for relation %u", reference->master);
	saved = sx_catalog_become(((Form_pg_class) GETSTRUCT(owner_tuple))->relowner);
	ReleaseSysCache(owner_tuple);

	forced = sx_stamp_force(master->root);
	PG_TRY();
	{
		lock_and_update(reference, master);
	}
	PG_FINALLY();
	{
		sx_stamp_force(forced);
	}
	PG_END_TRY();
	note_found(batch);
	sx_catalog_restore_user(saved);
	SPI_finish();
}

/* Touches those of a list that are in this state, by one master table each. */
static void
touch_all(List *list, TouchState state)
{
	/* Only references that were there: an UPDATE may add more, for later. */
	for (Reference *reference = references; reference != NULL;
		 reference = reference->next)
	{
		List	   *batch = NIL;
		ListCell   *cell;

		foreach(cell, list)
		{
			Touch	   *touch = lfirst(cell);

			if (touch->key.reference == reference && touch->state == state)
				batch = lappend(batch, touch);
		}
		if (batch != NIL)
			touch_batch(reference, batch);
		list_free(batch);
	}
}

void
sx_cascade_apply(void)
{
	while (waiting != NIL)
	{
		List	   *list = waiting;

		waiting = NIL;
		touch_all(list, TOUCH_WAITING);
		list_free(list);
	}
}

/* ---- before commit ---- */

static List *
missing_touches(void)
{
	HASH_SEQ_STATUS status;
	Touch	   *touch;
	List	   *missing = NIL;

	hash_seq_init(&status, touches);
	while ((touch = hash_seq_search(&status)) != NULL)
	{
		/* one whose UPDATE was rolled back has not come to an end */
		if (touch->state != TOUCH_DONE)
			touch->state = TOUCH_MISSING;
		if (touch->state == TOUCH_MISSING)
			missing = lappend(missing, touch);
	}
	return missing;
}

/* Whether the reference is to the very key that the master is tracked by. */
static bool
is_by_key(Reference *reference, SxTable *master)
{
	if (reference->nkeys != master->nkeys)
		return false;
	for (int i = 0; i < master->nkeys; i++)
		if (master->keys[i].attnum != reference->refs[i] ||
			master->keys[i].type != reference->types[i])
			return false;
	return true;
}

/*
 * A master that is not there, and that no foreign key promises: it may be in
 * another transaction that has not committed.
 */
static void
log_absent(Touch *touch, List **marked)
{
	Reference  *reference = touch->key.reference;
	SxTable    *master = sx_tracked_get(reference->master);

	if (reference->enforced || !master->tracked)
		return;
	if (master->nscopes == 0 && master->nmasters == 0 &&
		is_by_key(reference, master))
	{
		Datum		values[INDEX_MAX_KEYS + 1];
		bool		nulls[INDEX_MAX_KEYS + 1];
		HeapTupleData tuple;

		tuple.t_len = touch->key.key->t_len + MINIMAL_TUPLE_OFFSET;
		tuple.t_data = (HeapTupleHeader) ((char *) touch->key.key -
										  MINIMAL_TUPLE_OFFSET);
		heap_deform_tuple(&tuple, reference->desc, values, nulls);
		sx_capture_key(master, values + 1);
		return;
	}
	if (list_member_oid(*marked, master->root))
		return;
	*marked = lappend_oid(*marked, master->root);
	sx_capture_mark(master);
	for (int i = 0; i < master->nmasters; i++)
	{
		SxTable    *above = sx_tracked_get(master->masters[i].relid);

		if (above->tracked && !list_member_oid(*marked, above->root))
		{
			*marked = lappend_oid(*marked, above->root);
			sx_capture_mark(above);
		}
	}
}

static void
touch_missing(List *missing)
{
	/* A new snapshot: the master may have been committed meanwhile. */
	PushActiveSnapshot(GetTransactionSnapshot());
	retrying = true;
	touch_all(missing, TOUCH_MISSING);
	sx_cascade_apply();
	retrying = false;
	PopActiveSnapshot();
}

void
sx_cascade_retry(void)
{
	List	   *missing = touches == NULL ? NIL : missing_touches();

	if (missing != NIL)
		touch_missing(missing);
}

void
sx_cascade_before_commit(void)
{
	List	   *missing;
	List	   *marked = NIL;
	ListCell   *cell;

	if (touches == NULL)
		return;
	if (waiting != NIL)
	{
		/* replicated changes, for which no statement trigger fired */
		PushActiveSnapshot(GetTransactionSnapshot());
		sx_cascade_apply();
		PopActiveSnapshot();
		AfterTriggerFireDeferred();
	}
	missing = missing_touches();
	if (missing == NIL)
		return;

	touch_missing(missing);

	/* Deferred triggers of the masters: the regular time for them is over. */
	AfterTriggerFireDeferred();

	foreach(cell, missing)
	{
		Touch	   *touch = lfirst(cell);

		if (touch->state == TOUCH_MISSING)
			log_absent(touch, &marked);
	}
}

/* ---- transactions ---- */

void
sx_cascade_end_subxact(SubTransactionId subid, SubTransactionId parent,
					   bool committed)
{
	HASH_SEQ_STATUS status;
	Touch	   *touch;

	if (touches == NULL)
		return;

	/* What waits and goes with the subtransaction must not wait any more. */
	if (!committed)
	{
		ListCell   *cell;

		foreach(cell, waiting)
		{
			touch = lfirst(cell);
			if (touch->since == subid || touch->last == subid)
				waiting = foreach_delete_current(waiting, cell);
		}
	}

	hash_seq_init(&status, touches);
	while ((touch = hash_seq_search(&status)) != NULL)
	{
		if (touch->since != subid && touch->last != subid)
			continue;
		if (committed)
		{
			if (touch->since == subid)
				touch->since = parent;
			touch->last = parent;
		}
		else if (touch->since == subid)
			hash_search(touches, &touch->key, HASH_REMOVE, NULL);
		else
		{
			touch->state = TOUCH_MISSING;
			touch->last = touch->since;
		}
	}
}

void
sx_cascade_end_xact(void)
{
	touches = NULL;				/* their memory goes with the transaction */
	references = NULL;
	waiting = NIL;
	retrying = false;
}
