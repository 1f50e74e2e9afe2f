\set ECHO none
\i test/setup.sql
-- Row-level security: rows and removals follow the caller's policies, as they are now.
\set SHOW_CONTEXT never
CREATE SCHEMA t;
SET search_path = t, public;
SELECT plan(65);
CREATE ROLE regress_sync_owner;
CREATE ROLE regress_sync_red;
CREATE ROLE regress_sync_blue;
CREATE ROLE regress_sync_team;
CREATE ROLE regress_sync_above BYPASSRLS;
GRANT USAGE ON SCHEMA t TO regress_sync_red, regress_sync_blue, regress_sync_above;
GRANT USAGE, CREATE ON SCHEMA t TO regress_sync_owner;

SET ROLE regress_sync_owner;
CREATE TABLE doc (id int PRIMARY KEY, team text, title text, secret text, valid_until timestamptz);
GRANT SELECT ON doc TO regress_sync_red, regress_sync_blue, regress_sync_above;
RESET ROLE;

-- ---- what is warned of, and what is not ----
-- The expected output holds the warnings.

-- nobody is asked as long as row-level security is off
CREATE POLICY early ON doc USING (secret = 'x');
SELECT sync.track('doc', scope => '{team}');
SELECT results_eq($$SELECT * FROM sync.unlogged_policies('t.doc')$$,
	$$VALUES ('early'::name, 'It looks at column "secret", which is neither key nor scope.')$$, 'policies can be listed beforehand');
\echo # enabled: a warning of "early"
ALTER TABLE doc ENABLE ROW LEVEL SECURITY;
\echo # no warning: other DDL
ALTER TABLE doc ADD more int;
ALTER TABLE doc ALTER more SET DEFAULT 1, ALTER title SET STATISTICS 10;
DROP POLICY early ON doc;
\echo # no warning: key, scope, settings, roles, functions of settings, other commands
CREATE FUNCTION whoami() RETURNS text LANGUAGE sql AS $$ SELECT current_setting('app.me', true) $$;
CREATE POLICY p1 ON doc USING (team = 'red' AND id > 0);
CREATE POLICY p2 ON doc USING (team = current_setting('app.team', true) OR team = current_user OR team = t.whoami());
CREATE POLICY p3 ON doc USING (id = ANY (string_to_array(current_setting('app.ids', true), ',')::int[]));
CREATE POLICY p4 ON doc USING (CASE WHEN current_setting('app.every', true) = 'on' THEN true ELSE team IS NULL END);
CREATE POLICY p5 ON doc FOR INSERT WITH CHECK (secret = 'x');
CREATE POLICY p6 ON doc FOR UPDATE USING (secret = 'x');
CREATE POLICY p7 ON doc FOR DELETE USING (secret = 'x');
CREATE POLICY p8 ON doc WITH CHECK (secret = 'x');
SELECT is_empty($$SELECT * FROM sync.unlogged_policies('t.doc')$$, 'policies that the log can answer');
\echo # a warning of each: another column, the whole row, a subquery, the time, a function of columns
CREATE FUNCTION may(text) RETURNS bool STABLE LANGUAGE sql AS $$ SELECT true $$;
CREATE POLICY u1 ON doc FOR SELECT USING (secret = 'x');
CREATE POLICY u2 ON doc USING (doc IS NOT NULL);
CREATE POLICY u3 ON doc USING (EXISTS (SELECT FROM pg_class c WHERE c.relname = doc.team));
CREATE POLICY u4 ON doc USING (now() < '2030-01-01');
CREATE POLICY u5 ON doc AS RESTRICTIVE USING (t.may(team));
\echo # a warning: one that changes
ALTER POLICY p1 ON doc USING (team = 'red' AND title <> '');
SELECT is((SELECT string_agg(policy, ' ') FROM sync.unlogged_policies('t.doc')), 'p1 u1 u2 u3 u4 u5', 'policies that it cannot answer');
DROP POLICY u1 ON doc; DROP POLICY u2 ON doc; DROP POLICY u3 ON doc; DROP POLICY u5 ON doc; DROP POLICY p1 ON doc;
\echo # a warning of "u4": tracked while they are there
SELECT sync.untrack('doc');
SELECT sync.track('doc', scope => '{team,title}');
DROP POLICY u4 ON doc;
CREATE POLICY u6 ON doc USING (title <> '');
\echo # two warnings: the scope loses a column, a policy loses its ground
SELECT sync.untrack('doc');
ALTER TABLE doc ADD extra int;
SELECT sync.track('doc', scope => '{team,extra}');
DROP POLICY u6 ON doc;
CREATE POLICY u7 ON doc USING (extra = 1);
ALTER TABLE doc DROP extra CASCADE;
SELECT is_empty($$SELECT * FROM sync.unlogged_policies('t.doc')$$, 'it went with the column');
\echo # end of warnings
SELECT sync.untrack('doc');
SELECT is_empty($$SELECT * FROM sync.unlogged_policies('t.doc')$$, 'a table that is not tracked has none');
SELECT lives_ok($$CREATE POLICY free ON t.doc USING (secret = 'x')$$, 'nor is it warned of');
DROP POLICY free ON doc;
DROP POLICY p2 ON doc; DROP POLICY p3 ON doc; DROP POLICY p4 ON doc; DROP POLICY p5 ON doc; DROP POLICY p6 ON doc; DROP POLICY p7 ON doc; DROP POLICY p8 ON doc;
SET client_min_messages = error;
SET ROLE regress_sync_owner;
SELECT lives_ok($$SELECT sync.track('t.doc', scope => '{team}')$$, 'an owner who is no superuser tracks a table with policies');
SELECT lives_ok($$CREATE POLICY mine ON t.doc USING (secret = 'x')$$, 'and makes one that cannot be answered');
DROP POLICY mine ON doc;
SELECT helper.fails($$SELECT sync.why_unlogged(polrelid, polqual, '{}') FROM pg_policy$$, '42501', 'what is internal is not theirs');
RESET ROLE;

