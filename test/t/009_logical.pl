# Changes that logical replication applies: captured and sent on, though no
# statement trigger fires for them, and not stamped.
use strict;
use warnings;

use Test::More;
use SyncExt;

my $publisher = SyncExt::new_node('publisher', allows_streaming => 'logical');
$publisher->start;
my $subscriber = SyncExt::new_node('subscriber');
$subscriber->start;

my $tables = q{
	CREATE TABLE doc (id int PRIMARY KEY, v int, modified_at timestamptz NOT NULL DEFAULT '2020-01-01 00:00:00+00');
	CREATE TABLE part (id int PRIMARY KEY, doc int REFERENCES doc, v int);
};
$publisher->safe_psql('postgres', "$tables CREATE PUBLICATION p FOR ALL TABLES; INSERT INTO doc VALUES (1, 0), (2, 0)");
$subscriber->safe_psql('postgres', "$tables CREATE EXTENSION sync_ext; SELECT sync.track('doc'); SELECT sync.cascade('part', 'doc')");
my $client = SyncExt::client($subscriber, 'doc');
is($client->sync, '', 'an empty table');
my $listener = SyncExt::session($subscriber);
$listener->query('LISTEN sync');

my $connstr = $publisher->connstr('postgres') =~ s/'/''/gr;
$subscriber->safe_psql('postgres', "CREATE SUBSCRIPTION s CONNECTION '$connstr' PUBLICATION p");
ok($subscriber->poll_query_until('postgres', q{SELECT count(*) = 2 FROM pg_subscription_rel WHERE srsubstate = 'r'}), 'the initial copy');
is($client->sync, '+1 +2', 'is captured');

sub replicated
{
	$publisher->safe_psql('postgres', $_[0]);
	$publisher->wait_for_catchup('s');
	return;
}

$listener->notifications;
replicated('INSERT INTO doc VALUES (3, 0); UPDATE doc SET v = 1 WHERE id = 1; DELETE FROM doc WHERE id = 2');
is($client->sync, '-2 +1 +3', 'INSERT, UPDATE, DELETE');
is($subscriber->safe_psql('postgres', q{SELECT count(*) FROM doc WHERE modified_at <> '2020-01-01 00:00:00+00'}), '0', 'not stamped: the values are the publisher\'s');
is($client->difference(q{SELECT jsonb_build_object('id', id), to_jsonb(d) FROM doc d}), '', 'the client holds the table');
my @events = $listener->notifications;
cmp_ok(scalar @events, '>=', 1, 'events go out');
replicated('BEGIN; INSERT INTO doc SELECT g, 0 FROM generate_series(100, 110) g; SAVEPOINT s; DELETE FROM doc; ROLLBACK TO s; UPDATE doc SET v = 5 WHERE id = 100; COMMIT');
is($client->sync, join(' ', map { "+$_" } 100 .. 110), 'one transaction of many rows');
replicated('UPDATE doc SET v = v');
is($client->sync, '', 'an update that changes nothing');
replicated('INSERT INTO part VALUES (1, 3, 0)');
is($client->sync, '+3', 'a replicated detail touches its master');
replicated('TRUNCATE doc CASCADE');
is($client->sync, 'reset(marker)', 'TRUNCATE');
$listener->quit;
$subscriber->safe_psql('postgres', 'DROP SUBSCRIPTION s');
$_->stop for $subscriber, $publisher;
done_testing();
