-- ---------------------------------------------------------------------------
-- Dump
-- ---------------------------------------------------------------------------

-- What was asked for is dumped; the logs, markers and ticks are of this
-- database only.
SELECT pg_catalog.pg_extension_config_dump('sync.tracked', '');
SELECT pg_catalog.pg_extension_config_dump('sync.cascades', '');
