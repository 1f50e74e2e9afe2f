"""Histories that have names, of rights: users, grants and revocations, and row-level security.

note is ruled by member; company 1 has the notes 1 and 2, company 2 has 11 and 12, and company 3 has
21 and 22.  User 1 begins with company 1.
"""

import json
import time

from client import Wrong
from named import as_client, case, notes, orders
from pg import quote
from rights import Access
from world import Filter, Table


def members(t, table="note", columns="company int, user_id int", key="user_id, company",
            scope=("user_id", "company"), user_column="user_id", name="member", **options):
    """An access table, and which domain it rules."""
    t.sql("CREATE TABLE %s (%s, PRIMARY KEY (%s)); CREATE INDEX ON %s (%s, user_id)" % (
        name, columns, key, name, scope[-1]))
    t.tables.append(name)
    t.sql("SELECT sync.track(%s, scope => %s::name[]%s)" % (
        quote(name), quote(list(scope)),
        "".join(", %s => %s" % (k, quote(v)) for k, v in options.items())))
    t.sql("SELECT sync.set_access(%s, %s, %s)" % (quote(table), quote(name), quote(user_column)))
    t.rights[table] = Access(name, user_column)


def company(t, **options):
    """The usual notes and members; gives the table and a device of user 1, up to date."""
    table = notes(t, scope=["company"], **options)
    members(t)
    t.sql("INSERT INTO note (id, company, n) VALUES (1, 1, 0), (2, 1, 0), (11, 2, 0), (12, 2, 0),"
          " (21, 3, 0), (22, 3, 0), (31, NULL, 0); INSERT INTO member VALUES (1, 1)")
    device = t.device(table, user="1")
    device.pull()
    return table, device


def reader(t, sql=""):
    """A session of somebody whom policies concern."""
    session = t.session("reader")
    session.sql("SET ROLE %s; %s" % (t.server.role(), sql))
    return session


def policy(t, using, table="note"):
    """One policy, and the role."""
    if not t.value("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = %s)" % quote(t.server.role())):
        t.sql("CREATE ROLE %s" % t.server.role())
    t.sql("ALTER TABLE %s ENABLE ROW LEVEL SECURITY; GRANT SELECT ON ALL TABLES IN SCHEMA public TO %s;"
          " CREATE POLICY p ON %s FOR SELECT USING (%s)" % (table, t.server.role(), table, using))


# ----------------------------------------------------------------------- grants and revocations


@case
def a_user_sees_its_scopes(t):
    """Nobody else's rows, and of NULL nobody's; a stranger sees nothing, and no user is no limit."""
    table, device = company(t)
    t.equal(device.keys(), [1, 2], "of user 1")
    stranger = t.device(table, user="77")
    t.equal(stranger.pull(), [], "of nobody")
    t.equal(len(t.device(table).pull()), 7, "rows without a user")
    t.sql("UPDATE note SET n = 1; DELETE FROM note WHERE id = 11; UPDATE note SET company = NULL"
          " WHERE id = 12; INSERT INTO note (id, company) VALUES (3, 1), (13, 2)")
    t.equal(sorted(device.pull()), [("upsert", 1), ("upsert", 2), ("upsert", 3)], "changes")
    t.equal(stranger.pull(), [], "of nobody, still")


@case
def revocation_reads_the_wrong_log(t):
    """A row is deleted, then its scope revoked: read for the rights of now, the log says nothing."""
    _, device = company(t)
    t.sql("DELETE FROM note WHERE id = 1")
    t.sql("DELETE FROM member WHERE company = 1")
    t.equal(device.pull(reset=False), [("forget", 1)], "one forget, and nothing of rows")
    t.equal(device.pull(reset=False), [], "once")


@case
def revocation_of_quiet_rows(t):
    """No row changed, and yet they go; not one of them is named."""
    _, device = company(t)
    t.sql("DELETE FROM member")
    t.equal(device.pull(reset=False), [("forget", 1)], "the scope")
    t.sql("UPDATE note SET n = 9; DELETE FROM note WHERE id = 2")
    t.equal(device.pull(reset=False), [], "what happens there afterwards")


@case
def grant_of_quiet_rows(t):
    """No row changed, and yet they come."""
    _, device = company(t)
    t.sql("INSERT INTO member VALUES (2, 1)")
    t.equal(sorted(r for r in device.pull(reset=False) if r[0] != "forget"),
            [("upsert", 11), ("upsert", 12)], "the scope")
    t.equal(device.pull(reset=False), [], "once")


@case
def nothing_from_before_the_grant(t):
    """What was deleted, or left, before the grant was nobody's business."""
    table, device = company(t)
    t.sql("DELETE FROM note WHERE id = 11")
    t.sql("INSERT INTO note (id, company) VALUES (13, 2)")
    t.sql("UPDATE note SET company = 3 WHERE id = 12")
    t.sql("UPDATE note SET id = 14 WHERE id = 13")
    t.sql("INSERT INTO member VALUES (2, 1)")
    t.equal([r for r in device.pull(reset=False) if r[0] != "forget"], [("upsert", 14)], "answer")
    t.sql("BEGIN; DELETE FROM note WHERE id = 21; INSERT INTO member VALUES (3, 1); COMMIT")
    t.equal(sorted(r for r in device.pull(reset=False) if r[0] != "forget"),
            [("upsert", 12), ("upsert", 22)], "in one transaction")


@case
def nothing_from_beyond_the_rights(t):
    """Between a revocation and the next grant a row came and went: its key is no one's business.
    What was there before, and went meanwhile, goes."""
    _, device = company(t)
    t.sql("DELETE FROM member")
    t.sql("INSERT INTO note (id, company) VALUES (3, 1)")
    t.sql("DELETE FROM note WHERE id IN (2, 3)")
    t.sql("INSERT INTO member VALUES (1, 1)")
    done = device.pull(reset=False)
    t.equal(device.keys(), [1], "keys")
    if ("remove", 3) in done:
        raise Wrong("a key that the user never could read: %r" % done)


@case
def granted_and_revoked_in_one_transaction(t):
    """No committed state had it: nothing is said, of rows or of scopes."""
    _, device = company(t)
    for sql in ("INSERT INTO member VALUES (2, 1); DELETE FROM member WHERE company = 2",
                "INSERT INTO member VALUES (2, 1); UPDATE note SET n = n + 1 WHERE company = 2;"
                " DELETE FROM note WHERE id = 12; DELETE FROM member WHERE company = 2",
                "INSERT INTO member VALUES (2, 1); UPDATE member SET company = 3 WHERE company = 2;"
                " DELETE FROM member WHERE company = 3",
                "UPDATE member SET user_id = 5; UPDATE member SET user_id = 1",
                "INSERT INTO member VALUES (2, 1); SAVEPOINT s; DELETE FROM member WHERE company = 2;"
                " RELEASE s"):
        t.sql("BEGIN; %s; COMMIT" % sql)
        done = device.pull(reset=False)
        if sql.startswith("UPDATE"):
            t.equal(device.keys(), [1, 2], sql)
        else:
            t.equal(done, [], sql)


@case
def granted_and_revoked(t):
    """In two transactions, unseen by the client: it ends with nothing, and learns of no row."""
    _, device = company(t)
    t.sql("INSERT INTO member VALUES (2, 1)")
    t.sql("UPDATE note SET n = n + 1; DELETE FROM note WHERE id = 11")
    t.sql("DELETE FROM member WHERE company = 2")
    done = device.pull(reset=False)
    t.equal([r for r in done if r[0] != "forget"], [("upsert", 1), ("upsert", 2)], "rows")


