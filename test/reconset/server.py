#!/usr/bin/python3
"""sync.reconcile_ids() under concurrent appends, and whole exchanges with it.

    server.py CHECK [SECONDS]      CHECK is the program made of check.c

Writers append to streams in batches of all sizes, in transactions that roll back, in savepoints and
under REPEATABLE READ with snapshots of long ago, combine and trim.  Readers take a snapshot, read the
hashes that are in a stream, and ask about the fingerprints of random ranges of them under the same
snapshot: there must be no difference.  Then clients with random differences reconcile.  The server
is found as by psql (PGHOST, …); a database sync_reconset is made in it, and dropped.
"""
import hashlib
import os
import random
import sys
import threading
import time

sys.dont_write_bytecode = True

try:
    import psycopg2
except ImportError:
    if sys.executable != "/usr/bin/python3" and os.access("/usr/bin/python3", os.X_OK):
        os.execv("/usr/bin/python3", ["/usr/bin/python3", *sys.argv])
    sys.exit("psycopg2 is needed (Debian: python3-psycopg2)")
import psycopg2.errors  # noqa: E402

from wire import ABOVE_ALL, FINGERPRINT, LOWEST, Message, Ours, Plain, fingerprint, talk  # noqa: E402

DATABASE = "sync_reconset"
STREAMS = ["rolled", "plain"]


def connect(database=DATABASE):
    return psycopg2.connect(dbname=database)


class Work(threading.Thread):
    """One actor; the first error ends the test."""

    def __init__(self, name, until):
        super().__init__(name=name, daemon=True)
        self.random = random.Random(name)
        self.until = until
        self.error = None
        self.done = 0

    def run(self):
        try:
            self.connection = connect()
            self.cursor = self.connection.cursor()
            while time.time() < self.until:
                self.step()
                self.connection.rollback()
                self.done += 1
            self.connection.close()
        except Exception as error:  # noqa: BLE001
            self.error = error


class Writer(Work):
    made = 0

    def append(self, stream):
        n = self.random.choice([1, 1, 10, 700, 1500])
        ids = [f"{self.name}-{self.made + i}" for i in range(n)]
        self.made += n
        if stream == "plain":
            self.cursor.execute("SELECT count(*) FROM sync.put(%s, %s, %s)", (stream, ids, [b"x"] * n))
        else:
            self.cursor.execute(
                "SELECT count(*) FROM sync.append(%s, (SELECT jsonb_agg(jsonb_build_object('id', i, 'actions',"
                " jsonb_build_array(jsonb_build_object('id', i)))) FROM unnest(%s) i))", (stream, ids))

    def compact(self):
        self.cursor.execute("SELECT at FROM sync.entries('rolled') WHERE kind = 'entry' ORDER BY at")
        times = [at for at, in self.cursor.fetchall()]
        if len(times) < 20000:
            return
        upto = times[self.random.randrange(len(times))]
        if self.random.random() < 0.5:
            self.cursor.execute("SELECT sync.combine('rolled', %s)", (upto,))
        else:
            self.cursor.execute("SELECT sync.snapshot('rolled', %s, '{}')", (upto,))
            self.cursor.execute("SELECT sync.trim('rolled')")

    def step(self):
        stream = self.random.choice(STREAMS)
        try:
            if self.random.random() < 0.2:
                self.cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                self.cursor.execute("SELECT 1")
                time.sleep(self.random.random() / 50)
            if self.random.random() < 0.05:
                self.compact()
            for _ in range(self.random.choice([1, 1, 3])):
                self.cursor.execute("SAVEPOINT s")
                self.append(stream)
                if self.random.random() < 0.2:
                    self.cursor.execute("ROLLBACK TO s")
            if self.random.random() < 0.8:
                self.connection.commit()
        except (psycopg2.errors.SerializationFailure, psycopg2.errors.DeadlockDetected):
            pass
        except psycopg2.errors.InvalidParameterValue:
            pass  # another one has compacted further
        except psycopg2.errors.ObjectNotInPrerequisiteState:
            pass


