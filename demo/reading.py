"""A shop whose devices keep copies of its orders, brought up to date from cursor to cursor."""

import json
import random
import threading
import time

import psycopg2.extras

from show import Listener, Writer, chapter, claim, connect, tell

SCHEMA = """
CREATE TABLE orders (
    id       int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer text NOT NULL,
    status   text NOT NULL DEFAULT 'open',
    modified_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE order_lines (
    id       int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id int NOT NULL REFERENCES orders ON DELETE CASCADE,
    article  text NOT NULL,
    quantity int NOT NULL
);
CREATE INDEX ON order_lines (order_id);

-- What a device gets for an order: the whole document.
CREATE VIEW order_documents {security} AS
SELECT o.*, ARRAY(SELECT format('%s × %s', l.quantity, l.article)
                  FROM order_lines l WHERE l.order_id = o.id ORDER BY l.id) AS lines
FROM orders o;

INSERT INTO orders (customer) VALUES ('Ada'), ('Ben'), ('Cleo');
INSERT INTO order_lines (order_id, article, quantity) VALUES (1, 'lamp', 1), (2, 'desk', 2), (3, 'chair', 4);
"""

TRACK = ["SELECT sync.track('orders', source => 'order_documents')",
         "SELECT sync.cascade('order_lines', 'orders')"]


class Device:
    """A copy of the orders that a filter selects, brought up to date from cursor to cursor."""

    def __init__(self, name, colour, filter=None, params=None):
        self.name, self.colour = name, colour
        self.filter, self.params = filter, params
        self.copy, self.since, self.said = {}, None, []
        self.conn = connect(name)

    def pull(self, quiet=False):
        """One call of sync.changes, applied; returns what it said."""
        self.said = []
        with self.conn.cursor(cursor_factory=psycopg2.extras.NamedTupleCursor) as cur:
            cur.execute("SELECT * FROM sync.changes('orders', %s::sync.cursor, %s, %s, client => %s)",
                        (self.since, self.filter, self.params, self.name))
            answer = cur.fetchall()
        for row in answer:
            key = row.key and row.key["id"]
            if row.op == "upsert":
                self.copy[key] = row.data
                text = f"{row.data['customer']}, {row.data['status']}, {', '.join(row.data['lines'])}"
                self.said.append(("upsert", key))
            elif row.op == "remove":
                self.copy.pop(key, None)
                text = "no longer among mine"
                self.said.append(("remove", key))
            elif row.op == "reset":
                self.copy.clear()
                text = row.data["message"]
                self.said.append(("reset", None))
            else:
                self.since = row.cursor
                text = f"cursor c…{row.cursor[-12:]}"
            if not quiet:
                tell(self.name, self.colour, f"{row.op:<10} {'' if key is None else key:<3} {text}")
        return self.said

    def holds_what_it_should(self):
        with self.conn.cursor() as cur:
            where = self.filter.replace("$1", "%s") if self.filter else "true"
            cur.execute(f"SELECT id, to_jsonb(d) FROM order_documents d WHERE {where}", self.params)
            return self.copy == dict(cur.fetchall())


class TimestampDevice:
    """The same with the cut-off that everybody writes first: what is newer than the newest that I have?"""

    def __init__(self, name, colour):
        self.name, self.colour = name, colour
        self.copy, self.newest = {}, None
        self.conn = connect(name)

    def pull(self, quiet=False):
        with self.conn.cursor() as cur:
            cur.execute("SELECT id, to_jsonb(d), modified_at FROM order_documents d"
                        " WHERE %(t)s IS NULL OR modified_at > %(t)s::timestamptz ORDER BY modified_at", {"t": self.newest})
            answer = cur.fetchall()
        for key, data, modified_at in answer:
            self.copy[key] = data
            self.newest = modified_at
        if not quiet:
            tell(self.name, self.colour, "modified_at > my newest: " + (", ".join(f"order {a[0]}" for a in answer) or "nothing"))
        return [a[0] for a in answer]

    def differs(self):
        with self.conn.cursor() as cur:
            cur.execute("SELECT id, to_jsonb(d) FROM order_documents d")
            real = dict(cur.fetchall())
        return sorted(k for k in real.keys() | self.copy.keys() if real.get(k) != self.copy.get(k))


