#!/usr/bin/python3
"""Random histories against sync_ext.

Writers run random transactions (savepoints, rollbacks, two-phase commit, long waits, key and scope
changes, TRUNCATE, DDL, cascades); clients follow them from cursor to cursor.  At every up-to-date
answer a client's copy must be what its filter selects under the very snapshot of that answer.

  check.py [--dsn DSN | --temp] [--seed N] [--runs N | --seconds N] [--steps N]
  check.py --named [NAME…]       the histories that have names
  check.py --mutant NAME         with an unsound cursor in place of the real one: has to fail
  check.py --prove-it-bites      all mutants: passes if each of them fails

Without any of these: some random runs, the named histories, and the proof, in less than a minute.
The server is found as by psql (PGHOST, …); a database sync_history is made in it, and dropped.
"""

import argparse
import faulthandler
import os
import random
import signal
import sys
import tempfile
import time
import traceback

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import psycopg2  # noqa: E402

import crash  # noqa: E402
import named  # noqa: E402
import named_rights  # noqa: E402,F401  (more of them)
from client import Client, Wrong  # noqa: E402
from engine import Extension, Model  # noqa: E402
from pg import Broken, Cluster, Scheduler, Server  # noqa: E402
from rights import ACCESS_TABLES, BY_SCOPE, random_rights  # noqa: E402
from witness import Witness  # noqa: E402
from world import BY_NAME, TABLES, Finisher, World, Writer  # noqa: E402

MUTANTS = ["timestamp", "sequence", "own-xid", "two-snapshots", "snapshot-crash"] + list(Model.FLAWS)


