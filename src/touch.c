/*-------------------------------------------------------------------------
 *
 * touch.c
 *		Sending a row again on purpose.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "sync_ext.h"
#include "plan.h"
#include "rowjson.h"
#include "stamp.h"
#include "tracked.h"

PG_FUNCTION_INFO_V1(sync_ext_touch);

static char *
touch_query(SxTable *table)
{
	const char *modified_at = quote_identifier(get_attname(table->root,
														   table->modified_at,
														   false));
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "UPDATE %s t SET %s = t.%s WHERE ",
					 sx_plan_relation(table->root), modified_at, modified_at);
	for (int i = 0; i < table->nkeys; i++)
	{
		appendStringInfoString(&sql, i == 0 ? "" : " AND ");
		sx_plan_equal(&sql,
					  psprintf("t.%s", quote_identifier(table->keys[i].name)),
					  table->keys[i].type, psprintf("$%d", i + 1),
					  table->keys[i].type);
	}
	appendStringInfo(&sql, " RETURNING t.%s", modified_at);
	return sql.data;
}

/*
 * sync.touch(domain, key): an UPDATE of the caller's that changes nothing but
 * modified_at, and counts.
 */
Datum
sync_ext_touch(PG_FUNCTION_ARGS)
{
	char	   *domain = text_to_cstring(PG_GETARG_TEXT_PP(0));
	Jsonb	   *json = PG_GETARG_JSONB_P(1);
	SxTable    *table = sx_tracked_by_domain(domain);
	Datum		key[INDEX_MAX_KEYS];
	Oid			types[INDEX_MAX_KEYS];
	char	   *sql = touch_query(table);
	Oid			forced;
	Datum		stamp = (Datum) 0;
	bool		isnull = true;
	volatile int result = 0;

	PreventCommandDuringRecovery("sync.touch()");
	if (!JB_ROOT_IS_OBJECT(json))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("key is not an object"),
				 errdetail("It is %s.",
						   JsonbToCString(NULL, &json->root, VARSIZE(json))),
				 errhint("Give it as in an answer: {\"id\": 1}.")));
	sx_rowjson_parse_key(table, &json->root, "key", key);
	for (int i = 0; i < table->nkeys; i++)
		types[i] = table->keys[i].type;

	sx_plan_connect();
	forced = sx_stamp_force(table->root);
	PG_TRY();
	{
		result = SPI_execute_plan(sx_plan_get(sql, table->nkeys, types), key,
								  NULL, false, 0);
	}
	PG_FINALLY();
	{
		sx_stamp_force(forced);
	}
	PG_END_TRY();
	if (result != SPI_OK_UPDATE_RETURNING)
		elog(ERROR, "could not run \"%s\": %s", sql,
			 SPI_result_code_string(result));
	if (SPI_processed > 0)
		stamp = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
							  &isnull);
	SPI_finish();

	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_NO_DATA_FOUND),
				 errmsg("sync domain \"%s\" has no such row", domain),
				 errdetail("The key is %s.",
						   JsonbToCString(NULL, &json->root, VARSIZE(json))),
				 errhint("The row may be gone, or not visible to role \"%s\".",
						 GetUserNameFromId(GetUserId(), false))));
	PG_RETURN_DATUM(stamp);
}
