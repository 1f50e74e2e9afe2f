\set ECHO none
\i test/setup.sql
-- sync.reconcile and sync.fingerprint for a user: exactly what sync.changes gives, and a cursor that goes on for that user.
CREATE SCHEMA t;
SET search_path = t, public;
SELECT plan(169);
CREATE ROLE regress_sync_server;
CREATE ROLE regress_sync_stranger;
CREATE ROLE regress_sync_owner;
GRANT USAGE ON SCHEMA t TO regress_sync_server, regress_sync_stranger, regress_sync_owner;

-- what a client sends of its copy: keys, versions, and what it did offline (kept in the row as "~")
CREATE FUNCTION sent(who text) RETURNS jsonb LANGUAGE sql AS $$
	SELECT coalesce(jsonb_agg(jsonb_strip_nulls(jsonb_build_object('key', key, 'modified_at', data -> 'modified_at',
		'deleted_at', CASE WHEN data ->> '~' = 'deleted' THEN '2026-01-01T00:00:00Z' END,
		'data', CASE WHEN data ->> '~' = 'changed' THEN data - '~' END)) ORDER BY key), '[]') FROM held h WHERE h.who = sent.who $$;
-- one reconcile of one domain, applied to what the client holds: +upserts -removes, *stored, xdeleted, !refused
CREATE FUNCTION rec(who text, dom text, user_id text, more jsonb DEFAULT '{}', request jsonb DEFAULT '{}') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	d jsonb; e jsonb;
BEGIN
	d := sync.reconcile(jsonb_build_object('user_id', user_id, 'domains', jsonb_build_object(dom, jsonb_build_object('rows', t.sent(who)) || more)) || request) -> 'domains' -> dom;
	FOR e IN SELECT * FROM jsonb_array_elements((d -> 'remove') || (d -> 'deleted')) LOOP
		DELETE FROM held h WHERE h.who = rec.who AND h.key = e;
	END LOOP;
	FOR e IN SELECT * FROM jsonb_array_elements(d -> 'stored') LOOP
		UPDATE held h SET data = data - '~' || jsonb_build_object('modified_at', e -> 'modified_at') WHERE h.who = rec.who AND h.key = e -> 'key';
	END LOOP;
	FOR e IN SELECT * FROM jsonb_array_elements(d -> 'upsert') LOOP
		INSERT INTO held VALUES (rec.who, jsonb_build_object('id', e -> 'id'), e) ON CONFLICT ON CONSTRAINT held_pkey DO UPDATE SET data = excluded.data;
	END LOOP;
	IF d ->> 'cursor' IS NOT NULL THEN
		INSERT INTO kept VALUES (rec.who, (d ->> 'cursor')::sync.cursor) ON CONFLICT ON CONSTRAINT kept_pkey DO UPDATE SET c = excluded.c;
	END IF;
	RETURN btrim(concat_ws(' ', (SELECT string_agg('-' || helper.short(x), ' ' ORDER BY x) FROM jsonb_array_elements(d -> 'remove') x),
		(SELECT string_agg('+' || (x ->> 'id'), ' ' ORDER BY x -> 'id') FROM jsonb_array_elements(d -> 'upsert') x),
		(SELECT string_agg('*' || helper.short(x -> 'key'), ' ' ORDER BY x -> 'key') FROM jsonb_array_elements(d -> 'stored') x),
		(SELECT string_agg('x' || helper.short(x), ' ' ORDER BY x) FROM jsonb_array_elements(d -> 'deleted') x),
		(SELECT string_agg('!' || helper.short(x -> 'key'), ' ' ORDER BY x -> 'key') FROM jsonb_array_elements(d -> 'refused') x),
		CASE WHEN d ->> 'cursor' IS NULL THEN 'no cursor' END));
