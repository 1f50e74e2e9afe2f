# Connections are worth nothing after a crash or a failover: every application
# server is told so, and goes on from the cursor that it had.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use SyncExt;

# Nothing but the extension shall flush what is committed asynchronously.
my $primary = SyncExt::new_node('primary', allows_streaming => 1, conf => q{
wal_writer_delay = 10s
checkpoint_timeout = 1h
autovacuum = off
});
$primary->start;
$primary->safe_psql('postgres', q{
	CREATE EXTENSION sync_ext;
	CREATE TABLE doc (id int PRIMARY KEY, team int);
	CREATE TABLE member (team int, user_id text, PRIMARY KEY (user_id, team));
	CREATE INDEX ON member (team, user_id);
	SELECT sync.track('doc', scope => '{team}'), sync.track('member', scope => '{user_id,team}');
	INSERT INTO member VALUES (1, 'ada'), (2, 'bob');
	SELECT sync.set_access('doc', 'member');
});
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;
$primary->safe_psql('postgres', 'CHECKPOINT');

my $cursor;

# who is named since the last time
sub woken
{
	my ($node) = @_;
	my $since = defined $cursor ? "'$cursor'" : 'NULL';
	my @rows = split /\n/, $node->safe_psql('postgres',
		"SELECT client || ':' || domain, cursor FROM sync.affected($since, 'web') ORDER BY client NULLS LAST, domain");
	$cursor = (split /\|/, pop @rows)[1];
	return join ' ', map { (split /\|/)[0] } @rows;
}

sub refused
{
	my ($node, $sql, $state, $name) = @_;
	my (undef, undef, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\n$sql;");
	like($err, qr/ERROR:  $state:/, $name);
	return;
}

sub connect_all
{
	my ($node) = @_;
	$node->safe_psql('postgres', q{
		SET synchronous_commit = off;
		SELECT sync.connect('a', 'ada', 'web', '{doc}');
		SELECT sync.connect('b', 'bob', 'web', '{doc}');
	});
	return;
}

connect_all($primary);
is(woken($primary), 'a:doc b:doc', 'two clients');
$primary->safe_psql('postgres', 'INSERT INTO doc VALUES (1, 1)');
is(woken($primary), 'a:doc', 'one of them must fetch');
unlike($primary->safe_psql('postgres', 'SELECT oid::regclass FROM pg_class, unnest((SELECT extconfig FROM pg_extension WHERE extname = $$sync_ext$$)) c WHERE oid = c'),
	qr/client|subscription|server/, 'who is connected is not dumped');

# a restart
$primary->restart;
$primary->safe_psql('postgres', 'INSERT INTO doc VALUES (2, 2)');
is(woken($primary), 'b:doc', 'after a restart they are still connected');

# a standby
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
refused($standby, "SELECT * FROM sync.affected('$cursor', 'web')", '0A000', 'a standby knows of no clients');
refused($standby, "SELECT sync.connect('c', 'cyd', 'web')", '0A000', 'and connects none');
refused($standby, "SELECT sync.heartbeat('web')", '0A000', 'and hears no server');

# a crash
$primary->safe_psql('postgres', q{SET synchronous_commit = off; INSERT INTO doc VALUES (3, 1)});
is(woken($primary), 'a:doc', 'a change that is not on disk yet');
connect_all($primary);
is(woken($primary), 'a:doc b:doc', 'clients that connect again');
my $xid = $primary->safe_psql('postgres', "SELECT max(xid::text::int8) FROM sync.client");
$primary->stop('immediate');
$primary->start;
is($primary->safe_psql('postgres', 'SELECT count(*) FROM doc WHERE id = 3'), '1', 'what somebody was woken for is there');
cmp_ok($primary->safe_psql('postgres', 'SELECT pg_current_xact_id()'), '>', $xid, 'and no transaction that the cursor has seen is made anew');
is($primary->safe_psql('postgres', 'SELECT count(*) FROM sync.client'), '0', 'the clients are gone');
refused($primary, "SELECT * FROM sync.affected('$cursor', 'web')", '55000', 'the server is not told that all is quiet');
refused($primary, "SELECT * FROM sync.affected('$cursor')", '55000', 'nor is one that does not say who it is');
refused($primary, "SELECT sync.subscribe('a', 'doc')", '42704', 'a client of before the crash');
$primary->safe_psql('postgres', 'INSERT INTO doc VALUES (4, 1)');
is($primary->safe_psql('postgres', "SELECT sync.heartbeat('web')"), 'f', 'a heartbeat tells it, too');
is(woken($primary), '', 'nobody is there');
connect_all($primary);
is(woken($primary), 'a:doc b:doc', 'whoever comes back fetches');
$primary->safe_psql('postgres', 'INSERT INTO doc VALUES (5, 2)');
is(woken($primary), 'b:doc', 'and then as before');

# a failover
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
$primary->stop('immediate');
$standby->promote;
refused($standby, "SELECT * FROM sync.affected('$cursor', 'web')", '55000', 'after a failover the server is unknown, too');
is($standby->safe_psql('postgres', "SELECT sync.heartbeat('web')"), 'f', 'as a heartbeat says');
connect_all($standby);
is(woken($standby), 'a:doc b:doc', 'the clients come back');
$standby->safe_psql('postgres', 'INSERT INTO doc VALUES (6, 1)');
is(woken($standby), 'a:doc', 'and all goes on, from the same cursor');
$standby->stop;

done_testing();
