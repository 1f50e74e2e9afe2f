"""Journals: appending beside a plain INSERT, reading beside a plain SELECT."""

from measure import interleave, say, spread, table
from parts import ASYNC, NOTIFY_OFF, needs_sync

ACTION = '{"id": "a1", "at": "2026-01-01T12:00:00Z", "do": "rename", "text": "the quick brown fox jumps over the lazy dog"}'
OPTIONS = f"{ASYNC} {NOTIFY_OFF}"


def journal(b):
    if not needs_sync(b):
        return
    b.server.run("""
        CREATE TABLE journal_plain (id text NOT NULL UNIQUE, at timestamptz NOT NULL, data jsonb) WITH (autovacuum_enabled = off);
        CREATE TABLE journal_plain_bytes (id text NOT NULL UNIQUE, at timestamptz NOT NULL, data bytea) WITH (autovacuum_enabled = off);
        SELECT sync.create_stream('journal_' || n, 'actions'), sync.create_stream('journal_bytes_' || n, 'opaque') FROM generate_series(0, 3) n""")
    _one(b)
    _batch(b)
    _read(b)
    b.server.run("SELECT sync.drop_stream(stream) FROM sync.streams WHERE stream LIKE 'journal%'; "
                 "DROP TABLE journal_plain, journal_plain_bytes")


def _one(b):
    plain = (f"INSERT INTO journal_plain VALUES (gen_random_uuid()::text, clock_timestamp(), "
             f"('[{ACTION}, {{\"id\": \"' || :client_id || '\"}}]')::jsonb);\n")
    append = (f"SELECT * FROM sync.append('journal_' || :client_id, ('[{{\"id\": \"' || gen_random_uuid() || "
              f"'\", \"actions\": [{ACTION}, {{\"id\": \"' || :client_id || '\"}}]}}]')::jsonb);\n")
    data = "decode(repeat('5a', 120), 'hex')"
    plain_bytes = f"INSERT INTO journal_plain_bytes VALUES (gen_random_uuid()::text, clock_timestamp(), {data});\n"
    put = f"SELECT * FROM sync.put('journal_bytes_' || :client_id, ARRAY[gen_random_uuid()::text], ARRAY[{data}]);\n"
    returning = " RETURNING id, at;\n"
    for kind, base, ours in (("actions", plain, append), ("opaque", plain_bytes, put)):
        scripts = {"INSERT": base, "INSERT … RETURNING": base.replace(";\n", returning), "append": ours}
        for options, durability in ((NOTIFY_OFF, "on"), (OPTIONS, "off")):
            for clients in (1, 4):
                _compare(b, kind, scripts, options, durability, clients)


def _compare(b, kind, scripts, options, durability, clients):
    say(f"One entry a transaction, {kind}, {clients} client{'s' if clients > 1 else ''} on streams of their own, prepared, "
        f"synchronous_commit = {durability}:\n")

    def runner(script):
        return lambda: b.server.pgbench(script, clients, 2, None, options, count_xids=True)

    results = interleave({name: runner(script) for name, script in scripts.items()}, "INSERT", b.rounds, b.seed)
    rows = [[name, spread(results.value(name, "tps"), 0), spread(results.ratio("tps", name)),
             spread(results.value(name, "cpu"), 1), spread(results.ratio("cpu", name))] for name in scripts]
    table(["", "transactions/s", "ratio", "backend CPU µs", "CPU ratio"], rows)
    if durability == "on":
        inverse = results.combine("tps", "append", "INSERT", lambda v, base: base / v)
        met = b.targets.judge(f"append of one entry, {kind}, {clients} client(s): time to INSERT's", inverse, 1.25)
        if not met:
            b.show_profile("append", scripts["append"], options=options, clients=clients)
    say()


