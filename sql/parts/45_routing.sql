-- ---------------------------------------------------------------------------
-- Clients and routing
-- ---------------------------------------------------------------------------

-- Who is connected, and to what each client subscribes. Unlogged: it is worth
-- nothing after a crash of this database or on another server, where these
-- tables are empty, and every application server is told so.
--
-- The column xid tells sync.affected() which rows are newer than a cursor.
-- Values are compared by hashes of their types, so that what is equal to the
-- type is equal here, whatever it looks like; two that collide wake a client
-- for nothing, once in 2^64.
CREATE UNLOGGED TABLE sync.server (
    server  pg_catalog.text COLLATE "C" PRIMARY KEY,
    seen_at pg_catalog.timestamptz NOT NULL
);
COMMENT ON TABLE sync.server IS 'Application servers that hold connected clients';
COMMENT ON COLUMN sync.server.server IS 'its name; empty for clients that were connected without one';
COMMENT ON COLUMN sync.server.seen_at IS 'when it was last heard of';
REVOKE ALL ON sync.server FROM PUBLIC;

-- What a client acknowledges changes often, and leaves every index alone.
CREATE UNLOGGED TABLE sync.client (
    client       pg_catalog.text COLLATE "C" PRIMARY KEY,
    user_id      pg_catalog.text NOT NULL,
    server       pg_catalog.text COLLATE "C" NOT NULL REFERENCES sync.server ON DELETE CASCADE,
    xid          pg_catalog.xid8 NOT NULL,
    connected_at pg_catalog.timestamptz NOT NULL,
    acknowledged pg_catalog.timestamptz
) WITH (fillfactor = 80);
CREATE INDEX client_by_server ON sync.client (server);
CREATE INDEX client_by_xid ON sync.client (xid);
COMMENT ON TABLE sync.client IS 'Connected clients: devices or tabs';
COMMENT ON COLUMN sync.client.client IS 'its name';
COMMENT ON COLUMN sync.client.user_id IS 'its user, as the application server names it';
COMMENT ON COLUMN sync.client.server IS 'the application server that it is connected to';
COMMENT ON COLUMN sync.client.xid IS 'the transaction that connected it';
COMMENT ON COLUMN sync.client.connected_at IS 'when that was';
COMMENT ON COLUMN sync.client.acknowledged IS 'the time up to which it has confirmed to hold all changes';
COMMENT ON INDEX sync.client_by_server IS 'for a server whose clients go with it';
COMMENT ON INDEX sync.client_by_xid IS 'for clients that are newer than a cursor';
REVOKE ALL ON sync.client FROM PUBLIC;

-- The same user may have a number in one access relation and a uuid in another.
CREATE UNLOGGED TABLE sync.client_user (
    user_hash pg_catalog.int8 NOT NULL,
    client    pg_catalog.text COLLATE "C" NOT NULL REFERENCES sync.client ON DELETE CASCADE,
    PRIMARY KEY (user_hash, client)
);
CREATE INDEX client_user_by_client ON sync.client_user (client);
COMMENT ON TABLE sync.client_user IS 'The users of clients, as access relations name them';
COMMENT ON COLUMN sync.client_user.user_hash IS 'hash of the user as a value of a type that access relations use';
COMMENT ON COLUMN sync.client_user.client IS 'the client';
COMMENT ON INDEX sync.client_user_by_client IS 'for a client that goes';
REVOKE ALL ON sync.client_user FROM PUBLIC;

