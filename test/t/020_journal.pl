# Journals: what was shown survives a crash, journals are part of a dump, a
# standby tells the same or says retry, and a place that a failover lost is
# recognised.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use SyncExt;

# Nothing but commits and the extension shall flush WAL.
my $node = SyncExt::new_node('main', allows_streaming => 1, conf => q{
wal_writer_delay = 10s
checkpoint_timeout = 1h
autovacuum = off
max_prepared_transactions = 5
});
$node->start;
$node->safe_psql('postgres', q{
	CREATE EXTENSION sync_ext;
	SELECT sync.create_stream('s', 'actions'), sync.create_stream('o', 'opaque');
	CHECKPOINT;
});

sub append
{
	my ($id) = @_;
	return qq{SELECT status FROM sync.append('s', '[{"id": "$id", "actions": [{"id": "of $id"}]}]')};
}

# A client: what it was told since its place, in short.
sub client
{
	my ($on, $db) = @_;
	return { node => $on, db => $db // 'postgres', cursor => undef };
}

sub news
{
	my ($client, %options) = @_;
	my $after = defined $client->{cursor} ? "'$client->{cursor}'" : 'NULL';
	my $sql = qq{SELECT concat_ws(' ', kind, coalesce(regexp_replace(id, '^(sync:[a-z]*):.*', '\\1'), data ->> 'reason'), cursor) FROM sync.entries('s', $after)};
	my $rows;
	if ($options{session})
	{
		$rows = $options{session}->query($sql);
		return $rows if $rows =~ /^ERROR/;
	}
	else
	{
		my ($rc, $out, $err) = ($options{node} // $client->{node})->psql($options{db} // $client->{db}, "\\set VERBOSITY verbose\n$sql;");
		return $err =~ /ERROR:  (\w{5}):/ ? "ERROR $1" : "ERROR $err" if $err;
		$rows = $out;
	}
	my @said;
	for (split /\n/, $rows)
	{
		my ($kind, $what) = split / /;
		if ($kind eq 'up-to-date') { $client->{cursor} = $what; }
		elsif ($kind eq 'entry') { push @said, $what; }
		else { push @said, "$kind($what)"; }
	}
	return join ' ', @said;
}

sub crash
{
	my ($pid) = split /\n/, PostgreSQL::Test::Utils::slurp_file($node->data_dir . '/postmaster.pid');
	$node->kill9;
	for (1 .. 100)
	{
		last unless kill 0, $pid;
		select undef, undef, undef, 0.05;
	}
	for (1 .. 100)
	{
		return if $node->start(fail_ok => 1);
		select undef, undef, undef, 0.1;
	}
	die 'the node does not start again';
}

# ---- crash ----
my $client = client($node);
is(news($client), '', 'an empty stream');
my $writer = SyncExt::session($node);
$writer->query('SET synchronous_commit = off; ' . append('e1'));
is(news($client), 'e1', 'an asynchronous append is shown');
crash();
is($node->safe_psql('postgres', q{SELECT sync.entry_ids('s')}), 'e1', 'so it survives the crash');
is(news($client), '', 'the client has it');
$writer = SyncExt::session($node);
$writer->query('SET synchronous_commit = off; ' . append('e2'));
is($node->safe_psql('postgres', q{SELECT sync.entry_ids('s')}), "e1\ne2", 'its id alone is shown');
crash();
is(news($client), 'e2', 'and survives, too');
$writer = SyncExt::session($node);
$writer->query('SET synchronous_commit = off; ' . append('e3'));
like($node->safe_psql('postgres', q{SELECT id FROM sync.missing('s', '{e1,e2}') WHERE kind = 'entry'}), qr/^e3$/, 'missing shows it');
crash();
is(news($client), 'e3', 'which survives');
$writer = SyncExt::session($node);
# the commit log knows for 32 transactions together how far WAL must be flushed
$writer->query('SELECT pg_current_xact_id()') for 1 .. 64;
$writer->query('SET synchronous_commit = off; SELECT sync.combine(\'s\', at) FROM sync.entries(\'s\') WHERE id = \'e3\'');
my $fresh = client($node);
is(news($fresh), 'sync:entry', 'a combined entry is shown');
crash();
like($node->safe_psql('postgres', q{SELECT sync.entry_ids('s')}), qr/^sync:entry:\S+$/, 'and survives');
is(news($client), '', 'who had all has all');
is(news($fresh), '', 'and who had the combined one');
is($node->safe_psql('postgres', append('e2')), 'duplicate', 'its parts are known');

# ---- prepared transactions ----
my $prepared = SyncExt::session($node);
$prepared->query('BEGIN; ' . append('p1') . q{; PREPARE TRANSACTION 'p'});
is(news($client), '', 'a prepared append is not seen');
$writer = SyncExt::session($node);
$writer->send(append('e4'));
$node->poll_query_until('postgres', q{SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)});
is(news($client), '', 'and holds the stream');
$node->restart('immediate');
$writer = SyncExt::session($node);
$writer->send(append('e4'));
$node->poll_query_until('postgres', q{SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)});
$node->safe_psql('postgres', q{COMMIT PREPARED 'p'});
is($writer->wait, 'stored', 'also after a restart, until it is committed');
is(news($client), 'p1 e4', 'then both are told, in the order of their times');

