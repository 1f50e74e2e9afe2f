\set ECHO none
\i test/setup.sql
-- What CREATE EXTENSION leaves: every object explained, nothing open to all.
BEGIN;
SELECT plan(26);

SELECT has_extension('sync_ext', 'the extension is installed');
SELECT matches((SELECT extversion FROM pg_extension WHERE extname = 'sync_ext'), '^\d+\.\d+\.\d+$', 'with a version');
SELECT is((SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
		WHERE extname = 'sync_ext'), 'sync', 'in schema sync');
SELECT ok((SELECT NOT extrelocatable FROM pg_extension WHERE extname = 'sync_ext'), 'and stays there');

CREATE TEMP VIEW member AS
SELECT d.classid, d.objid, pg_describe_object(d.classid, d.objid, 0) AS object
FROM pg_depend d JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
WHERE d.deptype = 'e' AND e.extname = 'sync_ext';

-- Row types and array types belong to something that has a comment.
SELECT is_empty($$
	SELECT object FROM member
	WHERE coalesce(CASE WHEN classid = 'pg_namespace'::regclass THEN obj_description(objid, 'pg_namespace')
				ELSE obj_description(objid, (SELECT relname FROM pg_class c WHERE c.oid = classid)) END, '') = ''
	  AND NOT (classid = 'pg_type'::regclass AND EXISTS (
		SELECT FROM pg_type t WHERE t.oid = objid AND (t.typrelid <> 0 OR t.typcategory = 'A')))
$$, 'every object has a comment');
SELECT is_empty($$
	SELECT c.oid::regclass, a.attname
	FROM member m JOIN pg_class c ON m.classid = 'pg_class'::regclass AND c.oid = m.objid AND c.relkind = 'r'
	JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
	WHERE coalesce(col_description(c.oid, a.attnum), '') = ''
	  AND EXISTS (SELECT FROM pg_description d WHERE d.objoid = c.oid AND d.objsubid > 0)
$$, 'a table that explains columns explains all of them');

SELECT is_empty($$
	SELECT p.oid::regprocedure FROM member m JOIN pg_proc p ON m.classid = 'pg_proc'::regclass AND p.oid = m.objid
	JOIN pg_language l ON l.oid = p.prolang
	WHERE (p.prosecdef OR l.lanname = 'plpgsql')
	  AND NOT EXISTS (SELECT FROM unnest(p.proconfig) s WHERE s LIKE 'search\_path=%')
$$, 'no function runs with the search_path of its caller');
SELECT is_empty($$
	SELECT p.oid::regprocedure FROM member m JOIN pg_proc p ON m.classid = 'pg_proc'::regclass AND p.oid = m.objid
	WHERE p.prosecdef AND EXISTS (SELECT FROM unnest(p.proconfig) s
		WHERE s LIKE 'search\_path=%' AND s !~ '(pg_temp|"")$')
$$, 'no SECURITY DEFINER function looks into pg_temp first');
SELECT is_empty($$
	SELECT object FROM member m JOIN pg_class c ON m.classid = 'pg_class'::regclass AND c.oid = m.objid
	CROSS JOIN LATERAL aclexplode(c.relacl) a
	WHERE a.grantee = 0 AND a.privilege_type <> 'SELECT'
$$, 'PUBLIC may write to none of its tables');
SELECT ok(NOT EXISTS (SELECT FROM pg_namespace n, aclexplode(n.nspacl) a
	WHERE n.nspname = 'sync' AND a.grantee = 0 AND a.privilege_type = 'CREATE'), 'PUBLIC cannot create in schema sync');
SELECT ok(EXISTS (SELECT FROM pg_namespace n, aclexplode(n.nspacl) a
	WHERE n.nspname = 'sync' AND a.grantee = 0 AND a.privilege_type = 'USAGE'), 'PUBLIC may use schema sync');
SELECT ok(NOT EXISTS (SELECT FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
	WHERE p.pronamespace = 'sync'::regnamespace AND p.proname IN ('prune', 'new_generation') AND a.grantee = 0),
	'PUBLIC cannot prune and cannot make a generation');
SELECT set_eq($$ SELECT extname FROM pg_depend d JOIN pg_extension r ON d.refobjid = r.oid
	WHERE d.classid = 'pg_extension'::regclass AND d.refclassid = 'pg_extension'::regclass
	  AND d.objid = (SELECT oid FROM pg_extension WHERE extname = 'sync_ext')$$,
	ARRAY['plpgsql']::name[], 'it requires nothing but plpgsql');

CREATE TABLE thing (id int PRIMARY KEY, team int NOT NULL, note text);
SELECT sync.track('thing', 'thing', scope => '{team}');
SELECT ok(EXISTS (SELECT FROM pg_class WHERE oid = to_regclass('sync.log_' || 'thing'::regclass::oid)),
	'track makes a log');
SELECT is((SELECT relacl FROM pg_class WHERE oid = to_regclass('sync.log_' || 'thing'::regclass::oid)
		AND EXISTS (SELECT FROM aclexplode(relacl) a WHERE a.grantee <> relowner)), NULL, 'that is nobody''s but its owner''s');
SELECT ok((SELECT bool_and(NOT has_table_privilege('public', 'sync.log_' || 'thing'::regclass::oid, p))
	FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) p), 'PUBLIC least of all');
SELECT ok(EXISTS (SELECT FROM member WHERE objid = to_regclass('sync.log_' || 'thing'::regclass::oid)),
	'it is a member of the extension, so a dump leaves it out');
SELECT ok(coalesce(obj_description(to_regclass('sync.log_' || 'thing'::regclass::oid), 'pg_class'), '') <> '',
	'it has a comment, too');
SELECT set_eq($$SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = 'thing'::regclass AND NOT tgisinternal$$,
	$$VALUES ('zz_sync_stamp'::name, 'O'::"char"), ('sync_capture', 'A'), ('sync_statement', 'A')$$,
	'replicated rows are captured, and not stamped');
SELECT is((SELECT provolatile FROM pg_proc WHERE oid = 'sync.changes'::regproc), 's', 'changes reads one snapshot: STABLE');
SELECT is((SELECT prosecdef FROM pg_proc WHERE oid = 'sync.changes'::regproc), false, 'with the rights of its caller');
SELECT is((SELECT prosecdef FROM pg_proc WHERE oid = 'sync.pull'::regproc), false, 'as does pull');
SELECT set_has($$ SELECT unnest(extconfig)::regclass::text FROM pg_extension WHERE extname = 'sync_ext' $$,
	$$VALUES ('sync.tracked'), ('sync.cascades')$$, 'a dump carries what is tracked');
SELECT is_empty($$ SELECT c FROM pg_extension, unnest(extconfig) c WHERE extname = 'sync_ext'
	AND c::regclass::text ~ '^sync\.(log_|generation|tick|reset_marker|change_log)' $$, 'and neither log nor generation');
SELECT sync.untrack('thing');
SELECT is((SELECT count(*)::int FROM pg_trigger WHERE tgrelid = 'thing'::regclass), 0, 'untrack leaves no trigger');
SELECT is(to_regclass('sync.log_' || 'thing'::regclass::oid), NULL, 'and no log');

SELECT * FROM finish();
ROLLBACK;
