-- ---------------------------------------------------------------------------
-- Journals
-- ---------------------------------------------------------------------------

-- Triggers that keep the rules whoever writes; src/journal.c explains them.
CREATE FUNCTION sync.guard_journal() RETURNS pg_catalog.trigger
    LANGUAGE C AS 'MODULE_PATHNAME', 'sync_ext_guard_journal';
COMMENT ON FUNCTION sync.guard_journal() IS 'Trigger: keeps what streams hold from being changed';
REVOKE ALL ON FUNCTION sync.guard_journal() FROM PUBLIC;

CREATE FUNCTION sync.remove_stream() RETURNS pg_catalog.trigger
    LANGUAGE C AS 'MODULE_PATHNAME', 'sync_ext_remove_stream';
COMMENT ON FUNCTION sync.remove_stream() IS 'Trigger: removes what a stream held';
REVOKE ALL ON FUNCTION sync.remove_stream() FROM PUBLIC;

CREATE TRIGGER guard BEFORE INSERT OR UPDATE ON sync.streams FOR EACH ROW EXECUTE FUNCTION sync.guard_journal();
CREATE TRIGGER guard_truncate BEFORE TRUNCATE ON sync.streams FOR EACH STATEMENT EXECUTE FUNCTION sync.guard_journal();
CREATE TRIGGER remove AFTER DELETE ON sync.streams FOR EACH ROW EXECUTE FUNCTION sync.remove_stream();
CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE ON sync.entry FOR EACH ROW EXECUTE FUNCTION sync.guard_journal();
CREATE TRIGGER guard_truncate BEFORE TRUNCATE ON sync.entry FOR EACH STATEMENT EXECUTE FUNCTION sync.guard_journal();
CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE ON sync.stream_snapshot FOR EACH ROW EXECUTE FUNCTION sync.guard_journal();
CREATE TRIGGER guard_truncate BEFORE TRUNCATE ON sync.stream_snapshot FOR EACH STATEMENT EXECUTE FUNCTION sync.guard_journal();
CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE ON sync.stream_trimmed FOR EACH ROW EXECUTE FUNCTION sync.guard_journal();
CREATE TRIGGER guard_truncate BEFORE TRUNCATE ON sync.stream_trimmed FOR EACH STATEMENT EXECUTE FUNCTION sync.guard_journal();
CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE ON sync.entry_ledger FOR EACH ROW EXECUTE FUNCTION sync.guard_journal();
CREATE TRIGGER guard_truncate BEFORE TRUNCATE ON sync.entry_ledger FOR EACH STATEMENT EXECUTE FUNCTION sync.guard_journal();
-- Also for rows that a replication brings: their sessions hear of streams, too,
-- and transactions are those of this database.
ALTER TABLE sync.streams ENABLE ALWAYS TRIGGER guard, ENABLE ALWAYS TRIGGER guard_truncate;
ALTER TABLE sync.entry ENABLE ALWAYS TRIGGER guard, ENABLE ALWAYS TRIGGER guard_truncate;
ALTER TABLE sync.stream_snapshot ENABLE ALWAYS TRIGGER guard, ENABLE ALWAYS TRIGGER guard_truncate;
ALTER TABLE sync.stream_trimmed ENABLE ALWAYS TRIGGER guard, ENABLE ALWAYS TRIGGER guard_truncate;
ALTER TABLE sync.entry_ledger ENABLE ALWAYS TRIGGER guard, ENABLE ALWAYS TRIGGER guard_truncate;
COMMENT ON TRIGGER guard ON sync.streams IS 'a stream keeps its name and kind; sessions hear of new ones';
COMMENT ON TRIGGER guard_truncate ON sync.streams IS 'streams are removed by sync.drop_stream()';
COMMENT ON TRIGGER remove ON sync.streams IS 'what a stream held goes with it';
COMMENT ON TRIGGER guard ON sync.entry IS 'entries are immutable, and go only when something holds what they held';
COMMENT ON TRIGGER guard_truncate ON sync.entry IS 'as above';
COMMENT ON TRIGGER guard ON sync.stream_snapshot IS 'snapshots are immutable, and go only when there is a later one';
COMMENT ON TRIGGER guard_truncate ON sync.stream_snapshot IS 'as above';
COMMENT ON TRIGGER guard ON sync.stream_trimmed IS 'sync.trim() alone writes here';
COMMENT ON TRIGGER guard_truncate ON sync.stream_trimmed IS 'as above';
COMMENT ON TRIGGER guard ON sync.entry_ledger IS 'ids are known for ever';
COMMENT ON TRIGGER guard_truncate ON sync.entry_ledger IS 'as above';

