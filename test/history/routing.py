#!/usr/bin/env python3
"""Random histories against a brute-force oracle of sync.affected().

Writers change rows and memberships in concurrent transactions, clients connect, subscribe and go,
and application servers ask who must hear of it. Triggers leave a trail of every event in a plain
table, in the same transaction: so what a snapshot sees of the trail is exactly what has happened in
it, and the oracle needs neither log nor cursor. At each answer, in the same snapshot,

  - the clients named must be those that the rules below give from the events that are new, no more
    and no fewer;
  - no client that was not named may see other rows than at its server's answer before, unless the
    difference is its own doing.

Who may be named without getting anything: clients of users who were let in or out (the scope may be
empty, or they have it by another row), in whose scope a row came and went again, all subscribers after
a reset or where a table below an access view changed, and new clients and subscriptions.

  routing.py [--dsn DSN | --temp] [--seed N] [--runs N] [--seconds N] [--steps N] [--prove-it-bites]
"""

import argparse
import os
import random
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import psycopg2  # noqa: E402

from pg import Actor, Broken, Cluster, Scheduler, Server, quote  # noqa: E402

# domain: (scope column, autosubscribe, access relation)
DOMAINS = {
    "doc": ("company_id", False, "member"),
    "sheet": ("company_id", True, "member"),
    "task": ("team", False, "boss_view"),
    "note": ("owner", False, None),
    "news": (None, True, None),
    "member": (None, False, None),
    "team": (None, False, None),
}
USERS = ["ann", "bob", "cyd", "dan", "eve"]
CLIENTS = ["%s%d" % (user, i) for user in USERS for i in (1, 2)]
SERVERS = ["web1", "web2"]
SCOPES = [1, 2, 3]

SETUP = """
CREATE TABLE doc (id int PRIMARY KEY, company_id int, body int);
CREATE TABLE sheet (id int PRIMARY KEY, company_id int, body int);
CREATE TABLE task (id int PRIMARY KEY, team int, body int);
CREATE TABLE note (id int PRIMARY KEY, owner int, body int);
CREATE TABLE news (id int PRIMARY KEY, body int);
CREATE TABLE member (user_id text, company_id int, body int, PRIMARY KEY (user_id, company_id));
CREATE INDEX ON member (company_id, user_id);
CREATE TABLE team (id int PRIMARY KEY, boss text, body int);
CREATE VIEW boss_view AS SELECT id AS team, boss AS user_id FROM team;
SELECT sync.track('doc', scope => '{company_id}'), sync.track('sheet', scope => '{company_id}', autosubscribe => true),
       sync.track('task', scope => '{team}'), sync.track('note', scope => '{owner}'),
       sync.track('news', autosubscribe => true), sync.track('member', scope => '{user_id,company_id}'), sync.track('team');
SELECT sync.set_access('doc', 'member'), sync.set_access('sheet', 'member'), sync.set_access('task', 'boss_view');

CREATE TABLE trail (id bigserial PRIMARY KEY, what text, domain text, old jsonb, new jsonb, author text, moved bool);

-- "moved": the author cannot know what became of it
CREATE FUNCTION leave_trail() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS $$
DECLARE
    was jsonb; is_ jsonb; scope text := TG_ARGV[0];
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        INSERT INTO trail (what, domain) VALUES ('reset', TG_TABLE_NAME);
        RETURN NULL;
    END IF;
    IF TG_OP <> 'INSERT' THEN was := to_jsonb(OLD); END IF;
    IF TG_OP <> 'DELETE' THEN is_ := to_jsonb(NEW); END IF;
    IF was IS NOT DISTINCT FROM is_ THEN RETURN NULL; END IF;
    INSERT INTO trail (what, domain, old, new, author, moved)
    VALUES ('change', TG_TABLE_NAME, was, is_, nullif(current_setting('sync.client', true), ''),
            TG_OP = 'UPDATE' AND (was -> 'id' IS DISTINCT FROM is_ -> 'id' OR was -> scope IS DISTINCT FROM is_ -> scope));
    RETURN NULL;
END $$;
CREATE FUNCTION leave_client_trail() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS $$
BEGIN
    INSERT INTO trail (what, old) VALUES (TG_TABLE_NAME, to_jsonb(NEW));
    RETURN NULL;
END $$;
CREATE TRIGGER trail AFTER INSERT ON sync.client FOR EACH ROW EXECUTE FUNCTION leave_client_trail();
CREATE TRIGGER trail_again AFTER UPDATE ON sync.client FOR EACH ROW WHEN (OLD.xid <> NEW.xid OR OLD.connected_at <> NEW.connected_at)
    EXECUTE FUNCTION leave_client_trail();
CREATE TRIGGER trail AFTER INSERT ON sync.subscription FOR EACH ROW EXECUTE FUNCTION leave_client_trail();
"""


