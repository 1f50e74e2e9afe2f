\set ECHO none
\i test/setup.sql
-- Sync sessions and provisional keys.
CREATE SCHEMA t;
SET search_path = t, public;
SELECT no_plan();
CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, title text, parent bigint REFERENCES orders DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE line (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), "order" bigint NOT NULL REFERENCES orders DEFERRABLE INITIALLY DEFERRED, v text);
CREATE TABLE plot (company int NOT NULL, id serial, main int, title text, PRIMARY KEY (company, id));
CREATE TABLE tree (company int NOT NULL, plot int NOT NULL, nr int NOT NULL, PRIMARY KEY (company, plot, nr), FOREIGN KEY (company, plot) REFERENCES plot);
ALTER TABLE plot ADD CONSTRAINT main FOREIGN KEY (company, main) REFERENCES plot DEFERRABLE INITIALLY DEFERRED;
CREATE TABLE plain (id int PRIMARY KEY);
CREATE TABLE note ("order" bigint PRIMARY KEY REFERENCES orders DEFERRABLE, v text);
SELECT sync.track('orders');
SELECT sync.track('line');
SELECT sync.track('plot');
SELECT sync.track('tree');
SELECT sync.track('plain');
SELECT sync.track('note');
CREATE FUNCTION push(session uuid, ms text, more text DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS
$$ SELECT sync.push(jsonb_build_object('session', session, 'mutations', ms::jsonb) || more::jsonb) $$;
CREATE FUNCTION short(answer jsonb) RETURNS text LANGUAGE sql AS
$$ SELECT string_agg((r ->> 'status') || coalesce(' ' || (r ->> 'sqlstate'), '') || coalesce(' ' || (r ->> 'local_id'), ''), ', ' ORDER BY o)
     FROM jsonb_array_elements(answer -> 'results') WITH ORDINALITY x(r, o) $$;

-- 1. begin
SELECT session, coalesce(last_sync::text, '') AS last_sync, max_checkin, server_time FROM sync.begin_session('phone', 'ann', clock_timestamp() - interval '1 hour') \gset
SELECT ok(:'session' IS NOT NULL AND :'max_checkin' IS NOT NULL, 'a session');
SELECT is(:'last_sync'::text, '', 'the first has no last_sync');
SELECT ok(:'server_time'::timestamptz <= clock_timestamp(), 'the server''s time');
SELECT is((SELECT round(extract(epoch FROM device_offset))::numeric FROM sync.sessions WHERE session = :'session'), 3600::numeric, 'the offset of the device''s clock is measured');
SELECT is((SELECT b.session::text FROM sync.begin_session('phone', 'ann') b), :'session', 'begun again it is the same');
SELECT is((SELECT round(extract(epoch FROM device_offset))::numeric FROM sync.sessions WHERE session = :'session'), 3600::numeric, 'the offset stays where none is measured');
SELECT is((SELECT b.max_checkin::text FROM sync.begin_session('phone', 'ann') b), :'max_checkin', 'with the same window');
SELECT helper.refused($$SELECT sync.begin_session('phone', 'bob')$$, '42501', 'phone', 'a client belongs to one user');
SELECT helper.fails($$SELECT sync.begin_session(NULL, 'bob')$$, '22004', 'no client');
SELECT helper.fails($$SELECT sync.begin_session('x', 'bob', 'infinity')$$, '22008', 'no clock shows infinity');
SELECT helper.fails(format('SELECT push(%L, %L, %L)', :'session', '[]', '{"client": "tablet"}'), '42501', 'the session of another client');
SELECT helper.fails(format('SELECT push(%L, %L, %L)', :'session', '[]', '{"user_id": "bob"}'), '42501', 'of another user');

-- 2. provisional keys, referred to in every direction
SELECT push(:'session', '[
	{"id": 1, "op": "insert", "domain": "line", "pending": true, "data": {"id": "l1", "order": "o1", "v": "before its order"}},
	{"id": 2, "op": "insert", "domain": "orders", "pending": true, "data": {"id": "o1", "title": "one", "parent": "o2"}},
	{"id": 3, "op": "insert", "domain": "orders", "pending": true, "key": {"id": "o2"}, "data": {"title": "two", "parent": "o1"}},
	{"id": 4, "op": "insert", "domain": "line", "pending": true, "data": {"id": "l2", "order": "o2", "v": "after"}},
	{"id": 5, "op": "update", "domain": "line", "data": {"id": "l2", "v": "again"}}]') AS a \gset
SELECT is(short(:'a'), 'applied l1, applied o1, applied o2, applied l2, applied l2', 'forward, backward, in a circle');
SELECT is((SELECT string_agg(concat_ws(' ', o.title, p.title, l.v), ', ' ORDER BY o.title) FROM orders o JOIN orders p ON p.id = o.parent JOIN line l ON l.order = o.id), 'one two before its order, two one again', 'the references hold');
SELECT is((:'a'::jsonb #>> '{results,1,key,id}')::bigint, (SELECT id FROM orders WHERE title = 'one'), 'the answer has the real key');
SELECT is(short(push(:'session', '[{"id": 2, "op": "insert", "domain": "orders", "pending": true, "data": {"id": "o1", "title": "one", "parent": "o2"}}]')), 'duplicate o1', 'sent again');
SELECT is(short(push(:'session', '[{"op": "insert", "domain": "orders", "pending": true, "data": {"id": "o1", "title": "one", "parent": "o2"}}]')), 'applied o1', 'sent again without an id');
SELECT is(short(push(:'session', '[{"op": "insert", "domain": "orders", "pending": true, "data": {"id": "o1", "title": "changed", "parent": "o2"}}]')), 'applied o1', 'and changed since');
SELECT is((SELECT string_agg(title, ', ' ORDER BY title) FROM orders), 'changed, two', 'it is the same row');
SELECT is(short(push(:'session', '[{"op": "insert", "domain": "line", "pending": true, "data": {"id": "l3", "order": "o1"}}, {"op": "delete", "domain": "line", "key": {"id": "l2"}}]')), 'applied l3, applied l2', 'references in a later push');
SELECT is(short(push(:'session', '[{"op": "insert", "domain": "line", "pending": true, "data": {"id": "l9", "order": "nosuch"}}]')), 'rejected 22P02 l9', 'a reference to nothing');
SELECT is(short(push(:'session', '[{"op": "insert", "domain": "line", "pending": true, "data": {"id": "l9", "order": 9999}}]')), 'rejected 23503 l9', 'nor to a row that is not there, deferred or not');
SELECT is(short(push(:'session', '[{"op": "insert", "domain": "plain", "pending": true, "data": {"id": 1}}]')), 'rejected 0A000', 'a key that nobody makes');
SELECT is(short(push(:'session', '[{"op": "update", "domain": "line", "pending": true, "data": {"id": "l3"}}]')), 'rejected 22023', 'an update makes no key');
SELECT is(short(push(:'session', '[{"op": "insert", "domain": "line", "pending": true, "data": {"v": "x"}}]')), 'rejected 22023', 'pending without a key');

SELECT is(short(push(:'session', jsonb_build_array(jsonb_build_object('op', 'insert', 'domain', 'line', 'pending', true, 'data', jsonb_build_object('id', repeat('x', 256), 'order', 'o1')),
	jsonb_build_object('op', 'insert', 'domain', 'line', 'pending', true, 'data', jsonb_build_object('id', repeat('x', 255), 'order', 'o1', 'v', 'long')))::text)),
	'rejected 22023, applied ' || repeat('x', 255), 'a provisional key that is too long, and one that is not');
SELECT is(short(push(:'session', '[
	{"op": "insert", "domain": "orders", "pending": true, "data": {"id": -1, "title": "by number"}},
	{"op": "insert", "domain": "line", "pending": true, "data": {"id": -1, "order": -1, "v": "of a number"}},
	{"op": "upsert", "domain": "line", "pending": true, "data": {"id": "-2", "order": "-1", "v": "upserted"}}]')), 'applied -1, applied -1, applied -2', 'numbers, of each domain by itself');
SELECT is((SELECT string_agg(v, ', ' ORDER BY v) FROM line JOIN orders o ON o.id = "order" WHERE title = 'by number'), 'of a number, upserted', 'a number and its text are one key');
SELECT is(short(push(:'session', '[{"op": "update", "domain": "line", "key": {"id": -1}, "data": {"v": "assumed"}, "assumed": {"id": -1, "order": -1, "v": "of a number"}}]')), 'applied -1', 'also in what is assumed');
UPDATE line SET v = 'by somebody' WHERE v = 'assumed';
SELECT is(short(push(:'session', '[{"op": "update", "domain": "line", "key": {"id": -1}, "data": {"v": "of a number"}, "assumed": {"order": -1, "v": "by somebody"}}]')), 'applied -1', 'and a reference in it');
SELECT is(short(push(:'session', '[{"op": "insert", "domain": "note", "data": {"order": -1, "v": "one"}}, {"op": "update", "domain": "note", "key": {"order": "-1"}, "data": {"v": "two"}}]')), 'applied, applied', 'a key that is a reference');
SELECT is((SELECT n.v FROM note n JOIN orders o ON o.id = n.order WHERE title = 'by number'), 'two', 'is rewritten like one');
SELECT is(short(push(:'session', '[{"id": "r1", "op": "insert", "domain": "orders", "pending": true, "data": {"id": "r1", "parent": 9999}}]')), 'rejected 23503 r1', 'one that is refused');
SELECT is((SELECT count(*) FROM sync.local_id WHERE local_id = 'r1'), 0::bigint, 'leaves no provisional key');
SELECT is(short(push(:'session', '[{"id": "r1", "op": "insert", "domain": "orders", "pending": true, "data": {"id": "r1", "title": "mended"}}]')), 'applied r1', 'and comes again, mended');
SELECT is(short(push(:'session', '[{"op": "insert", "domain": "orders", "pending": true, "data": {"id": "a1", "title": "all"}}, {"op": "insert", "domain": "line", "pending": true, "data": {"id": "a2", "order": 9999}}]', '{"atomic": "all"}')), 'rejected 40000 a1, rejected 23503 a2', 'all or nothing: nothing');
SELECT is(short(push(:'session', '[{"op": "insert", "domain": "orders", "pending": true, "data": {"id": "a1", "title": "all"}}, {"op": "insert", "domain": "line", "pending": true, "data": {"id": "a2", "order": "a1"}}]', '{"atomic": "all"}')), 'applied a1, applied a2', 'all');
SELECT is((SELECT count(*) FROM orders WHERE title = 'all'), 1::bigint, 'once');

-- what was made with a provisional key, and went since
DELETE FROM line WHERE v = 'upserted';
SELECT is(short(push(:'session', '[{"op": "upsert", "domain": "line", "pending": true, "data": {"id": "-2", "order": "-1", "v": "upserted"}}]')), 'conflict -2', 'a row that somebody deleted is not made again');
SELECT is((SELECT count(*) FROM line WHERE v = 'upserted'), 0::bigint, 'it is not there');
SELECT is(short(push(:'session', '[{"op": "insert", "domain": "line", "pending": true, "data": {"id": "-2", "order": "-1", "v": "upserted"}}]', '{"policy": "client_wins"}')), 'applied -2', 'unless the client wins');
SELECT is(short(push(:'session', '[{"op": "delete", "domain": "line", "key": {"id": "-2"}}]')), 'applied -2', 'what the client deleted itself');
SELECT is(short(push(:'session', '[{"op": "insert", "domain": "line", "pending": true, "data": {"id": "-2", "order": "-1", "v": "upserted"}}]')), 'applied -2', 'it makes again');
UPDATE line SET v = 'theirs' WHERE v = 'upserted';
SELECT is(short(push(:'session', '[{"op": "insert", "domain": "line", "pending": true, "data": {"id": "-2", "order": "-1", "v": "upserted"}}]')), 'conflict -2', 'and what somebody changed is not overwritten');
DELETE FROM note; DELETE FROM line WHERE v <> 'after' AND "order" IN (SELECT id FROM orders WHERE title IN ('by number', 'mended', 'all')) OR v = 'long' OR v IS NULL;
DELETE FROM line WHERE "order" IN (SELECT id FROM orders WHERE title IN ('by number', 'mended', 'all'));
DELETE FROM orders WHERE title IN ('by number', 'mended', 'all');
DELETE FROM sync.local_id WHERE local_id IN ('-1', 'r1', 'a1');

-- 3. composite keys
SELECT is(short(push(:'session', '[
	{"op": "insert", "domain": "tree", "data": {"company": 7, "plot": "p1", "nr": 1}},
	{"op": "insert", "domain": "plot", "pending": true, "data": {"company": 7, "id": "p1", "main": "p2", "title": "first"}},
	{"op": "insert", "domain": "plot", "pending": true, "data": {"company": 7, "id": "p2", "main": "p1", "title": "second"}},
	{"op": "insert", "domain": "tree", "data": {"company": 7, "plot": "p2", "nr": 1}},
	{"op": "delete", "domain": "tree", "key": {"company": 7, "plot": "p2", "nr": 1}}]')), 'applied, applied p1, applied p2, applied, applied', 'composite keys and foreign keys');
SELECT is((SELECT string_agg(concat_ws(' ', a.title, b.title, t.nr), ', ' ORDER BY a.title) FROM plot a JOIN plot b ON (b.company, b.id) = (a.company, a.main) LEFT JOIN tree t ON (t.company, t.plot) = (a.company, a.id)), 'first second 1, second first', 'hold as well');

-- references by way of another table's foreign key
CREATE TABLE company (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text, home bigint);
CREATE TABLE site (company bigint REFERENCES company, id serial, PRIMARY KEY (company, id));
CREATE TABLE visit (company bigint, site int, nr int, PRIMARY KEY (company, site, nr), FOREIGN KEY (company, site) REFERENCES site);
CREATE TABLE photo (company bigint, site int, visit int, name text, PRIMARY KEY (company, site, visit, name), FOREIGN KEY (company, site, visit) REFERENCES visit);
CREATE TABLE badge (company bigint PRIMARY KEY REFERENCES company DEFERRABLE INITIALLY DEFERRED, v text);
CREATE TABLE wearer (badge bigint PRIMARY KEY REFERENCES badge, name text);
ALTER TABLE company ADD FOREIGN KEY (home) REFERENCES badge DEFERRABLE INITIALLY DEFERRED;
SELECT sync.track('company'), sync.track('site'), sync.track('visit'), sync.track('photo'), sync.track('badge'), sync.track('wearer') \gset
SELECT is(short(push(:'session', '[
	{"op": "insert", "domain": "photo", "data": {"company": "c1", "site": "s1", "visit": 1, "name": "front"}},
	{"op": "insert", "domain": "wearer", "data": {"badge": "c1", "name": "bea"}},
	{"op": "insert", "domain": "visit", "data": {"company": "c1", "site": "s1", "nr": 1}},
	{"op": "insert", "domain": "site", "pending": true, "data": {"company": "c1", "id": "s1"}},
	{"op": "insert", "domain": "badge", "data": {"company": "c1", "v": "gold"}},
	{"op": "insert", "domain": "company", "pending": true, "data": {"id": "c1", "name": "Acme", "home": "c1"}}]')), 'applied, applied, applied, applied s1, applied, applied c1', 'references by way of other tables, children first');
SELECT is((SELECT concat_ws(' ', c.name, p.name, w.name, h.v) FROM company c JOIN photo p ON p.company = c.id JOIN wearer w ON w.badge = c.id JOIN badge h ON h.company = c.home), 'Acme front bea gold', 'are the company''s key');
SELECT is(short(push(:'session', '[{"op": "update", "domain": "photo", "key": {"company": "c1", "site": "s1", "visit": 1, "name": "front"}, "data": {"name": "back"}}, {"op": "delete", "domain": "wearer", "key": {"badge": "c1"}}]')), 'applied, applied', 'also in keys of later pushes');
DROP TABLE company, site, visit, photo, badge, wearer;

-- partitions
CREATE TABLE album (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, title text) PARTITION BY RANGE (id);
CREATE TABLE album_1 PARTITION OF album DEFAULT;
CREATE TABLE song (id uuid DEFAULT gen_random_uuid(), album bigint REFERENCES album, year int, title text, PRIMARY KEY (year, id)) PARTITION BY LIST (year);
CREATE TABLE song_1 PARTITION OF song DEFAULT;
SELECT sync.track('album'), sync.track('song') \gset
SELECT is(short(push(:'session', '[
	{"op": "insert", "domain": "song", "pending": true, "data": {"id": "s1", "album": "a1", "year": 1971, "title": "first"}},
	{"op": "insert", "domain": "album", "pending": true, "data": {"id": "a1", "title": "blue"}}]')), 'applied s1, applied a1', 'partitioned tables');
SELECT is((SELECT concat_ws(' ', a.title, s.title) FROM song s JOIN album a ON a.id = s.album), 'blue first', 'in both places');
DROP TABLE song, album;

-- 4. pull
SELECT sync.pull(jsonb_build_object('session', :'session', 'domains', '{"orders": {}, "line": {}}'::jsonb)) AS p \gset
SELECT is(jsonb_array_length(:'p'::jsonb #> '{domains,orders,upsert}'), 2, 'a pull in the session, with the session''s own records');
SELECT is(jsonb_array_length(sync.pull(jsonb_build_object('session', :'session', 'client', 'phone', 'domains', jsonb_build_object('orders', jsonb_build_object('since', :'max_checkin')))) #> '{domains,orders,upsert}'), 0, 'which the client may leave out');
SELECT helper.refused(format('SELECT sync.pull(%L)', jsonb_build_object('session', :'session', 'user_id', 'bob', 'domains', '{}'::jsonb)), '42501', 'bob', 'not for another user');
SELECT helper.refused(format('SELECT sync.pull(%L)', jsonb_build_object('session', :'session', 'client', 'tablet', 'domains', '{}'::jsonb)), '42501', 'tablet', 'nor for another client');
SELECT helper.fails($$SELECT sync.pull('{"session": "x", "domains": {}}')$$, '22P02', 'not what is no session at all');
SELECT helper.fails($$SELECT sync.push('{"session": "x", "mutations": []}')$$, '22P02', 'nor a push');
SELECT is((SELECT jsonb_agg(e -> 'local_id') FROM jsonb_array_elements(:'p'::jsonb #> '{domains,orders,local_ids}') e), '["o1", "o2"]', 'names the provisional keys');
SELECT is((:'p'::jsonb #>> '{domains,orders,local_ids,0,key,id}')::bigint, (SELECT id FROM orders WHERE title = 'changed'), 'and the real ones');
SELECT is((push(:'session', '[]', '{"pull": {"domains": {"line": {}}}}') #> '{pull,domains,line}') ? 'local_ids', true, 'also inside a push');

-- 5. end
SELECT helper.refused(format('SELECT sync.end_session(%L, NULL)', :'session'), '22004', 'last', 'an end without a cursor');
SELECT helper.refused($$SELECT sync.end_session('00000000-0000-0000-0000-000000000000', '2020-01-01')$$, '42704', '00000000', 'an unknown session');
SELECT is(sync.end_session(:'session', :'max_checkin')::text, '', 'ended');
SELECT is(sync.end_session(:'session', '2020-01-01')::text, '', 'ended again');
SELECT helper.refused(format('SELECT push(%L, %L)', :'session', '[]'), '42704', :'session', 'it takes no more pushes');
SELECT helper.refused(format('SELECT sync.pull(%L)', jsonb_build_object('session', :'session', 'domains', '{}'::jsonb)), '42704', :'session', 'nor pulls');
SELECT is((SELECT count(*) FROM sync.local_id), 0::bigint, 'provisional keys are forgotten');
SELECT is((SELECT ended_at IS NOT NULL AND provisional_keys = 0 FROM sync.sessions WHERE session = :'session'), true, 'the view shows it');
SELECT helper.fails(format($$SELECT push(%L, '[]')$$, gen_random_uuid()), '42704', 'one that never was');
SELECT :'max_checkin' AS first_checkin \gset
UPDATE orders SET title = 'theirs' WHERE title = 'two';
SELECT * FROM sync.begin_session('phone', 'ann') \gset
SELECT is(:'last_sync'::text, :'first_checkin', 'the next session begins where it ended, and the end that came again moved nothing');
SELECT is((SELECT jsonb_agg(e ->> 'title' ORDER BY e ->> 'title') FROM jsonb_array_elements(sync.pull(jsonb_build_object('session', :'session', 'domains', '{"orders": {}}'::jsonb)) #> '{domains,orders,upsert}') e), '["changed", "theirs"]', 'its pull begins there');
SELECT is(short(push(:'session', jsonb_build_array(jsonb_build_object('op', 'update', 'domain', 'orders', 'key', (SELECT jsonb_build_object('id', id) FROM orders WHERE title = 'theirs'), 'data', '{"title": "mine"}'::jsonb))::text)), 'conflict', 'and its pushes are compared with it');

SELECT is(short(push(:'session', '[
	{"id": 2, "op": "insert", "domain": "orders", "pending": true, "data": {"id": "o1", "title": "one", "parent": "o2"}},
	{"op": "insert", "domain": "line", "pending": true, "data": {"id": "late", "order": "o1", "v": "late"}}]')), 'duplicate o1, applied late', 'a mutation of a session that has ended: its key is known by its id, and can be referred to');
SELECT is((SELECT title FROM line l JOIN orders o ON o.id = "order" WHERE v = 'late'), 'changed', 'it is the right one');
SELECT is((push(:'session', '[]', '{"pull": {"domains": {"orders": {}}}}') #>> '{pull,domains,orders,local_ids,0,local_id}'), 'o1', 'and is remembered anew');
DELETE FROM line WHERE v = 'late';

-- what others change while a session is open comes in it, or in the next
SELECT b.session AS s2, b.max_checkin AS m2 FROM sync.begin_session('laptop', 'ann') b \gset
UPDATE orders SET title = 'after' WHERE title = 'theirs';
SELECT ok((sync.pull(jsonb_build_object('session', :'s2', 'domains', '{"orders": {}}'::jsonb)) #> '{domains,orders,upsert}') @> '[{"title": "after"}]', 'what was changed after the session began');
SELECT pg_sleep(1.1);	-- the next change leaves a tick, by which a time is known
UPDATE orders SET title = 'later' WHERE title = 'after';
SELECT sync.end_session(:'s2', :'m2') \gset
SELECT b.session AS s2, b.last_sync::text = :'m2' AS moved FROM sync.begin_session('laptop', 'ann') b \gset
SELECT ok(:'moved', 'the next window begins where the last one ended');
SELECT sync.pull(jsonb_build_object('session', :'s2', 'domains', '{"orders": {}}'::jsonb)) AS p \gset
SELECT is(:'p'::jsonb #> '{domains,orders,reset}', NULL, 'it is no first load');
SELECT ok((:'p'::jsonb #> '{domains,orders,upsert}') @> '[{"title": "later"}]', 'and holds what came after the last pull');
SELECT sync.end_session(:'s2', (:'p'::jsonb #>> '{domains,orders,cursor}')::sync.cursor) \gset
SELECT b.session AS s2 FROM sync.begin_session('laptop', 'ann') b \gset
SELECT is(sync.pull(jsonb_build_object('session', :'s2', 'domains', '{"orders": {}}'::jsonb)) #> '{domains,orders,upsert}', '[]', 'a pull''s cursor ends it as well');
SELECT sync.end_session(:'s2', (:'p'::jsonb ->> 'time')::timestamptz) \gset
SELECT b.session AS s2 FROM sync.begin_session('laptop', 'ann') b \gset
SELECT is(sync.pull(jsonb_build_object('session', :'s2', 'domains', '{"orders": {}, "line": {}}'::jsonb)) #> '{domains,line,reset}', NULL, 'and its time, for all domains');
UPDATE orders SET title = 'theirs' WHERE title = 'later';

-- the session's user sees what the access relation gives him, and need not be named
CREATE TABLE paper (id int PRIMARY KEY, team int, v text);
CREATE TABLE member (team int, user_id text, PRIMARY KEY (team, user_id));
SELECT sync.track('paper', scope => '{team}'), sync.track('member', scope => '{user_id,team}'), sync.set_access('paper', 'member') \gset
INSERT INTO member VALUES (1, 'ann'), (2, 'bob');
INSERT INTO paper VALUES (1, 1, 'hers'), (2, 2, 'his');
SELECT sync.pull(jsonb_build_object('session', :'s2', 'domains', '{"paper": {"since": null}, "line": {}}'::jsonb)) AS p \gset
SELECT is((SELECT jsonb_agg(e -> 'v') FROM jsonb_array_elements(:'p'::jsonb #> '{domains,paper,upsert}') e), '["hers"]', 'the session''s user');
SELECT is(:'p'::jsonb #>> '{domains,line,state}', 'up-to-date', 'and a domain without users in the same pull');
SELECT is((SELECT jsonb_agg(e -> 'v') FROM jsonb_array_elements(push(:'s2', '[]', '{"pull": {"domains": {"paper": {}}}}') #> '{pull,domains,paper,upsert}') e), '["hers"]', 'also inside a push');
SELECT helper.refused(format('SELECT push(%L, %L, %L)', :'s2', '[]', '{"pull": {"user_id": "bob", "domains": {}}}'), '42501', 'bob', 'nobody else');
UPDATE orders SET title = title;
SELECT is(sync.pull(jsonb_build_object('session', :'s2', 'domains', '{"plot": {}}'::jsonb)) #> '{domains,plot,upsert}', '[]', 'what was there before the last session is not sent again');
SELECT is(jsonb_array_length(sync.pull(jsonb_build_object('session', :'s2', 'domains', '{"plot": {"since": null}}'::jsonb)) #> '{domains,plot,upsert}'), 2, 'unless since is null: a domain that was not loaded yet');
SELECT is(jsonb_array_length(push(:'s2', '[]', '{"pull": {"domains": {"plot": {"since": null}}}}') #> '{pull,domains,plot,upsert}'), 2, 'also inside a push');
SELECT sync.end_session(:'s2', sync.current_cursor()) \gset
SELECT b.session AS s2 FROM sync.begin_session('laptop', 'ann') b \gset
SELECT is(short(push(:'s2', jsonb_build_array(jsonb_build_object('op', 'update', 'domain', 'orders', 'key', (SELECT jsonb_build_object('id', id) FROM orders WHERE title = 'theirs'), 'data', '{"title": "mine"}'::jsonb))::text)), 'applied', 'nobody changed it in the window');
UPDATE orders SET title = 'theirs' WHERE title = 'mine';
SELECT is(short(push(:'s2', jsonb_build_array(jsonb_build_object('op', 'update', 'domain', 'orders', 'key', (SELECT jsonb_build_object('id', id) FROM orders WHERE title = 'theirs'), 'data', '{"title": "mine"}'::jsonb))::text)), 'conflict', 'now somebody has');
SELECT is(short(push(:'s2', jsonb_build_array(jsonb_build_object('op', 'update', 'domain', 'orders', 'key', (SELECT jsonb_build_object('id', id) FROM orders WHERE title = 'theirs'), 'data', '{"title": "mine"}'::jsonb))::text, '{"since": null}')), 'applied', 'and with since null nothing is known of the row');
UPDATE orders SET title = 'theirs' WHERE title = 'mine';
SELECT sync.forget_client('laptop') \gset
DROP TABLE paper, member;

-- 6. a session that fails, and one that is abandoned
SELECT push(:'session', '[{"op": "insert", "domain": "orders", "pending": true, "data": {"id": "o7", "title": "seven"}}]') AS a \gset
UPDATE sync.session SET seen_at = seen_at - interval '1 year';
SELECT is(sync.sweep('1 month'), 0::bigint, 'abandoned sessions are swept');
SELECT is((SELECT count(*) FROM sync.session), 0::bigint, 'it is gone');
SELECT is((SELECT b.last_sync::text FROM sync.begin_session('phone', 'ann') b), :'first_checkin', 'last_sync did not move');
SELECT session FROM sync.begin_session('phone', 'ann') \gset
SELECT is(short(push(:'session', '[{"op": "insert", "domain": "orders", "pending": true, "data": {"id": "o7", "title": "seven, changed after it"}}]')), 'applied o7', 'what was changed after a session that failed');
SELECT is((SELECT string_agg(title, ', ') FROM orders WHERE title ~ 'seven'), 'seven, changed after it', 'is not lost, nor doubled');
SELECT is(short(push(:'session', '[{"op": "insert", "domain": "line", "pending": true, "data": {"id": "l7", "order": "o7"}}]')), 'applied l7', 'and can be referred to');
SELECT helper.refused($$SELECT sync.sweep('-1 day')$$, '22023', '-1 day', 'a negative age');

SELECT is((SELECT provisional_keys FROM sync.sessions WHERE session = :'session'), (SELECT count(*) FROM sync.local_id), 'what is not yet confirmed is counted');
UPDATE sync.session SET seen_at = seen_at - interval '1 year';
SELECT push(:'session', '[]') IS NOT NULL AS pushed, sync.sweep('1 month') \gset
SELECT ok(push(:'session', '[]') IS NOT NULL, 'a session that is pushed in is not abandoned');

-- the record that made a provisional key is refused, and a later one of the row applied
SELECT session AS pad FROM sync.begin_session('pad', 'ann') \gset
SELECT is(short(push(:'pad', '[{"id": 1, "op": "insert", "domain": "orders", "pending": true, "data": {"id": "p1", "title": "first", "parent": 9999}},
	{"id": 2, "op": "upsert", "domain": "orders", "data": {"id": "p1", "title": "pad"}}]')), 'rejected 23503 p1, applied p1', 'a later record of a row whose first was refused');
SELECT is(short(push(:'pad', '[{"id": 1, "op": "insert", "domain": "orders", "pending": true, "data": {"id": "p1", "title": "first", "parent": 9999}},
	{"id": 3, "op": "update", "domain": "orders", "data": {"id": "p1", "title": "pad again"}}]')), 'superseded p1, applied p1', 'keeps the key: the first makes no other row when it comes again');
SELECT is((SELECT string_agg(title, ', ') FROM orders WHERE title ~ 'pad'), 'pad again', 'there is one row');
SELECT sync.forget_client('pad');

-- 7. the clock: nothing but newer_wins looks at it
SELECT session FROM sync.begin_session('watch', 'ann', clock_timestamp() - interval '1 day') \gset
SELECT push(:'session', '[{"op": "insert", "domain": "plain", "data": {"id": 5}}]') #>> '{results,0,status}' AS s \gset
ALTER TABLE plain ADD COLUMN v text;
UPDATE plain SET v = 'theirs';
SELECT pg_sleep(0.02);
CREATE FUNCTION late(ago interval, policy text DEFAULT 'newer_wins') RETURNS text LANGUAGE sql AS
$$ SELECT jsonb_build_array(jsonb_build_object('op', 'update', 'domain', 'plain', 'data', jsonb_build_object('id', 5, 'v', 'mine'), 'base', '2020-01-01', 'at', clock_timestamp() - ago))::text $$;
SELECT is(short(push(:'session', late('1 day 1 hour'), '{"policy": "newer_wins"}')), 'conflict', 'made before, by the session''s offset');
SELECT is(short(push(:'session', late('-10 years'), '{"policy": "reject"}')), 'conflict', 'no other policy looks at a client''s time');
SELECT is(short(push(:'session', late('1 day'), '{"policy": "newer_wins"}')), 'applied', 'corrected by the session''s offset');
SELECT is((SELECT count(*) FROM plain WHERE modified_at > clock_timestamp()), 0::bigint, 'nor does a row take its time');
UPDATE plain SET v = 'theirs';
SELECT pg_sleep(0.02);
SELECT is(short(push(:'session', late('1 day'), jsonb_build_object('policy', 'newer_wins', 'time', clock_timestamp())::text)), 'conflict', 'the time that a push shows is measured anew');
SELECT is((SELECT round(extract(epoch FROM device_offset))::numeric FROM sync.sessions WHERE session = :'session'), 0::numeric, 'stored');
SELECT is(short(push(:'session', late('1 day'), '{"policy": "newer_wins"}')), 'conflict', 'and holds for the next push');
SELECT is(short(push(:'session', late('0'), '{"policy": "newer_wins"}')), 'applied', 'which is newer by it');
SELECT is(short(push(:'session', jsonb_build_array(jsonb_build_object('op', 'update', 'domain', 'plain', 'data', '{"id": 5, "v": "theirs"}'::jsonb, 'base', '2020-01-01', 'at', '294276-12-31'))::text, '{"policy": "newer_wins", "time": "4713-01-01 BC"}')), 'applied', 'clocks at the ends of time');

-- 8. forgetting a client
SELECT sync.forget_client('phone');
SELECT is((SELECT count(*) FROM sync.device WHERE client = 'phone'), 0::bigint, 'a client is forgotten');
SELECT helper.refused($$SELECT sync.forget_client('phone')$$, '42704', 'phone', 'and then unknown');
SELECT ok((SELECT b.session IS NOT NULL FROM sync.begin_session('phone', 'bob') b), 'its name is free');
UPDATE sync.mutation SET at = at - interval '1 year';
UPDATE sync.device SET seen_at = seen_at - interval '1 year' WHERE client = 'watch';
SELECT cmp_ok(sync.sweep('1 month'), '>', 0::bigint, 'old mutations are swept');
SELECT is((SELECT string_agg(client, ',') FROM sync.device), 'phone', 'with clients that came no more');

SELECT session FROM sync.begin_session('phone', 'bob') \gset
CREATE TABLE gone (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY);
SELECT sync.track('gone') \gset
SELECT push(:'session', '[{"id": 1, "op": "insert", "domain": "gone", "pending": true, "data": {"id": "g"}}]') \gset
DROP TABLE gone;
SELECT is((SELECT count(*) FROM sync.local_id) + (SELECT count(*) FROM sync.mutation WHERE key IS NOT NULL), 0::bigint, 'what was pushed goes with its table');
SELECT helper.refused($$SELECT sync.begin_session(repeat('c', 256), 'ann')$$, '22023', '256', 'a client''s name that is too long');
SELECT is(short(sync.push(jsonb_build_object('client', 'ids', 'mutations', jsonb_build_array(jsonb_build_object('id', repeat('i', 256), 'op', 'insert', 'domain', 'plain', 'data', '{"id": 6}'::jsonb),
	jsonb_build_object('id', repeat('i', 255), 'op', 'insert', 'domain', 'plain', 'data', '{"id": 7}'::jsonb))))), 'rejected 22023, applied', 'and an id that is');
SELECT sync.forget_client('ids') \gset

-- 9. who may
CREATE ROLE regress_session_ann;
CREATE ROLE regress_session_bob;
GRANT USAGE ON SCHEMA t TO regress_session_ann, regress_session_bob;
GRANT SELECT, INSERT, UPDATE ON plain TO regress_session_ann, regress_session_bob;
SET ROLE regress_session_ann;
SELECT session FROM sync.begin_session('anns', 'ann') \gset
SELECT is(short(sync.push(jsonb_build_object('session', :'session', 'mutations', '[{"op": "insert", "domain": "plain", "data": {"id": 50}}]'::jsonb))), 'applied', 'a role without any right on the extension''s tables');
SET ROLE regress_session_bob;
SELECT helper.refused($$SELECT sync.begin_session('anns', 'ann')$$, '42501', 'anns', 'another role has another client');
SELECT helper.refused($$SELECT sync.push('{"client": "anns", "mutations": []}')$$, '42501', 'anns', 'nor pushes for it');
SELECT helper.refused(format('SELECT sync.push(%L)', jsonb_build_object('session', :'session', 'mutations', '[]'::jsonb)), '42501', 'anns', 'nor in its session');
SELECT helper.refused(format('SELECT sync.pull(%L)', jsonb_build_object('session', :'session', 'domains', '{}'::jsonb)), '42501', 'anns', 'nor pulls');
SELECT helper.refused(format('SELECT sync.end_session(%L, %L)', :'session', '2020-01-01'), '42501', 'anns', 'nor ends it');
SELECT helper.fails('SELECT * FROM sync.mutation', '42501', 'the tables are nobody''s');
SELECT helper.fails('SELECT sync.sweep()', '42501', 'nor is sweeping');
RESET ROLE;
SELECT is(sync.end_session(:'session', '2020-01-01')::text, '', 'a superuser may');
DROP OWNED BY regress_session_ann, regress_session_bob;
DELETE FROM sync.device;
DROP ROLE regress_session_ann, regress_session_bob;
SELECT * FROM finish();
DROP SCHEMA t CASCADE;
