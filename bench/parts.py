"""What is measured. Each part is a function of a Bench and prints its own tables."""

import time

from measure import interleave, memory_kb, number, progress, say, spread, table

ASYNC = "-c synchronous_commit=off"
NOTIFY_OFF = "-c sync.notify=off"
NOTIFY_COMMIT = "-c sync.notify=commit"

COLUMNS = """id bigint PRIMARY KEY, company_id int NOT NULL, name text NOT NULL, note text NOT NULL,
    n int NOT NULL DEFAULT 0, file oid, modified_at timestamptz NOT NULL DEFAULT now()"""

# The work of tracking, as it is usually written: stamp, log, tombstone, notification.
PLPGSQL = """
CREATE TABLE bench_log (xid xid8 NOT NULL, seq bigserial, rel regclass NOT NULL, op "char" NOT NULL, key bigint NOT NULL,
                        PRIMARY KEY (xid, seq));
CREATE TABLE bench_tombstone (rel regclass NOT NULL, key bigint NOT NULL, deleted_at timestamptz NOT NULL,
                              PRIMARY KEY (rel, key));
CREATE FUNCTION bench_stamp() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.modified_at := clock_timestamp();
    RETURN NEW;
END $$;
CREATE FUNCTION bench_capture() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed bigint := CASE WHEN TG_OP = 'DELETE' THEN OLD.id ELSE NEW.id END;
BEGIN
    INSERT INTO bench_log (xid, rel, op, key) VALUES (pg_current_xact_id(), TG_RELID, left(TG_OP, 1)::"char", changed);
    IF TG_OP = 'DELETE' THEN
        INSERT INTO bench_tombstone VALUES (TG_RELID, changed, clock_timestamp())
            ON CONFLICT (rel, key) DO UPDATE SET deleted_at = EXCLUDED.deleted_at;
    END IF;
    IF TG_NARGS > 0 THEN
        PERFORM pg_notify('bench', TG_ARGV[0]);
    END IF;
    RETURN NULL;
END $$;
"""