def reading(shop):
    security = "WITH (security_invoker)" if shop.conn.server_version >= 150000 else ""

    chapter("The tables of a shop, as they were before",
            "Orders and their lines. Nothing here was made for synchronising; modified_at is what most schemas have.")
    shop.run(SCHEMA.replace("{security}", security))

    chapter("Two statements, and they can be synchronised",
            "The second one says: a change of a line is a change of its order.")
    shop.run("CREATE EXTENSION sync_ext")
    for statement in TRACK:
        shop.run(statement)

    chapter("Devices load what they need",
            "The tablet packs what is open; the phone has everything; \"stamps\" does what everybody writes first,",
            "a cut-off at the newest modified_at that it has seen.")
    listener = Listener()
    tablet = Device("tablet", 36, "status = $1", ["open"])
    phone = Device("phone", 34)
    stamps = TimestampDevice("stamps", 90)
    tablet.pull()
    phone.pull(quiet=True)
    stamps.pull()
    claim(tablet.holds_what_it_should() and phone.holds_what_it_should() and not stamps.differs(),
          "all three hold what they should")

    chapter("A change, its event, its delta")
    shop.run("INSERT INTO order_lines (order_id, article, quantity) VALUES (1, 'bulb', 3), (1, 'cable', 1), (1, 'plug', 1)")
    events = listener.hear()
    claim([e["domain"] for e in events] == ["orders"], "one event for one transaction: three lines are one order")
    said = tablet.pull()
    phone.pull(quiet=True)
    stamps.pull(quiet=True)
    claim(said == [("upsert", 1)] and len(tablet.copy[1]["lines"]) == 4,
          "lines were inserted; their order came, once, as a document with four lines")

    chapter("A transaction that commits late",
            "The import writes first and commits last. Whoever remembers a time remembers one that is past its changes.")
    importer = Writer("import", 31)
    importer.run("BEGIN", quiet=True)
    importer.run("UPDATE orders SET customer = 'Ada Lovelace' WHERE id = 1",
                 show="BEGIN; UPDATE orders SET customer = 'Ada Lovelace' WHERE id = 1;      -- no COMMIT yet")
    shop.run("UPDATE orders SET customer = 'Ben Nevis' WHERE id = 2")
    listener.hear()
    claim(stamps.pull() == [2], "the shop's change is there")
    claim(tablet.pull() == [("upsert", 2)], "here, too")
    phone.pull(quiet=True)
    importer.run("COMMIT")
    listener.hear()
    claim(stamps.pull() == [] and stamps.differs() == [1], "the cut-off never delivers order 1: it is older than what is held")
    claim(tablet.pull() == [("upsert", 1)], "the cursor does: it knows transactions, not times")
    phone.pull(quiet=True)
    claim(tablet.holds_what_it_should() and phone.holds_what_it_should(), "tablet and phone are right, \"stamps\" is wrong for good")

    chapter("A row that leaves the filter")
    shop.run("UPDATE orders SET status = 'shipped' WHERE id = 2")
    listener.hear()
    claim(tablet.pull() == [("remove", 2)], "the tablet, which packs open orders, is told to drop it")
    claim(phone.pull() == [("upsert", 2)], "the phone, which has all, gets the new row")

    chapter("A client that is spared its own change",
            "The server of the application names the client in the transaction.")
    desk = Device("desk", 32)
    desk.pull(quiet=True)
    server = Writer("server", 33)
    server.run("BEGIN", quiet=True)
    server.run("SELECT set_config('sync.client', 'phone', true)", quiet=True)
    [(own,)] = server.run("UPDATE orders SET status = 'paid' WHERE id = 2 RETURNING to_jsonb(orders)", quiet=True)
    server.run("COMMIT", quiet=True)
    tell("server", 33, "BEGIN; SELECT set_config('sync.client', 'phone', true);\nUPDATE orders SET status = 'paid' WHERE id = 2; COMMIT;")
    claim([e["origin"] for e in listener.hear()] == ["phone"], "the event says whose change it was")
    claim(phone.pull() == [], "the phone asks with client => 'phone' and gets nothing")
    phone.copy[2].update(own)           # the answer to its own request
    claim(desk.pull() == [("upsert", 2)], "the desk, which has everything, too, gets it")
    claim(phone.holds_what_it_should() and desk.holds_what_it_should(), "both are right")
    tablet.pull(quiet=True)

    chapter("A deletion")
    shop.run("DELETE FROM orders WHERE id = 3")
    listener.hear()
    claim(tablet.pull() == [("remove", 3)], "no tombstone in the table, no column for it: the log knows")
    phone.pull(quiet=True)
    stamps.pull(quiet=True)
    claim(3 in stamps.copy, "\"stamps\" keeps it for ever")

    chapter("For an application server: one call, any number of domains, JSON on both sides")
    shop.run("UPDATE orders SET customer = 'Ada King' WHERE id = 1")
    listener.hear()
    request = {"client": "tablet", "domains": {"orders": {
        "since": tablet.since, "filter": tablet.filter, "params": tablet.params}}}
    with shop.conn.cursor() as cur:
        cur.execute("SELECT sync.pull(%s::jsonb)", (json.dumps(request),))
        [answer] = cur.fetchone()
    short = json.dumps(request).replace(tablet.since, "c…" + tablet.since[-12:])
    tell("tablet", tablet.colour, f"SELECT sync.pull('{short}')")
    short = json.dumps(answer, indent=2, ensure_ascii=False)
    cursor = answer["domains"]["orders"]["cursor"]
    short = short.replace(cursor, "c…" + cursor[-12:])
    tell("answer", 35, short)
    claim([row["id"] for row in answer["domains"]["orders"]["upsert"]] == [1] and
          answer["domains"]["orders"]["state"] == "up-to-date", "the same delta")
    tablet.pull(quiet=True)
    phone.pull(quiet=True)

    return listener, tablet, phone


