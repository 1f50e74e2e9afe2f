\set ECHO none
\i test/setup.sql
-- What journals refuse, and what their tables do.
SELECT plan(88);
CREATE SCHEMA t;
SET search_path = t, public;
SELECT sync.create_stream('a', 'actions');
SELECT sync.create_stream('o', 'opaque');

-- streams
SELECT helper.refused($$ SELECT sync.create_stream('a', 'opaque') $$, '42710', 'a', 'a stream that exists');
SELECT helper.refused($$ SELECT sync.create_stream('b', 'nosuch') $$, '22023', 'nosuch', 'an unknown kind');
SELECT helper.refused($$ SELECT sync.create_stream('b', NULL) $$, '22023', '', 'no kind');
SELECT helper.refused($$ SELECT sync.create_stream(NULL, 'opaque') $$, '22004', '', 'no name');
SELECT helper.refused($$ SELECT sync.create_stream('', 'opaque') $$, '22023', '', 'an empty name');
SELECT helper.refused($$ SELECT sync.create_stream(repeat('x', 256), 'opaque') $$, '22023', '256', 'a name that is too long');
SELECT lives_ok($$ SELECT sync.create_stream(repeat('x', 255), 'opaque') $$, 'a long one');
SELECT helper.refused($$ SELECT sync.drop_stream('nosuch') $$, '42704', 'nosuch', 'dropping what is not there');
SELECT helper.refused(format($$ SELECT %s $$, call), '42704', 'nosuch', call || ': an unknown stream')
  FROM unnest(ARRAY[$$sync.append('nosuch', '[]')$$, $$sync.put('nosuch', '{}', '{}')$$, $$sync.entries('nosuch')$$, $$sync.entry_ids('nosuch')$$,
	$$sync.missing('nosuch', '{}')$$, $$sync.snapshot('nosuch', now(), '{}')$$, $$sync.combine('nosuch', now())$$, $$sync.trim('nosuch')$$]) call;
SELECT helper.fails(format($$ SELECT %s $$, call), '22004', call || ': no stream')
  FROM unnest(ARRAY[$$sync.append(NULL, '[]')$$, $$sync.put(NULL, '{}', '{}')$$, $$sync.entries(NULL)$$, $$sync.entry_ids(NULL)$$,
	$$sync.missing(NULL, '{}')$$, $$sync.snapshot(NULL, now(), '{}')$$, $$sync.combine(NULL, now())$$, $$sync.trim(NULL)$$]) call;

-- append
SELECT helper.refused(format('SELECT sync.append(''a'', %L)', entries), '22023', quotes, what)
  FROM (VALUES ('{}', 'array', 'an object'), ('"x"', 'array', 'a string'), ('[1]', 'Element 0', 'a number in it'),
	('[{}]', 'Element 0', 'an entry without an id'), ('[{"id": 1, "actions": [{"id": "a"}]}]', 'Element 0', 'an id that is a number'),
	('[{"id": "", "actions": [{"id": "a"}]}]', '0 bytes', 'an empty id'),
	('[{"id": "x", "actions": [{"id": "a"}]}, {"id": "' || repeat('y', 256) || '", "actions": [{"id": "a"}]}]', '256', 'an id that is too long'),
	('[{"id": "sync:x", "actions": [{"id": "a"}]}]', 'sync:x', 'an id of the server''s'),
	('[{"id": "x"}]', 'actions', 'no actions'), ('[{"id": "x", "actions": []}]', 'actions', 'none in the array'), ('[{"id": "x", "actions": {"id": "a"}}]', 'actions', 'an object of them'),
	('[{"id": "x", "actions": [1]}]', 'element 0', 'an action that is a number'), ('[{"id": "x", "actions": [{"at": 1}]}]', 'id', 'an action without an id'),
	('[{"id": "x", "actions": [{"id": 7}]}]', 'id', 'an action with a number'), ('[{"id": "x", "actions": [{"id": ""}]}]', '0 bytes', 'an action with an empty id'),
	('[{"id": "x", "actions": [{"id": "a"}], "data": 1}]', 'Element 0', 'an unknown member')) AS v(entries, quotes, what);
