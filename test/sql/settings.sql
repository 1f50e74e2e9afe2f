\set ECHO none
\i test/setup.sql
-- Settings begin with sync., have safe defaults, and refuse what they do not know.
BEGIN;
SELECT plan(18);
SELECT is(sync.current_cursor() IS NULL, false, 'the library is loaded');
SELECT is(current_setting('sync.channel'), 'sync', 'sync.channel');
SELECT is(current_setting('sync.notify'), 'commit', 'sync.notify');
SELECT is(current_setting('sync.notify_keys'), 'off', 'sync.notify_keys');
SELECT is(current_setting('sync.client'), '', 'sync.client');
SELECT is(current_setting('sync.big_numbers'), 'number', 'sync.big_numbers');
SELECT helper.fails($$SET sync.notify = 'sometimes'$$, '22023', 'an unknown way to notify');
SELECT helper.fails($$SET sync.big_numbers = 'float'$$, '22023', 'an unknown form of big numbers');
SELECT helper.fails($$SET sync.notify_keys = 'perhaps'$$, '22023', 'neither on nor off');
SELECT helper.fails($$SET sync.channel = ''$$, '22023', 'a channel without a name');
SELECT helper.fails(format('SET sync.channel = %L', repeat('x', 64)), '22023', 'a channel whose name is too long to listen to');
SELECT CASE WHEN current_setting('server_version_num')::int >= 150000
	THEN helper.fails($$SET sync.nosuch = 1$$, '42602', 'the prefix is reserved') ELSE ok(true, 'the prefix is reserved') END;
CREATE TABLE thing (id int PRIMARY KEY);
SELECT sync.track('thing');
SELECT lives_ok($$SET LOCAL sync.notify = 'off'; INSERT INTO thing VALUES (1)$$, 'without notification');
SELECT is((SELECT count(*)::int FROM sync.changes('thing') WHERE op = 'upsert'), 1, 'the log has it all the same');
SELECT lives_ok(format('SET LOCAL sync.client = %L; INSERT INTO thing VALUES (2)', repeat('c', 255)), 'a client of 255 characters');
SELECT helper.fails(format('SET LOCAL sync.client = %L', repeat('c', 256)), '22023', 'a client of more');
SELECT lives_ok($$SET LOCAL sync.client = 'o''dd "client" \'; INSERT INTO thing VALUES (3)$$, 'a client of odd characters');
SELECT is((SELECT count(*)::int FROM sync.changes('thing', client => 'o''dd "client" \') WHERE op = 'upsert'), 3, 'and asked for by one');
SELECT * FROM finish();
ROLLBACK;