def prepare(server):
    server.fresh()
    conn = server.sync()
    with conn.cursor() as cur:
        cur.execute("CREATE EXTENSION sync_ext")
        cur.execute(SETUP)
        for domain, (scope, _, _) in DOMAINS.items():
            cur.execute("CREATE TRIGGER trail AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW"
                        " EXECUTE FUNCTION leave_trail(%s)"
                        % (domain, "company_id" if domain == "member" else scope or "id"))
            cur.execute("CREATE TRIGGER trail_truncate AFTER TRUNCATE ON %s FOR EACH STATEMENT"
                        " EXECUTE FUNCTION leave_trail()" % domain)
        for user in USERS:
            for scope in SCOPES:
                if (len(user) + ord(user[0]) + scope) % 3:
                    cur.execute("INSERT INTO member VALUES (%s, %s, 0)", (user, scope))
        for scope in SCOPES:
            cur.execute("INSERT INTO team VALUES (%s, %s, 0)", (scope, USERS[scope]))
        for name in SERVERS:
            cur.execute("SELECT sync.heartbeat(%s)", (name,))
    conn.close()


class Writer(Actor):
    """Transactions of a few statements, some with savepoints, some prepared."""

    serial = 0

    def next(self):
        return self.transaction()

    def statement(self):
        rnd = self.rnd
        domain = rnd.choice(["doc"] * 4 + ["sheet", "task", "note", "note", "news", "member", "member", "team"])
        Writer.serial += 1
        body = Writer.serial
        if domain == "member":
            user, scope = rnd.choice(USERS), rnd.choice(SCOPES)
            where = "user_id = '%s' AND company_id = %d" % (user, scope)
            return rnd.choice([
                "INSERT INTO member VALUES ('%s', %d, %d) ON CONFLICT DO NOTHING" % (user, scope, body),
                "DELETE FROM member WHERE " + where,
                "UPDATE member SET body = %d WHERE %s" % (body, where),
                "UPDATE member SET company_id = %d WHERE %s" % (rnd.choice(SCOPES), where)])
        if domain == "team":
            return rnd.choice([
                "UPDATE team SET boss = '%s' WHERE id = %d" % (rnd.choice(USERS), rnd.choice(SCOPES)),
                "UPDATE team SET body = %d WHERE id = %d" % (body, rnd.choice(SCOPES))])
        scope = DOMAINS[domain][0]
        key = rnd.randrange(8)
        value = rnd.choice(SCOPES * 3 + ["NULL"])
        columns = ("id, body" if scope is None else "id, body, %s" % scope)
        values = ("%d, %d" % (key, body) if scope is None else "%d, %d, %s" % (key, body, value))
        choices = ["INSERT INTO %s (%s) VALUES (%s) ON CONFLICT DO NOTHING" % (domain, columns, values)] * 2
        choices += ["UPDATE %s SET body = %d WHERE id = %d" % (domain, body, key)] * 3
        choices += ["DELETE FROM %s WHERE id = %d" % (domain, key)]
        choices += ["UPDATE %s SET id = id WHERE id = %d" % (domain, key)]
        choices += ["UPDATE %s SET id = id + 100 WHERE id = %d AND NOT EXISTS (SELECT FROM %s WHERE id = %d)"
                    % (domain, key, domain, key + 100)]
        if scope is not None:
            choices += ["UPDATE %s SET %s = %s WHERE id = %d" % (domain, scope, value, key)] * 2
            choices += ["UPDATE %s SET body = %d WHERE %s = %s" % (domain, body, scope, rnd.choice(SCOPES))]
        if rnd.random() < 0.02:
            return "TRUNCATE %s" % domain
        if rnd.random() < 0.01:
            return "SELECT sync.reset('%s') FROM (INSERT_TRAIL %s) x" % (domain, domain)
        return rnd.choice(choices)

    def transaction(self):
        rnd = self.rnd
        gid = "%s-%d" % (self.name, self.scheduler.steps)
        try:
            yield "BEGIN"
            author = rnd.choice(CLIENTS)
            if rnd.random() < 0.6:
                yield "SELECT set_config('sync.client', '%s', true)" % author
            for _ in range(rnd.choice([1, 1, 1, 2, 3, 5])):
                sql = self.statement()
                if rnd.random() < 0.15:
                    yield "SAVEPOINT s"
                    yield sql if "INSERT_TRAIL" not in sql else "SELECT 1"
                    if rnd.random() < 0.5:
                        yield "ROLLBACK TO s"
                    continue
                if "INSERT_TRAIL" in sql:
                    domain = sql.split("INSERT_TRAIL ")[1].split(")")[0]
                    yield "SELECT sync.reset('%s')" % domain
                    yield "INSERT INTO trail (what, domain) VALUES ('reset', '%s')" % domain
                    continue
                if rnd.random() < 0.1:
                    yield "SELECT set_config('sync.client', '%s', true)" % rnd.choice(CLIENTS + [""])
                yield sql
            if rnd.random() < 0.1:
                yield "ROLLBACK"
            elif rnd.random() < 0.08 and self.scheduler.server.two_phase:
                yield "PREPARE TRANSACTION '%s'" % gid
                for _ in range(rnd.randrange(20)):
                    yield None
                yield "%s PREPARED '%s'" % (rnd.choice(["COMMIT", "COMMIT", "ROLLBACK"]), gid)
            else:
                yield "COMMIT"
        except psycopg2.Error:
            yield "ROLLBACK"


