"""Where a client's deltas come from.

Extension asks sync_ext.  Model is a stand-in made of plain SQL, with triggers and a log, whose
cursor can be chosen: the sound one (a full snapshot that does not count the own transaction as
seen) and several unsound ones, which the checker has to catch.  So can be how it goes about rights.

An answer is a list of (op, key, data, modified_at, cursor), as sync.changes gives it.
"""

import json

import rights
import witness
from pg import quote
from world import BY_NAME, OTHER_DDL


def create_tables(cur, tables):
    names = {t.name for t in tables}
    for table in tables:
        cur.execute(table.ddl)
    if "orders" in names:
        for sql in OTHER_DDL:
            if "node" not in sql or "node" in names:
                cur.execute(sql)
    for access in {rights.SEAT, rights.PERMIT, rights.TEAM}:
        if set(access.bases) <= names:
            for sql in access.ddl:
                cur.execute(sql)


def oracle(sub):
    """What the client should hold, as one column of documents."""
    table = sub.table
    where = "(%s)" % sub.filter.inline()
    if sub.user is not None:
        where += " AND (%s) IN (%s)" % (
            ", ".join("%s.%s" % (table.name if table.source else "t", c) for c in table.scope),
            sub.access.scopes(sub.user, table.scope))
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

    def create(self, server, world):
        tables = world.tables
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
            for name, access in world.rights.items():
                cur.execute("SELECT sync.set_access(%s, %s, %s)",
                            (name, access.via, access.user_column))
            if world.policies:
                rights.policies(cur, world.policies, server.role())
            if world.rights or world.policies:
                witness.create(cur, tables)
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
        if sub.user is not None:
            args.append("user_id => " + quote(sub.user))
        if client is not None:
            args.append("client => " + quote(client))
        if exclude is not None:
            args.append("exclude => " + quote(json.dumps(exclude)) + "::jsonb")
        if max_rows is not None:
            args.append("max_rows => %d" % max_rows)
        return "sync.changes(" + ", ".join(args) + ")"

    def fetch(self, sub, since, client=None, exclude=None, max_rows=None, check=True):
        """A coroutine: the answer, and with check the truth under the same snapshot."""
        sql = ("SELECT nr, op, key, data, to_jsonb(modified_at), cursor::text FROM %s"
               " WITH ORDINALITY AS c (op, key, data, modified_at, cursor, nr)"
               % self.question(sub, since, client, exclude, max_rows))
        if check:
            sql = ("WITH answer AS MATERIALIZED (%s) SELECT * FROM answer UNION ALL"
                   " SELECT 0, kind, NULL, document, NULL, NULL FROM (%s) t (kind, document)" % (
                       sql, rights.truth(sub, oracle(sub))))
        rows = sorted((yield sql), key=lambda r: r[0])
        return ([r[1:] for r in rows if r[0] > 0],
                rights.Truth(sub, [(r[1], r[3]) for r in rows if r[0] == 0]) if check else None)

    def bootstrap(self, sub):
        rows = yield ("SELECT 'cursor', NULL, sync.current_cursor()::text UNION ALL"
                      " SELECT t.*, NULL FROM (%s) t" % rights.truth(sub, oracle(sub)))
        return (rights.Truth(sub, [r[:2] for r in rows]),
                [r[2] for r in rows if r[0] == "cursor"][0])


