-- sync_ext: the install script. Built from sql/parts, in order.
\echo Use "CREATE EXTENSION sync_ext" to load this file. \quit

-- The script is run with the schema "sync" first on search_path, which may be
-- a schema that was there before: so every name is qualified, and nothing is
-- created OR REPLACE or IF NOT EXISTS.
SET LOCAL search_path TO pg_catalog, pg_temp;

COMMENT ON SCHEMA sync IS 'sync_ext: exact deltas, change events and cursors for offline-capable clients';
GRANT USAGE ON SCHEMA sync TO PUBLIC;
