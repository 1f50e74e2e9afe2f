-- ---------------------------------------------------------------------------
-- Views for operators
-- ---------------------------------------------------------------------------

-- Clients subscribe to the entries of streams as to any domain.
CREATE VIEW sync.domains AS
    SELECT t.domain, t.rel AS "table", t.key, t.scope, a.via AS access, a.user_column, t.source, t.autosubscribe,
           ARRAY(SELECT DISTINCT c.detail::pg_catalog.text FROM sync.cascades c WHERE c.master OPERATOR(pg_catalog.=) t.rel ORDER BY 1)::pg_catalog.regclass[] AS details
      FROM sync.tracked t
      LEFT JOIN sync.access a ON a.rel OPERATOR(pg_catalog.=) t.rel
    UNION ALL
    SELECT 'sync.entries', 'sync.entry', '{stream,id}', '{stream}', NULL, NULL, NULL, false, '{}'
     WHERE EXISTS (SELECT FROM sync.streams);
COMMENT ON VIEW sync.domains IS 'Domains: what clients can subscribe to; all but "sync.entries", which is there when there are streams, is what they can ask for';
COMMENT ON COLUMN sync.domains.domain IS 'its name';
COMMENT ON COLUMN sync.domains."table" IS 'the tracked table';
COMMENT ON COLUMN sync.domains.key IS 'columns that identify a row';
COMMENT ON COLUMN sync.domains.scope IS 'columns that decide whom a row concerns';
COMMENT ON COLUMN sync.domains.access IS 'table or view that says who may see which scope; NULL: the domain concerns everybody who may read the table';
COMMENT ON COLUMN sync.domains.user_column IS 'its column with the user';
COMMENT ON COLUMN sync.domains.source IS 'view that gives the complete document of a key';
COMMENT ON COLUMN sync.domains.autosubscribe IS 'whether the domain concerns clients that did not subscribe to it';
COMMENT ON COLUMN sync.domains.details IS 'tables whose changes count as changes of this one';
GRANT SELECT ON sync.domains TO PUBLIC;

-- A time is a valid cursor where the log reaches back to it and no reset
-- marker is newer.
CREATE VIEW sync.logs AS
    SELECT t.domain, t.rel AS "table",
           pg_catalog.pg_total_relation_size(l.log) AS bytes,
           pg_catalog.pg_total_relation_size(t.rel) AS table_bytes,
           (SELECT CASE WHEN c.reltuples OPERATOR(pg_catalog.>) 0 OR c.relpages OPERATOR(pg_catalog.>) 0 THEN c.reltuples::pg_catalog.int8 END
              FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) l.log) AS entries,
           (SELECT k.at FROM sync.tick k
             WHERE k.seen_below OPERATOR(pg_catalog.>=) l.pruned_below
               AND NOT EXISTS (SELECT FROM pg_catalog.unnest(k.running) AS r(xid)
                                WHERE r.xid OPERATOR(pg_catalog.<) l.pruned_below)
               AND NOT EXISTS (SELECT FROM sync.reset_marker m
                                WHERE m.rel OPERATOR(pg_catalog.=) l.rel
                                  AND (m.xid OPERATOR(pg_catalog.>=) k.seen_below OR m.xid OPERATOR(pg_catalog.=) ANY (k.running)))
             ORDER BY k.at LIMIT 1) AS oldest_valid,
           l.pruned_below
      FROM sync.change_log l
      JOIN sync.tracked t ON t.rel OPERATOR(pg_catalog.=) l.rel::pg_catalog.regclass;
COMMENT ON VIEW sync.logs IS 'Change logs: how large they are, and how far back they reach';
COMMENT ON COLUMN sync.logs.domain IS 'the domain';
COMMENT ON COLUMN sync.logs."table" IS 'the tracked table';
COMMENT ON COLUMN sync.logs.bytes IS 'size of the log on disk, with its indexes';
COMMENT ON COLUMN sync.logs.table_bytes IS 'size of the table on disk, with its indexes; of a partitioned one nothing';
COMMENT ON COLUMN sync.logs.entries IS 'log rows at the last VACUUM or ANALYZE of the log, each of which may name many keys; NULL: not known yet';
COMMENT ON COLUMN sync.logs.oldest_valid IS 'clients that were up to date at this time get a delta, older ones load anew; NULL: all load anew, but those that asked since the last time that was handed out';
COMMENT ON COLUMN sync.logs.pruned_below IS 'transactions below this one may be missing from the log';
REVOKE ALL ON sync.logs FROM PUBLIC;
GRANT SELECT ON sync.logs TO pg_monitor;

-- What is behind counts from the newest time handed out, not from now: where
-- nothing changes nobody falls behind.
CREATE VIEW sync.clients AS
    SELECT c.client, c.user_id,
           CASE WHEN c.server OPERATOR(pg_catalog.<>) '' THEN c.server END AS server,
           c.connected_at,
           s.seen_at AS server_seen_at,
           (SELECT pg_catalog.count(*) FROM sync.subscription b
             WHERE b.client OPERATOR(pg_catalog.=) c.client) AS subscriptions,
           c.acknowledged,
           (SELECT pg_catalog.max(k.at) FROM sync.tick k) OPERATOR(pg_catalog.-) c.acknowledged AS lag
      FROM sync.client c
      JOIN sync.server s ON s.server OPERATOR(pg_catalog.=) c.server;
COMMENT ON VIEW sync.clients IS 'Connected clients, and how far behind they are';
COMMENT ON COLUMN sync.clients.client IS 'its name';
COMMENT ON COLUMN sync.clients.user_id IS 'its user';
COMMENT ON COLUMN sync.clients.server IS 'the application server that it is connected to; NULL: one without a name';
COMMENT ON COLUMN sync.clients.connected_at IS 'when it was connected';
COMMENT ON COLUMN sync.clients.server_seen_at IS 'when the server was last heard of';
COMMENT ON COLUMN sync.clients.subscriptions IS 'how many it has';
COMMENT ON COLUMN sync.clients.acknowledged IS 'the time up to which it has confirmed to hold all changes; NULL: it never called sync.acknowledge(), or its cursor says nothing here';
COMMENT ON COLUMN sync.clients.lag IS 'how far that is behind the newest change';
REVOKE ALL ON sync.clients FROM PUBLIC;
GRANT SELECT ON sync.clients TO pg_monitor;
