# The worker without preloading: started by hand, it polls.
use strict;
use warnings;

use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;
use SyncExt;

my $node = SyncExt::new_node('main', conf => q{
max_prepared_transactions = 5
restart_after_crash = on
sync.notify = 'worker'
sync.prune_every = 1d
});
$node->start;
$node->safe_psql('postgres', q{
	CREATE EXTENSION sync_ext;
	CREATE ROLE nobody LOGIN;
	CREATE ROLE watcher LOGIN;
	GRANT pg_monitor TO watcher;
	CREATE TABLE doc (id int PRIMARY KEY, v int);
	CREATE TABLE part (id int PRIMARY KEY, doc int REFERENCES doc, v int);
	CREATE TABLE untracked (id int);
	SELECT sync.track('doc');
	SELECT sync.track('part', 'part "of" it');
	SELECT sync.cascade('part', 'doc');
});
my $part = 'part "of" it';
my ($listener, $writer);

sub connect_anew
{
	$_ && $_->quit for $listener, $writer;
	$listener = SyncExt::session($node);
	$writer = SyncExt::session($node);
	$listener->query('LISTEN sync');
	return;
}

# What comes, until nothing has come for a while, longer than the worker waits.
sub pending
{
	my ($patience) = @_;
	my %by;
	my $until = time() + $patience;
	for (my $silent = 0; $silent < 5 || (!%by && time() < $until); $silent++)
	{
		for ($listener->notifications)
		{
			my $p = decode_json($_->[1]);
			push @{ $by{ $p->{domain} } }, $p;
			$silent = 0;
		}
		select undef, undef, undef, 0.1;
	}
	return \%by;
}

# Something is to come.
sub events { return pending(20); }

sub drain { pending(0); return; }

