\set ECHO none
\i test/setup.sql
-- sync.reconcile, whatever happened on both sides: in the end they are equal.
CREATE SCHEMA t;
SET search_path = t, public;
SELECT no_plan();
CREATE TABLE club (id int PRIMARY KEY, name text UNIQUE);
CREATE TABLE person (id int PRIMARY KEY, name text NOT NULL, boss int REFERENCES person ON DELETE SET NULL);
CREATE TABLE between_them (person int REFERENCES person ON DELETE CASCADE, club int REFERENCES club ON DELETE CASCADE, since int CHECK (since < 90), PRIMARY KEY (club, person));
CREATE TABLE note (id int PRIMARY KEY, person int REFERENCES person ON DELETE CASCADE, v text, gone timestamptz);
CREATE TABLE place (a int, b text, v text, PRIMARY KEY (b, a));
CREATE FUNCTION louder() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.v := upper(NEW.v); RETURN NEW; END';
CREATE TRIGGER a_louder BEFORE INSERT OR UPDATE ON place FOR EACH ROW EXECUTE FUNCTION louder();
SELECT sync.track('club'), sync.track('person'), sync.track('between_them'), sync.track('note', deleted_at => 'gone'), sync.track('place');
SELECT sync.cascade('between_them', 'club');

-- What the client knows of each domain: its key, a filter, and rows to make up.
CREATE TABLE dom (name text PRIMARY KEY, key text[], filter text, params jsonb);
INSERT INTO dom VALUES ('club', '{id}', NULL, NULL), ('person', '{id}', NULL, NULL), ('between_them', '{club,person}', NULL, NULL), ('note', '{id}', NULL, NULL), ('place', '{b,a}', 'a % 2 = $1', '[1]');
CREATE FUNCTION pick(n int) RETURNS int LANGUAGE sql AS 'SELECT floor(random() * n)::int';
CREATE FUNCTION made_up(dom text) RETURNS jsonb LANGUAGE sql AS $$
	SELECT CASE dom
		WHEN 'club' THEN jsonb_build_object('id', pick(12), 'name', CASE WHEN pick(5) > 0 THEN 'club ' || pick(30) END)
		WHEN 'person' THEN jsonb_build_object('id', pick(20), 'name', CASE WHEN pick(20) > 0 THEN 'p' || pick(100) END, 'boss', CASE WHEN pick(3) = 0 THEN pick(20) END)
		WHEN 'between_them' THEN jsonb_build_object('club', pick(12), 'person', pick(20), 'since', pick(100))
		WHEN 'note' THEN jsonb_build_object('id', pick(30), 'person', CASE WHEN pick(3) > 0 THEN pick(20) END, 'v', 'n' || pick(100), 'gone', NULL)
		ELSE jsonb_build_object('a', pick(6), 'b', chr(65 + pick(3)), 'v', 'v' || pick(100)) END $$;