class Connector(Actor):
    """Clients come, subscribe, and go; sometimes in a transaction that takes its time."""

    def next(self):
        return self.transaction()

    def statement(self):
        rnd = self.rnd
        client = rnd.choice(CLIENTS)
        domain = rnd.choice(["doc", "doc", "sheet", "task", "note", "news", "member", "team"])
        scope = DOMAINS[domain][0]
        value = "NULL" if scope is None or rnd.random() < 0.4 else "'{\"%s\": %d}'" % (scope, rnd.choice(SCOPES))
        what = rnd.random()
        if what < 0.3:
            domains = rnd.choice(["NULL", "'{doc,note}'", "'{doc,task,news}'", "'{}'", "'{member,team}'"])
            return "SELECT sync.connect('%s', '%s', '%s', %s)" % (client, client[:3], rnd.choice(SERVERS), domains)
        if what < 0.4:
            return "SELECT sync.disconnect('%s')" % client
        if what < 0.85:
            return "SELECT sync.subscribe('%s', '%s', %s)" % (client, domain, value)
        return "SELECT sync.unsubscribe('%s', '%s', %s)" % (client, domain, value)

    def transaction(self):
        try:
            yield "BEGIN"
            for _ in range(self.rnd.choice([1, 1, 2])):
                yield self.statement()
            yield self.rnd.choice(["COMMIT"] * 9 + ["ROLLBACK"])
        except psycopg2.Error:
            yield "ROLLBACK"
        for _ in range(self.rnd.randrange(10)):
            yield None


