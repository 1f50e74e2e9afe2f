\set ECHO none
\i test/setup.sql
-- Entries of streams as a domain: who must hear of what was stored.
CREATE SCHEMA t;
SET search_path = t, public;
SELECT plan(46);

-- Who is named since the last time, "client" in order; other domains with their name.
CREATE TABLE place (c sync.cursor);
INSERT INTO place VALUES (sync.current_cursor());
CREATE FUNCTION woken() RETURNS text LANGUAGE plpgsql AS $$
DECLARE r record; named text[] := '{}';
BEGIN
	FOR r IN SELECT * FROM sync.affected((SELECT c FROM place)) LOOP
		IF r.client IS NULL THEN
			UPDATE place SET c = r.cursor;
		ELSE
			named := named || (r.client || CASE WHEN r.domain <> 'sync.entries' THEN ':' || r.domain ELSE '' END);
		END IF;
	END LOOP;
	RETURN (SELECT coalesce(string_agg(n, ' ' ORDER BY n COLLATE "C"), '') FROM unnest(named) n);
END $$;
CREATE FUNCTION append(stream text, VARIADIC ids text[]) RETURNS void LANGUAGE sql AS $$
	SELECT count(*) FROM sync.append(stream, (SELECT jsonb_agg(jsonb_build_object('id', id, 'actions',
		jsonb_build_array(jsonb_build_object('id', 'of ' || id))) ORDER BY n) FROM unnest(ids) WITH ORDINALITY AS u(id, n))) $$;
-- What is new to a server that was woken.
CREATE FUNCTION told(name text, c sync.cursor) RETURNS text LANGUAGE sql AS $$
	SELECT coalesce(string_agg(CASE WHEN kind = 'reset' THEN 'reset' WHEN kind = 'snapshot' THEN '[]' ELSE regexp_replace(id, ':.*', '') END, ' '), '')
	  FROM sync.entries(name, c) WHERE kind NOT IN ('up-to-date') $$;

CREATE TABLE doc (id int PRIMARY KEY);
SELECT sync.track('doc');

-- ---- the name of the domain ----

SELECT is((SELECT count(*)::int FROM sync.domains WHERE domain = 'sync.entries'), 0, 'where there is no stream operators see no domain of entries');
SELECT sync.create_stream('s', 'actions'), sync.create_stream('S', 'actions'), sync.create_stream('o', 'opaque');
SELECT is((SELECT d::text FROM sync.domains d WHERE domain = 'sync.entries'), '(sync.entries,sync.entry,"{stream,id}",{stream},,,,f,{})', 'where there is one they do');
CREATE TABLE other (id int PRIMARY KEY);
SELECT helper.refused($$SELECT sync.track('other', 'sync.entries')$$, '42939', 'sync.entries', 'no table has this domain');
SELECT helper.refused($$SELECT * FROM sync.changes('sync.entries')$$, '42809', 'sync.entries', 'it has no rows: changes');
SELECT helper.refused($$SELECT sync.pull('{"domains": {"sync.entries": {}}}')$$, '42809', 'sync.entries', 'pull');
SELECT helper.refused($$SELECT sync.touch('sync.entries', '{"id": 1}')$$, '42809', 'sync.entries', 'touch');
SELECT helper.refused($$SELECT sync.reset('sync.entries')$$, '42809', 'sync.entries', 'reset');
SELECT helper.refused($$SELECT sync.set_access('sync.entries', 'doc')$$, '42809', 'sync.entries', 'set_access: rights are those on sync.streams');

-- ---- subscribing ----

SELECT sync.connect('a1', 'ada', 'web1', '{doc}');
SELECT sync.connect('b1', 'bob', 'web1', '{sync.entries}');
SELECT sync.connect('c1', 'cyd', 'web1', '{}');
SELECT helper.refused($$SELECT sync.connect('c1', 'cyd', 'web1', '{sync.entry}')$$, '42704', 'sync.entry', 'a name that is only like it');
SELECT helper.refused($$SELECT sync.connect('c1', 'cyd', 'web1', '{NULL}')$$, '42704', 'NULL', 'and no name');
SELECT helper.refused($$SELECT sync.subscribe('c1', 'sync.entries', '{"id": "s"}')$$, '22023', 'id', 'the scope is the stream');
SELECT helper.refused($$SELECT sync.subscribe('c1', 'sync.entries', '{"stream": null}')$$, '22023', 'stream', 'not null');
SELECT helper.refused($$SELECT sync.subscribe('c1', 'sync.entries', '{}')$$, '22023', 'stream', 'not nothing');
SELECT woken() \g /dev/null
SELECT is(woken(), '', 'quiet');
SELECT append('s', 'e1', 'e2');
SELECT is(woken(), 'b1', 'who subscribes to all streams is named');
SELECT is(woken(), '', 'once');
SELECT sync.subscribe('c1', 'sync.entries', '{"stream": "s"}');
SELECT is(woken(), 'c1', 'who subscribed since is');
SELECT append('s', 'e3');
SELECT is(woken(), 'b1 c1', 'who subscribes to the stream is named');
SELECT append('S', 'e3');
SELECT is(woken(), 'b1', 'not for another one, also one whose name differs by a capital');
SELECT count(*) FROM sync.put('o', '{x}', '{"\\x00"}') \g /dev/null
SELECT is(woken(), 'b1', 'opaque streams are streams');
SELECT sync.subscribe('c1', 'sync.entries', '{"stream": "to come"}');
SELECT woken() \g /dev/null
SELECT sync.create_stream('to come', 'actions');
SELECT is(woken(), '', 'making a stream is no news');
SELECT append('to come', 'e1');
SELECT is(woken(), 'b1 c1', 'a stream can be subscribed to before it is there');
SELECT append('s', 'e3');
SELECT is(woken(), '', 'a duplicate is no news');
INSERT INTO doc VALUES (1);
SELECT is(woken(), 'a1:doc', 'and other domains are others');
BEGIN; INSERT INTO doc VALUES (2); SELECT append('s', 'e4'); COMMIT;
SELECT is(woken(), 'a1:doc b1 c1', 'also in one transaction');

