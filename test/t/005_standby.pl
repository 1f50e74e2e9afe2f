# Reading on a hot standby: the same answers, or "retry", never a wrong one.
use strict;
use warnings;

use Test::More;
use SyncExt;

my $primary = SyncExt::new_node('primary', allows_streaming => 1, conf => "max_prepared_transactions = 5\nautovacuum = off\n");
$primary->start;
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->append_conf('postgresql.conf', "hot_standby_feedback = on\n");
$standby->start;
$primary->safe_psql('postgres', q{
	CREATE EXTENSION sync_ext;
	CREATE TABLE doc (id int PRIMARY KEY, team int, v int);
	SELECT sync.track('doc', scope => '{team}');
	INSERT INTO doc VALUES (1, 1, 0), (2, 2, 0), (3, 1, 0);
});
my $all = q{SELECT jsonb_build_object('id', id), to_jsonb(d) FROM doc d};

sub caught_up
{
	$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
	return;
}

# the same answers
caught_up();
my $client = SyncExt::client($standby, 'doc');
my $both = SyncExt::client($primary, 'doc');
is($client->sync, '+1 +2 +3', 'a first load on the standby');
is($client->difference($all), '', 'is the table');
$primary->safe_psql('postgres', 'UPDATE doc SET v = 1 WHERE id = 1; DELETE FROM doc WHERE id = 2');
caught_up();
is($client->sync, '-2 +1', 'a delta on the standby');
is($client->sync, '', 'nothing twice');
is($both->sync, '+1 +3', 'a first load on the primary');
caught_up();
is($both->sync(node => $standby), '', 'goes on on the standby');
$primary->safe_psql('postgres', 'UPDATE doc SET v = 2 WHERE id = 3');
is($both->sync, '+3', 'and on the primary');
caught_up();
is($both->sync(node => $standby), '', 'and again on the standby');
is($client->sync, '+3', 'as the other');

# transactions that run, with more savepoints than a snapshot holds
for my $depth (1, 3, 70)
{
	my $writer = SyncExt::session($primary);
	my $base = 1000 * $depth;
	$writer->query("BEGIN; INSERT INTO doc VALUES ($base, 1, 0)");
	$writer->query(join '; ', map { "SAVEPOINT s$_; INSERT INTO doc VALUES ($base + $_, 1, 0)" } 1 .. $depth);
	my $prepared = SyncExt::session($primary);
	$prepared->query("BEGIN; SAVEPOINT a; INSERT INTO doc VALUES ($base + 500, 2, 0); RELEASE a; PREPARE TRANSACTION 'p$depth'");
	$primary->safe_psql('postgres', "UPDATE doc SET v = v + 1 WHERE id = 1");
	$primary->safe_psql('postgres', 'CHECKPOINT');
	caught_up();
	is($client->sync, '+1', "$depth savepoints: what has committed");
	$primary->safe_psql('postgres', 'UPDATE doc SET v = v + 1 WHERE id = 3');
	caught_up();
	is($client->sync, '+3', "$depth savepoints: and what has committed since");
	my $fresh = SyncExt::client($standby, 'doc', args => q{'team = $1', '{1}'});
	$fresh->sync;
	$writer->query('COMMIT');
	caught_up();
	my $mine = join ' ', map { '+' . ($base + $_) } 0 .. $depth;
	is($client->sync, $mine, "$depth savepoints: the long transaction, when it commits");
	is($fresh->sync, $mine, "$depth savepoints: also after a first load beside it");
	$primary->safe_psql('postgres', "COMMIT PREPARED 'p$depth'");
	caught_up();
	is($client->sync, '+' . ($base + 500), "$depth savepoints: the prepared one, when it commits");
	is($client->difference($all), '', "$depth savepoints: the client holds the table");
	$both->sync;
	is($both->difference($all), '', "$depth savepoints: so does the one that changes nodes");
}