END $$;
-- the copy is what sync.changes gives, and its fingerprint is the server's
CREATE FUNCTION equal(who text, dom text, usr text, description text, filter text DEFAULT NULL, params text[] DEFAULT NULL) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
	RETURN NEXT helper.same(who, format('SELECT data FROM sync.changes(%L, NULL, %L, %L, %L) WHERE op = ''upsert''', dom, filter, params, usr), description);
	RETURN NEXT is((SELECT count FROM sync.fingerprint(dom, filter, params, usr)), (SELECT count(*) FROM held h WHERE h.who = equal.who), '... and so is the fingerprint');
	RETURN NEXT is((SELECT hash FROM sync.fingerprint(dom, filter, params, usr)),
		(SELECT lpad(to_hex(0), 16, '0') WHERE NOT EXISTS (SELECT FROM held h WHERE h.who = equal.who)
		 UNION ALL SELECT hash FROM sync.fingerprint(dom, 'id = ANY ($1)',
			ARRAY[(SELECT array_agg((h.key ->> 'id')::int)::text FROM held h WHERE h.who = equal.who HAVING count(*) > 0)]) WHERE EXISTS (SELECT FROM held h WHERE h.who = equal.who)), '... of those rows');
END $$;

CREATE TABLE doc (id int PRIMARY KEY, team int, title text);
CREATE TABLE member (user_id text, team int, left_at timestamptz, PRIMARY KEY (user_id, team));
CREATE INDEX ON member (team);
SELECT sync.track('doc', scope => '{team}');
SELECT sync.track('member', scope => '{user_id,team}', deleted_at => 'left_at');
INSERT INTO doc SELECT g, CASE WHEN g % 5 < 4 THEN g % 5 END, 'doc ' || g FROM generate_series(1, 20) g;
INSERT INTO member VALUES ('ada', 1), ('ada', 2), ('bob', 2), ('bob', 3), ('cyd', 0);

-- ---- a user needs an access relation ----
SELECT helper.refused($$SELECT rec('a', 'doc', 'ada')$$, '22023', 'ada', 'a user where no relation says what users may see');
SELECT helper.refused($$SELECT * FROM sync.fingerprint('doc', user_id => 'ada')$$, '22023', 'ada', 'in a fingerprint, too');
SELECT sync.set_access('doc', 'member');

-- ---- an access table ----
SELECT is(rec('a', 'doc', 'ada'), '+1 +2 +6 +7 +11 +12 +16 +17', 'what the user may see');
SELECT equal('a', 'doc', 'ada', 'is what sync.changes gives');
SELECT is(rec('a', 'doc', 'ada'), '', 'nothing more');
SELECT is(rec('n', 'doc', 'nobody'), '', 'a user without rights');
SELECT equal('n', 'doc', 'nobody', 'gets nothing');
SELECT is(rec('all', 'doc', NULL), (SELECT string_agg('+' || id, ' ' ORDER BY id) FROM doc), 'without a user: every row, those of no team as well');
SELECT equal('all', 'doc', NULL, 'as sync.changes gives them');
INSERT INTO held SELECT 'b', key, data FROM held WHERE who = 'a';
SELECT is(rec('b', 'doc', 'bob'), '-1 -6 -11 -16 +3 +8 +13 +18', 'another user with the copy of the first');
SELECT equal('b', 'doc', 'bob', 'holds the own rows then');
-- filters
SELECT is(rec('f', 'doc', 'ada', '{"filter": "id > $1", "params": [10]}'), '+11 +12 +16 +17', 'with a filter');
SELECT equal('f', 'doc', 'ada', 'of it, too', 'id > $1', '{10}');
SELECT is(rec('f', 'doc', 'ada', '{"filter": "id IN (SELECT 6 + m.team FROM t.member m)"}'), '-11 -12 -16 -17 +6 +7 no cursor', 'with a subquery');
SELECT is(rec('f', 'doc', 'ada', '{"filter": "team = 3"}'), '-6 -7', 'a scope that the user has not');
SELECT equal('f', 'doc', 'ada', 'is empty', 'team = 3');
-- fingerprints by ranges
SELECT is((SELECT string_agg(format('%s-%s:%s', after ->> 'id', upto ->> 'id', count), ' ' ORDER BY (upto ->> 'id')::int NULLS LAST) FROM sync.fingerprint('doc', user_id => 'ada', ranges => 3)), '-6:3 6-12:3 12-:2', 'ranges');
SELECT is((SELECT count FROM sync.fingerprint('doc', 'id > $1', '{5}', 'ada', '{"id": 6}', '{"id": 12}')), 3::bigint, 'bounds and filter');

