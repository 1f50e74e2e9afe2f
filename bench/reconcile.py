"""What comparing whole copies costs: sync.reconcile and sync.fingerprint. Same interface as parts.py."""

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
    for each in (name, f"{name}_client", f"{name}_request"):
        run(f"VACUUM (FREEZE, ANALYZE) {each}")
    bench.fixtures[name] = name
    return name


# What differs, with the row where there is one: the work that reconcile does, without a cursor and without documents.
DIFFERENCES = """SELECT count(*), count(d) FROM (
    SELECT t AS d FROM {name} t FULL JOIN {client} c USING (id)
    WHERE t.id IS NULL OR c.id IS NULL OR t.modified_at IS DISTINCT FROM c.modified_at) x"""

FROM_REQUEST = """(SELECT (e -> 'key' ->> 'id')::bigint AS id, (e ->> 'modified_at')::timestamptz AS modified_at
    FROM {name}_request, jsonb_array_elements(request #> '{{domains,{name},rows}}') e)"""


def reconcile(bench):
    """A million rows at the client and here, a hundred of them different."""
    rows = 100_000 if bench.quick else 1_000_000
    differences = 100
    name = copies(bench, rows, differences)
    server = bench.server
    statements = {
        "full join, copy in a table": DIFFERENCES.format(name=name, client=f"{name}_client"),
        "full join, copy in the request": DIFFERENCES.format(name=name, client=FROM_REQUEST.format(name=name)),
        "sync.reconcile": f"SELECT octet_length(sync.reconcile(request)::text) FROM {name}_request",
    }
    found = server.value(f"""SELECT jsonb_array_length(a #> '{{domains,{name},upsert}}') + jsonb_array_length(a #> '{{domains,{name},remove}}')
                             FROM (SELECT sync.reconcile(request) AS a FROM {name}_request) x""")
    say(f"{rows} rows, {found} of them different; work_mem = {server.value('SHOW work_mem')}")
    base = "full join, copy in the request"

    def variant(statement):
        return lambda: server.timed(server.main, statement)

    results = interleave({k: variant(s) for k, s in statements.items()}, base, bench.rounds, bench.seed)
    table(["", "ms", "to the join of the request", "to the join of a table"],
          [[k, spread(results.spread([v * 1000 for v in results.values(k, "wall")]), 0), spread(results.ratio("wall", k)),
            spread(results.ratio("wall", k, "full join, copy in a table"))] for k in statements])
    bench.targets.judge("reconcile, to a hash full join of the same sets", results.ratio("wall", "sync.reconcile"), 2)

    if server.local:
        memory = []
        for part in (10, 1):
            conn = server.connect("-c work_mem=4MB")
            small = copies(bench, rows // part, differences)
            server.run(f"SELECT octet_length(request::text) FROM {small}_request", conn=conn)
            before = memory_kb(conn.info.backend_pid)
            server.run(f"SELECT octet_length(sync.reconcile(request)::text) FROM {small}_request", conn=conn)
            after = memory_kb(conn.info.backend_pid)
            size = server.value(f"SELECT length(request::text) FROM {small}_request") / 1e6
            memory.append([f"{rows // part} rows", f"{size:.1f}", number((after["VmHWM"] - before["VmHWM"]) / 1000, 1)])
            conn.close()
        say("Peak of the backend's memory above what reading the request as text took (pages of shared_buffers included):")
        table(["", "request, MB", "more, MB"], memory)


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