@case
def revoked_and_granted_again(t):
    """In one transaction and in two, with changes before, between and after."""
    for between in ("", "; COMMIT; BEGIN"):
        _, device = company(t)
        for sql in ("UPDATE note SET n = n + 1 WHERE id = 1",
                    "DELETE FROM note WHERE id = 2",
                    "INSERT INTO note (id, company, n) VALUES (2, 1, 7) ON CONFLICT (id)"
                    " DO UPDATE SET n = note.n + 1",
                    "UPDATE note SET company = 2 WHERE id = 1",
                    "UPDATE note SET company = 1 WHERE id IN (1, 11)"):
            for place in range(4):
                steps = ["DELETE FROM member" + between, "INSERT INTO member VALUES (1, 1)"]
                if place < 3:
                    steps.insert(place, sql)
                t.sql("BEGIN; %s; COMMIT" % "; ".join(steps))
                device.pull(reset=False)
                if place < 3:
                    t.sql("UPDATE note SET company = 2 WHERE id = 11")
                    device.pull(reset=False)
        t.sql("DROP TABLE note, member")


@case
def rights_and_rows_in_one_transaction(t):
    """A row goes with the right to it: from a scope that is lost to one that is gained."""
    _, device = company(t)
    t.sql("BEGIN; UPDATE note SET company = 2 WHERE id = 1; DELETE FROM member WHERE company = 1;"
          " INSERT INTO member VALUES (2, 1); COMMIT")
    device.pull(reset=False)
    t.equal(device.keys(), [1, 11, 12], "moved with the right")
    t.sql("BEGIN; UPDATE member SET company = 3; UPDATE note SET company = 3 WHERE id = 11; COMMIT")
    device.pull(reset=False)
    t.equal(device.keys(), [11, 21, 22], "the right moved first")
    t.sql("BEGIN; INSERT INTO note (id, company) VALUES (23, 3); DELETE FROM note WHERE id = 21;"
          " DELETE FROM member; DELETE FROM note WHERE id = 22; COMMIT")
    done = device.pull(reset=False)
    t.equal(done, [("forget", 3)], "everything at once")


@case
def rows_move_between_scopes(t):
    """To one that the user has too, to one that it has not, and back."""
    _, device = company(t)
    t.sql("INSERT INTO member VALUES (2, 1)")
    device.pull()
    t.sql("UPDATE note SET company = 2 WHERE id = 1")
    t.equal(device.pull(reset=False), [("upsert", 1)], "within the rights")
    t.sql("UPDATE note SET company = 3 WHERE id = 1")
    t.equal(device.pull(reset=False), [("remove", 1)], "out of them")
    t.sql("UPDATE note SET n = 5 WHERE id = 1")
    t.equal(device.pull(reset=False), [], "outside")
    t.sql("UPDATE note SET company = 1 WHERE id = 1")
    t.equal(device.pull(reset=False), [("upsert", 1)], "into them")
    t.sql("UPDATE note SET company = NULL WHERE id = 1")
    t.equal(device.pull(reset=False), [("remove", 1)], "to nobody")


@case
def a_walk_through_scopes(t):
    """1 to 2 to 3 in one transaction: the user of 2 is told of nothing."""
    table, one = company(t)
    t.sql("INSERT INTO member VALUES (2, 2), (3, 3)")
    two, three = t.device(table, user="2"), t.device(table, user="3")
    for device in (one, two, three):
        device.pull()
    t.sql("BEGIN; UPDATE note SET company = 2 WHERE id = 1; UPDATE note SET company = 3 WHERE id = 1;"
          " COMMIT")
    t.equal(one.pull(reset=False), [("remove", 1)], "the one who had it")
    t.equal(two.pull(reset=False), [], "the one who never had it")
    t.equal(three.pull(reset=False), [("upsert", 1)], "the one who has it")
    t.sql("BEGIN; INSERT INTO note (id, company) VALUES (5, 2); UPDATE note SET id = 6 WHERE id = 5;"
          " SAVEPOINT s; UPDATE note SET company = 3 WHERE id = 6; RELEASE s;"
          " DELETE FROM note WHERE id = 6; COMMIT")
    for device in (one, two, three):
        t.equal(device.pull(reset=False), [], "a row that came and went")
    t.sql("BEGIN; UPDATE note SET company = 2 WHERE id = 2; SAVEPOINT s;"
          " UPDATE note SET company = 3 WHERE id = 2; ROLLBACK TO s; COMMIT")
    t.equal(one.pull(reset=False), [("remove", 2)], "rolled back: the one who had it")
    t.equal(two.pull(reset=False), [("upsert", 2)], "rolled back: the one who has it")
    t.equal(three.pull(reset=False), [], "rolled back: the one who never had it")


@case
def a_right_that_moves(t):
    """UPDATE of the access row: the scope changes, or the user."""
    table, one = company(t)
    two = t.device(table, user="2")
    two.pull()
    t.sql("UPDATE member SET company = 2")
    one.pull(reset=False)
    t.equal(one.keys(), [11, 12], "another company")
    t.sql("UPDATE member SET user_id = 2")
    t.equal(one.pull(reset=False), [("forget", 2)], "the one who lost it")
    two.pull(reset=False)
    t.equal(two.keys(), [11, 12], "the one who gained it")


@case
def a_right_that_stays(t):
    """An UPDATE that moves nothing is no grant, nor is a touched or rewritten row."""
    table = notes(t, scope=["company"])
    members(t, columns="company int, user_id int, role text")
    t.sql("INSERT INTO note (id, company) VALUES (1, 1); INSERT INTO member VALUES (1, 1, 'a')")
    device = t.device(table, user="1")
    device.pull()
    for sql in ("UPDATE member SET role = 'b'",
                "SELECT sync.touch('member', '{\"user_id\": 1, \"company\": 1}')",
                "UPDATE member SET company = company",
                "INSERT INTO member VALUES (1, 1, 'c') ON CONFLICT (user_id, company)"
                " DO UPDATE SET role = EXCLUDED.role"):
        t.sql(sql)
        t.equal(device.pull(reset=False), [], sql)
    t.sql("BEGIN; DELETE FROM member; INSERT INTO member VALUES (1, 1, 'd'); COMMIT")
    device.pull(reset=False)
    t.equal(device.keys(), [1], "written anew")


@case
def several_rows_for_one_right(t):
    """As long as one of them is left, nothing is lost; and the second grant brings nothing."""
    table = notes(t, scope=["company"])
    members(t, columns="id int, company int, user_id int, via text", key="id")
    t.sql("INSERT INTO note (id, company) VALUES (1, 1), (2, 1); INSERT INTO member VALUES (1, 1, 1, 'a')")
    device = t.device(table, user="1")
    device.pull()
    t.sql("INSERT INTO member VALUES (2, 1, 1, 'b')")
    t.equal(device.pull(reset=False), [], "a second one")
    t.sql("DELETE FROM member WHERE id = 1")
    device.pull(reset=False)
    t.equal(device.keys(), [1, 2], "one of two")
    t.sql("BEGIN; DELETE FROM note WHERE id = 1; INSERT INTO member VALUES (3, 1, 1, 'c');"
          " DELETE FROM member WHERE id = 2; COMMIT")
    device.pull(reset=False)
    t.equal(device.keys(), [2], "handed over, and a row deleted")
    t.sql("UPDATE member SET id = 4")
    device.pull(reset=False)
    t.sql("INSERT INTO member VALUES (1, NULL, 1, 'n'), (2, 1, NULL, 'n')")
    t.equal(device.pull(reset=False), [], "NULLs give nothing")
    t.sql("DELETE FROM note WHERE id = 2; DELETE FROM member")
    t.equal(device.pull(reset=False), [("forget", 1)], "the last one")


@case
def a_right_to_two_columns(t):
    """A composite scope: half of it gives nothing."""
    table = notes(t, scope=["company", "owner"])
    members(t, columns="user_id text, owner int, company int", key="user_id, owner, company",
            scope=("user_id", "owner", "company"))
    t.sql("INSERT INTO note (id, company, owner) VALUES (1, 1, 1), (2, 1, 2), (3, 2, 1), (4, 2, 2),"
          " (5, 1, NULL), (6, NULL, 1)")
    device = t.device(table, user="an'n")
    t.equal(device.pull(), [], "none")
    t.sql("INSERT INTO member VALUES ('an''n', 2, 1), ('an''n', 1, 2), ('bob', 1, 1)")
    device.pull(reset=False)
    t.equal(device.keys(), [2, 3], "two pairs")
    t.sql("UPDATE note SET owner = 3 - owner WHERE id IN (1, 2)")
    t.equal(sorted(device.pull(reset=False)), [("remove", 2), ("upsert", 1)], "owners exchanged")
    t.sql("UPDATE member SET owner = 2 WHERE user_id LIKE 'an%' AND company = 2")
    done = device.pull(reset=False)
    t.equal([r for r in done if r[0] == "remove"], [], "removals")
    t.equal(device.keys(), [1, 4], "another owner's")


