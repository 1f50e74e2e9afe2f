"""The tables, the questions that clients ask about them, and what writers do to them.

The key spaces are small on purpose: everybody meets everybody.
"""

import json
import os

import psycopg2

from pg import Actor, Broken, quote

COMPANIES = [1, 2, 3]
STATUSES = ["open", "closed", "hold"]
REGIONS = [1, 2, 3]
USERS = ["1", "2", "3"]


class Table:
    def __init__(self, name, key, ddl, scope=(), deleted_at=None, source=None, ids=20, domain=None,
                 columns=(), extra=True, locks=()):
        self.name = name
        self.key = key
        self.ddl = ddl
        self.scope = list(scope)
        self.deleted_at = deleted_at
        self.source = source
        self.ids = ids
        self.domain = domain or name
        self.columns = list(columns)        # freely writable columns, besides key and scope
        self.extra = extra                  # may be altered by DDL
        self.locks = [name] + list(locks)   # what a reader of the document reads

    def key_of(self, data):
        return json.dumps({column: data[column] for column in self.key}, sort_keys=True)


TABLES = [
    Table("note", ["id"],
          "CREATE TABLE note (id int PRIMARY KEY, title text, n int,"
          " g int GENERATED ALWAYS AS (n * 2) STORED, modified_at timestamptz)",
          columns=["title", "n"]),
    Table("task", ["id"],
          "CREATE TABLE task (id int PRIMARY KEY, company int, status text, title text, n int,"
          " modified_at timestamptz)",
          scope=["company"], columns=["status", "title", "n"]),
    Table("doc", ["id"],
          "CREATE TABLE doc (id int PRIMARY KEY, company int, owner int, status text, title text,"
          " n int, modified_at timestamptz)",
          scope=["company", "owner"], columns=["status", "title", "n"]),
    Table("member", ["a", "b"],
          "CREATE TABLE member (a int, b int, status text, n int, modified_at timestamptz,"
          " PRIMARY KEY (a, b))",
          scope=["a"], columns=["status", "n"], ids=6),
    Table("part", ["id", "region"],
          "CREATE TABLE part (id int, region int, company int, status text, n int,"
          " modified_at timestamptz, PRIMARY KEY (id, region)) PARTITION BY LIST (region);"
          " CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1);"
          " CREATE TABLE part_2 (n int, id int NOT NULL, status text, region int NOT NULL,"
          " company int, modified_at timestamptz);"
          " ALTER TABLE part ATTACH PARTITION part_2 FOR VALUES IN (2);"
          " CREATE TABLE part_3 PARTITION OF part FOR VALUES IN (3) PARTITION BY HASH (id);"
          " CREATE TABLE part_3a PARTITION OF part_3 FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
          " CREATE TABLE part_3b PARTITION OF part_3 FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
          scope=["company"], columns=["status", "n"], ids=8, extra=False),
    Table("soft", ["id"],
          "CREATE TABLE soft (id int PRIMARY KEY, company int, status text, n int,"
          " deleted_at timestamptz, modified_at timestamptz)",
          scope=["company"], deleted_at="deleted_at", columns=["status", "n"]),
    Table("orders", ["id"],
          "CREATE TABLE orders (id int PRIMARY KEY, company int, status text, n int,"
          " modified_at timestamptz)",
          scope=["company"], source="order_doc", columns=["status", "n"], ids=8, extra=False,
          locks=["line", "remark"]),
    Table("line", ["id"],
          "CREATE TABLE line (id int PRIMARY KEY, order_id int REFERENCES orders ON DELETE CASCADE"
          " ON UPDATE CASCADE DEFERRABLE, status text, n int, modified_at timestamptz)",
          scope=["order_id"], columns=["status", "n"], ids=16),
    Table("node", ["id"],
          "CREATE TABLE node (id int PRIMARY KEY, parent int REFERENCES node ON DELETE SET NULL"
          " ON UPDATE CASCADE, company int, n int, modified_at timestamptz)",
          scope=["company"], source="node_doc", columns=["n"], ids=8, extra=False),
]

BY_NAME = {t.name: t for t in TABLES}

