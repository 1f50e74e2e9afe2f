/*-------------------------------------------------------------------------
 *
 * journal_reconcile.c
 *		Finding out over a wire which entries a client and a stream lack.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "sync_ext.h"
#include "catalog.h"
#include "journal.h"
#include "journal_ids.h"
#include "probe.h"
#include "reconset.h"

PG_FUNCTION_INFO_V1(sync_ext_reconcile_ids);
PG_FUNCTION_INFO_V1(sync_ext_ids_by_hash);

static void
no_null(const char *argument, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("%s must not be null", argument),
			 errhint("%s", hint)));
}

static uint32
checked_frame_limit(int32 limit)
{
	if (limit != 0 &&
		(limit < SX_RECONSET_MIN_FRAME || limit > SX_RECONSET_MAX_FRAME))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("frame limit is out of range"),
				 errdetail("It is %d.", limit),
				 errhint("Give the greatest number of bytes of an answer, from %d to %d, or 0 for the latter.",
						 SX_RECONSET_MIN_FRAME, SX_RECONSET_MAX_FRAME)));
	return (uint32) limit;
}

/* What is wrong, with the beginning of what was sent. */
static void
malformed_message(const uint8 *message, int len, const char *problem)
{
	char		start[2 * 16 + 1];
	int			shown = Min(len, 16);

	start[hex_encode((const char *) message, shown, start)] = '\0';
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("malformed reconciliation message: %s", problem),
			 errdetail("The message has %d bytes: \\x%s%s", len, start,
					   shown < len ? "..." : ""),
			 errhint("Messages are those of the Negentropy protocol, version 1.")));
}

/*
 * Whoever is told that an id is here may forget what he has to send, so what
 * the newest entry's transaction wrote is on disk before that.
 */
static void
flush_newest(int32 stream_id)
{
	const SxCatalog *catalog = sx_catalog_get();
	SxProbe		probe;
	ScanKeyData key;
	TupleTableSlot *slot;
	uint64		xid = 0;
	bool		isnull;

	sx_probe_open(&probe, catalog->entry, catalog->entry_by_time,
				  GetActiveSnapshot(), 1);
	sx_probe_stream_key(&key, stream_id);
	slot = sx_probe_first(&probe, &key, BackwardScanDirection);
	if (slot != NULL)
		xid = DatumGetUInt64(slot_getattr(slot, Anum_entry_xid, &isnull));
	sx_probe_close(&probe);
	sx_journal_flush(xid);
}

/* sync.reconcile_ids(stream, message, frame_limit) */
Datum
sync_ext_reconcile_ids(PG_FUNCTION_ARGS)
{
	SxStream	stream;
	SxReconsetSource *source;
	SxReconsetResult result;
	StringInfoData out;
	bytea	   *message;
	const uint8 *bytes;
	uint32		frame_limit;
	const char *problem = NULL;

	if (PG_ARGISNULL(0))
		no_null("stream", "sync.streams lists the streams.");
	if (PG_ARGISNULL(1))
		no_null("message", "The client makes the first message.");
	message = PG_GETARG_BYTEA_PP(1);
	bytes = (const uint8 *) VARDATA_ANY(message);
	frame_limit = checked_frame_limit(PG_ARGISNULL(2) ? 0 : PG_GETARG_INT32(2));
	sx_journal_open(PG_GETARG_TEXT_PP(0), SX_JOURNAL_READ, &stream);

	source = sx_journal_ids_open(stream.id, GetActiveSnapshot());
	initStringInfo(&out);
	result = sx_reconset_respond(source, bytes, VARSIZE_ANY_EXHDR(message),
								 frame_limit, &out, &problem);
	sx_journal_ids_close(source);
	if (result == SX_RECONSET_MALFORMED)
		malformed_message(bytes, VARSIZE_ANY_EXHDR(message), problem);
	flush_newest(stream.id);
	PG_RETURN_BYTEA_P(cstring_to_text_with_len(out.data, out.len));
}

/* sync.ids_by_hash(stream, hashes) */
Datum
sync_ext_ids_by_hash(PG_FUNCTION_ARGS)
{
	const SxCatalog *catalog;
	SxStream	stream;
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	SxProbe		probe;
	Datum	   *hashes;
	bool	   *nulls;
	int			n;

	sx_init_materialized_result(fcinfo);
	if (PG_ARGISNULL(0))
		no_null("stream", "sync.streams lists the streams.");
	if (PG_ARGISNULL(1))
		no_null("hashes", "Give what reconciliation told the client to ask for.");
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(1), BYTEAOID, -1, false,
					  TYPALIGN_INT, &hashes, &nulls, &n);
	sx_journal_open(PG_GETARG_TEXT_PP(0), SX_JOURNAL_READ, &stream);

	catalog = sx_catalog_get();
	sx_probe_open(&probe, catalog->entry, catalog->entry_by_hash,
				  GetActiveSnapshot(), 2);
	for (int i = 0; i < n; i++)
	{
		ScanKeyData keys[2];
		TupleTableSlot *slot;

		CHECK_FOR_INTERRUPTS();
		if (nulls[i])
			continue;
		sx_probe_hash_keys(keys, stream.id, DatumGetByteaP(hashes[i]));
		slot = sx_probe_first(&probe, keys, ForwardScanDirection);
		if (slot != NULL)
		{
			Datum		values[2];
			bool		isnull[2] = {false};

			values[0] = hashes[i];
			values[1] = slot_getattr(slot, Anum_entry_id, &isnull[1]);
			tuplestore_putvalues(result->setResult, result->setDesc, values,
								 isnull);
		}
	}
	sx_probe_close(&probe);
	flush_newest(stream.id);
	return (Datum) 0;
}