-- ---- settings: what they say is part of the question ----

INSERT INTO doc (id, team) VALUES (1, 'red'), (2, 'blue'), (3, NULL);
CREATE POLICY p ON doc USING (team = current_setting('app.team', true));
SET ROLE regress_sync_red;
SELECT is(helper.sync('a', 'doc'), '', 'a setting that is not there: no rows');
SET app.team = 'red';
SELECT is(helper.sync('a', 'doc'), 'reset(other_question) +1', 'a setting changed: another question');
SELECT is(helper.sync('a', 'doc'), '', 'and then the same one again');
RESET ROLE;
UPDATE doc SET title = 'x';
SET ROLE regress_sync_red;
BEGIN;
SET LOCAL app.team = 'red';
SELECT is(helper.sync('a', 'doc'), '+1', 'set for a transaction it says the same');
COMMIT;
SET app.team = 'blue';
SELECT is(helper.sync('a', 'doc'), 'reset(other_question) +2', 'somebody else''s cursor is a reset');
RESET ROLE;
DELETE FROM doc WHERE id IN (1, 2);
SET ROLE regress_sync_red;
SELECT is(helper.sync('a', 'doc'), '-2', 'only its own removal');
RESET ROLE;

-- a function of the user's that nobody called stable
ALTER POLICY p ON doc USING (team = t.whoami());
INSERT INTO doc (id, team) VALUES (1, 'red'), (2, 'blue');
SET app.me = 'red';
SET ROLE regress_sync_red;
SELECT is(helper.sync('f', 'doc'), '+1', 'a volatile function');
SELECT is(helper.sync('f', 'doc'), '', 'that says the same');
SET app.me = 'blue';
SELECT is(helper.sync('f', 'doc'), 'reset(other_question) +2', 'and now something else');
RESET ROLE;
CREATE OR REPLACE FUNCTION whoami() RETURNS text STABLE LANGUAGE sql AS $$ SELECT 'red'::text $$;
SET ROLE regress_sync_red;
SELECT is(helper.sync('f', 'doc'), 'reset(other_question) +1', 'or was replaced');
RESET ROLE;

-- numbers and lists
ALTER POLICY p ON doc USING (id = nullif(current_setting('app.id', true), '')::int
	OR id = ANY (string_to_array(current_setting('app.ids', true), ',')::int[]));
