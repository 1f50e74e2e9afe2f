-- ---------------------------------------------------------------------------
-- Cursors
-- ---------------------------------------------------------------------------

CREATE TYPE sync.cursor;

CREATE FUNCTION sync.cursor_in(pg_catalog.cstring) RETURNS sync.cursor
    LANGUAGE C STABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'sync_ext_cursor_in';
COMMENT ON FUNCTION sync.cursor_in(pg_catalog.cstring) IS 'I/O: a cursor, or an ISO 8601 time';

CREATE FUNCTION sync.cursor_out(sync.cursor) RETURNS pg_catalog.cstring
    LANGUAGE C STABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'sync_ext_cursor_out';
COMMENT ON FUNCTION sync.cursor_out(sync.cursor) IS 'I/O';

CREATE FUNCTION sync.cursor_recv(pg_catalog.internal) RETURNS sync.cursor
    LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'sync_ext_cursor_recv';
COMMENT ON FUNCTION sync.cursor_recv(pg_catalog.internal) IS 'I/O';

CREATE FUNCTION sync.cursor_send(sync.cursor) RETURNS pg_catalog.bytea
    LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'sync_ext_cursor_send';
COMMENT ON FUNCTION sync.cursor_send(sync.cursor) IS 'I/O';

CREATE TYPE sync.cursor (
    INPUT = sync.cursor_in,
    OUTPUT = sync.cursor_out,
    RECEIVE = sync.cursor_recv,
    SEND = sync.cursor_send,
    INTERNALLENGTH = VARIABLE,
    ALIGNMENT = int4,
    STORAGE = extended
);
COMMENT ON TYPE sync.cursor IS 'Which transactions a client has seen; opaque. A time stands for the newest tick not after it';

CREATE FUNCTION sync.cursor_from_time(pg_catalog.timestamptz) RETURNS sync.cursor
    LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'sync_ext_cursor_from_time';
COMMENT ON FUNCTION sync.cursor_from_time(pg_catalog.timestamptz) IS 'The cast: a server time that an answer contained is a cursor, too';

CREATE CAST (pg_catalog.timestamptz AS sync.cursor)
    WITH FUNCTION sync.cursor_from_time(pg_catalog.timestamptz) AS IMPLICIT;
CREATE FUNCTION sync.cursor_from_timestamp(pg_catalog.timestamp) RETURNS sync.cursor
    LANGUAGE C STABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'sync_ext_cursor_from_timestamp';
COMMENT ON FUNCTION sync.cursor_from_timestamp(pg_catalog.timestamp) IS 'The cast, in the session''s time zone';

CREATE FUNCTION sync.cursor_from_date(pg_catalog.date) RETURNS sync.cursor
    LANGUAGE C STABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'sync_ext_cursor_from_date';
COMMENT ON FUNCTION sync.cursor_from_date(pg_catalog.date) IS 'The cast: the beginning of the day in the session''s time zone';

CREATE CAST (pg_catalog.timestamp AS sync.cursor)
    WITH FUNCTION sync.cursor_from_timestamp(pg_catalog.timestamp) AS IMPLICIT;
COMMENT ON CAST (pg_catalog.timestamp AS sync.cursor) IS 'as timestamptz, in the session''s time zone';
CREATE CAST (pg_catalog.date AS sync.cursor)
    WITH FUNCTION sync.cursor_from_date(pg_catalog.date) AS IMPLICIT;
COMMENT ON CAST (pg_catalog.date AS sync.cursor) IS 'the beginning of the day in the session''s time zone';
COMMENT ON CAST (pg_catalog.timestamptz AS sync.cursor) IS 'a server time that an answer contained is a cursor, too';

CREATE FUNCTION sync.current_cursor() RETURNS sync.cursor
    LANGUAGE C STABLE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'sync_ext_current_cursor';
COMMENT ON FUNCTION sync.current_cursor() IS 'A cursor, good for any domain and filter, that has seen all that is visible now';

CREATE FUNCTION sync.wait_for(cursor sync.cursor, timeout pg_catalog.interval DEFAULT '5 seconds') RETURNS pg_catalog.bool
    LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'sync_ext_wait_for';
COMMENT ON FUNCTION sync.wait_for(sync.cursor, pg_catalog.interval) IS 'On a standby, waits until it has replayed what the cursor has seen; false when it has not in time';

CREATE FUNCTION sync.leave_tick() RETURNS pg_catalog.void
    LANGUAGE C VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'sync_ext_leave_tick';
COMMENT ON FUNCTION sync.leave_tick() IS 'Internal: leaves a tick now';
REVOKE ALL ON FUNCTION sync.leave_tick() FROM PUBLIC;

CREATE FUNCTION sync.forget_generation() RETURNS pg_catalog.void
    LANGUAGE C VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'sync_ext_forget_generation';
COMMENT ON FUNCTION sync.forget_generation() IS 'Internal: makes every session read sync.generation again';
REVOKE ALL ON FUNCTION sync.forget_generation() FROM PUBLIC;

CREATE FUNCTION sync.new_generation() RETURNS pg_catalog.void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE sync.generation SET id = pg_catalog.gen_random_uuid();
    PERFORM sync.forget_generation();
END
$$;
COMMENT ON FUNCTION sync.new_generation() IS 'Makes every cursor void: for a clone of a disk, or one that was rolled back';
REVOKE ALL ON FUNCTION sync.new_generation() FROM PUBLIC;

SELECT sync.leave_tick();
