-- ---------------------------------------------------------------------------
-- Tracking
-- ---------------------------------------------------------------------------

-- Trigger functions. Whoever owns a table may make triggers of them; on a
-- table that is not tracked they do nothing.
CREATE FUNCTION sync.stamp() RETURNS pg_catalog.trigger
    LANGUAGE C AS 'MODULE_PATHNAME', 'sync_ext_stamp';
COMMENT ON FUNCTION sync.stamp() IS 'Trigger: sets modified_at, before INSERT or UPDATE';

CREATE FUNCTION sync.capture() RETURNS pg_catalog.trigger
    LANGUAGE C AS 'MODULE_PATHNAME', 'sync_ext_capture';
COMMENT ON FUNCTION sync.capture() IS 'Trigger: appends a row''s change to the log, and remembers its masters';

CREATE FUNCTION sync.statement() RETURNS pg_catalog.trigger
    LANGUAGE C AS 'MODULE_PATHNAME', 'sync_ext_statement';
COMMENT ON FUNCTION sync.statement() IS 'Trigger: completes a statement''s changes, touches masters, sees TRUNCATE';

CREATE FUNCTION sync.mark_reset(rel pg_catalog.oid) RETURNS pg_catalog.void
    LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'sync_ext_mark_reset';
COMMENT ON FUNCTION sync.mark_reset(pg_catalog.oid) IS 'Internal: inserts a reset marker for a table and for its masters';
REVOKE ALL ON FUNCTION sync.mark_reset(pg_catalog.oid) FROM PUBLIC;

CREATE FUNCTION sync.forget_table(rel pg_catalog.oid) RETURNS pg_catalog.void
    LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'sync_ext_forget_table';
COMMENT ON FUNCTION sync.forget_table(pg_catalog.oid) IS 'Internal: makes every session read anew what is known of a table and its partitions';
REVOKE ALL ON FUNCTION sync.forget_table(pg_catalog.oid) FROM PUBLIC;

-- Columns by number, and back. NULL where one is gone.
CREATE FUNCTION sync.column_numbers(rel pg_catalog.oid, names pg_catalog.name[]) RETURNS pg_catalog.int2[]
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN count(a.attnum) = count(*)
                THEN coalesce(array_agg(a.attnum ORDER BY n.ord), '{}') END
      FROM unnest(names) WITH ORDINALITY AS n(name, ord)
      LEFT JOIN pg_attribute a
        ON a.attrelid = rel AND a.attname = n.name AND a.attnum > 0 AND NOT a.attisdropped
$$;
COMMENT ON FUNCTION sync.column_numbers(pg_catalog.oid, pg_catalog.name[]) IS 'Internal: the numbers of columns, or NULL when one does not exist';
REVOKE ALL ON FUNCTION sync.column_numbers(pg_catalog.oid, pg_catalog.name[]) FROM PUBLIC;

CREATE FUNCTION sync.column_names(rel pg_catalog.oid, numbers pg_catalog.int2[]) RETURNS pg_catalog.name[]
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN count(a.attnum) = count(*)
                THEN coalesce(array_agg(a.attname ORDER BY n.ord), '{}') END
      FROM unnest(numbers) WITH ORDINALITY AS n(number, ord)
      LEFT JOIN pg_attribute a
        ON a.attrelid = rel AND a.attnum = n.number AND NOT a.attisdropped
$$;
COMMENT ON FUNCTION sync.column_names(pg_catalog.oid, pg_catalog.int2[]) IS 'Internal: the names of columns, or NULL when one was dropped';
REVOKE ALL ON FUNCTION sync.column_names(pg_catalog.oid, pg_catalog.int2[]) FROM PUBLIC;

-- A table and its partitions, of all levels.
CREATE FUNCTION sync.partition_tree(rel pg_catalog.oid) RETURNS SETOF pg_catalog.oid
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE tree(relid) AS (
        SELECT rel
        UNION ALL
        SELECT i.inhrelid
          FROM tree
          JOIN pg_inherits i ON i.inhparent = tree.relid
          JOIN pg_class c ON c.oid = i.inhrelid AND c.relispartition
    )
    SELECT relid FROM tree
$$;
COMMENT ON FUNCTION sync.partition_tree(pg_catalog.oid) IS 'Internal: a table and its partitions';
REVOKE ALL ON FUNCTION sync.partition_tree(pg_catalog.oid) FROM PUBLIC;

CREATE FUNCTION sync.leaves_of(rel pg_catalog.oid) RETURNS pg_catalog.oid[]
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT array_agg(relid ORDER BY relid) FROM sync.partition_tree(rel::oid) AS tree(relid)
$$;
COMMENT ON FUNCTION sync.leaves_of(pg_catalog.oid) IS 'Internal: a table and its partitions, in order';
REVOKE ALL ON FUNCTION sync.leaves_of(pg_catalog.oid) FROM PUBLIC;

-- What the rows of a table say, as far as DDL can change it: the columns, and
-- whether our triggers see changes.
CREATE FUNCTION sync.shape_of(rel pg_catalog.oid) RETURNS pg_catalog.jsonb
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_build_object(
        'columns',
        (SELECT coalesce(jsonb_object_agg(a.attnum::text, jsonb_build_object(
                    'name', a.attname, 'type', a.atttypid::int8, 'typmod', a.atttypmod,
                    'filled', a.atthasdef OR a.attidentity <> '')), '{}')
           FROM pg_attribute a
          WHERE a.attrelid = rel AND a.attnum > 0 AND NOT a.attisdropped),
        'triggers',
        (SELECT coalesce(jsonb_object_agg(g.tgrelid::text || ' ' || g.tgname, g.tgenabled), '{}')
           FROM pg_trigger g
          WHERE g.tgrelid IN (SELECT tree.relid FROM sync.partition_tree(rel) AS tree(relid))
            AND g.tgname IN ('zz_sync_stamp', 'sync_capture', 'sync_statement')))
$$;
COMMENT ON FUNCTION sync.shape_of(pg_catalog.oid) IS 'Internal: what the rows of a table say';
REVOKE ALL ON FUNCTION sync.shape_of(pg_catalog.oid) FROM PUBLIC;

-- Makes the log of a table, typed like its columns. Arrays of keys need a
-- type that has arrays; the storage is not external, since rows are kept small.
CREATE FUNCTION sync.create_log(root pg_catalog.oid, key_atts pg_catalog.int2[], scope_atts pg_catalog.int2[]) RETURNS pg_catalog.void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    log_name text := 'log_' || root;
    is_packed bool;
    columns text := '';
    plain text := '';
    scope_columns text := '';
    c record;
