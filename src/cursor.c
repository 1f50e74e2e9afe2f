/*-------------------------------------------------------------------------
 *
 * cursor.c
 *		The type sync.cursor, and arithmetic on the snapshots inside it.
 *
 * Commits reorder: a transaction that wrote early may commit late, so no time
 * and no sequence can say what a client has seen. A cursor therefore holds a
 * "tight" snapshot (xmax, xip): xmax is one past the newest logged transaction
 * that the reading snapshot sees, xip the transactions below it that were
 * still running. A change is new to the cursor when its transaction is in xip,
 * or is not below xmax.
 *
 * For logged changes this equals the full snapshot. Unlike that, it survives
 * a crash: the full snapshot's xmax counts transactions that aborted, or
 * logged nothing, and left no trace on disk; a restarted server gives their
 * ids to new transactions, which would then count as seen. xmax - 1 of a tight
 * snapshot is a transaction that committed, and whose commit is flushed before
 * a client gets the cursor, so no id below it is ever given out again.
 *
 * The reading transaction's own id is never in the set, as a transaction may
 * write more after it has read. An MVCC snapshot does not list it, so it is
 * added to xip here.
 *
 * The packed form is a version, flags and variable-length integers, closed by
 * a CRC-32C that tells a truncated or mistyped cursor from a real one. It is
 * no protection against forgery, and need not be: a forged cursor only makes
 * its bearer's own answers wrong, rights are checked whatever the cursor says.
 * Text is 'c' and base64url, so JSON and URLs leave it alone.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/subtrans.h"
#include "access/transam.h"
#include "access/xact.h"
#include "lib/qunique.h"
#include "lib/stringinfo.h"
#include "libpq/pqformat.h"
#include "port/pg_crc32c.h"
#include "storage/procarray.h"
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "sync_ext.h"
#include "cursor.h"

#define CURSOR_VERSION 3

#define FLAG_TIME		0x01
#define FLAG_TARGET		0x02
#define FLAG_POSITION	0x04

/*
 * A cursor travels with every request, so its size is bounded: at most this
 * many running transactions, and this many bytes.
 */
#define MAX_XIP			4096
#define MAX_PACKED		(128 * 1024)
#define MAX_POSITION_KEYS INDEX_MAX_KEYS

PG_FUNCTION_INFO_V1(sync_ext_cursor_in);
PG_FUNCTION_INFO_V1(sync_ext_cursor_out);
PG_FUNCTION_INFO_V1(sync_ext_cursor_recv);
PG_FUNCTION_INFO_V1(sync_ext_cursor_send);
PG_FUNCTION_INFO_V1(sync_ext_cursor_from_time);
PG_FUNCTION_INFO_V1(sync_ext_cursor_from_timestamp);
PG_FUNCTION_INFO_V1(sync_ext_cursor_from_date);

/* ---- packing ---- */

static void
put_uint(StringInfo buf, uint64 value)
{
	while (value >= 0x80)
	{
		appendStringInfoCharMacro(buf, (char) (value | 0x80));
		value >>= 7;
	}
	appendStringInfoCharMacro(buf, (char) value);
}

static void
put_snapshot(StringInfo buf, const SxSnapshot *snapshot)
{
	uint64		previous = 0;

	put_uint(buf, snapshot->xmax);
	put_uint(buf, snapshot->nxip);
	for (int i = 0; i < snapshot->nxip; i++)
	{
		put_uint(buf, snapshot->xip[i] - previous);
		previous = snapshot->xip[i];
	}
}

static void
put_position(StringInfo buf, const SxPosition *position)
{
	put_uint(buf, position->kind);
	put_uint(buf, position->phase);
	put_uint(buf, position->scan);
	put_uint(buf, position->xid);
	put_uint(buf, (uint32) position->seq);
	put_uint(buf, position->item);
	put_uint(buf, position->passed);
	put_uint(buf, position->nkeys);
	for (int i = 0; i < position->nkeys; i++)
	{
		int			len = strlen(position->keys[i]);

		put_uint(buf, len);
		appendBinaryStringInfo(buf, position->keys[i], len);
	}
}

static pg_crc32c
checksum(const char *data, int len)
{
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, data, len);
	FIN_CRC32C(crc);
	return crc;
}

