/*-------------------------------------------------------------------------
 *
 * compat.h
 *		The differences between PostgreSQL 13 and 18, in one place.
 *
 * This is the only file that tests PG_VERSION_NUM.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_COMPAT_H
#define SYNC_EXT_COMPAT_H

#if PG_VERSION_NUM < 130000
#error "sync_ext needs PostgreSQL 13 or later"
#endif

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/timeline.h"
#include "access/xlog.h"
#include "common/base64.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "parser/parser.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/tuplestore.h"

#if PG_VERSION_NUM >= 140000
#include "common/cryptohash.h"
#include "common/sha2.h"
#include "utils/wait_event.h"
#else
#include "catalog/indexing.h"
#include "utils/fmgrprotos.h"
#endif
#if PG_VERSION_NUM >= 150000
#include "access/xlogrecovery.h"
#endif
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/* A statement from text: the parse mode came with 14. */
#if PG_VERSION_NUM >= 140000
#define sx_raw_parser(sql) raw_parser((sql), RAW_PARSE_DEFAULT)
#else
#define sx_raw_parser(sql) raw_parser(sql)
#endif

/* index_insert() learnt in 14 that an UPDATE may leave the values alone. */
#if PG_VERSION_NUM >= 140000
#define sx_index_insert(index, values, isnull, tid, heap, check, info) \
	index_insert((index), (values), (isnull), (tid), (heap), (check), false, \
				 (info))
#else
#define sx_index_insert(index, values, isnull, tid, heap, check, info) \
	index_insert((index), (values), (isnull), (tid), (heap), (check), (info))
#endif

/* What access methods keep between insertions is given back since 17. */
#if PG_VERSION_NUM >= 170000
#define sx_index_insert_cleanup(index, info) \
	index_insert_cleanup((index), (info))
#else
#define sx_index_insert_cleanup(index, info) ((void) (info))
#endif

/* Index scans carry instrumentation since 18. */
#if PG_VERSION_NUM >= 180000
#define sx_index_beginscan(heap, index, snapshot, nkeys) \
	index_beginscan((heap), (index), (snapshot), NULL, (nkeys), 0)
#else
#define sx_index_beginscan(heap, index, snapshot, nkeys) \
	index_beginscan((heap), (index), (snapshot), (nkeys), 0)
#endif

/* The hash of a datum's bytes, out-of-line values included, is new in 14. */
#if PG_VERSION_NUM < 140000
#include "common/hashfn.h"
#include "utils/datum.h"
static inline uint32
datum_image_hash(Datum value, bool typbyval, int typlen)
{
	struct varlena *plain;

	if (typbyval)
		return hash_bytes((unsigned char *) &value, sizeof(Datum));
	if (typlen != -1)
		return hash_bytes((unsigned char *) DatumGetPointer(value),
						  datumGetSize(value, typbyval, typlen));
	plain = PG_DETOAST_DATUM_PACKED(value);
	return hash_bytes((unsigned char *) VARDATA_ANY(plain),
					  VARSIZE_ANY_EXHDR(plain));
}
#endif

/* Parameters whose types the parser infers: renamed in 15. */
#if PG_VERSION_NUM >= 150000
#define sx_setup_parameters(pstate, types, n) \
	setup_parse_variable_parameters((pstate), (types), (n))
#else
#define sx_setup_parameters(pstate, types, n) \
	parse_variable_parameters((pstate), (types), (n))
#endif

/* A statement without parameters, analysed and rewritten: renamed in 15. */
#if PG_VERSION_NUM >= 150000
#define sx_analyze_and_rewrite(raw, sql) \
	pg_analyze_and_rewrite_fixedparams((raw), (sql), NULL, 0, NULL)
#else
#define sx_analyze_and_rewrite(raw, sql) \
	pg_analyze_and_rewrite((raw), (sql), NULL, 0, NULL)
#endif

/* The oldest transaction of which the commit log knows: moved in 17. */
#if PG_VERSION_NUM >= 170000
#define sx_oldest_clog_xid() (TransamVariables->oldestClogXid)
#else
#define sx_oldest_clog_xid() (ShmemVariableCache->oldestClogXid)
#endif

/* Minimal tuples may be made with room in front since 18. */
#if PG_VERSION_NUM >= 180000
#define sx_form_minimal_tuple(desc, values, nulls) \
	heap_form_minimal_tuple((desc), (values), (nulls), 0)
#define sx_copy_minimal_tuple(tuple) heap_copy_minimal_tuple((tuple), 0)
#else
#define sx_form_minimal_tuple(desc, values, nulls) \
	heap_form_minimal_tuple((desc), (values), (nulls))
#define sx_copy_minimal_tuple(tuple) heap_copy_minimal_tuple(tuple)
#endif

/* Until 14 functions that two types share had one name for both. */
#if PG_VERSION_NUM < 140000
#define F_TIMESTAMPTZ_EQ F_TIMESTAMP_EQ
#define F_TIMESTAMPTZ_LE F_TIMESTAMP_LE
#define F_TIMESTAMPTZ_GE F_TIMESTAMP_GE
#define F_TIMESTAMPTZ_GT F_TIMESTAMP_GT
#endif

/* Views may run with the rights of who asks since 15. */
#if PG_VERSION_NUM >= 150000
#define sx_view_is_invoker(view) RelationHasSecurityInvoker(view)
#else
#define sx_view_is_invoker(view) true
#endif

/* Plans are released by their resource owner since 14. */
#if PG_VERSION_NUM >= 140000
#define sx_release_cached_plan(plan) \
	ReleaseCachedPlan((plan), CurrentResourceOwner)