@case
def users_of_other_types(t):
    """The user's name goes through the type of the column."""
    for kind, user, bad in (("uuid", "6F9619FF-8B86-D011-B42D-00CF4FC964FF", "x"),
                            ("bigint", "0000000000012345678901", "1.5"), ("text", "", None),
                            ("numeric(6,2)", "1.50", "one")):
        table = notes(t, scope=["company"])
        members(t, columns="company int, user_id %s" % kind)
        t.sql("INSERT INTO note (id, company) VALUES (1, 1), (2, 2)")
        t.sql("INSERT INTO member VALUES (1, %s)" % quote(user))
        device = t.device(table, user=user)
        t.equal(device.pull(), [("upsert", 1)], kind)
        t.sql("DELETE FROM member")
        t.equal(device.pull(reset=False), [("forget", 1)], kind)
        if bad is not None:
            t.fails("22P02", lambda: t.device(table, user=bad).pull())
        t.sql("DROP TABLE note, member")


@case
def soft_deleted_memberships(t):
    """A right that is marked as deleted is none, and one that is restored is one again."""
    table = notes(t, scope=["company"])
    members(t, columns="company int, user_id int, deleted_at timestamptz", deleted_at="deleted_at")
    t.rights["note"].scopes = lambda user, columns: (
        "SELECT member.company FROM member WHERE user_id = %s AND deleted_at IS NULL" % quote(user))
    t.sql("INSERT INTO note (id, company) VALUES (1, 1), (2, 1); INSERT INTO member VALUES (1, 1)")
    device = t.device(table, user="1")
    device.pull()
    t.sql("UPDATE member SET deleted_at = now()")
    t.sql("DELETE FROM note WHERE id = 1")
    t.equal(device.pull(reset=False), [("forget", 1)], "deleted")
    t.sql("INSERT INTO note (id, company) VALUES (3, 1)")
    t.sql("DELETE FROM note WHERE id = 3")
    t.sql("UPDATE member SET deleted_at = NULL")
    t.equal(device.pull(reset=False), [("upsert", 2)], "restored")
    t.sql("BEGIN; UPDATE member SET deleted_at = now(); DELETE FROM note WHERE id = 2;"
          " UPDATE member SET deleted_at = NULL; COMMIT")
    t.equal(device.pull(reset=False), [("forget", 1)], "gone and back in one transaction")
    t.sql("INSERT INTO note (id, company) VALUES (2, 1)")
    device.pull(reset=False)
    t.sql("UPDATE member SET deleted_at = now(); DELETE FROM member")
    t.equal(device.pull(reset=False), [("forget", 1)], "deleted twice")
    t.sql("INSERT INTO member VALUES (1, 1, now()); UPDATE member SET deleted_at = now()")
    t.equal(device.pull(reset=False), [], "never there")
    t.sql("DELETE FROM member; INSERT INTO member VALUES (1, 1)")
    t.equal(device.pull(reset=False), [("upsert", 2)], "there at last")
    t.sql("UPDATE member SET deleted_at = now(); DELETE FROM note WHERE id = 2;"
          " UPDATE member SET deleted_at = NULL")
    t.equal(device.pull(reset=False), [("forget", 1)], "gone and back")


# ---------------------------------------------------------------------------------- the order of it


@case
def early_grant_late_commit(t):
    """A grant wrote first and committed last; so did a revocation."""
    _, device = company(t)
    slow = t.session()
    slow.sql("BEGIN; INSERT INTO member VALUES (2, 1)")
    t.sql("UPDATE note SET n = n + 1 WHERE id IN (1, 11)")
    t.equal(device.pull(reset=False), [("upsert", 1)], "not yet")
    slow.sql("COMMIT")
    device.pull(reset=False)
    t.equal(device.keys(), [1, 2, 11, 12], "granted")
    slow.sql("BEGIN; DELETE FROM member WHERE company = 1")
    t.sql("DELETE FROM note WHERE id = 1")
    t.sql("UPDATE note SET company = 2 WHERE id = 2")
    device.pull(reset=False)
    slow.sql("COMMIT")
    device.pull(reset=False)
    t.equal(device.keys(), [2, 11, 12], "revoked")


@case
def grant_beside_a_running_change(t):
    """The row is written before the grant and commits after it, and the other way round."""
    _, device = company(t)
    slow = t.session()
    slow.sql("BEGIN; INSERT INTO note (id, company) VALUES (13, 2); DELETE FROM note WHERE id = 12")
    t.sql("INSERT INTO member VALUES (2, 1)")
    device.pull(reset=False)
    t.equal(device.keys(), [1, 2, 11, 12], "before")
    slow.sql("COMMIT")
    t.equal(sorted(device.pull(reset=False)), [("remove", 12), ("upsert", 13)], "after")
    slow.sql("BEGIN; INSERT INTO note (id, company) VALUES (14, 2); DELETE FROM note WHERE id = 13")
    t.sql("DELETE FROM member WHERE company = 2")
    slow.sql("COMMIT")
    t.equal(device.pull(reset=False), [("forget", 2)], "revoked meanwhile")


@case
def rights_and_savepoints(t):
    """What was rolled back gives and takes nothing."""
    _, device = company(t)
    t.sql("BEGIN; SAVEPOINT a; INSERT INTO member VALUES (2, 1); SAVEPOINT b;"
          " INSERT INTO member VALUES (3, 1); ROLLBACK TO b; RELEASE a; COMMIT")
    device.pull(reset=False)
    t.equal(device.keys(), [1, 2, 11, 12], "one of two grants")
    t.sql("BEGIN; SAVEPOINT a; DELETE FROM member; UPDATE note SET n = 5; ROLLBACK TO a; COMMIT")
    t.equal(device.pull(reset=False), [], "rolled back")
    t.sql("BEGIN; DELETE FROM member WHERE company = 2; SAVEPOINT a; INSERT INTO member VALUES (2, 1);"
          " ROLLBACK TO a; COMMIT")
    t.equal(device.pull(reset=False), [("forget", 2)], "revoked all the same")


@case
def prepared_rights(t):
    """A prepared grant is none yet, a prepared revocation takes nothing yet."""
    if not t.server.two_phase:
        return
    _, device = company(t)
    t.sql("BEGIN; INSERT INTO member VALUES (2, 1); DELETE FROM member WHERE company = 1;"
          " PREPARE TRANSACTION 'named_rights'")
    t.sql("UPDATE note SET n = n + 1 WHERE id IN (1, 11)")
    t.equal(device.pull(reset=False), [("upsert", 1)], "prepared")
    t.sql("COMMIT PREPARED 'named_rights'")
    device.pull(reset=False)
    t.equal(device.keys(), [11, 12], "committed")


