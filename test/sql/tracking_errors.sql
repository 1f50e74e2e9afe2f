\set ECHO none
\i test/setup.sql
-- What cannot be tracked, and that the error says why and what to do.
BEGIN;
SELECT plan(56);
CREATE SCHEMA bad;
SET search_path = bad, public;
CREATE ROLE regress_sync_other;
GRANT USAGE ON SCHEMA bad TO regress_sync_other;

CREATE TABLE good (id int PRIMARY KEY, team int, note text, doc json, stamp text, flag int, modified_on date,
	uniq int UNIQUE, uniq_nn int NOT NULL UNIQUE, part_nn int NOT NULL);
CREATE UNIQUE INDEX ON good (part_nn) WHERE part_nn > 0;
CREATE TABLE nokey (id int, note text);
CREATE VIEW aview AS SELECT * FROM good;
CREATE MATERIALIZED VIEW amatview AS SELECT * FROM good;
CREATE FOREIGN DATA WRAPPER dummy;
CREATE SERVER dummy FOREIGN DATA WRAPPER dummy;
CREATE FOREIGN TABLE aforeign (id int NOT NULL) SERVER dummy;
CREATE SEQUENCE aseq;
CREATE TYPE acomposite AS (id int);
CREATE TEMP TABLE atemp (id int PRIMARY KEY);
CREATE UNLOGGED TABLE anunlogged (id int PRIMARY KEY);
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent);
CREATE TABLE master (id int PRIMARY KEY);
CREATE TABLE detail (id int PRIMARY KEY, a int REFERENCES master, b int REFERENCES master);
CREATE TABLE lone (id int PRIMARY KEY, master int);

SELECT helper.fails($$SELECT sync.track('nosuch')$$, '42P01', 'not a table');
SELECT helper.fails($$SELECT sync.track(0)$$, '42P01|42704|42809|22023', 'no relation at all');
SELECT helper.fails($$SELECT sync.track(4294967295::regclass)$$, '42P01', 'an oid that nobody has');
SELECT helper.refused($$SELECT sync.track('nokey')$$, '55000', 'nokey', 'no primary key');
SELECT helper.refused($$SELECT sync.track('aview')$$, '42809', 'aview', 'a view');
SELECT helper.refused($$SELECT sync.track('amatview')$$, '42809', 'amatview', 'a materialized view');
SELECT helper.refused($$SELECT sync.track('aforeign')$$, '42809', 'aforeign', 'a foreign table');
SELECT helper.refused($$SELECT sync.track('aseq')$$, '0A000|42809', 'aseq', 'a sequence');
SELECT helper.refused($$SELECT sync.track('good_pkey')$$, '42809', 'good_pkey', 'an index');
SELECT helper.refused($$SELECT sync.track('acomposite')$$, '42809', 'acomposite', 'a type');
SELECT helper.refused($$SELECT sync.track('atemp')$$, '0A000', 'atemp', 'a temporary table');
SELECT helper.refused($$SELECT sync.track('anunlogged')$$, '0A000', 'anunlogged', 'an unlogged table: a crash empties it');
SELECT helper.refused($$SELECT sync.track('parent')$$, '0A000', 'parent', 'an inheritance parent');
SELECT helper.refused($$SELECT sync.track('pg_class')$$, '42809|0A000|42501', 'pg_class', 'a catalog');
SELECT helper.refused($$SELECT sync.track('sync.tracked')$$, '42809|0A000|55000', 'tracked', 'a table of the extension');

