# What goes out on the channel: one notification for each domain of a committed
# transaction, and nothing otherwise.
use strict;
use warnings;

use JSON::PP;
use Test::More;
use SyncExt;

my $node = SyncExt::new_node('main', conf => "max_prepared_transactions = 5\n");
$node->start;
$node->safe_psql('postgres', q{
	CREATE EXTENSION sync_ext;
	CREATE TABLE doc (id int PRIMARY KEY, v int);
	CREATE TABLE part (id int PRIMARY KEY, doc int REFERENCES doc, v int);
	CREATE TABLE odd (id int PRIMARY KEY);
	CREATE TABLE wide (id text PRIMARY KEY);
	CREATE TABLE untracked (id int);
	SELECT sync.track('doc');
	SELECT sync.track('part');
	SELECT sync.track('odd', E'o"d\\\\d');
	SELECT sync.track('wide');
	SELECT sync.cascade('part', 'doc');
});

my $listener = SyncExt::session($node);
my $writer = SyncExt::session($node);
$listener->query('LISTEN sync');

# All payloads since the last call, by domain.
my $number = 0;
sub events
{
	my @n = $listener->notifications;
	my %by;
	for (@n)
	{
		my $p = decode_json($_->[1]);
		push @{ $by{ $p->{domain} } }, $p;
		$number++;
	}
	return \%by;
}

sub silent
{
	my ($what) = @_;
	is_deeply(events(), {}, "$what: nothing");
	return;
}

# negatives first
$writer->query('BEGIN; INSERT INTO doc VALUES (1, 1)');
silent('before the commit');
$writer->query('ROLLBACK');
silent('a rollback');
$writer->query('BEGIN; SAVEPOINT a; INSERT INTO doc VALUES (1, 1); ROLLBACK TO a; COMMIT');
silent('a rollback to a savepoint');
$writer->query('BEGIN; SAVEPOINT a; SAVEPOINT b; INSERT INTO doc VALUES (1, 1); RELEASE b; ROLLBACK TO a; COMMIT');
silent('a rollback to an outer savepoint');
$writer->query('BEGIN; SAVEPOINT a; TRUNCATE doc CASCADE; ROLLBACK TO a; COMMIT');
silent('a TRUNCATE rolled back to a savepoint');
is($writer->query('SELECT count(*) FROM doc'), '0', 'a read');
$writer->query("SELECT * FROM sync.changes('doc')");
silent('a read');
$writer->query('INSERT INTO untracked VALUES (1)');
silent('a table that is not tracked');
$writer->query('UPDATE doc SET v = v; DELETE FROM doc');
silent('statements without rows');
like($writer->query('INSERT INTO doc VALUES (1, 1), (1, 2)'), qr/ERROR 23505/, 'a failed statement');
silent('a failed statement');
$writer->query("SET sync.notify = 'off'; INSERT INTO doc VALUES (1, 1), (2, 2); RESET sync.notify");
silent('sync.notify = off');
$writer->query('UPDATE doc SET v = v');
silent('an update that changes nothing');

