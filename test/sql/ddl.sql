\set ECHO none
\i test/setup.sql
-- DDL on tracked tables is followed, or answered with a reset; it never breaks a migration.
CREATE SCHEMA t;
SET search_path = t, public;
SELECT plan(55);

CREATE TABLE doc (id int PRIMARY KEY, team int, title text, junk text);
CREATE TABLE quiet (id int PRIMARY KEY);
SELECT sync.track('doc', scope => '{team}');
SELECT sync.track('quiet');
INSERT INTO doc VALUES (1, 1, 'a', 'x'), (2, 1, 'b', 'y');
SELECT helper.sync('c', 'doc'), helper.sync('q', 'quiet') \g /dev/null

-- what changes no row's document
ALTER TABLE doc ADD CHECK (title <> 'forbidden');
CREATE INDEX ON doc (title);
ALTER TABLE doc ALTER title SET STATISTICS 10;
VACUUM FULL doc;
REINDEX TABLE doc;
COMMENT ON TABLE doc IS 'a comment';
SELECT is(helper.sync('c', 'doc'), '', 'constraints, indexes, rewrites in place: no reset');

-- a column more
SELECT lives_ok('ALTER TABLE t.doc ADD more int', 'ADD COLUMN');
UPDATE doc SET more = 1 WHERE id = 1;
SELECT matches(helper.sync('c', 'doc'), '(^| )\+1', 'a row with the new column');
SELECT is(data ->> 'more', '1', 'arrives with it') FROM held WHERE who = 'c' AND key = '{"id": 1}';
SELECT lives_ok('ALTER TABLE t.doc ADD filled int DEFAULT 7', 'ADD COLUMN with a default');
SELECT is(helper.sync('c', 'doc'), 'reset(marker) +1 +2', 'says something of every row: a reset');
SELECT helper.same('c', 'SELECT to_jsonb(d) FROM t.doc d', 'the client holds the new column');

-- a column less, in front of the others
SELECT lives_ok('ALTER TABLE t.doc DROP junk', 'DROP COLUMN');
UPDATE doc SET title = 'A' WHERE id = 1;
INSERT INTO doc (id, team, title) VALUES (3, 2, 'c');
DELETE FROM doc WHERE id = 2;
SELECT helper.sync('c', 'doc') \g /dev/null
SELECT helper.same('c', 'SELECT to_jsonb(d) FROM t.doc d', 'changes after it are right');

-- another name
SELECT lives_ok('ALTER TABLE t.doc RENAME title TO name', 'RENAME COLUMN');
SELECT is(helper.sync('c', 'doc'), 'reset(marker) +1 +3', 'the documents have another shape: a reset');
SELECT helper.same('c', 'SELECT to_jsonb(d) FROM t.doc d', 'the client holds the new name');
SELECT lives_ok('ALTER TABLE t.doc RENAME team TO crew', 'RENAME of a scope column');
UPDATE doc SET crew = 3 WHERE id = 3;
SELECT helper.sync('c', 'doc') \g /dev/null
SELECT helper.same('c', 'SELECT to_jsonb(d) FROM t.doc d', 'changes after it are right, too');
SELECT is(helper.sync('f', 'doc', 'crew = 3'), '+3', 'filters know the new name of the scope');
SELECT lives_ok('ALTER TABLE t.doc RENAME id TO number', 'RENAME of the key');
INSERT INTO doc (number, crew) VALUES (4, 3);
DELETE FROM doc WHERE number = 3;
SELECT is(helper.sync('c', 'doc'), 'reset(marker) +1 +4', 'keys have another name: a reset');
SELECT is(key, '{"number": 4}', 'that they carry') FROM held WHERE who = 'c' AND data ->> 'number' = '4';
SELECT lives_ok('ALTER TABLE t.doc RENAME modified_at TO changed_at', 'RENAME of modified_at');
SELECT lives_ok($$UPDATE t.doc SET name = 'AA' WHERE number = 1$$, 'rows are stamped under its new name');
SELECT helper.sync('c', 'doc') \g /dev/null
SELECT helper.same('c', 'SELECT to_jsonb(d) FROM t.doc d', 'and delivered');
SELECT lives_ok('ALTER TABLE t.doc RENAME TO document', 'RENAME of the table');
INSERT INTO document (number, crew) VALUES (5, 5);
SELECT matches(helper.sync('c', 'doc'), '\+5$', 'keeps the name of the domain');
SELECT helper.same('c', 'SELECT to_jsonb(d) FROM t.document d', 'and every row');
CREATE SCHEMA t2;
SELECT lives_ok('ALTER TABLE t.document SET SCHEMA t2', 'SET SCHEMA');
INSERT INTO t2.document (number, crew) VALUES (6, 6);
SELECT matches(helper.sync('c', 'doc'), '\+6$', 'keeps the domain');
ALTER TABLE t2.document SET SCHEMA t;