def _batch(b):
    n = 1000
    say(f"Batches of {n} entries, one client:\n")
    server = b.server
    server.run(f"""CREATE TABLE journal_source AS SELECT b, gen_random_uuid()::text AS id, '[{ACTION}]'::jsonb AS data
                     FROM generate_series(1, 200) b, generate_series(1, {n}) n;
                   CREATE TABLE journal_batch AS SELECT b, jsonb_agg(jsonb_build_object('id', id, 'actions', data)) AS entries,
                          array_agg(id) AS ids, array_agg(convert_to(data::text, 'UTF8')) AS bytes FROM journal_source GROUP BY b;
                   CREATE INDEX ON journal_source (b); CREATE UNIQUE INDEX ON journal_batch (b)""")
    b.settle("journal_source", "journal_batch")
    conn = server.connect(OPTIONS)
    statements = {
        "INSERT … SELECT": "INSERT INTO journal_plain SELECT id, clock_timestamp(), data FROM journal_source WHERE b = {b}",
        "append": "SELECT count(*) FROM journal_batch j, sync.append('journal_0', j.entries) WHERE b = {b}",
        "put": "SELECT count(*) FROM journal_batch j, sync.put('journal_bytes_0', j.ids, j.bytes) WHERE b = {b}",
    }
    taken = dict.fromkeys(statements, 0)

    def runner(name):
        def once():
            sums = {"wall": 0, "cpu": 0}
            for _ in range(10):
                taken[name] += 1
                for clock, value in server.timed(conn, statements[name].format(b=taken[name])).items():
                    sums[clock] += value or 0
            return sums
        return once

    results = interleave({name: runner(name) for name in statements}, "INSERT … SELECT", b.rounds, b.seed)
    conn.close()
    rows = []
    for name in statements:
        wall = results.value(name, "wall")
        rows.append([name, spread(tuple(x * 1e6 / (10 * n) for x in wall)), spread(results.ratio("wall", name)),
                     spread(results.ratio("cpu", name))])
    table(["", "µs/entry", "ratio", "CPU ratio"], rows)
    for name in ("append", "put"):
        b.targets.judge(f"batches of {n}, {name}: time to INSERT … SELECT's", results.ratio("wall", name), 1.43)
    say()
    server.run("DROP TABLE journal_source, journal_batch")


def _read(b):
    rows, wanted = (200_000 if b.quick else 400_000), 100_000
    say(f"{wanted} entries after a time, of {rows}:\n")
    server = b.server
    server.run("""SELECT sync.create_stream('journal_read', 'actions');
                  CREATE TABLE journal_rows (id text NOT NULL UNIQUE, at timestamptz NOT NULL, data jsonb) WITH (autovacuum_enabled = off)""")
    for _ in range(rows // 10_000):
        server.run(f"""SELECT count(*) FROM sync.append('journal_read', (SELECT jsonb_agg(jsonb_build_object('id', gen_random_uuid(),
                       'actions', '[{ACTION}]'::jsonb)) FROM generate_series(1, 10000)))""")
    server.run("""INSERT INTO journal_rows SELECT id, at, data FROM sync.entries('journal_read') WHERE kind = 'entry';
                  CREATE INDEX ON journal_rows (at)""")
    b.settle("journal_rows")
    at = server.value(f"SELECT at FROM journal_rows ORDER BY at DESC OFFSET {wanted} LIMIT 1")
    conn = server.connect()
    queries = {
        "SELECT": "SELECT id, at, data FROM journal_rows WHERE at > %s ORDER BY at",
        "entries": "SELECT id, at, data FROM sync.entries('journal_read', %s)",
        "entries, all columns": "SELECT * FROM sync.entries('journal_read', %s)",
    }

    def runner(name):
        return lambda: server.timed(conn, queries[name], [at])

    results = interleave({name: runner(name) for name in queries}, "SELECT", b.rounds * 2, b.seed)
    conn.close()
    out = [[name, spread(tuple(x * 1000 for x in results.value(name, "wall")), 0), spread(results.ratio("wall", name)),
            spread(results.ratio("cpu", name))] for name in queries]
    table(["", "ms", "ratio", "CPU ratio"], out)
    b.targets.judge(f"reading {wanted} entries: time to the indexed SELECT's", results.ratio("wall", "entries"), 1.2)
    say()
    server.run("DROP TABLE journal_rows")
