# Events of entries: by commits, by the worker, and none.
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
	SELECT sync.track('doc');
	SELECT sync.create_stream('s', 'actions'), sync.create_stream(E'o"d\\\\d', 'opaque');
});

my $listener = SyncExt::session($node);
my $writer = SyncExt::session($node);
$listener->query('LISTEN sync');

sub append
{
	my ($stream, @ids) = @_;
	my $entries = join ', ', map { qq{{"id": "$_", "actions": [{"id": "of $_"}]}} } @ids;
	return "SELECT count(*) FROM sync.append('$stream', '[$entries]')";
}
sub put
{
	my (@ids) = @_;
	my $ids = join ',', map { "'$_'" } @ids;
	return qq{SELECT count(*) FROM sync.put(E'o"d\\\\d', ARRAY[$ids], array_fill('\\x00'::bytea, ARRAY[cardinality(ARRAY[$ids])]))};
}

# What has come; with patience, until it has.
sub events
{
	my ($patience) = @_;
	my @events;
	my $until = time() + ($patience // 0);
	do
	{
		push @events, map { decode_json($_->[1]) } $listener->notifications;
		select undef, undef, undef, 0.05 if $patience;
	} while (!@events && time() < $until);
	return [ sort { $a->{domain} cmp $b->{domain} } @events ];
}

sub is_told
{
	my ($what, @expected) = @_;
	my $events = events();
	delete $_->{xid} for @$events;
	is_deeply($events, \@expected, $what) or diag(encode_json($events));
	return;
}

sub event
{
	my ($count, %more) = @_;
	return { domain => 'sync.entries', count => $count, origin => undef, %more };
}

# ---- by commits ----

$writer->query('BEGIN; ' . append('s', 'x'));
is_told('nothing before the commit');
$writer->query('ROLLBACK');
is_told('nothing of a rollback');
$writer->query('BEGIN; SAVEPOINT a; ' . append('s', 'x') . '; ROLLBACK TO a; COMMIT');
is_told('nor of a rollback to a savepoint');
like($writer->query(append('s', 'x') . "; SELECT 1/0"), qr/ERROR 22012/, 'a failed statement');
$writer->query('SELECT 1');
events();
$writer->query(append('s', 'a', 'b'));
my $events = events();
is($events->[0]{xid}, $node->safe_psql('postgres', q{SELECT DISTINCT xid FROM sync.entry WHERE id IN ('a', 'b')}), 'an event names the transaction');
$writer->query(append('s', 'a', 'b'));
is_told('nothing of duplicates');
$writer->query(append('s', 'b', 'c'));
is_told('only what was stored counts', event(1));
$writer->query('BEGIN; ' . append('s', 'd') . '; ' . put('a', 'b') . '; INSERT INTO doc VALUES (1, 1); COMMIT');
is_told('one event for each domain of a transaction', { domain => 'doc', count => 1, origin => undef }, event(3));
$writer->query("SET sync.client = 'phone'; " . append('s', 'e'));
is_told('the origin is named', event(1, origin => 'phone'));
$writer->query("BEGIN; " . append('s', 'f') . "; SET LOCAL sync.client = 'tab'; " . append('s', 'g') . '; COMMIT; RESET sync.client');
is_told('of two origins none is', event(2));
$writer->query(q{SELECT sync.combine('s', (SELECT max(at) FROM sync.entries('s')))});
is_told('nothing of combining');
$writer->query(q{SELECT sync.snapshot('s', (SELECT max(at) FROM sync.entries('s')), '1')});
is_told('a snapshot is one', event(1));
$writer->query(q{SELECT sync.trim('s')});
is_told('nothing of trimming');
$writer->query('BEGIN; ' . append('s', 'p1') . q{; PREPARE TRANSACTION 'p'});
$writer->query(q{COMMIT PREPARED 'p'});
is_told('a prepared transaction tells nothing, as with tables');

$node->append_conf('postgresql.conf', 'sync.notify_keys = on');
$node->reload;
$_->query('SELECT pg_sleep(0.1)') for $listener, $writer;
$writer->query('BEGIN; ' . append('s', 'k1', 'k2') . '; ' . put('k3') . '; COMMIT');
is_told('with their names', event(3, keys => [ { stream => 's', id => 'k1' }, { stream => 's', id => 'k2' }, { stream => 'o"d\\d', id => 'k3' } ]));
$writer->query(append('s', 'k1', 'k4', 'k2'));
is_told('duplicates have none', event(1, keys => [ { stream => 's', id => 'k4' } ]));
$writer->query('BEGIN; ' . append('s', 'k5') . '; SAVEPOINT a; ' . append('s', 'k6') . '; ROLLBACK TO a; SAVEPOINT b; ' . append('s', 'k7') . '; RELEASE b; COMMIT');
is_told('nor has what was rolled back', event(2, keys => [ { stream => 's', id => 'k5' }, { stream => 's', id => 'k7' } ]));
$writer->query(append('s', map { "many$_" } 1 .. 250));
is_told('too many have none', event(250));
$writer->query(append('s', 'x' x 250));
is_told('a long id has one', event(1, keys => [ { stream => 's', id => 'x' x 250 } ]));
my ($snapshot) = $writer->query(q{SELECT sync.snapshot('s', (SELECT max(at) FROM sync.entries('s')), '1')});
is_told('a snapshot is named by its id', event(1, keys => [ { stream => 's', id => $snapshot } ]));

# ---- none ----

$node->append_conf('postgresql.conf', "sync.notify = 'off'");
$node->reload;
$_->query('SELECT pg_sleep(0.1)') for $listener, $writer;
my $cursor = $writer->query('SELECT sync.current_cursor()');
$writer->query(q{SELECT sync.connect('c', 'u', 'web', '{sync.entries}')});
$writer->query(q{SELECT cursor FROM sync.affected(sync.current_cursor())});
$writer->query(append('s', 'off1'));
is_told('off: nothing');
is($writer->query(qq{SELECT client, domain FROM sync.affected('$cursor') WHERE client IS NOT NULL}), 'c|sync.entries', 'but clients are found all the same');

# ---- by the worker, that polls ----

$node->append_conf('postgresql.conf', "sync.notify = 'worker'");
$node->reload;
$_->query('SELECT pg_sleep(0.1)') for $listener, $writer;
$writer->query('SELECT sync.start_worker()');
$events = events(20);
is_deeply([ map { $_->{domain} } @$events ], [ 'doc', 'sync.entries' ], 'the worker begins by telling all to look, also at streams');
is($events->[1]{count}, 0, 'without saying what');

sub worker_tells
{
	my ($what, $count, %more) = @_;
	my ($sum, @keys, @other, $origin) = (0);
	my $until = time() + 20;
	# in one event or in two
	while ($sum < $count && time() < $until)
	{
		for (@{ events(1) })
		{
			if ($_->{domain} ne 'sync.entries') { push @other, $_->{domain}; next; }
			$sum += $_->{count};
			push @keys, @{ $_->{keys} // [] };
			$origin = $_->{origin};
		}
	}
	is($sum, $count, "worker: $what");
	is_deeply(\@keys, $more{keys}, "$what: named") if $more{keys};
	is($origin, $more{origin}, "$what: the origin") if exists $more{origin};
	return \@other;
}

$writer->query("SET sync.client = 'phone'; " . append('s', 'w1', 'w2') . '; RESET sync.client');
worker_tells('entries', 2, keys => [ { stream => 's', id => 'w1' }, { stream => 's', id => 'w2' } ], origin => 'phone');
$writer->query('BEGIN; ' . put('w3') . q{; PREPARE TRANSACTION 'p'});
select undef, undef, undef, 0.5;
is_told('worker: nothing of what is prepared');
$writer->query(append('s', 'w4'));
worker_tells('what commits before it', 1, keys => [ { stream => 's', id => 'w4' } ], origin => undef);
$writer->query(q{COMMIT PREPARED 'p'});
worker_tells('what was prepared and committed', 1, keys => [ { stream => 'o"d\\d', id => 'w3' } ]);
$writer->query(append('s', 'w4', 'w1'));
$writer->query('BEGIN; ' . append('s', 'w5') . '; ROLLBACK');
$writer->query(q{SELECT sync.combine('s', (SELECT max(at) FROM sync.entries('s')))});
select undef, undef, undef, 0.5;
is_told('worker: nothing of duplicates, of a rollback and of combining');
$snapshot = $writer->query(q{SELECT sync.snapshot('s', (SELECT max(at) FROM sync.entries('s')), '1')});
worker_tells('a snapshot', 1, keys => [ { stream => 's', id => $snapshot } ]);
$writer->query(append('s', map { "w6 $_" } 1 .. 1000));
worker_tells('too many to be named', 1000, keys => []);
$writer->query('BEGIN; ' . append('s', 'w7') . q{; SELECT sync.drop_stream('s'); COMMIT});
select undef, undef, undef, 0.5;
is_told('worker: nothing of a stream that is gone');

$writer->query('SELECT sync.stop_worker()');
$node->stop;
done_testing();
