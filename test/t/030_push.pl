# The server is killed during pushes and sessions. Afterwards clients send the
# same again: nothing is doubled, nothing is lost.
use strict;
use warnings;

use IPC::Run ();
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use SyncExt;

my $json = JSON::PP->new->canonical;
my $node = SyncExt::new_node('main', conf => q{
wal_writer_delay = 10s
checkpoint_timeout = 1h
autovacuum = off
max_prepared_transactions = 5
restart_after_crash = on
});
$node->start;
$node->safe_psql('postgres', q{
	CREATE EXTENSION sync_ext;
	CREATE TABLE doc (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, owner text, title text, v int, parent bigint REFERENCES doc DEFERRABLE INITIALLY DEFERRED);
	CREATE TABLE line (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), doc bigint NOT NULL REFERENCES doc DEFERRABLE, owner text, title text, v int);
	SELECT sync.track('doc'), sync.track('line');
	-- what was written, each time that it was
	CREATE TABLE written (owner text, title text, v int);
	CREATE FUNCTION note_write() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO written VALUES (NEW.owner, NEW.title, NEW.v);
		RETURN NULL;
	END $$;
	CREATE TRIGGER note_write AFTER INSERT OR UPDATE OF v ON doc FOR EACH ROW EXECUTE FUNCTION note_write();
	CREATE TRIGGER note_write AFTER INSERT OR UPDATE OF v ON line FOR EACH ROW EXECUTE FUNCTION note_write();
});

sub sql { return $node->safe_psql('postgres', $_[0]); }

sub quote
{
	my ($text) = @_;
	$text =~ s/'/''/g;
	return "'$text'";
}

sub push_sql { return 'SELECT sync.push(' . quote($json->encode($_[0])) . ')'; }

# What a push answered, in short.
sub short
{
	my ($answer) = @_;
	return join ' ', map { $_->{status} } @{ $json->decode($answer)->{results} };
}

sub keys_of
{
	my ($answer) = @_;
	return join ' ', map { $json->encode($_->{key}) } @{ $json->decode($answer)->{results} };
}

sub crash { SyncExt::crash($node); return; }

# A new record with a line, and a change of it.
sub mutations
{
	my ($owner, $n) = @_;
	return [
		{ id => "$n-1", domain => 'line', op => 'insert', pending => JSON::PP::true, data => { id => "l$n", doc => "d$n", owner => $owner, title => "line $n", v => 0 } },
		{ id => "$n-2", domain => 'doc', op => 'insert', pending => JSON::PP::true, data => { id => "d$n", owner => $owner, title => "doc $n", v => 0, parent => "d$n" } },
		{ id => "$n-3", domain => 'doc', op => 'update', key => { id => "d$n" }, data => { v => 1 } },
		{ id => "$n-4", domain => 'line', op => 'update', key => { id => "l$n" }, data => { v => 1 } } ];
}

# Each record of an owner is there once, was written twice, and holds together.
sub right
{
	my ($owner, $records, $name) = @_;
	is(sql("SELECT count(*), count(DISTINCT d.title), count(l.id), min(d.v), max(d.v), min(l.v), max(l.v), bool_and(d.parent = d.id) FROM doc d LEFT JOIN line l ON l.doc = d.id AND replace(l.title, 'line', 'doc') = d.title WHERE d.owner = '$owner'"),
		join('|', ($records) x 3, 1, 1, 1, 1, 't'), "$name: each record once, with its line");
	is(sql("SELECT count(*), count(DISTINCT (title, v)) FROM written WHERE owner = '$owner'"), join('|', (4 * $records) x 2), "$name: each mutation applied once");
	return;
}

my $all_applied = 'applied applied applied applied';
my $all_duplicate = 'duplicate duplicate duplicate duplicate';

# --- one step after the other, with the server killed at each point

# begun, and the answer lost with the transaction
my $client = SyncExt::session($node);
$client->query(q{BEGIN; SELECT session FROM sync.begin_session('one', 'ann')});
crash();
is(sql('SELECT count(*) FROM sync.session'), '0', 'a session that was not committed');
my $session = sql(q{SELECT session FROM sync.begin_session('one', 'ann')});
my $window = sql(q{SELECT last_sync, max_checkin FROM sync.begin_session('one', 'ann')});
crash();
is(sql(q{SELECT session FROM sync.begin_session('one', 'ann')}), $session, 'one that was is the same after a crash');
is(sql(q{SELECT last_sync, max_checkin FROM sync.begin_session('one', 'ann')}), $window, 'with the same window');

# pushed, not committed
my $push = push_sql({ session => $session, mutations => mutations('one', 1) });
$client = SyncExt::session($node);
is(short($client->query("BEGIN; $push")), $all_applied, 'a push');
crash();
is(sql('SELECT (SELECT count(*) FROM doc), (SELECT count(*) FROM sync.mutation), (SELECT count(*) FROM sync.local_id)'), '0|0|0', 'killed before its commit: nothing is there, and nothing remembered');