# one for each domain
$writer->query("BEGIN; SELECT pg_current_xact_id(); INSERT INTO doc VALUES (3, 3), (4, 4), (5, 5); INSERT INTO odd VALUES (1); COMMIT");
my $e = events();
is_deeply([ sort keys %$e ], [ 'doc', 'o"d\\d' ], 'two domains');
is(scalar @{ $e->{doc} }, 1, 'one notification for three rows');
is($e->{doc}[0]{count}, 3, 'that counts them');
is_deeply([ sort keys %{ $e->{doc}[0] } ], [qw(count domain origin xid)], 'its members');
is($e->{doc}[0]{origin}, undef, 'nobody in particular did it');
my $xid = $writer->query('BEGIN; SELECT pg_current_xact_id(); INSERT INTO doc VALUES (6, 6); COMMIT');
is(events()->{doc}[0]{xid}, $xid, 'the transaction is named');
$writer->query('BEGIN; INSERT INTO doc VALUES (7, 7); SAVEPOINT a; INSERT INTO doc VALUES (8, 8), (9, 9); ROLLBACK TO a; SAVEPOINT b; INSERT INTO doc VALUES (10, 10); COMMIT');
$e = events();
is(scalar @{ $e->{doc} }, 1, 'savepoints: still one');
is($e->{doc}[0]{count}, 2, 'that counts what was kept');
$writer->query("BEGIN; SELECT set_config('sync.client', 'phone \"1\"', true); UPDATE doc SET v = 0 WHERE id = 3; COMMIT");
is(events()->{doc}[0]{origin}, 'phone "1"', 'the client that did it');
$writer->query('BEGIN; INSERT INTO doc VALUES (11, 1)');
$writer->query('INSERT INTO doc VALUES (12, 1)');
silent('statements of an open transaction');
$writer->query('COMMIT');
is(scalar @{ events()->{doc} }, 1, 'after its commit one for them all');
$writer->query('INSERT INTO part VALUES (1, 1, 1)');
is_deeply([ sort keys %{ events() } ], [qw(doc part)], 'a detail\'s master is news, too');
$writer->query('TRUNCATE part');
$e = events();
ok($e->{part}[0]{reset}, 'TRUNCATE is a reset');
ok($e->{doc}[0]{reset}, 'of the master\'s domain, too');
$writer->query(q{SELECT sync.touch('doc', '{"id": 3}')});
is(events()->{doc}[0]{count}, 1, 'touch');
$writer->query(q{SELECT sync.reset('doc')});
ok(events()->{doc}[0]{reset}, 'reset');

# keys where they are asked for, while they fit
$writer->query('SET sync.notify_keys = on');
$writer->query('UPDATE doc SET v = 100 WHERE id IN (1, 2)');
is_deeply([ sort { $a->{id} <=> $b->{id} } @{ events()->{doc}[0]{keys} } ], [ { id => 1 }, { id => 2 } ], 'keys');
$writer->query("INSERT INTO wide SELECT repeat('x', 100) || g FROM generate_series(1, 1000) g");
$e = events();
is($e->{wide}[0]{count}, 1000, 'a thousand wide keys');
ok(!exists $e->{wide}[0]{keys}, 'do not fit and are left out');
$writer->query("INSERT INTO wide VALUES (repeat('x', 9000 / 8 * 2))");
is(events()->{wide}[0]{count}, 1, 'a key of two thousand bytes');
$writer->query("RESET sync.notify_keys");

# another channel; a session that listens to itself
$listener->query('LISTEN elsewhere');
$writer->query("SET sync.channel = 'elsewhere'; UPDATE doc SET v = 101 WHERE id = 1; RESET sync.channel");
is_deeply([ map { $_->[0] } $listener->notifications ], ['elsewhere'], 'another channel');
$writer->query('LISTEN sync');
$writer->query('UPDATE doc SET v = 102 WHERE id = 1');
is(scalar(map { 1 } $writer->notifications), 1, 'one\'s own notification comes once and starts nothing');
is(scalar(map { 1 } $writer->notifications), 0, 'and is not followed by another');
$listener->notifications;

# two-phase commit: no notification may be part of it
is($writer->query("UNLISTEN *; BEGIN; UPDATE doc SET v = 103 WHERE id = 1; PREPARE TRANSACTION 'p'"), '', 'PREPARE works');
silent('PREPARE');
is($writer->query("COMMIT PREPARED 'p'"), '', 'COMMIT PREPARED works');
$listener->notifications;
$writer->query('UPDATE doc SET v = 104 WHERE id = 2');
is(events()->{doc}[0]{count}, 1, 'what was prepared is not counted later');

# a failure after the events were queued
$node->safe_psql('postgres', q{
	CREATE TABLE veto (id int PRIMARY KEY);
	CREATE FUNCTION veto() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
	CREATE CONSTRAINT TRIGGER veto AFTER INSERT ON veto DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION veto();
});
$listener->notifications;
like($writer->query('BEGIN; UPDATE doc SET v = 105 WHERE id = 2; INSERT INTO veto VALUES (1); COMMIT'), qr/ERROR/, 'a commit that fails');
silent('a commit that fails');
$writer->query('UPDATE doc SET v = 106 WHERE id = 2');
is(events()->{doc}[0]{count}, 1, 'and leaves nothing for the next');
$_->quit for $listener, $writer;
$node->stop;
done_testing();
