# DROP EXTENSION and CREATE EXTENSION, in the same session and beside others that
# remember what was.
use strict;
use warnings;

use Test::More;
use SyncExt;

my $node = SyncExt::new_node('main');
$node->start;
my $one = SyncExt::session($node);
my $two = SyncExt::session($node);
my $pull = q{SELECT string_agg(op || coalesce(key ->> 'id', ''), ' ') FROM sync.changes('doc')};

is($one->query('CREATE EXTENSION sync_ext'), '', 'created');
$one->query('CREATE TABLE doc (id int PRIMARY KEY, v int); CREATE TABLE part (id int PRIMARY KEY, doc int REFERENCES doc)');
$one->query(q{SELECT sync.track('doc'); SELECT sync.cascade('part', 'doc')});
is($two->query('INSERT INTO doc VALUES (1, 0); INSERT INTO part VALUES (1, 1)'), '', 'another session writes');
is($two->query($pull), 'upsert1 up-to-date', 'and reads');
my $cursor = $two->query(q{SELECT cursor FROM sync.changes('doc') WHERE op = 'up-to-date'});

for my $round (1 .. 3)
{
	# dropped in one session
	like($one->query('DROP EXTENSION sync_ext'), qr/ERROR 2BP01/, "$round: tracked tables depend on it");
	is($one->query('DROP EXTENSION sync_ext CASCADE'), '', "$round: dropped");
	is($one->query(q{SELECT count(*) FROM pg_trigger WHERE tgrelid = 'doc'::regclass AND NOT tgisinternal}), '0', "$round: no trigger is left");
	is($one->query("INSERT INTO doc VALUES (10 * $round, 0)"), '', "$round: the table works, in this session");
	is($two->query("INSERT INTO doc VALUES (10 * $round + 1, 0); UPDATE doc SET v = v + 1"), '', "$round: and in the other");
	like($two->query($pull), qr/^ERROR (42883|3F000)$/, "$round: nothing answers");
	is($two->query('ALTER TABLE doc ADD c int; ALTER TABLE doc DROP c'), '', "$round: DDL works");

	# created in the other, in turns
	my ($a, $b) = $round % 2 ? ($one, $two) : ($two, $one);
	is($a->query('CREATE EXTENSION sync_ext'), '', "$round: created again");
	is($b->query($pull), 'ERROR 42704', "$round: nothing is tracked");
	is($b->query(q{SELECT sync.track('doc'); SELECT sync.cascade('part', 'doc')}), "\n", "$round: tracked again");
	is($a->query("INSERT INTO doc VALUES (10 * $round + 2, 0); UPDATE part SET id = id + 1"), '', "$round: written in one session");
	is($b->query("INSERT INTO doc VALUES (10 * $round + 3, 0); UPDATE part SET id = id + 1"), '', "$round: and in the other");
	like($a->query($pull), qr/up-to-date$/, "$round: read in one session");
	like($b->query($pull), qr/up-to-date$/, "$round: and in the other");
	is($a->query("SELECT data ->> 'reason' FROM sync.changes('doc', '$cursor') LIMIT 1"), 'other_generation', "$round: a former cursor is a reset");
	is($b->query("SELECT data ->> 'reason' FROM sync.changes('doc', '$cursor') LIMIT 1"), 'other_generation', "$round: in the other session, too");
	$cursor = $a->query(q{SELECT cursor FROM sync.changes('doc') WHERE op = 'up-to-date'});
	is($a->query("UPDATE doc SET v = v + 1 WHERE id = 1; SELECT string_agg(op || coalesce(key ->> 'id', ''), ' ') FROM sync.changes('doc', '$cursor')"), 'upsert1 up-to-date', "$round: the new one works");
}

# in one transaction
is($one->query(q{BEGIN; DROP EXTENSION sync_ext CASCADE; CREATE EXTENSION sync_ext; SELECT sync.track('doc'); INSERT INTO doc VALUES (100, 0); COMMIT}), '', 'all in one transaction');
is($two->query('INSERT INTO doc VALUES (101, 0)'), '', 'written beside it');
like($two->query($pull), qr/upsert100 upsert101 up-to-date$/, 'and read');
is($one->query(q{BEGIN; INSERT INTO doc VALUES (102, 0); DROP EXTENSION sync_ext CASCADE; ROLLBACK}), '', 'a drop that is rolled back');
is($one->query('INSERT INTO doc VALUES (103, 0)'), '', 'leaves all as it was');
like($one->query($pull), qr/upsert101 upsert103 up-to-date$/, 'in this session');
like($two->query($pull), qr/upsert101 upsert103 up-to-date$/, 'and in the other');

# dropped with changes that nobody has seen yet, and that are waiting for the commit
is($one->query(q{BEGIN; INSERT INTO doc VALUES (104, 0); DROP EXTENSION sync_ext CASCADE; COMMIT}), '', 'a drop after a change in one transaction');
is($two->query('SELECT count(*) FROM doc WHERE id = 104'), '1', 'the row is there');
is($two->query('CREATE EXTENSION sync_ext; DROP EXTENSION sync_ext'), '', 'an unused extension goes without CASCADE');

# a schema that somebody else can put functions into is no place to install
$two->query('DROP SCHEMA IF EXISTS sync CASCADE; CREATE ROLE eve; CREATE SCHEMA sync AUTHORIZATION eve');
like($two->query('CREATE EXTENSION sync_ext'), qr/ERROR 55000/, 'a schema of another owner is refused');
$two->query('DROP SCHEMA sync CASCADE');
is($two->query('CREATE EXTENSION sync_ext'), '', 'and without it all is well');
$_->quit for $one, $two;
$node->stop;
done_testing();
