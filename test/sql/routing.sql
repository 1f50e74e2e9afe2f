\set ECHO none
\i test/setup.sql
-- Who must hear of a change: clients, subscriptions, and sync.affected().
CREATE SCHEMA t;
SET search_path = t, public;
SELECT plan(148);
CREATE ROLE regress_sync_server;
CREATE ROLE regress_sync_stranger;
GRANT USAGE ON SCHEMA t TO regress_sync_server, regress_sync_stranger;

-- Who is named since the last time, "client:domain" in order.
CREATE TABLE place (c sync.cursor);
INSERT INTO place VALUES (sync.current_cursor());
CREATE FUNCTION woken(server text DEFAULT NULL) RETURNS text LANGUAGE plpgsql AS $$
DECLARE r record; named text[] := '{}'; closed int := 0; last_row bool;
BEGIN
	FOR r IN SELECT * FROM sync.affected((SELECT c FROM place), woken.server) LOOP
		last_row := r.client IS NULL;
		IF last_row THEN
			closed := closed + 1;
			UPDATE place SET c = r.cursor;
		ELSE
			named := named || (r.client || ':' || r.domain);
			IF r.cursor IS NOT NULL OR r.user_id IS NULL THEN named := named || '!'::text; END IF;
		END IF;
	END LOOP;
	IF closed <> 1 OR NOT last_row THEN named := named || '!'::text; END IF;
	RETURN (SELECT coalesce(string_agg(n, ' ' ORDER BY n COLLATE "C"), '') FROM unnest(named) n);
END $$;

CREATE TABLE doc (id int PRIMARY KEY, company_id int, title text);
CREATE TABLE sheet (id int PRIMARY KEY, company_id int, title text);
CREATE TABLE member (company_id int, user_id text, note text, PRIMARY KEY (user_id, company_id));
CREATE INDEX ON member (company_id, user_id);
CREATE TABLE note (id int PRIMARY KEY, owner int, body text);
CREATE TABLE news (id int PRIMARY KEY, body text);
SELECT sync.track('doc', scope => '{company_id}');
SELECT sync.track('sheet', scope => '{company_id}', autosubscribe => true);
SELECT sync.track('member', scope => '{user_id,company_id}');
SELECT sync.track('note', scope => '{owner}');
SELECT sync.track('news', autosubscribe => true);
INSERT INTO member VALUES (1, 'ada'), (1, 'bob'), (2, 'cyd');
SELECT sync.set_access('doc', 'member'), sync.set_access('sheet', 'member');

-- ---- refusals ----

SELECT helper.refused($$SELECT * FROM sync.affected(NULL)$$, '55000', 'no application server', 'nobody was ever connected');
SELECT helper.refused($$SELECT * FROM sync.affected(NULL, 'web1')$$, '55000', 'web1', 'an unknown server');
SELECT helper.refused($$SELECT sync.connect(NULL, 'ada')$$, '22004', 'client', 'no client');
SELECT helper.refused($$SELECT sync.connect('', 'ada')$$, '22023', 'client', 'an empty name');
SELECT helper.refused($$SELECT sync.connect('a1', NULL)$$, '22004', 'user_id', 'no user');
SELECT helper.refused($$SELECT sync.connect('a1', '')$$, '22023', 'user_id', 'an empty user');
SELECT helper.refused($$SELECT sync.connect(repeat('x', 256), 'ada')$$, '22023', '256', 'a name that is too long');
SELECT helper.refused($$SELECT sync.connect('a1', repeat('x', 256))$$, '22023', '256', 'a user that is too long');
SELECT helper.refused($$SELECT sync.connect('a1', 'ada', '')$$, '22023', 'server', 'an empty server');
SELECT helper.refused($$SELECT sync.connect('a1', 'ada', repeat('x', 256))$$, '22023', 'server', 'a server that is too long');
SELECT helper.refused($$SELECT sync.connect('a1', 'ada', 'web1', '{doc,nosuch}')$$, '42704', 'nosuch', 'a domain that does not exist');
SELECT helper.refused($$SELECT sync.connect('a1', 'ada', 'web1', '{doc,NULL}')$$, '42704', 'NULL', 'a domain that is null');
SELECT is((SELECT count(*)::int FROM sync.server), 0, 'what was refused leaves nothing');
SELECT helper.refused($$SELECT sync.heartbeat('')$$, '22023', 'server', 'a heartbeat of nobody');
SELECT helper.refused($$SELECT sync.disconnect(NULL)$$, '22004', 'client', 'nobody to disconnect');
SELECT helper.refused($$SELECT sync.subscribe('a1', 'doc')$$, '42704', 'a1', 'an unknown client');
SELECT helper.refused($$SELECT sync.unsubscribe('a1', 'doc')$$, '42704', 'a1', 'an unknown client does not unsubscribe');
SELECT helper.refused($$SELECT sync.acknowledge('a1', sync.current_cursor())$$, '42704', 'a1', 'nor acknowledge');
SELECT is(sync.disconnect('a1'), false, 'but it may be disconnected: sockets close after a crash, too');

