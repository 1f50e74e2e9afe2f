"""Crashes: a cursor must not outlive the transactions that it counts as seen.

The xids of transactions whose commit or abort never reached the disk are handed out again after a
crash.  A cursor that keeps the whole pg_current_snapshot counts the new owners as seen.
Each test has a private cluster, which is stopped as if the power had failed.
"""

import random

import psycopg2

from client import Keeper, Sub, Wrong
from engine import Extension, Model
from pg import Cluster, Server, Session
from world import BY_NAME, Filter, World

# Nothing reaches the disk unless somebody flushes it.
LAZY = ["synchronous_commit = off", "wal_writer_delay = '10s'", "checkpoint_timeout = '1h'",
        "bgwriter_lru_maxpages = 0", "autovacuum = off", "fsync = off", "full_page_writes = off"]


class Device(Keeper):
    def __init__(self, world, name):
        self.world = world
        self.name = name


def drive(session, routine):
    """Runs a coroutine of statements on one session, waiting for each."""
    try:
        sql = next(routine)
        while True:
            sql = routine.send(session.sql(sql) if sql is not None else None)
    except StopIteration as stop:
        return stop.value


def history(engine, seed, rounds):
    """Writes, reads and crashes; raises Wrong when a copy differs."""
    rnd = random.Random(seed)
    cluster = Cluster(LAZY)
    try:
        server = Server(cluster.dsn())
        server.fresh()
        table = BY_NAME["task"]
        world = World(server, engine, ["task"])
        engine.create(server, world)
        device = Device(world, "device")
        subs = [Sub(table, Filter()), Sub(table, Filter("company = $1", [1])),
                Sub(table, Filter("status = $1", ["open"]))]
        number = 0
        for _ in range(rounds):
            writer, reader = Session(server, "writer"), Session(server, "reader")
            writer.sql("CHECKPOINT")
            for _ in range(rnd.randrange(3, 12)):
                number += 1
                writer.sql("BEGIN; INSERT INTO task (id, company, status, n)"
                           " VALUES (%d, %d, 'open', 0); UPDATE task SET n = n + 1 WHERE id = %d"
                           % (number, rnd.randrange(1, 3), rnd.randrange(1, number + 1)))
                writer.sql(rnd.choice(["COMMIT", "ROLLBACK"]))
                if rnd.random() < 0.3:
                    for sub in subs:
                        read(engine, device, reader, sub, rnd)
            for _ in range(rnd.randrange(4)):
                number += 1
                writer.sql("BEGIN; INSERT INTO task (id, company) VALUES (%d, 1); ROLLBACK" % number)
            for sub in subs:
                read(engine, device, reader, sub, rnd)
            writer.close()
            reader.close()
            server.admin.close()
            cluster.crash()
            cluster.start()
            server.reconnect()
            writer, reader = Session(server, "writer"), Session(server, "reader")
            for again in range(3):
                for sub in subs:
                    read(engine, device, reader, sub, rnd)
                for _ in range(2):
                    number += 1
                    writer.sql("INSERT INTO task (id, company, status, n) VALUES (%d, 1, 'open', 0)"
                               % number)
            for sub in subs:
                read(engine, device, reader, sub, rnd)
            writer.close()
            reader.close()
        server.admin.close()
        if world.stats.get("deltas", 0) < 2 * rounds or world.stats.get("comparisons", 0) == 0:
            raise Wrong("too little happened: %r" % world.stats)
    finally:
        cluster.close()


def read(engine, device, session, sub, rnd):
    while True:
        first = sub.cursor is None
        max_rows = rnd.choice([None, 2]) if "page" not in engine.without else None
        since = None if first else "'%s'" % sub.cursor
        rows, truth = drive(session, engine.fetch(sub, since, max_rows=max_rows))
        sub.reset_ok = first
        sub.plain = False
        if device.apply(sub, rows, None, max_rows, True, first) == "up-to-date":
            device.compare(sub, truth)
            return


def mutant():
    """The full snapshot, kept over a crash.  Gives the error found."""
    for seed in range(6):
        try:
            history(Model("snapshot"), seed, 2)
        except Wrong as wrong:
            return str(wrong)
    return None


def extension(seed=1, rounds=3):
    """sync_ext, the same way.  Gives the error found, or None."""
    try:
        history(Extension(), seed, rounds)
    except Wrong as wrong:
        return str(wrong)
    except psycopg2.Error as error:
        return "error %s: %s" % (error.pgcode, error)
    return None
