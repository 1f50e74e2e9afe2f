\set ECHO none
\i test/setup.sql
-- sync.changes: what a client that applies every answer ends up with.
CREATE SCHEMA t;
SET search_path = t, public;
SELECT plan(112);

CREATE TABLE doc (id int PRIMARY KEY, team int, status text, title text);
CREATE TABLE other (id int PRIMARY KEY, team int);
SELECT sync.track('doc', scope => '{team}');
SELECT sync.track('other', scope => '{team}');
INSERT INTO doc VALUES (1, 1, 'open', 'a'), (2, 1, 'done', 'b'), (3, 2, 'open', 'c');
INSERT INTO other VALUES (1, 1);

-- refusals
SELECT helper.refused($$SELECT * FROM sync.changes('nosuch')$$, '42704', 'nosuch', 'an unknown domain');
SELECT helper.refused($$SELECT * FROM sync.changes('')$$, '42704|22023', '', 'no domain');
SELECT helper.refused($$SELECT * FROM sync.changes('doc', max_rows => 0)$$, '22023', '0', 'no rows a page');
SELECT helper.refused($$SELECT * FROM sync.changes('doc', max_rows => -1)$$, '22023', '-1', 'fewer than no rows a page');
SELECT helper.refused($$SELECT * FROM sync.changes('doc', user_id => 'ada')$$, '22023', 'ada', 'a user where nothing says what users may see');
SELECT helper.refused($$SELECT * FROM sync.changes('doc', exclude => '{}')$$, '22023', '', 'exclude: not an array');
SELECT helper.refused($$SELECT * FROM sync.changes('doc', exclude => '[1]')$$, '22023', '', 'exclude: not objects');
SELECT helper.refused($$SELECT * FROM sync.changes('doc', exclude => '[{}]')$$, '22023', '', 'exclude: no key');
SELECT helper.refused($$SELECT * FROM sync.changes('doc', exclude => '[{"id": 1}]')$$, '22023', 'modified_at', 'exclude: no modified_at');
SELECT helper.fails($$SELECT * FROM sync.changes('doc', exclude => '[{"id": "x", "modified_at": "2026-01-01T00:00:00Z"}]')$$, '22023|22P02', 'exclude: a key of another type');
SELECT helper.fails($$SELECT * FROM sync.changes('doc', exclude => '[{"id": 1, "modified_at": "x"}]')$$, '22023|22007', 'exclude: a time that is none');
SELECT helper.refused($$SELECT * FROM sync.changes('doc', exclude => '[{"id": null, "modified_at": "2026-01-01T00:00:00Z"}]')$$, '22023|22004', '', 'exclude: a key that is null');
SELECT is(helper.outcome($$SELECT * FROM sync.changes(NULL)$$) IN ('22004', '42704', '22023', ''), true, 'a NULL domain breaks nothing');

-- the shape
SELECT results_eq($$SELECT op, key, data - 'modified_at', modified_at = (SELECT d.modified_at FROM t.doc d WHERE d.id = 1), cursor IS NOT NULL
		FROM sync.changes('doc', NULL, 'id = 1') LIMIT 1$$,
	$$VALUES ('upsert', '{"id": 1}'::jsonb, '{"id": 1, "team": 1, "status": "open", "title": "a"}'::jsonb, true, false)$$, 'a row');
SELECT results_eq($$SELECT op, key, data, modified_at <= clock_timestamp(), modified_at = date_trunc('milliseconds', modified_at), cursor IS NOT NULL
		FROM sync.changes('doc', NULL, 'id = 1') OFFSET 1$$,
	$$VALUES ('up-to-date', NULL::jsonb, NULL::jsonb, true, true, true)$$, 'then the closing row, with the server''s time');
SELECT results_eq($$SELECT op, cursor IS NOT NULL FROM sync.changes('doc', NULL, 'false')$$,
	$$VALUES ('up-to-date', true)$$, 'the closing row also where nothing is');

