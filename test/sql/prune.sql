\set ECHO none
\i test/setup.sql
-- sync.prune: what it deletes nobody misses; who would, is told.
CREATE SCHEMA t;
SET search_path = t, public;
SELECT plan(16);
CREATE TABLE doc (id int PRIMARY KEY, v int);
CREATE TABLE quiet (id int PRIMARY KEY);
SELECT sync.track('doc');
SELECT sync.track('quiet');
INSERT INTO doc SELECT g, 0 FROM generate_series(1, 3) g;
INSERT INTO quiet VALUES (1);
SELECT helper.sync('old', 'doc'), helper.sync('up', 'doc'), helper.sync('quiet', 'quiet'), helper.sync('gone', 'quiet') \g /dev/null
UPDATE doc SET v = 1 WHERE id = 1;
SELECT helper.refused($$SELECT sync.prune('-1 day')$$, '22023', '-1 day', 'older than the future');
SELECT is(sync.prune(), 0::bigint, 'a week is not over');
SELECT is(sync.prune(NULL), NULL, 'NULL does nothing');
SELECT is(helper.sync('up', 'doc'), '+1', 'nothing is lost');
SELECT pg_sleep(1.2) \g /dev/null
UPDATE doc SET v = 2 WHERE id = 2;
SELECT is(helper.sync('up', 'doc'), '+2', 'a client that comes often');
SELECT is(helper.sync('quiet', 'quiet'), '', 'one of a quiet domain');
SELECT pg_sleep(1.2) \g /dev/null
UPDATE doc SET v = 3 WHERE id = 3;
SELECT helper.sync('late', 'doc') \g /dev/null
SELECT ok(sync.prune('0') > 0, 'prune deletes');
SELECT is(helper.sync('old', 'doc'), 'reset(pruned) +1 +2 +3', 'a client that was away too long is reset');
SELECT helper.same('old', 'SELECT to_jsonb(d) FROM t.doc d', 'and holds everything');
SELECT is(helper.sync('old', 'doc'), '', 'once');
SELECT is(helper.sync('late', 'doc'), '', 'one that was up to date is not');
UPDATE doc SET v = 4;
SELECT is(helper.sync('late', 'doc'), '+1 +2 +3', 'and gets what comes next');
SELECT is(helper.sync('quiet', 'quiet'), '', 'nor is one of a quiet domain, which never ages out');
INSERT INTO quiet VALUES (2);
SELECT is(helper.sync('quiet', 'quiet'), '+2', 'it goes on');
SELECT sync.prune('0') \g /dev/null
SELECT sync.prune('0') \g /dev/null
SELECT is(helper.sync('quiet', 'quiet'), '', 'pruning again and again resets nobody who is up to date');
SELECT is((SELECT count(*)::int FROM sync.changes('doc') WHERE op = 'upsert'), 3, 'and takes no row away');
SELECT * FROM finish();
DROP SCHEMA t CASCADE;
