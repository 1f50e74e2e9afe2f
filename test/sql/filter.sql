\set ECHO none
\i test/setup.sql
-- A filter is one immutable expression over the table, and nothing else ever reaches SQL.
BEGIN;
SELECT plan(74);
CREATE SCHEMA t;
SET search_path = t, public;
CREATE TABLE doc (id int PRIMARY KEY, team int, title text, made date, price numeric, tags text[], extra jsonb, "Odd ""Name" int);
CREATE TABLE victim (id int PRIMARY KEY);
INSERT INTO victim VALUES (1);
SELECT sync.track('doc', scope => '{team}');
INSERT INTO doc VALUES (1, 1, 'one', '2026-01-01', 1.5, '{a,b}', '{"x": 1}', 1), (2, 1, 'it''s', '2026-02-01', 2.5, '{}', '{}', 2), (3, 2, NULL, NULL, NULL, NULL, NULL, 3);
CREATE FUNCTION stable_one() RETURNS int STABLE LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION volatile_one() RETURNS int VOLATILE LANGUAGE plpgsql AS 'BEGIN DELETE FROM t.victim; RETURN 1; END';
CREATE FUNCTION f(filter text, params text[] DEFAULT NULL) RETURNS text LANGUAGE sql AS
$$ SELECT coalesce(string_agg(key ->> 'id', ' ' ORDER BY key), '') FROM sync.changes('doc', NULL, filter, params) WHERE op = 'upsert' $$;
CREATE FUNCTION bad(filter text, state text, quotes text, description text, params text[] DEFAULT NULL) RETURNS text LANGUAGE sql AS
$$ SELECT helper.refused(format('SELECT * FROM sync.changes(''doc'', NULL, %L, %L)', filter, params), state, quotes, description) $$;

-- not one expression
SELECT bad('', '42601', '', 'empty');
SELECT bad('   ', '42601', '', 'blank');
SELECT bad('true;', '42601', ';', 'a semicolon');
SELECT bad('true; DELETE FROM t.victim', '42601', ';', 'a second statement');
SELECT bad('true -- and no more', '42601', '--', 'a comment to the end of the line');
SELECT bad('true /* hidden', '42601', '/*', 'a comment that does not end');
SELECT bad('true /* hidden */', '42601', '/*', 'a comment that does');
SELECT bad('1) or (1=1', '42601', '', 'parentheses from inside out');
SELECT bad('(team = 1', '42601', '', 'a parenthesis that does not close');
SELECT bad('team = 1)', '42601', '', 'a parenthesis that was not open');
SELECT bad('title = ''open', '42601', '', 'a quote that does not close');
SELECT bad('title = $$open', '42601', '', 'a dollar quote that does not close');
SELECT bad('title = "open', '42601', '', 'an identifier that does not close');
SELECT bad('team = 1 UNION SELECT true', '42601', '', 'UNION');
SELECT bad('team = 1 UNION ALL SELECT true FROM t.victim', '42601', '', 'UNION ALL');
SELECT bad('team = 1 ORDER BY id', '42601', '', 'ORDER BY');
SELECT bad('team = 1 LIMIT 1', '42601', '', 'LIMIT');
SELECT bad('team = 1 GROUP BY team', '42601', '', 'GROUP BY');
SELECT bad('team = 1 HAVING true', '42601', '', 'HAVING');
SELECT bad('team = 1 FOR UPDATE', '42601', '', 'FOR UPDATE');
SELECT bad('team = 1 WINDOW w AS ()', '42601', '', 'WINDOW');
SELECT bad('team = 1, true', '42601', '', 'two expressions');
SELECT bad('team = 1 AS x', '42601', '', 'an expression with a name');
SELECT bad('*', '42601|42803|42702|42P10', '', 'a star');
SELECT bad('DELETE FROM t.victim', '42601', '', 'a statement');
SELECT bad('team =', '42601', '', 'half an expression');

