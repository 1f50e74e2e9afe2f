-- ---------------------------------------------------------------------------
-- The worker
-- ---------------------------------------------------------------------------

-- One row, which the worker writes. Unlogged: it is written often, and after a
-- crash a new worker says anew what it does.
CREATE UNLOGGED TABLE sync.worker_state (
    id            pg_catalog.bool PRIMARY KEY DEFAULT true CHECK (id),
    started_at    pg_catalog.timestamptz,
    notified_at   pg_catalog.timestamptz,
    notifications pg_catalog.int8,
    pruned_at     pg_catalog.timestamptz,
    pruned        pg_catalog.int8,
    swept_at      pg_catalog.timestamptz,
    swept         pg_catalog.int8,
    failed_at     pg_catalog.timestamptz,
    failure       pg_catalog.text
);
COMMENT ON TABLE sync.worker_state IS 'What the worker of this database did: at most one row';
COMMENT ON COLUMN sync.worker_state.id IS 'true';
COMMENT ON COLUMN sync.worker_state.started_at IS 'when the newest worker was started';
COMMENT ON COLUMN sync.worker_state.notified_at IS 'when one sent notifications last';
COMMENT ON COLUMN sync.worker_state.notifications IS 'how many the newest worker has sent';
COMMENT ON COLUMN sync.worker_state.pruned_at IS 'when one pruned last';
COMMENT ON COLUMN sync.worker_state.pruned IS 'how many log rows that took away';
COMMENT ON COLUMN sync.worker_state.swept_at IS 'when one swept old mutations, sessions and clients last';
COMMENT ON COLUMN sync.worker_state.swept IS 'how many mutations that took away';
COMMENT ON COLUMN sync.worker_state.failed_at IS 'when something failed last';
COMMENT ON COLUMN sync.worker_state.failure IS 'and what it said';
REVOKE ALL ON sync.worker_state FROM PUBLIC;

CREATE FUNCTION sync.is_preloaded() RETURNS pg_catalog.bool
    LANGUAGE c STABLE STRICT
    AS 'MODULE_PATHNAME', 'sync_ext_is_preloaded';
COMMENT ON FUNCTION sync.is_preloaded() IS 'Internal: whether sync_ext is in shared_preload_libraries';
REVOKE ALL ON FUNCTION sync.is_preloaded() FROM PUBLIC;

CREATE FUNCTION sync.is_listed() RETURNS pg_catalog.bool
    LANGUAGE c STABLE STRICT
    AS 'MODULE_PATHNAME', 'sync_ext_is_listed';
COMMENT ON FUNCTION sync.is_listed() IS 'Internal: whether sync.databases keeps a worker running in this database';
REVOKE ALL ON FUNCTION sync.is_listed() FROM PUBLIC;

CREATE FUNCTION sync.launch_worker() RETURNS pg_catalog.bool
    LANGUAGE c VOLATILE STRICT
    AS 'MODULE_PATHNAME', 'sync_ext_launch_worker';
COMMENT ON FUNCTION sync.launch_worker() IS 'Internal: starts a worker for this database. False where it ended at once';
REVOKE ALL ON FUNCTION sync.launch_worker() FROM PUBLIC;

-- A worker is whoever holds its lock; src/worker.c has the same name for it.
CREATE FUNCTION sync.worker_pid() RETURNS pg_catalog.int4
    LANGUAGE sql VOLATILE STRICT
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT l.pid FROM pg_locks l
     WHERE l.locktype = 'advisory' AND l.classid = 'pg_extension'::regclass AND l.objid = 0 AND l.objsubid = 21337
       AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()) AND l.granted
$$;
COMMENT ON FUNCTION sync.worker_pid() IS 'Internal: the process id of this database''s worker';
REVOKE ALL ON FUNCTION sync.worker_pid() FROM PUBLIC;

CREATE FUNCTION sync.start_worker() RETURNS pg_catalog.bool
    LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET jit = off
