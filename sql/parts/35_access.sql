-- ---------------------------------------------------------------------------
-- Access relations
-- ---------------------------------------------------------------------------

-- The ordinary tables that a view shows something of, at any depth; or the
-- table itself.
CREATE FUNCTION sync.tables_under(rel pg_catalog.oid) RETURNS SETOF pg_catalog.oid
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE under(relid) AS (
        SELECT rel
        UNION
        SELECT d.refobjid
          FROM under
          JOIN pg_class v ON v.oid = under.relid AND v.relkind IN ('v', 'm')
          JOIN pg_rewrite r ON r.ev_class = v.oid
          JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> v.oid
    )
    SELECT under.relid FROM under JOIN pg_class c ON c.oid = under.relid AND c.relkind NOT IN ('v', 'm')
$$;
COMMENT ON FUNCTION sync.tables_under(pg_catalog.oid) IS 'Internal: the tables that a view shows something of';
REVOKE ALL ON FUNCTION sync.tables_under(pg_catalog.oid) FROM PUBLIC;

-- The same as tracked tables: a partition stands for its root.
CREATE FUNCTION sync.tracked_under(rel pg_catalog.oid) RETURNS pg_catalog.oid[]
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(array_agg(DISTINCT t.rel::oid), '{}')
      FROM sync.tables_under(tracked_under.rel) AS u(relid)
     CROSS JOIN LATERAL (SELECT u.relid UNION SELECT p.relid FROM pg_partition_ancestors(u.relid) AS p(relid)) AS up(relid)
      JOIN sync.tracked t ON t.rel = up.relid
$$;
COMMENT ON FUNCTION sync.tracked_under(pg_catalog.oid) IS 'Internal: the tracked tables that a view shows something of';
REVOKE ALL ON FUNCTION sync.tracked_under(pg_catalog.oid) FROM PUBLIC;

CREATE FUNCTION sync.number_access_columns() RETURNS pg_catalog.trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET jit = off
AS $$
BEGIN
    NEW.user_att := (sync.column_numbers(NEW.via::oid, ARRAY[NEW.user_column]))[1];
    NEW.scope_atts := sync.column_numbers(NEW.via::oid, NEW.scope);
    NEW.tables := sync.tracked_under(NEW.via::oid);
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION sync.number_access_columns() IS 'Trigger: numbers the columns that a row of sync.access names';
REVOKE ALL ON FUNCTION sync.number_access_columns() FROM PUBLIC;

CREATE TRIGGER number_columns BEFORE INSERT ON sync.access
    FOR EACH ROW EXECUTE FUNCTION sync.number_access_columns();
ALTER TABLE sync.access ENABLE ALWAYS TRIGGER number_columns;

-- Like sync.track(): C checks that the caller owns the tables.
CREATE FUNCTION sync.set_access(domain pg_catalog.text, via pg_catalog.regclass, user_column pg_catalog.name DEFAULT 'user_id') RETURNS pg_catalog.void
    LANGUAGE C VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'sync_ext_set_access';
COMMENT ON FUNCTION sync.set_access(pg_catalog.text, pg_catalog.regclass, pg_catalog.name)
    IS 'Says which table or view tells who may see which scope of a domain; NULL takes it back';

CREATE FUNCTION sync.do_set_access(domain pg_catalog.text, via pg_catalog.regclass, user_column pg_catalog.name) RETURNS pg_catalog.void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    SET jit = off
AS $$
#variable_conflict use_variable
DECLARE
    t sync.tracked;
    kind "char";
    col name;
    wanted oid;
    given oid;
    access_scope name[];
    bad text;
