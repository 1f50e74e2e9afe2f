-- ---------------------------------------------------------------------------
-- Comparing whole copies
-- ---------------------------------------------------------------------------

CREATE FUNCTION sync.fingerprint(
    domain pg_catalog.text,
    filter pg_catalog.text DEFAULT NULL,
    params pg_catalog.text[] DEFAULT NULL,
    user_id pg_catalog.text DEFAULT NULL,
    INOUT after pg_catalog.jsonb DEFAULT NULL,
    INOUT upto pg_catalog.jsonb DEFAULT NULL,
    ranges pg_catalog.int4 DEFAULT 1,
    OUT count pg_catalog.int8,
    OUT hash pg_catalog.text
) RETURNS SETOF pg_catalog.record
    LANGUAGE C STABLE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'sync_ext_fingerprint';
COMMENT ON FUNCTION sync.fingerprint(pg_catalog.text, pg_catalog.text, pg_catalog.text[], pg_catalog.text, pg_catalog.jsonb, pg_catalog.jsonb, pg_catalog.int4)
    IS 'Count and hash of the keys and versions that a client should hold, overall or by ranges of keys';

CREATE FUNCTION sync.reconcile(request pg_catalog.jsonb) RETURNS pg_catalog.jsonb
    LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'sync_ext_reconcile';
COMMENT ON FUNCTION sync.reconcile(pg_catalog.jsonb)
    IS 'Makes a client''s whole copy and the database equal: applies what the client changed, and says what differs';
