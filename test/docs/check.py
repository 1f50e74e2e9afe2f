#!/usr/bin/python3
"""The documentation does what it says.

    check.py [FILE...]             default: README.md and docs/*.md

- Every block marked sql runs, from top to bottom, in a database of its own for each file; before those of docs/*.md
  run the blocks of the README's quick start, from which their examples go on.  An error fails the check, but where
  the block announces it in a comment: -- ERROR: 23505.
- A block without a mark that follows one (with at most a line between them) is what it prints: each of its lines is
  in the output, in this order.  "…" stands for anything, and so does each time and each uuid.  Lines that only tell how many rows there were may be missing.
- Links lead to files and headings that exist; every heading of the first two levels is in the file's contents,
  where it has any; every function of schema sync that clients call is in the README's reference.

The server is found as by psql (PGHOST, …); databases sync_docs_… are made in it, and dropped.
"""

import glob
import os
import re
import subprocess
import sys

TOP = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
VARIES = (r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d(?::\d\d)?)?",
          r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", r"…")
QUICK_START = "## Quick start"
ROLE = "app_server"                     # which examples may grant rights to

failures = []


def fail(where, message):
    failures.append(f"{where}: {message}")


class Block:
    def __init__(self, mark, line, text, after):
        self.mark, self.line, self.text, self.after = mark, line, text, after


def blocks(text):
    """The fenced blocks; "after" is the number of lines with words since the last one."""
    found, opened, words = [], None, 99
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            if opened is None:
                opened = Block(line[3:].strip(), number, "", words)
            else:
                found.append(opened)
                opened, words = None, 0
        elif opened is not None:
            opened.text += line + "\n"
        elif line.strip():
            words += 99 if line.startswith("#") else 1
    return found


def pattern(line):
    line = " ".join(line.split())
    return re.compile("".join(".*" if n % 2 else re.escape(part)
                              for n, part in enumerate(re.split("(" + "|".join(VARIES) + ")", line))) + "$")


def compare(where, expected, got):
    got = [" ".join(line.split()) for line in got.splitlines()]
    at = 0
    for line in expected.splitlines():
        if not line.strip() or re.fullmatch(r"[-+ ]+", line):
            continue
        wanted = pattern(line.rstrip(" +"))
        while at < len(got) and not wanted.match(got[at].rstrip(" +")):
            at += 1
        if at == len(got):
            fail(where, f"is not printed: {line}\n      printed was:\n" + "\n".join("      " + g for g in got))
            return
        at += 1


def announced(text):
    return re.findall(r"-- ERROR: (\w{5})", text)