-- No foreign key to the domain: a table that is tracked anew keeps its
-- subscribers.
CREATE UNLOGGED TABLE sync.subscription (
    client     pg_catalog.text COLLATE "C" NOT NULL REFERENCES sync.client ON DELETE CASCADE,
    domain     pg_catalog.text NOT NULL,
    scope_hash pg_catalog.int8 NOT NULL,
    scope      pg_catalog.jsonb,
    xid        pg_catalog.xid8 NOT NULL,
    PRIMARY KEY (client, domain, scope_hash)
);
CREATE INDEX subscription_by_domain ON sync.subscription (domain, scope_hash);
CREATE INDEX subscription_by_xid ON sync.subscription (xid);
COMMENT ON TABLE sync.subscription IS 'What connected clients want to hear of';
COMMENT ON COLUMN sync.subscription.client IS 'the client';
COMMENT ON COLUMN sync.subscription.domain IS 'the domain';
COMMENT ON COLUMN sync.subscription.scope_hash IS 'hash of the scope values; 0: the whole domain';
COMMENT ON COLUMN sync.subscription.scope IS 'the scope, or NULL for the whole domain';
COMMENT ON COLUMN sync.subscription.xid IS 'the transaction that subscribed';
COMMENT ON INDEX sync.subscription_by_domain IS 'for who must hear of a domain or of a scope';
COMMENT ON INDEX sync.subscription_by_xid IS 'for subscriptions that are newer than a cursor';
REVOKE ALL ON sync.subscription FROM PUBLIC;

-- ---- internal ----

CREATE FUNCTION sync.hash_value(type pg_catalog.oid, collation_id pg_catalog.oid, value pg_catalog.text) RETURNS pg_catalog.int8
    LANGUAGE C STABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'sync_ext_hash_value';
COMMENT ON FUNCTION sync.hash_value(pg_catalog.oid, pg_catalog.oid, pg_catalog.text) IS 'Internal: the hash of a value of a type, equal for equal values';
REVOKE ALL ON FUNCTION sync.hash_value(pg_catalog.oid, pg_catalog.oid, pg_catalog.text) FROM PUBLIC;

CREATE FUNCTION sync.parse_scope(domain pg_catalog.text, given pg_catalog.jsonb, OUT scope pg_catalog.jsonb, OUT scope_hash pg_catalog.int8) RETURNS pg_catalog.record
    LANGUAGE C STABLE PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'sync_ext_parse_scope';
COMMENT ON FUNCTION sync.parse_scope(pg_catalog.text, pg_catalog.jsonb) IS 'Internal: checks a scope of a domain; NULL is the whole domain';
REVOKE ALL ON FUNCTION sync.parse_scope(pg_catalog.text, pg_catalog.jsonb) FROM PUBLIC;

CREATE FUNCTION sync.cursor_time(cursor sync.cursor) RETURNS pg_catalog.timestamptz
    LANGUAGE C STABLE STRICT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'sync_ext_cursor_time';
COMMENT ON FUNCTION sync.cursor_time(sync.cursor) IS 'Internal: the time up to which a cursor has seen all changes';
REVOKE ALL ON FUNCTION sync.cursor_time(sync.cursor) FROM PUBLIC;

-- A user whose name is no value of a type has nothing in relations with it.
CREATE FUNCTION sync.user_hashes(user_id pg_catalog.text) RETURNS pg_catalog.int8[]
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    SET jit = off
AS $$
DECLARE
    hashes int8[] := '{}';
    t record;
BEGIN
    FOR t IN
        SELECT DISTINCT u.atttypid, u.attcollation
          FROM sync.access x
          JOIN pg_attribute u ON u.attrelid = x.via AND u.attnum = x.user_att
         ORDER BY 1, 2
    LOOP
        BEGIN
            hashes := hashes || sync.hash_value(t.atttypid, t.attcollation, user_hashes.user_id);
        EXCEPTION WHEN OTHERS THEN
            NULL;
        END;
    END LOOP;
    RETURN hashes;
END
$$;
COMMENT ON FUNCTION sync.user_hashes(pg_catalog.text) IS 'Internal: hashes of a user as a value of each type that access relations use';
REVOKE ALL ON FUNCTION sync.user_hashes(pg_catalog.text) FROM PUBLIC;