SELECT sync.connect('a1', 'ada', 'web1', '{}');
SELECT helper.refused($$SELECT sync.connect('a1', 'bob', 'web1')$$, '55006', 'ada', 'a client belongs to one user');
SELECT helper.refused($$SELECT sync.subscribe('a1', 'nosuch')$$, '42704', 'nosuch', 'an unknown domain');
SELECT helper.refused($$SELECT sync.subscribe('a1', NULL)$$, '22004', 'domain', 'no domain');
SELECT helper.refused($$SELECT sync.unsubscribe('a1', 'nosuch')$$, '42704', 'nosuch', 'an unknown domain, on the way out');
SELECT helper.refused($$SELECT sync.subscribe('a1', 'doc', '5')$$, '22023', '5', 'a scope that is no object');
SELECT helper.refused($$SELECT sync.subscribe('a1', 'doc', '["company_id"]')$$, '22023', '["company_id"]', 'a scope that is an array');
SELECT helper.refused($$SELECT sync.subscribe('a1', 'doc', '{}')$$, '22023', 'company_id', 'a scope that names nothing');
SELECT helper.refused($$SELECT sync.subscribe('a1', 'doc', '{"company_id": null}')$$, '22023', 'company_id', 'a scope of null');
SELECT helper.refused($$SELECT sync.subscribe('a1', 'doc', '{"company": 1}')$$, '22023', 'company', 'a scope with another column');
SELECT helper.refused($$SELECT sync.subscribe('a1', 'doc', '{"company_id": 1, "id": 2}')$$, '22023', '"id"', 'a scope with a column too many');
SELECT helper.fails($$SELECT sync.subscribe('a1', 'doc', '{"company_id": "x'';--"}')$$, '22P02', 'a value that is not of the type');
SELECT helper.fails($$SELECT sync.subscribe('a1', 'doc', '{"company_id": {"a": 1}}')$$, '22P02', 'an object for a value');
SELECT helper.refused($$SELECT sync.subscribe('a1', 'news', '{"id": 1}')$$, '22023', 'id', 'a scope in a domain without');
DO $$
BEGIN
	FOR i IN 1 .. 1000 LOOP
		BEGIN
			PERFORM sync.subscribe('a1', 'doc', jsonb_build_object('company_id', 'bad ' || i));
		EXCEPTION WHEN invalid_text_representation THEN NULL;
		END;
	END LOOP;
END $$;
SELECT is((SELECT count(*)::int FROM sync.subscription), 0, 'a thousand bad subscriptions leave none');

