\set ECHO none
\i test/setup.sql
-- sync.reconcile_ids() compares the ids of a stream's entries, and answers as the protocol says.
SELECT plan(58);
CREATE SCHEMA t;
SET bytea_output = 'hex';

-- fingerprint: as the protocol describes it, of hashes that lie in a range.
CREATE FUNCTION t.fingerprint(hashes bytea[]) RETURNS bytea LANGUAGE plpgsql AS $$
DECLARE
	words bigint[]; word bigint; carry bigint := 0; sum bytea := ''; n int := coalesce(cardinality(hashes), 0); digits bytea := '';
BEGIN
	SELECT array_agg(s ORDER BY i) INTO words FROM (
		SELECT i, coalesce(sum(get_byte(h, 4 * i) + (get_byte(h, 4 * i + 1)::bigint << 8)
						 + (get_byte(h, 4 * i + 2)::bigint << 16) + (get_byte(h, 4 * i + 3)::bigint << 24)), 0)::bigint AS s
		  FROM generate_series(0, 7) i LEFT JOIN unnest(hashes) h ON true GROUP BY i) x;
	FOREACH word IN ARRAY words LOOP
		word := word + carry;
		carry := word >> 32;
		FOR j IN 0 .. 3 LOOP
			sum := sum || set_byte('\x00', 0, ((word >> 8 * j) & 255)::int);
		END LOOP;
	END LOOP;
	LOOP
		digits := set_byte('\x00', 0, (n & 127) | CASE WHEN digits = '' THEN 0 ELSE 128 END) || digits;
		n := n >> 7;
		EXIT WHEN n = 0;
	END LOOP;
	RETURN substr(sha256(sum || digits), 1, 16);
END $$;

CREATE FUNCTION t.hashes(stream text) RETURNS bytea[] LANGUAGE sql AS
$$ SELECT array_agg(hash ORDER BY hash) FROM sync.entry WHERE stream_id = (SELECT id FROM sync.streams s WHERE s.stream = hashes.stream) $$;

-- ask: a message with the fingerprints of these ranges of first bytes, which is to be answered with nothing.
CREATE FUNCTION t.ask(stream text, hashes bytea[], VARIADIC bounds int[] DEFAULT '{}') RETURNS bytea LANGUAGE plpgsql AS $$
DECLARE
	message bytea := '\x61'; low bytea := ''; high bytea;
BEGIN
	FOR i IN 1 .. coalesce(cardinality(bounds), 0) + 1 LOOP
		high := CASE WHEN i <= coalesce(cardinality(bounds), 0) THEN set_byte('\x0000', 0, bounds[i] >> 8) END;
		high := set_byte(high, 1, bounds[i] & 255);
		message := message || CASE WHEN high IS NULL THEN '\x0000'::bytea ELSE '\x0102'::bytea || high END || '\x01'
			|| t.fingerprint((SELECT array_agg(h) FROM unnest(hashes) h WHERE h >= low AND (high IS NULL OR h < high)));
		low := high;
	END LOOP;
	RETURN sync.reconcile_ids(stream, message);
END $$;