bytea *
sx_cursor_encode(const SxCursor *cursor)
{
	StringInfoData buf;
	pg_crc32c	crc;
	uint8		flags = 0;

	initStringInfo(&buf);
	buf.len = VARHDRSZ;			/* the varlena header goes in front */

	if (cursor->is_time)
		flags |= FLAG_TIME;
	if (cursor->has_target)
		flags |= FLAG_TARGET;
	if (cursor->position.kind != SX_POSITION_NONE)
		flags |= FLAG_POSITION;

	appendStringInfoCharMacro(&buf, CURSOR_VERSION);
	appendStringInfoCharMacro(&buf, (char) flags);
	if (cursor->is_time)
		put_uint(&buf, (uint64) cursor->time);
	else
	{
		put_uint(&buf, cursor->generation);
		put_uint(&buf, cursor->timeline);
		put_uint(&buf, cursor->lsn);
		put_uint(&buf, cursor->question);
		put_uint(&buf, cursor->rights);
		put_snapshot(&buf, &cursor->seen);
		if (cursor->has_target)
		{
			put_snapshot(&buf, &cursor->target);
			put_snapshot(&buf, &cursor->read);
		}
		if (cursor->position.kind != SX_POSITION_NONE)
			put_position(&buf, &cursor->position);
	}

	crc = checksum(buf.data + VARHDRSZ, buf.len - VARHDRSZ);
	for (int shift = 0; shift < 32; shift += 8)
		appendStringInfoCharMacro(&buf, (char) (crc >> shift));

	SET_VARSIZE(buf.data, buf.len);
	return (bytea *) buf.data;
}

/* ---- unpacking: every byte may be hostile ---- */

typedef struct Reader
{
	const unsigned char *at;
	const unsigned char *end;
	bool		broken;
} Reader;

static uint64
get_uint(Reader *reader)
{
	uint64		value = 0;

	for (int shift = 0; shift < 64; shift += 7)
	{
		unsigned char byte;

		if (reader->at >= reader->end)
			break;
		byte = *reader->at++;
		if (shift == 63 && byte > 1)
			break;
		value |= (uint64) (byte & 0x7f) << shift;
		if ((byte & 0x80) == 0)
			return value;
	}
	reader->broken = true;
	return 0;
}

/* A number that must not exceed a bound; what it counts is allocated. */
static int
get_count(Reader *reader, int bound)
{
	uint64		value = get_uint(reader);

	if (value <= (uint64) bound)
		return (int) value;
	reader->broken = true;
	return 0;
}

static void
get_snapshot(Reader *reader, SxSnapshot *snapshot)
{
	uint64		previous = 0;

	snapshot->xmax = get_uint(reader);
	snapshot->nxip = get_count(reader, MAX_XIP);
	snapshot->xip = palloc(sizeof(uint64) * Max(snapshot->nxip, 1));
	for (int i = 0; i < snapshot->nxip && !reader->broken; i++)
	{
		uint64		step = get_uint(reader);

		/* sorted, without repetition, below xmax, and without overflow */
		if (step == 0 || previous + step < previous ||
			previous + step >= snapshot->xmax)
			reader->broken = true;
		previous += step;
		snapshot->xip[i] = previous;
	}
}

static void
get_position(Reader *reader, SxPosition *position)
{
	position->kind = get_count(reader, SX_POSITION_STREAM);
	position->phase = get_count(reader, SX_PHASE_GRANTED);
	position->scan = (uint32) get_count(reader, PG_INT32_MAX);
	position->xid = get_uint(reader);
	position->seq = get_count(reader, PG_INT32_MAX);
	position->item = (uint32) get_count(reader, PG_INT32_MAX);
	position->passed = (uint32) get_count(reader, SX_PASSED_ENTERS |
										  SX_PASSED_OTHERS);
	position->nkeys = get_count(reader, MAX_POSITION_KEYS);
	position->keys = palloc0(sizeof(char *) * Max(position->nkeys, 1));
	for (int i = 0; i < position->nkeys && !reader->broken; i++)
	{
		int			len = get_count(reader, reader->end - reader->at);

		if (reader->broken || len > reader->end - reader->at ||
			memchr(reader->at, '\0', len) != NULL)
		{
			reader->broken = true;
			return;
		}
		position->keys[i] = pnstrdup((const char *) reader->at, len);
		reader->at += len;
	}
}