-- first load, deltas, and the filter
SELECT is(helper.sync('all', 'doc'), '+1 +2 +3', 'a first load');
SELECT is(helper.sync('open', 'doc', 'status = ''open'''), '+1 +3', 'a first load of a filter');
SELECT is(helper.sync('team1', 'doc', 'team = $1', '{1}'), '+1 +2', 'a first load of a scope');
SELECT is(helper.sync('both', 'doc', 'team = $1 AND status = $2', '{1,open}'), '+1', 'a first load of both');
SELECT is(helper.sync('all', 'doc') || helper.sync('open', 'doc', 'status = ''open''') || helper.sync('team1', 'doc', 'team = $1', '{1}'), '', 'nothing new');
UPDATE doc SET title = 'A' WHERE id = 1;
SELECT is(helper.sync('all', 'doc'), '+1', 'an update');
SELECT is(helper.sync('open', 'doc', 'status = ''open'''), '+1', 'inside the filter');
UPDATE doc SET status = 'done' WHERE id = 1;
SELECT is(helper.sync('open', 'doc', 'status = ''open'''), '-1', 'a row leaves the filter');
SELECT is(helper.sync('both', 'doc', 'team = $1 AND status = $2', '{1,open}'), '-1', 'and the narrower one');
SELECT is(helper.sync('all', 'doc'), '+1', 'but not the table');
UPDATE doc SET status = 'open' WHERE id = 1;
SELECT is(helper.sync('open', 'doc', 'status = ''open'''), '+1', 'a row enters the filter');
UPDATE doc SET team = 2 WHERE id = 1;
SELECT is(helper.sync('team1', 'doc', 'team = $1', '{1}'), '-1', 'a row leaves the scope');
SELECT is(helper.sync('team2', 'doc', 'team = $1', '{2}'), '+1 +3', 'and is in the other');
SELECT is(helper.sync('both', 'doc', 'team = $1 AND status = $2', '{1,open}'), '-1', 'left by its scope, whatever the status said in between');
UPDATE doc SET team = 3 WHERE id = 1;
UPDATE doc SET team = 1 WHERE id = 1;
SELECT is(helper.sync('team1', 'doc', 'team = $1', '{1}'), '+1', 'through two other scopes and back');
SELECT is(helper.sync('team3', 'doc', 'team = $1', '{3}'), '', 'a scope that it passed through');
DELETE FROM doc WHERE id = 2;
SELECT is(helper.sync('team1', 'doc', 'team = $1', '{1}'), '-2', 'a row deleted');
SELECT is(helper.sync('team3', 'doc', 'team = $1', '{3}'), '', 'is no news to another scope');
SELECT helper.sync('open', 'doc', 'status = ''open'''), helper.sync('all', 'doc') \g /dev/null
SELECT helper.same('open', $$SELECT to_jsonb(d) FROM t.doc d WHERE status = 'open'$$, 'the filtered client holds what its filter selects');
SELECT helper.same('all', 'SELECT to_jsonb(d) FROM t.doc d', 'the other holds everything');
SELECT helper.sync('team2', 'doc', 'team = $1', '{2}'), helper.sync('team3', 'doc', 'team = $1', '{3}') \g /dev/null
BEGIN;
INSERT INTO doc VALUES (50, 1, 'open', 'x');
UPDATE doc SET team = 2 WHERE id = 50;
UPDATE doc SET team = 3 WHERE id = 50;
COMMIT;
SELECT is(helper.sync('team2', 'doc', 'team = $1', '{2}'), '', 'nobody hears of a key that only passed through within a transaction');
SELECT is(helper.sync('team3', 'doc', 'team = $1', '{3}'), '+50', 'where it ended it is');
DELETE FROM doc WHERE id = 50;
INSERT INTO doc (id, team, status) VALUES (60, NULL, NULL);
SELECT is(helper.sync('all', 'doc'), '-50 +60', 'a scope that is NULL');
SELECT is(helper.sync('null', 'doc', 'team IS NULL'), '+60', 'can be asked for');
SELECT is(helper.sync('not1', 'doc', 'team <> 1'), '+3', 'and is not unequal to anything');
UPDATE doc SET team = 1 WHERE id = 60;
SELECT is(helper.sync('null', 'doc', 'team IS NULL'), '-60', 'and is left');
DELETE FROM doc WHERE id = 60;

