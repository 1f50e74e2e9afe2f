\set ECHO none
\i test/setup.sql
-- TRUNCATE has no rows to tell of: it is a reset.
CREATE SCHEMA t;
SET search_path = t, public;
SELECT plan(18);

CREATE TABLE doc (id int PRIMARY KEY, v int);
CREATE TABLE quiet (id int PRIMARY KEY);
SELECT sync.track('doc');
SELECT sync.track('quiet');
INSERT INTO doc VALUES (1, 1), (2, 2);
INSERT INTO quiet VALUES (1);
SELECT helper.sync('c', 'doc'), helper.sync('q', 'quiet') \g /dev/null

BEGIN;
TRUNCATE doc;
ROLLBACK;
SELECT is(helper.sync('c', 'doc'), '', 'rolled back: nothing happened');
BEGIN;
SAVEPOINT s;
TRUNCATE doc;
ROLLBACK TO s;
COMMIT;
SELECT is(helper.sync('c', 'doc'), '', 'rolled back to a savepoint: nothing happened');
TRUNCATE doc;
SELECT is(helper.sync('c', 'doc'), 'reset(marker)', 'a reset, and no row');
SELECT helper.same('c', 'SELECT to_jsonb(d) FROM t.doc d', 'the client has forgotten all');
SELECT is(helper.sync('c', 'doc'), '', 'once');
SELECT is(helper.sync('q', 'quiet'), '', 'of its own domain only');
BEGIN;
INSERT INTO doc VALUES (1, 1);
TRUNCATE doc;
INSERT INTO doc VALUES (3, 3);
COMMIT;
SELECT is(helper.sync('c', 'doc'), 'reset(marker) +3', 'rows after it in one transaction stay');
BEGIN;
TRUNCATE doc;
SELECT is(helper.page('own', 'doc'), '', 'the transaction itself sees an empty table');
COMMIT;
INSERT INTO doc VALUES (4, 4);
SELECT is(helper.sync('c', 'doc'), 'reset(marker) +4', 'and others an empty table and a row');
SET session_replication_role = replica;
TRUNCATE doc;
SET session_replication_role = origin;
SELECT is(helper.sync('c', 'doc'), 'reset(marker)', 'replicated');

-- through foreign keys, and of a detail
CREATE TABLE master (id int PRIMARY KEY, v int);
CREATE TABLE detail (id int PRIMARY KEY, master int REFERENCES master);
SELECT sync.track('master');
SELECT sync.track('detail');
INSERT INTO master VALUES (1, 1), (2, 2);
INSERT INTO detail VALUES (1, 1);
SELECT helper.sync('m', 'master'), helper.sync('d', 'detail') \g /dev/null
TRUNCATE master CASCADE;
SELECT is(helper.sync('m', 'master'), 'reset(marker)', 'TRUNCATE CASCADE');
SELECT is(helper.sync('d', 'detail'), 'reset(marker)', 'and what it reached');
INSERT INTO master VALUES (1, 1), (2, 2);
INSERT INTO detail VALUES (1, 1);
SELECT sync.cascade('detail', 'master');
SELECT helper.sync('m', 'master'), helper.sync('d', 'detail') \g /dev/null
TRUNCATE detail;
SELECT is(helper.sync('m', 'master'), 'reset(marker) +1 +2', 'a detail truncated resets its masters');

-- partitions
CREATE TABLE part (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10);
CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (10) TO (20);
SELECT sync.track('part');
INSERT INTO part VALUES (1, 1), (11, 11);
SELECT helper.sync('p', 'part') \g /dev/null
TRUNCATE part_1;
SELECT is(helper.sync('p', 'part'), 'reset(marker) +11', 'a partition truncated');
SELECT helper.same('p', 'SELECT to_jsonb(p) FROM t.part p', 'the client holds the other');
TRUNCATE part;
SELECT is(helper.sync('p', 'part'), 'reset(marker)', 'all of them truncated');
CREATE TABLE part_3 PARTITION OF part FOR VALUES FROM (20) TO (30);
INSERT INTO part VALUES (1, 1), (21, 21);
SELECT helper.sync('p', 'part') \g /dev/null
TRUNCATE part_3;
SELECT is(helper.sync('p', 'part'), 'reset(marker) +1', 'a partition that came later truncated');
SELECT helper.same('p', 'SELECT to_jsonb(p) FROM t.part p', 'the client holds the others');
DROP TABLE part, detail, master, doc, quiet;

SELECT * FROM finish();
DROP SCHEMA t CASCADE;
