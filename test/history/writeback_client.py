"""Clients that work offline and come home: a small honest implementation of what the
documentation asks of one.

A client holds a copy of what it asked for, as the server told it, and beside it the mutations that
were not answered yet (the outbox). A mutation, once sent, is sent again unaltered until it is
answered. Answers are lost: thrown away after the commit, or the connection breaks before it, or
while the statement is under way, so that nobody knows.
"""

import json
from datetime import datetime, timedelta

import psycopg2

from pg import Actor, Server, Session, quote
from writeback_world import BY_NAME, COMPANIES, TABLES, USERS


class Wrong(Exception):
    """A client or the server does not hold what it should."""


class Lost(psycopg2.Error):
    """The connection is gone, and what became of the request is not known."""


def js(value):
    return quote(json.dumps(value)) + "::jsonb"


def millis(text):
    return None if text is None else int(datetime.fromisoformat(text).timestamp() * 1000 + 0.5)


def row_hash(key, version):
    """As documented of sync.fingerprint."""
    full = (1 << 64) - 1
    h = 14695981039346656037
    for byte in b"".join(value.encode() + b"\0" for value in key) + str(version).encode():
        h = (h ^ byte) * 1099511628211 & full
    h = (h ^ h >> 33) * 18397679294719823053 & full
    h = (h ^ h >> 33) * 14181476777654086739 & full
    return h ^ h >> 33


class Mutation:
    def __init__(self, name, table, op, key, data):
        self.name = name
        self.table = table
        self.op = op
        self.key = key
        self.data = data
        self.more = {}              # id, base, assumed, at, pending
        self.local_id = None        # its provisional key
        self.poison = None          # the SQLSTATE that it has to be refused with
        self.sent = False
        self.end = None             # the answer that settled it
        self.reconciles = 0         # how often it was part of a reconcile
        self.loose = False          # it has no id, and may take effect more than once

    def json(self):
        out = {"domain": self.table.name, "op": self.op}
        out.update(self.more)
        if self.key is not None:
            out["key"] = self.key
        if self.data is not None:
            out["data"] = self.data
        return out

    def row(self):
        """The name of the row that it is for; None: only the server knows."""
        whole = dict(self.data or {}, **(self.key or {}))
        return self.table.name_of(whole) if all(c in whole for c in self.table.key) else None

    def __repr__(self):
        return "%s %s" % (self.name, json.dumps(self.json(), sort_keys=True))


class Copy:
    """What a client holds of one domain, as the server told it."""

    def __init__(self, table, filter=None, params=(), holds=None):
        self.table = table
        self.filter = filter
        self.params = list(params)
        self.holds = holds or (lambda row: True)
        self.cursor = None
        self.rows = {}
        self.told = set()           # known by the answer of a push: the next pull has to confirm them
        self.named = set()          # those of them that the request under way names
        self.more = False
        self.anew = False           # it asked without a cursor: what it holds is not counted on

    def question(self):
        out = {}
        if self.filter is not None:
            out.update(filter=self.filter, params=self.params)
        return out

    def condition(self):
        sql = self.filter or "true"
        for number, value in enumerate(self.params, 1):
            sql = sql.replace("$%d" % number, quote(value))
        if self.table.deleted_at:
            sql = "(%s) AND %s IS NULL" % (sql, self.table.deleted_at)
        return sql


