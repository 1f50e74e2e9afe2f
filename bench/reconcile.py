"""What comparing whole copies costs: sync.reconcile and sync.fingerprint. Same interface as parts.py."""

import threading
import time

from measure import interleave, memory_kb, number, say, spread, table


def copies(bench, rows, differences):
    """A tracked table, a client's copy of it that differs in some rows, and the request that says so."""
    run = bench.server.run
    name = f"copied_{rows}"
    if name in bench.fixtures:
        return name
    run(f"""CREATE TABLE {name} (id bigint PRIMARY KEY, company_id int NOT NULL, name text NOT NULL, note text NOT NULL,
                                modified_at timestamptz NOT NULL) WITH (autovacuum_enabled = off)""")
    # versions as they are after a life of single changes: all different
    run(f"""INSERT INTO {name} SELECT i, i % 100, 'name ' || i, repeat('x', 80),
                                      '2026-01-01'::timestamptz + i * 7 * interval '1 ms' FROM generate_series(1, {rows}) i""")
    run(f"SELECT sync.track('{name}')")
    run(f"CREATE TABLE {name}_client AS SELECT id, modified_at FROM {name}")
    step = rows * 4 // differences
    run(f"UPDATE {name}_client SET modified_at = modified_at - interval '1 s' WHERE id % {step} IN (1, 2)")
    run(f"DELETE FROM {name}_client WHERE id % {step} = 3")
    run(f"INSERT INTO {name}_client SELECT {rows} + i, now() FROM generate_series(1, {differences // 4}) i")
    run(f"""CREATE TABLE {name}_request AS SELECT jsonb_build_object('domains', jsonb_build_object('{name}',
                jsonb_build_object('rows', jsonb_agg(jsonb_build_object('key', jsonb_build_object('id', id),
                                                                        'modified_at', modified_at))))) AS request
            FROM {name}_client""")
    # the same and rows that the client made: in a dry run, so that every round finds the same
    run(f"""CREATE TABLE {name}_made AS SELECT jsonb_build_object('dry_run', true, 'domains', jsonb_build_object('{name}',
                jsonb_build_object('rows', (request #> '{{domains,{name},rows}}') ||
                    (SELECT jsonb_agg(jsonb_build_object('key', jsonb_build_object('id', -i), 'data',
                                      jsonb_build_object('company_id', 1, 'name', 'n', 'note', 'n'))) FROM generate_series(1, {differences}) i)))) AS request
            FROM {name}_request""")
    for each in (name, f"{name}_client", f"{name}_request", f"{name}_made"):
        run(f"VACUUM (FREEZE, ANALYZE) {each}")
    bench.fixtures[name] = name
    return name


# What differs, with the row where there is one: the work that reconcile does, without a cursor and without documents.
DIFFERENCES = """SELECT count(*), count(d) FROM (
    SELECT t AS d FROM {name} t FULL JOIN {client} c USING (id)
    WHERE t.id IS NULL OR c.id IS NULL OR t.modified_at IS DISTINCT FROM c.modified_at) x"""

FROM_REQUEST = """(SELECT (key ->> 'id')::bigint AS id, modified_at
    FROM {name}_request, jsonb_to_recordset(request #> '{{domains,{name},rows}}') AS e (key jsonb, modified_at timestamptz))"""


def reconcile(bench):
    """A million rows at the client and here, a hundred of them different."""
    rows = 100_000 if bench.quick else 1_000_000
    differences = 100
    name = copies(bench, rows, differences)
    server = bench.server
    made = f"and {differences} rows made there"
    statements = {
        "full join, copy in a table": DIFFERENCES.format(name=name, client=f"{name}_client"),
        "full join, copy in the request": DIFFERENCES.format(name=name, client=FROM_REQUEST.format(name=name)),
        "sync.reconcile": f"SELECT octet_length(sync.reconcile(request)::text) FROM {name}_request",
        made: f"SELECT octet_length(sync.reconcile(request)::text) FROM {name}_made",
    }
    found = server.value(f"""SELECT jsonb_array_length(a #> '{{domains,{name},upsert}}') + jsonb_array_length(a #> '{{domains,{name},remove}}')
                             FROM (SELECT sync.reconcile(request) AS a FROM {name}_request) x""")
    say(f"{rows} rows, {found} of them different; work_mem = {server.value('SHOW work_mem')}. The joins are SQL's own; in one the client's rows lie in a table,\n"
        "typed, and in the other they come out of the same JSON as for sync.reconcile, by jsonb_to_recordset().\n")
    base = "full join, copy in a table"

    def variant(statement):
        return lambda: server.timed(server.main, statement)

    results = interleave({k: variant(s) for k, s in statements.items()}, base, bench.rounds, bench.seed)
    table(["", "ms", "to the join of a table", "CPU", "to the join of the request", "CPU"],
          [[k, spread(results.spread([v * 1000 for v in results.values(k, "wall")]), 0), spread(results.ratio("wall", k)),
            spread(results.ratio("cpu", k)), spread(results.ratio("wall", k, "full join, copy in the request")),
            spread(results.ratio("cpu", k, "full join, copy in the request"))] for k in statements])
    bench.targets.judge("reconcile, to a hash full join of the same sets, both in tables", results.ratio("wall", "sync.reconcile"), 2)
    bench.targets.judge("reconcile, to a hash full join with the request's JSON",
                        results.ratio("wall", "sync.reconcile", "full join, copy in the request"), 2)
    if server.local:
        memory(bench, rows, differences)