sub total
{
	my ($events, $domain) = @_;
	my $sum = 0;
	$sum += $_->{count} for @{ $events->{$domain} // [] };
	return $sum;
}

sub is_look
{
	my ($what) = @_;
	my $e = events();
	is_deeply([ sort keys %$e ], [ 'doc', $part ], "$what: every domain is named");
	is_deeply($e->{doc}, [ { domain => 'doc', count => 0, xid => 0, origin => undef } ], "$what: once, with nothing to tell");
	return;
}

sub is_silent
{
	my ($what) = @_;
	is_deeply(pending(1), {}, "$what: nothing");
	return;
}

sub worker { my ($column) = @_; return $node->safe_psql('postgres', "SELECT $column FROM sync.workers"); }

sub becomes
{
	my ($column, $expected, $what) = @_;
	ok($node->poll_query_until('postgres', "SELECT ($column)::text FROM sync.workers", $expected), $what);
	return;
}

# The library defines the settings, so it has to be there.
sub settings
{
	$node->safe_psql('postgres', join ';', 'SELECT sync.current_cursor()', map { "ALTER SYSTEM $_" } @_);
	$node->reload;
	return;
}

connect_anew();

# negatives first
is($writer->query('SET ROLE nobody; SELECT sync.start_worker()'), 'ERROR 42501', 'not everybody may start one');
is($writer->query('SELECT sync.stop_worker()'), 'ERROR 42501', 'nor stop one');
is($writer->query('SELECT * FROM sync.workers'), 'ERROR 42501', 'nor look');
is($writer->query('SELECT * FROM sync.worker_state'), 'ERROR 42501', 'nor see its table');
is($writer->query('SELECT sync.launch_worker()'), 'ERROR 42501', 'nor go behind it');
is($writer->query('RESET ROLE; SELECT sync.stop_worker()'), 'f', 'none to stop');
is($writer->query('SET ROLE watcher; SELECT running, pid, preloaded, listed, started_at FROM sync.workers'), 'f||f|f|', 'none to see, for those who monitor');
is($writer->query('RESET ROLE; SELECT count(*) FROM sync.workers'), '1', 'which is one row');
$writer->query('INSERT INTO doc VALUES (1, 0)');
is_silent('mode worker without a worker');

# started
is($writer->query('SELECT sync.start_worker()'), 't', 'started');
is_look('a start');
is($writer->query('SELECT sync.start_worker()'), 'f', 'there is one already');
is(worker('running AND pid IS NOT NULL AND NOT preloaded AND NOT listed AND started_at IS NOT NULL'), 't', 'the view shows it');
is($writer->query('SET ROLE watcher; SELECT running, looked_at IS NOT NULL FROM sync.workers; RESET ROLE'), 't|t', 'to those who monitor as well');

# what it tells
$writer->query('INSERT INTO doc VALUES (2, 0), (3, 0), (4, 0)');
my $e = events();
is_deeply([ keys %$e ], ['doc'], 'a change: its domain');
is(total($e, 'doc'), 3, 'rows are counted');
is_deeply([ sort keys %{ $e->{doc}[0] } ], [qw(count domain origin xid)], 'the members of an event');
my $xid = $writer->query('BEGIN; SELECT pg_current_xact_id(); UPDATE doc SET v = 1 WHERE id = 2; COMMIT');
is(events()->{doc}[0]{xid}, $xid, 'the transaction');
$writer->query("BEGIN; SELECT set_config('sync.client', 'phone \"1\"', true); UPDATE doc SET v = 2 WHERE id = 2; COMMIT");
is(events()->{doc}[0]{origin}, 'phone "1"', 'its author');
$writer->query('BEGIN; INSERT INTO part VALUES (1, 1, 1); SAVEPOINT a; UPDATE part SET v = 2; ROLLBACK TO a; COMMIT');
is_deeply([ sort keys %{ events() } ], [ 'doc', $part ], 'a detail and its master');
$writer->query('TRUNCATE part');
$e = events();
ok($e->{$part}[0]{reset}, 'TRUNCATE is a reset');
ok($e->{doc}[0]{reset}, 'of the master, too');
$writer->query("SELECT sync.touch('doc', '{\"id\": 2}')");
is(total(events(), 'doc'), 1, 'touch');
$writer->query("SELECT sync.reset('doc')");
ok(events()->{doc}[0]{reset}, 'reset');
$writer->query('BEGIN; UPDATE doc SET v = 5; ROLLBACK');
$writer->query('BEGIN; SAVEPOINT a; UPDATE doc SET v = 5; ROLLBACK TO a; COMMIT');
$writer->query('UPDATE doc SET v = v; INSERT INTO untracked VALUES (1)');
is_silent('rollbacks, no changes, other tables');

# what committed nowhere near the worker
$writer->query("BEGIN; UPDATE doc SET v = 6 WHERE id = 1; PREPARE TRANSACTION 'p'");
is_silent('PREPARE');
$writer->query("COMMIT PREPARED 'p'");
is(total(events(), 'doc'), 1, 'COMMIT PREPARED');
$writer->query('SET session_replication_role = replica; UPDATE doc SET v = 7, modified_at = now() WHERE id = 1; RESET session_replication_role');
is(total(events(), 'doc'), 1, 'a replicated change');

# late commits
my $late = SyncExt::session($node);
$late->query('BEGIN; UPDATE doc SET v = 8 WHERE id = 1');
$writer->query("UPDATE doc SET v = 100 + $_ WHERE id = 2") for 1 .. 20;
is(total(events(), 'doc'), 20, 'twenty commits, however they are put together');
$late->query('COMMIT');
is(total(events(), 'doc'), 1, 'one that began before them and committed after');
$late->quit;

# settings
settings('SET sync.notify_keys = on', "SET sync.channel = 'elsewhere'");
$listener->query('LISTEN elsewhere');
$writer->query('SELECT pg_sleep(0.5)');
$writer->query('UPDATE doc SET v = 9 WHERE id = 3');
my ($n) = grep { defined } map { select undef, undef, undef, 0.1; $listener->notifications } 1 .. 10;
is($n->[0], 'elsewhere', 'the channel is followed');
is_deeply(decode_json($n->[1])->{keys}, [ { id => 3 } ], 'and keys are named');
settings('RESET ALL');
$writer->query('SELECT pg_sleep(0.5)');
drain();
settings("SET sync.notify = 'commit'");
select undef, undef, undef, 1.5;
$writer->query('UPDATE doc SET v = 10 WHERE id = 3');
is(scalar @{ events()->{doc} }, 1, 'mode commit: the worker adds nothing');
is(worker('running'), 't', 'though it runs');
settings('RESET ALL');
is_look('mode worker again');

# something fails: here a lock is not to be had
my $blocker = SyncExt::session($node);
$blocker->query('BEGIN; LOCK TABLE sync.change_log');
$writer->query('SET lock_timeout = 0');
becomes('failure', 'canceling statement due to lock timeout', 'a failure is shown');
$blocker->query('COMMIT');
$writer->query('UPDATE doc SET v = 11 WHERE id = 3');
is(total(events(), 'doc'), 1, 'and when it has passed nothing is lost');
$blocker->quit;
is(worker('running'), 't', 'the worker lives');

# pruning, when it is due
$node->safe_psql('postgres', q{UPDATE sync.tick SET at = at - interval '30 days'});
settings("SET sync.prune_every = '1s'");
becomes('pruned > 0', 'true', 'prunes what is old');
my $log = $node->safe_psql('postgres', q{SELECT 'sync.log_' || 'doc'::regclass::oid});
is($node->safe_psql('postgres', "SELECT count(*) FROM $log WHERE xid::text::int8 < $xid"), '0', 'it is gone');
settings('SET sync.prune_every = 0');
$node->safe_psql('postgres', q{UPDATE doc SET v = 12; UPDATE sync.tick SET at = at - interval '30 days'});
select undef, undef, undef, 2;
isnt($node->safe_psql('postgres', "SELECT count(*) FROM $log"), '0', 'zero turns it off');
settings('RESET ALL');
drain();

# silent application servers
$node->safe_psql('postgres', q{SELECT sync.heartbeat('silent'), sync.connect('phone', 'ada', 'silent'), sync.connect('tablet', 'ada')});
settings("SET sync.server_timeout = '1s'");
ok($node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM sync.server WHERE server = 'silent'}), 'a silent server is forgotten');
is($node->safe_psql('postgres', q{SELECT string_agg(client, ' ') FROM sync.client}), 'tablet', 'with its clients');
settings('RESET ALL');
drain();