class Client(Actor):
    STYLES = ["base", "base", "base", "assumed", "assumed", "blind", "since"]

    def __init__(self, scheduler, world, name):
        super().__init__(scheduler, name, weight=2)
        self.world = world
        rnd = self.rnd
        self.role = rnd.random() < 0.5
        self.take_role()
        self.user = rnd.choice(USERS) if rnd.random() < 0.3 else None
        self.sessions = rnd.random() < 0.5      # makes provisional keys, in sync sessions
        self.stateless = self.sessions and rnd.random() < 0.3   # keeps no cursors: the session's
        self.looks = self.user is None and rnd.random() < 0.5   # whether a row that it is told is what it asked for
        self.names_itself = rnd.random() < 0.7  # in pulls: its own changes are left out
        self.policy = rnd.choice(["reject", "reject", "client_wins", "newer_wins", "merge", "merge"])
        self.reuses_ids = rnd.random() < 0.15
        # gives no ids: applied at least once, where it may do again what it did
        self.nameless = rnd.random() < 0.08 and not (self.role and world.denied)
        self.behind = timedelta(hours=rnd.choice([0, 0, -3, 5]))
        self.copies = {t.name: self.copy(t) for t in TABLES if t.ruled == (self.user is not None)}
        self.outbox = []
        self.real = {}              # (table, provisional key): the real one
        self.local = 0
        self.session_id = None
        self.finishing = False
        self.finished = False
        self.calls = 0
        self.repeats = rnd.random() < 0.5       # a reconcile whose answer was lost, before anything else
        self.again = False
        self.fragile = False        # what is under way may be cut off
        self.stale = set()          # domains to be loaded anew
        self.aside = set()          # rows that a reconcile left to be sent: not known as they are

    def take_role(self):
        """Half of them are nobody in particular."""
        if self.role:
            self.session.sql("SET ROLE %s" % self.scheduler.server.role())

    def copy(self, table):
        rnd = self.rnd
        if table.name == "item" and rnd.random() < 0.5:
            owner = rnd.choice([1, 2])
            return Copy(table, "owner = $1", [owner], lambda row: row["owner"] == owner)
        if table.name == "soft" and rnd.random() < 0.4:
            return Copy(table, "n < $1", [50], lambda row: row["n"] is not None and row["n"] < 50)
        if table.name == "doc" and rnd.random() < 0.3:
            company = rnd.choice(COMPANIES)
            return Copy(table, "company = $1", [company], lambda row: row["company"] == company)
        return Copy(table)

    def wrong(self, what):
        raise Wrong("%s: %s" % (self.name, what))

    def flaw(self, name):
        return self.world.flaw == name

    def next(self):
        self.load_anew()
        if self.finished or self.world.stopping and not self.finishing:
            return None
        if self.again:
            return self.live(self.reconcile)
        if self.finishing:
            return self.finish()
        what = self.rnd.random()
        if what < 0.4 or not any(c.cursor for c in self.copies.values()):
            if not any(c.cursor for c in self.copies.values()):
                return self.live(self.pull)
            self.edit()
            return self.rest()
        if what < 0.55:
            return self.live(self.pull)
        if self.sessions and what < 0.8:
            return self.live(self.meet)
        if what < 0.92:
            return self.live(self.push)
        return self.live(self.reconcile)

    def rest(self):
        for _ in range(self.rnd.randrange(3)):
            yield None

    def load_anew(self):
        for name in self.stale:
            copy = self.copies[name]
            copy.cursor, copy.rows, copy.told, copy.more = None, {}, set(), False
            self.aside = {(n, k) for n, k in self.aside if n != name}
            self.world.count("loaded anew")
        self.stale = set()

    def live(self, routine):
        """A routine that may end anywhere, for its answer was lost or its transaction failed."""
        try:
            yield from routine()
        except Lost:
            self.world.count("answers lost")
        except psycopg2.Error as error:
            if error.pgcode in ("40001", "40P01"):
                self.world.count("calls to be repeated")
            elif error.pgcode == "42704" and "sync session" in str(error):
                self.world.count("sessions that were gone")
                self.session_id = None
            else:
                raise

    # the local store

    def view(self, table):
        """What the application shows: the copy, and what is in the outbox."""
        rows = {name: dict(row) for name, row in self.copies[table.name].rows.items()}
        for m in self.outbox:
            if m.table is not table or m.poison:
                continue
            name = m.row()
            if name is None:
                continue
            if m.op == "delete":
                rows.pop(name, None)
            elif name in rows:
                rows[name].update(m.data)
            elif m.op != "update":
                rows[name] = dict(m.data, **(m.key or {}))
        return rows

    def now(self):
        return datetime.now().astimezone() + self.behind

    def pick(self, table):
        rows = self.view(table)
        return rows[self.rnd.choice(sorted(rows))] if rows else None

    def reference(self, name):
        """Something to refer to, if there is anything."""
        row = self.pick(BY_NAME[name])
        return None if row is None else row["id"]

    def edit(self):
        for _ in range(self.rnd.choice([1, 1, 2, 3, 6])):
            table = self.rnd.choice([c.table for c in self.copies.values()])
            mutation = self.change(table)
            if mutation is not None:
                self.outbox.append(mutation)
                self.world.mutations[mutation.name] = mutation
                self.world.note(self.name, "edits", repr(mutation))

    def values(self, table, token, every):
        rnd = self.rnd
        columns = table.columns if every else rnd.sample(table.columns, rnd.randrange(1, len(table.columns) + 1))
        data = {c: token for c in columns if c in table.texts}
        if not data:
            data = {table.texts[0]: token}
        if "b" in data and table.name == "item" and rnd.random() < 0.3:
            data["b"] += "  "
        if "n" in columns:
            data["n"] = rnd.randrange(100)
        for column in table.scope:
            if every or rnd.random() < 0.15:
                data[column] = rnd.choice(COMPANIES)
        return data

    def change(self, table):
        rnd = self.rnd
        token = "%s-%d" % (self.name, self.world.number())
        row = self.pick(table)
        kind = rnd.random()
        key = None if row is None else table.key_of(row)
        if row is None or kind < 0.3:
            m = self.create(table, token)
        elif kind < 0.45 and not any(self.local_of(o) for o in [key]):
            m = Mutation(token, table, "delete", key, None)
        elif kind < 0.45:
            m = Mutation(token, table, "delete", key, None)
        elif kind < 0.5 and table.name == "item":
            m = Mutation(token, table, "update", key, {"id": rnd.randrange(1, 13), "a": token})
        else:
            m = Mutation(token, table, rnd.choice(["update", "update", "update", "upsert"]), key,
                         self.values(table, token, False))
            for column, other in table.references.items():
                if column not in table.key and rnd.random() < 0.2:
                    there = self.reference(other)
                    if there is not None or column != "order_id":
                        m.data[column] = there
            if m.op == "upsert":
                m.data.update({c: token for c in table.texts})
                for column in table.key + table.scope + list(table.references):
                    m.data.setdefault(column, row[column])
        if m is None:
            return None
        self.found(m)
        if rnd.random() < 0.08 and m.data is not None:
            self.poison(m)
        m.more["id"] = m.name
        if self.nameless and m.op != "delete":
            del m.more["id"]
            m.loose = True
            return m
        if self.reuses_ids and m.op != "delete":
            m.more["id"] = rnd.randrange(3)
        return m

    def local_of(self, key):
        return any(isinstance(v, str) and v.startswith("L-") for v in key.values())

    def create(self, table, token):
        rnd = self.rnd
        if table.made and not self.sessions and self.nameless:
            return None             # neither an id nor a key: nobody could tell it from another
        data = self.values(table, token, True)
        for column, other in table.references.items():
            data[column] = self.reference(other)
            if data[column] is None and (column in table.key or column == "order_id"):
                return None
        m = Mutation(token, table, rnd.choice(["insert", "insert", "upsert"]), None, data)
        if table.made and not self.sessions:
            m.op = "insert"
        if not table.made:
            data.update({c: rnd.randrange(1, 13) for c in table.key if c not in table.references})
        elif self.sessions:
            self.local += 1
            m.local_id = "L-%s-%d" % (self.name, self.local)
            m.more["pending"] = True
            data["id"] = m.local_id
            if table.name == "orders" and rnd.random() < 0.1:
                data["parent"] = m.local_id
        if rnd.random() < 0.3 and m.row() is not None:
            m.key = {c: data.pop(c) for c in table.key}
        return m

    def found(self, m):
        """What the mutation rests on."""
        rnd = self.rnd
        name = m.row()
        held = self.copies[m.table.name].rows.get(self.real_name(m.table, m.key or m.data or {}))
        new = m.op == "insert" or name is None or held is None
        style = rnd.choice(self.STYLES)
        if self.policy == "merge" and rnd.random() < 0.7:
            style = "assumed"
        if not new and style == "base":
            m.more["base"] = held["modified_at"]
        elif not new and style == "assumed":
            m.more["assumed"] = {c: held[c] for c in held
                                 if c in m.table.columns or c in m.table.references and c not in m.table.key}
        if self.policy == "newer_wins" or rnd.random() < 0.1:
            m.more["at"] = self.now().isoformat()

    def real_name(self, table, key):
        whole = {c: key.get(c) for c in table.key}
        if table.made:
            whole.update(self.real.get((table.name, whole["id"]), {}))
        return table.name_of(whole)

    def poison(self, m):
        rnd = self.rnd
        m.poison = rnd.choice(["22P02", "42703", "23514", "22023"])
        if m.poison == "23514" and m.table.name != "item" or m.op == "upsert" or m.more.get("assumed"):
            m.poison = "42703"
        if m.poison == "23514":
            # an update that is in conflict is never asked of the constraint
            if m.op == "update":
                m.more.pop("base", None)
                m.poison = "23514?"
            else:
                m.poison = "23514?"
            m.data["n"] = 5000
        elif m.poison == "42703":
            m.data["nosuch"] = 1
        elif m.poison == "22P02":
            if "n" not in m.table.columns:
                m.poison = "42703"
                m.data["nosuch"] = 1
            else:
                m.data["n"] = "many"
        else:
            m.more["nosuch"] = True

    # talking to the server

    def break_off(self, wait):
        """The connection is gone. Where nobody waits for the server, it may go on for a while."""
        self.world.count("broken connections")
        self.world.note(self.name, "loses its connection")
        pid = self.session.pid
        with self.scheduler.monitor.cursor() as cur:
            if wait:
                cur.execute("SELECT pg_terminate_backend(%s)", (pid,))
            self.session.conn.close()
            while wait:
                cur.execute("SELECT FROM pg_stat_activity WHERE pid = %s", (pid,))
                wait = cur.fetchone() is not None
        self.session = Session(self.scheduler.server, self.name)
        self.take_role()

    def cut(self):
        """Cuts off what is under way, and waits for a lock."""
        self.break_off(self.rnd.random() < 0.5)
        self.session.error = Lost("cut off")

    def call(self, kind, function, argument, isolation=None, before=None, compare=False):
        """One request. Its answer, and what the copies should be then; or Lost."""
        rnd = self.rnd
        self.calls += 1
        name = "%s/%d" % (self.name, self.calls)
        if before is not None:
            before(name)
        if isolation:
            self.world.repeatable.add(name)
        flawed = "flawed." if self.world.flaw and kind in ("push", "pull", "reconcile", "end") else "sync."
        record = ("INSERT INTO call SELECT %s, %s, %s, r, a, clock_timestamp() FROM (SELECT r, to_jsonb(%s%s) AS a"
                  " FROM (SELECT %s AS r) q OFFSET 0) x RETURNING answer" % (
                      quote(name), quote(self.name), quote(kind), flawed, function,
                      "NULL::jsonb" if argument is None else js(argument)))
        truth = {}
        lossy = not self.finishing
        self.fragile = lossy
        try:
            if not compare and rnd.random() < 0.4:
                ((answer,),) = yield record
            else:
                yield "BEGIN" + (" ISOLATION LEVEL " + isolation if isolation else "")
                ((answer,),) = yield record
                for _ in range(rnd.choice([0, 0, 1, 3])):
                    yield None
                if compare:
                    truth = yield from self.truths()
                fate = rnd.random()
                if lossy and fate < 0.06:
                    self.break_off(rnd.random() < 0.5)
                    raise Lost("before the commit")
                if lossy and fate < 0.1:
                    yield "ROLLBACK"
                    raise Lost("rolled back")
                if lossy and self.scheduler.server.two_phase and rnd.random() < 0.05:
                    yield from self.two_phases(name)
                else:
                    yield "COMMIT"
        except Lost:
            raise
        except psycopg2.Error as error:
            if self.session.conn.get_transaction_status() != 0:
                yield "ROLLBACK"
            if error.pgcode == "23503":
                # a deferred foreign key: somebody deleted the row after the push had asked
                self.world.count("commits that failed")
                raise Lost("at the commit")
            raise
        finally:
            self.fragile = False
        if lossy and rnd.random() < 0.12:
            self.world.note(self.name, "does not hear the answer", json.dumps(answer))
            raise Lost("after the commit")
        self.world.note(self.name, "hears", json.dumps(answer))
        return answer, truth

    def two_phases(self, name):
        gid = "writeback %s %s" % (Server.DATABASE, name)
        yield "PREPARE TRANSACTION %s" % quote(gid)
        self.world.count("prepared")
        self.fragile = False
        for _ in range(self.rnd.randrange(6)):
            yield None
        if self.rnd.random() < 0.3:
            yield "ROLLBACK PREPARED %s" % quote(gid)
            raise Lost("rolled back")
        yield "COMMIT PREPARED %s" % quote(gid)

    # answers

    def take_rows(self, copy, answer):
        table = copy.table
        if copy.anew:
            copy.rows = {n: r for n, r in copy.rows.items() if n in copy.told}
        for local in answer.get("local_ids") or ():
            self.learn(table, local["local_id"], local["key"])
        if answer.get("reset"):
            self.world.count("resets")
            copy.rows = {}
        for scope in answer.get("forget") or ():
            self.world.count("forgets")
            copy.rows = {n: r for n, r in copy.rows.items()
                         if any(r[c] != scope[c] for c in scope)}
        for data in answer["upsert"]:
            copy.rows[table.name_of(data)] = data
            copy.told.discard(table.name_of(data))
        for key in answer["remove"]:
            copy.rows.pop(table.name_of(key), None)
            copy.told.discard(table.name_of(key))
        if "state" in answer:
            copy.more = answer["state"] == "more"
            if not copy.more:
                copy.told -= copy.named     # on the last page: all of them were looked at
        copy.cursor = answer["cursor"]

    def learn(self, table, local_id, key):
        """The real key of a provisional one. What was sent already is never altered."""
        known = self.real.setdefault((table.name, local_id), key)
        if known != key:
            self.wrong("the provisional key %s stands for %s and for %s" % (local_id, known, key))
        for m in self.outbox:
            if m.sent and not self.flaw("rewrites"):
                continue
            for part in (m.key, m.data, m.more.get("assumed")):
                if part is None:
                    continue
                if m.table is table and part.get("id") == local_id and not m.more.get("pending"):
                    part.update(key)
                for column, other in m.table.references.items():
                    if other == table.name and part.get(column) == local_id:
                        part[column] = key["id"]

    def store(self, table, row):
        """A row that an answer to a push told of."""
        copy = self.copies[table.name]
        name = table.name_of(row)
        if table.deleted_at and row.get(table.deleted_at) is not None or self.looks and not copy.holds(row):
            copy.rows.pop(name, None)
            copy.told.discard(name)
            return
        copy.rows[name] = row
        copy.told.add(name)

    def settle(self, results):
        by_id = {}
        for m in self.batch:
            by_id.setdefault(json.dumps(m.more.get("id")), []).append(m)
        if len(results) != len(self.batch):
            self.wrong("%d results for %d mutations" % (len(results), len(self.batch)))
        for m, result in zip(self.batch, results):
            if result.get("local_id") is not None and result["status"] in ("applied", "duplicate"):
                self.learn(m.table, result["local_id"], result["key"])
        for m, result in zip(self.batch, results):
            status = result["status"]
            self.world.count(status)
            if result.get("id") != m.more.get("id"):
                self.wrong("%r has the answer of another: %r" % (m, result))
            if status == "retry" and not self.flaw("gives-up"):
                continue
            if result.get("sqlstate") == "40000":
                continue            # all or nothing: it was not its own fault
            m.end = result
            self.outbox.remove(m)
            row = (m.table.name, m.row())
            if row in self.aside:
                self.aside.discard(row)
                if status == "rejected":
                    # nobody told how the row is
                    self.stale.add(m.table.name)
            if status not in ("rejected", "retry"):
                self.take_result(m, result)

    def take_result(self, m, result):
        table, copy = m.table, self.copies[m.table.name]
        key = result.get("key")
        if key is None:
            self.wrong("an answer without a key: %r for %r" % (result, m))
        name = table.name_of(key)
        status = result["status"]
        if status == "applied" and m.op == "update" and m.key and m.row() != self.real_name(table, m.key):
            copy.rows.pop(table.name_of(m.key), None)      # the key moved
        if result.get("data") is not None:
            self.store(table, result["data"])
        elif status != "applied" or m.op == "delete" or "modified_at" not in result:
            copy.rows.pop(name, None)
            copy.told.discard(name)
        else:
            if m.op == "update" and name not in copy.rows:
                self.stale.add(table.name)      # it rested on "since", and its author has not got the row
            row = {c: None for c in self.columns(table)}
            row.update(copy.rows.get(name, {}))
            row.update(m.data)
            row.update(key)
            for column, other in table.references.items():
                row[column] = self.real.get((other, row[column]), {}).get("id", row[column])
            row["modified_at"] = result["modified_at"]
            self.store(table, row)

    def columns(self, table):
        extra = {"item": ["loud"], "soft": ["deleted_at"], "orders": ["lines"]}.get(table.name, [])
        return table.key + table.columns + list(table.references) + table.scope + extra + ["modified_at"]

    # the truth

    def truths(self):
        truth = {}
        for copy in self.copies.values():
            rule = ""
            if self.user is not None:
                rule = " AND company IN (SELECT company FROM member WHERE user_id = %s)" % quote(self.user)
            rows = yield "SELECT to_jsonb(t) FROM %s t WHERE (%s)%s" % (
                copy.table.name, copy.condition(), rule)
            truth[copy.table.name] = {copy.table.name_of(r): r for (r,) in rows}
        return truth

    def compare(self, truth, when):
        self.world.count("comparisons")
        for name, should in truth.items():
            if name in self.stale:
                continue
            unknown = {k for n, k in self.aside if n == name} | self.copies[name].told
            holds = {k: r for k, r in self.copies[name].rows.items() if k not in unknown}
            should = {k: r for k, r in should.items() if k not in unknown}
            self.world.count("rows compared", len(should))
            if holds != should:
                self.wrong("its copy of %s (%s) differs %s\n%s" % (
                    name, self.copies[name].condition(), when, "\n".join(
                        "  %s: holds %s, should hold %s" % (
                            k, json.dumps(holds.get(k), sort_keys=True), json.dumps(should.get(k), sort_keys=True))
                        for k in sorted(set(holds) | set(should)) if holds.get(k) != should.get(k))))

    def fingerprint(self):
        """Count and hash of each copy, here and there; in the same moment as nobody writes."""
        for copy in self.copies.values():
            rows = [([str(row[c]) for c in copy.table.key], millis(row["modified_at"])) for row in copy.rows.values()]
            here = (len(rows), "%016x" % (sum(row_hash(*row) for row in rows) % (1 << 64)))
            (there,) = self.session.sql("SELECT count, hash FROM sync.fingerprint(%s, %s, %s, %s)" % (
                quote(copy.table.name), quote(copy.filter), quote(copy.params) if copy.params else "NULL",
                quote(self.user)))
            if here != there:
                self.wrong("the fingerprint of its copy of %s is %r, the server's is %r" % (
                    copy.table.name, here, there))

    # requests

    def base_request(self):
        out = {}
        if self.user is not None:
            out["user_id"] = self.user
        if self.session_id is not None:
            out["session"] = self.session_id
        return out

    def questions(self):
        """What a pull asks, and what it need not tell."""
        domains = {}
        for copy in self.copies.values():
            copy.named = set(copy.told)
            question = copy.question()
            stateless = self.stateless and self.session_id is not None and not copy.more
            if copy.cursor is None or not stateless:
                question["since"] = copy.cursor
            copy.anew = copy.cursor is None or stateless and not self.last_sync
            told = [dict(copy.table.key_of(copy.rows[n]), modified_at=copy.rows[n]["modified_at"])
                    for n in sorted(copy.told) if n in copy.rows]
            if told:
                question["exclude"] = told
            if self.rnd.random() < 0.2 and not self.stateless:
                question["max_rows"] = self.rnd.choice([1, 2, 5])
            domains[copy.table.name] = question
        return domains

    def unheard(self):
        return [m for m in self.outbox if m.sent]

    def unsure(self):
        """Whether the server may have applied what this client does not know of."""
        return any(m.sent or m.reconciles for m in self.outbox)

    def pull(self):
        request = self.base_request()
        if self.names_itself:
            request["client"] = self.name
        request["domains"] = self.questions()
        strict = self.rnd.random() < 0.3 and not self.unsure()
        answer, truth = yield from self.call("pull", "pull(r)", request,
                                             "REPEATABLE READ" if strict else None, compare=strict)
        self.take_pull(answer)
        if truth and not any(c.more for c in self.copies.values()) and not self.unsure():
            self.compare(truth, "after a pull")

    def take_pull(self, answer):
        before = {n: dict(c.rows) for n, c in self.copies.items()}
        for name, part in answer["domains"].items():
            self.take_rows(self.copies[name], part)
        self.before = before
        self.world.count("pulls")

    def push(self):
        if not self.outbox:
            return
        yield from self.push_some()

    def sendable(self):
        """In order; what has or refers to a provisional key needs a session."""
        if self.session_id is not None:
            return self.outbox
        left, rows = [], set()
        for m in self.outbox:
            texts = [v for part in (m.key, m.data) for v in (part or {}).values()]
            if m.local_id or any(isinstance(v, str) and v.startswith("L-") for v in texts):
                rows.add((m.table.name, m.row()))
            elif (m.table.name, m.row()) not in rows:
                left.append(m)
        return left

    def shuffled(self, batch):
        """In another order, that of each row apart: children come before their parents."""
        rows = {}
        for m in batch:
            if m.row() is None or m.op == "update" and m.key is not None and m.row() != m.table.name_of(m.key):
                return batch
            rows.setdefault((m.table.name, m.row()), []).append(m)
        order = [row for row, ms in rows.items() for _ in ms]
        self.rnd.shuffle(order)
        self.world.count("shuffled")
        return [rows[row].pop(0) for row in order]

    def push_some(self, everything=False):
        rnd = self.rnd
        batch = self.sendable()
        if not batch:
            return
        if not everything and rnd.random() < 0.4:
            batch = batch[:rnd.randrange(1, len(batch) + 1)]
        if rnd.random() < 0.2:
            batch = self.shuffled(batch)
        self.batch = list(batch)
        request = self.base_request()
        request["client"] = self.name
        request["policy"] = self.policy
        if rnd.random() < 0.15:
            request["policy"] = rnd.choice(["reject", "client_wins", "merge"])
        if rnd.random() < 0.12 and not everything:
            request["atomic"] = "all"
        request["time"] = self.now().isoformat()
        inside = rnd.random() < 0.5
        if inside:
            request["pull"] = {"domains": self.questions()}
        else:
            cursors = [c.cursor for c in self.copies.values() if c.cursor and not c.more]
            tables = {m.table.name for m in batch}
            if len(tables) == 1:
                copy = self.copies[tables.pop()]
                cursors = [copy.cursor] if copy.cursor and not copy.more else []
                if cursors and rnd.random() < 0.6:
                    request["since"] = copy.cursor
        request["mutations"] = [m.json() for m in batch]
        if rnd.random() < 0.1 and batch and not self.reuses_ids and not self.nameless:
            # the same twice in one push
            self.batch.append(rnd.choice(batch))
            request["mutations"].append(self.batch[-1].json())
        if self.flaw("new-ids"):
            again = self.world.number()
            for m in request["mutations"]:
                m["id"] = "%s again %d" % (m.get("id"), again)
        # (an old snapshot sees rows that somebody deleted beside new ones of the same key)
        strict = inside and self.rnd.random() < 0.3 and not any(m.op in ("insert", "upsert") for m in batch)

        def before(name):
            for m in batch:
                m.sent = True
            self.world.held[name] = {
                m.name: self.copies[m.table.name].rows.get(
                    self.real_name(m.table, m.key or m.data or {}), {}).get("modified_at") for m in batch}

        sent = list(self.batch)
        try:
            answer, truth = yield from self.call("push", "push(r)", request,
                                                 "REPEATABLE READ" if strict else None, before, strict)
        except Lost:
            if self.flaw("deaf"):
                self.outbox = [m for m in self.outbox if m not in sent]
            raise
        if self.flaw("new-ids"):
            for m, result in zip(sent, answer["results"]):
                result["id"] = m.more.get("id")
        self.world.count("pushes")
        results = answer["results"]
        if len(sent) > len(batch):
            twin = results.pop()
            first = next(r for m, r in zip(sent, results) if m is sent[-1])
            expected = {"applied": "duplicate"}.get(first["status"], first["status"])
            if twin["status"] != expected:
                self.wrong("%r and its twin: %r, %r" % (sent[-1], first, twin))
            sent.pop()
        self.batch = sent
        self.settle(results)
        if inside:
            for copy in self.copies.values():
                copy.named = set(copy.told)     # the server names for it what it has told
            self.take_pull(answer["pull"])
            if truth and not any(c.more for c in self.copies.values()) and not self.unsure():
                self.compare(truth, "after a push with a pull inside")

    # sessions

    def meet(self):
        if self.session_id is None:
            yield from self.begin()
        while self.unheard() or self.outbox and self.rnd.random() < 0.8:
            yield from self.push_some()
            if self.rnd.random() < 0.2:
                return
        yield from self.pull()
        while any(c.more for c in self.copies.values()):
            yield from self.pull()
        if self.rnd.random() < 0.8:
            yield from self.end()

    def begin(self):
        call = "begin_session(%s, %s, %s)" % (
            quote(self.name), quote(self.user), quote(self.now().isoformat()) if self.rnd.random() < 0.7 else "NULL")
        answer, _ = yield from self.call("begin", call, None)
        self.session_id = answer["session"]
        self.last_sync = answer["last_sync"]
        self.max_checkin = answer["max_checkin"]
        self.world.count("sessions")

    def end(self):
        """Ended only when every mutation that was sent is answered: what stays behind was made after,
        and learned the real keys."""
        if self.unheard():
            return
        answer, _ = yield from self.call("end", "end_session(%s, %s)" % (
            quote(self.session_id), quote(self.max_checkin)), {"session": self.session_id, "last": self.max_checkin})
        self.session_id = None
        self.world.count("sessions ended")

    # reconcile

    def reconcile(self):
        if self.unheard() or self.session_id is not None or any(c.more for c in self.copies.values()):
            return
        yield from self.reconcile_all()

    def reconcile_all(self):
        rnd = self.rnd
        cutoff = self.now() if rnd.random() < 0.3 else None
        folded = []
        stays = set()
        sendable = set(self.sendable())
        domains = {}
        pending = {}
        for m in self.outbox:
            row = (m.table.name, m.row())
            moves = m.op == "update" and m.data and any(c in m.table.key for c in m.data)
            if (m not in sendable or m.poison or m.row() is None or moves or row in stays
                    or self.local_of(dict(m.data or {}, **(m.key or {})))):
                stays.add(row)
        for m in self.outbox:
            row = (m.table.name, m.row())
            if row not in stays and row[1] is not None and row[0] in self.copies:
                pending.setdefault(row, []).append(m)
        for copy in self.copies.values():
            rows = []
            names = set(copy.rows) | {n for t, n in pending if t == copy.table.name}
            for name in sorted(names):
                held = copy.rows.get(name)
                entry = {"key": json.loads(name)}
                if held is not None:
                    entry["modified_at"] = held["modified_at"]
                ms = pending.get((copy.table.name, name), [])
                if ms:
                    last = None
                    data = {}
                    for m in ms:
                        last = m
                        data = {} if m.op == "delete" else dict(data, **m.data)
                    if held is None and last.op == "delete":
                        entry = None
                    elif last.op == "delete":
                        entry["deleted_at"] = self.now().isoformat()
                    else:
                        entry["data"] = dict(entry["key"], **data)
                    if entry is not None:
                        entry["updated_at"] = self.now().isoformat()
                        if held is not None and self.policy == "merge" and "data" in entry:
                            entry["assumed"] = {c: held[c] for c in copy.table.columns}
                    folded += ms
                elif held is not None and (copy.table.name, name) in stays:
                    if cutoff is None:
                        entry["pending"] = True
                    else:
                        entry["updated_at"] = (cutoff + timedelta(seconds=1)).isoformat()
                elif held is None:
                    continue
                elif cutoff is not None:
                    entry["created_at"] = (cutoff - timedelta(seconds=1)).isoformat()
                    entry["updated_at"] = cutoff.isoformat()
                if entry is not None:
                    rows.append(entry)
            domains[copy.table.name] = dict(copy.question(), rows=rows)
        names = list(domains)
        rnd.shuffle(names)
        request = {"client": self.name, "policy": rnd.choice([self.policy, "reject"]), "time": self.now().isoformat(),
                   "domains": {n: domains[n] for n in names}}
        if self.user is not None:
            request["user_id"] = self.user
        if cutoff is not None:
            request["cutoff"] = cutoff.isoformat()
        dry = rnd.random() < 0.15 and not self.finishing
        if dry:
            request["dry_run"] = True
        strict = not dry and not folded and rnd.random() < 0.7

        def before(name):
            self.again = self.repeats
            for m in folded:
                m.reconciles += 1

        answer, truth = yield from self.call(
            "reconcile", "reconcile(r)", request,
            "REPEATABLE READ" if strict else None, None if dry else before, strict)
        if dry:
            self.world.count("dry runs")
            return
        self.again = False
        self.world.count("reconciled")
        send = set()
        for name, part in answer["domains"].items():
            table, copy = BY_NAME[name], self.copies[name]
            given = {table.name_of(e["key"]): e for e in domains[name]["rows"]}
            for stored in part["stored"]:
                key = table.name_of(stored["key"])
                self.world.count("stored")
                row = {c: None for c in self.columns(table)}
                row.update(copy.rows.get(key, {}))
                row.update(given[key].get("data", {}))
                row["modified_at"] = stored["modified_at"]
                copy.rows[key] = row
            for key in part["deleted"]:
                self.world.count("deleted")
                copy.rows.pop(table.name_of(key), None)
            for key in part["send"]:
                send.add((name, table.name_of(key)))
            for refused in part["refused"]:
                self.world.count("refused")
            copy.told, copy.named = set(), set()
            copy.more = copy.anew = False
            self.take_rows(copy, part)
        for m in folded:
            m.end = {"status": "reconciled"}
            self.outbox.remove(m)
        self.aside = send
        if truth:
            self.compare(truth, "after a reconcile")

    # the end

    def finish(self):
        """Everything is sent until it is answered, then read until it is up to date."""
        for _ in range(200):
            try:
                self.load_anew()
                if self.sessions and self.session_id is None:
                    yield from self.begin()
                if self.outbox:
                    yield from self.push_some(everything=True)
                    continue
                yield from self.pull()
                if self.stale or any(c.more or c.told for c in self.copies.values()):
                    continue
                if self.session_id is not None:
                    yield from self.end()
                break
            except psycopg2.Error as error:
                if error.pgcode == "42704":
                    self.session_id = None
                elif error.pgcode not in ("40001", "40P01", None):
                    raise
        else:
            self.wrong("does not come home: %r %r" % (self.outbox, [
                (c.table.name, c.more, c.told) for c in self.copies.values() if c.more or c.told]))
        if self.rnd.random() < 0.3:
            yield from self.reconcile_all()
        self.finished = True