def peak(server, conn, sql):
    """The most private memory of the backend while a statement runs, in MB above what it had before."""
    pid = conn.info.backend_pid
    before = memory_kb(pid)["RssAnon"]
    seen = [before]
    done = threading.Event()

    def watch():
        while not done.wait(0.002):
            seen.append(memory_kb(pid)["RssAnon"])

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        server.run(sql, conn=conn)
    finally:
        done.set()
        watcher.join()
    return (max(seen) - before) / 1000


def temp_megabytes(server):
    """Temporary files written so far, by the sessions that are over."""
    time.sleep(1.1)
    return server.value("SELECT temp_bytes FROM pg_stat_database WHERE datname = current_database()") / 1e6


def memory(bench, rows, differences):
    """The request's JSON is one value, which must fit; above it memory should go by work_mem, not by rows."""
    server = bench.server
    out = []
    for part, work_mem in ((10, "4MB"), (1, "4MB"), (1, "16MB"), (1, "64MB")):
        name = copies(bench, rows // part, differences)
        found = []
        for call in ("jsonb_typeof(request)", "octet_length(sync.reconcile(request)::text)"):
            written = temp_megabytes(server)
            conn = server.connect(f"-c work_mem={work_mem}")
            # caches are filled by another domain's question
            server.run(f"SELECT sync.reconcile('{{\"domains\": {{\"{name}\": {{\"filter\": \"id = 1\", \"rows\": []}}}}}}')", conn=conn)
            found.append(peak(server, conn, f"SELECT {call} FROM {name}_request"))
            conn.close()
        out.append([f"{rows // part}", work_mem, number(found[0], 1), number(found[1] - found[0], 1), number(temp_megabytes(server) - written, 1)])
    say("Private memory of the backend, in MB: what the request takes as one value, and what sync.reconcile takes above that.\n")
    table(["rows", "work_mem", "request", "more", "temporary files"], out)


def fingerprint(bench):
    """Count and hash of a million rows."""
    rows = 100_000 if bench.quick else 1_000_000
    name = copies(bench, rows, 100)
    server = bench.server
    statements = {
        "sum(hashtextextended(key || modified_at))": f"SELECT count(*), sum(hashtextextended(id::text || modified_at, 0)) FROM {name}",
        "sync.fingerprint": f"SELECT * FROM sync.fingerprint('{name}')",
        "sync.fingerprint, 100 ranges": f"SELECT * FROM sync.fingerprint('{name}', ranges => 100)",
        "sync.fingerprint, a hundredth": f"SELECT * FROM sync.fingerprint('{name}', after => '{{\"id\": {rows // 2}}}', "
                                         f"upto => '{{\"id\": {rows // 2 + rows // 100}}}')",
    }
    base = "sum(hashtextextended(key || modified_at))"

    def variant(statement):
        return lambda: server.timed(server.main, statement)

    results = interleave({k: variant(s) for k, s in statements.items()}, base, bench.rounds, bench.seed)
    table(["", "ms", "ratio"], [[k, spread(results.spread([v * 1000 for v in results.values(k, "wall")]), 1),
                                 spread(results.ratio("wall", k))] for k in statements])
    bench.targets.judge("fingerprint, to count and sum of hashtextextended", results.ratio("wall", "sync.fingerprint"), 1.5)


PARTS = {"reconcile": reconcile, "fingerprint": fingerprint}