class Bench:
    """The server, what the command line asked for, and the tables that several parts share."""

    def __init__(self, server, targets, quick, rounds, seed, profile):
        self.server = server
        self.targets = targets
        self.quick = quick
        self.rounds = rounds
        self.seed = seed
        self.profile = profile
        self.fixtures = {}
        self.helpers = set()

    # ---- tables ----

    def source(self, rows):
        """A plain table with `rows` rows to copy from."""
        name = f"source_{rows}"
        if name not in self.fixtures:
            self.server.run(f"CREATE TABLE {name} ({COLUMNS}) WITH (autovacuum_enabled = off)")
            self.server.run(f"""INSERT INTO {name} (id, company_id, name, note)
                                SELECT i, i % 100, 'name ' || i, repeat('x', 80) FROM generate_series(1, {rows}) i""")
            self.server.run(f"VACUUM (FREEZE, ANALYZE) {name}")
            self.fixtures[name] = name
        return name

    def create(self, name, variant):
        """An empty table `name`, with what `variant` adds to a bare one."""
        run = self.server.run
        run(f"DROP TABLE IF EXISTS {name}")
        run(f"CREATE TABLE {name} ({COLUMNS}) WITH (autovacuum_enabled = off)")
        for statement in VARIANTS[variant].setup:
            run(statement.format(t=name))

    def help(self, name):
        """Is a helper of some variants there? Created at the first call."""
        if name == "":
            return True
        if name == "sync_ext":
            return self.server.has_sync
        if name not in self.helpers:
            if name == "plpgsql":
                self.server.run(PLPGSQL)
            elif not self.server.extension(name):
                return False
            elif name == "pgq":
                self.server.run("SELECT pgq.create_queue('bench')")
            self.helpers.add(name)
        return True

    def variants(self, names):
        """Those of `names` that this server can run, and says which it cannot."""
        usable = []
        for name in names:
            if self.help(VARIANTS[name].needs):
                usable.append(name)
            elif VARIANTS[name].needs != "sync_ext":
                say(f"{name}: not installed")
        return usable

    def tracked(self, name, rows, scope=False):
        """A tracked table, filled in one statement, its log, that is, packed."""
        self.server.run(f"CREATE TABLE {name} ({COLUMNS}) WITH (autovacuum_enabled = off)")
        self.track(name, scope)
        self.server.run(f"INSERT INTO {name} SELECT * FROM {self.source(rows)}")
        self.server.run(f"VACUUM ANALYZE {name}")

    def track(self, name, scope=False):
        self.server.run(f"SELECT sync.track('{name}'" + (", scope => '{company_id}')" if scope else ")"))

    def big(self, kind, rows):
        """A tracked table of `rows` rows whose log holds as many changes again.

        kind: 'packed', one statement for each 1000 rows; 'single', one transaction for each row.
        """
        name = f"big_{kind}_{rows}"
        if name not in self.fixtures:
            progress(f"making {name}")
            self.tracked(name, rows, scope=True)
            if kind == "packed":
                self.transactions(name, 1, rows, step=1000)
            else:
                self.transactions(name, 1, rows)
            self.settle(name)
            self.fixtures[name] = name
        return name

    def transactions(self, name, first, last, step=1, stride=1):
        """Update the rows first … last (each stride-th), in transactions of `step` rows."""
        conn = self.server.connect(f"{ASYNC} {NOTIFY_OFF}")
        conn.autocommit = True
        if step == 1:
            what = f"UPDATE {name} SET n = n + 1 WHERE id = i"
        else:
            what = f"UPDATE {name} SET n = n + 1 WHERE id >= i AND id < i + {step}"
        self.server.run(f"""DO $$
            BEGIN
                FOR i IN {first}..{last} BY {max(step, stride)} LOOP
                    {what};
                    COMMIT;
                END LOOP;
            END $$""", conn=conn)
        conn.close()

    def settle(self, *names, checkpoint=True):
        """Vacuum what was filled, the log too: dead rows are not what is measured."""
        for name in names:
            self.server.run(f"VACUUM ANALYZE {name}")
        if self.server.has_sync:
            for log, in self.server.run("SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n "
                                        "ON n.oid = c.relnamespace WHERE n.nspname = 'sync' AND c.relkind = 'r'"):
                self.server.run(f"VACUUM ANALYZE {log}")
        if checkpoint:
            self.server.run("CHECKPOINT")

    def cursor_now(self, domain, arguments=""):
        """A cursor that has seen everything, for a question."""
        return self.server.value(f"SELECT cursor::text FROM sync.changes('{domain}'{arguments}) WHERE op = 'up-to-date'")

    # ---- several latencies side by side ----

    def latencies(self, queries, base):
        """queries: {name: (pgbench script, variables, options of the session)}. One client each, in turn."""
        def runner(script, variables, options=""):
            return lambda: self.server.pgbench(script, 1, 1, variables, options)

        return interleave({name: runner(*q) for name, q in queries.items()}, base, self.rounds, self.seed)

    def show_latencies(self, results, names):
        rows = []
        for name in names:
            rows.append([name, spread(results.value(name, "latency"), 1), spread(results.ratio("latency", name)),
                         spread(results.value(name, "cpu"), 1), spread(results.ratio("cpu", name))])
        table(["query", "latency µs", "ratio", "backend CPU µs", "CPU ratio"], rows)

    def show_profile(self, what, script, variables=None, options="", clients=1):
        if self.profile:
            say(f"  where the backend's time goes, {what}:")
            for line in self.server.profile_pgbench(script, clients, variables, options):
                say(f"    {line}")
            say()


class Variant:
    def __init__(self, needs="", setup=(), options=""):
        self.needs = needs
        self.setup = setup
        self.options = options


def _floor_before(event):
    return f"CREATE TRIGGER floor_before BEFORE {event} ON {{t}} FOR EACH ROW " \
        "EXECUTE FUNCTION suppress_redundant_updates_trigger()"


# lo_manage looks at a column that no statement here touches: the cheapest AFTER ROW trigger in C that PostgreSQL ships
_FLOOR_AFTER = "CREATE TRIGGER floor_after AFTER {event} ON {{t}} FOR EACH ROW EXECUTE FUNCTION lo_manage(file)"

