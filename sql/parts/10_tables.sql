-- ---------------------------------------------------------------------------
-- Tables
-- ---------------------------------------------------------------------------

-- What the owner of a table asked for. Dumped; a row that is inserted makes
-- the table's log, by a trigger, so a restore makes the logs again. Columns
-- are named for the dump, and numbered for those who must follow a rename.
-- src/catalog.h knows the order of the columns.
CREATE TABLE sync.tracked (
    rel          pg_catalog.regclass PRIMARY KEY,
    domain       pg_catalog.text NOT NULL UNIQUE,
    key          pg_catalog.name[] NOT NULL,
    scope        pg_catalog.name[] NOT NULL,
    modified_at  pg_catalog.name NOT NULL,
    deleted_at   pg_catalog.name,
    source       pg_catalog.regclass,
    autosubscribe pg_catalog.bool NOT NULL,
    key_atts     pg_catalog.int2[] NOT NULL,
    scope_atts   pg_catalog.int2[] NOT NULL,
    modified_att pg_catalog.int2 NOT NULL,
    deleted_att  pg_catalog.int2
);
COMMENT ON TABLE sync.tracked IS 'Tracked tables, one for each domain';
COMMENT ON COLUMN sync.tracked.rel IS 'the tracked table';
COMMENT ON COLUMN sync.tracked.domain IS 'the name under which clients ask for its changes';
COMMENT ON COLUMN sync.tracked.key IS 'columns that identify a row';
COMMENT ON COLUMN sync.tracked.scope IS 'columns that decide whom a row concerns';
COMMENT ON COLUMN sync.tracked.modified_at IS 'column that holds the time of the last change';
COMMENT ON COLUMN sync.tracked.deleted_at IS 'column that marks a row as deleted, if it is not null';
COMMENT ON COLUMN sync.tracked.source IS 'view that gives the complete document of a key';
COMMENT ON COLUMN sync.tracked.autosubscribe IS 'whether the domain concerns clients that did not subscribe to it';
COMMENT ON COLUMN sync.tracked.key_atts IS 'numbers of the key columns; computed';
COMMENT ON COLUMN sync.tracked.scope_atts IS 'numbers of the scope columns; computed';
COMMENT ON COLUMN sync.tracked.modified_att IS 'number of modified_at; computed';
COMMENT ON COLUMN sync.tracked.deleted_att IS 'number of deleted_at; computed';
GRANT SELECT ON sync.tracked TO PUBLIC;

CREATE TABLE sync.cascades (
    detail   pg_catalog.regclass NOT NULL,
    master   pg_catalog.regclass NOT NULL,
    fk       pg_catalog.name[] NOT NULL,
    refs     pg_catalog.name[] NOT NULL,
    fk_atts  pg_catalog.int2[] NOT NULL,
    ref_atts pg_catalog.int2[] NOT NULL,
    leaves   pg_catalog.oid[] NOT NULL,
    PRIMARY KEY (detail, master, fk)
);
COMMENT ON TABLE sync.cascades IS 'Which changes of detail rows count as changes of master rows';
COMMENT ON COLUMN sync.cascades.detail IS 'the table whose changes count';
COMMENT ON COLUMN sync.cascades.master IS 'the tracked table whose rows they count for';
COMMENT ON COLUMN sync.cascades.fk IS 'columns of the detail that refer to the master';
COMMENT ON COLUMN sync.cascades.refs IS 'columns of the master that they refer to';
COMMENT ON COLUMN sync.cascades.fk_atts IS 'numbers of the columns fk; computed';
COMMENT ON COLUMN sync.cascades.ref_atts IS 'numbers of the columns refs; computed';
COMMENT ON COLUMN sync.cascades.leaves IS 'the detail and its partitions that are known to have triggers; computed';
GRANT SELECT ON sync.cascades TO PUBLIC;

