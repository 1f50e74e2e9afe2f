\set ECHO none
\i test/setup.sql
-- sync.pull: many domains, one snapshot, one JSON.
CREATE SCHEMA t;
SET search_path = t, public;
SELECT plan(44);
CREATE TABLE doc (id int PRIMARY KEY, team int, title text);
CREATE TABLE tag (id int PRIMARY KEY, doc int REFERENCES doc);
SELECT sync.track('doc', scope => '{team}');
SELECT sync.track('tag');
INSERT INTO doc VALUES (1, 1, 'a'), (2, 2, 'b');
INSERT INTO tag VALUES (1, 1);

-- malformed: the detail names the place
CREATE FUNCTION bad(request text, quotes text, description text, state text DEFAULT '22023') RETURNS text LANGUAGE sql AS
$$ SELECT helper.refused(format('SELECT sync.pull(%L)', request), state, quotes, description) $$;
SELECT bad('[]', '', 'an array');
SELECT bad('"x"', '', 'a string');
SELECT bad('null', '', 'a null');
SELECT bad('{}', 'domains', 'no domains');
SELECT bad('{"domains": []}', 'domains', 'domains: an array');
SELECT bad('{"domains": {"doc": 1}}', 'domains.doc', 'a domain that is a number');
SELECT bad('{"domains": {"doc": []}}', 'domains.doc', 'a domain that is an array');
SELECT bad('{"domains": {"doc": {}}, "nosuch": 1}', 'nosuch', 'an unknown member');
SELECT bad('{"domains": {"doc": {"nosuch": 1}}}', 'domains.doc.nosuch', 'an unknown member of a domain');
SELECT bad('{"domains": {"doc": {"since": 1}}}', 'domains.doc.since', 'since: a number');
SELECT bad('{"domains": {"doc": {"since": {}}}}', 'domains.doc.since', 'since: an object');
SELECT bad('{"domains": {"doc": {"since": "garbage"}}}', 'garbage', 'since: garbage', '22P02|22023');
SELECT bad('{"domains": {"doc": {"filter": 1}}}', 'domains.doc.filter', 'filter: a number');
SELECT bad('{"domains": {"doc": {"params": "x"}}}', 'domains.doc.params', 'params: a string');
SELECT bad('{"domains": {"doc": {"params": {"a": 1}}}}', 'domains.doc.params', 'params: an object');
SELECT bad('{"domains": {"doc": {"exclude": 1}}}', '', 'exclude: a number');
SELECT bad('{"domains": {"doc": {"max_rows": "x"}}}', 'domains.doc.max_rows', 'max_rows: a string');
SELECT bad('{"domains": {"doc": {"max_rows": 0}}}', 'domains.doc.max_rows', 'max_rows: zero');
SELECT bad('{"domains": {"doc": {"max_rows": 1.5}}}', 'domains.doc.max_rows', 'max_rows: a fraction');
SELECT bad('{"domains": {"doc": {"max_rows": 99999999999}}}', 'domains.doc.max_rows', 'max_rows: too many');
SELECT bad('{"client": 1, "domains": {"doc": {}}}', 'client', 'client: a number');
SELECT bad('{"user_id": {}, "domains": {"doc": {}}}', 'user_id', 'user_id: an object');
SELECT bad('{"domains": {"nosuch": {}}}', 'nosuch', 'an unknown domain', '42704');
SELECT bad('{"domains": {"doc": {}, "tag": {"filter": "nosuch = 1"}}}', 'nosuch', 'a filter that fails', '42703');
SELECT bad('{"domains": {"doc": {"filter": "true; DROP TABLE t.doc"}}}', '', 'an injection', '42601');

