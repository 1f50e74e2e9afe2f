"""Clients that hold copies, and the comparison of every copy with the truth."""

import json

import psycopg2

import rights
from engine import oracle
from pg import Actor, quote
from rights import Truth, scope_text
from world import USERS, random_filter


class Wrong(Exception):
    """A client does not hold what it should, or an answer breaks its own rules."""


def plain(data):
    return {column: value for column, value in data.items() if value is not None}


class Sub:
    """What a client holds of one domain, for one question."""

    def __init__(self, table, question, access=None, user=None, companies=None):
        self.table = table
        self.filter = question
        self.access = access        # who may see what, where it asks for a user ...
        self.user = user            # ... and for whom it asks
        self.companies = companies  # what a policy lets it see; None: not concerned
        self.scopes = set()         # the user's, under the last answer
        self.ahead = False          # holds what its own transaction wrote, and its cursor does not
        self.known = 0              # the witness's time before the last up-to-date answer
        self.copy = {}
        self.cursor = None          # text of the last cursor, None before the first load
        self.time = None            # server time of the last up-to-date answer
        self.paging = False
        self.keeps_time = False     # knows a time only, and no cursor, once it is up to date
        self.uses_exclude = False
        self.own = False
        self.reset_ok = True        # a reset is what it should expect
        self.reset_count = 0        # how often it was told so ...
        self.resets_before = 0      # ... when it asked: what came later may reset it once more
        self.original = self
        self.excluded = None        # what it named as held when the delivery began
        self.partly = set()         # keys that it wrote blindly: it may not know the rest of them
        self.bound = True           # the cursor is bound to this question
        self.plain = True           # since the last up-to-date answer: nothing may come twice
        self.pages = 0

    def clone(self):
        other = Sub(self.table, self.filter)
        other.__dict__.update(self.__dict__)
        other.copy = dict(self.copy)
        other.partly = set(self.partly)
        return other

    def since(self, rnd):
        self.resets_before = self.original.reset_count
        if self.keeps_time and not self.paging and self.time is not None:
            return quote(self.time) + rnd.choice(["", "::timestamptz"])
        return None if self.cursor is None else quote(self.cursor)

    def policy_allows(self, row):
        return self.companies is None or row["company"] in self.companies

    def may(self, row, scopes):
        """Whether the user may see a row, having these scopes."""
        return self.policy_allows(row) and (
            self.user is None or scope_text(row, self.table.scope) in scopes)

    def __repr__(self):
        return "%s WHERE %r%s%s%s%s%s" % (
            self.table.name, self.filter, " by time" if self.keeps_time else "",
            " own" if self.own else "", " exclude" if self.uses_exclude else "",
            "" if self.user is None else " user %s via %s" % (self.user, self.access.via),
            "" if self.companies is None else " companies %s" % self.companies)


