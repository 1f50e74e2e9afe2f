"""What it costs to say who must hear of a change: events, routing, and reading as a user."""

import os
import select
import statistics
import threading
import time

from measure import cpu_seconds, interleave, say, spread, table

CLIENTS = 16

# What people write by hand: a notification for each transaction.
HAND_WRITTEN = """
CREATE FUNCTION bench_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('sync', json_build_object('domain', TG_TABLE_NAME, 'count', 1)::text);
    RETURN NULL;
END $$;
CREATE TRIGGER notify AFTER UPDATE ON {t} FOR EACH STATEMENT EXECUTE FUNCTION bench_notify()"""


class Listeners:
    """Connections that LISTEN; what arrives is read by one thread and thrown away."""

    def __init__(self, server, n):
        self.connections = []
        for _ in range(n):
            conn = server.connect(name="bench listener")
            with conn.cursor() as cur:
                cur.execute("LISTEN sync")
            self.connections.append(conn)
        self.pids = [conn.info.backend_pid for conn in self.connections]
        self.bytes = 0
        self.done = False
        self.thread = threading.Thread(target=self.drain)
        self.thread.start()

    def drain(self):
        poll = select.epoll()
        for conn in self.connections:
            poll.register(conn.fileno(), select.EPOLLIN)
        while not self.done:
            for fd, _ in poll.poll(0.1):
                self.bytes += len(os.read(fd, 65536))
            # nobody who listens for many reads one byte at a time
            time.sleep(0.002)

    def cpu(self):
        used = [cpu_seconds(pid) for pid in self.pids]
        return None if None in used else sum(used)

    def close(self):
        self.done = True
        self.thread.join()
        for conn in self.connections:
            conn.close()


# ---- 7. events ----

def events(b):
    if not b.server.has_sync:
        return
    rows = 10_000
    seconds = 2 if b.quick else 4
    tables = {"events off": "events_off", "worker": "events_worker", "commit": "events_commit",
              "pg_notify by hand": "events_hand"}
    for name, t in tables.items():
        b.create(t, "tracked, notify off")
        b.server.run(f"INSERT INTO {t} SELECT * FROM {b.source(rows)}")
        if name == "pg_notify by hand":
            b.server.run(HAND_WRITTEN.format(t=t))
    b.settle(*tables.values())
    mode = {"events off": "off", "worker": "worker", "commit": "commit", "pg_notify by hand": "off"}
    preloaded = is_preloaded(b)

    def script(name):
        return f"\\set id random(1, {rows})\nUPDATE {tables[name]} SET n = n + 1 WHERE id = :id;\n"

    say(f"One-row UPDATE, {CLIENTS} writers, synchronous_commit = on, while others listen. The listeners' own work is in the last "
        "column: with two processors it is taken from the writers, whoever wakes them.\n")
    for listening in (1, 50, 200):
        listeners = Listeners(b.server, listening)

        def runner(name):
            def once():
                before, start = listeners.cpu(), time.perf_counter()
                measured = b.server.pgbench(script(name), CLIENTS, seconds, options=f"-c sync.notify={mode[name]}")
                if before is not None:
                    measured["listeners"] = (listeners.cpu() - before) / (time.perf_counter() - start) * 100
                return measured
            return once

        results = interleave({name: runner(name) for name in tables}, "events off", b.rounds, b.seed)
        out = [[name, spread(results.value(name, "tps"), 0), spread(results.ratio("tps", name)),
                spread(results.value(name, "cpu"), 1), spread(results.value(name, "listeners"), 1)] for name in tables]
        say(f"{listening} listening connection{'' if listening == 1 else 's'}:\n")
        table(["events", "tps", "ratio", "writers' CPU µs/transaction", "listeners' CPU %"], out)
        listeners.close()
        if listening < 200:
            b.targets.judge_least(f"writers with events by worker, {listening} listening, to events off",
                                  results.ratio("tps", "worker"), 0.95 if listening == 1 else 0.9)
        say()

    for name in ("worker", "commit"):
        delays = latency(b, tables[name], mode[name], 200)
        say(f"commit to notification, {name}: median {statistics.median(delays):.1f} ms, "
            f"95 % under {sorted(delays)[int(len(delays) * 0.95)]:.1f} ms")
        if name == "worker":
            b.targets.judge("commit to notification, worker, median", (statistics.median(delays), min(delays), max(delays)), 20,
                            " ms", 1)
    say()
    if not preloaded:
        b.server.run("SELECT sync.stop_worker()")
        b.server.run(f'ALTER DATABASE "{b.server.database}" RESET sync.notify')
    for t in tables.values():
        b.server.run(f"DROP TABLE {t}")


def is_preloaded(b):
    """Commits wake the worker that the launcher keeps; else one that polls is started here."""
    if "sync_ext" in b.server.value("SHOW shared_preload_libraries") and b.server.value("SHOW sync.databases") != "":
        say("The library is preloaded: commits wake the worker.")
        while not b.server.value("SELECT running FROM sync.workers"):
            time.sleep(0.2)
        return True
    say("The library is not preloaded: the worker polls.")
    b.server.run(f'ALTER DATABASE "{b.server.database}" SET sync.notify = worker')
    b.server.run("SELECT sync.start_worker()")
    return False


def latency(b, t, mode, n):
    """Milliseconds from the return of COMMIT to the notification, one transaction at a time."""
    writer = b.server.connect(f"-c sync.notify={mode}")
    listener = b.server.connect(name="bench listener")
    b.server.run("LISTEN sync", conn=listener)
    time.sleep(0.5)
    delays = []
    for i in range(n):
        listener.poll()
        listener.notifies.clear()
        b.server.run(f"UPDATE {t} SET n = n + 1 WHERE id = %s", [i + 1], conn=writer)
        start = time.perf_counter()
        while not listener.notifies:
            select.select([listener], [], [], 5)
            listener.poll()
            if time.perf_counter() - start > 5:
                raise RuntimeError("no notification in five seconds")
        delays.append((time.perf_counter() - start) * 1000)
        time.sleep(0.005)
    writer.close()
    listener.close()
    return delays


