-- ---------------------------------------------------------------------------
-- Operations
-- ---------------------------------------------------------------------------

-- Entries go only below what still runs: a transaction that a cursor may hold
-- as running must find its entries when it commits. Readers take pruned_below
-- under their own snapshot, so they see it together with what was deleted.
CREATE FUNCTION sync.prune(older_than pg_catalog.interval DEFAULT '7 days') RETURNS pg_catalog.int8
    LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    t sync.tick;
    below xid8;
    newest xid8;
    newest_marker xid8;
    entries int8 := 0;
    n int8;
    l record;
BEGIN
    IF older_than < interval '0' THEN
        RAISE EXCEPTION 'older_than must not be negative'
            USING ERRCODE = 'invalid_parameter_value', DETAIL = format('It is %s.', older_than),
                  HINT = 'Give how long clients may stay away without loading anew.';
    END IF;
    -- one at a time
    LOCK TABLE sync.change_log IN SHARE UPDATE EXCLUSIVE MODE;

    SELECT * INTO t FROM sync.tick k WHERE k.at <= clock_timestamp() - older_than ORDER BY k.at DESC LIMIT 1;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    SELECT x INTO below FROM unnest(t.running || t.seen_below || pg_snapshot_xmin(pg_current_snapshot())) AS x ORDER BY x LIMIT 1;

    FOR l IN SELECT c.rel, c.log::regclass AS log FROM sync.change_log c ORDER BY c.rel LOOP
        -- DDL must not wait for all of this, nor this for DDL: next time
        BEGIN
            EXECUTE format('LOCK TABLE %s IN ROW EXCLUSIVE MODE NOWAIT', l.log);
        EXCEPTION WHEN lock_not_available OR undefined_table THEN
            CONTINUE;
        END;
        EXECUTE format('SELECT xid FROM %s WHERE xid < $1 ORDER BY xid DESC LIMIT 1', l.log) INTO newest USING below;
        SELECT m.xid INTO newest_marker FROM sync.reset_marker m
         WHERE m.rel = l.rel AND m.xid < below ORDER BY m.xid DESC LIMIT 1;
        newest := greatest(newest, newest_marker);
        CONTINUE WHEN newest IS NULL;
        EXECUTE format('DELETE FROM %s WHERE xid < $1', l.log) USING below;
        GET DIAGNOSTICS n = ROW_COUNT;
        entries := entries + n;
        -- the newest is kept: reconciling asks for it, however late
        DELETE FROM sync.reset_marker m WHERE m.rel = l.rel AND m.xid < newest_marker;
        UPDATE sync.change_log c
           SET pruned_below = (newest::text::numeric + 1)::text::xid8
         WHERE c.rel = l.rel AND c.pruned_below <= newest;
    END LOOP;
    DELETE FROM sync.tick k WHERE k.at < t.at;
    RETURN entries;
END
$$;
COMMENT ON FUNCTION sync.prune(pg_catalog.interval) IS 'Deletes log entries that are older; clients that stayed away longer load anew. Returns how many log rows went';
REVOKE ALL ON FUNCTION sync.prune(pg_catalog.interval) FROM PUBLIC;

-- The JSON Schema of one column's type.
CREATE FUNCTION sync.describe_type(type pg_catalog.oid, typmod pg_catalog.int4, nullable pg_catalog.bool, nested pg_catalog.bool) RETURNS pg_catalog.jsonb
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    t pg_type;
    schema jsonb;
    json_type text;
    -- only whole columns are sent as text
    as_text bool := NOT nested AND coalesce(current_setting('sync.big_numbers', true), '') = 'text';