-- Remembers whether row-level security is enabled on sync.streams.
CREATE FUNCTION sync.note_stream_security() RETURNS pg_catalog.event_trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_event_trigger_ddl_commands() c
                    WHERE c.classid = 'pg_class'::regclass AND c.objid = 'sync.streams'::regclass) THEN
        RETURN;
    END IF;
    DELETE FROM sync.stream_security;
    INSERT INTO sync.stream_security SELECT true FROM pg_class c WHERE c.oid = 'sync.streams'::regclass AND c.relrowsecurity;
    PERFORM sync.forget_generation();
END
$$;
COMMENT ON FUNCTION sync.note_stream_security() IS 'Event trigger: remembers whether row-level security is enabled on sync.streams';
REVOKE ALL ON FUNCTION sync.note_stream_security() FROM PUBLIC;
CREATE EVENT TRIGGER sync_stream_security ON ddl_command_end WHEN TAG IN ('ALTER TABLE')
    EXECUTE FUNCTION sync.note_stream_security();
COMMENT ON EVENT TRIGGER sync_stream_security IS 'remembers whether row-level security is enabled on sync.streams';

-- Making and removing streams: INSERT and DELETE on sync.streams, with the
-- caller's privileges and policies.
CREATE FUNCTION sync.create_stream(stream pg_catalog.text, kind pg_catalog.text) RETURNS pg_catalog.void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF create_stream.stream IS NULL OR octet_length(create_stream.stream) NOT BETWEEN 1 AND 255 THEN
        RAISE EXCEPTION 'the name of a stream must have 1 to 255 bytes'
            USING ERRCODE = CASE WHEN create_stream.stream IS NULL THEN 'null_value_not_allowed' ELSE 'invalid_parameter_value' END,
                  DETAIL = coalesce(format('It has %s: "%s".', octet_length(create_stream.stream), left(create_stream.stream, 40)), 'It is null.'),
                  HINT = 'Name it after what it is the journal of.';
    END IF;
    IF create_stream.kind IS NULL OR create_stream.kind NOT IN ('actions', 'opaque') THEN
        RAISE EXCEPTION 'the kind of a stream must be "actions" or "opaque"'
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = coalesce(format('It is "%s".', create_stream.kind), 'It is null.'),
                  HINT = '"actions" holds JSON, "opaque" bytes that the server cannot read.';
    END IF;
    INSERT INTO sync.streams AS s (stream, kind) VALUES (create_stream.stream, create_stream.kind);
EXCEPTION WHEN unique_violation THEN
    RAISE EXCEPTION 'stream "%" already exists', create_stream.stream
        USING ERRCODE = 'duplicate_object',
              DETAIL = format('Its name is taken; you asked for kind "%s".', create_stream.kind),
              HINT = 'sync.streams lists the streams that you may see.';
END
$$;
COMMENT ON FUNCTION sync.create_stream(pg_catalog.text, pg_catalog.text) IS 'Makes a journal of kind "actions" or "opaque"; needs INSERT on sync.streams';

CREATE FUNCTION sync.drop_stream(stream pg_catalog.text) RETURNS pg_catalog.void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM sync.streams s WHERE s.stream = drop_stream.stream;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'stream "%" does not exist', drop_stream.stream
            USING ERRCODE = 'undefined_object',
                  DETAIL = 'There is none with this name in sync.streams, or none that you may delete.',
                  HINT = 'sync.streams lists the streams that you may see.';
    END IF;
END
$$;
COMMENT ON FUNCTION sync.drop_stream(pg_catalog.text) IS 'Removes a journal with all that it holds; needs DELETE on sync.streams';

-- Storing. A type with a name, since what OUT parameters come to is computed
-- anew in each call, which takes a tenth of the time of storing one entry.
CREATE TYPE sync.stored_entry AS (
    id     pg_catalog.text,
    at     pg_catalog.timestamptz,
    status pg_catalog.text
);
COMMENT ON TYPE sync.stored_entry IS 'What sync.append() and sync.put() say of an entry';
COMMENT ON COLUMN sync.stored_entry.id IS 'its id';
COMMENT ON COLUMN sync.stored_entry.at IS 'the time at which it was stored';
COMMENT ON COLUMN sync.stored_entry.status IS '"stored" by this call, or "duplicate": it was stored before';