AS $$
BEGIN
    IF pg_is_in_recovery() THEN
        RAISE EXCEPTION 'cannot start a sync worker on a standby'
            USING ERRCODE = 'read_only_sql_transaction',
                  DETAIL = 'A worker sends notifications and prunes, which a standby cannot.',
                  HINT = 'Start it where the changes are made; name the database in sync.databases to have one after a promotion.';
    END IF;
    IF sync.is_listed() OR sync.worker_pid() IS NOT NULL THEN
        RETURN false;
    END IF;
    IF sync.launch_worker() THEN
        RETURN true;
    END IF;
    -- another session may have been faster
    IF sync.worker_pid() IS NULL THEN
        RAISE EXCEPTION 'the sync worker ended at once'
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'The server''s log says why.';
    END IF;
    RETURN false;
END
$$;
COMMENT ON FUNCTION sync.start_worker() IS 'Runs the worker in this database until the server restarts. False where one runs already';
REVOKE ALL ON FUNCTION sync.start_worker() FROM PUBLIC;

CREATE FUNCTION sync.stop_worker() RETURNS pg_catalog.bool
    LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET jit = off
AS $$
DECLARE
    running int4 := sync.worker_pid();
BEGIN
    IF sync.is_listed() THEN
        RAISE EXCEPTION 'the sync worker of database "%" is kept running', current_database()
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  DETAIL = format('sync.databases is "%s".', current_setting('sync.databases')),
                  HINT = 'Take the database out of sync.databases, and reload the configuration.';
    END IF;
    IF running IS NULL THEN
        RETURN false;
    END IF;
    PERFORM pg_terminate_backend(running);
    WHILE sync.worker_pid() = running LOOP
        PERFORM pg_sleep(0.01);
    END LOOP;
    RETURN true;
END
$$;
COMMENT ON FUNCTION sync.stop_worker() IS 'Ends the worker that sync.start_worker() runs. False where none does';
REVOKE ALL ON FUNCTION sync.stop_worker() FROM PUBLIC;

-- As the view's reader the functions above may not be called.
CREATE FUNCTION sync.worker_now(OUT pid pg_catalog.int4, OUT preloaded pg_catalog.bool, OUT listed pg_catalog.bool)
    LANGUAGE sql VOLATILE STRICT SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT sync.worker_pid(), sync.is_preloaded(), sync.is_listed()
$$;
COMMENT ON FUNCTION sync.worker_now() IS 'Internal: what sync.workers shows of processes and settings';
REVOKE ALL ON FUNCTION sync.worker_now() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sync.worker_now() TO pg_monitor;

CREATE VIEW sync.workers AS
SELECT w.pid IS NOT NULL AS running, w.pid, w.preloaded, w.listed,
       s.started_at, a.state_change AS looked_at, s.notified_at, s.notifications,
       s.pruned_at, s.pruned, s.swept_at, s.swept, s.failed_at, s.failure
  FROM sync.worker_now() w
  LEFT JOIN sync.worker_state s ON true
  LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid OPERATOR(pg_catalog.=) w.pid;
COMMENT ON VIEW sync.workers IS 'The worker of this database, which is one row also where none runs';
COMMENT ON COLUMN sync.workers.running IS 'whether one runs now';
COMMENT ON COLUMN sync.workers.pid IS 'its process';
COMMENT ON COLUMN sync.workers.preloaded IS 'whether commits wake it: sync_ext is in shared_preload_libraries';
COMMENT ON COLUMN sync.workers.listed IS 'whether it is kept running: sync.databases names this database';
COMMENT ON COLUMN sync.workers.started_at IS 'when the newest worker was started';
COMMENT ON COLUMN sync.workers.looked_at IS 'when it looked last, for those who may read all statistics';
COMMENT ON COLUMN sync.workers.notified_at IS 'when one sent notifications last';
COMMENT ON COLUMN sync.workers.notifications IS 'how many the newest worker has sent';
COMMENT ON COLUMN sync.workers.pruned_at IS 'when one pruned last';
COMMENT ON COLUMN sync.workers.pruned IS 'how many log rows that took away';
COMMENT ON COLUMN sync.workers.swept_at IS 'when one swept old mutations, sessions and clients last';
COMMENT ON COLUMN sync.workers.swept IS 'how many mutations that took away';
COMMENT ON COLUMN sync.workers.failed_at IS 'when something failed last';
COMMENT ON COLUMN sync.workers.failure IS 'and what it said';
REVOKE ALL ON sync.workers FROM PUBLIC;
GRANT SELECT ON sync.workers TO pg_monitor;
