# Two-phase commit: what is prepared is complete, is nobody's news before COMMIT
# PREPARED, and is everybody's after it.
use strict;
use warnings;

use Test::More;
use SyncExt;

my $node = SyncExt::new_node('main', conf => "max_prepared_transactions = 10\n");
$node->start;
$node->safe_psql('postgres', q{
	CREATE EXTENSION sync_ext;
	CREATE TABLE doc (id int PRIMARY KEY, v int);
	CREATE TABLE part (id int PRIMARY KEY, doc int REFERENCES doc DEFERRABLE INITIALLY DEFERRED);
	SELECT sync.track('doc');
	SELECT sync.cascade('part', 'doc');
	INSERT INTO doc VALUES (1, 0), (2, 0), (3, 0);
});
my $all = q{SELECT jsonb_build_object('id', id), to_jsonb(d) FROM doc d};
my $client = SyncExt::client($node, 'doc');
is($client->sync, '+1 +2 +3', 'a first load');
my $s = SyncExt::session($node);

sub run
{
	my ($sql) = @_;
	is($s->query($sql), '', $sql =~ s/\s+/ /gr);
	return;
}

run(q{BEGIN; INSERT INTO doc VALUES (10, 0); UPDATE doc SET v = 1 WHERE id = 1; PREPARE TRANSACTION 'a'});
is($client->sync, '', 'prepared: nothing yet');
run('UPDATE doc SET v = 2 WHERE id = 2');
is($client->sync, '+2', 'what commits meanwhile');
my $fresh = SyncExt::client($node, 'doc');
is($fresh->sync, '+1 +2 +3', 'a first load beside it');
run(q{COMMIT PREPARED 'a'});
is($client->sync, '+1 +10', 'committed: now');
is($fresh->sync, '+1 +10', 'for the new client as well');
is($client->difference($all), '', 'the client holds the table');

run(q{BEGIN; INSERT INTO doc VALUES (11, 0); DELETE FROM doc WHERE id = 10; PREPARE TRANSACTION 'b'});
is($client->sync, '', 'prepared again');
run(q{ROLLBACK PREPARED 'b'});
run('UPDATE doc SET v = 3 WHERE id = 2');
is($client->sync, '+2', 'rolled back: never');

# entries wait in memory: all of them must be in what is prepared, and no other
run(q{BEGIN; INSERT INTO doc VALUES (12, 0); SAVEPOINT a; INSERT INTO doc VALUES (13, 0); ROLLBACK TO a; SAVEPOINT b; INSERT INTO doc VALUES (14, 0); RELEASE b; PREPARE TRANSACTION 'c'});
run('INSERT INTO doc VALUES (15, 0)');
is($client->sync, '+15', 'the session goes on');
run(q{COMMIT PREPARED 'c'});
is($client->sync, '+12 +14', 'savepoints of what was prepared');
is($client->difference($all), '', 'the client holds the table');

# cascades, of a master that came later, too
run(q{BEGIN; INSERT INTO part VALUES (1, 1), (2, 16); INSERT INTO doc VALUES (16, 0); PREPARE TRANSACTION 'd'});
is($client->sync, '', 'prepared details');
run(q{COMMIT PREPARED 'd'});
is($client->sync, '+1 +16', 'touch their masters');
my $other = SyncExt::session($node);
$other->query('BEGIN; INSERT INTO doc VALUES (17, 0)');
run(q{BEGIN; INSERT INTO part VALUES (3, 17)});
$other->query('COMMIT');
is($client->sync, '+17', 'a master that somebody else was inserting');
run(q{PREPARE TRANSACTION 'e'});
run(q{COMMIT PREPARED 'e'});
is($client->sync, '+17', 'is touched by what was prepared');

# a reset
run(q{BEGIN; TRUNCATE part; PREPARE TRANSACTION 'f'});
is($client->sync, '', 'a prepared TRUNCATE of details');
run(q{COMMIT PREPARED 'f'});
like($client->sync, qr/^reset\(marker\) \+1 /, 'is a reset when it commits');

# across restart and crash
run(q{BEGIN; INSERT INTO doc VALUES (18, 0); UPDATE doc SET v = 9 WHERE id = 1; PREPARE TRANSACTION 'g'});
$node->restart;
is($client->sync, '', 'restarted: nothing yet');
$s = SyncExt::session($node);
run('UPDATE doc SET v = 4 WHERE id = 2');
is($client->sync, '+2', 'what commits meanwhile');
$node->stop('immediate');
$node->start;
$s = SyncExt::session($node);
run('UPDATE doc SET v = 5 WHERE id = 2');
is($client->sync, '+2', 'and after a crash');
run(q{COMMIT PREPARED 'g'});
is($client->sync, '+1 +18', 'committed long after');
is($client->difference($all), '', 'the client holds the table');

# pruning spares what is prepared
run(q{BEGIN; INSERT INTO doc VALUES (19, 0); PREPARE TRANSACTION 'h'});
$node->safe_psql('postgres', 'SELECT pg_sleep(1.1)');
run('UPDATE doc SET v = 6 WHERE id = 2');
$node->safe_psql('postgres', 'SELECT pg_sleep(1.1)');
run('UPDATE doc SET v = 7 WHERE id = 2');
is($client->sync, '+2', 'beside what is prepared');
$node->safe_psql('postgres', q{SELECT sync.prune('0')});
is($client->sync, '', 'pruned');
run(q{COMMIT PREPARED 'h'});
is($client->sync, '+19', 'what was prepared is not lost');
is($client->difference($all), '', 'the client holds the table');
$s->quit;
$node->stop;
done_testing();