class Wrong(Exception):
    pass


class State:
    """What one snapshot holds, read by plain SQL."""

    def __init__(self):
        self.trail = {}
        self.clients = {}       # client: (user, server)
        self.subscriptions = set()  # (client, domain, scope value or None)
        self.rights = {"member": set(), "boss_view": set()}  # (scope, user)
        self.rows = {}          # domain: {id: row}


STATE = [
    ("trail", "SELECT id, what, domain, old, new, author, moved FROM trail"),
    ("clients", "SELECT client, user_id, server FROM sync.client"),
    ("subscriptions", "SELECT client, domain, scope FROM sync.subscription"),
    ("member", "SELECT company_id, user_id FROM member"),
    ("boss_view", "SELECT team, user_id FROM boss_view"),
] + [("rows " + domain, "SELECT coalesce(to_jsonb(t) ->> 'id', ''), to_jsonb(t) FROM %s t" % domain)
     for domain in ("doc", "sheet", "task", "note", "news")]


class Asker(Actor):
    """An application server. It keeps the cursor of each answer, and what its snapshot held."""

    def __init__(self, scheduler, name, flaw=None):
        super().__init__(scheduler, name, weight=2)
        self.kept = None        # (cursor, State)
        self.older = None
        self.flaw = flaw
        self.answers = 0
        self.named = 0
        self.idle = 0
        self.refused = 0
        self.others = []

    def next(self):
        return self.ask()

    def ask(self):
        for _ in range(self.rnd.randrange(6)):
            yield None
        old = self.kept
        if self.older is not None and self.rnd.random() < 0.1:
            old = self.older
        yield "BEGIN ISOLATION LEVEL REPEATABLE READ"
        # no snapshot yet; one does not protect from TRUNCATE, though
        try:
            yield "LOCK TABLE %s IN ACCESS SHARE MODE" % ", ".join(sorted(DOMAINS))
        except psycopg2.Error:
            yield "ROLLBACK"
            return
        rows = yield "SELECT client, user_id, domain, cursor FROM sync.affected(%s, '%s')" % (
            "NULL" if old is None else quote(old[0]), self.name)
        state = State()
        for name, sql in STATE:
            got = yield sql
            self.fill(state, name, got)
        yield from self.ask_too_early(state)
        yield "COMMIT"
        cursor = rows[-1][3]
        if self.flaw == "late":
            cursor = (yield "SELECT sync.current_cursor()")[0][0]
        self.check(rows, None if old is None else old[1], state)
        self.older, self.kept = self.kept, (cursor, state)

    def ask_too_early(self, state):
        """A cursor that has seen more than this snapshot gets no answer."""
        for other in self.others:
            if other.kept is None or not other.kept[1].trail.keys() - state.trail.keys():
                continue
            yield "SAVEPOINT early"
            try:
                yield "SELECT count(*) FROM sync.affected(%s, '%s')" % (quote(other.kept[0]), self.name)
            except psycopg2.Error as error:
                if error.pgcode != "40001":
                    raise
                self.refused += 1
                yield "ROLLBACK TO early"
                continue
            raise Wrong("%s got an answer from a snapshot that is older than its cursor" % self.name)

    @staticmethod
    def fill(state, name, rows):
        if name == "trail":
            state.trail = {row[0]: row[1:] for row in rows}
        elif name == "clients":
            state.clients = {row[0]: row[1:] for row in rows}
        elif name == "subscriptions":
            state.subscriptions = {(c, d, None if s is None else list(s.values())[0]) for c, d, s in rows}
        elif name in state.rights:
            state.rights[name] = set(rows)
        else:
            state.rows[name.split()[1]] = dict(rows)

    def check(self, rows, before, now):
        if [row[0] is None for row in rows] != [False] * (len(rows) - 1) + [True] or rows[-1][3] is None:
            raise Wrong("the answer does not end with a cursor: %s" % rows)
        named = {(row[0], row[2]) for row in rows[:-1]}
        if len(named) != len(rows) - 1:
            raise Wrong("named twice: %s" % rows)
        for client, user, _, _ in rows[:-1]:
            if now.clients.get(client) != (user, self.name):
                raise Wrong("%s of %s is not connected to %s" % (client, user, self.name))
        expected = everybody(now) if before is None else concerned(before, now)
        expected = {(c, d) for c, d in expected if now.clients[c][1] == self.name}
        if named != expected:
            raise Wrong("%s: missed %s, woken for nothing %s" % (
                self.name, sorted(expected - named), sorted(named - expected)))
        if before is not None:
            self.check_rows(named, before, now)
        self.answers += 1
        self.named += len(named)
        self.idle += not named

    def check_rows(self, named, before, now):
        """Who was not named sees what was seen before, but for its own changes."""
        new = [event for key, event in now.trail.items() if key not in before.trail and event[0] == "change"]
        for client, (user, server) in now.clients.items():
            if server != self.name or client not in before.clients:
                continue
            for domain in now.rows:
                if (client, domain) in named or not subscribed(before, client, domain) or not subscribed(now, client, domain):
                    continue
                was, is_ = visible(before, user, domain), visible(now, user, domain)
                differ = {key for key in was.keys() | is_.keys() if was.get(key) != is_.get(key)}
                for event in new:
                    if event[1] == domain and event[4] == client:
                        differ -= {str(row["id"]) for row in event[2:4] if row is not None}
                if differ:
                    raise Wrong("%s was not told that %s %s changed" % (client, domain, sorted(differ)))


