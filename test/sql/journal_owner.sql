\set ECHO none
\i test/setup.sql
-- What the owner of the tables may do to them: indexes and columns of his own.
BEGIN;
SELECT plan(10);

SELECT sync.create_stream('s', 'opaque');
SELECT status FROM sync.put('s', '{first}', '{x}');
CREATE FUNCTION pg_temp.put(stream text, first int, last int) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(n || ' ' || status, ', ' ORDER BY status)
	  FROM (SELECT status, count(*) AS n
	          FROM sync.put(stream, (SELECT array_agg('e' || i ORDER BY i) FROM generate_series(first, last) i),
	                        (SELECT array_agg('x'::bytea) FROM generate_series(first, last) i)) GROUP BY status) x $$;

-- indexes: of columns, of expressions, of some rows, of other access methods
CREATE INDEX own_id ON sync.entry (id);
CREATE INDEX own_length ON sync.entry (length(id)) WHERE stream_id > 0;
CREATE UNIQUE INDEX own_unique ON sync.entry (stream_id, id);
CREATE INDEX own_brin ON sync.entry USING brin (at);
CREATE INDEX own_gin ON sync.entry USING gin (data);
SELECT is(pg_temp.put('s', 1, 2500), '2500 stored', 'many entries go in beside indexes of the owner''s');
SELECT is(pg_temp.put('s', 2401, 2600), '100 duplicate, 100 stored', 'and some of which others are known');
SET LOCAL enable_seqscan = off;
SET LOCAL enable_bitmapscan = off;
SELECT is((SELECT count(*)::int FROM sync.entry WHERE id >= 'e'), 2601, 'such an index holds all');
SELECT is((SELECT count(*)::int FROM sync.entry WHERE length(id) = 5 AND stream_id > 0), 1602, 'also one of expressions and of some rows');
RESET enable_seqscan;
RESET enable_bitmapscan;
DROP INDEX sync.own_id, sync.own_length, sync.own_unique, sync.own_brin, sync.own_gin;

-- columns
ALTER TABLE sync.entry ADD note text, ADD gone text;
ALTER TABLE sync.entry DROP gone;
ALTER TABLE sync.journal_sums ADD note text;
CREATE INDEX own_note ON sync.entry (note, id);
SELECT is(pg_temp.put('s', 2501, 9000), '100 duplicate, 6400 stored', 'entries go in beside columns of the owner''s');
SELECT is((SELECT count(*)::int FROM sync.entry WHERE note IS NULL), 9001, 'in which nothing is');
SELECT is((SELECT count(*)::int FROM sync.entries('s') WHERE kind = 'entry'), 9001, 'and are read');
SELECT is((SELECT count(*)::int FROM sync.journal_sums), 1, 'sums are kept');


-- the same for what else is written without SQL
CREATE TABLE doc (id int PRIMARY KEY, v int);
SELECT sync.track('doc');
ALTER TABLE sync.tick ADD note text;
ALTER TABLE sync.reset_marker ADD note text;
ALTER TABLE sync.mutation ADD note text;
SELECT format('CREATE INDEX own_keys ON %s (origin, op) WHERE seq >= 0', log::regclass) AS command FROM sync.change_log WHERE rel = 'doc'::regclass \gset
:command;
INSERT INTO doc VALUES (1, 1);
SELECT is((SELECT string_agg(status, ' ') FROM jsonb_to_recordset(sync.push('{"client": "c", "mutations": [{"id": 1, "domain": "doc", "op": "insert", "data": {"id": 2, "v": 2}}, {"id": 2, "domain": "doc", "op": "insert", "data": {"id": 3, "v": 2}}]}') -> 'results') AS r (status text)), 'applied applied', 'mutations are written beside columns of the owner''s');
SELECT is((SELECT string_agg(op || coalesce(key ->> 'id', ''), ' ' ORDER BY key ->> 'id') FROM sync.changes('doc')), 'upsert1 upsert2 upsert3 up-to-date', 'and the log beside an index');

SELECT * FROM finish();
ROLLBACK;