-- Who may see which scope of a domain. The foreign key also has a restore fill
-- sync.tracked first. Columns are named for the dump, and
-- numbered for those who must follow a rename. src/catalog.h knows the order
-- of the columns.
CREATE TABLE sync.access (
    rel         pg_catalog.regclass PRIMARY KEY REFERENCES sync.tracked ON DELETE CASCADE,
    via         pg_catalog.regclass NOT NULL,
    user_column pg_catalog.name NOT NULL,
    scope       pg_catalog.name[] NOT NULL,
    user_att    pg_catalog.int2 NOT NULL,
    scope_atts  pg_catalog.int2[] NOT NULL,
    tables      pg_catalog.oid[] NOT NULL
);
COMMENT ON TABLE sync.access IS 'Which relation says who may see which scope of a domain';
COMMENT ON COLUMN sync.access.rel IS 'the tracked table of the domain';
COMMENT ON COLUMN sync.access.via IS 'the access relation: a tracked table, or a view';
COMMENT ON COLUMN sync.access.user_column IS 'its column with the user';
COMMENT ON COLUMN sync.access.scope IS 'its columns with the scope, in the order of the domain''s scope';
COMMENT ON COLUMN sync.access.user_att IS 'number of the column user_column; computed';
COMMENT ON COLUMN sync.access.scope_atts IS 'numbers of the columns scope; computed';
COMMENT ON COLUMN sync.access.tables IS 'the tracked tables whose changes change it; computed';
GRANT SELECT ON sync.access TO PUBLIC;

-- What runs: never dumped, since a restored database begins anew.
CREATE TABLE sync.change_log (
    rel          pg_catalog.oid PRIMARY KEY,
    log          pg_catalog.oid NOT NULL,
    pruned_below pg_catalog.xid8 NOT NULL,
    packed       pg_catalog.bool NOT NULL,
    shape        pg_catalog.jsonb NOT NULL,
    leaves       pg_catalog.oid[] NOT NULL
);
COMMENT ON TABLE sync.change_log IS 'The change log of each tracked table';
COMMENT ON COLUMN sync.change_log.rel IS 'the tracked table';
COMMENT ON COLUMN sync.change_log.log IS 'its log';
COMMENT ON COLUMN sync.change_log.pruned_below IS 'transactions below this one may be missing from the log';
COMMENT ON COLUMN sync.change_log.packed IS 'whether log rows hold arrays of keys';
COMMENT ON COLUMN sync.change_log.shape IS 'what the rows of the table said when DDL was last followed';
COMMENT ON COLUMN sync.change_log.leaves IS 'its partitions at that time';
REVOKE ALL ON sync.change_log FROM PUBLIC;

CREATE TABLE sync.reset_marker (
    rel pg_catalog.oid NOT NULL,
    xid pg_catalog.xid8 NOT NULL
);
CREATE INDEX reset_marker_by_rel ON sync.reset_marker (rel, xid);
COMMENT ON TABLE sync.reset_marker IS 'Transactions that made void what was known of a tracked table';
COMMENT ON COLUMN sync.reset_marker.rel IS 'the tracked table';
COMMENT ON COLUMN sync.reset_marker.xid IS 'the transaction';
COMMENT ON INDEX sync.reset_marker_by_rel IS 'for the probe that every read makes';
REVOKE ALL ON sync.reset_marker FROM PUBLIC;

CREATE TABLE sync.tick (
    at   pg_catalog.timestamptz NOT NULL,
    seen_below pg_catalog.xid8 NOT NULL,
    running pg_catalog.xid8[] NOT NULL
);
CREATE INDEX tick_by_time ON sync.tick (at);
COMMENT ON TABLE sync.tick IS 'Times that stand for snapshots';
COMMENT ON COLUMN sync.tick.at IS 'the time, in whole milliseconds';
COMMENT ON COLUMN sync.tick.seen_below IS 'transactions from this one on were not seen';
COMMENT ON COLUMN sync.tick.running IS 'transactions below that were not seen either';
COMMENT ON INDEX sync.tick_by_time IS 'to find the newest tick, and the newest not after a time';
REVOKE ALL ON sync.tick FROM PUBLIC;

CREATE TABLE sync.generation (
    id pg_catalog.uuid NOT NULL
);
COMMENT ON TABLE sync.generation IS 'Which life of this database this is: one row';
COMMENT ON COLUMN sync.generation.id IS 'made with the extension, and by sync.new_generation()';
INSERT INTO sync.generation VALUES (pg_catalog.gen_random_uuid());
REVOKE ALL ON sync.generation FROM PUBLIC;