def subscribed(state, client, domain):
    return DOMAINS[domain][1] or (client, domain, None) in state.subscriptions


def visible(state, user, domain):
    scope, _, via = DOMAINS[domain]
    if via is None:
        return state.rows[domain]
    return {key: row for key, row in state.rows[domain].items() if (row[scope], user) in state.rights[via]}


def everybody(now):
    return ({(c, d) for c, d, _ in now.subscriptions if c in now.clients}
            | {(c, d) for c in now.clients for d in DOMAINS if DOMAINS[d][1]})


def subscribers(now, domain):
    return {c for c, d in everybody(now) if d == domain}


def wants(now, client, domain, scopes):
    """Does it want to hear of one of these scopes?"""
    return subscribed(now, client, domain) or any((client, domain, s) in now.subscriptions for s in scopes)


def concerned(before, now):
    new = [event for key, event in now.trail.items() if key not in before.trail]
    found = set()
    changes = {}        # domain: [(scopes, author or None)]
    grants = {}         # domain: {(scope, user)}
    for what, domain, old, is_, author, moved in new:
        if what == "client" and old["client"] in now.clients:
            found |= {(c, d) for c, d in everybody(now) if c == old["client"]}
        elif what == "subscription":
            scope = None if old["scope"] is None else list(old["scope"].values())[0]
            # the same client may have unsubscribed and subscribed again, to another scope
            if (old["client"], old["domain"], scope) in now.subscriptions:
                found.add((old["client"], old["domain"]))
        elif what == "reset":
            ruled = [d for d, (_, _, via) in DOMAINS.items()
                     if d == domain or via == domain or (via == "boss_view" and domain == "team")]
            found |= {(c, d) for d in ruled for c in subscribers(now, d)}
        elif what == "change":
            scope = DOMAINS[domain][0]
            sides = [row for row in (old, is_) if row is not None]
            scopes = {row[scope] for row in sides if row[scope] is not None} if scope else set()
            changes.setdefault(domain, []).append((scopes, None if moved else author))
            if domain == "team":
                found |= {(c, "task") for c in subscribers(now, "task")}
            if domain == "member" and (moved or len(sides) == 1):
                for ruled in ("doc", "sheet"):
                    grants.setdefault(ruled, set()).update((row["company_id"], row["user_id"]) for row in sides)
    for domain, entries in changes.items():
        via = DOMAINS[domain][2]
        for client, (user, _) in now.clients.items():
            mine = [(scopes if via is None else {s for s in scopes if (s, user) in now.rights[via]}, author)
                    for scopes, author in entries]
            whole = subscribed(now, client, domain)
            authors = {author for scopes, author in mine
                       if (whole and (via is None or scopes))
                       or any((client, domain, s) in now.subscriptions for s in scopes)}
            if authors and authors != {client}:
                found.add((client, domain))
    for domain, given in grants.items():
        for client, (user, _) in now.clients.items():
            scopes = {s for s, u in given if u == user}
            if scopes and wants(now, client, domain, scopes):
                found.add((client, domain))
    return {(c, d) for c, d in found if c in now.clients}


