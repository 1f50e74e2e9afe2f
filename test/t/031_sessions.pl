# What was pushed, and sessions, beyond one server's life: on a standby, after a
# failover that lost the tail, after a dump; and the worker that forgets them.
use strict;
use warnings;

use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;
use SyncExt;

my $json = JSON::PP->new->canonical;
my $primary = SyncExt::new_node('primary', allows_streaming => 1, conf => "autovacuum = off\n");
$primary->start;
$primary->safe_psql('postgres', q{
	CREATE ROLE app LOGIN;
	CREATE EXTENSION sync_ext;
	CREATE TABLE doc (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, title text, v int);
	CREATE TABLE line (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, doc bigint NOT NULL REFERENCES doc, title text);
	SELECT sync.track('doc'), sync.track('line');
	GRANT SELECT, INSERT, UPDATE, DELETE ON doc, line TO app;
});
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;

sub caught_up
{
	$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
	return;
}

# The rows, or "ERROR <sqlstate>"; as the application's role.
sub app
{
	my ($node, $sql, $db) = @_;
	my $session = SyncExt::session($node, $db);
	$session->query('SET ROLE app');
	my $answer = $session->query($sql);
	$session->quit;
	return $answer;
}

sub begin_session
{
	my ($node, $db) = @_;
	return app($node, q{SELECT session FROM sync.begin_session('phone', 'ann')}, $db);
}

sub request
{
	my ($function, $request) = @_;
	my $text = $json->encode($request);
	$text =~ s/'/''/g;
	return "SELECT sync.$function('$text')";
}