SET ROLE regress_sync_red;
SET app.id = '';
SELECT is(helper.sync('g', 'doc'), '', 'a setting that is empty');
SELECT is(helper.sync('g', 'doc'), '', 'also in a delta');
SET app.id = '2';
SELECT is(helper.sync('g', 'doc'), 'reset(other_question) +2', 'a number');
SET app.ids = '1,3';
SELECT is(helper.sync('g', 'doc'), 'reset(other_question) +1 +2 +3', 'a list');
RESET ROLE;
DELETE FROM doc WHERE id = 3;
UPDATE doc SET id = 4 WHERE id = 2;
SET ROLE regress_sync_red;
SELECT is(helper.sync('g', 'doc'), '-2 -3', 'removals by key');
SET app.id = 'x';
SELECT helper.fails($$SELECT * FROM sync.changes('doc')$$, '22P02', 'what cannot be read fails as a query does');
RESET app.id; RESET app.ids;
RESET ROLE;

-- a CASE, a row that is NULL in its scope
ALTER POLICY p ON doc USING (CASE WHEN team IS NULL THEN current_setting('app.every', true) = 'on' ELSE team = 'red' END);
INSERT INTO doc (id, team) VALUES (3, NULL);
SET ROLE regress_sync_red;
SELECT is(helper.sync('n', 'doc'), '+1', 'NULL in the scope');
SET app.every = 'on';
SELECT is(helper.sync('n', 'doc'), 'reset(other_question) +1 +3', 'a setting inside CASE');
RESET ROLE;
UPDATE doc SET team = 'blue' WHERE id = 3;
SET ROLE regress_sync_red;
SELECT is(helper.sync('n', 'doc'), '-3', 'out of NULL');
RESET ROLE;
RESET app.every;

-- who one is
ALTER POLICY p ON doc USING ('regress_sync_' || team = current_user);
SET ROLE regress_sync_red;
SELECT is(helper.sync('w', 'doc'), '+1', 'current_user');
RESET ROLE; SET ROLE regress_sync_blue;
SELECT is(helper.sync('w', 'doc'), 'reset(other_question) +3 +4', 'another user with the same cursor');
RESET ROLE;

-- ---- policies that change are followed ----

ALTER POLICY p ON doc USING (team = 'red');
TRUNCATE doc;
INSERT INTO doc (id, team, title, secret) SELECT i, CASE WHEN i % 2 = 0 THEN 'blue' ELSE 'red' END, 'x', 's' FROM generate_series(1, 6) i;
SELECT helper.sync('super', 'doc') \g /dev/null
SET ROLE regress_sync_above; SELECT helper.sync('above', 'doc') \g /dev/null
RESET ROLE; SET ROLE regress_sync_owner; SELECT helper.sync('owner', 'doc') \g /dev/null
RESET ROLE; SET ROLE regress_sync_red;
SELECT is(helper.sync('r', 'doc'), '+1 +3 +5', 'a policy');
RESET ROLE;
CREATE POLICY more ON doc TO regress_sync_blue USING (id = 2);
SET ROLE regress_sync_red;
SELECT is(helper.sync('r', 'doc'), '', 'one more, for somebody else');
RESET ROLE;
ALTER POLICY more ON doc TO regress_sync_team;
GRANT regress_sync_team TO regress_sync_red;
SET ROLE regress_sync_red;
SELECT is(helper.sync('r', 'doc'), 'reset(other_question) +1 +2 +3 +5', 'one that came by membership in a role');
RESET ROLE;
REVOKE regress_sync_team FROM regress_sync_red;
SET ROLE regress_sync_red;
SELECT is(helper.sync('r', 'doc'), 'reset(other_question) +1 +3 +5', 'and went with it');
RESET ROLE;
CREATE POLICY less ON doc AS RESTRICTIVE USING (id < 4);
SET ROLE regress_sync_red;
SELECT is(helper.sync('r', 'doc'), 'reset(other_question) +1 +3', 'a restrictive one');
RESET ROLE;
DELETE FROM doc WHERE id IN (3, 5);
UPDATE doc SET id = 7 WHERE id = 1;
UPDATE doc SET id = 1 WHERE id = 2;
UPDATE doc SET team = 'red' WHERE id = 1;
SET ROLE regress_sync_red;
SELECT is(helper.sync('r', 'doc'), '-3 +1', 'both must have let the old row through');
RESET ROLE;
ALTER POLICY less ON doc USING (id < 5);
SET ROLE regress_sync_red;
SELECT is(helper.sync('r', 'doc'), 'reset(other_question) +1', 'altered');
RESET ROLE;
ALTER POLICY less ON doc RENAME TO fewer;
SET ROLE regress_sync_red;
SELECT is(helper.sync('r', 'doc'), '', 'renamed: as before');
RESET ROLE;
DROP POLICY fewer ON doc;
SET ROLE regress_sync_red;
SELECT is(helper.sync('r', 'doc'), 'reset(other_question) +1 +7', 'dropped');
RESET ROLE;
ALTER TABLE doc DISABLE ROW LEVEL SECURITY;
SET ROLE regress_sync_red;
SELECT is(helper.sync('r', 'doc'), 'reset(other_question) +1 +4 +6 +7', 'row-level security disabled');
RESET ROLE;
ALTER TABLE doc ENABLE ROW LEVEL SECURITY;
DROP POLICY p ON doc;
SET ROLE regress_sync_red;
SELECT is(helper.sync('r', 'doc'), 'reset(other_question)', 'enabled, and no policy for the role');
RESET ROLE;
SELECT is(helper.sync('super', 'doc'), '-2 -3 -5 +1 +7', 'a superuser is not concerned');
SET ROLE regress_sync_above;
SELECT is(helper.sync('above', 'doc'), '-2 -3 -5 +1 +7', 'nor who bypasses row-level security');
RESET ROLE; SET ROLE regress_sync_owner;
SELECT is(helper.sync('owner', 'doc'), '-2 -3 -5 +1 +7', 'nor the owner');
RESET ROLE;
CREATE POLICY p ON doc USING (team = 'red');
ALTER TABLE doc FORCE ROW LEVEL SECURITY;
SET ROLE regress_sync_owner;
SELECT is(helper.sync('owner', 'doc'), 'reset(other_question) +1 +7', 'unless it is forced');
RESET ROLE;
ALTER TABLE doc NO FORCE ROW LEVEL SECURITY;
BEGIN;
SELECT helper.sync('super', 'doc') \g /dev/null
ALTER POLICY p ON doc USING (team = 'blue');
SET LOCAL ROLE regress_sync_red;
SELECT is(helper.sync('own', 'doc'), '+4 +6', 'a policy of the own transaction');
ROLLBACK;
SET ROLE regress_sync_red;
SELECT is(helper.sync('r', 'doc'), 'reset(other_question) +1 +7', 'is gone when it is undone');
RESET ROLE;