_MODDATETIME = "CREATE TRIGGER stamp BEFORE UPDATE ON {t} FOR EACH ROW EXECUTE FUNCTION moddatetime(modified_at)"
_INDEX = "CREATE INDEX ON {t} (modified_at)"
_STAMP = "CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON {t} FOR EACH ROW EXECUTE FUNCTION bench_stamp()"
_CAPTURE = "CREATE TRIGGER capture AFTER INSERT OR UPDATE OR DELETE ON {{t}} FOR EACH ROW EXECUTE FUNCTION bench_capture({})"

VARIANTS = {
    "bare": Variant(),
    "floor: BEFORE ROW in C": Variant("", [_floor_before("UPDATE")]),
    "floor: AFTER ROW in C": Variant("lo", [_FLOOR_AFTER.format(event="INSERT OR UPDATE OR DELETE")]),
    "floor: both": Variant("lo", [_floor_before("UPDATE"), _FLOOR_AFTER.format(event="INSERT OR UPDATE OR DELETE")]),
    "moddatetime": Variant("moddatetime", [_MODDATETIME]),
    "moddatetime + index": Variant("moddatetime", [_MODDATETIME, _INDEX]),
    "tcn": Variant("tcn", ["CREATE TRIGGER tcn AFTER INSERT OR UPDATE OR DELETE ON {t} FOR EACH ROW "
                           "EXECUTE FUNCTION triggered_change_notification()"]),
    "pgq.logutriga": Variant("pgq", ["CREATE TRIGGER pgq AFTER INSERT OR UPDATE OR DELETE ON {t} FOR EACH ROW "
                                     "EXECUTE FUNCTION pgq.logutriga('bench')"]),
    "PL/pgSQL": Variant("plpgsql", [_STAMP, _CAPTURE.format("")]),
    "PL/pgSQL, notify": Variant("plpgsql", [_STAMP, _CAPTURE.format("'{t}'")]),
    "tracked, notify off": Variant("sync_ext", ["SELECT sync.track('{t}')"], NOTIFY_OFF),
    "tracked, notify commit": Variant("sync_ext", ["SELECT sync.track('{t}')"], NOTIFY_COMMIT),
    "tracked, scope": Variant("sync_ext", ["SELECT sync.track('{t}', scope => '{{company_id}}')"], NOTIFY_OFF),
    "tracked, scope, notify commit": Variant("sync_ext", ["SELECT sync.track('{t}', scope => '{{company_id}}')"],
                                             NOTIFY_COMMIT),
}


# ---- 1. bulk ----