SELECT helper.refused($$ SELECT sync.append('a', NULL) $$, '22023', 'null', 'no entries');
SELECT helper.refused($$ SELECT sync.append('o', '[]') $$, '42809', 'opaque', 'actions into an opaque stream');
SELECT helper.refused($$ SELECT sync.append('a', jsonb_build_array(jsonb_build_object('id', 'big', 'actions',
	jsonb_build_array(jsonb_build_object('id', 'a', 'text', repeat('x', 16 * 1024 * 1024)))))) $$, '54000', 'big', 'an entry over the limit');
SELECT is((SELECT count(*)::int FROM sync.entries('a')), 1, 'nothing of these is stored');

-- put
SELECT helper.refused($$ SELECT sync.put('a', '{x}', '{"\\x01"}') $$, '42809', 'actions', 'bytes into a stream of actions');
SELECT helper.refused($$ SELECT sync.put('o', '{x,y}', '{"\\x01"}') $$, '22023', '2 ids', 'an id without bytes');
SELECT helper.refused($$ SELECT sync.put('o', '{x,NULL}', '{"\\x01","\\x02"}') $$, '22004', '2', 'an id that is null');
SELECT helper.refused($$ SELECT sync.put('o', '{x}', '{NULL}') $$, '22004', '1', 'bytes that are null');
SELECT helper.refused($$ SELECT sync.put('o', NULL, '{}') $$, '22004', '', 'no ids');
SELECT helper.refused($$ SELECT sync.put('o', ARRAY[repeat('x', 256)], '{"\\x01"}') $$, '22023', '256', 'an id that is too long');
SELECT helper.refused($$ SELECT sync.put('o', '{{x},{y}}', '{{"\\x01"},{"\\x02"}}') $$, '22023', '', 'more dimensions');
SELECT helper.refused($$ SELECT sync.put('o', array_fill('x'::text, ARRAY[1000001]), array_fill('\x00'::bytea, ARRAY[1000001])) $$, '54000', '1000001', 'more entries than a call may have');
SELECT lives_ok($$ SELECT sync.put('o', ARRAY[repeat('x', 255)], '{""}') $$, 'a long id, and no bytes at all');

-- reading
SELECT helper.refused($$ SELECT sync.entries('a', max_rows => 0) $$, '22023', '0', 'pages of nothing');
SELECT helper.refused($$ SELECT sync.entries('a', ids => '{NULL}') $$, '22004', '', 'ids that are null');
SELECT helper.refused($$ SELECT sync.missing('a', NULL) $$, '22004', '', 'nothing that the client has');
SELECT helper.refused($$ SELECT sync.entries('a', 'garbage') $$, '22P02|22007', 'garbage', 'a cursor that is none');
SELECT is((SELECT data ->> 'reason' FROM sync.entries('a', now()) LIMIT 1), 'unknown_time', 'a clock''s time');

