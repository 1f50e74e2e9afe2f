# Nodes, sessions and clients for the TAP tests.
package SyncExt;

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

# A node that knows the extension: installed where the server looks, or below
# $SYNC_EXT_STAGE (Debian's extension_destdir).
sub new_node
{
	my ($name, %params) = @_;
	my $conf = delete $params{conf} // '';
	my $node = PostgreSQL::Test::Cluster->new($name);
	$node->init(%params);
	$node->append_conf('postgresql.conf',
		"extension_destdir = '$ENV{SYNC_EXT_STAGE}'")
	  if $ENV{SYNC_EXT_STAGE};
	$node->append_conf('postgresql.conf', "timezone = 'UTC'\n$conf");
	return $node;
}

# Kills the server, and starts it again.
sub crash
{
	my ($node) = @_;
	my ($pid) = split /\n/, PostgreSQL::Test::Utils::slurp_file($node->data_dir . '/postmaster.pid');
	$node->kill9;

	# it takes a moment to die, and its children one to notice
	for (1 .. 100)
	{
		last unless kill 0, $pid;
		select undef, undef, undef, 0.05;
	}
	for (1 .. 100)
	{
		return if $node->start(fail_ok => 1);
		select undef, undef, undef, 0.1;
	}
	die 'the node does not start again';
}

# A psql that stays connected.
sub session { return SyncExt::Session->new(@_); }

# A client that applies deltas.
sub client { return SyncExt::Client->new(@_); }

package SyncExt::Session;

use strict;
use warnings;

use IPC::Run ();

