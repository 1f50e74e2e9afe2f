#!/usr/bin/python3
"""The wire format of set reconciliation, from its published description.

What is written down in the description of the Negentropy protocol, version 1,
is done here once more, in the plainest way: every range that differs is split
into 16 parts, and every list of ids is answered with the whole list. Messages
of src/reconset.c are compared with it byte by byte where the description
leaves no choice, and the two talk to each other, in both roles.

    wire.py CHECK       CHECK is the program made of check.c
"""
import bisect
import hashlib
import random
import subprocess
import sys

VERSION = 0x61
INFINITY = 2 ** 64 - 1
SKIP, FINGERPRINT, ID_LIST = 0, 1, 2
LOWEST = (0, bytes(32))
ABOVE_ALL = (INFINITY, bytes(32))


def varint(value):
    digits = [value & 127]
    while value := value >> 7:
        digits.append(value & 127 | 128)
    return bytes(reversed(digits))


def fingerprint(ids):
    total = sum(int.from_bytes(i, "little") for i in ids) % 2 ** 256
    return hashlib.sha256(total.to_bytes(32, "little") + varint(len(ids))).digest()[:16]


class Message:
    """One that is being written: ranges, in order."""

    def __init__(self):
        self.bytes = bytearray([VERSION])
        self.timestamp = 0
        self.end = LOWEST

    def range(self, lower, upper, mode, payload=b""):
        if lower > self.end:
            self.bound(lower)
            self.bytes += varint(SKIP)
        self.bound(upper)
        self.bytes += varint(mode) + payload
        self.end = upper

    def bound(self, bound):
        timestamp, prefix = bound
        if timestamp == INFINITY:
            self.bytes += varint(0) + varint(0)
            return
        prefix = prefix.rstrip(b"\0")
        self.bytes += varint(1 + timestamp - self.timestamp) + varint(len(prefix)) + prefix
        self.timestamp = timestamp


def ranges(message):
    """(lower, upper, mode, payload) of each range of a message."""
    at, timestamp, lower = 1, 0, LOWEST

    def number():
        nonlocal at
        value = 0
        while True:
            value = value << 7 | message[at] & 127
            at += 1
            if message[at - 1] < 128:
                return value

    def take(n):
        nonlocal at
        at += n
        assert at <= len(message)
        return bytes(message[at - n:at])

    assert message[0] == VERSION
    while at < len(message):
        encoded = number()
        prefix = take(number()).ljust(32, b"\0")
        upper = ABOVE_ALL
        if encoded:
            timestamp += encoded - 1
            upper = (timestamp, prefix)
        mode = number()
        payload = {SKIP: lambda: b"", FINGERPRINT: lambda: take(16),
                   ID_LIST: lambda: [take(32) for _ in range(number())]}[mode]()
        assert lower <= upper
        yield lower, upper, mode, payload
        lower = upper


def between(below, item):
    """The shortest bound that separates two items."""
    if below[0] != item[0]:
        return item[0], bytes(32)
    common = next(i for i in range(32) if below[1][i] != item[1][i])
    return item[0], item[1][:common + 1].ljust(32, b"\0")


class Plain:
    """Either side, as the description has it."""

    def __init__(self, items):
        self.items = sorted(items)
        self.have, self.need = set(), set()

    def within(self, lower, upper):
        return self.items[bisect.bisect_left(self.items, lower):
                          bisect.bisect_left(self.items, upper)]

    def split(self, out, lower, upper, items):
        if len(items) < 32:
            out.range(lower, upper, ID_LIST, varint(len(items)) + b"".join(i[1] for i in items))
            return
        at, low = 0, lower
        for part in range(16):
            size = len(items) // 16 + (part < len(items) % 16)
            high = upper if part == 15 else between(items[at + size - 1], items[at + size])
            out.range(low, high, FINGERPRINT, fingerprint([i[1] for i in items[at:at + size]]))
            at, low = at + size, high

    def initiate(self):
        out = Message()
        self.split(out, LOWEST, ABOVE_ALL, self.items)
        return bytes(out.bytes)

    def answer(self, message, initiator):
        out = Message()
        for lower, upper, mode, payload in ranges(message):
            items = self.within(lower, upper)
            ids = [i[1] for i in items]
            if mode == FINGERPRINT and payload != fingerprint(ids):
                self.split(out, lower, upper, items)
            elif mode == ID_LIST and initiator:
                self.have |= set(ids) - set(payload)
                self.need |= set(payload) - set(ids)
            elif mode == ID_LIST:
                out.range(lower, upper, ID_LIST, varint(len(ids)) + b"".join(ids))
        return bytes(out.bytes)

    def respond(self, message):
        return self.answer(message, False)

    def proceed(self, message):
        answer = self.answer(message, True)
        return answer if len(answer) > 1 else None


class Ours:
    """Either side, by src/reconset.c."""

    def __init__(self, program, items, limit=0):
        self.process = subprocess.Popen([program, "peer"], text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)
        self.limit = limit
        self.have, self.need = set(), set()
        for timestamp, id in items:
            self.process.stdin.write(f"add {timestamp} {id.hex()}\n")

    def ask(self, command, message=b""):
        self.process.stdin.write(f"{command} {self.limit} {message.hex()}\n")
        self.process.stdin.flush()
        while True:
            word, _, value = self.process.stdout.readline().rstrip("\n").partition(" ")
            if word in ("have", "need"):
                getattr(self, word).add(bytes.fromhex(value))
            elif word == "message":
                return bytes.fromhex(value)
            else:
                assert value == "done", value
                return None

    def initiate(self):
        return self.ask("initiate")

    def respond(self, message):
        return self.ask("respond", message)

    def proceed(self, message):
        return self.ask("continue", message)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def talk(client, server):
    """Bytes and round trips until the client knows all."""
    message, size, trips = client.initiate(), 0, 0
    while message is not None:
        trips += 1
        assert trips < 100000
        answer = server.respond(message)
        size += len(message) + len(answer)
        message = client.proceed(answer)
    return size, trips