SET ROLE regress_sync_stranger;
SELECT helper.fails($$SELECT sync.connect('z', 'z')$$, '42501', 'connect is not for everybody');
SELECT helper.fails($$SELECT sync.disconnect('a1')$$, '42501', 'nor is disconnect');
SELECT helper.fails($$SELECT sync.heartbeat('web1')$$, '42501', 'nor heartbeat');
SELECT helper.fails($$SELECT sync.subscribe('a1', 'doc')$$, '42501', 'nor subscribe');
SELECT helper.fails($$SELECT sync.unsubscribe('a1', 'doc')$$, '42501', 'nor unsubscribe');
SELECT helper.fails($$SELECT sync.acknowledge('a1', sync.current_cursor())$$, '42501', 'nor acknowledge');
SELECT helper.fails($$SELECT sync.affected(NULL)$$, '42501', 'nor affected');
SELECT helper.fails($$SELECT sync.sweep_servers()$$, '42501', 'nor what they are made of');
SELECT helper.fails($$SELECT * FROM sync.client$$, '42501', 'who is connected is nobody''s business');
SELECT helper.fails($$SELECT * FROM sync.subscription$$, '42501', 'nor to what');
SELECT helper.fails($$SELECT * FROM sync.client_user$$, '42501', 'nor for whom');
SELECT helper.fails($$SELECT * FROM sync.server$$, '42501', 'nor where');
RESET ROLE;

-- ---- who is named ----

SELECT is(woken(), 'a1:news a1:sheet', 'a client without subscriptions: what needs none');
SELECT sync.connect('a1', 'ada', 'web1', '{doc,doc,note}');
SELECT sync.connect('b1', 'bob', 'web1', '{doc}'), sync.connect('b2', 'bob', 'web2', '{doc}');
SELECT sync.connect('c1', 'cyd', 'web2', '{doc,member}');
SELECT sync.connect('d1', 'dan', 'web2', '{doc}');
SELECT is(woken(), 'a1:doc a1:news a1:note a1:sheet b1:doc b1:news b1:sheet b2:doc b2:news b2:sheet c1:doc c1:member c1:news c1:sheet d1:doc d1:news d1:sheet',
	'clients that are new to the cursor, all their domains');
SELECT is(woken(), '', 'once');
INSERT INTO doc VALUES (1, 1, 'one');
SELECT is(woken(), 'a1:doc b1:doc b2:doc', 'a change: the clients of the users who have its scope');
SELECT is(woken(), '', 'once, too');
INSERT INTO doc VALUES (2, 3, 'nobody''s'), (3, NULL, 'without scope');
SELECT is(woken(), '', 'a scope that nobody has, and none at all');
UPDATE doc SET company_id = 2 WHERE id = 1;
SELECT is(woken(), 'a1:doc b1:doc b2:doc c1:doc', 'a row that moves: those who lose it and those who get it');
DELETE FROM doc WHERE id = 1;
SELECT is(woken(), 'c1:doc', 'a row that goes');
BEGIN;
INSERT INTO doc VALUES (4, 1, 'four');
ROLLBACK;
SELECT is(woken(), '', 'nothing that was undone');
UPDATE doc SET title = title;
SELECT is(woken(), '', 'nothing that changed nothing');
INSERT INTO sheet VALUES (1, 1, 'one');
SELECT is(woken(), 'a1:sheet b1:sheet b2:sheet', 'an autosubscribe domain, to those who have the scope');
INSERT INTO news VALUES (1, 'x');
SELECT is(woken(), 'a1:news b1:news b2:news c1:news d1:news', 'an autosubscribe domain without access relation, to all');
INSERT INTO note VALUES (1, 7, 'x');
SELECT is(woken(), 'a1:note', 'a domain without access relation, to its subscribers');
INSERT INTO note VALUES (2, NULL, 'x');
SELECT is(woken(), 'a1:note', 'also without a scope');
INSERT INTO doc VALUES (5, 1, 'a'), (6, 2, 'b');
INSERT INTO note VALUES (3, 1, 'x');
SELECT is(woken(), 'a1:doc a1:note b1:doc b2:doc c1:doc', 'several changes at once, everyone once for each domain');

-- ---- one server's clients ----

INSERT INTO doc VALUES (7, 1, 'a');
SELECT is(woken('web1'), 'a1:doc b1:doc', 'of the server that asks');
INSERT INTO doc VALUES (8, 1, 'a');
SELECT is(woken('web2'), 'b2:doc', 'of the other one');

-- ---- grants ----