sub new
{
	my ($class, $node, $db) = @_;
	my $self = bless {
		in => '', out => '', err => '', count => 0, notifications => []
	}, $class;
	$self->{timer} = IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default);
	$self->{run} = IPC::Run::start(
		[ 'psql', '-XqAt', '-v', 'VERBOSITY=verbose', '-v', 'SHOW_CONTEXT=never',
			'-d', $node->connstr($db // 'postgres') ],
		'<', \$self->{in}, '>', \$self->{out}, '2>', \$self->{err}, $self->{timer});
	$self->query('SET client_min_messages = warning');
	return $self;
}

# Begin a statement, without waiting for its end.
sub send
{
	my ($self, $sql) = @_;
	my $mark = 'end of query ' . ++$self->{count};
	$self->{mark} = $mark;
	$self->{out} = $self->{err} = '';
	$self->{in} .= "$sql;\n\\echo '$mark'\n\\warn '$mark'\n";
	$self->{timer}->start($PostgreSQL::Test::Utils::timeout_default);
	$self->{run}->pump_nb;
	return;
}

# Wait for its end: the rows, or "ERROR <sqlstate>".
sub wait
{
	my ($self) = @_;
	my $mark = $self->{mark};
	$self->{run}->pump
	  until $self->{out} =~ /^\Q$mark\E$/m && $self->{err} =~ /^\Q$mark\E$/m;
	my ($out, $err) = @$self{qw(out err)};
	s/^\Q$mark\E\n//m for $out, $err;
	push @{ $self->{notifications} }, $1
	  while $out =~ s/^Asynchronous notification "([^\n]*) received from server process with PID \d+\.\n//m;
	$self->{error} = $err;
	return "ERROR $1" if $err =~ /^(?:psql:[^\n]*?)?(?:ERROR|FATAL):  (\w{5}):/m;
	chomp $out;
	return $out;
}

sub query
{
	my ($self, $sql) = @_;
	$self->send($sql);
	return $self->wait;
}

# The notifications since the last call: [channel, payload] each.
sub notifications
{
	my ($self) = @_;
	$self->query('SELECT 1');
	my @n = map { /^(.*?)"(?: with payload "(.*)")?$/s ? [ $1, $2 ] : () }
	  splice @{ $self->{notifications} };
	return @n;
}

sub quit
{
	my ($self) = @_;
	$self->{in} .= "\\q\n";
	eval { $self->{run}->finish; };
	return;
}

package SyncExt::Client;

use strict;
use warnings;

use JSON::PP ();

my $json = JSON::PP->new->canonical->allow_nonref;

# options: db, args (further arguments of sync.changes, as SQL)
sub new
{
	my ($class, $node, $domain, %options) = @_;
	return bless { node => $node, domain => $domain, db => 'postgres', args => '',
		held => {}, cursor => undef, %options }, $class;
}

# Another that holds the same.
sub copy
{
	my ($self) = @_;
	return bless { %$self, held => { %{ $self->{held} } } }, ref $self;
}

# One answer, applied; in a session of one's own where one is given.
sub page
{
	my ($self, %options) = @_;
	my $since = defined $self->{cursor} ? "'$self->{cursor}'" : 'NULL';
	my $args = $self->{args} ? ", $self->{args}" : '';
	my $sql = "SELECT jsonb_build_object('op', op, 'key', key, 'data', data, 'cursor', cursor, 'time', modified_at) FROM sync.changes('$self->{domain}', $since$args)";
	my $rows;
	if ($options{session})
	{
		$rows = $options{session}->query($sql);
		return $rows if $rows =~ /^ERROR/;
	}
	else
	{
		my ($rc, $out, $err) = ($options{node} // $self->{node})->psql($self->{db}, "\\set VERBOSITY verbose\n$sql;");
		return $err =~ /ERROR:  (\w{5}):/ ? "ERROR $1" : "ERROR $err" if $err;
		$rows = $out;
	}
	my (@ups, @rems, @said, $closed);
	for my $line (split /\n/, $rows)
	{
		my $row = $json->decode($line);
		my $op = $row->{op};
		my $key = defined $row->{key} ? $json->encode($row->{key}) : undef;
		my $short = join ',', map { $row->{key}{$_} } sort keys %{ $row->{key} // {} };
		push @said, '!late row' if $closed;
		if ($op eq 'reset')
		{
			push @said, "reset($row->{data}{reason})";
			$self->{held} = {};
		}
		elsif ($op eq 'upsert')
		{
			push @ups, "+$short";
			$self->{held}{$key} = $json->encode($row->{data});
		}
		elsif ($op eq 'remove')
		{
			push @rems, "-$short";
			delete $self->{held}{$key};
		}
		else
		{
			$closed = $op;
			push @said, '|' if $op eq 'more';
			$self->{cursor} = $row->{cursor};
			$self->{time} = $row->{time};
		}
	}
	push @said, '!no closing row' unless $closed;
	my $number = sub { $_[0] =~ /(\d+)/ ? $1 : 0 };
	return join ' ', (grep { /^reset/ } @said),
	  (sort { $number->($a) <=> $number->($b) || $a cmp $b } @rems),
	  (sort { $number->($a) <=> $number->($b) || $a cmp $b } @ups), (grep { !/^reset/ } @said);
}

# Pages until up to date.
sub sync
{
	my ($self, %options) = @_;
	my @said;
	for (1 .. 1000)
	{
		push @said, $self->page(%options);
		last unless $said[-1] =~ /\|/;
	}
	return join ' ', grep { $_ ne '' } @said;
}

# Does it hold what the query (of key and document) selects?  The difference.
sub difference
{
	my ($self, $query, %options) = @_;
	my $rows = ($options{node} // $self->{node})->safe_psql($self->{db}, "SELECT jsonb_build_array(k, d) FROM ($query) AS q(k, d)");
	my %there = map { my $r = $json->decode($_); ($json->encode($r->[0]) => $json->encode($r->[1])) } split /\n/, $rows;
	my @bad;
	for my $key (sort keys %{ { %there, %{ $self->{held} } } })
	{
		my ($h, $t) = ($self->{held}{$key}, $there{$key});
		push @bad, "$key: held " . ($h // 'nothing') . ', there ' . ($t // 'nothing')
		  if ($h // '') ne ($t // '');
	}
	return join "\n", @bad;
}

1;
