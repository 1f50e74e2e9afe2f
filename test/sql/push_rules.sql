\set ECHO none
\i test/setup.sql
-- sync.push: what tables, rights and triggers make of mutations.
CREATE SCHEMA t;
SET search_path = t, public;
SELECT no_plan();
CREATE ROLE regress_sync_push;
GRANT USAGE ON SCHEMA t TO regress_sync_push;

-- A mutation: op, domain, data (or the key of a delete), and what else there is.
CREATE FUNCTION m(op text, domain text, data text, more text DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS
$$ SELECT jsonb_build_object('op', op, 'domain', domain, CASE WHEN op = 'delete' THEN 'key' ELSE 'data' END, data::jsonb) || more::jsonb $$;
CREATE FUNCTION push(ms jsonb[], more text DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS
$$ SELECT sync.push('{"client": "rules"}'::jsonb || more::jsonb || jsonb_build_object('mutations', to_jsonb(ms))) $$;
-- The answers in short: status, SQLSTATE, "+" where there is a row.
CREATE FUNCTION short(answer jsonb) RETURNS text LANGUAGE sql AS
$$ SELECT string_agg((r ->> 'status') || coalesce(' ' || (r ->> 'sqlstate'), '') || CASE WHEN r ? 'data' THEN '+' ELSE '' END, ', ' ORDER BY o)
     FROM jsonb_array_elements(answer -> 'results') WITH ORDINALITY x(r, o) $$;
CREATE FUNCTION says(ms jsonb[], expected text, description text, more text DEFAULT '{}') RETURNS text LANGUAGE plpgsql AS
$$ DECLARE a jsonb := push(ms, more); BEGIN
     RETURN is(short(a), expected, description) || CASE WHEN short(a) = expected THEN '' ELSE E'\n' || diag(a::text) END; END $$;
CREATE FUNCTION base(rel regclass, id int) RETURNS text LANGUAGE plpgsql AS
$$ DECLARE b timestamptz; BEGIN EXECUTE format('SELECT modified_at FROM %s WHERE id = $1', rel) INTO b USING id;
     RETURN jsonb_build_object('base', b); END $$;

-- 1. triggers beside: what another mutation's trigger changed of a row is told
CREATE TABLE orders (id int PRIMARY KEY, a text, lines int NOT NULL DEFAULT 0);
CREATE TABLE line (id int PRIMARY KEY, orders int REFERENCES orders ON DELETE CASCADE, a text);
SELECT sync.track('orders');
SELECT sync.track('line');
CREATE FUNCTION count_lines() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN UPDATE t.orders SET lines = lines + 1 WHERE id = new.orders; RETURN NULL; END $$;
CREATE TRIGGER count_lines AFTER INSERT ON line FOR EACH ROW EXECUTE FUNCTION count_lines();
INSERT INTO orders VALUES (1, 'x');
SELECT is(push(ARRAY[m('insert', 'line', '{"id": 1, "orders": 1}'), m('update', 'orders', '{"id": 1, "a": "y"}', base('orders', 1))]) #>> '{results,1,data,lines}', '1', 'a trigger changed the row before its mutation');
SELECT is(push(ARRAY[m('update', 'orders', '{"id": 1, "a": "z"}', base('orders', 1)), m('insert', 'line', '{"id": 2, "orders": 1}')]) #>> '{results,0,data,lines}', '2', 'or after it');
SELECT is(push(ARRAY[m('update', 'orders', '{"id": 1, "a": "y"}', base('orders', 1)), m('insert', 'line', '{"id": 3, "orders": 77}')]) #> '{results,0,data}', NULL, 'not where that was rolled back');
SELECT push(ARRAY[m('update', 'orders', '{"id": 1, "a": "yy"}', base('orders', 1)), m('insert', 'line', '{"id": 4, "orders": 1}')]) #>> '{results,0,modified_at}' AS at \gset
SELECT is(:'at'::timestamptz, (SELECT modified_at FROM orders), 'with its last version');
DROP TRIGGER count_lines ON line;

-- 2. a cascade of the client's own write
SELECT sync.cascade('line', 'orders');
SELECT says(ARRAY[m('insert', 'line', '{"id": 5, "orders": 1}'), m('update', 'orders', '{"id": 1, "a": "q"}', base('orders', 1))], 'applied, applied', 'a touch changes no more than modified_at: nothing to tell');
SELECT push(ARRAY[m('delete', 'orders', '{"id": 1}'), m('insert', 'orders', '{"id": 1, "a": "anew"}')]) #>> '{results,1,modified_at}' AS at \gset
SELECT is(:'at'::timestamptz, (SELECT modified_at FROM orders), 'a master that is deleted with its details and made again');
BEGIN;
SELECT push(ARRAY[m('insert', 'orders', '{"id": 9}'), m('insert', 'line', '{"id": 9, "orders": 9}'), m('delete', 'orders', '{"id": 9}'), m('insert', 'orders', '{"id": 9, "a": "anew"}')]) #>> '{results,3,modified_at}' AS at \gset
COMMIT;
SELECT is(:'at'::timestamptz, (SELECT modified_at FROM orders WHERE id = 9), 'nothing comes after the answer');

-- 3. an answer that was lost
SELECT push(ARRAY[m('upsert', 'orders', '{"id": 20, "a": "1"}')]) #>> '{results,0,modified_at}' AS at \gset
SELECT says(ARRAY[m('update', 'orders', '{"id": 20, "a": "2"}', jsonb_build_object('base', :'at')::text)], 'applied', 'the client has its last version');
SELECT says(ARRAY[m('update', 'orders', '{"id": 20, "a": "3"}', jsonb_build_object('base', :'at')::text)], 'applied+', 'it has not: the answer may be lost, so the row is told');

SELECT says(ARRAY[m('upsert', 'orders', '{"id": 21, "a": "1"}'), m('upsert', 'orders', '{"id": 22, "a": "1", "lines": 3}'), m('insert', 'orders', '{"id": 23, "a": "1", "lines": 3}')], 'applied+, applied, applied', 'who upserts a part of a row may hold the rest, of a row that was deleted');

-- 4. base: versions from before tracking have microseconds, clients' clocks milliseconds
CREATE TABLE old (id int PRIMARY KEY, v text, modified_at timestamptz NOT NULL);
INSERT INTO old SELECT i, 'a', '2026-01-01 12:00:00.123456+00' FROM generate_series(1, 4) i;
SELECT sync.track('old');
SELECT says(ARRAY[m('update', 'old', '{"id": 1, "v": "b"}', '{"base": "2026-01-01T12:00:00.123Z"}'), m('update', 'old', '{"id": 2, "v": "b"}', '{"base": "2026-01-01T13:00:00.123456+01:00"}'),
	m('update', 'old', '{"id": 3, "v": "b"}', '{"base": "2026-01-01T12:00:00.124Z"}'), m('delete', 'old', '{"id": 4}', '{"base": "2026-01-01T12:00:00.122Z"}')],
	'applied, applied, conflict+, conflict+', 'a base is compared to the millisecond');

-- 5. numbers
CREATE TABLE num (id int PRIMARY KEY, n numeric, f float8, big bigint);
SELECT sync.track('num');
INSERT INTO num VALUES (1, 1.50, 0.1, 9007199254740993), (2, 2.00, 1, 1);
SELECT says(ARRAY[m('update', 'num', '{"id": 1, "f": 0.2}', '{"assumed": {"n": 1.5, "f": 0.1, "big": 9007199254740993}}'), m('upsert', 'num', '{"id": 2, "n": 2}')],
	'applied+, applied+', '1.5 is 1.50 to a client');
SELECT says(ARRAY[m('update', 'num', '{"id": 2, "big": 2}', '{"assumed": {"n": 2.01}}'), m('insert', 'num', '{"id": 3, "n": "NaN", "f": "Infinity", "big": "9223372036854775807"}'),
	m('insert', 'num', '{"id": 4, "big": 9223372036854775808}'), m('insert', 'num', '{"id": 5, "n": "x"}')], 'conflict+, applied, rejected 22003, rejected 22P02', 'other numbers');

-- 6. types, names that need quotes, other names for the columns of ours
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TABLE "We""ird" ("the key" int, "Key 2" text COLLATE "C", "order" int[], j jsonb, js json, m mood, p positive, b bytea, u uuid, d date, r int4range, t text DEFAULT 'd',
	"changed ""at" timestamptz, "gone at" timestamp, PRIMARY KEY ("Key 2", "the key"));
SELECT sync.track('"We""ird"', 'weird', modified_at => 'changed "at', deleted_at => 'gone at');
SELECT push(ARRAY[m('insert', 'weird', '{"the key": 1, "Key 2": "a\"b''c", "order": [1, null, 3], "j": {"a": [1, {"b": null}]}, "js": [1,  2], "m": "happy", "p": 5, "b": "\\x00ff",
	"u": "00000000-0000-0000-0000-000000000001", "d": "2026-02-28", "r": "[1,5)", "t": null}')]) AS a \gset
SELECT is(:'a'::jsonb #>> '{results,0,status}', 'applied', 'values of many types');
SELECT is((SELECT to_jsonb(w) - 'changed "at' FROM "We""ird" w), '{"the key": 1, "Key 2": "a\"b''c", "order": [1, null, 3], "j": {"a": [1, {"b": null}]}, "js": [1, 2], "m": "happy", "p": 5, "b": "\\x00ff",
	"u": "00000000-0000-0000-0000-000000000001", "d": "2026-02-28", "r": "[1,5)", "t": null, "gone at": null}', 'as they were sent; null is no default');
SELECT is(:'a'::jsonb #> '{results,0,key}', '{"Key 2": "a\"b''c", "the key": 1}', 'a key of two columns');
SELECT says(ARRAY[m('update', 'weird', '{"order": [], "m": "sad"}', '{"key": {"the key": 1, "Key 2": "a\"b''c"}}'), m('update', 'weird', '{"m": "mad"}', '{"key": {"the key": 1, "Key 2": "a\"b''c"}}'),
	m('update', 'weird', '{"p": 0}', '{"key": {"the key": 1, "Key 2": "a\"b''c"}}'), m('delete', 'weird', '{"the key": 1, "Key 2": "a\"b''c"}'), m('delete', 'weird', '{"the key": 1}')],
	'applied, rejected 22P02, rejected 23514, applied, rejected 22023', 'updated, refused and deleted');
SELECT is((SELECT "gone at" IS NOT NULL FROM "We""ird"), true, 'marked');
CREATE TABLE stamped (id int PRIMARY KEY, gone timestamptz(0));
CREATE TABLE dated (id int PRIMARY KEY, gone date);
SELECT sync.track('stamped', deleted_at => 'gone');
SELECT sync.track('dated', deleted_at => 'gone');
SELECT says(ARRAY[m('insert', 'stamped', '{"id": 1}'), m('delete', 'stamped', '{"id": 1}'), m('insert', 'dated', '{"id": 1}'), m('delete', 'dated', '{"id": 1}')], 'applied, applied, applied, applied', 'marks of other types');
SELECT ok((SELECT abs(extract(epoch FROM gone - now())) < 100 FROM stamped) AND (SELECT gone >= current_date - 1 FROM dated), 'are set');

-- 7. generated keys, identity, generated columns
CREATE TABLE always (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v int, twice int GENERATED ALWAYS AS (v * 2) STORED);
SELECT sync.track('always');
SELECT says(ARRAY[m('insert', 'always', '{"v": 1}'), m('insert', 'always', '{"id": 7, "v": 1}'), m('update', 'always', '{"id": 1, "v": 2, "twice": 99}')], 'applied+, rejected 428C9, applied+', 'a key that only the server makes');
SELECT is((SELECT twice FROM always), 4, 'a generated column follows');
CREATE TABLE mixed (a int, b int DEFAULT 5, PRIMARY KEY (a, b));
SELECT sync.track('mixed');
SELECT is(push(ARRAY[m('insert', 'mixed', '{"a": 1}')]) #> '{results,0,key}', '{"a": 1, "b": 5}', 'a default for a part of the key');

-- 8. partitions
CREATE TABLE part (id int, region text, v text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE part_n PARTITION OF part FOR VALUES IN ('n');
CREATE TABLE part_s (v text, region text NOT NULL, gone int, id int NOT NULL, modified_at timestamptz);
ALTER TABLE part_s DROP COLUMN gone;
SELECT sync.track('part');
UPDATE part_s SET modified_at = now();
ALTER TABLE part_s ALTER modified_at SET NOT NULL;
ALTER TABLE part ATTACH PARTITION part_s FOR VALUES IN ('s');
SELECT says(ARRAY[m('insert', 'part', '{"id": 1, "region": "n", "v": "a"}'), m('insert', 'part', '{"id": 2, "region": "s", "v": "a"}'), m('insert', 'part', '{"id": 3, "region": "x"}')], 'applied, applied, rejected 23514', 'rows find their partitions');
SELECT says(ARRAY[m('update', 'part', '{"v": "b"}', jsonb_build_object('key', '{"id": 2, "region": "s"}'::jsonb, 'base', (SELECT modified_at FROM part WHERE id = 2))::text)], 'applied', 'a column has another place in its partition');
SELECT is(push(ARRAY[m('update', 'part', '{"region": "s"}', '{"key": {"id": 1, "region": "n"}}')]) #> '{results,0,key}', '{"id": 1, "region": "s"}', 'a row that moves to another');
SELECT is((SELECT string_agg(id || v, ' ' ORDER BY id) FROM part_s), '1a 2b', 'is there');
SELECT says(ARRAY[m('delete', 'part', '{"id": 1, "region": "s"}')], 'applied', 'and is deleted');

-- the action of a foreign key, on a row of the same statement, is not what was asked for
CREATE TABLE tree (id int PRIMARY KEY, code int UNIQUE, parent int REFERENCES tree ON DELETE SET NULL, of int REFERENCES tree (code) ON UPDATE CASCADE, a text);
SELECT sync.track('tree');
INSERT INTO tree VALUES (1, 1, NULL, NULL, 'x'), (2, 2, 1, NULL, 'y'), (3, 3, NULL, NULL, 'z'), (4, 4, NULL, 3, 'u');
SELECT says(ARRAY[m('delete', 'tree', '{"id": 1}', base('tree', 1)), m('delete', 'tree', '{"id": 2}', '{"base": "2020-01-01T00:00:00Z"}')], 'applied, conflict+', 'a parent goes, which is not the deletion of its child');
SELECT says(ARRAY[m('update', 'tree', '{"id": 3, "code": 33, "a": "mine"}', base('tree', 3)), m('update', 'tree', '{"id": 4, "code": 44, "a": "mine"}', '{"base": "2020-01-01T00:00:00Z"}')], 'applied, conflict+', 'nor is an update that cascades the update of its child');
SELECT is((SELECT string_agg(concat_ws(' ', id, code, parent, of, a), ', ' ORDER BY id) FROM tree), '2 2 y, 3 33 mine, 4 4 33 u', 'which is as it was, but for the reference');

-- 9. a source view: the answer has the document
SELECT current_setting('server_version_num')::int >= 150000 AS has_invoker \gset
\if :has_invoker
CREATE VIEW order_document WITH (security_invoker) AS SELECT o.id, o.a, (SELECT count(*) FROM line l WHERE l.orders = o.id) AS n FROM orders o;
\else
CREATE VIEW order_document AS SELECT o.id, o.a, (SELECT count(*) FROM line l WHERE l.orders = o.id) AS n FROM orders o;
\endif
SELECT sync.untrack('orders');
SELECT sync.track('orders', 'order_doc', source => 'order_document');
SELECT sync.cascade('line', 'orders') WHERE NOT EXISTS (SELECT FROM sync.cascades);
SELECT is(push(ARRAY[m('insert', 'order_doc', '{"id": 30, "a": "x"}'), m('update', 'order_doc', '{"id": 30, "a": "y"}', '{"base": "2020-01-01"}')], '{"policy": "client_wins"}') #> '{results,1,data}' IS NULL, true, 'the client knows the row that it wrote');
UPDATE orders SET a = 'theirs' WHERE id = 30;
SELECT is(push(ARRAY[m('update', 'order_doc', '{"id": 30, "a": "z"}', '{"base": "2020-01-01"}')]) #> '{results,0,data}', '{"a": "theirs", "n": 0, "id": 30}', 'a conflict tells the document');
SELECT says(ARRAY[m('update', 'order_doc', '{"id": 30, "n": 5}')], 'rejected 42703', 'which is not written');

-- 10. passing reasons
CREATE TABLE moody (id int PRIMARY KEY, state text);
SELECT sync.track('moody');
CREATE FUNCTION moody() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF new.state <> 'fine' THEN RAISE EXCEPTION 'as asked' USING ERRCODE = new.state; END IF; RETURN new; END $$;
CREATE TRIGGER moody BEFORE INSERT OR UPDATE ON moody FOR EACH ROW EXECUTE FUNCTION moody();
SELECT says((SELECT array_agg(m('insert', 'moody', jsonb_build_object('id', i, 'state', s)::text, jsonb_build_object('id', 'moody ' || s)::text) ORDER BY i)
	FROM unnest(ARRAY['40001', '40P01', '55P03', '53100', '53200', '58030', 'fine', 'P0001', '23514', '54001']) WITH ORDINALITY x(s, i)),
	'retry 40001, retry 40P01, retry 55P03, retry 53100, retry 53200, retry 58030, applied, rejected P0001, rejected 23514, rejected 54001', 'what passes is no refusal');
SELECT is((SELECT count(*) FROM moody), 1::bigint, 'and nothing of it stays');
SELECT says(ARRAY[m('insert', 'num', '{"id": 80}'), m('insert', 'moody', '{"id": 80, "state": "40001"}')], 'retry 40000, retry 40001', 'all or nothing, for a passing reason', '{"atomic": "all"}');
SELECT says(ARRAY[m('insert', 'num', '{"id": 80}'), m('insert', 'moody', '{"id": 80, "state": "40001"}'), m('insert', 'moody', '{"id": 81, "state": "P0001"}')], 'rejected 40000, retry 40001, rejected P0001', 'and for another', '{"atomic": "all"}');
CREATE OR REPLACE FUNCTION moody() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN new; END $$;
SELECT says(ARRAY[m('insert', 'moody', '{"id": 1, "state": "40001"}', '{"id": "moody 40001"}'), m('insert', 'moody', '{"id": 7, "state": "fine"}', '{"id": "moody fine"}')], 'applied, duplicate+', 'sent again');
CREATE OR REPLACE FUNCTION moody() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(10); RETURN new; END $$;
SET statement_timeout = '200ms';
\set VERBOSITY sqlstate
SELECT push(ARRAY[m('insert', 'moody', '{"id": 99, "state": "x"}')]);
\set VERBOSITY default
RESET statement_timeout;
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '57014', 'a timeout ends the whole call');
BEGIN;
SET TRANSACTION READ ONLY;
SELECT throws_ok($$SELECT push(ARRAY[m('insert', 'orders', '{"id": 99}')])$$, '25006', NULL, 'so does a read-only transaction');
ROLLBACK;

-- a push in a trigger, as of a table that takes requests
CREATE TABLE inbox (request jsonb, answer jsonb);
CREATE FUNCTION take() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.answer := sync.push(new.request); RETURN new; END $$;
CREATE TRIGGER take BEFORE INSERT ON inbox FOR EACH ROW EXECUTE FUNCTION take();
INSERT INTO num VALUES (90, 1), (91, 1);
INSERT INTO inbox SELECT jsonb_build_object('client', 'inbox', 'mutations', jsonb_build_array(m('update', 'num', '{"id": 90, "n": 2}', base('num', 90)), m('update', 'num', '{"id": 91, "n": 2}', '{"base": "2020-01-01"}'),
	m('insert', 'always', '{"v": 5}')));
SELECT is((SELECT short(answer) FROM inbox), 'applied, conflict+, applied+', 'a push in a trigger');
SELECT is((SELECT string_agg(n::text, ' ' ORDER BY id) FROM num WHERE id IN (90, 91)), '2 1', 'does the same');

-- 11. constraints that are checked at the end
CREATE TABLE boss (id int PRIMARY KEY, boss int REFERENCES boss DEFERRABLE INITIALLY DEFERRED, n int UNIQUE DEFERRABLE INITIALLY DEFERRED);
SELECT sync.track('boss');
SELECT says(ARRAY[m('insert', 'boss', '{"id": 1, "boss": 2}'), m('insert', 'boss', '{"id": 2, "boss": 1}'), m('insert', 'boss', '{"id": 3, "boss": 33}'), m('insert', 'boss', '{"id": 4, "boss": 3}'), m('insert', 'boss', '{"id": 5, "boss": 1, "n": 1}')],
	'applied, applied, rejected 23503, rejected 23503, applied', 'a circle is applied; what is refused is told now, not by the commit');
SELECT says(ARRAY[m('insert', 'boss', '{"id": 6, "boss": 1, "n": 1}'), m('update', 'boss', '{"id": 5, "n": 2}')], 'applied, applied+', 'a deferred unique constraint');
BEGIN;
INSERT INTO boss VALUES (50, 51);
SELECT says(ARRAY[m('insert', 'moody2', '{"id": 50}'), m('insert', 'num', '{"id": 50}')], 'rejected 42704, applied', 'what was there before the push is blamed on nobody');
ROLLBACK;
SELECT is((SELECT bool_and(condeferred) FROM pg_constraint WHERE conrelid = 'boss'::regclass AND contype IN ('f', 'u')), true, 'constraints stay as they are');

-- 12. the caller's rights
CREATE TABLE secret (id int PRIMARY KEY, owner text DEFAULT current_user, v text, hidden text);
SELECT sync.track('secret');
INSERT INTO secret VALUES (1, 'regress_sync_push', 'mine'), (2, 'other', 'theirs');
SELECT set_config('x.ids', (SELECT jsonb_object_agg(id, modified_at)::text FROM secret), false) IS NOT NULL AS set \gset
GRANT EXECUTE ON FUNCTION push(jsonb[], text), m(text, text, text, text), short(jsonb), says(jsonb[], text, text, text) TO regress_sync_push;
SET ROLE regress_sync_push;
SELECT says(ARRAY[m('insert', 'secret', '{"id": 3}'), m('update', 'secret', '{"id": 1, "v": "x"}'), m('delete', 'secret', '{"id": 1}')], 'rejected 42501, rejected 42501, rejected 42501', 'no right at all', '{"client": "role"}');
RESET ROLE;
GRANT SELECT (id, modified_at, owner, v), INSERT (id, v), UPDATE (v) ON secret TO regress_sync_push;
SET ROLE regress_sync_push;
SELECT says(ARRAY[m('insert', 'secret', '{"id": 3, "v": "x"}'), m('insert', 'secret', '{"id": 4, "hidden": "x"}'), m('update', 'secret', '{"id": 1, "v": "x"}'), m('update', 'secret', '{"id": 1, "hidden": "x"}'), m('delete', 'secret', '{"id": 1}')],
	'applied, rejected 42501, applied, rejected 42501, rejected 42501', 'rights to columns; a row that may not be read as a whole is not told', '{"client": "role"}');
RESET ROLE;
GRANT SELECT, INSERT ON num TO regress_sync_push;
SET ROLE regress_sync_push;
SELECT says(ARRAY[m('insert', 'num', '{"id": 95, "n": 1}')], s, 'an insert without an id, sent again without the right to update', '{"client": "role"}') FROM unnest(ARRAY['applied', 'applied+']) s;
RESET ROLE;
GRANT ALL ON secret TO regress_sync_push;
SET client_min_messages = error;
ALTER TABLE secret ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON secret TO regress_sync_push USING (owner = current_user);
SET ROLE regress_sync_push;
SELECT says(ARRAY[m('update', 'secret', '{"id": 2, "v": "x"}'), m('update', 'secret', '{"id": 2, "v": "x"}', jsonb_build_object('base', current_setting('x.ids')::jsonb -> '2')::text), m('delete', 'secret', '{"id": 2}'),
	m('insert', 'secret', '{"id": 2, "v": "x"}'), m('insert', 'secret', '{"id": 5, "owner": "other"}'), m('update', 'secret', '{"id": 1, "owner": "other"}'), m('insert', 'secret', '{"id": 6}')],
	'conflict, conflict, applied, rejected 23505, rejected 42501, rejected 42501, applied+', 'rows out of sight are as if they were not there', '{"client": "role"}');
SELECT helper.refused($$SELECT sync.push('{"client": "rules", "mutations": []}')$$, '42501', 'rules', 'a client belongs to one role');
RESET ROLE;
SELECT is((SELECT v FROM secret WHERE id = 2), 'theirs', 'and stay as they were');
SELECT is(push('{}', '{"user_id": "ann"}'), '{"results": []}', 'a client has a user');
SELECT helper.refused($$SELECT sync.push('{"client": "rules", "user_id": "bob", "mutations": []}')$$, '42501', 'bob', 'and no other');
SELECT is(push('{}'), '{"results": []}', 'who need not be named each time');

-- 13. since
SELECT sync.current_cursor() AS c \gset
SELECT push(ARRAY[m('update', 'orders', '{"id": 20, "a": "4"}')]) IS NULL AS null \gset
SELECT says(ARRAY[m('update', 'orders', '{"id": 20, "a": "5"}')], 'rejected 42704', 'domains go by their names', jsonb_build_object('since', :'c')::text);
SELECT push(ARRAY[m('insert', 'num', '{"id": 60, "n": 1}'), m('insert', 'num', '{"id": 61, "n": 1}')], '{"client": "s1"}') IS NULL AS null \gset
SELECT says(ARRAY[m('update', 'num', '{"id": 60, "n": 2}'), m('update', 'num', '{"id": 61, "n": 2}', '{"base": "2020-01-01"}')], 'conflict+, conflict+', 'another client''s push is another''s change', jsonb_build_object('client', 's2', 'since', :'c')::text);
SELECT says(ARRAY[m('update', 'num', '{"id": 60, "n": 2}'), m('delete', 'num', '{"id": 61}')], 'applied+, applied', 'one''s own is not', jsonb_build_object('client', 's1', 'since', :'c')::text);
INSERT INTO num VALUES (62, 1), (63, 1);
SELECT sync.current_cursor() AS c \gset
BEGIN;
UPDATE num SET n = 5 WHERE id = 62;
SELECT push(ARRAY[m('update', 'num', '{"id": 63, "n": 5}')], '{"client": "s1"}') IS NULL AS null \gset
COMMIT;
SELECT says(ARRAY[m('update', 'num', '{"id": 62, "n": 6}'), m('update', 'num', '{"id": 63, "n": 6}')], 'conflict+, applied+', 'what somebody else wrote in the transaction of a push is not the client''s', jsonb_build_object('client', 's1', 'since', :'c')::text);
CREATE TABLE chief (id int PRIMARY KEY, v text);
CREATE TABLE part_of (id int PRIMARY KEY, chief int REFERENCES chief);
SELECT sync.track('chief');
SELECT sync.track('part_of');
SELECT sync.cascade('part_of', 'chief');
INSERT INTO chief VALUES (1), (2);
SELECT sync.current_cursor() AS c \gset
BEGIN;
INSERT INTO part_of VALUES (2, 2);
SELECT push(ARRAY[m('insert', 'part_of', '{"id": 1, "chief": 1}')], '{"client": "s1"}') IS NULL AS null \gset
COMMIT;
SELECT says(ARRAY[m('update', 'chief', '{"id": 1, "v": "x"}'), m('update', 'chief', '{"id": 2, "v": "x"}')], 'applied, conflict+', 'a cascade of its own write is', jsonb_build_object('client', 's1', 'since', :'c')::text);
SELECT sync.current_cursor() AS c \gset
UPDATE num SET n = 3 WHERE id = 60;
SELECT sync.reset('num');
SELECT says(ARRAY[m('update', 'num', '{"id": 1, "n": 7}')], 'conflict+', 'a cursor that is void: everything counts as changed', jsonb_build_object('client', 's2', 'since', :'c')::text);

-- 14. the pull inside, for a user
CREATE TABLE member (company int, user_id text, PRIMARY KEY (company, user_id));
CREATE TABLE task (id int PRIMARY KEY, company int NOT NULL, v text);
SELECT sync.track('member', scope => '{user_id,company}');
SELECT sync.track('task', scope => '{company}');
SELECT sync.set_access('task', 'member');
INSERT INTO member VALUES (1, 'ann'), (2, 'ann'), (3, 'bob');
INSERT INTO task SELECT i, i % 3 + 1, 'x' FROM generate_series(1, 9) i;
SELECT sync.pull('{"user_id": "ann", "client": "a", "domains": {"task": {}}}') AS p \gset
DELETE FROM member WHERE company = 2;
UPDATE task SET v = 'theirs' WHERE id IN (2, 3);
SELECT push(ARRAY[m('insert', 'task', '{"id": 10, "company": 1}'), m('update', 'task', '{"id": 6, "v": "mine"}'), m('insert', 'member', '{"company": 3, "user_id": "ann"}')],
	jsonb_build_object('client', 'a', 'user_id', 'ann', 'pull', jsonb_build_object('domains', jsonb_build_object('task', jsonb_build_object('since', :'p'::jsonb #> '{domains,task,cursor}'))))::text) AS a \gset
SELECT is(:'a'::jsonb #> '{pull,domains,task,forget}', '[{"company": 2}]', 'a scope that was lost is forgotten');
SELECT is((SELECT jsonb_agg(e -> 'id' ORDER BY e -> 'id') FROM jsonb_array_elements(:'a'::jsonb #> '{pull,domains,task,upsert}') e), '[2, 3, 5, 8]', 'others'' changes, and the scope that the push gained; not what the answer told');
SELECT is((SELECT jsonb_object_agg(d, jsonb_array_length(v -> 'upsert')) FROM jsonb_each(push('{}', '{"client": "a", "user_id": "ann", "pull": {"domains": {"task": {}, "num": {}}}}') #> '{pull,domains}') x(d, v)),
	jsonb_build_object('task', (SELECT count(*) FROM task WHERE company IN (1, 3)), 'num', (SELECT count(*) FROM num)), 'a domain that concerns everybody beside one that does not');

CREATE TABLE item (id int PRIMARY KEY, owner int, a text);
SELECT sync.track('item', scope => '{owner}');
INSERT INTO item VALUES (1, 2, 'x'), (2, 3, 'y');
SELECT sync.pull('{"domains": {"item": {"filter": "owner = 2"}}}') #> '{domains,item,cursor}' AS c \gset
SELECT push(ARRAY[m('insert', 'item', '{"id": 5, "owner": 3}'), m('update', 'item', '{"id": 2, "a": "z"}', '{"base": "2020-01-01"}'), m('insert', 'item', '{"id": 6, "owner": 2}')],
	jsonb_build_object('client', 'i', 'pull', jsonb_build_object('domains', jsonb_build_object('item', jsonb_build_object('filter', 'owner = 2', 'since', :'c'::jsonb))))::text) AS a \gset
SELECT is((SELECT jsonb_agg(e ORDER BY e) FROM jsonb_array_elements(:'a'::jsonb #> '{pull,domains,item,remove}') e), '[{"id": 2}, {"id": 5}]', 'what was told, and is outside of the filter, is removed again');
SELECT is(:'a'::jsonb #> '{pull,domains,item}' ->> 'upsert', '[]', 'what is inside was told');

-- 15. JSON of every shape
SELECT says(ARRAY[m('insert', 'orders', '{"id": 1}', '{"domain": null}'), m('insert', 'num', '{"id": 70}', '{"op": null}'), m('insert', 'num', '{"id": 70}', '{"key": 5}'), m('insert', 'num', '{"id": 70}', '{"base": 5}'),
	m('insert', 'num', '{"id": 70}', '{"pending": "yes"}'), m('insert', 'num', '{"id": null}'), m('insert', 'num', '{}'), m('insert', 'num', '{"id": {}}'), m('insert', 'num', '{"id": [70]}'), m('insert', 'num', '{"id": true}'),
	m('insert', 'num', '{"id": 70}', '{"assumed": []}'), m('insert', 'num', '{"id": 70}', '{"id": {"a": 1}}'), m('insert', 'num', '{"id": 70}', '{"id": null}')],
	'rejected 22023, rejected 22023, rejected 22023, rejected 22023, rejected 22023, rejected 23502, rejected 23502, rejected 22P02, rejected 22P02, rejected 22P02, rejected 22023, rejected 22023, applied', 'each is refused by itself');
CREATE TABLE deep (id int PRIMARY KEY, j jsonb, t text);
SELECT sync.track('deep');
SELECT says(ARRAY[m('insert', 'deep', format('{"id": 1, "j": %s1%s}', repeat('[', 2000), repeat(']', 2000))), m('insert', 'deep', format('{"id": 2, "t": %s1%s}', repeat('{"a":', 1000), repeat('}', 1000))),
	m('insert', 'deep', format('{"id": %s1%s}', repeat('[', 2000), repeat(']', 2000))), m('insert', 'deep', '{"id": 4}', format('{"base": %s1%s}', repeat('[', 2000), repeat(']', 2000)))],
	'applied, applied, rejected 22P02, rejected 22023', 'deeply nested');
SELECT is((SELECT length(j::text) FROM deep WHERE id = 1), 4001, 'and kept');
SELECT is(push(ARRAY[m('insert', 'deep', '{"id": 1}')]) #> '{results,0,data}', (SELECT to_jsonb(d) FROM deep d WHERE id = 1), 'and told');
INSERT INTO deep VALUES (6, '{"a": [], "b": {}, "c": [[], {}, [[1, null], "x"]], "dd": true, "e": null, "f": 1.50, "": "", "g": {"h": {"i": [{"j": false}]}}}'), (7, '[]'), (8, '17'), (9, 'null');
SELECT is((SELECT jsonb_agg(r -> 'data' -> 'j') FROM jsonb_array_elements(push(ARRAY[m('insert', 'deep', '{"id": 6}'), m('insert', 'deep', '{"id": 7}'), m('insert', 'deep', '{"id": 8}'), m('insert', 'deep', '{"id": 9}')]) -> 'results') r),
	(SELECT jsonb_agg(j ORDER BY id) FROM deep WHERE id BETWEEN 6 AND 9), 'values of every shape are told as they are');
SELECT says(ARRAY[m('insert', 'deep', jsonb_build_object('id', 5, 't', repeat('x', 1000000))::text)], 'applied', 'a long value');
SELECT helper.refused($$SELECT sync.push('{"mutations": [{}, {}, 17]}')$$, '22023', 'mutations[2]', 'what is no mutation is named by its place');

-- 16. keys: those of 64 bits are told apart, also where they differ in both halves
CREATE TABLE wide (id bigint PRIMARY KEY, v text);
SELECT sync.track('wide');
INSERT INTO wide VALUES ((1::bigint << 32) | 2, 'a'), ((2::bigint << 32) | 1, 'b'), (3, 'c');
SELECT says(ARRAY[m('update', 'wide', '{"id": 3, "v": "mine"}'), m('delete', 'wide', '{"id": 4294967298}'), m('delete', 'wide', '{"id": 8589934593}')], 'applied+, applied, applied', 'others of a batch that go');
SELECT says(ARRAY[m('update', 'wide', '{"id": 5, "v": "mine"}', '{"id": "w1"}')], 'conflict', 'one that is refused');
SELECT says(ARRAY[m('insert', 'wide', '{"id": 4294967300, "v": "x"}', '{"id": "w2"}')], 'applied', 'a later one, of another row');
INSERT INTO wide VALUES (5, 'here');
SELECT says(ARRAY[m('update', 'wide', '{"id": 5, "v": "mine"}', '{"id": "w1"}')], 'applied+', 'does not supersede it');
-- a key that the mutation changed is told again
CREATE TABLE moved (id int PRIMARY KEY, v text);
SELECT sync.track('moved');
INSERT INTO moved VALUES (1, 'a');
SELECT push(ARRAY[jsonb_build_object('id', 'm1', 'op', 'update', 'domain', 'moved', 'key', '{"id": 1}'::jsonb, 'data', '{"id": 2}'::jsonb)]) #> '{results,0,key}' AS key;
SELECT is(push(ARRAY[jsonb_build_object('id', 'm1', 'op', 'update', 'domain', 'moved', 'key', '{"id": 1}'::jsonb, 'data', '{"id": 2}'::jsonb)]) -> 'results' -> 0 #- '{data,modified_at}' #- '{modified_at}',
	'{"id": "m1", "key": {"id": 2}, "data": {"v": "a", "id": 2}, "status": "duplicate"}', 'a duplicate has the key that it changed');
-- and one that a trigger changed
CREATE TABLE lowered (id text PRIMARY KEY, v text);
SELECT sync.track('lowered');
CREATE FUNCTION lower_id() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.id := lower(new.id); RETURN new; END $$;
CREATE TRIGGER lower_id BEFORE INSERT ON lowered FOR EACH ROW EXECUTE FUNCTION lower_id();
SELECT push(ARRAY[m('insert', 'lowered', '{"id": "A", "v": "1"}', '{"id": "l1"}'), m('insert', 'lowered', '{"id": "b", "v": "2"}'), m('insert', 'lowered', '{"id": "C", "v": "3"}')]) -> 'results' AS a \gset
SELECT is((SELECT jsonb_agg(jsonb_build_array(r ->> 'status', r #>> '{key,id}', r #>> '{data,id}', r -> 'modified_at' IS NOT NULL)) FROM jsonb_array_elements(:'a') r),
	'[["applied", "a", "a", true], ["applied", "b", null, true], ["applied", "c", "c", true]]', 'a trigger changed keys: they are told');
SELECT is(push(ARRAY[m('insert', 'lowered', '{"id": "A", "v": "1"}', '{"id": "l1"}')]) #>> '{results,0,key,id}', 'a', 'and told again');

-- 17. a row that is deleted as its author holds it
CREATE TABLE faded (id int PRIMARY KEY, v text, deleted_at timestamptz);
SELECT sync.track('faded', deleted_at => 'deleted_at');
INSERT INTO faded VALUES (1, 'a');
SELECT says(ARRAY[m('delete', 'faded', '{"id": 1}', '{"data": {"id": 1, "v": "a", "deleted_at": null}}')], 'applied', 'a soft deletion');
SELECT ok((SELECT deleted_at IS NOT NULL FROM faded), 'is done, though the mark of the row was null before');

-- 18. what deferred triggers write is written at the commit
CREATE TABLE late (id int PRIMARY KEY, v text, n int DEFAULT 0);
SELECT sync.track('late');
CREATE FUNCTION count_late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE t.late SET n = n + 1 WHERE id = new.id AND n < 1; RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER count_late AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION count_late();
BEGIN;
SELECT push(ARRAY[m('insert', 'late', '{"id": 1, "v": "a", "n": 0}')]) #>> '{results,0,modified_at}' AS at \gset
SELECT is(:'at'::timestamptz, (SELECT modified_at FROM late), 'no version is told that never was');
COMMIT;
DROP TABLE late;

-- 19. DDL between a push's values and their writing
CREATE TABLE first (id int PRIMARY KEY);
CREATE TABLE second (id int PRIMARY KEY, v int);
SELECT sync.track('first'), sync.track('second');
CREATE FUNCTION alter_second() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN ALTER TABLE t.second ALTER v TYPE text; RETURN new; END $$;
CREATE TRIGGER alter_second BEFORE INSERT ON first FOR EACH ROW EXECUTE FUNCTION alter_second();
SELECT says(ARRAY[m('insert', 'first', '{"id": 1}'), m('insert', 'second', '{"id": 1, "v": 1}')], 'applied, retry 40001', 'values of another type are not written');
SELECT says(ARRAY[m('insert', 'second', '{"id": 1, "v": 1}')], 'applied', 'and are the next time');

-- 20. a tree whose root is missing costs its size, in whatever order it comes
CREATE TABLE branch (id int PRIMARY KEY, parent int REFERENCES branch, v int CHECK (v > 0));
SELECT sync.track('branch');
CREATE FUNCTION branches(direction int) RETURNS jsonb LANGUAGE sql AS
$$ SELECT jsonb_agg(jsonb_build_object('op', 'insert', 'domain', 'branch', 'data', jsonb_build_object('id', i, 'parent', i - 1)) ORDER BY i * direction) FROM generate_series(1, 2000) i $$;
SET statement_timeout = '15s';
SELECT is((SELECT count(*) FILTER (WHERE r ->> 'status' = 'rejected') FROM jsonb_array_elements(sync.push(jsonb_build_object('client', 'rules', 'mutations', branches(d))) -> 'results') r), 2000::bigint, 'order ' || d) FROM unnest('{1,-1}'::int[]) d;
SELECT is((SELECT count(*) FILTER (WHERE r ->> 'status' = 'applied') FROM jsonb_array_elements(sync.push(jsonb_build_object('client', 'rules', 'mutations', branches(-1) || '[{"op": "insert", "domain": "branch", "data": {"id": 0}}, {"op": "insert", "domain": "branch", "data": {"id": 5000, "parent": 4999}}]')) -> 'results') r), 2001::bigint, 'with its root, and another one without');
RESET statement_timeout;
-- a circle is applied though what hangs on it is not
CREATE TABLE ring (id int PRIMARY KEY, next int REFERENCES ring DEFERRABLE INITIALLY DEFERRED, v int CHECK (v > 0));
SELECT sync.track('ring');
SELECT says(ARRAY[m('insert', 'ring', '{"id": 9, "next": 77}'), m('insert', 'ring', '{"id": 4, "next": 1, "v": -1}'), m('insert', 'ring', '{"id": 1, "next": 2}'), m('insert', 'ring', '{"id": 2, "next": 3}'), m('insert', 'ring', '{"id": 3, "next": 1}'), m('insert', 'ring', '{"id": 10, "next": 9}'),
	m('insert', 'ring', '{"id": 11, "next": 12}'), m('insert', 'ring', '{"id": 12, "next": 11, "v": -1}')],
	'rejected 23503, rejected 23514, applied, applied, applied, rejected 23503, rejected 23503, rejected 23514', 'and one with a member that is refused is not');

-- 21. keys that are equal, and not the same to a client: the row's own is told
CREATE TABLE numbered (id numeric PRIMARY KEY, v text);
SELECT sync.track('numbered');
INSERT INTO numbered VALUES (1.50, 'a'), (2.50, 'b');
SELECT is((SELECT jsonb_agg(jsonb_build_array(r ->> 'status', r #>> '{key,id}', r #>> '{data,id}')) FROM jsonb_array_elements(
	push(ARRAY[m('upsert', 'numbered', '{"id": 1.5, "v": "a"}'), m('update', 'numbered', '{"id": 2.500, "v": "c"}'), m('insert', 'numbered', '{"id": 1.500, "v": "x"}'), m('insert', 'numbered', '{"id": 3.500, "v": "x"}')]) -> 'results') r),
	'[["applied", "1.50", "1.50"], ["applied", "2.50", "2.50"], ["conflict", "1.50", "1.50"], ["applied", "3.500", null]]', 'whether it is written or not');

-- 22. the pull inside is the same user's
SELECT helper.refused($$SELECT sync.push('{"client": "inner", "user_id": "ann", "mutations": [], "pull": {"user_id": "bob", "domains": {}}}')$$, '22023', 'pull.user_id', 'another user');
SELECT helper.refused($$SELECT sync.push('{"client": "inner", "user_id": "ann", "mutations": [], "pull": {"client": "bob", "domains": {}}}')$$, '22023', 'pull.client', 'another client');
SELECT is(sync.push('{"client": "inner", "user_id": "ann", "mutations": [], "pull": {"user_id": "ann", "client": null, "domains": {}}}') #> '{pull,domains}', '{}', 'the same');

SELECT * FROM finish();
DROP OWNED BY regress_sync_push;
DROP SCHEMA t CASCADE;
DROP ROLE regress_sync_push;
SELECT count(sync.forget_client(client)) AS forgotten FROM sync.device \gset
