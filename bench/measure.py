"""Measuring against a running PostgreSQL: connections, CPU of backends, interleaved rounds, tables of ratios.

Nothing here knows what is measured; parts.py does.
"""

import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import psycopg2
import psycopg2.extensions
import psycopg2.extras

TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid):
    """CPU time of a process, user and system together; None where /proc does not show it.

    schedstat counts nanoseconds; stat, which everybody has, only hundredths of a second.
    """
    try:
        with open(f"/proc/{pid}/schedstat") as f:
            return int(f.read().split()[0]) / 1e9
    except (OSError, ValueError, IndexError):
        pass
    try:
        with open(f"/proc/{pid}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICK
    except (OSError, ValueError, IndexError):
        return None


def memory_kb(pid):
    """{'RssAnon': kB, 'VmHWM': kB} of a process, empty where /proc does not show it."""
    found = {}
    try:
        with open(f"/proc/{pid}/status") as f:
            for line in f:
                name, _, value = line.partition(":")
                if name in ("RssAnon", "VmHWM"):
                    found[name] = int(value.split()[0])
    except OSError:
        pass
    return found


class Server:
    """A database of our own on the server that libpq's environment names."""

    def __init__(self, database):
        self.database = database
        self.has_sync = False
        self.why_no_sync = ""
        self.scratch = tempfile.mkdtemp(prefix="bench")
        maintenance = os.environ.get("PGDATABASE", "postgres")
        self.admin = psycopg2.connect(dbname=maintenance, application_name="bench admin")
        self.admin.autocommit = True
        with self.admin.cursor() as cur:
            cur.execute(f'DROP DATABASE IF EXISTS "{database}"')
            cur.execute(f"CREATE DATABASE \"{database}\" TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'")
            for setting in ("jit = off", "max_parallel_workers_per_gather = 0", "client_min_messages = warning"):
                cur.execute(f'ALTER DATABASE "{database}" SET {setting}')
        self.main = self.connect()
        self.local = cpu_seconds(self.main.info.backend_pid) is not None

    def close(self):
        self.main.close()
        with self.admin.cursor() as cur:
            cur.execute(f'DROP DATABASE IF EXISTS "{self.database}" WITH (FORCE)')
        self.admin.close()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def connect(self, options="", name="bench"):
        conn = psycopg2.connect(dbname=self.database, options=options, application_name=name)
        conn.autocommit = True
        # documents stay text: we measure the server, not a JSON parser
        psycopg2.extras.register_default_jsonb(conn, loads=lambda text: text)
        return conn

    def run(self, sql, params=None, conn=None):
        with (conn or self.main).cursor() as cur:
            cur.execute(sql, params)
            return cur.fetchall() if cur.description else None

    def value(self, sql, params=None, conn=None):
        return self.run(sql, params, conn)[0][0]

    def extension(self, name):
        """Create an extension; say whether it is there."""
        try:
            self.run(f'CREATE EXTENSION IF NOT EXISTS "{name}" CASCADE')
            return True
        except psycopg2.Error as e:
            if name == "sync_ext":
                self.why_no_sync = str(e).strip()
            return False

    # ---- timing ----

    def timed(self, conn, sql, params=None):
        """Wall and backend CPU time, in seconds, of one statement and its commit."""
        pid = conn.info.backend_pid
        with conn.cursor() as cur:
            cpu = cpu_seconds(pid)
            start = time.perf_counter()
            cur.execute(sql, params)
            if cur.description:
                cur.fetchall()
            wall = time.perf_counter() - start
            cpu_after = cpu_seconds(pid)
        return {"wall": wall, "cpu": cpu_after - cpu if self.local else None}

    def pgbench(self, script, clients=1, seconds=1, variables=None, options="", count_xids=False, while_running=None):
        """Run a script with pgbench -M prepared.

        Returns tps, latency (µs, wall) and cpu (backend µs for each transaction, read from /proc while the backends live).
        With count_xids the transactions of the CPU window are counted by the transaction ids they took, which is exact
        where each takes one and nobody else does; otherwise by pgbench's rate.
        """
        name = f"bench {random.getrandbits(48):x}"
        path = os.path.join(self.scratch, "script.sql")
        with open(path, "w") as f:
            f.write(script)
        command = ["pgbench", "-n", "-M", "prepared", "-c", str(clients), "-j", str(min(clients, 2)),
                   "-T", str(seconds), "-f", path]
        for key, val in (variables or {}).items():
            command += ["-D", f"{key}={val}"]
        env = dict(os.environ, PGAPPNAME=name, PGOPTIONS=options)
        process = subprocess.Popen(command + [self.database], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True)
        start = time.perf_counter()
        cpu = xids = window = None
        if self.local:
            pids = []
            while process.poll() is None and len(pids) < clients and time.perf_counter() - start < 10:
                pids = [p for p, in self.run("SELECT pid FROM pg_stat_activity WHERE application_name = %s "
                                             "AND backend_type = 'client backend'", [name])]
                time.sleep(0.02)
            if len(pids) == clients:
                begun = time.perf_counter()
                time.sleep(min(0.25, seconds / 4))
                before = self._sample(pids)
                if while_running:
                    while_running(pids, seconds)
                time.sleep(max(0.1, seconds - 0.15 - (time.perf_counter() - begun)))
                after = self._sample(pids)
                if before and after:
                    cpu, xids, window = (b - a for a, b in zip(before, after))
        out, err = process.communicate()
        if process.returncode != 0:
            raise RuntimeError(f"pgbench failed:\n{err}")
        result = {"cpu": None}
        for line in out.splitlines():
            if line.startswith("latency average"):
                result["latency"] = float(line.split("=")[1].split()[0]) * 1000
            elif line.startswith("tps"):
                result["tps"] = float(line.split("=")[1].split()[0])
        if cpu is not None:
            done = xids if count_xids else result["tps"] * window
            result["cpu"] = cpu * 1e6 / done if done else None
        return result

    def _sample(self, pids):
        used = [cpu_seconds(p) for p in pids]
        if None in used:
            return None
        # reading the snapshot takes no transaction id
        xid = int(self.value("SELECT pg_snapshot_xmax(pg_current_snapshot())::text"))
        return sum(used), xid, time.perf_counter()

    # ---- where the time goes ----

    def can_profile(self):
        if not self.local or not shutil.which("perf"):
            return False
        probe = subprocess.run(["perf", "record", "-q", "-o", os.path.join(self.scratch, "probe"), "-p",
                                str(self.main.info.backend_pid), "--", "sleep", "0.05"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return probe.returncode == 0

    def profile(self, pids, action, top=12):
        """Top symbols of the backends `pids` while `action` runs."""
        data = os.path.join(self.scratch, "perf.data")
        recorder = subprocess.Popen(["perf", "record", "-q", "-F", "1999", "-o", data, "-p", ",".join(map(str, pids))],
                                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.15)
        action()
        recorder.send_signal(2)
        recorder.wait()
        out = subprocess.run(["perf", "report", "--stdio", "-q", "--no-children", "-s", "dso,symbol", "-i", data],
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
        return [line.strip(" -") for line in out.splitlines() if "%" in line][:top]

    def profile_pgbench(self, script, clients=1, variables=None, options="", top=12):
        symbols = []

        def watch(pids, seconds):
            symbols.extend(self.profile(pids, lambda: time.sleep(seconds - 1.2), top))

        self.pgbench(script, clients, 3, variables, options, while_running=watch)
        return symbols


# ---- interleaved rounds ----

class Results:
    """Measured values by variant and metric, one for each round, and what they are to the base of the same round."""

    def __init__(self, base):
        self.base = base
        self.rounds = []                    # [{variant: [{metric: value}, …]}]

    def values(self, variant, metric):
        """One value for each round: the mean, where a variant ran more than once in a round."""
        found = []
        for r in self.rounds:
            runs = [m[metric] for m in r.get(variant, []) if m.get(metric) is not None]
            found.append(statistics.fmean(runs) if runs else None)
        return found

    def spread(self, numbers):
        numbers = [n for n in numbers if n is not None]
        if not numbers:
            return None
        return statistics.median(numbers), min(numbers), max(numbers)

    def value(self, variant, metric):
        return self.spread(self.values(variant, metric))

    def combine(self, metric, variant, base, operation):
        pairs = zip(self.values(variant, metric), self.values(base, metric))
        return self.spread([operation(v, b) for v, b in pairs if v is not None and b])

    def ratio(self, metric, variant, base=None):
        return self.combine(metric, variant, base or self.base, lambda v, b: v / b)

    def added(self, metric, variant, base=None):
        return self.combine(metric, variant, base or self.base, lambda v, b: v - b)


def interleave(variants, base, rounds, seed):
    """Run every variant once in every round, in an order shuffled anew, and the base twice.

    variants: {name: callable → {metric: value}}
    """
    results = Results(base)
    for number in range(rounds):
        order = list(variants)
        random.Random(seed * 1000 + number).shuffle(order)
        # the base again, half the round away from its first place
        order.insert((order.index(base) + len(order) // 2 + 1) % (len(order) + 1), base)
        done = {}
        for name in order:
            done.setdefault(name, []).append(variants[name]())
        results.rounds.append(done)
        progress(f"round {number + 1}/{rounds}")
    progress("")
    return results


# ---- printing ----

def progress(text):
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()


def say(text=""):
    progress("")
    print(text, flush=True)


def number(x, digits=2):
    if x is None:
        return "-"
    if abs(x) >= 1000:
        return f"{x:.0f}"
    return f"{x:.{digits}f}"


def spread(s, digits=2):
    if s is None:
        return "-"
    return f"{number(s[0], digits)} [{number(s[1], digits)}-{number(s[2], digits)}]"


def table(head, rows):
    """A table that reads as text and as Markdown."""
    rows = [head] + [[str(c) for c in r] for r in rows]
    widths = [max(len(r[i]) for r in rows) for i in range(len(head))]
    for i, r in enumerate(rows):
        cells = [c.ljust(w) if j == 0 else c.rjust(w) for j, (c, w) in enumerate(zip(r, widths))]
        say("| " + " | ".join(cells) + " |")
        if i == 0:
            say("|" + "|".join("-" * (w + 2) for w in widths) + "|")
    say()


class Targets:
    """What was promised, and what was measured."""

    def __init__(self):
        self.rows = []                      # every one of the run, for the summary

    def judge(self, what, measured, limit, unit="", digits=2):
        """Print a target beside the measured median; True when it is met. measured: (median, min, max), or None."""
        return self._judge(what, measured, measured and measured[0] <= limit, f"≤ {limit:g}{unit}", unit, digits)

    def judge_least(self, what, measured, limit, unit="", digits=2):
        """The same for what must not be less."""
        return self._judge(what, measured, measured and measured[0] >= limit, f"≥ {limit:g}{unit}", unit, digits)

    def _judge(self, what, measured, met, target, unit, digits):
        verdict = "not measured" if measured is None else "met" if met else "MISSED"
        self.rows.append((what, target, spread(measured, digits), verdict))
        say(f"  target  {what}: {target}, measured {spread(measured, digits)}{unit}: {verdict}")
        return verdict != "MISSED"
