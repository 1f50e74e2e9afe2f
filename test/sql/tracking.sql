\set ECHO none
\i test/setup.sql
-- Every way in which a row changes reaches the client; what changes nothing does not.
-- Statements commit one by one: a client never counts its own transaction as seen.
CREATE SCHEMA t;
SET search_path = t, public;
SELECT plan(142);

-- Key types: load, insert, update, delete.
CREATE TYPE mood AS ENUM ('sad', 'ok', 'glad');
CREATE DOMAIN code AS text CHECK (VALUE ~ '^[a-z]+$');
CREATE DOMAIN codes AS code;
CREATE TEMP TABLE kinds (kind text, type text, one text, two text, PRIMARY KEY (kind));
INSERT INTO kinds VALUES
	('k_int', 'int', '1', '2'), ('k_smallint', 'smallint', '-1', '2'), ('k_bigint', 'bigint', '1', '9223372036854775807'),
	('k_text', 'text', 'a "quoted", key', ''), ('k_varchar', 'varchar(40)', 'a', 'b'), ('k_char', 'char(3)', 'abc', 'xyz'),
	('k_uuid', 'uuid', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'),
	('k_numeric', 'numeric', '1.50', '123456789012345678901234567890.5'), ('k_float', 'float8', '0.1', '1e+100'),
	('k_date', 'date', '2026-01-01', '2026-12-31'), ('k_ts', 'timestamptz', '2026-01-01T00:00:00.123456+00:00', '2026-12-31T00:00:00+00:00'),
	('k_time', 'time', '12:00:00', '23:59:59.999'), ('k_interval', 'interval', '1 day', '2 mons'),
	('k_bool', 'bool', 'true', 'false'), ('k_enum', 't.mood', 'sad', 'glad'), ('k_bytea', 'bytea', '\x00ff', '\x'),
	('k_array', 'int[]', '{1,2}', '{}'), ('k_textarray', 'text[]', '{a,"b c",NULL}', '{}'),
	('k_domain', 't.code', 'a', 'b'), ('k_domains', 't.codes', 'a', 'b'), ('k_inet', 'inet', '10.0.0.1', '::1'),
	('k_jsonb', 'jsonb', '{"a": 1}', '[]'), ('k_range', 'int4range', '[1,5)', 'empty');
CREATE FUNCTION pg_temp.each(command text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE r record;
BEGIN
	FOR r IN SELECT * FROM kinds LOOP
		EXECUTE replace(replace(replace(replace(command, '%kind', r.kind), '%type', r.type), '%one', quote_literal(r.one)), '%two', quote_literal(r.two));
	END LOOP;
END $$;
-- what a client calls a key: the value as PostgreSQL's own JSON
CREATE FUNCTION pg_temp.json(kind text, value text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE j jsonb;
BEGIN
	EXECUTE format('SELECT jsonb_build_object(''k'', %L::%s)', value, (SELECT type FROM kinds k WHERE k.kind = json.kind)) INTO j;
	RETURN helper.short(j);
END $$;
SELECT pg_temp.each('CREATE TABLE %kind (k %type PRIMARY KEY, v int)');
SELECT pg_temp.each('INSERT INTO %kind VALUES (%one, 1)');
SELECT pg_temp.each('SELECT sync.track(''%kind'')');
SELECT is(helper.sync(kind, kind), '+' || pg_temp.json(kind, one), type || ' as a key: loaded') FROM kinds ORDER BY kind COLLATE "C";
SELECT pg_temp.each('INSERT INTO %kind VALUES (%two, 1)');
SELECT is(helper.sync(kind, kind), '+' || pg_temp.json(kind, two), type || ' as a key: inserted') FROM kinds ORDER BY kind COLLATE "C";
SELECT pg_temp.each('UPDATE %kind SET v = 2 WHERE k = %one; DELETE FROM %kind WHERE k = %two');
SELECT is(helper.sync(kind, kind), '-' || pg_temp.json(kind, two) || ' +' || pg_temp.json(kind, one), type || ' as a key: updated and deleted')
	FROM kinds ORDER BY kind COLLATE "C";
SET client_min_messages = error;
SELECT pg_temp.each('DROP TABLE %kind');
SET client_min_messages = warning;

-- A key of several columns, in another order than the table's.
CREATE TABLE pair (b text, v int, a int, PRIMARY KEY (a, b));
SELECT sync.track('pair');
INSERT INTO pair VALUES ('x', 0, 1), ('y', 0, 1), ('x', 0, 2);
SELECT is(helper.sync('pair', 'pair'), '+1,x +1,y +2,x', 'composite key');
UPDATE pair SET v = 1 WHERE (a, b) = (1, 'y');
DELETE FROM pair WHERE a = 2;
SELECT is(helper.sync('pair', 'pair'), '-2,x +1,y', 'composite key: each part counts');
UPDATE pair SET a = 3 WHERE b = 'y';
SELECT is(helper.sync('pair', 'pair'), '-1,y +3,y', 'a key that changes leaves and enters');
UPDATE pair SET b = CASE b WHEN 'x' THEN 'z' ELSE 'x' END;
SELECT helper.sync('pair', 'pair') \g /dev/null
SELECT helper.same('pair', 'SELECT to_jsonb(p) FROM t.pair p', 'keys that swap');
DROP TABLE pair;

-- A unique key that is not the primary one; dropped columns before it.
CREATE TABLE other (gone int, id int PRIMARY KEY, gone2 text, slug text NOT NULL UNIQUE, v int);
ALTER TABLE other DROP COLUMN gone, DROP COLUMN gone2;
SELECT sync.track('other', 'others', key => '{slug}');
INSERT INTO other VALUES (1, 'one', 1), (2, 'two', 1);
SELECT is(helper.sync('other', 'others'), '+one +two', 'another unique key, a domain of another name');
UPDATE other SET v = 2 WHERE id = 1;
DELETE FROM other WHERE id = 2;
SELECT is(helper.sync('other', 'others'), '-two +one', 'and its changes');
SELECT is(helper.sync('other', 'others'), '', 'nothing twice');
DROP TABLE other;

-- One table, many statements.
CREATE TABLE doc (id int PRIMARY KEY, title text, team int, twice int GENERATED ALWAYS AS (team * 2) STORED);
SELECT sync.track('doc', scope => '{team}');
SELECT is(helper.sync('c', 'doc'), '', 'an empty table');
INSERT INTO doc VALUES (1, 'a', 1), (2, 'b', 1), (3, 'c', 2);
SELECT is(helper.sync('c', 'doc'), '+1 +2 +3', 'INSERT of several rows');
UPDATE doc SET title = 'A' WHERE id = 1;
SELECT is(helper.sync('c', 'doc'), '+1', 'UPDATE');
UPDATE doc SET title = title;
SELECT is(helper.sync('c', 'doc'), '', 'an UPDATE that changes nothing, past a generated column');
UPDATE doc SET title = 'A', team = 1 WHERE id = 1;
SELECT is(helper.sync('c', 'doc'), '', 'an UPDATE to the same values');
UPDATE doc SET modified_at = now() - interval '1 year';
SELECT is(helper.sync('c', 'doc'), '', 'an UPDATE of the stamp alone');
UPDATE doc SET title = NULL WHERE id = 1;
SELECT is(helper.sync('c', 'doc'), '+1', 'a value becomes NULL');
UPDATE doc SET team = 3 WHERE id = 1;
SELECT is(helper.sync('c', 'doc'), '+1', 'a scope that changes');
DELETE FROM doc WHERE id = 2;
SELECT is(helper.sync('c', 'doc'), '-2', 'DELETE');
INSERT INTO doc VALUES (2, 'b', 1);
DELETE FROM doc WHERE id = 2;
SELECT is(helper.sync('c', 'doc'), '-2', 'inserted and deleted since');
DELETE FROM doc WHERE id = 3;
INSERT INTO doc VALUES (3, 'cc', 2);
SELECT is(helper.sync('c', 'doc'), '+3', 'deleted and inserted since');
COPY doc (id, title, team) FROM STDIN;
10	copied	1
11	copied	2
\.
SELECT is(helper.sync('c', 'doc'), '+10 +11', 'COPY');
INSERT INTO doc VALUES (10, 'again', 1), (12, 'new', 1) ON CONFLICT (id) DO UPDATE SET title = excluded.title;
SELECT is(helper.sync('c', 'doc'), '+10 +12', 'ON CONFLICT DO UPDATE');
INSERT INTO doc VALUES (10, 'thrice', 1), (13, 'new', 1) ON CONFLICT DO NOTHING;
SELECT is(helper.sync('c', 'doc'), '+13', 'ON CONFLICT DO NOTHING');
WITH gone AS (DELETE FROM doc WHERE id = 13 RETURNING *), moved AS (INSERT INTO doc (id, title) SELECT id + 1, title FROM gone RETURNING *)
UPDATE doc SET title = 'cte' FROM moved WHERE doc.id = 12;
SELECT is(helper.sync('c', 'doc'), '-13 +12 +14', 'three commands in one statement');
SELECT current_setting('server_version_num')::int >= 150000 AS has_merge \gset
\if :has_merge
MERGE INTO doc d USING (VALUES (10), (11), (15)) AS s(id) ON d.id = s.id
	WHEN MATCHED AND s.id = 10 THEN DELETE WHEN MATCHED THEN UPDATE SET title = 'merged' WHEN NOT MATCHED THEN INSERT (id) VALUES (s.id);
\else
DELETE FROM doc WHERE id = 10;
INSERT INTO doc (id) VALUES (11), (15) ON CONFLICT (id) DO UPDATE SET title = 'merged';
\endif
SELECT is(helper.sync('c', 'doc'), '-10 +11 +15', 'MERGE');
CREATE VIEW through AS SELECT id, title FROM doc;
UPDATE through SET title = 'view' WHERE id = 15;
SELECT is(helper.sync('c', 'doc'), '+15', 'through a view');
BEGIN;
INSERT INTO doc (id) VALUES (20);
ROLLBACK;
SELECT is(helper.sync('c', 'doc'), '', 'nothing of a rollback');
BEGIN;
INSERT INTO doc (id) VALUES (20);
SAVEPOINT s;
INSERT INTO doc (id) VALUES (21);
UPDATE doc SET title = 'x' WHERE id = 20;
ROLLBACK TO s;
INSERT INTO doc (id) VALUES (22);
SAVEPOINT r;
INSERT INTO doc (id) VALUES (23);
RELEASE r;
COMMIT;
SELECT is(helper.sync('c', 'doc'), '+20 +22 +23', 'of savepoints what was kept');
DO $$
BEGIN
	INSERT INTO t.doc (id) VALUES (30);
	BEGIN
		INSERT INTO t.doc (id) VALUES (31);
		INSERT INTO t.doc (id) VALUES (30);
	EXCEPTION WHEN unique_violation THEN
		INSERT INTO t.doc (id) VALUES (32);
	END;
END $$;
SELECT is(helper.sync('c', 'doc'), '+30 +32', 'of exception blocks what was kept');
BEGIN;
INSERT INTO doc (id) VALUES (40);
DECLARE cur CURSOR FOR SELECT * FROM doc WHERE id = 40 FOR UPDATE;
MOVE cur;
UPDATE doc SET title = 'current' WHERE CURRENT OF cur;
COMMIT;
SELECT is(helper.sync('c', 'doc'), '+40', 'WHERE CURRENT OF');
SELECT is(data ->> 'title', 'current', 'with the newest values') FROM held WHERE who = 'c' AND key = '{"id": 40}';
SET session_replication_role = replica;
INSERT INTO doc VALUES (41, 'replicated', 1, DEFAULT, '2020-01-01 00:00:00+00');
SET session_replication_role = origin;
SELECT is(helper.sync('c', 'doc'), '+41', 'a replicated row is captured');
SELECT is(modified_at, '2020-01-01 00:00:00+00', 'and not stamped') FROM doc WHERE id = 41;
CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER no BEFORE UPDATE OR DELETE ON doc FOR EACH ROW WHEN (old.id = 40) EXECUTE FUNCTION no();
UPDATE doc SET title = 'no' WHERE id = 40;
DELETE FROM doc WHERE id = 40;
SELECT is(helper.sync('c', 'doc'), '', 'a row that another trigger held back');
CREATE FUNCTION more() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.title := new.title || '!'; RETURN new; END $$;
CREATE TRIGGER more BEFORE UPDATE ON doc FOR EACH ROW EXECUTE FUNCTION more();
UPDATE doc SET title = title WHERE id = 41;
SELECT is(helper.sync('c', 'doc'), '+41', 'a row that another trigger changed');
DROP TRIGGER more ON doc;
SELECT helper.same('c', 'SELECT to_jsonb(d) FROM t.doc d', 'after all that the client holds the table');
SELECT is(helper.sync('d', 'doc'), (SELECT string_agg('+' || id, ' ' ORDER BY length(id::text), id) FROM doc), 'a new client, too');
SELECT helper.same('d', 'SELECT to_jsonb(d) FROM t.doc d', 'holds the table');
SELECT is(helper.sync('c', 'doc'), '', 'and nothing twice');
SELECT sync.touch('doc', '{"id": 20}') IS NOT NULL AS touched \gset
SELECT ok(:'touched', 'touch answers the new time');
SELECT is(helper.sync('c', 'doc'), '+20', 'touch sends a row again');
SELECT helper.same('c', 'SELECT to_jsonb(d) FROM t.doc d', 'with its new stamp');
SELECT sync.reset('doc');
SELECT matches(helper.sync('c', 'doc'), '^reset\(marker\) \+1 \+3 \+11 ', 'reset sends the domain again');
SELECT helper.same('c', 'SELECT to_jsonb(d) FROM t.doc d', 'all of it');
DROP TABLE doc CASCADE;

-- Wide values stay out of line and count.
CREATE TABLE wide (id int PRIMARY KEY, a text, b text);
ALTER TABLE wide ALTER a SET STORAGE EXTERNAL, ALTER b SET STORAGE EXTERNAL;
SELECT sync.track('wide');
INSERT INTO wide VALUES (1, repeat('a', 100000), repeat('b', 100000));
SELECT helper.sync('w', 'wide') \g /dev/null
UPDATE wide SET a = a, b = repeat('b', 100000);
SELECT is(helper.sync('w', 'wide'), '', 'equal wide values are no change');
UPDATE wide SET b = repeat('b', 99999) || 'c';
SELECT is(helper.sync('w', 'wide'), '+1', 'one character in a wide value is one');
DROP TABLE wide;

-- Foreign keys that act.
CREATE TABLE boss (id int PRIMARY KEY);
CREATE TABLE d_cascade (id int PRIMARY KEY, boss int REFERENCES boss ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE d_null (id int PRIMARY KEY, boss int REFERENCES boss ON DELETE SET NULL ON UPDATE SET NULL);
CREATE TABLE d_default (id int PRIMARY KEY, boss int DEFAULT 3 REFERENCES boss ON DELETE SET DEFAULT);
SELECT sync.track(r) FROM unnest('{boss,d_cascade,d_null,d_default}'::regclass[]) r;
INSERT INTO boss VALUES (1), (2), (3);
INSERT INTO d_cascade VALUES (1, 1), (2, 2);
INSERT INTO d_null VALUES (1, 1), (2, 2);
INSERT INTO d_default VALUES (1, 1);
SELECT helper.sync(d, d) FROM unnest('{boss,d_cascade,d_null,d_default}'::text[]) d \g /dev/null
DELETE FROM boss WHERE id = 1;
SELECT is(helper.sync('boss', 'boss'), '-1', 'a master deleted');
SELECT is(helper.sync('d_cascade', 'd_cascade'), '-1', 'ON DELETE CASCADE');
SELECT is(helper.sync('d_null', 'd_null'), '+1', 'ON DELETE SET NULL');
SELECT is(helper.sync('d_default', 'd_default'), '+1', 'ON DELETE SET DEFAULT');
UPDATE boss SET id = 4 WHERE id = 2;
SELECT is(helper.sync('boss', 'boss'), '-2 +4', 'a master''s key changed');
SELECT is(helper.sync('d_cascade', 'd_cascade'), '+2', 'ON UPDATE CASCADE');
SELECT is(helper.sync('d_null', 'd_null'), '+2', 'ON UPDATE SET NULL');
DROP TABLE boss, d_cascade, d_null, d_default;

-- Partitions.
CREATE TABLE part (id int, region int, v int, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1);
-- columns in another order, with a hole
CREATE TABLE part_2 (v int, hole text, region int NOT NULL, id int NOT NULL);
ALTER TABLE part_2 DROP COLUMN hole;
ALTER TABLE part ATTACH PARTITION part_2 FOR VALUES IN (2);
CREATE TABLE part_3 PARTITION OF part FOR VALUES IN (3, 4) PARTITION BY LIST (region);
CREATE TABLE part_3_3 PARTITION OF part_3 FOR VALUES IN (3);
SELECT sync.track('part');
INSERT INTO part SELECT r, r, 0 FROM generate_series(1, 3) r;
SELECT is(helper.sync('p', 'part'), '+1,1 +2,2 +3,3', 'a partitioned table, to any depth');
UPDATE part SET v = 1 WHERE id IN (2, 3);
SELECT is(helper.sync('p', 'part'), '+2,2 +3,3', 'UPDATE in partitions of other shapes');
UPDATE part SET region = 2, v = 2 WHERE id = 1;
SELECT is(helper.sync('p', 'part'), '-1,1 +1,2', 'a row moved to another partition');
INSERT INTO part_2 (id, region, v) VALUES (9, 2, 9);
UPDATE part_2 SET v = 10 WHERE id = 2;
DELETE FROM part_3_3;
SELECT is(helper.sync('p', 'part'), '-3,3 +2,2 +9,2', 'written to a partition directly');
CREATE TABLE part_4 PARTITION OF part_3 FOR VALUES IN (4);
INSERT INTO part VALUES (4, 4, 4);
SELECT is(helper.sync('p', 'part'), '+4,4', 'a partition that came later');
BEGIN;
INSERT INTO part_1 VALUES (50, 1, 0);
SAVEPOINT s;
UPDATE part SET v = 99;
ROLLBACK TO s;
COMMIT;
SELECT is(helper.sync('p', 'part'), '+50,1', 'a leaf''s row survives the rollback of what came after it');
SELECT helper.same('p', 'SELECT to_jsonb(p) FROM t.part p', 'the client holds the partitioned table');
DROP TABLE part;

-- A key that may be doubled for a while.
CREATE TABLE shifted (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, v int);
SELECT sync.track('shifted');
INSERT INTO shifted VALUES (1, 1), (2, 2), (3, 3);
SELECT helper.sync('sh', 'shifted') \g /dev/null
UPDATE shifted SET id = id + 1;
SELECT helper.sync('sh', 'shifted') \g /dev/null
SELECT helper.same('sh', 'SELECT to_jsonb(s) FROM t.shifted s', 'deferrable keys that shift');
BEGIN;
INSERT INTO shifted VALUES (2, 20);
DELETE FROM shifted WHERE v = 1;
COMMIT;
SELECT helper.sync('sh', 'shifted') \g /dev/null
SELECT helper.same('sh', 'SELECT to_jsonb(s) FROM t.shifted s', 'a row replaced by another of its key');
DROP TABLE shifted;

-- Soft deletion.
CREATE TABLE soft (id int PRIMARY KEY, v int, deleted_at timestamptz);
SELECT sync.track('soft', deleted_at => 'deleted_at');
INSERT INTO soft VALUES (1, 1, NULL), (2, 2, NULL), (3, 3, now());
SELECT is(helper.sync('s', 'soft'), '+1 +2', 'a row marked deleted is not loaded');
UPDATE soft SET deleted_at = now() WHERE id = 1;
SELECT is(helper.sync('s', 'soft'), '-1', 'marking a row deletes it');
UPDATE soft SET deleted_at = NULL WHERE id IN (1, 3);
SELECT is(helper.sync('s', 'soft'), '+1 +3', 'unmarking it brings it back');
DROP TABLE soft;

-- Several source tables in one document.
CREATE TABLE bill (id int PRIMARY KEY, customer text);
CREATE TABLE line (id int PRIMARY KEY, bill int REFERENCES bill, amount numeric);
SELECT current_setting('server_version_num')::int >= 150000 AS has_invoker \gset
\if :has_invoker
CREATE VIEW bill_doc WITH (security_invoker = true) AS
	SELECT b.id, b.customer, (SELECT jsonb_agg(l.amount ORDER BY l.id) FROM line l WHERE l.bill = b.id) AS lines FROM bill b;
\else
CREATE VIEW bill_doc AS
	SELECT b.id, b.customer, (SELECT jsonb_agg(l.amount ORDER BY l.id) FROM line l WHERE l.bill = b.id) AS lines FROM bill b;
\endif
SELECT sync.track('bill', source => 'bill_doc');
SELECT sync.cascade('line', 'bill');
INSERT INTO bill VALUES (1, 'Ada'), (2, 'Bob');
INSERT INTO line VALUES (1, 1, 1.50), (2, 1, 2.25), (3, 2, 7);
SELECT is(helper.sync('b', 'bill'), '+1 +2', 'documents of a source view');
SELECT helper.same('b', 'SELECT to_jsonb(d) FROM t.bill_doc d', 'complete');
UPDATE line SET amount = 8.00 WHERE id = 3;
SELECT is(helper.sync('b', 'bill'), '+2', 'another table of the view changes the document');
SELECT helper.same('b', 'SELECT to_jsonb(d) FROM t.bill_doc d', 'and brings it, with numerics unrounded');
DELETE FROM line WHERE bill = 1;
DELETE FROM bill WHERE id = 1;
SELECT is(helper.sync('b', 'bill'), '-1', 'a document that is gone');
SET client_min_messages = error;
DROP VIEW bill_doc CASCADE;
SET client_min_messages = warning;
DROP TABLE line, bill;

-- Tracking keeps HOT updates HOT.
CREATE TABLE hot (id int PRIMARY KEY, v int) WITH (fillfactor = 50);
SELECT sync.track('hot');
INSERT INTO hot VALUES (1, 1);
BEGIN;
SELECT pg_stat_get_xact_tuples_hot_updated('hot'::regclass) AS before \gset
UPDATE hot SET v = 2;
SELECT is(pg_stat_get_xact_tuples_hot_updated('hot'::regclass) - :before, 1::bigint, 'an update that was HOT stays so');
ROLLBACK;
DROP TABLE hot;

-- Tracked, untracked, tracked again: what was known before is void.
CREATE TABLE again (id int PRIMARY KEY, v int);
SELECT sync.track('again');
INSERT INTO again VALUES (1, 1);
SELECT helper.sync('a', 'again') \g /dev/null
SELECT sync.untrack('again');
INSERT INTO again (id) VALUES (2);
SELECT helper.refused($$SELECT * FROM sync.changes('again')$$, '42704', 'again', 'an untracked domain is unknown');
SELECT sync.track('again');
SELECT matches(helper.sync('a', 'again'), '^reset\((marker|other_question)\) \+1 \+2$', 'tracked again: a reset brings what was missed');
DROP TABLE again;
SELECT helper.refused($$SELECT * FROM sync.changes('again')$$, '42704', 'again', 'a dropped table''s domain is unknown');
SELECT is((SELECT count(*)::int FROM pg_class WHERE relnamespace = 'sync'::regnamespace AND relname LIKE 'log\_%'), 0, 'and its log is gone');

SELECT * FROM finish();
DROP SCHEMA t CASCADE;
