-- ---------------------------------------------------------------------------
-- Row-level security
-- ---------------------------------------------------------------------------

CREATE FUNCTION sync.why_unlogged(rel pg_catalog.oid, policy pg_catalog.pg_node_tree, logged pg_catalog.int2[]) RETURNS pg_catalog.text
    LANGUAGE C STABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'sync_ext_why_unlogged';
COMMENT ON FUNCTION sync.why_unlogged(pg_catalog.oid, pg_catalog.pg_node_tree, pg_catalog.int2[]) IS 'Internal: why the log of a table, with these columns, cannot answer a policy; NULL if it can';
REVOKE ALL ON FUNCTION sync.why_unlogged(pg_catalog.oid, pg_catalog.pg_node_tree, pg_catalog.int2[]) FROM PUBLIC;

-- As the owner of the extension, who may call the above; it shows no more than
-- pg_policies does.
CREATE FUNCTION sync.unlogged_policies(rel pg_catalog.regclass)
    RETURNS TABLE (policy pg_catalog.name, reason pg_catalog.text)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p.polname, why.reason
      FROM sync.tracked t
      JOIN pg_policy p ON p.polrelid = t.rel AND p.polcmd IN ('r', '*')
     CROSS JOIN LATERAL (SELECT sync.why_unlogged(p.polrelid, p.polqual, t.key_atts || t.scope_atts)) AS why(reason)
     WHERE t.rel = unlogged_policies.rel AND why.reason IS NOT NULL
     ORDER BY p.polname
$$;
COMMENT ON FUNCTION sync.unlogged_policies(pg_catalog.regclass) IS 'Policies of a tracked table that its log cannot answer, so that roles they hold for get deltas only with user_id';
GRANT EXECUTE ON FUNCTION sync.unlogged_policies(pg_catalog.regclass) TO PUBLIC;

CREATE FUNCTION sync.warn_of_policies(root pg_catalog.oid, only_policy pg_catalog.name) RETURNS pg_catalog.void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    SET jit = off
AS $$
DECLARE
    p record;
BEGIN
    IF NOT (SELECT c.relrowsecurity FROM pg_class c WHERE c.oid = root) THEN
        RETURN;
    END IF;
    FOR p IN SELECT * FROM sync.unlogged_policies(root) AS u WHERE only_policy IS NULL OR u.policy = only_policy LOOP
        RAISE WARNING 'policy "%" on % cannot be decided from its change log', p.policy, root::regclass
            USING DETAIL = p.reason || ' Nobody can say who could read a row that is gone, so for roles that the policy holds for a delta without user_id fails.',
                  HINT = 'Let policies look at key and scope columns, settings and roles; or have an application server ask, with user_id or for roles that bypass row-level security.';
    END LOOP;
END
$$;
COMMENT ON FUNCTION sync.warn_of_policies(pg_catalog.oid, pg_catalog.name) IS 'Internal: warns of policies that the log cannot answer, of all or of one';
REVOKE ALL ON FUNCTION sync.warn_of_policies(pg_catalog.oid, pg_catalog.name) FROM PUBLIC;

-- The scope decides what the log can answer, so it is looked at when a table
-- is tracked, and when its scope loses a column.
CREATE FUNCTION sync.look_at_policies() RETURNS pg_catalog.trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM sync.warn_of_policies(NEW.rel::oid, NULL);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION sync.look_at_policies() IS 'Trigger: warns of policies that the log of a table cannot answer';
REVOKE ALL ON FUNCTION sync.look_at_policies() FROM PUBLIC;

CREATE TRIGGER look_at_policies AFTER INSERT ON sync.tracked
    FOR EACH ROW EXECUTE FUNCTION sync.look_at_policies();
CREATE TRIGGER look_at_policies_again AFTER UPDATE OF scope_atts ON sync.tracked
    FOR EACH ROW WHEN (OLD.scope_atts IS DISTINCT FROM NEW.scope_atts)
    EXECUTE FUNCTION sync.look_at_policies();

CREATE FUNCTION sync.enables_row_security(command pg_catalog.pg_ddl_command) RETURNS pg_catalog.bool
    LANGUAGE C STABLE STRICT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'sync_ext_enables_row_security';
COMMENT ON FUNCTION sync.enables_row_security(pg_catalog.pg_ddl_command) IS 'Internal: whether an ALTER TABLE enables row-level security';
REVOKE ALL ON FUNCTION sync.enables_row_security(pg_catalog.pg_ddl_command) FROM PUBLIC;

-- Cursors notice by themselves that policies are others now; this only warns,
-- and must not break a migration.
CREATE FUNCTION sync.follow_policies() RETURNS pg_catalog.event_trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET jit = off
AS $$
DECLARE
    d record;
BEGIN
    FOR d IN
        SELECT p.polrelid AS root, p.polname AS policy
          FROM pg_event_trigger_ddl_commands() AS c
          JOIN pg_policy p ON c.classid = 'pg_policy'::regclass AND p.oid = c.objid
         UNION
        SELECT c.objid, NULL
          FROM pg_event_trigger_ddl_commands() AS c
         WHERE c.classid = 'pg_class'::regclass AND sync.enables_row_security(c.command)
    LOOP
        PERFORM sync.warn_of_policies(d.root, d.policy);
    END LOOP;
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'could not look at a policy: %', SQLERRM;
END
$$;
COMMENT ON FUNCTION sync.follow_policies() IS 'Event trigger: warns of policies that the log of a tracked table cannot answer';
REVOKE ALL ON FUNCTION sync.follow_policies() FROM PUBLIC;

CREATE EVENT TRIGGER sync_ext_follow_policies ON ddl_command_end
    WHEN TAG IN ('CREATE POLICY', 'ALTER POLICY', 'ALTER TABLE')
    EXECUTE FUNCTION sync.follow_policies();
COMMENT ON EVENT TRIGGER sync_ext_follow_policies IS 'warns of policies that the log of a tracked table cannot answer';
ALTER EVENT TRIGGER sync_ext_follow_policies ENABLE ALWAYS;
