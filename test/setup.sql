-- Included first by every file of test/sql, so that these run alike under
-- pg_regress and pg_prove:  \i test/setup.sql  (from the top directory).
--
-- It leaves TAP output on, the two extensions in place, and in schema "helper"
-- a client that applies deltas the way an application would.
\set ECHO none
\set QUIET 1
\pset format unaligned
\pset tuples_only true
\pset pager off
\pset null ''

SET client_min_messages = warning;
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET intervalstyle = 'postgres';
SET extra_float_digits = 1;

CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS sync_ext;

CREATE SCHEMA IF NOT EXISTS helper;
GRANT USAGE ON SCHEMA helper TO PUBLIC;

-- What the clients of this session hold, and their cursors.
CREATE TEMP TABLE held (who text, key jsonb, data jsonb, PRIMARY KEY (who, key));
CREATE TEMP TABLE kept (who text PRIMARY KEY, c sync.cursor);
GRANT ALL ON held, kept TO PUBLIC;

-- refused: the command fails with an SQLSTATE that matches, with a detail and
-- a hint, and message or detail quote the culprit.
CREATE OR REPLACE FUNCTION helper.refused(command text, state text, quotes text, description text)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	got text; msg text; det text; hin text; good boolean;
BEGIN
	BEGIN
		EXECUTE command;
		RAISE 'success' USING ERRCODE = 'ZZ000';	-- and undo it
	EXCEPTION WHEN OTHERS THEN
		GET STACKED DIAGNOSTICS got = RETURNED_SQLSTATE, msg = MESSAGE_TEXT,
			det = PG_EXCEPTION_DETAIL, hin = PG_EXCEPTION_HINT;
	END;
	good := coalesce(got ~ ('^(' || state || ')$'), false)
		AND det <> '' AND hin <> ''
		AND position(coalesce(quotes, '') IN msg || E'\n' || det) > 0;
	RETURN ok(good, description) || CASE WHEN good THEN '' ELSE E'\n' ||
		diag(format(E'wanted %s, quoting "%s"\ngot %s: %s\ndetail: %s\nhint: %s',
			state, quotes, got, msg, det, hin)) END;
END $$;

-- fails: as above for errors that are the server's own; only the SQLSTATE counts.
CREATE OR REPLACE FUNCTION helper.fails(command text, state text, description text)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	got text; msg text; good boolean;
BEGIN
	BEGIN
		EXECUTE command;
	EXCEPTION WHEN OTHERS THEN
		GET STACKED DIAGNOSTICS got = RETURNED_SQLSTATE, msg = MESSAGE_TEXT;
	END;
	good := coalesce(got ~ ('^(' || state || ')$'), false);
	RETURN ok(good, description) || CASE WHEN good THEN '' ELSE E'\n' ||
		diag(format('wanted %s, got %s: %s', state, coalesce(got, 'success'), msg)) END;
END $$;

-- A key for people: its values, without the names.
CREATE OR REPLACE FUNCTION helper.short(key jsonb) RETURNS text LANGUAGE sql AS
$$ SELECT string_agg(value, ',' ORDER BY name) FROM jsonb_each_text(key) AS e(name, value) $$;

-- One page, applied to what "who" holds. The answer tells what it said:
-- ~scope forgotten, +key upserted, -key removed, "reset(reason)", " |" where
-- more follows; a "!" marks an answer of the wrong shape. With a user what the
-- client holds must carry the scope columns, so that it can forget.
CREATE OR REPLACE FUNCTION helper.page(who text, dom text, filter text DEFAULT NULL,
	params text[] DEFAULT NULL, client text DEFAULT NULL, exclude jsonb DEFAULT NULL,
	max_rows int DEFAULT NULL, user_id text DEFAULT NULL)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	r record; n int := 0; closed boolean := false; first_load boolean;
	head text := ''; tail text := ''; ups text[] := '{}'; rems text[] := '{}'; lost text[] := '{}';
	rows int := 0; named int := 0; since sync.cursor;
