-- ---------------------------------------------------------------------------
-- Event triggers
-- ---------------------------------------------------------------------------

-- Last of all, or they would fire for what is made above.
CREATE EVENT TRIGGER sync_ext_follow_rewrite ON table_rewrite
    EXECUTE FUNCTION sync.follow_rewrite();
COMMENT ON EVENT TRIGGER sync_ext_follow_rewrite IS 'resets tables whose rows DDL rewrites';
ALTER EVENT TRIGGER sync_ext_follow_rewrite ENABLE ALWAYS;

CREATE EVENT TRIGGER sync_ext_follow_ddl ON ddl_command_end
    WHEN TAG IN ('ALTER TABLE', 'ALTER TYPE', 'CREATE RULE', 'CREATE SCHEMA', 'CREATE TABLE', 'CREATE VIEW', 'ALTER VIEW', 'CREATE INDEX', 'ALTER INDEX', 'ALTER TRIGGER', 'CREATE TRIGGER')
    EXECUTE FUNCTION sync.follow_ddl();
COMMENT ON EVENT TRIGGER sync_ext_follow_ddl IS 'follows DDL on tracked tables';
CREATE EVENT TRIGGER sync_ext_follow_drop ON sql_drop
    EXECUTE FUNCTION sync.follow_drop();
COMMENT ON EVENT TRIGGER sync_ext_follow_drop IS 'forgets tracked tables that are dropped';
ALTER EVENT TRIGGER sync_ext_follow_ddl ENABLE ALWAYS;
ALTER EVENT TRIGGER sync_ext_follow_drop ENABLE ALWAYS;
-- ---------------------------------------------------------------------------
-- Dump
-- ---------------------------------------------------------------------------

-- What was asked for is dumped; the logs, markers and ticks are of this
-- database only.
SELECT pg_catalog.pg_extension_config_dump('sync.tracked', '');
SELECT pg_catalog.pg_extension_config_dump('sync.cascades', '');
SELECT pg_catalog.pg_extension_config_dump('sync.access', '');

-- Journals are data.
SELECT pg_catalog.pg_extension_config_dump('sync.streams', '');
SELECT pg_catalog.pg_extension_config_dump('sync.streams_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('sync.stream_security', '');
SELECT pg_catalog.pg_extension_config_dump('sync.entry', '');
SELECT pg_catalog.pg_extension_config_dump('sync.stream_snapshot', '');
SELECT pg_catalog.pg_extension_config_dump('sync.stream_trimmed', '');
SELECT pg_catalog.pg_extension_config_dump('sync.entry_ledger', '');
