/*-------------------------------------------------------------------------
 *
 * stamp.c
 *		The BEFORE ROW trigger that sets modified_at.
 *
 *	CREATE TRIGGER zz_sync_stamp BEFORE INSERT OR UPDATE ON table
 *		FOR EACH ROW EXECUTE FUNCTION sync.stamp();
 *
 * The value is the clock in whole milliseconds, so that it means the same in
 * PostgreSQL and in JavaScript, and at least one past the row's old value,
 * whatever the clock did. An UPDATE that changes nothing keeps the old value:
 * capture.c tells a change from that.
 *
 * The name sorts last, since BEFORE triggers fire in the order of their names
 * and what they change must be seen here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "utils/datum.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "sync_ext.h"
#include "stamp.h"
#include "tracked.h"

PG_FUNCTION_INFO_V1(sync_ext_stamp);

static Oid	forced_root = InvalidOid;

/*
 * The stamp that an UPDATE got last. When a row moves to another partition its
 * INSERT there comes right after, and must not get an earlier value.
 */
static TimestampTz last_update = 0;

/*
 * Whether that happened in this transaction. Not in which command: other AFTER
 * triggers, those of foreign keys for one, move the command counter on before
 * the row is captured.
 */
static bool saw_move = false;

Oid
sx_stamp_force(Oid root)
{
	Oid			before = forced_root;

	forced_root = root;
	return before;
}

Oid
sx_stamp_forced(void)
{
	return forced_root;
}

void
sx_stamp_end_xact(void)
{
	forced_root = InvalidOid;
	last_update = 0;
	saw_move = false;
}

bool
sx_stamp_saw_move(void)
{
	return saw_move;
}

static TimestampTz
whole_milliseconds(TimestampTz time)
{
	TimestampTz rest = time % 1000;

	return time - (rest < 0 ? rest + 1000 : rest);
}

/* A copy of the tuple with this modified_at. */
static HeapTuple
with_modified_at(SxTable *table, HeapTuple tuple, Datum value, bool isnull)
{
	int			attnum = table->modified_at;

	return heap_modify_tuple_by_cols(tuple, table->row, 1, &attnum, &value,
									 &isnull);
}

static HeapTuple
stamp_insert(SxTable *table, HeapTuple tuple)
{
	TimestampTz stamp = whole_milliseconds(GetCurrentTimestamp());
	bool		isnull;
	Datum		given = heap_getattr(tuple, table->modified_at, table->row,
									 &isnull);

	if (last_update != 0 && !isnull &&
		DatumGetTimestampTz(given) == last_update)
	{
		stamp = Max(stamp, last_update);
		saw_move = true;
	}
	return with_modified_at(table, tuple, TimestampTzGetDatum(stamp), false);
}

/*
 * Whether a column that the UPDATE names has changed, which settles it for
 * most: the rest of the row need not be looked at.
 */
static bool
named_column_changed(SxTable *table, TriggerData *trigger)
{
	int			member = -1;

	while ((member = bms_next_member(trigger->tg_updatedcols, member)) >= 0)
	{
		AttrNumber	attnum = member + FirstLowInvalidHeapAttributeNumber;
		Form_pg_attribute attr;
		Datum		x;
		Datum		y;
		bool		x_null;
		bool		y_null;

		if (attnum < 1 || attnum > table->row->natts ||
			attnum == table->modified_at)
			continue;
		attr = TupleDescAttr(table->row, attnum - 1);
		if (attr->attisdropped || attr->attgenerated != '\0')
			continue;
		x = heap_getattr(trigger->tg_trigtuple, attnum, table->row, &x_null);
		y = heap_getattr(trigger->tg_newtuple, attnum, table->row, &y_null);
		if (x_null != y_null ||
			(!x_null && !datum_image_eq(x, y, attr->attbyval, attr->attlen)))
			return true;
	}
	return false;
}

static HeapTuple
stamp_update(SxTable *table, TriggerData *trigger)
{
	HeapTuple	old = trigger->tg_trigtuple;
	HeapTuple	new = trigger->tg_newtuple;
	TimestampTz stamp;
	bool		old_null;
	Datum		old_value = heap_getattr(old, table->modified_at, table->row,
										 &old_null);

	if (forced_root != table->root &&
		!named_column_changed(table, trigger) &&
		sx_tracked_same_row(table, old, new, table->modified_at))
	{
		bool		new_null;
		Datum		new_value = heap_getattr(new, table->modified_at,
											 table->row, &new_null);

		if (old_null == new_null && (old_null || old_value == new_value))
			return new;
		return with_modified_at(table, new, old_value, old_null);
	}

	stamp = whole_milliseconds(GetCurrentTimestamp());
	if (!old_null)
		stamp = Max(stamp,
					whole_milliseconds(DatumGetTimestampTz(old_value)) + 1000);
	last_update = stamp;
	return with_modified_at(table, new, TimestampTzGetDatum(stamp), false);
}

Datum
sync_ext_stamp(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	SxTable    *table;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_BEFORE(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" must be fired before INSERT or UPDATE, for each row",
						"sync.stamp")));

	table = sx_tracked_get(RelationGetRelid(trigger->tg_relation));
	if (!table->tracked)
		return PointerGetDatum(TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ?
							   trigger->tg_newtuple : trigger->tg_trigtuple);

	if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
		return PointerGetDatum(stamp_update(table, trigger));
	return PointerGetDatum(stamp_insert(table, trigger->tg_trigtuple));
}
