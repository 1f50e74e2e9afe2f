\set ECHO none
\i test/setup.sql
-- sync.reconcile: a client's whole copy and the database become equal.
CREATE SCHEMA t;
SET search_path = t, public;
SELECT plan(198);

CREATE TABLE doc (id int PRIMARY KEY, team int NOT NULL DEFAULT 1, v text, n int);
SELECT sync.track('doc', scope => '{team}');

-- ---- the decision table: one row, here and at the client ----

-- Says what one reconcile of one row does: the lists that name it, and, after
-- "|", the row that is here then. "here": never | same | changed | deleted, since the client
-- got version M0. "there": the client's row without its key, where $M0 stands for that
-- version; NULL: it has none. A "!" marks what must never be.
CREATE TABLE soft_doc (LIKE doc INCLUDING ALL, gone timestamptz);
SELECT sync.track('soft_doc', deleted_at => 'gone');
CREATE SEQUENCE cells;
CREATE FUNCTION cell(here text, there text, request text DEFAULT '{}', dom text DEFAULT 'doc') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	k int := nextval('cells'); m0 text; answer jsonb; d jsonb; said text := ''; l text; r jsonb; held jsonb; rows jsonb := '[]';
BEGIN
	IF here <> 'never' THEN
		EXECUTE format('INSERT INTO %I AS d (id, team, v, n) VALUES ($1, 1, ''old'', 0) RETURNING to_jsonb(d), modified_at::text', dom) USING k INTO held, m0;
		PERFORM pg_sleep(0.002);
		IF here = 'changed' THEN EXECUTE format('UPDATE %I SET v = ''here'' WHERE id = $1', dom) USING k; END IF;
		IF here = 'deleted' THEN EXECUTE CASE dom WHEN 'doc' THEN 'DELETE FROM doc WHERE id = $1' ELSE 'UPDATE soft_doc SET gone = now() WHERE id = $1' END USING k; END IF;
		PERFORM pg_sleep(0.002);
	END IF;
	IF there IS NOT NULL THEN
		rows := jsonb_build_array(replace(replace(there, '$M0', coalesce(m0, '')), '$K', k::text)::jsonb || jsonb_build_object('key', jsonb_build_object('id', k)));
		held := coalesce(held, '{}') || CASE WHEN rows #> '{0,pending}' = 'false' THEN '{}' ELSE coalesce(rows #> '{0,data}', '{}') END || jsonb_build_object('id', k);
	ELSE
		held := NULL;
	END IF;
	answer := sync.reconcile(jsonb_build_object('client', 'cell', 'domains', jsonb_build_object(dom, jsonb_build_object(
		'filter', 'id = $1', 'params', jsonb_build_array(k), 'rows', rows))) || request::jsonb);
	d := answer -> 'domains' -> dom;
	FOREACH l IN ARRAY '{upsert,remove,stored,deleted,send,refused}'::text[] LOOP
		IF jsonb_array_length(d -> l) > 1 THEN said := said || '!more than one '; END IF;
		CONTINUE WHEN d -> l = '[]';
		said := said || l || coalesce(':' || (d -> l -> 0 ->> 'status'), '') || ' ';
		IF l <> 'upsert' AND coalesce(d -> l -> 0 -> 'key', d -> l -> 0) <> jsonb_build_object('id', k) THEN said := said || '!wrong key '; END IF;
		IF l = 'upsert' THEN held := d #> '{upsert,0}'; END IF;
		IF l IN ('remove', 'deleted') THEN held := NULL; END IF;
		IF l = 'stored' AND d -> 'upsert' = '[]' AND d -> 'remove' = '[]' THEN held := held || jsonb_build_object('modified_at', d #> '{stored,0,modified_at}'); END IF;
	END LOOP;
	EXECUTE format('SELECT to_jsonb(x) FROM %I x WHERE id = $1', dom) USING k INTO r;
	IF r ->> 'gone' IS NOT NULL THEN r := NULL; END IF;
	IF d -> 'send' = '[]' AND held IS DISTINCT FROM r THEN
		said := said || format('!client has %s, here is %s ', held, r);
	END IF;
	RETURN coalesce(nullif(btrim(said), ''), '-') || ' | ' || coalesce(r ->> 'v', 'gone');
END $$;

-- the client has not changed it
SELECT is(cell('same', NULL), 'upsert | old', 'only here');
SELECT is(cell('never', '{"modified_at": "2026-01-01T00:00:00Z"}'), 'remove | gone', 'only there, not flagged: it was deleted here');
SELECT is(cell('deleted', '{"modified_at": "$M0"}'), 'remove | gone', 'deleted here');
SELECT is(cell('same', '{"modified_at": "$M0"}'), '- | old', 'the same in both');
SELECT is(cell('changed', '{"modified_at": "$M0"}'), 'upsert | here', 'changed here');
SELECT is(cell('same', '{"modified_at": "2020-01-01T00:00:00Z"}'), 'upsert | old', 'newer here');
SELECT is(cell('same', '{"modified_at": "2999-01-01T00:00:00Z"}'), 'upsert | old', 'newer there, says the client: the database is right');
SELECT is(cell('same', '{}'), 'upsert | old', 'the client does not know which version');
SELECT is(cell('never', '{}'), 'remove | gone', 'nor whether there is one');
SELECT is(cell('same', '{"updated_at": "$M0"}'), '- | old', 'a client with one time');
SELECT is(cell('changed', '{"updated_at": "$M0"}'), 'upsert | here', 'it differs from ours');
SELECT is(cell('same', '{"modified_at": "$M0", "pending": false, "data": {"v": "there"}}'), '- | old', 'values, but it says that nothing is pending');
SELECT is(cell('same', '{"modified_at": "$M0", "pending": false, "deleted_at": "2026-01-01T00:00:00Z"}'), '- | old', 'a deletion that is not pending');
SELECT is(cell('deleted', '{"modified_at": "$M0", "pending": false, "data": {"v": "there"}}'), 'remove | gone', 'values that are not pending, deleted here');

-- it has, and gives the values
SELECT is(cell('never', '{"data": {"id": $K, "team": 1, "v": "there", "n": 0}}'), 'stored | there', 'made there');
SELECT is(cell('never', '{"data": {"v": "there"}}'), 'upsert stored | there', 'made there, with defaults from here');
SELECT is(cell('same', '{"modified_at": "$M0", "data": {"id": $K, "team": 1, "v": "there", "n": 0}}'), 'stored | there', 'changed there');
SELECT is(cell('same', '{"modified_at": "$M0", "data": {"v": "there"}}'), 'upsert stored | there', 'a part of it');
SELECT is(cell('same', '{"modified_at": "$M0", "pending": true, "data": {"v": "there"}}'), 'upsert stored | there', 'flagged as well');
SELECT is(cell('same', '{"modified_at": "$M0", "data": {"v": "old"}}'), 'upsert stored | old', 'values that are here already');
SELECT is(cell('changed', '{"modified_at": "$M0", "data": {"v": "there"}}'), 'upsert refused:conflict | here', 'changed in both: reject');
SELECT is(cell('changed', '{"modified_at": "$M0", "data": {"v": "here"}}'), 'upsert stored | here', 'changed in both to the same');
SELECT is(cell('changed', '{"modified_at": "$M0", "data": {"v": "there"}}', '{"policy": "client_wins"}'), 'upsert stored | there', 'changed in both: client_wins');
SELECT is(cell('changed', '{"modified_at": "$M0", "updated_at": "2020-01-01T00:00:00Z", "data": {"v": "there"}}', '{"policy": "newer_wins"}'), 'upsert refused:conflict | here', 'changed in both: newer_wins, newer here');
SELECT is(cell('changed', '{"modified_at": "$M0", "updated_at": "2999-01-01T00:00:00Z", "data": {"v": "there"}}', '{"policy": "newer_wins"}'), 'upsert stored | there', 'changed in both: newer_wins, newer there');
SELECT is(cell('changed', '{"modified_at": "$M0", "data": {"n": 5}}', '{"policy": "client_wins"}'), 'upsert stored | here', 'changed in both, other columns: client_wins');
SELECT is(cell('changed', '{"modified_at": "$M0", "data": {"n": 5}, "assumed": {"n": 0, "v": "old"}}', '{"policy": "merge"}'), 'upsert stored | here', 'changed in both, other columns: merge');
SELECT is(cell('changed', '{"modified_at": "$M0", "data": {"v": "there"}, "assumed": {"v": "old"}}', '{"policy": "merge"}'), 'upsert refused:conflict | here', 'changed in both, the same column: merge');
SELECT is(cell('deleted', '{"modified_at": "$M0", "data": {"v": "there"}}'), 'remove refused:conflict | gone', 'deleted here, changed there: reject');
SELECT is(cell('deleted', '{"modified_at": "$M0", "data": {"v": "there"}}', '{"policy": "client_wins"}'), 'upsert stored | there', 'deleted here, changed there: client_wins');
SELECT is(cell('same', '{"data": {"v": "there"}}'), 'upsert refused:conflict | old', 'made there, and here by somebody else: reject');
SELECT is(cell('same', '{"data": {"v": "there"}}', '{"policy": "client_wins"}'), 'upsert stored | there', 'made there and here: client_wins');
SELECT is(cell('same', '{"modified_at": "$M0", "data": {"team": null}}'), 'upsert refused:rejected | old', 'values that the table refuses');
SELECT is(cell('never', '{"data": {"team": null}}'), 'remove refused:rejected | gone', 'a new row that the table refuses');
SELECT is(cell('same', '{"modified_at": "$M0", "data": {"n": "x"}}'), 'upsert refused:rejected | old', 'a value of another type');

-- it has, and gives no values
SELECT is((sync.reconcile('{"domains": {"doc": {"filter": "false", "rows": [{"key": {"id": -1}}, {"key": {"id": -2}, "data": {"n": "x"}}]}}}') #> '{domains,doc,refused,0}') - 'message' - 'hint' - 'detail',
	'{"key": {"id": -2}, "status": "rejected", "sqlstate": "22P02", "path": "domains.doc.rows[1].data.n"}', 'the refusal names the place');
SELECT is(cell('never', '{"pending": true}'), 'send | gone', 'made there: the value is missing');
SELECT is(cell('same', '{"modified_at": "$M0", "pending": true}'), 'send | old', 'changed there');
SELECT is(cell('changed', '{"modified_at": "$M0", "pending": true}'), 'send | here', 'changed in both');
SELECT is(cell('deleted', '{"modified_at": "$M0", "pending": true}'), 'send | gone', 'deleted here, changed there');

-- it has deleted it
SELECT is(cell('same', '{"modified_at": "$M0", "deleted_at": "2026-01-01T00:00:00Z"}'), 'deleted | gone', 'deleted there');
SELECT is(cell('same', '{"modified_at": "$M0", "deleted_at": "2026-01-01T00:00:00Z", "data": {"v": "there"}}'), 'deleted | gone', 'with values, too');
SELECT is(cell('changed', '{"modified_at": "$M0", "deleted_at": "2026-01-01T00:00:00Z"}'), 'upsert refused:conflict | here', 'deleted there, changed here: reject');
SELECT is(cell('changed', '{"modified_at": "$M0", "deleted_at": "2026-01-01T00:00:00Z"}', '{"policy": "client_wins"}'), 'deleted | gone', 'deleted there, changed here: client_wins');
SELECT is(cell('changed', '{"modified_at": "$M0", "deleted_at": "2020-01-01T00:00:00Z"}', '{"policy": "newer_wins"}'), 'upsert refused:conflict | here', 'deleted there, changed here later: newer_wins');
SELECT is(cell('changed', '{"modified_at": "$M0", "deleted_at": "2999-01-01T00:00:00Z"}', '{"policy": "newer_wins"}'), 'deleted | gone', 'deleted there, changed here before: newer_wins');
SELECT is(cell('deleted', '{"modified_at": "$M0", "deleted_at": "2026-01-01T00:00:00Z"}'), 'deleted | gone', 'deleted in both');
SELECT is(cell('never', '{"deleted_at": "2026-01-01T00:00:00Z"}'), 'deleted | gone', 'made there and deleted there');

-- it flags nothing: the cutoff decides, by its own times
\set cut '{"cutoff": "2026-06-01T12:00:00Z"}'
SELECT is(cell('same', NULL, :'cut'), 'upsert | old', 'cutoff: only here is never a deletion');
SELECT is(cell('never', '{"created_at": "2026-05-01T00:00:00Z", "updated_at": "2026-05-02T00:00:00Z"}', :'cut'), 'remove | gone', 'cutoff: only there, from before: deleted here');
SELECT is(cell('never', '{"created_at": "2026-07-01T00:00:00Z"}', :'cut'), 'send | gone', 'cutoff: made since');
SELECT is(cell('never', '{"created_at": "2026-05-01T00:00:00Z", "updated_at": "2026-07-01T00:00:00Z"}', :'cut'), 'send | gone', 'cutoff: only there, changed since');
SELECT is(cell('never', '{"created_at": "2026-06-01T12:00:00Z"}', :'cut'), 'remove | gone', 'cutoff: at that moment is not after it');
SELECT is(cell('same', '{"modified_at": "$M0", "updated_at": "2026-05-02T00:00:00Z"}', :'cut'), '- | old', 'cutoff: in both, from before');
SELECT is(cell('changed', '{"modified_at": "$M0", "updated_at": "2026-05-02T00:00:00Z"}', :'cut'), 'upsert | here', 'cutoff: in both, from before, changed here');
SELECT is(cell('same', '{"modified_at": "$M0", "updated_at": "2026-07-01T00:00:00Z"}', :'cut'), 'send | old', 'cutoff: in both, changed since');
SELECT is(cell('changed', '{"updated_at": "2026-07-01T00:00:00Z"}', :'cut'), 'send | here', 'cutoff: changed in both');
SELECT is(cell('same', '{"modified_at": "$M0", "updated_at": "2026-07-01T00:00:00Z", "pending": false}', :'cut'), '- | old', 'cutoff: a flag is stronger');
SELECT is(cell('same', '{"modified_at": "$M0", "updated_at": "2026-05-01T00:00:00Z", "pending": true}', :'cut'), 'send | old', 'cutoff: either way');
SELECT is(cell('same', '{"modified_at": "$M0", "updated_at": "2026-05-01T00:00:00Z", "data": {"v": "there"}}', :'cut'), 'upsert stored | there', 'cutoff: values are a flag');
SELECT is(cell('same', '{"modified_at": "$M0", "deleted_at": "2026-05-01T00:00:00Z"}', :'cut'), 'deleted | gone', 'cutoff: deleted before it, not confirmed');
SELECT is(cell('same', '{"modified_at": "$M0", "deleted_at": "2026-07-01T00:00:00Z"}', :'cut'), 'deleted | gone', 'cutoff: deleted since');
SELECT is(cell('never', '{"deleted_at": "2026-07-01T00:00:00Z"}', :'cut'), 'deleted | gone', 'cutoff: made and deleted since');

-- the time of a row here says nothing: a row stamped before the cutoff, committed after it
SELECT is(cell('same', NULL, '{"cutoff": "2999-01-01T00:00:00Z"}'), 'upsert | old', 'a row that the client never got stays, however old');

-- ---- every cell under every policy, for rows that are deleted and rows that are marked so ----

-- what becomes of the client's change under reject, client_wins, newer_wins (the client's is older, newer) and merge;
-- in all of them both sides are equal in the end, or cell() says so
CREATE FUNCTION policies(here text, there text, version text, dom text) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(CASE WHEN said ~ '!' THEN said ELSE (regexp_match(said, 'stored|refused|deleted|send'))[1] END, ' ' ORDER BY n)
	FROM (VALUES (1, 'reject', '2020'), (2, 'client_wins', '2020'), (3, 'newer_wins', '2020'), (4, 'newer_wins', '2999'), (5, 'merge', '2020')) p (n, policy, year),
		LATERAL t.cell(here, jsonb_strip_nulls(jsonb_build_object(
			'modified_at', CASE WHEN version = 'known' THEN '$M0' END,
			'data', CASE WHEN there = 'data' THEN '{"v": "there"}'::jsonb END,
			'updated_at', CASE WHEN there = 'data' THEN year || '-01-01T00:00:00Z' END,
			'pending', CASE WHEN there = 'pending' THEN true END,
			'deleted_at', CASE WHEN there = 'deleted' THEN year || '-01-01T00:00:00Z' END))::text,
			jsonb_build_object('policy', policy)::text, dom) said $$;
CREATE TABLE expected (here text, there text, version text, row_gone text, row_marked text);
COPY expected FROM stdin DELIMITER '|';
never|data|none|stored stored stored stored stored|stored stored stored stored stored
same|data|known|stored stored stored stored stored|stored stored stored stored stored
changed|data|known|refused stored refused stored refused|refused stored refused stored refused
deleted|data|known|refused stored refused refused refused|refused stored refused stored refused
same|data|none|refused stored refused stored refused|refused stored refused stored refused
changed|data|none|refused stored refused stored refused|refused stored refused stored refused
deleted|data|none|stored stored stored stored stored|refused stored refused stored refused
never|pending|none|send send send send send|send send send send send
same|pending|known|send send send send send|send send send send send
changed|pending|known|send send send send send|send send send send send
deleted|pending|known|send send send send send|send send send send send
never|deleted|none|deleted deleted deleted deleted deleted|deleted deleted deleted deleted deleted
same|deleted|known|deleted deleted deleted deleted deleted|deleted deleted deleted deleted deleted
changed|deleted|known|refused deleted refused deleted refused|refused deleted refused deleted refused
deleted|deleted|known|deleted deleted deleted deleted deleted|deleted deleted deleted deleted deleted
same|deleted|none|deleted deleted deleted deleted deleted|deleted deleted deleted deleted deleted
changed|deleted|none|deleted deleted deleted deleted deleted|deleted deleted deleted deleted deleted
deleted|deleted|none|deleted deleted deleted deleted deleted|deleted deleted deleted deleted deleted
\.
SELECT is(policies(here, there, version, 'doc'), row_gone, format('here %s, there %s, version %s', here, there, version)) FROM expected;
SELECT is(policies(here, there, version, 'soft_doc'), row_marked, format('here %s, there %s, version %s; soft deletes', here, there, version)) FROM expected;
-- the client has not changed the row: no policy matters
SELECT is(cell('same', '{"modified_at": "$M0"}', '{}', 'soft_doc'), '- | old', 'soft deletes: the same in both');
SELECT is(cell('deleted', '{"modified_at": "$M0"}', '{"policy": "client_wins"}', 'soft_doc'), 'remove | gone', 'marked as deleted here');
SELECT is(cell('deleted', NULL, '{}', 'soft_doc'), '- | gone', 'and not known there');
SELECT is(cell('deleted', '{"modified_at": "$M0", "updated_at": "2026-05-01T00:00:00Z"}', '{"cutoff": "2026-06-01T12:00:00Z"}', 'soft_doc'), 'remove | gone', 'with a cutoff, too');

-- ---- whole copies ----

-- what the client of a domain sends: its copy, with what it did offline
CREATE TABLE copy (dom text, key jsonb, data jsonb, change text, PRIMARY KEY (dom, key));
CREATE FUNCTION sent(dom text) RETURNS jsonb LANGUAGE sql AS $$
	SELECT coalesce(jsonb_agg(jsonb_strip_nulls(jsonb_build_object('key', key, 'modified_at', data -> 'modified_at',
		'deleted_at', CASE WHEN change = 'deleted' THEN '2026-01-01T00:00:00Z' END,
		'pending', CASE WHEN change = 'pending' THEN true END,
		'data', CASE WHEN change = 'changed' THEN data END)) ORDER BY key), '[]') FROM t.copy c WHERE c.dom = sent.dom $$;
-- applies an answer, as README says
CREATE FUNCTION apply(answer jsonb, dom text, keys text[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	d jsonb := answer -> 'domains' -> dom; e jsonb;
BEGIN
	FOR e IN SELECT * FROM jsonb_array_elements((d -> 'remove') || (d -> 'deleted')) LOOP
		DELETE FROM t.copy c WHERE c.dom = apply.dom AND c.key = e;
	END LOOP;
	FOR e IN SELECT * FROM jsonb_array_elements(d -> 'stored') LOOP
		UPDATE t.copy c SET data = data || jsonb_build_object('modified_at', e -> 'modified_at'), change = NULL WHERE c.dom = apply.dom AND c.key = e -> 'key';
	END LOOP;
	FOR e IN SELECT * FROM jsonb_array_elements(d -> 'upsert') LOOP
		INSERT INTO t.copy VALUES (apply.dom, (SELECT jsonb_object_agg(k, e -> k) FROM unnest(keys) k), e)
			ON CONFLICT ON CONSTRAINT copy_pkey DO UPDATE SET data = excluded.data, change = NULL;
	END LOOP;
	RETURN format('%s: +%s -%s stored %s deleted %s send %s refused %s', dom, jsonb_array_length(d -> 'upsert'), jsonb_array_length(d -> 'remove'),
		jsonb_array_length(d -> 'stored'), jsonb_array_length(d -> 'deleted'), jsonb_array_length(d -> 'send'), jsonb_array_length(d -> 'refused'));
END $$;
CREATE FUNCTION same(dom text, query text, description text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	missing jsonb; extra jsonb;
BEGIN
	EXECUTE format('SELECT jsonb_agg(d) FROM (SELECT * FROM (%s) q(d) EXCEPT ALL SELECT data FROM t.copy WHERE dom = %L) x', query, dom) INTO missing;
	EXECUTE format('SELECT jsonb_agg(d) FROM (SELECT data d FROM t.copy WHERE dom = %L EXCEPT ALL SELECT * FROM (%s) q(d)) x', dom, query) INTO extra;
	RETURN ok(missing IS NULL AND extra IS NULL, description) || CASE WHEN missing IS NULL AND extra IS NULL THEN '' ELSE E'\n' || diag(format('missing: %s, too many: %s', missing, extra)) END;
END $$;
CREATE FUNCTION ask(doms text[], more jsonb DEFAULT '{}', per_domain jsonb DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS $$
	SELECT sync.reconcile(jsonb_build_object('client', 'c', 'domains', (SELECT jsonb_object_agg(d, jsonb_build_object('rows', t.sent(d)) || per_domain) FROM unnest(doms) d)) || more) $$;

TRUNCATE doc;
INSERT INTO doc SELECT g, g % 3, 'doc ' || g, g FROM generate_series(1, 300) g;
SELECT is(apply(ask('{doc}'), 'doc', '{id}'), 'doc: +300 -0 stored 0 deleted 0 send 0 refused 0', 'an empty copy');
SELECT same('doc', 'SELECT to_jsonb(d) FROM doc d', 'is filled');
SELECT is(apply(ask('{doc}'), 'doc', '{id}'), 'doc: +0 -0 stored 0 deleted 0 send 0 refused 0', 'and then nothing differs');
UPDATE doc SET v = v || '!' WHERE id % 10 = 1;
DELETE FROM doc WHERE id % 10 = 2;
INSERT INTO doc SELECT g, 1, 'new' FROM generate_series(401, 410) g;
UPDATE copy SET data = data || '{"v": "mine"}', change = 'changed' WHERE (key ->> 'id')::int % 20 IN (1, 3);
UPDATE copy SET change = 'deleted' WHERE (key ->> 'id')::int % 20 IN (2, 4, 11);
INSERT INTO copy SELECT 'doc', jsonb_build_object('id', g), jsonb_build_object('id', g, 'team', 2, 'v', 'offline', 'n', g), 'changed' FROM generate_series(501, 505) g;
SELECT is(apply(ask('{doc}') , 'doc', '{id}'), 'doc: +40 -15 stored 20 deleted 30 send 0 refused 30', 'changes on both sides');
SELECT same('doc', 'SELECT to_jsonb(d) FROM doc d', 'and they are equal');
SELECT is(apply(ask('{doc}'), 'doc', '{id}'), 'doc: +0 -0 stored 0 deleted 0 send 0 refused 0', 'indeed');

-- filters
DELETE FROM copy;
SELECT is(apply(ask('{doc}', per_domain => '{"filter": "team = $1", "params": ["1"]}'), 'doc', '{id}'), format('doc: +%s -0 stored 0 deleted 0 send 0 refused 0', (SELECT count(*) FROM doc WHERE team = 1)), 'a filter');
UPDATE doc SET team = 2 WHERE id = 7;
UPDATE doc SET team = 1 WHERE id = 8;
UPDATE copy SET data = data || '{"team": 2}', change = 'changed' WHERE key ->> 'id' = '10';
SELECT ask('{doc}', per_domain => '{"filter": "team = $1", "params": ["1"]}') AS answer \gset
SELECT is((:'answer'::jsonb #> '{domains,doc}') - 'cursor' - 'upsert' #- '{stored,0,modified_at}', '{"state": "up-to-date", "forget": [], "remove": [{"id": 7}, {"id": 10}], "stored": [{"key": {"id": 10}}], "deleted": [], "send": [], "refused": []}', 'a row that leaves it, here and there');
SELECT is(:'answer'::jsonb #>> '{domains,doc,upsert,0,id}', '8', 'and one that enters');
SELECT apply(:'answer', 'doc', '{id}') \g /dev/null
SELECT same('doc', 'SELECT to_jsonb(d) FROM doc d WHERE team = 1', 'equal');
-- the cursor goes on from there
SELECT :'answer'::jsonb #>> '{domains,doc,cursor}' AS since \gset
SELECT is((SELECT string_agg(op || coalesce(key ->> 'id', ''), ' ') FROM sync.changes('doc', :'since', 'team = $1', '{1}', client => 'c')), 'remove10 up-to-date', 'the cursor goes on from there: what the call itself wrote may come again');
UPDATE doc SET v = 'later' WHERE id = 13;
UPDATE doc SET team = 3 WHERE id = 16;
SELECT is((SELECT string_agg(op || coalesce(key ->> 'id', ''), ' ' ORDER BY op) FROM sync.changes('doc', :'since', 'team = $1', '{1}')), 'remove10 remove16 up-to-date upsert13', 'with what came later');
SELECT is((SELECT data ->> 'reason' FROM sync.changes('doc', :'since', 'team = $1', '{2}') LIMIT 1), 'other_question', 'it is bound to the question');
SELECT ok((:'answer'::jsonb ->> 'time')::timestamptz <= clock_timestamp(), 'the time');

-- subqueries
CREATE TABLE member (team int PRIMARY KEY);
INSERT INTO member VALUES (0), (2);
DELETE FROM copy;
SELECT ask('{doc}', per_domain => '{"filter": "team IN (SELECT m.team FROM t.member m)"}') AS answer \gset
SELECT apply(:'answer', 'doc', '{id}') \g /dev/null
SELECT same('doc', 'SELECT to_jsonb(d) FROM doc d WHERE team IN (0, 2)', 'a filter with a subquery');
SELECT is(:'answer'::jsonb #> '{domains,doc,cursor}', 'null', 'which no cursor can follow');
DELETE FROM member WHERE team = 0;
SELECT apply(ask('{doc}', per_domain => '{"filter": "team IN (SELECT m.team FROM t.member m)"}'), 'doc', '{id}') \g /dev/null
SELECT same('doc', 'SELECT to_jsonb(d) FROM doc d WHERE team = 2', 'the other table has changed');

-- a dry run changes nothing
DELETE FROM copy;
SELECT apply(ask('{doc}'), 'doc', '{id}') \g /dev/null
UPDATE copy SET data = data || '{"v": "dry"}', change = 'changed' WHERE key ->> 'id' IN ('20', '23');
UPDATE copy SET change = 'deleted' WHERE key ->> 'id' = '26';
UPDATE doc SET v = 'wet' WHERE id = 28;
SELECT md5(string_agg(d::text, ' ' ORDER BY id)) AS before, sync.current_cursor() AS since FROM doc d \gset
SELECT ask('{doc}', '{"dry_run": true}') AS dry \gset
SELECT is((SELECT md5(string_agg(d::text, ' ' ORDER BY id)) FROM doc d), :'before', 'a dry run changes no row');
SELECT is((SELECT string_agg(op, ' ') FROM sync.changes('doc', :'since')), 'up-to-date', 'logs nothing');
SELECT is(:'dry'::jsonb -> 'dry_run', 'true', 'says what it is');
SELECT is(:'dry'::jsonb #> '{domains,doc,cursor}', 'null', 'and gives no cursor');
SELECT ask('{doc}') AS wet \gset
SELECT is((SELECT jsonb_object_agg(l, (SELECT jsonb_agg(x ORDER BY x) FROM jsonb_array_elements(:'dry'::jsonb #> ARRAY['domains', 'doc', l]) x)) FROM unnest('{remove,deleted,send,refused}'::text[]) l), (SELECT jsonb_object_agg(l, (SELECT jsonb_agg(x ORDER BY x) FROM jsonb_array_elements(:'wet'::jsonb #> ARRAY['domains', 'doc', l]) x)) FROM unnest('{remove,deleted,send,refused}'::text[]) l), 'but tells what would happen');
SELECT is(jsonb_array_length(:'dry'::jsonb #> '{domains,doc,stored}') || ' ' || jsonb_array_length(:'dry'::jsonb #> '{domains,doc,upsert}'), '2 1', 'all of it');
SELECT apply(:'wet', 'doc', '{id}') \g /dev/null
SELECT same('doc', 'SELECT to_jsonb(d) FROM doc d', 'and then does');

-- rows that say something else under the same version: "since" tells
CREATE TABLE ware (id int PRIMARY KEY, v text);
SELECT sync.track('ware');
INSERT INTO ware SELECT g, 'w' FROM generate_series(1, 5) g;
SELECT ask('{ware}') AS answer \gset
SELECT apply(:'answer', 'ware', '{id}') \g /dev/null
SELECT :'answer'::jsonb #> '{domains,ware,cursor}' AS since \gset
SELECT is(apply(ask('{ware}', per_domain => jsonb_build_object('since', :'since'::jsonb)), 'ware', '{id}'), 'ware: +0 -0 stored 0 deleted 0 send 0 refused 0', 'since the cursor nothing was made void');
SELECT pg_sleep(1.1) \g /dev/null
UPDATE ware SET v = 'x' WHERE id = 1;
SELECT pg_sleep(1.1) \g /dev/null
UPDATE ware SET v = 'y' WHERE id = 1;
SELECT cmp_ok(sync.prune('0'), '>', 0::bigint, 'even where the log was pruned,');
SELECT is(apply(ask('{ware}', per_domain => jsonb_build_object('since', :'since'::jsonb)), 'ware', '{id}'), 'ware: +1 -0 stored 0 deleted 0 send 0 refused 0', 'versions hold');
ALTER TABLE ware ADD COLUMN price int DEFAULT 7;
SELECT is(apply(ask('{ware}'), 'ware', '{id}'), 'ware: +0 -0 stored 0 deleted 0 send 0 refused 0', 'a column with a default changes no version');
UPDATE copy SET data = data || '{"v": "mine"}', change = 'changed' WHERE dom = 'ware' AND key ->> 'id' = '2';
UPDATE copy SET change = 'deleted' WHERE dom = 'ware' AND key ->> 'id' = '3';
SELECT ask('{ware}', per_domain => jsonb_build_object('since', :'since'::jsonb)) AS answer \gset
SELECT is(apply(:'answer', 'ware', '{id}'), 'ware: +4 -0 stored 1 deleted 1 send 0 refused 0', 'but who says since when gets the rows');
SELECT same('ware', 'SELECT to_jsonb(d) FROM ware d', 'equal');
SELECT is(apply(ask('{ware}', per_domain => jsonb_build_object('since', :'answer'::jsonb #> '{domains,ware,cursor}')), 'ware', '{id}'), 'ware: +0 -0 stored 0 deleted 0 send 0 refused 0', 'once');
SELECT sync.prune('0') \g /dev/null
SELECT is(apply(ask('{ware}', per_domain => jsonb_build_object('since', :'since'::jsonb)), 'ware', '{id}'), 'ware: +4 -0 stored 0 deleted 0 send 0 refused 0', 'also long after');
SELECT pg_sleep(1.1) \g /dev/null
UPDATE ware SET v = 'z' WHERE id = 1;
SELECT apply(ask('{ware}'), 'ware', '{id}') \g /dev/null
SELECT is(apply(ask('{ware}', per_domain => jsonb_build_object('since', (SELECT modified_at FROM sync.changes('ware') WHERE op = 'up-to-date'))), 'ware', '{id}'), 'ware: +0 -0 stored 0 deleted 0 send 0 refused 0', 'a time will do');
SELECT is(apply(ask('{ware}', per_domain => '{"since": "2020-01-01T00:00:00Z"}'), 'ware', '{id}'), 'ware: +4 -0 stored 0 deleted 0 send 0 refused 0', 'one that nobody remembers: all rows');
SELECT is(apply(ask('{ware}', '{"dry_run": true}', per_domain => '{"since": "2020-01-01T00:00:00Z"}'), 'ware', '{id}'), 'ware: +4 -0 stored 0 deleted 0 send 0 refused 0', 'in a dry run, too');
SELECT sync.reset('ware') \g /dev/null
SELECT is(apply(ask('{ware}', per_domain => jsonb_build_object('since', :'answer'::jsonb #> '{domains,ware,cursor}')), 'ware', '{id}'), 'ware: +4 -0 stored 0 deleted 0 send 0 refused 0', 'a reset on purpose');
SELECT same('ware', 'SELECT to_jsonb(d) FROM ware d', 'equal');

-- several tables, the one between them first by its name
CREATE TABLE a_between (person int, club int, since date, PRIMARY KEY (club, person));
CREATE TABLE club (id int PRIMARY KEY, name text);
CREATE TABLE person (id int PRIMARY KEY, name text);
ALTER TABLE a_between ADD FOREIGN KEY (person) REFERENCES person ON DELETE CASCADE, ADD FOREIGN KEY (club) REFERENCES club ON DELETE CASCADE;
SELECT sync.track('a_between'), sync.track('club'), sync.track('person');
INSERT INTO club VALUES (1, 'chess'), (2, 'go');
INSERT INTO person SELECT g, 'p' || g FROM generate_series(1, 6) g;
INSERT INTO a_between SELECT p, c, '2026-01-01' FROM generate_series(1, 6) p, generate_series(1, 2) c;
DELETE FROM copy;
CREATE FUNCTION all_three(more jsonb DEFAULT '{}') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	answer jsonb := t.ask('{a_between,club,person}', more);
BEGIN
	RETURN t.apply(answer, 'a_between', '{club,person}') || ' / ' || t.apply(answer, 'club', '{id}') || ' / ' || t.apply(answer, 'person', '{id}');
END $$;
SELECT all_three() \g /dev/null
SELECT same('a_between', 'SELECT to_jsonb(d) FROM a_between d', 'many to many');
-- the client deletes a club offline, and knows nothing of cascades
UPDATE copy SET change = 'deleted' WHERE dom = 'club' AND key ->> 'id' = '2';
SELECT is(all_three(), 'a_between: +0 -6 stored 0 deleted 0 send 0 refused 0 / club: +0 -0 stored 0 deleted 1 send 0 refused 0 / person: +0 -0 stored 0 deleted 0 send 0 refused 0', 'what a cascade removed goes from the client, too');
SELECT same('a_between', 'SELECT to_jsonb(d) FROM a_between d', 'equal');
-- a club is deleted here; the client had changed a membership
DELETE FROM club WHERE id = 1;
UPDATE copy SET data = data || '{"since": "2020-01-01"}', change = 'changed' WHERE dom = 'a_between' AND key ->> 'person' = '3';
SELECT is(all_three(), 'a_between: +0 -6 stored 0 deleted 0 send 0 refused 1 / club: +0 -1 stored 0 deleted 0 send 0 refused 0 / person: +0 -0 stored 0 deleted 0 send 0 refused 0', 'and the other way round');
-- new rows that refer to new rows, the references first
INSERT INTO copy VALUES ('a_between', '{"club": 9, "person": 99}', '{"club": 9, "person": 99, "since": "2026-02-02"}', 'changed'),
	('club', '{"id": 9}', '{"id": 9, "name": "nine"}', 'changed'), ('person', '{"id": 99}', '{"id": 99, "name": "neunundneunzig"}', 'changed');
SELECT is(all_three(), 'a_between: +0 -0 stored 1 deleted 0 send 0 refused 0 / club: +0 -0 stored 1 deleted 0 send 0 refused 0 / person: +0 -0 stored 1 deleted 0 send 0 refused 0', 'rows that refer to rows of the same request');
SELECT same('a_between', 'SELECT to_jsonb(d) FROM a_between d', 'equal');
SELECT same('club', 'SELECT to_jsonb(d) FROM club d', 'clubs, too');
SELECT is((SELECT count(*) FROM a_between), 1::bigint, 'one membership');

-- soft deletes
CREATE TABLE soft (id int PRIMARY KEY, v text, gone timestamptz);
SELECT sync.track('soft', deleted_at => 'gone');
INSERT INTO soft VALUES (1, 'a'), (2, 'b'), (3, 'c');
SELECT apply(ask('{soft}'), 'soft', '{id}') \g /dev/null
UPDATE soft SET gone = now() WHERE id = 1;
UPDATE copy SET change = 'deleted' WHERE dom = 'soft' AND key ->> 'id' = '2';
SELECT is(apply(ask('{soft}'), 'soft', '{id}'), 'soft: +0 -1 stored 0 deleted 1 send 0 refused 0', 'soft deletes, here and there');
SELECT is((SELECT count(*) FILTER (WHERE gone IS NOT NULL) || ' of ' || count(*) FROM soft), '2 of 3', 'leave the rows');
SELECT same('soft', 'SELECT to_jsonb(d) FROM soft d WHERE gone IS NULL', 'equal');

-- a trigger that changes what is stored; a view that makes the document; partitions; keys that are alike
CREATE TABLE shout (id int PRIMARY KEY, v text);
CREATE FUNCTION upper_v() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.v := upper(NEW.v); RETURN NEW; END';
CREATE TRIGGER a_upper BEFORE INSERT OR UPDATE ON shout FOR EACH ROW EXECUTE FUNCTION upper_v();
SELECT sync.track('shout');
INSERT INTO copy VALUES ('shout', '{"id": 1}', '{"id": 1, "v": "hush"}', 'changed');
SELECT is(apply(ask('{shout}'), 'shout', '{id}'), 'shout: +1 -0 stored 1 deleted 0 send 0 refused 0', 'a row that a trigger changed');
SELECT same('shout', 'SELECT to_jsonb(d) FROM shout d', 'comes back');
CREATE TABLE bill (id int PRIMARY KEY, v text, modified_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE line (id int PRIMARY KEY, bill int REFERENCES bill, v text);
SELECT current_setting('server_version_num')::int >= 150000 AS has_invoker \gset
\if :has_invoker
CREATE VIEW bill_doc WITH (security_invoker = true) AS SELECT b.id, b.v, b.modified_at, (SELECT count(*) FROM line l WHERE l.bill = b.id) AS lines FROM bill b WHERE b.v <> 'hidden';
\else
CREATE VIEW bill_doc AS SELECT b.id, b.v, b.modified_at, (SELECT count(*) FROM line l WHERE l.bill = b.id) AS lines FROM bill b WHERE b.v <> 'hidden';
\endif
SELECT sync.track('bill', source => 'bill_doc'), sync.cascade('line', 'bill');
INSERT INTO bill VALUES (1, 'a'), (2, 'b'), (3, 'hidden');
INSERT INTO line VALUES (1, 1, 'x');
SELECT apply(ask('{bill}'), 'bill', '{id}') \g /dev/null
SELECT same('bill', 'SELECT to_jsonb(d) FROM bill_doc d', 'documents of a view');
INSERT INTO line VALUES (2, 2, 'y');
UPDATE bill SET v = 'hidden' WHERE id = 1;
UPDATE copy SET data = data - 'lines' || '{"v": "mine"}', change = 'changed' WHERE dom = 'bill' AND key ->> 'id' = '1';
SELECT is(apply(ask('{bill}', '{"policy": "client_wins"}'), 'bill', '{id}'), 'bill: +2 -0 stored 1 deleted 0 send 0 refused 0', 'a detail of one changed');
SELECT same('bill', 'SELECT to_jsonb(d) FROM bill_doc d', 'equal');

CREATE TABLE part (id int, region text, v text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE part_eu PARTITION OF part FOR VALUES IN ('eu');
CREATE TABLE part_us PARTITION OF part FOR VALUES IN ('us');
SELECT sync.track('part', scope => '{region}');
INSERT INTO part SELECT g, CASE WHEN g % 2 = 0 THEN 'eu' ELSE 'us' END, 'p' FROM generate_series(1, 20) g;
SELECT apply(ask('{part}'), 'part', '{id,region}') \g /dev/null
UPDATE part SET region = 'us' WHERE id = 2;
UPDATE part SET v = 'q' WHERE id = 4;
SELECT is(apply(ask('{part}'), 'part', '{id,region}'), 'part: +2 -1 stored 0 deleted 0 send 0 refused 0', 'partitions');
SELECT same('part', 'SELECT to_jsonb(d) FROM part d', 'equal');

CREATE COLLATION anycase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE word (w text COLLATE anycase PRIMARY KEY);
SELECT sync.track('word');
INSERT INTO word VALUES ('Alpha'), ('beta');
SELECT apply(ask('{word}'), 'word', '{w}') \g /dev/null
UPDATE word SET w = 'ALPHA' WHERE w = 'alpha';
SELECT is(apply(ask('{word}'), 'word', '{w}'), 'word: +1 -1 stored 0 deleted 0 send 0 refused 0', 'keys that a collation takes for equal');
SELECT same('word', 'SELECT to_jsonb(d) FROM word d', 'a client does not');

-- rights
CREATE ROLE sync_test_rec;
GRANT USAGE ON SCHEMA t TO sync_test_rec;
GRANT SELECT ON doc TO sync_test_rec;
SET ROLE sync_test_rec;
SELECT is(sync.reconcile('{"domains": {"doc": {"filter": "id = 20", "rows": [{"key": {"id": 20}, "data": {"v": "mine"}}]}}}') #>> '{domains,doc,refused,0,sqlstate}', '42501', 'who may not write is refused');
SELECT helper.fails($$SELECT sync.reconcile('{"domains": {"soft": {"rows": []}}}')$$, '42501', 'who may not read gets nothing');
RESET ROLE;
SELECT is((SELECT v FROM doc WHERE id = 20), 'dry', 'the row is as it was');
GRANT INSERT, UPDATE, DELETE ON doc TO sync_test_rec;
ALTER TABLE doc ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_team ON doc USING (team = 1);
SET ROLE sync_test_rec;
SELECT sync.reconcile('{"domains": {"doc": {"rows": [{"key": {"id": 20}, "modified_at": "2026-01-01T00:00:00Z"},
	{"key": {"id": 3}, "data": {"team": 2, "v": "x"}}, {"key": {"id": 26}, "deleted_at": "2026-01-01T00:00:00Z"}, {"key": {"id": 777}, "data": {"team": 2, "v": "x"}}]}}}') #> '{domains,doc}' AS rls \gset
SELECT is((SELECT count(*) FROM jsonb_array_elements(:'rls'::jsonb -> 'upsert')), (SELECT count(*) FROM doc), 'row-level security: rows that the caller may see');
SELECT ok(:'rls'::jsonb -> 'remove' @> '[{"id": 20}, {"id": 3}, {"id": 777}]', 'others go');
SELECT is((SELECT string_agg(e #>> '{key,id}' || ' ' || (e ->> 'status'), ', ' ORDER BY e #>> '{key,id}') FROM jsonb_array_elements(:'rls'::jsonb -> 'refused') e), '3 rejected, 777 rejected', 'and cannot be written');
RESET ROLE;
SELECT ok(EXISTS (SELECT FROM doc WHERE id = 28), 'nor deleted');
DROP POLICY own_team ON doc;
ALTER TABLE doc DISABLE ROW LEVEL SECURITY;

-- where it runs
BEGIN READ ONLY;
SELECT is(sync.reconcile('{"domains": {"doc": {"filter": "id = 20", "rows": []}}}') #>> '{domains,doc,upsert,0,v}', 'dry', 'without changes, a read-only transaction will do');
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT is(sync.reconcile('{"domains": {"doc": {"filter": "id = 20", "rows": [{"key": {"id": 20}, "data": {"v": "rr"}}]}}, "policy": "client_wins"}') #>> '{domains,doc,upsert,0,v}', 'rr', 'repeatable read sees what was written');
ROLLBACK;
SELECT is(sync.reconcile('{"domains": {}}') - 'time', '{"domains": {}}', 'no domain');

-- malformed: the detail or the context names the place
CREATE FUNCTION bad(request text, quotes text, description text, state text DEFAULT '22023') RETURNS text LANGUAGE sql AS
$$ SELECT helper.refused(format('SELECT sync.reconcile(%L)', request), state, quotes, description) $$;
SELECT bad('[]', '', 'an array');
SELECT bad('{}', 'domains', 'no domains');
SELECT bad('{"domains": []}', 'domains', 'domains: an array');
SELECT bad('{"domains": {"doc": 1}}', 'domains.doc', 'a domain that is a number');
SELECT bad('{"domains": {"doc": {}}}', 'domains.doc.rows', 'no rows');
SELECT bad('{"domains": {"doc": {"rows": {}}}}', 'domains.doc.rows', 'rows: an object');
SELECT bad('{"domains": {"doc": {"rows": [1]}}}', 'domains.doc.rows[0]', 'a row that is a number');
SELECT bad('{"domains": {"doc": {"rows": [{"key": {"id": 1}}, {}]}}}', 'domains.doc.rows[1].key', 'a row without a key');
SELECT bad('{"domains": {"doc": {"rows": [{"key": 1}]}}}', 'domains.doc.rows[0].key', 'a key that is a number');
SELECT bad('{"domains": {"doc": {"rows": [{"key": {"nosuch": 1}}]}}}', 'id', 'a key without its column');
SELECT bad('{"domains": {"doc": {"rows": [{"key": {"id": 1}, "nosuch": 1}]}}}', 'domains.doc.rows[0].nosuch', 'an unknown member of a row');
SELECT bad('{"domains": {"doc": {"rows": [{"key": {"id": 1}, "modified_at": 1}]}}}', 'domains.doc.rows[0].modified_at', 'a version that is a number');
SELECT bad('{"domains": {"doc": {"rows": [{"key": {"id": 1}, "data": [1]}]}}}', 'domains.doc.rows[0].data', 'data: an array');
SELECT bad('{"domains": {"doc": {"rows": [{"key": {"id": 1}, "pending": "yes"}]}}}', 'domains.doc.rows[0].pending', 'pending: a string');
SELECT helper.fails($$SELECT sync.reconcile('{"domains": {"doc": {"rows": [], "since": "yesterday evening"}}}')$$, '22P02|22007', 'since when? no cursor');
SELECT bad('{"domains": {"doc": {"rows": [], "since": 1}}}', 'domains.doc.since', 'since: a number');
SELECT bad('{"domains": {"doc": {"rows": [], "max_rows": 1}}}', 'domains.doc.max_rows', 'pages');
SELECT bad('{"domains": {"doc": {"rows": []}}, "policy": "mine"}', 'mine', 'an unknown policy');
SELECT bad('{"domains": {"doc": {"rows": []}}, "dry_run": 1}', 'dry_run', 'dry_run: a number');
SELECT bad('{"domains": {"doc": {"rows": []}}, "nosuch": 1}', 'nosuch', 'an unknown member');
SELECT bad('{"domains": {"doc": {"rows": [], "filter": "random() < 2"}}}', 'random', 'a volatile filter', '0A000');
SELECT bad('{"domains": {"doc": {"rows": []}}, "user_id": "u"}', 'u', 'a user without an access relation');
SELECT helper.fails($$SELECT sync.reconcile('{"domains": {"nosuch": {"rows": []}}}')$$, '42704', 'an unknown domain');
SELECT helper.fails($$SELECT sync.reconcile('{"domains": {"doc": {"rows": []}}, "cutoff": "yesterday evening"}')$$, '22007', 'a cutoff that is no time');
CREATE FUNCTION context_of(request jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	context text;
BEGIN
	PERFORM sync.reconcile(request);
	RETURN 'success';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS context = PG_EXCEPTION_CONTEXT;
	RETURN SQLSTATE || ' ' || split_part(context, E'\n', 1);
END $$;
SELECT is(context_of('{"domains": {"doc": {"rows": [{"key": {"id": 1}}, {"key": {"id": "x"}}]}}}'), '22P02 domains.doc.rows[1] of the request', 'a key of another type');
SELECT is(context_of('{"domains": {"doc": {"rows": [{"key": {"id": 1}, "modified_at": "soon"}]}}}'), '22007 domains.doc.rows[0] of the request', 'a version that is no time');
SELECT is(sync.reconcile('{"domains": {"doc": {"rows": [{"key": {"id": 9001}}, {"key": {"id": 9002}, "data": {"id": 9003}}]}}}') #>> '{domains,doc,refused,0,detail}', 'domains.doc.rows[1].data holds another key than "key".', 'what a refusal says of a place is said of this request');

SELECT * FROM finish();
DROP SCHEMA t CASCADE;
DROP ROLE sync_test_rec;
SELECT count(sync.forget_client(client)) AS forgotten FROM sync.device \gset