-- An access relation may name users by a new type. Clients that are being
-- connected meanwhile are waited for, and those that come later wait.
CREATE FUNCTION sync.hash_users() RETURNS pg_catalog.trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    LOCK TABLE sync.client IN SHARE MODE;
    INSERT INTO sync.client_user (user_hash, client)
    SELECT h, c.client FROM sync.client c CROSS JOIN LATERAL unnest(sync.user_hashes(c.user_id)) AS h
        ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION sync.hash_users() IS 'Trigger: hashes users anew when an access relation comes';
REVOKE ALL ON FUNCTION sync.hash_users() FROM PUBLIC;

CREATE TRIGGER hash_users AFTER INSERT ON sync.access
    FOR EACH STATEMENT EXECUTE FUNCTION sync.hash_users();

-- Hashes are of types, so where a column gets another type they are void. Then
-- every client is forgotten, which tells the application servers to connect
-- them again, as after a crash.
CREATE FUNCTION sync.forget_clients() RETURNS pg_catalog.event_trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET jit = off
AS $$
DECLARE
    rewritten oid := pg_event_trigger_table_rewrite_oid();
BEGIN
    IF EXISTS (
        WITH r AS (SELECT rewritten AS relid UNION SELECT p.relid FROM pg_partition_ancestors(rewritten) AS p(relid))
        SELECT FROM r JOIN sync.access x ON x.via = r.relid
         UNION ALL
        SELECT FROM r JOIN sync.tracked t ON t.rel = r.relid
                      JOIN sync.subscription s ON s.domain = t.domain AND s.scope_hash <> 0) THEN
        DELETE FROM sync.server;
    END IF;
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'could not follow a rewrite: %', SQLERRM;
END
$$;
COMMENT ON FUNCTION sync.forget_clients() IS 'Event trigger: forgets connected clients when the type of a scope or user column may have changed';
REVOKE ALL ON FUNCTION sync.forget_clients() FROM PUBLIC;

CREATE EVENT TRIGGER sync_ext_forget_clients ON table_rewrite
    EXECUTE FUNCTION sync.forget_clients();
COMMENT ON EVENT TRIGGER sync_ext_forget_clients IS 'forgets connected clients when the type of a scope or user column may have changed';
ALTER EVENT TRIGGER sync_ext_forget_clients ENABLE ALWAYS;

-- The same where a table comes back with another scope.
CREATE FUNCTION sync.forget_scopes() RETURNS pg_catalog.trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF EXISTS (SELECT FROM sync.subscription s WHERE s.domain = NEW.domain AND s.scope_hash <> 0) THEN
        DELETE FROM sync.server;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION sync.forget_scopes() IS 'Trigger: forgets connected clients when a domain that they subscribed to by scope is tracked anew';
REVOKE ALL ON FUNCTION sync.forget_scopes() FROM PUBLIC;

CREATE TRIGGER forget_scopes AFTER INSERT ON sync.tracked
    FOR EACH ROW EXECUTE FUNCTION sync.forget_scopes();

CREATE FUNCTION sync.check_primary() RETURNS pg_catalog.void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF pg_is_in_recovery() THEN
        RAISE EXCEPTION 'a standby does not know who is connected'
            USING ERRCODE = 'feature_not_supported',
                  DETAIL = 'Clients are known where they were connected, which is never replicated.', HINT = 'Ask the primary.';
    END IF;
END
$$;
COMMENT ON FUNCTION sync.check_primary() IS 'Internal: an error on a standby';
REVOKE ALL ON FUNCTION sync.check_primary() FROM PUBLIC;

CREATE FUNCTION sync.check_name(what pg_catalog.text, name pg_catalog.text) RETURNS pg_catalog.void
    LANGUAGE plpgsql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF name IS NULL THEN
        RAISE EXCEPTION '% must not be null', what
            USING ERRCODE = 'null_value_not_allowed', DETAIL = 'It is null.', HINT = 'A name has 1 to 255 bytes.';
    ELSIF name = '' OR octet_length(name) > 255 THEN
        RAISE EXCEPTION 'invalid name for %', what
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = CASE WHEN name = '' THEN 'It is empty.' ELSE format('It is "%s...", %s bytes long.', left(name, 40), octet_length(name)) END,
                  HINT = 'A name has 1 to 255 bytes.';
    END IF;
