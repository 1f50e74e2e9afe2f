#!/usr/bin/python3
"""Random devices on two journals, one of actions and one that is opaque.

Devices make actions, go offline, send what they made (again and again, since answers get lost, and transactions roll
back), come back by cursor, by time, by the cursor of who was woken, by ids or with nothing, in pages, are woken, make
snapshots, combine and trim, all at once.

  check.py [--seed N] [--seconds N] [--runs N] [--devices N]
  check.py --mutant NAME         with a fault: has to fail
  check.py --prove-it-bites      all mutants: passes if each of them fails

Without any of these: a run of some seconds for each of a few seeds, and the proof.  The server is found as by psql
(PGHOST, …); a database sync_journal is made in it, and dropped.

What is checked, against what was stored in fact:

- at every up-to-date, a device holds exactly the actions stored up to its place, in their order.  What is stored is
  known for sure only when all is over, so devices write down what they held, and this is compared in the end: so what
  was visible at a time was final.
- a snapshot holds the actions that it claims.
- a device that sync.affected() does not name since its last look has missed nothing but what it stored itself.
- an id was stored once; each time that it was sent again, it was a duplicate, with its first time.
- times grow from call to call, and the entries of a call share theirs.
- when all is quiet, every device holds everything that anybody ever stored.
"""

import argparse
import json
import os
import random
import sys
import threading
import time
import traceback

sys.dont_write_bytecode = True

try:
    import psycopg2
except ImportError:
    if sys.executable != "/usr/bin/python3" and os.access("/usr/bin/python3", os.X_OK):
        os.execv("/usr/bin/python3", ["/usr/bin/python3", *sys.argv])
    sys.exit("psycopg2 is needed (Debian: python3-psycopg2)")
import psycopg2.extensions
from psycopg2 import errors

DATABASE = "sync_journal"
MUTANTS = ["own-time", "clock", "forgetful", "late", "deaf", "twice", "new-id", "short"]

# own-time   a device takes the time of what it stored for its place
# clock      or the clock's, as people do without a journal
# forgetful  ids that were combined or trimmed away are forgotten by the server
# late       an entry is stored without holding the stream
# deaf       a device did not subscribe to one of the streams
# twice      actions count twice where an entry was combined
# new-id     what is sent again after a lost answer gets another id
# short      a snapshot lacks an action

RETRY = (errors.SerializationFailure, errors.DeadlockDetected)


class Wrong(Exception):
    pass


def connect(database=DATABASE):
    conn = psycopg2.connect(dbname=database, application_name="journal check")
    conn.set_client_encoding("UTF8")
    return conn


class Truth:
    """What was stored, as the answers of committed calls said, whether a device got to know them or not."""

    def __init__(self):
        self.lock = threading.Lock()
        self.entries = {}                       # (stream, id) → (at, order in the call, actions)
        self.duplicates = []                    # (stream, id, at) that were said
        self.held = []                          # (device, stream, place, actions) at each up-to-date
        self.snapshots = []                     # (stream, upto, actions)
        self.finals = []

    def stored(self, stream, answers, sent):
        with self.lock:
            for n, (name, at, status) in enumerate(answers):
                if status == "duplicate":
                    self.duplicates.append((stream, name, at))
                elif (stream, name) in self.entries:
                    raise Wrong(f"{name} was stored twice in {stream}")
                else:
                    self.entries[stream, name] = (at, n, sent[name])

    def verify(self):
        streams = {}
        for (stream, name), (at, order, actions) in self.entries.items():
            streams.setdefault(stream, []).append((at, order, name, actions))
        for entries in streams.values():
            entries.sort()
        for stream, name, at in self.duplicates:
            if (stream, name) not in self.entries:
                raise Wrong(f"{name} of {stream} was called a duplicate, and never stored")
            if self.entries[stream, name][0] != at:
                raise Wrong(f"{name} of {stream} was stored at {self.entries[stream, name][0]}, the duplicate says {at}")

        def upto(stream, place):
            return [a for at, _, _, actions in streams.get(stream, []) if place and at <= place for a in actions]

        for stream, place, actions in self.snapshots:
            self.compare(f"the snapshot of {stream} up to {place}", upto(stream, place), actions)
        for device, stream, place, actions in self.held:
            self.compare(f"{device} at {place} of {stream}", upto(stream, place), actions)
        for device, stream, actions in self.finals:
            self.compare(f"{device}, when all is quiet, of {stream}",
                         [a for _, _, _, actions in streams.get(stream, []) for a in actions], actions)
        return sum(len(e) for e in streams.values())

    @staticmethod
    def compare(who, want, have):
        if want != have:
            n = next((i for i, (w, h) in enumerate(zip(want, have)) if w != h), min(len(want), len(have)))
            raise Wrong(f"{who}: holds {len(have)} actions of {len(want)}; they differ from number {n} on:\n"
                        f"  stored {want[n:n + 5]}\n  held   {have[n:n + 5]}\n"
                        f"  missing {sorted(set(want) - set(have))[:5]}, too many {sorted(set(have) - set(want))[:5]}")