BEGIN
    SELECT bool_and(t.typarray <> 0) INTO is_packed
      FROM unnest(key_atts) AS k(number)
      JOIN pg_attribute a ON a.attrelid = root AND a.attnum = k.number
      JOIN pg_type t ON t.oid = a.atttypid;

    FOR c IN
        SELECT 'k' || k.ord AS name, format_type(a.atttypid, -1)
               || CASE WHEN is_packed THEN '[]' ELSE '' END AS type,
               is_packed OR t.typlen = -1 AS varlena
          FROM unnest(key_atts) WITH ORDINALITY AS k(number, ord)
          JOIN pg_attribute a ON a.attrelid = root AND a.attnum = k.number
          JOIN pg_type t ON t.oid = a.atttypid
         ORDER BY k.ord
    LOOP
        columns := columns || format(', %I %s', c.name, c.type);
        IF c.varlena THEN
            plain := plain || format(', ALTER COLUMN %I SET STORAGE MAIN', c.name);
        END IF;
    END LOOP;
    FOR c IN
        SELECT 's' || k.ord AS name, format_type(a.atttypid, -1)
               || CASE WHEN co.oid IS NULL THEN ''
                       ELSE format(' COLLATE %I.%I', n.nspname, co.collname) END AS type,
               t.typlen = -1 AS varlena
          FROM unnest(scope_atts) WITH ORDINALITY AS k(number, ord)
          JOIN pg_attribute a ON a.attrelid = root AND a.attnum = k.number
          JOIN pg_type t ON t.oid = a.atttypid
          LEFT JOIN pg_collation co ON co.oid = a.attcollation
          LEFT JOIN pg_namespace n ON n.oid = co.collnamespace
         ORDER BY k.ord
    LOOP
        columns := columns || format(', %I %s', c.name, c.type);
        scope_columns := scope_columns || format('%I, ', c.name);
        IF c.varlena THEN
            plain := plain || format(', ALTER COLUMN %I SET STORAGE MAIN', c.name);
        END IF;
    END LOOP;

    EXECUTE format('CREATE TABLE sync.%I (xid pg_catalog.xid8 NOT NULL, seq pg_catalog.int4 NOT NULL, '
                   'op pg_catalog."char" NOT NULL, origin pg_catalog.text, tids pg_catalog.tid[]%s) USING heap',
                   log_name, columns);
    EXECUTE format('ALTER TABLE sync.%I ALTER COLUMN origin SET STORAGE PLAIN, ALTER COLUMN tids SET STORAGE PLAIN%s', log_name, plain);
    EXECUTE format('CREATE INDEX %I ON sync.%I (xid, seq)', log_name || '_by_xid', log_name);
    IF scope_columns <> '' THEN
        EXECUTE format('CREATE INDEX %I ON sync.%I (%sxid, seq)',
                       log_name || '_by_scope', log_name, scope_columns);
    END IF;
    EXECUTE format('COMMENT ON TABLE sync.%I IS %L', log_name, 'Change log of ' || root::regclass);
    EXECUTE format('REVOKE ALL ON sync.%I FROM PUBLIC', log_name);
    EXECUTE format('ALTER EXTENSION sync_ext ADD TABLE sync.%I', log_name);

    INSERT INTO sync.change_log (rel, log, pruned_below, packed, shape, leaves)
    VALUES (root, format('sync.%I', log_name)::regclass, '0', is_packed, sync.shape_of(root),
            sync.leaves_of(root));
END
$$;
COMMENT ON FUNCTION sync.create_log(pg_catalog.oid, pg_catalog.int2[], pg_catalog.int2[]) IS 'Internal: makes the log of a table';
REVOKE ALL ON FUNCTION sync.create_log(pg_catalog.oid, pg_catalog.int2[], pg_catalog.int2[]) FROM PUBLIC;

CREATE FUNCTION sync.drop_log(root pg_catalog.oid) RETURNS pg_catalog.void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    log_name text := 'log_' || root;
BEGIN
    IF to_regclass(format('sync.%I', log_name)) IS NOT NULL THEN
        EXECUTE format('ALTER EXTENSION sync_ext DROP TABLE sync.%I', log_name);
        EXECUTE format('DROP TABLE sync.%I', log_name);
    END IF;
    DELETE FROM sync.change_log WHERE rel = root;
END
$$;
COMMENT ON FUNCTION sync.drop_log(pg_catalog.oid) IS 'Internal: drops the log of a table';
REVOKE ALL ON FUNCTION sync.drop_log(pg_catalog.oid) FROM PUBLIC;

-- A row of sync.tracked, also one that a restore copies, gets its column
-- numbers and its log; it takes the log along when it goes.
CREATE FUNCTION sync.number_tracked_columns() RETURNS pg_catalog.trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    NEW.key_atts := sync.column_numbers(NEW.rel::oid, NEW.key);
    NEW.scope_atts := sync.column_numbers(NEW.rel::oid, NEW.scope);
    NEW.modified_att := (sync.column_numbers(NEW.rel::oid, ARRAY[NEW.modified_at]))[1];
    NEW.deleted_att := CASE WHEN NEW.deleted_at IS NOT NULL
                            THEN (sync.column_numbers(NEW.rel::oid, ARRAY[NEW.deleted_at]))[1] END;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION sync.number_tracked_columns() IS 'Trigger: numbers the columns that a row of sync.tracked names';
REVOKE ALL ON FUNCTION sync.number_tracked_columns() FROM PUBLIC;

CREATE FUNCTION sync.make_or_drop_log() RETURNS pg_catalog.trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM sync.create_log(NEW.rel::oid, NEW.key_atts, NEW.scope_atts);
    ELSE
        PERFORM sync.drop_log(OLD.rel::oid);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION sync.make_or_drop_log() IS 'Trigger: the log of a table comes and goes with its row in sync.tracked';
REVOKE ALL ON FUNCTION sync.make_or_drop_log() FROM PUBLIC;

CREATE TRIGGER number_columns BEFORE INSERT ON sync.tracked
    FOR EACH ROW EXECUTE FUNCTION sync.number_tracked_columns();
CREATE TRIGGER make_or_drop_log AFTER INSERT OR DELETE ON sync.tracked
    FOR EACH ROW EXECUTE FUNCTION sync.make_or_drop_log();
ALTER TABLE sync.tracked ENABLE ALWAYS TRIGGER number_columns;
ALTER TABLE sync.tracked ENABLE ALWAYS TRIGGER make_or_drop_log;

CREATE FUNCTION sync.number_cascade_columns() RETURNS pg_catalog.trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    NEW.fk_atts := sync.column_numbers(NEW.detail::oid, NEW.fk);
    NEW.ref_atts := sync.column_numbers(NEW.master::oid, NEW.refs);
    NEW.leaves := sync.leaves_of(NEW.detail::oid);
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION sync.number_cascade_columns() IS 'Trigger: numbers the columns that a row of sync.cascades names';
REVOKE ALL ON FUNCTION sync.number_cascade_columns() FROM PUBLIC;

CREATE TRIGGER number_columns BEFORE INSERT ON sync.cascades
    FOR EACH ROW EXECUTE FUNCTION sync.number_cascade_columns();
ALTER TABLE sync.cascades ENABLE ALWAYS TRIGGER number_columns;

-- Makes those of our triggers that a table lacks, and drops those that it no
-- longer needs. Row triggers of a partitioned table reach its partitions by
-- themselves; statement triggers do not, and fire only on the table named in
-- the statement.
CREATE FUNCTION sync.arm(root pg_catalog.oid) RETURNS pg_catalog.void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    is_tracked bool := EXISTS (SELECT FROM sync.tracked t WHERE t.rel = root);
    is_detail bool := EXISTS (SELECT FROM sync.cascades c WHERE c.detail = root);
    wanted bool;
    present bool;
    part oid;
    g record;
BEGIN
    FOR g IN
        SELECT * FROM (VALUES
            ('zz_sync_stamp', is_tracked, 'BEFORE INSERT OR UPDATE', 'ROW', 'stamp'),
            ('sync_capture', is_tracked OR is_detail, 'AFTER INSERT OR UPDATE OR DELETE', 'ROW', 'capture'),
            ('sync_statement', is_tracked OR is_detail, 'AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE', 'STATEMENT', 'statement')
        ) AS v(name, wanted, events, level, function)
    LOOP
        FOR part IN SELECT relid FROM sync.partition_tree(root) AS tree(relid) LOOP
            CONTINUE WHEN g.level = 'ROW' AND part <> root;
            present := EXISTS (SELECT FROM pg_trigger WHERE tgrelid = part AND tgname = g.name);
            IF g.wanted AND NOT present THEN
                EXECUTE format('CREATE TRIGGER %I %s ON %s FOR EACH %s EXECUTE FUNCTION sync.%I()',
                               g.name, g.events, part::regclass, g.level, g.function);
            ELSIF present AND NOT g.wanted THEN
                EXECUTE format('DROP TRIGGER %I ON %s', g.name, part::regclass);
            END IF;
        END LOOP;
    END LOOP;
    FOR part IN SELECT relid FROM sync.partition_tree(root) AS tree(relid) LOOP
        PERFORM sync.always(part);
    END LOOP;
