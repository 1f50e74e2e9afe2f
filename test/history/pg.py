"""Server side helpers of the history checker: a throw-away cluster, and sessions that a
scheduler steps one statement at a time.

Nothing here knows what is being checked.
"""

import os
import random
import select
import shutil
import signal
import subprocess
import tempfile
import time

import psycopg2
import psycopg2.extensions as ext

# Statements that take longer than this without waiting for a lock are reported as hanging.
HANG_SECONDS = 60


def quote(value):
    """A literal.  Only what the checker itself produces: ints, floats, bools, None, text, lists."""
    if value is None:
        return "NULL"
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, (list, tuple)):
        return "ARRAY[" + ", ".join(quote(v) for v in value) + "]::text[]"
    return "'" + str(value).replace("'", "''") + "'"


class Cluster:
    """A private cluster in a temporary directory, reached through its unix socket only."""

    def __init__(self, options=(), keep=False):
        if os.geteuid() == 0:
            raise RuntimeError("a private cluster cannot be started by root")
        self.bindir = self._bindir()
        self.keep = keep
        self.dir = tempfile.mkdtemp(prefix="sync_history_")
        self.data = os.path.join(self.dir, "data")
        self.log = os.path.join(self.dir, "log")
        self.run("initdb", "-D", self.data, "-A", "trust", "-U", "postgres", "-N",
                 "--no-locale", "-E", "UTF8")
        with open(os.path.join(self.data, "postgresql.auto.conf"), "a") as conf:
            conf.write("listen_addresses = ''\n"
                       "unix_socket_directories = '%s'\n"
                       "max_prepared_transactions = 50\n"
                       "max_connections = 100\n"
                       "shared_buffers = '64MB'\n"
                       "autovacuum_naptime = '5s'\n"
                       "log_min_messages = warning\n" % self.dir)
            for option in options:
                conf.write(option + "\n")
        self.start()

    @staticmethod
    def _bindir():
        config = os.environ.get("PG_CONFIG", "pg_config")
        return subprocess.check_output([config, "--bindir"], text=True).strip()

    def run(self, program, *args):
        done = subprocess.run([os.path.join(self.bindir, program), *args], cwd=self.dir,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            raise RuntimeError("%s failed: %s" % (program, done.stdout))

    def start(self):
        self.run("pg_ctl", "-D", self.data, "-l", self.log, "-w", "-t", "60", "start")

    def crash(self):
        """As if the power failed: no checkpoint, no flush."""
        with open(os.path.join(self.data, "postmaster.pid")) as f:
            pid = int(f.readline())
        self.run("pg_ctl", "-D", self.data, "-w", "-m", "immediate", "stop")
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        os.kill(pid, signal.SIGKILL)

    def dsn(self, dbname="postgres"):
        return "host=%s dbname=%s user=postgres" % (self.dir, dbname)

    def close(self):
        try:
            self.run("pg_ctl", "-D", self.data, "-w", "-m", "immediate", "stop")
        except RuntimeError:
            pass
        if self.keep:
            print("# kept %s" % self.dir)
        else:
            shutil.rmtree(self.dir, ignore_errors=True)


def stage_options(connection):
    """Settings that make a staged (not installed) extension visible, from SYNC_EXT_STAGE."""
    stage = os.environ.get("SYNC_EXT_STAGE")
    if not stage:
        return []
    with connection.cursor() as cur:
        cur.execute("SELECT name FROM pg_settings WHERE name IN"
                    " ('extension_destdir', 'extension_control_path')")
        names = {row[0] for row in cur.fetchall()}
    if "extension_destdir" in names:
        return [("extension_destdir", quote(stage))]
    if "extension_control_path" in names:
        config = os.environ.get("PG_CONFIG", "pg_config")
        share, lib = (subprocess.check_output([config, o], text=True).strip()
                      for o in ("--sharedir", "--pkglibdir"))
        return [("extension_control_path", quote(stage + share + ":$system")),
                ("dynamic_library_path", quote(stage + lib + ":$libdir"))]
    raise RuntimeError("SYNC_EXT_STAGE is set, but this server cannot load a staged extension")


class Server:
    """Where the checker's database lives: made for a run and dropped after it."""

    DATABASE = "sync_history"

    def __init__(self, dsn):
        self.base = dsn
        self.admin = self.connect(None)
        self.version = self.admin.server_version
        self.options = stage_options(self.admin)
        with self.admin.cursor() as cur:
            cur.execute("SHOW max_prepared_transactions")
            self.two_phase = int(cur.fetchone()[0]) > 0

    def connect(self, dbname, **kw):
        args = dict(kw)
        if dbname is not None:
            args["dbname"] = dbname
        conn = psycopg2.connect(self.base, **args)
        if not kw.get("async_"):
            conn.autocommit = True
        return conn

    def reconnect(self):
        self.admin = self.connect(None)

    def fresh(self):
        with self.admin.cursor() as cur:
            self.drop()
            cur.execute("CREATE DATABASE %s TEMPLATE template0 ENCODING 'UTF8'" % self.DATABASE)
            for name, value in self.options + [("timezone", "'UTC'"),
                                               ("deadlock_timeout", "'20ms'"),
                                               ("jit", "off"),
                                               ("synchronous_commit", "off")]:
                cur.execute("ALTER DATABASE %s SET %s = %s" % (self.DATABASE, name, value))

    def drop(self):
        with self.admin.cursor() as cur:
            cur.execute("SELECT gid FROM pg_prepared_xacts WHERE database = %s", (self.DATABASE,))
            gids = [row[0] for row in cur.fetchall()]
            if gids:
                conn = self.connect(self.DATABASE)
                with conn.cursor() as inner:
                    for gid in gids:
                        inner.execute("ROLLBACK PREPARED %s", (gid,))
                conn.close()
            cur.execute("DROP DATABASE IF EXISTS %s WITH (FORCE)" % self.DATABASE)
            cur.execute("DROP ROLE IF EXISTS %s" % self.role())

    def role(self):
        """Somebody whom policies concern."""
        return self.DATABASE + "_reader"

    def sync(self):
        """A plain blocking connection to the checker's database."""
        return self.connect(self.DATABASE)


class Broken(Exception):
    """The server crashed, hangs, or cannot go on: the run is over."""


class Session:
    """One backend.  send() never waits; the scheduler polls."""

    def __init__(self, server, name):
        self.name = name
        self.conn = server.connect(Server.DATABASE, async_=1)
        while True:
            state = self.conn.poll()
            if state == ext.POLL_OK:
                break
            if state == ext.POLL_READ:
                select.select([self.conn.fileno()], [], [], 5)
            else:
                select.select([], [self.conn.fileno()], [], 5)
        self.pid = self.conn.get_backend_pid()
        self.cur = None
        self.pending = False
        self.result = None
        self.error = None
        self.since = 0.0

    def send(self, sql):
        self.cur = self.conn.cursor()
        self.result = self.error = None
        self.cur.execute(sql)
        self.pending = True
        self.since = time.monotonic()

    def poll(self):
        try:
            if self.conn.poll() != ext.POLL_OK:
                return False
            self.result = self.cur.fetchall() if self.cur.description else None
        except psycopg2.Error as error:
            if self.conn.closed:
                raise Broken("session %s lost its server: %s" % (self.name, error))
            self.error = error
        self.pending = False
        return True

    def finish(self):
        """Waits for what was sent; gives its rows or raises its error."""
        while self.pending and not self.poll():
            select.select([self.conn.fileno()], [], [], 1)
            if time.monotonic() - self.since > HANG_SECONDS:
                raise Broken("a statement of %s hangs" % self.name)
        if self.error is not None:
            raise self.error
        return self.result

    def sql(self, sql):
        self.send(sql)
        return self.finish()

    def close(self):
        self.conn.close()


class Actor:
    """Somebody who talks to the database.  next() returns a coroutine that yields statements
    (None: let the others go first) and is given their rows, or has their error raised in it."""

    def __init__(self, scheduler, name, weight=1):
        self.scheduler = scheduler
        self.name = name
        self.weight = weight
        self.rnd = random.Random("%s/%s" % (scheduler.seed, name))
        self.session = Session(scheduler.server, name)
        self.routine = None

    def next(self):
        raise NotImplementedError


class Scheduler:
    """Steps the actors, one statement at a time, in an order that the seed decides.  A statement
    that waits for a lock stays behind; everybody else goes on."""

    def __init__(self, server, seed):
        self.server = server
        self.seed = seed
        self.rnd = random.Random("%s/scheduler" % seed)
        self.actors = []
        self.trace = []
        self.steps = 0
        self.unblock = None
        self.after = None           # called after every statement
        self.lock_waits = 0
        self.monitor = server.sync()

    def note(self, who, what, outcome=""):
        self.trace.append((self.steps, who, what, outcome))

    def waiting(self, actors):
        with self.monitor.cursor() as cur:
            cur.execute("SELECT DISTINCT pid FROM pg_locks WHERE NOT granted AND pid = ANY (%s)",
                        ([a.session.pid for a in actors],))
            return {row[0] for row in cur.fetchall()}

    def settle(self):
        """Until every statement under way is done or waits for a lock."""
        patience = 0.0015
        while True:
            busy = [a for a in self.actors if a.session.pending and not a.session.poll()]
            if not busy:
                return
            ready, _, _ = select.select([a.session.conn.fileno() for a in busy], [], [], patience)
            if ready:
                continue
            waiting = self.waiting(busy)
            if all(a.session.pid in waiting for a in busy):
                self.lock_waits += 1
                return
            for actor in busy:
                if (actor.session.pid not in waiting
                        and time.monotonic() - actor.session.since > HANG_SECONDS):
                    raise Broken("a statement of %s hangs" % actor.name)
            patience = min(patience * 2, 0.1)

    def advance(self, actor):
        session = actor.session
        self.steps += 1
        try:
            if actor.routine is None:
                actor.routine = actor.next()
                if actor.routine is None:
                    return
                sql = next(actor.routine)
            elif session.error is not None:
                error, session.error = session.error, None
                sql = actor.routine.throw(error)
            else:
                rows, session.result = session.result, None
                sql = actor.routine.send(rows)
        except StopIteration:
            actor.routine = None
            return
        if sql is None:
            return
        self.note(actor.name, sql)
        session.send(sql)
        mark = len(self.trace) - 1
        self.settle()
        if session.pending:
            self.trace[mark] = self.trace[mark][:3] + ("waits",)
        elif session.error is not None:
            self.trace[mark] = self.trace[mark][:3] + (
                "%s %s" % (session.error.pgcode, (session.error.pgerror or "").split("\n")[0]),)
        if self.after is not None:
            self.after()

    def run(self, steps=None, until=None, done=None):
        """Step until the number of steps, the time, or the condition is reached."""
        end = None if steps is None else self.steps + steps
        stuck = None
        while True:
            if end is not None and self.steps >= end:
                return
            if until is not None and time.monotonic() >= until:
                return
            if done is not None and done():
                return
            for actor in self.actors:
                if actor.session.pending:
                    actor.session.poll()
            free = [a for a in self.actors if not a.session.pending]
            if free:
                stuck = None
                weights = [a.weight for a in free]
                self.advance(self.rnd.choices(free, weights)[0])
                continue
            now = time.monotonic()
            stuck = stuck or now
            if now - stuck > 1 and self.unblock is not None and self.unblock():
                stuck = None
            elif now - stuck > 20:
                raise Broken("everybody waits for a lock")
            time.sleep(0.005)

    def close(self):
        for actor in self.actors:
            actor.session.close()
        self.monitor.close()
