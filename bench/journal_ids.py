"""Set reconciliation of a stream's ids, against sending all of them.

The client is the initiator of src/reconset.c in a program of its own, and for comparison one that does as the
protocol's description has it, without anything that makes messages small (test/reconset).
"""

import hashlib
import os
import random
import subprocess
import sys

from measure import cpu_seconds, number, progress, say, spread, table
from parts import needs_sync

TESTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "test", "reconset")
DIFFERENCES = 100


def fill(b, ids):
    """A stream with these ids, stored in batches as clients would."""
    b.server.run("SELECT sync.create_stream('bench', 'opaque')")
    for i in range(0, ids, 1000):
        b.server.run("""SELECT count(*) FROM sync.put('bench', (SELECT array_agg('entry-' || i) FROM generate_series(%s, %s) i),
                        (SELECT array_agg('\\x00'::bytea) FROM generate_series(%s, %s) i))""",
                     (i, i + 999, i, i + 999))
    b.server.run("VACUUM ANALYZE sync.entry")


class Responder:
    """The server; counts what it spends."""

    def __init__(self, b):
        self.b, self.conn, self.cpu = b, b.server.connect(), 0

    def respond(self, message):
        pid = self.conn.info.backend_pid
        before = cpu_seconds(pid)
        answer = self.b.server.value("SELECT sync.reconcile_ids('bench', %s)", (message,), self.conn)
        self.cpu += (cpu_seconds(pid) or 0) - (before or 0)
        return bytes(answer)


def reconcile_ids(b):
    """Two sides with as many ids, of which they share all but a hundred."""
    if not needs_sync(b):
        return
    sys.path.insert(0, TESTS)
    from wire import Ours, Plain, talk

    program = os.path.join(b.server.scratch, "check")
    subprocess.run([os.path.join(TESTS, "check.sh"), "build", program], check=True)
    ids = 100000 if b.quick else 1000000
    progress(f"storing {ids} entries")
    fill(b, ids)
    hashes = [(0, hashlib.sha256(f"entry-{i}".encode()).digest()) for i in range(ids)]
    rng = random.Random(b.seed)
    measured = {"src/reconset.c": [], "as described": []}
    select = {"SELECT id": [], "sync.entry_ids()": []}
    for _ in range(b.rounds):
        lacking = set(rng.sample(range(ids), DIFFERENCES // 2))
        own = [(0, rng.randbytes(32)) for _ in range(DIFFERENCES // 2)]
        items = [h for i, h in enumerate(hashes) if i not in lacking] + own
        for name in measured:
            progress(f"client: {name}")
            client = Ours(program, items) if name == "src/reconset.c" else Plain(items)
            server = Responder(b)
            size, trips = talk(client, server)
            server.conn.close()
            if isinstance(client, Ours):
                client.close()
            if client.have != {i for _, i in own} or client.need != {hashes[i][1] for i in lacking}:
                say("  WRONG: the client has found other differences than there are")
            measured[name].append((size, trips, server.cpu))
        for name, sql in (("SELECT id", "SELECT id FROM sync.entry WHERE stream_id = (SELECT id FROM sync.streams)"),
                          ("sync.entry_ids()", "SELECT * FROM sync.entry_ids('bench')")):
            conn = b.server.connect()
            select[name].append(b.server.timed(conn, sql)["cpu"] or 0)
            conn.close()

    def of(values):
        ordered = sorted(values)
        return ordered[len(ordered) // 2], ordered[0], ordered[-1]

    def shown(values, digits):
        return spread(of(values), digits)

    sent = b.server.value("SELECT sum(octet_length(id)) FROM sync.entry")
    out = []
    for name, runs in measured.items():
        size, trips, cpu = zip(*runs)
        out.append([f"reconcile_ids, client: {name}", shown(size, 0), shown(trips, 0), shown([c * 1000 for c in cpu], 1)])
    for name, cpu in select.items():
        out.append([f"all ids: {name}", number(sent, 0), "1", shown([c * 1000 for c in cpu], 1)])
    say(f"{ids} ids on both sides, {DIFFERENCES} differences:\n")
    table(["what", "bytes", "round trips", "server CPU, ms"], out)
    size, trips, cpu = zip(*measured["src/reconset.c"])
    b.targets.judge("reconcile_ids, bytes", of(size), 64 * 1024, digits=0)
    b.targets.judge("reconcile_ids, round trips", of(trips), 4, digits=0)
    if not b.quick:                     # promised for a million
        b.targets.judge("reconcile_ids, CPU to SELECT id", of([c / s for c, s in zip(cpu, select["SELECT id"])]), 1)
    b.server.run("SELECT sync.drop_stream('bench')")