-- one expression, of a forbidden kind
SELECT bad('id IN (SELECT id FROM t.victim)', '0A000', '', 'a subquery');
SELECT bad('EXISTS (SELECT FROM t.victim)', '0A000', '', 'EXISTS');
SELECT bad('team = (SELECT 1)', '0A000', '', 'a scalar subquery');
SELECT bad('id = ANY (ARRAY(SELECT 1))', '0A000', '', 'an array of a subquery');
SELECT bad('id IN (VALUES (1))', '0A000', '', 'VALUES is a subquery, too');
SELECT bad('count(*) > 0', '42803', 'count', 'an aggregate');
SELECT bad('max(id) = 1', '42803', 'max', 'an aggregate of a column');
SELECT bad('row_number() OVER () = 1', '42P20', '', 'a window function');
SELECT bad('generate_series(1, 2) = 1', '0A000', '', 'a set');
SELECT bad('made < now()', '0A000', '', 'now(): rows would come and go without a change');
SELECT bad('made < current_date', '0A000', '', 'current_date');
SELECT bad('title = current_user', '0A000', '', 'current_user');
SELECT bad('random() < 0.5', '0A000', 'random', 'random()');
SELECT bad('clock_timestamp() > made', '0A000', '', 'clock_timestamp()');
SELECT bad('team = t.stable_one()', '0A000', 'stable_one', 'a stable function');
SELECT bad('team = t.volatile_one()', '0A000', 'volatile_one', 'a volatile function');
SELECT bad('pg_sleep(10) IS NULL', '0A000', 'pg_sleep', 'pg_sleep');
SELECT bad('set_config(''role'', ''postgres'', true) = ''x''', '0A000', 'set_config', 'set_config');
SELECT bad('pg_read_file(''/etc/passwd'') = ''x''', '0A000', '', 'pg_read_file');
SELECT bad('nextval(''s'') = 1', '42P01|0A000', '', 'nextval');
SELECT bad('made::timestamptz > ''2026-01-01''', '0A000', '', 'a cast that depends on the time zone');
SELECT bad('team', '42804', '', 'not boolean');
SELECT bad('''text''', '42804|22P02', '', 'a text');

-- names and parameters
SELECT bad('nosuch = 1', '42703', 'nosuch', 'an unknown column');
SELECT bad('victim.id = 1', '42P01', 'victim', 'another table');
SELECT bad('pg_class.oid = 1', '42P01', 'pg_class', 'a catalog');
SELECT bad('nosuch(team) = 1', '42883', 'nosuch', 'an unknown function');
SELECT bad('team = ''x''::nosuch', '42704', 'nosuch', 'an unknown type');
SELECT bad('team = title', '42883', '', 'types that do not compare');
SELECT bad('team = $1', '22023', '', 'no parameters');
SELECT bad('team = $1', '22023', '', 'too many parameters', '{1,2}');
SELECT bad('team = $2', '22023|42P18', '', 'a parameter that is not used', '{1,2}');
SELECT bad('true', '22023', '', 'parameters without a place', '{1}');
SELECT bad('team = $0', '42P02|42601', '', 'parameter zero', '{1}');
SELECT bad('team = $70000', '22023|42P02|42P18|42601', '', 'parameter seventy thousand', '{1}');
SELECT bad('$1 IS NULL', '42P18', '', 'a parameter of no type', '{1}');
SELECT helper.fails($$SELECT t.f('team = $1', '{x}')$$, '22P02', 'a parameter of the wrong type');
SELECT helper.fails($$SELECT t.f('team = $1', '{99999999999}')$$, '22003', 'a parameter out of range');
SELECT helper.fails($$SELECT t.f('made = $1', '{2026-13-01}')$$, '22008', 'a date that is none');
SELECT is(f('title = $1', ARRAY['x'' OR true --']), '', 'an injection in a parameter is a text');
SELECT is(f('title = $1', ARRAY['it''s']), '2', 'a quote in a parameter is a quote');
SELECT is((SELECT count(*)::int FROM victim), 1, 'none of this ran anything');

-- what is allowed
SELECT is(f('true'), '1 2 3', 'true');
SELECT is(f('(team = 1) OR (team = 2)'), '1 2 3', 'balanced parentheses');
SELECT is(f('title = '';--/*'''), '', 'what looks like a statement or a comment inside a literal');
SELECT is(f('title = $$one$$ AND made BETWEEN ''2026-01-01'' AND $1 AND price < $2', '{2026-01-31,2}'), '1', 'literals and parameters of several types');
SELECT is(f('team = ANY ($1) AND tags @> ARRAY[''a''] AND extra ->> ''x'' = ''1'' AND "Odd ""Name" = 1', ARRAY['{1,2}']), '1', 'arrays, JSON, odd names');
SELECT is(f('title LIKE ''o%'' OR title IS NULL OR CASE WHEN team = 2 THEN true ELSE false END'), '1 3', 'operators and CASE');

SELECT * FROM finish();
ROLLBACK;