-- ---- the cursor goes on from there ----
UPDATE doc SET title = 'later' WHERE id IN (6, 8, 9);
SELECT is(helper.sync('a', 'doc', user_id => 'ada'), '+6', 'the cursor goes on for this user');
INSERT INTO member VALUES ('ada', 3);
SELECT is(helper.sync('a', 'doc', user_id => 'ada'), '+3 +8 +13 +18', 'a grant after it');
UPDATE member SET left_at = now() WHERE user_id = 'ada' AND team = 1;
SELECT is(helper.sync('a', 'doc', user_id => 'ada'), '~1', 'a membership that is softly deleted after it');
SELECT equal('a', 'doc', 'ada', 'equal');
SELECT is(rec('a', 'doc', 'ada'), '', 'reconcile says so, too');
SELECT is(left(helper.sync('b', 'doc', user_id => 'ada'), 21), 'reset(other_question)', 'the cursor of one user is not another''s');
DELETE FROM held WHERE who = 'b';
DELETE FROM kept WHERE who = 'b';
SELECT rec('b', 'doc', 'bob') \g /dev/null
SELECT is(left(helper.sync('b', 'doc'), 21), 'reset(other_question)', 'nor anybody''s without one');
DELETE FROM held WHERE who = 'b';
DELETE FROM kept WHERE who = 'b';
SELECT rec('b', 'doc', 'bob') \g /dev/null
-- between reconcile and pull
INSERT INTO held SELECT 's', key, data FROM held WHERE who = 'a';
UPDATE member SET left_at = NULL WHERE user_id = 'ada' AND team = 1;
SELECT is(rec('s', 'doc', 'ada'), '+1 +6 +11 +16', 'a membership that came back');
SELECT equal('s', 'doc', 'ada', 'equal');
SELECT is(helper.sync('s', 'doc', user_id => 'ada'), '', 'and is no news to the cursor');
UPDATE member SET left_at = now() WHERE user_id = 'ada' AND team = 1;
SELECT is(rec('s', 'doc', 'ada'), '-1 -6 -11 -16', 'and left again');
SELECT equal('s', 'doc', 'ada', 'equal');

-- ---- changes of the client ----
UPDATE held SET data = data || '{"title": "mine", "~": "changed"}' WHERE who = 'a' AND key ->> 'id' = '7';
UPDATE held SET data = data || '{"team": 0, "~": "changed"}' WHERE who = 'a' AND key ->> 'id' = '8';
UPDATE held SET data = data || '{"~": "deleted"}' WHERE who = 'a' AND key ->> 'id' = '12';
INSERT INTO held VALUES ('a', '{"id": 31}', '{"id": 31, "team": 2, "title": "new", "~": "changed"}'), ('a', '{"id": 32}', '{"id": 32, "team": 0, "title": "new", "~": "changed"}'),
	('a', '{"id": 5}', '{"id": 5, "team": 2, "title": "taken", "~": "changed"}');
