\set ECHO none
\i test/setup.sql
-- A change of a detail is a change of its master: never missed, never twice, whatever the writer can see.
CREATE SCHEMA t;
SET search_path = t, public;
SELECT plan(43);
CREATE FUNCTION pg_temp.updates(rel regclass) RETURNS bigint LANGUAGE sql AS $$ SELECT pg_stat_get_xact_tuples_updated(rel) $$;

-- three levels
CREATE TABLE company (id int PRIMARY KEY, name text);
CREATE TABLE project (id int PRIMARY KEY, company int REFERENCES company ON DELETE CASCADE, name text);
CREATE TABLE task (id int PRIMARY KEY, project int REFERENCES project ON DELETE CASCADE, name text);
SELECT sync.track('company');
SELECT sync.track('project');
SELECT sync.cascade('project', 'company');
SELECT sync.cascade('task', 'project');
INSERT INTO company VALUES (1, 'A'), (2, 'B'), (3, 'C');
INSERT INTO project VALUES (1, 1, 'a'), (2, 2, 'b'), (3, NULL, 'none');
SELECT helper.sync('c', 'company'), helper.sync('p', 'project') \g /dev/null
INSERT INTO task VALUES (1, 1, 'x');
SELECT is(helper.sync('p', 'project'), '+1', 'a detail inserted, of a table that is not tracked itself');
SELECT is(helper.sync('c', 'company'), '+1', 'and the master''s master');
SELECT helper.same('c', 'SELECT to_jsonb(c) FROM t.company c', 'with its new stamp');
UPDATE task SET name = 'y';
SELECT is(helper.sync('c', 'company'), '+1', 'a detail updated');
UPDATE task SET name = 'y', id = id;
SELECT is(helper.sync('c', 'company'), '', 'a detail updated to what it was');
UPDATE task SET project = 2;
SELECT is(helper.sync('p', 'project'), '+1 +2', 'a detail moved touches the old master and the new');
SELECT is(helper.sync('c', 'company'), '+1 +2', 'and theirs');
UPDATE task SET project = NULL;
SELECT is(helper.sync('p', 'project'), '+2', 'a detail moved to nowhere touches the old');
INSERT INTO task VALUES (2, NULL, 'lone');
SELECT is(helper.sync('p', 'project'), '', 'a detail of nobody touches nobody');
UPDATE task SET project = 1;
SELECT is(helper.sync('p', 'project'), '+1', 'a detail moved from nowhere touches the new');
DELETE FROM task WHERE id = 1;
SELECT is(helper.sync('p', 'project'), '+1', 'a detail deleted');
BEGIN;
SAVEPOINT s;
INSERT INTO task VALUES (3, 2, 'z');
ROLLBACK TO s;
COMMIT;
SELECT is(helper.sync('p', 'project'), '', 'rolled back to a savepoint: no master is touched');
BEGIN;
SAVEPOINT s;
INSERT INTO task VALUES (3, 2, 'z');
ROLLBACK TO s;
INSERT INTO task VALUES (3, 2, 'z');
COMMIT;
SELECT is(helper.sync('p', 'project'), '+2', 'done again after the rollback: it is');
BEGIN;
INSERT INTO task VALUES (4, 2, 'z');
SAVEPOINT s;
INSERT INTO task VALUES (5, 2, 'z');
ROLLBACK TO s;
COMMIT;
SELECT is(helper.sync('p', 'project'), '+2', 'touched before the savepoint: so it stays');
SELECT helper.sync('c', 'company') \g /dev/null
DELETE FROM project WHERE id = 2;
SELECT is(helper.sync('p', 'project'), '-2', 'a master deleted with its details');
SELECT is(helper.sync('c', 'company'), '+2', 'touches its own');
DELETE FROM company WHERE id = 1;
SELECT is(helper.sync('c', 'company'), '-1', 'the top deleted');
SELECT is(helper.sync('p', 'project'), '-1', 'with what hung on it');

