-- ---------------------------------------------------------------------------
-- Reconciling ids
-- ---------------------------------------------------------------------------

CREATE FUNCTION sync.reconcile_ids(
    stream pg_catalog.text,
    message pg_catalog.bytea,
    frame_limit pg_catalog.int4 DEFAULT 0
) RETURNS pg_catalog.bytea
    LANGUAGE C STABLE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'sync_ext_reconcile_ids';
COMMENT ON FUNCTION sync.reconcile_ids(pg_catalog.text, pg_catalog.bytea, pg_catalog.int4)
    IS 'Answers a message of the Negentropy protocol, version 1, over the ids of the stream''s entries: each enters as the SHA-256 of its UTF-8 bytes, with timestamp 0';

CREATE FUNCTION sync.ids_by_hash(
    stream pg_catalog.text,
    hashes pg_catalog.bytea[],
    OUT hash pg_catalog.bytea,
    OUT id pg_catalog.text
) RETURNS SETOF pg_catalog.record
    LANGUAGE C STABLE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'sync_ext_ids_by_hash';
COMMENT ON FUNCTION sync.ids_by_hash(pg_catalog.text, pg_catalog.bytea[])
    IS 'The ids of a stream''s entries that have these SHA-256 hashes: what sync.reconcile_ids() told a client that it lacks';