# ---- dump and restore ----
$node->safe_psql('postgres', q{SELECT sync.snapshot('s', at, '"all"') FROM sync.entries('s') WHERE id = 'p1'; SELECT sync.trim('s');});
$node->safe_psql('postgres', append('e5'));
$node->safe_psql('postgres', q{SELECT sync.put('o', '{x}', '{"\\\\x00ff"}')});
$node->safe_psql('postgres', q{CREATE ROLE reader; GRANT SELECT ON sync.streams TO reader;
	CREATE POLICY only_o ON sync.streams TO reader USING (stream = 'o'); ALTER TABLE sync.streams ENABLE ROW LEVEL SECURITY});
$client = client($node);
my $contents = q{SELECT kind, id, at, data, bytes FROM sync.entries('s') UNION ALL SELECT kind, id, at, data, bytes FROM sync.entries('o')};
is(news($client), 'snapshot(sync:snapshot) e4 e5', 'before the dump');
my $before = $node->safe_psql('postgres', $contents);
my $dir = PostgreSQL::Test::Utils::tempdir();
$node->command_ok([ 'pg_dump', '-Fc', '-d', $node->connstr('postgres'), '-f', "$dir/custom" ], 'pg_dump');
$node->safe_psql('postgres', 'CREATE DATABASE copy');
$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr('copy'), "$dir/custom" ], 'pg_restore');
is($node->safe_psql('copy', $contents), $before, 'the journals are there');
is($node->safe_psql('copy', append('e1')), 'duplicate', 'ids are known, trimmed ones');
is($node->safe_psql('copy', append('e5')), 'duplicate', 'and others');
is($node->safe_psql('copy', append('e6')), 'stored', 'and new ones are stored');
is(news($client, db => 'copy'), 'reset(other_generation) snapshot(sync:snapshot) e4 e5 e6', 'a cursor of the old database is a reset');
my $all = $node->safe_psql('copy', 'SELECT sync.current_cursor()');
$node->safe_psql('copy', append('e7'));
my $unbound = client($node, 'copy');
$unbound->{cursor} = $all;
is(news($unbound), 'e7', 'transactions are those of the new database');
$node->safe_psql('copy', q{SELECT sync.create_stream('third', 'opaque')});
is($node->safe_psql('copy', 'SELECT count(DISTINCT id) = count(*), count(*) FROM sync.streams'), 't|3', 'streams get new numbers');
my ($rc, $out, $err) = $node->psql('copy', q{SET ROLE reader; SELECT count(*) FROM sync.entries('s')});
like($err, qr/row-level security of sync.streams was lost/, 'policies are not in a dump, so nobody is let through');
$node->safe_psql('copy', q{CREATE POLICY only_o ON sync.streams TO reader USING (stream = 'o'); ALTER TABLE sync.streams ENABLE ROW LEVEL SECURITY});
is($node->safe_psql('copy', q{SET ROLE reader; SELECT count(*) FROM sync.entries('o')}), '2', 'until they are made again');
($rc, $out, $err) = $node->psql('copy', q{SET ROLE reader; SELECT count(*) FROM sync.entries('s')});
like($err, qr/does not exist/, 'and then they decide');
is($node->safe_psql('copy', q{SELECT count(*) FROM sync.entry WHERE xid::text::int8 > pg_snapshot_xmax(pg_current_snapshot())::text::int8}), '0', 'no entry is of a transaction to come');

