"""Histories that have names: each broke a design of change tracking, and is one test.

Every case makes its own tables, and drops them.
"""

import inspect
import json
import os
import time
import traceback

import psycopg2

from client import Keeper, Sub, Wrong
from crash import drive
from engine import Extension
from pg import Broken, Session, quote
from world import Filter, Table, World

CASES = []


def case(function):
    CASES.append(function)
    return function


class Device(Keeper):
    """One client with one question, which pulls when it is told to."""

    def __init__(self, case, table, filter=None, params=(), name=None, user=None):
        self.case = case
        self.world = case.world
        self.name = name or "device"
        self.client = name
        self.sub = Sub(table, Filter(filter, params), case.rights.get(table.name), user)
        self.last = None

    @property
    def copy(self):
        return self.sub.copy

    def keys(self):
        """What it holds, by the first key column."""
        return sorted(data[self.sub.table.key[0]] for data in self.sub.copy.values())

    def get(self, key):
        for data in self.sub.copy.values():
            if data[self.sub.table.key[0]] == key:
                return data
        return None

    def page(self, session=None, max_rows=None, exclude=None, since=None, reset=None):
        """One call.  reset: None: may be, True: must be one, False: must be none."""
        sub = self.sub
        first = sub.cursor is None and since is None
        if since is None and not first:
            since = quote(sub.cursor)
        sub.reset_ok = reset is not False
        sub.plain = False
        rows, truth = drive(session or self.case.main, Extension().fetch(
            sub, since, client=self.client, exclude=exclude, max_rows=max_rows))
        self.last = rows
        if reset is True and rows[0][0] != "reset":
            self.wrong(sub, "no reset: %r" % rows[:3])
        op = self.apply(sub, rows, exclude, max_rows, True, first, truth)
        if op == "up-to-date":
            self.compare(sub, truth)
        return op

    def short(self):
        """The last page: [(op, first key column)], and what is forgotten by its first column."""
        columns = {"forget": self.sub.table.scope}
        return [(r[0], r[1][columns.get(r[0], self.sub.table.key)[0]] if r[1] else None)
                for r in self.last[:-1]]

    def pull(self, session=None, max_rows=None, **kw):
        """Until up to date; gives the same of all pages."""
        done = []
        while True:
            op = self.page(session, max_rows, **kw)
            done += self.short()
            kw = {k: v for k, v in kw.items() if k == "exclude"}
            if op == "up-to-date":
                return done


class Case:
    """What a case works with."""

    def __init__(self, server):
        self.server = server
        self.world = World(server, Extension(), [])
        self.sessions = []
        self.main = self.session("main")
        self.tables = []
        self.rights = {}

    def session(self, name="session"):
        session = Session(self.server, name)
        self.sessions.append(session)
        return session

    def sql(self, sql):
        return self.main.sql(sql)

    def value(self, sql):
        return self.main.sql(sql)[0][0]

    def table(self, name, columns, key=("id",), after="", **options):
        """Creates and tracks a table."""
        self.sql("CREATE TABLE %s (%s)%s" % (name, columns, after))
        self.tables.append(name)
        table = Table(name, list(key), "", source=options.get("source"),
                      deleted_at=options.get("deleted_at"), scope=options.get("scope", ()))
        args = "".join(", %s => %s" % (k, quote(v) if not isinstance(v, (list, tuple))
                                       else quote(v).replace("::text[]", "::name[]"))
                       for k, v in options.items())
        self.sql("SELECT sync.track(%s%s)" % (quote(name), args))
        return table

    def device(self, table, filter=None, params=(), name=None, user=None):
        return Device(self, table, filter, params, name, user)

    def equal(self, have, want, what):
        if have != want:
            raise Wrong("%s: %r, expected %r" % (what, have, want))

    def fails(self, sqlstate, routine):
        try:
            routine()
        except psycopg2.Error as error:
            self.equal(error.pgcode, sqlstate, "SQLSTATE (%s)" % error.pgerror)
            return error
        raise Wrong("no error, expected %s" % sqlstate)

    def waits(self, session):
        """Until the session waits for a lock (True) or is done (False)."""
        deadline = time.monotonic() + 20
        while session.pending and not session.poll():
            if self.value("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid = %d)"
                          % session.pid):
                return True
            if time.monotonic() > deadline:
                raise Broken("neither done nor waiting")
            time.sleep(0.005)
        return False

    def close(self):
        for session in self.sessions:
            session.close()


def as_client(t, name, sql):
    t.sql("BEGIN; SET LOCAL sync.client = %s; %s; COMMIT" % (quote(name), sql))


def notes(t, name="note", **options):
    return t.table(name, "id int PRIMARY KEY, company int, owner int, status text, title text, n int",
                   **options)


# ---------------------------------------------------------------------------------- the cursor