INSERT INTO member VALUES (1, 'dan');
SELECT is(woken(), 'c1:member d1:doc d1:sheet', 'a grant: the user, in every domain that the table rules');
UPDATE member SET note = 'x' WHERE user_id = 'dan';
SELECT is(woken(), 'c1:member', 'an update in place is no grant');
UPDATE member SET company_id = 2 WHERE user_id = 'dan';
SELECT is(woken(), 'c1:member d1:doc d1:sheet', 'a membership that moves');
DELETE FROM member WHERE user_id = 'dan';
SELECT is(woken(), 'c1:member d1:doc d1:sheet', 'a revocation, so that the client forgets');
INSERT INTO doc VALUES (9, 2, 'x');
SELECT is(woken(), 'c1:doc', 'after it the user hears no more');
BEGIN;
INSERT INTO member VALUES (2, 'ada');
UPDATE doc SET title = 'y' WHERE id = 9;
DELETE FROM member WHERE user_id = 'cyd';
COMMIT;
SELECT is(woken(), 'a1:doc a1:sheet c1:doc c1:member c1:sheet', 'a grant, a change and a revocation in one transaction');
INSERT INTO member VALUES (2, 'cyd');
DELETE FROM member WHERE user_id = 'ada' AND company_id = 2;
SELECT woken() \g /dev/null
INSERT INTO member VALUES (5, 'nobody');
SELECT is(woken(), 'c1:member', 'a grant to somebody who is not connected');

-- ---- authors ----

BEGIN;
SELECT set_config('sync.client', 'a1', true);
UPDATE doc SET title = 'mine' WHERE id = 5;
COMMIT;
SELECT is(woken(), 'b1:doc b2:doc', 'the author of the only change is not named');
BEGIN;
SELECT set_config('sync.client', 'a1', true);
UPDATE doc SET title = 'mine too' WHERE id = 5;
COMMIT;
UPDATE doc SET title = 'another''s' WHERE id = 7;
SELECT is(woken(), 'a1:doc b1:doc b2:doc', 'it is when somebody else changed something, too');
BEGIN;
SELECT set_config('sync.client', 'a1', true);
UPDATE doc SET title = 'a' WHERE id = 5;
SELECT set_config('sync.client', 'b1', true);
UPDATE doc SET title = 'b' WHERE id = 7;
COMMIT;
SELECT is(woken(), 'a1:doc b1:doc b2:doc', 'two authors hear of each other');
INSERT INTO member VALUES (2, 'ada');
SELECT woken() \g /dev/null
BEGIN;
SELECT set_config('sync.client', 'a1', true);
UPDATE doc SET title = 'c' WHERE id = 5;
SELECT set_config('sync.client', 'c1', true);
UPDATE doc SET title = 'd' WHERE id = 9;
COMMIT;
SELECT is(woken(), 'a1:doc b1:doc b2:doc', 'in two scopes: who has both hears of the other one''s, and each author of the only change in its scope does not');
BEGIN;
SELECT set_config('sync.client', 'a1', true);
UPDATE doc SET title = 'c2' WHERE id = 5;
UPDATE doc SET title = 'd2' WHERE id = 9;
COMMIT;
SELECT is(woken(), 'b1:doc b2:doc c1:doc', 'one author in two scopes');
BEGIN;
SELECT set_config('sync.client', 'a1', true);
UPDATE doc SET company_id = 1 WHERE id = 9;
COMMIT;
SELECT is(woken(), 'a1:doc b1:doc b2:doc c1:doc', 'the author of a move is named: what it now holds is the server''s to say');
BEGIN;
SELECT set_config('sync.client', 'a1', true);
DELETE FROM member WHERE user_id = 'ada' AND company_id = 2;
COMMIT;
SELECT is(woken(), 'a1:doc a1:sheet c1:member', 'whoever wrote a revocation, its user is named');
BEGIN;
SELECT set_config('sync.client', 'a1', true);
UPDATE note SET body = 'z' WHERE id = 1;
COMMIT;
SELECT is(woken(), '', 'without access relation the author is left out, too');