/* NULL where the bytes are not a cursor. */
static SxCursor *
decode(const char *data, int len)
{
	SxCursor   *cursor = palloc0(sizeof(SxCursor));
	Reader		reader;
	pg_crc32c	crc = 0;
	uint8		flags;

	if (len < 6 || len > MAX_PACKED || data[0] != CURSOR_VERSION)
		return NULL;
	for (int i = 0; i < 4; i++)
		crc |= (pg_crc32c) (unsigned char) data[len - 4 + i] << (8 * i);
	if (crc != checksum(data, len - 4))
		return NULL;

	flags = (uint8) data[1];
	if (flags & ~(FLAG_TIME | FLAG_TARGET | FLAG_POSITION))
		return NULL;
	reader.at = (const unsigned char *) data + 2;
	reader.end = (const unsigned char *) data + len - 4;
	reader.broken = false;

	cursor->is_time = (flags & FLAG_TIME) != 0;
	if (cursor->is_time)
		cursor->time = (TimestampTz) get_uint(&reader);
	else
	{
		cursor->generation = get_uint(&reader);
		cursor->timeline = (TimeLineID) get_uint(&reader);
		cursor->lsn = get_uint(&reader);
		cursor->question = get_uint(&reader);
		cursor->rights = get_uint(&reader);
		get_snapshot(&reader, &cursor->seen);
		cursor->has_target = (flags & FLAG_TARGET) != 0;
		if (cursor->has_target)
		{
			get_snapshot(&reader, &cursor->target);
			get_snapshot(&reader, &cursor->read);
		}
		if (flags & FLAG_POSITION)
			get_position(&reader, &cursor->position);
	}
	if (reader.broken || reader.at != reader.end)
		return NULL;
	return cursor;
}

SxCursor *
sx_cursor_decode(bytea *datum)
{
	SxCursor   *cursor = decode(VARDATA_ANY(datum), VARSIZE_ANY_EXHDR(datum));

	if (cursor == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
				 errmsg("invalid binary representation of type %s",
						"sync.cursor")));
	return cursor;
}

/* ---- the type ---- */

char *
sx_cursor_text(bytea *datum)
{
	int			len = VARSIZE_ANY_EXHDR(datum);
	int			room = pg_b64_enc_len(len);
	char	   *text = palloc(room + 2);
	int			used;

	text[0] = 'c';
	used = sx_base64_encode(VARDATA_ANY(datum), len, text + 1, room);
	if (used < 0)
		elog(ERROR, "could not encode a cursor");
	while (used > 0 && text[used] == '=')
		used--;
	text[used + 1] = '\0';
	for (char *c = text + 1; *c != '\0'; c++)
	{
		if (*c == '+')
			*c = '-';
		else if (*c == '/')
			*c = '_';
	}
	return text;
}

/* NULL where the text is not 'c' and the base64url of a cursor. */
static bytea *
bytes_of_text(const char *text)
{
	int			len = strlen(text) - 1;
	char	   *base64;
	bytea	   *datum;
	int			used;

	if (text[0] != 'c' || len > MAX_PACKED / 3 * 4)
		return NULL;
	base64 = palloc(len + 5);
	for (int i = 0; i < len; i++)
	{
		char		c = text[i + 1];

		if (c == '-')
			c = '+';
		else if (c == '_')
			c = '/';
		else if (!((c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
				   (c >= '0' && c <= '9')))
			return NULL;
		base64[i] = c;
	}
	while (len % 4 != 0)
		base64[len++] = '=';

	datum = palloc(VARHDRSZ + pg_b64_dec_len(len));
	used = sx_base64_decode(base64, len, VARDATA(datum), pg_b64_dec_len(len));
	if (used < 0 || decode(VARDATA(datum), used) == NULL)
		return NULL;
	SET_VARSIZE(datum, VARHDRSZ + used);
	return datum;
}

static bytea *
cursor_of_time(TimestampTz time)
{
	SxCursor	cursor = {0};

	if (TIMESTAMP_NOT_FINITE(time))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("infinity is not a cursor"),
				 errhint("Give a time that an answer contained, or NULL to begin anew.")));
	cursor.is_time = true;
	cursor.time = time;
	return sx_cursor_encode(&cursor);
}

static void
invalid_text(const char *text)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
			 errmsg("invalid input syntax for type %s", "sync.cursor"),
			 errdetail("The text is \"%.*s\"%s.",
					   pg_mbcliplen(text, strlen(text), 60), text,
					   strlen(text) > 60 ? ", and more" : ""),
			 errhint("Give a cursor exactly as an answer contained it, or an ISO 8601 time; without either, NULL begins anew.")));
}

Datum
sync_ext_cursor_in(PG_FUNCTION_ARGS)
{
	char	   *text = PG_GETARG_CSTRING(0);
	bytea	   *datum = bytes_of_text(text);

	if (datum != NULL)
		PG_RETURN_BYTEA_P(datum);

	/* Times begin with a digit, or a sign; so "now" is no cursor. */
	if (text[0] >= '0' && text[0] <= '9')
	{
		volatile Datum time = (Datum) 0;

		PG_TRY();
		{
			time = DirectFunctionCall3(timestamptz_in, CStringGetDatum(text),
									   ObjectIdGetDatum(InvalidOid),
									   Int32GetDatum(-1));
		}
		PG_CATCH();
		{
			/* whatever is wrong with it, to the caller it is no cursor */
			FlushErrorState();
			invalid_text(text);
		}
		PG_END_TRY();
		PG_RETURN_BYTEA_P(cursor_of_time(DatumGetTimestampTz(time)));
	}
	invalid_text(text);
	PG_RETURN_NULL();			/* not reached */
}

