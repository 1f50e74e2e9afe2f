"""Where a client's deltas come from.

Extension asks sync_ext.  Model is a stand-in made of plain SQL, with triggers and a log, whose
cursor can be chosen: the sound one (a full snapshot that does not count the own transaction as
seen) and several unsound ones, which the checker has to catch.

An answer is a list of (op, key, data, modified_at, cursor), as sync.changes gives it.
"""

import json

from pg import quote
from world import OTHER_DDL


def create_tables(cur, tables):
    names = {t.name for t in tables}
    for table in tables:
        cur.execute(table.ddl)
    if "orders" in names:
        for sql in OTHER_DDL:
            if "node" not in sql or "node" in names:
                cur.execute(sql)


def oracle(sub):
    """What the client should hold, as one column of documents."""
    table = sub.table
    where = "(%s)" % sub.filter.inline()
    if table.deleted_at:
        where += " AND %s IS NULL" % table.deleted_at
    if table.source:
        return "SELECT to_jsonb(d) FROM %s d WHERE d.id IN (SELECT id FROM %s WHERE %s)" % (
            table.source, table.name, where)
    return "SELECT to_jsonb(t) FROM %s t WHERE %s" % (table.name, where)


class Extension:
    """sync_ext itself."""

    without = frozenset()
    adds_only = True            # what a transaction does after it has read
    name = "sync_ext"

    def create(self, server, tables):
        conn = server.sync()
        with conn.cursor() as cur:
            cur.execute("CREATE EXTENSION sync_ext")
            create_tables(cur, tables)
            names = {t.name for t in tables}
            for table in tables:
                cur.execute("SELECT sync.track(%s, scope => %s, deleted_at => %s, source => %s)",
                            (table.name, table.scope, table.deleted_at, table.source))
            if "orders" in names:
                cur.execute("SELECT sync.cascade('line', 'orders')")
                cur.execute("SELECT sync.cascade('remark', 'orders', '{order_id}')")
            if "node" in names:
                cur.execute("SELECT sync.cascade('node', 'node')")
        conn.close()

    def rare(self, kind, table, sql):
        return sql

    def question(self, sub, since, client, exclude, max_rows):
        args = [quote(sub.table.domain)]
        if since is not None:
            args.append("since => " + since)
        if sub.filter.sql is not None:
            args.append("filter => " + quote(sub.filter.sql))
            if sub.filter.params:
                args.append("params => " + quote(sub.filter.params))
        if client is not None:
            args.append("client => " + quote(client))
        if exclude is not None:
            args.append("exclude => " + quote(json.dumps(exclude)) + "::jsonb")
        if max_rows is not None:
            args.append("max_rows => %d" % max_rows)
        return "sync.changes(" + ", ".join(args) + ")"

    def fetch(self, sub, since, client=None, exclude=None, max_rows=None, check=True):
        """A coroutine: the answer, and with check the oracle's rows under the same snapshot."""
        sql = ("SELECT nr, op, key, data, to_jsonb(modified_at), cursor::text FROM %s"
               " WITH ORDINALITY AS c (op, key, data, modified_at, cursor, nr)"
               % self.question(sub, since, client, exclude, max_rows))
        if check:
            sql = ("WITH answer AS MATERIALIZED (%s) SELECT * FROM answer UNION ALL"
                   " SELECT 0, 'oracle', NULL, o.*, NULL, NULL FROM (%s) o" % (sql, oracle(sub)))
        rows = sorted((yield sql), key=lambda r: r[0])
        return ([r[1:] for r in rows if r[0] > 0],
                [r[3] for r in rows if r[0] == 0] if check else None)

    def bootstrap(self, sub):
        rows = yield "SELECT NULL, sync.current_cursor()::text UNION ALL SELECT o.*, NULL FROM (%s) o" \
            % oracle(sub)
        return [r[0] for r in rows if r[1] is None], [r[1] for r in rows if r[1]][0]