@case
def own_xid(t):
    """A snapshot does not list its own transaction, whose xid may be below a visible one."""
    table = notes(t)
    device = t.device(table)
    device.pull()
    reader, other = t.session(), t.session()
    other.sql("BEGIN; INSERT INTO note (id) VALUES (1)")
    reader.sql("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
    other.sql("COMMIT")
    reader.sql("INSERT INTO note (id) VALUES (2)")
    device.pull(reader)
    t.equal(device.keys(), [2], "inside")
    reader.sql("COMMIT")
    device.pull()
    t.equal(device.keys(), [1, 2], "after it")


@case
def own_changes_are_never_seen(t):
    """Changes after the pull, in the same transaction, while a later xid is visible."""
    table = notes(t)
    device = t.device(table)
    device.pull()
    reader = t.session()
    reader.sql("BEGIN; INSERT INTO note (id) VALUES (1)")
    t.sql("INSERT INTO note (id) VALUES (2)")
    device.pull(reader)
    t.equal(device.keys(), [1, 2], "inside")
    reader.sql("INSERT INTO note (id) VALUES (3); SAVEPOINT s; INSERT INTO note (id) VALUES (4);"
               " RELEASE s; COMMIT")
    device.pull(reset=False)
    t.equal(device.keys(), [1, 2, 3, 4], "after it")


@case
def early_writer_late_commit(t):
    """Wrote first, committed last: what timestamps and sequences lose."""
    table = notes(t, scope=["company"])
    devices = [t.device(table), t.device(table, "company = $1", [1]),
               t.device(table, "status = $1", ["open"])]
    for d in devices:
        d.pull()
    slow = t.session()
    slow.sql("BEGIN; INSERT INTO note (id, company, status) VALUES (1, 1, 'open')")
    for i in range(2, 6):
        t.sql("INSERT INTO note (id, company, status) VALUES (%d, 1, 'open')" % i)
        for d in devices:
            d.pull(reset=False)
    slow.sql("COMMIT")
    for d in devices:
        t.equal(d.pull(reset=False), [("upsert", 1)], "the late one, and only that")


@case
def invisible_entries(t):
    """Running and aborted xids above the newest visible one are not passed over."""
    table = notes(t)
    device = t.device(table)
    device.pull()
    a, b, c = t.session(), t.session(), t.session()
    a.sql("BEGIN; INSERT INTO note (id) VALUES (1)")
    b.sql("INSERT INTO note (id) VALUES (2)")
    c.sql("BEGIN; INSERT INTO note (id) VALUES (3)")
    b.sql("BEGIN; INSERT INTO note (id) VALUES (4); ROLLBACK")
    t.equal(device.pull(), [("upsert", 2)], "first")
    c.sql("COMMIT")
    t.equal(device.pull(), [("upsert", 3)], "second")
    a.sql("COMMIT")
    t.equal(device.pull(), [("upsert", 1)], "third")
    t.equal(device.pull(), [], "fourth")


@case
def two_phase(t):
    """A prepared transaction is running until it is finished, whoever finishes it."""
    if not t.server.two_phase:
        return
    table = notes(t)
    device = t.device(table)
    device.pull()
    a = t.session()
    a.sql("BEGIN; INSERT INTO note (id) VALUES (1); PREPARE TRANSACTION 'named_1'")
    a.sql("BEGIN; INSERT INTO note (id) VALUES (2); PREPARE TRANSACTION 'named_2'")
    t.sql("INSERT INTO note (id) VALUES (3)")
    t.equal(device.pull(), [("upsert", 3)], "prepared")
    t.sql("COMMIT PREPARED 'named_1'")
    t.sql("ROLLBACK PREPARED 'named_2'")
    t.equal(device.pull(reset=False), [("upsert", 1)], "finished")


@case
def subtransactions(t):
    """The log holds top-level xids: what was written in savepoints is not lost."""
    table = notes(t)
    device = t.device(table)
    device.pull()
    t.sql("BEGIN; SAVEPOINT a; INSERT INTO note (id) VALUES (1); SAVEPOINT b;"
          " INSERT INTO note (id) VALUES (2); ROLLBACK TO b; INSERT INTO note (id) VALUES (3);"
          " RELEASE a; COMMIT")
    t.equal(sorted(device.pull()), [("upsert", 1), ("upsert", 3)], "what stayed")
    t.sql("BEGIN; INSERT INTO note (id) VALUES (4); SAVEPOINT a; DELETE FROM note; ROLLBACK TO a;"
          " COMMIT")
    t.equal(device.pull(), [("upsert", 4)], "the rolled back DELETE")


@case
def more_subtransactions_than_a_snapshot_lists(t):
    """Some run with few of them, one with more than anybody remembers, and others read meanwhile."""
    table = notes(t)
    device = t.device(table)
    device.pull()
    running = [t.session("writer%d" % n) for n in range(5)]
    for n, session in enumerate(running):
        session.sql("BEGIN; DO $$ BEGIN FOR i IN 1..%d LOOP BEGIN INSERT INTO note (id)"
                    " VALUES (%d + i); EXCEPTION WHEN others THEN RAISE; END; END LOOP; END $$" % (
                        80 if n == 2 else 3, 100 * n))
        device.pull(reset=False)
    t.sql("INSERT INTO note (id) VALUES (1000)")
    t.equal(device.pull(reset=False), [("upsert", 1000)], "beside them")
    for session in running:
        session.sql("COMMIT")
        device.pull(reset=False)
    t.equal(len(device.keys()), 93, "keys")


@case
def another_question(t):
    """What a cursor passed over was never examined for another domain, filter or parameter."""
    a = notes(t, "note_a", scope=["company"])
    b = notes(t, "note_b", scope=["company"])
    da, db = t.device(a, "company = $1", [1]), t.device(b)
    da.pull()
    db.pull()
    slow = t.session()
    slow.sql("BEGIN; INSERT INTO note_b (id) VALUES (1)")
    t.sql("INSERT INTO note_a (id, company) VALUES (1, 1), (2, 2)")
    slow.sql("COMMIT")
    da.pull()
    db.sub.cursor = da.sub.cursor
    db.pull(reset=True)
    t.equal(db.keys(), [1], "the other domain")
    da.sub.filter = Filter("company IN (1, 2)")
    da.pull(reset=True)
    t.equal(da.keys(), [1, 2], "the wider filter")
    da.sub.filter = Filter("company = $1", [2])
    da.pull(reset=True)
    da.sub.filter = Filter("company = $1", [1])
    da.pull(reset=True)
    t.equal(da.keys(), [1], "the other parameter")


@case
def the_same_question_written_differently(t):
    """Spelling is no other question."""
    table = notes(t, scope=["company"])
    device = t.device(table, "company = $1", [1])
    device.pull()
    device.sub.filter = Filter("  (company)=$1 ", [1])
    t.equal(device.pull(reset=False), [], "nothing new")
    device = t.device(table, "company IS NULL")
    device.pull()
    answer = t.value("SELECT sync.pull(%s)" % quote(json.dumps({"domains": {"note": {
        "since": device.sub.cursor, "filter": "company IS NULL", "params": []}}})))
    t.equal(answer["domains"]["note"].get("reset"), None, "a reset, for no parameters")


@case
def older_snapshot(t):
    """A snapshot that does not contain the cursor says retry; an old row never overwrites a new one."""
    table = notes(t)
    t.sql("INSERT INTO note (id, n) SELECT i, 0 FROM generate_series(1, 6) i")
    device = t.device(table)
    device.pull()
    old = t.session()
    old.sql("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
    t.sql("UPDATE note SET n = 1")
    device.pull()
    t.fails("40001", lambda: device.pull(old))
    old.sql("ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
    t.sql("UPDATE note SET n = 2")
    device.page(max_rows=2)
    t.fails("40001", lambda: device.page(old, max_rows=2))
    old.sql("ROLLBACK")
    device.pull(max_rows=2)
    t.equal({d["n"] for d in device.copy.values()}, {2}, "values")
    t.equal(device.pull(), [], "quiet")


@case
def older_snapshot_running_writer(t):
    """The writer was running in the old snapshot, and is seen in the cursor."""
    table = notes(t)
    device = t.device(table)
    device.pull()
    writer, old = t.session(), t.session()
    writer.sql("BEGIN; INSERT INTO note (id) VALUES (1)")
    t.sql("INSERT INTO note (id) VALUES (2)")
    old.sql("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
    writer.sql("COMMIT")
    device.pull()
    t.fails("40001", lambda: device.pull(old))
    t.equal(device.pull(), [], "nothing is delivered twice, or forgotten")


@case
def old_snapshot_of_nothing(t):
    """An old snapshot with nothing logged after it is as good as a new one."""
    table = notes(t)
    t.sql("INSERT INTO note (id) VALUES (1)")
    device = t.device(table)
    old = t.session()
    old.sql("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
    device.pull()
    device.pull(old, reset=False)
    old.sql("ROLLBACK")
    t.equal(device.keys(), [1], "keys")


@case
def current_cursor(t):
    """A copy made by SELECT goes on from the cursor of the same snapshot, for any question."""
    table = notes(t, scope=["company"])
    slow, reader = t.session(), t.session()
    slow.sql("BEGIN; INSERT INTO note (id, company) VALUES (1, 1)")
    t.sql("INSERT INTO note (id, company) VALUES (2, 1)")
    reader.sql("BEGIN ISOLATION LEVEL REPEATABLE READ")
    rows = reader.sql("SELECT to_jsonb(r) FROM note r")
    cursor = reader.sql("SELECT sync.current_cursor()::text")[0][0]
    reader.sql("COMMIT")
    slow.sql("COMMIT")
    for filter, params in ((None, ()), ("company = $1", [1]), ("n IS NULL", ())):
        device = t.device(table, filter, params)
        device.sub.copy = {table.key_of(r[0]): r[0] for r in rows}
        device.sub.cursor = cursor
        t.equal(device.pull(reset=False), [("upsert", 1)], "after the cursor")


@case
def prune_quiet_scope(t):
    """A client of a quiet scope that comes by now and then is not reset by pruning."""
    table = notes(t, scope=["company"])
    t.sql("INSERT INTO note (id, company) VALUES (1, 2)")
    quiet, absent = t.device(table, "company = $1", [2]), t.device(table, "company = $1", [2])
    quiet.pull()
    absent.pull()
    for i in range(3):
        t.sql("INSERT INTO note (id, company) SELECT i, 1 FROM generate_series(%d, %d) i"
              % (i * 100 + 10, i * 100 + 100))
        quiet.pull(reset=False)
        time.sleep(1.1)
        t.sql("INSERT INTO note (id, company) VALUES (%d, 1)" % (i + 1000))
        quiet.pull(reset=False)
        t.sql("SELECT sync.prune(interval '0')")
        quiet.pull(reset=False)
    t.sql("UPDATE note SET n = 1 WHERE company = 2")
    t.equal(quiet.pull(reset=False), [("upsert", 1)], "its own scope's change")
    if t.value("SELECT sync.prune(interval '0')") is None:
        raise Wrong("prune says nothing")
    absent.pull(reset=True)
    t.equal(absent.keys(), [1], "the one that stayed away")


@case
def prune_of_an_empty_log(t):
    """Nothing to prune, nothing to reset."""
    table = notes(t)
    device = t.device(table)
    device.pull()
    for _ in range(3):
        t.sql("SELECT sync.prune(interval '0')")
        t.equal(device.pull(reset=False), [], "quiet")


@case
def prune_beside_a_long_writer(t):
    """What was running when the cursor was made, and is pruned before it comes back."""
    table = notes(t)
    device = t.device(table)
    device.pull()
    slow = t.session()
    slow.sql("BEGIN; INSERT INTO note (id) VALUES (1)")
    t.sql("INSERT INTO note (id) VALUES (2)")
    device.pull()
    t.sql("SELECT sync.prune(interval '0')")
    slow.sql("COMMIT")
    time.sleep(1.1)
    t.sql("INSERT INTO note (id) VALUES (3)")
    t.sql("SELECT sync.prune(interval '0')")
    device.pull()
    t.equal(device.keys(), [1, 2, 3], "all of it")


@case
def a_time_is_a_cursor(t):
    """Clients that keep the server's time only: a late commit is not lost to them either."""
    table = notes(t)
    t.sql("INSERT INTO note (id) VALUES (1)")
    device = t.device(table)
    device.pull()
    for cast in ("", "::timestamptz"):
        slow = t.session()
        number = 10 if cast else 20
        slow.sql("BEGIN; INSERT INTO note (id) VALUES (%d)" % number)
        t.sql("INSERT INTO note (id) VALUES (%d)" % (number + 1))
        device.pull(since=quote(device.sub.time) + cast)
        time.sleep(1.1)
        t.sql("INSERT INTO note (id) VALUES (%d)" % (number + 2))
        device.pull(since=quote(device.sub.time) + cast)
        held = device.sub.time
        slow.sql("COMMIT")
        device.pull(since=quote(held) + cast, reset=False)
        if number not in device.keys():
            raise Wrong("the late commit is lost")
    time.sleep(1.1)
    t.sql("INSERT INTO note (id) VALUES (99)")
    device.pull(since=quote(device.sub.time))
    done = device.pull(since=quote(device.sub.time), reset=False)
    if len(done) > 2:
        raise Wrong("a time brings too much: %r" % done)


@case
def a_time_above_the_newest_tick(t):
    """Nobody can say what happened up to a time that is not yet."""
    table = notes(t)
    t.sql("INSERT INTO note (id) VALUES (1)")
    device = t.device(table)
    device.pull()
    device.page(since="(now() + interval '1 day')", reset=True)
    t.equal(device.last[0][2]["reason"], "unknown_time", "reason")
    t.equal(device.keys(), [1], "and all of it again")


@case
def garbage_for_a_cursor(t):
    """Hostile text is an error, never a crash."""
    table = notes(t)
    device = t.device(table)
    device.pull()
    good = device.sub.cursor
    for bad in ("", "c", "x", good[:-3], good[:len(good) // 2], good + "AAAA", "c" + "A" * 5000,
                good[:9] + "____________" + good[21:], "c" + "_" * (len(good) - 1)):
        try:
            t.sql("SELECT * FROM sync.changes('note', since => %s::sync.cursor)" % quote(bad))
        except psycopg2.Error as error:
            if error.pgcode not in ("22P02", "22007", "22008", "40001"):
                raise Wrong("%r: %s %s" % (bad, error.pgcode, error.pgerror))
        else:
            if bad in ("", "c", "x", good[:-3], good[:len(good) // 2], "c" + "A" * 5000):
                raise Wrong("%r is taken for a cursor" % bad)
    t.equal(device.pull(reset=False), [], "still there")


@case
def another_generation(t):
    """A cloned or rolled-back disk: by hand."""
    table = notes(t)
    device = t.device(table)
    device.pull()
    t.sql("SELECT sync.new_generation()")
    t.sql("INSERT INTO note (id) VALUES (1)")
    device.page(reset=True)
    t.equal(device.last[0][2]["reason"], "other_generation", "reason")
    t.equal(device.pull(reset=False), [], "quiet")


@case
def truncate(t):
    """What was known before is void; a truncate that was rolled back voids nothing."""
    table = notes(t)
    t.sql("INSERT INTO note (id) VALUES (1), (2)")
    device = t.device(table)
    device.pull()
    t.sql("BEGIN; TRUNCATE note; ROLLBACK")
    t.equal(device.pull(reset=False), [], "rolled back")
    t.sql("BEGIN; SAVEPOINT s; TRUNCATE note; ROLLBACK TO s; INSERT INTO note (id) VALUES (3); COMMIT")
    t.equal(device.pull(reset=False), [("upsert", 3)], "rolled back to a savepoint")
    t.sql("TRUNCATE note; INSERT INTO note (id) VALUES (4)")
    device.pull(reset=True)
    t.equal(device.keys(), [4], "truncated")
    t.sql("INSERT INTO note (id) VALUES (5)")
    t.equal(device.pull(reset=False), [("upsert", 5)], "and on")


@case
def reset_by_hand_and_touch(t):
    """Resending the domain, and resending a row."""
    table = notes(t)
    t.sql("INSERT INTO note (id) VALUES (1), (2)")
    device = t.device(table)
    device.pull()
    t.sql("SELECT sync.touch('note', '{\"id\": 2}')")
    t.equal(device.pull(reset=False), [("upsert", 2)], "touched")
    t.sql("SELECT sync.reset('note')")
    device.pull(reset=True)
    t.equal(device.pull(reset=False), [], "once")


# -------------------------------------------------------------------------------------- paging


@case
def first_load_paged(t):
    """A first load in pages, with writes before, at and behind its place."""
    table = notes(t)
    t.sql("INSERT INTO note (id, n) SELECT i, 0 FROM generate_series(10, 60) i")
    device = t.device(table)
    device.page(max_rows=7)
    t.equal(len(device.copy), 7, "the first page")
    t.sql("UPDATE note SET n = 1 WHERE id IN (11, 40)")
    t.sql("DELETE FROM note WHERE id IN (12, 41)")
    t.sql("INSERT INTO note (id) VALUES (5), (70)")
    device.page(max_rows=7)
    t.sql("UPDATE note SET id = 1 WHERE id = 50")
    t.sql("UPDATE note SET id = 80 WHERE id = 13")
    t.sql("UPDATE note SET n = 2 WHERE id = 70")
    device.pull(max_rows=7)
    t.equal(len(device.copy), 51, "rows")
    t.equal(device.pull(), [], "quiet")


@case
def first_load_paged_with_a_filter(t):
    """The same where rows enter and leave the filter ahead of and behind the place."""
    table = notes(t, scope=["company"])
    t.sql("INSERT INTO note (id, company, status) SELECT i, i % 2, 'open'"
          " FROM generate_series(1, 60) i")
    for filter, params in (("company = $1", [1]), ("company = $1 AND status = $2", [1, "open"]),
                           ("status = $1", ["open"]), ("id > $1", [5])):
        device = t.device(table, filter, params)
        for i in range(200):
            if device.page(max_rows=4) == "up-to-date":
                break
            if i < 6:
                t.sql("UPDATE note SET company = 1 - company WHERE id %% 7 = %d" % i)
                t.sql("UPDATE note SET status = CASE status WHEN 'open' THEN 'closed' ELSE 'open' END"
                      " WHERE id %% 5 = %d" % (i % 5))
        t.equal(device.pull(reset=False), [], "quiet")


@case
def up_to_date_is_exact(t):
    """Writes between the pages of a delta: at up-to-date nothing newer is left out."""
    table = notes(t)
    t.sql("INSERT INTO note (id, n) SELECT i, 0 FROM generate_series(1, 30) i")
    device = t.device(table)
    device.pull()
    t.sql("UPDATE note SET n = 1")
    i = 0
    while device.page(max_rows=3) == "more":
        i += 1
        if i < 15:
            t.sql("UPDATE note SET n = n + 1 WHERE id IN (%d, %d)" % (i * 2, 31 - i))
            t.sql("DELETE FROM note WHERE id = %d" % (i + 10))
            t.sql("INSERT INTO note (id, n) VALUES (%d, 0)" % (i + 100))
    t.equal(device.pull(), [], "quiet")


@case
def exact_pages(t):
    """A page that says more is full: clients stop at a short page."""
    table = notes(t)
    t.sql("INSERT INTO note (id, n) SELECT i, 0 FROM generate_series(1, 40) i")
    device = t.device(table)
    for _ in range(2):
        while device.page(max_rows=8) == "more":
            t.equal(len(device.last) - 1, 8, "data rows in a page that says more")
        t.sql("UPDATE note SET n = n + 1; DELETE FROM note WHERE id = 40; INSERT INTO note (id)"
              " VALUES (41) ON CONFLICT DO NOTHING")
    t.sql("UPDATE note SET n = 0")
    t.equal(len(device.pull(max_rows=1000)), 40, "one page for all")


@case
def one_large_transaction(t):
    """A transaction is larger than a page, and is cut inside."""
    table = notes(t)
    device = t.device(table)
    device.pull()
    t.sql("INSERT INTO note (id, n) SELECT i, 0 FROM generate_series(1, 3000) i")
    done = device.pull(max_rows=130)
    t.equal(len(done), 3000, "rows")
    t.sql("BEGIN; UPDATE note SET n = 1 WHERE id <= 1000; UPDATE note SET n = 2 WHERE id <= 500;"
          " DELETE FROM note WHERE id > 2500; COMMIT")
    device.pull(max_rows=77)
    t.equal(device.pull(), [], "quiet")


@case
def a_hot_key(t):
    """One key, thousands of changes: the pages end."""
    table = notes(t)
    device = t.device(table)
    device.pull()
    t.sql("INSERT INTO note (id, n) VALUES (1, 0), (2, 0)")
    t.sql("DO $$ BEGIN FOR i IN 1..5000 LOOP UPDATE note SET n = i WHERE id = 1; END LOOP; END $$")
    t.sql("UPDATE note SET n = 1 WHERE id = 2")
    done = device.pull(max_rows=1)
    if not {("upsert", 1), ("upsert", 2)} <= set(done) or len(done) > 100:
        raise Wrong("%d rows for two keys" % len(done))
    t.equal(device.pull(), [], "quiet")


@case
def exclude_in_first_load(t):
    """The client names what it holds: what is gone is removed, what is unchanged stays, and the
    rest is sent."""
    table = notes(t)
    t.sql("INSERT INTO note (id, n) VALUES (1, 0), (2, 0), (3, 0)")
    old = t.device(table)
    old.pull()
    t.sql("DELETE FROM note WHERE id = 2; UPDATE note SET n = 1 WHERE id = 3;"
          " INSERT INTO note (id) VALUES (4)")
    held = [{"id": d["id"], "modified_at": d["modified_at"]} for d in old.copy.values()]
    for max_rows in (None, 1):
        device = t.device(table)
        device.sub.copy = dict(old.copy)
        t.equal(sorted(device.pull(exclude=held, max_rows=max_rows)),
                [("remove", 2), ("upsert", 3), ("upsert", 4)], "first load, %s" % max_rows)
    t.sql("SELECT sync.reset('note')")
    t.equal(sorted(old.pull(exclude=held)),
            [("remove", 2), ("reset", None), ("upsert", 1), ("upsert", 3), ("upsert", 4)],
            "after a reset, which makes void what the times say")


@case
def exclude_in_a_delta(t):
    """A row that still carries the time is left out; one that changed is not."""
    table = notes(t, scope=["company"])
    t.sql("INSERT INTO note (id, company, n) VALUES (1, 1, 0), (2, 1, 0), (3, 1, 0)")
    device, other = t.device(table, "company = $1", [1]), t.device(table)
    device.pull()
    t.sql("UPDATE note SET n = 1 WHERE id IN (1, 2)")
    other.pull()
    held = [{"id": d["id"], "modified_at": d["modified_at"]} for d in other.copy.values()]
    device.sub.copy = dict(other.copy)
    t.sql("UPDATE note SET n = 2 WHERE id = 2")
    t.sql("UPDATE note SET company = 2 WHERE id = 3")
    t.equal(sorted(device.pull(exclude=held)), [("remove", 3), ("upsert", 2)], "delta")


@case
def exclude_of_what_was_never_selected(t):
    """A client was told of rows otherwise, by a push perhaps: what it names and the question does not
    select goes, though no entry says so; in pages, too, and what is new meanwhile is not lost."""
    for max_rows in (None, 1, 2, 3):
        table = notes(t)
        device = t.device(table, "owner = $1", [2])
        t.sql("INSERT INTO note (id, owner) SELECT i, 2 + i % 2 FROM generate_series(1, 12) i")
        device.pull()
        others = t.sql("SELECT to_jsonb(r) FROM note r WHERE owner = 3")
        device.sub.copy.update({table.key_of(r[0]): r[0] for r in others})
        device.sub.copy[table.key_of({"id": 77})] = {"id": 77, "modified_at": "2020-01-01T00:00:00Z"}
        named = [{"id": d["id"], "modified_at": d["modified_at"]} for d in device.sub.copy.values()]
        t.sql("UPDATE note SET title = 'x' WHERE id IN (1, 2)")
        device.page(max_rows=max_rows, exclude=named, reset=False)
        t.sql("UPDATE note SET owner = 2 WHERE id = 3; DELETE FROM note WHERE id = 4")
        device.pull(max_rows=max_rows, exclude=named, reset=False)
        t.equal(device.keys(), [2, 3, 6, 8, 10, 12], "keys, in pages of %s" % max_rows)
        t.sql("DROP TABLE note")


@case
def exclude_that_differs_between_pages(t):
    """A client names what it holds by then: what it was told to remove it names no more, and what it
    was told of meanwhile it names for the first time, in any order."""
    for first in (False, True):
        for max_rows in (1, 2, 5):
            for backwards in (False, True):
                table = notes(t)
                device = t.device(table, "owner = $1", [2])
                t.sql("INSERT INTO note (id, owner) SELECT i, 2 + i % 2 FROM generate_series(1, 12) i")
                if not first:
                    device.pull()
                told = [r[0] for r in t.sql("SELECT to_jsonb(r) FROM note r WHERE owner = 3 ORDER BY id")]
                if backwards:
                    told.reverse()
                t.sql("UPDATE note SET title = 'x' WHERE owner = 2")
                op = None
                while op != "up-to-date":
                    for row in told[:2]:
                        device.sub.copy[table.key_of(row)] = row
                    told = told[2:]
                    held = [{"id": d["id"], "modified_at": d["modified_at"]} for d in device.sub.copy.values()]
                    if backwards:
                        held.reverse()
                    op = device.page(max_rows=max_rows, exclude=held, reset=False)
                t.equal(device.keys(), [2, 4, 6, 8, 10, 12], "keys, in pages of %s" % max_rows)
                t.sql("DROP TABLE note")


@case
def same_ms_reinsert(t):
    """Deleted and inserted again within one millisecond, the row carries the time that the client
    names, and is another row."""
    table = notes(t)
    t.sql("SET session_replication_role = replica; INSERT INTO note (id, title, modified_at)"
          " VALUES (1, 'a', '2020-01-01'); RESET session_replication_role")
    device = t.device(table)
    device.pull()
    t.sql("SET session_replication_role = replica; DELETE FROM note; INSERT INTO note"
          " (id, title, modified_at) VALUES (1, 'b', '2020-01-01'); RESET session_replication_role")
    t.equal(device.pull(exclude=[{"id": 1, "modified_at": "2020-01-01T00:00:00Z"}]),
            [("upsert", 1)], "the new one")
    t.equal(device.get(1)["title"], "b", "title")


@case
def exclude_after_a_marker(t):
    """What a marker made void is void for rows, too, whose time stayed the same."""
    table = notes(t)
    t.sql("INSERT INTO note (id) VALUES (1)")
    device = t.device(table)
    device.pull()
    held = [{"id": 1, "modified_at": device.get(1)["modified_at"]}]
    t.sql("ALTER TABLE note ADD COLUMN x int DEFAULT 5")
    device.pull(exclude=held, reset=True)
    t.equal(device.get(1)["x"], 5, "the new column")
    order, _ = orders(t)
    t.sql("INSERT INTO orders (id) VALUES (1); INSERT INTO line (id, order_id) VALUES (1, 1)")
    device = t.device(order)
    device.pull()
    held = [{"id": 1, "modified_at": device.get(1)["modified_at"]}]
    t.sql("TRUNCATE line")
    device.pull(exclude=held, reset=True)
    t.equal(device.get(1)["lines"], None, "the lines")


# ----------------------------------------------------------------------------------- own updates


@case
def own_update_is_left_out(t):
    """What a client did itself it knows; what another did after it, it does not."""
    table = notes(t, scope=["company"])
    t.sql("INSERT INTO note (id, company, n) VALUES (1, 1, 0), (2, 1, 0)")
    device = t.device(table, "company = $1", [1], name="c")
    device.pull()
    row = [d for d in device.copy.values() if d["id"] == 1][0]
    as_client(t, "c", "UPDATE note SET n = 5 WHERE id = 1")
    row["n"] = 5
    row["modified_at"] = t.value("SELECT to_jsonb(modified_at) FROM note WHERE id = 1")
    t.equal(device.pull(), [], "its own")
    as_client(t, "c", "UPDATE note SET n = 6 WHERE id = 1")
    as_client(t, "d", "UPDATE note SET title = 'd' WHERE id = 1")
    t.equal(device.pull(), [("upsert", 1)], "its own and another's")
    as_client(t, "d", "UPDATE note SET n = 7 WHERE id = 2")
    as_client(t, "c", "UPDATE note SET n = 8 WHERE id = 2")
    t.equal(device.pull(), [("upsert", 2)], "another's and its own")
    t.sql("UPDATE note SET n = 9 WHERE id = 2")
    t.equal(device.pull(), [("upsert", 2)], "nobody's")


@case
def own_blind_enter(t):
    """C sets the scope of a row that it never held: its own enter is the only entry in its scope."""
    table = notes(t, scope=["company"])
    t.sql("INSERT INTO note (id, company) VALUES (1, 2)")
    device = t.device(table, "company = $1", [1], name="c")
    device.pull()
    as_client(t, "d", "UPDATE note SET title = 'by d' WHERE id = 1")
    as_client(t, "c", "UPDATE note SET company = 1 WHERE id = 1")
    t.equal(device.pull(), [("upsert", 1)], "the row")
    t.equal(device.get(1)["title"], "by d", "title")


@case
def own_blind_enter_by_other_columns(t):
    """The same where the filter looks at more than the log holds."""
    table = notes(t, scope=["company"])
    for filter, params in (("status = $1", ["open"]),
                           ("company = $1 AND status = $2", [1, "open"])):
        t.sql("DELETE FROM note; INSERT INTO note (id, company, status) VALUES (1, 1, 'closed')")
        device = t.device(table, filter, params, name="c")
        device.pull()
        as_client(t, "d", "UPDATE note SET title = 'by d' WHERE id = 1")
        as_client(t, "c", "UPDATE note SET status = 'open' WHERE id = 1")
        t.equal(device.pull(), [("upsert", 1)], filter)


@case
def own_blind_key_change(t):
    """A key that moves into the client's range is new to it."""
    table = notes(t)
    t.sql("INSERT INTO note (id, title) VALUES (50, 'x')")
    device = t.device(table, "id < $1", [10], name="c")
    device.pull()
    as_client(t, "c", "UPDATE note SET id = 5 WHERE id = 50")
    t.equal(device.pull(), [("upsert", 5)], "the row")


@case
def own_blind_partition_move(t):
    """An UPDATE that moves a row to another partition fires DELETE and INSERT triggers: the client
    still knows only what it set, not the row."""
    table = t.table("part", "id int, region int, title text, n int, PRIMARY KEY (id, region)",
                    key=("id", "region"), after=" PARTITION BY LIST (region)")
    t.sql("CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1);"
          " CREATE TABLE part_2 PARTITION OF part FOR VALUES IN (2);"
          " INSERT INTO part (id, region, title) VALUES (1, 1, 'by d')")
    device = t.device(table, "region = $1", [2], name="c")
    device.pull()
    as_client(t, "c", "UPDATE part SET region = 2 WHERE id = 1")
    t.equal(device.pull(), [("upsert", 1)], "the row")
    t.equal(device.get(1)["title"], "by d", "title")


def orders(t, on="ON DELETE CASCADE"):
    t.sql("CREATE TABLE orders (id int PRIMARY KEY, n int, modified_at timestamptz)")
    t.sql("CREATE TABLE line (id int PRIMARY KEY, order_id int REFERENCES orders %s"
          " DEFERRABLE, n int, modified_at timestamptz)" % on)
    t.sql("CREATE VIEW order_doc WITH (security_invoker) AS SELECT o.*,"
          " (SELECT jsonb_agg(jsonb_build_array(l.id, l.n) ORDER BY l.id) FROM line l"
          "  WHERE l.order_id = o.id) AS lines FROM orders o")
    t.tables += ["orders", "line"]
    t.sql("SELECT sync.track('orders', source => 'order_doc')")
    t.sql("SELECT sync.track('line')")
    t.sql("SELECT sync.cascade('line', 'orders')")
    return Table("orders", ["id"], "", source="order_doc"), Table("line", ["id"], "")


@case
def cascade_delete_trigger_depth(t):
    """C deletes an order.  Its lines went by the foreign key, at trigger depth 1: C is told."""
    for action in ("ON DELETE CASCADE", "ON DELETE SET NULL"):
        _, line = orders(t, action)
        t.sql("INSERT INTO orders (id) VALUES (1), (2);"
              " INSERT INTO line (id, order_id, n) VALUES (1, 1, 0), (2, 1, 0), (3, 2, 0)")
        device = t.device(line, "order_id = $1", [1], name="c")
        everything = t.device(line, name="c")
        device.pull()
        everything.pull()
        as_client(t, "c", "DELETE FROM orders WHERE id = 1")
        t.equal(sorted(device.pull()), [("remove", 1), ("remove", 2)], action)
        t.equal({key for _, key in everything.pull()}, {1, 2}, action)
        t.sql("DROP TABLE line, orders CASCADE")


@case
def cascade_update_trigger_depth(t):
    """The same for ON UPDATE CASCADE."""
    _, line = orders(t, "ON UPDATE CASCADE")
    t.sql("INSERT INTO orders (id) VALUES (1); INSERT INTO line (id, order_id) VALUES (1, 1)")
    device = t.device(line, name="c")
    device.pull()
    as_client(t, "c", "UPDATE orders SET id = 5 WHERE id = 1")
    t.equal(device.pull(), [("upsert", 1)], "the line")


@case
def cascade_of_an_own_write(t):
    """C changes a line; that the order changed with it is news to C."""
    order, _ = orders(t)
    t.sql("INSERT INTO orders (id) VALUES (1); INSERT INTO line (id, order_id, n) VALUES (1, 1, 0)")
    device = t.device(order, name="c")
    device.pull()
    as_client(t, "c", "UPDATE line SET n = 5 WHERE id = 1")
    t.equal(device.pull(), [("upsert", 1)], "the order")


# -------------------------------------------------------------------------- capture and cascade


@case
def leaf_savepoint_rollback(t):
    """Entries that wait in memory belong to their subtransaction."""
    table = t.table("part", "id int, region int, n int, PRIMARY KEY (id, region)",
                    key=("id", "region"), after=" PARTITION BY LIST (region)")
    t.sql("CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1);"
          " CREATE TABLE part_2 PARTITION OF part FOR VALUES IN (2)")
    device = t.device(table)
    device.pull()
    t.sql("BEGIN; INSERT INTO part_1 (id, region, n) VALUES (1, 1, 0); SAVEPOINT s;"
          " UPDATE part SET n = 1; ROLLBACK TO s; COMMIT")
    t.equal(device.pull(reset=False), [("upsert", 1)], "the first one survives")
    for statements, left in (
            ("INSERT INTO part_1 VALUES (2, 1); SAVEPOINT a; INSERT INTO part_2 VALUES (3, 2);"
             " SAVEPOINT b; INSERT INTO part VALUES (4, 1); RELEASE b; ROLLBACK TO a", {2}),
            ("SAVEPOINT a; INSERT INTO part_1 VALUES (5, 1); RELEASE a; SAVEPOINT b;"
             " INSERT INTO part_2 VALUES (6, 2); ROLLBACK TO b; UPDATE part SET n = 3 WHERE id = 5",
             {5}),
            ("SAVEPOINT a; INSERT INTO part VALUES (7, 1); ROLLBACK TO a;"
             " INSERT INTO part VALUES (7, 2); SAVEPOINT b; DELETE FROM part WHERE id = 7;"
             " ROLLBACK TO b; RELEASE b", {7})):
        t.sql("BEGIN; %s; COMMIT" % statements)
        t.equal({key for _, key in device.pull(reset=False)}, left, statements)


@case
def entries_and_failing_statements(t):
    """A statement that fails in a subtransaction takes its own entries with it, and no others."""
    table = notes(t)
    device = t.device(table)
    device.pull()
    t.sql("DO $$ BEGIN INSERT INTO note (id) VALUES (1); BEGIN INSERT INTO note (id)"
          " SELECT 10 / (13 - i) FROM generate_series(10, 13) i; EXCEPTION WHEN OTHERS THEN NULL;"
          " END; INSERT INTO note (id) VALUES (2); BEGIN INSERT INTO note (id) VALUES (3);"
          " INSERT INTO note (id) VALUES (1); EXCEPTION WHEN unique_violation THEN NULL; END;"
          " INSERT INTO note (id) VALUES (4); END $$")
    t.equal(sorted(device.pull()), [("upsert", 1), ("upsert", 2), ("upsert", 4)], "what stayed")


@case
def pull_amid_buffered_entries(t):
    """A read inside the statement's own transaction, with entries that wait."""
    table = notes(t)
    device = t.device(table)
    device.pull()
    session = t.session()
    session.sql("BEGIN")
    for i in range(5):
        session.sql("SAVEPOINT s%d" % i)
        session.sql("INSERT INTO note (id) VALUES (%d)" % i)
        device.pull(session)
        t.equal(len(device.copy), i + 1, "inside")
    # An answer does not outlive what it saw.
    session.sql("ROLLBACK TO s3")
    device = t.device(table)
    device.pull(session)
    t.equal(device.keys(), [0, 1, 2], "after ROLLBACK TO")
    session.sql("COMMIT")
    device.pull()
    t.equal(device.keys(), [0, 1, 2], "after COMMIT")


@case
def noop_with_generated_column(t):
    """An UPDATE that changes nothing is no change, stored generated columns or not."""
    table = t.table("gen", "id int PRIMARY KEY, n int, g int GENERATED ALWAYS AS (n * 2) STORED,"
                    " big text, modified_at timestamptz")
    t.sql("INSERT INTO gen (id, n, big) VALUES (1, 1, repeat('x', 100000)), (2, 2, NULL)")
    device = t.device(table)
    device.pull()
    before = t.sql("SELECT id, modified_at FROM gen ORDER BY id")
    t.sql("UPDATE gen SET n = n; UPDATE gen SET n = 1 WHERE id = 1; UPDATE gen SET big = big;"
          " INSERT INTO gen (id, n) VALUES (2, 2) ON CONFLICT (id) DO UPDATE SET n = EXCLUDED.n;"
          " UPDATE gen SET modified_at = now()")
    t.equal(t.sql("SELECT id, modified_at FROM gen ORDER BY id"), before, "modified_at")
    t.equal(device.pull(), [], "the log")
    t.sql("UPDATE gen SET n = 7 WHERE id = 1")
    t.equal(device.pull(), [("upsert", 1)], "a change")


@case
def noop_with_virtual_generated_column(t):
    """The same with a virtual one, which no trigger can read."""
    if t.server.version < 180000:
        return
    table = t.table("gen", "id int PRIMARY KEY, n int, g int GENERATED ALWAYS AS (n * 2) VIRTUAL")
    t.sql("INSERT INTO gen (id, n) VALUES (1, 1)")
    device = t.device(table)
    device.pull()
    t.sql("UPDATE gen SET n = n")
    t.equal(device.pull(), [], "a no-op")
    t.sql("UPDATE gen SET n = 2")
    t.equal(device.pull(), [("upsert", 1)], "a change")


@case
def modified_at_always_grows(t):
    """Fifty updates within a millisecond, and a clock that is behind."""
    table = notes(t)
    t.sql("INSERT INTO note (id, n) VALUES (1, 0)")
    t.sql("CREATE TABLE seen (at timestamptz); DO $$ DECLARE m timestamptz; BEGIN FOR i IN 1..50"
          " LOOP UPDATE note SET n = i RETURNING modified_at INTO m; INSERT INTO seen VALUES (m);"
          " END LOOP; END $$")
    t.tables.append("seen")
    t.equal(t.value("SELECT count(DISTINCT at) FROM seen"), 50, "different times")
    t.equal(t.value("SELECT bool_and(date_trunc('milliseconds', at) = at) FROM seen"), True,
            "whole milliseconds")
    t.sql("SET session_replication_role = replica;"
          " UPDATE note SET modified_at = now() + interval '1 hour';"
          " RESET session_replication_role; INSERT INTO seen SELECT modified_at FROM note;"
          " UPDATE note SET n = -1")
    t.equal(t.value("SELECT n.modified_at > max(at) AND n.modified_at < max(at) + interval '1 s'"
                    " FROM note n, seen GROUP BY n.modified_at"), True, "after a time ahead")
    t.equal(t.value("SELECT date_trunc('milliseconds', modified_at) = modified_at FROM note"),
            True, "whole milliseconds")


@case
def every_way_of_writing(t):
    """MERGE, COPY, ON CONFLICT, FOR UPDATE, data-modifying WITH, replicated changes."""
    table = notes(t, scope=["company"])
    device, narrow = t.device(table), t.device(table, "company = $1", [1])
    ways = [
        ("COPY note (id, company, n) FROM PROGRAM 'printf \"1\\t1\\t0\\n2\\t1\\t0\\n3\\t2\\t0\\n\"'",
         {1, 2, 3}),
        ("INSERT INTO note (id, company, n) VALUES (1, 1, 9), (4, 1, 0) ON CONFLICT (id)"
         " DO UPDATE SET n = EXCLUDED.n", {1, 4}),
        ("INSERT INTO note (id, company) VALUES (1, 2), (5, 1) ON CONFLICT DO NOTHING", {5}),
        ("WITH d AS (DELETE FROM note WHERE id = 1 RETURNING *), u AS (UPDATE note SET n = 3"
         " WHERE id = 2) INSERT INTO note (id, company) SELECT 6, company FROM d", {1, 2, 6}),
        ("SET session_replication_role = replica; UPDATE note SET n = 4, modified_at = now()"
         " WHERE id = 2; DELETE FROM note WHERE id = 3; INSERT INTO note (id, company, modified_at)"
         " VALUES (7, 1, now()); RESET session_replication_role", {2, 3, 7}),
        ("UPDATE note SET id = id + 100 WHERE id IN (6, 7)", {6, 7, 106, 107}),
    ]
    if t.server.version >= 150000:
        ways.append(("MERGE INTO note t USING (VALUES (2), (4), (8)) s (id) ON t.id = s.id"
                     " WHEN MATCHED AND t.id = 2 THEN DELETE WHEN MATCHED THEN UPDATE SET company = 3"
                     " WHEN NOT MATCHED THEN INSERT (id, company) VALUES (s.id, 1)", {2, 4, 8}))
    device.pull()
    narrow.pull()
    for sql, keys in ways:
        t.sql(sql)
        t.equal({key for _, key in device.pull(reset=False)}, keys, sql)
        narrow.pull(reset=False)


@case
def a_view_and_a_function_write(t):
    """Through an automatically updatable view, and as a role without any right on the log."""
    table = notes(t)
    device = t.device(table)
    device.pull()
    t.sql("CREATE VIEW note_view AS SELECT * FROM note WHERE id > 0")
    t.sql("DROP ROLE IF EXISTS sync_history_writer; CREATE ROLE sync_history_writer;"
          " GRANT SELECT, INSERT, UPDATE, DELETE ON note, note_view TO sync_history_writer")
    try:
        t.sql("SET ROLE sync_history_writer; INSERT INTO note_view (id) VALUES (1);"
              " UPDATE note SET n = 2; RESET ROLE")
        t.equal(device.pull(), [("upsert", 1)], "the row")
    finally:
        t.sql("DROP OWNED BY sync_history_writer; DROP ROLE sync_history_writer")


@case
def scope_there_and_back(t):
    """1 to 2 to 3 in one transaction: scope 2 never had it; 1 to 2 to 1: scope 1 still has it."""
    table = notes(t, scope=["company"])
    t.sql("INSERT INTO note (id, company) VALUES (1, 1), (2, 1)")
    devices = {c: t.device(table, "company = $1", [c]) for c in (1, 2, 3)}
    for device in devices.values():
        device.pull()
    t.sql("BEGIN; UPDATE note SET company = 2 WHERE id = 1; UPDATE note SET company = 3 WHERE id = 1;"
          " UPDATE note SET company = 2 WHERE id = 2; UPDATE note SET company = 1 WHERE id = 2; COMMIT")
    t.equal(sorted(devices[1].pull()), [("remove", 1), ("upsert", 2)], "scope 1")
    t.equal([r for r in devices[2].pull() if r[0] == "upsert"], [], "scope 2")
    t.equal(devices[3].pull(), [("upsert", 1)], "scope 3")


@case
def null_scope(t):
    """NULL is a scope of its own, not everybody's."""
    table = notes(t, scope=["company"])
    none, one = t.device(table, "company IS NULL"), t.device(table, "company = $1", [1])
    other = t.device(table, "company IS DISTINCT FROM $1", [1])
    for d in (none, one, other):
        d.pull()
    for sql in ("INSERT INTO note (id, company) VALUES (1, NULL), (2, 1)",
                "UPDATE note SET company = 1 WHERE id = 1", "UPDATE note SET n = 1",
                "UPDATE note SET company = NULL", "DELETE FROM note WHERE id = 1"):
        t.sql(sql)
        for d in (none, one, other):
            d.pull(reset=False)


@case
def soft_delete(t):
    """A soft-deleted row is a removal, an undeleted one an upsert."""
    t.sql("CREATE TABLE soft (id int PRIMARY KEY, n int, deleted_at timestamptz)")
    t.tables.append("soft")
    t.sql("SELECT sync.track('soft', deleted_at => 'deleted_at')")
    table = Table("soft", ["id"], "", deleted_at="deleted_at")
    t.sql("INSERT INTO soft (id) VALUES (1), (2), (3); UPDATE soft SET deleted_at = now() WHERE id = 3")
    device = t.device(table)
    t.equal(sorted(device.pull()), [("upsert", 1), ("upsert", 2)], "first load")
    t.sql("UPDATE soft SET deleted_at = now() WHERE id = 1")
    t.equal(device.pull(), [("remove", 1)], "deleted")
    t.sql("UPDATE soft SET deleted_at = NULL WHERE id = 1")
    t.equal(device.pull(), [("upsert", 1)], "undeleted")
    t.sql("UPDATE soft SET n = 1 WHERE id = 3; DELETE FROM soft WHERE id = 3; DELETE FROM soft"
          " WHERE id = 2")
    device.pull()
    t.equal(device.keys(), [1], "keys")


@case
def master_inserted_concurrently(t):
    """The master is inserted by one, its detail by another, who commits last."""
    order, _ = orders(t)
    t.sql("CREATE TABLE remark (id int PRIMARY KEY, order_id int, text text)")
    t.tables.append("remark")
    t.sql("SELECT sync.cascade('remark', 'orders', '{order_id}')")
    t.sql("CREATE OR REPLACE VIEW order_doc WITH (security_invoker) AS SELECT o.*,"
          " (SELECT jsonb_agg(jsonb_build_array(l.id, l.n) ORDER BY l.id) FROM line l"
          "  WHERE l.order_id = o.id) AS lines,"
          " (SELECT jsonb_agg(r.text) FROM remark r WHERE r.order_id = o.id) AS remarks"
          " FROM orders o")
    device = t.device(order)
    device.pull()
    a, b = t.session(), t.session()
    for number, sql in ((1, "SET CONSTRAINTS ALL DEFERRED; INSERT INTO line (id, order_id, n)"
                            " VALUES (1, 1, 1)"),
                        (2, "INSERT INTO remark VALUES (1, 2, 'x')")):
        a.sql("BEGIN; INSERT INTO orders (id) VALUES (%d)" % number)
        b.sql("BEGIN; " + sql)
        a.sql("COMMIT")
        device.pull()
        b.sql("COMMIT")
        t.equal(device.pull(), [("upsert", number)], "the master again")
    t.sql("BEGIN; INSERT INTO remark VALUES (2, 3, 'early'); INSERT INTO orders (id) VALUES (3); COMMIT")
    device.pull()
    t.equal(device.get(3)["remarks"], ["early"], "remarks")


@case
def foreign_key_moved(t):
    """Both masters change: the one that lost the detail, and the one that got it."""
    order, _ = orders(t)
    t.sql("INSERT INTO orders (id) VALUES (1), (2), (3);"
          " INSERT INTO line (id, order_id) VALUES (1, 1)")
    device = t.device(order)
    device.pull()
    t.sql("UPDATE line SET order_id = 2")
    t.equal(sorted(device.pull()), [("upsert", 1), ("upsert", 2)], "moved")
    t.sql("BEGIN; SAVEPOINT s; UPDATE line SET order_id = 3; ROLLBACK TO s;"
          " UPDATE line SET order_id = 3; COMMIT")
    t.equal(sorted(device.pull()), [("upsert", 2), ("upsert", 3)], "moved after a ROLLBACK TO")
    t.sql("BEGIN; UPDATE line SET n = 1; SAVEPOINT s; UPDATE line SET n = 2; ROLLBACK TO s;"
          " UPDATE line SET n = 3; COMMIT")
    t.equal(device.pull(), [("upsert", 3)], "changed")
    t.sql("UPDATE line SET n = 3")
    t.equal(device.pull(), [], "a no-op of the detail")
    t.sql("DELETE FROM line")
    t.equal(device.pull(), [("upsert", 3)], "deleted")
    t.sql("INSERT INTO line (id, order_id) VALUES (1, 1); TRUNCATE line")
    device.pull(reset=True)


@case
def master_hidden_from_the_writer(t):
    """Row security hides the master: it is touched all the same, as foreign keys do."""
    order, _ = orders(t)
    t.sql("INSERT INTO orders (id) VALUES (1)")
    device = t.device(order)
    device.pull()
    t.sql("ALTER TABLE orders ENABLE ROW LEVEL SECURITY")
    t.sql("DROP ROLE IF EXISTS sync_history_writer; CREATE ROLE sync_history_writer;"
          " GRANT SELECT, INSERT ON line TO sync_history_writer")
    try:
        t.sql("SET ROLE sync_history_writer; INSERT INTO line (id, order_id) VALUES (1, 1);"
              " RESET ROLE")
        t.equal(device.pull(), [("upsert", 1)], "the master")
    finally:
        t.sql("DROP OWNED BY sync_history_writer; DROP ROLE sync_history_writer")


@case
def opposite_order_masters_no_deadlock(t):
    """Two statements touch the same masters, whose details lie in opposite order."""
    order, _ = orders(t)
    t.sql("INSERT INTO orders (id) VALUES (1), (2)")
    t.sql("INSERT INTO line (id, order_id, n) VALUES (11, 1, 0), (12, 2, 0)")
    t.sql("INSERT INTO line (id, order_id, n) VALUES (22, 2, 0), (21, 1, 0)")
    device = t.device(order)
    device.pull()
    for blocked in (1, 2):
        gate, a, b = t.session(), t.session(), t.session()
        gate.sql("BEGIN; SELECT 1 FROM orders WHERE id = %d FOR UPDATE" % blocked)
        a.send("UPDATE line SET n = n + 1 WHERE id IN (11, 12)")
        t.equal(t.waits(a), True, "the first waits")
        b.send("UPDATE line SET n = n + 1 WHERE id IN (21, 22)")
        t.equal(t.waits(b), True, "the second waits")
        gate.sql("COMMIT")
        a.finish()
        b.finish()
        device.pull()


@case
def cascades_of_any_depth(t):
    """A detail of a detail, a self reference, a cycle: each ends by itself."""
    t.sql("CREATE TABLE a (id int PRIMARY KEY, up int); CREATE TABLE b (id int PRIMARY KEY, up int);"
          " CREATE TABLE c (id int PRIMARY KEY, up int)")
    t.tables += ["a", "b", "c"]
    for name in "abc":
        t.sql("SELECT sync.track('%s')" % name)
    t.sql("SELECT sync.cascade('c', 'b', '{up}'); SELECT sync.cascade('b', 'a', '{up}');"
          " SELECT sync.cascade('a', 'c', '{up}')")
    t.sql("INSERT INTO a VALUES (1, 1), (2, 2); INSERT INTO b VALUES (1, 1), (2, 2);"
          " INSERT INTO c VALUES (1, 1), (2, 2)")
    devices = [t.device(Table(name, ["id"], "")) for name in "abc"]
    for d in devices:
        d.pull()
    t.sql("ALTER TABLE c ADD COLUMN n int")
    for d in devices:
        d.pull()
    t.sql("UPDATE c SET n = 1 WHERE id = 1")
    for d in devices:
        t.equal(d.pull(), [("upsert", 1)], "round the cycle")
    t.sql("CREATE TABLE tree (id int PRIMARY KEY, parent int REFERENCES tree, n int)")
    t.tables.append("tree")
    t.sql("SELECT sync.track('tree'); SELECT sync.cascade('tree', 'tree');"
          " INSERT INTO tree VALUES (1, NULL, 0), (2, 1, 0), (3, 2, 0), (4, 1, 0)")
    device = t.device(Table("tree", ["id"], ""))
    device.pull()
    t.sql("UPDATE tree SET n = 1 WHERE id = 3")
    t.equal(sorted(device.pull()), [("upsert", 1), ("upsert", 2), ("upsert", 3)], "up the tree")
    t.sql("UPDATE tree SET parent = 3 WHERE id = 1")
    device.pull()
    t.sql("UPDATE tree SET n = 2 WHERE id = 2")
    t.equal(sorted(device.pull()), [("upsert", 1), ("upsert", 2), ("upsert", 3)], "round the tree")


# ------------------------------------------------------------------------------------------ DDL


@case
def partitions(t):
    """Rows that move between partitions, leaves that are truncated, detached and attached."""
    table = t.table("part", "id int, region int, n int, PRIMARY KEY (id, region)",
                    key=("id", "region"), after=" PARTITION BY LIST (region)")
    t.sql("CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1);"
          " CREATE TABLE part_2 PARTITION OF part FOR VALUES IN (2)")
    device = t.device(table)
    t.sql("INSERT INTO part VALUES (1, 1), (2, 2)")
    device.pull()
    t.sql("UPDATE part SET region = 2 WHERE id = 1")
    device.pull(reset=False)
    t.equal(sorted((d["id"], d["region"]) for d in device.copy.values()), [(1, 2), (2, 2)], "moved")
    t.sql("TRUNCATE part_2")
    device.pull(reset=True)
    t.equal(device.keys(), [], "truncated")
    t.sql("CREATE TABLE part_3 (LIKE part INCLUDING ALL);"
          " INSERT INTO part_3 (id, region, modified_at) VALUES (9, 3, now());"
          " ALTER TABLE part ATTACH PARTITION part_3 FOR VALUES IN (3)")
    device.pull(reset=True)
    t.equal(device.keys(), [9], "attached")
    t.sql("UPDATE part_3 SET n = 5")
    t.equal(device.pull(reset=False), [("upsert", 9)], "written in the leaf")
    t.sql("ALTER TABLE part DETACH PARTITION part_3; DROP TABLE part_3")
    device.pull(reset=True)
    t.equal(device.keys(), [], "detached")


@case
def columns_come_and_go(t):
    """DDL that changes what existing rows say is a reset; other DDL is not."""
    table = notes(t)
    t.sql("INSERT INTO note (id, n) VALUES (1, 1), (2, 2)")
    device = t.device(table)
    device.pull()
    for sql, changed in (("ALTER TABLE note ADD COLUMN x int DEFAULT 5", True),
                         ("ALTER TABLE note RENAME COLUMN x TO y", True),
                         ("ALTER TABLE note ALTER COLUMN y TYPE text USING y::text || '.'", True),
                         ("ALTER TABLE note DROP COLUMN y", True),
                         ("CREATE INDEX ON note (n)", False),
                         ("ALTER TABLE note ALTER COLUMN n SET DEFAULT 9", False),
                         ("BEGIN; ALTER TABLE note ADD COLUMN x int DEFAULT 5; ROLLBACK", False),
                         ("COMMENT ON TABLE note IS 'x'", False)):
        t.sql(sql)
        if changed:
            device.pull()
        else:
            t.equal(device.pull(reset=False), [], sql)


@case
def key_and_scope_columns_are_renamed(t):
    """The log follows its table."""
    t.sql("CREATE TABLE moved (id int PRIMARY KEY, company int, n int)")
    t.tables.append("moved")
    t.sql("SELECT sync.track('moved', scope => '{company}')")
    t.sql("INSERT INTO moved VALUES (1, 1, 0), (2, 2, 0)")
    device = t.device(Table("moved", ["id"], ""), "company = $1", [1])
    device.pull()
    t.sql("ALTER TABLE moved RENAME COLUMN company TO firm; ALTER TABLE moved RENAME COLUMN id TO nr;"
          " ALTER TABLE moved RENAME TO moved2")
    t.tables.append("moved2")
    table = Table("moved2", ["nr"], "", domain="moved")
    other = t.device(table, "firm = $1", [1])
    other.pull()
    t.sql("UPDATE moved2 SET n = 1 WHERE nr = 1; UPDATE moved2 SET firm = 1 WHERE nr = 2")
    t.equal(sorted(other.pull(reset=False)), [("upsert", 1), ("upsert", 2)], "goes on")


@case
def tracked_again(t):
    """What happened in between was not seen."""
    table = notes(t)
    t.sql("INSERT INTO note (id) VALUES (1)")
    device = t.device(table)
    device.pull()
    t.sql("SELECT sync.untrack('note'); INSERT INTO note (id, modified_at) VALUES (2, now());"
          " SELECT sync.track('note')")
    device.pull(reset=True)
    t.equal(device.keys(), [1, 2], "keys")


@case
def dropped_and_created_again(t):
    """Another table of the same name is another table."""
    table = notes(t)
    t.sql("INSERT INTO note (id) VALUES (1)")
    device = t.device(table)
    device.pull()
    t.sql("DROP TABLE note")
    table = notes(t)
    t.sql("INSERT INTO note (id) VALUES (2)")
    device.pull(reset=True)
    t.equal(device.keys(), [2], "keys")


@case
def several_domains_in_one_snapshot(t):
    """sync.pull: a row that moves from one table to the other is never in both, or in neither."""
    notes(t, "note_a")
    notes(t, "note_b")
    t.sql("INSERT INTO note_a (id) VALUES (1), (2)")
    cursors, held = {}, {"note_a": set(), "note_b": set()}
    for i in range(6):
        request = {"domains": {d: ({"since": cursors[d]} if d in cursors else {}) for d in held}}
        answer = t.value("SELECT sync.pull(%s)" % quote(json.dumps(request)))
        for d, part in answer["domains"].items():
            t.equal(part["state"], "up-to-date", "state")
            held[d] |= {r["id"] for r in part["upsert"]}
            held[d] -= {r["id"] for r in part["remove"]}
            cursors[d] = part["cursor"]
        t.equal(sorted(list(held["note_a"]) + list(held["note_b"])), [1, 2], "rows")
        a, b = ("note_a", "note_b") if i % 2 == 0 else ("note_b", "note_a")
        t.sql("WITH d AS (DELETE FROM %s WHERE id = 1 RETURNING *) INSERT INTO %s SELECT * FROM d"
              % (a, b))


def run(server, args, tally):
    names = set(args.named or ())
    unknown = names - {c.__name__ for c in CASES}
    for name in sorted(unknown):
        tally.note(False, "%s is no history" % name)
    server.fresh()
    conn = server.sync()
    conn.cursor().execute("CREATE EXTENSION sync_ext")
    for function in CASES:
        if names and function.__name__ not in names:
            continue
        error = None
        t = None
        try:
            t = Case(server)
            function(t)
        except (Wrong, Broken) as wrong:
            error = "%s (line %d)" % (wrong, line_of(wrong))
        except psycopg2.Error as other:
            error = "error %s: %s (line %d)" % (
                other.pgcode, other.pgerror or other, line_of(other))
        finally:
            if t is not None:
                t.close()
        tally.note(error is None, "%s: %s" % (
            function.__name__, " ".join(inspect.getdoc(function).split())))
        if error is not None:
            print("# " + "\n# ".join(error.rstrip().split("\n")[:12]))
        clean(server, t)
    conn.close()


def line_of(error):
    """Where in this file it happened."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__)
             if "named" in os.path.basename(f.filename)]
    return lines[0] if not lines or len(lines) == 1 else lines[1]


def clean(server, t):
    """Away with the tables of a case.  If that does not work, another database."""
    try:
        conn = server.sync()
        with conn.cursor() as cur:
            cur.execute("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()")
            for (gid,) in cur.fetchall():
                cur.execute("ROLLBACK PREPARED %s", (gid,))
            for table in (t.tables if t else ()):
                cur.execute("DROP TABLE IF EXISTS %s CASCADE" % table)
        conn.close()
    except psycopg2.Error as error:
        print("# cleaning up: %s %s" % (error.pgcode, str(error).strip()))
        for _ in range(30):
            try:
                server.reconnect()
                server.fresh()
                conn = server.sync()
                conn.cursor().execute("CREATE EXTENSION sync_ext")
                conn.close()
                return
            except psycopg2.OperationalError:
                time.sleep(1)
