\set ECHO none
\i test/setup.sql
-- What operators see: domains, logs, clients and how far behind they are.
CREATE SCHEMA t;
SET search_path = t, public;
SELECT plan(33);
CREATE ROLE regress_sync_monitor IN ROLE pg_monitor;
CREATE ROLE regress_sync_stranger;

CREATE TABLE company (id int PRIMARY KEY, name text);
CREATE TABLE doc (id int PRIMARY KEY, company_id int REFERENCES company, title text);
CREATE TABLE member (company_id int, user_id text, PRIMARY KEY (user_id, company_id));
CREATE INDEX ON member (company_id, user_id);
CREATE VIEW doc_source WITH (security_barrier) AS SELECT * FROM doc;
SELECT sync.track('company', autosubscribe => true);
SELECT sync.track('doc', scope => '{company_id}');
SELECT sync.track('member', scope => '{user_id,company_id}');
SELECT sync.set_access('doc', 'member'), sync.cascade('doc', 'company');

-- ---- domains ----

SELECT is((SELECT string_agg(d::text, ' ' ORDER BY domain) FROM sync.domains d),
	'(company,company,{id},{},,,,t,{doc}) (doc,doc,{id},{company_id},member,user_id,,f,{}) (member,member,"{user_id,company_id}","{user_id,company_id}",,,,f,{})',
	'what clients can ask for');
SET ROLE regress_sync_stranger;
SELECT is((SELECT count(*)::int FROM sync.domains), 3, 'everybody may see it');
SELECT helper.fails('SELECT * FROM sync.logs', '42501', 'but not the logs');
SELECT helper.fails('SELECT * FROM sync.clients', '42501', 'nor who is connected');
RESET ROLE;

-- ---- logs ----

SET ROLE regress_sync_monitor;
SELECT is((SELECT count(*)::int FROM sync.logs), 3, 'those who monitor see the logs');
SELECT is((SELECT count(*)::int FROM sync.clients), 0, 'and the clients');
RESET ROLE;
INSERT INTO company VALUES (1, 'one'), (2, 'two');
INSERT INTO doc SELECT i, 1 + i % 2, 'x' FROM generate_series(1, 1000) i;
UPDATE doc SET title = 'y' || id;
SELECT ok(bytes > 0 AND table_bytes > 0, 'sizes on disk') FROM sync.logs WHERE domain = 'doc';
SELECT is(entries, NULL, 'entries that nobody has counted') FROM sync.logs WHERE domain = 'doc';
SELECT format('ANALYZE %s', log::regclass) FROM sync.change_log WHERE rel = 'doc'::regclass \gexec
SELECT ok(entries > 0, 'entries that were counted') FROM sync.logs WHERE domain = 'doc';
SELECT is(pruned_below, '0'::xid8, 'nothing was pruned') FROM sync.logs WHERE domain = 'doc';
SELECT is(oldest_valid, NULL, 'no time is as new as the tables') FROM sync.logs WHERE domain = 'doc';
SELECT sync.leave_tick();
SELECT max(at) AS first FROM sync.tick \gset
SELECT is(oldest_valid, :'first', 'the first time after that is') FROM sync.logs WHERE domain = 'doc';
UPDATE doc SET title = 'z' WHERE id = 1;
SELECT sync.leave_tick();
SELECT is(oldest_valid, :'first', 'and stays so') FROM sync.logs WHERE domain = 'doc';
SELECT is((SELECT count(*)::int FROM sync.changes('doc', :'first'::timestamptz) WHERE op = 'reset'), 0, 'as is true');
SELECT max(at) AS second FROM sync.tick \gset
SELECT sync.reset('doc');
SELECT is(oldest_valid, NULL, 'after a reset no time is') FROM sync.logs WHERE domain = 'doc';
SELECT is(oldest_valid, :'first', 'other tables have theirs') FROM sync.logs WHERE domain = 'member';
SELECT is((SELECT count(*)::int FROM sync.changes('doc', :'second'::timestamptz) WHERE op = 'reset'), 1, 'as is true');
SELECT sync.leave_tick();
SELECT max(at) AS third FROM sync.tick \gset
SELECT is(oldest_valid, :'third', 'but the next one') FROM sync.logs WHERE domain = 'doc';
SELECT sync.prune('0') \g /dev/null
SELECT ok(pruned_below > '0', 'pruned') FROM sync.logs WHERE domain = 'doc';
SELECT is(oldest_valid, :'third', 'as far as it may') FROM sync.logs WHERE domain = 'doc';
SELECT is((SELECT count(*)::int FROM sync.changes('doc', :'third'::timestamptz) WHERE op = 'reset'), 0, 'as is true');