# stopped
is($writer->query('SELECT sync.stop_worker()'), 't', 'stopped');
is($writer->query('SELECT sync.stop_worker()'), 'f', 'only once');
is(worker('running'), 'f', 'the view shows it');
$writer->query('UPDATE doc SET v = 13 WHERE id = 3');
is_silent('nobody tells');
my @many = map { SyncExt::session($node) } 1 .. 4;
$_->send('SELECT sync.start_worker()') for @many;
is_deeply([ sort map { $_->wait } @many ], [qw(f f f t)], 'of four that start one, one does');
$_->quit for @many;
is_look('a new one, which knows of no past,');
$node->safe_psql('postgres', 'SELECT pg_terminate_backend(pid) FROM sync.workers');
becomes('running', 'false', 'pg_terminate_backend ends it');
select undef, undef, undef, 6;
is(worker('running'), 'f', 'for good');

# the extension goes
is($writer->query('SELECT sync.start_worker()'), 't', 'started');
drain();
$node->safe_psql('postgres', q{BEGIN; DROP EXTENSION sync_ext CASCADE; CREATE EXTENSION sync_ext; SELECT sync.track('doc'); SELECT sync.track('part', 'part "of" it'); COMMIT});
is_look('dropped and created anew in one transaction');
is(worker('running'), 't', 'the worker goes on');
$node->safe_psql('postgres', 'DROP EXTENSION sync_ext CASCADE');
$node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'sync_ext worker'});
select undef, undef, undef, 6;
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'sync_ext worker'}), '0', 'dropped: the worker ends, and stays away');
$writer->query('BEGIN; CREATE EXTENSION sync_ext');
is($writer->query('SELECT sync.start_worker()'), 't', 'started by the transaction that creates the extension');
$writer->query(q{SELECT sync.track('doc'); SELECT sync.track('part', 'part "of" it'); SELECT pg_sleep(0.5); COMMIT});
is_look('it waits for that');
$writer->query('SELECT sync.stop_worker()');
is($writer->query('BEGIN; DROP EXTENSION sync_ext CASCADE; CREATE EXTENSION sync_ext; SELECT sync.start_worker(); ROLLBACK'), 't', 'started by one that rolls back');
becomes('running', 'true', 'there was an extension before, so it runs');
is_look('and works');
$writer->query('SELECT sync.stop_worker()');

