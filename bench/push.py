"""What writing back costs: sync.push in bulk, and one mutation at a time. Same interface as parts.py."""

import itertools

from measure import interleave, say, spread, table
from parts import NOTIFY_OFF

TABLE = "pushed"
RECORD = "r(id bigint, company_id int, name text, note text, n int)"

# What an application server writes by hand: one statement for all rows, which compares nothing and remembers nothing.
BY_HAND = {
    "INSERT": f"""INSERT INTO {TABLE} (id, company_id, name, note, n)
                  SELECT id, company_id, name, note, n FROM jsonb_to_recordset(%s::jsonb) AS {RECORD}""",
    "UPDATE": f"""UPDATE {TABLE} t SET name = r.name, n = r.n FROM jsonb_to_recordset(%s::jsonb) AS {RECORD}
                  WHERE t.id = r.id""",
}

ROWS = {
    "INSERT": "SELECT jsonb_agg(to_jsonb(s) - 'modified_at' - 'file')::text FROM {source} s",
    "UPDATE": f"SELECT jsonb_agg(jsonb_build_object('id', id, 'name', 'new ' || name, 'n', n + 1))::text FROM {TABLE}",
}

# The same rows with all that a client can say of them: an id each, and the version that an update rests on.
MUTATIONS = {
    "INSERT": f"""SELECT jsonb_agg(jsonb_build_object('id', 'insert-' || id, 'domain', '{TABLE}', 'op', 'insert',
                                                      'data', to_jsonb(s) - 'modified_at' - 'file'))::text
                  FROM {{source}} s""",
    "UPDATE": f"""SELECT jsonb_agg(jsonb_build_object('id', 'update-' || id, 'domain', '{TABLE}', 'op', 'update',
                                                      'key', jsonb_build_object('id', id), 'base', modified_at,
                                                      'data', jsonb_build_object('name', 'new ' || name, 'n', n + 1)))::text
                  FROM {TABLE}""",
}


def push(bench):
    """10 000 rows in one call, beside the statement that one would write by hand."""
    server = bench.server
    rows = 10_000
    source = bench.source(rows)
    clients = (f"client {i}" for i in itertools.count())

    def runner(by_hand):
        def once():
            bench.create(TABLE, "tracked, notify off")
            conn = server.connect(NOTIFY_OFF)
            measured = {}
            for op, statement in BY_HAND.items():
                if op == "UPDATE":
                    bench.settle(TABLE)
                argument = server.value((ROWS if by_hand else MUTATIONS)[op].format(source=source))
                if by_hand:
                    times = server.timed(conn, statement, [argument])
                else:
                    request = f'{{"client": "{next(clients)}", "mutations": {argument}}}'
                    times = server.timed(conn, "SELECT sync.push(%s)", [request])
                for clock, value in times.items():
                    measured[f"{op} {clock}"] = value
            changed = server.value(f"SELECT count(*) FROM {TABLE} WHERE n = 1 AND name LIKE 'new%'")
            assert changed == rows, f"{changed} rows were written"
            conn.close()
            return measured
        return once

    say(f"{rows} rows in one call, the first of its session. By hand: one statement from jsonb_to_recordset, into the same tracked table.\n")
    results = interleave({"by hand": runner(True), "sync.push": runner(False)}, "by hand", bench.rounds, bench.seed)
    server.run(f"DROP TABLE {TABLE}")
    table(["", "ms", "ratio", "µs a row", "CPU ratio"],
          [[f"{op}, {name}", spread(results.spread([v * 1000 for v in results.values(name, f"{op} wall")]), 0),
            spread(results.ratio(f"{op} wall", name)),
            spread(results.spread([v * 1e6 / rows for v in results.values(name, f"{op} wall")]), 1),
            spread(results.ratio(f"{op} cpu", name))]
           for op in BY_HAND for name in ("by hand", "sync.push")])
    met = True
    for op in BY_HAND:
        met &= bench.targets.judge(f"push of {rows} {op.lower()}s, to {op} by hand", results.ratio(f"{op} wall", "sync.push"), 3)
    say()


# Each client of pgbench has a row of its own. It rests each edit on the version that the last answer gave.
PLAIN = f"UPDATE {TABLE} SET n = n + 1 WHERE id = :client_id + 1;\n"

PUSH = f"""\\set id random(1, 1000000000000)
\\set n random(1, 1000000)
SELECT sync.push(format('{{"client": "client %s", "mutations": [{{"id": "%s", "domain": "{TABLE}", "op": "update",
    "key": {{"id": %s}}, "base": "%s", "data": {{"n": %s}}}}]}}', :client_id::text, :id::text, :client_id + 1, :base::text,
    :n::text)::jsonb) #>> '{{results,0,modified_at}}' AS base \\gset
"""

# A client that keeps no versions and sends nothing twice.
BLIND = f"""\\set n random(1, 1000000)
SELECT sync.push(format('{{"mutations": [{{"domain": "{TABLE}", "op": "update", "key": {{"id": %s}},
    "data": {{"n": %s}}}}]}}', :client_id + 1, :n::text)::jsonb);
"""


def push_one(bench):
    """One mutation for each call and transaction."""
    server = bench.server
    names = {"plain UPDATE": PLAIN, "sync.push, id and base": PUSH, "sync.push, neither": BLIND}
    bench.create(TABLE, "tracked, notify off")
    server.run(f"INSERT INTO {TABLE} SELECT * FROM {bench.source(10_000)}")
    bench.settle(TABLE)
    rows = []
    for clients in (1, 4):
        def runner(script):
            return lambda: server.pgbench(script, clients, 1 if bench.quick else 2, {"base": "2000-01-01"}, NOTIFY_OFF)

        results = interleave({name: runner(script) for name, script in names.items()}, "plain UPDATE", bench.rounds, bench.seed)
        for name in names:
            rows.append([f"{name}, {clients} client{'s' if clients > 1 else ''}", spread(results.value(name, "tps"), 0),
                         spread(results.ratio("tps", name)), spread(results.value(name, "cpu"), 0)])
        if not bench.targets.judge_least(f"pushes of one mutation a second, {clients} clients, to a prepared UPDATE",
                                         results.ratio("tps", "sync.push, id and base"), 0.5):
            bench.show_profile("one-mutation push", PUSH, {"base": "2000-01-01"}, NOTIFY_OFF, clients)
    say()
    say(f"One-row UPDATE of the same tracked table, prepared; synchronous_commit = {server.value('SHOW synchronous_commit')}, "
        f"fsync = {server.value('SHOW fsync')}:\n")
    table(["", "tps", "ratio", "backend CPU µs"], rows)
    server.run(f"DROP TABLE {TABLE}")


PARTS = {"push": push, "push_one": push_one}
