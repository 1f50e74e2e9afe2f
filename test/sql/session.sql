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
SELECT sync.track('orders');
SELECT sync.track('line');
SELECT sync.track('plot');
SELECT sync.track('tree');
SELECT sync.track('plain');
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
SELECT is((SELECT round(extract(epoch FROM device_offset)) FROM sync.sessions WHERE session = :'session'), 3600::numeric, 'the offset of the device''s clock is measured');
SELECT is((SELECT b.session::text FROM sync.begin_session('phone', 'ann') b), :'session', 'begun again it is the same');
SELECT is((SELECT round(extract(epoch FROM device_offset)) FROM sync.sessions WHERE session = :'session'), 3600::numeric, 'the offset stays where none is measured');
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

-- 3. composite keys
SELECT is(short(push(:'session', '[
	{"op": "insert", "domain": "tree", "data": {"company": 7, "plot": "p1", "nr": 1}},
	{"op": "insert", "domain": "plot", "pending": true, "data": {"company": 7, "id": "p1", "main": "p2", "title": "first"}},
	{"op": "insert", "domain": "plot", "pending": true, "data": {"company": 7, "id": "p2", "main": "p1", "title": "second"}},
	{"op": "insert", "domain": "tree", "data": {"company": 7, "plot": "p2", "nr": 1}},
	{"op": "delete", "domain": "tree", "key": {"company": 7, "plot": "p2", "nr": 1}}]')), 'applied, applied p1, applied p2, applied, applied', 'composite keys and foreign keys');
SELECT is((SELECT string_agg(concat_ws(' ', a.title, b.title, t.nr), ', ' ORDER BY a.title) FROM plot a JOIN plot b ON (b.company, b.id) = (a.company, a.main) LEFT JOIN tree t ON (t.company, t.plot) = (a.company, a.id)), 'first second 1, second first', 'hold as well');

-- 4. pull
SELECT sync.pull(jsonb_build_object('session', :'session', 'domains', '{"orders": {}, "line": {}}'::jsonb)) AS p \gset
SELECT is(jsonb_array_length(:'p'::jsonb #> '{domains,orders,upsert}'), 2, 'a pull in the session');
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
SELECT :'max_checkin' AS first_checkin \gset
UPDATE orders SET title = 'theirs' WHERE title = 'two';
SELECT * FROM sync.begin_session('phone', 'ann') \gset
SELECT is(:'last_sync'::text, :'first_checkin', 'the next session begins where it ended, and the end that came again moved nothing');
SELECT is((SELECT jsonb_agg(e ->> 'title' ORDER BY e ->> 'title') FROM jsonb_array_elements(sync.pull(jsonb_build_object('session', :'session', 'domains', '{"orders": {}}'::jsonb)) #> '{domains,orders,upsert}') e), '["changed", "theirs"]', 'its pull begins there');
SELECT is(short(push(:'session', jsonb_build_array(jsonb_build_object('op', 'update', 'domain', 'orders', 'key', (SELECT jsonb_build_object('id', id) FROM orders WHERE title = 'theirs'), 'data', '{"title": "mine"}'::jsonb))::text)), 'conflict', 'and its pushes are compared with it');

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

-- 7. the clock: nothing but newer_wins looks at it
SELECT session FROM sync.begin_session('watch', 'ann', clock_timestamp() - interval '1 day') \gset
SELECT push(:'session', '[{"op": "insert", "domain": "plain", "data": {"id": 5}}]') #>> '{results,0,status}' AS s \gset
ALTER TABLE plain ADD COLUMN v text;
UPDATE plain SET v = 'theirs';
SELECT pg_sleep(0.02);
SELECT is(short(push(:'session', jsonb_build_array(jsonb_build_object('op', 'update', 'domain', 'plain', 'data', '{"id": 5, "v": "mine"}'::jsonb, 'base', '2020-01-01', 'at', clock_timestamp() - interval '1 day'))::text, '{"policy": "newer_wins"}')), 'applied', 'corrected by the session''s offset');

-- 8. forgetting a client
SELECT sync.forget_client('phone');
SELECT is((SELECT count(*) FROM sync.device WHERE client = 'phone'), 0::bigint, 'a client is forgotten');
SELECT helper.refused($$SELECT sync.forget_client('phone')$$, '42704', 'phone', 'and then unknown');
SELECT ok((SELECT b.session IS NOT NULL FROM sync.begin_session('phone', 'bob') b), 'its name is free');
UPDATE sync.mutation SET at = at - interval '1 year';
UPDATE sync.device SET seen_at = seen_at - interval '1 year' WHERE client = 'watch';
SELECT cmp_ok(sync.sweep('1 month'), '>', 0::bigint, 'old mutations are swept');
SELECT is((SELECT string_agg(client, ',') FROM sync.device), 'phone', 'with clients that came no more');

-- 9. who may
CREATE ROLE sync_session_ann;
CREATE ROLE sync_session_bob;
GRANT USAGE ON SCHEMA t TO sync_session_ann, sync_session_bob;
GRANT SELECT, INSERT, UPDATE ON plain TO sync_session_ann, sync_session_bob;
SET ROLE sync_session_ann;
SELECT session FROM sync.begin_session('anns', 'ann') \gset
SELECT is(short(sync.push(jsonb_build_object('session', :'session', 'mutations', '[{"op": "insert", "domain": "plain", "data": {"id": 50}}]'::jsonb))), 'applied', 'a role without any right on the extension''s tables');
SET ROLE sync_session_bob;
SELECT helper.refused($$SELECT sync.begin_session('anns', 'ann')$$, '42501', 'anns', 'another role has another client');
SELECT helper.refused($$SELECT sync.push('{"client": "anns", "mutations": []}')$$, '42501', 'anns', 'nor pushes for it');
SELECT helper.refused(format('SELECT sync.push(%L)', jsonb_build_object('session', :'session', 'mutations', '[]'::jsonb)), '42501', 'anns', 'nor in its session');
SELECT helper.refused(format('SELECT sync.pull(%L)', jsonb_build_object('session', :'session', 'domains', '{}'::jsonb)), '42501', 'anns', 'nor pulls');
SELECT helper.refused(format('SELECT sync.end_session(%L, %L)', :'session', '2020-01-01'), '42501', 'anns', 'nor ends it');
SELECT helper.fails('SELECT * FROM sync.mutation', '42501', 'the tables are nobody''s');
SELECT helper.fails('SELECT sync.sweep()', '42501', 'nor is sweeping');
RESET ROLE;
SELECT is(sync.end_session(:'session', '2020-01-01')::text, '', 'a superuser may');
DROP OWNED BY sync_session_ann, sync_session_bob;
DELETE FROM sync.device;
DROP ROLE sync_session_ann, sync_session_bob;
SELECT * FROM finish();
DROP SCHEMA t CASCADE;