CREATE FUNCTION sync.append(stream pg_catalog.text, entries pg_catalog.jsonb) RETURNS SETOF sync.stored_entry
    LANGUAGE C VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'sync_ext_append';
COMMENT ON FUNCTION sync.append(pg_catalog.text, pg_catalog.jsonb)
    IS 'Stores entries [{"id", "actions": [{"id", ...}, ...]}, ...] in a stream of kind "actions"; what was stored before says "duplicate"';

CREATE FUNCTION sync.put(stream pg_catalog.text, ids pg_catalog.text[], data pg_catalog.bytea[]) RETURNS SETOF sync.stored_entry
    LANGUAGE C VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'sync_ext_put';
COMMENT ON FUNCTION sync.put(pg_catalog.text, pg_catalog.text[], pg_catalog.bytea[])
    IS 'Stores entries in a stream of kind "opaque"; what was stored before says "duplicate"';

-- Reading
CREATE FUNCTION sync.entries(
    stream pg_catalog.text,
    after sync.cursor DEFAULT NULL,
    ids pg_catalog.text[] DEFAULT NULL,
    max_rows pg_catalog.int4 DEFAULT NULL,
    OUT kind pg_catalog.text,
    OUT id pg_catalog.text,
    OUT at pg_catalog.timestamptz,
    OUT data pg_catalog.jsonb,
    OUT bytes pg_catalog.bytea,
    OUT cursor sync.cursor
) RETURNS SETOF pg_catalog.record
    LANGUAGE C STABLE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'sync_ext_entries';
COMMENT ON FUNCTION sync.entries(pg_catalog.text, sync.cursor, pg_catalog.text[], pg_catalog.int4)
    IS 'Entries of a stream after a cursor or a time, in order, behind the latest snapshot where that is needed; or those that hold the ids given';

CREATE FUNCTION sync.entry_ids(stream pg_catalog.text) RETURNS SETOF pg_catalog.text
    LANGUAGE C STABLE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'sync_ext_entry_ids';
COMMENT ON FUNCTION sync.entry_ids(pg_catalog.text) IS 'Ids of the entries that a stream has now, in order';

CREATE FUNCTION sync.missing(
    stream pg_catalog.text,
    have pg_catalog.text[],
    max_rows pg_catalog.int4 DEFAULT NULL,
    OUT kind pg_catalog.text,
    OUT id pg_catalog.text,
    OUT at pg_catalog.timestamptz,
    OUT data pg_catalog.jsonb,
    OUT bytes pg_catalog.bytea,
    OUT cursor sync.cursor
) RETURNS SETOF pg_catalog.record
    LANGUAGE C STABLE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'sync_ext_missing';
COMMENT ON FUNCTION sync.missing(pg_catalog.text, pg_catalog.text[], pg_catalog.int4)
    IS 'What a client that has these ids lacks, as sync.entries() tells it, and as kind "wanted" the ids that the stream never had';

-- Compacting
CREATE FUNCTION sync.snapshot(
    stream pg_catalog.text,
    upto pg_catalog.timestamptz,
    state pg_catalog.jsonb DEFAULT NULL,
    bytes pg_catalog.bytea DEFAULT NULL
) RETURNS pg_catalog.text
    LANGUAGE C VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'sync_ext_snapshot';
COMMENT ON FUNCTION sync.snapshot(pg_catalog.text, pg_catalog.timestamptz, pg_catalog.jsonb, pg_catalog.bytea)
    IS 'Stores what all entries up to the one with this time come to. Returns the snapshot''s id';

CREATE FUNCTION sync.combine(stream pg_catalog.text, upto pg_catalog.timestamptz) RETURNS pg_catalog.text
    LANGUAGE C VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'sync_ext_combine';
COMMENT ON FUNCTION sync.combine(pg_catalog.text, pg_catalog.timestamptz)
    IS 'Makes one entry of those after the latest snapshot up to a time. Returns its id, or NULL where there are less than two';

CREATE FUNCTION sync.trim(stream pg_catalog.text) RETURNS pg_catalog.int8
    LANGUAGE C VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'sync_ext_trim';
COMMENT ON FUNCTION sync.trim(pg_catalog.text) IS 'Deletes the entries that the latest snapshot holds, and older snapshots. Returns how many entries went';
