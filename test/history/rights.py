"""Who may see what: access relations, and row-level security.

An access relation gives scopes to users.  There are a table with one row for each right, one with
several rows for the same (and with two scope columns, NULLs, and rows that are marked as deleted),
and a view over two tables.
"""

import json

from pg import quote
from world import BY_NAME, COMPANIES, USERS, Table

ACCESS_TABLES = [
    Table("seat", ["user_id", "company"],
          "CREATE TABLE seat (user_id int, company int, status text, n int,"
          " modified_at timestamptz, PRIMARY KEY (user_id, company))",
          scope=["user_id", "company"], columns=["status", "n"], ids=3),
    Table("permit", ["id"],
          "CREATE TABLE permit (id int PRIMARY KEY, who text, company int, owner int, status text,"
          " n int, deleted_at timestamptz, modified_at timestamptz)",
          scope=["who", "company", "owner"], deleted_at="deleted_at", columns=["status", "n"], ids=8),
    Table("team_user", ["team", "user_id"],
          "CREATE TABLE team_user (team int, user_id int, status text, n int,"
          " modified_at timestamptz, PRIMARY KEY (team, user_id))",
          columns=["status", "n"], ids=3),
    Table("team_company", ["team", "company"],
          "CREATE TABLE team_company (team int, company int, status text, n int,"
          " modified_at timestamptz, PRIMARY KEY (team, company))",
          columns=["status", "n"], ids=3),
]

BY_NAME.update({t.name: t for t in ACCESS_TABLES})


def scope_text(row, columns):
    """Scope values as a dictionary key; None where one is NULL, which is nobody's by access."""
    values = [row.get(c) for c in columns]
    return None if None in values else json.dumps(values)


class Access:
    """A relation from users to scopes; its columns are called as the domain's."""

    view = False

    def __init__(self, via, user_column="user_id"):
        self.via = via
        self.user_column = user_column
        self.bases = [via]
        self.ddl = ()
        table = BY_NAME.get(via)
        self.deleted_at = table and table.deleted_at

    def scopes(self, user, columns):
        """The scopes of a user, as SQL."""
        return "SELECT %s FROM %s WHERE %s = %s%s" % (
            ", ".join("%s.%s" % (self.via, c) for c in columns), self.via, self.user_column,
            quote(user), " AND %s IS NULL" % self.deleted_at if self.deleted_at else "")

    def rows_of(self, witness, user):
        return (s for s in witness.of_table(self.via) if str(s.row[self.user_column]) == user
                and (self.deleted_at is None or s.row[self.deleted_at] is None))

    def grants(self, witness, user, scope):
        """What gave the user the scope: each a list of spans that did so together."""
        columns = [c for c in BY_NAME[self.via].scope if c != self.user_column]
        return ([s] for s in self.rows_of(witness, user)
                if scope_text(s.row, columns) == scope_text(scope, columns) is not None)


class TeamAccess(Access):
    """A view: the users of a team may see its companies, whichever teams those are."""

    view = True

    def __init__(self):
        super().__init__("team_seat")
        self.bases = ["team_user", "team_company"]
        self.ddl = ["CREATE VIEW team_seat AS SELECT u.user_id, c.company"
                    " FROM team_user u JOIN team_company c USING (team)"]

    def rows_of(self, witness, user):
        teams = set()
        for span in witness.of_table("team_user"):
            if str(span.row["user_id"]) == user:
                teams.add(span.row["team"])
                yield span
        yield from (s for s in witness.of_table("team_company") if s.row["team"] in teams)

    def grants(self, witness, user, scope):
        for a in witness.of_table("team_user"):
            if str(a.row["user_id"]) == user:
                for b in witness.of_table("team_company"):
                    if a.row["team"] == b.row["team"] and b.row["company"] == scope["company"]:
                        yield [a, b]


SEAT, PERMIT, TEAM = Access("seat"), Access("permit", "who"), TeamAccess()
BY_SCOPE = {("company",): [SEAT, TEAM], ("company", "owner"): [PERMIT]}


def random_rights(rnd, names, allows, given=None):
    """Which domain is ruled by which relation.  given: only by relations of these tables."""
    rights = {}
    for name in names:
        choice = [a for a in BY_SCOPE.get(tuple(BY_NAME[name].scope), ())
                  if (not a.view or allows("view")) and (given is None or set(a.bases) <= set(given))]
        if choice and (given is not None or rnd.random() < 0.75):
            rights[name] = rnd.choice(choice)
    return rights


# Row-level security: a role that may see some companies, by a setting of its session.

SETTING = "history.companies"


def policies(cur, names, role):
    cur.execute("CREATE ROLE %s" % role)
    cur.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO %s" % role)
    for name in names:
        cur.execute("ALTER TABLE %s ENABLE ROW LEVEL SECURITY" % name)
        cur.execute("CREATE POLICY companies ON %s FOR SELECT USING"
                    " (company = ANY (string_to_array(current_setting('%s'), ',')::int[]))" % (
                        name, SETTING))


def as_role(role, companies):
    return "SET ROLE %s; SET %s = '%s'" % (role, SETTING, ",".join(str(c) for c in companies))


def random_companies(rnd):
    return sorted(rnd.sample(COMPANIES, rnd.choice([1, 2])))


def truth(sub, rows=None):
    """What the client should hold and its user's scopes, from one snapshot.  rows: SQL."""
    parts = []
    if rows is not None:
        parts.append("SELECT 'oracle', o.* FROM (%s) o" % rows)
    if sub.user is not None:
        parts.append("SELECT 'scope', to_jsonb(s) FROM (%s) s" % sub.access.scopes(
            sub.user, sub.table.scope))
    return " UNION ALL ".join(parts)


class Truth:
    """That, come back: rows of (kind, document).  exact: from the very snapshot of the answer."""

    def __init__(self, sub, rows):
        self.exact = True
        self.rows = [document for kind, document in rows if kind == "oracle"]
        self.scopes = {scope_text(document, sub.table.scope)
                       for kind, document in rows if kind == "scope"} - {None}