END
$$;
COMMENT ON FUNCTION sync.check_name(pg_catalog.text, pg_catalog.text) IS 'Internal: checks the name of a client, a user or a server';
REVOKE ALL ON FUNCTION sync.check_name(pg_catalog.text, pg_catalog.text) FROM PUBLIC;

-- Holds the client's row, so that it does not go before what is done for it.
CREATE FUNCTION sync.hold_client(client pg_catalog.text) RETURNS pg_catalog.void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM sync.check_primary();
    PERFORM sync.check_name('client', hold_client.client);
    PERFORM FROM sync.client c WHERE c.client = hold_client.client FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'client "%" is not connected', hold_client.client
            USING ERRCODE = 'undefined_object',
                  DETAIL = 'It was never connected, was disconnected, or its server was silent for too long.',
                  HINT = 'Call sync.connect() first.';
    END IF;
END
$$;
COMMENT ON FUNCTION sync.hold_client(pg_catalog.text) IS 'Internal: locks a connected client; an error where there is none';
REVOKE ALL ON FUNCTION sync.hold_client(pg_catalog.text) FROM PUBLIC;

CREATE FUNCTION sync.sweep_servers() RETURNS pg_catalog.int4
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
AS $$
DECLARE
    timeout interval := coalesce(nullif(current_setting('sync.server_timeout', true), ''), '120 seconds')::interval;
    n int4;