class Model:
    """Tables, triggers and a log in plain SQL, and a choice of cursors."""

    CURSORS = ("snapshot", "timestamp", "sequence", "own-xid", "two-snapshots")

    # Ways to get rights wrong, and what the checker has to say of each.
    FLAWS = {
        "revocation unread": "the copy differs",        # the log is read for present rights only
        "revocation by rows": "the copy differs",       # what is there now is all that was there
        "grant unread": "the copy differs",             # rows that did not change are no news
        "forgotten last": "after its rows",             # the regained scope goes with the lost one
        "forgotten for good": "the copy differs",       # regained: forgotten, and not sent again
        "rights of another snapshot": "the copy differs",
        "every removal": "never was allowed",           # the log alone, whoever asks
        "removals of the gained": "never was allowed",  # left before the user had the scope
        "removals on the way": "never was allowed",     # came and went in one transaction
        "forgotten on the way": "never had",            # granted and revoked in one transaction
        "rows of others": "where there is None",        # sent, and taken back at once
    }

    without = frozenset(["touch", "reset", "prune", "own", "page", "exclude", "time", "pull",
                         "attach", "replica", "source", "other question",
                         "old snapshot", "policies", "view"])

    adds_only = False

    def __init__(self, cursor, flaw=None):
        self.cursor = cursor
        self.flaw = flaw
        self.name = "plain SQL, cursor by " + cursor

    def create(self, server, world):
        tables = world.tables
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
            if world.rights:
                witness.create(cur, tables)
        conn.close()

    def rare(self, kind, table, sql):
        if kind == "ddl":
            sql += ("; INSERT INTO model.log (rel, xid, at)"
                    " VALUES (%s, pg_current_xact_id(), clock_timestamp())" % quote(table.name))
        return sql

    def fetch(self, sub, since, client=None, exclude=None, max_rows=None, check=True):
        table = sub.table
        if sub.user is not None:
            return (yield from self.fetch_for_user(sub, since))
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
        return answer, rights.Truth(sub, [(r[1], r[3]) for r in rows if r[0] == 0])

    def fetch_for_user(self, sub, since):
        """The definition of a user's delta, by brute force:
          r_was, r_now   the user's scopes at the cursor and now
          moved          scopes that a transaction new to the cursor gave to the user or took from
                         it, by its net effect on a row
        Forget what moved or is lost (a scope that was only gained, too: where the client's own
        transaction gained it, the client holds rows of it); send the whole of what is there anew;
        for the rest, what the log names and, of that, removals of what was there before."""
        table, access, flaw = sub.table, sub.access, self.flaw
        user = quote(sub.user)
        via = BY_NAME[access.via]
        gives = "%s = %s" % (access.user_column, user)
        if access.deleted_at:
            gives += " AND %s IS NULL" % access.deleted_at

        def keys(row, columns):
            return "jsonb_build_object(" + ", ".join("'%s', %s -> '%s'" % (c, row, c)
                                                     for c in columns) + ")"

        def scope(row):
            return "jsonb_build_array(" + ", ".join("%s -> '%s'" % (row, c)
                                                    for c in table.scope) + ")"

        r_now = "SELECT DISTINCT %s AS scope FROM (SELECT to_jsonb(v) AS row FROM %s v WHERE %s" \
            " AND %s) v" % (scope("row"), via.name, gives,
                            " AND ".join("%s IS NOT NULL" % c for c in table.scope))
        if flaw == "rights of another snapshot":
            before = yield "SELECT coalesce(jsonb_agg(scope), '[]') FROM (%s) r" % r_now
            r_now = "SELECT jsonb_array_elements(%s)" % quote(json.dumps(before[0][0]))
            yield None
        first, cursor = since is None, (
            "(SELECT pg_current_snapshot() || '/' || coalesce(pg_current_xact_id_if_assigned()::text, ''))")
        new = "false" if first else "NOT pg_visible_in_snapshot(xid, %s::pg_snapshot)" % since
        forget = {
            "revocation unread": "SELECT scope FROM r_was LIMIT 0",
            "revocation by rows": "SELECT scope FROM r_was LIMIT 0",
            "forgotten on the way": "SELECT scope FROM a WHERE part = 0 AND mine"
                                    " AND scope NOT IN (TABLE r_now)",
        }.get(flaw, "TABLE moved UNION (TABLE r_was EXCEPT TABLE r_now)")
        whole = {
            "grant unread": "TABLE r_now LIMIT 0",
            "forgotten for good": "TABLE r_now EXCEPT TABLE r_was",
        }.get(flaw, "TABLE r_now EXCEPT (TABLE r_was EXCEPT TABLE moved)")
        removed = {
            "every removal": "SELECT key FROM d WHERE part = 0",
            "removals of the gained": "SELECT key FROM before WHERE part = 0 AND scope IN (TABLE r_now)",
            "removals on the way": "SELECT key FROM d WHERE part = 0 AND scope IN (TABLE steady)",
            "revocation by rows": "SELECT key FROM before WHERE part = 0 AND scope IN (TABLE steady)"
                                  " UNION SELECT key FROM here WHERE scope IN"
                                  " (TABLE r_was EXCEPT TABLE r_now)",
        }.get(flaw, "SELECT key FROM before WHERE part = 0 AND scope IN (TABLE steady)")
        sent = "SELECT * FROM now"
        if flaw == "rows of others":
            sent = "SELECT * FROM here"
        sql = """
            WITH fresh AS MATERIALIZED (SELECT * FROM witness.event WHERE %(new)s),
            side AS (SELECT rel, xid, seq, 0 AS part, was AS row FROM fresh WHERE was IS NOT NULL
              UNION ALL SELECT rel, xid, seq, 1, now FROM fresh WHERE now IS NOT NULL),
            d AS (SELECT xid, seq, part, %(dkey)s AS key, %(scope)s AS scope
              FROM side WHERE rel = '%(domain)s'),
            before AS (SELECT DISTINCT ON (xid, key) * FROM d ORDER BY xid, key, seq, part),
            a AS (SELECT xid, seq, part, %(akey)s AS key, %(scope)s AS scope,
                coalesce(row ->> '%(user_column)s' = %(user)s, false)
                AND row -> '%(deleted_at)s' IS NOT DISTINCT FROM %(alive_as)s AS mine
              FROM side WHERE rel = '%(via)s'),
            a_before AS (SELECT DISTINCT ON (xid, key) * FROM a ORDER BY xid, key, seq, part),
            a_after AS (SELECT DISTINCT ON (xid, key) * FROM a ORDER BY xid, key, seq DESC, part DESC),
            a_first AS (SELECT DISTINCT ON (key) * FROM a ORDER BY key, seq, part),
            net AS (SELECT CASE WHEN b.part = 0 AND b.mine THEN b.scope END AS was,
                CASE WHEN f.part = 1 AND f.mine THEN f.scope END AS now
              FROM a_before b JOIN a_after f USING (xid, key)),
            moved AS (SELECT scope FROM net, unnest(ARRAY[was, now]) scope
              WHERE was IS DISTINCT FROM now AND scope IS NOT NULL),
            r_now AS (%(r_now)s),
            r_was AS (SELECT %(scope)s AS scope FROM (SELECT to_jsonb(v) AS row FROM %(via)s v
                WHERE %(gives)s) v WHERE %(akey)s NOT IN (SELECT key FROM a)
              UNION SELECT scope FROM a_first WHERE part = 0 AND mine),
            whole AS (%(whole)s),
            steady AS ((TABLE r_now INTERSECT TABLE r_was) EXCEPT TABLE moved),
            here AS MATERIALIZED (SELECT %(dkey)s AS key, %(scope)s AS scope, row
              FROM (SELECT to_jsonb(t) AS row FROM %(domain)s t WHERE (%(filter)s)%(alive)s) t),
            now AS MATERIALIZED (SELECT * FROM here WHERE scope IN (TABLE r_now)),
            again AS (SELECT %(again)s AS yes)
            SELECT 1::float8, 'reset', NULL::jsonb, NULL::jsonb, NULL::jsonb, NULL::text FROM again
              WHERE yes AND NOT %(first)s
            UNION ALL SELECT %(order)s, 'forget', %(scope_object)s, NULL, NULL, NULL
              FROM (%(forget)s) f (scope), again WHERE NOT yes AND NOT scope @> '[null]'
            UNION ALL SELECT 3, 'upsert', key, row, row -> 'modified_at', NULL FROM (%(sent)s) s, again
              WHERE yes OR scope IN (TABLE whole) OR key IN (SELECT key FROM d)
            UNION ALL SELECT DISTINCT 3, 'remove', key, NULL::jsonb, NULL::jsonb, NULL
              FROM (%(removed)s) r, again WHERE NOT yes AND key NOT IN (SELECT key FROM (%(sent)s) n)
            UNION ALL SELECT 5, 'up-to-date', NULL, NULL, 'null', %(cursor)s
            UNION ALL SELECT 0, kind, NULL, document, NULL, NULL FROM (%(truth)s) t (kind, document)
            """ % dict(
                new=new, dkey=keys("row", table.key), akey=keys("row", via.key), scope=scope("row"),
                domain=table.name, via=via.name, user=user, user_column=access.user_column,
                gives=gives, deleted_at=access.deleted_at or "none",
                alive_as="'null'::jsonb" if access.deleted_at else "NULL",
                r_now=r_now, whole=whole, filter=sub.filter.inline(), forget=forget,
                alive=" AND deleted_at IS NULL" if table.deleted_at else "", sent=sent,
                again="true" if first else "EXISTS (SELECT FROM model.log WHERE rel IN ('%s', '%s')"
                      " AND key IS NULL AND %s)" % (table.name, via.name, new),
                first=quote(first), order="4" if flaw == "forgotten last" else "2", removed=removed,
                scope_object="jsonb_build_object(" + ", ".join(
                    "'%s', scope -> %d" % (c, n) for n, c in enumerate(table.scope)) + ")",
                cursor=cursor, truth=rights.truth(sub, oracle(sub)))
        rows = sorted((yield sql), key=lambda r: r[0])
        answer = [list(r[1:]) for r in rows if r[0] > 0]
        snapshot, own = answer[-1][4].split("/")
        answer[-1][4] = self.unseen(snapshot, int(own)) if own else snapshot
        answer[-1][3] = "2000-01-01T00:00:00+00:00"
        return answer, rights.Truth(sub, [(r[1], r[3]) for r in rows if r[0] == 0])

    @staticmethod
    def unseen(snapshot, own):
        """The snapshot, with the own transaction among the running ones."""
        xmin, xmax, xip = snapshot.split(":")
        running = {int(x) for x in xip.split(",") if x}
        if own < int(xmax):
            running.add(own)
            xmin = min(int(xmin), own)
        return "%s:%s:%s" % (xmin, xmax, ",".join(str(x) for x in sorted(running)))