class Model:
    """Tables, triggers and a log in plain SQL, and a choice of cursors."""

    CURSORS = ("snapshot", "timestamp", "sequence", "own-xid", "two-snapshots")

    without = frozenset(["touch", "reset", "prune", "own", "page", "exclude", "time", "pull",
                         "attach", "replica", "source", "other question",
                         "old snapshot"])

    adds_only = False

    def __init__(self, cursor):
        self.cursor = cursor
        self.name = "plain SQL, cursor by " + cursor

    def create(self, server, tables):
        conn = server.sync()
        with conn.cursor() as cur:
            create_tables(cur, tables)
            cur.execute("""
                CREATE SCHEMA model;
                CREATE TABLE model.log (seq bigserial, rel text, key jsonb, xid xid8, at timestamptz);
                CREATE INDEX ON model.log (rel, seq);
                CREATE FUNCTION model.stamp() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN
                  NEW.modified_at := CASE TG_OP WHEN 'UPDATE' THEN
                    greatest(clock_timestamp(), OLD.modified_at + interval '1 ms')
                    ELSE clock_timestamp() END;
                  RETURN NEW;
                END $$;
                CREATE FUNCTION model.capture() RETURNS trigger LANGUAGE plpgsql AS $$
                DECLARE
                  k text[] := TG_ARGV[1:];
                BEGIN
                  INSERT INTO model.log (rel, key, xid, at)
                  SELECT DISTINCT TG_ARGV[0],
                    (SELECT jsonb_object_agg(c, r -> c) FROM unnest(TG_ARGV) WITH ORDINALITY u (c, o)
                     WHERE o > 1), pg_current_xact_id(), clock_timestamp()
                  FROM (VALUES (CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END),
                               (CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END)) v (r)
                  WHERE r IS NOT NULL;
                  RETURN NULL;
                END $$;
                CREATE FUNCTION model.mark() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN
                  INSERT INTO model.log (rel, xid, at)
                  VALUES (TG_ARGV[0], pg_current_xact_id(), clock_timestamp());
                  RETURN NULL;
                END $$""")
            for table in tables:
                key = ", ".join(quote(c) for c in [table.name] + table.key)
                cur.execute("CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON %s FOR EACH ROW"
                            " EXECUTE FUNCTION model.stamp()" % table.name)
                cur.execute("CREATE TRIGGER capture AFTER INSERT OR UPDATE OR DELETE ON %s"
                            " FOR EACH ROW EXECUTE FUNCTION model.capture(%s)" % (table.name, key))
                cur.execute("SELECT relid::regclass::text FROM pg_partition_tree(%s)"
                            " UNION SELECT %s", (table.name, table.name))
                for (name,) in cur.fetchall():
                    cur.execute("CREATE TRIGGER mark AFTER TRUNCATE ON %s FOR EACH STATEMENT"
                                " EXECUTE FUNCTION model.mark(%s)" % (name, quote(table.name)))
        conn.close()

    def rare(self, kind, table, sql):
        if kind == "ddl":
            sql += ("; INSERT INTO model.log (rel, xid, at)"
                    " VALUES (%s, pg_current_xact_id(), clock_timestamp())" % quote(table.name))
        return sql

    def fetch(self, sub, since, client=None, exclude=None, max_rows=None, check=True):
        table = sub.table
        if self.cursor in ("snapshot", "own-xid", "two-snapshots"):
            new = "NOT pg_visible_in_snapshot(xid, %s::pg_snapshot)" % since
            cursor = ("(SELECT pg_current_snapshot() || '/' ||"
                      " coalesce(pg_current_xact_id_if_assigned()::text, ''))")
        elif self.cursor == "timestamp":
            new = "at > %s::timestamptz" % since
            cursor = "(SELECT max(at)::text FROM model.log)"
        else:
            new = "seq > %s::bigint" % since
            cursor = "(SELECT max(seq)::text FROM model.log)"
        if since is None:
            new = "false"
        key = "jsonb_build_object(" + ", ".join("'%s', t.%s" % (c, c) for c in table.key) + ")"
        source = "(SELECT %s AS key, to_jsonb(t) AS data FROM %s t WHERE (%s)%s)" % (
            key, table.name, sub.filter.inline(),
            " AND deleted_at IS NULL" if table.deleted_at else "")
        sql = ("WITH new AS MATERIALIZED (SELECT DISTINCT key FROM model.log"
               " WHERE rel = %s AND %s), now AS MATERIALIZED %s,"
               " whole AS (SELECT %s OR EXISTS (SELECT FROM new WHERE key IS NULL) AS yes)"
               " SELECT 1, 'reset', NULL::jsonb, NULL::jsonb, NULL::jsonb, NULL::text FROM whole"
               " WHERE yes AND %s"
               " UNION ALL SELECT 2, 'upsert', key, data, data -> 'modified_at', NULL FROM now, whole"
               " WHERE yes OR key IN (SELECT key FROM new)"
               " UNION ALL SELECT 2, 'remove', key, NULL, NULL, NULL FROM new, whole"
               " WHERE NOT yes AND key NOT IN (SELECT key FROM now)"
               " UNION ALL SELECT 3, 'up-to-date', NULL, NULL, 'null', %s"
               " UNION ALL SELECT 0, 'oracle', NULL, data, NULL, NULL FROM now" % (
                   quote(table.name), new, source,
                   quote(since is None), quote(since is not None), cursor))
        rows = sorted((yield sql), key=lambda r: r[0])
        answer = [list(r[1:]) for r in rows if r[0] > 0]
        last = answer[-1]
        if self.cursor == "two-snapshots":
            yield None
            last[4] = (yield "SELECT " + cursor)[0][0]
        if self.cursor in ("snapshot", "own-xid", "two-snapshots"):
            snapshot, own = last[4].split("/")
            if own and self.cursor == "snapshot":
                snapshot = self.unseen(snapshot, int(own))
            last[4] = snapshot
        if last[4] is None:
            last[4] = "epoch" if self.cursor == "timestamp" else "0"
        last[3] = "2000-01-01T00:00:00+00:00"
        return answer, [r[3] for r in rows if r[0] == 0]

    @staticmethod
    def unseen(snapshot, own):
        """The snapshot, with the own transaction among the running ones."""
        xmin, xmax, xip = snapshot.split(":")
        running = {int(x) for x in xip.split(",") if x}
        if own < int(xmax):
            running.add(own)
            xmin = min(int(xmin), own)
        return "%s:%s:%s" % (xmin, xmax, ",".join(str(x) for x in sorted(running)))
