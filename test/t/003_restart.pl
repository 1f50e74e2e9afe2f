# A restart changes nothing for anybody.
use strict;
use warnings;

use Test::More;
use SyncExt;

my $node = SyncExt::new_node('main');
$node->start;
$node->safe_psql('postgres', q{
	CREATE EXTENSION sync_ext;
	CREATE TABLE company (id int PRIMARY KEY, name text);
	CREATE TABLE doc (id int PRIMARY KEY, company int REFERENCES company, v int);
	SELECT sync.track('company');
	SELECT sync.track('doc', scope => '{company}');
	SELECT sync.cascade('doc', 'company');
	INSERT INTO company VALUES (1, 'A'), (2, 'B');
	INSERT INTO doc VALUES (1, 1, 0), (2, 2, 0);
});
my $all = q{SELECT jsonb_build_object('id', id), to_jsonb(d) FROM doc d};
my $docs = SyncExt::client($node, 'doc');
my $one = SyncExt::client($node, 'doc', args => q{'company = $1', '{1}'});
my $companies = SyncExt::client($node, 'company');
is($docs->sync, '+1 +2', 'before: all');
is($one->sync, '+1', 'before: a scope');
is($companies->sync, '+1 +2', 'before: the masters');
$node->safe_psql('postgres', 'UPDATE doc SET v = 1 WHERE id = 2');

for my $mode (qw(fast immediate))
{
	$node->stop($mode);
	$node->start;
	is($docs->sync, '+2', "$mode: what was new before");
	is($one->sync, '', "$mode: nothing for the scope");
	is($companies->sync, $mode eq 'fast' ? '+2' : '+1', "$mode: the master");
	$node->safe_psql('postgres', 'UPDATE doc SET company = 3 - company');
	is($one->sync, $mode eq 'fast' ? '-1 +2' : '-2 +1', "$mode: what is new after");
	is($companies->sync, '+1 +2', "$mode: cascades work");
	$docs->sync;
	is($docs->difference($all), '', "$mode: the client holds the table");
	my $time = $docs->{time};
	$node->safe_psql('postgres', 'SELECT pg_sleep(1.1)');
	$node->safe_psql('postgres', 'UPDATE doc SET v = v + 1 WHERE id = 2');
	$docs->sync;
	ok($docs->{time} gt $time, "$mode: the server's time goes on");
	is($companies->sync, '+' . ($mode eq 'fast' ? 1 : 2), "$mode: the cascade of that");
	is($one->sync, $mode eq 'fast' ? '+2' : '', "$mode: and the scope");
	$node->safe_psql('postgres', 'UPDATE doc SET v = v + 1 WHERE id = 2');
	$one->sync;
}
$node->stop;
done_testing();
