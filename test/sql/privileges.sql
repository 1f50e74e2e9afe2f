\set ECHO none
\i test/setup.sql
-- Rights are the caller's: rows, columns and removals alike; the log is nobody's.
CREATE SCHEMA t;
SET search_path = t, public;
SELECT plan(45);
CREATE ROLE regress_sync_owner;
CREATE ROLE regress_sync_reader;
CREATE ROLE regress_sync_stranger;
GRANT USAGE ON SCHEMA t TO regress_sync_reader, regress_sync_stranger;
GRANT USAGE, CREATE ON SCHEMA t TO regress_sync_owner;

-- an owner who is no superuser
SET ROLE regress_sync_owner;
CREATE TABLE doc (id int PRIMARY KEY, team text, title text, secret text);
CREATE TABLE part (id int PRIMARY KEY, doc int REFERENCES doc);
SELECT lives_ok($$SELECT sync.track('t.doc', scope => '{team}')$$, 'an owner tracks');
SELECT lives_ok($$SELECT sync.cascade('t.part', 't.doc')$$, 'cascades');
SELECT lives_ok($$INSERT INTO t.doc VALUES (1, 'red', 'a', 's1'), (2, 'blue', 'b', 's2')$$, 'writes');
SELECT lives_ok($$INSERT INTO t.part VALUES (1, 1)$$, 'touches');
SELECT lives_ok($$SELECT sync.touch('doc', '{"id": 1}')$$, 'sends a row again');
SELECT is(helper.sync('owner', 'doc'), '+1 +2', 'reads');
SELECT lives_ok($$ALTER TABLE t.doc ADD more int DEFAULT 1$$, 'alters');
SELECT is(helper.sync('owner', 'doc'), 'reset(marker) +1 +2', 'reads again');
SELECT lives_ok($$SELECT sync.describe('doc')$$, 'describes');
SELECT lives_ok($$SELECT sync.reset('doc')$$, 'resets');
SELECT helper.fails($$SELECT * FROM sync.log_$$ || 't.doc'::regclass::oid, '42501', 'and does not read the log');
RESET ROLE;

-- nobody
SET ROLE regress_sync_stranger;
SELECT helper.fails($$SELECT * FROM sync.changes('doc')$$, '42501', 'no SELECT, no changes');
SELECT helper.fails($$SELECT sync.pull('{"domains": {"doc": {}}}')$$, '42501', 'no pull');
SELECT helper.fails($$SELECT * FROM sync.changes('doc', sync.current_cursor())$$, '42501', 'not even where nothing is new');
SELECT helper.fails($$SELECT sync.touch('doc', '{"id": 1}')$$, '42501', 'no touch');
SELECT helper.fails($$SELECT sync.reset('doc')$$, '42501', 'no reset');
SELECT helper.fails($$SELECT sync.cascade('t.part', 't.doc')$$, '42501', 'no cascade');
SELECT helper.fails($$SELECT sync.prune()$$, '42501', 'no prune');
SELECT helper.fails($$SELECT sync.new_generation()$$, '42501', 'no new generation');
SELECT helper.fails($$SELECT * FROM sync.log_$$ || 't.doc'::regclass::oid, '42501', 'no log');
SELECT helper.fails($$INSERT INTO sync.tracked SELECT * FROM sync.tracked$$, '42501', 'no writing to the configuration');
SELECT helper.fails($$DELETE FROM sync.reset_marker$$, '42501', 'nor to the markers');
SELECT helper.fails($$DELETE FROM sync.tick$$, '42501', 'nor to the ticks');
SELECT helper.fails($$UPDATE sync.generation SET ctid = ctid$$, '42501|0A000|42703', 'nor to the generation');
RESET ROLE;

-- a reader of some columns: the question must be answerable from them
GRANT SELECT (id, team, title) ON t.doc TO regress_sync_reader;
SET ROLE regress_sync_reader;
SELECT helper.fails($$SELECT * FROM sync.changes('doc')$$, '42501', 'a right to some columns is none to whole rows');
SELECT helper.fails($$SELECT * FROM sync.changes('doc', NULL, 'secret = ''s1''')$$, '42501', 'nor to a filter over others');
RESET ROLE;