# Statuses and keys of what was pushed.
sub push_to
{
	my ($node, $session, $mutations, $db) = @_;
	my $answer = app($node, request('push', { session => $session, mutations => $mutations }), $db);
	return $answer if $answer =~ /^ERROR/;
	return join ' ', map { my $r = $_; $r->{status} . join '', map { ":$r->{key}{$_}" } keys %{ $r->{key} // {} } } @{ $json->decode($answer)->{results} };
}

sub pull_from
{
	my ($node, $session, $db) = @_;
	my $answer = app($node, request('pull', { session => $session, domains => { doc => {}, line => {} } }), $db);
	return $answer =~ /^ERROR/ ? $answer : $json->decode($answer)->{domains};
}

sub insert
{
	my ($id, $domain, $data) = @_;
	return { id => $id, domain => $domain, op => 'insert', pending => JSON::PP::true, data => $data };
}

# --- a standby: pulls in a session work there, what writes does not
my $session = begin_session($primary);
my $doc1 = insert('1', 'doc', { id => 'd1', title => 'one' });
is(push_to($primary, $session, [$doc1]), 'applied:1', 'a push');
caught_up();
my $told = pull_from($standby, $session);
is(join(' ', map { $_->{title} } @{ $told->{doc}{upsert} }), 'one', 'a pull in the session, on a standby');
is($json->encode($told->{doc}{local_ids}), '[{"key":{"id":1},"local_id":"d1"}]', 'with provisional keys');
is(push_to($standby, $session, [$doc1]), 'ERROR 25006', 'a push is for the primary');
is(begin_session($standby), 'ERROR 25006', 'so is a beginning');
is(app($standby, "SELECT sync.end_session('$session', sync.current_cursor())"), 'ERROR 25006', 'and an end');

# --- a failover that loses the tail
$standby->safe_psql('postgres', q{ALTER SYSTEM SET primary_conninfo = ''});
$standby->reload;
$standby->poll_query_until('postgres', 'SELECT count(*) = 0 FROM pg_stat_wal_receiver');
my $doc2 = insert('2', 'doc', { id => 'd2', title => 'two' });
my $line2 = insert('3', 'line', { id => 'l2', doc => 'd2', title => 'of two' });
is(push_to($primary, $session, [ $line2, $doc2 ]), 'applied:1 applied:2', 'a push that the standby never sees');
my $seen = pull_from($primary, $session)->{doc}{cursor};
is(app($primary, "SELECT sync.end_session('$session', '$seen')"), '', 'nor the end of the session');
$primary->stop('immediate');
$standby->promote;
is(begin_session($standby), $session, 'after the failover the session is open');
is(push_to($standby, $session, [$doc1]), 'duplicate:1', 'what had been replicated is not applied again');
$standby->safe_psql('postgres', q{INSERT INTO doc (title) SELECT 'theirs' FROM generate_series(1, 40)});
my $result = push_to($standby, $session, [ $line2, $doc2 ]);
like($result, qr/^applied:\d+ applied:\d+$/, 'what was lost is, and refers to what is there now');
is($standby->safe_psql('postgres', q{SELECT count(*), count(l.id) FROM doc d LEFT JOIN line l ON l.doc = d.id WHERE d.title IN ('one', 'two')}), '2|1', 'each once');
is(app($standby, "SELECT sync.end_session('$session', '$seen')"), '', 'ended with a cursor of the lost tail');
$session = begin_session($standby);
$told = pull_from($standby, $session);
ok($told->{doc}{reset}, 'which is a reset in the next session');
is(scalar @{ $told->{doc}{upsert} }, 42, 'so nothing is missed');

# --- dump and restore
my $before = push_to($standby, $session, [ insert('4', 'doc', { id => 'd4', title => 'four' }) ]);
my $dir = PostgreSQL::Test::Utils::tempdir();
$standby->command_ok([ 'pg_dump', '-Fc', '-d', $standby->connstr('postgres'), '-f', "$dir/dump" ], 'pg_dump');
$standby->safe_psql('postgres', 'CREATE DATABASE copy');
$standby->command_ok([ 'pg_restore', '--exit-on-error', '-d', $standby->connstr('copy'), "$dir/dump" ], 'pg_restore');
is(push_to($standby, $session, [ insert('4', 'doc', { id => 'd4', title => 'four' }) ], 'copy'), $before =~ s/applied/duplicate/r, 'in the restored database it is a duplicate, in the same session');
like(push_to($standby, $session, [ insert('5', 'line', { id => 'l5', doc => 'd4', title => 'of four' }) ], 'copy'), qr/^applied:/, 'and its provisional key is known');
is($standby->safe_psql('copy', q{SELECT d.title FROM line l JOIN doc d ON d.id = l.doc WHERE l.title = 'of four'}), 'four', 'as what it was');
ok(pull_from($standby, $session, 'copy')->{doc}{reset}, 'the window is a reset');
is($standby->safe_psql('copy', 'SELECT count(*) FROM sync.mutation WHERE xid IS NOT NULL'), $standby->safe_psql('copy', q{SELECT count(*) FROM sync.mutation WHERE id = '5'}), 'no xid of the other database');
is($standby->safe_psql('copy', q{SELECT role FROM sync.device}), 'app', 'the client belongs to its role');
$standby->safe_psql('copy', q{SELECT sync.begin_session('tablet', 'ann')});
is($standby->safe_psql('copy', 'SELECT count(*), count(DISTINCT number) FROM sync.device'), '2|2', 'a new client is another');
$standby->safe_psql('postgres', 'DROP DATABASE copy');

# --- the worker sweeps
$standby->safe_psql('postgres', q{SELECT sync.begin_session('tablet', 'ann')});
$standby->safe_psql('postgres', q{
	UPDATE sync.device SET seen_at = seen_at - interval '29 days' WHERE client = 'phone';
	UPDATE sync.session SET seen_at = seen_at - interval '29 days' WHERE device = (SELECT number FROM sync.device WHERE client = 'phone');
	UPDATE sync.mutation SET at = at - interval '29 days'});
$standby->safe_psql('postgres', q{ALTER DATABASE postgres SET sync.prune_every = '1s'});
$standby->safe_psql('postgres', 'SELECT sync.start_worker()');
ok($standby->poll_query_until('postgres', 'SELECT swept_at IS NOT NULL FROM sync.workers'), 'the worker looks');
is($standby->safe_psql('postgres', 'SELECT swept FROM sync.workers'), '0', 'and forgets nothing before its time');
$standby->safe_psql('postgres', q{
	UPDATE sync.device SET seen_at = seen_at - interval '2 days' WHERE client = 'phone';
	UPDATE sync.session SET seen_at = seen_at - interval '2 days' WHERE device = (SELECT number FROM sync.device WHERE client = 'phone');
	UPDATE sync.mutation SET at = at - interval '2 days'});
$standby->safe_psql('postgres', 'SELECT pg_sleep(2.5)');
is($standby->safe_psql('postgres', q{SELECT count(*) FROM sync.sessions WHERE client = 'phone' AND ended_at IS NULL}), '1', 'it does not read the ledger all the time');
$standby->safe_psql('postgres', q{UPDATE sync.worker_state SET swept_at = swept_at - interval '1 day 1 hour'});
ok($standby->poll_query_until('postgres', 'SELECT swept > 0 FROM sync.workers'), 'a day later it does');
is($standby->safe_psql('postgres', q{SELECT string_agg(client, ' ') FROM sync.device}), 'tablet', 'who stayed away is forgotten');
is($standby->safe_psql('postgres', q{SELECT (SELECT count(*) FROM sync.session), (SELECT count(*) FROM sync.local_id), (SELECT count(*) FROM sync.mutation)}), '1|0|0', 'with sessions, provisional keys and mutations');
$standby->safe_psql('postgres', q{
	ALTER DATABASE postgres SET sync.client_retention = 0;
	UPDATE sync.session SET seen_at = seen_at - interval '10 years';
	UPDATE sync.worker_state SET swept_at = swept_at - interval '10 years'});
$standby->safe_psql('postgres', 'SELECT sync.stop_worker(), sync.start_worker()');
$standby->safe_psql('postgres', 'SELECT pg_sleep(2.5)');
is($standby->safe_psql('postgres', 'SELECT count(*) FROM sync.session'), '1', 'zero turns it off');
$standby->safe_psql('postgres', 'SELECT sync.stop_worker()');
is($standby->safe_psql('postgres', 'SELECT sync.sweep()'), '0', 'by hand, without a worker');
is($standby->safe_psql('postgres', 'SELECT count(*) FROM sync.session'), '0', 'it goes as well');
$standby->stop;
done_testing();
