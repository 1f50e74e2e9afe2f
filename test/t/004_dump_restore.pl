# Dump and restore: what is tracked stays tracked, the restore itself is no
# change, and a cursor of the old database is recognised.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use SyncExt;

my $node = SyncExt::new_node('main');
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE origin');
$node->safe_psql('origin', q{
	CREATE EXTENSION sync_ext;
	CREATE SCHEMA "Odd schema";
	CREATE TABLE "Odd schema"."Odd table" (id int PRIMARY KEY, "The scope" int, v text);
	CREATE TABLE company (id int PRIMARY KEY, name text);
	CREATE TABLE doc (id int PRIMARY KEY, company int REFERENCES company ON DELETE CASCADE, v int, deleted_at timestamptz);
	CREATE TABLE part (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);
	CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (100);
	CREATE VIEW company_doc WITH (security_invoker = true) AS
		SELECT c.*, (SELECT jsonb_agg(d.v ORDER BY d.id) FROM doc d WHERE d.company = c.id) AS docs FROM company c;
	SELECT sync.track('"Odd schema"."Odd table"', 'odd', scope => '{The scope}');
	SELECT sync.track('company', source => 'company_doc');
	SELECT sync.track('doc', scope => '{company}', deleted_at => 'deleted_at');
	SELECT sync.track('part');
	SELECT sync.cascade('doc', 'company');
	INSERT INTO "Odd schema"."Odd table" VALUES (1, 1, 'x');
	INSERT INTO company VALUES (1, 'A'), (2, 'B');
	INSERT INTO doc VALUES (1, 1, 0, NULL), (2, 2, 0, NULL), (3, 2, 0, now());
	INSERT INTO part VALUES (1, 1);
	SELECT pg_sleep(0.01);
	UPDATE doc SET v = 1 WHERE id = 1;
});
my %before = map { $_ => $node->safe_psql('origin', "SELECT to_jsonb(t) FROM $_ t ORDER BY id") }
  'company', 'doc', 'part', '"Odd schema"."Odd table"';
my $old = SyncExt::client($node, 'doc', db => 'origin');
is($old->sync, '+1 +2', 'a client of the old database');
my $described = $node->safe_psql('origin', "SELECT sync.describe('odd'), sync.describe('company')");

my $dir = PostgreSQL::Test::Utils::tempdir();
$node->command_ok([ 'pg_dump', '-d', $node->connstr('origin'), '-f', "$dir/plain.sql" ], 'pg_dump, plain');
$node->command_ok([ 'pg_dump', '-Fc', '-d', $node->connstr('origin'), '-f', "$dir/custom" ], 'pg_dump, custom');
$node->command_ok([ 'pg_dump', '-Fd', '-d', $node->connstr('origin'), '-f', "$dir/dir" ], 'pg_dump, directory');
my $plain = PostgreSQL::Test::Utils::slurp_file("$dir/plain.sql");
unlike($plain, qr/sync\.log_/, 'no log in the dump');
like($plain, qr/COPY sync\.tracked/, 'what is tracked is');
unlike($plain, qr/COPY sync\.(generation|tick|reset_marker|change_log)/, 'and nothing of the life of this database');

my %restore = (
	plain => [ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', '%d', '-f', "$dir/plain.sql" ],
	one_transaction => [ 'psql', '-Xq1', '-v', 'ON_ERROR_STOP=1', '-d', '%d', '-f', "$dir/plain.sql" ],
	custom => [ 'pg_restore', '--exit-on-error', '-d', '%d', "$dir/custom" ],
	parallel => [ 'pg_restore', '--exit-on-error', '-j', '3', '-d', '%d', "$dir/dir" ]);

for my $how (sort keys %restore)
{
	my $db = "copy_$how";
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	my $connstr = $node->connstr($db);
	my @command = map { s/%d/$connstr/r } @{ $restore{$how} };
	$node->command_ok(\@command, "$how: restore");
	for my $table (sort keys %before)
	{
		is($node->safe_psql($db, "SELECT to_jsonb(t) FROM $table t ORDER BY id"), $before{$table}, "$how: $table is as it was, stamps included");
	}
	is($node->safe_psql($db, q{SELECT count(*) FROM pg_trigger WHERE tgrelid = 'doc'::regclass AND NOT tgisinternal}),
		$node->safe_psql('origin', q{SELECT count(*) FROM pg_trigger WHERE tgrelid = 'doc'::regclass AND NOT tgisinternal}), "$how: each trigger once");
	is($node->safe_psql($db, q{SELECT string_agg(tgname || tgenabled::text, ' ' ORDER BY tgname) FROM pg_trigger WHERE tgrelid = 'doc'::regclass AND NOT tgisinternal}),
		$node->safe_psql('origin', q{SELECT string_agg(tgname || tgenabled::text, ' ' ORDER BY tgname) FROM pg_trigger WHERE tgrelid = 'doc'::regclass AND NOT tgisinternal}), "$how: and as it was");
	is($node->safe_psql($db, q{SELECT (xpath('/row/n/text()', query_to_xml('SELECT count(*) AS n FROM sync.log_' || 'doc'::regclass::oid, false, true, '')))[1]}), '0', "$how: the restore is no change");
	is($node->safe_psql($db, "SELECT sync.describe('odd'), sync.describe('company')"), $described, "$how: the domains are what they were");
	my $new = SyncExt::client($node, 'doc', db => $db);
	is($new->sync, '+1 +2', "$how: a first load");
	my $company = SyncExt::client($node, 'company', db => $db);
	my $odd = SyncExt::client($node, 'odd', db => $db);
	$_->sync for $company, $odd;
	my $stale = $old->copy;
	$stale->{db} = $db;
	is($stale->sync, 'reset(other_generation) +1 +2', "$how: a cursor of the old database is a reset");
	$node->safe_psql($db, q{UPDATE doc SET v = 7 WHERE id = 2; INSERT INTO "Odd schema"."Odd table" VALUES (2, 2, 'y'); INSERT INTO part VALUES (2, 2)});
	is($new->sync, '+2', "$how: tracking works");
	is($company->sync, '+2', "$how: and the cascade");
	is($odd->sync, '+2', "$how: and odd names");
	is($stale->sync, '+2', "$how: the old client has become a new one");
}
is($old->sync, '', 'the old database has felt nothing');

# structure alone, then the data
$node->safe_psql('postgres', 'CREATE DATABASE halves');
my $connstr = $node->connstr('halves');
$node->command_ok([ 'pg_restore', '--exit-on-error', '--schema-only', '-d', $connstr, "$dir/custom" ], 'structure alone');
$node->command_ok([ 'pg_restore', '--exit-on-error', '--data-only', '-d', $connstr, "$dir/custom" ], 'then the data');
is(SyncExt::client($node, 'doc', db => 'halves')->sync, '+1 +2', 'both halves make a whole');
$node->stop;
done_testing();