def storm(listener, tablet, phone, shop):
    """Many writers at once; devices that pull when they hear something."""
    seconds, writers = 3, 6
    chapter(f"{writers} writers for {seconds} seconds",
            "Savepoints, rollbacks, commits out of order. The devices pull when an event arrives.")
    stamps = TimestampDevice("stamps", 90)
    stamps.pull(quiet=True)
    stop = time.monotonic() + seconds
    done, failures = [0] * writers, []

    def write(number):
        rnd = random.Random(number)
        try:
            conn = connect(f"writer {number}")
            cur = conn.cursor()
            while time.monotonic() < stop:
                cur.execute("BEGIN")
                for _ in range(rnd.choice((1, 1, 3))):
                    kind = rnd.random()
                    if kind < 0.3:
                        cur.execute("INSERT INTO orders (customer) VALUES (%s)", (f"customer {rnd.randrange(1000)}",))
                    elif kind < 0.5:
                        cur.execute("INSERT INTO order_lines (order_id, article, quantity)"
                                    " SELECT id, 'chair', %s FROM orders WHERE id %% %s = %s ORDER BY id LIMIT 1",
                                    (rnd.randint(1, 9), writers, number))
                    elif kind < 0.9:
                        cur.execute("UPDATE orders SET status = %s WHERE id %% %s = %s AND id > %s",
                                    (rnd.choice(("open", "shipped")), writers, number, rnd.randrange(200)))
                    else:
                        cur.execute("SAVEPOINT s; DELETE FROM orders WHERE id %% %s = %s AND id > %s",
                                    (writers, number, rnd.randrange(400)))
                        cur.execute(rnd.choice(("RELEASE s", "ROLLBACK TO s")))
                    time.sleep(rnd.choice((0, 0, 0.01, 0.05)))
                cur.execute("COMMIT" if rnd.random() < 0.85 else "ROLLBACK")
                done[number] += 1
            conn.close()
        except Exception as e:          # a thread's exception ends nothing by itself
            failures.append(e)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(writers)]
    for thread in threads:
        thread.start()
    heard = pulled = 0
    while any(t.is_alive() for t in threads):
        heard += len(listener.hear(wait=0.2, quiet=True))
        pulled += len(tablet.pull(quiet=True)) + len(phone.pull(quiet=True))
        stamps.pull(quiet=True)
    for thread in threads:
        thread.join()
    claim(not failures, f"{sum(done)} transactions, {heard} events, {pulled} rows delivered to tablet and phone", *failures)
    for device in (tablet, phone):
        device.pull(quiet=True)
    stamps.pull(quiet=True)
    claim(tablet.holds_what_it_should() and phone.holds_what_it_should(),
          f"tablet ({len(tablet.copy)} open orders) and phone (all {len(phone.copy)}) hold exactly what is in the database")
    wrong = stamps.differs()
    deleted = [key for key in wrong if key not in phone.copy]
    tell("stamps", 90, f"keeps {len(deleted)} deleted orders, has {len(wrong) - len(deleted)} others wrong or not at all,"
                       " and no later pull mends it")

    [(size,)] = shop.run("SELECT pg_size_pretty(sum(pg_total_relation_size(log))) FROM sync.change_log", quiet=True)
    start = time.perf_counter()
    for _ in range(100):
        tablet.pull(quiet=True)
    each = (time.perf_counter() - start) * 10
    tell("", 0, f"The log takes {size}. A pull that finds nothing takes {each:.2f} ms, round trip included.")
    print()
