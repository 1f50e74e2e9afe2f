\set ECHO none
\i test/setup.sql
-- sync.describe: a JSON Schema from which a client restores types; and numbers that JavaScript would lose.
BEGIN;
SELECT plan(38);
CREATE SCHEMA t;
SET search_path = t, public;
CREATE TYPE mood AS ENUM ('sad', 'so "so"', 'glad');
CREATE DOMAIN code AS text CHECK (VALUE <> '');
CREATE TABLE doc (id bigint PRIMARY KEY, team int NOT NULL, small smallint, price numeric, real float8, flag bool NOT NULL, title text, name varchar(10),
	day date, at timestamptz, local timestamp, clock time, mood mood, moods mood[], tags text[], extra jsonb, uid uuid, bin bytea, code code NOT NULL,
	twice int GENERATED ALWAYS AS (team * 2) STORED, "Odd ""Name" int);
COMMENT ON TABLE doc IS 'a document';
SELECT sync.track('doc', scope => '{team}');
CREATE TEMP TABLE s AS SELECT sync.describe('doc') AS s;
CREATE FUNCTION p(col text, VARIADIC path text[]) RETURNS jsonb LANGUAGE sql AS $$ SELECT s -> 'properties' -> col #> path FROM s $$;
-- a type, alone or beside null
CREATE FUNCTION type_is(col text, want text) RETURNS boolean LANGUAGE sql AS
$$ SELECT p(col, 'type') = to_jsonb(want) OR (p(col, 'type') @> to_jsonb(ARRAY[want]) AND jsonb_array_length(p(col, 'type')) = 2 AND p(col, 'type') @> '["null"]') $$;
CREATE FUNCTION nullable(col text) RETURNS boolean LANGUAGE sql AS $$ SELECT coalesce(jsonb_typeof(p(col, 'type')) = 'array' AND p(col, 'type') @> '["null"]', false) $$;

SELECT helper.refused($$SELECT sync.describe('nosuch')$$, '42704', 'nosuch', 'an unknown domain');
SELECT is(s ->> '$schema', 'https://json-schema.org/draft/2020-12/schema', 'JSON Schema 2020-12') FROM s;
SELECT is(s ->> 'type', 'object', 'a row is an object') FROM s;
SELECT is((SELECT count(*)::int FROM jsonb_object_keys(s -> 'properties')), 22, 'with every column') FROM s;
SELECT ok(type_is('id', 'integer') AND NOT nullable('id'), 'bigint');
SELECT ok(type_is('team', 'integer') AND NOT nullable('team'), 'int');
SELECT ok(type_is('small', 'integer') AND nullable('small'), 'smallint that may be null');
SELECT ok(type_is('price', 'number'), 'numeric');
SELECT ok(type_is('real', 'number') OR p('real', 'type') @> '["number"]', 'float8');
SELECT ok(type_is('flag', 'boolean') AND NOT nullable('flag'), 'bool');
SELECT ok(type_is('title', 'string') AND nullable('title'), 'text');
SELECT is(p('name', 'maxLength'), '10', 'varchar(10)') WHERE p('name', 'maxLength') IS NOT NULL UNION ALL
	SELECT ok(type_is('name', 'string'), 'varchar(10)') WHERE p('name', 'maxLength') IS NULL;
SELECT ok(type_is('day', 'string'), 'date');
SELECT is(p('day', 'format'), '"date"', 'has its format');
SELECT is(p('at', 'format'), '"date-time"', 'timestamptz');
SELECT is(p('modified_at', 'format'), '"date-time"', 'modified_at');
SELECT ok(type_is('uid', 'string') AND p('uid', 'format') = '"uuid"', 'uuid');
SELECT ok(p('mood', 'enum') @> '["sad", "so \"so\"", "glad"]', 'an enum has its labels');
SELECT ok(p('mood', 'enum') @> '[null]', 'and null where it may be null');
SELECT ok(type_is('moods', 'array'), 'an array of an enum');
SELECT ok(p('moods', 'items', 'anyOf', '0', 'enum') @> '["sad", "glad"]', 'has the labels of its items');
SELECT ok(type_is('tags', 'array') AND p('tags', 'items', 'anyOf', '0', 'type') @> '"string"', 'an array of text');
SELECT ok(type_is('code', 'string') AND NOT nullable('code'), 'a domain is its base type');
SELECT ok(type_is('Odd "Name', 'integer'), 'an odd name');
SELECT ok((SELECT bool_and(value::text LIKE '%"timestamp with time zone"%') FROM s, jsonb_each(s -> 'properties') WHERE key = 'at'), 'types go by their PostgreSQL names, too');
SELECT ok((SELECT bool_and(value::text LIKE '%mood%') FROM s, jsonb_each(s -> 'properties') WHERE key IN ('mood', 'moods')), 'an enum''s as well');
SELECT is(s -> 'x-key', '["id"]', 'the key is named') FROM s;
SELECT is(s -> 'x-scope', '["team"]', 'and the scope') FROM s;
SELECT ok(s -> 'required' @> '["id", "team", "flag", "code", "modified_at"]', 'what is always there is required') FROM s;

-- numbers that JavaScript would lose
INSERT INTO doc (id, team, flag, price, code) VALUES (9007199254740993, 1, true, 0.12345678901234567890, 'x');
SELECT is((SELECT data ->> 'id' FROM sync.changes('doc') WHERE op = 'upsert'), '9007199254740993', 'unrounded as a number');
SELECT is((SELECT jsonb_typeof(data -> 'id') FROM sync.changes('doc') WHERE op = 'upsert'), 'number', 'by default');
SET LOCAL sync.big_numbers = 'text';
SELECT is((SELECT data -> 'id' FROM sync.changes('doc') WHERE op = 'upsert'), '"9007199254740993"', 'as text where that is asked for');
SELECT is((SELECT data -> 'price' FROM sync.changes('doc') WHERE op = 'upsert'), '"0.12345678901234567890"', 'a numeric, too');
SELECT is((SELECT key FROM sync.changes('doc') WHERE op = 'upsert'), '{"id": "9007199254740993"}', 'and in the key');
SELECT is((SELECT jsonb_typeof(data -> 'team') FROM sync.changes('doc') WHERE op = 'upsert'), 'number', 'an int needs no such thing');
UPDATE s SET s = sync.describe('doc');
SELECT ok(type_is('id', 'string') AND type_is('price', 'string'), 'and the schema says so');
SELECT lives_ok($$SELECT sync.touch('doc', '{"id": "9007199254740993"}')$$, 'such a key comes back as text');
SELECT is((SELECT count(*)::int FROM sync.changes('doc', exclude => (SELECT jsonb_build_array(jsonb_build_object('id', id::text, 'modified_at', modified_at)) FROM t.doc)) WHERE op = 'upsert'), 0, 'also in exclude');

SELECT * FROM finish();
ROLLBACK;