-- snapshots
SELECT 1 FROM generate_series(1, 3) n, sync.append('a', jsonb_build_array(jsonb_build_object('id', 'e' || n, 'actions', jsonb_build_array(jsonb_build_object('id', 'a' || n))))) \g /dev/null
SELECT (SELECT at FROM sync.entries('a') WHERE id = 'e1') AS t1, (SELECT at FROM sync.entries('a') WHERE id = 'e2') AS t2, (SELECT at FROM sync.entries('a') WHERE id = 'e3') AS t3 \gset
SELECT helper.refused($$ SELECT sync.snapshot('a', '2999-01-01', '{}') $$, '55000', '2999', 'upto in the future');
SELECT helper.refused($$ SELECT sync.combine('a', '2999-01-01') $$, '55000', '2999', 'combine: upto in the future');
SELECT helper.refused(format($$ SELECT sync.snapshot('a', %L::timestamptz + interval '500 us', '{}') $$, :'t1'), '55000', '', 'upto at no entry''s time');
SELECT helper.refused($$ SELECT sync.snapshot('a', NULL, '{}') $$, '22004', '', 'upto null');
SELECT helper.refused($$ SELECT sync.combine('a', NULL) $$, '22004', '', 'combine: upto null');
SELECT helper.refused(format($$ SELECT sync.snapshot('a', %L) $$, :'t1'), '22023', '', 'no state');
SELECT helper.refused(format($$ SELECT sync.snapshot('a', %L, '{}', '\x00') $$, :'t1'), '22023', '', 'two states');
SELECT helper.refused($$ SELECT sync.snapshot('o', (SELECT at FROM sync.entries('o') WHERE kind = 'entry'), '{}') $$, '42809', 'o', 'JSON for an opaque stream');
SELECT helper.refused($$ SELECT sync.combine('o', (SELECT at FROM sync.entries('o') WHERE kind = 'entry')) $$, '42809', 'o', 'combining what cannot be read');
SELECT sync.combine('a', :'t2') \g /dev/null
SELECT helper.refused(format($$ SELECT sync.snapshot('a', %L, '{}') $$, :'t1'), '55000', '', 'a snapshot in the middle of a combined entry');
SELECT sync.snapshot('a', :'t2', '{"n": 2}') \g /dev/null
SELECT helper.refused(format($$ SELECT sync.snapshot('a', %L, '{"n": 1}') $$, :'t1'), '55000', '', 'a snapshot that is older than one that exists');
SELECT helper.refused(format($$ SELECT sync.snapshot('a', %L, '{"n": 1}') $$, :'t2'), '55000', '', 'another one of the same time');
SELECT lives_ok(format($$ SELECT sync.snapshot('a', %L, '{"n": 3}') $$, :'t3'), 'a later one');

-- whoever writes into the tables
SELECT helper.refused(command, '55000', quotes, command)
  FROM (VALUES ('UPDATE sync.entry SET id = ''x''', 'entry'), ('DELETE FROM sync.entry', 'entry'), ('TRUNCATE sync.entry', 'entry'),
	('UPDATE sync.stream_snapshot SET data = ''{}''', 'stream_snapshot'), ('TRUNCATE sync.stream_snapshot', 'stream_snapshot'), ('DELETE FROM sync.stream_snapshot', 'stream_snapshot'),
	('UPDATE sync.streams SET kind = ''opaque''', 'streams'), ('TRUNCATE sync.streams', 'streams'),
	('UPDATE sync.entry_ledger SET at = now()', 'entry_ledger'), ('DELETE FROM sync.entry_ledger', 'entry_ledger'), ('TRUNCATE sync.entry_ledger', 'entry_ledger'),
	('TRUNCATE sync.stream_trimmed', 'stream_trimmed')) AS v(command, quotes);
CREATE ROLE journal_meddler;
GRANT ALL ON ALL TABLES IN SCHEMA sync TO journal_meddler;
GRANT ALL ON SCHEMA t TO journal_meddler;
SET ROLE journal_meddler;
SELECT helper.refused($$ INSERT INTO sync.entry (stream_id, ord, at, xid, hash, id, data) SELECT id, 0, '2000-01-01', '5', 'x', 'x', '[]' FROM sync.streams $$, '55000', 'entry', 'inserting beside sync.append, with all privileges');
SELECT helper.refused($$ INSERT INTO sync.stream_trimmed (stream_id, upto) SELECT id, '2000-01-01' FROM sync.streams $$, '55000', 'stream_trimmed', 'and beside sync.trim');
SELECT helper.refused($$ DELETE FROM sync.entry $$, '55000', 'entry', 'deleting what nothing holds');
RESET ROLE;
SELECT sync.trim('a') \g /dev/null
SELECT lives_ok($$ SELECT sync.drop_stream('a') $$, 'dropping a stream');
SELECT helper.refused($$ SELECT sync.append('a', '[]') $$, '42704', 'a', 'appending to a removed stream');

SELECT sync.drop_stream(stream) FROM sync.streams;
DROP OWNED BY journal_meddler;
DROP ROLE journal_meddler;
DROP SCHEMA t CASCADE;
SELECT * FROM finish();
