-- ---------------------------------------------------------------------------
-- Writing back
-- ---------------------------------------------------------------------------

-- What was pushed before is remembered as long as a client may send it again:
-- across crashes, and across a dump, too.
CREATE TABLE sync.device (
    number     pg_catalog.int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    client     pg_catalog.text COLLATE pg_catalog."C" NOT NULL UNIQUE,
    role       pg_catalog.regrole NOT NULL,
    user_id    pg_catalog.text,
    next_seq   pg_catalog.int8 NOT NULL DEFAULT 1,
    seen_at    pg_catalog.timestamptz NOT NULL,
    last_sync  pg_catalog.text
) WITH (fillfactor = 50);
COMMENT ON TABLE sync.device IS 'Clients that have pushed or opened a session';
COMMENT ON SEQUENCE sync.device_number_seq IS 'numbers for clients; none is used again';
COMMENT ON COLUMN sync.device.number IS 'stands for the client in other tables';
COMMENT ON COLUMN sync.device.client IS 'the name that it gives itself';
COMMENT ON COLUMN sync.device.role IS 'the role that it belongs to';
COMMENT ON COLUMN sync.device.user_id IS 'the user that it belongs to, once one was named';
COMMENT ON COLUMN sync.device.next_seq IS 'the number of its next mutation';
COMMENT ON COLUMN sync.device.seen_at IS 'when it pushed or opened a session last';
COMMENT ON COLUMN sync.device.last_sync IS 'the cursor with which it ended its last session';
REVOKE ALL ON sync.device FROM PUBLIC;

-- Inserted into without SQL, so without constraints: src/ledger.c knows the
-- order of the columns and both indexes. The lock on the device's row keeps
-- the pushes of one client apart.
CREATE TABLE sync.mutation (
    device      pg_catalog.int8 NOT NULL,
    place       pg_catalog.int8 NOT NULL,
    seq         pg_catalog.int8 NOT NULL,
    id          pg_catalog.text,
    digest      pg_catalog.int8 NOT NULL,
    rel         pg_catalog.regclass,
    key_hash    pg_catalog.int8 NOT NULL,
    key         pg_catalog.jsonb,
    applied     pg_catalog.bool NOT NULL,
    xid         pg_catalog.xid8,
    at          pg_catalog.timestamptz NOT NULL,
    known_from  pg_catalog.timestamptz,
    modified_at pg_catalog.timestamptz
);
CREATE INDEX mutation_by_digest ON sync.mutation (device, digest);
CREATE INDEX mutation_by_key ON sync.mutation (device, key_hash, place);
COMMENT ON TABLE sync.mutation IS 'What clients have pushed: so that nothing is applied twice, and nobody is in conflict with himself';
COMMENT ON COLUMN sync.mutation.device IS 'the client';
COMMENT ON COLUMN sync.mutation.place IS 'its place in the order in which the client''s mutations were applied';
COMMENT ON COLUMN sync.mutation.seq IS 'its place in the order in which they were first seen; 0 for rows that were touched beside';
COMMENT ON COLUMN sync.mutation.id IS 'the id that the client gave it; null where it gave none, and for rows that were touched beside';
COMMENT ON COLUMN sync.mutation.digest IS 'a hash of its id and of what it asked for';
COMMENT ON COLUMN sync.mutation.rel IS 'the tracked table';
COMMENT ON COLUMN sync.mutation.key_hash IS 'a hash of the row''s key';
COMMENT ON COLUMN sync.mutation.key IS 'the key, where it is not the one that was sent';
COMMENT ON COLUMN sync.mutation.applied IS 'false: it was refused, and may come again';
COMMENT ON COLUMN sync.mutation.xid IS 'the transaction that applied it';
COMMENT ON COLUMN sync.mutation.at IS 'when that was';
COMMENT ON COLUMN sync.mutation.known_from IS 'for a row touched beside: all that happened to it since this modified_at was the client''s doing; infinity: nothing was to be written';
COMMENT ON COLUMN sync.mutation.modified_at IS 'of the row, after it; null where the row went';
COMMENT ON INDEX sync.mutation_by_digest IS 'to recognise a mutation that comes again';
COMMENT ON INDEX sync.mutation_by_key IS 'for the client''s last write to a row';
REVOKE ALL ON sync.mutation FROM PUBLIC;

