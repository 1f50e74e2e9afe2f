"""How the demonstration is told, and checked: whatever is shown is a claim that may fail."""

import json
import os
import select
import sys
import time

import psycopg2
import psycopg2.extras

FAST = "--fast" in sys.argv or not sys.stdout.isatty()
COLOUR = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
WIDTH = 10                              # of the actors' names


def paint(text, colour):
    return f"\033[{colour}m{text}\033[0m" if COLOUR else text


def pause(seconds=0.7):
    if not FAST:
        time.sleep(seconds)


def chapter(title, *lines):
    pause()
    print("\n" + paint(f"━━ {title} " + "━" * max(0, 74 - len(title)), 1))
    for line in lines:
        print("   " + line)
    pause(0.3 + 0.9 * len(lines))


def tell(actor, colour, text):
    for n, line in enumerate(str(text).strip().splitlines()):
        print(paint(f"{actor if n == 0 else '':>{WIDTH}}", colour) + " │ " + line, flush=True)
    pause(0.3)


def claim(true, text, *evidence):
    """What the reader is told is checked here."""
    if not true:
        tell("✗", "31;1", text)
        for line in evidence:
            tell("", 31, line)
        sys.exit(1)
    tell("✓", "32;1", text)


def short(value):
    """JSON for the reader."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) < 100 else text[:96] + " …"


def plural(n, word):
    return f"{n} {word if n == 1 else word[:-1] + 'ies' if word.endswith('y') else word + 's'}"


def connect(name):
    conn = psycopg2.connect(application_name=name)
    conn.autocommit = True
    return conn


class Writer:
    """A session of the application."""

    def __init__(self, name, colour=33):
        self.name, self.colour = name, colour
        self.conn = connect(name)
        self.cursor = self.conn.cursor()

    def run(self, sql, quiet=False, show=None):
        if not quiet:
            tell(self.name, self.colour, show or sql)
        self.cursor.execute(sql)
        return self.cursor.fetchall() if self.cursor.description else None

    def ask(self, sql, *params):
        """One value."""
        self.cursor.execute(sql, params)
        return self.cursor.fetchone()[0]


class Listener:
    """What an application server hears on the channel."""

    def __init__(self):
        self.conn = connect("listener")
        with self.conn.cursor() as cur:
            cur.execute("LISTEN sync")

    def hear(self, wait=2.0, quiet=False):
        """The events that have arrived; waits for the first one."""
        if not self.conn.notifies:
            select.select([self.conn], [], [], wait)
        self.conn.poll()
        heard = [json.loads(n.payload) for n in self.conn.notifies]
        self.conn.notifies.clear()
        if not quiet:
            for event in heard:
                tell("event", 35, json.dumps(event))
        return heard