END
$$;
COMMENT ON FUNCTION sync.arm(pg_catalog.oid) IS 'Internal: makes the triggers that a table lacks, and drops those it no longer needs';
REVOKE ALL ON FUNCTION sync.arm(pg_catalog.oid) FROM PUBLIC;

-- The same for a partition that came later. Only for one: while a dump is
-- restored the tables are there before their triggers, and a trigger that we
-- made then would be in the way of the dump's own.
CREATE FUNCTION sync.arm_partition(part pg_catalog.oid) RETURNS pg_catalog.void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = part AND tgname = 'sync_statement') THEN
        EXECUTE format('CREATE TRIGGER sync_statement AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s '
                       'FOR EACH STATEMENT EXECUTE FUNCTION sync.statement()', part::regclass);
    END IF;
    PERFORM sync.always(part);
END
$$;
COMMENT ON FUNCTION sync.arm_partition(pg_catalog.oid) IS 'Internal: makes the triggers of a new partition';
REVOKE ALL ON FUNCTION sync.arm_partition(pg_catalog.oid) FROM PUBLIC;

CREATE FUNCTION sync.always(part pg_catalog.oid) RETURNS pg_catalog.void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    trigger_name name;
BEGIN
    FOR trigger_name IN
        SELECT tgname FROM pg_trigger
         WHERE tgrelid = part AND tgname IN ('sync_capture', 'sync_statement') AND tgenabled = 'O'
    LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', part::regclass, trigger_name);
    END LOOP;
END
$$;
COMMENT ON FUNCTION sync.always(pg_catalog.oid) IS 'Internal: makes triggers fire for replicated changes, too';
REVOKE ALL ON FUNCTION sync.always(pg_catalog.oid) FROM PUBLIC;

-- Afterwards: what was known is void, and the shape is as it is now.
CREATE FUNCTION sync.begin_anew(root pg_catalog.oid) RETURNS pg_catalog.void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM sync.forget_table(root);
    PERFORM sync.mark_reset(root);
    UPDATE sync.change_log
       SET shape = sync.shape_of(root),
           leaves = sync.leaves_of(root)
     WHERE rel = root;
END
$$;
COMMENT ON FUNCTION sync.begin_anew(pg_catalog.oid) IS 'Internal: resets a table and notes its shape';
REVOKE ALL ON FUNCTION sync.begin_anew(pg_catalog.oid) FROM PUBLIC;

-- The functions below check in C that the caller owns the tables, and then run
-- their do_ namesake as the extension's owner, which may write sync.tracked.
CREATE FUNCTION sync.track(
    rel pg_catalog.regclass,
    domain pg_catalog.text DEFAULT NULL,
    scope pg_catalog.name[] DEFAULT '{}',
    key pg_catalog.name[] DEFAULT NULL,
    modified_at pg_catalog.name DEFAULT 'modified_at',
    deleted_at pg_catalog.name DEFAULT NULL,
    source pg_catalog.regclass DEFAULT NULL,
    autosubscribe pg_catalog.bool DEFAULT false
) RETURNS pg_catalog.void
    LANGUAGE C VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'sync_ext_administer';
COMMENT ON FUNCTION sync.track(pg_catalog.regclass, pg_catalog.text, pg_catalog.name[], pg_catalog.name[], pg_catalog.name, pg_catalog.name, pg_catalog.regclass, pg_catalog.bool)
    IS 'Tracks a table as a domain; the name of the table if none is given';

CREATE FUNCTION sync.do_track(
    rel pg_catalog.regclass,
    domain pg_catalog.text,
    scope pg_catalog.name[],
    key pg_catalog.name[],
    modified_at pg_catalog.name,
    deleted_at pg_catalog.name,
    source pg_catalog.regclass,
    autosubscribe pg_catalog.bool
) RETURNS pg_catalog.void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    SET jit = off
AS $$
#variable_conflict use_variable
DECLARE
    class pg_class;
    kind text;
    col name;
    attribute pg_attribute;
    other text;
    wants text := 'Only ordinary and partitioned tables that are logged can be tracked.';