CREATE TABLE sync.session (
    id            pg_catalog.uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
    device        pg_catalog.int8 NOT NULL REFERENCES sync.device ON DELETE CASCADE,
    began_at      pg_catalog.timestamptz NOT NULL,
    seen_at       pg_catalog.timestamptz NOT NULL,
    ended_at      pg_catalog.timestamptz,
    device_offset pg_catalog.interval,
    last_sync     pg_catalog.text,
    max_checkin   pg_catalog.text NOT NULL
);
CREATE UNIQUE INDEX session_open ON sync.session (device) WHERE ended_at IS NULL;
COMMENT ON TABLE sync.session IS 'Sync sessions';
COMMENT ON COLUMN sync.session.id IS 'what the client gives in push and pull';
COMMENT ON COLUMN sync.session.device IS 'the client';
COMMENT ON COLUMN sync.session.began_at IS 'when it was opened';
COMMENT ON COLUMN sync.session.seen_at IS 'when the client opened it, came back to it, or pushed in it';
COMMENT ON COLUMN sync.session.ended_at IS 'when the client ended it';
COMMENT ON COLUMN sync.session.device_offset IS 'how far the server''s clock was ahead of the client''s';
COMMENT ON COLUMN sync.session.last_sync IS 'where the session''s window begins';
COMMENT ON COLUMN sync.session.max_checkin IS 'where it ends';
COMMENT ON INDEX sync.session_open IS 'a client has one session at a time';
REVOKE ALL ON sync.session FROM PUBLIC;

CREATE TABLE sync.local_id (
    device   pg_catalog.int8 NOT NULL REFERENCES sync.device ON DELETE CASCADE,
    rel      pg_catalog.regclass NOT NULL,
    local_id pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
    key      pg_catalog.jsonb NOT NULL,
    PRIMARY KEY (device, rel, local_id)
);
COMMENT ON TABLE sync.local_id IS 'Provisional keys of clients, and the real ones that took their place; until the client ends the session';
COMMENT ON COLUMN sync.local_id.device IS 'the client';
COMMENT ON COLUMN sync.local_id.rel IS 'the tracked table';
COMMENT ON COLUMN sync.local_id.local_id IS 'the provisional key';
COMMENT ON COLUMN sync.local_id.key IS 'the real key';
REVOKE ALL ON sync.local_id FROM PUBLIC;

-- Transaction ids of another database mean nothing here. The extension itself
-- inserts without SQL; rows that come by SQL come from a dump.
CREATE FUNCTION sync.mutation_restored() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    NEW.xid := NULL;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION sync.mutation_restored() IS 'Internal: of rows that a dump brings';
REVOKE ALL ON FUNCTION sync.mutation_restored() FROM PUBLIC;
CREATE TRIGGER restored BEFORE INSERT ON sync.mutation FOR EACH ROW EXECUTE FUNCTION sync.mutation_restored();
COMMENT ON TRIGGER restored ON sync.mutation IS 'fires when a dump is restored';

SELECT pg_catalog.pg_extension_config_dump('sync.device', '');
SELECT pg_catalog.pg_extension_config_dump('sync.device_number_seq', '');
SELECT pg_catalog.pg_extension_config_dump('sync.mutation', '');
SELECT pg_catalog.pg_extension_config_dump('sync.session', '');
SELECT pg_catalog.pg_extension_config_dump('sync.local_id', '');

CREATE FUNCTION sync.push(request pg_catalog.jsonb) RETURNS pg_catalog.jsonb
    LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'sync_ext_push';
COMMENT ON FUNCTION sync.push(pg_catalog.jsonb) IS 'Applies a client''s mutations, each answered on its own';

CREATE FUNCTION sync.begin_session(
    client pg_catalog.text,
    user_id pg_catalog.text,
    device_time pg_catalog.timestamptz DEFAULT NULL,
    OUT session pg_catalog.uuid,
    OUT last_sync sync.cursor,
    OUT max_checkin sync.cursor,
    OUT server_time pg_catalog.timestamptz
) RETURNS pg_catalog.record
    LANGUAGE C VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'sync_ext_begin_session';
COMMENT ON FUNCTION sync.begin_session(pg_catalog.text, pg_catalog.text, pg_catalog.timestamptz)
    IS 'Opens a sync session for a client, or returns to the one that is open';

CREATE FUNCTION sync.end_session(session pg_catalog.uuid, last sync.cursor) RETURNS pg_catalog.void
    LANGUAGE C VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'sync_ext_end_session';
