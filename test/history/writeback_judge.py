"""What must be true of a history, from the trail of all changes and all answers that were committed,
whoever heard them:

  - a mutation that was applied took effect once, whatever was lost and sent again; one that was not
    took none, and was refused with a reason;
  - what it wrote is what it said, and under "merge" the columns that only its author changed;
  - it wrote over no version that its author did not know, unless its policy says so; and it was in
    conflict only where somebody else had changed the row;
  - all or nothing was all or nothing;
  - the answer told the row's final version.
"""

import json

from writeback_client import Wrong, millis
from writeback_world import BY_NAME


class Entry:
    """One committed change of one row."""

    def __init__(self, number, xid, domain, old, new, client, depth):
        self.number = number
        self.xid = xid
        self.table = BY_NAME[domain]
        self.old = old
        self.new = new
        self.client = client
        self.depth = depth

    def __repr__(self):
        return "%d xid %s %s by %s%s: %s -> %s" % (
            self.number, self.xid, self.table.name, self.client, " (below)" if self.depth > 1 else "",
            json.dumps(self.old, sort_keys=True), json.dumps(self.new, sort_keys=True))


def clean(value):
    return value.rstrip() if isinstance(value, str) else value


class Judge:
    def __init__(self, world, connection):
        self.world = world
        self.by_row = {}            # (domain, key): its entries
        self.by_xid = {}
        self.by_token = {}          # text: entries that wrote it
        with connection.cursor() as cur:
            cur.execute("SELECT id, xid::text, domain, old, new, client, depth FROM trail ORDER BY id")
            self.trail = [Entry(*row) for row in cur.fetchall()]
            cur.execute("SELECT id, client, kind, request, answer, xid::text FROM call ORDER BY at")
            self.calls = cur.fetchall()
        for entry in self.trail:
            names = {entry.table.name_of(r) for r in (entry.old, entry.new) if r is not None}
            for name in names:
                self.by_row.setdefault((entry.table.name, name), []).append(entry)
            self.by_xid.setdefault(entry.xid, []).append(entry)
            for column in entry.table.texts:
                if entry.new is not None and entry.new[column] is not None:
                    token = clean(entry.new[column])
                    if entry.old is None or clean(entry.old[column]) != token:
                        entries = self.by_token.setdefault(token, [])
                        if entry not in entries:
                            entries.append(entry)
        self.author = {}            # client, by transaction
        self.last_sync = {}         # of each session
        self.direct = set()         # (xid, domain, key): what mutations wrote, not only triggers
        self.answers = {}           # mutation: [(call, request, its JSON, result)]
        self.real = {}

    def wrong(self, m, what, *entries):
        lines = ["  answers: %s" % ", ".join("%s %s" % (call[0], json.dumps(result, sort_keys=True))
                                            for call, _, result in self.answers.get(m.name, ()))]
        for entry in entries:
            rows = self.by_row[(entry.table.name, entry.table.name_of(entry.new or entry.old))]
            lines += ["  trail: %r" % e for e in rows if abs(e.number - entry.number) < 60]
            break
        raise Wrong("mutation %r: %s\n%s" % (m, what, "\n".join(lines)))

    def judge(self):
        for call in self.calls:
            name, client, kind, request, answer, xid = call
            self.author[xid] = client
            if kind == "begin":
                self.last_sync[answer["session"]] = answer["last_sync"]
            if kind == "reconcile":
                for domain, part in answer["domains"].items():
                    for key in [s["key"] for s in part["stored"]] + part["deleted"]:
                        self.direct.add((xid, domain, BY_NAME[domain].name_of(key)))
            if kind != "push":
                continue
            results = answer["results"]
            for sent, result in zip(request["mutations"], results):
                if result["status"] == "applied":
                    table = BY_NAME[sent["domain"]]
                    self.direct.add((xid, table.name, table.name_of(result["key"])))
            for sent, result in zip(request["mutations"], results):
                m = self.mutation(client, sent)
                if m is None:
                    raise Wrong("call %s holds a mutation that nobody made: %r" % (name, sent))
                self.answers.setdefault(m.name, []).append((call, sent, result))
                if result.get("local_id") and result["status"] in ("applied", "duplicate"):
                    known = self.real.setdefault((client, m.table.name, result["local_id"]), result["key"])
                    if known != result["key"]:
                        self.wrong(m, "its provisional key stands for %r and %r" % (known, result["key"]))
        for m in self.world.mutations.values():
            self.one(m)
        for call in self.calls:
            if call[2] == "push":
                self.whole(call)
            elif call[2] == "reconcile" and call[3].get("dry_run"):
                if call[5] in self.by_xid:
                    raise Wrong("the dry run %s changed %r" % (call[0], self.by_xid[call[5]]))
            elif call[2] == "reconcile":
                self.reconciled(call)
        self.rights()
        self.sessions()

    def mutation(self, client, sent):
        """Whose request it was. Its texts are its own name, or, of an upsert, what was there."""
        data = sent.get("data") or {}
        names = [clean(v) for v in data.values() if isinstance(v, str)] + [sent.get("id")]
        for name in names:
            found = self.world.mutations.get(name)
            if found is None or name.split("-")[0] != client:
                continue
            if dict(found.json(), id=None) == dict(sent, id=None):
                return found
        return self.world.mutations.get(str(sent.get("id")).split(" ")[0])

    # one mutation

    def one(self, m):
        answers = self.answers.get(m.name, ())
        statuses = [result["status"] for _, _, result in answers]
        if m.sent and m.end is None:
            self.wrong(m, "it was sent, and never answered for good")
        if m.end is not None and m.end["status"] == "retry":
            self.wrong(m, "its author gave up for a passing reason")
        if not m.sent and not m.reconciles:
            self.wrong(m, "it was never sent")
        if m.loose:
            statuses = []
        if statuses.count("applied") > 1:
            self.wrong(m, "it was applied %d times" % statuses.count("applied"))
        if "duplicate" in statuses and "applied" not in statuses:
            self.wrong(m, "a duplicate of nothing")
        if "applied" in statuses:
            for status in statuses[statuses.index("applied") + 1:]:
                if status != "duplicate":
                    self.wrong(m, "applied, and then %s" % status)
        for call, sent, result in answers:
            self.result(m, call, sent, result)
        if m.op != "delete":
            self.effects(m, answers)

    def effects(self, m, answers):
        entries = [e for e in self.by_token.get(m.name, ()) if e.table is m.table]
        applied = [a for a in answers if a[2]["status"] == "applied"]
        if len(entries) > len(applied) + m.reconciles and not m.loose:
            self.wrong(m, "it took effect %d times, and was applied %d times" % (
                len(entries), len(applied)), *entries)
        for call, sent, result in applied:
            mine = [e for e in entries if e.xid == call[5]]
            if len(mine) != 1:
                if m.reconciles or m.loose or not entries and self.nothing_to_write(m, sent, call):
                    continue
                self.wrong(m, "applied, and there are %d effects in that transaction" % len(mine), *entries)
            self.written(m, call, sent, result, mine[0])
        for entry in entries:
            if entry.client != m.name.split("-")[0]:
                self.wrong(m, "somebody else wrote it", entry)

    def nothing_to_write(self, m, sent, call):
        """A merge of nothing, or a row that came and went within the statement."""
        return call[3]["policy"] == "merge" and "assumed" in sent

    # over which version

    def before(self, entry):
        """What the row's history was before an entry, newest first."""
        name = entry.table.name_of(entry.old)
        rows = self.by_row[(entry.table.name, name)]
        return rows[rows.index(entry) - 1::-1] if rows.index(entry) else []

    def known(self, history, client, base):
        """Whether its author knew the row as the history left it: the version was its base, or came
        about by its own doing."""
        for entry in history:
            if entry.new is not None and base is not None and millis(entry.new["modified_at"]) == millis(base):
                return True
            if entry.client != client and self.author.get(entry.xid) != client:
                return False
            row = entry.new or entry.old
            if entry.depth == 1 and (entry.xid, entry.table.name, entry.table.name_of(row)) in self.direct:
                return True
        return False

    def by_since(self, call, sent):
        """Whether what its author knew is what was there at a cursor."""
        return "base" not in sent and "assumed" not in sent and (
            "since" in call[3] or self.last_sync.get(call[3].get("session")) is not None)

    def basis(self, m, call, sent):
        if "base" in sent:
            return sent["base"]
        if self.by_since(call, sent):
            return self.world.held.get(call[0], {}).get(m.name)
        return None

    def data(self, m, sent):
        """What it said, with real keys."""
        data = dict(sent.get("data") or {})
        client = m.name.split("-")[0]
        for column, other in m.table.references.items():
            key = self.real.get((client, other, data.get(column)))
            if key is not None:
                data[column] = key["id"]
        if m.table.made and "id" in data:
            key = self.real.get((client, m.table.name, data["id"]))
            if key is not None:
                data["id"] = key["id"]
        return data

    def written(self, m, call, sent, result, entry):
        policy = call[3]["policy"]
        client = call[1]
        old, new = entry.old, entry.new
        data = self.data(m, sent)
        by_since = self.by_since(call, sent)
        blind = "base" not in sent and "assumed" not in sent and not by_since
        if old is None:
            if m.op == "update":
                self.wrong(m, "an update made a row", entry)
            whole = True
        else:
            history = self.before(entry)
            known = self.known(history, client, self.basis(m, call, sent))
            if "assumed" in sent and all(old[c] == v for c, v in sent["assumed"].items()):
                known = True
            if by_since and self.basis(m, call, sent) is None:
                known = True        # a row that it does not hold, and that nobody changed since
            if blind and m.op in ("update", "delete"):
                known = True
            whole = known or policy in ("client_wins", "newer_wins")
            if not known and policy == "newer_wins" and "at" not in sent:
                self.wrong(m, "it won as the newer one, and says no time", entry)
            if not whole and policy != "merge":
                self.wrong(m, "it wrote over what its author did not know (policy %s)" % policy, entry)
            if not whole and "assumed" not in sent:
                self.wrong(m, "it was merged, and assumed nothing", entry)
        for column, value in data.items():
            if column not in new or column in ("modified_at", "loud"):
                continue
            mine = clean(value)
            if whole:
                good = clean(new[column]) == mine
            elif column not in sent["assumed"]:
                good = old[column] == new[column] == mine
            elif old[column] == sent["assumed"][column]:
                good = clean(new[column]) == mine
            else:
                good = new[column] == old[column] and (
                    mine in (clean(old[column]), clean(sent["assumed"][column])))
            if not good and policy == "merge" and column in sent.get("assumed", ()):
                good = new[column] == old[column] and mine == clean(sent["assumed"][column])
            if not good:
                self.wrong(m, "it left %s = %r (merged: %s)" % (column, new[column], not whole), entry)
        if old is not None:
            for column in old:
                if column not in data and column not in ("modified_at", "loud", "deleted_at") and old[column] != new[column]:
                    self.wrong(m, "it changed %s, of which it said nothing" % column, entry)

    # an answer

    EXPECTED = {"23503", "23505", "40000", "40001", "40P01"}

    def result(self, m, call, sent, result):
        status = result["status"]
        if status in ("rejected", "retry"):
            if not result.get("sqlstate") or not result.get("message"):
                self.wrong(m, "it was refused without a reason")
        elif "key" not in result:
            self.wrong(m, "it is %s without a key" % status)
        if m.poison and not m.poison.endswith("?"):
            if status != "rejected" or result["sqlstate"] != m.poison and not (
                    result["sqlstate"] == "42501" and self.may_be_denied(call[1], m)):
                self.wrong(m, "it has to be refused with %s" % m.poison)
            return
        if status == "rejected":
            allowed = set(self.EXPECTED)
            if m.poison:
                allowed.add(m.poison[:-1])
            if any(isinstance(v, str) and v.startswith("L-") for part in (sent.get("key"), sent.get("data"))
                   for v in (part or {}).values()):
                allowed.add("22P02")        # what it refers to was refused
            if call[3]["policy"] == "newer_wins" and "at" not in sent:
                allowed.add("22023")
            if self.may_be_denied(call[1], m):
                allowed |= {"42501", "09000"}
            if result["sqlstate"] not in allowed:
                self.wrong(m, "it was refused: %r" % result)
            if result["sqlstate"] == "23503":
                self.dangling(m, call, sent)
        elif status == "conflict":
            self.in_conflict(m, call, sent, result)
        elif status == "superseded":
            if not any(r["status"] == "applied" and s.get("id") != sent.get("id")
                       for a in self.answers.values() for c, s, r in a if c[1] == call[1]):
                self.wrong(m, "superseded by nothing")
        if m.poison and status == "applied" and m.data.get("n") == 5000:
            self.wrong(m, "a constraint was broken")
        if status == "applied":
            self.told(m, call, result)

    def may_be_denied(self, client, m):
        """Whether its author lacks a right that it may need: an upsert needs two, a soft deletion
        another than a deletion."""
        who = next(c for c in self.world.clients if c.name == client)
        return who.role and any(table == m.table.name for _, table in self.world.denied)

    def rights(self):
        """Nobody did what its role may not."""
        roles = {c.name for c in self.world.clients if c.role}
        for entry in self.trail:
            if entry.client not in roles or entry.depth > 1 or (
                    entry.xid, entry.table.name, entry.table.name_of(entry.new or entry.old)) not in self.direct:
                continue
            if entry.new is None and entry.table.references or entry.old and entry.new and any(
                    entry.new[c] is None and entry.old[c] is not None for c in entry.table.references):
                continue            # a foreign key's own doing
            needs = "INSERT" if entry.old is None else "DELETE" if entry.new is None else "UPDATE"
            if (needs, entry.table.name) in self.world.denied:
                raise Wrong("its author may not %s: %r" % (needs, entry))
            if ("ROWS", entry.table.name) in self.world.denied and any(
                    row is not None and (row["owner"] or 3) >= 3 for row in (entry.old, entry.new)):
                raise Wrong("its author may not see the row: %r" % entry)

    # a reconcile

    def reconciled(self, call):
        """What was changed is stored, deleted, refused, or asked for; each once."""
        name, client, _, request, answer, xid = call
        for domain, asked in request["domains"].items():
            table = BY_NAME[domain]
            said = answer["domains"][domain]
            places = {}
            for place in ("stored", "deleted", "send", "refused"):
                for item in said[place]:
                    key = table.name_of(item if place in ("deleted", "send") else item["key"])
                    places.setdefault(key, []).append(place)
            for row in asked["rows"]:
                key = table.name_of(row["key"])
                at = places.get(key, [])
                changed = "data" in row or "deleted_at" in row
                if len(at) > 1 or changed and len(at) != 1:
                    raise Wrong("call %s: %s %s is in %r" % (name, domain, key, at))
                if not changed:
                    if at and at != ["send"]:
                        raise Wrong("call %s: %s %s was not changed, and is in %r" % (name, domain, key, at))
                    continue
                if at == ["stored"]:
                    self.stored(call, table, key, row)
        asked = {(d, BY_NAME[d].name_of(r["key"])) for d, part in request["domains"].items()
                 for r in part["rows"] if "deleted_at" in r}
        for entry in self.by_xid.get(xid, ()):
            if entry.new is None and not entry.table.references and (
                    entry.table.name, entry.table.name_of(entry.old)) not in asked:
                raise Wrong("call %s: nobody asked for it: %r" % (name, entry))

    def stored(self, call, table, key, row):
        name, client, _, request, _, xid = call
        entries = [e for e in self.by_row.get((table.name, key), ()) if e.xid == xid and e.depth == 1]
        if not entries:
            return
        first, last = entries[0], entries[-1].new
        if first.old is not None and request["policy"] in ("reject", "merge") and "assumed" not in row:
            if not self.known(self.before(first), client, row.get("modified_at")):
                raise Wrong("call %s: it wrote over what its author did not know: %r" % (name, first))
        if last is not None and "assumed" not in row:
            for column, value in row["data"].items():
                if column in last and column not in table.references and clean(last[column]) != clean(value):
                    raise Wrong("call %s: %s %s was to be %r: %r" % (name, key, column, value, entries[-1]))

    def told(self, m, call, result):
        """The final version of the row, and the row itself where it is told."""
        name = m.table.name_of(result["key"])
        entries = [e for e in self.by_row.get((m.table.name, name), ()) if e.xid == call[5]]
        if not entries or m.op == "delete" or call[0] in self.world.repeatable:
            return                  # (an old snapshot sees deleted rows beside new ones)
        last = entries[-1].new
        if last is not None and m.table.name_of(last) != name:
            return
        if last is None:
            if "modified_at" in result:
                self.wrong(m, "it says %r of a row that is gone" % result, entries[-1])
        elif result.get("modified_at") is not None and millis(result["modified_at"]) != millis(last["modified_at"]):
            self.wrong(m, "the row's version is another: %r" % result, entries[-1])
        elif result.get("data") is not None and result["data"] != last:
            self.wrong(m, "the row is another than is told: %r" % result, entries[-1])

    def in_conflict(self, m, call, sent, result):
        """Somebody else must have changed the row."""
        policy = call[3]["policy"]
        if policy == "client_wins" and m.op != "update":
            self.wrong(m, "a conflict, though the client wins: %r" % result)
        there = result.get("data")
        name = m.table.name_of(result["key"])
        mine = [s for s in call[3]["mutations"] if s["domain"] == m.table.name]
        if there is None or len(mine) > 1:
            return
        rows = self.by_row.get((m.table.name, name), ())
        at = [i for i, e in enumerate(rows) if e.new is not None and
              millis(e.new["modified_at"]) == millis(there["modified_at"])]
        if not at:
            return
        history = rows[at[-1]::-1]
        if "base" in sent and self.known(history, call[1], sent["base"]):
            self.wrong(m, "a conflict with nobody: %r" % result, rows[at[-1]])
        if "assumed" in sent:
            assumed = sent["assumed"]
            if all(there.get(c) == v for c, v in assumed.items()):
                self.wrong(m, "a conflict, though the row is as assumed: %r" % result, rows[at[-1]])
            if policy == "merge" and m.op != "delete" and there.get("deleted_at") is None:
                data = self.data(m, sent)
                for column, value in data.items():
                    if column in m.table.key and value != there[column]:
                        return          # a key that moves is not merged
                    if column in ("modified_at", "loud"):
                        continue
                    if there[column] != value and assumed.get(column, there) != value and (
                            assumed.get(column, there) != there[column]):
                        return
                self.wrong(m, "a conflict, though it can be merged: %r" % result, rows[at[-1]])

    def dangling(self, m, call, sent):
        """What it refers to must be missing."""
        data = self.data(m, dict(sent, data=dict(sent.get("data") or {}, **(sent.get("key") or {}))))
        for column, other in m.table.references.items():
            if data.get(column) is None:
                continue
            key = json.dumps({"id": data[column]}, sort_keys=True)
            entries = self.by_row.get((other, key), ())
            if not entries or any(e.new is None or BY_NAME[other].name_of(e.new) != key for e in entries):
                return
            start = self.by_xid.get(call[5])
            if start and entries[0].number > start[0].number or not start:
                return
        if m.op == "update" or m.op == "delete":
            return
        if m.table.references:
            self.wrong(m, "refused for a reference, and what it refers to is there")

    # a whole push

    def whole(self, call):
        name, client, _, request, answer, xid = call
        statuses = {r["status"] for r in answer["results"]}
        entries = self.by_xid.get(xid, ())
        if request.get("atomic") == "all" and statuses & {"conflict", "rejected", "retry"}:
            if "applied" in statuses:
                raise Wrong("call %s: some of all or nothing: %r" % (name, answer["results"]))
            if entries:
                raise Wrong("call %s: nothing was to be applied, and there is %r" % (name, entries))
        if "applied" not in statuses and entries:
            raise Wrong("call %s: nothing was applied, and there is %r" % (name, entries))
        self.deletions(call, entries)

    def deletions(self, call, entries):
        """As many as were applied, but for what goes with its parent."""
        name, client, _, request, answer, xid = call
        last = {}
        for sent, result in zip(request["mutations"], answer["results"]):
            if result["status"] == "applied":
                table = BY_NAME[sent["domain"]]
                last[(table.name, table.name_of(result["key"]))] = sent["op"]
        gone = set()
        for entry in entries:
            table = entry.table
            row = entry.new if entry.new is not None and table.deleted_at is None else entry.old
            deleted = entry.new is None or table.deleted_at and entry.new.get("deleted_at") and not (
                entry.old and entry.old.get("deleted_at"))
            if not deleted:
                continue
            key = (table.name, table.name_of(entry.old or entry.new))
            gone.add(key)
            wanted = any(s["domain"] == table.name and s["op"] == "delete" and r["status"] == "applied"
                         and (table.name, table.name_of(r["key"])) == key
                         for s, r in zip(request["mutations"], answer["results"]))
            if not wanted and not table.references:
                raise Wrong("call %s: nobody asked for it: %r" % (name, entry))
        for (domain, key), op in last.items():
            if op != "delete":
                continue
            rows = self.by_row.get((domain, key), ())
            of_call = [e for e in rows if e.xid == xid]
            if of_call and of_call[-1].old is not None and BY_NAME[domain].name_of(of_call[-1].old) != key:
                continue            # another row moved there when it was gone
            if of_call and of_call[-1].new is not None and BY_NAME[domain].name_of(of_call[-1].new) == key:
                table = BY_NAME[domain]
                if not (table.deleted_at and of_call[-1].new.get(table.deleted_at)):
                    raise Wrong("call %s: deleted, and there: %r" % (name, of_call[-1]))

    # sessions

    def sessions(self):
        last, ended = {}, set()
        for name, client, kind, request, answer, _ in self.calls:
            if kind == "end" and request["session"] not in ended:
                ended.add(request["session"])
                last[client] = (request["session"], request["last"])
            elif kind == "begin":
                expected = last.get(client, (None, None))[1]
                if answer["last_sync"] != expected:
                    raise Wrong("call %s: last_sync is %s, and the last session was ended with %s" % (
                        name, answer["last_sync"], expected))