def bulk(b):
    rows = 100_000
    source = b.source(rows)
    say(f"{rows} rows in one INSERT, UPDATE and DELETE. Ratios to the bare table of the same round.\n")
    names = b.variants(["bare", "floor: BEFORE ROW in C", "floor: AFTER ROW in C", "floor: both", "moddatetime + index",
                        "tracked, notify off", "tracked, notify commit", "tracked, scope", "PL/pgSQL", "PL/pgSQL, notify"])
    statements = {
        "INSERT": f"INSERT INTO bulk SELECT * FROM {source}",
        "UPDATE": "UPDATE bulk SET n = n + 1",
        "DELETE": "DELETE FROM bulk",
    }

    def runner(variant):
        def once():
            b.create("bulk", variant)
            # the first tracked statement of a session loads the library: not in the figures
            conn = b.server.connect(VARIANTS[variant].options)
            b.server.run("INSERT INTO bulk SELECT -1, 0, '', ''; UPDATE bulk SET n = 1; DELETE FROM bulk", conn=conn)
            b.server.run("CHECKPOINT")
            measured = {}
            for op, sql in statements.items():
                for clock, value in b.server.timed(conn, sql).items():
                    measured[f"{op} {clock}"] = value
            conn.close()
            return measured
        return once

    results = interleave({name: runner(name) for name in names}, "bare", b.rounds, b.seed)
    b.server.run("DROP TABLE bulk")
    for clock, label in (("wall", "elapsed"), ("cpu", "CPU of the backend")):
        out = []
        for name in names:
            row = [name]
            for op in statements:
                metric = f"{op} {clock}"
                row.append(number((results.value(name, metric) or [None])[0], 3))
                row.append(spread(results.ratio(metric, name)))
                added = results.added(metric, name)
                row.append(number(added[0] * 1e6 / rows if added else None, 2))
            out.append(row)
        say(f"{label}:\n")
        table(["variant"] + [h for op in statements for h in (f"{op} s", "ratio", "adds µs/row")], out)

    if "tracked, notify off" in names:
        judge = b.targets.judge
        met = True
        for clock, label in (("wall", ""), ("cpu", ", CPU")):
            update, insert, delete = (f"{op} {clock}" for op in ("UPDATE", "INSERT", "DELETE"))
            for name in ("tracked, notify off", "tracked, notify commit"):
                if "moddatetime + index" in names:
                    met &= judge(f"bulk UPDATE, {name}, to moddatetime + index{label}",
                                 results.ratio(update, name, "moddatetime + index"), 1.0)
                met &= judge(f"bulk INSERT, {name}, to bare{label}", results.ratio(insert, name), 1.5)
                added = results.added(delete, name)
                met &= judge(f"bulk DELETE, {name}, adds{label}",
                             added and tuple(x * 1e6 / rows for x in added), 2.0, " µs/row")
            for op, metric in (("UPDATE", update), ("INSERT", insert), ("DELETE", delete)):
                met &= judge(f"bulk {op}, one scope column, to no scope{label}",
                             results.ratio(metric, "tracked, scope", "tracked, notify off"), 1.15)
        say()
        if not met and b.profile:
            for variant in ("tracked, notify off", "tracked, scope"):
                b.create("bulk", variant)
                conn = b.server.connect(VARIANTS[variant].options)
                for op, sql in statements.items():
                    say(f"  where the backend's time goes, {op}, {variant}:")
                    for line in b.server.profile([conn.info.backend_pid], lambda: b.server.run(sql, conn=conn)):
                        say(f"    {line}")
                conn.close()
            b.server.run("DROP TABLE bulk")
            say()


# ---- 2. single ----

def single(b):
    rows = 100_000
    source = b.source(rows)
    say("One-row UPDATE by key, 4 clients, prepared, synchronous_commit = off. CPU: what the four backends used, from /proc.\n")
    names = b.variants(["bare", "floor: BEFORE ROW in C", "floor: AFTER ROW in C", "floor: both", "moddatetime",
                        "moddatetime + index", "tcn", "pgq.logutriga", "PL/pgSQL", "PL/pgSQL, notify",
                        "tracked, notify off", "tracked, notify commit", "tracked, scope"])
    tables = {name: f"single_{i}" for i, name in enumerate(names)}
    # no checkpoint after this, or the first change of each page would log the whole page
    b.server.run("CHECKPOINT")
    for name, t in tables.items():
        b.create(t, name)
        # all rows twice, then half of the space free: every update finds room on its page, so it can be HOT
        b.server.run(f"INSERT INTO {t} SELECT * FROM {source}")
        b.server.run(f"UPDATE {t} SET n = n + 1")
    b.settle(*tables.values(), checkpoint=False)

    def script(name):
        return f"\\set id random(1, {rows})\nUPDATE {tables[name]} SET n = n + 1 WHERE id = :id;\n"

    def options(name):
        return f"{ASYNC} {VARIANTS[name].options}"

    def runner(name):
        def once():
            b.server.run(f"VACUUM {tables[name]}")
            before = b.server.value("SELECT pg_current_wal_insert_lsn()::text")
            xid = int(b.server.value("SELECT pg_snapshot_xmax(pg_current_snapshot())::text"))
            measured = b.server.pgbench(script(name), 4, 1, options=options(name), count_xids=True)
            done = int(b.server.value("SELECT pg_snapshot_xmax(pg_current_snapshot())::text")) - xid
            measured["wal"] = float(b.server.value("SELECT pg_current_wal_insert_lsn() - %s::pg_lsn", [before])) / done
            return measured
        return once

    # short runs and more of them: what disturbs them lasts for seconds
    rounds = b.rounds if b.quick else 2 * b.rounds
    results = interleave({name: runner(name) for name in names}, "bare", rounds, b.seed)
    out = []
    for name in names:
        out.append([name, spread(results.value(name, "cpu"), 1), spread(results.ratio("cpu", name)),
                    number(results.value(name, "tps")[0], 0), spread(results.ratio("tps", name)),
                    number(results.value(name, "wal")[0], 0)])
    table(["variant", "CPU µs/transaction", "ratio", "tps", "ratio", "WAL B/transaction"], out)
    if "tracked, notify off" in names:
        met = b.targets.judge("one-row UPDATE, CPU, notify off", results.ratio("cpu", "tracked, notify off"), 1.2)
        met &= b.targets.judge("one-row UPDATE, CPU, notify commit", results.ratio("cpu", "tracked, notify commit"), 1.2)
        say()
        if not met:
            for name in ("tracked, notify off", "tracked, notify commit", "bare"):
                b.show_profile(name, script(name), None, options(name), 4)
    for t in tables.values():
        b.server.run(f"DROP TABLE {t}")