SELECT is(rec('a', 'doc', 'ada', '{}', '{"client": "a", "dry_run": true}'), '-5 -8 -32 *7 *8 *31 *32 x12 !5 no cursor', 'a dry run');
SELECT is((SELECT count(*) FROM doc WHERE title IN ('mine', 'new')), 0::bigint, 'changes nothing');
DELETE FROM held WHERE who = 'a';
INSERT INTO held SELECT 'a', key, data FROM held WHERE who = 's';
UPDATE held SET data = data || '{"title": "mine", "~": "changed"}' WHERE who = 'a' AND key ->> 'id' = '7';
UPDATE held SET data = data || '{"team": 0, "~": "changed"}' WHERE who = 'a' AND key ->> 'id' = '8';
UPDATE held SET data = data || '{"~": "deleted"}' WHERE who = 'a' AND key ->> 'id' = '12';
INSERT INTO held VALUES ('a', '{"id": 31}', '{"id": 31, "team": 2, "title": "new", "~": "changed"}'), ('a', '{"id": 32}', '{"id": 32, "team": 0, "title": "new", "~": "changed"}'),
	('a', '{"id": 5}', '{"id": 5, "team": 2, "title": "taken", "~": "changed"}');
SELECT is(rec('a', 'doc', 'ada', '{}', '{"client": "a"}'), '-5 -8 -32 *7 *8 *31 *32 x12 !5', 'changed, moved out of sight, deleted, made in and out of sight, and a key of a row that the user may not see');
SELECT equal('a', 'doc', 'ada', 'equal');
SELECT is((SELECT string_agg(concat_ws(':', id, team, title), ' ' ORDER BY id) FROM doc WHERE id IN (5, 7, 8, 12, 31, 32)), '5:0:doc 5 7:2:mine 8:0:later 31:2:new 32:0:new', 'here');
-- the user's own membership in the same request
INSERT INTO held SELECT 'm', key, data FROM held WHERE who = 'a';
DO $$
DECLARE
	answer jsonb;
BEGIN
	SELECT sync.reconcile(jsonb_build_object('user_id', 'ada', 'domains', jsonb_build_object('doc', jsonb_build_object('rows', t.sent('m'))))) INTO answer;
	IF answer #> '{domains,doc,remove}' <> '[]' THEN RAISE 'unequal before: %', answer; END IF;
END $$;
CREATE VIEW own_member AS SELECT user_id AS who, user_id, team FROM member;
SELECT sync.set_access('member', 'own_member', 'who');
SELECT sync.reconcile(jsonb_build_object('user_id', 'ada', 'client', 'a', 'domains', jsonb_build_object('doc', jsonb_build_object('rows', sent('m')),
	'member', jsonb_build_object('rows', jsonb_build_array('{"key": {"user_id": "ada", "team": 2}, "deleted_at": "2026-01-01T00:00:00Z"}'::jsonb))))) AS answer \gset