-- the shape
SELECT sync.pull('{"client": "c", "domains": {"doc": {}, "tag": {}}}') AS first \gset
SELECT is((SELECT array_agg(k ORDER BY k) FROM jsonb_object_keys(:'first'::jsonb) k), '{domains,time}', 'the answer');
SELECT is((SELECT array_agg(k ORDER BY k) FROM jsonb_object_keys(:'first'::jsonb -> 'domains') k), '{doc,tag}', 'has the domains that were asked for');
SELECT is((SELECT array_agg(k ORDER BY k) FROM jsonb_object_keys(:'first'::jsonb #> '{domains,doc}') k), '{cursor,forget,remove,state,upsert}', 'each with its members');
SELECT is(:'first'::jsonb #>> '{domains,doc,state}', 'up-to-date', 'its state');
SELECT is((SELECT jsonb_agg(e ORDER BY e -> 'id') FROM jsonb_array_elements(:'first'::jsonb #> '{domains,doc,upsert}') e), (SELECT jsonb_agg(to_jsonb(d) ORDER BY id) FROM doc d), 'its rows');
SELECT is(:'first'::jsonb #> '{domains,doc,remove}', '[]', 'no removals in a first load');
SELECT ok((:'first'::jsonb ->> 'time')::timestamptz <= clock_timestamp(), 'the time is one');
SELECT matches(:'first'::jsonb #>> '{domains,doc,cursor}', '^c[A-Za-z0-9_-]+$', 'the cursor is a text');

SELECT jsonb_build_object('client', 'c', 'domains', jsonb_build_object('doc', jsonb_build_object('since', :'first'::jsonb #> '{domains,doc,cursor}'),
	'tag', jsonb_build_object('since', :'first'::jsonb #> '{domains,tag,cursor}'))) AS request \gset
UPDATE doc SET title = 'A' WHERE id = 1;
DELETE FROM doc WHERE id = 2;
SELECT sync.pull(:'request') AS next \gset
SELECT is((:'next'::jsonb #> '{domains,doc,upsert}') -> 0 ->> 'title', 'A', 'a delta');
SELECT is(:'next'::jsonb #> '{domains,doc,remove}', '[{"id": 2}]', 'a removal');
SELECT is((:'next'::jsonb #> '{domains,tag}') - 'cursor', '{"state": "up-to-date", "forget": [], "upsert": [], "remove": []}', 'a domain without news');
BEGIN;
SELECT set_config('sync.client', 'c', true) \g /dev/null
UPDATE doc SET title = 'mine' WHERE id = 1;
COMMIT;
SELECT jsonb_build_object('client', 'c', 'domains', jsonb_build_object('doc', jsonb_build_object('since', :'next'::jsonb #> '{domains,doc,cursor}'))) AS request \gset
SELECT is(sync.pull(:'request') #> '{domains,doc,upsert}', '[]', 'the client''s own change');
SELECT is(jsonb_array_length(sync.pull(:'request'::jsonb - 'client') #> '{domains,doc,upsert}'), 1, 'is news to another');
SELECT is(sync.pull('{"domains": {"doc": {"filter": "team = $1", "params": ["1"]}}}') #>> '{domains,doc,upsert,0,id}', '1', 'filter and parameters');
SELECT is(sync.pull('{"domains": {"doc": {"filter": "team = $1", "params": [1]}}}') #>> '{domains,doc,upsert,0,id}', '1', 'a parameter may be a number');
INSERT INTO doc VALUES (3, 1, 'c'), (4, 1, 'd');
SELECT sync.pull('{"domains": {"doc": {"max_rows": 2}, "tag": {"max_rows": 2}}}') AS page \gset
SELECT is(:'page'::jsonb #>> '{domains,doc,state}' || ' ' || (:'page'::jsonb #>> '{domains,tag,state}'), 'more up-to-date', 'pages, domain by domain');
SELECT is(jsonb_array_length(:'page'::jsonb #> '{domains,doc,upsert}'), 2, 'full ones');
TRUNCATE doc CASCADE;
SELECT sync.pull(:'request') AS reset \gset
SELECT is((:'reset'::jsonb #> '{domains,doc}') - 'cursor', '{"state": "up-to-date", "reset": true, "forget": [], "upsert": [], "remove": []}', 'a reset says so');
SELECT is(sync.pull('{"domains": {"doc": {"since": null, "filter": null, "params": null, "exclude": null, "max_rows": null}}}') #>> '{domains,doc,state}', 'up-to-date', 'null is absent');

SELECT * FROM finish();
DROP SCHEMA t CASCADE;
