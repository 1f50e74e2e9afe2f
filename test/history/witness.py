"""What was committed, and in which order it may have become visible: enough to say of any key
whether a user could ever have read it.

Triggers note every change of a row, with its transaction.  After each step of the scheduler a
snapshot is taken: the first one that shows a transaction is the time of its commit.  Of
transactions that show up in the same one either may have been first, so whatever is asked is
answered in favour of who is accused: `never' means in no committed state whatever.
"""

import copy

NEVER = float("inf")


def create(cur, tables):
    """The triggers.  Every tracked table, and those that an access view reads, are in tables."""
    cur.execute("""
        CREATE SCHEMA witness;
        CREATE TABLE witness.event (seq bigserial, xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
          rel text NOT NULL, was jsonb, now jsonb);
        CREATE INDEX ON witness.event (xid);
        CREATE FUNCTION witness.note() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
          INSERT INTO witness.event (rel, was, now) VALUES (TG_ARGV[0],
            CASE WHEN TG_OP IN ('UPDATE', 'DELETE') THEN to_jsonb(OLD) END,
            CASE WHEN TG_OP IN ('INSERT', 'UPDATE') THEN to_jsonb(NEW) END);
          RETURN NULL;
        END $$""")
    for table in tables:
        for name, events, level in (("witness", "INSERT OR UPDATE OR DELETE", "ROW"),
                                    ("witness_truncate", "TRUNCATE", "STATEMENT")):
            cur.execute("CREATE TRIGGER %s AFTER %s ON %s FOR EACH %s"
                        " EXECUTE FUNCTION witness.note('%s')" % (
                            name, events, table.name, level, table.name))
            cur.execute("ALTER TABLE %s ENABLE ALWAYS TRIGGER %s" % (table.name, name))


class Span:
    """A time in which a row was what it says, from one commit to another."""

    __slots__ = ("row", "begun", "begun_by", "ended", "ended_by")

    def __init__(self, row, begun, begun_by):
        self.row = row
        self.begun, self.begun_by = begun, begun_by
        self.ended, self.ended_by = NEVER, None


def meets(a, b):
    """Whether there may have been a moment in both."""
    return (a.begun <= b.ended and a.begun_by != b.ended_by
            and b.begun <= a.ended and b.begun_by != a.ended_by)


class Witness:
    def __init__(self, tables):
        self.tables = {t.name: t for t in tables}
        self.spans = {t.name: {} for t in tables}
        self.time = 0
        self.blind = set()          # tables with rows that came and went unseen
        self.snapshot = "1:1:"

    def observe(self, conn):
        """One more snapshot, and what it shows for the first time."""
        self.time += 1
        with conn.cursor() as cur:
            cur.execute("SELECT pg_current_snapshot()::text, seq, xid::text, rel, was, now"
                        " FROM (SELECT) one LEFT JOIN witness.event"
                        " ON xid >= pg_snapshot_xmin(%s::pg_snapshot)"
                        " AND NOT pg_visible_in_snapshot(xid, %s::pg_snapshot)"
                        " ORDER BY seq", (self.snapshot, self.snapshot))
            rows = cur.fetchall()
        self.snapshot = rows[0][0]
        for _, seq, xid, rel, was, now in rows:
            if seq is not None:
                self.absorb(xid, rel, was, now)

    def absorb(self, xid, rel, was, now):
        """One change.  Those of one row come in their order: nobody changes a row that another
        has changed and not yet committed."""
        spans = self.spans[rel]
        if was is None and now is None:
            for key in list(spans):
                self.end(spans, key, xid)
            return
        table = self.tables[rel]
        if was is not None and now is not None:
            if self.says(table, was) == self.says(table, now):
                return
        if was is not None:
            self.end(spans, table.key_of(was), xid)
        if now is not None:
            spans.setdefault(table.key_of(now), []).append(
                Span(self.says(table, now), self.time, xid))

    @staticmethod
    def says(table, row):
        return {c: row.get(c) for c in table.key + table.scope + (
            [table.deleted_at] if table.deleted_at else [])}

    def end(self, spans, key, xid):
        of_key = spans.get(key)
        if of_key and of_key[-1].ended is NEVER:
            if of_key[-1].begun_by == xid:
                of_key.pop()            # came and went in one transaction
            else:
                of_key[-1].ended, of_key[-1].ended_by = self.time, xid

    def plus(self, own):
        """The same with what the reader's own transaction has done so far: each of its changes is
        a state that the reader could look at."""
        if not own:
            return self
        other = copy.copy(self)
        other.spans = copy.deepcopy(self.spans)
        for number, (rel, was, now) in enumerate(own):
            other.time += 1
            other.absorb("own %d" % number, rel, was, now)
        return other

    # questions

    def of_table(self, name):
        return (span for spans in self.spans[name].values() for span in spans)

    def could_read(self, sub, key, since):
        """Whether there was a committed state after `since' in which the row was there and the
        user had the right to it."""
        if sub.table.name in self.blind:
            return True
        for span in self.spans[sub.table.name].get(key, ()):
            if (span.ended <= since or not sub.policy_allows(span.row)
                    or sub.table.deleted_at and span.row[sub.table.deleted_at] is not None):
                continue
            if sub.user is None or self.had(sub, span.row, since, span):
                return True
        return False

    def had(self, sub, scope, since, during=None):
        """Whether the user had the scope in a committed state after `since'."""
        for spans in sub.access.grants(self, sub.user, scope):
            every = list(spans) + ([during] if during else [])
            if (all(s.ended > since for s in every)
                    and all(meets(a, b) for n, a in enumerate(every) for b in every[:n])):
                return True
        return False

    def rights_changed(self, sub, since):
        """Whether anything was granted to the user or taken from it after `since'."""
        return any(span.begun > since or since < span.ended < NEVER
                   for span in sub.access.rows_of(self, sub.user))