-- the transaction's own changes: delivered, and never counted as seen
SELECT helper.sync('all', 'doc') \g /dev/null
BEGIN;
UPDATE doc SET title = 'own' WHERE id = 3;
SELECT is(helper.sync('all', 'doc'), '+3', 'a transaction sees its own changes');
SELECT is(helper.sync('all', 'doc'), '+3', 'again and again');
COMMIT;
SELECT is(helper.sync('all', 'doc'), '+3', 'and once more when it has committed');
SELECT is(helper.sync('all', 'doc'), '', 'then no more');
BEGIN;
INSERT INTO doc VALUES (70, 1, 'open', 'never');
SELECT is(helper.sync('tmp', 'doc', 'id = 70'), '+70', 'own rows in a first load');
ROLLBACK;
SELECT is(helper.sync('all', 'doc'), '', 'nothing of it after a rollback');

BEGIN;
SAVEPOINT s;
INSERT INTO doc VALUES (71, 1, 'open', 'perhaps');
SELECT is(helper.page('sub', 'doc', 'id = 71'), '+71', 'own rows inside a savepoint');
ROLLBACK TO s;
SELECT is((SELECT count(*)::int FROM sync.changes('doc', NULL, 'id = 71') WHERE op = 'upsert'), 0, 'and not when it is undone');
COMMIT;
BEGIN READ ONLY;
SELECT is((SELECT count(*)::int FROM sync.changes('doc', (SELECT c FROM kept WHERE who = 'all'))), 1, 'a read-only transaction');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE;
SELECT is((SELECT count(*)::int FROM sync.changes('doc', (SELECT c FROM kept WHERE who = 'all'))), 1, 'a serializable one');
COMMIT;

-- several scopes at once
SELECT is(helper.sync('in', 'doc', 'team IN (1, 2)'), '+1 +3', 'a list of scopes');
SELECT is(helper.sync('any', 'doc', 'team = ANY ($1)', ARRAY['{1,2,1}']), '+1 +3', 'an array of scopes, one of them twice');
SELECT is(helper.sync('none', 'doc', 'team = ANY ($1)', ARRAY['{}']), '', 'no scope at all');
UPDATE doc SET team = 2 WHERE id = 1;
SELECT is(helper.sync('in', 'doc', 'team IN (1, 2)'), '+1', 'a row moved inside the list stays');
SELECT is(helper.sync('any', 'doc', 'team = ANY ($1)', ARRAY['{1,2,1}'], max_rows => 1), '+1', 'in the array, too');
UPDATE doc SET team = 5 WHERE id = 1;
UPDATE doc SET team = 1 WHERE id = 3;
SELECT is(helper.sync('in', 'doc', 'team IN (1, 2)'), '-1 +3', 'out of the list');
SELECT matches(helper.sync('any', 'doc', 'team = ANY ($1)', ARRAY['{1,2,1}'], max_rows => 1), '^([-+]\d \| )*[-+]\d$', 'out of the array, in pages');
SELECT helper.same('any', 'SELECT to_jsonb(d) FROM t.doc d WHERE team IN (1, 2)', 'that client holds what it should');
UPDATE doc SET team = 1 WHERE id = 1;
UPDATE doc SET team = 2 WHERE id = 3;
SELECT helper.sync('team2', 'doc', 'team = $1', '{2}'), helper.sync('all', 'doc') \g /dev/null

-- another question with the same cursor
SELECT helper.sync('team1', 'doc', 'team = $1', '{1}') \g /dev/null
INSERT INTO kept SELECT 'wide', c FROM kept WHERE who = 'team1';
SELECT matches(helper.sync('wide', 'doc', 'team = $1', '{2}'), '^reset\(other_question\) \+3$', 'other parameters: a reset');
INSERT INTO kept SELECT 'wider', c FROM kept WHERE who = 'team1';
SELECT matches(helper.sync('wider', 'doc'), '^reset\(other_question\) \+1 \+3$', 'no filter: a reset');
INSERT INTO kept SELECT 'else', c FROM kept WHERE who = 'all';
SELECT matches(helper.sync('else', 'other'), '^reset\(other_question\) \+1$', 'another domain: a reset');
INSERT INTO kept SELECT 'blank', c FROM kept WHERE who = 'team1';
SELECT is(helper.sync('blank', 'doc', E' ( team=\n$1 ) ', '{1}'), '', 'the same question in other words is no other');
INSERT INTO kept VALUES ('unbound', sync.current_cursor());
UPDATE doc SET title = 'unbound' WHERE id = 3;
SELECT is(helper.sync('unbound', 'doc'), '+3', 'a cursor of no question serves any');

