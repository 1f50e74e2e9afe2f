"""Journals: an encrypted document that two devices edit, and a log of actions that is rolled up."""

import hashlib
import json
import os
import sys
import uuid

import psycopg2
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from crdt import Text
from show import chapter, claim, connect, plural, tell

# The client's side of set reconciliation, as the tests have it. An application takes a library.
sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "test", "reconset"))
from wire import Plain  # noqa: E402


# ---------------------------------------------------------------------------
# A document that the server cannot read
# ---------------------------------------------------------------------------

class Author:
    """A device with a copy of the document: all entries of the stream, and those that it has not sent."""

    def __init__(self, name, colour, key):
        self.name, self.colour, self.cipher = name, colour, AESGCM(key)
        self.text, self.entries = Text(name), {}
        self.conn = connect(name)

    def query(self, sql, *params):
        with self.conn.cursor() as cur:
            cur.execute(sql, params)
            return cur.fetchall()

    def keep(self, operations):
        """An entry of what was done just now: encrypted here, under an id that no other device makes."""
        name, nonce = str(uuid.uuid4()), os.urandom(12)
        self.entries[name] = nonce + self.cipher.encrypt(nonce, json.dumps(operations).encode(), name.encode())

    def edit(self, what, operations):
        self.keep(operations)
        tell(self.name, self.colour, what)

    def put(self, names):
        if names:
            self.query("SELECT sync.put('minutes', %s, %s)", names, [psycopg2.Binary(self.entries[n]) for n in names])

    def take(self, rows):
        for name, data in rows:
            self.entries[name] = bytes(data)
            nonce, secret = self.entries[name][:12], self.entries[name][12:]
            for operation in json.loads(self.cipher.decrypt(nonce, secret, name.encode())):
                self.text.apply(operation)

    def come_back(self):
        """Set reconciliation: what is only here goes up, what is only there comes down."""
        names = {hashlib.sha256(name.encode()).digest(): name for name in self.entries}
        mine = Plain([(0, digest) for digest in names])
        message, trips, size = mine.initiate(), 0, 0
        while message is not None:
            [(answer,)] = self.query("SELECT sync.reconcile_ids('minutes', %s)", psycopg2.Binary(message))
            trips, size = trips + 1, size + len(message) + len(answer)
            message = mine.proceed(bytes(answer))
        self.put([names[digest] for digest in mine.have])
        wanted = [name for name, in self.query("SELECT id FROM sync.ids_by_hash('minutes', %s)",
                                               [psycopg2.Binary(digest) for digest in mine.need])]
        self.take(self.query("SELECT id, bytes FROM sync.entries('minutes', ids => %s) WHERE kind = 'entry'", wanted))
        tell(self.name, self.colour, f"{len(names)} ids compared with {size} bytes in {plural(trips, 'round trip')}:"
                                     f" {len(mine.have)} to send, {len(wanted)} to fetch")
        return len(mine.have), len(wanted), size


def document(shop):
    chapter("A document that the server cannot read",
            "Two devices share a key, and edit minutes of a meeting as a CRDT, a text that needs no order among its changes.",
            "What they send is AES-GCM ciphertext: the server stores and relays it, and compares ids.")
    shop.run("SELECT sync.create_stream('minutes', 'opaque')")
    key = AESGCM.generate_key(128)
    ida, jan = Author("ida", 36, key), Author("jan", 34, key)
    draft = "Present: Ida, Jan. Budget: postponed. Next meeting: open."
    for n, character in enumerate(draft):
        ida.keep(ida.text.insert(n, character))
    for n in range(700):                 # and much that was typed and taken back
        ida.keep(ida.text.insert(0, "x"))
        ida.keep(ida.text.delete("x"))
    ida.put(list(ida.entries))
    jan.take(jan.query("SELECT id, bytes FROM sync.entries('minutes') WHERE kind = 'entry'"))
    claim(str(jan.text) == str(ida.text) == draft, f"{len(ida.entries)} entries make the same text on both: \"{draft}\"")

    tell("", 0, "Both lose the network, and edit the same sentences.")
    ida.edit("writes \"raised by 5 %\" instead of \"postponed\"", ida.text.delete("postponed") + ida.text.write_behind("Budget: ", "raised by 5 %"))
    ida.edit("adds \" Kim\" to those present", ida.text.write_behind("Ida, Jan", ", Kim"))
    jan.edit("adds \" Lea\" to those present", jan.text.write_behind("Ida, Jan", ", Lea"))
    jan.edit("writes \"Monday\" instead of \"open\"", jan.text.delete("open") + jan.text.write_behind("meeting: ", "Monday"))
    jan.edit("puts a title above", jan.text.write_behind("", "SECRET MINUTES. "))
    claim(str(ida.text) != str(jan.text), "the copies differ")

    sent, fetched, _ = ida.come_back()
    claim((sent, fetched) == (2, 0), "Ida is back: her two entries are new to the server")
    sent, fetched, size = jan.come_back()
    claim((sent, fetched) == (3, 2) and size < 40 * len(jan.entries) / 4,
          f"Jan is back: three to send, two to fetch; all ids would have been {36 * len(jan.entries)} bytes")
    sent, fetched, _ = ida.come_back()
    claim((sent, fetched) == (0, 3), "and Ida once more")
    text = str(ida.text)
    claim(str(jan.text) == text, f"both read: \"{text}\"")
    claim(all(words in text for words in ("raised by 5 %", "Kim", "Lea", "Monday", "SECRET MINUTES")), "nobody's words were lost")
    bare = b"".join(bytes(data) for data, in shop.run("SELECT bytes FROM sync.entry WHERE bytes IS NOT NULL", quiet=True))
    claim(len(bare) > 0 and all(word not in bare for word in (b"SECRET", b"Budget", b"insert", b"Monday")),
          f"the server holds {len(bare)} bytes of ciphertext, and no word of it")
    rows = shop.run("SELECT kind, id FROM sync.missing('minutes', '{never seen here}') WHERE kind = 'wanted'", quiet=True)
    claim(rows == [("wanted", "never seen here")], "sync.missing() does the same with plain lists of ids, where these are few")