Datum
sync_ext_cursor_out(PG_FUNCTION_ARGS)
{
	bytea	   *datum = PG_GETARG_BYTEA_PP(0);
	SxCursor   *cursor = sx_cursor_decode(datum);

	/* ISO 8601, whatever the DateStyle: it is read back elsewhere */
	if (cursor->is_time)
		PG_RETURN_CSTRING(JsonEncodeDateTime(palloc(MAXDATELEN + 1),
											 TimestampTzGetDatum(cursor->time),
											 TIMESTAMPTZOID, NULL));
	PG_RETURN_CSTRING(sx_cursor_text(datum));
}

Datum
sync_ext_cursor_recv(PG_FUNCTION_ARGS)
{
	StringInfo	buf = (StringInfo) PG_GETARG_POINTER(0);
	int			len = buf->len - buf->cursor;
	const char *data = pq_getmsgbytes(buf, len);
	bytea	   *datum = palloc(VARHDRSZ + len);

	memcpy(VARDATA(datum), data, len);
	SET_VARSIZE(datum, VARHDRSZ + len);
	(void) sx_cursor_decode(datum);
	PG_RETURN_BYTEA_P(datum);
}

Datum
sync_ext_cursor_send(PG_FUNCTION_ARGS)
{
	bytea	   *datum = PG_GETARG_BYTEA_PP(0);
	StringInfoData buf;

	pq_begintypsend(&buf);
	pq_sendbytes(&buf, VARDATA_ANY(datum), VARSIZE_ANY_EXHDR(datum));
	PG_RETURN_BYTEA_P(pq_endtypsend(&buf));
}

Datum
sync_ext_cursor_from_time(PG_FUNCTION_ARGS)
{
	PG_RETURN_BYTEA_P(cursor_of_time(PG_GETARG_TIMESTAMPTZ(0)));
}

Datum
sync_ext_cursor_from_timestamp(PG_FUNCTION_ARGS)
{
	Datum		time = DirectFunctionCall1(timestamp_timestamptz,
										   PG_GETARG_DATUM(0));

	PG_RETURN_BYTEA_P(cursor_of_time(DatumGetTimestampTz(time)));
}

Datum
sync_ext_cursor_from_date(PG_FUNCTION_ARGS)
{
	Datum		time = DirectFunctionCall1(date_timestamptz, PG_GETARG_DATUM(0));

	PG_RETURN_BYTEA_P(cursor_of_time(DatumGetTimestampTz(time)));
}

/* ---- sets of transactions ---- */

uint64
sx_full_xid(TransactionId xid)
{
	FullTransactionId next = ReadNextFullTransactionId();
	uint32		epoch = EpochFromFullTransactionId(next);

	if (xid > XidFromFullTransactionId(next))
		epoch--;
	return ((uint64) epoch << 32) | xid;
}

uint64
sx_own_xid(void)
{
	FullTransactionId xid = GetTopFullTransactionIdIfAny();

	return FullTransactionIdIsValid(xid) ? U64FromFullTransactionId(xid) : 0;
}

static int
compare_xids(const void *a, const void *b)
{
	uint64		x = *(const uint64 *) a;
	uint64		y = *(const uint64 *) b;

	return (x > y) - (x < y);
}