# remark is not tracked and has no foreign key: it exists through the document of its order only.
OTHER_DDL = [
    "CREATE TABLE remark (id int PRIMARY KEY, order_id int, text text)",
    "CREATE INDEX ON line (order_id)",
    "CREATE VIEW order_doc WITH (security_invoker) AS SELECT o.id, o.company, o.status, o.n,"
    " o.modified_at,"
    " (SELECT coalesce(jsonb_agg(jsonb_build_array(l.id, l.status, l.n) ORDER BY l.id), '[]')"
    "  FROM line l WHERE l.order_id = o.id) AS lines,"
    " (SELECT coalesce(jsonb_agg(jsonb_build_array(r.id, r.text) ORDER BY r.id), '[]')"
    "  FROM remark r WHERE r.order_id = o.id) AS remarks"
    " FROM orders o",
    "CREATE VIEW node_doc WITH (security_invoker) AS SELECT p.id, p.parent, p.company, p.n,"
    " p.modified_at,"
    " (SELECT coalesce(jsonb_agg(jsonb_build_array(c.id, c.n) ORDER BY c.id), '[]')"
    "  FROM node c WHERE c.parent = p.id) AS children"
    " FROM node p",
]

# A TRUNCATE of the one is a reset of the others.
MASTERS = {"line": ["orders"], "orders": ["line", "orders"], "node": ["node"]}


class Filter:
    """A question: its SQL with $1…, its parameters, and the same in Python, for a client that
    applies its own writes."""

    def __init__(self, sql=None, params=(), holds=None):
        self.sql = sql
        self.params = [None if p is None else str(p) for p in params]
        self.holds = holds or (lambda row: True)

    def inline(self):
        sql = self.sql or "true"
        for number in range(len(self.params), 0, -1):
            sql = sql.replace("$%d" % number, quote(self.params[number - 1]))
        return sql

    def __repr__(self):
        return "%s %s" % (self.sql, self.params)


def eq(column, value):
    return lambda row: row[column] is not None and row[column] == value


def both(*parts):
    return lambda row: all(part(row) for part in parts)


def either(*parts):
    return lambda row: any(part(row) for part in parts)


def above(column, value):
    return lambda row: row[column] is not None and row[column] > value


