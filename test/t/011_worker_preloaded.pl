# The worker with the library preloaded: the launcher keeps one in each listed
# database, and commits wake it.
use strict;
use warnings;

use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use SyncExt;

# Debian's extension_destdir is looked into for names with $libdir alone.
my $library = $ENV{SYNC_EXT_STAGE} ? '$libdir/sync_ext' : 'sync_ext';
my $node = SyncExt::new_node('main', allows_streaming => 1, conf => qq{
shared_preload_libraries = '$library'
max_worker_processes = 16
restart_after_crash = on
sync.notify = 'worker'
sync.databases = 'postgres, "B b", later'
});
$node->start;
my ($listener, $writer);

sub connect_anew
{
	my ($server) = @_;
	$_ && $_->quit for $listener, $writer;
	$listener = SyncExt::session($server // $node);
	$writer = SyncExt::session($server // $node);
	$listener->query('LISTEN sync');
	return;
}

# What comes within some seconds, until nothing comes any more.
sub events
{
	my ($patience) = @_;
	my @events;
	my $until = time() + ($patience // 20);
	for (my $silent = 0; $silent < 5 || (!@events && time() < $until); $silent++)
	{
		my @new = map { decode_json($_->[1]) } $listener->notifications;
		$silent = 0 if @new;
		push @events, @new;
		select undef, undef, undef, 0.1;
	}
	return @events;
}

sub total { my $sum = 0; $sum += $_->{count} for @_; return $sum; }

sub worker { my ($column, $db) = @_; return $node->safe_psql($db // 'postgres', "SELECT $column FROM sync.workers"); }

sub becomes
{
	my ($column, $expected, $what, $db) = @_;
	ok($node->poll_query_until($db // 'postgres', "SELECT ($column)::text FROM sync.workers", $expected), $what);
	return;
}

sub processes { my ($type) = @_; return $node->safe_psql('template1', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = '$type'"); }

sub log_since { my ($mark) = @_; return substr PostgreSQL::Test::Utils::slurp_file($node->logfile), $mark; }
sub mark { return length PostgreSQL::Test::Utils::slurp_file($node->logfile); }

# it waits for the extension
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'sync_ext worker'});
is(processes('sync_ext launcher'), '1', 'one launcher');
is(processes('sync_ext worker'), '1', 'a worker where the database is there, whether or not the extension is');
connect_anew();
$node->safe_psql('postgres', q{BEGIN; CREATE EXTENSION sync_ext; CREATE TABLE doc (id serial PRIMARY KEY, v int); SELECT sync.track('doc'); COMMIT});
is_deeply([ events() ], [ { domain => 'doc', count => 0, xid => 0, origin => undef } ], 'created: all are told to look');
is(worker('running AND preloaded AND listed'), 't', 'the view shows it');
is($writer->query('SELECT sync.start_worker()'), 'f', 'nothing to start');
is($writer->query('SELECT sync.stop_worker()'), 'ERROR 55000', 'nor is it to be stopped');
like($writer->{error}, qr/HINT:  Take the database out of sync.databases/, 'but by the list');

# commits wake it, which takes milliseconds; by itself it looks once in a second
my @latencies;
for my $round (1 .. 21)
{
	my $began = time();
	$writer->query('INSERT INTO doc (v) VALUES (0)');
	my @new;
	until (@new || time() > $began + 10) { @new = $listener->notifications; }
	push @latencies, (time() - $began) * 1000;
	select undef, undef, undef, 0.03;
}
my ($median) = (sort { $a <=> $b } @latencies)[10];
cmp_ok($median, '<', 300, "told of a commit at once");
note("median $median ms, two round trips of psql included");
events(0);
$writer->query('BEGIN; INSERT INTO doc (v) VALUES (0); ROLLBACK');
$writer->query('BEGIN; SAVEPOINT a; INSERT INTO doc (v) VALUES (0); ROLLBACK TO a; COMMIT');
is_deeply([ events(2) ], [], 'rollbacks');
$writer->query('BEGIN; SAVEPOINT a; INSERT INTO doc (v) VALUES (0); RELEASE a; COMMIT');
is(total(events()), 1, 'a savepoint');
$writer->query("SET sync.notify = 'commit'; INSERT INTO doc (v) VALUES (0); SET sync.notify = 'worker'");
is(total(events(), events()), 2, 'a session that notifies by itself does so besides');

# many at once: all are counted, and put together
my @many = map { SyncExt::session($node) } 1 .. 4;
$_->send(q{DO $$ BEGIN FOR i IN 1 .. 200 LOOP INSERT INTO doc (v) VALUES (i); COMMIT; END LOOP; END $$}) for @many;
$_->wait for @many;
my @told = events();
is(total(@told), 800, 'of 800 commits of four sessions none is missed');
cmp_ok(scalar @told, '<', 800, 'nor has each its own notification');
note(scalar(@told) . ' notifications');
$_->quit for @many;

# databases that come and go
$node->safe_psql('postgres', 'CREATE DATABASE later');
$node->safe_psql('postgres', 'CREATE DATABASE "B b"');
$node->safe_psql($_, 'CREATE EXTENSION sync_ext') for 'later', 'B b';
becomes('running', 'true', 'a database that comes later', 'later');
becomes('running', 'true', 'one with an odd name', 'B b');
isnt($node->psql('postgres', 'DROP DATABASE later'), 0, 'a worker is a user of its database');
is($node->psql('postgres', 'DROP DATABASE later WITH (FORCE)'), 0, 'which FORCE ends');
my $mark = mark();
select undef, undef, undef, 4;
unlike(log_since($mark), qr/FATAL|does not exist/, 'nobody looks for it any more');
$node->safe_psql('postgres', 'CREATE DATABASE later');
$node->safe_psql('later', 'CREATE EXTENSION sync_ext');
becomes('running', 'true', 'there is one of that name again', 'later');
$node->safe_psql('later', 'DROP EXTENSION sync_ext CASCADE');
select undef, undef, undef, 2;
is(processes('sync_ext worker'), '3', 'a worker whose extension is dropped waits');
$node->safe_psql('later', 'CREATE EXTENSION sync_ext');
becomes('running AND started_at IS NOT NULL', 'true', 'and goes on with the next', 'later');

# the list changes
$node->append_conf('postgresql.conf', 'sync.databases = postgres');
$node->reload;
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'sync_ext worker'}), 'taken out of the list: ended');
is($node->psql('postgres', 'DROP DATABASE later'), 0, 'so the database can be dropped');
is($node->safe_psql('B b', 'SELECT sync.start_worker()'), 't', 'out of the list one can be started by hand');
is($node->safe_psql('B b', 'SELECT preloaded AND NOT listed FROM sync.workers'), 't', 'which the view shows');
is($node->safe_psql('B b', 'SELECT sync.stop_worker()'), 't', 'and stopped');
$node->append_conf('postgresql.conf', q{sync.databases = 'a,,b'});
$mark = mark();
$node->reload;
$node->poll_query_until('postgres', 'SELECT true');
select undef, undef, undef, 0.5;
like(log_since($mark), qr/invalid value for parameter "sync.databases"/, 'a list that is none');
$node->append_conf('postgresql.conf', 'sync.databases = postgres');
$node->reload;

# they are ended
my $old = worker('pid');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($old)");
becomes("coalesce(pid, $old) <> $old", 'true', 'a worker that was ended is started again');
is((events())[0]{count}, 0, 'all are told to look');
$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'sync_ext launcher'});
$old = worker('pid') || 0;
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'sync_ext launcher'}), 'a launcher that was ended comes back');
becomes("running AND pid <> $old", 'true', 'and with it the worker');
is(processes('sync_ext worker'), '1', 'which is one');