class Reader(Work):
    def step(self):
        stream = self.random.choice(STREAMS)
        self.cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        self.cursor.execute("SELECT e.hash FROM sync.entry e JOIN sync.streams s ON s.id = e.stream_id"
                            " WHERE s.stream = %s", (stream,))
        hashes = sorted(bytes(h) for h, in self.cursor.fetchall())
        time.sleep(self.random.random() / 20)
        for ranges in (1, 40):
            bounds = sorted((0, self.random.randbytes(self.random.choice([1, 2, 3])).ljust(32, b"\0"))
                            for _ in range(ranges - 1))
            message, lower = Message(), LOWEST
            for upper in bounds + [ABOVE_ALL]:
                message.range(lower, upper, FINGERPRINT, fingerprint(
                    [h for h in hashes if (0, h) >= lower and (0, h) < upper]))
                lower = upper
            self.cursor.execute("SELECT sync.reconcile_ids(%s, %s)", (stream, bytes(message.bytes)))
            answer = bytes(self.cursor.fetchone()[0])
            if answer != b"\x61":
                raise AssertionError(f"{len(hashes)} hashes of stream {stream}: a difference is seen where there is none")


class OnServer:
    """The responder that the tests are about."""

    def __init__(self, stream, limit):
        self.connection = connect()
        self.cursor = self.connection.cursor()
        self.stream, self.limit = stream, limit

    def respond(self, message):
        self.cursor.execute("SELECT sync.reconcile_ids(%s, %s, %s)", (self.stream, message, self.limit))
        return bytes(self.cursor.fetchone()[0])


def exchange(program, stream, ids, rng):
    """A client that lacks some entries, and has some more, finds out; returns an error or None."""
    name = {hashlib.sha256(i.encode()).digest(): i for i in ids}
    lacking = set(rng.sample(sorted(name), rng.choice([0, 1, 20, 300])))
    own = {rng.randbytes(32) for _ in range(rng.choice([0, 1, 20, 300]))}
    items = [(0, h) for h in (set(name) - lacking) | own]
    limit = rng.choice([0, 0, 4096])
    client = Plain(items) if rng.random() < 0.3 else Ours(program, items, limit)
    server = OnServer(stream, limit)
    size, trips = talk(client, server)
    if isinstance(client, Ours):
        client.close()
    server.cursor.execute("SELECT array_agg(id) FROM sync.ids_by_hash(%s, %s)", (stream, sorted(client.need)))
    found = set(server.cursor.fetchone()[0] or [])
    server.connection.close()
    if client.have == own and client.need == lacking and found == {name[h] for h in lacking}:
        return None
    return f"{len(name)} ids, {len(lacking)} and {len(own)} alone, limit {limit}: wrong after {trips} round trips"


def check(program, seconds):
    setup = connect("postgres")
    setup.autocommit = True
    setup.cursor().execute(f"DROP DATABASE IF EXISTS {DATABASE}")
    setup.cursor().execute(f"CREATE DATABASE {DATABASE}")
    passed = failed = 0
    try:
        connection = connect()
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute("CREATE EXTENSION sync_ext")
        cursor.execute("SELECT sync.create_stream('rolled', 'actions'), sync.create_stream('plain', 'opaque')")
        until = time.time() + seconds
        workers = [Writer(f"writer{i}", until) for i in range(3)] + [Reader(f"reader{i}", until) for i in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
            print(f"{worker.name}: {worker.done} steps" + (f", {worker.error!r}" if worker.error else ""))
            passed, failed = passed + (worker.error is None and worker.done > 0), failed + (
                worker.error is not None or worker.done == 0)
        cursor.execute("SELECT s.stream, count(*), max(j.bits) FROM sync.streams s JOIN sync.entry e ON e.stream_id = s.id"
                       " LEFT JOIN sync.journal_sums j ON j.stream_id = s.id GROUP BY 1 ORDER BY 1")
        for stream, entries, bits in cursor.fetchall():
            print(f"stream {stream}: {entries} entries, {2 ** bits if bits is not None else 0} buckets")
        for seed in range(20):
            rng = random.Random(seed)
            stream = rng.choice(STREAMS)
            cursor.execute("SELECT * FROM sync.entry_ids(%s)", (stream,))
            error = exchange(program, stream, [i for i, in cursor.fetchall()], rng)
            passed, failed = passed + (error is None), failed + (error is not None)
            if error:
                print("FAILED:", error)
        connection.close()
    finally:
        setup.cursor().execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (DATABASE,))
        time.sleep(0.2)
        setup.cursor().execute(f"DROP DATABASE IF EXISTS {DATABASE}")
        setup.close()
    print(f"{passed} passed, {failed} failed")
    return failed


if __name__ == "__main__":
    sys.exit(1 if check(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 10) else 0)