def random_filter(rnd, table):
    """Scope equality, residual conditions, key ranges, composites, and nothing at all."""
    c = rnd.choice(COMPANIES)
    s = rnd.choice(STATUSES)
    lo = rnd.randrange(1, max(2, table.ids // 2))
    hi = lo + rnd.randrange(1, table.ids // 2 + 1)
    r = rnd.choice(REGIONS)
    kinds = [Filter()]

    def between(column):
        return Filter("%s BETWEEN $1 AND $2" % column, [lo, hi],
                      lambda row: lo <= row[column] <= hi)

    if "company" in table.scope:
        kinds += [
            Filter("company = $1", [c], eq("company", c)),
            Filter("company = $1", [c], eq("company", c)),
            Filter("company IN (1, 3)", [], lambda row: row["company"] in (1, 3)),
            Filter("company = ANY ($1)", ["{1,2}"], lambda row: row["company"] in (1, 2)),
            Filter("company IS NULL", [], lambda row: row["company"] is None),
            Filter("NOT (company = $1)", [c],
                   lambda row: row["company"] is not None and row["company"] != c),
            Filter("company IS DISTINCT FROM $1", [c], lambda row: row["company"] != c),
            Filter("company = $1 AND %s > $2" % table.key[0], [c, lo],
                   both(eq("company", c), above(table.key[0], lo))),
        ]
        if "status" in table.columns:
            kinds += [
                Filter("company = $1 AND status = $2", [c, s],
                       both(eq("company", c), eq("status", s))),
                Filter("company = $1 OR status = $2", [c, s],
                       either(eq("company", c), eq("status", s))),
                Filter("company = $1 AND (status = $2 OR n > 50)", [c, s],
                       both(eq("company", c), either(eq("status", s), above("n", 50)))),
            ]
    if "owner" in table.scope:
        kinds += [
            Filter("owner = $1", [c], eq("owner", c)),
            Filter("company = $1 AND owner = $2", [c, r], both(eq("company", c), eq("owner", r))),
            Filter("company = owner", [],
                   lambda row: row["company"] is not None and row["company"] == row["owner"]),
            Filter("(company, owner) IN ((1, 2), (2, 1))", [],
                   lambda row: (row["company"], row["owner"]) in ((1, 2), (2, 1))),
        ]
    if "status" in table.columns:
        kinds += [Filter("status = $1", [s], eq("status", s))]
    kinds += [Filter("n > $1", [50], above("n", 50))]
    if table.name == "member":
        kinds += [
            Filter("a = $1", [lo], eq("a", lo)),
            Filter("b = $1", [lo], eq("b", lo)),
            Filter("a = $1 AND status = $2", [lo, s], both(eq("a", lo), eq("status", s))),
            Filter("a < b", [], lambda row: row["a"] < row["b"]),
            between("a"),
        ]
    else:
        kinds += [between(table.key[0]), between(table.key[0])]
    if table.name == "part":
        kinds += [Filter("region = $1", [r], eq("region", r)),
                  Filter("region = $1 AND company = $2", [r, c],
                         both(eq("region", r), eq("company", c)))]
    if table.name == "line":
        kinds += [Filter("order_id = $1", [lo], eq("order_id", lo)),
                  Filter("order_id = $1 AND status = $2", [lo, s],
                         both(eq("order_id", lo), eq("status", s)))]
    return rnd.choice(kinds)


class World:
    """What all actors of a run share."""

    def __init__(self, server, engine, tables, without=(), rights=None, policies=()):
        self.server = server
        self.engine = engine
        self.tables = [BY_NAME[name] for name in tables]
        self.rights = rights or {}          # the access relation of each domain that has one
        self.policies = set(policies)       # tables with a policy
        self.witness = None                 # where rights are at stake
        self.without = set(without)
        self.clients = []
        self.prepared = {}
        self.gid = 0
        self.stopping = False
        self.resets = 0
        self.failures = []
        self.stats = {}
        self.note = lambda who, what, outcome="": None

    def count(self, what, by=1):
        self.stats[what] = self.stats.get(what, 0) + by

    def allows(self, feature):
        return feature not in self.without and feature not in self.engine.without

    def has(self, name):
        return any(t.name == name for t in self.tables)

    def time(self):
        return 0 if self.witness is None else self.witness.time

    def allow_reset(self, names):
        """From here on a reset of these domains is what a client should expect."""
        if names:
            self.resets += 1
        names = set(names) | {ruled for ruled, access in self.rights.items()
                              if set(access.bases) & set(names)}
        for client in self.clients:
            for sub in client.subs:
                if sub.table.name in names or "*" in names:
                    sub.reset_ok = True
                    sub.reset_count += 1


class Writer(Actor):
    """Runs one random transaction after another."""

    EXPECTED = {
        "40001", "40P01", "23505", "23503", "23514", "23502", "42703", "42701", "42P07", "42P01",
        "55006", "55P03", "21000", "P0002", "57014", "25P02", "42809", "0A000", "42P17",
    }

    def __init__(self, scheduler, world, name):
        super().__init__(scheduler, name, weight=2)
        self.world = world
        self.depth = 0

    # values

    def company(self):
        return self.rnd.choice(COMPANIES + COMPANIES + [None])

    def status(self):
        return self.rnd.choice(STATUSES + STATUSES + [None])

    def value(self, table, column):
        if column == "status":
            return self.status()
        if column == "n":
            return self.rnd.randrange(100)
        if column in ("company", "owner"):
            return self.rnd.choice(COMPANIES) if column in table.key else self.company()
        if column == "who":
            return self.rnd.choice(USERS + USERS + [None])
        if column == "order_id":
            return self.rnd.randrange(1, 9)
        if column == "parent":
            return self.rnd.choice([None] + list(range(1, 9)))
        if column == "region":
            return self.rnd.choice(REGIONS)
        if column in table.key:
            return self.rnd.randrange(1, table.ids + 1)
        return "t%d" % self.rnd.randrange(1000)

    def row(self, table):
        columns = list(dict.fromkeys(table.key + table.scope + table.columns))
        if table.name == "node":
            columns.append("parent")
        return {column: self.value(table, column) for column in columns}

    def one(self, table):
        """A condition on one key, or now and then on some."""
        if self.rnd.random() < 0.75:
            return " AND ".join("%s = %d" % (c, self.value(table, c)) for c in table.key)
        return self.some(table)

    def some(self, table):
        kind = self.rnd.randrange(3)
        if kind == 0 and table.scope and table.scope[0] == "company":
            return "company = %d" % self.rnd.choice(COMPANIES)
        column = table.key[0]
        lo = self.rnd.randrange(1, table.ids + 1)
        if kind == 1:
            return "%s BETWEEN %d AND %d" % (column, lo, lo + self.rnd.randrange(1, table.ids))
        return "%s %% 3 = %d" % (column, self.rnd.randrange(3))

    def insert_text(self, table, rows, target=None):
        columns = list(rows[0])
        return "INSERT INTO %s (%s) VALUES %s" % (
            target or table.name, ", ".join(columns),
            ", ".join("(" + ", ".join(quote(r[c]) for c in columns) + ")" for r in rows))

    # operations: each gives one statement

    def op_insert(self, table):
        rows = {table.key_of(r): r for r in (self.row(table)
                                             for _ in range(self.rnd.choice([1, 1, 2, 5])))}
        sql = self.insert_text(table, list(rows.values()))
        kind = self.rnd.random()
        key = ", ".join(table.key)
        if kind < 0.45:
            sql += " ON CONFLICT (%s) DO NOTHING" % key
        elif kind < 0.85:
            column = self.rnd.choice([c for c in table.columns + table.scope if c not in table.key])
            sql += " ON CONFLICT (%s) DO UPDATE SET %s = EXCLUDED.%s" % (key, column, column)
            if kind < 0.55:
                sql += " WHERE %s.n > 30" % table.name
        return sql

    def op_update(self, table):
        column = self.rnd.choice(table.columns)
        return "UPDATE %s SET %s = %s WHERE %s" % (
            table.name, column, quote(self.value(table, column)), self.one(table))

    def op_bulk(self, table):
        column = self.rnd.choice(table.columns)
        value = "n + 1" if column == "n" else quote(self.value(table, column))
        return "UPDATE %s SET %s = %s%s" % (
            table.name, column, value,
            " WHERE " + self.some(table) if self.rnd.random() < 0.8 else "")

    def op_scope(self, table):
        movable = [c for c in table.scope if c not in table.key]
        if not movable:
            return self.op_update(table)
        column = self.rnd.choice(movable)
        return "UPDATE %s SET %s = %s WHERE %s" % (
            table.name, column, quote(self.value(table, column)), self.one(table))

    def op_walk(self, table):
        """One row through several scopes in one transaction, perhaps from nowhere or to nowhere."""
        row = self.row(table)
        where = " AND ".join("%s = %s" % (c, quote(row[c])) for c in table.key)
        movable = [c for c in table.scope if c not in table.key] or table.columns
        steps = ["UPDATE %s SET %s = %s WHERE %s" % (
            table.name, column, quote(self.value(table, column)), where)
            for column in self.rnd.choices(movable, k=self.rnd.choice([1, 2, 3]))]
        if self.rnd.random() < 0.3:
            steps.insert(0, self.insert_text(table, [row]) + " ON CONFLICT DO NOTHING")
        if self.rnd.random() < 0.3:
            steps.append("DELETE FROM %s WHERE %s" % (table.name, where))
        return "; ".join(steps)

    def op_key(self, table):
        column = self.rnd.choice(table.key)
        change = quote(self.value(table, column))
        if column != "region" and self.rnd.random() < 0.2:
            change = "%d - %s" % (table.ids + 1, column)      # swaps when it meets
        return "UPDATE %s SET %s = %s WHERE %s" % (table.name, column, change, self.one(table))

    def op_noop(self, table):
        column = self.rnd.choice(table.columns + table.scope)
        return "UPDATE %s SET %s = %s WHERE %s" % (table.name, column, column, self.some(table))

    def op_delete(self, table):
        return "DELETE FROM %s WHERE %s" % (table.name, self.one(table))

    def op_delete_some(self, table):
        return "DELETE FROM %s WHERE %s AND n > %d" % (
            table.name, self.some(table), self.rnd.randrange(30, 90))

    def op_reinsert(self, table):
        row = self.row(table)
        where = " AND ".join("%s = %s" % (c, quote(row[c])) for c in table.key)
        return "DELETE FROM %s WHERE %s; %s" % (table.name, where, self.insert_text(table, [row]))

    def op_with(self, table):
        """Two writes of one table in one statement, seen by neither."""
        other = self.row(table)
        return ("WITH gone AS (DELETE FROM %s WHERE %s RETURNING 1) %s ON CONFLICT DO NOTHING"
                % (table.name, self.one(table), self.insert_text(table, [other])))

    def op_merge(self, table):
        if self.world.server.version < 150000:
            return self.op_update(table)
        row = self.row(table)
        columns = list(row)
        on = " AND ".join("t.%s = s.%s" % (c, c) for c in table.key)
        plain = [c for c in columns if c not in table.key]
        return ("MERGE INTO %s t USING (VALUES %s) s (%s) ON %s"
                " WHEN MATCHED AND t.n %% 4 = 0 THEN DELETE"
                " WHEN MATCHED THEN UPDATE SET %s"
                " WHEN NOT MATCHED THEN INSERT (%s) VALUES (%s)" % (
                    table.name,
                    ", ".join("(" + ", ".join(self.typed(c, r[c]) for c in columns) + ")"
                              for r in (row, self.second(table, row))),
                    ", ".join(columns), on,
                    ", ".join("%s = s.%s" % (c, c) for c in plain),
                    ", ".join(columns), ", ".join("s." + c for c in columns)))

    def second(self, table, row):
        other = self.row(table)
        other[table.key[0]] = row[table.key[0]] % table.ids + 1
        return other

    @staticmethod
    def typed(column, value):
        return quote(value) + ("::text" if column in ("status", "title", "who") else "::int")

    def op_copy(self, table):
        rows = {table.key_of(r): r for r in (self.row(table) for _ in range(4))}.values()
        columns = list(self.row(table))
        text = "\\n".join("\\t".join("\\\\N" if r[c] is None else str(r[c]) for c in columns)
                          for r in rows)
        delete = " OR ".join("(" + " AND ".join("%s = %s" % (c, quote(r[c])) for c in table.key)
                             + ")" for r in rows)
        return "DELETE FROM %s WHERE %s; COPY %s (%s) FROM PROGRAM %s" % (
            table.name, delete, table.name, ", ".join(columns),
            quote("printf '%s\\n'" % text))

    def op_replica(self, table):
        """What a logical replication worker does: the origin's time comes along."""
        inner = self.rnd.choice([self.op_update, self.op_scope, self.op_delete, self.op_key])(table)
        if inner.startswith("UPDATE"):
            inner = inner.replace(
                " SET ", " SET modified_at = greatest(date_trunc('milliseconds',"
                " clock_timestamp()), modified_at + interval '1 ms'), ", 1)
        return ("SET LOCAL session_replication_role = replica; %s;"
                " SET LOCAL session_replication_role = origin" % inner)

    def op_subtransaction(self, table):
        """A block that fails inside, around a write that stays."""
        return ("DO $do$ BEGIN BEGIN %s; RAISE EXCEPTION 'no' USING ERRCODE = 'P0001';"
                " EXCEPTION WHEN raise_exception THEN NULL; END; BEGIN %s; EXCEPTION WHEN"
                " unique_violation THEN NULL; END; END $do$" % (
                    self.op_update(table), self.op_update(table)))

    def op_soft(self, table):
        now = self.rnd.choice(["now()", "now()", "NULL"])
        return "UPDATE %s SET deleted_at = %s WHERE %s" % (table.name, now, self.one(table))

    def op_leaf(self, table):
        leaf = self.rnd.choice(["part_1", "part_2", "part_3"])
        region = int(leaf[5])
        if leaf == "part_3" and self.rnd.random() < 0.5:
            leaf = "part_3" + self.rnd.choice("ab")
        row = self.row(table)
        row["region"] = region
        return self.rnd.choice([
            self.insert_text(table, [row], leaf) + " ON CONFLICT DO NOTHING",
            "UPDATE %s SET n = n + 1 WHERE id < %d" % (leaf, row["id"]),
            "UPDATE %s SET company = %s WHERE id = %d" % (leaf, quote(row["company"]), row["id"]),
            "UPDATE %s SET id = id + 100 WHERE id = %d" % (leaf, row["id"]),
            "DELETE FROM %s WHERE id = %d" % (leaf, row["id"]),
        ])

    def op_remark(self, table):
        """No foreign key promises the order: a remark on one that is not there (yet) is allowed,
        and resets its domain."""
        number, order = self.rnd.randrange(1, 9), self.rnd.randrange(1, 9)
        there = "EXISTS (SELECT FROM orders WHERE id = order_id)"
        if self.rnd.random() < 0.1:
            there = "true"
        return self.rnd.choice([
            "INSERT INTO remark SELECT %d, order_id, 'r%d' FROM (VALUES (%d)) v (order_id) WHERE %s"
            " ON CONFLICT (id) DO UPDATE SET order_id = EXCLUDED.order_id, text = EXCLUDED.text"
            % (number, self.rnd.randrange(100), order, there),
            "UPDATE remark SET text = text || '!' WHERE id = %d AND %s" % (number, there),
            "UPDATE remark SET order_id = o.id FROM orders o WHERE o.id = %d AND remark.id %% 3 = %d"
            " AND %s" % (order, number % 3, there),
            "DELETE FROM remark WHERE id = %d AND %s" % (number, there),
        ])

    def op_early_line(self, table):
        """The detail first, its master after it: the constraint is deferred."""
        order = self.rnd.randrange(1, 9)
        return ("SET CONSTRAINTS ALL DEFERRED; INSERT INTO line (id, order_id, n) VALUES (%d, %d, 1)"
                " ON CONFLICT (id) DO UPDATE SET order_id = EXCLUDED.order_id;"
                " INSERT INTO orders (id, company, n) VALUES (%d, %d, 1) ON CONFLICT DO NOTHING"
                % (self.rnd.randrange(1, 17), order, order, self.rnd.choice(COMPANIES)))

    def op_parent(self, table):
        return "UPDATE node SET parent = %s WHERE id = %d" % (
            quote(self.value(table, "parent")), self.rnd.randrange(1, 9))

    def op_touch(self, table):
        return "SELECT sync.touch(%s, k) FROM (SELECT %s AS k FROM %s WHERE %s LIMIT 1) s" % (
            quote(table.domain),
            "jsonb_build_object(" + ", ".join("'%s', %s" % (c, c) for c in table.key) + ")",
            table.name, self.one(table))

    def op_lock(self, table):
        return "SELECT 1 FROM %s WHERE %s FOR UPDATE" % (table.name, self.one(table))

    def op_ddl(self, table):
        a, b = "x%d" % self.rnd.randrange(1, 4), "x%d" % self.rnd.randrange(1, 4)
        return self.rnd.choice([
            "ALTER TABLE %s ADD COLUMN IF NOT EXISTS %s int DEFAULT %d"
            % (table.name, a, self.rnd.randrange(100)),
            "ALTER TABLE %s ADD COLUMN IF NOT EXISTS %s text" % (table.name, a),
            "ALTER TABLE %s RENAME COLUMN %s TO %s" % (table.name, a, b),
            "ALTER TABLE %s DROP COLUMN IF EXISTS %s" % (table.name, a),
            "ALTER TABLE %s ALTER COLUMN %s TYPE text USING %s::text || '.'" % (table.name, a, a),
            "ALTER TABLE %s ALTER COLUMN n TYPE bigint" % table.name,
        ])

    def op_attach(self, table):
        """A partition goes away with its rows, or comes back with others."""
        if self.rnd.random() < 0.5:
            return "ALTER TABLE part DETACH PARTITION part_1"
        return self.rnd.choice([
            "ALTER TABLE part ATTACH PARTITION part_1 FOR VALUES IN (1)",
            "ALTER TABLE part ATTACH PARTITION part_1 FOR VALUES IN (1)",
            "UPDATE part_1 SET n = 77, modified_at = modified_at",
            "INSERT INTO part_1 (id, region, company, n, modified_at)"
            " VALUES (%d, 1, 1, 7, now())" % self.rnd.randrange(1, 9),
        ])

    def operation(self, table):
        """(statement, domains that it may reset)"""
        w = self.world
        kinds = [(self.op_insert, 14), (self.op_update, 14), (self.op_bulk, 5), (self.op_scope, 8),
                 (self.op_walk, 5), (self.op_key, 3), (self.op_noop, 3), (self.op_delete, 6),
                 (self.op_delete_some, 1), (self.op_reinsert, 3), (self.op_with, 3),
                 (self.op_lock, 1)]
        if w.allows("merge"):
            kinds.append((self.op_merge, 3))
        if w.allows("copy"):
            kinds.append((self.op_copy, 1))
        if w.allows("subtransaction"):
            kinds.append((self.op_subtransaction, 2))
        if w.allows("touch"):
            kinds.append((self.op_touch, 2))
        if w.allows("replica") and table.name not in ("orders", "line", "node"):
            kinds.append((self.op_replica, 2))
        special = {"soft": [(self.op_soft, 14)], "permit": [(self.op_soft, 14)], "part": [(self.op_leaf, 14)],
                   "orders": [(self.op_remark, 10), (self.op_early_line, 6)],
                   "line": [(self.op_remark, 4), (self.op_early_line, 4)],
                   "node": [(self.op_parent, 14)]}
        kinds += [k for k in special.get(table.name, [])
                  if k[0] != self.op_remark or w.allows("remark")]
        if w.allows("merge") and table.name == "part":
            kinds = [k for k in kinds if k[0] != self.op_merge] + [(self.op_merge, 1)]
        ops, weights = zip(*kinds)
        op = self.rnd.choices(ops, weights)[0]
        w.count(op.__name__)
        return op(table)

    def rare(self, table):
        """Statements that make a domain start again; at most once in a transaction."""
        w = self.world
        kinds = []
        affected = set([table.name] + MASTERS.get(table.name, []))
        if w.allows("truncate"):
            name = table.name
            if name == "part":
                name = self.rnd.choice(["part", "part_2", "part_3", "part_3a"])
            kinds.append(("truncate", "TRUNCATE %s%s" % (name, " CASCADE" if table.name in
                                                          ("orders", "node") else "")))
        if w.allows("reset"):
            kinds.append(("reset", "SELECT sync.reset(%s)" % quote(table.domain)))
            affected.add(table.name)
        if w.allows("ddl") and table.extra:
            kinds.append(("ddl", self.op_ddl(table)))
        if w.allows("attach") and table.name == "part":
            kinds += [("attach", None)] * 3
        if not kinds:
            return None, ()
        kind, sql = self.rnd.choice(kinds)
        w.count(kind)
        if kind == "attach":
            sql = self.op_attach(table)
            if w.witness is not None:
                w.witness.blind.add(table.name)
        sql = w.engine.rare(kind, table, sql)
        return sql, affected

    # transactions

    def next(self):
        if self.world.stopping:
            return self.finish_prepared() if self.world.prepared else None
        if self.world.prepared and self.rnd.random() < 0.3:
            return self.finish_prepared()
        kind = self.rnd.random()
        if kind < 0.12:
            return self.single()
        if kind < 0.15 and self.world.allows("prune"):
            return self.prune()
        if kind < 0.35 and self.world.allows("own"):
            owners = [c for c in self.world.clients if c.own_tables()]
            if owners:
                return self.own(self.rnd.choice(owners))
        return self.transaction()

    def pick(self):
        return self.rnd.choice(self.world.tables)

    def check(self, error):
        if error.pgcode not in self.EXPECTED or "cached plan" in (error.pgerror or ""):
            raise Broken("%s: unexpected error %s: %s" % (
                self.name, error.pgcode, error.pgerror))
        self.world.count("error " + str(error.pgcode))

    def single(self):
        """One statement, or one message with several, without BEGIN."""
        sql = self.operation(self.pick())
        if self.rnd.random() < 0.3:
            sql += "; " + self.operation(self.pick())
        try:
            yield sql
            self.world.count("committed")
        except psycopg2.Error as error:
            self.check(error)

    def prune(self):
        self.world.allow_reset({"*"})
        try:
            yield "SELECT sync.prune(interval '0')"
            self.world.count("pruned")
        except psycopg2.Error as error:
            self.check(error)
        self.world.allow_reset({"*"})

    def transaction(self):
        rnd, world = self.rnd, self.world
        resets = set()
        savepoints = []
        rare = rnd.random() < 0.08
        isolation = rnd.choice(["READ COMMITTED"] * 7 + ["REPEATABLE READ"] * 2 + ["SERIALIZABLE"])
        try:
            yield "BEGIN ISOLATION LEVEL " + isolation
            table = self.pick()
            for _ in range(rnd.choice([1, 1, 2, 3, 4, 6])):
                if rnd.random() < 0.5:
                    table = self.pick()
                if world.allows("savepoint"):
                    what = rnd.random()
                    if what < 0.25:
                        savepoints.append("s%d" % len(savepoints))
                        yield "SAVEPOINT " + savepoints[-1]
                    elif what < 0.40 and savepoints:
                        at = rnd.randrange(len(savepoints))
                        yield "ROLLBACK TO " + savepoints[at]
                        del savepoints[at + 1:]
                        world.count("rollback to")
                    elif what < 0.48 and savepoints:
                        at = rnd.randrange(len(savepoints))
                        yield "RELEASE " + savepoints[at]
                        del savepoints[at:]
                sql = None
                if rare:
                    rare = False
                    sql, affected = self.rare(table)
                    resets.update(affected)
                try:
                    yield sql or self.operation(table)
                except psycopg2.Error as error:
                    self.check(error)
                    if not savepoints or error.pgcode in ("40001", "40P01"):
                        raise
                    at = rnd.randrange(len(savepoints))
                    yield "ROLLBACK TO " + savepoints[at]
                    del savepoints[at + 1:]
                for _ in range(rnd.choice([0, 0, 0, 1, 4])):
                    yield None
            if rnd.random() < 0.3:
                for _ in range(rnd.randrange(1, 12)):
                    yield None
            end = rnd.random()
            if end < 0.15:
                yield "ROLLBACK"
                world.count("rolled back")
                return
            if end < 0.25 and world.allows("2pc") and world.server.two_phase:
                world.gid += 1
                gid = "history_%d_%d" % (os.getpid(), world.gid)
                yield "PREPARE TRANSACTION %s" % quote(gid)
                world.prepared[gid] = resets
                world.count("prepared")
                return
            world.allow_reset(resets)
            yield "COMMIT"
            world.allow_reset(resets)
            world.count("committed")
        except psycopg2.Error as error:
            self.check(error)
            yield "ROLLBACK"

    def finish_prepared(self, gid=None):
        gid = gid or self.rnd.choice(list(self.world.prepared))
        resets = self.world.prepared.pop(gid)
        self.world.allow_reset(resets)
        if self.rnd.random() < 0.7:
            yield "COMMIT PREPARED %s" % quote(gid)
            self.world.allow_reset(resets)
            self.world.count("committed prepared")
        else:
            yield "ROLLBACK PREPARED %s" % quote(gid)
            self.world.count("rolled back prepared")

    @staticmethod
    def known(row, columns):
        """What a client knows of a row that it updated blindly: what it set, and what follows."""
        return {c: row[c] for c in columns + ["modified_at", "g"] if c in row}

    def own(self, client):
        """A client's own transaction.  It applies to its copy only what it knows, which is what it
        wrote itself, and only once the commit has come back."""
        rnd, world = self.rnd, self.world
        effects, marks = [], []
        try:
            yield "BEGIN; SET LOCAL sync.client = %s" % quote(client.name)
            for _ in range(rnd.choice([1, 1, 2, 3])):
                table = rnd.choice(client.own_tables())
                if world.allows("savepoint") and rnd.random() < 0.15:
                    yield "SAVEPOINT o%d" % len(marks)
                    marks.append(len(effects))
                elif marks and rnd.random() < 0.3:
                    yield "ROLLBACK TO o%d" % (len(marks) - 1)
                    del effects[marks[-1]:]
                kind = rnd.random()
                row = self.row(table)
                key = {c: row[c] for c in table.key}
                where = " AND ".join("%s = %s" % (c, quote(v)) for c, v in key.items())
                if kind < 0.2:
                    rows = yield (self.insert_text(table, [row]) + " ON CONFLICT DO NOTHING"
                                  " RETURNING to_jsonb(%s)" % table.name)
                    effects += [(table, "put", None, r[0]) for r in rows]
                elif kind < 0.3:
                    rows = yield "DELETE FROM %s WHERE %s RETURNING 1" % (table.name, where)
                    effects += [(table, "gone", key, None) for _ in rows]
                elif kind < 0.36 and table.name == "line":
                    yield "DELETE FROM orders WHERE id = %d" % rnd.randrange(1, 9)
                elif kind < 0.42 and table.name == "line":
                    yield "UPDATE orders SET id = %d WHERE id = %d" % (
                        rnd.randrange(1, 9), rnd.randrange(1, 9))
                elif kind < 0.46:
                    column = rnd.choice(table.key)
                    new = dict(key)
                    new[column] = self.value(table, column)
                    rows = yield "UPDATE %s SET %s = %s WHERE %s RETURNING to_jsonb(%s)" % (
                        table.name, column, quote(new[column]), where, table.name)
                    effects += [(table, "move", key, self.known(r[0], list(new))) for r in rows]
                else:
                    column = rnd.choice([c for c in table.columns + table.scope
                                         if c not in table.key])
                    value = self.value(table, column)
                    rows = yield "UPDATE %s SET %s = %s WHERE %s RETURNING to_jsonb(%s)" % (
                        table.name, column, quote(value), where, table.name)
                    effects += [(table, "set", key, self.known(r[0], [column])) for r in rows]
                for _ in range(rnd.choice([0, 0, 1, 3])):
                    yield None
            for _ in range(20):
                if not client.busy:
                    break
                yield None
            if client.busy or rnd.random() < 0.1:
                yield "ROLLBACK"
                return
            client.busy = self.name
            scopes = yield from client.scopes_now()
            yield "COMMIT"
            client.apply_own(effects, scopes)
            world.count("own transactions")
        except psycopg2.Error as error:
            self.check(error)
            yield "ROLLBACK"
        finally:
            if client.busy == self.name:
                client.busy = None


class Finisher(Writer):
    """Nothing but the second half of two-phase commits, so that not everybody waits for one."""

    def next(self):
        if not self.world.prepared:
            return None if self.world.stopping else self.idle()
        return self.finish_prepared()

    def idle(self):
        for _ in range(self.rnd.randrange(2, 10)):
            yield None