# a crash
for my $round (1 .. 2)
{
	my $pid = worker('pid');
	kill 9, $pid;
	select undef, undef, undef, 0.5;
	$node->poll_query_until('postgres', 'SELECT true');
	becomes("coalesce(pid, $pid) <> $pid", 'true', "$round: after a crash there is a new one");
	connect_anew();
	$writer->query('INSERT INTO doc (v) VALUES (0)');
	cmp_ok(total(events()), '>=', 1, "$round: which works");
}

# a full queue: a listener that does not listen holds it up
SKIP:
{
	skip 'the size of the queue is fixed before PostgreSQL 17', 2 if $node->safe_psql('postgres', 'SHOW server_version_num') < 170000;
	$node->append_conf('postgresql.conf', 'max_notify_queue_pages = 64');
	$node->restart;
	connect_anew();
	my $sleeper = SyncExt::session($node);
	$sleeper->query('LISTEN other');
	$sleeper->query('BEGIN');
	my $filler = SyncExt::session($node);
	my $filled = '';
	$filled = $filler->query(q{SELECT pg_notify('other', repeat('x', 7900) || g) FROM generate_series(1, 20) g}) until $filled =~ /^ERROR/;
	$writer->query('INSERT INTO doc (v) VALUES (0)');
	becomes('failure', 'too many notifications in the NOTIFY queue', 'the queue is full: writers write, and the worker says so');
	$sleeper->query('COMMIT');
	cmp_ok(total(events()), '>=', 1, 'when it is not, nothing was lost');
	$_->quit for $sleeper, $filler;
}

# a standby has none, until it is promoted
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
is($standby->safe_psql('postgres', 'SELECT running FROM sync.worker_now() w(pid), LATERAL (SELECT w.pid IS NOT NULL AS running) r'), 'f', 'a standby has none');
my ($rc, $out, $err) = $standby->psql('postgres', "\\set VERBOSITY verbose\nSELECT sync.start_worker()");
like($err, qr/25006: cannot start a sync worker on a standby.*HINT/s, 'nor may one be started');
$_->quit for $listener, $writer;
$node->stop('fast');
$standby->promote;
$listener = SyncExt::session($standby);
$listener->query('LISTEN sync');
$writer = SyncExt::session($standby);
ok($standby->poll_query_until('postgres', 'SELECT running AND started_at IS NOT NULL FROM sync.workers'), 'promoted: it has');
$writer->query('INSERT INTO doc (v) VALUES (0)');
cmp_ok(total(events()), '>=', 1, 'which works');
$_->quit for $listener, $writer;
$standby->stop('fast');

# clean
$mark = mark();
$node->start;
becomes('running', 'true', 'a restart');
connect_anew();
$writer->query('INSERT INTO doc (v) VALUES (0)');
cmp_ok(total(events()), '>=', 1, 'works');
$_->quit for $listener, $writer;
$mark = mark();
$node->stop('fast');
unlike(log_since($mark), qr/FATAL|ERROR|WARNING|"sync_ext worker".*exited/, 'a clean shutdown');
$node->append_conf('postgresql.conf', q{shared_preload_libraries = ''});
$node->start;
is(worker('preloaded OR listed OR running'), 'f', 'without preloading the list means nothing');
$node->stop;
done_testing();