CREATE FUNCTION key_of(dom text, r jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT jsonb_object_agg(k, r -> k) FROM t.dom d, unnest(d.key) k WHERE d.name = dom';

-- Somebody else changes a row here; what is refused did not happen.
CREATE FUNCTION happens_here() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	d t.dom; r jsonb; match text;
BEGIN
	SELECT * INTO d FROM t.dom ORDER BY random() LIMIT 1;
	r := made_up(d.name);
	SELECT string_agg(format('x.%1$I = y.%1$I', k), ' AND ') INTO match FROM unnest(d.key) k;
	CASE pick(3)
	WHEN 0 THEN
		EXECUTE format(CASE WHEN d.name = 'note' AND pick(2) = 0 THEN 'UPDATE note x SET gone = now() FROM note y WHERE y.id = ($1 ->> ''id'')::int AND %2$s'
			ELSE 'DELETE FROM %1$I x USING jsonb_populate_record(NULL::%1$I, $1) y WHERE %2$s' END, d.name, match) USING r;
	WHEN 1 THEN
		EXECUTE format('INSERT INTO %1$I (%2$s) SELECT %2$s FROM jsonb_populate_record(NULL::%1$I, $1)', d.name, (SELECT string_agg(k, ', ') FROM jsonb_object_keys(r) k)) USING r;
	ELSE
		EXECUTE format('UPDATE %1$I x SET %2$s FROM jsonb_populate_record(NULL::%1$I, $1) y WHERE %3$s', d.name,
			(SELECT string_agg(format('%1$I = y.%1$I', k), ', ') FROM jsonb_object_keys(r) k), match) USING r;
	END CASE;
EXCEPTION WHEN integrity_constraint_violation THEN
END $$;

-- The client: rows, and what it did to them: changed | deleted | pending. "sends": the values that it will give.
CREATE TABLE copy (dom text, key jsonb, data jsonb, change text, sends jsonb, PRIMARY KEY (dom, key));
CREATE FUNCTION happens_there() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	d t.dom; r jsonb; c t.copy; part jsonb;
BEGIN
	SELECT * INTO d FROM t.dom ORDER BY random() LIMIT 1;
	r := made_up(d.name);
	IF pick(3) = 0 THEN
		INSERT INTO t.copy VALUES (d.name, key_of(d.name, r), r, 'changed', r) ON CONFLICT DO NOTHING;
		RETURN;
	END IF;
	SELECT * INTO c FROM t.copy WHERE copy.dom = d.name ORDER BY random() LIMIT 1;
	CASE pick(6)
	WHEN 0, 1 THEN
		UPDATE t.copy SET change = 'deleted' WHERE copy.dom = d.name AND key = c.key;
	WHEN 2 THEN
		UPDATE t.copy SET change = 'pending' WHERE copy.dom = d.name AND key = c.key AND change IS NULL;
	ELSE
		r := r || c.key;
		SELECT coalesce(jsonb_object_agg(k, v), '{}') INTO part FROM jsonb_each(r) AS e (k, v) WHERE pick(2) = 0;
		UPDATE t.copy SET data = data || part, change = 'changed', sends = coalesce(CASE WHEN sends = data THEN data || part ELSE sends || part END, part)
			WHERE copy.dom = d.name AND key = c.key AND change IS DISTINCT FROM 'deleted';
	END CASE;
END $$;

CREATE FUNCTION ask(policy text) RETURNS jsonb LANGUAGE sql AS $$
	SELECT sync.reconcile(jsonb_build_object('client', 'c', 'policy', policy, 'domains', (SELECT jsonb_object_agg(d.name, jsonb_strip_nulls(jsonb_build_object('filter', d.filter, 'params', d.params))
		|| jsonb_build_object('rows', (SELECT coalesce(jsonb_agg(jsonb_build_object('key', c.key, 'modified_at', c.data -> 'modified_at', 'pending', c.change IS NOT NULL,
			'updated_at', (CASE WHEN pick(2) = 0 THEN '2001' ELSE '2998' END) || '-01-01T00:00:00Z',
			'deleted_at', CASE WHEN c.change = 'deleted' THEN (CASE WHEN pick(2) = 0 THEN '2001' ELSE '2998' END) || '-01-01T00:00:00Z' END,
			'data', CASE WHEN c.change = 'changed' THEN c.sends END)), '[]') FROM t.copy c WHERE c.dom = d.name))) FROM t.dom d))) $$;
CREATE FUNCTION apply(answer jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	d t.dom; a jsonb; e jsonb;
BEGIN
	FOR d IN SELECT * FROM t.dom LOOP
		a := answer -> 'domains' -> d.name;
		FOR e IN SELECT * FROM jsonb_array_elements((a -> 'remove') || (a -> 'deleted')) LOOP
			DELETE FROM t.copy c WHERE c.dom = d.name AND c.key = e;
		END LOOP;
		FOR e IN SELECT * FROM jsonb_array_elements(a -> 'stored') LOOP
			UPDATE t.copy c SET data = data || jsonb_build_object('modified_at', e -> 'modified_at'), change = NULL, sends = NULL WHERE c.dom = d.name AND c.key = e -> 'key';
		END LOOP;
		FOR e IN SELECT * FROM jsonb_array_elements(a -> 'upsert') LOOP
			INSERT INTO t.copy VALUES (d.name, key_of(d.name, e), e) ON CONFLICT ON CONSTRAINT copy_pkey DO UPDATE SET data = excluded.data, change = NULL, sends = NULL;
		END LOOP;
	END LOOP;
END $$;
-- What sync.changes gives from a cursor on, applied.
CREATE FUNCTION go_on(d t.dom, since text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	r record;
BEGIN
	FOR r IN SELECT * FROM sync.changes(d.name, since::sync.cursor, d.filter, (SELECT array_agg(p) FROM jsonb_array_elements_text(d.params) p)) LOOP
		IF r.op = 'reset' THEN RAISE 'a reset: %', r.data; END IF;
		IF r.op = 'remove' THEN DELETE FROM t.copy c WHERE c.dom = d.name AND c.key = r.key AND c.change IS NULL; END IF;
		IF r.op = 'upsert' THEN INSERT INTO t.copy VALUES (d.name, r.key, r.data) ON CONFLICT ON CONSTRAINT copy_pkey DO UPDATE SET data = excluded.data WHERE copy.change IS NULL; END IF;
	END LOOP;
END $$;
-- Rows that differ, but for those that the client still has to send.
CREATE FUNCTION differences(answer jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	d t.dom; found text; all_found text := '';
BEGIN
	FOR d IN SELECT * FROM t.dom LOOP
		EXECUTE format($q$SELECT string_agg(concat_ws(' ', %1$L, k, 'client', c.data, 'here', h.data), '; ') FROM
			(SELECT key_of(%1$L, to_jsonb(x)) AS k, to_jsonb(x) AS data FROM %1$I x WHERE %2$s) h
			FULL JOIN (SELECT key AS k, data FROM t.copy WHERE dom = %1$L) c USING (k)
			WHERE c.data IS DISTINCT FROM h.data AND NOT $1 @> jsonb_build_array(k)$q$, d.name,
			CASE d.name WHEN 'note' THEN 'gone IS NULL' WHEN 'place' THEN 'a % 2 = 1' ELSE 'true' END) INTO found USING answer #> ARRAY['domains', d.name, 'send'];
		all_found := all_found || coalesce(found, '');
	END LOOP;
	RETURN nullif(all_found, '');
END $$;
CREATE TABLE tally (list text, n bigint);
CREATE PROCEDURE rounds(seed numeric, n int) LANGUAGE plpgsql AS $$
DECLARE
	answer jsonb; wrong text; d t.dom;
BEGIN
	PERFORM setseed(seed::float8);
	FOR i IN 1 .. n LOOP
		PERFORM happens_here() FROM generate_series(1, 5 + pick(20));
		COMMIT;
		PERFORM happens_there() FROM generate_series(1, pick(15));
		COMMIT;
		answer := ask((ARRAY['reject', 'client_wins', 'newer_wins', 'merge'])[1 + pick(4)]);
		PERFORM apply(answer);
		COMMIT;
		wrong := differences(answer);
		IF wrong IS NOT NULL THEN RAISE 'seed %, round %: %', seed, i, wrong; END IF;
		INSERT INTO tally SELECT l, jsonb_array_length(v -> l) FROM jsonb_each(answer -> 'domains') AS e (k, v), unnest('{upsert,remove,stored,deleted,send,refused}'::text[]) l;
		-- on from the cursors, with what others did meanwhile
		PERFORM happens_here() FROM generate_series(1, pick(10));
		COMMIT;
		FOR d IN SELECT * FROM t.dom LOOP
			PERFORM go_on(d, answer #>> ARRAY['domains', d.name, 'cursor']);
		END LOOP;
		wrong := differences(answer);
		IF wrong IS NOT NULL THEN RAISE 'seed %, round %, from the cursor: %', seed, i, wrong; END IF;
		COMMIT;
	END LOOP;
END $$;
\if :{?seed} \else \set seed 0.25 \endif
\if :{?n} \else \set n 60 \endif
CALL rounds(:seed, :n);
SELECT is((SELECT string_agg(list, ' ' ORDER BY list) FROM (SELECT list FROM tally GROUP BY list HAVING sum(n) > 20) x), 'deleted refused remove send stored upsert', 'every list was needed');
SELECT is((SELECT count(*) FROM tally), :n * 30::bigint, 'all rounds were equal in the end');
SELECT * FROM finish();
DROP SCHEMA t CASCADE;
SELECT count(sync.forget_client(client)) AS forgotten FROM sync.device \gset