BEGIN
    SELECT * INTO class FROM pg_class WHERE oid = rel;
    domain := coalesce(domain, class.relname);
    scope := coalesce(scope, '{}');
    modified_at := coalesce(modified_at, 'modified_at');
    autosubscribe := coalesce(autosubscribe, false);

    IF class.relkind NOT IN ('r', 'p') THEN
        kind := CASE class.relkind WHEN 'v' THEN 'a view' WHEN 'm' THEN 'a materialized view'
                     WHEN 'f' THEN 'a foreign table' WHEN 'i' THEN 'an index' WHEN 'I' THEN 'an index'
                     WHEN 'S' THEN 'a sequence' ELSE 'no table' END;
        RAISE EXCEPTION 'cannot track "%"', class.relname
            USING ERRCODE = 'wrong_object_type', DETAIL = format('%s is %s.', rel, kind),
                  HINT = wants || CASE WHEN class.relkind = 'v' THEN ' Track its base table, and give the view as source.' ELSE '' END;
    END IF;
    IF class.relpersistence <> 'p' THEN
        RAISE EXCEPTION 'cannot track "%"', class.relname
            USING ERRCODE = 'feature_not_supported',
                  DETAIL = format('%s is %s.', rel, CASE class.relpersistence WHEN 't' THEN 'a temporary table' ELSE 'an unlogged table, which a crash empties' END),
                  HINT = wants;
    END IF;
    IF class.relnamespace IN ('pg_catalog'::regnamespace, 'sync'::regnamespace) THEN
        RAISE EXCEPTION 'cannot track "%"', class.relname
            USING ERRCODE = 'feature_not_supported',
                  DETAIL = format('%s belongs to the system.', rel), HINT = wants;
    END IF;
    IF EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = rel) AND class.relkind = 'r' THEN
        RAISE EXCEPTION 'cannot track "%"', class.relname
            USING ERRCODE = 'feature_not_supported',
                  DETAIL = format('Other tables inherit from %s; its triggers do not fire for their rows.', rel),
                  HINT = 'Track the inheriting tables, or use declarative partitioning.';
    END IF;

    -- what a DROP that could not be followed left behind
    DELETE FROM sync.tracked t WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = t.rel);

    SELECT t.domain INTO other FROM sync.tracked t
     WHERE t.rel IN (SELECT relid FROM sync.partition_tree(rel::oid) AS tree(relid)
                     UNION SELECT relid FROM pg_partition_ancestors(rel) AS up(relid));
    IF FOUND THEN
        RAISE EXCEPTION '"%" is tracked already', class.relname
            USING ERRCODE = 'duplicate_object', DETAIL = format('It belongs to sync domain "%s".', other),
                  HINT = 'Call sync.untrack() first.';
    END IF;
    SELECT t.rel::text INTO other FROM sync.tracked t WHERE t.domain = domain;
    IF FOUND THEN
        RAISE EXCEPTION 'sync domain "%" exists already', domain
            USING ERRCODE = 'duplicate_object', DETAIL = format('It is table %s.', other),
                  HINT = 'Give another name as domain.';
    END IF;
    IF domain = 'sync.entries' THEN
        RAISE EXCEPTION 'sync domain "%" is reserved', domain
            USING ERRCODE = 'reserved_name', DETAIL = 'It is the domain of the entries of streams.',
                  HINT = 'Give another name as domain.';
    END IF;
    IF domain = '' OR octet_length(domain) > 255 THEN
        RAISE EXCEPTION 'invalid name of a sync domain'
            USING ERRCODE = 'invalid_parameter_value', DETAIL = format('It is "%s".', left(domain, 300)),
                  HINT = 'A domain''s name has 1 to 255 bytes.';
    END IF;

    -- the key
    IF key IS NULL THEN
        SELECT array_agg(a.attname ORDER BY k.ord) INTO key
          FROM pg_index i, unnest(i.indkey) WITH ORDINALITY AS k(number, ord)
          JOIN pg_attribute a ON a.attrelid = rel AND a.attnum = k.number
         WHERE i.indrelid = rel AND i.indisprimary AND k.ord <= i.indnkeyatts;
        IF key IS NULL THEN
            RAISE EXCEPTION 'table "%" has no primary key', class.relname
                USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = 'Changes are told by key.',
                      HINT = 'Add a primary key, or name the columns of a unique index as key, all of them NOT NULL.';
        END IF;
    END IF;
    FOREACH col IN ARRAY key || scope || CASE WHEN deleted_at IS NULL THEN '{}'::name[] ELSE ARRAY[deleted_at] END LOOP
        IF sync.column_numbers(rel::oid, ARRAY[col]) IS NULL THEN
            RAISE EXCEPTION 'column "%" of table "%" does not exist', col, class.relname
                USING ERRCODE = 'undefined_column',
                      DETAIL = CASE WHEN col = ANY (key) THEN 'It is named in key.' WHEN col = ANY (scope) THEN 'It is named in scope.' ELSE 'It is named as deleted_at.' END,
                      HINT = (SELECT 'The table has: ' || string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) || '.'
                                FROM pg_attribute a WHERE a.attrelid = rel AND a.attnum > 0 AND NOT a.attisdropped);
        END IF;
    END LOOP;
    IF cardinality(key) = 0
       OR EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = rel AND a.attname = ANY (key) AND NOT a.attnotnull)
       OR NOT EXISTS (
            SELECT FROM pg_index i
             WHERE i.indrelid = rel AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
               AND i.indnkeyatts = cardinality(key)
               AND NOT EXISTS (SELECT FROM unnest(i.indkey::int2[], i.indcollation::oid[]) AS u(number, collation_oid)
                                 JOIN pg_attribute a ON a.attrelid = rel AND a.attnum = u.number
                                WHERE u.collation_oid <> a.attcollation)
               AND (SELECT array_agg(k.number ORDER BY k.number) FROM unnest(i.indkey[0:i.indnkeyatts - 1]) AS k(number))
                   = (SELECT array_agg(k.number ORDER BY k.number) FROM unnest(sync.column_numbers(rel::oid, key)) AS k(number))) THEN
        RAISE EXCEPTION 'the columns are no key of table "%"', class.relname
            USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = format('They are %s.', key),
                  HINT = 'They must be NOT NULL, and have a unique index on exactly them.';
    END IF;

    -- scope
    IF cardinality(scope) > 8 OR array_ndims(scope) > 1 OR cardinality(scope) <> (SELECT count(DISTINCT s) FROM unnest(scope) AS s) THEN
        RAISE EXCEPTION 'invalid scope'
            USING ERRCODE = 'invalid_parameter_value', DETAIL = format('It is %s.', scope),
                  HINT = 'Give up to 8 columns, each once.';
    END IF;
    FOREACH col IN ARRAY scope LOOP
        SELECT * INTO attribute FROM pg_attribute a WHERE a.attrelid = rel AND a.attname = col;
        IF NOT EXISTS (SELECT FROM pg_opclass o JOIN pg_am m ON m.oid = o.opcmethod AND m.amname = 'btree'
                         JOIN pg_type t ON t.oid = attribute.atttypid
                        WHERE o.opcdefault
                          AND (o.opcintype IN (t.oid, t.typbasetype)
                               OR (o.opcintype = 'anyarray'::regtype AND t.typcategory = 'A')
                               OR (o.opcintype = 'anyenum'::regtype AND t.typtype = 'e')
                               OR (o.opcintype = 'anyrange'::regtype AND t.typtype = 'r')
                               OR (o.opcintype = 'record'::regtype AND t.typtype = 'c')
                               OR (t.typtype = 'd')
                               OR EXISTS (SELECT FROM pg_cast ca WHERE ca.castsource = t.oid AND ca.casttarget = o.opcintype AND ca.castmethod = 'b' AND ca.castcontext = 'i'))) THEN
            RAISE EXCEPTION 'column "%" cannot be a scope', col
                USING ERRCODE = 'datatype_mismatch', DETAIL = format('Type %s has no order, so it cannot be indexed.', format_type(attribute.atttypid, attribute.atttypmod)),
                      HINT = 'Scopes are few and short: a tenant, a project, an owner.';
        END IF;
        IF attribute.attgenerated = 'v' THEN
            RAISE EXCEPTION 'column "%" cannot be a scope', col
                USING ERRCODE = 'feature_not_supported', DETAIL = 'It is a virtual generated column, which triggers cannot read.',
                      HINT = 'Make it a stored one.';
        END IF;
    END LOOP;

    -- modified_at
    SELECT * INTO attribute FROM pg_attribute a
     WHERE a.attrelid = rel AND a.attname = modified_at AND a.attnum > 0 AND NOT a.attisdropped;
    IF NOT FOUND THEN
        EXECUTE format('ALTER TABLE %s ADD COLUMN %I pg_catalog.timestamptz NOT NULL '
                       'DEFAULT pg_catalog.date_trunc(''milliseconds'', pg_catalog.now())', rel, modified_at);
    ELSIF attribute.atttypid <> 'timestamptz'::regtype OR attribute.attgenerated <> ''
          OR modified_at = ANY (key || scope) THEN
        RAISE EXCEPTION 'column "%" cannot hold the time of the last change', modified_at
            USING ERRCODE = 'datatype_mismatch',
                  DETAIL = CASE WHEN modified_at = ANY (key || scope) THEN 'It is a key or scope column.'
                                WHEN attribute.attgenerated <> '' THEN 'It is a generated column.'
                                ELSE format('It is of type %s.', format_type(attribute.atttypid, attribute.atttypmod)) END,
                  HINT = 'It must be timestamptz; or name another column as modified_at, which is added if it does not exist.';
    END IF;

    -- deleted_at
    IF deleted_at IS NOT NULL THEN
        SELECT * INTO attribute FROM pg_attribute a WHERE a.attrelid = rel AND a.attname = deleted_at;
        IF attribute.attnotnull OR attribute.atttypid NOT IN ('timestamptz'::regtype, 'timestamp'::regtype, 'date'::regtype) THEN
            RAISE EXCEPTION 'column "%" cannot mark deleted rows', deleted_at
                USING ERRCODE = 'datatype_mismatch',
                      DETAIL = CASE WHEN attribute.attnotnull THEN 'It is NOT NULL, so every row would be deleted.'
                                    ELSE format('It is of type %s.', format_type(attribute.atttypid, attribute.atttypmod)) END,
                      HINT = 'It must be a time that is null as long as the row is not deleted.';
        END IF;
    END IF;

    -- the source view
    IF source IS NOT NULL THEN
        IF (SELECT relkind FROM pg_class WHERE oid = source) <> 'v' THEN
            RAISE EXCEPTION 'source "%" is not a view', source
                USING ERRCODE = 'wrong_object_type', DETAIL = 'A source gives the complete document of a key.',
                      HINT = 'Name a view that has the key columns.';
        END IF;
        IF sync.column_numbers(source::oid, key) IS NULL THEN
            RAISE EXCEPTION 'source view "%" lacks a key column', source
                USING ERRCODE = 'undefined_column', DETAIL = format('The key is %s.', key),
                      HINT = 'The view must show every key column under its name.';
        END IF;
        IF current_setting('server_version_num')::int4 >= 150000
           AND NOT coalesce((SELECT o.option_value::bool FROM pg_class c, pg_options_to_table(c.reloptions) o
                              WHERE c.oid = source AND o.option_name = 'security_invoker'), false) THEN
            RAISE EXCEPTION 'source view "%" must be security_invoker', source
                USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = 'Otherwise it would show rows that the caller may not read.',
                      HINT = format('ALTER VIEW %s SET (security_invoker = true);', source);
        END IF;
    END IF;

    INSERT INTO sync.tracked (rel, domain, key, scope, modified_at, deleted_at, source, autosubscribe)
    VALUES (rel, domain, key, scope, modified_at, deleted_at, source, autosubscribe);
    PERFORM sync.arm(rel::oid);
    PERFORM sync.begin_anew(rel::oid);
    PERFORM sync.follow_access();