#else
#define sx_release_cached_plan(plan) ReleaseCachedPlan((plan), true)
#endif

#if PG_VERSION_NUM >= 160000
#define sx_is_relation_owner(relid, roleid) \
	object_ownercheck(RelationRelationId, (relid), (roleid))
#else
#define sx_is_relation_owner(relid, roleid) \
	pg_class_ownercheck((relid), (roleid))
#endif

#if PG_VERSION_NUM < 150000
#define MarkGUCPrefixReserved(prefix) EmitWarningsOnPlaceholders(prefix)
#endif

/* Shared memory is asked for in a hook of its own since 15. */
#if PG_VERSION_NUM >= 150000
#define sx_hook_shmem_request(function, previous) \
	((previous) = shmem_request_hook, shmem_request_hook = (function))
#else
typedef void (*shmem_request_hook_type) (void);
#define sx_hook_shmem_request(function, previous) \
	((previous) = NULL, (function) ())
#endif

#if PG_VERSION_NUM >= 180000
#define sx_base64_encode(src, len, dst, dstlen) \
	pg_b64_encode((const uint8 *) (src), (len), (dst), (dstlen))
#define sx_base64_decode(src, len, dst, dstlen) \
	pg_b64_decode((src), (len), (uint8 *) (dst), (dstlen))
#else
#define sx_base64_encode(src, len, dst, dstlen) \
	pg_b64_encode((const char *) (src), (len), (dst), (dstlen))
#define sx_base64_decode(src, len, dst, dstlen) \
	pg_b64_decode((src), (len), (char *) (dst), (dstlen))
#endif

/* SHA-256 of one thing after the other; hidden behind one interface in 14. */
#if PG_VERSION_NUM >= 140000
typedef pg_cryptohash_ctx *SxSha256;

static inline SxSha256
sx_sha256_create(void)
{
	return pg_cryptohash_create(PG_SHA256);
}

static inline void
sx_sha256_digest(SxSha256 sha256, const void *data, size_t len, uint8 *digest)
{
	if (pg_cryptohash_init(sha256) < 0 ||
		pg_cryptohash_update(sha256, (const uint8 *) data, len) < 0 ||
		pg_cryptohash_final(sha256, digest, PG_SHA256_DIGEST_LENGTH) < 0)
		elog(ERROR, "could not compute SHA-256");
}

#define sx_sha256_free(sha256) pg_cryptohash_free(sha256)
#else
/* The header of the functions in 13 needs one of OpenSSL, which may be absent. */
typedef bytea *SxSha256;

static inline SxSha256
sx_sha256_create(void)
{
	return (SxSha256) palloc(VARHDRSZ);
}

static inline void
sx_sha256_digest(SxSha256 sha256, const void *data, size_t len, uint8 *digest)
{
	bytea	   *copy = (bytea *) palloc(VARHDRSZ + len);
	bytea	   *hash;

	SET_VARSIZE(copy, VARHDRSZ + len);
	memcpy(VARDATA(copy), data, len);
	hash = DatumGetByteaPP(DirectFunctionCall1(sha256_bytea,
											   PointerGetDatum(copy)));
	memcpy(digest, VARDATA_ANY(hash), 32);
	pfree(hash);
	pfree(copy);
}

#define sx_sha256_free(sha256) pfree(sha256)
#endif

/*
 * The timeline that new WAL goes to. Before 15 the variable is current once
 * RecoveryInProgress() has been asked.
 */
static inline TimeLineID
sx_insertion_timeline(void)
{
#if PG_VERSION_NUM >= 150000
	return GetWALInsertionTimeLine();
#else
	(void) RecoveryInProgress();
	return ThisTimeLineID;
#endif
}

/* How far WAL is on disk. */
static inline XLogRecPtr
sx_flushed_lsn(void)
{
#if PG_VERSION_NUM >= 150000
	return GetFlushRecPtr(NULL);
#else
	return GetFlushRecPtr();
#endif
}

/* A tuplestore result for a set-returning function, in its own context. */
static inline void
sx_init_materialized_result(FunctionCallInfo fcinfo)
{
#if PG_VERSION_NUM >= 150000
	InitMaterializedSRF(fcinfo, 0);
#else
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	TupleDesc	desc;
	MemoryContext old;

	if (result == NULL || !IsA(result, ReturnSetInfo) ||
		(result->allowedModes & SFRM_Materialize) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("set-valued function called in context that cannot accept a set")));
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	old = MemoryContextSwitchTo(result->econtext->ecxt_per_query_memory);
	result->returnMode = SFRM_Materialize;
	result->setDesc = BlessTupleDesc(desc);
	result->setResult =
		tuplestore_begin_heap((result->allowedModes & SFRM_Materialize_Random) != 0,
							  false, work_mem);
	MemoryContextSwitchTo(old);
#endif
}

/*
 * The same for a function that returns a set of plain values, or is called so
 * often that describing its result anew each time would cost too much.
 */
static inline void
sx_init_materialized_scalars(FunctionCallInfo fcinfo)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext old;

	if (result == NULL || !IsA(result, ReturnSetInfo) ||
		(result->allowedModes & SFRM_Materialize) == 0 ||
		result->expectedDesc == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("set-valued function called in context that cannot accept a set")));
	old = MemoryContextSwitchTo(result->econtext->ecxt_per_query_memory);
	result->returnMode = SFRM_Materialize;
	result->setDesc = CreateTupleDescCopy(result->expectedDesc);
	result->setResult =
		tuplestore_begin_heap((result->allowedModes & SFRM_Materialize_Random) != 0,
							  false, work_mem);
	MemoryContextSwitchTo(old);
}

#endif							/* SYNC_EXT_COMPAT_H */