-- same: whole and in ranges, the stream has the hashes of its entries.
CREATE FUNCTION t.same(stream text, description text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
	RETURN NEXT is(ARRAY[t.ask(stream, t.hashes(stream)), t.ask(stream, t.hashes(stream), 1, 4000, 4001, 30000, 30010, 50000, 65535)],
				   ARRAY['\x61'::bytea, '\x61'], description);
END $$;

-- an empty stream, and a small one
SELECT sync.create_stream('s', 'opaque');
SELECT is(sync.reconcile_ids('s', '\x61'), '\x61', 'nothing asked, nothing answered');
SELECT is(sync.reconcile_ids('s', '\x6100000200'), '\x61', 'an empty stream and an empty set');
SELECT t.same('s', 'an empty stream');
SELECT count(*) AS n FROM sync.put('s', '{a}', '{x}') \gset
SELECT is(sync.reconcile_ids('s', '\x6100000200'), '\x6100000201'::bytea || sha256('a'), 'an id enters as its SHA-256');
SELECT is(sync.reconcile_ids('s', '\x6100000201'::bytea || sha256('a')), '\x61', 'both have it');
SELECT is(sync.reconcile_ids('s', '\x6100000201'::bytea || sha256('b')), '\x6100000201'::bytea || sha256('a'), 'each has another one');
SELECT count(*) AS n FROM sync.put('s', ARRAY['é', '世'], '{x,y}') \gset
SELECT is(t.ask('s', ARRAY[sha256('a'), sha256('\xc3a9'), sha256('\xe4b896')]), '\x61', 'of its UTF-8 bytes');
SELECT t.same('s', 'a small stream');
SELECT is((SELECT array_agg(id ORDER BY id COLLATE "C") FROM sync.ids_by_hash('s', ARRAY[sha256('\xe4b896'), sha256('nosuch'), NULL, sha256('a')])),
		  ARRAY['a', '世'], 'ids by their hashes');
SELECT is((SELECT hash FROM sync.ids_by_hash('s', ARRAY[sha256('a'), '\x', '\x00'])), sha256('a'), 'with the hash that was asked for');

-- a message that lacks one of ours is answered with that one, in a range that holds no other
CREATE FUNCTION t.lacking(stream text, nth int) RETURNS text LANGUAGE sql AS
$$ SELECT encode(t.ask(stream, h[1 : nth - 1] || h[nth + 1 :]), 'hex') FROM t.hashes(stream) h $$;
SELECT is(t.lacking('s', 2) LIKE '%' || encode((t.hashes('s'))[2], 'hex') || '%', true, 'the one that is missing there');
SELECT is(t.lacking('s', 2) ~ encode((t.hashes('s'))[1], 'hex'), false, 'and no other');

-- a large one: the sums are kept, and grow with it
SELECT sync.create_stream('large', 'opaque');
CREATE PROCEDURE t.fill(stream text, low int, high int) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN low .. high BY 500 LOOP
		PERFORM count(*) FROM sync.put(stream, (SELECT array_agg('id' || j) FROM generate_series(i, least(high, i + 499)) j),
										(SELECT array_agg('x'::bytea) FROM generate_series(i, least(high, i + 499)) j));
	END LOOP;
END $$;
CREATE FUNCTION t.sums(stream text) RETURNS text LANGUAGE sql AS
$$ SELECT bits || ' bits, ' || octet_length(sums) || ' bytes' FROM sync.journal_sums WHERE stream_id = (SELECT id FROM sync.streams s WHERE s.stream = sums.stream) $$;
CALL t.fill('large', 1, 3000);
SELECT is(t.sums('s'), NULL, 'a small stream has no sums');
SELECT t.same('large', '3000 ids');
CALL t.fill('large', 3001, 30000);
SELECT isnt(t.sums('large'), NULL, 'a large one has');
SELECT t.same('large', '30000 ids');
SELECT is((SELECT octet_length(sums) = 40 << bits AND 30000 >> bits BETWEEN 16 AND 128 FROM sync.journal_sums
			WHERE stream_id = (SELECT id FROM sync.streams WHERE stream = 'large')), true, 'a bucket for so many of them');
SELECT is(t.lacking('large', 12345) = '61' || encode(sync.reconcile_ids('large', '\x61'), 'hex'), false, 'one that is missing is seen');
SELECT is(t.ask('large', array_append(t.hashes('large'), sha256('other'))) = '\x61', false, 'one too many is seen');
CALL t.fill('large', 30001, 30001);
SELECT t.same('large', 'one after the sums');
BEGIN;
CALL t.fill('large', 40000, 60000);
SELECT t.same('large', 'in the transaction that appends');
SELECT t.sums('large') AS within \gset
SAVEPOINT a;
CALL t.fill('large', 60001, 70000);
SELECT t.same('large', 'in a subtransaction');
ROLLBACK TO a;
SELECT t.same('large', 'without the subtransaction');
CALL t.fill('large', 70001, 75000);
SELECT t.same('large', 'and on');
ROLLBACK;
SELECT t.same('large', 'without the transaction');
-- many in one statement, each in an append of its own
SELECT count((SELECT id FROM sync.put('large', ARRAY['one' || i], '{x}'))) AS n FROM generate_series(1, 20000) i \gset
SELECT is(:n, 20000, 'appends of one statement');
SELECT t.same('large', 'all of them count');
DELETE FROM sync.journal_sums;
SELECT t.same('large', 'without sums, as after a restore');
CALL t.fill('large', 80000, 100000);
SELECT isnt(t.sums('large'), NULL, 'appends make them again');
SELECT t.same('large', 'and they are right');
SELECT t.same('s', 'nobody else''s');

-- entries that go, and that are made of others
SELECT sync.create_stream('rolled', 'actions');
CREATE PROCEDURE t.act(low int, high int) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN low .. high BY 500 LOOP
		PERFORM count(*) FROM sync.append('rolled', (SELECT jsonb_agg(jsonb_build_object('id', 'e' || j, 'actions', jsonb_build_array(jsonb_build_object('id', 'a' || j))))
			FROM generate_series(i, least(high, i + 499)) j));
	END LOOP;
END $$;
CALL t.act(1, 20000);
SELECT t.same('rolled', 'before any goes');
SELECT max(at) FILTER (WHERE id = 'e6000') AS t1, max(at) FILTER (WHERE id = 'e12000') AS t2 FROM sync.entries('rolled') \gset
SELECT count(sync.combine('rolled', :'t1')) AS n \gset
SELECT is(cardinality(t.hashes('rolled')) BETWEEN 10000 AND 19000, true, 'combined');
SELECT t.same('rolled', 'after combine');
CALL t.act(20001, 26000);
SELECT t.same('rolled', 'combined and appended');
SELECT count(sync.snapshot('rolled', :'t2', '{"state": 1}')) AS n \gset
SELECT count(sync.trim('rolled')) AS n \gset
SELECT is(cardinality(t.hashes('rolled')) < 15000, true, 'trimmed');
SELECT t.same('rolled', 'after trim');
CALL t.act(26001, 40000);
SELECT t.same('rolled', 'trimmed and appended');

-- frames
SELECT is(octet_length(sync.reconcile_ids('large', '\x6100000200', 4096)) BETWEEN 3000 AND 4096, true, 'a frame limit');
SELECT is(octet_length(sync.reconcile_ids('large', '\x6100000200', 100000)) BETWEEN 90000 AND 100000, true, 'another frame limit');
SELECT is(octet_length(sync.reconcile_ids('large', '\x6100000200', NULL)), octet_length(sync.reconcile_ids('large', '\x6100000200', 0)), 'no frame limit');
SELECT helper.fails($$ SELECT sync.reconcile_ids('s', '\x61', 4095) $$, '22023', 'a frame too small to get anywhere');
SELECT helper.fails($$ SELECT sync.reconcile_ids('s', '\x61', -1) $$, '22023', 'less than nothing');
SELECT helper.fails($$ SELECT sync.reconcile_ids('s', '\x61', 2000000000) $$, '22023', 'more than is possible');

-- what is no message
SELECT is(sync.reconcile_ids('s', '\x62'), '\x61', 'another version is told which one is known');
SELECT is(sync.reconcile_ids('s', '\x60000000'), '\x61', 'an older one as well');
SELECT helper.refused($$ SELECT sync.reconcile_ids('s', '\x') $$, '22023', 'it is empty', 'an empty message');
SELECT helper.refused($$ SELECT sync.reconcile_ids('s', '\x61000003') $$, '22023', 'x61000003', 'an unknown mode');
SELECT helper.refused($$ SELECT sync.reconcile_ids('s', '\x6100000205') $$, '22023', '5 bytes', 'a list that is cut off');
SELECT helper.fails($$ SELECT sync.reconcile_ids('s', NULL) $$, '22004', 'no message');
SELECT helper.fails($$ SELECT sync.reconcile_ids(NULL, '\x61') $$, '22004', 'no stream');
SELECT helper.fails($$ SELECT sync.reconcile_ids('nosuch', '\x61') $$, '42704', 'a stream that does not exist');
SELECT helper.fails($$ SELECT sync.ids_by_hash('nosuch', '{}') $$, '42704', 'nor has it hashes');
SELECT helper.fails($$ SELECT sync.ids_by_hash('s', NULL) $$, '22004', 'no hashes');

-- rights
CREATE ROLE reconcile_nobody;
SET ROLE reconcile_nobody;
SELECT helper.fails($$ SELECT sync.reconcile_ids('s', '\x61') $$, '42501', 'who may not read');
SELECT helper.fails($$ SELECT sync.ids_by_hash('s', '{}') $$, '42501', 'asks for no ids either');
SELECT helper.fails($$ SELECT sums FROM sync.journal_sums $$, '42501', 'and the sums are nobody''s');
RESET ROLE;

SELECT sync.drop_stream('large');
SELECT sync.drop_stream('rolled');
SELECT is((SELECT count(*)::int FROM sync.journal_sums), 0, 'the sums go with the stream');
SELECT sync.drop_stream('s');
DROP SCHEMA t CASCADE;
DROP ROLE reconcile_nobody;
SELECT * FROM finish();