BEGIN
    -- one that is just connecting a client is not silent, and need not be waited for
    DELETE FROM sync.server s
     WHERE s.server IN (SELECT d.server FROM sync.server d
                         WHERE d.server <> '' AND d.seen_at < clock_timestamp() - timeout
                           FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN n;
END
$$;
COMMENT ON FUNCTION sync.sweep_servers() IS 'Internal: forgets servers that were silent for sync.server_timeout, with their clients. Returns how many';
REVOKE ALL ON FUNCTION sync.sweep_servers() FROM PUBLIC;

-- Holds the server's row. Connects run side by side, so none of them waits to
-- write the time, which matters only to a server that says nothing else.
CREATE FUNCTION sync.hold_server(server pg_catalog.text) RETURNS pg_catalog.void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    LOOP
        PERFORM FROM sync.server s WHERE s.server = hold_server.server FOR KEY SHARE;
        EXIT WHEN FOUND;
        INSERT INTO sync.server AS s (server, seen_at) VALUES (hold_server.server, clock_timestamp())
            ON CONFLICT DO NOTHING;
    END LOOP;
    PERFORM FROM sync.server s
      WHERE s.server = hold_server.server AND s.seen_at < clock_timestamp() - interval '10 seconds'
        FOR NO KEY UPDATE SKIP LOCKED;
    IF FOUND THEN
        UPDATE sync.server s SET seen_at = clock_timestamp() WHERE s.server = hold_server.server;
    END IF;
END
$$;
COMMENT ON FUNCTION sync.hold_server(pg_catalog.text) IS 'Internal: makes a server known, and keeps it so until the transaction ends';
REVOKE ALL ON FUNCTION sync.hold_server(pg_catalog.text) FROM PUBLIC;

-- ---- for application servers ----

-- These run as the extension's owner, and believe what they are told: grant
-- them to the application server's role and to nobody else.
--
-- The tables are empty at one moment and large at the next, while sessions keep
-- the plans, and foreign keys keep theirs: none may be made of scans.

CREATE FUNCTION sync.connect(client pg_catalog.text, user_id pg_catalog.text, server pg_catalog.text DEFAULT NULL, domains pg_catalog.text[] DEFAULT NULL) RETURNS pg_catalog.void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
AS $$
#variable_conflict use_column
DECLARE
    unknown text;
    known_as text;
BEGIN
    PERFORM sync.check_primary();
    PERFORM sync.check_name('client', connect.client);
    PERFORM sync.check_name('user_id', connect.user_id);
    IF connect.server IS NOT NULL THEN
        PERFORM sync.check_name('server', connect.server);
    END IF;
    SELECT coalesce(d, 'NULL') INTO unknown FROM unnest(connect.domains) AS d
     WHERE d IS DISTINCT FROM 'sync.entries' AND NOT EXISTS (SELECT FROM sync.tracked t WHERE t.domain = d) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'sync domain "%" does not exist', unknown
            USING ERRCODE = 'undefined_object', DETAIL = 'No tracked table has this domain.',
                  HINT = 'sync.track() makes a table a domain; sync.domains lists them.';
    END IF;

    PERFORM sync.hold_server(coalesce(connect.server, ''));
    INSERT INTO sync.client AS c (client, user_id, server, xid, connected_at)
    VALUES (connect.client, connect.user_id, coalesce(connect.server, ''), pg_current_xact_id(), clock_timestamp())
        ON CONFLICT (client) DO UPDATE
       SET server = excluded.server, xid = excluded.xid, connected_at = excluded.connected_at
     WHERE c.user_id = excluded.user_id;
    IF NOT FOUND THEN
        SELECT c.user_id INTO known_as FROM sync.client c WHERE c.client = connect.client;
        RAISE EXCEPTION 'client "%" is connected for another user', connect.client
            USING ERRCODE = 'object_in_use', DETAIL = format('It is connected for user "%s", not "%s".', known_as, connect.user_id),
                  HINT = 'A client belongs to one user: call sync.disconnect() first, or give each user a client of its own.';
    END IF;
    INSERT INTO sync.client_user (user_hash, client)
    SELECT h, connect.client FROM unnest(sync.user_hashes(connect.user_id)) AS h
        ON CONFLICT DO NOTHING;

    IF connect.domains IS NOT NULL THEN
        DELETE FROM sync.subscription s
         WHERE s.client = connect.client AND NOT (s.scope_hash = 0 AND s.domain = ANY (connect.domains));
        INSERT INTO sync.subscription (client, domain, scope_hash, xid)
        SELECT DISTINCT connect.client, d, 0, pg_current_xact_id() FROM unnest(connect.domains) AS d
            ON CONFLICT DO NOTHING;
    END IF;
END
$$;
COMMENT ON FUNCTION sync.connect(pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.text[])
    IS 'A client of a user is connected to an application server; domains, where given, are all that it subscribes to';
REVOKE ALL ON FUNCTION sync.connect(pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.text[]) FROM PUBLIC;

CREATE FUNCTION sync.disconnect(client pg_catalog.text, server pg_catalog.text DEFAULT NULL) RETURNS pg_catalog.bool
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
AS $$
BEGIN
    PERFORM sync.check_primary();
    PERFORM sync.check_name('client', disconnect.client);
    DELETE FROM sync.client c
     WHERE c.client = disconnect.client AND (disconnect.server IS NULL OR c.server = disconnect.server);
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION sync.disconnect(pg_catalog.text, pg_catalog.text)
    IS 'A client is gone, with its subscriptions; with a server, only if it is still connected there. False when it was not connected';
REVOKE ALL ON FUNCTION sync.disconnect(pg_catalog.text, pg_catalog.text) FROM PUBLIC;

CREATE FUNCTION sync.heartbeat(server pg_catalog.text) RETURNS pg_catalog.bool
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
AS $$
DECLARE
    known bool;
BEGIN
    PERFORM sync.check_primary();
    IF heartbeat.server IS NOT NULL THEN
        PERFORM sync.check_name('server', heartbeat.server);
    END IF;
    UPDATE sync.server s SET seen_at = clock_timestamp() WHERE s.server = coalesce(heartbeat.server, '');
    known := FOUND;
    IF NOT known THEN
        PERFORM sync.hold_server(coalesce(heartbeat.server, ''));
    END IF;
    PERFORM sync.sweep_servers();
    RETURN known;
END
$$;
COMMENT ON FUNCTION sync.heartbeat(pg_catalog.text) IS 'An application server is alive; false when it is unknown here, and has to connect its clients again';
REVOKE ALL ON FUNCTION sync.heartbeat(pg_catalog.text) FROM PUBLIC;

CREATE FUNCTION sync.subscribe(client pg_catalog.text, domain pg_catalog.text, scope pg_catalog.jsonb DEFAULT NULL) RETURNS pg_catalog.void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
AS $$
#variable_conflict use_column
BEGIN
    PERFORM sync.hold_client(subscribe.client);
    INSERT INTO sync.subscription (client, domain, scope_hash, scope, xid)
    SELECT subscribe.client, subscribe.domain, p.scope_hash, p.scope, pg_current_xact_id()
      FROM sync.parse_scope(subscribe.domain, subscribe.scope) AS p
        ON CONFLICT DO NOTHING;
END
$$;
COMMENT ON FUNCTION sync.subscribe(pg_catalog.text, pg_catalog.text, pg_catalog.jsonb) IS 'A connected client wants to hear of a domain, or of one scope of it';
REVOKE ALL ON FUNCTION sync.subscribe(pg_catalog.text, pg_catalog.text, pg_catalog.jsonb) FROM PUBLIC;

CREATE FUNCTION sync.unsubscribe(client pg_catalog.text, domain pg_catalog.text, scope pg_catalog.jsonb DEFAULT NULL) RETURNS pg_catalog.void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
AS $$
#variable_conflict use_column
DECLARE
    hash int8;
BEGIN
    PERFORM sync.hold_client(unsubscribe.client);
    SELECT p.scope_hash INTO hash FROM sync.parse_scope(unsubscribe.domain, unsubscribe.scope) AS p;
    DELETE FROM sync.subscription s
     WHERE s.client = unsubscribe.client AND s.domain = unsubscribe.domain
       AND (unsubscribe.scope IS NULL OR s.scope_hash = hash);
END
$$;
COMMENT ON FUNCTION sync.unsubscribe(pg_catalog.text, pg_catalog.text, pg_catalog.jsonb) IS 'A connected client no longer wants to hear of a scope, or, without one, of a domain and all its scopes';
REVOKE ALL ON FUNCTION sync.unsubscribe(pg_catalog.text, pg_catalog.text, pg_catalog.jsonb) FROM PUBLIC;

CREATE FUNCTION sync.acknowledge(client pg_catalog.text, cursor sync.cursor) RETURNS pg_catalog.void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
AS $$
BEGIN
    PERFORM sync.hold_client(acknowledge.client);
    UPDATE sync.client c SET acknowledged = sync.cursor_time(acknowledge.cursor) WHERE c.client = acknowledge.client;
END
$$;
COMMENT ON FUNCTION sync.acknowledge(pg_catalog.text, sync.cursor) IS 'A connected client has confirmed a cursor; sync.clients shows how far behind it is';
REVOKE ALL ON FUNCTION sync.acknowledge(pg_catalog.text, sync.cursor) FROM PUBLIC;

CREATE FUNCTION sync.affected(
    since sync.cursor,
    server pg_catalog.text DEFAULT NULL,
    OUT client pg_catalog.text,
    OUT user_id pg_catalog.text,
    OUT domain pg_catalog.text,
    OUT cursor sync.cursor
) RETURNS SETOF pg_catalog.record
    LANGUAGE C STABLE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'sync_ext_affected';
COMMENT ON FUNCTION sync.affected(sync.cursor, pg_catalog.text)
    IS 'Which connected clients must fetch which domain; the last row has the cursor to ask with the next time';
REVOKE ALL ON FUNCTION sync.affected(sync.cursor, pg_catalog.text) FROM PUBLIC;