-- cost: each master once in a transaction
INSERT INTO project VALUES (4, 3, 'd');
SELECT helper.sync('c', 'company'), helper.sync('p', 'project') \g /dev/null
BEGIN;
SELECT pg_temp.updates('project') AS projects, pg_temp.updates('company') AS companies \gset
INSERT INTO task SELECT g, 4, 'bulk' FROM generate_series(100, 10099) g;
UPDATE task SET name = 'more' WHERE project = 4;
INSERT INTO task VALUES (99999, 4, 'one more');
SELECT is(pg_temp.updates('project') - :projects, 1::bigint, 'ten thousand details touch a master once');
SELECT is(pg_temp.updates('company') - :companies, 1::bigint, 'and its master once');
COMMIT;
SELECT is(helper.sync('p', 'project'), '+4', 'and the client gets it');
BEGIN;
INSERT INTO task SELECT g, 4, 'bulk' FROM generate_series(20000, 20010) g;
UPDATE project SET name = 'changed after the touch' WHERE id = 4;
COMMIT;
SELECT is(helper.sync('p', 'project'), '+4', 'a master changed after its touch');
SELECT helper.same('p', 'SELECT to_jsonb(p) FROM t.project p', 'is delivered as it is');
SELECT is((SELECT count(*)::int FROM task WHERE project = 4), 10012, 'and the details are all there');
DROP TABLE task, project, company;

-- two masters of one detail, one of them twice
CREATE TABLE person (id int PRIMARY KEY);
CREATE TABLE team (id int PRIMARY KEY);
CREATE TABLE member (team int REFERENCES team, person int REFERENCES person, proxy int REFERENCES person, PRIMARY KEY (team, person));
SELECT sync.track('person');
SELECT sync.track('team');
SELECT sync.cascade('member', 'team');
SELECT sync.cascade('member', 'person', '{person}');
SELECT sync.cascade('member', 'person', '{proxy}');
INSERT INTO person VALUES (1), (2), (3);
INSERT INTO team VALUES (1), (2);
SELECT helper.sync('person', 'person'), helper.sync('team', 'team') \g /dev/null
INSERT INTO member VALUES (1, 1, 2);
SELECT is(helper.sync('team', 'team'), '+1', 'two masters: the first');
SELECT is(helper.sync('person', 'person'), '+1 +2', 'and the second, through either foreign key');
UPDATE member SET proxy = 3;
SELECT is(helper.sync('person', 'person'), '+1 +2 +3', 'one foreign key moved: the old, the new, and the other''s');
SELECT sync.uncascade('member', 'team');
SELECT helper.sync('team', 'team') \g /dev/null
DELETE FROM member;
SELECT is(helper.sync('team', 'team'), '', 'uncascaded: touched no more');
SELECT is(helper.sync('person', 'person'), '+1 +3', 'the other stays');
DROP TABLE member, team, person;

-- a table under itself, and a ring
CREATE TABLE item (id int PRIMARY KEY, parent int REFERENCES item, v int);
SELECT sync.track('item');
SELECT sync.cascade('item', 'item');
INSERT INTO item VALUES (1, NULL, 0), (2, 1, 0), (3, 2, 0), (4, 3, 0), (5, 1, 0);
SELECT helper.sync('i', 'item') \g /dev/null
UPDATE item SET v = 1 WHERE id = 4;
SELECT is(helper.sync('i', 'item'), '+1 +2 +3 +4', 'a self reference climbs to the root');
UPDATE item SET parent = 4 WHERE id = 1;
SELECT helper.sync('i', 'item') \g /dev/null
UPDATE item SET v = 2 WHERE id = 3;
SELECT is(helper.sync('i', 'item'), '+1 +2 +3 +4', 'a cycle of rows ends by itself');
DROP TABLE item;
CREATE TABLE ring_a (id int PRIMARY KEY, b int, v int);
CREATE TABLE ring_b (id int PRIMARY KEY, a int REFERENCES ring_a, v int);
ALTER TABLE ring_a ADD FOREIGN KEY (b) REFERENCES ring_b;
SELECT sync.track('ring_a');
SELECT sync.track('ring_b');
SELECT sync.cascade('ring_a', 'ring_b');
SELECT sync.cascade('ring_b', 'ring_a');
INSERT INTO ring_a VALUES (1, NULL, 0);
INSERT INTO ring_b VALUES (1, 1, 0);
UPDATE ring_a SET b = 1;
SELECT helper.sync('a', 'ring_a'), helper.sync('b', 'ring_b') \g /dev/null
UPDATE ring_a SET v = 1;
SELECT is(helper.sync('a', 'ring_a') || helper.sync('b', 'ring_b'), '+1+1', 'a cycle of tables ends by itself');
ALTER TABLE ring_a DROP CONSTRAINT ring_a_b_fkey;
DROP TABLE ring_b, ring_a;

