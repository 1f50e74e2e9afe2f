-- sync_ext: the install script. Built from sql/parts, in order.
\echo Use "CREATE EXTENSION sync_ext" to load this file. \quit

-- The script is run with the schema "sync" first on search_path, which may be
-- a schema that was there before: so every name is qualified, and nothing is
-- created OR REPLACE or IF NOT EXISTS.
SET LOCAL search_path TO pg_catalog, pg_temp;

-- Functions here run as a superuser and call each other by name, so nobody
-- else may own the schema, create in it, or have left anything in it.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_namespace n
                WHERE n.nspname = 'sync'
                  AND (NOT (SELECT r.rolsuper FROM pg_roles r WHERE r.oid = n.nspowner)
                       OR EXISTS (SELECT FROM aclexplode(n.nspacl) a
                                   WHERE a.privilege_type = 'CREATE' AND a.grantee <> n.nspowner)
                       OR EXISTS (SELECT FROM pg_proc p WHERE p.pronamespace = n.oid)
                       OR EXISTS (SELECT FROM pg_operator o WHERE o.oprnamespace = n.oid)
                       OR EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = n.oid))) THEN
        RAISE EXCEPTION 'schema "sync" is not safe to install into'
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  DETAIL = 'Somebody other than a superuser owns it or may create in it, or it is not empty.',
                  HINT = 'Drop or rename it; CREATE EXTENSION makes it.';
    END IF;
END
$$;

COMMENT ON SCHEMA sync IS 'sync_ext: exact deltas, change events and cursors for offline-capable clients';
GRANT USAGE ON SCHEMA sync TO PUBLIC;