def check(program):
    passed = failed = 0

    def report(good, what):
        nonlocal passed, failed
        passed, failed = passed + good, failed + (not good)
        if not good:
            print("FAILED:", what)

    def same(got, expected, what):
        report(got == expected, f"{what}: {got!r} instead of {expected!r}")

    def ours(items, method, *args, limit=0):
        peer = Ours(program, items, limit)
        result = getattr(peer, method)(*args)
        peer.close()
        return result

    # The numbers of the description's format, by hand.
    same(varint(0), b"\x00", "varint")
    same(varint(127), b"\x7f", "varint")
    same(varint(128), b"\x81\x00", "varint")
    same(varint(2 ** 64 - 1), b"\x81" + b"\xff" * 8 + b"\x7f", "varint")

    # Messages in which nothing is left to choose.
    one = (0, bytes(range(32)))
    same(ours([], "initiate"), bytes.fromhex("6100000200"), "the empty set")
    same(ours([one], "initiate"), bytes.fromhex("6100000201") + one[1], "a single id")
    same(ours([one], "respond", b"\x62\x00\x00\x00"), b"\x61", "a version to come")
    same(ours([one], "respond", b"\x61"), b"\x61", "nothing to do")
    same(ours([one], "respond", bytes.fromhex("6100000200")),
         bytes.fromhex("6100000201") + one[1], "a list for an empty one")
    rng = random.Random(1)
    for size in (1, 2, 5, 16, 127, 128, 300, 20000):
        items = [(0, rng.randbytes(32)) for _ in range(size)]
        ids = [i[1] for i in items]
        agreed = b"\x61\x00\x00\x01" + fingerprint(ids)
        same(ours(items, "respond", agreed), b"\x61", f"the fingerprint of {size} ids")
        report(ours(items, "respond", agreed[:-1] + bytes([agreed[-1] ^ 1])) != b"\x61",
               f"another fingerprint than that of {size} ids")
        without = sorted(items)
        lone = without.pop(size // 2)
        answer = ours(items, "respond", b"\x61\x00\x00\x01" + fingerprint([i[1] for i in without]))
        if size <= 256:
            lists = [r for r in ranges(answer) if r[2] != SKIP]
            report(len(lists) == 1 and lists[0][3] == [lone[1]] and
                   lists[0][0] <= lone < lists[0][1], f"the one of {size} ids that is missing there")
    high = [(2 ** 64 - 2, bytes(32)), (2 ** 64 - 2, bytes([255] * 32)), (0, bytes(31) + b"\1")]
    same(ours(high, "initiate"), bytes.fromhex("6100000203") + high[2][1] + high[0][1] + high[1][1],
         "the order of timestamps")

    # Both roles against the plain implementation.
    for seed in range(60):
        rng = random.Random(seed)
        times = rng.choice([1, 1, 30])
        item = lambda: (rng.randrange(times), rng.randbytes(32))
        common = [item() for _ in range(rng.choice([0, 1, 30, 500, 4000]))]
        mine = [item() for _ in range(rng.choice([0, 1, 3, 60, 900]))]
        theirs = [item() for _ in range(rng.choice([0, 1, 3, 60, 900]))]
        limit = rng.choice([0, 0, 4096, 6000])
        for role in ("initiator", "responder", "both"):
            client = (Plain if role == "responder" else lambda i: Ours(program, i, limit))(common + mine)
            server = (Plain if role == "initiator" else lambda i: Ours(program, i, limit))(common + theirs)
            try:
                talk(client, server)
                good = (client.have == {i[1] for i in mine} and client.need == {i[1] for i in theirs})
            except AssertionError as error:
                good = False
                print(error)
            report(good, f"{role}, seed {seed}: {len(common)} common, {len(mine)} and {len(theirs)} alone")
            for peer in (client, server):
                if isinstance(peer, Ours):
                    peer.close()

    # What the server's side saves for those who split as plainly as this does.
    rng = random.Random(0)
    common = [(0, rng.randbytes(32)) for _ in range(100000)]
    mine = [(0, rng.randbytes(32)) for _ in range(10)]
    theirs = [(0, rng.randbytes(32)) for _ in range(10)]
    for name, client, server in (
            ("plain with plain", Plain(common + mine), Plain(common + theirs)),
            ("plain with ours", Plain(common + mine), Ours(program, common + theirs)),
            ("ours with ours", Ours(program, common + mine), Ours(program, common + theirs))):
        size, trips = talk(client, server)
        print(f"100000 ids, 10 and 10 alone, {name}: {size} bytes, {trips} round trips")
        report(client.have == {i[1] for i in mine} and client.need == {i[1] for i in theirs}, name)

    print(f"{passed} passed, {failed} failed")
    return failed


if __name__ == "__main__":
    sys.exit(1 if check(sys.argv[1]) else 0)
