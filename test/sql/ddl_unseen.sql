\set ECHO none
\i test/setup.sql
-- DDL that takes away what tracking needs: nothing goes unseen in silence, and nothing crashes.
CREATE SCHEMA t;
SET search_path = t, public;
SELECT plan(24);
CREATE FUNCTION pg_temp.quietly(command text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('client_min_messages', 'error', true);
	EXECUTE command;
	RETURN 'done';
END $$;

-- a trigger dropped
CREATE TABLE a (id int PRIMARY KEY, v int);
SELECT sync.track('a');
INSERT INTO a VALUES (1, 1);
SELECT helper.sync('a', 'a') \g /dev/null
SELECT is(pg_temp.quietly('DROP TRIGGER sync_capture ON t.a'), 'done', 'a trigger may be dropped');
SELECT lives_ok('INSERT INTO t.a VALUES (2, 2)', 'the table is written');
SELECT helper.refused($$SELECT * FROM sync.changes('a')$$, '42704', 'a', 'but its domain ends, rather than miss a row');
SELECT sync.track('a');
SELECT matches(helper.sync('a', 'a'), '^reset\([a-z_]+\) \+1 \+2$', 'tracked again: everything is there');

-- a trigger disabled
SELECT is(pg_temp.quietly('ALTER TABLE t.a DISABLE TRIGGER sync_capture'), 'done', 'a trigger may be disabled');
INSERT INTO a VALUES (3, 3);
SELECT is(pg_temp.quietly('ALTER TABLE t.a ENABLE ALWAYS TRIGGER sync_capture'), 'done', 'and enabled');
SELECT is(helper.sync('a', 'a'), 'reset(marker) +1 +2 +3', 'a reset brings what was missed');
SELECT is(pg_temp.quietly('ALTER TABLE t.a DISABLE TRIGGER USER'), 'done', 'all triggers disabled');
INSERT INTO a VALUES (4, 4, now());
SELECT is(pg_temp.quietly('ALTER TABLE t.a ENABLE TRIGGER USER'), 'done', 'and enabled');
SELECT is(helper.sync('a', 'a'), 'reset(marker) +1 +2 +3 +4', 'a reset again');
INSERT INTO a VALUES (5, 5);
SELECT is(helper.sync('a', 'a'), '+5', 'then all is as before');

-- modified_at of another type
SELECT is(pg_temp.quietly('ALTER TABLE t.a ALTER modified_at DROP DEFAULT, ALTER modified_at TYPE text'), 'done', 'modified_at retyped');
SELECT lives_ok($$INSERT INTO t.a VALUES (6, 6, 'some text')$$, 'an INSERT crashes nothing');
SELECT lives_ok($$UPDATE t.a SET v = 7$$, 'nor does an UPDATE');
SELECT helper.refused($$SELECT * FROM sync.changes('a')$$, '42704', 'a', 'the domain has ended');
DROP TABLE a;

-- a reset is complete, whatever the client says to have
CREATE TABLE b (id int PRIMARY KEY, v int);
SELECT sync.track('b');
INSERT INTO b VALUES (1, 1), (2, 2);
SELECT helper.sync('b', 'b') \g /dev/null
SELECT jsonb_build_array(jsonb_build_object('id', 1, 'modified_at', modified_at)) AS one FROM b WHERE id = 1 \gset
ALTER TABLE b ADD more int DEFAULT 7;
SELECT is(helper.sync('b', 'b', exclude => :'one'), 'reset(marker) +1 +2', 'an excluded row that DDL changed comes all the same');
SELECT helper.same('b', 'SELECT to_jsonb(b) FROM t.b', 'so the client holds the new column');
DROP TABLE b;

-- columns that go with their types
CREATE TYPE kind AS ENUM ('x', 'y');
CREATE TABLE c (id int PRIMARY KEY, team int, kind kind, v int);
SELECT sync.track('c', scope => '{kind}');
INSERT INTO c VALUES (1, 1, 'x', 1);
SELECT helper.sync('c', 'c') \g /dev/null
ALTER TYPE kind RENAME VALUE 'x' TO 'z';
SELECT is(helper.sync('c', 'c'), 'reset(marker) +1', 'an enum''s label renamed: the rows say something else');
SELECT helper.same('c', 'SELECT to_jsonb(c) FROM t.c', 'which the client gets');
SELECT is(pg_temp.quietly('DROP TYPE t.kind CASCADE'), 'done', 'a scope column that went with its type');
SELECT lives_ok('INSERT INTO t.c (id, v) VALUES (2, 2)', 'the table is written');
SELECT matches(helper.sync('c', 'c'), '^reset\([a-z_]+\) \+1 \+2$', 'and its changes are seen');
SELECT helper.same('c', 'SELECT to_jsonb(c) FROM t.c', 'all of them');
DROP TABLE c;

-- a table that a crash would empty
CREATE TABLE d (id int PRIMARY KEY);
SELECT sync.track('d');
SELECT is(pg_temp.quietly('ALTER TABLE t.d SET UNLOGGED'), 'done', 'SET UNLOGGED is the user''s right');
DROP TABLE d;

SELECT * FROM finish();
DROP SCHEMA t CASCADE;
