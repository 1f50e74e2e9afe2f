\set ECHO none
\i test/setup.sql
-- sync.cursor is an opaque value that comes back from clients: hostile input.
BEGIN;
SELECT plan(41);

CREATE TABLE thing (id int PRIMARY KEY, note text);
SELECT sync.track('thing');
INSERT INTO thing VALUES (1, 'one');
CREATE TEMP TABLE c AS SELECT sync.current_cursor() AS c;
CREATE TEMP TABLE d AS SELECT cursor AS c FROM sync.changes('thing') WHERE op = 'up-to-date';

SELECT helper.refused($$SELECT ''::sync.cursor$$, '22P02', '', 'an empty text');
SELECT helper.refused($$SELECT 'c'::sync.cursor$$, '22P02', 'c', 'the letter alone');
SELECT helper.refused($$SELECT 'nonsense'::sync.cursor$$, '22P02', 'nonsense', 'garbage');
SELECT helper.refused($$SELECT 'c!!!!'::sync.cursor$$, '22P02', 'c!!!!', 'characters outside base64url');
SELECT helper.refused($$SELECT 'cAAAA'::sync.cursor$$, '22P02', 'cAAAA', 'zeros');
SELECT helper.refused($$SELECT 'c____'::sync.cursor$$, '22P02', 'c____', 'ones');
SELECT helper.refused($$SELECT 'c====' ::sync.cursor$$, '22P02', 'c====', 'padding alone');
SELECT helper.refused($$SELECT '729:731:730'::sync.cursor$$, '22P02', '729:731:730', 'a snapshot of PostgreSQL is no cursor');
SELECT helper.refused($$SELECT '42'::sync.cursor$$, '22P02', '42', 'a number is no cursor');
SELECT helper.refused($$SELECT 'now'::sync.cursor$$, '22P02', 'now', 'now would be another time at each call');
SELECT helper.refused($$SELECT 'yesterday'::sync.cursor$$, '22P02', 'yesterday', 'so would yesterday');
SELECT helper.refused($$SELECT '2026-13-45T00:00:00Z'::sync.cursor$$, '22P02|22008|22007', '2026-13-45', 'a time that is none');
SELECT helper.refused($$SELECT '2026-01-01T00:00:00Z; DROP TABLE thing'::sync.cursor$$, '22P02|22007', 'DROP', 'more than a time');
SELECT helper.refused($$SELECT ('c' || repeat('A', 2000000))::sync.cursor$$, '22P02', '', 'two million characters');
SELECT helper.refused($$SELECT (c || 'A')::sync.cursor FROM (SELECT c::text FROM c) c$$, '22P02', '', 'one character more');
SELECT helper.refused($$SELECT (' ' || c)::sync.cursor FROM (SELECT c::text FROM c) c$$, '22P02', '', 'a space before');
SELECT is((SELECT count(*)::int FROM c, generate_series(1, length(c::text) - 1) n
	WHERE helper.outcome(format('SELECT %L::sync.cursor', left(c::text, n))) <> '22P02'), 0, 'truncated anywhere');
SELECT is((SELECT count(*)::int FROM d, generate_series(1, length(c::text) - 1) n
	WHERE helper.outcome(format('SELECT %L::sync.cursor', left(c::text, n))) <> '22P02'), 0, 'truncated anywhere, bound to a question');
SELECT is((SELECT count(*)::int FROM d, generate_series(2, length(c::text) - 1) n
	WHERE helper.outcome(format('SELECT %L::sync.cursor', overlay(c::text PLACING '' FROM n FOR 1))) <> '22P02'), 0, 'a character missing anywhere');

-- A character flipped: refused, or another cursor, but never an answer of another kind.
CREATE TEMP TABLE flipped AS
SELECT n, ch, overlay(c::text PLACING ch FROM n FOR 1) AS t
FROM d, generate_series(1, length(c::text)) n, unnest('{A,Z,_,-,0}'::text[]) ch
WHERE substr(c::text, n, 1) <> ch;
SELECT is_empty($$ SELECT n, ch, helper.outcome(format('SELECT * FROM sync.changes(''thing'', %L)', t)) AS o FROM flipped
	WHERE helper.outcome(format('SELECT * FROM sync.changes(''thing'', %L)', t)) NOT IN ('', '22P02', '40001')$$,
	'a flipped character is refused, told to retry, or answered');
