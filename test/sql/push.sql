\set ECHO none
\i test/setup.sql
-- sync.push: statuses, what is known of a row, policies, idempotence, order.
CREATE SCHEMA t;
SET search_path = t, public;
SELECT no_plan();
CREATE TABLE doc (id int PRIMARY KEY, title text, body text, n int);
CREATE TABLE team (id int PRIMARY KEY, name text NOT NULL UNIQUE);
CREATE TABLE member (team int NOT NULL REFERENCES team, person int CHECK (person > 0), role varchar(5), PRIMARY KEY (team, person));
CREATE TABLE soft (id int PRIMARY KEY, v text, deleted_at timestamptz);
SELECT sync.track('doc');
SELECT sync.track('team');
SELECT sync.track('member');
SELECT sync.cascade('member', 'team');
SELECT sync.track('soft', deleted_at => 'deleted_at');

-- A mutation; "#base" and the like are filled in where they are asked for.
CREATE FUNCTION m(op text, domain text, data text, more text DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS
$$ SELECT jsonb_build_object('op', op, 'domain', domain, CASE WHEN op = 'delete' THEN 'key' ELSE 'data' END, data::jsonb) || more::jsonb $$;
CREATE FUNCTION m(op text, domain text, data text, more jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT m(op, domain, data, more::text) $$;
CREATE FUNCTION push(ms jsonb[], more text DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS
$$ SELECT sync.push('{"client": "c"}'::jsonb || more::jsonb || jsonb_build_object('mutations', to_jsonb(ms))) $$;
-- The answers in short: status, SQLSTATE, "+" where there is a row.
CREATE FUNCTION short(answer jsonb) RETURNS text LANGUAGE sql AS
$$ SELECT string_agg((r ->> 'status') || coalesce(' ' || (r ->> 'sqlstate'), '') || CASE WHEN r ? 'data' THEN '+' ELSE '' END, ', ' ORDER BY o)
     FROM jsonb_array_elements(answer -> 'results') WITH ORDINALITY x(r, o) $$;
CREATE FUNCTION says(ms jsonb[], expected text, description text, more text DEFAULT '{}') RETURNS text LANGUAGE plpgsql AS
$$ DECLARE a jsonb := push(ms, more); BEGIN
     RETURN is(short(a), expected, description) || CASE WHEN short(a) = expected THEN '' ELSE E'\n' || diag(a::text) END; END $$;
CREATE FUNCTION base(dom regclass, id int) RETURNS text LANGUAGE plpgsql AS
$$ DECLARE b timestamptz; BEGIN EXECUTE format('SELECT modified_at FROM %s WHERE id = $1', dom) INTO b USING id;
     RETURN jsonb_build_object('base', b); END $$;
CREATE FUNCTION doc(id int) RETURNS text LANGUAGE sql AS $$ SELECT concat_ws('|', d.title, d.body, d.n) FROM doc d WHERE d.id = doc.id $$;
-- somebody else
CREATE FUNCTION other(sql text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE sql; END $$;

-- 1. plain ones
SELECT says(ARRAY[m('insert', 'doc', '{"id": 1, "title": "a", "body": "b", "n": 1}'), m('insert', 'doc', '{"id": 2, "title": "a"}'),
	m('upsert', 'doc', '{"id": 3, "title": "a", "body": null, "n": null}')], 'applied, applied, applied', 'inserts');
SELECT is(doc(1), 'a|b|1', 'the row is there');
SELECT push(ARRAY[m('insert', 'doc', '{"id": 4, "title": "x"}')]) #>> '{results,0,modified_at}' AS at \gset
SELECT is(:'at'::timestamptz, (SELECT modified_at FROM doc WHERE id = 4), 'modified_at is the row''s');
SELECT is(push(ARRAY[m('insert', 'doc', '{"id": 5}')]) #> '{results,0,key}', '{"id": 5}', 'the key');
SELECT says(ARRAY[m('update', 'doc', '{"id": 1, "title": "A"}', base('doc', 1))], 'applied', 'an update of the row as it is known');
SELECT is(doc(1), 'A|b|1', 'leaves the other columns alone');
SELECT says(ARRAY[m('update', 'doc', '{"title": "AA"}', '{"key": {"id": 1}}')], 'applied+', 'an update that rests on nothing tells the row');
SELECT says(ARRAY[m('update', 'doc', '{"id": 1, "title": "AA"}', base('doc', 1))], 'applied', 'one that changes nothing');
SELECT says(ARRAY[m('delete', 'doc', '{"id": 5}', base('doc', 5))], 'applied', 'a delete');
SELECT says(ARRAY[m('delete', 'doc', '{"id": 5}'), m('delete', 'doc', '{"id": 55}', '{"base": "2020-01-01"}')], 'applied, applied', 'of what is gone already');
SELECT is(push(ARRAY[m('update', 'doc', '{"id": 99, "title": "A"}')]) #> '{results,0}', '{"key": {"id": 99}, "status": "conflict"}', 'an update of what is gone: a conflict with a key and no row');
SELECT says(ARRAY[m('update', 'doc', '{"id": 2, "modified_at": "1999-01-01", "title": "t"}')], 'applied+', 'modified_at is the server''s');
SELECT ok((SELECT modified_at > '2020-01-01' FROM doc WHERE id = 2), 'and is not set');
SELECT says(ARRAY[m('update', 'doc', '{}', '{"key": {"id": 2}}')], 'applied+', 'nothing to set');
SELECT says(ARRAY[m('update', 'doc', '{"id": 22}', '{"key": {"id": 2}}')], 'applied+', 'a key that changes');
SELECT is(push(ARRAY[m('update', 'doc', '{"id": 2}', '{"key": {"id": 22}}')]) #> '{results,0,key}', '{"id": 2}', 'the answer has the new one');
SELECT says('{}', NULL, 'no mutations');

-- 2. conflicts
SELECT base('doc', 1) AS base1 \gset
SELECT other('UPDATE doc SET n = 2 WHERE id = 1');
SELECT says(ARRAY[m('update', 'doc', '{"id": 1, "title": "mine"}', :'base1')], 'conflict+', 'somebody changed the row');
SELECT is(push(ARRAY[m('update', 'doc', '{"id": 1, "title": "mine"}', :'base1')]) #> '{results,0,data}', (SELECT to_jsonb(d) FROM doc d WHERE id = 1), 'the conflict has the server''s row');
SELECT says(ARRAY[m('delete', 'doc', '{"id": 1}', :'base1')], 'conflict+', 'a delete is in conflict, too');
SELECT says(ARRAY[m('insert', 'doc', '{"id": 1, "title": "mine"}')], 'conflict+', 'an insert of what is there');
SELECT says(ARRAY[m('upsert', 'doc', '{"id": 1, "title": "mine"}')], 'conflict+', 'an upsert that knows of none');
SELECT says(ARRAY[m('insert', 'doc', '{"id": 1, "title": "AA"}')], 'applied+', 'a row that equals the mutation already');
SELECT says(ARRAY[m('update', 'doc', '{"id": 1, "n": 2}', :'base1')], 'applied+', 'also against a base');
SELECT says(ARRAY[m('upsert', 'doc', '{"id": 77, "n": 2}', :'base1')], 'conflict', 'an upsert of a row that was known and is gone');
SELECT says(ARRAY[m('upsert', 'doc', '{"id": 77, "n": 2}', :'base1')], 'applied+', 'client_wins inserts it', '{"policy": "client_wins"}');
SELECT is(doc(1), 'AA|b|2', 'a conflict writes nothing');

-- 3. assumed
SELECT says(ARRAY[m('update', 'doc', '{"id": 1, "n": 3}', '{"assumed": {"title": "AA", "n": 2}}')], 'applied+', 'the row is as assumed');
SELECT says(ARRAY[m('update', 'doc', '{"id": 1, "n": 4}', '{"assumed": {"title": "AA", "n": 2}}')], 'applied+', 'it is not, but the client wrote it itself');
SELECT other('UPDATE doc SET n = 5 WHERE id = 1');
SELECT says(ARRAY[m('update', 'doc', '{"id": 1, "n": 6}', '{"assumed": {"title": "AA", "n": 2}}')], 'conflict+', 'it is not');
SELECT says(ARRAY[m('delete', 'doc', '{"id": 1}', '{"assumed": {"title": "AA", "n": 2}}')], 'conflict+', 'nor for a delete');
SELECT says(ARRAY[m('upsert', 'doc', '{"id": 1, "n": 6}', '{"assumed": {"title": "AA", "body": "b", "n": 5}}')], 'applied+', 'an upsert');

-- 4. policies
SELECT base('doc', 1) AS base1 \gset
SELECT other('UPDATE doc SET n = 7 WHERE id = 1');
SELECT says(ARRAY[m('update', 'doc', '{"id": 1, "title": "w"}', :'base1')], 'applied+', 'client_wins', '{"policy": "client_wins"}');
SELECT is(doc(1), 'w|b|7', 'over the row as it is');
SELECT other('UPDATE doc SET n = 8 WHERE id = 1');
SELECT says(ARRAY[m('update', 'doc', '{"id": 1, "title": "old"}', :'base1'::jsonb || '{"at": "2001-01-01"}')], 'conflict+', 'newer_wins: the row is newer', '{"policy": "newer_wins"}');
SELECT says(ARRAY[m('update', 'doc', '{"id": 1, "title": "none"}', :'base1')], 'rejected 22023', 'newer_wins wants a time', '{"policy": "newer_wins"}');
SELECT pg_sleep(0.02);
SELECT says(ARRAY[m('update', 'doc', '{"id": 1, "title": "new"}', :'base1'::jsonb || jsonb_build_object('at', clock_timestamp()))], 'applied+', 'newer_wins: the client is newer', '{"policy": "newer_wins"}');
SELECT other('UPDATE doc SET n = 9 WHERE id = 1');
SELECT pg_sleep(0.02);
SELECT says(ARRAY[m('update', 'doc', '{"id": 1, "title": "slow"}', :'base1'::jsonb || jsonb_build_object('at', clock_timestamp() - interval '1 hour'))],
	'applied+', 'a clock an hour behind', jsonb_build_object('policy', 'newer_wins', 'time', clock_timestamp() - interval '1 hour')::text);
SELECT other('UPDATE doc SET n = 10 WHERE id = 1');
SELECT says(ARRAY[m('update', 'doc', '{"id": 1, "title": "fast"}', :'base1'::jsonb || jsonb_build_object('at', clock_timestamp() - interval '1 minute'))],
	'conflict+', 'a clock an hour ahead', jsonb_build_object('policy', 'newer_wins', 'time', clock_timestamp() + interval '1 hour')::text);
SELECT other('UPDATE doc SET title = ''t'', body = ''b'', n = 1 WHERE id = 1');
SELECT other('UPDATE doc SET body = ''theirs'' WHERE id = 1');
SELECT says(ARRAY[m('update', 'doc', '{"id": 1, "title": "mine", "body": "b"}', '{"assumed": {"title": "t", "body": "b", "n": 1}}')], 'applied+', 'merge: columns that one side changed', '{"policy": "merge"}');
SELECT is(doc(1), 'mine|theirs|1', 'both are kept');
SELECT other('UPDATE doc SET title = ''theirs'' WHERE id = 1');
SELECT says(ARRAY[m('update', 'doc', '{"id": 1, "title": "mine 2", "n": 2}', '{"assumed": {"title": "mine", "body": "b", "n": 1}}')], 'conflict+', 'merge: both changed one', '{"policy": "merge"}');
SELECT says(ARRAY[m('update', 'doc', '{"id": 1, "title": "theirs", "n": 3}', '{"assumed": {"title": "mine", "body": "b", "n": 1}}')], 'applied+', 'merge: both to the same', '{"policy": "merge"}');
SELECT is(doc(1), 'theirs|theirs|3', 'merged');
SELECT other('UPDATE doc SET title = ''x'' WHERE id = 1');
SELECT says(ARRAY[m('update', 'doc', '{"id": 1, "n": 4}', :'base1')], 'conflict+', 'merge: with a time alone nobody knows what changed', '{"policy": "merge"}');
SELECT says(ARRAY[m('delete', 'doc', '{"id": 1}', '{"assumed": {"title": "mine"}}')], 'conflict+', 'merge: a delete cannot be', '{"policy": "merge"}');

-- 5. own writes
SELECT other('INSERT INTO doc VALUES (10, ''o'')');
SELECT base('doc', 10) AS base10 \gset
SELECT says(ARRAY[m('update', 'doc', '{"id": 10, "title": "1"}', :'base10'), m('update', 'doc', '{"id": 10, "n": 2}', :'base10')], 'applied, applied', 'two edits before the first answer, in one push');
SELECT says(ARRAY[m('update', 'doc', '{"id": 10, "title": "3"}', :'base10')], 'applied+', 'and in the next');
SELECT says(ARRAY[m('update', 'doc', '{"id": 10, "title": "4"}', :'base10')], 'conflict+', 'another client''s', '{"client": "d"}');
SELECT other('UPDATE doc SET n = 11 WHERE id = 10');
SELECT says(ARRAY[m('update', 'doc', '{"id": 10, "title": "5"}', :'base10')], 'conflict+', 'unless somebody came in between');
SELECT says(ARRAY[m('insert', 'team', '{"id": 1, "name": "t"}')], 'applied', 'a master');
SELECT base('team', 1) AS team1 \gset
SELECT says(ARRAY[m('insert', 'member', '{"team": 1, "person": 1, "role": "r"}'), m('update', 'team', '{"id": 1, "name": "T"}', :'team1')], 'applied, applied', 'a cascade of the client''s own write is its own, in one push');
SELECT other('UPDATE team SET name = ''theirs''');
SELECT base('team', 1) AS team1 \gset
SELECT says(ARRAY[m('insert', 'member', '{"team": 1, "person": 2}')], 'applied', 'a detail');
SELECT says(ARRAY[m('insert', 'member', '{"team": 1, "person": 3}')], 'applied', 'another');
SELECT says(ARRAY[m('update', 'team', '{"id": 1, "name": "mine"}', :'team1')], 'applied+', 'and in a later push');
SELECT base('team', 1) AS team1 \gset
SELECT other('UPDATE team SET name = ''theirs''');
SELECT says(ARRAY[m('insert', 'member', '{"team": 1, "person": 4}'), m('update', 'team', '{"id": 1, "name": "mine"}', :'team1')], 'applied, conflict+', 'a cascade over another''s change hides no conflict');
SELECT says(ARRAY[m('update', 'team', '{"id": 1, "name": "mine"}', :'team1')], 'conflict+', 'nor later');
SELECT says(ARRAY[m('delete', 'doc', '{"id": 10}'), m('upsert', 'doc', '{"id": 10, "title": "again"}', :'base10')], 'applied, applied+', 'deleted and made again');

-- 6. since
SELECT sync.current_cursor() AS c \gset
SELECT other('UPDATE doc SET n = 20 WHERE id = 3');
SELECT says(ARRAY[m('update', 'doc', '{"id": 3, "title": "s"}'), m('update', 'doc', '{"id": 4, "title": "s"}'), m('delete', 'doc', '{"id": 3}')], 'conflict+, applied+, conflict+',
	'what others changed, and what they did not', jsonb_build_object('since', :'c')::text);

-- 7. soft deletes
SELECT says(ARRAY[m('insert', 'soft', '{"id": 1, "v": "a"}'), m('insert', 'soft', '{"id": 2, "v": "a"}')], 'applied, applied', 'soft: inserts');
SELECT says(ARRAY[m('delete', 'soft', '{"id": 1}', base('soft', 1))], 'applied', 'soft: a delete');
SELECT ok((SELECT deleted_at IS NOT NULL FROM soft WHERE id = 1), 'marks the row');
SELECT says(ARRAY[m('delete', 'soft', '{"id": 1}')], 'applied', 'again');
SELECT says(ARRAY[m('delete', 'soft', '{"id": 2}', '{"data": {"deleted_at": "2024-05-06T07:08:09Z", "v": "ignored"}}')], 'applied', 'soft: with a time of the client''s');
SELECT is((SELECT v || deleted_at FROM soft WHERE id = 2), 'a2024-05-06 07:08:09+00', 'soft: it is kept');
SELECT other('UPDATE soft SET v = ''theirs'' WHERE id = 2');
SELECT says(ARRAY[m('update', 'soft', '{"id": 2, "v": "x"}', '{"base": "2020-01-01"}')], 'conflict', 'soft: an update of a deleted row');
SELECT says(ARRAY[m('insert', 'soft', '{"id": 2, "v": "x"}')], 'conflict', 'soft: an insert');
SELECT says(ARRAY[m('update', 'soft', '{"id": 2, "v": "x"}', '{"base": "2020-01-01"}')], 'applied+', 'soft: client_wins', '{"policy": "client_wins"}');
SELECT is((SELECT v || coalesce(deleted_at::text, ' lives') FROM soft WHERE id = 2), 'x lives', 'soft: makes it live again');
SELECT says(ARRAY[m('insert', 'soft', '{"id": 1, "v": "again"}')], 'applied+', 'soft: what the client itself deleted');

-- 8. errors, each its own answer
SELECT push(ARRAY[m('insert', 'doc', '{"id": 30, "title": "x"}'), m('insert', 'doc', '{"id": "x"}'), m('insert', 'doc', '{"id": 31, "nosuch": 1}'),
	m('insert', 'member', '{"team": 1, "person": -1}'), m('insert', 'member', '{"team": 99, "person": 1}'), m('insert', 'member', '{"team": 1, "person": 9, "role": "too long"}'),
	m('insert', 'team', '{"id": 9}'), m('insert', 'team', '{"id": 9, "name": "theirs"}'), m('insert', 'nosuch', '{"id": 1}'), m('insert', 'member', '{"team": 1}'),
	m('explode', 'doc', '{"id": 1}'), m('insert', 'doc', '{"id": 32}', '{"nosuch": 1}'), '{"op": "insert", "domain": "doc"}', '{"op": "insert", "data": {}}',
	m('update', 'doc', '{"id": 1}', '{"base": "yesterday or so"}'), m('update', 'doc', '[1]'), m('insert', 'doc', '{"id": 99999999999}'), m('insert', 'doc', '{"id": 30}', '{"pending": true}'),
	m('insert', 'doc', '{"id": 33, "title": {"deeply": [[[[[["nested"]]]]]]}}'), m('update', 'doc', '{"title": "x"}'), m('insert', 'doc', '{"id": 34}', '{"key": {"id": 35}}'),
	m('insert', 'doc', '{"id": 36, "title": "last"}')]) AS a \gset
SELECT is((SELECT string_agg(concat_ws(' ', o - 1, r ->> 'status', r ->> 'sqlstate', r ->> 'path'), E'\n' ORDER BY o) FROM jsonb_array_elements(:'a'::jsonb -> 'results') WITH ORDINALITY x(r, o)),
'0 applied
1 rejected 22P02 mutations[1].data.id
2 rejected 42703 mutations[2].data.nosuch
3 rejected 23514 mutations[3]
4 rejected 23503 mutations[4]
5 rejected 22001 mutations[5].data.role
6 rejected 23502 mutations[6].data.name
7 rejected 23505 mutations[7]
8 rejected 42704 mutations[8]
9 rejected 23502 mutations[9].data.person
10 rejected 22023 mutations[10].op
11 rejected 22023 mutations[11].nosuch
12 rejected 22023 mutations[12].data
13 rejected 22023 mutations[13].domain
14 rejected 22007 mutations[14]
15 rejected 22023 mutations[15].data
16 rejected 22003 mutations[16].data.id
17 rejected 22023 mutations[17].pending
18 applied
19 rejected 22023 mutations[19].key
20 rejected 22023 mutations[20].data
21 applied', 'each error names its place, and stops nobody');
SELECT is(doc(36), 'last', 'the last one is applied');

-- 9. malformed requests
CREATE FUNCTION bad(request text, quotes text, description text, state text DEFAULT '22023') RETURNS text LANGUAGE sql AS
$$ SELECT helper.refused(format('SELECT sync.push(%L)', request), state, quotes, description) $$;
SELECT bad('[]', '', 'an array');
SELECT bad('1', '', 'a number');
SELECT bad('{}', 'mutations', 'no mutations');
SELECT bad('{"mutations": {}}', 'mutations', 'mutations: an object');
SELECT bad('{"mutations": [1]}', 'mutations[0]', 'a mutation that is a number');
SELECT bad('{"mutations": [], "nosuch": 1}', 'nosuch', 'an unknown member');
SELECT bad('{"mutations": [], "policy": "x"}', 'policy', 'an unknown policy');
SELECT bad('{"mutations": [], "atomic": "x"}', 'atomic', 'an unknown atomic');
SELECT bad('{"mutations": [], "client": 1}', 'client', 'client: a number');
SELECT bad('{"mutations": [], "client": ""}', '', 'client: empty');
SELECT bad('{"mutations": [], "time": "infinity"}', 'time', 'time: infinite');
SELECT bad('{"mutations": [], "pull": 1}', 'pull', 'pull: a number');
SELECT bad('{"mutations": [], "pull": {}}', 'domains', 'pull: no domains');
SELECT bad('{"mutations": [], "pull": {"domains": {"doc": {"nosuch": 1}}}}', 'nosuch', 'pull: an unknown member');
SELECT bad('{"mutations": [{"id": "x", "op": "delete", "domain": "doc", "key": {"id": 1}}]}', 'client', 'an id without a client');
SELECT helper.fails($$SELECT sync.push('{"mutations": [], "since": "garbage"}')$$, '22P02|22007', 'since: garbage');
SELECT helper.fails($$SELECT sync.push('{"mutations": [], "session": "x"}')$$, '22P02', 'session: no uuid');
SELECT bad('{"mutations": [], "session": "00000000-0000-0000-0000-000000000000"}', '00000000', 'session: unknown', '42704');
SELECT is(sync.push(NULL), NULL, 'null');
SELECT is(short(sync.push(jsonb_build_object('mutations', jsonb_build_array(m('insert', 'doc', '{"id": 37}'))))), 'applied', 'without a client');

-- 10. ids
SELECT says(ARRAY[m('insert', 'doc', '{"id": 40, "n": 1}', '{"id": "i1"}')], 'applied', 'a first time');
SELECT says(ARRAY[m('insert', 'doc', '{"id": 40, "n": 1}', '{"id": "i1"}')], 'duplicate+', 'a second');
SELECT says(ARRAY[m('update', 'doc', '{"id": 40, "n": 2}', '{"id": "i1"}')], 'applied+', 'other content is another mutation');
SELECT says(ARRAY[m('insert', 'doc', '{"id": 40, "n": 1}', '{"id": "i1"}')], 'duplicate+', 'the first is still known');
SELECT is(doc(40), '2', 'and not applied');
SELECT says(ARRAY[m('update', 'doc', '{"id": 40, "n": 2}', '{"id": "i1", "base": "2020-01-01"}')], 'duplicate+', 'another base is the same content');
SELECT says(ARRAY[m('insert', 'doc', '{"id": 40, "n": 1}', '{"id": "i1"}')], 'conflict+', 'of another client', '{"client": "d"}');
SELECT says(ARRAY[m('insert', 'doc', '{"id": 41}', '{"id": 7}'), m('insert', 'doc', '{"id": 41}', '{"id": 7}'), m('insert', 'doc', '{"id": 42}', '{"id": 7}')], 'applied, duplicate, applied', 'twice in one push');
SELECT is(push(ARRAY[m('insert', 'doc', '{"id": 41}', '{"id": 7}')]) #> '{results,0,id}', '7', 'numbers are ids, too');
SELECT is((push(ARRAY[m('insert', 'member', '{"team": 5, "person": 1}', '{"id": "late"}')]) -> 'results' -> 0 ->> 'status'), 'rejected', 'refused');
SELECT says(ARRAY[m('insert', 'team', '{"id": 5, "name": "five"}'), m('insert', 'member', '{"team": 5, "person": 1}', '{"id": "late"}')], 'applied, applied', 'refused is not applied: it may come again');
SELECT says(ARRAY[m('insert', 'member', '{"team": 5, "person": 1}', '{"id": "late"}')], 'duplicate+', 'and then no more');
SELECT other('UPDATE doc SET n = 77 WHERE id = 41');
SELECT says(ARRAY[m('update', 'doc', '{"id": 40, "n": 9999999999}', '{"id": "e1"}'), m('update', 'doc', '{"id": 41, "title": "older", "n": 1}', '{"id": "e2", "base": "2020-01-01"}')], 'rejected 22003, conflict+', 'an edit that is refused');
SELECT says(ARRAY[m('update', 'doc', '{"id": 41, "title": "newer"}', '{"id": "e3"}')], 'applied+', 'a later one of the row');
SELECT says(ARRAY[m('update', 'doc', '{"id": 41, "title": "older", "n": 1}', '{"id": "e2", "base": "2020-01-01"}')], 'superseded+', 'the older one comes again', '{"policy": "client_wins"}');
SELECT is(doc(41), 'newer|77', 'and is passed over');

-- 11. order
SELECT says(ARRAY[m('insert', 'member', '{"team": 60, "person": 1}'), m('insert', 'team', '{"id": 60, "name": "60"}')], 'applied, applied', 'a child before its parent');
SELECT says(ARRAY[m('insert', 'member', '{"team": 61, "person": 1}'), m('delete', 'member', '{"team": 61, "person": 1}'), m('insert', 'team', '{"id": 61, "name": "61"}')], 'applied, applied, applied', 'a child, gone again, before its parent');
SELECT is((SELECT count(*) FROM member WHERE team = 61), 0::bigint, 'the row ends as its author left it');
SELECT says(ARRAY[m('delete', 'team', '{"id": 60}'), m('delete', 'member', '{"team": 60, "person": 1}')], 'applied, applied', 'a parent before its child');
SELECT says(ARRAY[m('insert', 'team', '{"id": 62, "name": "five"}'), m('update', 'team', '{"id": 5, "name": "six"}')], 'applied, applied+', 'a name that is still taken');
SELECT says(ARRAY[m('insert', 'member', '{"team": 63, "person": 1}'), m('upsert', 'member', '{"team": 63, "person": 1, "role": "x"}', '{}'),
	m('insert', 'doc', '{"id": 63}')], 'rejected 23503, rejected 23503, applied', 'no parent at all');

-- 12. all or nothing
SELECT says(ARRAY[m('insert', 'doc', '{"id": 70}'), m('insert', 'doc', '{"id": "x"}')], 'rejected 40000, rejected 22P02', 'all or nothing', '{"atomic": "all"}');
SELECT says(ARRAY[m('insert', 'doc', '{"id": 70}'), m('update', 'doc', '{"id": 1, "n": 0}', '{"base": "2020-01-01"}')], 'rejected 40000, conflict+', 'a conflict is a refusal, too', '{"atomic": "all"}');
SELECT is(doc(70), NULL, 'nothing');
SELECT says(ARRAY[m('insert', 'member', '{"team": 70, "person": 1}'), m('insert', 'team', '{"id": 70, "name": "70"}')], 'applied, applied', 'all', '{"atomic": "all"}');
SELECT says(ARRAY[m('insert', 'doc', '{"id": 71}', '{"id": "a1"}'), m('insert', 'doc', '{"id": "x"}')], 'rejected 40000, rejected 22P02', 'nothing is remembered as applied', '{"atomic": "all"}');
SELECT says(ARRAY[m('insert', 'doc', '{"id": 71}', '{"id": "a1"}')], 'applied', 'so it can come again', '{"atomic": "all"}');

-- 13. what the answer tells
CREATE TABLE made (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v numeric(5,2), d text DEFAULT 'default', u text GENERATED ALWAYS AS (upper(d)) STORED);
SELECT sync.track('made');
SELECT push(ARRAY[m('insert', 'made', '{"v": 1}', '{"id": "k"}'), m('insert', 'made', '{"v": 2.345, "d": "x", "u": "passed over"}')]) AS a \gset
SELECT is(:'a'::jsonb #> '{results,0,key}', '{"id": 1}', 'a key that the server made');
SELECT is((:'a'::jsonb #> '{results,0,data}') - 'modified_at', '{"id": 1, "v": 1.00, "d": "default", "u": "DEFAULT"}', 'with what the server filled in');
SELECT is((:'a'::jsonb #> '{results,1,data}') - 'modified_at', '{"id": 2, "v": 2.35, "d": "x", "u": "X"}', 'or made of it');
SELECT is(push(ARRAY[m('insert', 'made', '{"v": 1}', '{"id": "k"}')]) #> '{results,0,key}', '{"id": 1}', 'a duplicate gets the same key');
SELECT is((SELECT count(*) FROM made), 2::bigint, 'and no row');
CREATE TABLE bykey (id text PRIMARY KEY, v int);
CREATE FUNCTION make_key() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.id := coalesce(new.id, 'made ' || new.v); RETURN new; END $$;
CREATE TRIGGER make_key BEFORE INSERT ON bykey FOR EACH ROW EXECUTE FUNCTION make_key();
SELECT sync.track('bykey');
SELECT is((SELECT jsonb_agg(r -> 'key') FROM jsonb_array_elements(push(ARRAY[m('insert', 'bykey', '{"v": 1}'), m('insert', 'bykey', '{"v": 2}')]) -> 'results') r), '[{"id": "made 1"}, {"id": "made 2"}]', 'keys that a trigger makes');
CREATE FUNCTION hush() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF new.v = 13 THEN RETURN NULL; END IF; RETURN new; END $$;
CREATE TRIGGER hush BEFORE INSERT OR UPDATE ON bykey FOR EACH ROW EXECUTE FUNCTION hush();
SELECT says(ARRAY[m('insert', 'bykey', '{"v": 13}'), m('insert', 'bykey', '{"id": "q", "v": 13}'), m('update', 'bykey', '{"id": "made 1", "v": 13}'), m('update', 'bykey', '{"id": "made 2", "v": 3}')],
	'rejected 09000, rejected 23505, rejected 42501, applied+', 'rows that a trigger suppresses');
SELECT says(ARRAY[m('insert', 'team', '{"id": 80, "name": "80"}'), m('insert', 'member', '{"team": 80, "person": 1}')], 'applied, applied', 'a cascade comes after');
SELECT push(ARRAY[m('insert', 'team', '{"id": 81, "name": "81"}'), m('insert', 'member', '{"team": 81, "person": 1}')]) #>> '{results,0,modified_at}' AS at \gset
SELECT is(:'at'::timestamptz, (SELECT modified_at FROM team WHERE id = 81), 'the final modified_at');

-- 14. the pull inside
SELECT sync.pull('{"client": "p", "domains": {"doc": {}, "team": {}}}') AS p \gset
SELECT other('UPDATE doc SET n = 100 WHERE id = 3');
SELECT push(ARRAY[m('insert', 'doc', '{"id": 90, "n": 1}'), m('update', 'doc', '{"id": 4, "n": 1}', '{"base": "2020-01-01"}'), m('insert', 'member', '{"team": 62, "person": 1}')],
	jsonb_build_object('client', 'p', 'pull', jsonb_build_object('domains', jsonb_build_object(
		'doc', jsonb_build_object('since', :'p'::jsonb #> '{domains,doc,cursor}'), 'team', jsonb_build_object('since', :'p'::jsonb #> '{domains,team,cursor}'))))::text) AS a \gset
SELECT is(short(:'a'), 'applied, conflict+, applied', 'a push with a pull');
SELECT is((SELECT jsonb_agg(e -> 'id') FROM jsonb_array_elements(:'a'::jsonb #> '{pull,domains,doc,upsert}') e), '[3]', 'what others changed, and not what the answer told');
SELECT is((SELECT jsonb_agg(e -> 'id' ORDER BY e -> 'id') FROM jsonb_array_elements(:'a'::jsonb #> '{pull,domains,team,upsert}') e) @> '[62]', true, 'what a cascade did is told');
SELECT is((push(ARRAY[m('insert', 'doc', '{"id": 91, "n": 1}')], '{"client": "q", "pull": {"domains": {"doc": {"exclude": [{"id": 3, "modified_at": "2020-01-01"}]}}}}') #> '{pull,domains,doc}') ? 'upsert', true, 'with rows to leave out of its own');

-- 15. many
SELECT count(DISTINCT r ->> 'status') AS s
  FROM jsonb_array_elements(push((SELECT array_agg(m('insert', 'doc', jsonb_build_object('id', CASE WHEN i % 1000 = 0 THEN 'x' ELSE i::text END, 'title', 't')::text)) FROM generate_series(1000, 20999) i)) -> 'results') r \gset
SELECT is((SELECT count(*) FROM doc WHERE id >= 1000), 19980::bigint, 'twenty thousand, a poisonous one in each thousand');
SELECT says((SELECT array_agg(m('insert', 'member', jsonb_build_object('team', 62, 'person', CASE WHEN i % 50 = 0 THEN -i ELSE i + 100 END)::text)) FROM generate_series(1, 200) i),
	(SELECT string_agg(CASE WHEN i % 50 = 0 THEN 'rejected 23514' ELSE 'applied' END, ', ' ORDER BY i) FROM generate_series(1, 200) i), 'poison found by halving');

-- 16. little
CREATE TABLE tiny (id int PRIMARY KEY, t text);
SELECT sync.track('tiny');
SELECT says(ARRAY[m('insert', 'tiny', '{"id": 1, "t": "x"}'), m('upsert', 'tiny', '{"id": 1}', '{"base": "2020-01-01"}'), m('update', 'tiny', '{"id": 1}', '{"base": "2020-01-01"}')], 'applied, applied, applied', 'with a base, too');
SELECT says(ARRAY[m('update', 'tiny', '{"id": 1, "t": "y"}', '{"base": "2020-01-01"}')], 'conflict+', 'a column that is called as the table is in statements', '{"client": "tiny"}');
SELECT * FROM finish();
DROP SCHEMA t CASCADE;
SELECT count(sync.forget_client(client)) AS forgotten FROM sync.device \gset
