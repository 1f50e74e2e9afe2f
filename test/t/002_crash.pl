# A crash forgets asynchronous commits and hands out the xids of forgotten
# transactions again.  A cursor that a client holds survives both.
use strict;
use warnings;

use Test::More;
use SyncExt;

# Nothing but commits and the extension shall flush WAL.
my $node = SyncExt::new_node('main', conf => q{
wal_level = minimal
max_wal_senders = 0
wal_writer_delay = 10s
checkpoint_timeout = 1h
autovacuum = off
max_prepared_transactions = 5
});
$node->start;
$node->safe_psql('postgres', q{
	CREATE EXTENSION sync_ext;
	CREATE TABLE doc (id int PRIMARY KEY, v int);
	SELECT sync.track('doc');
	INSERT INTO doc VALUES (1, 0);
	CHECKPOINT;
});
my $all = q{SELECT jsonb_build_object('id', id), to_jsonb(d) FROM doc d};

sub crash { return SyncExt::crash($node); }

# an asynchronous commit that a client was shown
my $client = SyncExt::client($node, 'doc');
is($client->sync, '+1', 'a first load');
my $writer = SyncExt::session($node);
$writer->query('SET synchronous_commit = off; INSERT INTO doc VALUES (2, 0)');
is($client->sync, '+2', 'an asynchronous commit is shown');
crash();
is($node->safe_psql('postgres', 'SELECT count(*) FROM doc WHERE id = 2'), '1', 'so it survives the crash');
is($client->sync, '', 'the client has it');
$node->safe_psql('postgres', 'INSERT INTO doc VALUES (3, 0)');
is($client->sync, '+3', 'and gets what comes next');

# a first load of asynchronous commits
$writer = SyncExt::session($node);
$writer->query('SET synchronous_commit = off; INSERT INTO doc VALUES (4, 0); UPDATE doc SET v = 1 WHERE id = 1');
my $fresh = SyncExt::client($node, 'doc');
is($fresh->sync, '+1 +2 +3 +4', 'a first load shows asynchronous commits');
crash();
is($fresh->difference($all), '', 'that survive the crash as well');
is($fresh->sync, '', 'nothing is new');
$node->safe_psql('postgres', 'UPDATE doc SET v = 2 WHERE id = 1');
is($fresh->sync, '+1', 'what comes next is');
is($client->sync, '+1 +4', 'also for a client from before');

# one that nobody was shown: it may vanish, and its xid comes again
$writer = SyncExt::session($node);
my $lost = $writer->query('SET synchronous_commit = off; BEGIN; INSERT INTO doc VALUES (5, 0); SELECT pg_current_xact_id(); COMMIT');
crash();
my $next = $node->safe_psql('postgres', 'BEGIN; INSERT INTO doc VALUES (6, 0); SELECT pg_current_xact_id(); COMMIT');
note("xid $lost, after the crash $next");
$client->sync;
is($client->difference($all), '', 'a commit that nobody saw: the client holds the table');

# aborted transactions, whose xids a crash hands out again
for my $round (1 .. 3)
{
	$writer = SyncExt::session($node);
	my @aborted;
	push @aborted, $writer->query("BEGIN; INSERT INTO doc VALUES (100 + $_, 0); SELECT pg_current_xact_id(); ROLLBACK") for 1 .. 5;
	is($client->sync, '', 'nothing of rolled-back transactions');
	my $unbound = $node->safe_psql('postgres', 'SELECT sync.current_cursor()');
	crash();
	my @new;
	push @new, $node->safe_psql('postgres', "BEGIN; INSERT INTO doc VALUES (1000 * $round + $_, 0); SELECT pg_current_xact_id(); COMMIT") for 1 .. 5;
	note("aborted @aborted, after the crash @new");
	is($client->sync, join(' ', map { '+' . (1000 * $round + $_) } 1 .. 5), 'their xids come again: nothing is lost');
	is($client->difference($all), '', 'the client holds the table');
	my $other = SyncExt::client($node, 'doc', cursor => $unbound);
	is($other->sync, join(' ', map { '+' . (1000 * $round + $_) } 1 .. 5), 'nor for a cursor of no question');
}

# a crash in the middle of transactions
$writer = SyncExt::session($node);
$writer->query('BEGIN; INSERT INTO doc VALUES (200, 0); SAVEPOINT a; INSERT INTO doc VALUES (201, 0)');
my $prepared = SyncExt::session($node);
$prepared->query("BEGIN; INSERT INTO doc VALUES (300, 0); PREPARE TRANSACTION 'p'");
$node->safe_psql('postgres', 'INSERT INTO doc VALUES (400, 0)');
is($client->sync, '+400', 'what has committed');
crash();
is($client->sync, '', 'a crash ends what was running');
$node->safe_psql('postgres', "COMMIT PREPARED 'p'");
is($client->sync, '+300', 'and keeps what was prepared');
$node->safe_psql('postgres', 'INSERT INTO doc VALUES (500, 0)');
is($client->sync, '+500', 'the client goes on');
is($client->difference($all), '', 'and holds the table');

# a time as a cursor
my $time = $client->{time};
$node->safe_psql('postgres', 'SELECT pg_sleep(1.1); ');
$node->safe_psql('postgres', 'INSERT INTO doc VALUES (501, 0)');
crash();
$node->safe_psql('postgres', 'INSERT INTO doc VALUES (502, 0)');
$client->{cursor} = $time;
like($client->sync, qr/\+501 \+502$/, 'a time that was handed out before the crash');
is($client->difference($all), '', 'the client holds the table');
$node->stop;
done_testing();