class Copy:
    """What a device has of one stream, kept by the procedure that the README documents."""

    twice = False                               # a mutant

    def __init__(self, stream, opaque):
        self.stream, self.opaque = stream, opaque
        self.cursor = self.time = None
        self.snapshot = None                    # (id, upto)
        self.state = []                         # the actions of the snapshot
        self.entries = {}                       # id → (at, order of arrival, actions), after the snapshot
        self.pending = []                       # [id, actions, at] made here that did not come back yet

    def reset(self):
        self.cursor = self.time = self.snapshot = None
        self.state, self.entries = [], {}

    def load(self, name, upto, actions):
        """A snapshot takes the place of all that is not later; what was sent and has a time up to it is in there."""
        self.snapshot, self.state = (name, upto), list(actions)
        self.entries = {i: e for i, e in self.entries.items() if e[0] > upto}
        self.pending = [p for p in self.pending if p[2] is None or p[2] > upto]

    def apply(self, name, at, actions):
        self.entries[name] = (at, len(self.entries), actions)
        self.pending = [p for p in self.pending if p[0] != name and not set(p[1]) <= set(actions)]

    def snapshot_time(self):
        return self.snapshot and self.snapshot[1]

    def actions(self):
        """All of them, in order, each once."""
        if Copy.twice:
            return list(self.state) + [a for _, _, actions in sorted(self.entries.values(), key=lambda e: e[:2]) for a in actions]
        every = dict.fromkeys(self.state)
        for _, _, actions in sorted(self.entries.values(), key=lambda e: e[:2]):
            every.update(dict.fromkeys(actions))
        return list(every)