-- ---- subscriptions ----

SELECT sync.subscribe('a1', 'doc');
SELECT is(woken(), '', 'subscribing again is nothing new');
SELECT sync.subscribe('d1', 'note', '{"owner": 7}');
SELECT is(woken(), 'd1:note', 'a new subscription is named: it may have missed something');
SELECT sync.subscribe('d1', 'note', '{"owner": "7"}');
SELECT is(woken(), '', 'the same scope, however it is written');
UPDATE note SET body = 'a' WHERE id = 1;
SELECT is(woken(), 'a1:note d1:note', 'a change in that scope');
UPDATE note SET body = 'a' WHERE id = 3;
SELECT is(woken(), 'a1:note', 'and in another');
UPDATE note SET owner = 1 WHERE id = 1;
SELECT is(woken(), 'a1:note d1:note', 'a row that leaves it');
UPDATE note SET body = 'n' WHERE id = 2;
SELECT is(woken(), 'a1:note', 'a row without scope');
BEGIN;
SELECT set_config('sync.client', 'd1', true);
UPDATE note SET owner = 7 WHERE id = 2;
COMMIT;
SELECT is(woken(), 'a1:note d1:note', 'the author of a row that moves in');
SELECT sync.unsubscribe('d1', 'note', '{"owner": 8}');
UPDATE note SET body = 'b' WHERE id = 2;
SELECT is(woken(), 'a1:note d1:note', 'unsubscribing from another scope');
SELECT sync.unsubscribe('d1', 'note', '{"owner": 7}');
UPDATE note SET body = 'c' WHERE id = 2;
SELECT is(woken(), 'a1:note', 'and from this one');
SELECT sync.connect('a1', 'ada', 'web1', '{}');
SELECT sync.subscribe('a1', 'doc', '{"company_id": 1}'), sync.subscribe('b1', 'doc', '{"company_id": 2}');
SELECT sync.unsubscribe('b2', 'doc');
SELECT woken() \g /dev/null
UPDATE doc SET title = 'e' WHERE id = 5;
SELECT is(woken(), 'a1:doc b1:doc', 'scopes below an access relation: one by name, one by the whole domain');
SELECT sync.subscribe('c1', 'doc', '{"company_id": 1}');
SELECT sync.unsubscribe('b1', 'doc');
SELECT woken() \g /dev/null
UPDATE doc SET title = 'f' WHERE id = 5;
SELECT is(woken(), 'a1:doc', 'NULL unsubscribes from all scopes, and a subscription gives no right');
INSERT INTO member VALUES (1, 'cyd');
SELECT is(woken(), 'c1:doc c1:member c1:sheet', 'a grant in the scope subscribed to');
DELETE FROM member WHERE user_id = 'cyd' AND company_id = 1;
SELECT sync.unsubscribe('c1', 'doc');
SELECT sync.subscribe('c1', 'doc', '{"company_id": 9}');
SELECT woken() \g /dev/null
INSERT INTO member VALUES (1, 'cyd');
SELECT is(woken(), 'c1:member c1:sheet', 'and in another scope');

-- ---- connections ----

