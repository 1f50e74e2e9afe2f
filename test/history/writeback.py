#!/usr/bin/python3
"""Random histories of clients that work offline and come home, among writers on the server.

They push, reconcile and run sync sessions; their answers get lost, their connections break, and they
send everything again. At the end all copies are equal to the database, and the trail of all changes
says that every mutation was applied once, or refused with a reason, or merged as its policy says.

  writeback.py [--dsn DSN | --temp] [--seed N] [--runs N | --seconds N] [--steps N]
  writeback.py --flaw NAME        with a broken server or client: has to fail
  writeback.py --prove-it-bites   all of them: passes if each of them fails

Without any of these: some random runs and two flaws, in half a minute. The server is found as by psql
(PGHOST, ...); a database sync_writeback is made in it, and dropped.
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

from pg import Broken, Cluster, Scheduler, Server  # noqa: E402
from writeback_client import Client, Wrong  # noqa: E402
from writeback_flaws import FLAWS, QUICK, install  # noqa: E402
from writeback_judge import Judge  # noqa: E402
from writeback_world import Janitor, World, Writer, prepare  # noqa: E402


class Run:
    def __init__(self, server, seed, flaw=None):
        self.server = server
        self.seed = seed
        self.flaw = flaw
        self.stats = {}
        self.trace = []

    def go(self, steps):
        rnd = random.Random(self.seed)
        world = World(self.server, self.flaw)
        world.denied = prepare(self.server, rnd)
        if self.flaw:
            install(self.server, self.flaw)
        scheduler = Scheduler(self.server, self.seed)
        world.note = scheduler.note
        self.stats, self.trace = world.stats, scheduler.trace
        try:
            for number in range(rnd.choice([1, 2, 4])):
                scheduler.actors.append(Writer(scheduler, world, "writer%d" % number))
            scheduler.actors.append(Janitor(scheduler, world, "janitor"))
            for number in range(rnd.choice([2, 3, 5])):
                client = Client(scheduler, world, "client%d" % number)
                world.clients.append(client)
                scheduler.actors.append(client)
            scheduler.after = lambda: self.cut(scheduler, world)
            scheduler.run(steps=steps)
            self.come_home(scheduler, world)
            self.judge(world)
        finally:
            world.count("steps", scheduler.steps)
            world.count("lock waits", scheduler.lock_waits)
            scheduler.close()

    @staticmethod
    def cut(scheduler, world):
        for client in world.clients:
            if client.fragile and client.session.pending and client.rnd.random() < 0.03:
                client.cut()

    def come_home(self, scheduler, world):
        world.stopping = True
        others = [a for a in scheduler.actors if not isinstance(a, Client)]

        def idle():
            return not any(a.routine is not None or a.session.pending for a in scheduler.actors)

        scheduler.run(done=idle, until=time.monotonic() + 30)
        if not idle():
            raise Broken("the histories do not come to an end: %s" % ", ".join(
                a.name for a in scheduler.actors if a.routine is not None or a.session.pending))
        scheduler.actors = world.clients
        for client in world.clients:
            client.finishing = True
        scheduler.run(done=lambda: all(c.finished and c.routine is None for c in world.clients),
                      until=time.monotonic() + 60)
        if not all(c.finished for c in world.clients):
            raise Broken("the clients do not come home")
        # what the last one pushed
        for client in world.clients:
            client.finished = False
        scheduler.run(done=lambda: all(c.finished and c.routine is None for c in world.clients),
                      until=time.monotonic() + 60)
        scheduler.actors = others + world.clients
        for client in world.clients:
            routine = client.truths()
            sql = next(routine)
            while True:
                try:
                    sql = routine.send(client.session.sql(sql))
                except StopIteration as done:
                    client.compare(done.value, "at the end")
                    client.fingerprint()
                    break

    def judge(self, world):
        conn = self.server.sync()
        try:
            Judge(world, conn).judge()
        finally:
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


def one(server, seed, args, flaw=None):
    """Runs one seed; gives the run, and what was wrong with it or None."""
    run = Run(server, seed, flaw)
    try:
        run.go(args.steps)
        return run, None
    except Wrong as wrong:
        return run, str(wrong)
    except (Broken, psycopg2.OperationalError, psycopg2.InterfaceError) as broken:
        time.sleep(1)
        for _ in range(30):
            try:
                server.reconnect()
                break
            except psycopg2.OperationalError:
                time.sleep(1)
        return run, "broken: %s%s" % (broken, "" if isinstance(broken, Broken) else traceback.format_exc())
    except psycopg2.Error as other:
        return run, "unexpected error %s: %s\n%s" % (other.pgcode, other.pgerror, traceback.format_exc())


def report(run, error, args):
    print("# seed %s FAILED: %s" % (run.seed, error.replace("\n", "\n#   ")))
    lines = ["%5d %-8s %s%s" % (step, who, what, outcome and "  -- " + outcome)
             for step, who, what, outcome in run.trace]
    if args.trace:
        for line in lines:
            if args.trace is True or args.trace in line:
                print("#   " + line)
    path = os.path.join(tempfile.gettempdir(), "sync_writeback_%s.trace" % run.seed)
    with open(path, "w") as f:
        f.write("\n".join(lines) + "\n")
    print("# what happened: %s" % path)
    print("# again: writeback.py --seed %s --runs 1 --steps %d" % (run.seed, args.steps))
    sys.stdout.flush()


def enough(stats, runs):
    """A run in which nothing happened proves nothing."""
    wanted = {"pushes": 5, "applied": 10, "conflict": 1, "duplicate": 0.5, "rejected": 0.5, "pulls": 5,
              "answers lost": 1, "sessions ended": 0.2, "reconciled": 0.3, "comparisons": 2,
              "writers' transactions": 4}
    return ["%s: %d in %d runs" % (name, stats.get(name, 0), runs)
            for name, least in wanted.items() if stats.get(name, 0) < least * runs]


def random_runs(server, args, tally):
    seeds = random.Random(args.seed)
    until = time.monotonic() + args.seconds if args.seconds else None
    done = 0
    while until is None or time.monotonic() < until:
        if args.runs is not None and done >= args.runs:
            break
        seed = args.seed if done == 0 else seeds.randrange(1 << 31)
        run, error = one(server, seed, args)
        done += 1
        for name, value in run.stats.items():
            tally.stats[name] = tally.stats.get(name, 0) + value
        tally.note(error is None, "clients come home, seed %s: %d applied, %d duplicates, %d conflicts" % (
            seed, run.stats.get("applied", 0), run.stats.get("duplicate", 0), run.stats.get("conflict", 0)))
        if error is not None:
            report(run, error, args)
            if not args.keep_going:
                break
    print("# " + ", ".join("%s: %d" % item for item in sorted(tally.stats.items())))
    if done >= 3 and args.steps >= 600:
        lack = enough(tally.stats, done)
        for line in lack:
            print("# too little happened: " + line)
        tally.note(not lack, "the histories had enough in them")


def bites(server, args, tally, flaws):
    for flaw in flaws:
        rnd = random.Random("%s/%s" % (args.seed, flaw))
        for _ in range(25):
            run, error = one(server, rnd.randrange(1 << 31), args, flaw)
            if error is not None:
                break
        tally.note(error is not None, "the flaw \"%s\" is caught: %s" % (flaw, FLAWS[flaw]))
        if args.verbose and error is not None:
            print("#   " + error.replace("\n", "\n#   "))


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dsn", default="dbname=postgres" if "PGDATABASE" not in os.environ else "")
    parser.add_argument("--database", default="sync_writeback")
    parser.add_argument("--temp", action="store_true", help="start a private cluster")
    parser.add_argument("--keep", action="store_true", help="keep the private cluster's files")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--runs", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--keep-going", action="store_true", help="go on after a failing seed")
    parser.add_argument("--keep-database", action="store_true")
    parser.add_argument("--trace", nargs="?", const=True)
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--flaw", choices=list(FLAWS))
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
        if args.flaw:
            bites(server, args, tally, [args.flaw])
        elif args.prove_it_bites:
            bites(server, args, tally, FLAWS)
        else:
            if args.runs is None and args.seconds is None:
                args.seconds, args.steps = 15, 600
                random_runs(server, args, tally)
                bites(server, args, tally, random.Random(args.seed).sample(QUICK, 2))
            else:
                random_runs(server, args, tally)
        if not args.keep_database:
            server.drop()
    finally:
        if cluster is not None:
            cluster.close()
    print("%d passed, %d failed" % (tally.passed, tally.failed))
    return 1 if tally.failed or not tally.passed else 0


if __name__ == "__main__":
    sys.exit(main())