@case
def rights_of_an_older_snapshot(t):
    """A snapshot from before the revocation says retry, and gives nothing back."""
    _, device = company(t)
    old = t.session()
    old.sql("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
    t.sql("DELETE FROM member")
    t.sql("UPDATE note SET n = 1")
    device.pull(reset=False)
    t.fails("40001", lambda: device.pull(old))
    t.equal(device.pull(reset=False), [], "quiet")


# --------------------------------------------------------------------------------------- own writes


@case
def rights_of_the_own_transaction(t):
    """What the reader's own transaction granted, revoked and changed counts within it, and comes
    again after it."""
    _, device = company(t)
    own = t.session()
    own.sql("BEGIN; INSERT INTO member VALUES (2, 1); INSERT INTO note (id, company) VALUES (13, 2)")
    device.pull(own, reset=False)
    t.equal(device.keys(), [1, 2, 11, 12, 13], "inside")
    own.sql("DELETE FROM member WHERE company = 1; DELETE FROM note WHERE id = 2")
    device.pull(own, reset=False)
    t.equal(device.keys(), [11, 12, 13], "inside, later")
    own.sql("INSERT INTO member VALUES (3, 1)")
    own.sql("COMMIT")
    device.pull(reset=False)
    t.equal(device.keys(), [11, 12, 13, 21, 22], "after it")
    t.equal(device.pull(reset=False), [], "quiet")


@case
def own_grant_and_what_others_did(t):
    """The rows of a scope that the own transaction gained are held, though the cursor does not
    count that as seen: what goes before the next answer is to go."""
    _, device = company(t)
    own = t.session()
    own.sql("BEGIN; INSERT INTO member VALUES (2, 1), (3, 1)")
    device.pull(own, reset=False)
    own.sql("COMMIT")
    t.sql("DELETE FROM note WHERE id = 11")
    t.sql("UPDATE note SET company = 7 WHERE id = 21")
    device.pull(reset=False)
    t.equal(device.keys(), [1, 2, 12, 22], "keys")
    own.sql("BEGIN; INSERT INTO member VALUES (7, 1)")
    device.pull(own, reset=False)
    own.sql("COMMIT")
    t.sql("DELETE FROM note WHERE id = 21")
    t.sql("DELETE FROM member WHERE company = 7")
    device.pull(reset=False)
    t.equal(device.keys(), [1, 2, 12, 22], "revoked again")


@case
def own_transaction_came_to_nothing(t):
    """Granted, read and rolled back to a savepoint: the cursor from before goes on."""
    _, device = company(t)
    own = t.session()
    cursor, copy = device.sub.cursor, dict(device.sub.copy)
    own.sql("BEGIN; SAVEPOINT s; INSERT INTO member VALUES (2, 1)")
    device.pull(own)
    t.equal(device.keys(), [1, 2, 11, 12], "inside")
    own.sql("ROLLBACK TO s; DELETE FROM note WHERE id = 1; COMMIT")
    device.sub.cursor, device.sub.copy = cursor, copy
    t.equal(device.pull(reset=False), [("remove", 1)], "after it")


@case
def own_rows_that_a_grant_brings(t):
    """C wrote a row where it could not see it; the grant brings it, though C is its author."""
    table, _ = company(t)
    device = t.device(table, name="c", user="1")
    device.pull()
    as_client(t, "c", "INSERT INTO note (id, company) VALUES (13, 2)")
    as_client(t, "c", "UPDATE note SET n = 4 WHERE id = 11")
    t.equal(device.pull(reset=False), [], "not its business")
    as_client(t, "c", "INSERT INTO note (id, company) VALUES (14, 2)")
    t.sql("INSERT INTO member VALUES (2, 1)")
    as_client(t, "c", "UPDATE note SET n = 5 WHERE id = 12")
    device.pull(reset=False)
    t.equal(device.keys(), [1, 2, 11, 12, 13, 14], "all of it")
    as_client(t, "c", "DELETE FROM member WHERE company = 2")
    t.equal(device.pull(reset=False), [("forget", 2)], "what it took from itself")
    as_client(t, "c", "INSERT INTO member VALUES (2, 1)")
    device.pull(reset=False)
    t.equal(device.keys(), [1, 2, 11, 12, 13, 14], "what it gave to itself")


@case
def excluded_rows_and_rights(t):
    """Rows that the client names as held are forgotten with their scope, and come with it again."""
    _, device = company(t)

    def held():
        return [{"id": d["id"], "modified_at": d["modified_at"]} for d in device.copy.values()]

    t.sql("DELETE FROM member")
    t.sql("INSERT INTO member VALUES (1, 1), (2, 1)")
    device.pull(exclude=held(), reset=False)
    t.equal(device.keys(), [1, 2, 11, 12], "forgotten and sent again")
    t.sql("DELETE FROM member WHERE company = 1; DELETE FROM note WHERE id = 12")
    device.pull(exclude=held(), reset=False)
    t.equal(device.keys(), [11], "kept, gone, and forgotten")
    t.sql("SELECT sync.reset('note')")
    t.sql("UPDATE member SET company = 3")
    device.pull(exclude=held(), reset=True)
    t.equal(device.keys(), [21, 22], "a reset keeps what it names, and says that it is gone")


# -------------------------------------------------------------------------------------------- pages


def many(t, each=12):
    """Companies 1 to 3 with some notes each; user 1 has company 1."""
    table, device = company(t)
    t.sql("INSERT INTO note (id, company, n) SELECT 100 * c + i, c, 0"
          " FROM generate_series(1, 3) c, generate_series(1, %d) i" % each)
    device.pull()
    return table, device


@case
def paged_revocation(t):
    """A row leaves the lost scope between two pages: it goes with the scope all the same."""
    _, device = many(t)
    t.sql("INSERT INTO member VALUES (2, 1)")
    device.pull()
    t.sql("UPDATE note SET n = n + 1")
    t.sql("DELETE FROM member WHERE company = 1")
    device.page(max_rows=3)
    t.sql("UPDATE note SET company = 2 WHERE id IN (101, 102)")
    t.sql("DELETE FROM note WHERE id = 103")
    device.page(max_rows=3)
    t.sql("UPDATE note SET company = 3 WHERE id IN (201, 104)")
    device.pull(max_rows=3, reset=False)
    t.equal([k for k in device.keys() if 100 < k < 200], [101, 102], "of company 1")
    t.equal(device.pull(reset=False), [], "quiet")


@case
def revoked_and_granted_between_pages(t):
    """Between pages a scope is revoked, a row of it deleted where the page has not come yet, and the
    scope granted again: with the rights of the page's target the removal is skipped."""
    for first, again in ((1, True), (4, True), (4, False), (25, True)):
        _, device = many(t)
        t.sql("INSERT INTO member VALUES (2, 1)")
        device.pull()
        t.sql("UPDATE note SET n = n + 1 WHERE company = 2")
        t.sql("UPDATE note SET n = n + 1 WHERE company = 1")
        device.page(max_rows=first)
        t.sql("DELETE FROM member WHERE company = 1")
        device.page(max_rows=2)
        t.sql("DELETE FROM note WHERE id IN (1, 112)")
        device.page(max_rows=2)
        if again:
            t.sql("INSERT INTO member VALUES (1, 1)")
        device.pull(max_rows=2, reset=False)
        t.equal(device.pull(reset=False), [], "quiet")
        t.equal(1 in device.keys(), False, "the deleted row")
        t.sql("DROP TABLE note, member")


@case
def rights_change_during_a_first_load(t):
    """Granted behind the place, revoked ahead of it, and the other way round."""
    table, _ = many(t)
    for granted, revoked in ((2, 1), (1, 2), (3, 1), (1, 3)):
        t.sql("DELETE FROM member")
        t.sql("INSERT INTO member VALUES (%d, 1)" % revoked)
        device = t.device(table, user="1")
        device.page(max_rows=4)
        t.sql("INSERT INTO member VALUES (%d, 1)" % granted)
        device.page(max_rows=2)
        t.sql("DELETE FROM member WHERE company = %d" % revoked)
        t.sql("DELETE FROM note WHERE id %% 100 = %d" % (granted + 2))
        device.page(max_rows=2)
        t.sql("UPDATE note SET n = n + 1 WHERE id %% 4 = %d" % granted)
        device.pull(max_rows=3, reset=False)
        t.equal(device.pull(reset=False), [], "quiet")
        t.equal({d["company"] for d in device.copy.values()}, {granted}, "companies")


@case
def a_grant_in_pages(t):
    """The rows of a gained scope take several pages, and change, come and go between them."""
    _, device = many(t, 20)
    t.sql("INSERT INTO member VALUES (2, 1)")
    device.page(max_rows=5)
    t.sql("UPDATE note SET n = n + 1")                      # sent already, and not yet
    device.page(max_rows=5)
    t.sql("DELETE FROM note WHERE id IN (11, 201, 210, 220)")
    t.sql("INSERT INTO note (id, company) VALUES (10, 2), (221, 2)")
    device.page(max_rows=5)
    t.sql("UPDATE note SET company = 3 WHERE id IN (12, 202, 219)")
    t.sql("UPDATE note SET company = 2 WHERE id IN (301, 1)")
    device.page(max_rows=5)
    t.sql("INSERT INTO member VALUES (3, 1)")
    device.pull(max_rows=5, reset=False)
    t.equal(device.pull(reset=False), [], "quiet")


@case
def a_row_enters_where_the_next_round_grants(t):
    """It is found by what it left, and comes with what is granted: once in an answer."""
    table, device = company(t)
    t.sql("UPDATE note SET n = n + 1")
    device.page(max_rows=1)
    t.sql("INSERT INTO member VALUES (2, 1)")
    t.sql("UPDATE note SET company = 2 WHERE id IN (1, 2)")
    device.pull(reset=False)
    t.equal(device.keys(), [1, 2, 11, 12], "keys")


@case
def a_grant_taken_back_in_its_pages(t):
    """Half of the scope was sent when it is revoked; then it is granted once more."""
    for again in (False, True):
        _, device = many(t, 20)
        t.sql("INSERT INTO member VALUES (2, 1)")
        device.page(max_rows=7)
        t.sql("DELETE FROM member WHERE company = 2")
        t.sql("DELETE FROM note WHERE id IN (11, 201)")
        device.page(max_rows=1)
        if again:
            t.sql("INSERT INTO member VALUES (2, 1)")
            t.sql("DELETE FROM note WHERE id IN (12, 202)")
        device.pull(max_rows=7, reset=False)
        t.equal(device.pull(reset=False), [], "quiet")
        t.sql("DROP TABLE note, member")


@case
def granted_twice_between_pages(t):
    """While the rows of a gained scope are sent in pages, another row gives the same scope: the user
    has it all along by the first, and it is still to be sent."""
    for own in (False, True):
        table = notes(t, scope=["company"])
        members(t, columns="id int, company int, user_id int", key="id")
        t.sql("INSERT INTO note (id, company) VALUES (1, 1), (11, 2), (12, 2), (13, 2);"
              " INSERT INTO member VALUES (1, 1, 1)")
        device = t.device(table, user="1")
        device.pull()
        t.sql("INSERT INTO member VALUES (2, 2, 1)")
        if own:
            t.sql("BEGIN; INSERT INTO member VALUES (3, 2, 1)")
            device.pull(reset=False)
            t.equal(device.keys(), [1, 11, 12, 13], "in the transaction that grants again")
            t.sql("COMMIT")
            device.pull(reset=False)
        else:
            device.page(max_rows=1)
            t.sql("INSERT INTO member VALUES (3, 2, 1)")
            device.page(max_rows=1)
            t.sql("DELETE FROM member WHERE id = 2; INSERT INTO member VALUES (4, 2, 1)")
            device.pull(max_rows=1, reset=False)
        t.equal(device.keys(), [1, 11, 12, 13], "keys")
        t.equal(device.pull(reset=False), [], "quiet")
        t.sql("DROP TABLE note, member")


@case
def moved_to_what_the_next_round_grants(t):
    """The remove of where a row was is needless where the row comes with a later grant, and due
    where the page ends before that."""
    for max_rows, revoked in ((None, False), (1, False), (2, False), (1, True), (2, True)):
        table, device = company(t)
        t.sql("UPDATE note SET n = n + 1")
        device.page(max_rows=1)
        t.sql("INSERT INTO member VALUES (2, 1); UPDATE note SET company = 2 WHERE company = 1")
        device.page(max_rows=max_rows)
        if revoked:
            t.sql("DELETE FROM member WHERE company = 2")
        device.pull(max_rows=max_rows, reset=False)
        t.equal(device.keys(), [] if revoked else [1, 2, 11, 12], "keys")
        t.sql("DROP TABLE note, member")


@case
def forgotten_in_pages(t):
    """Who keeps a time may hold rows of what was granted since: all of those scopes are forgotten
    first, also where the page ends among them."""
    _, device = many(t, 3)
    time.sleep(1.1)
    t.sql("UPDATE note SET n = 1")
    t.sql("INSERT INTO member VALUES (2, 1), (3, 1)")
    device.pull()
    kept = device.last[-1][3]
    t.sql("DELETE FROM note WHERE id IN (201, 301)")
    device.page(max_rows=1, since=quote(kept), reset=False)
    device.pull(max_rows=1, reset=False)
    t.equal([k for k in device.keys() if k in (201, 301)], [], "the deleted rows")


@case
def a_cut_transaction_tells_no_more(t):
    """A page ends in the midst of a transaction, in which a key passes through the user's scope."""
    _, device = company(t)
    t.sql("BEGIN; INSERT INTO note (id, company) VALUES (101, 1), (102, 1), (103, 1);"
          " UPDATE note SET company = 2 WHERE id = 103; COMMIT")
    done = device.pull(max_rows=2, reset=False)
    if ("remove", 103) in done:
        raise Wrong("a key that the user never could read: %r" % done)


@case
def a_cut_transaction_says_what_a_whole_one_does(t):
    """Wherever a page ends in a transaction, its keys are removed that were there before it, and
    only those: came and went, left and came back, changed and left, swapped, deleted and inserted."""
    for max_rows in (None, 1, 2, 3, 4, 7):
        table, device = company(t)
        t.sql("INSERT INTO note (id, company) SELECT i, 1 FROM generate_series(3, 8) i")
        device.pull()
        t.sql("BEGIN; INSERT INTO note (id, company) VALUES (101, 1), (102, 1), (103, 1), (104, 3);"
              " UPDATE note SET n = 5 WHERE id IN (3, 4, 5); UPDATE note SET company = 1 WHERE id IN"
              " (11, 12, 104); UPDATE note SET company = 2 WHERE id IN (1, 3, 103, 11);"
              " UPDATE note SET company = 1 WHERE id = 1; DELETE FROM note WHERE id IN (2, 4, 12, 102);"
              " INSERT INTO note (id, company) VALUES (102, 1), (2, 1); UPDATE note SET id = 109"
              " WHERE id = 5; UPDATE note SET company = 3 WHERE id IN (1, 2, 6, 102, 104);"
              " DELETE FROM note WHERE id IN (7, 101); COMMIT")
        t.sql("UPDATE note SET n = 6; INSERT INTO note (id, company) VALUES (110, 1);"
              " DELETE FROM note WHERE id = 110")
        removed = {r[1] for r in device.pull(max_rows=max_rows, reset=False) if r[0] == "remove"}
        t.equal(sorted(removed - {110}), [1, 2, 3, 4, 5, 6, 7], "removed in pages of %s" % max_rows)
        t.sql("DROP TABLE note, member")


# --------------------------------------------------------------------------- what ends and begins


@case
def truncated_rights(t):
    """TRUNCATE of the access table, and of a table under an access view, is a reset."""
    _, device = company(t)
    t.sql("TRUNCATE member")
    device.pull(reset=True)
    t.equal(device.keys(), [], "keys")
    t.sql("INSERT INTO member VALUES (2, 1)")
    device.pull(reset=False)
    t.equal(device.keys(), [11, 12], "and on")
    t.sql("BEGIN; TRUNCATE member; INSERT INTO member VALUES (2, 1); ROLLBACK")
    t.equal(device.pull(reset=False), [], "rolled back")
    t.sql("SELECT sync.reset('member')")
    device.pull(reset=True)


@case
def another_relation(t):
    """What rules the domain is another table, then nothing, then it is gone by DROP."""
    table, device = company(t)
    members(t, name="guest")
    t.sql("INSERT INTO guest VALUES (3, 1)")
    device.sub.access = t.rights["note"]
    device.pull(reset=True)
    t.equal(device.keys(), [21, 22], "another table")
    t.sql("INSERT INTO member VALUES (2, 1); UPDATE guest SET company = 2")
    device.pull(reset=False)
    t.equal(device.keys(), [11, 12], "only that one counts")
    t.sql("SELECT sync.set_access('note', NULL)")
    t.fails("22023", device.pull)
    t.equal(len(t.device(table).pull()), 7, "without a user")
    t.sql("SELECT sync.set_access('note', 'guest')")
    device.pull(reset=True)
    t.sql("DROP TABLE guest CASCADE")
    t.fails("22023", lambda: t.sql("SELECT * FROM sync.changes('note', user_id => '1')"))


@case
def a_user_of_its_own(t):
    """The cursor of one user says nothing for another, nor for no user."""
    _, device = company(t)
    t.sql("INSERT INTO member VALUES (2, 2)")
    device.sub.user = "2"
    device.pull(reset=True)
    t.equal(device.last[0][0] if device.last else None, "reset", "op")
    t.equal(device.keys(), [11, 12], "the other's")
    device.sub.user = None
    device.pull(reset=True)
    t.equal(len(device.copy), 7, "no user")
    device.sub.user = "1"
    device.pull(reset=True)
    t.equal(device.keys(), [1, 2], "the first")


@case
def pruned_rights(t):
    """A user whose rights are quiet is not reset by pruning; one who stayed away is."""
    table, quiet = company(t)
    absent = t.device(table, user="1")
    absent.pull()
    for i in range(2):
        t.sql("INSERT INTO member SELECT 2, i FROM generate_series(%d, %d) i" % (i * 9 + 50, i * 9 + 55))
        quiet.pull(reset=False)
        time.sleep(1.1)
        t.sql("INSERT INTO member VALUES (3, %d)" % (100 + i))
        quiet.pull(reset=False)
        t.sql("SELECT sync.prune(interval '0')")
        t.equal(quiet.pull(reset=False), [], "quiet")
    t.sql("DELETE FROM member WHERE user_id = 1")
    t.equal(quiet.pull(reset=False), [("forget", 1)], "its own")
    absent.pull(reset=True)
    t.equal(absent.keys(), [], "the one that stayed away")


@case
def a_time_and_rights(t):
    """A client that keeps a time only may hold more than the time says, of a scope granted since."""
    table, _ = company(t)
    time.sleep(1.1)
    t.sql("UPDATE note SET n = 1")
    device = t.device(table, user="1")
    t.sql("INSERT INTO member VALUES (2, 1)")
    device.pull()
    t.sql("DELETE FROM note WHERE id = 11")
    device.pull(since=quote(device.sub.time))
    t.equal(device.keys(), [1, 2, 12], "deleted since")
    t.sql("DELETE FROM member WHERE company = 2")
    t.sql("DELETE FROM note WHERE id = 1")
    device.pull(since=quote(device.sub.time) + "::timestamptz")
    t.equal(device.keys(), [2], "revoked since")


@case
def current_cursor_and_rights(t):
    """A copy made by SELECT goes on for its user."""
    table, _ = company(t)
    rows = t.sql("SELECT to_jsonb(r), sync.current_cursor()::text FROM note r WHERE company = 1")
    device = t.device(table, user="1")
    device.sub.copy = {table.key_of(r[0]): r[0] for r in rows}
    device.sub.cursor = rows[0][1]
    t.sql("UPDATE note SET n = 5 WHERE id IN (1, 11)")
    t.equal(device.pull(reset=False), [("upsert", 1)], "a row")
    t.sql("INSERT INTO member VALUES (2, 1)")
    device.pull(reset=False)
    t.equal(device.keys(), [1, 2, 11, 12], "a grant")


@case
def many_domains_of_one_user(t):
    """sync.pull: rights and rows of all domains from one snapshot."""
    notes(t, "note_a", scope=["company"])
    notes(t, "note_b", scope=["company"])
    members(t, "note_a")
    t.sql("SELECT sync.set_access('note_b', 'member')")
    t.sql("INSERT INTO note_a (id, company) VALUES (1, 1), (2, 2);"
          " INSERT INTO note_b (id, company) VALUES (1, 1), (2, 2); INSERT INTO member VALUES (1, 1)")
    cursors, held = {}, {"note_a": {}, "note_b": {}}
    for sql in ("SELECT 1", "INSERT INTO member VALUES (2, 1)", "DELETE FROM member WHERE company = 1",
                "BEGIN; UPDATE member SET company = 1; UPDATE note_a SET company = 2; COMMIT"):
        t.sql(sql)
        request = {"user_id": "1", "domains": {
            d: ({"since": cursors[d]} if d in cursors else {}) for d in held}}
        answer = t.value("SELECT sync.pull(%s)" % quote(json.dumps(request)))
        mine = {r[0] for r in t.sql("SELECT company FROM member WHERE user_id = 1")}
        for d, part in answer["domains"].items():
            for scope in part.get("forget", []):
                t.equal(set(scope), {"company"}, "what is forgotten")
                held[d] = {k: v for k, v in held[d].items() if v["company"] != scope["company"]}
            for row in part.get("upsert", []):
                held[d][row["id"]] = row
            for key in part.get("remove", []):
                held[d].pop(key["id"], None)
            cursors[d] = part["cursor"]
            t.equal(sorted(held[d]), sorted(r[0] for r in t.sql(
                "SELECT id FROM %s WHERE company = ANY ('{%s}')" % (
                    d, ",".join(str(m) for m in mine)))), "%s after %s" % (d, sql))


# -------------------------------------------------------------------------------------------- views


def teams(t):
    """note, ruled by a view over two tables; user 1 has company 1 through team 1."""
    table = notes(t, scope=["company"])
    t.sql("CREATE TABLE team_user (team int, user_id int, n int, PRIMARY KEY (team, user_id));"
          " CREATE TABLE team_company (team int, company int, PRIMARY KEY (team, company));"
          " CREATE VIEW team_seat AS SELECT user_id, company FROM team_user JOIN team_company USING (team);"
          " SELECT sync.track('team_user'); SELECT sync.track('team_company')")
    t.tables += ["team_user", "team_company"]
    t.sql("SELECT sync.set_access('note', 'team_seat')")
    access = Access("team_seat")
    access.view, access.bases = True, ["team_user", "team_company"]
    t.rights["note"] = access
    t.sql("INSERT INTO note (id, company) VALUES (1, 1), (2, 1), (11, 2);"
          " INSERT INTO team_user VALUES (1, 1, 0); INSERT INTO team_company VALUES (1, 1)")
    device = t.device(table, user="1")
    device.pull()
    return table, device


@case
def a_view_whose_rows_are_all_gone(t):
    """Both rows that made the right are deleted: nothing is left to derive it from."""
    _, device = teams(t)
    t.sql("BEGIN; DELETE FROM note WHERE id = 1; DELETE FROM team_user; DELETE FROM team_company; COMMIT")
    device.page(reset=True)
    t.equal(device.last[0][2]["reason"], "access", "reason")
    t.equal(device.keys(), [], "keys")
    t.equal(device.pull(reset=False), [], "once")


@case
def a_view_that_says_the_same(t):
    """Its tables change and what it gives the user does not: no reset, whatever changed."""
    _, device = teams(t)
    for sql in ("UPDATE team_user SET n = 1", "INSERT INTO team_user VALUES (2, 5, 0)",
                "INSERT INTO team_user VALUES (2, 1, 0); INSERT INTO team_company VALUES (2, 1)",
                "DELETE FROM team_user WHERE team = 1", "INSERT INTO team_company VALUES (3, 3)",
                "BEGIN; DELETE FROM team_company; INSERT INTO team_company VALUES (2, 1); COMMIT"):
        t.sql(sql)
        t.equal(device.pull(reset=False), [], sql)
    t.sql("UPDATE note SET company = 2 WHERE id = 1; DELETE FROM note WHERE id = 2")
    t.equal(sorted(device.pull(reset=False)), [("remove", 1), ("remove", 2)], "rows")
    t.sql("UPDATE team_company SET company = 2 WHERE team = 2")
    device.pull(reset=True)
    t.equal(device.keys(), [1, 11], "another company")


@case
def a_view_between_pages(t):
    """What the view says changes while a delivery is under way."""
    table, device = teams(t)
    t.sql("INSERT INTO note (id, company) SELECT i, i % 3 FROM generate_series(100, 130) i")
    device.page(max_rows=3)
    t.sql("INSERT INTO team_company VALUES (1, 2)")
    device.page(max_rows=3)
    t.sql("DELETE FROM team_company WHERE company = 1")
    device.pull(max_rows=3)
    t.equal({d["company"] for d in device.copy.values()}, {2}, "companies")
    device = t.device(table, user="1")
    device.page(max_rows=3)
    t.sql("INSERT INTO team_company VALUES (1, 1)")
    device.pull(max_rows=3)
    t.equal(device.pull(reset=False), [], "quiet")


def reconcile(t, device, session=None):
    """The device's copy and cursor from sync.reconcile, to which it shows what it holds."""
    sub = device.sub
    rows = [{"key": {c: data[c] for c in sub.table.key}, "updated_at": data["modified_at"]}
            for data in sub.copy.values()]
    sql = "SELECT sync.reconcile(%s::jsonb)" % quote(json.dumps(
        {"user_id": sub.user, "domains": {sub.table.name: {"rows": rows}}}))
    answer = (session or t.main).sql(sql)[0][0]["domains"][sub.table.name]
    for key in answer["remove"]:
        del sub.copy[sub.table.key_of(key)]
    for data in answer["upsert"]:
        sub.copy[sub.table.key_of(data)] = data
    sub.cursor, sub.time, sub.paging = answer["cursor"], None, False
    return answer


@case
def a_cursor_that_reconciling_gave(t):
    """It knows what the user may see: what ran then, what is granted and revoked after it, and what
    the transaction granted in which it was given."""
    for kind in ("others", "own", "view"):
        table, device = (teams if kind == "view" else company)(t)
        t.sql("INSERT INTO note (id, company) VALUES (12, 2) ON CONFLICT DO NOTHING")
        device.pull()
        slow = t.session("slow")
        grant, revoke = (("INSERT INTO team_company VALUES (1, 2)",
                          "DELETE FROM team_company WHERE company = 2") if kind == "view" else
                         ("INSERT INTO member VALUES (2, 1)", "DELETE FROM member WHERE company = 2"))
        slow.sql("BEGIN; UPDATE note SET n = 7 WHERE id IN (1, 11)")
        t.sql("DELETE FROM note WHERE id = 2")
        if kind != "own":
            slow.sql(grant)
        else:
            t.sql("BEGIN; " + grant)
        reconcile(t, device)
        t.equal(device.keys(), [1, 11, 12] if kind == "own" else [1], "what there was")
        if kind == "own":
            t.sql("COMMIT; DELETE FROM note WHERE id = 12")
        slow.sql("COMMIT")
        device.pull(reset=kind == "view")
        t.equal(device.keys(), [1, 11] if kind == "own" else [1, 11, 12], "what came after")
        reconcile(t, device)
        t.equal(device.pull(reset=False), [], "quiet")
        t.sql(revoke)
        device.pull(reset=kind == "view")
        t.equal(device.keys(), [1], "revoked")
        if kind == "view":
            t.sql("DROP VIEW team_seat; DROP TABLE team_user, team_company")
        else:
            t.sql("DROP TABLE member")
        t.sql("DROP TABLE note")


# ------------------------------------------------------------------------------ row-level security


COMPANY_POLICY = "company = ANY (string_to_array(current_setting('history.companies'), ',')::int[])"


@case
def policies_and_removals(t):
    """A removal is for those who could have read the row, by the scope that it had."""
    table = notes(t, scope=["company"])
    t.sql("INSERT INTO note (id, company) VALUES (1, 1), (2, 1), (11, 2), (12, 2)")
    policy(t, COMPANY_POLICY)
    session = reader(t, "SET history.companies = '1'")
    device = t.device(table)
    device.pull(session)
    t.equal(device.keys(), [1, 2], "first load")
    t.sql("DELETE FROM note WHERE id IN (1, 11)")
    t.equal(device.pull(session, reset=False), [("remove", 1)], "deleted")
    t.sql("BEGIN; UPDATE note SET company = 1 WHERE id = 12; UPDATE note SET company = 3 WHERE id = 12;"
          " COMMIT")
    t.equal(device.pull(session, reset=False), [], "a walk through the company")
    t.sql("BEGIN; INSERT INTO note (id, company) VALUES (3, 1); DELETE FROM note WHERE id = 3; COMMIT")
    t.equal(device.pull(session, reset=False), [], "came and went")
    t.sql("UPDATE note SET company = 2 WHERE id = 2")
    t.equal(device.pull(session, reset=False), [("remove", 2)], "moved away")
    t.sql("UPDATE note SET company = NULL WHERE id = 2; DELETE FROM note WHERE id = 2")
    t.equal(device.pull(session, reset=False), [], "elsewhere")


@case
def policies_that_change(t):
    """Another setting, another policy, none at all: what was held is void."""
    table = notes(t, scope=["company"])
    t.sql("INSERT INTO note (id, company, status) VALUES (1, 1, 'open'), (11, 2, 'open'), (21, 3, 'x')")
    policy(t, COMPANY_POLICY)
    session = reader(t, "SET history.companies = '1'")
    device = t.device(table)
    device.pull(session)
    session.sql("SET history.companies = '1,2'")
    device.pull(session, reset=True)
    t.equal(device.keys(), [1, 11], "a setting")
    t.sql("DELETE FROM note WHERE id = 1")
    session.sql("SET history.companies = '2'")
    device.pull(session, reset=True)
    t.sql("ALTER POLICY p ON note USING (company > 1)")
    device.pull(session, reset=True)
    t.equal(device.keys(), [11, 21], "altered")
    t.sql("CREATE POLICY q ON note AS RESTRICTIVE FOR SELECT USING (company < 3)")
    device.pull(session, reset=True)
    t.equal(device.keys(), [11], "one more")
    t.sql("DROP POLICY q ON note; DROP POLICY p ON note")
    device.pull(session, reset=True)
    t.equal(device.keys(), [], "none: nothing is allowed")
    t.sql("ALTER TABLE note DISABLE ROW LEVEL SECURITY")
    device.pull(session, reset=True)
    t.equal(device.keys(), [11, 21], "no security")


@case
def policies_that_the_log_cannot_answer(t):
    """Refused, unless a user is given, whose scopes decide; what the policy hides stays hidden."""
    table, _ = company(t)
    policy(t, "status IS DISTINCT FROM 'secret'")
    session = reader(t)
    device = t.device(table)
    device.pull(session)
    t.sql("UPDATE note SET n = 1")
    t.fails("0A000", lambda: device.pull(session))
    device = t.device(table, user="1")
    device.pull(session)
    t.sql("UPDATE note SET status = 'secret' WHERE id = 1")
    t.equal(device.pull(session, reset=False), [("remove", 1)], "hidden")
    t.sql("INSERT INTO member VALUES (2, 1); UPDATE note SET status = 'secret' WHERE id = 12")
    device.pull(session, reset=False)
    t.equal(device.keys(), [2, 11], "granted, what is not hidden")
    t.sql("UPDATE note SET status = 'open' WHERE id = 1")
    t.equal(device.pull(session, reset=False), [("upsert", 1)], "shown")


@case
def a_policy_and_a_user(t):
    """Both limit: what is left is what both allow."""
    table, _ = company(t)
    policy(t, COMPANY_POLICY)
    session = reader(t, "SET history.companies = '1,2'")
    device = t.device(table, user="1")
    device.pull(session)
    t.sql("INSERT INTO member VALUES (2, 1), (3, 1)")
    device.pull(session, reset=False)
    t.equal(device.keys(), [1, 2, 11, 12], "granted two, allowed one")
    t.sql("DELETE FROM note WHERE id IN (11, 21)")
    t.equal(device.pull(session, reset=False), [("remove", 11)], "deleted")
    t.sql("DELETE FROM member WHERE company = 2")
    t.equal([r for r in device.pull(session, reset=False) if r[0] != "forget"], [], "revoked")


@case
def rights_that_the_reader_cannot_read(t):
    """The access table wants SELECT of the caller; its own row security does not matter."""
    table, _ = company(t)
    policy(t, "true")
    session = reader(t)
    device = t.device(table, user="1")
    t.sql("REVOKE SELECT ON member FROM %s" % t.server.role())
    session.send("SELECT count(*) FROM sync.changes('note', user_id => '1')")
    t.fails("42501", session.finish)
    t.sql("GRANT SELECT ON member TO %s; ALTER TABLE member ENABLE ROW LEVEL SECURITY" % t.server.role())
    rows = session.sql("SELECT op FROM sync.changes('note', user_id => '1')")
    t.equal([r[0] for r in rows], ["upsert", "upsert", "up-to-date"], "read as its owner")
    t.equal(len(device.pull()), 2, "and for the owner")


# ------------------------------------------------------------------------------- other kinds of rows


@case
def rights_to_documents(t):
    """A source view: details change for those who may see the master."""
    order, _ = orders(t)
    t.sql("ALTER TABLE orders ADD COLUMN company int; SELECT sync.untrack('orders');"
          " CREATE OR REPLACE VIEW order_doc WITH (security_invoker) AS SELECT o.id, o.n, o.modified_at,"
          " (SELECT jsonb_agg(jsonb_build_array(l.id, l.n) ORDER BY l.id) FROM line l"
          "  WHERE l.order_id = o.id) AS lines, o.company FROM orders o;"
          " SELECT sync.track('orders', scope => '{company}', source => 'order_doc');"
          " SELECT sync.cascade('line', 'orders')")
    members(t, "orders")
    t.sql("INSERT INTO orders (id, company) VALUES (1, 1), (2, 2);"
          " INSERT INTO line (id, order_id, n) VALUES (1, 1, 0), (2, 2, 0); INSERT INTO member VALUES (1, 1)")
    order = Table("orders", ["id"], "", source="order_doc", scope=["company"])
    device = t.device(order, user="1")
    t.equal(device.pull(), [("upsert", 1)], "first load")
    t.sql("UPDATE line SET n = 1")
    t.equal(device.pull(reset=False), [("upsert", 1)], "a line")
    t.sql("UPDATE line SET order_id = 2 WHERE id = 1")
    t.equal(device.pull(reset=False), [("upsert", 1)], "a line that moved away")
    t.sql("INSERT INTO member VALUES (2, 1)")
    device.pull(reset=False)
    t.equal(device.keys(), [1, 2], "granted")
    t.sql("DELETE FROM line; DELETE FROM member WHERE company = 1")
    device.pull(reset=False)
    t.equal(device.keys(), [2], "revoked")


@case
def rights_and_filters(t):
    """A filter narrows what the rights give, and widens nothing."""
    table, _ = company(t)
    for filter, params in (("company = $1", [2]), ("company IN (1, 2)", ()), ("n > $1", [0]),
                           ("company = $1 AND n > $2", [2, 0]), ("id > $1", [11]),
                           ("company IS NULL", ()), ("company <> $1", [1])):
        t.sql("DELETE FROM member; INSERT INTO member VALUES (1, 1); UPDATE note SET n = 0;"
              " UPDATE note SET company = 2 WHERE id = 11")
        device = t.device(table, filter, params, user="1")
        device.pull()
        for sql in ("UPDATE note SET n = 1", "INSERT INTO member VALUES (2, 1)",
                    "UPDATE note SET n = id % 2", "UPDATE note SET company = 3 WHERE id = 11",
                    "DELETE FROM member WHERE company = 1", "UPDATE note SET company = 2 WHERE id = 11",
                    "DELETE FROM member", "INSERT INTO member VALUES (1, 1), (3, 1)"):
            t.sql(sql)
            device.pull(reset=False)


@case
def rights_to_partitions(t):
    """A row moves between partitions and scopes at once; the access table has partitions, too."""
    table = t.table("part", "id int, region int, company int, n int, PRIMARY KEY (id, region)",
                    key=("id", "region"), after=" PARTITION BY LIST (region)", scope=["company"])
    t.sql("CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1);"
          " CREATE TABLE part_2 PARTITION OF part FOR VALUES IN (2);"
          " CREATE TABLE member (company int, user_id int, PRIMARY KEY (user_id, company))"
          " PARTITION BY LIST (company);"
          " CREATE TABLE member_1 PARTITION OF member FOR VALUES IN (1);"
          " CREATE TABLE member_2 PARTITION OF member DEFAULT;"
          " SELECT sync.track('member', scope => '{user_id,company}');"
          " SELECT sync.set_access('part', 'member')")
    t.tables.append("member")
    t.rights["part"] = Access("member")
    device = t.device(table, user="1")
    t.sql("INSERT INTO part VALUES (1, 1, 1), (2, 2, 1), (11, 1, 2); INSERT INTO member_1 VALUES (1, 1)")
    device.pull()
    t.equal(device.keys(), [1, 2], "first load")
    t.sql("UPDATE part SET region = 2 WHERE id IN (1, 11)")
    t.equal(sorted(device.pull(reset=False)), [("remove", 1), ("upsert", 1)], "moved")
    t.sql("UPDATE part SET region = 1, company = 2 WHERE id = 1")
    t.equal(device.pull(reset=False), [("remove", 1)], "moved out of the scope")
    t.sql("UPDATE member SET company = 2")
    device.pull(reset=False)
    t.equal(device.keys(), [1, 11], "the right moved between partitions")
    t.sql("TRUNCATE member_2")
    device.pull(reset=True)
    t.equal(device.keys(), [], "truncated")


@case
def rights_to_soft_deleted_rows(t):
    """They are removals for those who may see their scope, and nothing for others."""
    t.sql("CREATE TABLE note (id int PRIMARY KEY, company int, deleted_at timestamptz)")
    t.tables.append("note")
    t.sql("SELECT sync.track('note', scope => '{company}', deleted_at => 'deleted_at')")
    table = Table("note", ["id"], "", deleted_at="deleted_at", scope=["company"])
    members(t)
    t.sql("INSERT INTO note VALUES (1, 1, NULL), (2, 1, now()), (11, 2, NULL), (12, 2, now());"
          " INSERT INTO member VALUES (1, 1)")
    device = t.device(table, user="1")
    t.equal(device.pull(), [("upsert", 1)], "first load")
    t.sql("UPDATE note SET deleted_at = now() WHERE id IN (1, 11)")
    t.equal(device.pull(reset=False), [("remove", 1)], "deleted")
    t.sql("INSERT INTO member VALUES (2, 1); UPDATE note SET deleted_at = NULL WHERE id = 12")
    t.equal([r for r in device.pull(reset=False) if r[0] != "forget"], [("upsert", 12)], "granted")
    t.sql("INSERT INTO note VALUES (31, 3, NULL)")
    for moves in ("company = 1, deleted_at = now()",
                  "company = 1 WHERE id = 31; UPDATE note SET deleted_at = now()"):
        t.sql("UPDATE note SET company = 3, deleted_at = NULL WHERE id = 31")
        device.pull(reset=False)
        t.sql("BEGIN; UPDATE note SET %s WHERE id = 31; COMMIT" % moves)
        t.equal(device.pull(reset=False), [], "came deleted")
        t.sql("UPDATE note SET deleted_at = now(), company = 2 WHERE id = 31; DELETE FROM note WHERE id = 31;"
              " INSERT INTO note VALUES (31, 1, now())")
        t.equal(device.pull(reset=False), [], "never there")


@case
def no_filter_for_the_one_who_asks(t):
    """A scope of the answer is the user's own, also where the filter names another's."""
    table, _ = company(t)
    device = t.device(table, "company = $1", [2], user="1")
    t.equal(device.pull(), [], "none")
    t.sql("DELETE FROM note WHERE id = 11; UPDATE note SET n = 4")
    t.equal(device.pull(reset=False), [], "none of its changes")
    device.sub.filter = Filter("company = $1 OR true", [2])
    device.pull(reset=True)
    t.equal(device.keys(), [1, 2], "its own")