SELECT helper.refused($$SELECT sync.track('good', scope => '{nosuch}')$$, '42703', 'nosuch', 'an unknown scope column');
SELECT helper.refused($$SELECT sync.track('good', scope => '{ctid}')$$, '42703|0A000|42809', 'ctid', 'a system column as scope');
SELECT helper.refused($$SELECT sync.track('good', scope => '{team,team}')$$, '42701|22023', 'team', 'a scope column twice');
SELECT helper.refused($$SELECT sync.track('good', scope => '{NULL}')$$, '22004|42703', '', 'a NULL among the scope columns');
SELECT helper.refused($$SELECT sync.track('good', scope => '{{team},{note}}')$$, '22023|2202E|42703', '', 'a matrix of scope columns');
SELECT helper.refused($$SELECT sync.track('good', scope => '{doc}')$$, '42883|42804|0A000|42704', 'doc', 'a scope column that cannot be compared');
SELECT helper.refused($$SELECT sync.track('good', scope => '{modified_at}')$$, '42703|42701|22023|0A000', 'modified_at', 'the stamp as scope');
SELECT helper.refused($$SELECT sync.track('good', key => '{nosuch}')$$, '42703', 'nosuch', 'an unknown key column');
SELECT helper.refused($$SELECT sync.track('good', key => '{}')$$, '22023|55000', '', 'an empty key');
SELECT helper.refused($$SELECT sync.track('good', key => '{team}')$$, '55000', 'team', 'a key that is not unique');
SELECT helper.refused($$SELECT sync.track('good', key => '{uniq}')$$, '55000', 'uniq', 'a key that may be NULL');
SELECT helper.refused($$SELECT sync.track('good', key => '{part_nn}')$$, '55000', 'part_nn', 'a key that is unique in part');
SELECT helper.refused($$SELECT sync.track('good', key => '{id,id}')$$, '42701|55000', 'id', 'a key column twice');
SELECT helper.refused($$SELECT sync.track('good', modified_at => 'stamp')$$, '42804', 'stamp', 'a modified_at that is text');
SELECT helper.refused($$SELECT sync.track('good', modified_at => 'modified_on')$$, '42804', 'modified_on', 'a modified_at of whole days');
SELECT helper.refused($$SELECT sync.track('good', modified_at => 'id')$$, '42804|22023', 'id', 'a modified_at that is the key');
SELECT helper.refused($$SELECT sync.track('good', deleted_at => 'nosuch')$$, '42703', 'nosuch', 'an unknown deleted_at');
SELECT helper.refused($$SELECT sync.track('good', deleted_at => 'flag')$$, '42804', 'flag', 'a deleted_at that is a number');
SELECT helper.refused($$SELECT sync.track('good', '')$$, '22023', '', 'an empty domain');
SELECT helper.refused($$SELECT sync.track('good', source => 'nokey')$$, '42809', 'nokey', 'a source that is a table');
CREATE VIEW keyless AS SELECT note FROM good;
CREATE VIEW definers AS SELECT id, note FROM good;
SELECT helper.refused($$SELECT sync.track('good', source => 'keyless')$$, '42703|42809|0A000|55000', 'keyless', 'a source without the key');
SELECT current_setting('server_version_num')::int >= 150000 AS has_invoker \gset
\if :has_invoker
SELECT helper.refused($$SELECT sync.track('good', source => 'definers')$$, '0A000|42809|55000|42501|22023', 'definers', 'a source with its owner''s rights');
\else
SELECT pass('a source with its owner''s rights');
\endif
SELECT is((SELECT count(*)::int FROM pg_trigger WHERE tgrelid = 'good'::regclass AND NOT tgisinternal), 0, 'a refusal leaves no trigger');
SELECT hasnt_column('bad', 'good', 'modified_at', 'and no column');

SELECT sync.track('good', 'taken');
SELECT helper.refused($$SELECT sync.track('good')$$, '42710', 'good', 'tracked twice');
SELECT helper.refused($$SELECT sync.track('master', 'taken')$$, '42710', 'taken', 'a domain that is taken');
SELECT helper.refused($$SELECT sync.untrack('master')$$, '42704', 'master', 'untrack of what is not tracked');
SELECT helper.refused($$SELECT sync.cascade('detail', 'master')$$, '42704|55000', 'master', 'a cascade to what is not tracked');
SELECT sync.track('master');
SELECT helper.refused($$SELECT sync.cascade('detail', 'master')$$, '42704|42725', 'detail', 'which of two foreign keys');
SELECT helper.refused($$SELECT sync.cascade('lone', 'master')$$, '42704|55000|42830', 'lone', 'no foreign key at all');
SELECT helper.refused($$SELECT sync.cascade('detail', 'master', '{nosuch}')$$, '42703', 'nosuch', 'a foreign key of unknown columns');
SELECT helper.refused($$SELECT sync.cascade('detail', 'master', '{a,b}')$$, '42830|22023|42804|55000|42704', '', 'a foreign key of more columns than the key');
SELECT helper.refused($$SELECT sync.uncascade('detail', 'master')$$, '42704', 'detail', 'uncascade of what does not cascade');

SELECT helper.refused($$SELECT sync.touch('nosuch', '{"id":1}')$$, '42704', 'nosuch', 'touch in an unknown domain');
SELECT helper.fails($$SELECT sync.touch('master', '{"id":"x"}')$$, '22P02', 'touch with a key of another type');
SELECT helper.refused($$SELECT sync.touch('master', '{}')$$, '22023', '', 'touch without a key');
SELECT helper.refused($$SELECT sync.touch('master', '[1]')$$, '22023', '', 'touch with an array');
SELECT helper.refused($$SELECT sync.reset('nosuch')$$, '42704', 'nosuch', 'reset of an unknown domain');

SET ROLE regress_sync_other;
SELECT helper.refused($$SELECT sync.track('bad.lone')$$, '42501', 'lone', 'somebody else''s table');
SELECT helper.refused($$SELECT sync.untrack('bad.master')$$, '42501', 'master', 'untrack somebody else''s table');
SELECT helper.refused($$SELECT sync.reset('master')$$, '42501', 'master', 'reset somebody else''s domain');
RESET ROLE;

SELECT * FROM finish();
ROLLBACK;
