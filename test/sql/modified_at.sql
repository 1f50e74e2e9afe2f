\set ECHO none
\i test/setup.sql
-- modified_at: whole milliseconds, always later than before, and only the database's word.
CREATE SCHEMA t;
SET search_path = t, public;
SELECT plan(27);

CREATE TABLE plain (id int PRIMARY KEY, v int);
INSERT INTO plain SELECT generate_series(1, 100);
SELECT pg_relation_filenode('plain') AS before \gset
SELECT sync.track('plain');
SELECT has_column('t'::name, 'plain'::name, 'modified_at'::name, 'a table without the column gets it');
SELECT col_type_is('t'::name, 'plain'::name, 'modified_at'::name, 'timestamp with time zone', 'with a time zone');
SELECT col_not_null('t'::name, 'plain'::name, 'modified_at'::name, 'never NULL');
SELECT is(pg_relation_filenode('plain')::text, :'before', 'without rewriting the table');
SELECT is((SELECT count(*)::int FROM plain WHERE modified_at > now() OR modified_at < now() - interval '1 minute'), 0, 'rows that were there have the time of then');
SELECT is((SELECT count(*)::int FROM pg_index WHERE indrelid = 'plain'::regclass), 1, 'and no index is forced on anybody');

-- whole milliseconds
INSERT INTO plain SELECT generate_series(101, 1000);
SELECT is((SELECT count(*)::int FROM plain WHERE modified_at <> date_trunc('milliseconds', modified_at)), 0, 'whole milliseconds');
SELECT is((SELECT count(*)::int FROM plain WHERE id > 100 AND modified_at NOT BETWEEN now() - interval '1 minute' AND clock_timestamp() + interval '1 ms'), 0, 'of the clock');

-- strictly increasing
CREATE TABLE history (n serial, id int, m timestamptz);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO t.history (id, m) VALUES (new.id, new.modified_at); RETURN NULL; END $$;
CREATE TRIGGER note AFTER INSERT OR UPDATE ON plain FOR EACH ROW EXECUTE FUNCTION note();
DO $$ BEGIN FOR i IN 1 .. 500 LOOP UPDATE t.plain SET v = i WHERE id = 1; END LOOP; END $$;
SELECT is((SELECT count(*)::int FROM history), 500, 'five hundred updates of a row in a moment');
SELECT is((SELECT count(*)::int FROM (SELECT m <= lag(m) OVER (ORDER BY n) AS bad FROM history) h WHERE bad), 0, 'each later than the one before');
SELECT is((SELECT count(*)::int FROM history WHERE m <> date_trunc('milliseconds', m)), 0, 'all in whole milliseconds');
DROP TRIGGER note ON plain;

-- not the user's
INSERT INTO plain VALUES (2001, 1, '2000-01-01 00:00:00+00'), (2002, 1, '2100-01-01 00:00:00+00'), (2003, 1, NULL), (2004, 1, 'infinity');
SELECT is((SELECT count(*)::int FROM plain WHERE id > 2000 AND modified_at BETWEEN now() - interval '1 minute' AND clock_timestamp() + interval '1 ms'), 4, 'INSERT cannot set it');
SELECT modified_at AS m FROM plain WHERE id = 2 \gset
UPDATE plain SET modified_at = '2000-01-01 00:00:00+00' WHERE id = 2;
SELECT is(modified_at, :'m'::timestamptz, 'UPDATE of it alone keeps it') FROM plain WHERE id = 2;
UPDATE plain SET modified_at = '2100-01-01 00:00:00+00', v = 7 WHERE id = 2;
SELECT ok(modified_at > :'m' AND modified_at < now() + interval '1 minute', 'UPDATE of more stamps it') FROM plain WHERE id = 2;
SELECT modified_at AS m FROM plain WHERE id = 3 \gset
UPDATE plain SET v = v WHERE id = 3;
SELECT is(modified_at, :'m'::timestamptz, 'an update that changes nothing keeps it') FROM plain WHERE id = 3;
UPDATE plain SET v = NULL WHERE id = 3;
SELECT is(modified_at, :'m'::timestamptz, 'also from NULL to NULL') FROM plain WHERE id = 3;
WITH u AS (UPDATE plain SET v = 5 WHERE id = 3 RETURNING *) SELECT ok(u.modified_at > :'m', 'RETURNING shows the new one') FROM u;

-- the clock stepped back: a row from the future
SET session_replication_role = replica;
UPDATE plain SET modified_at = '2100-01-01 00:00:00.123+00' WHERE id = 4;
UPDATE plain SET modified_at = '2100-01-01 00:00:00.123456+00' WHERE id = 5;
UPDATE plain SET modified_at = 'infinity' WHERE id = 6;
UPDATE plain SET modified_at = '-infinity' WHERE id = 7;
SET session_replication_role = origin;
UPDATE plain SET v = 100 WHERE id IN (4, 5);
SELECT is(modified_at, '2100-01-01 00:00:00.124+00', 'after a stamp from the future comes the next millisecond') FROM plain WHERE id = 4;
SELECT is(modified_at, '2100-01-01 00:00:00.124+00', 'a whole one after microseconds, too') FROM plain WHERE id = 5;
SELECT lives_ok('UPDATE t.plain SET v = 100 WHERE id = 6', 'after infinity');
SELECT lives_ok('UPDATE t.plain SET v = 100 WHERE id = 7', 'after minus infinity');
SELECT ok(modified_at BETWEEN now() - interval '1 minute' AND clock_timestamp() + interval '1 ms', 'comes the clock') FROM plain WHERE id = 7;
DROP TABLE plain;

-- a column that was there, of another name, without time zone, with NULLs
CREATE TABLE old (id int PRIMARY KEY, v int, changed timestamptz);
INSERT INTO old VALUES (1, 1, NULL), (2, 1, '2001-01-01 00:00:00+00');
SELECT sync.track('old', modified_at => 'changed');
SELECT is(changed, '2001-01-01 00:00:00+00', 'a column of another name keeps what it says') FROM old WHERE id = 2;
UPDATE old SET v = 2;
SELECT is((SELECT count(*)::int FROM old WHERE changed > now() - interval '1 minute'), 2, 'and is stamped from then on');
SELECT hasnt_column('t'::name, 'old'::name, 'modified_at'::name, 'none is added beside it');
SELECT is(helper.sync('o', 'old'), '+1 +2', 'the client gets it');
SELECT helper.same('o', 'SELECT to_jsonb(o) FROM t.old o', 'under its name');
DROP TABLE old, history;

SELECT * FROM finish();
DROP SCHEMA t CASCADE;