SELECT is((SELECT string_agg(helper.short(x), ' ' ORDER BY x) FROM jsonb_array_elements(:'answer'::jsonb #> '{domains,doc,remove}') x), '2 7 17 31', 'who leaves a team in the same call loses its rows');
SELECT is(:'answer'::jsonb #> '{domains,member,deleted}', '[{"team": 2, "user_id": "ada"}]', 'having left it');
DELETE FROM held h USING jsonb_array_elements(:'answer'::jsonb #> '{domains,doc,remove}') x WHERE who = 'm' AND h.key = x;
INSERT INTO kept SELECT 'm', (:'answer'::jsonb #>> '{domains,doc,cursor}')::sync.cursor;
SELECT equal('m', 'doc', 'ada', 'equal');
SELECT helper.sync('m', 'doc', user_id => 'ada') \g /dev/null
SELECT equal('m', 'doc', 'ada', 'and from the cursor, which tells the own changes again');

-- ---- several domains; one without a relation ----
CREATE TABLE plain (id int PRIMARY KEY);
SELECT sync.track('plain');
SELECT helper.refused($$SELECT sync.reconcile('{"user_id": "ada", "domains": {"doc": {"rows": []}, "plain": {"rows": []}}}')$$, '22023', 'plain', 'a domain without a relation, as in sync.pull');

-- ---- composite scopes, and many users against sync.changes ----
CREATE TABLE task (id int PRIMARY KEY, team int, kind text COLLATE "C", v int, gone timestamptz);
CREATE TABLE may (user_id int, kind text COLLATE "C", team int, n serial PRIMARY KEY, left_at timestamptz);
CREATE INDEX ON may (user_id, team, kind);
SELECT sync.track('task', scope => '{team,kind}', deleted_at => 'gone');
SELECT sync.track('may', scope => '{user_id,kind,team}', deleted_at => 'left_at');
SELECT sync.set_access('task', 'may');
SELECT setseed(0.5);
INSERT INTO task SELECT g, nullif(floor(random() * 6)::int, 0), (ARRAY['a', 'b', NULL])[floor(random() * 3) + 1], g, CASE WHEN random() < 0.1 THEN now() END FROM generate_series(1, 500) g;
INSERT INTO may (user_id, kind, team, left_at) SELECT floor(random() * 12), (ARRAY['a', 'b', 'c', NULL])[floor(random() * 4) + 1], nullif(floor(random() * 7)::int, 0), CASE WHEN random() < 0.3 THEN now() END FROM generate_series(1, 120) g;
INSERT INTO held SELECT 'u' || u, jsonb_build_object('id', t.id), to_jsonb(t) FROM generate_series(0, 12) u, task t WHERE random() < 0.5;
UPDATE task SET v = -v WHERE id % 7 = 0;
DELETE FROM task WHERE id % 11 = 0;
UPDATE task SET gone = now() WHERE id % 13 = 0;
UPDATE held SET data = data || '{"v": 0, "~": "changed"}' WHERE who LIKE 'u%' AND (key ->> 'id')::int % 17 = 0;
UPDATE held SET data = data || '{"~": "deleted"}' WHERE who LIKE 'u%' AND (key ->> 'id')::int % 19 = 0;
SELECT count(rec('u' || u, 'task', u::text)) AS n FROM generate_series(0, 12) u \gset
-- a later client's changes are news to those before it
SELECT helper.sync('u' || u, 'task', user_id => u::text) FROM generate_series(0, 12) u \g /dev/null
SELECT equal('u' || u, 'task', u::text, 'user ' || u) FROM generate_series(0, 12) u;
UPDATE may SET left_at = CASE WHEN left_at IS NULL THEN now() END WHERE n % 3 = 0;
UPDATE task SET team = 1 + id % 5, kind = CASE WHEN id % 2 = 0 THEN 'a' ELSE 'b' END WHERE id % 10 = 0;
SELECT count(helper.sync('u' || u, 'task', user_id => u::text)) AS n FROM generate_series(0, 5) u \gset
SELECT count(rec('u' || u, 'task', u::text)) AS n FROM generate_series(6, 12) u \gset
SELECT equal('u' || u, 'task', u::text, 'user ' || u || ' later, by ' || CASE WHEN u < 6 THEN 'cursor' ELSE 'reconcile' END) FROM generate_series(0, 12) u;

-- ---- an access view ----
CREATE TABLE staff (user_id text PRIMARY KEY, lowest int);
SELECT sync.track('staff');
CREATE VIEW sees AS SELECT s.user_id, d AS team FROM staff s, generate_series(s.lowest, 3) d UNION ALL SELECT s.user_id, 3 FROM staff s;
INSERT INTO staff VALUES ('ada', 2), ('bob', 4);
DELETE FROM held;
DELETE FROM kept;
SELECT sync.set_access('doc', 'sees');
SELECT is(rec('a', 'doc', 'ada'), '+2 +3 +7 +13 +17 +18 +31', 'an access view: each row once');
SELECT equal('a', 'doc', 'ada', 'as sync.changes gives them');
SELECT is(helper.sync('a', 'doc', user_id => 'ada'), '', 'the cursor knows what the view said');
UPDATE doc SET title = 'v' WHERE id IN (2, 1);
SELECT is(helper.sync('a', 'doc', user_id => 'ada'), '+2', 'and goes on');
UPDATE staff SET lowest = 3 WHERE user_id = 'ada';
INSERT INTO held SELECT 's', key, data FROM held WHERE who = 'a';
INSERT INTO kept SELECT 's', c FROM kept WHERE who = 'a';
SELECT is(helper.sync('s', 'doc', user_id => 'ada'), 'reset(access) +3 +13 +18', 'until the view says something else');
SELECT is(rec('a', 'doc', 'ada'), '-2 -7 -17 -31', 'where reconcile tells what differs');
SELECT equal('a', 'doc', 'ada', 'equal');
SELECT is(helper.sync('a', 'doc', user_id => 'ada'), '', 'and gives a cursor that is good again');

-- ---- whose rights hold ----
SELECT sync.set_access('doc', 'member');
GRANT SELECT, INSERT, UPDATE, DELETE ON doc TO regress_sync_server, regress_sync_stranger;
SET ROLE regress_sync_stranger;
SELECT helper.refused($$SELECT sync.reconcile('{"user_id": "ada", "domains": {"doc": {"rows": []}}}')$$, '42501', 'member', 'who may not read the access table');
SELECT helper.refused($$SELECT * FROM sync.fingerprint('doc', user_id => 'ada')$$, '42501', 'member', 'learns nothing from a fingerprint either');
RESET ROLE;
GRANT SELECT ON member TO regress_sync_server;
ALTER TABLE member OWNER TO regress_sync_owner;
ALTER TABLE member ENABLE ROW LEVEL SECURITY;
ALTER TABLE doc ENABLE ROW LEVEL SECURITY;
SET client_min_messages = error;
CREATE POLICY odd_titles ON doc USING (title LIKE '%doc%');
DELETE FROM held;
DELETE FROM kept;
SET ROLE regress_sync_server;
SELECT is((SELECT count(*) FROM member), 0::bigint, 'row security on the access table hides it from the server ...');
SET search_path = t, public;
RESET ROLE;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA t TO regress_sync_server;
SET ROLE regress_sync_server;
SELECT is(rec('a', 'doc', 'bob'), '+3 +13 +17 +18', '... but not from what it says; policies of the domain hold');
SELECT equal('a', 'doc', 'bob', 'as sync.changes gives them');
SELECT is(rec('all', 'doc', NULL) LIKE '%no cursor', true, 'without a user a policy over other columns lets nobody follow');
SELECT helper.same('all', 'SELECT data FROM sync.changes(''doc'') WHERE op = ''upsert''', 'but the copy is equal');
RESET ROLE;
DROP POLICY odd_titles ON doc;
CREATE POLICY by_team ON doc USING (team <> 2);
SET ROLE regress_sync_server;
SELECT is(rec('a', 'doc', 'bob'), '-17', 'a policy over the scope');
SELECT is(rec('all', 'doc', NULL) LIKE '%no cursor', false, 'can be followed');
SELECT helper.sync('all', 'doc') \g /dev/null
SELECT helper.same('all', 'SELECT data FROM sync.changes(''doc'') WHERE op = ''upsert''', 'equal');
RESET ROLE;
ALTER TABLE doc DISABLE ROW LEVEL SECURITY;
ALTER TABLE member DISABLE ROW LEVEL SECURITY;

-- ---- a relation that DDL broke ----
ALTER TABLE member RENAME COLUMN team TO crew;
SELECT is(rec('b', 'doc', 'bob') <> '', true, 'a renamed column is followed');
SET client_min_messages = error;
ALTER TABLE member DROP COLUMN crew CASCADE;
SELECT helper.refused($$SELECT sync.reconcile('{"user_id": "bob", "domains": {"doc": {"rows": []}}}')$$, '55000', 'doc', 'a dropped one is not');
SELECT helper.refused($$SELECT * FROM sync.fingerprint('doc', user_id => 'bob')$$, '55000', 'doc', 'nor in a fingerprint');

SELECT * FROM finish();
DROP SCHEMA t CASCADE;
DROP ROLE regress_sync_server, regress_sync_stranger, regress_sync_owner;
SELECT count(sync.forget_client(client)) AS forgotten FROM sync.device \gset