-- the writer need not see, nor be allowed to write, the master
CREATE ROLE regress_sync_writer;
GRANT USAGE ON SCHEMA t TO regress_sync_writer;
CREATE TABLE secret (id int PRIMARY KEY, owner text, v int);
CREATE TABLE note (id int PRIMARY KEY, secret int REFERENCES secret, v int);
ALTER TABLE secret ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON secret USING (owner = current_user);
SELECT sync.track('secret');
SELECT sync.cascade('note', 'secret');
GRANT ALL ON note TO regress_sync_writer;
GRANT SELECT ON secret TO regress_sync_writer;
INSERT INTO secret VALUES (1, 'nobody', 0), (2, 'nobody', 0);
SELECT helper.sync('s', 'secret') \g /dev/null
SET ROLE regress_sync_writer;
SELECT is_empty('SELECT * FROM t.secret', 'a writer who does not see the masters');
SELECT lives_ok('INSERT INTO t.note VALUES (1, 1, 0)', 'nor may update them');
SELECT is(current_user, 'regress_sync_writer', 'writes a detail');
RESET ROLE;
SELECT is(helper.sync('s', 'secret'), '+1', 'and touches its master all the same');
SET session_replication_role = replica;
UPDATE note SET v = 1;
SET session_replication_role = origin;
SELECT is(helper.sync('s', 'secret'), '+1', 'a replicated detail does so, too');
DROP TABLE note, secret;

-- composite foreign keys, in another order; partitioned details
CREATE TABLE wide (a int, b text, c int, PRIMARY KEY (a, b, c));
CREATE TABLE deep (id int, c int, b text, a int, PRIMARY KEY (id, a), FOREIGN KEY (c, a, b) REFERENCES wide (c, a, b)) PARTITION BY LIST (a);
CREATE TABLE deep_1 PARTITION OF deep FOR VALUES IN (1);
CREATE TABLE deep_2 PARTITION OF deep FOR VALUES IN (2);
SELECT sync.track('wide');
SELECT sync.cascade('deep', 'wide');
INSERT INTO wide VALUES (1, 'x', 1), (1, 'y', 1), (2, 'x', 1);
SELECT helper.sync('w', 'wide') \g /dev/null
INSERT INTO deep VALUES (1, 1, 'y', 1);
SELECT is(helper.sync('w', 'wide'), '+1,y,1', 'a composite foreign key names its one master');
UPDATE deep SET a = 2, b = 'x';
SELECT is(helper.sync('w', 'wide'), '+1,y,1 +2,x,1', 'a detail moved to another partition and master');
INSERT INTO deep_1 VALUES (2, 1, 'x', 1);
SELECT is(helper.sync('w', 'wide'), '+1,x,1', 'a detail written to its partition directly');
INSERT INTO deep VALUES (3, NULL, 'x', 1);
SELECT is(helper.sync('w', 'wide'), '', 'a foreign key with a NULL names no master');
DROP TABLE deep, wide;

-- a deferred master that comes later in the same transaction
CREATE TABLE late (id int PRIMARY KEY, v int);
CREATE TABLE early (id int PRIMARY KEY, late int REFERENCES late DEFERRABLE INITIALLY DEFERRED);
SELECT sync.track('late');
SELECT sync.cascade('early', 'late');
SELECT helper.sync('l', 'late') \g /dev/null
BEGIN;
INSERT INTO early VALUES (1, 1);
INSERT INTO late VALUES (1, 1);
COMMIT;
SELECT is(helper.sync('l', 'late'), '+1', 'a master that comes after its detail');
SELECT helper.same('l', 'SELECT to_jsonb(l) FROM t.late l', 'is delivered as it is');

SELECT * FROM finish();
DROP SCHEMA t CASCADE;
DROP ROLE regress_sync_writer;