# ---- standby ----
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->append_conf('postgresql.conf', "hot_standby_feedback = on\n");
$standby->start;
my $caught_up = sub { $node->wait_for_catchup($standby, 'replay', $node->lsn('insert')); };
$client = client($standby);
news($client);
my $both = client($node);
news($both);
my $long = SyncExt::session($node);
$long->query('BEGIN; SAVEPOINT a; ' . append('s1') . '; RELEASE a');
$node->safe_psql('postgres', q{SELECT sync.put('o', '{y}', '{"\\\\x01"}')});
$caught_up->();
is(news($client), '', 'standby: an append that is not committed');
is($standby->safe_psql('postgres', q{SELECT count(*) FROM sync.entries('o') WHERE kind = 'entry'}), '2', 'another stream goes on');
$long->query('COMMIT');
$caught_up->();
is(news($client), 's1', 'it is told when it has committed');
is(news($both), 's1', 'and on the primary');
is(news($both, node => $standby), '', 'a place of the primary is one here');
my $s = SyncExt::session($standby);
is($s->query(append('s2')), 'ERROR 25006', 'no append');
is($s->query(q{SELECT sync.trim('s')}), 'ERROR 25006', 'no trim');
$standby->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
$standby->poll_query_until('postgres', q{SELECT pg_get_wal_replay_pause_state() = 'paused'});
$node->safe_psql('postgres', append('s2'));
is(news($both), 's2', 'the primary goes ahead');
my $time = $node->safe_psql('postgres', q{SELECT at FROM sync.entries('s') WHERE id = 's2'});
is(news($both, node => $standby), 'ERROR 40001', 'a standby that is behind says retry');
my $by_time = { node => $standby, db => 'postgres', cursor => $time };
is(news($by_time), 'ERROR 40001', 'to a time, too');
$standby->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');
is($standby->safe_psql('postgres', "SELECT sync.wait_for('$both->{cursor}', '60 s')"), 't', 'which can be waited for');
is(news($both, node => $standby), '', 'and then it answers');
$by_time->{cursor} = $time;
is(news($by_time), '', 'to the time, too');
is(news($client), 's2', 'as it does who stayed there');

# an old snapshot
my $old = SyncExt::session($node);
$old->query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM sync.streams');
$node->safe_psql('postgres', append('s3'));
is(news($both), 's3', 'a new snapshot');
my $copy = {%$both};
is(news($copy, session => $old), 'ERROR 40001', 'an older one says retry');
$old->query('ROLLBACK');

# ---- a failover that loses the tail ----
$caught_up->();
is(news($client), 's3', 'the standby has it');
$standby->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
$standby->poll_query_until('postgres', q{SELECT pg_get_wal_replay_pause_state() = 'paused'});
$standby->stop;
$node->safe_psql('postgres', append('lost'));
is(news($both), 'lost', 'an entry that one client was shown');
$node->stop('immediate');
$standby->start;
$standby->promote;
$standby->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()');
$standby->safe_psql('postgres', append('s4'));
is(news($client), 's4', 'who had not seen it goes on');
like(news($both, node => $standby), qr/^reset\(other_history\) snapshot\(sync:snapshot\) e4 e5 .*s4$/, 'who had is reset');
is($standby->safe_psql('postgres', q{SELECT id FROM sync.missing('s', ARRAY(SELECT sync.entry_ids('s')) || '{lost}'::text[]) WHERE kind = 'wanted'}), 'lost', 'and told that it is wanted');
is($standby->safe_psql('postgres', append('lost')), 'stored', 'so it can send it again');
is(news($client), 'lost', 'and everybody gets it');

$standby->stop;
done_testing();