class Device(threading.Thread):
    def __init__(self, name, run, seed):
        super().__init__(name=name, daemon=True)
        self.run_, self.random = run, random.Random(f"{seed}/{name}")
        self.truth, self.mutant = run.truth, run.mutant
        self.error = None
        self.made = 0
        self.copies = [Copy("actions", False), Copy("opaque", True)]
        self.conn = connect()
        self.stats = run.stats
        self.woken = None                       # the cursor of the last look
        with self.conn.cursor() as cur:
            cur.execute("SELECT set_config('sync.client', %s, false), sync.connect(%s, 'user', 'web', %s)",
                        [name, name, ["sync.entries"] if run.count % 2 and name == "d0" else []])
            for copy in self.copies:
                if not (self.mutant == "deaf" and copy.opaque):
                    cur.execute("SELECT sync.subscribe(%s, 'sync.entries', jsonb_build_object('stream', %s::text))", [name, copy.stream])
        self.conn.commit()

    # ---- sending ----

    def make(self, copy):
        for _ in range(self.random.choice([1, 1, 2, 5, 30])):
            self.made += 1
            name = f"{self.name}/{self.made}"
            actions = [f"{name}.{n}" for n in range(self.random.choice([1, 1, 1, 3]))]
            copy.pending.append([name, actions, None])

    def encode(self, copy, batch):
        if copy.opaque:
            return ("SELECT id, at, status FROM sync.put(%s, %s, %s)",
                    [copy.stream, [p[0] for p in batch], [psycopg2.Binary(self.hide(p[1])) for p in batch]])
        return ("SELECT id, at, status FROM sync.append(%s, %s)",
                [copy.stream, json.dumps([{"id": p[0], "actions": [{"id": a} for a in p[1]]} for p in batch])])

    @staticmethod
    def hide(actions):
        return bytes(b ^ 0x5a for b in json.dumps(actions).encode())

    @staticmethod
    def show(data):
        return json.loads(bytes(b ^ 0x5a for b in bytes(data)).decode())

    def send(self, copy):
        """Pending entries, oldest first; or again some that were sent long ago."""
        rnd = self.random
        if copy.pending and rnd.random() < 0.9:
            batch = copy.pending[:rnd.choice([1, 2, 10, 100])]
        else:
            mine = [(s, i) for (s, i) in list(self.truth.entries) if s == copy.stream and i.startswith(self.name + "/")]
            if not mine:
                return
            batch = [[i, self.truth.entries[s, i][2], None] for s, i in rnd.sample(mine, min(len(mine), 3))]
        sent = {p[0]: p[1] for p in batch}
        with self.conn.cursor() as cur:
            cur.execute(rnd.choice(["BEGIN", "BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ"]))
            if rnd.random() < 0.2:
                cur.execute("SELECT 1; SET LOCAL synchronous_commit = off")
            sql, params = self.encode(copy, batch)
            if rnd.random() < 0.15:
                # undone, and then done, or not
                cur.execute("SAVEPOINT a")
                cur.execute(sql, params)
                cur.execute("ROLLBACK TO a")
            cur.execute(sql, params)
            answers = cur.fetchall()
            if rnd.random() < 0.3:
                time.sleep(rnd.random() * 0.01)
            if rnd.random() < 0.1:
                cur.execute("ROLLBACK")
                return
            if rnd.random() < 0.3:
                # and another call in the same transaction: a later time
                more = [[f"{p[0]}+", [f"{a}+" for a in p[1]], None] for p in batch[:2] if not p[0].endswith("+")]
                sql, params = self.encode(copy, more)
                cur.execute(sql, params)
                later = cur.fetchall()
            else:
                more, later = [], []
            cur.execute("COMMIT")
        self.truth.stored(copy.stream, answers, sent)
        self.truth.stored(copy.stream, later, {p[0]: p[1] for p in more})
        new = {at for _, at, status in answers if status == "stored"}
        if len(new) > 1:
            raise Wrong(f"one call stored entries at {sorted(new)}")
        if later and new and any(status == "stored" and at <= max(new) for _, at, status in later):
            raise Wrong("the second call of a transaction did not store later than the first")
        self.stats["sent"] += 1
        if rnd.random() < 0.25:
            self.stats["answers lost"] += 1
            if self.mutant == "new-id":
                for p in batch:
                    if p in copy.pending:
                        p[0] += "'"
            return
        times = {name: at for name, at, _ in answers}
        for p in copy.pending:
            p[2] = times.get(p[0], p[2])
        if self.mutant == "own-time" and new:
            copy.cursor, copy.time = None, max(new)

    # ---- coming back ----

    def receive(self, copy, rows):
        """One answer. Says whether the device is up to date."""
        for n, (kind, name, at, data, raw, cursor) in enumerate(rows):
            if kind == "reset":
                raise Wrong(f"a reset: {data}")
            content = None if data is None and raw is None else self.show(raw) if copy.opaque else data
            if kind == "snapshot":
                if n > 0:
                    raise Wrong("a snapshot that is not first")
                self.truth.snapshots.append((copy.stream, at, content))
                copy.load(name, at, content)
                self.stats["snapshots loaded"] += 1
            elif kind == "entry":
                copy.apply(name, at, content if copy.opaque else [a["id"] for a in content])
                self.stats["entries"] += 1
            elif kind == "wanted":
                raise Wrong(f"the server lost {name}")
            elif n != len(rows) - 1:
                raise Wrong(f"{kind} is not last")
            else:
                copy.cursor, copy.time = cursor, at
                return kind == "up-to-date"
        raise Wrong("an answer without an end")

    def come_back(self, copy):
        rnd = self.random
        how = rnd.choice(["cursor", "cursor", "cursor", "time", "nothing", "missing", "woken"])
        if how == "nothing":
            copy.reset()
        pages = rnd.choice([None, None, 1, 7, 100])
        columns = "kind, id, at, data, bytes, cursor::text"
        for _ in range(100000):
            with self.conn.cursor() as cur:
                if how == "woken":
                    cur.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
                if how == "missing":
                    have = list(copy.entries) + ([copy.snapshot[0]] if copy.snapshot else [])
                    cur.execute(f"SELECT {columns} FROM sync.missing(%s, %s::text[], %s)", [copy.stream, have, pages])
                elif how == "time" or copy.cursor is None:
                    cur.execute(f"SELECT {columns} FROM sync.entries(%s, %s::timestamptz, max_rows => %s)",
                                [copy.stream, copy.time, pages])
                else:
                    cur.execute(f"SELECT {columns} FROM sync.entries(%s, %s::sync.cursor, max_rows => %s)",
                                [copy.stream, copy.cursor, pages])
                rows = cur.fetchall()
                if self.mutant == "clock":
                    cur.execute("SELECT clock_timestamp()")
                    clock = cur.fetchone()[0]
                if how == "woken" and rows[-1][0] == "up-to-date":
                    # of the same snapshot, a place in every stream
                    cur.execute("SELECT sync.current_cursor()::text")
                    rows[-1] = rows[-1][:5] + cur.fetchone()
            self.conn.commit()
            done = self.receive(copy, rows)
            if done:
                break
        self.stats["came back by " + how] += 1
        self.truth.held.append((self.name, copy.stream, copy.time, copy.actions()))
        if self.mutant == "clock" and not copy.opaque and copy.time:
            self.wrong_place(copy, clock)

    def wrong_place(self, copy, clock):
        """What people do without a journal: keep the clock's time, and ask for what is later."""
        with self.conn.cursor() as cur:
            cur.execute("SELECT max(at) FROM sync.entries('actions')")
            newest = cur.fetchone()[0]
        self.conn.commit()
        copy.cursor, copy.time = None, min(clock, newest or clock)

    def look(self):
        """Asks whether there is anything to fetch, and fetches in the same snapshot whatever the answer is."""
        rnd = self.random
        with self.conn.cursor() as cur:
            cur.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            cur.execute("SELECT client, domain, cursor::text FROM sync.affected(%s::sync.cursor, 'web')", [self.woken])
            rows = cur.fetchall()
            named = any(client == self.name for client, _, _ in rows)
            known = self.woken is not None
            self.woken = rows[-1][2]
            for copy in self.copies:
                held = set(copy.actions()) | {a for p in copy.pending for a in p[1]}
                fresh = copy.cursor is not None
                done = False
                while not done:
                    cur.execute("SELECT kind, id, at, data, bytes, cursor::text FROM sync.entries(%s, %s::sync.cursor, max_rows => %s)",
                                [copy.stream, copy.cursor, rnd.choice([None, 10])])
                    answer = cur.fetchall()
                    done = self.receive(copy, answer)
                    if known and fresh and not named:
                        if any(row[0] == "snapshot" for row in answer):
                            raise Wrong("a snapshot for a device that was not woken")
                        missed = [a for a in copy.actions() if a not in held and not a.startswith(self.name + "/")]
                        if missed:
                            raise Wrong(f"not woken for {missed[:5]} in {copy.stream}")
                self.truth.held.append((self.name, copy.stream, copy.time, copy.actions()))
            cur.execute("COMMIT")
        self.stats["woken" if named else "not woken"] += 1

    # ---- compacting ----

    def compact(self, copy):
        rnd = self.random
        what = rnd.choice(["snapshot", "combine", "trim"])
        with self.conn.cursor() as cur:
            cur.execute(rnd.choice(["BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ"]))
            try:
                if what == "snapshot" and copy.time and copy.time != copy.snapshot_time():
                    state = [copy.stream, copy.time]
                    actions = copy.actions()[self.mutant == "short":]
                    if copy.opaque:
                        cur.execute("SELECT sync.snapshot(%s, %s, bytes => %s)", state + [psycopg2.Binary(self.hide(actions))])
                    else:
                        cur.execute("SELECT sync.snapshot(%s, %s, %s)", state + [json.dumps(actions)])
                elif what == "combine" and not copy.opaque:
                    cur.execute("SELECT sync.combine(s, at) FROM (SELECT %s AS s, at FROM sync.entries(%s) WHERE kind = 'entry' "
                                "ORDER BY random() LIMIT 1) x", [copy.stream, copy.stream])
                elif what == "trim":
                    cur.execute("SELECT sync.trim(%s)", [copy.stream])
                    if self.mutant == "forgetful":
                        cur.execute("ALTER TABLE sync.entry_ledger DISABLE TRIGGER guard; DELETE FROM sync.entry_ledger; "
                                    "ALTER TABLE sync.entry_ledger ENABLE TRIGGER guard")
                else:
                    cur.execute("ROLLBACK")
                    return
            except errors.ObjectNotInPrerequisiteState:
                # somebody else was faster
                cur.execute("ROLLBACK")
                self.stats["too late to compact"] += 1
                return
            cur.execute(rnd.choice(["COMMIT"] * 9 + ["ROLLBACK"]))
            self.stats[what] += 1

    def step(self):
        copy = self.random.choice(self.copies)
        if self.random.random() < 0.15:
            self.look()
        elif self.mutant == "late" and not copy.opaque and self.random.random() < 0.1:
            self.store_late(copy)
        else:
            self.random.choices([self.make, self.send, self.come_back, self.compact], [3, 6, 4, 1])[0](copy)

    def store_late(self, copy):
        self.made += 1
        name = f"{self.name}/{self.made}"
        with self.conn.cursor() as cur:
            try:
                cur.execute("INSERT INTO sync.entry (stream_id, ord, at, xid, hash, id, data) "
                            "SELECT id, 0, date_trunc('milliseconds', clock_timestamp()), '0', sha256(%s), %s, %s "
                            "FROM sync.streams WHERE stream = %s RETURNING at",
                            [psycopg2.Binary(name.encode()), name, json.dumps([{"id": f"{name}.0"}]), copy.stream])
            except errors.UniqueViolation:      # somebody has that time
                self.conn.rollback()
                return
            at = cur.fetchone()[0]
        time.sleep(0.02)
        self.conn.commit()
        self.truth.stored(copy.stream, [(name, at, "stored")], {name: [f"{name}.0"]})

    def settle(self, sending):
        for copy in self.copies:
            while sending and copy.pending:
                count = len(copy.pending)
                self.send(copy)
                self.come_back(copy)
                if len(copy.pending) > count:
                    raise Wrong("what was sent does not come back")
            self.come_back(copy)
            if not sending:
                self.truth.finals.append((self.name, copy.stream, copy.actions()))

    def run(self):
        try:
            while time.time() < self.run_.until and not self.run_.stop:
                try:
                    self.step()
                except RETRY:
                    self.conn.rollback()
                    self.stats["retries"] += 1
        except Exception as error:              # noqa: BLE001
            self.error = error
            self.trace = traceback.format_exc()
            self.run_.stop = True