BEGIN
    SELECT * INTO t FROM pg_type WHERE oid = type;
    IF t.typtype = 'd' THEN
        schema := sync.describe_type(t.typbasetype, t.typtypmod, nullable, nested);
        RETURN schema || jsonb_build_object('x-postgres-domain', format_type(type, NULL));
    ELSIF t.typelem <> 0 AND t.typcategory = 'A' THEN
        -- an array may have more dimensions than one
        schema := jsonb_build_object('type', 'array', 'items', jsonb_build_object(
            'anyOf', jsonb_build_array(sync.describe_type(t.typelem, typmod, true, true), '{"type": "array"}'::jsonb)));
    ELSIF t.typtype = 'e' THEN
        schema := jsonb_build_object('type', 'string', 'enum',
            (SELECT coalesce(jsonb_agg(e.enumlabel ORDER BY e.enumsortorder), '[]') FROM pg_enum e WHERE e.enumtypid = type));
        IF nullable THEN
            schema := jsonb_set(schema, '{enum}', (schema -> 'enum') || 'null'::jsonb);
        END IF;
    ELSIF t.typtype = 'c' THEN
        schema := jsonb_build_object('type', 'object', 'properties',
            (SELECT coalesce(jsonb_object_agg(a.attname, sync.describe_type(a.atttypid, a.atttypmod, true, true)), '{}')
               FROM pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped));
    ELSIF EXISTS (SELECT FROM pg_cast c WHERE c.castsource = type AND c.casttarget = 'json'::regtype AND c.castmethod = 'f') THEN
        schema := '{}';
    ELSE
        schema := CASE type
            WHEN 'bool'::regtype THEN '{"type": "boolean"}'
            WHEN 'int2'::regtype THEN '{"type": "integer", "minimum": -32768, "maximum": 32767}'
            WHEN 'int4'::regtype THEN '{"type": "integer", "minimum": -2147483648, "maximum": 2147483647}'
            WHEN 'int8'::regtype THEN CASE WHEN as_text THEN '{"type": "string", "pattern": "^-?[0-9]+$"}' ELSE '{"type": "integer"}' END
            -- NaN and the infinities are strings
            WHEN 'numeric'::regtype THEN CASE WHEN as_text THEN '{"type": "string"}' ELSE '{"type": "number"}' END
            WHEN 'float4'::regtype THEN '{"type": "number"}'
            WHEN 'float8'::regtype THEN '{"type": "number"}'
            WHEN 'timestamptz'::regtype THEN '{"type": "string", "format": "date-time"}'
            WHEN 'date'::regtype THEN '{"type": "string", "format": "date"}'
            WHEN 'uuid'::regtype THEN '{"type": "string", "format": "uuid"}'
            WHEN 'json'::regtype THEN '{}'
            WHEN 'jsonb'::regtype THEN '{}'
            ELSE '{"type": "string"}'
        END::jsonb;
        IF type IN ('varchar'::regtype, 'bpchar'::regtype) AND typmod > 4 THEN
            schema := schema || jsonb_build_object('maxLength', typmod - 4);
        END IF;
    END IF;
    json_type := schema ->> 'type';
    IF nullable AND json_type IS NOT NULL THEN
        schema := schema || jsonb_build_object('type', jsonb_build_array(json_type, 'null'));
    END IF;
    RETURN schema || jsonb_build_object('x-postgres-type', format_type(type, typmod));
END
$$;
COMMENT ON FUNCTION sync.describe_type(pg_catalog.oid, pg_catalog.int4, pg_catalog.bool, pg_catalog.bool) IS 'Internal: the JSON Schema of a type';
REVOKE ALL ON FUNCTION sync.describe_type(pg_catalog.oid, pg_catalog.int4, pg_catalog.bool, pg_catalog.bool) FROM PUBLIC;

CREATE FUNCTION sync.describe(domain pg_catalog.text) RETURNS pg_catalog.jsonb
    LANGUAGE plpgsql STABLE STRICT SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    t sync.tracked;
    shown oid;
BEGIN
    SELECT * INTO t FROM sync.tracked x WHERE x.domain = describe.domain;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'sync domain "%" does not exist', domain
            USING ERRCODE = 'undefined_object', DETAIL = 'No tracked table has this domain.',
                  HINT = 'sync.track() makes a table a domain; sync.tracked lists them.';
    END IF;
    shown := coalesce(t.source::oid, t.rel::oid);
    RETURN (
        SELECT jsonb_build_object(
            '$schema', 'https://json-schema.org/draft/2020-12/schema',
            'title', t.domain,
            'type', 'object',
            'properties', jsonb_object_agg(a.attname,
                sync.describe_type(a.atttypid, a.atttypmod,
                                   NOT coalesce(r.attnotnull, a.attnotnull) AND NOT a.attname = ANY (t.key), false)
                || CASE WHEN col_description(shown, a.attnum) IS NULL THEN '{}'
                        ELSE jsonb_build_object('description', col_description(shown, a.attnum)) END),
            'required', jsonb_agg(a.attname ORDER BY a.attnum),
            'x-key', to_jsonb(t.key),
            'x-scope', to_jsonb(t.scope),
            'x-modified-at', t.modified_at,
            'x-deleted-at', t.deleted_at)
          FROM pg_attribute a
          LEFT JOIN pg_attribute r ON t.source IS NOT NULL AND r.attrelid = t.rel AND r.attname = a.attname
                AND NOT r.attisdropped AND r.atttypid = a.atttypid
         WHERE a.attrelid = shown AND a.attnum > 0 AND NOT a.attisdropped);
END
$$;
COMMENT ON FUNCTION sync.describe(pg_catalog.text) IS 'The JSON Schema (2020-12) of a domain''s documents';