END
$$;
COMMENT ON FUNCTION sync.do_track(pg_catalog.regclass, pg_catalog.text, pg_catalog.name[], pg_catalog.name[], pg_catalog.name, pg_catalog.name, pg_catalog.regclass, pg_catalog.bool)
    IS 'Internal: what sync.track() does once the caller''s right is checked';
REVOKE ALL ON FUNCTION sync.do_track(pg_catalog.regclass, pg_catalog.text, pg_catalog.name[], pg_catalog.name[], pg_catalog.name, pg_catalog.name, pg_catalog.regclass, pg_catalog.bool) FROM PUBLIC;

CREATE FUNCTION sync.untrack(rel pg_catalog.regclass) RETURNS pg_catalog.void
    LANGUAGE C VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'sync_ext_administer';
COMMENT ON FUNCTION sync.untrack(pg_catalog.regclass) IS 'Stops tracking a table; its modified_at stays';

CREATE FUNCTION sync.do_untrack(rel pg_catalog.regclass) RETURNS pg_catalog.void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    SET jit = off
AS $$
#variable_conflict use_variable
DECLARE
    details oid[] := ARRAY(SELECT c.detail FROM sync.cascades c WHERE c.master = rel);
    detail oid;
BEGIN
    DELETE FROM sync.tracked t WHERE t.rel = rel;
    IF NOT FOUND THEN
        RAISE EXCEPTION '"%" is not tracked', rel
            USING ERRCODE = 'undefined_object', DETAIL = 'sync.tracked has no row for it.',
                  HINT = 'sync.tracked lists the tracked tables.';
    END IF;
    DELETE FROM sync.cascades c WHERE c.master = rel;
    DELETE FROM sync.reset_marker m WHERE m.rel = rel;
    PERFORM sync.arm(rel::oid);
    PERFORM sync.forget_table(rel::oid);
    FOREACH detail IN ARRAY details LOOP
        PERFORM sync.arm(detail::oid);
        PERFORM sync.forget_table(detail::oid);
    END LOOP;
    PERFORM sync.follow_access();
END
$$;
COMMENT ON FUNCTION sync.do_untrack(pg_catalog.regclass) IS 'Internal: what sync.untrack() does once the caller''s right is checked';
REVOKE ALL ON FUNCTION sync.do_untrack(pg_catalog.regclass) FROM PUBLIC;

CREATE FUNCTION sync.cascade(detail pg_catalog.regclass, master pg_catalog.regclass, fk pg_catalog.name[] DEFAULT NULL) RETURNS pg_catalog.void
    LANGUAGE C VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'sync_ext_administer';
COMMENT ON FUNCTION sync.cascade(pg_catalog.regclass, pg_catalog.regclass, pg_catalog.name[]) IS 'From now on, a change of a detail row counts as a change of its master row';

CREATE FUNCTION sync.do_cascade(detail pg_catalog.regclass, master pg_catalog.regclass, fk pg_catalog.name[]) RETURNS pg_catalog.void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    SET jit = off
AS $$
#variable_conflict use_variable
DECLARE
    class pg_class;
    refs name[];
    key pg_constraint;
    candidates int4 := 0;
BEGIN
    SELECT t.key INTO refs FROM sync.tracked t WHERE t.rel = master;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'master "%" is not tracked', master
            USING ERRCODE = 'undefined_object', DETAIL = 'Changes of details are logged as changes of the master.',
                  HINT = format('Call sync.track(%L) first.', master);
    END IF;
    SELECT * INTO class FROM pg_class WHERE oid = detail;
    IF class.relkind NOT IN ('r', 'p') OR class.relpersistence = 't' OR class.relispartition THEN
        RAISE EXCEPTION 'detail "%" cannot cascade', detail
            USING ERRCODE = 'wrong_object_type',
                  DETAIL = CASE WHEN class.relispartition THEN 'It is a partition.' ELSE 'It is no ordinary or partitioned table, or a temporary one.' END,
                  HINT = 'Name the table whose rows refer to the master.';
    END IF;
    IF fk IS NOT NULL AND (sync.column_numbers(detail::oid, fk) IS NULL OR cardinality(fk) = 0) THEN
        RAISE EXCEPTION 'detail "%" lacks a column of fk', detail
            USING ERRCODE = 'undefined_column', DETAIL = format('fk is %s.', fk),
                  HINT = 'Name the columns of the detail that refer to the master.';
    END IF;

    FOR key IN
        SELECT o.* FROM pg_constraint o
         WHERE o.conrelid = detail AND o.confrelid = master AND o.contype = 'f'
           AND (fk IS NULL OR (sync.column_names(detail::oid, o.conkey) @> fk AND fk @> sync.column_names(detail::oid, o.conkey)))
    LOOP
        candidates := candidates + 1;
        EXIT WHEN candidates > 1;
    END LOOP;
    IF fk IS NULL AND candidates <> 1 THEN
        RAISE EXCEPTION 'cannot tell how "%" refers to "%"', detail, master
            USING ERRCODE = 'undefined_object',
                  DETAIL = CASE candidates WHEN 0 THEN 'There is no foreign key between them.' ELSE 'There is more than one foreign key between them.' END,
                  HINT = 'Name the columns as fk.';
    END IF;
    IF candidates > 0 THEN
        SELECT * INTO key FROM pg_constraint o
         WHERE o.conrelid = detail AND o.confrelid = master AND o.contype = 'f'
           AND (fk IS NULL OR (sync.column_names(detail::oid, o.conkey) @> fk AND fk @> sync.column_names(detail::oid, o.conkey)))
         ORDER BY o.oid LIMIT 1;
        fk := sync.column_names(detail::oid, key.conkey);
        refs := sync.column_names(master::oid, key.confkey);
    ELSIF cardinality(fk) <> cardinality(refs) THEN
        RAISE EXCEPTION 'fk does not match the key of "%"', master
            USING ERRCODE = 'invalid_parameter_value', DETAIL = format('fk is %s, the key %s.', fk, refs),
                  HINT = 'Without a foreign key, fk must name a column for each key column of the master.';
    ELSIF EXISTS (
        SELECT FROM unnest(fk, refs) AS pair(f, r)
          JOIN pg_attribute fa ON fa.attrelid = detail AND fa.attname = pair.f
          JOIN pg_attribute ra ON ra.attrelid = master AND ra.attname = pair.r
         WHERE fa.atttypid <> ra.atttypid
           AND NOT EXISTS (SELECT FROM pg_amop o JOIN pg_am m ON m.oid = o.amopmethod AND m.amname = 'btree'
                            WHERE o.amopstrategy = 3 AND o.amoplefttype = ra.atttypid AND o.amoprighttype = fa.atttypid)
           AND NOT EXISTS (SELECT FROM pg_cast c WHERE c.castsource = fa.atttypid AND c.casttarget = ra.atttypid AND c.castcontext = 'i')) THEN
        RAISE EXCEPTION 'the types of fk and of the key of "%" do not match', master
            USING ERRCODE = 'datatype_mismatch', DETAIL = format('fk is %s, the key %s.', fk, refs),
                  HINT = 'Give the columns in the order of the master''s key.';
    END IF;
    IF EXISTS (SELECT FROM sync.cascades c WHERE c.detail = detail AND c.master = master AND c.fk = fk) THEN
        RAISE EXCEPTION '"%" cascades to "%" already', detail, master
            USING ERRCODE = 'duplicate_object', DETAIL = format('By %s.', fk),
                  HINT = 'Call sync.uncascade() first.';
    END IF;

    INSERT INTO sync.cascades (detail, master, fk, refs) VALUES (detail, master, fk, refs);
    PERFORM sync.arm(detail::oid);
    PERFORM sync.forget_table(detail::oid);
    PERFORM sync.mark_reset(master::oid);