-- a time instead of a cursor
SELECT modified_at AS tick FROM sync.changes('doc') WHERE op = 'up-to-date' \gset
SELECT pg_sleep(1.1) \g /dev/null
UPDATE doc SET title = 'after' WHERE id = 1;
SELECT pg_sleep(1.1) \g /dev/null
UPDATE doc SET title = 'tick' WHERE id = 1;
SELECT is((SELECT string_agg(op || coalesce(helper.short(key), ''), ' ') FROM sync.changes('doc', :'tick'::timestamptz) WHERE key = '{"id": 1}'), 'upsert1', 'what came after a time');
SELECT is((SELECT min(op) FROM sync.changes('doc', '2000-01-01T00:00:00Z') WHERE op = 'reset'), 'reset', 'a time before all ticks is a reset');
SELECT is((SELECT data ->> 'reason' FROM sync.changes('doc', clock_timestamp() + interval '1 day') LIMIT 1), 'unknown_time', 'a time that has not come is a reset');
SELECT ok((SELECT max(modified_at) FROM sync.changes('doc') WHERE op = 'up-to-date') > :'tick', 'the server''s time goes on');

-- the author does not hear of its own changes
SELECT helper.sync('me', 'doc', client => 'me'), helper.sync('you', 'doc', client => 'you') \g /dev/null
BEGIN;
SELECT set_config('sync.client', 'me', true) \g /dev/null
UPDATE doc SET title = 'mine' WHERE id = 1;
COMMIT;
SELECT is(helper.sync('me', 'doc', client => 'me'), '', 'my own change');
SELECT is(helper.sync('you', 'doc', client => 'you'), '+1', 'is news to you');
BEGIN;
SELECT set_config('sync.client', 'me', true) \g /dev/null
UPDATE doc SET title = 'mine again' WHERE id = 1;
COMMIT;
UPDATE doc SET status = 'yours' WHERE id = 1;
SELECT is(helper.sync('me', 'doc', client => 'me'), '+1', 'mine, and then another''s: news to me');
UPDATE doc SET status = 'yours too' WHERE id = 3;
BEGIN;
SELECT set_config('sync.client', 'me', true) \g /dev/null
UPDATE doc SET team = 9 WHERE id = 3;
COMMIT;
SELECT is(helper.sync('nine', 'doc', 'team = 9', client => 'me'), '+3', 'a first load leaves nothing out');
SELECT helper.sync('nine2', 'doc', 'team = 1', client => 'me') \g /dev/null
BEGIN;
SELECT set_config('sync.client', 'me', true) \g /dev/null
UPDATE doc SET team = 1 WHERE id = 3;
COMMIT;
SELECT is(helper.sync('nine2', 'doc', 'team = 1', client => 'me'), '+3', 'a row that I moved blindly into my scope comes to me');
SELECT helper.sync('st', 'doc', 'status = ''open''', client => 'me') \g /dev/null
BEGIN;
SELECT set_config('sync.client', 'me', true) \g /dev/null
UPDATE doc SET status = 'open' WHERE id = 3;
COMMIT;
SELECT is(helper.sync('st', 'doc', 'status = ''open''', client => 'me'), '+3', 'as does one that I moved blindly into my filter');