class Run:
    """One seed: fresh database, actors, steps, quiet end."""

    def __init__(self, server, engine, seed, args):
        self.server = server
        self.engine = engine
        self.seed = seed
        self.args = args
        self.stats = {}
        self.trace = []

    def go(self, steps):
        rnd = random.Random("%s/run" % self.seed)
        args = self.args
        names = [t.name for t in TABLES if "source" not in self.engine.without or not t.source]
        if args.tables:
            names = [n for n in args.tables.split(",") if n in names]
        else:
            drop = rnd.sample(names, len(names) - rnd.choice([2, 3, 4, 5, len(names)])
                              if len(names) > 5 else 0)
            names = [n for n in names if n not in drop]
        chosen = set(names)
        if "source" in self.engine.without:
            chosen.discard("line")
            chosen.discard("orders")
            chosen.discard("node")
            chosen = chosen or {"task"}
        elif chosen & {"line", "orders", "node"}:
            chosen |= {"line", "orders"}
            if "node" not in chosen and rnd.random() < 0.5:
                chosen.add("node")
        without = set(args.without.split(",")) if args.without else set()
        names = [t.name for t in TABLES if t.name in chosen - without]
        self.server.fresh()
        if not args.tables:
            if rnd.random() < 0.25:
                without |= {"rights"}
            elif rnd.random() < 0.4:
                # Few tables, so that grants and changes meet.
                ruled = [n for n in names if tuple(BY_NAME[n].scope) in BY_SCOPE
                         and not BY_NAME[n].source]
                names = rnd.sample(ruled, min(len(ruled), 1)) or names
                without |= {"ddl", "truncate", "reset", "attach"}
            if rnd.random() < 0.6:
                without |= {"policies"}
            # Now and then a calm run: what resets a lot hides what a delta does wrong.
            if rnd.random() < 0.4:
                without |= {"ddl", "truncate", "reset", "attach", "prune"}
            if rnd.random() < 0.2:
                without |= {"page"}
            if rnd.random() < 0.5:
                without |= {"remark"}
        self.world = world = self.make_world(rnd, names, without)
        self.engine.create(self.server, world)
        scheduler = Scheduler(self.server, self.seed)
        if world.rights or world.policies:
            world.witness = Witness(world.tables)
            scheduler.after = lambda: world.witness.observe(scheduler.monitor)
        try:
            for number in range(args.writers or rnd.choice([2, 4, 6, 8])):
                scheduler.actors.append(Writer(scheduler, world, "writer%d" % number))
            world.note = scheduler.note
            scheduler.actors.append(Finisher(scheduler, world, "finisher"))
            world.writer = Writer(scheduler, world, "borrowed")
            world.writer.session.close()
            for number in range(args.clients or rnd.choice([3, 5, 8])):
                client = Client(scheduler, world, "client%d" % number)
                world.clients.append(client)
                scheduler.actors.append(client)
            scheduler.unblock = self.finish_one
            scheduler.run(steps=steps)
            self.quiet(scheduler)
            if world.failures:
                raise Wrong(world.failures[0])
        finally:
            world.count("steps", scheduler.steps)
            world.count("lock waits", scheduler.lock_waits)
            self.stats = world.stats
            self.trace = scheduler.trace
            scheduler.close()

    def make_world(self, rnd, names, without):
        """The tables of a run, with those that say who may see them."""
        def allows(feature):
            return feature not in without and feature not in self.engine.without

        rights, policies = {}, []
        if allows("rights"):
            given = self.args.tables.split(",") if self.args.tables else None
            rights = random_rights(rnd, names, allows, given)
            bases = {base for access in rights.values() for base in access.bases}
            names = names + [t.name for t in ACCESS_TABLES if t.name in bases]
        if allows("policies") and not self.args.tables:
            policies = [t.name for t in TABLES if t.name in names and "company" in t.scope
                        and rnd.random() < 0.6]
        return World(self.server, self.engine, names, without, rights, policies)

    def finish_one(self):
        """Everybody waits, for a prepared transaction perhaps."""
        if not self.world.prepared:
            return False
        gid = next(iter(self.world.prepared))
        self.world.allow_reset(self.world.prepared.pop(gid))
        conn = self.server.sync()
        with conn.cursor() as cur:
            cur.execute("COMMIT PREPARED '%s'" % gid)
        conn.close()
        return True

    def quiet(self, scheduler):
        world = self.world
        world.stopping = True
        for client in world.clients:
            client.finishing = True

        moved = time.monotonic()

        def idle():
            nonlocal moved
            active = [a for a in scheduler.actors if a.routine is not None or a.session.pending]
            if any(not a.session.pending for a in active):
                moved = time.monotonic()
            elif active and time.monotonic() - moved > 0.3:
                self.finish_one()
                moved = time.monotonic()
            return not active

        scheduler.run(done=idle, until=time.monotonic() + 30)
        if not idle():
            raise Broken("the histories do not come to an end: %s" % ", ".join(
                "%s %s" % (a.name, "waits" if a.session.pending else "goes on")
                for a in scheduler.actors if a.routine is not None or a.session.pending))
        while world.prepared:
            self.finish_one()
        world.allow_reset(())
        for client in world.clients:
            client.finishing = False
        scheduler.run(done=lambda: all(c.finishing and c.routine is None for c in world.clients))


def report(run, error):
    lines = error.split("\n")
    if len(lines) > 20 and not run.args.verbose:
        lines[20:] = ["(%d lines more)" % (len(lines) - 20)]
    if run.args.verbose and isinstance(run.engine, Extension):
        dump(run.server)
    print("# seed %s FAILED: %s" % (run.seed, "\n#   ".join(lines)))
    if run.args.trace:
        for step, who, what, outcome in run.trace:
            if run.args.trace is True or who in run.args.trace or run.args.trace in what:
                print("#   %5d %-8s %s%s" % (step, who, what, outcome and "  -- " + outcome))
    else:
        path = os.path.join(tempfile.gettempdir(), "sync_history_%s.trace" % run.seed)
        with open(path, "w") as f:
            for step, who, what, outcome in run.trace:
                f.write("%5d %-8s %s%s\n" % (step, who, what, outcome and "  -- " + outcome))
        print("# what happened: %s" % path)
        print("# again: check.py --seed %s --runs 1 --steps %d --trace" % (run.seed, run.args.steps))
    sys.stdout.flush()