# committed, and the answer lost
my $first = sql($push);
is(short($first), $all_applied, 'the same again');
crash();
my $again = sql($push);
is(short($again), $all_duplicate, 'and again, the answer having been lost');
is(keys_of($again), keys_of($first), 'with the same keys');
right('one', 1, 'one after the other');

# an asynchronous commit: the rows go, and what is remembered of them with them
my $lost = push_sql({ session => $session, mutations => mutations('one', 2) });
$client = SyncExt::session($node);
$client->query('SET synchronous_commit = off');
is(short($client->query($lost)), $all_applied, 'an asynchronous commit');
crash();
my $there = sql(q{SELECT count(*) FROM doc WHERE title = 'doc 2'});
is(short(sql($lost)), $there ? $all_duplicate : $all_applied, 'the same again, after the crash' . ($there ? '' : ' that lost it'));
right('one', 2, 'asynchronously');

# a push that is prepared, and its commit after the crash
my $prepared = push_sql({ session => $session, mutations => mutations('one', 3) });
$client = SyncExt::session($node);
is(short($client->query("BEGIN; $prepared")), $all_applied, 'a push');
$client->query(q{PREPARE TRANSACTION 'push'});
crash();
my $waiting = SyncExt::session($node);
$waiting->send($prepared);
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'}) or die 'the push does not wait';
sql(q{COMMIT PREPARED 'push'});
is(short($waiting->wait), $all_duplicate, 'the same again waits for the one that is prepared');
right('one', 3, 'prepared');
sql("BEGIN; @{[push_sql({ session => $session, mutations => mutations('one', 4) })]}; PREPARE TRANSACTION 'push'");
crash();
sql(q{ROLLBACK PREPARED 'push'});
is(short(sql(push_sql({ session => $session, mutations => mutations('one', 4) }))), $all_applied, 'or is applied, where that is rolled back');
right('one', 4, 'rolled back');

# ended: not committed, committed, sent again
my $end = "SELECT sync.end_session('$session', (SELECT max_checkin FROM sync.begin_session('one', 'ann')))";
$client = SyncExt::session($node);
$client->query("BEGIN; $end");
crash();
is(sql('SELECT count(*) FROM sync.local_id'), '8', 'an end that was not committed: provisional keys are known');
is(short(sql(push_sql({ session => $session, mutations => [ { domain => 'doc', op => 'update', key => { id => 'd1' }, data => { title => 'doc 1' } } ] }))), 'applied', 'and the session is open');
my $checkin = sql("SELECT max_checkin FROM sync.begin_session('one', 'ann')");
sql("SELECT sync.end_session('$session', '$checkin')");
crash();
is(sql("SELECT sync.end_session('$session', '$checkin')"), '', 'ended, and the answer lost');
is(sql(q{SELECT last_sync FROM sync.begin_session('one', 'ann')}), $checkin, 'the next one begins there');
isnt(sql(q{SELECT session FROM sync.begin_session('one', 'ann')}), $session, 'and is another');
is(short(sql(push_sql({ client => 'one', mutations => [ { %{ mutations('one', 1)->[2] } } ] }))), 'duplicate', 'what was pushed in a session that ended');
right('one', 4, 'after all');

# --- some clients at once, the server killed at any moment

# A client that goes through sessions, and repeats each step until it is answered.
sub new_client
{
	my ($name) = @_;
	return { name => $name, record => 0, step => 'begin', lost => 0, unheard => 0, duplicates => 0 };
}

my $batch = 25;
my $dir = PostgreSQL::Test::Utils::tempdir();

sub step_sql
{
	my ($self) = @_;
	my $name = $self->{name};
	return "SELECT session FROM sync.begin_session('$name', 'ann')" if $self->{step} eq 'begin';
	return push_sql({ session => $self->{session}, mutations => [ map { @{ mutations($name, $self->{record} + $_) } } 1 .. $batch ] }) if $self->{step} eq 'push';
	return "SELECT sync.pull('" . $json->encode({ session => $self->{session}, domains => { doc => {}, line => {} } }) . "')" if $self->{step} eq 'pull';
	return "SELECT sync.end_session('$self->{session}', '$self->{cursor}')";
}