-- what the author's statement set in motion is news to the author
CREATE TABLE owner (id int PRIMARY KEY, n int DEFAULT 0);
CREATE TABLE pet (id int PRIMARY KEY, owner int REFERENCES owner ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE toy (id int PRIMARY KEY, owner int REFERENCES owner ON DELETE SET NULL);
CREATE TABLE tail (id int PRIMARY KEY, pet int REFERENCES pet, v int);
SELECT sync.track(r) FROM unnest('{owner,pet,toy}'::regclass[]) r;
SELECT sync.cascade('tail', 'pet');
INSERT INTO owner VALUES (1), (2), (3);
INSERT INTO pet VALUES (1, 1), (2, 2), (3, 3);
INSERT INTO toy VALUES (1, 1), (3, 3);
SELECT helper.sync(d, d, client => 'me') FROM unnest('{owner,pet,toy}'::text[]) d \g /dev/null
BEGIN;
SELECT set_config('sync.client', 'me', true) \g /dev/null
DELETE FROM owner WHERE id = 1;
UPDATE owner SET id = 4 WHERE id = 2;
COMMIT;
SELECT is(helper.sync('pet', 'pet', client => 'me'), '-1 +2', 'ON DELETE CASCADE and ON UPDATE CASCADE');
SELECT is(helper.sync('toy', 'toy', client => 'me'), '+1', 'ON DELETE SET NULL');
SELECT helper.sync('owner', 'owner', client => 'me') \g /dev/null
BEGIN;
SELECT set_config('sync.client', 'me', true) \g /dev/null
INSERT INTO tail VALUES (1, 3, 1);
COMMIT;
SELECT is(helper.sync('pet', 'pet', client => 'me'), '+3', 'a master touched');
CREATE FUNCTION bump() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE t.owner SET n = n + 1 WHERE id = 3; RETURN NULL; END $$;
CREATE TRIGGER bump AFTER UPDATE ON toy FOR EACH STATEMENT EXECUTE FUNCTION bump();
BEGIN;
SELECT set_config('sync.client', 'me', true) \g /dev/null
UPDATE toy SET id = 33 WHERE id = 3;
COMMIT;
SELECT is(helper.sync('owner', 'owner', client => 'me'), '+3', 'what a trigger did');
SELECT helper.same('pet', 'SELECT to_jsonb(p) FROM t.pet p', 'the author holds the details');

-- exclude: rows that the client has from elsewhere
SELECT helper.sync('ex', 'doc') \g /dev/null
UPDATE doc SET title = 'ex' WHERE id IN (1, 3);
SELECT jsonb_build_array(jsonb_build_object('id', 1, 'modified_at', modified_at)) AS one FROM doc WHERE id = 1 \gset
SELECT is(helper.sync('ex', 'doc', exclude => :'one'), '+3', 'exclude leaves out what still carries its time');
SELECT helper.sync('ex', 'doc') \g /dev/null
UPDATE doc SET title = 'ex2' WHERE id = 1;
SELECT is(helper.sync('ex', 'doc', exclude => :'one'), '+1', 'and not what has changed since');
SELECT is(helper.sync('ex1', 'doc', exclude => :'one'), '+1 +3', 'so in a first load');
SELECT jsonb_build_array(jsonb_build_object('id', 1, 'modified_at', modified_at), '{"id": 77, "modified_at": "2026-01-01T00:00:00Z"}'::jsonb) AS two FROM doc WHERE id = 1 \gset
SELECT is(helper.sync('ex2', 'doc', exclude => :'two'), '-77 +3', 'in a first load an excluded key that is gone gets its removal');
SELECT jsonb_agg(jsonb_build_object('id', g, 'modified_at', now())) AS gone FROM generate_series(101, 105) g \gset
SELECT is(helper.sync('ex3', 'doc', exclude => :'gone', max_rows => 1), '+1 | -101 -102 -103 -104 -105 +3', 'such removals come on the last page, whatever max_rows says');
-- in a delta, too, and the pages need not name the same
SELECT jsonb_agg(jsonb_build_object('id', g, 'modified_at', now())) AS fewer FROM generate_series(103, 104) g \gset
SELECT helper.sync('ex', 'doc') \g /dev/null
UPDATE doc SET title = 'ex3' WHERE id IN (1, 3);
SELECT is(helper.page('ex', 'doc', exclude => :'gone', max_rows => 1), '+1 |', 'a page that goes on removes no named keys');
SELECT is(helper.page('ex', 'doc', exclude => :'fewer', max_rows => 1), '-103 -104 +3', 'the last page removes what it names itself');
SELECT is(helper.page('ex', 'doc', exclude => :'gone', max_rows => 1), '-101 -102 -103 -104 -105', 'named anew, removed anew, though nothing has changed');
DELETE FROM doc WHERE id = 3;
SELECT is(helper.page('ex', 'doc', exclude => '[{"id": 3, "modified_at": "2026-01-01T00:00:00Z"}]', max_rows => 1), '-3', 'once, where the log tells it as well');
INSERT INTO doc VALUES (3, 2, 'open', 'c');
SELECT helper.sync('ex', 'doc') \g /dev/null
-- deleted and inserted with the very same time
SELECT helper.sync('ex', 'doc') \g /dev/null
SELECT modified_at AS m FROM doc WHERE id = 1 \gset
BEGIN;
DELETE FROM doc WHERE id = 1;
SET LOCAL session_replication_role = replica;
INSERT INTO doc VALUES (1, 1, 'other', 'row', :'m');
COMMIT;
SELECT jsonb_build_array(jsonb_build_object('id', 1, 'modified_at', modified_at)) AS one FROM doc WHERE id = 1 \gset
SELECT is(helper.sync('ex', 'doc', exclude => :'one'), '+1', 'deleted and inserted with an equal time is another row');

-- pages
CREATE TABLE many (id int PRIMARY KEY, v int);
SELECT sync.track('many');
INSERT INTO many SELECT g, 0 FROM generate_series(1, 7) g;
SELECT is(helper.sync('pg', 'many', max_rows => 3), '+1 +2 +3 | +4 +5 +6 | +7', 'a first load in pages: full but for the last');
UPDATE many SET v = 1;
DELETE FROM many WHERE id IN (2, 4);
SELECT matches(helper.sync('pg', 'many', max_rows => 2), '^([-+]\d [-+]\d \| ){3,}[-+]\d( [-+]\d)?$', 'one transaction in pages: full but for the last');
SELECT helper.same('pg', 'SELECT to_jsonb(m) FROM t.many m', 'complete');
DO $$ BEGIN FOR i IN 1 .. 300 LOOP UPDATE t.many SET v = i WHERE id = 1; END LOOP; END $$;
SELECT is(helper.sync('pg', 'many', max_rows => 2), '+1', 'a key changed three hundred times is one row');
INSERT INTO many SELECT g, 0 FROM generate_series(11, 16) g;
SELECT helper.page('pg', 'many', max_rows => 2) \g /dev/null
UPDATE many SET v = 99;
DELETE FROM many WHERE id IN (1, 11, 16);
INSERT INTO many VALUES (20, 0);
TRUNCATE other;
SELECT helper.sync('pg', 'many', max_rows => 2) \g /dev/null
SELECT helper.same('pg', 'SELECT to_jsonb(m) FROM t.many m', 'writes between pages');
SELECT helper.page('mid', 'many', max_rows => 2) \g /dev/null
UPDATE many SET v = 100;
DELETE FROM many WHERE id IN (3, 20);
SELECT helper.sync('mid', 'many', max_rows => 2) \g /dev/null
SELECT helper.same('mid', 'SELECT to_jsonb(m) FROM t.many m', 'writes between the pages of a first load');
SELECT helper.page('mid2', 'many', max_rows => 2) \g /dev/null
TRUNCATE many;
INSERT INTO many VALUES (1, 1);
SELECT matches(helper.sync('mid2', 'many', max_rows => 2), '^reset\(marker\) \+1$', 'TRUNCATE between pages');
SELECT helper.same('mid2', 'SELECT to_jsonb(m) FROM t.many m', 'forgets the first page, too');
SELECT helper.page('mid3', 'many', max_rows => 1) \g /dev/null
INSERT INTO many VALUES (2, 2);
SELECT helper.sync('mid3', 'many', max_rows => 1) \g /dev/null
SELECT helper.same('mid3', 'SELECT to_jsonb(m) FROM t.many m', 'a page that was just full');

-- a page ends also where the log has entries and the client needs none of them
CREATE TABLE mine (id int PRIMARY KEY, v int);
SELECT sync.track('mine');
INSERT INTO mine SELECT g, 0 FROM generate_series(1, 110000) g;
INSERT INTO kept VALUES ('own', sync.current_cursor());
BEGIN;
SELECT set_config('sync.client', 'me', true) \g /dev/null
UPDATE mine SET v = 1;
COMMIT;
UPDATE mine SET v = 2 WHERE id = 110000;
SELECT matches(helper.sync('own', 'mine', client => 'me', max_rows => 5), '^(\| )*(\+110000( \|)*)$', 'a hundred thousand own changes, page by page');
DROP TABLE mine;

-- rows that lie elsewhere than when they were logged
CREATE TABLE moved (id int PRIMARY KEY, v int, filler text) WITH (fillfactor = 100, autovacuum_enabled = off);
SELECT sync.track('moved');
INSERT INTO moved SELECT g, 0, repeat('x', 500) FROM generate_series(1, 60) g;
SELECT helper.sync('mv', 'moved') \g /dev/null
UPDATE moved SET v = 1 WHERE id IN (1, 30, 60);
VACUUM FULL moved;
SELECT is(helper.sync('mv', 'moved'), '+1 +30 +60', 'after VACUUM FULL');
UPDATE moved SET v = 2 WHERE id = 60;
DELETE FROM moved WHERE id > 2 AND id < 60;
VACUUM FULL moved;
SELECT matches(helper.sync('mv', 'moved', max_rows => 10), '(^| )-59( |$)', 'deleted rows, of a table that shrank');
SELECT helper.same('mv', 'SELECT to_jsonb(m) FROM t.moved m', 'the client holds the rest');
UPDATE moved SET v = 3 WHERE id = 1;
DELETE FROM moved WHERE id = 2;
VACUUM moved;
INSERT INTO moved VALUES (200, 0, repeat('y', 500)), (201, 0, repeat('z', 500));
UPDATE moved SET id = 2 WHERE id = 200;
SELECT is(helper.sync('mv', 'moved'), '-200 +1 +2 +201', 'places that other rows took since');
BEGIN;
DELETE FROM moved WHERE id = 1;
INSERT INTO moved VALUES (1, 9, 'again');
COMMIT;
SELECT is(helper.sync('mv', 'moved'), '+1', 'a row put again');
SELECT helper.same('mv', 'SELECT to_jsonb(m) FROM t.moved m', 'the client holds the table');
DROP TABLE moved;

-- rows that the source view does not show
CREATE TABLE base (id int PRIMARY KEY, shown boolean, v int);
SELECT current_setting('server_version_num')::int >= 150000 AS has_invoker \gset
\if :has_invoker
CREATE VIEW shown WITH (security_invoker = true) AS SELECT id, v FROM base WHERE shown;
\else
CREATE VIEW shown AS SELECT id, v FROM base WHERE shown;
\endif
SELECT sync.track('base', source => 'shown');
INSERT INTO base SELECT g, g > 5, 0 FROM generate_series(1, 8) g;
SELECT matches(helper.sync('view', 'base', max_rows => 2), '\+6.*\+7.*\+8', 'a source view that hides the first rows, in pages');
SELECT helper.same('view', 'SELECT to_jsonb(s) FROM t.shown s', 'complete');
UPDATE base SET shown = NOT shown WHERE id IN (1, 8);
SELECT is(helper.sync('view', 'base', max_rows => 2), '-8 +1', 'what it begins to show, and ceases to');
SELECT helper.same('view', 'SELECT to_jsonb(s) FROM t.shown s', 'complete');

SELECT sync.new_generation() \g /dev/null
SELECT is(helper.sync('mid3', 'many'), 'reset(other_generation) +1 +2', 'a new generation is a reset');
SELECT is(helper.sync('mid3', 'many'), '', 'once');

SELECT * FROM finish();
DROP SCHEMA t CASCADE;
