\set ECHO none
\i test/setup.sql
-- sync.fingerprint: count and hash of what a client should hold.
CREATE SCHEMA t;
SET search_path = t, public;
SELECT plan(61);

-- The rule as README has it, in the slowest way: what a client computes.
CREATE FUNCTION row_hash(bytes bytea) RETURNS numeric LANGUAGE plpgsql AS $$
DECLARE
	two64 CONSTANT numeric := 18446744073709551616;
	h numeric := 14695981039346656037;
BEGIN
	FOR i IN 0 .. length(bytes) - 1 LOOP
		h := mod(xored(h, get_byte(bytes, i)) * 1099511628211, two64);
	END LOOP;
	h := mod(xored(h, div(h, 8589934592)) * 18397679294719823053, two64);
	h := mod(xored(h, div(h, 8589934592)) * 14181476777654086739, two64);
	RETURN xored(h, div(h, 8589934592));
END $$;
-- exclusive or of two 64-bit numbers
CREATE FUNCTION xored(a numeric, b numeric) RETURNS numeric LANGUAGE plpgsql AS $$
DECLARE
	half CONSTANT numeric := 4294967296;
BEGIN
	RETURN (div(a, half)::int8 # div(b, half)::int8)::numeric * half + (mod(a, half)::int8 # mod(b, half)::int8)::numeric;
END $$;
CREATE FUNCTION hex(h numeric) RETURNS text LANGUAGE sql AS
$$ SELECT lpad(to_hex(div(mod(h, 18446744073709551616), 4294967296)::int8), 8, '0') || lpad(to_hex(mod(h, 4294967296)::int8), 8, '0') $$;
-- of a copy: [{"key": {…}, "modified_at": …}], the key columns in order
CREATE FUNCTION of_copy(copy jsonb, VARIADIC key text[]) RETURNS text LANGUAGE sql AS $$
	SELECT count(*) || ' ' || hex(coalesce(sum(row_hash(
		(SELECT string_agg(convert_to(e -> 'key' ->> k, 'UTF8') || '\x00', ''::bytea ORDER BY n) FROM unnest(key) WITH ORDINALITY AS u(k, n))
		|| convert_to(coalesce(floor(extract(epoch FROM (e ->> 'modified_at')::timestamptz) * 1000)::int8::text, ''), 'UTF8'))), 0))
	FROM jsonb_array_elements(copy) e $$;
-- a copy, as sync.changes gives it
CREATE FUNCTION copy_of(dom text, filter text DEFAULT NULL, params text[] DEFAULT NULL) RETURNS jsonb LANGUAGE sql AS
$$ SELECT coalesce(jsonb_agg(jsonb_build_object('key', key, 'modified_at', modified_at)) FILTER (WHERE op = 'upsert'), '[]') FROM sync.changes(dom, NULL, filter, params) $$;
CREATE FUNCTION print_of(dom text, filter text DEFAULT NULL, params text[] DEFAULT NULL, after jsonb DEFAULT NULL, upto jsonb DEFAULT NULL) RETURNS text LANGUAGE sql AS
$$ SELECT count || ' ' || hash FROM sync.fingerprint(dom, filter, params, NULL, after, upto) $$;

-- vectors, as in README
SELECT is(hex(row_hash('')), 'efd01f60ba992926', 'the hash of nothing');
SELECT is(hex(row_hash('1')), '7c3832dde020d3d6', 'of a byte') ;
SELECT is(hex(row_hash(convert_to('1', 'UTF8') || '\x00' || convert_to('1767225600000', 'UTF8'))), '53f53837e1b1794d', 'of a row');

SELECT is(hex(row_hash(convert_to('2', 'UTF8') || '\x00' || convert_to('1767225600001', 'UTF8'))), 'd2d6287ccfc9c312', 'of another');
SELECT is(hex(row_hash('\xc3a9'::bytea || '\x00' || convert_to('7', 'UTF8') || '\x00' || convert_to('1767225600123', 'UTF8'))), '49775edda81e8e28', 'of a row with a composite key');
-- and what the server makes of such rows
CREATE TABLE vector (id int PRIMARY KEY, modified_at timestamptz NOT NULL);
CREATE TABLE vectors (a text, b int, modified_at timestamptz NOT NULL, PRIMARY KEY (a, b));
SELECT sync.track('vector'), sync.track('vectors');
SET session_replication_role = replica;
INSERT INTO vector VALUES (1, '2026-01-01T00:00:00Z'), (2, '2026-01-01T00:00:00.001Z');
INSERT INTO vectors VALUES ('é', 7, '2026-01-01T00:00:00.123Z');
RESET session_replication_role;
SELECT is(print_of('vector', 'id = 1'), '1 53f53837e1b1794d', 'the server: of a row');
SELECT is(print_of('vector', 'id = 2'), '1 d2d6287ccfc9c312', 'of another');
SELECT is(print_of('vector'), '2 26cb60b4b17b3c5f', 'of both');
SELECT is(print_of('vectors'), '1 49775edda81e8e28', 'of a row with a composite key');

-- kinds of keys
CREATE TABLE doc (id int PRIMARY KEY, team int, title text);
SELECT sync.track('doc', scope => '{team}');
SELECT is(print_of('doc'), '0 0000000000000000', 'of no rows');
INSERT INTO doc SELECT g, g % 3, 'doc ' || g FROM generate_series(-20, 79) g;
UPDATE doc SET title = title || '!' WHERE id % 7 = 0;
SELECT is(print_of('doc'), of_copy(copy_of('doc'), 'id'), 'int keys');
SET session_replication_role = replica;
INSERT INTO doc VALUES (1000, 1, 'x'), (1001, 1, 'y'), (1002, 1, 'z');
UPDATE doc SET modified_at = '2026-01-01' WHERE id = 1000;
UPDATE doc SET modified_at = '1969-12-31 23:59:59.9995+00' WHERE id = 1001;
UPDATE doc SET modified_at = '2026-01-01 00:00:00.0009+00' WHERE id = 1002;
RESET session_replication_role;
SELECT is(print_of('doc', 'id = 1000'), '1 ' || hex(row_hash(convert_to('1000', 'UTF8') || '\x00' || convert_to('1767225600000', 'UTF8'))), 'one row');
SELECT is(print_of('doc', 'id = 1001'), '1 ' || hex(row_hash(convert_to('1001', 'UTF8') || '\x00' || convert_to('-1', 'UTF8'))), 'before 1970: rounded down');
SELECT is(print_of('doc', 'id = 1002'), '1 ' || hex(row_hash(convert_to('1002', 'UTF8') || '\x00' || convert_to('1767225600000', 'UTF8'))), 'milliseconds');
SELECT is(print_of('doc'), of_copy(copy_of('doc'), 'id'), 'all of them');

CREATE TABLE named (name text PRIMARY KEY, v int);
SELECT sync.track('named');
INSERT INTO named SELECT chr(g) || 'é' || g, g FROM generate_series(65, 120) g;
INSERT INTO named VALUES ('', 0), ('{"a": 1}', 1), (E'tab\tquote"\\', 2);
SELECT is(print_of('named'), of_copy(copy_of('named'), 'name'), 'text keys');
CREATE TABLE thing (id uuid PRIMARY KEY);
SELECT sync.track('thing');
INSERT INTO thing SELECT md5(g::text)::uuid FROM generate_series(1, 50) g;
SELECT is(print_of('thing'), of_copy(copy_of('thing'), 'id'), 'uuid keys');
CREATE TABLE pair (a bigint, b text, PRIMARY KEY (b, a));
SELECT sync.track('pair');
INSERT INTO pair SELECT g, 'x' || g % 5 FROM generate_series(9007199254740990, 9007199254741020) g;
SELECT is(print_of('pair'), of_copy(copy_of('pair'), 'b', 'a'), 'composite keys, in the order of the key');
SET sync.big_numbers = text;
SELECT is(print_of('pair'), of_copy(copy_of('pair'), 'b', 'a'), 'the same where big numbers travel as text');
RESET sync.big_numbers;
CREATE TABLE odd (at timestamptz, n numeric(10, 2), d date, b bool, PRIMARY KEY (at, n, d, b));
SELECT sync.track('odd');
INSERT INTO odd SELECT '2026-01-01'::timestamptz + g * interval '1 h', g / 3.0, '2026-01-01'::date + g, g % 2 = 0 FROM generate_series(1, 30) g;
SELECT is(print_of('odd'), of_copy(copy_of('odd'), 'at', 'n', 'd', 'b'), 'other keys');
SELECT print_of('odd') AS utc \gset
SET timezone = 'Asia/Kolkata';
SELECT is(print_of('odd'), :'utc', 'whatever the time zone of the session');
SELECT is(current_setting('timezone'), 'Asia/Kolkata', 'which stays');
SET datestyle = 'German, DMY';
SELECT is(print_of('odd'), :'utc', 'and the style of dates');
SET datestyle = 'ISO, YMD';
SET timezone = 'UTC';

-- order does not matter, versions do
SELECT print_of('doc', 'id BETWEEN 1 AND 2') AS before \gset
UPDATE doc SET title = 'a' WHERE id = 1;
SELECT isnt(print_of('doc', 'id BETWEEN 1 AND 2'), :'before', 'another version');
-- two rows that exchange their versions: a sum of a weak hash would not see it
CREATE TABLE swap (id int PRIMARY KEY, modified_at timestamptz NOT NULL);
SET session_replication_role = replica;
INSERT INTO swap SELECT g, '2026-01-01'::timestamptz + g * interval '1 ms' FROM generate_series(1, 200) g;
SELECT sync.track('swap');
CREATE TABLE prints AS SELECT hash FROM sync.fingerprint('swap');
DO $$
BEGIN
	FOR i IN 1 .. 199 LOOP
		UPDATE t.swap SET modified_at = '2026-01-01'::timestamptz + (2 * i + 1 - id) * interval '1 ms' WHERE id IN (i, i + 1);
		INSERT INTO t.prints SELECT hash FROM sync.fingerprint('swap');
		UPDATE t.swap SET modified_at = '2026-01-01'::timestamptz + id * interval '1 ms' WHERE id IN (i, i + 1);
	END LOOP;
END $$;
RESET session_replication_role;
SELECT is((SELECT count(DISTINCT hash) FROM prints), 200::bigint, 'exchanged versions show');

-- what a client should hold
SELECT is(print_of('doc', 'team = $1', '{1}'), of_copy(copy_of('doc', 'team = $1', '{1}'), 'id'), 'a filter with parameters');
SELECT is(print_of('doc', 'team IN (SELECT 1)'), print_of('doc', 'team = 1'), 'a filter with a subquery');
SELECT is(print_of('doc', 'EXISTS (SELECT FROM t.pair WHERE team < 1)'), print_of('doc', 'team < 1'), 'a correlated one');
SELECT is(print_of('doc', 'modified_at <= now()'), print_of('doc'), 'a stable function');
CREATE TABLE soft (id int PRIMARY KEY, gone timestamptz);
SELECT sync.track('soft', deleted_at => 'gone');
INSERT INTO soft VALUES (1, NULL), (2, now()), (3, NULL);
SELECT is(print_of('soft'), of_copy(copy_of('soft'), 'id'), 'without rows marked as deleted');
SELECT is((SELECT count FROM sync.fingerprint('soft')), 2::bigint, 'which do not count');
CREATE TABLE sourced (id int PRIMARY KEY, v int);
SELECT current_setting('server_version_num')::int >= 150000 AS has_invoker \gset
\if :has_invoker
CREATE VIEW sourced_view WITH (security_invoker = true) AS SELECT id, v FROM sourced WHERE v > 0;
\else
CREATE VIEW sourced_view AS SELECT id, v FROM sourced WHERE v > 0;
\endif
SELECT sync.track('sourced', source => 'sourced_view');
INSERT INTO sourced VALUES (1, 1), (2, 0), (3, 2);
SELECT is(print_of('sourced'), of_copy(copy_of('sourced'), 'id'), 'without rows that the source view has no document for');
SELECT is((SELECT count FROM sync.fingerprint('sourced')), 2::bigint, 'which do not count either');

-- ranges
SELECT is((SELECT sum(count) FROM sync.fingerprint('doc', ranges => 7)), (SELECT count(*)::numeric FROM doc), 'ranges cover everything');
SELECT is((SELECT count(*) FROM sync.fingerprint('doc', ranges => 7)), 7::bigint, 'as many as were asked for');
SELECT ok((SELECT bool_and(count BETWEEN 1 AND 15) FROM sync.fingerprint('doc', ranges => 7)), 'of the same size, nearly');
SELECT is((SELECT hex(sum(('x' || hash)::bit(64)::bigint::numeric + CASE WHEN hash >= '8' THEN 18446744073709551616 ELSE 0 END)) FROM sync.fingerprint('doc', ranges => 7)), (SELECT hash FROM sync.fingerprint('doc')), 'their hashes add up');
SELECT is((SELECT string_agg(format('%s-%s', after ->> 'id', upto ->> 'id'), ' ' ORDER BY (upto ->> 'id')::int NULLS LAST) FROM sync.fingerprint('doc', 'id BETWEEN 1 AND 10', ranges => 4)), '-3 3-6 6-9 9-', 'each begins where the one before ends; the outer ones are open');
SELECT ok((SELECT bool_and(f.count || ' ' || f.hash = print_of('doc', NULL, NULL, f.after, f.upto)) FROM sync.fingerprint('doc', ranges => 5) f), 'and can be asked for alone');
SELECT is((SELECT string_agg(count::text, ' ' ORDER BY (upto ->> 'id')::int NULLS LAST) FROM sync.fingerprint('doc', 'id BETWEEN 1 AND 3', ranges => 10)), '1 1 1', 'no more ranges than rows');
SELECT is((SELECT array_agg(f::text) FROM sync.fingerprint('doc', 'false', ranges => 10) f), '{"(,,0,0000000000000000)"}', 'one range where there is nothing');
SELECT is((SELECT string_agg(format('%s-%s:%s', after ->> 'id', upto ->> 'id', count), ' ' ORDER BY (upto ->> 'id')::int) FROM sync.fingerprint('doc', after => '{"id": 10}', upto => '{"id": 20}', ranges => 3)), '10-14:4 14-18:4 18-20:2', 'within bounds');
SELECT ok((SELECT bool_and(f.count || ' ' || f.hash = print_of('pair', NULL, NULL, f.after, f.upto)) FROM sync.fingerprint('pair', ranges => 5) f), 'composite keys');
SELECT is((SELECT sum(count) FROM sync.fingerprint('pair', ranges => 5)), 31::numeric, 'all of them');
CREATE TABLE collated (k text COLLATE "en-x-icu" PRIMARY KEY);
SELECT sync.track('collated');
INSERT INTO collated VALUES ('a'), ('B'), ('c'), ('D'), ('é');
SELECT is((SELECT string_agg(coalesce(upto ->> 'k', 'end'), ' ' ORDER BY upto ->> 'k' COLLATE "C" NULLS LAST) FROM sync.fingerprint('collated', ranges => 5)), 'B D a c end', 'text in the order of its bytes');
SELECT is(print_of('collated', NULL, NULL, '{"k": "D"}', '{"k": "c"}'), of_copy((SELECT jsonb_agg(jsonb_build_object('key', jsonb_build_object('k', k), 'modified_at', modified_at)) FROM collated WHERE k IN ('a', 'c')), 'k'), 'bounds, too');

-- a client finds what differs, by halves
CREATE FUNCTION differing(dom text, copy jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
	todo record; found int[] := '{}'; r record; rounds int := 0; mine text;
	lo jsonb[] := ARRAY[NULL::jsonb]; hi jsonb[] := ARRAY[NULL::jsonb]; nlo jsonb[]; nhi jsonb[];
BEGIN
	WHILE cardinality(lo) > 0 LOOP
		nlo := '{}'; nhi := '{}'; rounds := rounds + 1;
		FOR i IN 1 .. cardinality(lo) LOOP
			FOR r IN SELECT * FROM sync.fingerprint(dom, after => lo[i], upto => hi[i], ranges => 2) LOOP
				SELECT of_copy(coalesce(jsonb_agg(e), '[]'), 'id') INTO mine FROM jsonb_array_elements(copy) e
				WHERE coalesce((e #>> '{key,id}')::int > (r.after ->> 'id')::int, true) AND coalesce((e #>> '{key,id}')::int <= (r.upto ->> 'id')::int, true);
				CONTINUE WHEN mine = r.count || ' ' || r.hash;
				IF r.count <= 1 THEN
					found := found || coalesce((r.upto ->> 'id')::int, -1);
				ELSE
					nlo := nlo || r.after; nhi := nhi || r.upto;
				END IF;
			END LOOP;
		END LOOP;
		lo := nlo; hi := nhi;
		IF rounds > 30 THEN RAISE 'endless'; END IF;
	END LOOP;
	RETURN found;
END $$;
SELECT copy_of('doc') AS mine \gset
SELECT is(differing('doc', :'mine'), '{}', 'nothing differs');
UPDATE doc SET title = 'changed' WHERE id = 33;
DELETE FROM doc WHERE id = 60;
SELECT is((SELECT count(*) FROM unnest(differing('doc', :'mine')) d WHERE d IN (33, 61)), 2::bigint, 'a change and a deletion are found');

-- rights
CREATE ROLE sync_test_print;
GRANT USAGE ON SCHEMA t TO sync_test_print;
GRANT SELECT (id, team) ON doc TO sync_test_print;
SET ROLE sync_test_print;
SELECT helper.refused($$SELECT * FROM sync.fingerprint('doc')$$, '42501', 'sync_test_print', 'who may not read the whole table');
RESET ROLE;
GRANT SELECT ON doc TO sync_test_print;
ALTER TABLE doc ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_team ON doc USING (team = 1);
SET ROLE sync_test_print;
SELECT is((SELECT count FROM sync.fingerprint('doc')), (SELECT count(*) FROM doc), 'row-level security holds');
SELECT helper.fails($$SELECT * FROM sync.fingerprint('doc', 'id IN (SELECT v FROM t.named)')$$, '42501', 'and so do rights on tables of subqueries');
RESET ROLE;
DROP POLICY own_team ON doc;
ALTER TABLE doc DISABLE ROW LEVEL SECURITY;

-- refused
SELECT helper.fails($$SELECT * FROM sync.fingerprint(NULL)$$, '22004', 'no domain');
SELECT helper.fails($$SELECT * FROM sync.fingerprint('nosuch')$$, '42704', 'an unknown domain');
SELECT helper.refused($$SELECT * FROM sync.fingerprint('doc', user_id => 'u')$$, '22023', 'u', 'a user without an access relation');
SELECT helper.refused($$SELECT * FROM sync.fingerprint('doc', 'team = $1')$$, '22023', '1', 'missing parameters');
SELECT helper.refused($$SELECT * FROM sync.fingerprint('doc', 'random() < 2')$$, '0A000', 'random', 'a volatile filter');
SELECT helper.refused($$SELECT * FROM sync.fingerprint('doc', 'true; DROP TABLE t.doc')$$, '42601', 'DROP', 'an injection');
SELECT helper.refused($$SELECT * FROM sync.fingerprint('doc', ranges => 0)$$, '22023', '0', 'no ranges');
SELECT helper.refused($$SELECT * FROM sync.fingerprint('doc', after => '{"nosuch": 1}')$$, '22023', 'id', 'a bound that is no key');
SELECT helper.refused($$SELECT * FROM sync.fingerprint('doc', upto => '[1]')$$, '22023', '[1]', 'a bound that is no object');
SELECT helper.fails($$SELECT * FROM sync.fingerprint('doc', after => '{"id": "x"}')$$, '22P02', 'a bound of another type');

SELECT * FROM finish();
DROP SCHEMA t CASCADE;
DROP ROLE sync_test_print;