# ---- 3. poll ----

def poll(b):
    if not needs_sync(b):
        return
    big = 100_000 if b.quick else 1_000_000
    scope = ", 'company_id = $1', ARRAY['7']"
    filter = ", 'n >= $1', ARRAY['0']"
    for rows in (1000, big):
        t = b.big("single", rows)
        select = (f"\\set id random(1, {rows})\nSELECT * FROM {t} WHERE id = :id;\n", {})

        def ask(arguments, cursor):
            return f"SELECT * FROM sync.changes('{t}', :c{arguments});\n", {"c": cursor}

        idle = {
            "one row by key": select,
            "poll": ask("", b.cursor_now(t)),
            "poll, filter": ask(filter, b.cursor_now(t, ", NULL" + filter)),
            "poll, scope filter": ask(scope, b.cursor_now(t, ", NULL" + scope)),
        }
        say(f"A poll that finds nothing, {rows} rows, log of {rows} one-row transactions, one client, prepared:\n")
        _poll(b, idle, f"poll, {rows} rows")
        if b.quick and rows < big:
            continue

        # somebody writes a lot and does not commit
        writer = b.server.connect(NOTIFY_OFF)
        writer.autocommit = False
        open_rows = min(rows * 9 // 10, 100_000)
        b.server.run(f"UPDATE {t} SET n = n + 1 WHERE id <= {open_rows}", conn=writer)
        say(f"The same while a transaction that changed {open_rows} rows is open, which began after the cursor:\n")
        _poll(b, idle, f"poll, {rows} rows, younger open transaction")
        # one that commits after it makes the open one older than the next cursor
        b.transactions(t, rows, rows)
        later = {"one row by key": select}
        for name, arguments in (("poll", ""), ("poll, filter", filter), ("poll, scope filter", scope)):
            later[name] = ask(arguments, b.cursor_now(t, ", NULL" + arguments if arguments else ""))
        say("and with a cursor made after another transaction had committed, so that it names the open one:\n")
        _poll(b, later, f"poll, {rows} rows, older open transaction")
        writer.rollback()
        writer.close()
        b.settle(t)


def _poll(b, queries, what):
    results = b.latencies(queries, "one row by key")
    b.show_latencies(results, queries)
    missed = [name for name in queries if name != "one row by key" and
              not b.targets.judge(f"{what}: {name}", results.ratio("latency", name), 1.5)]
    say()
    for name in ["one row by key"] + missed if missed else []:
        b.show_profile(name, *queries[name])


# ---- 4. delta ----

def delta(b):
    if not needs_sync(b):
        return
    rows = 100_000 if b.quick else 1_000_000
    changed = 1000
    stride = rows // changed
    for kind in ("packed", "single"):
        t = b.big(kind, rows)
        hand = f"hand_{rows}"
        if hand not in b.fixtures:
            progress(f"making {hand}")
            b.server.run(f"CREATE TABLE {hand} ({COLUMNS}) WITH (autovacuum_enabled = off)")
            b.server.run(_INDEX.format(t=hand))
            b.server.run(f"INSERT INTO {hand} SELECT * FROM {b.source(rows)}")
            b.fixtures[hand] = hand
        b.settle(hand)
        since = b.server.value("SELECT clock_timestamp()::text")
        cursor = b.cursor_now(t)
        b.server.run(f"UPDATE {hand} SET n = n + 1, modified_at = clock_timestamp() WHERE id % {stride} = 0")
        if kind == "packed":
            b.server.run(f"UPDATE {t} SET n = n + 1 WHERE id % {stride} = 0")
        else:
            b.transactions(t, stride, rows, stride=stride)
        queries = {
            "SELECT by modified_at": (f"SELECT to_jsonb(t) FROM {hand} t WHERE modified_at > :s;\n", {"s": since}),
            "the same columns by modified_at":
                (f"SELECT 'upsert', jsonb_build_object('id', id), to_jsonb(t), modified_at, NULL FROM {hand} t "
                 "WHERE modified_at > :s;\n", {"s": since}),
            # what searching the rows of known keys costs
            "the same columns by known keys":
                (f"SELECT 'upsert', jsonb_build_object('id', t.id), to_jsonb(t), t.modified_at, NULL "
                 f"FROM generate_series({stride}, {rows}, {stride}) k(id) JOIN {t} t ON t.id = k.id;\n",
                 {}, "-c enable_hashjoin=off -c enable_mergejoin=off -c enable_seqscan=off"),
            "sync.changes": (f"SELECT * FROM sync.changes('{t}', :c);\n", {"c": cursor}),
        }
        how = "one statement" if kind == "packed" else "one-row transactions"
        say(f"{changed} of {rows} rows changed in {how}, log of {rows} such entries before; all rows fetched:\n")
        found = b.server.value(f"SELECT count(*) FROM sync.changes('{t}', %s) WHERE op = 'upsert'", [cursor])
        by_hand = b.server.value(f"SELECT count(*) FROM {hand} WHERE modified_at > %s", [since])
        if found != changed or by_hand != changed:
            say(f"  WRONG: {found} rows from sync.changes and {by_hand} by hand, expected {changed}\n")
        results = b.latencies(queries, "SELECT by modified_at")
        b.show_latencies(results, queries)
        met = b.targets.judge(f"delta of {changed} in {rows}, {how}", results.ratio("latency", "sync.changes"), 1.3)
        say(f"  to the same columns by modified_at: {spread(results.ratio('latency', 'sync.changes', list(queries)[1]))}, "
            f"by known keys: {spread(results.ratio('latency', 'sync.changes', list(queries)[2]))}\n")
        if not met:
            b.show_profile("SELECT by modified_at", *queries["SELECT by modified_at"])
            b.show_profile("sync.changes", *queries["sync.changes"])
    _narrow(b, rows)


def _narrow(b, others):
    """Ten changes of mine among few and among many of others."""
    rows = others // 10
    arguments = ", 'company_id = $1', ARRAY['7']"
    queries = {}
    for kind in ("few", "many, bulk statements", "many, one-row transactions"):
        t = "narrow_" + str(len(queries))
        progress(f"making {t}")
        b.tracked(t, rows, scope=True)
        b.settle(t)
        cursor = b.cursor_now(t, ", NULL" + arguments)
        b.transactions(t, 7, 907, stride=100)
        if kind == "few":
            b.transactions(t, 8, 98)
        elif kind == "many, bulk statements":
            conn = b.server.connect(NOTIFY_OFF)
            for _ in range(10):
                b.server.run(f"UPDATE {t} SET n = n + 1 WHERE company_id <> 7", conn=conn)
            conn.close()
        else:
            conn = b.server.connect(f"{ASYNC} {NOTIFY_OFF}")
            b.server.run(f"""DO $$
                BEGIN
                    FOR j IN 1..10 LOOP
                        FOR i IN 1..{rows} LOOP
                            CONTINUE WHEN i % 100 = 7;
                            UPDATE {t} SET n = n + 1 WHERE id = i;
                            COMMIT;
                        END LOOP;
                    END LOOP;
                END $$""", conn=conn)
            conn.close()
        found = b.server.value(f"SELECT count(*) FROM sync.changes('{t}', %s{arguments}) WHERE op = 'upsert'", [cursor])
        if found != 10:
            say(f"  WRONG: {found} rows for {kind}, expected 10\n")
        queries[kind] = (f"SELECT * FROM sync.changes('{t}', :c{arguments});\n", {"c": cursor})
    for i in range(len(queries)):
        b.settle(f"narrow_{i}")
    say(f"Ten changes in the scope of the reader, among few (91) and among {others} changes in other scopes:\n")
    results = b.latencies(queries, "few")
    b.show_latencies(results, queries)
    missed = [kind for kind in queries if kind != "few" and
              not b.targets.judge(f"10 changes among {kind} in other scopes, to few", results.ratio("latency", kind), 1.3)]
    say()
    for kind in ["few"] + missed if missed else []:
        b.show_profile(kind, *queries[kind])
    for i in range(len(queries)):
        b.server.run(f"DROP TABLE narrow_{i}")


# ---- 5. pages ----

def pages(b):
    if not needs_sync(b):
        return
    page = 1000
    small, large = (10_000, 100_000) if b.quick else (100_000, 1_000_000)
    cursors = {}
    for rows in (small, large):
        t = f"pages_{rows}"
        progress(f"making {t}")
        b.tracked(t, rows, scope=True)
        cursors[rows] = b.cursor_now(t)
        b.server.run(f"UPDATE {t} SET n = n + 1")
        b.settle(t)

    def deliver(rows, cursor):
        """All pages from a cursor: time for each row, and the backend's memory."""
        conn = b.server.connect()
        pid = conn.info.backend_pid
        delivered = count = 0
        anon = []
        slowest = 0.0
        start = time.perf_counter()
        with conn.cursor() as cur:
            cur.execute(f"PREPARE page (sync.cursor) AS SELECT op, key, data, modified_at, cursor "
                        f"FROM sync.changes('pages_{rows}', $1, max_rows => {page})")
            while True:
                began = time.perf_counter()
                cur.execute("EXECUTE page(%s)", [cursor])
                answer = cur.fetchall()
                slowest = max(slowest, time.perf_counter() - began)
                delivered += sum(r[0] in ("upsert", "remove") for r in answer)
                count += 1
                anon.append(memory_kb(pid).get("RssAnon"))
                cursor = answer[-1][4]
                if answer[-1][0] != "more":
                    break
        elapsed = time.perf_counter() - start
        peak = memory_kb(pid).get("VmHWM")
        conn.close()
        if delivered != rows:
            say(f"  WRONG: {delivered} rows delivered, expected {rows}")
        known = None not in anon
        return {"us": elapsed * 1e6 / rows, "seconds": elapsed, "pages": count, "slowest": slowest * 1000,
                "first": anon[min(4, count - 1)] if known else None, "last": anon[-1] if known else None,
                "most": max(anon) if known else None, "hwm": peak}

    cases = {}
    for what, cursor_of in (("first load", lambda rows: None), ("one transaction", cursors.get)):
        for rows in (small, large):
            cases[f"{what}, {rows}"] = (lambda r, c: lambda: deliver(r, c))(rows, cursor_of(rows))
    results = interleave(cases, f"first load, {small}", 1 if b.quick else 2, b.seed)
    out = []
    for name in cases:
        v = {m: results.value(name, m) for m in ("seconds", "us", "pages", "slowest", "first", "last", "most", "hwm")}
        out.append([name, number(v["pages"][0], 0), spread(v["seconds"]), spread(v["us"]), spread(v["slowest"], 1)]
                   + [number(v[m][0] / 1024 if v[m] else None, 1) for m in ("first", "last", "most", "hwm")])
    say(f"Delivered in pages of {page}. Memory of the backend in MB: private (RssAnon) at the fifth page, at the last, "
        "at most; VmHWM counts the shared buffers that it touched, too.\n")
    table(["delivery", "pages", "seconds", "µs/row", "slowest page ms", "RssAnon", "at end", "most", "VmHWM"], out)
    for what in ("first load", "one transaction"):
        big, little = f"{what}, {large}", f"{what}, {small}"
        b.targets.judge(f"{what} in pages, time per row at {large} to {small}", results.ratio("us", big, little), 1.2)
        grown = results.combine("most", big, little, lambda x, y: (x - y) / 1024)
        b.targets.judge(f"{what} in pages, more memory at {large} than at {small}", grown, 1.0, " MB")
    say()
    for rows in (small, large):
        b.server.run(f"DROP TABLE pages_{rows}")


# ---- 6. cascade ----

def cascade(b):
    details = 10_000
    run = b.server.run
    kinds = ["bare"]
    if b.help("plpgsql"):
        run("""CREATE FUNCTION bench_cascade() RETURNS trigger LANGUAGE plpgsql AS $$
               BEGIN
                   EXECUTE format('UPDATE %I SET modified_at = clock_timestamp() WHERE id = $1', TG_ARGV[0])
                       USING NEW.master_id;
                   RETURN NULL;
               END $$""")
        kinds.append("PL/pgSQL, each row")
    if b.server.has_sync:
        kinds += ["tracked", "tracked, cascade"]
    for i, kind in enumerate(kinds):
        run(f"""CREATE TABLE master_{i} (id int PRIMARY KEY, name text NOT NULL,
                                         modified_at timestamptz NOT NULL DEFAULT now());
                CREATE TABLE detail_{i} (id int PRIMARY KEY, master_id int NOT NULL REFERENCES master_{i},
                                         n int NOT NULL, modified_at timestamptz NOT NULL DEFAULT now());
                CREATE INDEX ON detail_{i} (master_id);
                INSERT INTO master_{i} SELECT j, 'master ' || j FROM generate_series(1, 1000) j""")
        if kind.startswith("tracked"):
            run(f"SELECT sync.track('master_{i}'), sync.track('detail_{i}')")
        if kind == "tracked, cascade":
            run(f"SELECT sync.cascade('detail_{i}', 'master_{i}')")
        if kind.startswith("PL/pgSQL"):
            run(f"CREATE TRIGGER cascade AFTER INSERT ON detail_{i} FOR EACH ROW EXECUTE FUNCTION bench_cascade('master_{i}')")

    for masters in (1, 1000):
        def runner(i):
            def once():
                run(f"DELETE FROM detail_{i}")
                run(f"VACUUM detail_{i}")
                run(f"VACUUM master_{i}")
                conn = b.server.connect(NOTIFY_OFF if b.server.has_sync else "")
                run(f"INSERT INTO detail_{i} VALUES (0, 1, 0)", conn=conn)
                conn.autocommit = False
                updated = f"SELECT pg_stat_get_xact_tuples_updated('master_{i}'::regclass)"
                before = b.server.value(updated, conn=conn)
                measured = b.server.timed(conn, f"INSERT INTO detail_{i} "
                                          f"SELECT j, 1 + j % {masters}, j FROM generate_series(1, {details}) j")
                measured["updates"] = b.server.value(updated, conn=conn) - before
                start = time.perf_counter()
                conn.commit()
                measured["wall"] += time.perf_counter() - start
                conn.close()
                return measured
            return once

        results = interleave({kind: runner(i) for i, kind in enumerate(kinds)}, "bare", b.rounds, b.seed)
        say(f"{details} details of {masters} master{'s' if masters > 1 else ''} in one INSERT:\n")
        out = []
        for kind in kinds:
            out.append([kind, spread(results.value(kind, "wall"), 3), spread(results.ratio("wall", kind)),
                        spread(results.ratio("cpu", kind)), spread(results.value(kind, "updates"), 0)])
        table(["variant", "seconds", "ratio", "CPU ratio", "masters updated"], out)
        if "tracked, cascade" in kinds:
            updates = results.value("tracked, cascade", "updates")
            if updates[1] < masters:
                say(f"  WRONG: only {updates[1]:.0f} masters updated, expected {masters}")
            b.targets.judge(f"cascade to {masters} master{'s' if masters > 1 else ''}, updates", updates, masters)
            say(f"  cascade to no cascade: {spread(results.ratio('wall', 'tracked, cascade', 'tracked'))} elapsed, "
                f"{spread(results.ratio('cpu', 'tracked, cascade', 'tracked'))} CPU\n")
    for i in range(len(kinds)):
        run(f"DROP TABLE detail_{i}, master_{i}")


def needs_sync(b):
    if not b.server.has_sync:
        say(f"sync_ext cannot be created here: {b.server.why_no_sync}\n")
    return b.server.has_sync


PARTS = {"bulk": bulk, "single": single, "poll": poll, "delta": delta, "pages": pages, "cascade": cascade}