BEGIN
	SELECT k.c INTO since FROM kept k WHERE k.who = page.who;
	first_load := since IS NULL;
	FOR r IN SELECT * FROM sync.changes(dom, since, filter, params, page.user_id, page.client,
										page.exclude, page.max_rows)
	LOOP
		n := n + 1;
		IF closed THEN tail := tail || ' !row after the closing row'; END IF;
		IF (r.cursor IS NULL) <> (r.op NOT IN ('up-to-date', 'more')) THEN
			tail := tail || ' !cursor in ' || r.op;
		END IF;
		CASE r.op
		WHEN 'reset' THEN
			IF n > 1 THEN tail := tail || ' !late reset'; END IF;
			IF r.data ->> 'message' IS NULL OR r.data ->> 'hint' IS NULL THEN
				tail := tail || ' !reset without message and hint';
			END IF;
			head := 'reset(' || coalesce(r.data ->> 'reason', '!') || ')';
			first_load := true;
			DELETE FROM held h WHERE h.who = page.who
				AND NOT EXISTS (SELECT FROM jsonb_array_elements(page.exclude) e
								WHERE e - 'modified_at' = h.key);
		WHEN 'forget' THEN
			IF r.key IS NULL OR r.data IS NOT NULL OR user_id IS NULL THEN
				tail := tail || ' !forget with a row, or without a user';
			END IF;
			IF ups <> '{}' THEN tail := tail || ' !forget after an upsert'; END IF;
			IF first_load THEN tail := tail || ' !forget in a first load'; END IF;
			rows := rows + 1;
			lost := lost || ('~' || helper.short(r.key));
			DELETE FROM held h WHERE h.who = page.who AND h.data @> r.key;
		WHEN 'upsert' THEN
			IF r.key IS NULL OR r.data IS NULL OR r.modified_at IS NULL THEN
				tail := tail || ' !incomplete upsert';
			END IF;
			rows := rows + 1;
			ups := ups || ('+' || helper.short(r.key));
			INSERT INTO held VALUES (page.who, r.key, r.data)
				ON CONFLICT ON CONSTRAINT held_pkey DO UPDATE SET data = excluded.data;
		WHEN 'remove' THEN
			IF r.key IS NULL OR r.data IS NOT NULL THEN
				tail := tail || ' !remove with a row';
			END IF;
			IF EXISTS (SELECT FROM jsonb_array_elements(page.exclude) e WHERE e - 'modified_at' = r.key) THEN
				named := named + 1;
			ELSE
				rows := rows + 1;
			END IF;
			rems := rems || ('-' || helper.short(r.key));
			DELETE FROM held h WHERE h.who = page.who AND h.key = r.key;
		WHEN 'more', 'up-to-date' THEN
			closed := true;
			IF r.op = 'more' THEN
				tail := tail || ' |';
				rows := rows + named;	-- only the last page may have them in addition
			END IF;
			IF (r.op = 'more') <> (r.modified_at IS NULL) THEN
				tail := tail || ' !time at ' || r.op;
			END IF;
			INSERT INTO kept VALUES (page.who, r.cursor)
				ON CONFLICT ON CONSTRAINT kept_pkey DO UPDATE SET c = excluded.c;
		ELSE
			tail := tail || ' !op ' || coalesce(r.op, 'NULL');
		END CASE;
	END LOOP;
	IF NOT closed THEN tail := tail || ' !no closing row'; END IF;
	IF rows > page.max_rows THEN tail := tail || ' !too many rows'; END IF;
	IF first_load AND rems <> '{}' AND page.exclude IS NULL THEN
		tail := tail || ' !removals in a first load';
	END IF;
	-- numbers in the order of numbers
	SELECT array_agg(u ORDER BY length(u), u COLLATE "C") INTO ups FROM unnest(ups) u;
	SELECT array_agg(u ORDER BY length(u), u COLLATE "C") INTO rems FROM unnest(rems) u;
	SELECT array_agg(u ORDER BY length(u), u COLLATE "C") INTO lost FROM unnest(lost) u;
	RETURN btrim(concat_ws(' ', nullif(head, ''), array_to_string(lost, ' '), array_to_string(rems, ' '),
						   array_to_string(ups, ' '), nullif(btrim(tail), '')));
END $$;

-- Pages until up to date.
CREATE OR REPLACE FUNCTION helper.sync(who text, dom text, filter text DEFAULT NULL,
	params text[] DEFAULT NULL, client text DEFAULT NULL, exclude jsonb DEFAULT NULL,
	max_rows int DEFAULT NULL, user_id text DEFAULT NULL)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	answer text := ''; p text;
BEGIN
	FOR i IN 1 .. 1000 LOOP
		p := helper.page(who, dom, filter, params, client, exclude, max_rows, user_id);
		answer := answer || p || ' ';
		EXIT WHEN p !~ '\|';
	END LOOP;
	RETURN regexp_replace(btrim(answer), ' +', ' ', 'g');
END $$;

-- same: what "who" holds is what the query (of one jsonb column) selects.
CREATE OR REPLACE FUNCTION helper.same(who text, query text, description text)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	missing jsonb; extra jsonb; good boolean;
BEGIN
	EXECUTE format('SELECT jsonb_agg(d) FROM (SELECT * FROM (%s) AS q(d)
		EXCEPT ALL SELECT data FROM held WHERE who = %L) AS x', query, who) INTO missing;
	EXECUTE format('SELECT jsonb_agg(d) FROM (SELECT data AS d FROM held WHERE who = %L
		EXCEPT ALL SELECT * FROM (%s) AS q(d)) AS x', who, query) INTO extra;
	good := missing IS NULL AND extra IS NULL;
	RETURN ok(good, description) || CASE WHEN good THEN '' ELSE E'\n' ||
		diag(format(E'missing: %s\ntoo many: %s', missing, extra)) END;
END $$;

-- The outcome of a command: its SQLSTATE, or ''.
CREATE OR REPLACE FUNCTION helper.outcome(command text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE command;
	RETURN '';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE;
END $$;