COMMENT ON FUNCTION sync.end_session(pg_catalog.uuid, sync.cursor)
    IS 'The client has everything of the session: last_sync moves, provisional keys are forgotten';

CREATE VIEW sync.sessions AS
    SELECT s.id AS session, d.client, d.role, d.user_id, s.began_at, s.seen_at, s.ended_at, s.device_offset,
           (SELECT pg_catalog.count(*) FROM sync.local_id l WHERE l.device OPERATOR(pg_catalog.=) d.number AND s.ended_at IS NULL) AS provisional_keys
      FROM sync.session s JOIN sync.device d ON d.number OPERATOR(pg_catalog.=) s.device;
COMMENT ON VIEW sync.sessions IS 'Sync sessions, with the measured offset of the devices'' clocks';
COMMENT ON COLUMN sync.sessions.session IS 'what the client gives in push and pull';
COMMENT ON COLUMN sync.sessions.client IS 'whose it is';
COMMENT ON COLUMN sync.sessions.role IS 'the role that it belongs to';
COMMENT ON COLUMN sync.sessions.user_id IS 'the user that it belongs to, once one was named';
COMMENT ON COLUMN sync.sessions.began_at IS 'when it was opened';
COMMENT ON COLUMN sync.sessions.seen_at IS 'when the client opened it, came back to it, or pushed in it';
COMMENT ON COLUMN sync.sessions.ended_at IS 'when the client ended it; null while it is open';
COMMENT ON COLUMN sync.sessions.device_offset IS 'how far the server''s clock was ahead of the client''s, as measured last';
COMMENT ON COLUMN sync.sessions.provisional_keys IS 'how many the client has not yet confirmed, in an open session';
REVOKE ALL ON sync.sessions FROM PUBLIC;
GRANT SELECT ON sync.sessions TO pg_monitor;

-- A client that stays away longer and then sends a mutation again gets it
-- applied again. Provisional keys go with their client, not with a session that
-- was abandoned: the next one still knows them.
CREATE FUNCTION sync.sweep(older_than pg_catalog.interval DEFAULT '30 days') RETURNS pg_catalog.int8
    LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    before timestamptz := clock_timestamp() - older_than;
    swept int8;
    d record;
BEGIN
    IF older_than < interval '0' THEN
        RAISE EXCEPTION 'older_than must not be negative'
            USING ERRCODE = 'invalid_parameter_value', DETAIL = format('It is %s.', older_than),
                  HINT = 'Give how long clients may stay away before they are forgotten.';
    END IF;
    -- one that is in use just now is locked, and stays
    DELETE FROM sync.session s
     WHERE s.id IN (SELECT v.id FROM sync.session v WHERE v.seen_at < before FOR UPDATE SKIP LOCKED);
    DELETE FROM sync.mutation m WHERE m.at < before;
    GET DIAGNOSTICS swept = ROW_COUNT;
    -- and so does a client
    FOR d IN SELECT v.number FROM sync.device v WHERE v.seen_at < before FOR UPDATE SKIP LOCKED LOOP
        DELETE FROM sync.device v
         WHERE v.number = d.number AND v.seen_at < before
           AND NOT EXISTS (SELECT FROM sync.mutation m WHERE m.device = d.number);
    END LOOP;
    RETURN swept;
END
$$;
COMMENT ON FUNCTION sync.sweep(pg_catalog.interval) IS 'Forgets mutations, sessions and clients that are older. Returns how many mutations went';
REVOKE ALL ON FUNCTION sync.sweep(pg_catalog.interval) FROM PUBLIC;

CREATE FUNCTION sync.forget_client(client pg_catalog.text) RETURNS pg_catalog.void
    LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    gone int8;
BEGIN
    DELETE FROM sync.device d WHERE d.client = forget_client.client RETURNING d.number INTO gone;
    IF gone IS NULL THEN
        RAISE EXCEPTION 'client "%" does not exist', client
            USING ERRCODE = 'undefined_object', DETAIL = 'It has never pushed, nor opened a session.',
                  HINT = 'sync.device lists the clients.';
    END IF;
    DELETE FROM sync.mutation m WHERE m.device = gone;
END
$$;
COMMENT ON FUNCTION sync.forget_client(pg_catalog.text) IS 'Forgets a client, its sessions and what it pushed: another user may then take its name';
REVOKE ALL ON FUNCTION sync.forget_client(pg_catalog.text) FROM PUBLIC;