END
$$;
COMMENT ON FUNCTION sync.do_cascade(pg_catalog.regclass, pg_catalog.regclass, pg_catalog.name[]) IS 'Internal: what sync.cascade() does once the caller''s right is checked';
REVOKE ALL ON FUNCTION sync.do_cascade(pg_catalog.regclass, pg_catalog.regclass, pg_catalog.name[]) FROM PUBLIC;

CREATE FUNCTION sync.uncascade(detail pg_catalog.regclass, master pg_catalog.regclass) RETURNS pg_catalog.void
    LANGUAGE C VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'sync_ext_administer';
COMMENT ON FUNCTION sync.uncascade(pg_catalog.regclass, pg_catalog.regclass) IS 'Changes of details no longer count as changes of masters';

CREATE FUNCTION sync.do_uncascade(detail pg_catalog.regclass, master pg_catalog.regclass) RETURNS pg_catalog.void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    SET jit = off
AS $$
#variable_conflict use_variable
BEGIN
    DELETE FROM sync.cascades c WHERE c.detail = detail AND c.master = master;
    IF NOT FOUND THEN
        RAISE EXCEPTION '"%" does not cascade to "%"', detail, master
            USING ERRCODE = 'undefined_object', DETAIL = 'sync.cascades has no row for them.',
                  HINT = 'sync.cascades lists what cascades.';
    END IF;
    PERFORM sync.arm(detail::oid);
    PERFORM sync.forget_table(detail::oid);
    PERFORM sync.mark_reset(master::oid);
END
$$;
COMMENT ON FUNCTION sync.do_uncascade(pg_catalog.regclass, pg_catalog.regclass) IS 'Internal: what sync.uncascade() does once the caller''s right is checked';
REVOKE ALL ON FUNCTION sync.do_uncascade(pg_catalog.regclass, pg_catalog.regclass) FROM PUBLIC;

CREATE FUNCTION sync.reset(domain pg_catalog.text) RETURNS pg_catalog.void
    LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'sync_ext_reset';
COMMENT ON FUNCTION sync.reset(pg_catalog.text) IS 'Makes every client load the domain anew';

CREATE FUNCTION sync.touch(domain pg_catalog.text, key pg_catalog.jsonb) RETURNS pg_catalog.timestamptz
    LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'sync_ext_touch';
COMMENT ON FUNCTION sync.touch(pg_catalog.text, pg_catalog.jsonb) IS 'Sends a row again, as if it had changed; returns its new modified_at';

-- ---------------------------------------------------------------------------
-- Following DDL
-- ---------------------------------------------------------------------------

-- Brings what we know of a table in line with what it has become.
CREATE FUNCTION sync.follow(root pg_catalog.oid) RETURNS pg_catalog.void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    t sync.tracked;
    l sync.change_log;
    c sync.cascades;
    now_shape jsonb;
    now_leaves oid[];
    part oid;
    has_rows bool;
    void bool := false;
    kept_scope int2[];