def dump(server):
    """What the extension knows, beside a failure."""
    conn = server.sync()
    with conn.cursor() as cur:
        for name in ("reset_marker", "tick", "change_log"):
            cur.execute("SELECT * FROM sync.%s t ORDER BY t" % name)
            for row in cur.fetchall():
                print("# sync.%s: %s" % (name, ", ".join(str(v) for v in row)))
        cur.execute("SELECT 'sync.' || relname FROM pg_class WHERE relkind = 'r'"
                    " AND relnamespace = 'sync'::regnamespace AND relname ~ '^log_[0-9]+$'")
        for (name,) in cur.fetchall():
            cur.execute("SELECT * FROM %s t ORDER BY xid, seq" % name)
            for row in cur.fetchall():
                print("# %s: %s" % (name, ", ".join(str(v) for v in row)))
    conn.close()


class Tally:
    def __init__(self):
        self.passed = self.failed = 0
        self.stats = {}

    def note(self, good, what):
        if good:
            self.passed += 1
        else:
            self.failed += 1
        print("%s - %s" % ("ok" if good else "not ok", what))
        sys.stdout.flush()

    def add(self, stats):
        for name, value in stats.items():
            self.stats[name] = self.stats.get(name, 0) + value


def one(server, engine, seed, args):
    """Runs one seed; gives the error, or None."""
    run = Run(server, engine, seed, args)
    try:
        run.go(args.steps)
        error = None
    except Wrong as wrong:
        error = str(wrong)
    except (Broken, psycopg2.OperationalError, psycopg2.InterfaceError) as broken:
        error = "broken: %s" % broken
        time.sleep(1)
        for _ in range(30):
            try:
                server.reconnect()
                break
            except psycopg2.OperationalError:
                time.sleep(1)
    except psycopg2.Error as other:
        error = "unexpected error %s: %s\n%s" % (
            other.pgcode, other.pgerror, traceback.format_exc())
    return run, error


def enough(stats, runs):
    """A run in which nothing happened proves nothing."""
    wanted = {"comparisons": 20, "deltas": 5, "upserts": 20, "removes": 4, "rows compared": 50,
              "rolled back": 1, "committed": 15, "comparisons for a user": 5}
    return ["%s: %d in %d runs" % (name, stats.get(name, 0), runs)
            for name, least in wanted.items() if stats.get(name, 0) < least * runs]


def random_runs(server, args, tally):
    engine = Extension()
    seeds = random.Random(args.seed)
    until = time.monotonic() + args.seconds if args.seconds else None
    done = 0
    while until is None or time.monotonic() < until:
        if args.runs is not None and done >= args.runs:
            break
        seed = args.seed if done == 0 else seeds.randrange(1 << 31)
        run, error = one(server, engine, seed, args)
        done += 1
        tally.add(run.stats)
        tally.note(error is None, "random history, seed %s, %d steps, %d comparisons, %d deltas" % (
            seed, run.stats.get("steps", 0), run.stats.get("comparisons", 0),
            run.stats.get("deltas", 0)))
        if error is not None:
            report(run, error)
            if not args.keep_going:
                break
    print("# " + ", ".join("%s: %d" % item for item in sorted(tally.stats.items())))
    # A few short runs may be unlucky, on a slow machine; more of them together may not.
    if done >= 5 and not args.tables and not args.without and args.steps >= 500:
        lack = enough(tally.stats, done)
        for line in lack:
            print("# too little happened: " + line)
        tally.note(not lack, "the histories had enough in them")