BEGIN
    SELECT * INTO t FROM sync.tracked x WHERE x.domain = domain;
    IF via IS NULL THEN
        DELETE FROM sync.access a WHERE a.rel = t.rel;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'sync domain "%" has no access relation', domain
                USING ERRCODE = 'undefined_object', DETAIL = 'sync.access has no row for it.',
                      HINT = 'Name a table or view as via to give it one.';
        END IF;
        PERFORM sync.forget_table(t.rel::oid);
        PERFORM sync.mark_reset(t.rel::oid);
        RETURN;
    END IF;

    IF cardinality(t.scope) = 0 THEN
        RAISE EXCEPTION 'sync domain "%" has no scope', domain
            USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = 'An access relation says who may see which scope.',
                  HINT = 'Track the table with the columns that decide whom a row concerns as scope.';
    END IF;
    SELECT c.relkind INTO kind FROM pg_class c WHERE c.oid = via;
    IF kind NOT IN ('r', 'p', 'v') THEN
        RAISE EXCEPTION '"%" cannot be an access relation', via
            USING ERRCODE = 'wrong_object_type',
                  DETAIL = CASE kind WHEN 'm' THEN 'It is a materialized view, which nobody says is refreshed.' ELSE 'It is neither a table nor a view.' END,
                  HINT = 'Name a table or view with the scope columns and a column for the user.';
    END IF;
    FOREACH col IN ARRAY coalesce(user_column, '') || t.scope LOOP
        IF sync.column_numbers(via::oid, ARRAY[col]) IS NULL THEN
            RAISE EXCEPTION 'access relation "%" lacks column "%"', via, col
                USING ERRCODE = 'undefined_column',
                      DETAIL = CASE WHEN col = ANY (t.scope) THEN format('It is a scope column of sync domain "%s".', domain) ELSE 'It is named as user_column.' END,
                      HINT = 'It must have every scope column under its name, and a column for the user; a view can rename columns.';
        END IF;
    END LOOP;
    FOREACH col IN ARRAY t.scope LOOP
        SELECT a.atttypid INTO wanted FROM pg_attribute a WHERE a.attrelid = t.rel AND a.attname = col;
        SELECT a.atttypid INTO given FROM pg_attribute a WHERE a.attrelid = via AND a.attname = col;
        IF wanted <> given
           OR (SELECT a.attcollation FROM pg_attribute a WHERE a.attrelid = t.rel AND a.attname = col)
              <> (SELECT a.attcollation FROM pg_attribute a WHERE a.attrelid = via AND a.attname = col) THEN
            RAISE EXCEPTION 'column "%" of access relation "%" is of another type', col, via
                USING ERRCODE = 'datatype_mismatch',
                      DETAIL = format('It is %s; in %s it is %s.', format_type(given, NULL), t.rel, format_type(wanted, NULL))
                               || CASE WHEN wanted = given THEN ' The collations differ.' ELSE '' END,
                      HINT = 'Give both the same type, or use a view that casts.';
        END IF;
    END LOOP;
    IF user_column = ANY (t.scope) THEN
        RAISE EXCEPTION 'column "%" cannot be scope and user at once', user_column
            USING ERRCODE = 'invalid_parameter_value', DETAIL = format('It is a scope column of sync domain "%s".', domain),
                  HINT = 'Use a view with a column for the user beside it.';
    END IF;

    IF kind <> 'v' THEN
        SELECT x.scope INTO access_scope FROM sync.tracked x WHERE x.rel = via;
        IF access_scope IS NULL OR access_scope[1] <> user_column OR NOT access_scope @> t.scope THEN
            RAISE EXCEPTION 'access table "%" is not tracked by user and scope', via
                USING ERRCODE = 'object_not_in_prerequisite_state',
                      DETAIL = CASE WHEN access_scope IS NULL THEN 'It is not tracked, so grants and revocations would go unseen.'
                                    ELSE format('It is tracked with scope %s.', access_scope) END,
                      HINT = CASE WHEN access_scope IS NULL THEN '' ELSE format('SELECT sync.untrack(%L); ', via) END
                             || format('SELECT sync.track(%L, scope => %L);', via, user_column || t.scope);
        END IF;
        IF NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = via AND i.indisvalid AND i.indpred IS NULL
                        AND i.indkey[0] = ANY (sync.column_numbers(via::oid, t.scope))) THEN
            RAISE NOTICE 'access table "%" has no index that begins with a scope column', via
                USING DETAIL = 'sync.affected() looks up who may see a scope that changed, and would read the whole table each time.',
                      HINT = format('CREATE INDEX ON %s (%s);', via, (SELECT string_agg(quote_ident(s), ', ' ORDER BY ord) FROM unnest(t.scope || user_column) WITH ORDINALITY AS x(s, ord)));
        END IF;
        IF NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = via AND i.indisvalid AND i.indpred IS NULL
                        AND i.indkey[0] = (sync.column_numbers(via::oid, ARRAY[user_column]))[1]) THEN
            RAISE NOTICE 'access table "%" has no index that begins with column "%"', via, user_column
                USING DETAIL = 'Every read with user_id looks up what the user may see, and would read the whole table.',
                      HINT = format('CREATE INDEX ON %s (%s);', via, (SELECT string_agg(quote_ident(s), ', ' ORDER BY ord) FROM unnest(user_column || t.scope) WITH ORDINALITY AS x(s, ord)));
        END IF;
    ELSE
        SELECT string_agg(u.relid::regclass::text, ', ' ORDER BY u.relid::regclass::text) INTO bad
          FROM sync.tables_under(via::oid) AS u(relid) JOIN pg_class c ON c.oid = u.relid
         WHERE c.relkind IN ('r', 'p') AND c.relnamespace <> 'pg_catalog'::regnamespace
           AND NOT EXISTS (SELECT FROM sync.tracked x
                            WHERE x.rel IN (SELECT u.relid UNION SELECT p.relid FROM pg_partition_ancestors(u.relid) AS p(relid)));
        IF bad IS NOT NULL THEN
            RAISE EXCEPTION 'access view "%" shows tables that are not tracked', via
                USING ERRCODE = 'object_not_in_prerequisite_state',
                      DETAIL = format('They are: %s. Nobody would be told when they change.', bad),
                      HINT = 'Call sync.track() for each of them.';
        END IF;
        SELECT string_agg(u.relid::regclass::text, ', ' ORDER BY u.relid::regclass::text) INTO bad
          FROM sync.tables_under(via::oid) AS u(relid) JOIN pg_class c ON c.oid = u.relid
         WHERE c.relkind NOT IN ('r', 'p') OR c.relnamespace = 'pg_catalog'::regnamespace;
        IF bad IS NOT NULL THEN
            RAISE WARNING 'access view "%" shows what cannot be tracked', via
                USING DETAIL = format('It is: %s. When it changes nobody is told; clients notice when they ask the next time.', bad);
        END IF;
    END IF;

    -- whatever else rules the domain does so no longer
    DELETE FROM sync.access a WHERE a.rel = t.rel;
    INSERT INTO sync.access (rel, via, user_column, scope) VALUES (t.rel, via, user_column, t.scope);
    PERFORM sync.forget_table(t.rel::oid);
    PERFORM sync.mark_reset(t.rel::oid);