sub start_step
{
	my ($self) = @_;
	my $file = "$dir/$self->{name}";
	open my $sql, '>', "$file.sql" or die $!;
	print $sql step_sql($self), ';';
	close $sql;
	# files, not pipes: children that are started later would hold the ends of those
	$self->{run} = IPC::Run::start([ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-f', "$file.sql" ],
		'<', '/dev/null', '>', "$file.out", '2>', "$file.err", IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	return;
}

sub finish_step
{
	my ($self) = @_;
	$self->{run}->finish;
	my $file = "$dir/$self->{name}";
	my $error = PostgreSQL::Test::Utils::slurp_file("$file.err");
	if ($self->{run}->result(0) != 0)
	{
		$self->{lost}++;
		BAIL_OUT("$self->{name}, $self->{step}: $error") if $error =~ /ERROR:/;
		return;
	}
	# the network loses some as well, when all is done
	if (rand() < 0.15)
	{
		$self->{unheard}++;
		return;
	}
	chomp(my $answer = PostgreSQL::Test::Utils::slurp_file("$file.out"));
	if ($self->{step} eq 'begin')
	{
		$self->{session} = $answer;
		$self->{step} = 'push';
	}
	elsif ($self->{step} eq 'push')
	{
		my %count;
		my $results = $json->decode($answer)->{results};
		$count{ $_->{status} }++ for @$results;
		is(($count{applied} // 0) + ($count{duplicate} // 0), 4 * $batch, "$self->{name}: applied, or a duplicate")
		  if grep { !/^(?:applied|duplicate)$/ } keys %count;
		isnt(keys %count, 2, "$self->{name}: a push is there as a whole, or not at all") if keys %count == 2;
		$self->{duplicates}++ if $count{duplicate};
		for my $result (grep { defined $_->{local_id} } @$results)
		{
			my $key = $json->encode($result->{key});
			$self->{key}{ $result->{local_id} } //= $key;
			is($key, $self->{key}{ $result->{local_id} }, 'a provisional key has one real key') if $key ne $self->{key}{ $result->{local_id} };
		}
		$self->{step} = 'pull';
	}
	elsif ($self->{step} eq 'pull')
	{
		my $domains = $json->decode($answer)->{domains};
		my %told = map { ($_->{local_id} => $json->encode($_->{key})) } map { @{ $domains->{$_}{local_ids} // [] } } 'doc', 'line';
		my @wrong = grep { ($told{$_} // '') ne $self->{key}{$_} } keys %{ $self->{key} };
		is("@wrong", '', "$self->{name}: a pull names the provisional keys") if @wrong;
		$self->{cursor} = $json->decode($answer)->{domains}{doc}{cursor};
		$self->{step} = 'end';
	}
	else
	{
		$self->{record} += $batch;
		$self->{key} = {};
		$self->{step} = 'begin';
	}
	return;
}

sub await
{
	for (1 .. 600)
	{
		my $alive = eval { $node->safe_psql('postgres', 'SELECT 1') };
		return if defined $alive && $alive eq '1';
		select undef, undef, undef, 0.1;
	}
	die 'the server does not come back';
}

my @clients = map { new_client("client_$_") } 1 .. 3;
srand($ENV{SYNC_EXT_SEED} // 4711);
start_step($_) for @clients;
for my $round (1 .. 12)
{
	# step after step, until a moment comes
	my $moment = time() + rand(0.6);
	while (time() < $moment)
	{
		for my $self (@clients)
		{
			$self->{run}->reap_nb;
			next if $self->{run}->pumpable;
			finish_step($self);
			start_step($self);
		}
		select undef, undef, undef, 0.005;
	}
	my $how = $round % 3;
	if ($how == 0)
	{
		$node->stop('immediate');
	}
	elsif ($how == 1)
	{
		# one that is at work; its death ends them all
		my ($rc, $pid) = $node->psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid() AND query ~ '^SELECT (sync|session)' LIMIT 1});
		kill 'KILL', $pid if ($pid // '') =~ /^\d+$/;
	}
	else
	{
		crash();
	}
	finish_step($_) for @clients;
	$node->start if $how == 0;
	await();
	start_step($_) for @clients;
}
finish_step($_) for @clients;

# and in peace, to the end of a session
for my $self (@clients)
{
	my $records = $self->{record} + $batch;
	while ($self->{record} < $records)
	{
		start_step($self);
		finish_step($self);
	}
	note("$self->{name}: $self->{record} records, $self->{lost} steps killed, $self->{unheard} answers lost, $self->{duplicates} pushes that had been applied");
	right($self->{name}, $self->{record}, $self->{name});
}
my $hit = 0;
$hit += $_->{lost} for @clients;
cmp_ok($hit, '>', 0, 'some were hit');
is(sql(q{SELECT count(*) FROM sync.session s JOIN sync.device d ON number = device WHERE client ~ 'client' AND ended_at IS NULL}), '0', 'all sessions are ended');
is(sql(q{SELECT count(*) FROM sync.local_id JOIN sync.device ON number = device WHERE client ~ 'client'}), '0', 'and no provisional key is left');

# what a new client gets is the table
my $fresh = SyncExt::client($node, 'doc');
$fresh->sync;
is($fresh->difference(q{SELECT jsonb_build_object('id', id), to_jsonb(d) FROM doc d}), '', 'a first load is the table');
$node->stop;
done_testing();