/* The first place that is not below xid. */
static int
lower_bound(const uint64 *xids, int n, uint64 xid)
{
	int			low = 0;
	int			high = n;

	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (xids[middle] < xid)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool
is_among(const uint64 *xids, int n, uint64 xid)
{
	int			place = lower_bound(xids, n, xid);

	return place < n && xids[place] == xid;
}

bool
sx_snapshot_has(const SxSnapshot *snapshot, uint64 xid)
{
	return xid < snapshot->xmax &&
		!is_among(snapshot->xip, snapshot->nxip, xid) &&
		!is_among(snapshot->sub, snapshot->nsub, xid);
}

/* Sorts, and leaves repetitions out; returns how many are left. */
static int
sort_xids(uint64 *xids, int n)
{
	qsort(xids, n, sizeof(uint64), compare_xids);
	return (int) qunique(xids, n, sizeof(uint64), compare_xids);
}

SxSnapshot *
sx_snapshot_of(Snapshot snapshot)
{
	SxSnapshot *result = palloc0(sizeof(SxSnapshot));
	bool		standby = snapshot->takenDuringRecovery;
	uint32		ntop = standby ? 0 : snapshot->xcnt;
	/* a copy leaves subxip out where too many of them ran, but not the count */
	uint32		nsub = snapshot->subxip == NULL ? 0 : Max(snapshot->subxcnt, 0);
	uint64	   *sub = palloc(sizeof(uint64) * (nsub + 1));
	uint64		own = sx_own_xid();

	result->xmax = sx_full_xid(snapshot->xmax);
	result->xip = palloc(sizeof(uint64) * (ntop + 1));
	for (uint32 i = 0; i < ntop; i++)
		result->xip[result->nxip++] = sx_full_xid(snapshot->xip[i]);
	for (uint32 i = 0; i < nsub; i++)
	{
		TransactionId xid = snapshot->subxip[i];

		if (standby && snapshot->suboverflowed &&
			TransactionIdFollowsOrEquals(xid, TransactionXmin))
			xid = SubTransGetTopmostTransaction(xid);
		sub[i] = sx_full_xid(xid);
	}
	/*
	 * On a standby all running transactions are in subxip, mixed with
	 * subtransactions, whatever pg_current_snapshot() says.
	 */
	if (standby)
	{
		result->xip = sub;
		result->nxip = sort_xids(sub, nsub);
		return result;
	}
	if (own != 0 && own < result->xmax)
		result->xip[result->nxip++] = own;
	result->nxip = sort_xids(result->xip, result->nxip);
	result->sub = sub;
	result->nsub = sort_xids(sub, nsub);
	return result;
}

SxSnapshot *
sx_snapshot_below(const SxSnapshot *snapshot, uint64 xmax)
{
	SxSnapshot *result = palloc0(sizeof(SxSnapshot));
	int			ntop;
	int			nsub;

	result->xmax = Min(xmax, snapshot->xmax);
	ntop = lower_bound(snapshot->xip, snapshot->nxip, result->xmax);
	nsub = lower_bound(snapshot->sub, snapshot->nsub, result->xmax);
	result->xip = palloc(sizeof(uint64) * Max(ntop + nsub, 1));
	memcpy(result->xip, snapshot->xip, sizeof(uint64) * ntop);
	if (nsub > 0)
		memcpy(result->xip + ntop, snapshot->sub, sizeof(uint64) * nsub);
	result->nxip = sort_xids(result->xip, ntop + nsub);
	if (result->nxip > MAX_XIP)
	{
		result->nxip = MAX_XIP;
		result->xmax = result->xip[MAX_XIP];
	}
	return result;
}

bool
sx_snapshot_contains(const SxSnapshot *outer, const SxSnapshot *inner)
{
	if (inner->xmax > outer->xmax)
		return false;
	for (int i = 0; i < outer->nxip && outer->xip[i] < inner->xmax; i++)
		if (!is_among(inner->xip, inner->nxip, outer->xip[i]))
			return false;
	return true;
}

uint64
sx_snapshot_xmin(const SxSnapshot *snapshot)
{
	return snapshot->nxip > 0 ? snapshot->xip[0] : snapshot->xmax;
}

/* ---- history ---- */

XLogRecPtr
sx_wal_position(TimeLineID *timeline)
{
	if (RecoveryInProgress())
		return GetXLogReplayRecPtr(timeline);
	*timeline = sx_insertion_timeline();
	return sx_flushed_lsn();
}

SxHistory
sx_history_of(TimeLineID timeline, XLogRecPtr lsn)
{
	/* The history of one timeline never changes. */
	static TimeLineID known_timeline = 0;
	static List *known_history = NIL;
	bool		standby = RecoveryInProgress();
	TimeLineID	current;
	XLogRecPtr	position = sx_wal_position(&current);
	MemoryContext old;

	if (timeline == current)
	{
		if (lsn <= position)
			return SX_HISTORY_SHARED;
		return standby ? SX_HISTORY_BEHIND : SX_HISTORY_OTHER;
	}

	if (known_timeline != current)
	{
		List	   *history;

		old = MemoryContextSwitchTo(TopMemoryContext);
		history = readTimeLineHistory(current);
		MemoryContextSwitchTo(old);
		list_free_deep(known_history);
		known_history = history;
		known_timeline = current;
	}

	if (!tliInHistory(timeline, known_history))
		return standby ? SX_HISTORY_BEHIND : SX_HISTORY_OTHER;
	if (lsn > tliSwitchPoint(timeline, known_history, NULL))
		return SX_HISTORY_OTHER;
	return SX_HISTORY_SHARED;
}