def admin(*commands, database="postgres"):
    """What the last command prints."""
    run = subprocess.run(["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", database,
                          *[part for command in commands for part in ("-c", command)]],
                         check=False, capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(run.stderr)
    return run.stdout


# One psql for a whole file keeps its variables, so markers divide the output.
def run_file(name, script, version):
    database = "sync_docs_" + re.sub(r"\W", "_", os.path.splitext(os.path.basename(name))[0]).lower()
    admin(f"DROP DATABASE IF EXISTS {database}", f"CREATE DATABASE {database}")
    text = "SET client_min_messages = warning;\nSET timezone = 'UTC';\n\\set ON_ERROR_STOP 0\n\\set VERBOSITY verbose\n\\pset footer off\n"
    for where, block in script:
        if version < 150000:            # which do not know it, and do without
            block.text = block.text.replace(" WITH (security_invoker = true)", "")
        text += f"\\echo @@ {where}\n\\warn @@ {where}\n{block.text}\n"
    run = subprocess.run(["psql", "-X", "-q", "-d", database], input=text, text=True, capture_output=True, check=False)
    out, errors = {}, {}
    for stream, into in ((run.stdout, out), (run.stderr, errors)):
        where = None
        for line in stream.splitlines():
            if line.startswith("@@ "):
                where = line[3:]
            else:
                into[where] = into.get(where, "") + line + "\n"
    for where, block in script:
        raised = re.findall(r"(?:ERROR|FATAL|PANIC):  (\w{5}): (.*)", errors.get(where, ""))
        if [state for state, _ in raised] != announced(block.text) or re.search(r"(?m)^(?:psql:.*: error|invalid command|unrecognized)", errors.get(where, "")):
            fail(where, "errors: " + (errors.get(where, "").strip() or "none, though announced"))
    admin(f"DROP DATABASE {database}")
    return out


def check_sql(name, text, quick_start, version):
    script, expected, last = [], [], None
    for block in blocks(text):
        where = f"{name}:{block.line}"
        if block.mark == "sql":
            script.append((where, block))
            last = where
        elif block.mark == "" and last and block.after <= 1:
            expected.append((where, last, block.text))
            last = None
        else:
            last = None
    if not script:
        return 0
    out = run_file(name, quick_start + script, version)
    for where, of, text in expected:
        compare(where, text, out.get(of, ""))
    return len(script)


def anchor(heading):
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def headings(text):
    text = re.sub(r"(?ms)^```.*?^```", "", text)
    return re.findall(r"(?m)^(#+) (.*)$", text)


def check_links(name, text):
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"(?ms)^```.*?^```", "", text)):
        if re.match(r"\w+:", target):
            continue
        path, _, fragment = target.partition("#")
        file = os.path.normpath(os.path.join(TOP, os.path.dirname(name), path)) if path else os.path.join(TOP, name)
        if not os.path.exists(file):
            fail(name, f"links to {target}, which does not exist")
        elif fragment and file.endswith(".md"):
            with open(file, encoding="utf-8") as f:
                if fragment not in [anchor(h) for _, h in headings(f.read())]:
                    fail(name, f"links to {target}, and there is no such heading")


def check_contents(name, text):
    listed = re.findall(r"(?m)^- \[[^\]]*\]\(#([^)]*)\)", text)
    if listed:
        for level, heading in headings(text):
            if len(level) == 2 and anchor(heading) not in listed:
                fail(name, f"\"{heading}\" is not in its contents")


def check_functions(readme):
    admin("DROP DATABASE IF EXISTS sync_docs_functions", "CREATE DATABASE sync_docs_functions")
    functions = admin("CREATE EXTENSION sync_ext",
                      "SELECT DISTINCT proname FROM pg_proc p WHERE pronamespace = 'sync'::regnamespace"
                      " AND prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)"
                      " AND obj_description(oid, 'pg_proc') NOT LIKE 'Internal%'"
                      # the type's own, and the cast's
                      " AND NOT EXISTS (SELECT FROM pg_type t WHERE p.oid IN (typinput, typoutput, typreceive, typsend))"
                      " AND NOT EXISTS (SELECT FROM pg_cast WHERE castfunc = p.oid) ORDER BY 1",
                      database="sync_docs_functions")
    admin("DROP DATABASE sync_docs_functions")
    for function in functions.split():
        if not re.search(rf"sync\.{function}\b", readme):
            fail("README.md", f"does not name sync.{function}()")


def main():
    os.chdir(TOP)
    names = sys.argv[1:] or ["README.md", *sorted(glob.glob("docs/*.md"))]
    with open("README.md", encoding="utf-8") as f:
        readme = f.read()
    start = readme[readme.index(QUICK_START):]
    start = start[:start.index("\n## ", 1)]
    quick_start = [(f"quick start:{b.line}", b) for b in blocks(start) if b.mark == "sql"]
    ran = 0
    version = int(admin("SHOW server_version_num"))
    new_role = not admin(f"SELECT 'there' FROM pg_roles WHERE rolname = '{ROLE}'").strip()
    if new_role:
        admin(f"CREATE ROLE {ROLE}")
    for name in names:
        with open(name, encoding="utf-8") as f:
            text = f.read()
        ran += check_sql(name, text, [] if name == "README.md" else quick_start, version)
        check_links(name, text)
        check_contents(name, text)
    if new_role:
        admin(f"DROP ROLE {ROLE}")
    check_functions(readme)
    for failure in failures:
        print(failure)
    print(f"{ran} blocks of SQL in {len(names)} files: {len(failures)} failures")
    return 1 if failures or not ran else 0


if __name__ == "__main__":
    sys.exit(main())