SELECT sync.connect('a1', 'ada', 'web1', '{note}');
SELECT is(woken(), 'a1:news a1:note a1:sheet', 'domains given replace the subscriptions, also those to scopes');
SELECT sync.connect('a1', 'ada', 'web2');
SELECT is(woken('web1'), '', 'a client that moved to another server');
UPDATE note SET body = 'd' WHERE id = 2;
SELECT is(woken('web2'), 'a1:note', 'is that one''s, with the subscriptions that it had');
SELECT is(sync.disconnect('a1', 'web1'), false, 'the server that it left cannot disconnect it');
SELECT is(sync.disconnect('a1', 'web2'), true, 'its own can');
SELECT is((SELECT count(*)::int FROM sync.subscription WHERE client = 'a1'), 0, 'and its subscriptions are gone');
SELECT sync.connect('a1', 'bob', 'web1', '{doc}');
UPDATE doc SET title = 'g' WHERE id = 5;
SELECT is(woken(), 'a1:doc a1:news a1:sheet', 'then it may be another user''s');
SELECT is(sync.heartbeat('web1'), true, 'a server that is known');
SELECT is(sync.heartbeat('web9'), false, 'one that is not ...');
SELECT is(sync.heartbeat('web9'), true, '... is from then on');
SELECT is(sync.heartbeat(NULL), false, 'nobody connected without a server');
SELECT sync.connect('n1', 'ada', NULL, '{doc}');
SELECT is(sync.heartbeat(NULL), true, 'now one has');
UPDATE sync.server SET seen_at = seen_at - interval '1 hour';
SELECT is(sync.heartbeat('web2'), true, 'a server that lives');
SELECT is((SELECT string_agg(server, ',' ORDER BY server) FROM sync.server), ',web2', 'those that were silent are forgotten; clients without a server stay');
SELECT is((SELECT string_agg(client, ',' ORDER BY client) FROM sync.client), 'b2,c1,d1,n1', 'with their clients');
SELECT helper.refused($$SELECT * FROM sync.affected((SELECT c FROM place), 'web1')$$, '55000', 'web1', 'and are told so');
SELECT is(sync.heartbeat('web1'), false, 'twice');
SELECT sync.disconnect('n1');
SELECT sync.connect('b1', 'bob', 'web1', '{doc}');
SELECT is(woken('web1'), 'b1:doc b1:news b1:sheet', 'and go on from the cursor that they had');

-- ---- cursors ----

SELECT is((SELECT count(*)::int FROM sync.affected(NULL, 'web1') WHERE client IS NOT NULL), 3, 'no cursor: every client, every domain');
SELECT is((SELECT string_agg(client || ':' || domain, ' ' ORDER BY client, domain) FROM sync.affected(
	(SELECT cursor FROM sync.changes('note') WHERE op = 'up-to-date'), 'web1')), 'b1:doc b1:news b1:sheet', 'one that is bound to a question: the same');
SELECT is((SELECT count(*)::int FROM sync.affected(now() + interval '1 year', 'web1') WHERE client IS NOT NULL), 3, 'a time that is not ours: the same');
SELECT is((SELECT count(*)::int FROM sync.affected((SELECT max(modified_at) FROM sync.changes('note') WHERE op = 'up-to-date'), 'web1') WHERE domain = 'note'), 0,
	'a time that is: what came since, or a little more');
SELECT sync.new_generation();
SELECT is(woken('web1'), 'b1:doc b1:news b1:sheet', 'a cursor of another life');
SELECT is(woken('web1'), '', 'the next is of this one');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM doc \g /dev/null
COMMIT;
BEGIN;
INSERT INTO doc VALUES (20, 1, 'own');
SELECT is(woken('web1'), '', 'the caller''s own transaction does not count');
SELECT sync.connect('x1', 'ada', 'web1', '{doc}');
SELECT is(woken('web1'), 'x1:doc x1:news x1:sheet', 'but the clients that it connected are there');
COMMIT;
SELECT is(woken('web1'), 'b1:doc x1:doc x1:news x1:sheet', 'and all of it counts when it has committed');

-- ---- resets ----