SELECT is_empty($$ SELECT t FROM flipped WHERE helper.outcome(format('SELECT %L::sync.cursor', t)) = ''
	AND helper.outcome(format('SELECT 1/(%L::sync.cursor::text::sync.cursor::text = %L::sync.cursor::text)::int', t, t)) <> ''$$,
	'what is accepted survives the round trip');

SELECT matches(c::text, '^c[A-Za-z0-9_-]+$', 'only characters that URLs and JSON leave alone') FROM d;
SELECT is((c::text)::sync.cursor::text, c::text, 'text round trip') FROM d;
SELECT is(to_jsonb(c), to_jsonb(c::text), 'a JSON string') FROM d;
SELECT is((jsonb_build_object('c', c) ->> 'c')::sync.cursor::text, c::text, 'and back') FROM d;
SELECT ok(NULL::sync.cursor IS NULL AND NULL::timestamptz::sync.cursor IS NULL, 'NULL stays NULL');

-- Binary, through COPY: the only way in SQL to the receive function.
CREATE TEMP TABLE back (c sync.cursor);
CREATE TEMP TABLE raw (b bytea);
COPY d TO PROGRAM 'cat > sync_ext_regress.bin' (FORMAT binary);
COPY back FROM PROGRAM 'cat sync_ext_regress.bin; rm sync_ext_regress.bin' (FORMAT binary);
SELECT is((SELECT c::text FROM back), (SELECT c::text FROM d), 'binary round trip');
CREATE FUNCTION pg_temp.receive(b bytea) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	TRUNCATE raw; INSERT INTO raw VALUES (b);
	COPY raw TO PROGRAM 'cat > sync_ext_regress.bin' (FORMAT binary);
	BEGIN
		COPY back FROM PROGRAM 'cat sync_ext_regress.bin; rm sync_ext_regress.bin' (FORMAT binary);
	EXCEPTION WHEN OTHERS THEN
		RETURN SQLSTATE;
	END;
	RETURN '';
END $$;
SELECT matches(pg_temp.receive('\x'), '^22P0[23]$', 'binary: nothing');
SELECT matches(pg_temp.receive('\x00'), '^22P0[23]$', 'binary: a byte');
SELECT matches(pg_temp.receive(decode(repeat('ff', 200), 'hex')), '^22P0[23]$', 'binary: ones');
SELECT matches(pg_temp.receive(decode(repeat('00', 200), 'hex')), '^22P0[23]$', 'binary: zeros');

-- A time is a cursor, however it is written.
SELECT lives_ok($$SELECT '2026-08-22T12:00:00Z'::sync.cursor$$, 'ISO 8601');
SELECT lives_ok($$SELECT '2026-08-22T12:00:00.123+02:00'::sync.cursor$$, 'ISO 8601 with an offset');
SELECT lives_ok($$SELECT * FROM sync.changes('thing', now())$$, 'a timestamptz casts by itself');
SELECT lives_ok($$SELECT * FROM sync.changes('thing', '2026-08-22 12:00:00+00')$$, 'a literal resolves');
SELECT lives_ok($$SELECT * FROM sync.changes('thing', NULL)$$, 'NULL resolves');
SELECT lives_ok($$SELECT * FROM sync.changes('thing', current_date)$$, 'a date casts by itself');
PREPARE untyped AS SELECT op FROM sync.changes('thing', $1);
SELECT lives_ok($$EXECUTE untyped('2026-08-22T12:00:00Z')$$, 'an untyped parameter resolves');
SET LOCAL datestyle = 'Postgres, DMY';
SELECT is(('2026-08-02T12:00:00.123Z'::sync.cursor::text)::sync.cursor::text, '2026-08-02T12:00:00.123Z'::sync.cursor::text, 'text round trip of a time, in any DateStyle');
SET LOCAL datestyle = 'German';
SELECT '2026-08-02T12:00:00.123Z'::sync.cursor::text AS german \gset
SET LOCAL datestyle = 'ISO, MDY';
SELECT is(:'german'::sync.cursor::text, '2026-08-02T12:00:00.123Z'::sync.cursor::text, 'and from one to another');
SELECT ok(helper.outcome($$SELECT * FROM sync.changes('thing', 'infinity'::timestamptz)$$) IN ('', '22008', '22P02')
	AND helper.outcome($$SELECT * FROM sync.changes('thing', '-infinity'::timestamptz)$$) IN ('', '22008', '22P02'),
	'infinite times break nothing');

SELECT * FROM finish();
ROLLBACK;