class Stats(dict):
    def __missing__(self, key):
        return 0


class Run:
    def __init__(self, seed, seconds, devices, mutant=None):
        self.seed, self.seconds, self.count, self.mutant = seed, seconds, devices, mutant
        self.truth, self.stats, self.stop = Truth(), Stats(), False

    def fresh(self):
        admin = connect(os.environ.get("PGDATABASE", "postgres"))
        admin.autocommit = True
        with admin.cursor() as cur:
            cur.execute(f"DROP DATABASE IF EXISTS {DATABASE}")
            cur.execute(f"CREATE DATABASE {DATABASE}")
        admin.close()
        conn = connect()
        with conn.cursor() as cur:
            cur.execute("CREATE EXTENSION sync_ext")
            cur.execute("SELECT sync.create_stream('actions', 'actions'), sync.create_stream('opaque', 'opaque')")
        conn.commit()
        conn.close()

    def go(self):
        self.fresh()
        Copy.twice = self.mutant == "twice"
        devices = [Device(f"d{n}", self, self.seed) for n in range(self.count)]
        self.until = time.time() + self.seconds
        try:
            for device in devices:
                device.start()
            for device in devices:
                device.join(self.seconds + 120)
                if device.is_alive():
                    raise Wrong(f"{device.name} hangs")
            for device in devices:
                if device.error:
                    if not isinstance(device.error, Wrong):
                        print(device.trace)
                    raise Wrong(f"{device.name}: {device.error}")
            for device in devices:
                device.settle(True)
            for device in devices:
                device.settle(False)
            return self.truth.verify()
        finally:
            for device in devices:
                device.conn.close()

    def drop(self):
        admin = connect(os.environ.get("PGDATABASE", "postgres"))
        admin.autocommit = True
        with admin.cursor() as cur:
            cur.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
        admin.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--seconds", type=float, default=5, help="of each run")
    parser.add_argument("--runs", type=int)
    parser.add_argument("--devices", type=int, default=5)
    parser.add_argument("--mutant", choices=MUTANTS)
    parser.add_argument("--prove-it-bites", action="store_true")
    args = parser.parse_args()

    passed = failed = 0
    plan = []
    if args.prove_it_bites:
        plan = [(args.seed or 1, m, True) for m in MUTANTS]
    elif args.mutant:
        plan = [(args.seed or 1, args.mutant, False)]
    else:
        first = args.seed if args.seed is not None else random.randrange(1 << 30)
        plan = [(first + n, None, False) for n in range(args.runs or (1 if args.seed is not None else 2))]
        if args.seed is None and args.runs is None:
            plan += [(first, m, True) for m in MUTANTS]
    for seed, mutant, must_fail in plan:
        run = Run(seed, args.seconds, args.devices, mutant)
        name = f"seed {seed}" + (f", {mutant}" if mutant else "")
        try:
            entries = run.go()
            print(f"{'not ok' if must_fail else 'ok'} - {name}: {entries} entries; " +
                  ", ".join(f"{k} {v}" for k, v in sorted(run.stats.items())), flush=True)
            failed += must_fail
            passed += not must_fail
        except Wrong as wrong:
            print(f"{'ok' if must_fail else 'not ok'} - {name}: " + (str(wrong).splitlines()[0] if must_fail else str(wrong)),
                  flush=True)
            failed += not must_fail
            passed += must_fail
        run.drop()
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