-- another type
SELECT lives_ok('ALTER TABLE t.document ALTER name TYPE varchar(100)', 'retype of a column');
SELECT lives_ok('ALTER TABLE t.document ALTER crew TYPE bigint', 'retype of a scope column');
SELECT lives_ok('ALTER TABLE t.document ALTER number TYPE bigint', 'retype of the key');
INSERT INTO document (number, crew) VALUES (5000000000, 5000000000);
DELETE FROM document WHERE number = 6;
SELECT matches(helper.sync('c', 'doc'), '^reset\(marker\) .*\+5000000000$', 'the log followed');
SELECT helper.same('c', 'SELECT to_jsonb(d) FROM t.document d', 'with every value');
SELECT lives_ok('ALTER TABLE t.document ALTER number TYPE text USING ''n'' || number', 'retype of the key to text');
DELETE FROM document WHERE number = 'n5';
SELECT matches(helper.sync('c', 'doc'), '^reset\(marker\) .*\+n5000000000$', 'the log followed that, too');
SELECT helper.same('c', 'SELECT to_jsonb(d) FROM t.document d', 'with every key');
SELECT is(helper.sync('c', 'doc'), '', 'and nothing twice');
SELECT is(helper.sync('q', 'quiet'), '', 'no other domain felt anything');

-- a migration that fails leaves all as it was
DO $$ BEGIN
	ALTER TABLE t.document RENAME name TO label;
	ALTER TABLE t.document ALTER number TYPE int USING 1;
EXCEPTION WHEN OTHERS THEN NULL;
END $$;
INSERT INTO document (number, crew, name) VALUES ('n7', 7, 'seven');
SELECT is(helper.sync('c', 'doc'), '+n7', 'DDL rolled back is no DDL');

-- the key goes
SET client_min_messages = error;
SELECT lives_ok('ALTER TABLE t.document DROP number CASCADE', 'DROP of the key is the user''s right');
SELECT isnt(helper.outcome($$SELECT * FROM sync.changes('doc')$$), 'XX000', 'the domain says so, if anything');
SET client_min_messages = warning;
SELECT lives_ok($$INSERT INTO t.document (crew, name) VALUES (8, 'eight')$$, 'the table is still written');
SELECT lives_ok('DROP TABLE t.document', 'DROP TABLE');
SELECT helper.refused($$SELECT * FROM sync.changes('doc')$$, '42704', 'doc', 'its domain is unknown');
CREATE TABLE doc (id int PRIMARY KEY);
SELECT sync.track('doc');
INSERT INTO doc VALUES (1);
SELECT matches(helper.sync('c', 'doc'), '^reset\([a-z_]+\) \+1$', 'a cursor of the former domain is a reset');
DROP TABLE doc;

-- attach, detach
CREATE TABLE part (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10);
SELECT sync.track('part');
CREATE TABLE part_2 (id int NOT NULL, v int, modified_at timestamptz NOT NULL DEFAULT now());
INSERT INTO part VALUES (1, 1);
INSERT INTO part_2 VALUES (11, 11);
SELECT helper.sync('p', 'part') \g /dev/null
SELECT lives_ok('ALTER TABLE t.part ATTACH PARTITION t.part_2 FOR VALUES FROM (10) TO (20)', 'ATTACH PARTITION with rows');
SELECT is(helper.sync('p', 'part'), 'reset(marker) +1 +11', 'a reset brings them');
UPDATE part SET v = 12 WHERE id = 11;
SELECT is(helper.sync('p', 'part'), '+11', 'and they are tracked');
SELECT lives_ok('ALTER TABLE t.part DETACH PARTITION t.part_2', 'DETACH PARTITION with rows');
SELECT is(helper.sync('p', 'part'), 'reset(marker) +1', 'a reset takes them away');
INSERT INTO part_2 VALUES (12, 12);
SELECT is(helper.sync('p', 'part'), '', 'and they are tracked no more');
SELECT lives_ok('DROP TABLE t.part_1', 'DROP of a partition with rows');
SELECT is(helper.sync('p', 'part'), 'reset(marker)', 'is a reset');
DROP TABLE part, part_2;

-- a source view of another shape
CREATE TABLE base (id int PRIMARY KEY, a int, b int);
SELECT current_setting('server_version_num')::int >= 150000 AS has_invoker \gset
\if :has_invoker
CREATE VIEW shown WITH (security_invoker = true) AS SELECT id, a FROM base;
\else
CREATE VIEW shown AS SELECT id, a FROM base;
\endif
SELECT sync.track('base', source => 'shown');
INSERT INTO base VALUES (1, 1, 1);
SELECT helper.sync('v', 'base') \g /dev/null
\if :has_invoker
CREATE OR REPLACE VIEW shown WITH (security_invoker = true) AS SELECT id, a, b FROM base;
\else
CREATE OR REPLACE VIEW shown AS SELECT id, a, b FROM base;
\endif
SELECT is(helper.sync('v', 'base'), 'reset(marker) +1', 'a source view replaced: a reset');
SELECT helper.same('v', 'SELECT to_jsonb(s) FROM t.shown s', 'of its new documents');
SELECT lives_ok('DROP SCHEMA t CASCADE', 'DROP SCHEMA of tracked tables');
SELECT is((SELECT count(*)::int FROM pg_class WHERE relnamespace = 'sync'::regnamespace AND relname LIKE 'log\_%'), 0, 'leaves no log');

SELECT * FROM finish();
DROP SCHEMA t2;
