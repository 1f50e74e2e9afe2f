# A failover that loses the tail: whoever has seen the lost part is reset, whoever
# has not goes on, and neither misses what reuses the lost xids.
use strict;
use warnings;

use Test::More;
use SyncExt;

my $primary = SyncExt::new_node('primary', allows_streaming => 1, conf => "autovacuum = off\n");
$primary->start;
$primary->safe_psql('postgres', q{
	CREATE EXTENSION sync_ext;
	CREATE TABLE doc (id int PRIMARY KEY, v int);
	SELECT sync.track('doc');
	INSERT INTO doc VALUES (1, 0), (2, 0);
});
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;
my $all = q{SELECT jsonb_build_object('id', id), to_jsonb(d) FROM doc d};

my $before = SyncExt::client($primary, 'doc');
my $seen = SyncExt::client($primary, 'doc');
is($before->sync, '+1 +2', 'a client');
is($seen->sync, '+1 +2', 'another');
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));

# the standby hears no more; the primary goes on, and one client with it
$standby->safe_psql('postgres', q{ALTER SYSTEM SET primary_conninfo = ''});
$standby->reload;
$standby->poll_query_until('postgres', 'SELECT count(*) = 0 FROM pg_stat_wal_receiver');
my $lost = $primary->safe_psql('postgres', 'BEGIN; UPDATE doc SET v = 1 WHERE id = 1; INSERT INTO doc VALUES (3, 0); SELECT pg_current_xact_id(); COMMIT');
$primary->safe_psql('postgres', "UPDATE doc SET v = $_ WHERE id = 2") for 1 .. 3;
is($seen->sync, '+1 +2 +3', 'one client has seen the tail');
is($seen->copy->sync(node => $standby), 'ERROR 40001', 'the standby, still one, says retry');

$primary->stop('immediate');
$standby->promote;
my $again = $standby->safe_psql('postgres', 'BEGIN; UPDATE doc SET v = 10 WHERE id = 2; SELECT pg_current_xact_id(); COMMIT');
note("xid $lost is lost, xid $again is new");
is($standby->safe_psql('postgres', 'SELECT pg_walfile_name(pg_current_wal_insert_lsn()) LIKE \'00000002%\''), 't', 'a new timeline');

$_->{node} = $standby for $before, $seen;
is($before->sync, '+2', 'who had not seen the tail goes on');
is($before->difference($all), '', 'and holds the table');
is($seen->sync, 'reset(other_history) +1 +2', 'who had is reset');
is($seen->difference($all), '', 'and holds the table');
$standby->safe_psql('postgres', "INSERT INTO doc VALUES ($_ + 10, 0)") for 1 .. 4;
is($before->sync, '+11 +12 +13 +14', 'xids that come again: nothing is lost');
is($seen->sync, '+11 +12 +13 +14', 'for neither');

# and the other way: a cursor of the new timeline means nothing to the old primary
$primary->start;
is($before->copy->sync(node => $primary) =~ /^reset\(other_history\) /, 1, 'the old primary does not know the new timeline');

# after a restart it is the same
$standby->restart;
is($before->sync, '', 'restarted');
$standby->safe_psql('postgres', 'DELETE FROM doc WHERE id > 10');
is($before->sync, '-11 -12 -13 -14', 'goes on');
is($before->difference($all), '', 'and holds the table');
$_->stop for $standby, $primary;
done_testing();