# ---- 8. affected ----

def affected(b):
    if not b.server.has_sync:
        return
    run = b.server.run
    counts = (1000, 100_000)
    results = {}
    say("sync.affected() where every client subscribes to three domains, and each company has ten users:\n")
    for n in counts:
        run(f"""CREATE TABLE route_project (id int PRIMARY KEY, company_id int NOT NULL, n int NOT NULL DEFAULT 0);
                CREATE TABLE route_note (id int PRIMARY KEY);
                CREATE TABLE route_task (id int PRIMARY KEY);
                CREATE TABLE route_member (user_id text, company_id int, PRIMARY KEY (user_id, company_id));
                CREATE INDEX ON route_member (company_id, user_id);
                INSERT INTO route_project SELECT i, (i - 1) / 1000 FROM generate_series(1, 100000) i;
                INSERT INTO route_member SELECT 'user ' || i, i / 10 FROM generate_series(0, {n - 1}) i;
                SELECT sync.track('route_project', scope => '{{company_id}}'), sync.track('route_note'), sync.track('route_task'),
                       sync.track('route_member', scope => '{{user_id,company_id}}');
                SELECT sync.set_access('route_project', 'route_member')""")
        run(f"""SELECT count(sync.connect('client ' || i, 'user ' || i, 'server', '{{route_project,route_note,route_task}}'))
                  FROM generate_series(0, {n - 1}) i""")
        run("VACUUM ANALYZE sync.client, sync.subscription, route_member, route_project")
        questions = {
            "nothing new": None,
            "one change": "UPDATE route_project SET n = n + 1 WHERE id = 1",
            "1000 changes, the same ten clients": "UPDATE route_project SET n = n + 1 WHERE id <= 1000",
            "100 changes, 1000 clients": "UPDATE route_project SET n = n + 1 WHERE id % 1000 = 1",
        }
        queries, named = {}, {}
        for name, change in questions.items():
            cursor = b.server.value("SELECT cursor::text FROM sync.affected(sync.current_cursor()) WHERE client IS NULL")
            if change:
                run(change)
            key = f"{n} clients: {name}"
            # what came after is not new to this cursor, so each question is asked before the next change
            results[key] = interleave(
                {key: lambda c=cursor: b.server.pgbench("SELECT * FROM sync.affected(:c, 'server');\n", 1, 1, {"c": c})},
                key, b.rounds, b.seed)
            named[key] = len(run("SELECT * FROM sync.affected(%s, 'server')", [cursor])) - 1
            queries[key] = None
        table(["question", "clients named", "latency µs", "backend CPU µs"],
              [[key, named[key], spread(results[key].value(key, "latency"), 1), spread(results[key].value(key, "cpu"), 1)]
               for key in queries])
        run("SELECT count(sync.disconnect(client)) FROM sync.client")
        run("DROP TABLE route_project, route_note, route_task, route_member CASCADE")

    def latency_of(n, question):
        key = f"{n} clients: {question}"
        return results[key].value(key, "latency")

    def ratio(a, base):
        return tuple(x / base[0] for x in a)

    one = latency_of(counts[1], "one change")
    judge = b.targets.judge
    judge(f"affected, one change, {counts[1]} clients", tuple(x / 1000 for x in one), 1, " ms")
    judge(f"affected, one change, {counts[1]} clients, to {counts[0]}", ratio(one, latency_of(counts[0], "one change")), 1.5)
    judge("affected, 1000 changes, to one", ratio(latency_of(counts[1], "1000 changes, the same ten clients"), one), 10)
    say()


# ---- 9. a user's poll ----

def rights(b):
    if not b.server.has_sync:
        return
    run = b.server.run
    t = b.big("single", 1000 if b.quick else 100_000)
    run(f"""CREATE TABLE rights_member (user_id text, company_id int, PRIMARY KEY (user_id, company_id));
            CREATE INDEX ON rights_member (company_id, user_id);
            SELECT sync.track('rights_member', scope => '{{user_id,company_id}}');
            INSERT INTO rights_member SELECT 'user ' || i, (i + j) % 100 FROM generate_series(1, 10000) i, generate_series(1, 5) j;
            SELECT sync.set_access('{t}', 'rights_member')""")
    b.settle("rights_member")

    def ask(arguments):
        cursor = b.cursor_now(t, arguments)
        return f"SELECT * FROM sync.changes('{t}', :c{arguments});\n", {"c": cursor}

    user = ", user_id => 'user 7'"
    idle = {"poll": ask(""), "poll, user_id": ask(user)}
    results = b.latencies(idle, "poll")
    say("A poll that finds nothing, with and without user_id, of a user with five scopes:\n")
    b.show_latencies(results, idle)
    b.targets.judge("poll with user_id, nothing new, to the poll without", results.ratio("latency", "poll, user_id"), 2.0)
    say()

    # others' companies change: nothing for this user, but something to look at
    busy = {"poll": ask(""), "poll, user_id": ask(user)}
    run(f"UPDATE {t} SET n = n + 1 WHERE company_id = 50")
    results = b.latencies(busy, "poll")
    say("The same when another company's rows have changed; the poll without a user delivers them:\n")
    b.show_latencies(results, busy)
    run(f"SELECT sync.set_access('{t}', NULL)")
    run("DROP TABLE rights_member")


PARTS = {"events": events, "affected": affected, "rights": rights}