BEGIN
    FOR c IN SELECT * FROM sync.cascades x WHERE x.detail = root OR x.master = root LOOP
        IF sync.column_names(c.detail::oid, c.fk_atts) IS NULL OR sync.column_names(c.master::oid, c.ref_atts) IS NULL THEN
            RAISE WARNING 'changes of % no longer count as changes of %', c.detail, c.master
                USING DETAIL = 'A column by which it referred to the master was dropped.';
            DELETE FROM sync.cascades x WHERE x.detail = c.detail AND x.master = c.master AND x.fk = c.fk;
            PERFORM sync.mark_reset(c.master::oid);
            PERFORM sync.forget_table(c.detail::oid);
        ELSE
            UPDATE sync.cascades x
               SET fk = sync.column_names(c.detail::oid, c.fk_atts), refs = sync.column_names(c.master::oid, c.ref_atts)
             WHERE x.detail = c.detail AND x.master = c.master AND x.fk = c.fk
               AND (x.fk <> sync.column_names(c.detail::oid, c.fk_atts) OR x.refs <> sync.column_names(c.master::oid, c.ref_atts));
        END IF;
    END LOOP;
    now_leaves := sync.leaves_of(root);
    FOR part IN
        SELECT DISTINCT p.relid FROM sync.cascades x, unnest(now_leaves) AS p(relid)
         WHERE x.detail = root AND NOT p.relid = ANY (x.leaves)
    LOOP
        PERFORM sync.arm_partition(part);
    END LOOP;
    UPDATE sync.cascades x SET leaves = now_leaves WHERE x.detail = root AND x.leaves <> now_leaves;

    SELECT * INTO t FROM sync.tracked x WHERE x.rel = root;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    SELECT * INTO l FROM sync.change_log x WHERE x.rel = root;
    IF NOT FOUND THEN
        -- its row was restored while triggers were disabled
        PERFORM sync.create_log(root, sync.column_numbers(root, t.key), sync.column_numbers(root, t.scope));
        PERFORM sync.begin_anew(root);
        SELECT * INTO l FROM sync.change_log x WHERE x.rel = root;
    END IF;
    -- ENABLE TRIGGER ALL makes them ordinary ones
    FOR part IN
        SELECT DISTINCT g.tgrelid FROM pg_trigger g
         WHERE g.tgrelid IN (SELECT relid FROM sync.partition_tree(root) AS tree(relid))
           AND g.tgname IN ('sync_capture', 'sync_statement') AND g.tgenabled = 'O' AND root = ANY (l.leaves)
    LOOP
        PERFORM sync.always(part);
    END LOOP;

    -- what tracking cannot do without
    IF sync.column_names(root, t.key_atts || t.modified_att) IS NULL
       OR (SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = root AND a.attnum = t.modified_att) <> 'timestamptz'::regtype THEN
        RAISE WARNING '% is no longer tracked', t.rel
            USING DETAIL = 'A key column, or its modified_at, was dropped, or modified_at is no timestamptz any more.',
                  HINT = 'Call sync.track() again.';
        PERFORM sync.do_untrack(t.rel);
        RETURN;
    END IF;
    IF t.deleted_att IS NOT NULL AND sync.column_names(root, ARRAY[t.deleted_att]) IS NULL THEN
        RAISE WARNING '% has no soft deletes any more', t.rel
            USING DETAIL = format('Column "%s" was dropped.', t.deleted_at);
        UPDATE sync.tracked x SET deleted_at = NULL, deleted_att = NULL WHERE x.rel = root;
        void := true;
    END IF;

    now_shape := sync.shape_of(root);
    kept_scope := ARRAY(SELECT s.number FROM unnest(t.scope_atts) WITH ORDINALITY AS s(number, ord)
                         WHERE sync.column_names(root, ARRAY[s.number]) IS NOT NULL ORDER BY s.ord);
    IF kept_scope <> t.scope_atts THEN
        RAISE WARNING 'the scope of % lost a column', t.rel
            USING DETAIL = 'It was dropped.', HINT = 'Clients whose filters name it will get an error.';
    END IF;
    IF kept_scope <> t.scope_atts
       OR EXISTS (SELECT FROM unnest(t.key_atts || kept_scope) AS k(number)
                   WHERE l.shape #> ARRAY['columns', k.number::text, 'type'] <> now_shape #> ARRAY['columns', k.number::text, 'type']) THEN
        -- the log is typed like the table
        PERFORM sync.drop_log(root);
        PERFORM sync.create_log(root, t.key_atts, kept_scope);
        void := true;
    END IF;
    UPDATE sync.tracked x
       SET key = sync.column_names(root, t.key_atts), scope = sync.column_names(root, kept_scope), scope_atts = kept_scope,
           modified_at = (sync.column_names(root, ARRAY[t.modified_att]))[1],
           deleted_at = CASE WHEN x.deleted_att IS NOT NULL THEN (sync.column_names(root, ARRAY[x.deleted_att]))[1] END
     WHERE x.rel = root
       AND (x.key, x.scope, x.modified_at, x.deleted_at) IS DISTINCT FROM
           (sync.column_names(root, t.key_atts), sync.column_names(root, kept_scope),
            (sync.column_names(root, ARRAY[t.modified_att]))[1],
            CASE WHEN x.deleted_att IS NOT NULL THEN (sync.column_names(root, ARRAY[x.deleted_att]))[1] END);

    -- what tracking refuses, and cannot forbid
    IF (SELECT x.relpersistence FROM pg_class x WHERE x.oid = root) <> 'p' THEN
        RAISE WARNING '% is no longer logged', t.rel
            USING DETAIL = 'A crash would empty it unseen.', HINT = 'Set it LOGGED again, or call sync.untrack().';
        void := true;
    ELSIF EXISTS (SELECT FROM pg_inherits i JOIN pg_class x ON x.oid = i.inhrelid AND NOT x.relispartition WHERE i.inhparent = root) THEN
        RAISE WARNING 'changes of tables that inherit from % go unseen', t.rel
            USING DETAIL = 'Its triggers do not fire for their rows.', HINT = 'Use declarative partitioning, or call sync.untrack().';
        void := true;
    END IF;

    -- partitions that came with rows, or went with them
    IF now_leaves <> l.leaves THEN
        FOR part IN
            SELECT p.relid FROM unnest(now_leaves || l.leaves) AS p(relid)
             GROUP BY p.relid HAVING count(*) = 1
        LOOP
            PERFORM sync.forget_table(part);
            IF NOT EXISTS (SELECT FROM pg_class x WHERE x.oid = part) THEN
                void := true;
                CONTINUE;
            END IF;
            IF part = ANY (now_leaves) THEN
                PERFORM sync.arm_partition(part);
            ELSIF (SELECT x.relkind IN ('r', 'p') FROM pg_class x WHERE x.oid = part) THEN
                EXECUTE format('DROP TRIGGER IF EXISTS sync_statement ON %s', part::regclass);
            END IF;
            -- no query, for we are a superuser here, and what was a partition
            -- may have become anything by now
            SELECT x.relkind <> 'p' AND (x.relkind <> 'r' OR pg_relation_size(x.oid) > 0) INTO has_rows
              FROM pg_class x WHERE x.oid = part;
            void := void OR has_rows;
        END LOOP;
        UPDATE sync.change_log x SET leaves = now_leaves WHERE x.rel = root;
    END IF;

    -- columns whose contents, names or types the rows show differently now
    now_shape := sync.shape_of(root);
    IF now_shape <> l.shape THEN
        void := void
            OR EXISTS (SELECT FROM jsonb_each_text(l.shape -> 'triggers') o
                         FULL JOIN jsonb_each_text(now_shape -> 'triggers') n USING (key)
                        WHERE o.value IS DISTINCT FROM n.value
                          AND split_part(key, ' ', 1)::oid = ANY (now_leaves)
                          AND split_part(key, ' ', 1)::oid = ANY (l.leaves))
            OR EXISTS (SELECT FROM jsonb_each(l.shape -> 'columns') o(number, col)
                        LEFT JOIN jsonb_each(now_shape -> 'columns') n(number, col) USING (number)
                        WHERE n.col IS NULL OR n.col - 'filled' <> o.col - 'filled')
            OR EXISTS (SELECT FROM jsonb_each(now_shape -> 'columns') n(number, col)
                        LEFT JOIN jsonb_each(l.shape -> 'columns') o(number, col) USING (number)
                        WHERE o.col IS NULL AND (n.col ->> 'filled')::bool);
        IF EXISTS (SELECT FROM jsonb_each_text(now_shape -> 'triggers') g WHERE g.value = 'D') THEN
            RAISE WARNING 'changes of % go unseen', t.rel
                USING DETAIL = 'A trigger of sync_ext is disabled.', HINT = 'Enable it again; clients will load the domain anew.';
        END IF;
    END IF;
    IF void THEN
        PERFORM sync.begin_anew(root);
    ELSE
        UPDATE sync.change_log x SET shape = now_shape WHERE x.rel = root AND x.shape <> now_shape;
        PERFORM sync.forget_table(root);
    END IF;
END
$$;
COMMENT ON FUNCTION sync.follow(pg_catalog.oid) IS 'Internal: follows DDL on a table';
REVOKE ALL ON FUNCTION sync.follow(pg_catalog.oid) FROM PUBLIC;

-- Whatever goes wrong here must not break the user's migration: it is said,
-- and the domain is reset, since what happened to it could not be followed.
CREATE FUNCTION sync.follow_ddl() RETURNS pg_catalog.event_trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    -- a migration that does not want to wait must not leave us behind
    SET lock_timeout = 0
    SET jit = off
AS $$
DECLARE
    root oid;
BEGIN
    FOR root IN
        SELECT DISTINCT known.rel
          FROM pg_event_trigger_ddl_commands() AS d
          CROSS JOIN LATERAL (
                SELECT d.objid
                UNION SELECT p.relid FROM pg_partition_ancestors(d.objid::regclass) AS p(relid)
                UNION SELECT i.indrelid FROM pg_index i WHERE i.indexrelid = d.objid
                UNION SELECT i.inhparent FROM pg_inherits i WHERE i.inhrelid = d.objid
                UNION SELECT g.tgrelid FROM pg_trigger g WHERE d.classid = 'pg_trigger'::regclass AND g.oid = d.objid
               ) AS touched(relid)
          JOIN (SELECT t.rel, t.rel AS at FROM sync.tracked t
                UNION SELECT c.detail, c.detail FROM sync.cascades c
                UNION SELECT t.rel, t.source FROM sync.tracked t WHERE t.source IS NOT NULL
                UNION SELECT t.rel, 'sync.tracked'::regclass FROM sync.tracked t
                       WHERE NOT EXISTS (SELECT FROM sync.change_log l WHERE l.rel = t.rel)
               ) AS known(rel, at) ON known.at = touched.relid
         WHERE d.classid IN ('pg_class'::regclass, 'pg_trigger'::regclass)
    LOOP
        BEGIN
            PERFORM sync.follow(root);
        EXCEPTION WHEN OTHERS THEN
            RAISE WARNING 'could not follow DDL on %: %', root::regclass, SQLERRM
                USING HINT = 'Call sync.untrack() and sync.track() again.';
            PERFORM sync.mark_reset(root);
        END;
    END LOOP;

    -- a type whose values read otherwise now: an enum's label, an attribute
    IF TG_TAG = 'ALTER TYPE' THEN
        FOR root IN
            SELECT DISTINCT t.rel
              FROM pg_event_trigger_ddl_commands() AS d
              JOIN sync.tracked t ON EXISTS (
                    WITH RECURSIVE used(typ) AS (
                        SELECT a.atttypid FROM pg_attribute a
                         WHERE a.attrelid IN (t.rel, t.source) AND a.attnum > 0 AND NOT a.attisdropped
                        UNION
                        SELECT x.typ
                          FROM used
                          JOIN pg_type y ON y.oid = used.typ
                         CROSS JOIN LATERAL (
                                SELECT y.typelem
                                UNION SELECT y.typbasetype
                                UNION SELECT r.rngsubtype FROM pg_range r WHERE r.rngtypid = y.oid
                                UNION SELECT a.atttypid FROM pg_attribute a
                                       WHERE a.attrelid = y.typrelid AND y.typrelid <> 0
                                         AND a.attnum > 0 AND NOT a.attisdropped
                               ) AS x(typ)
                         WHERE x.typ <> 0)
                    SELECT FROM used JOIN pg_type y ON y.oid = used.typ
                     WHERE (d.classid = 'pg_type'::regclass AND y.oid = d.objid)
                        OR (d.classid = 'pg_class'::regclass AND y.typrelid = d.objid))
             WHERE d.command_tag = 'ALTER TYPE'
        LOOP
            PERFORM sync.mark_reset(root);
        END LOOP;
    END IF;

    -- a view that says something else of every key, or of every user
    FOR root IN
        SELECT DISTINCT t.rel
          FROM pg_event_trigger_ddl_commands() AS d
          JOIN (SELECT x.rel, x.source FROM sync.tracked x UNION ALL SELECT a.rel, a.via FROM sync.access a WHERE a.via <> ALL (a.tables)) AS t(rel, shown)
            ON (d.classid = 'pg_class'::regclass AND t.shown = d.objid)
            OR (d.classid = 'pg_rewrite'::regclass
                AND t.shown = (SELECT w.ev_class FROM pg_rewrite w WHERE w.oid = d.objid))
    LOOP
        PERFORM sync.mark_reset(root);
    END LOOP;
    PERFORM sync.follow_access();
END
$$;
COMMENT ON FUNCTION sync.follow_ddl() IS 'Event trigger: follows DDL on tracked tables';
REVOKE ALL ON FUNCTION sync.follow_ddl() FROM PUBLIC;

CREATE FUNCTION sync.follow_drop() RETURNS pg_catalog.event_trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET jit = off
    SET lock_timeout = 0
AS $$
DECLARE
    dropped oid;
    other oid;
    g record;
    lost oid;
BEGIN
    -- without a trigger, changes would go unseen in silence
    FOR g IN
        SELECT DISTINCT roots.rel, roots.is_tracked
          FROM pg_event_trigger_dropped_objects() AS d
          JOIN (SELECT t.rel::oid AS rel, true AS is_tracked, tree.relid
                  FROM sync.tracked t CROSS JOIN LATERAL sync.partition_tree(t.rel::oid) AS tree(relid)
                UNION ALL
                SELECT x.detail, false, tree.relid
                  FROM sync.cascades x CROSS JOIN LATERAL sync.partition_tree(x.detail::oid) AS tree(relid)
               ) AS roots ON roots.relid = to_regclass(format('%I.%I', d.address_names[1], d.address_names[2]))
         WHERE d.classid = 'pg_trigger'::regclass
           AND (d.address_names[3] IN ('sync_capture', 'sync_statement')
                OR (d.address_names[3] = 'zz_sync_stamp' AND roots.is_tracked))
    LOOP
        IF g.is_tracked THEN
            RAISE WARNING '% is no longer tracked', g.rel::regclass
                USING DETAIL = 'A trigger of sync_ext was dropped.', HINT = 'Call sync.track() again.';
            PERFORM sync.do_untrack(g.rel);
        ELSE
            RAISE WARNING 'changes of % no longer count as changes of its masters', g.rel::regclass
                USING DETAIL = 'A trigger of sync_ext was dropped.', HINT = 'Call sync.cascade() again.';
            FOR lost IN DELETE FROM sync.cascades x WHERE x.detail = g.rel RETURNING x.master LOOP
                PERFORM sync.mark_reset(lost);
            END LOOP;
            PERFORM sync.arm(g.rel);
            PERFORM sync.forget_table(g.rel);
        END IF;
    END LOOP;

    -- columns that went with their type
    FOR other IN
        SELECT DISTINCT k.rel
          FROM pg_event_trigger_dropped_objects() AS d
          JOIN (SELECT t.rel::oid AS rel FROM sync.tracked t UNION SELECT x.detail FROM sync.cascades x) AS k
            ON d.classid = 'pg_class'::regclass AND d.objsubid > 0 AND d.objid = k.rel
          JOIN pg_class p ON p.oid = k.rel
    LOOP
        PERFORM sync.follow(other);
    END LOOP;

    FOR dropped IN
        SELECT d.objid FROM pg_event_trigger_dropped_objects() AS d
         WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0
    LOOP
        -- documents of its masters lost what it said of them
        FOR other IN SELECT c.master FROM sync.cascades c
                      WHERE c.detail = dropped AND EXISTS (SELECT FROM pg_class x WHERE x.oid = c.master)
        LOOP
            PERFORM sync.mark_reset(other);
        END LOOP;
        FOR other IN SELECT c.detail FROM sync.cascades c
                      WHERE c.master = dropped AND EXISTS (SELECT FROM pg_class x WHERE x.oid = c.detail)
        LOOP
            DELETE FROM sync.cascades c WHERE c.master = dropped AND c.detail = other;
            PERFORM sync.arm(other);
            PERFORM sync.forget_table(other);
        END LOOP;
        DELETE FROM sync.cascades c WHERE c.detail = dropped OR c.master = dropped;
        DELETE FROM sync.reset_marker m WHERE m.rel = dropped;
        DELETE FROM sync.tracked t WHERE t.rel = dropped;
        -- what was pushed to it: elsewhere a dump's reader may find another table under its number
        IF FOUND THEN
            DELETE FROM sync.local_id l WHERE l.rel = dropped;
            DELETE FROM sync.mutation m WHERE m.rel = dropped;
        END IF;
        FOR other IN SELECT t.rel FROM sync.tracked t WHERE t.source = dropped LOOP
            RAISE WARNING '% has no source view any more', other::regclass
                USING DETAIL = 'The view was dropped; its rows are sent as they are.';
            UPDATE sync.tracked t SET source = NULL WHERE t.rel = other;
            PERFORM sync.begin_anew(other);
        END LOOP;
        -- a partition that was dropped took its rows along
        FOR other IN SELECT l.rel FROM sync.change_log l WHERE dropped = ANY (l.leaves) AND l.rel <> dropped LOOP
            UPDATE sync.change_log l SET leaves = array_remove(l.leaves, dropped) WHERE l.rel = other;
            PERFORM sync.mark_reset(other);
        END LOOP;
    END LOOP;
    PERFORM sync.follow_access();
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'could not follow DROP: %', SQLERRM;
END
$$;
COMMENT ON FUNCTION sync.follow_drop() IS 'Event trigger: forgets tracked tables that are dropped';
REVOKE ALL ON FUNCTION sync.follow_drop() FROM PUBLIC;

-- Whatever rewrites rows may change what they say.
CREATE FUNCTION sync.follow_rewrite() RETURNS pg_catalog.event_trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET jit = off
    SET lock_timeout = 0
AS $$
DECLARE
    root oid;
    rewritten oid := pg_event_trigger_table_rewrite_oid();
BEGIN
    FOR root IN
        SELECT t.rel FROM sync.tracked t
         WHERE t.rel IN (SELECT rewritten UNION SELECT p.relid FROM pg_partition_ancestors(rewritten) AS p(relid))
        UNION
        SELECT c.master FROM sync.cascades c
         WHERE c.detail IN (SELECT rewritten UNION SELECT p.relid FROM pg_partition_ancestors(rewritten) AS p(relid))
    LOOP
        PERFORM sync.mark_reset(root);
    END LOOP;
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'could not follow a rewrite: %', SQLERRM;
END
$$;
COMMENT ON FUNCTION sync.follow_rewrite() IS 'Event trigger: resets tables whose rows DDL rewrites';
REVOKE ALL ON FUNCTION sync.follow_rewrite() FROM PUBLIC;
