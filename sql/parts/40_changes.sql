-- ---------------------------------------------------------------------------
-- Reading changes
-- ---------------------------------------------------------------------------

CREATE FUNCTION sync.changes(
    domain pg_catalog.text,
    since sync.cursor DEFAULT NULL,
    filter pg_catalog.text DEFAULT NULL,
    params pg_catalog.text[] DEFAULT NULL,
    user_id pg_catalog.text DEFAULT NULL,
    client pg_catalog.text DEFAULT NULL,
    exclude pg_catalog.jsonb DEFAULT NULL,
    max_rows pg_catalog.int4 DEFAULT NULL,
    OUT op pg_catalog.text,
    OUT key pg_catalog.jsonb,
    OUT data pg_catalog.jsonb,
    OUT modified_at pg_catalog.timestamptz,
    OUT cursor sync.cursor
) RETURNS SETOF pg_catalog.record
    LANGUAGE C STABLE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'sync_ext_changes';
COMMENT ON FUNCTION sync.changes(pg_catalog.text, sync.cursor, pg_catalog.text, pg_catalog.text[], pg_catalog.text, pg_catalog.text, pg_catalog.jsonb, pg_catalog.int4)
    IS 'What changed in a domain since a cursor, for a filter';

CREATE FUNCTION sync.pull(request pg_catalog.jsonb) RETURNS pg_catalog.jsonb
    LANGUAGE C STABLE STRICT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'sync_ext_pull';
COMMENT ON FUNCTION sync.pull(pg_catalog.jsonb) IS 'Changes of many domains in one snapshot, as JSON';