-- ---- nobody hears of what they could not read ----

SET ROLE regress_sync_red; SELECT helper.sync('r', 'doc') \g /dev/null
RESET ROLE;
BEGIN;
INSERT INTO doc (id, team) VALUES (10, 'blue');
UPDATE doc SET team = 'red' WHERE id = 10;
UPDATE doc SET team = 'blue' WHERE id = 10;
COMMIT;
SET ROLE regress_sync_red;
SELECT is(helper.sync('r', 'doc'), '', 'a row that passed through within a transaction');
RESET ROLE;
UPDATE doc SET team = 'red' WHERE id = 10;
DELETE FROM doc WHERE id = 10;
INSERT INTO doc (id, team) VALUES (10, 'blue');
SET ROLE regress_sync_red;
SELECT is(helper.sync('r', 'doc'), '-10', 'one that it could have read in between');
RESET ROLE;
-- a filter is evaluated after the policies: it cannot spy on the log
CREATE FUNCTION spy(text, int) RETURNS bool IMMUTABLE LANGUAGE plpgsql COST 0.0001 AS $$
BEGIN
	IF $1 <> 'red' THEN RAISE 'seen: % %', $1, $2; END IF;
	RETURN true;
END $$;
SET ROLE regress_sync_red;
SELECT is(helper.sync('spy', 'doc', 't.spy(team, id)'), '+1 +7', 'a function that tells');
RESET ROLE;
UPDATE doc SET title = 'y';
DELETE FROM doc WHERE id = 4;
UPDATE doc SET team = 'blue' WHERE id = 7;
SET ROLE regress_sync_red;
SELECT is(helper.sync('spy', 'doc', 't.spy(team, id)'), '-7 +1', 'is told nothing of others, neither by rows nor by the log');
SELECT is(helper.sync('r', 'doc', max_rows => 1), '-7 | +1 | -7', 'in pages');
RESET ROLE;

-- ---- policies that the log cannot answer ----

