"""Who may see what, and who is woken for a change."""

import json

from show import chapter, claim, connect, tell

COMPANIES = """
CREATE TABLE projects (
    id      int PRIMARY KEY,
    company text NOT NULL,
    title   text NOT NULL
);
CREATE TABLE members (
    user_id text NOT NULL,
    company text NOT NULL,
    PRIMARY KEY (user_id, company)
);
CREATE INDEX ON members (company, user_id);
INSERT INTO projects VALUES (1, 'Acme', 'rocket'), (2, 'Acme', 'anvil'), (3, 'Bolt', 'engine');
INSERT INTO members VALUES ('ann', 'Acme'), ('bob', 'Bolt'), ('cleo', 'Acme'), ('cleo', 'Bolt');
"""

ACCESS = ["SELECT sync.track('projects', scope => '{company}')",
          "SELECT sync.track('members', scope => '{user_id,company}')",
          "SELECT sync.set_access('projects', 'members')"]


class Tab:
    """A browser's tab of a user, connected to an application server."""

    def __init__(self, user, colour):
        self.user, self.colour = user, colour
        self.copy, self.since = {}, None
        self.conn = connect(f"tab of {user}")

    def pull(self):
        request = {"client": f"tab of {self.user}", "user_id": self.user, "domains": {"projects": {"since": self.since}}}
        with self.conn.cursor() as cur:
            cur.execute("SELECT sync.pull(%s::jsonb)", (json.dumps(request),))
            [answer] = cur.fetchone()
        answer = answer["domains"]["projects"]
        self.since = answer["cursor"]
        if answer.get("reset"):
            self.copy.clear()
        for scope in answer["forget"]:
            self.copy = {key: row for key, row in self.copy.items() if row["company"] != scope["company"]}
        for key in answer["remove"]:
            self.copy.pop(key["id"], None)
        for row in answer["upsert"]:
            self.copy[row["id"]] = row
        said = ([f"forget {scope['company']}" for scope in answer["forget"]] +
                [f"remove {key['id']}" for key in answer["remove"]] +
                [f"upsert {row['id']} {row['company']}: {row['title']}" for row in answer["upsert"]])
        tell(self.user, self.colour, "\n".join(said) or "nothing")

    def holds_what_it_may(self):
        with self.conn.cursor() as cur:
            cur.execute("SELECT p.id, to_jsonb(p) FROM projects p JOIN members m USING (company) WHERE m.user_id = %s",
                        (self.user,))
            return self.copy == dict(cur.fetchall())


def rights(shop):
    """Three users, two companies: who may see what, who is woken, and who is not."""
    chapter("Three users, two companies",
            "Projects concern a company; members says whose company it is. The application server keeps the users' tabs",
            "connected, and asks after each event which of them must fetch.")
    shop.run(COMPANIES)
    for statement in ACCESS:
        shop.run(statement)
    tabs = {"ann": Tab("ann", 36), "bob": Tab("bob", 34), "cleo": Tab("cleo", 32)}
    shop.run("SELECT sync.connect('tab of ' || u, u, 'web 1', '{projects}') FROM unnest('{ann,bob,cleo}'::text[]) u")
    [(cursor,)] = shop.run("SELECT cursor::text FROM sync.affected(sync.current_cursor(), 'web 1') WHERE client IS NULL",
                           quiet=True)
    for tab in tabs.values():
        tab.pull()

    def woken():
        nonlocal cursor
        rows = shop.run(f"SELECT user_id, cursor::text FROM sync.affected('{cursor}', 'web 1')", quiet=True)
        cursor = rows[-1][1]
        names = sorted(user for user, _ in rows[:-1])
        tell("web 1", 35, "SELECT * FROM sync.affected(my cursor, 'web 1')   -- " + (", ".join(names) or "nobody"))
        for name in names:
            tabs[name].pull()
        return names

    shop.run("UPDATE projects SET title = 'bigger rocket' WHERE id = 1")
    claim(woken() == ["ann", "cleo"], "Acme's change wakes Acme's members, not Bob")
    shop.run("INSERT INTO members VALUES ('bob', 'Acme')")
    claim(woken() == ["bob"] and len(tabs["bob"].copy) == 3, "a grant wakes Bob alone, and brings projects that nobody changed")
    shop.run("DELETE FROM members WHERE user_id = 'cleo' AND company = 'Bolt'")
    claim(woken() == ["cleo"] and 3 not in tabs["cleo"].copy, "a revocation wakes Cleo alone, though no project changed")
    shop.run("UPDATE projects SET company = 'Bolt' WHERE id = 2")
    claim(woken() == ["ann", "bob", "cleo"], "a project that changes hands concerns both sides")
    shop.run("BEGIN; SELECT set_config('sync.client', 'tab of bob', true);"
             " UPDATE projects SET title = 'quiet engine' WHERE id = 3; COMMIT")
    [(tabs["bob"].copy[3],)] = shop.run("SELECT to_jsonb(p) FROM projects p WHERE id = 3", quiet=True)
    claim(woken() == [], "Bob's own change of what only he may see wakes nobody")
    claim(all(tab.holds_what_it_may() for tab in tabs.values()), "each tab holds exactly what its user may see")
