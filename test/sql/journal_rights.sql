\set ECHO none
\i test/setup.sql
-- Rights on streams are rights on their rows in sync.streams.
SELECT plan(35);
CREATE SCHEMA t;
SELECT sync.create_stream('red', 'actions');
SELECT sync.create_stream('blue', 'actions');
SELECT 1 FROM sync.append('red', '[{"id": "r1", "actions": [{"id": "a"}]}]') \g /dev/null
SELECT 1 FROM sync.append('blue', '[{"id": "b1", "actions": [{"id": "a"}]}]') \g /dev/null
SELECT at AS t1 FROM sync.entries('red') WHERE id = 'r1' \gset
CREATE ROLE journal_nobody;
CREATE ROLE journal_reader;
CREATE ROLE journal_writer;
CREATE ROLE journal_keeper;
CREATE ROLE journal_maker;
GRANT SELECT ON sync.streams TO journal_reader;
GRANT UPDATE ON sync.streams TO journal_writer;
GRANT DELETE ON sync.streams TO journal_keeper;
GRANT SELECT, INSERT, DELETE ON sync.streams TO journal_maker;

SET ROLE journal_nobody;
SELECT helper.refused(format('SELECT * FROM %s', call), '42501', 'journal_nobody', 'nobody: ' || call)
  FROM unnest(ARRAY[$$sync.entries('red')$$, $$sync.entry_ids('red')$$, $$sync.missing('red', '{}')$$, $$sync.append('red', '[]')$$, $$sync.trim('red')$$]) call;
SELECT helper.fails($$ SELECT sync.create_stream('mine', 'opaque') $$, '42501', 'nobody: create_stream');
SELECT helper.fails($$ SELECT sync.drop_stream('red') $$, '42501', 'nobody: drop_stream');
SELECT helper.fails('SELECT * FROM sync.' || x, '42501', 'nobody: sync.' || x) FROM unnest('{streams,entry,stream_snapshot,entry_ledger,stream_trimmed}'::text[]) x;
SET ROLE journal_reader;
SELECT is((SELECT count(*)::int FROM sync.entries('red')), 2, 'a reader reads');
SELECT helper.refused($$ SELECT sync.append('red', '[]') $$, '42501', 'UPDATE', 'and does not append');
SELECT helper.refused($$ SELECT sync.trim('red') $$, '42501', 'DELETE', 'nor compact');
SELECT helper.fails('SELECT * FROM sync.entry', '42501', 'nor look into the table');
SET ROLE journal_writer;
SELECT is((SELECT status FROM sync.append('red', '[{"id": "r2", "actions": [{"id": "b"}]}]')), 'stored', 'a writer appends');
SELECT helper.refused($$ SELECT sync.entries('red') $$, '42501', 'SELECT', 'without the right to read');
SELECT helper.refused(format($$ SELECT sync.snapshot('red', %L, '{}') $$, :'t1'), '42501', 'DELETE', 'nor to compact');
SELECT helper.refused($$ UPDATE sync.streams SET kind = 'opaque' $$, '55000', 'streams', 'nor to change a stream');
SET ROLE journal_keeper;
SELECT lives_ok(format($$ SELECT sync.snapshot('red', %L, '{}') $$, :'t1'), 'a keeper makes snapshots');
SELECT is(sync.trim('red'), 1::bigint, 'and trims');
SELECT helper.refused($$ SELECT sync.append('red', '[]') $$, '42501', 'UPDATE', 'and does not append');
SET ROLE journal_maker;
SELECT lives_ok($$ SELECT sync.create_stream('green', 'opaque') $$, 'a maker makes streams');
SELECT lives_ok($$ SELECT sync.drop_stream('green') $$, 'and drops them');
RESET ROLE;

-- one role for many users, told apart by a setting
CREATE ROLE journal_app;
GRANT SELECT, UPDATE, DELETE ON sync.streams TO journal_app;
ALTER TABLE sync.streams ENABLE ROW LEVEL SECURITY;
CREATE POLICY app_sees ON sync.streams FOR SELECT TO journal_app USING (stream = ANY (string_to_array(current_setting('app.sees', true), ',')));
CREATE POLICY app_writes ON sync.streams FOR UPDATE TO journal_app USING (stream = current_setting('app.writes', true));
SET ROLE journal_app;
SELECT helper.refused($$ SELECT sync.entries('blue') $$, '42704', 'blue', 'without a user nothing is there');
SET app.sees = 'blue,red';
SET app.writes = 'blue';
SELECT is((SELECT count(*)::int FROM sync.entries('blue')), 2, 'a user reads what policies show');
SELECT is((SELECT status FROM sync.append('blue', '[{"id": "b2", "actions": [{"id": "b"}]}]')), 'stored', 'appends where they let');
SELECT helper.refused($$ SELECT sync.append('red', '[]') $$, '42501', 'red', 'and not elsewhere');
SELECT helper.refused($$ SELECT sync.trim('red') $$, '42501', 'red', 'nor compacts there');
SET app.sees = 'red';
SELECT helper.refused($$ SELECT sync.append('blue', '[]') $$, '42704', 'blue', 'what is not shown is not there');
RESET ROLE;
DROP POLICY app_sees ON sync.streams;
DROP POLICY app_writes ON sync.streams;
ALTER TABLE sync.streams DISABLE ROW LEVEL SECURITY;

-- a stream has a number that no other one had, whoever makes it
GRANT SELECT, INSERT, DELETE ON sync.streams TO journal_maker;
CREATE TEMP TABLE numbers AS SELECT max(id) AS highest FROM sync.streams;
GRANT SELECT ON numbers TO journal_maker;
SET ROLE journal_maker;
INSERT INTO sync.streams (id, stream, kind) OVERRIDING SYSTEM VALUE SELECT n, 'number ' || n, 'opaque' FROM numbers, generate_series(highest - 1, highest + 3) n;
SELECT is((SELECT count(*)::int FROM sync.streams, numbers WHERE stream LIKE 'number %' AND id > highest), 5, 'numbers cannot be chosen');
SELECT is(sync.create_stream('after them', 'opaque')::text, '', 'so nobody takes those of others away');
RESET ROLE;

-- the guards hold where other triggers do not fire
SET session_replication_role = replica;
SELECT helper.refused($$ UPDATE sync.entry SET id = 'x' $$, '55000', 'sync.entry', 'entries are immutable for a replication as well');
SELECT helper.refused($$ TRUNCATE sync.entry_ledger $$, '55000', 'sync.entry_ledger', 'and the ledger');
RESET session_replication_role;

SELECT sync.drop_stream(stream) FROM sync.streams;
DROP OWNED BY journal_reader, journal_writer, journal_keeper, journal_maker, journal_app, journal_nobody;
DROP ROLE journal_reader;
DROP ROLE journal_writer;
DROP ROLE journal_keeper;
DROP ROLE journal_maker;
DROP ROLE journal_app;
DROP ROLE journal_nobody;
DROP SCHEMA t CASCADE;
SELECT * FROM finish();