SELECT sync.reset('doc');
SELECT is(woken(), 'b1:doc c1:doc d1:doc x1:doc', 'a reset: all subscribers, of any scope');
TRUNCATE sheet;
SELECT is(woken(), 'b1:sheet b2:sheet c1:sheet d1:sheet x1:sheet', 'TRUNCATE of an autosubscribe domain: all');
TRUNCATE member;
SELECT is(woken(), 'b1:doc b1:sheet b2:sheet c1:doc c1:member c1:sheet d1:doc d1:sheet x1:doc x1:sheet', 'TRUNCATE of an access table: all subscribers of what it rules');
INSERT INTO member VALUES (1, 'ada'), (1, 'bob'), (2, 'cyd');
UPDATE doc SET title = 'h' WHERE id = 20;
UPDATE note SET body = 'h' WHERE id = 2;
SELECT sync.leave_tick();
SELECT sync.prune('0') \g /dev/null
SELECT is(woken(), 'b1:doc b1:sheet b2:sheet c1:doc c1:member c1:sheet d1:doc d1:sheet x1:doc x1:sheet', 'a pruned log: the same');
SELECT is(woken(), '', 'and then quiet');
SELECT sync.subscribe('d1', 'note');
SELECT woken() \g /dev/null
SELECT sync.untrack('note');
SELECT is(woken(), '', 'a domain that is gone');
SELECT sync.track('note', scope => '{owner}');
SELECT is(woken(), 'd1:note', 'and comes back, with its subscribers');
SELECT sync.subscribe('d1', 'note', '{"owner": 7}');
SELECT sync.untrack('note');
SELECT sync.track('note', scope => '{id}');
SELECT helper.refused($$SELECT * FROM sync.affected((SELECT c FROM place), 'web1')$$, '55000', 'web1', 'with another scope: all connect again, since scopes mean something else');

-- ---- users by type ----