class Keeper:
    """Applies answers to copies, and compares copies with the truth.  Needs a name and a world."""

    def wrong(self, sub, what):
        raise Wrong("client %s: %r: %s" % (self.name, sub, what))

    def apply(self, sub, rows, exclude=None, max_rows=None, consume=True, first=False, truth=None,
              since=0, own=()):
        """One answer of sync.changes.  Gives its closing word.  truth: what was there to see, under
        the same snapshot; since: the witness's time before the snapshot was taken; own: what the
        transaction that asked has changed itself."""
        world = self.world
        if not rows or rows[-1][0] not in ("up-to-date", "more"):
            self.wrong(sub, "the answer has no closing row: %r" % rows[-1:])
        kept = {sub.table.key_of(e) for e in exclude or ()}
        seen, removed = set(), set()
        forgotten, sent = set(), set()
        was_reset = False
        if truth is not None:
            self.check_rights(sub, rows, kept, truth, own)
        for number, (op, key, data, modified_at, cursor) in enumerate(rows):
            last = number == len(rows) - 1
            if last != (op in ("up-to-date", "more")):
                self.wrong(sub, "a closing row that is not the last one")
            if last != (cursor is not None):
                self.wrong(sub, "a cursor in a %s row: %r" % (op, cursor))
            if op == "reset":
                if number != 0 or first:
                    self.wrong(sub, "a reset where none can be: row %d of %r" % (number, rows[0]))
                if not (sub.reset_ok or sub.original.reset_ok or sub.keeps_time
                        or self.other_rights(sub, data, truth)
                        or (sub.table.name == "orders" and world.allows("remark"))):
                    self.wrong(sub, "a reset without a reason: %r" % (data,))
                was_reset = True
                world.note(self.name, "reset of %s" % sub.table.name, repr(data))
                world.count("resets")
                sub.copy = {k: d for k, d in sub.copy.items() if k in kept}
            elif op == "forget":
                name = scope_text(key, sub.table.scope)
                if set(key) != set(sub.table.scope) or name is None:
                    self.wrong(sub, "forget what is no scope: %r" % (key,))
                if first or sub.user is None:
                    self.wrong(sub, "nothing can be forgotten here: %r" % (key,))
                if name in forgotten or name in sent:
                    self.wrong(sub, "forget %s twice, or after its rows: %r" % (name, rows))
                forgotten.add(name)
                sub.copy = {k: d for k, d in sub.copy.items()
                            if scope_text(d, sub.table.scope) != name}
                world.count("forgets")
            elif op in ("upsert", "remove"):
                name = sub.table.key_of(key)
                if name in seen:
                    self.wrong(sub, "%s twice in one answer: %r" % (name, rows))
                seen.add(name)
                if op == "upsert":
                    sent.add(scope_text(data, sub.table.scope))
                    if sub.table.key_of(data) != name:
                        self.wrong(sub, "the key %s comes with %r" % (name, data))
                    if sub.copy.get(name) == data:
                        world.count("upserts of what was held")
                        if (sub.plain and max_rows is None and not was_reset and not first
                                and not self.rights_changed(sub)):
                            self.wrong(sub, "%s again, though nothing changed" % name)
                    sub.copy[name] = data
                    world.count("upserts")
                else:
                    if first and name not in kept:
                        self.wrong(sub, "a first load removes %s" % name)
                    sub.copy.pop(name, None)
                    removed.add(name)
                    world.count("removes")
        op, _, _, modified_at, cursor = rows[-1]
        # the last page tells what is gone of the named keys, whatever max_rows says
        counted = seen - (removed & kept) if op == "up-to-date" else seen
        if max_rows is not None and len(counted) > max_rows:
            self.wrong(sub, "%d rows in a page of %d" % (len(counted), max_rows))
        if was_reset and consume:
            sub.reset_ok = sub.original.reset_count != sub.resets_before
        if op == "more":
            if max_rows is None:
                self.wrong(sub, "more, though nobody asked for pages")
            if modified_at is not None:
                self.wrong(sub, "more has a time")
            if cursor == sub.cursor and not seen:
                self.wrong(sub, "a page that gets nowhere")
            sub.pages += 1
            if sub.pages > 5000:
                self.wrong(sub, "paging without end")
            world.count("pages")
        else:
            if modified_at is None:
                self.wrong(sub, "up-to-date has no time")
            sub.pages = 0
            sub.partly = set()
            sub.known = 0 if sub.keeps_time else since
            sub.ahead = False
            world.count("up-to-date")
            if seen and not was_reset and not first and sub.cursor is not None:
                world.count("deltas")
        world.note(self.name, "answer for %s" % sub.table.name, ", ".join(
            "%s %s" % (r[0], " ".join(str(v) for v in (r[1] or {}).values())) for r in rows))
        sub.bound = True
        if truth is not None:
            sub.scopes = truth.scopes
        sub.paging = op == "more"
        sub.cursor, sub.time = cursor, modified_at
        sub.plain = (op == "up-to-date" and not sub.keeps_time and not sub.uses_exclude
                     and not sub.own)
        return op

    def other_rights(self, sub, reason, truth):
        """Whether a reset is one because a view gives its user something else than it did."""
        if isinstance(reason, dict) and reason.get("reason") != "access":
            return False
        return (sub.user is not None and sub.access.view
                and (truth is None or truth.scopes != sub.scopes or not sub.bound))

    def rights_changed(self, sub):
        return (sub.user is not None and
                (self.world.witness is None or self.world.witness.rights_changed(sub, sub.known)))

    def check_rights(self, sub, rows, kept, truth, own):
        """Nothing is sent that is not there to see, no key removed that could never be read, no
        scope forgotten that was never had."""
        there = {sub.table.key_of(data): plain(data) for data in truth.rows}
        for op, key, data, _, _ in rows:
            if op == "upsert" and truth.exact and there.get(sub.table.key_of(key)) != plain(data):
                self.wrong(sub, "%r is sent, where there is %r" % (
                    data, there.get(sub.table.key_of(key))))
        if self.world.witness is None or (sub.user is None and sub.companies is None):
            return
        witness = self.world.witness.plus(own)
        for op, key, _, _, _ in rows:
            if op == "remove":
                name = sub.table.key_of(key)
                if name not in kept and not witness.could_read(sub, name, sub.known):
                    self.wrong(sub, "%s is removed, which it never was allowed to see: %r" % (
                        name, rows))
                self.world.count("removals that were allowed")
            elif op == "forget":
                if not witness.had(sub, key, sub.known):
                    self.wrong(sub, "%r is forgotten, which it never had" % (key,))
                self.world.count("forgets that were due")

    def compare(self, sub, truth):
        """The heart of it: the copy is what the filter selects under the answer's snapshot."""
        # A column added without a default changes no row: it is NULL in those that came before.
        should = {sub.table.key_of(data): plain(data) for data in truth.rows}
        holds = {key: plain(data) for key, data in sub.copy.items()}
        self.world.count("comparisons")
        if sub.user is not None:
            self.world.count("comparisons for a user")
        if sub.companies is not None:
            self.world.count("comparisons under a policy")
        self.world.count("rows compared", len(should))
        if should == holds:
            return
        lines = []
        for key in sorted(set(should) | set(holds)):
            if should.get(key) != holds.get(key):
                lines.append("  %s: holds %s, should hold %s" % (
                    key, json.dumps(holds.get(key), sort_keys=True),
                    json.dumps(should.get(key), sort_keys=True)))
        self.wrong(sub, "the copy differs at up-to-date\n" + "\n".join(lines))