-- ---- clients ----

SELECT sync.connect('a1', 'ada', 'web1', '{doc,member}'), sync.connect('b1', 'bob');
SELECT sync.subscribe('a1', 'doc', '{"company_id": 1}');
SELECT is((SELECT string_agg(concat_ws(',', client, user_id, coalesce(server, '-'), connected_at <= clock_timestamp(), server_seen_at <= clock_timestamp(),
                                       subscriptions, coalesce(acknowledged::text, '-'), coalesce(lag::text, '-')), ' ' ORDER BY client) FROM sync.clients),
	'a1,ada,web1,t,t,3,-,- b1,bob,-,t,t,0,-,-', 'who is connected');
SELECT sync.acknowledge('a1', sync.current_cursor());
SELECT is(acknowledged, :'third', 'it has confirmed the newest time') FROM sync.clients WHERE client = 'a1';
SELECT is(lag, '0', 'and lacks nothing') FROM sync.clients WHERE client = 'a1';
UPDATE doc SET title = 'later' WHERE id = 1;
SELECT sync.leave_tick();
SELECT is(lag, (SELECT max(at) FROM sync.tick) - :'third', 'now it lacks something') FROM sync.clients WHERE client = 'a1';
SELECT ok(lag > '0', 'that is longer than nothing') FROM sync.clients WHERE client = 'a1';
SELECT sync.acknowledge('b1', (SELECT cursor FROM sync.changes('doc') WHERE op = 'up-to-date'));
SELECT is(lag, '0', 'a client that has it') FROM sync.clients WHERE client = 'b1';
SELECT sync.acknowledge('b1', :'third'::timestamptz);
SELECT is(acknowledged, :'third', 'a time is a cursor, too') FROM sync.clients WHERE client = 'b1';
SELECT sync.acknowledge('b1', NULL);
SELECT is(acknowledged, NULL, 'nothing is nothing') FROM sync.clients WHERE client = 'b1';
SELECT sync.acknowledge('b1', now() + interval '1 year');
SELECT is(acknowledged, NULL, 'a time that is not ours is nothing, either') FROM sync.clients WHERE client = 'b1';

-- ---- all of it is documented ----

SELECT is((SELECT string_agg(c.relname || '.' || a.attname, ' ') FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
            WHERE c.relnamespace = 'sync'::regnamespace AND c.relname IN ('domains', 'logs', 'clients', 'server', 'client', 'client_user', 'subscription')
              AND col_description(c.oid, a.attnum) IS NULL), NULL, 'every column has a comment');
SELECT is((SELECT count(*)::int FROM pg_class c WHERE c.relnamespace = 'sync'::regnamespace AND c.relkind = 'r'
            AND c.relname IN ('server', 'client', 'client_user', 'subscription') AND c.relpersistence = 'u'), 4, 'who is connected is not logged');
SELECT is((SELECT count(*)::int FROM unnest((SELECT extconfig FROM pg_extension WHERE extname = 'sync_ext')) o(oid)
            WHERE oid::regclass::text IN ('sync.server', 'sync.client', 'sync.client_user', 'sync.subscription')), 0, 'nor dumped');
SELECT * FROM finish();
DELETE FROM sync.server;
SELECT sync.set_access('doc', NULL);
DROP SCHEMA t CASCADE;
DROP ROLE regress_sync_monitor;
DROP ROLE regress_sync_stranger;
