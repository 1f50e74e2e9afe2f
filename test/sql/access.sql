\set ECHO none
\i test/setup.sql
-- Access relations: a user gets what the relation gives, also when that changes.
CREATE SCHEMA t;
SET search_path = t, public;
SELECT plan(182);
CREATE ROLE regress_sync_owner;
CREATE ROLE regress_sync_server;
CREATE ROLE regress_sync_stranger;
GRANT USAGE ON SCHEMA t TO regress_sync_server, regress_sync_stranger;
GRANT USAGE, CREATE ON SCHEMA t TO regress_sync_owner;

CREATE TABLE doc (id int PRIMARY KEY, company_id int, title text);
CREATE TABLE plain (id int PRIMARY KEY);
CREATE TABLE member (company_id int, user_id text, note text, PRIMARY KEY (user_id, company_id));
CREATE INDEX ON member (company_id, user_id);
SELECT sync.track('doc', scope => '{company_id}');
SELECT sync.track('plain');

-- ---- refusals ----

SELECT helper.refused($$SELECT * FROM sync.changes('doc', user_id => 'ada')$$, '22023', 'ada', 'a user where no relation says what users may see');
SELECT helper.refused($$SELECT sync.set_access('nosuch', 't.member')$$, '42704', 'nosuch', 'an unknown domain');
SELECT helper.fails($$SELECT sync.set_access(NULL, 't.member')$$, '22004|42704|22023', 'no domain');
SELECT helper.refused($$SELECT sync.set_access('plain', 't.member')$$, '55000', 'plain', 'a domain without scope');
SELECT helper.refused($$SELECT sync.set_access('doc', NULL)$$, '42704|55000', 'doc', 'nothing to take back');
SELECT helper.refused($$SELECT sync.set_access('doc', 't.member')$$, '55000', 'member', 'an access table that is not tracked');
CREATE FUNCTION hint_of(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE h text;
BEGIN
	EXECUTE command;
	RETURN 'none';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS h = PG_EXCEPTION_HINT;
	RETURN h;
END $$;
SELECT lives_ok(hint_of($$SELECT sync.set_access('doc', 't.member')$$), 'the hint is the statement that helps');
SELECT lives_ok($$SELECT sync.untrack('t.member')$$, 'it tracked the table');
SELECT sync.track('member');
SELECT helper.refused($$SELECT sync.set_access('doc', 't.member')$$, '55000', 'member', 'one that is tracked without scope');
SELECT sync.untrack('member');
SELECT sync.track('member', scope => '{company_id,user_id}');
SELECT helper.refused($$SELECT sync.set_access('doc', 't.member')$$, '55000', 'company_id', 'one that is tracked by scope, but not by user first');
SELECT lives_ok(hint_of($$SELECT sync.set_access('doc', 't.member')$$), 'here, too, the hint helps');
SELECT helper.refused($$SELECT sync.set_access('doc', 't.member', 'nosuch')$$, '42703', 'nosuch', 'no such user column');
SELECT helper.fails($$SELECT sync.set_access('doc', 't.member', NULL)$$, '42703|22004|22023', 'no user column at all');
SELECT helper.refused($$SELECT sync.set_access('doc', 't.member', 'company_id')$$, '22023|55000|42703', 'company_id', 'a column that is scope and user at once');
CREATE TABLE thin (user_id text PRIMARY KEY);
SELECT sync.track('thin', scope => '{user_id}');
SELECT helper.refused($$SELECT sync.set_access('doc', 't.thin')$$, '42703', 'company_id', 'without the scope column');
CREATE TABLE big (company_id bigint, user_id text, PRIMARY KEY (user_id, company_id));
SELECT sync.track('big', scope => '{user_id,company_id}');
SELECT helper.refused($$SELECT sync.set_access('doc', 't.big')$$, '42804', 'bigint', 'of another type');
CREATE MATERIALIZED VIEW mat AS SELECT * FROM member;
SELECT helper.refused($$SELECT sync.set_access('doc', 't.mat')$$, '42809', 'mat', 'a materialized view');
SELECT helper.refused($$SELECT sync.set_access('doc', 't.member_pkey')$$, '42809', 'member_pkey', 'an index');
CREATE SEQUENCE seq;
SELECT helper.refused($$SELECT sync.set_access('doc', 't.seq')$$, '42809', 'seq', 'a sequence');
DROP MATERIALIZED VIEW mat;
CREATE TABLE loose (company_id int, user_id text);
CREATE VIEW over_loose AS SELECT * FROM loose;
SELECT helper.refused($$SELECT sync.set_access('doc', 't.over_loose')$$, '55000', 'loose', 'a view over a table that is not tracked');
CREATE VIEW half_loose AS SELECT m.* FROM member m LEFT JOIN loose USING (company_id);
SELECT helper.refused($$SELECT sync.set_access('doc', 't.half_loose')$$, '55000', 'loose', 'or partly so');
CREATE VIEW deep_loose AS SELECT * FROM over_loose;
SELECT helper.refused($$SELECT sync.set_access('doc', 't.deep_loose')$$, '55000', 'loose', 'or below another view');
SELECT helper.fails($$SELECT sync.set_access('doc', 'nosuch')$$, '42P01', 'a relation that does not exist');
ALTER TABLE plain OWNER TO regress_sync_owner;
SET ROLE regress_sync_owner;
SELECT helper.fails($$SELECT sync.set_access('doc', 't.member')$$, '42501', 'not the owner of either');
RESET ROLE;
ALTER TABLE doc OWNER TO regress_sync_owner;
SET ROLE regress_sync_owner;
SELECT helper.fails($$SELECT sync.set_access('doc', 't.member')$$, '42501', 'not the owner of the access table');
RESET ROLE;
ALTER TABLE doc OWNER TO CURRENT_USER;
ALTER TABLE member OWNER TO regress_sync_owner;
SET ROLE regress_sync_owner;
SELECT helper.fails($$SELECT sync.set_access('doc', 't.member')$$, '42501', 'not the owner of the domain');
RESET ROLE;
ALTER TABLE doc OWNER TO regress_sync_owner;
SELECT is_empty('SELECT * FROM sync.access', 'nothing came of all this');
SET ROLE regress_sync_owner;
SELECT lives_ok($$SELECT sync.set_access('doc', 't.member')$$, 'the owner of both');
SELECT lives_ok($$SELECT sync.set_access('doc', NULL)$$, 'takes it back');
SELECT lives_ok($$SELECT sync.set_access('doc', 't.member')$$, 'and gives it again');
SELECT is((SELECT concat_ws(' ', rel, via, user_column, scope) FROM sync.access), 'doc member user_id {company_id}', 'everybody can read how it is');
SELECT helper.fails($$INSERT INTO sync.access SELECT * FROM sync.access$$, '42501', 'and nobody writes it');
RESET ROLE;
ALTER TABLE doc OWNER TO CURRENT_USER;
ALTER TABLE member OWNER TO CURRENT_USER;

-- ---- what a user gets ----

-- Whether a client holds what the relation gives its user.
CREATE FUNCTION right_for(who text, usr text, description text) RETURNS text LANGUAGE sql AS $$
	SELECT helper.same(who, format('SELECT to_jsonb(d) FROM t.doc d WHERE EXISTS (SELECT FROM t.member m WHERE m.company_id = d.company_id AND m.user_id = %L)', usr), description) $$;
CREATE FUNCTION ask(who text, usr text) RETURNS text LANGUAGE sql AS $$ SELECT helper.sync(who, 'doc', user_id => usr) $$;

INSERT INTO doc VALUES (1, 1, 'a'), (2, 1, 'b'), (3, 2, 'c'), (4, NULL, 'd');
INSERT INTO member VALUES (1, 'ada'), (2, 'bob');
SELECT is(ask('ada', 'ada'), '+1 +2', 'a first load');
SELECT is(ask('bob', 'bob'), '+3', 'another user''s');
SELECT is(ask('eve', 'eve'), '', 'somebody''s whom the relation does not know');
SELECT is(ask('none', ''), '', 'nobody''s');
SELECT is(helper.sync('all', 'doc'), '+1 +2 +3 +4', 'without a user: everything, also what has no scope');
SELECT is(ask('ada', 'ada') || ask('bob', 'bob') || ask('eve', 'eve'), '', 'nothing new');
UPDATE doc SET title = 'A' WHERE id IN (1, 3, 4);
SELECT is(ask('ada', 'ada'), '+1', 'a change in the scope');
SELECT is(ask('bob', 'bob'), '+3', 'in the other');
SELECT is(ask('eve', 'eve'), '', 'is news to nobody else');
DELETE FROM doc WHERE id = 2;
SELECT is(ask('ada', 'ada'), '-2', 'a removal');
SELECT is(ask('bob', 'bob') || ask('eve', 'eve'), '', 'is not, either');

-- the user is part of the question
INSERT INTO kept SELECT 'thief', c FROM kept WHERE who = 'ada';
SELECT is(ask('thief', 'bob'), 'reset(other_question) +3', 'another user''s cursor');
INSERT INTO kept SELECT 'bare', c FROM kept WHERE who = 'ada';
SELECT is(helper.sync('bare', 'doc'), 'reset(other_question) +1 +3 +4', 'a user''s cursor without the user');
INSERT INTO kept SELECT 'late', c FROM kept WHERE who = 'all';
SELECT is(ask('late', 'ada'), 'reset(other_question) +1', 'a cursor without a user, with one');
INSERT INTO kept VALUES ('unbound', sync.current_cursor());
SELECT is(ask('unbound', 'ada'), '', 'a cursor of no question');

-- grants and revocations
INSERT INTO member VALUES (2, 'ada');
SELECT is(ask('ada', 'ada'), '+3', 'a grant brings rows that did not change');
SELECT is(ask('unbound', 'ada'), '+3', 'also to a cursor of no question');
SELECT is(ask('ada', 'ada') || ask('bob', 'bob'), '', 'once, and to nobody else');
DELETE FROM member WHERE user_id = 'ada' AND company_id = 1;
SELECT is(ask('ada', 'ada'), '~1', 'a revocation is one forget');
SELECT right_for('ada', 'ada', 'which takes the rows');
SELECT is(ask('ada', 'ada'), '', 'once');
UPDATE doc SET title = 'B' WHERE id = 1;
DELETE FROM doc WHERE id = 1;
SELECT is(ask('ada', 'ada'), '', 'nothing of a scope that was lost');
INSERT INTO doc VALUES (1, 1, 'a');
UPDATE member SET note = 'x';
SELECT is(ask('ada', 'ada') || ask('bob', 'bob') || ask('eve', 'eve'), '', 'an update that moves nothing is no grant');
UPDATE member SET user_id = 'eve' WHERE user_id = 'ada';
SELECT is(ask('ada', 'ada') || ' ' || ask('eve', 'eve'), '~2 +3', 'a right that goes to somebody else');
UPDATE member SET company_id = 1 WHERE user_id = 'eve';
SELECT is(ask('eve', 'eve'), '~2 +1', 'a right for something else');
BEGIN;
INSERT INTO member VALUES (2, 'eve');
DELETE FROM member WHERE company_id = 2 AND user_id = 'eve';
COMMIT;
SELECT ok(ask('eve', 'eve') IN ('', '~2'), 'granted and taken in one transaction');
BEGIN;
DELETE FROM member WHERE user_id = 'eve';
INSERT INTO member VALUES (1, 'eve');
COMMIT;
SELECT ask('eve', 'eve') \g /dev/null
SELECT right_for('eve', 'eve', 'taken and granted in one transaction');
BEGIN;
INSERT INTO member VALUES (2, 'eve');
ROLLBACK;
SELECT is(ask('eve', 'eve'), '', 'a grant that was rolled back');
BEGIN;
SAVEPOINT s;
DELETE FROM member WHERE user_id = 'eve';
ROLLBACK TO s;
UPDATE doc SET title = 'C' WHERE company_id = 1;
COMMIT;
SELECT is(ask('eve', 'eve'), '+1', 'a revocation that was rolled back to a savepoint');

-- rows that move between scopes
INSERT INTO member VALUES (1, 'ada'), (2, 'ada');
SELECT ask('ada', 'ada'), ask('bob', 'bob'), ask('eve', 'eve') \g /dev/null
UPDATE doc SET company_id = 2 WHERE id = 1;
SELECT is(ask('ada', 'ada'), '+1', 'from one scope of the user''s to the other');
SELECT is(ask('bob', 'bob'), '+1', 'into the scope');
SELECT is(ask('eve', 'eve'), '-1', 'out of it');
UPDATE doc SET company_id = NULL WHERE id = 1;
SELECT is(ask('ada', 'ada') || ' ' || ask('bob', 'bob'), '-1 -1', 'into no scope');
UPDATE doc SET company_id = 1 WHERE id = 1;
SELECT is(ask('ada', 'ada') || ' ' || ask('eve', 'eve'), '+1 +1', 'and out of none');
BEGIN;
UPDATE doc SET company_id = 2 WHERE id = 1;
UPDATE doc SET company_id = 3 WHERE id = 1;
COMMIT;
SELECT is(ask('bob', 'bob'), '', 'through a scope within a transaction: no word to it');
SELECT is(ask('ada', 'ada') || ' ' || ask('eve', 'eve'), '-1 -1', 'but where it was');
UPDATE doc SET company_id = 1 WHERE id = 1;
SELECT ask('ada', 'ada'), ask('eve', 'eve') \g /dev/null

-- a filter beside it
SELECT is(helper.sync('f', 'doc', 'title = $1', '{c}', user_id => 'ada'), '', 'a filter that nothing passes');
SELECT is(helper.sync('f2', 'doc', 'company_id = $1', '{2}', user_id => 'eve'), '', 'a filter opens no scope');
SELECT is(helper.sync('f3', 'doc', 'company_id = $1', '{1}', user_id => 'ada'), '+1', 'it closes some');
UPDATE doc SET title = 'c' WHERE id = 3;
SELECT is(helper.sync('f', 'doc', 'title = $1', '{c}', user_id => 'ada'), '+3', 'a row enters the filter');
SELECT is(helper.sync('f3', 'doc', 'company_id = $1', '{1}', user_id => 'ada'), '', 'not that one');
DELETE FROM member WHERE user_id = 'ada' AND company_id = 2;
SELECT is(helper.sync('f', 'doc', 'title = $1', '{c}', user_id => 'ada'), '~2', 'revoked, for a filter');
SELECT ask('ada', 'ada') \g /dev/null

-- ---- every order of grants, revocations and changes ----

-- Clients of ada: one that asks as most do; one in pages of one; one that
-- names what it holds; one with a filter; one that gets a page of one between
-- the steps.
CREATE TABLE failures (steps text, who text, answer text, held text, wanted text);
CREATE FUNCTION holding(who text) RETURNS jsonb LANGUAGE sql AS $$
	SELECT coalesce(jsonb_agg(h.key || jsonb_build_object('modified_at', h.data -> 'modified_at')), '[]') FROM held h WHERE h.who = holding.who $$;
CREATE FUNCTION look(who text) RETURNS text LANGUAGE sql AS $$
	SELECT CASE who
		WHEN 'most' THEN helper.sync(who, 'doc', user_id => 'ada')
		WHEN 'pages' THEN helper.sync(who, 'doc', max_rows => 1, user_id => 'ada')
		WHEN 'slow' THEN helper.sync(who, 'doc', max_rows => 1, user_id => 'ada')
		WHEN 'names' THEN helper.sync(who, 'doc', exclude => t.holding(who), user_id => 'ada')
		WHEN 'filter' THEN helper.sync(who, 'doc', 'id < $1', '{1000000}', user_id => 'ada')
	END $$;
CREATE FUNCTION step(kind text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	one int := (SELECT min(id) FROM t.doc WHERE company_id = 1);
	two int := (SELECT min(id) FROM t.doc WHERE company_id = 2);
BEGIN
	CASE kind
	WHEN 'grant' THEN INSERT INTO t.member VALUES (1, 'ada') ON CONFLICT DO NOTHING;
	WHEN 'revoke' THEN DELETE FROM t.member WHERE user_id = 'ada' AND company_id = 1;
	WHEN 'insert' THEN INSERT INTO t.doc SELECT coalesce(max(id), 0) + 1, 1, 'new' FROM t.doc;
	WHEN 'update' THEN UPDATE t.doc SET title = title || '.' WHERE company_id = 1;
	WHEN 'delete' THEN DELETE FROM t.doc WHERE id = one;
	WHEN 'in' THEN UPDATE t.doc SET company_id = 1 WHERE id = two;
	WHEN 'out' THEN UPDATE t.doc SET company_id = 2 WHERE id = one;
	WHEN 'away' THEN UPDATE t.doc SET company_id = 3 WHERE id = one;
	END CASE;
END $$;
CREATE PROCEDURE check_all(steps text, clients text[]) LANGUAGE plpgsql AS $$
DECLARE
	c text; answer text; has text; wants text;
BEGIN
	SELECT coalesce(string_agg(d.id || d.title || d.company_id, ' ' ORDER BY d.id), '') INTO wants
	  FROM t.doc d JOIN t.member m ON m.company_id = d.company_id AND m.user_id = 'ada';
	-- not the author, who is not told what it did itself
	FOREACH c IN ARRAY clients LOOP
		answer := t.look(c);
		SELECT coalesce(string_agg((h.data ->> 'id') || (h.data ->> 'title') || (h.data ->> 'company_id'), ' ' ORDER BY (h.data ->> 'id')::int), '') INTO has
		  FROM held h WHERE h.who = c;
		IF has <> wants OR answer ~ '[!]|reset' THEN
			INSERT INTO t.failures VALUES (steps, c, answer, has, wants);
		END IF;
		IF answer <> '' AND c = 'most' AND t.look(c) <> '' THEN
			INSERT INTO t.failures VALUES (steps, c, 'told twice', has, wants);
		END IF;
	END LOOP;
END $$;
CREATE PROCEDURE run(steps text[], granted bool, together bool) LANGUAGE plpgsql AS $$
DECLARE
	s text; label text := concat_ws(' ', CASE WHEN granted THEN 'granted' END, CASE WHEN together THEN 'together' END, steps);
BEGIN
	-- where everything begins: two rows in each scope
	PERFORM pg_sleep(0.001);
	DELETE FROM t.doc;
	INSERT INTO t.doc VALUES (10, 1, 'a'), (11, 1, 'b'), (20, 2, 'c'), (21, 2, 'd');
	PERFORM t.step(CASE WHEN granted THEN 'grant' ELSE 'revoke' END);
	COMMIT;
	-- a row that comes again gets another modified_at
	PERFORM pg_sleep(0.001);
	CALL t.check_all('before ' || label, '{most,pages,names,filter}');
	COMMIT;
	FOREACH s IN ARRAY steps LOOP
		PERFORM t.step(s);
		IF NOT together THEN
			COMMIT;
			PERFORM helper.page('slow', 'doc', max_rows => 1, user_id => 'ada');
			COMMIT;
		END IF;
	END LOOP;
	COMMIT;
	CALL t.check_all(label, '{most,pages,names,filter,slow}');
	COMMIT;
END $$;
CREATE PROCEDURE run_all() LANGUAGE plpgsql AS $$
DECLARE
	kinds text[] := '{grant,revoke,insert,update,delete,in,out,away}';
	a text; b text; c text; n int := 0;
BEGIN
	FOREACH a IN ARRAY kinds LOOP
		FOREACH b IN ARRAY kinds LOOP
			CALL t.run(ARRAY[a, b], false, false);
			CALL t.run(ARRAY[a, b], true, false);
			CALL t.run(ARRAY[a, b], false, true);
			CALL t.run(ARRAY[a, b], true, true);
			FOREACH c IN ARRAY kinds LOOP
				-- a grant and a revocation among them, begun now this way and now that
				IF ARRAY[a, b, c] @> '{grant,revoke}' AND a <> b AND b <> c THEN
					CALL t.run(ARRAY[a, b, c], n % 2 = 0, n / 2 % 2 = 0);
					n := n + 1;
				END IF;
			END LOOP;
		END LOOP;
	END LOOP;
END $$;
INSERT INTO member VALUES (2, 'ada') ON CONFLICT DO NOTHING;
SELECT sync.reset('doc');
DELETE FROM doc;
SELECT look(c) FROM unnest('{most,pages,names,filter,slow}'::text[]) c \g /dev/null
CALL run_all();
SELECT is_empty('SELECT * FROM t.failures LIMIT 5', 'two and three steps in every order, together and apart');

-- ---- the reader's own transaction ----

DELETE FROM doc;
INSERT INTO doc VALUES (1, 1, 'a'), (2, 2, 'b');
DELETE FROM member WHERE user_id = 'ada' AND company_id = 1;
SELECT look('most') \g /dev/null
BEGIN;
INSERT INTO member VALUES (1, 'ada');
SELECT is(look('most'), '+1', 'a grant of the own transaction');
SELECT is(look('most'), '~1 +1', 'which never counts as seen');
COMMIT;
SELECT is(look('most'), '~1 +1', 'and comes again when it has committed');
SELECT is(look('most'), '', 'then no more');
BEGIN;
DELETE FROM member WHERE user_id = 'ada' AND company_id = 1;
SELECT is(look('most'), '~1', 'a revocation');
COMMIT;
SELECT ok(look('most') IN ('~1', ''), 'likewise');
SELECT right_for('most', 'ada', 'it is gone');
BEGIN;
INSERT INTO member VALUES (1, 'ada');
SAVEPOINT s;
DELETE FROM member WHERE user_id = 'ada' AND company_id = 2;
ROLLBACK TO s;
UPDATE doc SET company_id = 1 WHERE id = 2;
COMMIT;
SELECT look('most') \g /dev/null
SELECT right_for('most', 'ada', 'with savepoints');

-- ---- the author, and rows that are named ----

SELECT helper.sync('me', 'doc', client => 'me', user_id => 'ada') \g /dev/null
BEGIN;
SELECT set_config('sync.client', 'me', true) \g /dev/null
UPDATE doc SET title = 'mine' WHERE id = 1;
COMMIT;
SELECT is(helper.sync('me', 'doc', client => 'me', user_id => 'ada'), '', 'what a client wrote it is not told');
DELETE FROM member WHERE user_id = 'ada' AND company_id = 1;
SELECT is(helper.sync('me', 'doc', client => 'me', user_id => 'ada'), '~1', 'that it lost a scope it is');
BEGIN;
SELECT set_config('sync.client', 'me', true) \g /dev/null
UPDATE doc SET title = 'blind' WHERE id = 1;
INSERT INTO member VALUES (1, 'ada');
COMMIT;
SELECT is(helper.sync('me', 'doc', client => 'me', user_id => 'ada'), '+1 +2', 'and rows that a grant brings, though it wrote both');
SELECT right_for('me', 'ada', 'so it holds what the user may see');
SELECT look('names') \g /dev/null
DELETE FROM member WHERE user_id = 'ada' AND company_id = 1;
INSERT INTO member VALUES (1, 'ada');
SELECT look('names') \g /dev/null
SELECT right_for('names', 'ada', 'rows that were forgotten and came back, though they are named and as they were');
SELECT is(helper.sync('again', 'doc', exclude => holding('names'), user_id => 'ada'), '', 'a first load that names all');

-- ---- pages ----

DELETE FROM doc;
INSERT INTO doc SELECT i, i % 2 + 1, 'p' FROM generate_series(1, 10) i;
DELETE FROM member WHERE user_id = 'ada' AND company_id = 1;
SELECT look('pages') \g /dev/null
SELECT right_for('pages', 'ada', 'a delta in pages');
INSERT INTO member VALUES (1, 'ada');
SELECT matches(helper.page('pages', 'doc', max_rows => 2, user_id => 'ada'), '^\+\d+ \+\d+ \|$', 'a page of a grant');
DELETE FROM doc WHERE id IN (2, 4, 6);
UPDATE doc SET title = 'changed' WHERE company_id = 1;
INSERT INTO doc VALUES (2, 2, 'p'), (4, 1, 'again'), (6, 1, 'again');
SELECT look('pages') \g /dev/null
SELECT right_for('pages', 'ada', 'changes between the pages of a grant');
DELETE FROM member WHERE user_id = 'ada' AND company_id = 1;
SELECT matches(look('pages'), '~1', 'revoked');
INSERT INTO member VALUES (1, 'ada');
SELECT helper.page('pages', 'doc', max_rows => 2, user_id => 'ada') \g /dev/null
DELETE FROM member WHERE user_id = 'ada' AND company_id = 1;
SELECT matches(look('pages'), '~1', 'revoked between pages');
SELECT right_for('pages', 'ada', 'and what had come is gone');
INSERT INTO member VALUES (1, 'ada');
SELECT helper.page('pages', 'doc', max_rows => 2, user_id => 'ada') \g /dev/null
DELETE FROM member WHERE user_id = 'ada' AND company_id = 1;
DELETE FROM doc WHERE id IN (2, 4);
INSERT INTO member VALUES (1, 'ada');
SELECT look('pages') \g /dev/null
SELECT right_for('pages', 'ada', 'revoked, deleted and granted again between pages');
DELETE FROM member WHERE user_id = 'ada' AND company_id = 1;
SELECT look('pages') \g /dev/null
INSERT INTO member VALUES (1, 'ada');
SELECT helper.page('pages', 'doc', max_rows => 1, user_id => 'ada') \g /dev/null
UPDATE doc SET company_id = 2 WHERE id = (SELECT max(id) FROM doc WHERE company_id = 1);
UPDATE doc SET company_id = 1 WHERE id = (SELECT min(id) FROM doc WHERE company_id = 2);
SELECT helper.page('pages', 'doc', max_rows => 1, user_id => 'ada') \g /dev/null
UPDATE doc SET company_id = 3 WHERE id = (SELECT min(id) FROM doc WHERE company_id = 1);
SELECT look('pages') \g /dev/null
SELECT right_for('pages', 'ada', 'rows that move between pages of a grant');
SELECT helper.page('load', 'doc', max_rows => 2, user_id => 'ada') \g /dev/null
DELETE FROM member WHERE user_id = 'ada' AND company_id = 2;
UPDATE doc SET title = 'q';
SELECT helper.page('load', 'doc', max_rows => 2, user_id => 'ada') \g /dev/null
INSERT INTO member VALUES (2, 'ada');
DELETE FROM member WHERE user_id = 'ada' AND company_id = 1;
SELECT helper.sync('load', 'doc', max_rows => 2, user_id => 'ada') \g /dev/null
SELECT right_for('load', 'ada', 'rights that change between pages of a first load');
DELETE FROM member WHERE user_id = 'ada';
SELECT look('pages') \g /dev/null
SELECT right_for('pages', 'ada', 'all rights gone');
INSERT INTO member SELECT c, 'ada' FROM generate_series(1, 3) c;
SELECT look('pages') \g /dev/null
DELETE FROM member WHERE user_id = 'ada';
SELECT look('pages') \g /dev/null
SELECT right_for('pages', 'ada', 'three of them, in pages');

-- ---- pull ----

INSERT INTO member VALUES (1, 'ada'), (2, 'ada');
CREATE TABLE answer (a jsonb);
INSERT INTO answer SELECT sync.pull('{"user_id": "ada", "domains": {"doc": {}}}');
SELECT is(jsonb_array_length(a #> '{domains,doc,upsert}'), (SELECT count(*)::int FROM doc WHERE company_id IN (1, 2)), 'pull, for a user') FROM answer;
DELETE FROM member WHERE user_id = 'ada' AND company_id = 1;
UPDATE answer SET a = sync.pull(jsonb_build_object('user_id', 'ada', 'domains', jsonb_build_object('doc', jsonb_build_object('since', a #> '{domains,doc,cursor}'))));
SELECT is(a #> '{domains,doc,forget}', '[{"company_id": 1}]', 'a scope that was lost') FROM answer;
SELECT is(a #> '{domains,doc,upsert}', '[]', 'and nothing else') FROM answer;
UPDATE answer SET a = sync.pull(jsonb_build_object('user_id', 'ada', 'domains', jsonb_build_object('doc', jsonb_build_object('since', a #> '{domains,doc,cursor}'))));
SELECT ok(coalesce(a #> '{domains,doc,forget}', '[]') = '[]', 'once') FROM answer;
SELECT helper.refused($$SELECT sync.pull('{"user_id": "ada", "domains": {"plain": {}}}')$$, '22023', 'plain', 'a domain that has no access relation');

-- ---- rights of the caller ----

GRANT SELECT ON doc TO regress_sync_server, regress_sync_stranger;
GRANT SELECT ON member TO regress_sync_server;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA t TO PUBLIC;
ALTER TABLE member ENABLE ROW LEVEL SECURITY;
SET ROLE regress_sync_server;
SELECT is_empty('SELECT * FROM t.member', 'an access table that row-level security hides');
SELECT is((SELECT count(*) > 1 FROM sync.changes('doc', user_id => 'ada')), true, 'says what users may see all the same');
RESET ROLE; SET ROLE regress_sync_stranger;
SELECT helper.fails($$SELECT * FROM sync.changes('doc', user_id => 'ada')$$, '42501', 'to whom may SELECT it');
SELECT helper.fails($$SELECT * FROM sync.changes('doc', (SELECT c FROM kept WHERE who = 'ada'), user_id => 'ada')$$, '42501', 'in a delta, too');
SELECT lives_ok($$SELECT * FROM sync.changes('doc')$$, 'without a user nobody asks for it');
RESET ROLE;
ALTER TABLE member DISABLE ROW LEVEL SECURITY;

-- ---- the table is emptied, altered; the relation taken back ----

SELECT look('most') \g /dev/null
TRUNCATE member;
SELECT is(look('most'), 'reset(marker)', 'TRUNCATE of the access table');
INSERT INTO member VALUES (1, 'ada');
SELECT look('most') \g /dev/null
ALTER TABLE member RENAME company_id TO firm_id;
SELECT look('most') \g /dev/null
INSERT INTO member VALUES (2, 'ada');
SELECT look('most') \g /dev/null
SELECT helper.same('most', $$SELECT to_jsonb(d) FROM t.doc d JOIN t.member m ON m.firm_id = d.company_id AND m.user_id = 'ada'$$, 'a column of it renamed');
ALTER TABLE member RENAME firm_id TO company_id;
ALTER TABLE doc RENAME company_id TO firm_id;
SELECT look('most') \g /dev/null
SELECT helper.same('most', $$SELECT to_jsonb(d) FROM t.doc d JOIN t.member m ON m.company_id = d.firm_id AND m.user_id = 'ada'$$, 'a scope column of the domain renamed');
DELETE FROM member WHERE company_id = 1;
SELECT is((SELECT key FROM sync.changes('doc', (SELECT c FROM kept WHERE who = 'most'), user_id => 'ada') WHERE op = 'forget'), '{"firm_id": 1}', 'what is forgotten has the domain''s names');
ALTER TABLE doc RENAME firm_id TO company_id;
SELECT look('most') \g /dev/null
INSERT INTO member VALUES (1, 'ada');
SELECT sync.set_access('doc', 't.member');
SELECT matches(look('most'), '^reset\(marker\)', 'said again: a reset');
SELECT sync.set_access('doc', NULL);
SELECT helper.refused($$SELECT * FROM sync.changes('doc', user_id => 'ada')$$, '22023', 'ada', 'taken back: no user');
SELECT is((SELECT data ->> 'reason' FROM sync.changes('doc', (SELECT c FROM kept WHERE who = 'all')) WHERE op = 'reset'), 'marker', 'and a reset');

-- ---- other shapes of access tables ----

-- several rows for one scope; users by number
CREATE TABLE role_of (id int PRIMARY KEY, company_id int, user_id bigint, role text);
CREATE INDEX ON role_of (company_id); CREATE INDEX ON role_of (user_id);
SELECT sync.track('role_of', scope => '{user_id,company_id}');
SELECT sync.set_access('doc', 't.role_of');
INSERT INTO role_of VALUES (1, 1, 7, 'reader'), (2, 1, 7, 'writer'), (3, NULL, 7, 'nowhere'), (4, 1, NULL, 'nobody');
DELETE FROM doc;
INSERT INTO doc VALUES (1, 1, 'a'), (2, 2, 'b'), (3, NULL, 'c');
SELECT is(ask('seven', '7'), '+1', 'a scope by two rows, and rows without a scope or a user');
SELECT is(ask('spaced', ' 7 '), '+1', 'the user is a value of its type, not a text');
SELECT helper.fails($$SELECT * FROM sync.changes('doc', user_id => 'ada')$$, '22P02', 'and must be one');
SELECT helper.fails($$SELECT * FROM sync.changes('doc', user_id => '')$$, '22P02', 'always');
SELECT helper.fails($$SELECT * FROM sync.changes('doc', user_id => '99999999999999999999')$$, '22003', 'and in its range');
DELETE FROM role_of WHERE id = 1;
SELECT ask('seven', '7') \g /dev/null
SELECT helper.same('seven', 'SELECT to_jsonb(d) FROM t.doc d WHERE id = 1', 'one of them less: not lost');
UPDATE doc SET title = 'A' WHERE id = 1;
SELECT is(ask('seven', '7'), '+1', 'it goes on');
DELETE FROM role_of WHERE id = 2;
SELECT is(ask('seven', '7'), '~1', 'the last one');
INSERT INTO role_of VALUES (5, 3, 7, 'reader');
SELECT is(ask('seven', '7'), '', 'a scope without rows');
INSERT INTO doc VALUES (9, 3, 'n');
SELECT is(ask('seven', '7'), '+9', 'until there is one');
UPDATE doc SET company_id = 3 WHERE id = 3;
SELECT is(ask('seven', '7'), '+3', 'a row that comes out of no scope');

-- memberships that are marked as deleted; users by uuid; a partitioned table
CREATE TABLE joined (company_id int, user_id uuid, left_at timestamptz, PRIMARY KEY (user_id, company_id)) PARTITION BY HASH (user_id);
CREATE TABLE joined_1 PARTITION OF joined FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE joined_2 PARTITION OF joined FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE INDEX ON joined (company_id);
SELECT sync.track('joined', scope => '{user_id,company_id}', deleted_at => 'left_at');
SELECT sync.set_access('doc', 't.joined');
\set u '''6f8f57e2-6a4b-4d9e-9a55-1f0c5e6d7a01'''
INSERT INTO joined VALUES (1, :u), (2, :u);
SELECT is(ask('u', :u), '+1 +2', 'users by uuid');
SELECT is(ask('upper', upper(:u)), '+1 +2', 'however it is written');
UPDATE joined SET left_at = now() WHERE company_id = 1;
SELECT is(ask('u', :u), '~1', 'a membership that was left');
UPDATE joined_1 SET left_at = now() WHERE company_id = 2;
UPDATE joined_2 SET left_at = now() WHERE company_id = 2;
SELECT is(ask('u', :u), '~2', 'by way of a partition');
UPDATE joined SET left_at = NULL WHERE company_id = 1;
SELECT ok(ask('u', :u) IN ('+1', '~1 +1'), 'and entered again');
UPDATE joined SET left_at = now();
DELETE FROM joined;
SELECT ask('u', :u) \g /dev/null
SELECT helper.same('u', 'SELECT to_jsonb(d) FROM t.doc d WHERE false', 'left and then deleted');

-- scopes of two columns, the relation's in another order
CREATE TABLE place (id int PRIMARY KEY, country text, city text, v text);
CREATE TABLE reach (city text, who text, country text, PRIMARY KEY (who, country, city));
SELECT sync.track('place', scope => '{country,city}');
SELECT sync.track('reach', scope => '{who,city,country}');
SELECT sync.set_access('place', 't.reach', 'who');
INSERT INTO place VALUES (1, 'it', 'roma', 'a'), (2, 'it', 'torino', 'b'), (3, 'fr', 'roma', 'c'), (4, 'it', NULL, 'd');
INSERT INTO reach VALUES ('roma', 'ada', 'it');
SELECT is(helper.sync('p', 'place', user_id => 'ada'), '+1', 'both columns count');
INSERT INTO reach VALUES ('torino', 'ada', 'it');
SELECT is(helper.sync('p', 'place', user_id => 'ada'), '+2', 'another city');
UPDATE place SET country = 'it' WHERE id = 3;
SELECT is(helper.sync('p', 'place', user_id => 'ada'), '+3', 'a row that comes');
UPDATE place SET city = NULL WHERE id = 3;
SELECT is(helper.sync('p', 'place', user_id => 'ada'), '-3', 'a row whose scope is half known');
DELETE FROM reach WHERE city = 'roma';
SELECT is((SELECT key FROM sync.changes('place', (SELECT c FROM kept WHERE who = 'p'), user_id => 'ada') WHERE op = 'forget'), '{"city": "roma", "country": "it"}', 'a scope is lost by all its columns');
SELECT is(helper.sync('p', 'place', user_id => 'ada'), '~roma,it', 'and no other');
SELECT helper.same('p', 'SELECT to_jsonb(p) FROM t.place p WHERE id = 2', 'that is left');

-- one access table for two domains
CREATE TABLE note (id int PRIMARY KEY, company_id int);
SELECT sync.track('note', scope => '{company_id}');
SELECT sync.set_access('doc', 't.member'), sync.set_access('note', 't.member');
INSERT INTO note VALUES (1, 1), (2, 2);
DELETE FROM member;
SELECT ask('two', 'ada'), helper.sync('note', 'note', user_id => 'ada') \g /dev/null
INSERT INTO member VALUES (1, 'ada');
SELECT is(ask('two', 'ada') || ' ' || helper.sync('note', 'note', user_id => 'ada'), '+1 +1', 'a grant for two domains');
DELETE FROM member;
SELECT is(ask('two', 'ada') || ' ' || helper.sync('note', 'note', user_id => 'ada'), '~1 ~1', 'a revocation for both');

-- ---- views ----

CREATE TABLE team_of (user_id text PRIMARY KEY, team text);
CREATE TABLE company_of (company_id int PRIMARY KEY, team text);
SELECT sync.track('team_of');
SELECT sync.track('company_of');
CREATE VIEW may_see AS SELECT c.company_id, t.user_id FROM team_of t JOIN company_of c USING (team);
SELECT lives_ok($$SELECT sync.set_access('doc', 't.may_see')$$, 'a view');
INSERT INTO team_of VALUES ('ada', 'x'), ('bob', 'y');
INSERT INTO company_of VALUES (1, 'x'), (2, 'y');
DELETE FROM doc;
INSERT INTO doc VALUES (1, 1, 'a'), (2, 2, 'b'), (3, 3, 'c'), (4, NULL, 'd');
SELECT is(ask('v', 'ada'), '+1', 'what it gives');
SELECT is(ask('v', 'ada'), '', 'nothing new');
UPDATE doc SET title = title || '.';
SELECT is(ask('v', 'ada'), '+1', 'a change in the scope');
UPDATE doc SET company_id = 2 WHERE id = 1;
SELECT is(ask('v', 'ada'), '-1', 'out of it');
UPDATE doc SET company_id = 1 WHERE id = 1;
SELECT is(ask('v', 'ada'), '+1', 'into it');
INSERT INTO company_of VALUES (3, 'x');
SELECT is(ask('v', 'ada'), 'reset(access) +1 +3', 'a grant cannot be followed: a reset');
INSERT INTO team_of VALUES ('eve', 'x');
UPDATE company_of SET team = 'z' WHERE company_id = 2;
SELECT is(ask('v', 'ada'), '', 'grants of others are none of ours');
DELETE FROM company_of WHERE company_id = 3;
DELETE FROM team_of WHERE user_id = 'ada';
SELECT is(ask('v', 'ada'), 'reset(access)', 'rows below the view that both are gone');
INSERT INTO team_of VALUES ('ada', 'x');
SELECT is(ask('v', 'ada'), 'reset(access) +1', 'and back');
BEGIN;
DELETE FROM company_of WHERE company_id = 1;
DELETE FROM doc WHERE id = 1;
INSERT INTO doc VALUES (5, 1, 'e');
INSERT INTO company_of VALUES (1, 'x');
COMMIT;
SELECT ask('v', 'ada') \g /dev/null
SELECT helper.same('v', 'SELECT to_jsonb(d) FROM t.doc d WHERE company_id = 1', 'taken, changed and given back in one transaction');
DELETE FROM company_of WHERE company_id = 1;
DELETE FROM doc WHERE id = 5;
INSERT INTO doc VALUES (6, 1, 'f');
INSERT INTO company_of VALUES (1, 'x');
SELECT ask('v', 'ada') \g /dev/null
SELECT helper.same('v', 'SELECT to_jsonb(d) FROM t.doc d WHERE company_id = 1', 'or in several');
SELECT helper.sync('vp', 'doc', max_rows => 1, user_id => 'ada') \g /dev/null
INSERT INTO doc VALUES (7, 1, 'g'), (8, 1, 'h');
SELECT helper.page('vp', 'doc', max_rows => 1, user_id => 'ada') \g /dev/null
INSERT INTO company_of VALUES (3, 'x');
SELECT helper.sync('vp', 'doc', max_rows => 1, user_id => 'ada') \g /dev/null
SELECT helper.same('vp', 'SELECT to_jsonb(d) FROM t.doc d WHERE company_id IN (1, 3)', 'rights that change between pages');
SET ROLE regress_sync_server;
SELECT helper.fails($$SELECT * FROM sync.changes('doc', user_id => 'ada')$$, '42501', 'a view is read with the caller''s rights');
RESET ROLE;
GRANT SELECT ON may_see TO regress_sync_server;
SET ROLE regress_sync_server;
SELECT isnt_empty($$SELECT * FROM sync.changes('doc', user_id => 'ada') WHERE op = 'upsert'$$, 'which it needs on the view alone');
RESET ROLE;
SELECT ask('v', 'ada') \g /dev/null
SET client_min_messages = error;
CREATE OR REPLACE VIEW may_see AS SELECT c.company_id, t.user_id FROM team_of t CROSS JOIN company_of c;
SET client_min_messages = warning;
SELECT ask('v', 'ada') \g /dev/null
SELECT helper.same('v', 'SELECT to_jsonb(d) FROM t.doc d WHERE company_id IN (SELECT company_id FROM t.company_of)', 'a view that says something else now');

-- ---- policies beside it ----

SELECT sync.set_access('doc', 't.member');
INSERT INTO member VALUES (1, 'ada'), (3, 'ada');
DELETE FROM doc;
INSERT INTO doc VALUES (1, 1, 'a'), (2, 1, 'hidden'), (3, 3, 'c'), (4, 2, 'd');
CREATE TABLE hush (word text);
GRANT SELECT ON hush TO regress_sync_server;
SET client_min_messages = error;
ALTER TABLE doc ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON doc USING (title <> 'hidden');
SET ROLE regress_sync_server;
SELECT is(ask('po', 'ada'), '+1 +3', 'a policy over another column narrows');
SELECT is(ask('po', 'ada'), '', 'and with a user a delta can be answered');
RESET ROLE;
UPDATE doc SET title = 'hidden' WHERE id = 1;
UPDATE doc SET title = 'shown' WHERE id = 2;
SET ROLE regress_sync_server;
SELECT is(ask('po', 'ada'), '-1 +2', 'rows that it hides and shows');
SELECT helper.refused($$SELECT * FROM sync.changes('doc', sync.current_cursor())$$, '0A000', 'title', 'without a user it cannot');
RESET ROLE;
DELETE FROM member WHERE company_id = 1;
SET ROLE regress_sync_server;
SELECT is(ask('po', 'ada'), '~1', 'rights and policies');
RESET ROLE;
INSERT INTO member VALUES (1, 'ada');
ALTER POLICY p ON doc USING (title NOT IN (SELECT word FROM t.hush WHERE coalesce(current_setting('app.hush', true), '') <> 'off'));
SET ROLE regress_sync_server;
SELECT is(ask('po', 'ada'), 'reset(other_question) +1 +2 +3', 'another policy is another question');
SELECT is(ask('po', 'ada'), '', 'the same policy is not');
SET app.hush = 'off';
SELECT is(ask('po', 'ada'), 'reset(other_question) +1 +2 +3', 'a setting inside a subquery of it is');
RESET ROLE;
RESET app.hush;
ALTER POLICY p ON doc USING (now() > '2000-01-01' AND company_id = 1);
SET ROLE regress_sync_server;
SELECT ask('po', 'ada') \g /dev/null
SELECT is(ask('po', 'ada'), '', 'the time is no part of the question');
RESET ROLE;
UPDATE doc SET title = 'hidden' WHERE id = 1;
ALTER POLICY p ON doc USING (title <> 'hidden');
SET ROLE regress_sync_server;
SELECT helper.sync('phone', 'doc', client => 'phone', user_id => 'ada') \g /dev/null
RESET ROLE;
BEGIN;
SELECT set_config('sync.client', 'phone', true) \g /dev/null
UPDATE doc SET title = 'shown' WHERE id = 1;
COMMIT;
SET ROLE regress_sync_server;
SELECT is(helper.sync('phone', 'doc', client => 'phone', user_id => 'ada'), '+1', 'a row that its author could not see before');
RESET ROLE;
DROP POLICY p ON doc;
ALTER TABLE doc DISABLE ROW LEVEL SECURITY;
SET client_min_messages = warning;

-- ---- many scopes ----

DELETE FROM doc;
DELETE FROM member;
INSERT INTO member SELECT c, 'big' FROM generate_series(1, 10000) c;
INSERT INTO doc SELECT c, c, 'm' FROM generate_series(1, 10010) c;
CREATE TEMP TABLE much AS SELECT * FROM sync.changes('doc', user_id => 'big');
SELECT is((SELECT count(*) FROM much WHERE op = 'upsert'), 10000::bigint, 'ten thousand scopes');
INSERT INTO kept SELECT 'big', cursor FROM much WHERE cursor IS NOT NULL;
SELECT is(ask('big', 'big'), '', 'nothing new');
UPDATE doc SET title = 'n' WHERE id IN (5, 5000, 10005);
SELECT is(ask('big', 'big'), '+5 +5000', 'two changes in them');
INSERT INTO member VALUES (10001, 'big');
DELETE FROM member WHERE company_id = 7;
SELECT is(ask('big', 'big'), '~7 +10001', 'one more and one less');
UPDATE member SET user_id = 'small' WHERE user_id = 'big';
SELECT is((SELECT count(DISTINCT key) FROM sync.changes('doc', (SELECT c FROM kept WHERE who = 'big'), user_id => 'big') WHERE op = 'forget'), 10000::bigint, 'all of them lost');
SELECT is((SELECT count(*) FROM sync.changes('doc', (SELECT c FROM kept WHERE who = 'big'), user_id => 'big')), 10001::bigint, 'and nothing else told');

-- ---- pruned ----

DELETE FROM doc WHERE id > 3;
DELETE FROM member;
INSERT INTO member VALUES (1, 'ada');
SELECT look('most'), ask('old', 'ada') \g /dev/null
INSERT INTO member VALUES (2, 'ada');
SELECT pg_sleep(1.1) \g /dev/null
UPDATE doc SET title = 'tick' WHERE id = 3;
SELECT look('most') \g /dev/null
SELECT pg_sleep(1.1) \g /dev/null
UPDATE doc SET title = 'tock' WHERE id = 3;
SELECT look('most') \g /dev/null
SELECT sync.prune('0') \g /dev/null
SELECT matches(ask('old', 'ada'), '^reset\(pruned\) \+1 \+2$', 'a grant that was pruned is not passed over');
SELECT is(look('most'), '', 'who had seen it goes on');

-- ---- dropped ----

SET client_min_messages = error;
SELECT lives_ok($$DROP TABLE t.member CASCADE$$, 'the access table is dropped');
SELECT helper.fails($$SELECT * FROM sync.changes('doc', user_id => 'ada')$$, '22023|55000', 'nobody is given what it gave');
SELECT lives_ok($$SELECT * FROM sync.changes('doc')$$, 'without a user the domain goes on');
SELECT lives_ok($$DROP TABLE t.doc CASCADE$$, 'the domain is dropped');
SELECT is_empty($$SELECT * FROM sync.access WHERE rel::oid NOT IN (SELECT oid FROM pg_class)$$, 'and its access relation forgotten');

SELECT * FROM finish();
DROP SCHEMA t CASCADE;
DROP ROLE regress_sync_owner, regress_sync_server, regress_sync_stranger;