def mutant(server, args, name, tries=60):
    """The error that the checker finds with this cursor, or None."""
    if name == "snapshot-crash":
        return crash.mutant()
    rnd = random.Random("%s/%s" % (args.seed, name))
    tables, engine = "note,task", Model(name)
    if name in Model.FLAWS:
        tables, engine = "task,doc,seat,permit", Model("snapshot", name)
    args = argparse.Namespace(**dict(vars(args), tables=tables, without="truncate,ddl", steps=2500,
                                     writers=6, clients=5))
    for _ in range(tries):
        run, error = one(server, engine, rnd.randrange(1 << 31), args)
        if error is not None:
            return error
    return None


def bites(server, args, tally):
    # the control: on the tables of the flaws, without any
    run, error = one(server, Model("snapshot"), args.seed,
                     argparse.Namespace(**dict(vars(args), tables="note,task,doc,seat,permit",
                                               without="truncate,ddl")))
    if error is not None:
        report(run, error)
    tally.note(error is None, "the stand-in with a sound cursor passes")
    for name in MUTANTS:
        error = mutant(server, args, name)
        says = Model.FLAWS.get(name, "the copy differs")
        # which complaint comes first is chance; that one comes is not
        caught = error is not None
        tally.note(caught, "%s is caught: %s" % (
            "the flaw \"%s\"" % name if name in Model.FLAWS else "the unsound cursor " + name, says))
        if args.verbose or not caught:
            print("# " + str(error).replace("\n", "\n# "))


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dsn", default="dbname=postgres" if "PGDATABASE" not in os.environ else "")
    parser.add_argument("--database", default=Server.DATABASE, help="another name for it, where"
                        " several checkers share a server")
    parser.add_argument("--temp", action="store_true", help="start a private cluster")
    parser.add_argument("--keep", action="store_true", help="keep the private cluster's files")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--runs", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--writers", type=int)
    parser.add_argument("--clients", type=int)
    parser.add_argument("--tables", help="only these, separated by commas")
    parser.add_argument("--without", help="without these tables and features: ddl,truncate,2pc,savepoint,own,"
                        "page,exclude,time,pull,replica,prune,touch,reset,merge,copy,attach,…")
    parser.add_argument("--keep-going", action="store_true", help="go on after a failing seed")
    parser.add_argument("--trace", nargs="?", const=True, help="print what happened, or only what"
                        " mentions this word")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--named", nargs="*", metavar="NAME")
    parser.add_argument("--mutant", choices=["snapshot"] + MUTANTS)
    parser.add_argument("--prove-it-bites", action="store_true")
    args = parser.parse_args()
    Server.DATABASE = args.database
    faulthandler.register(signal.SIGUSR1)
    if args.seed is None:
        args.seed = random.SystemRandom().randrange(1 << 31)
    print("# seed %d" % args.seed)

    cluster = None
    tally = Tally()
    try:
        if args.temp:
            cluster = Cluster(["fsync = off", "full_page_writes = off"], keep=args.keep)
            args.dsn = cluster.dsn()
        server = Server(args.dsn)
        if args.mutant:
            error = mutant(server, args, args.mutant)
            tally.note(error is None, "with the cursor %s" % args.mutant)
            if error is not None:
                print("# " + error.replace("\n", "\n# "))
        elif args.prove_it_bites:
            bites(server, args, tally)
        elif args.named is not None:
            named.run(server, args, tally)
        elif args.runs is not None or args.seconds is not None:
            random_runs(server, args, tally)
        else:
            args.seconds = 12
            random_runs(server, args, tally)
            named.run(server, args, tally)
            if os.geteuid() != 0:
                error = crash.extension()
                tally.note(error is None, "cursors survive crashes")
                if error is not None:
                    print("# " + error.replace("\n", "\n# "))
            bites(server, args, tally)
        server.drop()
    finally:
        if cluster is not None:
            cluster.close()
    print("%d passed, %d failed" % (tally.passed, tally.failed))
    return 1 if tally.failed or not tally.passed else 0


if __name__ == "__main__":
    sys.exit(main())
