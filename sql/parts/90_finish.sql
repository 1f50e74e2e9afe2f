-- ---------------------------------------------------------------------------
-- Dump
-- ---------------------------------------------------------------------------

-- What was asked for is dumped; the logs, markers and ticks are of this
-- database only.
SELECT pg_catalog.pg_extension_config_dump('sync.tracked', '');
SELECT pg_catalog.pg_extension_config_dump('sync.cascades', '');

-- Journals are data.
SELECT pg_catalog.pg_extension_config_dump('sync.streams', '');
SELECT pg_catalog.pg_extension_config_dump('sync.streams_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('sync.stream_security', '');
SELECT pg_catalog.pg_extension_config_dump('sync.entry', '');
SELECT pg_catalog.pg_extension_config_dump('sync.stream_snapshot', '');
SELECT pg_catalog.pg_extension_config_dump('sync.stream_trimmed', '');
SELECT pg_catalog.pg_extension_config_dump('sync.entry_ledger', '');