CREATE TABLE item (id int PRIMARY KEY, team int, place numeric);
CREATE TABLE by_uuid (u uuid, team int, gone timestamptz, PRIMARY KEY (u, team));
CREATE INDEX ON by_uuid (team, u);
CREATE TABLE thing (id int PRIMARY KEY, team numeric, kind text);
CREATE TABLE by_number (team numeric, kind text, u numeric, PRIMARY KEY (u, kind, team));
CREATE INDEX ON by_number (kind, team, u);
SELECT sync.track('item', scope => '{team}');
SELECT sync.track('by_uuid', scope => '{u,team}', deleted_at => 'gone');
SELECT sync.track('thing', scope => '{team,kind}');
SELECT sync.track('by_number', scope => '{u,kind,team}');
SELECT sync.set_access('item', 'by_uuid', 'u');
SELECT sync.connect('U1', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', 'web1', '{item,thing,doc}');
SELECT sync.connect('N1', '7.0', 'web1', '{item,thing}'), sync.connect('B1', 'bob', 'web1', '{doc}');
SELECT woken() \g /dev/null
INSERT INTO by_uuid VALUES ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 1);
INSERT INTO member VALUES (3, 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11');
SELECT is(woken(), 'U1:doc U1:item U1:sheet', 'a uuid in capitals is the same user, and a text is what it is');
INSERT INTO item VALUES (1, 1, 1);
SELECT is(woken(), 'U1:item', 'found by the type that the relation has');
SELECT sync.set_access('thing', 'by_number', 'u');
SELECT is(woken(), 'N1:thing U1:thing', 'a relation that comes later: all subscribers');
INSERT INTO by_number VALUES (1.00, 'a', 7);
SELECT is(woken(), 'N1:thing', 'its users are found, by another type');
INSERT INTO thing VALUES (1, 1.0, 'a'), (2, 1, 'b');
SELECT is(woken(), 'N1:thing', 'scopes of two columns, equal as their types say');
INSERT INTO thing VALUES (3, 2, 'a');
SELECT is(woken(), '', 'one of two columns is not enough');
SELECT sync.connect('N1', '7.0', 'web1', '{}');
SELECT sync.subscribe('N1', 'thing', '{"kind": "a", "team": 1.000}');
SELECT woken() \g /dev/null
UPDATE thing SET kind = 'c' WHERE id = 2;
SELECT is(woken(), '', 'a subscription to another scope');
UPDATE thing SET id = 4 WHERE id = 1;
SELECT is(woken(), 'N1:thing', 'a subscription to this one');
UPDATE by_uuid SET gone = now();
SELECT is(woken(), 'U1:item', 'a membership that is marked as deleted is a revocation');
UPDATE item SET place = 2;
SELECT is(woken(), '', 'and gives nothing any more');
ALTER TABLE by_uuid ALTER u TYPE text USING u::text;
SELECT helper.refused($$SELECT * FROM sync.affected((SELECT c FROM place), 'web1')$$, '55000', 'web1', 'a user column of another type: all connect again');

-- ---- views as access relations ----

CREATE TABLE team (id int PRIMARY KEY, boss text);
CREATE TABLE task (id int PRIMARY KEY, team int, body text);
SELECT sync.track('team'), sync.track('task', scope => '{team}');
CREATE VIEW bosses AS SELECT id AS team, boss AS user_id FROM team;
SELECT sync.set_access('task', 'bosses');
INSERT INTO team VALUES (1, 'ada'), (2, 'bob');
SELECT sync.connect('a1', 'ada', 'web1', '{task}'), sync.connect('b1', 'bob', 'web1', '{task}');
SELECT woken() \g /dev/null
INSERT INTO task VALUES (1, 1, 'x');
SELECT is(woken(), 'a1:task', 'a view says who has a scope');
UPDATE team SET boss = 'bob' WHERE id = 1;
SELECT is(woken(), 'a1:task b1:task', 'what it says cannot be followed: all subscribers');
UPDATE task SET body = 'y';
SELECT is(woken(), 'b1:task', 'and then it is as it is');
GRANT EXECUTE ON FUNCTION sync.affected(sync.cursor, text) TO regress_sync_server;
UPDATE task SET body = 'z';
SELECT c AS since FROM place \gset
SET ROLE regress_sync_server;
SELECT helper.fails(format($$SELECT * FROM sync.affected(%L)$$, :'since'), '42501', 'a view is read as the caller');
RESET ROLE;
GRANT SELECT ON bosses TO regress_sync_server;
SET ROLE regress_sync_server;
SELECT is((SELECT string_agg(client, ' ') FROM sync.affected(:'since')), 'b1', 'who needs no right but that');
RESET ROLE;
SELECT sync.set_access('task', NULL);
SELECT woken() \g /dev/null

-- ---- tables that are not simple ----

CREATE TABLE part (id int, company_id int, PRIMARY KEY (id, company_id)) PARTITION BY LIST (company_id);
CREATE TABLE part1 PARTITION OF part FOR VALUES IN (1);
CREATE TABLE part2 PARTITION OF part DEFAULT;
SELECT sync.track('part', scope => '{company_id}');
SELECT sync.set_access('part', 'member');
CREATE TABLE line (id int PRIMARY KEY, doc_id int REFERENCES doc ON DELETE CASCADE);
SELECT sync.cascade('line', 'doc');
INSERT INTO doc VALUES (30, 2, 'x');
SELECT sync.connect('c1', 'cyd', 'web1', '{part,doc}'), sync.connect('d1', 'dan', 'web1', '{part,doc}');
SELECT woken() \g /dev/null
INSERT INTO part VALUES (1, 2);
SELECT is(woken(), 'c1:part', 'a row of a partition');
UPDATE part SET company_id = 1;
SELECT is(woken(), 'c1:part', 'one that moves to another partition');
INSERT INTO line VALUES (1, 30);
SELECT is(woken(), 'c1:doc', 'a detail that counts as its master');
BEGIN;
SELECT set_config('sync.client', 'c1', true);
UPDATE line SET doc_id = NULL;
COMMIT;
SELECT is(woken(), 'c1:doc', 'what a cascade did is not the author''s own');
ALTER TABLE member ENABLE ROW LEVEL SECURITY;
ALTER TABLE member FORCE ROW LEVEL SECURITY;
UPDATE doc SET title = 'rls' WHERE id = 30;
SELECT is(woken(), 'c1:doc', 'row security on the access table hides nobody');
SELECT sync.untrack('member');
UPDATE doc SET title = 'broken' WHERE id = 30;
SELECT is(woken(), 'c1:doc d1:doc', 'an access relation that cannot be used wakes all subscribers');
SELECT * FROM finish();
DELETE FROM sync.server;
SELECT sync.set_access(domain, NULL) FROM sync.domains WHERE access IS NOT NULL \g /dev/null
DROP SCHEMA t CASCADE;
REVOKE EXECUTE ON FUNCTION sync.affected(sync.cursor, text) FROM regress_sync_server;
DROP ROLE regress_sync_server;
DROP ROLE regress_sync_stranger;