-- row-level security over scope columns
REVOKE ALL ON t.doc FROM regress_sync_reader;
GRANT SELECT, INSERT, UPDATE, DELETE ON t.doc TO regress_sync_reader;
ALTER TABLE t.doc ENABLE ROW LEVEL SECURITY;
CREATE POLICY red ON t.doc TO regress_sync_reader USING (team = 'red') WITH CHECK (true);
SET ROLE regress_sync_reader;
SELECT is(helper.sync('reader', 'doc'), '+1', 'row-level security: only what the reader may see');
RESET ROLE;
UPDATE t.doc SET title = 'B' WHERE id = 2;
DELETE FROM t.doc WHERE id = 2;
INSERT INTO t.doc VALUES (3, 'red', 'c', 's3'), (4, 'blue', 'd', 's4');
SET ROLE regress_sync_reader;
SELECT is(helper.sync('reader', 'doc'), '+3', 'nobody hears of a key that they could not read, nor of its end');
RESET ROLE;
UPDATE t.doc SET team = 'blue' WHERE id = 1;
UPDATE t.doc SET team = 'red' WHERE id = 4;
DELETE FROM t.doc WHERE id = 3;
SET ROLE regress_sync_reader;
SELECT is(helper.sync('reader', 'doc'), '-1 -3 +4', 'rows leave and enter what the reader may see');
SELECT helper.same('reader', 'SELECT to_jsonb(d) FROM t.doc d', 'the reader holds what SELECT shows');
SELECT is(helper.sync('reader2', 'doc', 'team = ''blue'''), '', 'a filter opens nothing');
SELECT lives_ok($$INSERT INTO t.doc VALUES (5, 'red', 'e', 's5')$$, 'a reader who may write');
SELECT lives_ok($$UPDATE t.doc SET title = 'E' WHERE id = 5$$, 'writes the log');
SELECT lives_ok($$DELETE FROM t.doc WHERE id = 5$$, 'though it may not');
SELECT is(helper.sync('reader', 'doc'), '-5', 'and gets its own removal');
SELECT lives_ok($$SET LOCAL row_security = off$$, 'row_security = off');
SELECT helper.fails($$SET row_security = off; SELECT * FROM sync.changes('doc')$$, '42501', 'is no way around the policies');
RESET row_security;
RESET ROLE;

-- a policy over what is neither key nor scope: removals cannot be judged
SET client_min_messages = error;
CREATE POLICY mine ON t.doc AS RESTRICTIVE TO regress_sync_reader USING (secret <> 'hidden');
SET client_min_messages = warning;
SELECT helper.sync('super', 'doc') \g /dev/null
DELETE FROM t.doc WHERE id = 4;
SET ROLE regress_sync_reader;
SELECT helper.refused($$SELECT * FROM sync.changes('doc', (SELECT c FROM kept WHERE who = 'reader'))$$, '0A000|42501|55000', 'doc', 'a policy over other columns: refused, with a hint');
RESET ROLE;
SELECT is(helper.sync('super', 'doc'), '-4', 'who is above the policies is not concerned');
SET ROLE regress_sync_owner;
SELECT lives_ok($$SELECT * FROM sync.changes('doc')$$, 'nor is the owner');
RESET ROLE;

-- a revoked right counts at once; a source view asks for its own
REVOKE SELECT ON t.doc FROM regress_sync_reader;
SET ROLE regress_sync_reader;
SELECT helper.fails($$SELECT * FROM sync.changes('doc')$$, '42501', 'a right that was revoked');
RESET ROLE;
CREATE TABLE t.base (id int PRIMARY KEY, v int);
CREATE TABLE t.extra (id int PRIMARY KEY, base int REFERENCES t.base);
CREATE VIEW t.whole AS SELECT b.*, (SELECT count(*) FROM t.extra e WHERE e.base = b.id) AS extras FROM t.base b;
SELECT current_setting('server_version_num')::int >= 150000 AS has_invoker \gset
\if :has_invoker
ALTER VIEW t.whole SET (security_invoker = true);
\endif
SELECT sync.track('t.base', source => 't.whole');
INSERT INTO t.base VALUES (1, 1);
GRANT SELECT ON t.base TO regress_sync_reader;
SET ROLE regress_sync_reader;
SELECT helper.fails($$SELECT * FROM sync.changes('base')$$, '42501', 'a source view asks for the right to it');
RESET ROLE;
GRANT SELECT ON t.whole TO regress_sync_reader;
REVOKE SELECT ON t.base FROM regress_sync_reader;
SET ROLE regress_sync_reader;
SELECT helper.fails($$SELECT * FROM sync.changes('base')$$, '42501', 'and for the right to the table');
RESET ROLE;

-- functions of the reader's own search_path are not ours
CREATE SCHEMA evil AUTHORIZATION regress_sync_reader;
GRANT SELECT ON t.base, t.extra TO regress_sync_reader;
SET ROLE regress_sync_reader;
CREATE FUNCTION evil.to_jsonb(anyelement) RETURNS jsonb LANGUAGE sql AS 'SELECT ''"evil"''::jsonb';
CREATE FUNCTION evil.eq(int, int) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT false';
CREATE OPERATOR evil.= (LEFTARG = int, RIGHTARG = int, FUNCTION = evil.eq);
SET search_path = evil, pg_catalog, t, public;
SELECT is((SELECT data ->> 'v' FROM sync.changes('base') WHERE op = 'upsert'), '1', 'the caller''s search_path has no say');
SELECT is(sync.pull('{"domains": {"base": {}}}') #>> '{domains,base,upsert,0,v}', '1', 'in pull neither');
SET search_path = t, public;
RESET ROLE;

SELECT * FROM finish();
SET client_min_messages = error;
DROP SCHEMA evil CASCADE;
DROP SCHEMA t CASCADE;
DROP ROLE regress_sync_owner, regress_sync_reader, regress_sync_stranger;