class Client(Keeper, Actor):
    def __init__(self, scheduler, world, name):
        super().__init__(scheduler, name)
        self.world = world
        self.busy = None
        self.role = bool(world.policies) and self.rnd.random() < 0.5
        self.companies = rights.random_companies(self.rnd)
        if self.role:
            self.session.sql(rights.as_role(scheduler.server.role(), self.companies))
        user = self.rnd.choice(USERS)
        self.subs = []
        tables = self.rnd.sample(world.tables, min(len(world.tables), self.rnd.choice([1, 2, 3])))
        ruled = [t for t in world.tables if t.name in world.rights and t not in tables]
        if ruled and self.rnd.random() < 0.7:
            tables[-1] = self.rnd.choice(ruled)
        for table in tables:
            sub = Sub(table, random_filter(self.rnd, table))
            if self.role and table.name in world.policies:
                sub.companies = self.companies
            sub.access = world.rights.get(table.name)
            if sub.access is not None and self.rnd.random() < 0.85:
                sub.user = user
                if self.rnd.random() < 0.6:
                    sub.filter = type(sub.filter)()
            sub.keeps_time = world.allows("time") and self.rnd.random() < 0.15
            sub.uses_exclude = world.allows("exclude") and self.rnd.random() < 0.2
            sub.own = (world.allows("own") and table.source is None and table.deleted_at is None
                       and self.rnd.random() < 0.35)
            self.subs.append(sub)
        self.page_size = self.rnd.choice([None, 1, 2, 3, 7, 50]) if world.allows("page") else None
        self.finishing = False

    def own_tables(self):
        return [sub.table for sub in self.subs if sub.own]

    # the client's own writes

    def scopes_now(self):
        """What its users may see, in the transaction that asks."""
        scopes = {}
        for sub in self.subs:
            if sub.own and sub.user is not None:
                scopes[sub] = Truth(sub, (yield rights.truth(sub))).scopes
        return scopes

    def apply_own(self, effects, scopes):
        """Of what it wrote it holds what it may see, as far as it knows: it had the right when it
        asked last, and has it still."""
        for table, kind, key, data in effects:
            for sub in self.subs:
                if sub.table is not table or not sub.own or sub.cursor is None:
                    continue
                name = None if key is None else json.dumps(key, sort_keys=True)
                if kind == "put":
                    held = data
                elif kind == "gone":
                    sub.copy.pop(name, None)
                    continue
                else:
                    held = sub.copy.get(name)
                    if held is None:
                        continue
                    held = dict(held, **data)
                    sub.partly.add(table.key_of(held))
                    if kind == "move":
                        del sub.copy[name]
                if sub.filter.holds(held) and sub.may(held, sub.scopes & scopes.get(sub, set())):
                    sub.copy[table.key_of(held)] = held
                else:
                    sub.copy.pop(table.key_of(held), None)

    # what a client does

    def excluded(self, sub):
        """What it names as held: the same for all pages of a delivery."""
        if sub.paging:
            return sub.excluded
        sub.excluded = None
        if sub.uses_exclude and self.rnd.random() < 0.8:
            held = [data for name, data in sorted(sub.copy.items()) if name not in sub.partly]
            sub.excluded = [
                dict({c: data[c] for c in sub.table.key}, modified_at=data["modified_at"])
                for data in held if self.rnd.random() < 0.6]
        return sub.excluded

    def next(self):
        if self.world.stopping:
            return None if self.finishing else self.finish()
        kind = self.rnd.random()
        sub = self.rnd.choice(self.subs)
        if kind < 0.10:
            return self.wait()
        if kind < 0.22:
            return self.transaction(sub)
        if kind < 0.32:
            return self.transaction(sub, writes=not self.role)
        if kind < 0.40 and self.world.allows("old snapshot"):
            return self.old_snapshot(sub)
        if kind < 0.44:
            return self.other_question(sub)
        if kind < 0.47 and hasattr(self.world.engine, "bootstrap"):
            return self.bootstrap(sub)
        if kind < 0.62 and self.world.allows("pull"):
            return self.pull()
        return self.statement(sub)

    def wait(self):
        for _ in range(self.rnd.randrange(10)):
            yield None

    def free(self):
        while self.busy not in (None, self):
            yield None
        self.busy = self

    def release(self):
        if self.busy is self:
            self.busy = None

    def limit(self):
        return None if self.page_size is None or self.rnd.random() < 0.2 else self.page_size

    def step(self, sub, consume=True):
        """One call, compared when it says up-to-date."""
        first = sub.cursor is None
        exclude = self.excluded(sub)
        # A page size is kept while a delivery is under way, as is the lack of one.
        max_rows = self.limit()
        now = self.world.time()
        rows, truth = yield from self.world.engine.fetch(
            sub, sub.since(self.rnd), client=self.name if sub.own else None, exclude=exclude,
            max_rows=max_rows)
        op = self.apply(sub, rows, exclude, max_rows, consume, first, truth, now)
        if op == "up-to-date":
            self.compare(sub, truth)
        return op

    def expected(self, error):
        """Errors of a reader with a fresh snapshot: only what concurrent DDL can do."""
        if error.pgcode in ("40P01",):
            self.world.count("reader deadlocks")
            return
        raise Wrong("client %s: error %s in an answer: %s" % (
            self.name, error.pgcode, error.pgerror))

    def statement(self, sub):
        """Single statements, page by page, with the others in between."""
        for _ in range(self.rnd.choice([1, 2, 4, 50])):
            yield from self.free()
            try:
                op = yield from self.step(sub)
            except psycopg2.Error as error:
                self.expected(error)
                return
            finally:
                self.release()
            if op == "up-to-date":
                return
            for _ in range(self.rnd.choice([0, 0, 1, 3])):
                yield None

    def pull(self):
        """All subscriptions with sync.pull, in one snapshot."""
        yield from self.free()
        try:
            # One request is of one client and one user.
            of = self.rnd.choice(self.subs)
            own, subs = of.own, [s for s in self.subs if (s.own, s.user) == (of.own, of.user)]
            request, asked = {}, []
            for sub in subs:
                body = {}
                if sub.keeps_time and not sub.paging and sub.time is not None:
                    body["since"] = sub.time
                elif sub.cursor is not None:
                    body["since"] = sub.cursor
                if sub.filter.sql is not None:
                    body["filter"] = sub.filter.sql
                    if sub.filter.params:
                        body["params"] = sub.filter.params
                exclude, max_rows = self.excluded(sub), self.limit()
                if exclude is not None:
                    body["exclude"] = exclude
                if max_rows is not None:
                    body["max_rows"] = max_rows
                request[sub.table.domain] = body
                asked.append((sub, exclude, max_rows, sub.cursor is None))
            whole = {"domains": request}
            if own:
                whole["client"] = self.name
            if of.user is not None:
                whole["user_id"] = of.user
            sql = "SELECT 'answer', NULL, sync.pull(%s::jsonb)" % quote(json.dumps(whole))
            for sub in subs:
                sql += " UNION ALL SELECT %s, o.* FROM (%s) o" % (
                    quote(sub.table.domain), rights.truth(sub, oracle(sub)))
            now = self.world.time()
            try:
                rows = yield sql
            except psycopg2.Error as error:
                self.expected(error)
                return
            answer = [r[2] for r in rows if r[0] == "answer"][0]
            if set(answer["domains"]) != set(request):
                raise Wrong("client %s: sync.pull answers %r" % (self.name, list(answer["domains"])))
            self.world.count("pulls of several domains" if len(request) > 1 else "pulls of one")
            for sub, exclude, max_rows, first in asked:
                part = answer["domains"][sub.table.domain]
                state = part["state"]
                changes = []
                if part.get("reset"):
                    changes.append(("reset", None, part.get("reset"), None, None))
                changes += [("forget", s, None, None, None) for s in part.get("forget", [])]
                changes += [("upsert", {c: d[c] for c in sub.table.key}, d, None, None)
                            for d in part.get("upsert", [])]
                changes += [("remove", k, None, None, None) for k in part.get("remove", [])]
                changes.append((state, None, None,
                                answer["time"] if state == "up-to-date" else None, part["cursor"]))
                there = Truth(sub, [r[1:] for r in rows if r[0] == sub.table.domain])
                if self.apply(sub, changes, exclude, max_rows, True, first, there,
                              now) == "up-to-date":
                    self.compare(sub, there)
        finally:
            self.release()

    def lock(self, sub):
        """DDL and TRUNCATE are not MVCC-safe: a reader with a snapshot of its own keeps them out
        before it takes that snapshot."""
        return "LOCK TABLE %s IN ACCESS SHARE MODE" % ", ".join(
            sub.table.locks + (sub.access.bases if sub.access else []))

    def write(self, sub, more=False):
        """Some writes of its own; False if the transaction is lost by them.  Having read, it only
        adds rows: that a row which came and went in one transaction was delivered in between is
        known to nobody but the reader."""
        writer = self.world.writer
        writer.rnd = self.rnd
        for _ in range(self.rnd.choice([1, 2])):
            try:
                yield "SAVEPOINT w"
                table = self.rnd.choice([sub.table, writer.pick()])
                yield (writer.insert_text(table, [writer.row(table)]) + " ON CONFLICT DO NOTHING"
                       if more and self.world.engine.adds_only else writer.operation(table))
                yield "RELEASE w"
            except psycopg2.Error as error:
                writer.check(error)
                if error.pgcode in ("40001", "40P01"):
                    return False
                yield "ROLLBACK TO w"
        return True

    def transaction(self, sub, writes=False):
        """A transaction of several statements.  REPEATABLE READ: the pages and the truth from one
        snapshot.  With writes it changes rows itself, before and after it reads, and holds the
        answer only if it commits; then it may be READ COMMITTED, too."""
        yield from self.free()
        trial = sub.clone()
        trial.plain = trial.plain and not writes
        one_snapshot = not writes or self.rnd.random() < 0.5
        try:
            resets = self.world.resets
            now = self.world.time()
            try:
                yield "BEGIN ISOLATION LEVEL " + (
                    "REPEATABLE READ" if one_snapshot else "READ COMMITTED")
                yield self.lock(sub)
                if writes:
                    if self.rnd.random() < 0.5:
                        yield "SELECT 1"
                        for _ in range(self.rnd.choice([1, 4, 8])):
                            yield None
                    if not (yield from self.write(sub)):
                        yield "ROLLBACK"
                        return
                    for _ in range(self.rnd.choice([0, 1, 4, 8])):
                        yield None
                    # A snapshot still shows a row that others deleted meanwhile, and beside it
                    # the one that this transaction put in its place.
                    if one_snapshot and (yield "SELECT 1 FROM %s GROUP BY %s HAVING count(*) > 1" % (
                            sub.table.name, ", ".join(sub.table.key))):
                        yield "ROLLBACK"
                        return
                for page in range(200):
                    for _ in range(self.rnd.choice([0, 0, 1, 3])):
                        yield None
                    first = trial.cursor is None
                    exclude, max_rows = self.excluded(trial), self.limit()
                    if page == 199:
                        max_rows = None
                    rows, truth = yield from self.world.engine.fetch(
                        trial, trial.since(self.rnd),
                        client=self.name if sub.own and not writes else None,
                        exclude=exclude, max_rows=max_rows, check=not one_snapshot or page % 2 == 0)
                    own = ()
                    if writes and self.world.witness is not None:
                        own = yield ("SELECT rel, was, now FROM witness.event"
                                     " WHERE xid = pg_current_xact_id_if_assigned() ORDER BY seq")
                    if truth is None:
                        truth = Truth(trial, (yield rights.truth(trial, oracle(trial))))
                    truth.exact = self.world.resets == resets or not one_snapshot
                    op = self.apply(trial, rows, exclude, max_rows, True, first, truth, now, own)
                    if op == "up-to-date":
                        break
                # A partition attached meanwhile shows in the truth, not in the snapshot.
                if truth.exact:
                    self.compare(trial, truth)
                elif sub.table.name == "part":
                    yield "ROLLBACK"
                    return
                if writes and self.rnd.random() < 0.5:
                    if not (yield from self.write(sub, more=True)):
                        yield "ROLLBACK"
                        return
                if writes and self.rnd.random() < 0.4:
                    yield "ROLLBACK"
                    self.world.count("pulled and rolled back")
                    return
                yield "COMMIT"
            except psycopg2.Error as error:
                if writes and error.pgcode in ("40001", "40P01", "23503"):
                    self.world.count("error " + error.pgcode)
                else:
                    self.expected(error)
                yield "ROLLBACK"
                return
            # own effects cannot have come in between: they wait while this client is busy
            trial.reset_ok |= sub.reset_ok and self.world.resets != resets
            sub.__dict__.update(trial.__dict__)
            if writes:
                sub.plain, sub.ahead = False, True
                self.world.count("pulled in a writing transaction")
            else:
                self.world.count("pulled in a transaction")
        finally:
            self.release()

    def old_snapshot(self, sub):
        """A snapshot that may be older than what the client has seen: an error that says retry, or
        the truth of that snapshot."""
        try:
            resets = self.world.resets
            now = self.world.time()
            yield "BEGIN ISOLATION LEVEL REPEATABLE READ"
            yield self.lock(sub)
            yield "SELECT 1"
            for _ in range(self.rnd.choice([2, 10, 30])):
                yield None
                # somebody else reads for the same client meanwhile
            others = [s for c in self.world.clients for s in c.subs if s.table is sub.table
                      and c.role == self.role and s.companies == sub.companies]
            trial = self.rnd.choice(others).clone()
            trial.reset_ok, trial.own, trial.plain = True, False, False
            trial.keeps_time = False
            ahead = trial.ahead
            if trial.cursor is None:
                yield "COMMIT"
                return
            for page in range(200):
                max_rows = self.limit() if page < 199 else None
                rows, truth = yield from self.world.engine.fetch(
                    trial, trial.since(self.rnd), max_rows=max_rows)
                truth.exact = self.world.resets == resets
                op = self.apply(trial, rows, None, max_rows, False, False, truth, now)
                if op == "up-to-date":
                    break
            if truth.exact:
                # Own writes in its copy that the snapshot does not contain are not the answer's.
                if not ahead and not any(s.own for s in others):
                    self.compare(trial, truth)
                self.world.count("answers from an old snapshot")
            yield "COMMIT"
        except psycopg2.Error as error:
            if error.pgcode == "40001":
                self.world.count("an old snapshot refused")
            else:
                self.expected(error)
            yield "ROLLBACK"

    def other_question(self, sub):
        """The cursor of one question, used for another."""
        yield from self.free()
        try:
            if sub.user is not None and self.rnd.random() < 0.3:
                sub.user = self.rnd.choice(USERS + ["9"])
            elif sub.companies is not None and self.rnd.random() < 0.4:
                yield from self.other_companies()
            else:
                sub.filter = random_filter(self.rnd, sub.table)
            sub.reset_ok, sub.plain = True, False
            self.world.count("other questions")
            if sub.keeps_time or not sub.bound or not self.world.allows("other question"):
                # A time is bound to no question, nor is current_cursor(): begin again.
                sub.cursor = sub.time = None
                sub.copy, sub.paging = {}, False
            try:
                yield from self.step(sub)
            except psycopg2.Error as error:
                self.expected(error)
        finally:
            self.release()

    def other_companies(self):
        """The setting that the policies look at: another question in all that they concern."""
        self.companies = rights.random_companies(self.rnd)
        yield rights.as_role(self.world.server.role(), self.companies)
        for sub in self.subs:
            if sub.companies is not None:
                sub.companies = self.companies
                sub.reset_ok, sub.plain = True, False
                if sub.keeps_time or not sub.bound:
                    sub.cursor = sub.time = None
                    sub.copy, sub.paging = {}, False

    def bootstrap(self, sub):
        """The rows by a plain SELECT, and the cursor from the same snapshot."""
        yield from self.free()
        try:
            now = self.world.time()
            try:
                truth, cursor = yield from self.world.engine.bootstrap(sub)
            except psycopg2.Error as error:
                self.expected(error)
                return
            sub.copy = {sub.table.key_of(data): data for data in truth.rows}
            sub.scopes, sub.known = truth.scopes, now
            sub.cursor, sub.time, sub.paging = cursor, None, False
            sub.plain = sub.bound = False
            self.world.count("began from current_cursor")
        finally:
            self.release()

    def finish(self):
        """All is quiet: the last delta, and after it none."""
        for sub in self.subs:
            sub.plain = False
            for _ in range(5000):
                try:
                    op = yield from self.step(sub)
                except psycopg2.Error as error:
                    raise Wrong("client %s: %r: error %s in the last answer: %s" % (
                        self.name, sub, error.pgcode, error.pgerror))
                if op == "up-to-date":
                    break
            else:
                self.wrong(sub, "paging without end")
            if sub.keeps_time:
                continue
            now = self.world.time()
            rows, truth = yield from self.world.engine.fetch(
                sub, sub.since(self.rnd), client=self.name if sub.own else None)
            if len(rows) != 1 and rows[0][0] != "reset":
                self.wrong(sub, "all is quiet, and yet: %r" % rows[:3])
            sub.reset_ok = True
            self.apply(sub, rows, None, None, True, False, truth, now)
            self.compare(sub, truth)
            self.world.count("quiet comparisons")
        self.finishing = True