# another version of the extension than the library's
is($writer->query('SELECT sync.start_worker()'), 't', 'started');
drain();
my $old = worker('pid');
my $version = $node->safe_psql('postgres', q{SELECT extversion FROM pg_extension WHERE extname = 'sync_ext'});
$node->safe_psql('postgres', q{UPDATE pg_extension SET extversion = '99.0' WHERE extname = 'sync_ext'});
becomes("coalesce(pid, $old) <> $old", 'true', 'upgraded: a new process, which loads the new library');
$writer->query('UPDATE doc SET v = 14 WHERE id = 3');
is_silent('while the versions differ');
like(PostgreSQL::Test::Utils::slurp_file($node->logfile), qr/WARNING:  sync worker waits: its library is version/, 'of which the log tells');
$node->safe_psql('postgres', "UPDATE pg_extension SET extversion = '$version' WHERE extname = 'sync_ext'");
is_look('the versions are the same');

# a crash
$old = worker('pid');
kill 9, $old;
select undef, undef, undef, 0.5;
$node->poll_query_until('postgres', 'SELECT true');
becomes("coalesce(pid, $old) <> $old", 'true', 'a crash: there is a new one');
connect_anew();
$writer->query('UPDATE doc SET v = 15 WHERE id = 3');
is(total(events(), 'doc'), 1, 'at work');
is(worker('started_at IS NOT NULL'), 't', 'and says so');

# dropped databases
$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('other', q{CREATE EXTENSION sync_ext; SELECT sync.start_worker()});
my ($rc, $out, $err) = $node->psql('postgres', 'DROP DATABASE other');
like($err, qr/is being accessed by other users/, 'a worker is a user of its database');
my $mark = length PostgreSQL::Test::Utils::slurp_file($node->logfile);
is($node->psql('postgres', 'DROP DATABASE other WITH (FORCE)'), 0, 'which FORCE ends');
select undef, undef, undef, 7;
unlike(substr(PostgreSQL::Test::Utils::slurp_file($node->logfile), $mark), qr/FATAL|ERROR|does not exist|exited with/, 'for good, and without a sound');
is(worker('running'), 't', 'the other database\'s worker runs');

# a restart ends it; there is no more room
$_->quit for $listener, $writer;
$node->restart;
is(worker('running'), 'f', 'a restart of the server ends it');
$node->append_conf('postgresql.conf', 'max_worker_processes = 2');
$node->restart;
$node->safe_psql('postgres', q{UPDATE doc SET v = 16; UPDATE sync.tick SET at = at - interval '30 days'; DELETE FROM sync.worker_state});
is($node->safe_psql('postgres', 'SELECT sync.start_worker()'), 't', 'the last process');
becomes('pruned > 0', 'true', 'has to prune by itself');
$node->safe_psql('postgres', 'CREATE DATABASE other');
($rc, $out, $err) = $node->psql('other', "\\set VERBOSITY verbose\nCREATE EXTENSION sync_ext; SELECT sync.start_worker()");
like($err, qr/53000: could not start a sync worker.*HINT:  Raise max_worker_processes/s, 'no room for another: says what to do');
$mark = length PostgreSQL::Test::Utils::slurp_file($node->logfile);
$node->stop('fast');
unlike(substr(PostgreSQL::Test::Utils::slurp_file($node->logfile), $mark), qr/FATAL|ERROR|WARNING|"sync_ext worker".*exited/, 'a clean shutdown');
done_testing();