def one(server, seed, args, flaw=None):
    """Runs a history. Returns what is wrong, or None, and the askers."""
    prepare(server)
    scheduler = Scheduler(server, seed)
    askers = [Asker(scheduler, name, flaw) for name in SERVERS]
    for asker in askers:
        asker.others = [other for other in askers if other is not asker]
    scheduler.actors = ([Writer(scheduler, "writer%d" % i) for i in range(args.writers)]
                        + [Connector(scheduler, "connector%d" % i) for i in range(2)] + askers)
    try:
        scheduler.run(steps=args.steps)
        return None, askers
    except (Wrong, Broken, psycopg2.Error) as error:
        if args.trace:
            for step, who, what, outcome in scheduler.trace[-args.trace:]:
                print("# %5d %-10s %s %s" % (step, who, what, outcome))
        return error, askers
    finally:
        scheduler.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dsn", default="dbname=postgres" if "PGDATABASE" not in os.environ else "")
    parser.add_argument("--database", default="sync_routing")
    parser.add_argument("--temp", action="store_true", help="start a private cluster")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--runs", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument("--trace", type=int, nargs="?", const=100000, help="print the last steps of a history that fails")
    parser.add_argument("--prove-it-bites", action="store_true", help="a server that takes its cursor a moment"
                        " after the answer must be caught")
    args = parser.parse_args()
    Server.DATABASE = args.database
    seed = random.randrange(1 << 31) if args.seed is None else args.seed
    cluster = Cluster() if args.temp else None
    server = Server(cluster.dsn() if cluster else args.dsn)
    passed = failed = 0
    try:
        if args.prove_it_bites:
            caught = any(isinstance(one(server, seed + i, args, "late")[0], Wrong) for i in range(10))
            print("%s - a cursor that is taken late is caught" % ("ok" if caught else "not ok"))
            passed, failed = int(caught), int(not caught)
        runs = answers = named = idle = refused = 0
        end = None if args.seconds is None else time.monotonic() + args.seconds
        while not failed and (args.runs is None or runs < args.runs) and (end is None or time.monotonic() < end):
            if end is None and args.runs is None and runs == 1:
                break
            error, askers = one(server, seed + runs, args)
            runs += 1
            answers += sum(a.answers for a in askers)
            named += sum(a.named for a in askers)
            idle += sum(a.idle for a in askers)
            refused += sum(a.refused for a in askers)
            if error is not None:
                print("not ok - routing, seed %d: %s" % (seed + runs - 1, error))
                print("# again: routing.py --seed %d --steps %d --trace 200" % (seed + runs - 1, args.steps))
                failed += 1
        if not failed:
            passed += 1
            print("ok - routing, %d histories from seed %d: %d answers, %d times a client named, %d answers that named nobody,"
                  " %d refused" % (runs, seed, answers, named, idle, refused))
        server.drop()
    finally:
        if cluster:
            cluster.close()
    print("%d passed, %d failed" % (passed, failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