-- ---- authors ----

SET sync.client = 'c1';
SELECT append('s', 'e5');
SELECT is(woken(), 'b1', 'the author is not named');
SELECT append('s', 'e6'), append('S', 'e6');
SELECT is(woken(), 'b1', 'of two calls neither');
SET sync.client = 'b1';
SELECT append('S', 'e7');
SELECT is(woken(), '', 'nor who subscribes to all');
SELECT append('s', 'e7');
SET sync.client = 'c1';
SELECT append('s', 'e8');
SELECT is(woken(), 'b1 c1', 'with two authors both are');
SET sync.client = 'c1';
SELECT append('s', 'e9');
SET sync.client = 'b1';
SELECT append('S', 'e9');
SELECT is(woken(), 'b1', 'two authors in two streams: c1 wrote all that it subscribes to');
RESET sync.client;

-- ---- transactions ----

BEGIN;
SELECT append('s', 'e10');
SELECT is(woken(), '', 'what one has not committed is no news');
ROLLBACK;
SELECT is(woken(), '', 'nor what was rolled back');
BEGIN; SAVEPOINT a; SELECT append('s', 'e10'); ROLLBACK TO a; SELECT append('S', 'e10'); COMMIT;
SELECT is(woken(), 'b1', 'a savepoint that was rolled back');
BEGIN; SAVEPOINT a; SELECT append('s', 'e10'); RELEASE a; COMMIT;
SELECT is(woken(), 'b1 c1', 'and one that was not');

-- ---- compacting ----

SELECT c AS before FROM place \gset
SELECT append('s', 'f1');
SELECT append('s', 'f2');
SELECT sync.combine('s', (SELECT at FROM sync.entries('s') WHERE id = 'f1')) \g /dev/null
SELECT is(woken(), 'b1 c1', 'what was combined since is told');
SELECT sync.combine('s', (SELECT at FROM sync.entries('s') WHERE id = 'f2')) \g /dev/null
SELECT is(woken(), '', 'combining is no news');
SELECT c AS between FROM place \gset
SELECT append('s', 'f3');
SELECT sync.snapshot('s', (SELECT at FROM sync.entries('s') WHERE kind = 'up-to-date'), '"state"') \g /dev/null
SELECT sync.trim('s') \g /dev/null
SELECT is(woken(), 'b1 c1', 'what was trimmed since is told: a snapshot holds it');
UPDATE place SET c = :'before';
SELECT is(woken(), 'b1 c1', 'also to who asks from long ago');
SELECT append('s', 'f4');
SELECT woken() \g /dev/null
SET sync.client = 'c1';
SELECT sync.snapshot('s', (SELECT at FROM sync.entries('s') WHERE kind = 'up-to-date'), '"state"') \g /dev/null
SELECT is(woken(), 'b1', 'a snapshot is news, but not to its author');
SELECT sync.trim('s') \g /dev/null
RESET sync.client;
SELECT is(woken(), '', 'trimming is none');

-- ---- the cursor of who was woken is a place in every stream ----

SELECT c AS last FROM place \gset
SELECT is(told('s', :'last'), '', 'nothing is new to it');
SELECT append('s', 'g1');
SELECT is(told('s', :'last'), 'g1', 'what was stored after it is');
SELECT is(told('S', :'last'), '', 'in that stream');
SELECT is(told('s', :'between'), '[] g1', 'and the snapshot to one that is older');
SELECT woken() \g /dev/null

-- ---- dropping ----

SELECT append('S', 'h1');
SELECT sync.drop_stream('S');
SELECT is(woken(), '', 'what was dropped meanwhile is no news');
SELECT sync.create_stream('S', 'actions');
SELECT append('S', 'h1');
SELECT is(woken(), 'b1', 'a stream of the same name keeps its subscribers');

SELECT sync.drop_stream(stream) FROM sync.streams;
SELECT sync.disconnect(c) FROM unnest('{a1,b1,c1}'::text[]) c \g /dev/null
DELETE FROM sync.server;
SELECT sync.untrack('doc');
SELECT * FROM finish();
DROP SCHEMA t CASCADE;
