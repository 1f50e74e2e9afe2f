\set ECHO none
\i test/setup.sql
-- Streams: storing, reading, compacting.
BEGIN;
SELECT plan(76);

CREATE FUNCTION pg_temp.entry(id text, VARIADIC actions text[]) RETURNS jsonb LANGUAGE sql AS
$$ SELECT jsonb_build_object('id', id, 'actions', (SELECT jsonb_agg(jsonb_build_object('id', a, 'at', 1) ORDER BY n)
	FROM unnest(actions) WITH ORDINALITY AS u(a, n))) $$;
-- What an answer tells, in short: snapshots in brackets, entries with their actions, |: more.
CREATE FUNCTION pg_temp.told(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	answer text;
BEGIN
	EXECUTE format($q$
		SELECT string_agg(CASE kind
			WHEN 'reset' THEN 'reset(' || (data ->> 'reason') || ')'
			WHEN 'snapshot' THEN '[' || coalesce(data::text, convert_from(bytes, 'UTF8')) || ']'
			WHEN 'entry' THEN regexp_replace(id, '^sync:entry:.*', '*') || '(' || coalesce((SELECT string_agg(a ->> 'id', ' ' ORDER BY n)
				FROM jsonb_array_elements(data) WITH ORDINALITY AS x(a, n)), convert_from(bytes, 'UTF8')) || ')'
			WHEN 'wanted' THEN '?' || id
			WHEN 'more' THEN '|' ELSE '.' END, ' ' ORDER BY ord)
		FROM (SELECT *, row_number() OVER () AS ord FROM (%s) AS q) AS t$q$, query) INTO answer;
	RETURN answer;
END $$;

SELECT sync.create_stream('s', 'actions');
SELECT sync.create_stream('other', 'actions');
SELECT sync.create_stream('o', 'opaque');
SELECT set_eq('SELECT stream, kind FROM sync.streams', $$VALUES ('s', 'actions'), ('other', 'actions'), ('o', 'opaque')$$, 'streams are listed');

-- an empty one
SELECT is(pg_temp.told('SELECT * FROM sync.entries(''s'')'), '.', 'an empty stream');
SELECT is((SELECT at FROM sync.entries('s')), NULL, 'has no time');
SELECT isnt((SELECT cursor::text FROM sync.entries('s')), NULL, 'but a cursor');
SELECT cursor AS empty FROM sync.entries('s') \gset
SELECT is_empty('SELECT sync.entry_ids(''s'')', 'and no ids');
SELECT is((SELECT count(*)::int FROM sync.append('s', '[]')), 0, 'storing nothing stores nothing');

-- storing
SELECT results_eq($$ SELECT id, status FROM sync.append('s', jsonb_build_array(pg_temp.entry('e1', 'a1'), pg_temp.entry('e2', 'a2', 'a3'))) $$,
	$$ VALUES ('e1', 'stored'), ('e2', 'stored') $$, 'one call, two entries, in order');
SELECT is((SELECT count(DISTINCT at)::int FROM sync.entries('s') WHERE kind = 'entry'), 1, 'that share a time');
SELECT ok((SELECT bool_and(at = date_trunc('milliseconds', at)) FROM sync.entries('s')), 'in whole milliseconds');
SELECT is(pg_temp.told('SELECT * FROM sync.entries(''s'')'), 'e1(a1) e2(a2 a3) .', 'they are read in order');
SELECT at AS t1 FROM sync.entries('s') WHERE id = 'e1' \gset
SELECT results_eq($$ SELECT id, status FROM sync.append('s', jsonb_build_array(pg_temp.entry('e3', 'a4'), pg_temp.entry('e2', 'a2', 'a3'), pg_temp.entry('e3', 'a4'))) $$,
	$$ VALUES ('e3', 'stored'), ('e2', 'duplicate'), ('e3', 'duplicate') $$, 'what is known says so, in the same call, too');
SELECT is((SELECT at FROM sync.append('s', jsonb_build_array(pg_temp.entry('e1', 'a1')))), :'t1'::timestamptz, 'with its first time');
SELECT is((SELECT count(DISTINCT at)::int FROM sync.append('s', jsonb_build_array(pg_temp.entry('e3', 'a4'), pg_temp.entry('e4', 'a5'), pg_temp.entry('e3', 'a4')))), 2,
	'a repeated one has the time of the first');
SELECT ok((SELECT bool_and(at > lag) FROM (SELECT at, lag(at) OVER (ORDER BY at) FROM (SELECT DISTINCT at FROM sync.entries('s') WHERE kind = 'entry') x) y WHERE lag IS NOT NULL),
	'times grow from call to call, also within one transaction');
SELECT helper.refused($$ SELECT sync.append('s', jsonb_build_array(pg_temp.entry('e1', 'a9'))) $$, '23505', 'e1', 'the same id with other content');
SELECT helper.refused($$ SELECT sync.append('s', jsonb_build_array(pg_temp.entry('x', 'a9'), pg_temp.entry('x', 'a8'))) $$, '23505', 'x', 'and in one call');
SELECT is(pg_temp.told('SELECT * FROM sync.entries(''s'')'), 'e1(a1) e2(a2 a3) e3(a4) e4(a5) .', 'a call that fails stores nothing');
SELECT lives_ok($$ SELECT sync.append('other', jsonb_build_array(pg_temp.entry('e1', 'a9'))) $$, 'another stream has ids of its own');
SELECT is(pg_temp.told('SELECT * FROM sync.entries(''other'')'), 'e1(a9) .', 'and entries of its own');
SELECT results_eq('SELECT sync.entry_ids(''s'')', $$ VALUES ('e1'), ('e2'), ('e3'), ('e4') $$, 'entry_ids');

-- opaque
SELECT results_eq($$ SELECT id, status FROM sync.put('o', '{x,y}', '{"\\x58","\\x59"}') $$, $$ VALUES ('x', 'stored'), ('y', 'stored') $$, 'put');
SELECT is((SELECT status FROM sync.put('o', '{y}', '{"\\x59"}')), 'duplicate', 'again');
SELECT helper.refused($$ SELECT sync.put('o', '{y}', '{"\\x5a"}') $$, '23505', 'y', 'with other bytes');
SELECT is(pg_temp.told('SELECT * FROM sync.entries(''o'')'), 'x(X) y(Y) .', 'what was put comes back');
SELECT lives_ok($$ SELECT sync.put('o', ARRAY['big'], ARRAY[decode(repeat('ab', 300000), 'hex')]) $$, 'a large one');
SELECT is((SELECT length(bytes) FROM sync.entries('o') WHERE id = 'big'), 300000, 'comes back whole');
SELECT is((SELECT status FROM sync.put('o', ARRAY['big'], ARRAY[decode(repeat('ab', 300000), 'hex')])), 'duplicate', 'and is known');

-- The transaction's own entries are told, and never count as seen: so this
-- test looks at places from other transactions' entries.
SELECT is((SELECT at FROM sync.entries('s') WHERE kind = 'up-to-date'), NULL, 'own entries are not seen for good');
COMMIT;
SELECT cursor AS all FROM sync.entries('s') WHERE kind = 'up-to-date' \gset
SELECT at AS last FROM sync.entries('s') WHERE kind = 'up-to-date' \gset
SELECT is(:'last'::timestamptz, (SELECT max(at) FROM sync.entries('s') WHERE kind = 'entry'), 'committed ones are: the closing row has the last time');
SELECT is(pg_temp.told(format('SELECT * FROM sync.entries(''s'', %L)', :'all')), '.', 'nothing is new to its cursor');
SELECT is(pg_temp.told(format('SELECT * FROM sync.entries(''s'', %L::timestamptz)', :'last')), '.', 'nor to its time');
SELECT is(pg_temp.told(format('SELECT * FROM sync.entries(''s'', %L)', :'empty')), 'e1(a1) e2(a2 a3) e3(a4) e4(a5) .', 'all is new to the empty stream''s cursor');
SELECT is(pg_temp.told(format('SELECT * FROM sync.entries(''s'', %L::timestamptz)', :'t1')), 'e3(a4) e4(a5) .', 'after a time');
SELECT sync.current_cursor() AS now \gset
SELECT 1 FROM sync.append('s', jsonb_build_array(pg_temp.entry('e5', 'a6'))) \g /dev/null
SELECT is(pg_temp.told(format('SELECT * FROM sync.entries(''s'', %L)', :'all')), 'e5(a6) .', 'after a cursor');
SELECT is(pg_temp.told(format('SELECT * FROM sync.entries(''s'', %L)', :'now')), 'e5(a6) .', 'after a cursor of all domains');

-- pages
SELECT is(pg_temp.told('SELECT * FROM sync.entries(''s'', max_rows => 1)'), 'e1(a1) e2(a2 a3) |', 'a page does not split a call');
SELECT cursor AS page FROM sync.entries('s', max_rows => 1) WHERE kind = 'more' \gset
SELECT is(pg_temp.told(format('SELECT * FROM sync.entries(''s'', %L, max_rows => 2)', :'page')), 'e3(a4) e4(a5) |', 'the next one goes on');
SELECT is(pg_temp.told(format('SELECT * FROM sync.entries(''s'', %L, max_rows => 3)', :'page')), 'e3(a4) e4(a5) e5(a6) .', 'a full one that is the last');

-- by id
SELECT is(pg_temp.told('SELECT * FROM sync.entries(''s'', ids => ''{e4,nosuch,e1,e4}'')'), 'e1(a1) e4(a5) .', 'by id, in the order of time');
SELECT is(pg_temp.told('SELECT * FROM sync.entries(''s'', ids => ''{}'')'), '.', 'no ids');
SELECT cursor AS ids FROM sync.entries('s', ids => '{e1,e4}', max_rows => 1) WHERE kind = 'more' \gset
SELECT is(pg_temp.told(format('SELECT * FROM sync.entries(''s'', %L, ids => ''{e1,e4}'', max_rows => 1)', :'ids')), 'e4(a5) .', 'in pages');
SELECT is(pg_temp.told(format('SELECT * FROM sync.entries(''s'', %L, ids => ''{e1,e5}'')', :'ids')), 'reset(other_question) e1(a1) e5(a6) .', 'of one question');
SELECT is(pg_temp.told(format('SELECT * FROM sync.entries(''s'', %L)', :'ids')), 'reset(other_question) e1(a1) e2(a2 a3) e3(a4) e4(a5) e5(a6) .', 'that is no place in the stream');

-- cursors of something else
SELECT is(pg_temp.told(format('SELECT * FROM sync.entries(''other'', %L)', :'all')), 'reset(other_question) e1(a9) .', 'another stream''s cursor');
SELECT 1 FROM sync.create_stream('again', 'actions') \g /dev/null
SELECT 1 FROM sync.append('again', jsonb_build_array(pg_temp.entry('e1', 'a1'))) \g /dev/null
SELECT cursor AS again, at AS again_at FROM sync.entries('again') WHERE kind = 'up-to-date' \gset
SELECT 1 FROM sync.drop_stream('again'), sync.create_stream('again', 'actions') \g /dev/null
SELECT is(pg_temp.told(format('SELECT * FROM sync.entries(''again'', %L)', :'again')), 'reset(other_question) .', 'a stream that was dropped and made again is another');
SELECT is(pg_temp.told(format('SELECT * FROM sync.entries(''again'', %L::timestamptz)', :'again_at')), 'reset(unknown_time) .', 'to its times, too');
SELECT 1 FROM sync.append('again', jsonb_build_array(pg_temp.entry('e1', 'b1'))) \g /dev/null
SELECT is(pg_temp.told(format('SELECT * FROM sync.entries(''again'', %L)', :'again')), 'reset(other_question) e1(b1) .', 'and its ids are free');

-- missing
SELECT is(pg_temp.told('SELECT * FROM sync.missing(''s'', ''{e1,e2,e3,mine}'')'), 'e4(a5) e5(a6) ?mine .', 'what is missing on either side');
SELECT is(pg_temp.told('SELECT * FROM sync.missing(''s'', ''{}'')'), 'e1(a1) e2(a2 a3) e3(a4) e4(a5) e5(a6) .', 'everything is');
SELECT is(pg_temp.told('SELECT * FROM sync.missing(''s'', ''{e1,mine}'', 1)'), 'e2(a2 a3) |', 'in pages');
SELECT cursor AS missing FROM sync.missing('s', '{e1,e2,e3,e5}') WHERE kind = 'up-to-date' \gset
SELECT is(pg_temp.told(format('SELECT * FROM sync.entries(''s'', %L)', :'missing')), '.', 'its cursor is a place in the stream');

-- combine
SELECT at AS t4 FROM sync.entries('s') WHERE id = 'e4' \gset
SELECT matches(sync.combine('s', :'t4'), '^sync:entry:[0-9a-f-]{36}$', 'combine');
SELECT is(pg_temp.told('SELECT * FROM sync.entries(''s'')'), '*(a1 a2 a3 a4 a5) e5(a6) .', 'one entry, its actions in their order');
SELECT is((SELECT at FROM sync.entries('s') WHERE id LIKE 'sync:%'), :'t4'::timestamptz, 'with the time of the last');
SELECT is(pg_temp.told(format('SELECT * FROM sync.entries(''s'', %L::timestamptz)', :'t1')), '*(a1 a2 a3 a4 a5) e5(a6) .', 'who has a part gets all of it');
SELECT is(pg_temp.told(format('SELECT * FROM sync.entries(''s'', %L)', :'all')), 'e5(a6) .', 'who has all parts gets none of it');
SELECT is(pg_temp.told(format('SELECT * FROM sync.entries(''s'', %L)', :'now')), 'e5(a6) .', 'whatever the cursor');
SELECT is((SELECT status || at::text FROM sync.append('s', jsonb_build_array(pg_temp.entry('e1', 'a1')))), 'duplicate' || :'t1'::timestamptz, 'a part is known, with its time');
SELECT helper.refused($$ SELECT sync.append('s', jsonb_build_array(pg_temp.entry('e1', 'b'))) $$, '23505', 'e1', 'and so is its content');
SELECT is(pg_temp.told('SELECT * FROM sync.entries(''s'', ids => ''{e1,e3}'')'), '*(a1 a2 a3 a4 a5) .', 'a part, by id');
SELECT is(pg_temp.told('SELECT * FROM sync.missing(''s'', ''{e1,e5}'')'), '*(a1 a2 a3 a4 a5) .', 'parts are not wanted');
SELECT is(sync.combine('s', :'t4'), NULL, 'one entry is combined already');
SELECT isnt(sync.combine('s', (SELECT at FROM sync.entries('s') WHERE kind = 'up-to-date')), NULL, 'combined entries combine');
SELECT is(pg_temp.told('SELECT * FROM sync.entries(''s'', ids => ''{e1,e5}'')'), '*(a1 a2 a3 a4 a5 a6) .', 'and keep what they held');

-- snapshot and trim
SELECT is(sync.trim('s'), 0::bigint, 'without a snapshot there is nothing to trim');
SELECT id AS combined, at AS t5 FROM sync.entries('s') WHERE kind = 'entry' \gset
SELECT sync.snapshot('s', :'t5', '"S6"') AS snapshot \gset
SELECT is(sync.snapshot('s', :'t5', '"S6"'), :'snapshot', 'the same snapshot again is an answer that was lost');
SELECT 1 FROM sync.append('s', jsonb_build_array(pg_temp.entry('e7', 'a7'))) \g /dev/null
SELECT is(pg_temp.told('SELECT * FROM sync.entries(''s'')'), '["S6"] e7(a7) .', 'who is new begins with the snapshot');
SELECT is(pg_temp.told(format('SELECT * FROM sync.entries(''s'', %L)', :'all')), '*(a1 a2 a3 a4 a5 a6) e7(a7) .', 'who was there goes on with entries');
SELECT is(sync.trim('s'), 1::bigint, 'trim');
SELECT is(pg_temp.told(format('SELECT * FROM sync.entries(''s'', %L)', :'all')), '["S6"] e7(a7) .', 'where they are gone, with the snapshot');
SELECT is(pg_temp.told(format('SELECT * FROM sync.entries(''s'', %L::timestamptz)', :'t5')), 'e7(a7) .', 'but not who has it all');
SELECT is((SELECT status || at::text FROM sync.append('s', jsonb_build_array(pg_temp.entry('e1', 'a1')))), 'duplicate' || :'t1'::timestamptz, 'what a snapshot holds is known');
SELECT is(pg_temp.told('SELECT * FROM sync.entries(''s'', ids => ''{e1,e7}'')'), '["S6"] e7(a7) .', 'and is found there, by id');
SELECT is(pg_temp.told(format('SELECT * FROM sync.missing(''s'', ARRAY[%L, ''mine''])', :'snapshot')), 'e7(a7) ?mine .', 'who has the snapshot lacks the rest');
SELECT is(pg_temp.told('SELECT * FROM sync.missing(''s'', ''{e1,e2,mine}'')'), '["S6"] e7(a7) ?mine .', 'who has less gets it');

SELECT sync.drop_stream(stream) FROM sync.streams;
SELECT is_empty($$ SELECT FROM sync.entry UNION ALL SELECT FROM sync.stream_snapshot UNION ALL SELECT FROM sync.entry_ledger UNION ALL SELECT FROM sync.stream_trimmed $$, 'nothing stays behind');
SELECT * FROM finish();