CREATE TABLE friend (who text, team text, PRIMARY KEY (who, team));
GRANT SELECT ON friend TO regress_sync_red, regress_sync_blue;
INSERT INTO friend VALUES ('regress_sync_red', 'red');
SET ROLE regress_sync_red; SELECT helper.sync('r', 'doc') \g /dev/null
RESET ROLE;
ALTER POLICY p ON doc USING (secret = 's');
SET ROLE regress_sync_red;
SELECT helper.refused($$SELECT * FROM sync.changes('doc', sync.current_cursor())$$, '0A000', 'column "secret"', 'another column');
SELECT lives_ok($$SELECT * FROM sync.changes('doc')$$, 'a first load can be answered');
RESET ROLE;
ALTER POLICY p ON doc USING (EXISTS (SELECT FROM t.friend f WHERE f.who = current_user AND f.team = doc.team));
SET ROLE regress_sync_red;
SELECT helper.refused($$SELECT * FROM sync.changes('doc', sync.current_cursor())$$, '0A000', 'subquery', 'a subquery');
RESET ROLE;
ALTER POLICY p ON doc USING (t.may(team));
SET ROLE regress_sync_red;
SELECT helper.refused($$SELECT * FROM sync.changes('doc', sync.current_cursor())$$, '0A000', 'not immutable', 'a function of columns that may look anywhere');
RESET ROLE;
ALTER POLICY p ON doc USING (team = 'red' AND current_timestamp < '2100-01-01');
SET ROLE regress_sync_red;
SELECT helper.refused($$SELECT * FROM sync.changes('doc', sync.current_cursor())$$, '0A000', 'time', 'the time');
RESET ROLE;
ALTER POLICY p ON doc USING (team = 'red' AND now() - interval '1 year' < '2100-01-01');
SET ROLE regress_sync_red;
SELECT helper.refused($$SELECT * FROM sync.changes('doc', sync.current_cursor())$$, '0A000', 'time', 'a time made of it');
RESET ROLE;
ALTER POLICY p ON doc USING (random() >= 0);
SET ROLE regress_sync_red;
SELECT helper.refused($$SELECT * FROM sync.changes('doc', sync.current_cursor())$$, '0A000', 'doc', 'chance');
RESET ROLE;
ALTER POLICY p ON doc USING (false AND secret = 's' OR team = 'red');
SET ROLE regress_sync_red;
SELECT is(helper.sync('s', 'doc'), '+1', 'an arm that is settled');
SELECT is(helper.sync('s', 'doc'), '', 'asks for no column');
RESET ROLE;
CREATE POLICY open ON doc USING (secret = 's');
SET ROLE regress_sync_red;
SELECT helper.refused($$SELECT * FROM sync.changes('doc', sync.current_cursor())$$, '0A000', 'secret', 'one of several that let rows through');
RESET ROLE; SET ROLE regress_sync_above;
SELECT is(helper.sync('above', 'doc'), '-4 +1 +6 +7 +10', 'who bypasses them is not concerned');
RESET ROLE;
DROP POLICY open ON doc;

-- ---- partitions: the root's policies hold ----

CREATE TABLE part (id int, team text, title text, PRIMARY KEY (id, team)) PARTITION BY LIST (team);
CREATE TABLE part_red PARTITION OF part FOR VALUES IN ('red');
CREATE TABLE part_rest PARTITION OF part DEFAULT;
ALTER TABLE part ENABLE ROW LEVEL SECURITY;
ALTER TABLE part_rest ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON part USING (team = 'red');
GRANT SELECT ON part TO regress_sync_red;
SELECT sync.track('part', scope => '{team}');
INSERT INTO part VALUES (1, 'red'), (2, 'blue');
SET ROLE regress_sync_red;
SELECT is(helper.sync('p', 'part'), '+1,red', 'a partitioned table');
RESET ROLE;
UPDATE part SET team = 'red' WHERE id = 2;
UPDATE part SET team = 'blue' WHERE id = 1;
INSERT INTO part_rest VALUES (3, 'green');
DELETE FROM part_rest;
SET ROLE regress_sync_red;
SELECT is(helper.sync('p', 'part'), '-1,red +2,red', 'rows that move between partitions');
RESET ROLE;

SELECT * FROM finish();
SET client_min_messages = error;
DROP SCHEMA t CASCADE;
DROP ROLE regress_sync_owner, regress_sync_red, regress_sync_blue, regress_sync_team, regress_sync_above;