# a standby that is behind
$standby->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
$standby->poll_query_until('postgres', q{SELECT pg_get_wal_replay_pause_state() = 'paused'});
$primary->safe_psql('postgres', 'UPDATE doc SET v = 100 WHERE id = 1');
is($both->sync, '+1', 'the primary goes ahead');
is($both->sync(node => $standby), 'ERROR 40001', 'a standby that is behind says retry');
is($standby->safe_psql('postgres', "SELECT sync.wait_for('$both->{cursor}', '200 ms')"), 'f', 'wait_for gives up in time');
is($standby->safe_psql('postgres', "SELECT sync.wait_for('$client->{cursor}', '200 ms')"), 't', 'and waits for nothing that is there');
my $time = $both->copy;
$time->{cursor} = '2100-01-01T00:00:00Z';
is($time->sync(node => $standby), 'ERROR 40001', 'a time that the standby does not know says retry');
is($time->sync(node => $primary) =~ /^reset\(unknown_time\)/, 1, 'where the primary says reset');
my $waiter = SyncExt::session($standby);
$waiter->send("SELECT sync.wait_for('$both->{cursor}', '60 s')");
$standby->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');
is($waiter->wait, 't', 'wait_for ends when it has come');
is($both->sync(node => $standby), '', 'and then the standby answers');
is($primary->safe_psql('postgres', "SELECT sync.wait_for('$both->{cursor}', '0')"), 't', 'a primary has what it gave');
is($client->sync, '+1', 'the client that stays with the standby');

# an old snapshot there
my $old = SyncExt::session($standby);
$old->query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM doc');
$primary->safe_psql('postgres', 'UPDATE doc SET v = 200 WHERE id = 1');
caught_up();
is($client->sync, '+1', 'a new snapshot');
my $copy = $client->copy;
is($copy->sync(session => $old), 'ERROR 40001', 'an older one says retry');
$old->query('ROLLBACK');

# what a standby cannot do
my $s = SyncExt::session($standby);
is($s->query(q{SELECT sync.touch('doc', '{"id": 1}')}), 'ERROR 25006', 'no touch');
is($s->query(q{SELECT sync.reset('doc')}), 'ERROR 25006', 'no reset');
is($s->query(q{SELECT sync.prune()}), 'ERROR 25006', 'no prune');
like($s->query(q{SELECT sync.pull('{"domains": {"doc": {}}}') #>> '{domains,doc,state}'}), qr/^up-to-date$/, 'but pull');
like($s->query(q{SELECT sync.describe('doc') ->> 'type'}), qr/^object$/, 'and describe');
like($s->query(q{SELECT sync.current_cursor()}), qr/^c/, 'and current_cursor');
like($s->query(q{SELECT modified_at FROM sync.changes('doc') WHERE op = 'up-to-date'}), qr/^\d{4}-/, 'with the primary\'s time');

# comparing whole copies
my $held = q{'{"domains": {"doc": {"rows": [{"key": {"id": 424242}}]}}}'};
my $found = $s->query(qq{SELECT concat_ws(' ', jsonb_array_length(d -> 'upsert') = (SELECT count(*) FROM doc), d -> 'remove', d ->> 'cursor') FROM (SELECT sync.reconcile($held) #> '{domains,doc}' AS d) x});
like($found, qr/^t \[\{"id": 424242\}\] c\S+$/, 'reconcile, where the client changed nothing');
my $reconciled = $client->copy;
($reconciled->{cursor}) = $found =~ /(\S+)$/;
is($reconciled->sync, '', 'its cursor goes on there');
is($reconciled->sync(node => $primary), '', 'and on the primary');
is($s->query(q{SELECT sync.reconcile('{"domains": {"doc": {"rows": [{"key": {"id": 1}, "deleted_at": "2026-01-01T00:00:00Z"}]}}}')}), 'ERROR 25006', 'but nothing is written');
is($s->query(q{SELECT (SELECT f::text FROM sync.fingerprint('doc') f)}), $primary->safe_psql('postgres', q{SELECT f::text FROM sync.fingerprint('doc') f}), 'and fingerprint');

# resets and pruning arrive
$primary->safe_psql('postgres', 'TRUNCATE doc');
caught_up();
is($client->sync, 'reset(marker)', 'TRUNCATE');
$primary->safe_psql('postgres', 'INSERT INTO doc VALUES (1, 1, 1)');
caught_up();
is($client->sync, '+1', 'a row after it');
$primary->safe_psql('postgres', 'SELECT pg_sleep(1.1)');
$primary->safe_psql('postgres', 'UPDATE doc SET v = 2');
$primary->safe_psql('postgres', 'SELECT pg_sleep(1.1)');
$primary->safe_psql('postgres', 'UPDATE doc SET v = 3');
my $late = $client->copy;
caught_up();
is($client->sync, '+1', 'up to date');
cmp_ok($primary->safe_psql('postgres', q{SELECT sync.prune('0')}), '>', 0, 'pruned on the primary');
caught_up();
is($late->sync, 'reset(pruned) +1', 'a client that is too late');
is($client->sync, '', 'one that is not');
$_->stop for $standby, $primary;
done_testing();