END
$$;
COMMENT ON FUNCTION sync.do_set_access(pg_catalog.text, pg_catalog.regclass, pg_catalog.name) IS 'Internal: what sync.set_access() does once the caller''s right is checked';
REVOKE ALL ON FUNCTION sync.do_set_access(pg_catalog.text, pg_catalog.regclass, pg_catalog.name) FROM PUBLIC;

-- Brings sync.access in line with what became of the relations in it.
CREATE FUNCTION sync.follow_access() RETURNS pg_catalog.void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    a sync.access;
BEGIN
    FOR a IN
        SELECT * FROM sync.access x
         WHERE NOT EXISTS (SELECT FROM sync.tracked t WHERE t.rel = x.rel)
            OR NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = x.via)
    LOOP
        DELETE FROM sync.access x WHERE x.rel = a.rel;
        -- the domain's table may be going, too
        IF EXISTS (SELECT FROM sync.tracked t JOIN pg_class c ON c.oid = t.rel WHERE t.rel = a.rel) THEN
            RAISE WARNING '% has no access relation any more', a.rel
                USING DETAIL = 'It was dropped.', HINT = 'Call sync.set_access() with another.';
            PERFORM sync.mark_reset(a.rel::oid);
        END IF;
    END LOOP;
    UPDATE sync.access x
       SET user_column = (sync.column_names(x.via::oid, ARRAY[x.user_att]))[1],
           scope = sync.column_names(x.via::oid, x.scope_atts),
           tables = sync.tracked_under(x.via::oid)
     WHERE sync.column_names(x.via::oid, x.user_att || x.scope_atts) IS NOT NULL
       AND (x.user_column <> (sync.column_names(x.via::oid, ARRAY[x.user_att]))[1]
            OR x.scope <> sync.column_names(x.via::oid, x.scope_atts)
            OR x.tables <> sync.tracked_under(x.via::oid));
END
$$;
COMMENT ON FUNCTION sync.follow_access() IS 'Internal: follows DDL on access relations';
REVOKE ALL ON FUNCTION sync.follow_access() FROM PUBLIC;