# ---------------------------------------------------------------------------
# A log of actions
# ---------------------------------------------------------------------------

class Shopper:
    """A device with a shopping list: a snapshot, and the actions after it, in the stream's order."""

    def __init__(self, name, colour):
        self.name, self.colour = name, colour
        self.cursor, self.state, self.known, self.queue = None, [], set(), []
        self.conn = connect(name)

    @staticmethod
    def play(items, action):
        rest = [item for item in items if item != action["item"]]
        return rest + [action["item"]] if action["do"] == "add" else rest

    def do(self, *actions):
        """One entry, of one or more actions."""
        entry = {"id": f"{self.name}:{len(self.queue)}:{uuid.uuid4()}",
                 "actions": [{"id": str(uuid.uuid4()), "do": do, "item": item} for do, item in actions]}
        self.queue.append(entry)
        tell(self.name, self.colour, ", ".join(f"{do} {item}" for do, item in actions))

    def send(self):
        with self.conn.cursor() as cur:
            cur.execute("SELECT id, status FROM sync.append('shopping', %s)", (json.dumps(self.queue),))
            answer = cur.fetchall()
        self.queue = []
        return [status for _, status in answer]

    def pull(self):
        """What is new after the cursor; the state is what the entries make of it, one after the other."""
        with self.conn.cursor() as cur:
            cur.execute("SELECT kind, data, cursor::text FROM sync.entries('shopping', %s::sync.cursor)", (self.cursor,))
            rows = cur.fetchall()
        for kind, data, cursor in rows:
            if kind == "reset":
                self.state, self.known = [], set()
            elif kind == "snapshot":
                self.state, self.known = data["items"], set(data["actions"])
            elif kind == "entry":
                for action in data:
                    if action["id"] not in self.known:
                        self.known.add(action["id"])
                        self.state = self.play(self.state, action)
            self.cursor = cursor
        kinds = [kind for kind, *_ in rows]
        read = [plural(kinds.count(kind), kind) for kind in ("snapshot", "entry") if kind in kinds]
        tell(self.name, self.colour, f"reads {' and '.join(read) or 'nothing'}: {', '.join(self.state)}")
        return kinds


def action_log(shop):
    chapter("A log of actions, rolled up while a device is away",
            "A shopping list: devices append what was done, and play it in the stream's order.")
    shop.run("SELECT sync.create_stream('shopping', 'actions')")
    fridge, car, watch = Shopper("fridge", 36), Shopper("car", 34), Shopper("watch", 32)
    fridge.do(("add", "milk"), ("add", "bread"))
    fridge.send()
    for device in (fridge, car, watch):
        device.pull()
    claim(fridge.state == car.state == watch.state == ["milk", "bread"], "three devices, one list")

    tell("", 0, "The watch loses the network.")
    watch.do(("drop", "bread"), ("add", "rye bread"))
    lost = list(watch.queue)
    watch.send()
    tell(watch.name, watch.colour, "sends it, and hears no answer")
    fridge.do(("add", "eggs"))
    fridge.send()
    car.do(("drop", "milk"))
    car.do(("add", "apples"))
    car.send()
    fridge.pull()

    counts = "SELECT count(*) FROM sync.entry_ids('shopping')"
    [(upto,)] = shop.run("SELECT at FROM sync.entries('shopping') WHERE kind = 'entry' ORDER BY at LIMIT 1 OFFSET 2", quiet=True)
    before = shop.ask(counts)
    shop.ask("SELECT sync.combine('shopping', %s)", upto)
    tell("shop", 33, f"SELECT sync.combine('shopping', '{upto}')   -- {before} entries become {shop.ask(counts)}")
    claim(fridge.pull() == ["up-to-date"], "whoever had its parts hears nothing of it")
    upto = shop.ask("SELECT at FROM sync.entries('shopping') WHERE kind = 'up-to-date'")
    shop.ask("SELECT sync.snapshot('shopping', %s, %s)", upto, json.dumps({"items": fridge.state, "actions": sorted(fridge.known)}))
    gone = shop.ask("SELECT sync.trim('shopping')")
    tell("fridge", 36, f"SELECT sync.snapshot('shopping', '{upto}', …)\nSELECT sync.trim('shopping')   -- {gone} entries went")
    claim(shop.ask(counts) == 0, "a snapshot holds what they held")
    car.do(("add", "pears"))
    car.send()

    tell("", 0, "The watch is back, and does not know that its entry arrived.")
    watch.queue = lost
    watch.do(("add", "tea"))
    claim(watch.send() == ["duplicate", "stored"], "the entry that is long trimmed away is known all the same")
    kinds = watch.pull()
    claim(kinds[0] == "snapshot" and kinds.count("entry") == 2, "one call: the snapshot, and what came after it")
    fridge.pull()
    car.pull()
    late = Shopper("new phone", 35)
    late.pull()
    claim(watch.state == fridge.state == car.state == late.state and sorted(late.state) == ["apples", "eggs", "pears", "rye bread", "tea"],
          "all have the same list, and so has a device that joins now")
