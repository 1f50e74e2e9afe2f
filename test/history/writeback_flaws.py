"""Servers and clients with one flaw each, which the checker has to find.

A flawed server is a function in the place of the extension's own; a flawed client is one that does
something else where it asks for its flaw by name.
"""

FLAWS = {
    "forgets": "the server does not remember what it applied",
    "blind": "the server compares with nothing",
    "wins": "the server lets the client win, whatever the policy",
    "mute": "the server does not tell the rows",
    "half": "the server applies a part of all or nothing",
    "deaf": "a client takes a lost answer for a good one",
    "gives-up": "a client takes a passing failure for a refusal",
    "new-ids": "a client sends again under another id",
    "rewrites": "a client alters what it sent already",
    "moves-on": "the server ends a session at the present, not where the client is",
    "keeps": "reconciling does not say what is gone",
    "deletes": "reconciling does not say what the client lacks",
}

# found in a few histories
QUICK = ["forgets", "blind", "wins", "mute", "half", "deaf", "moves-on", "keeps", "deletes"]

# what is not flawed
PLAIN = {
    "forget": "CREATE FUNCTION flawed.forget() RETURNS void LANGUAGE sql SECURITY DEFINER AS"
              " 'DELETE FROM sync.mutation'",
    "push": "CREATE FUNCTION flawed.push(request jsonb) RETURNS jsonb LANGUAGE sql AS"
            " 'SELECT sync.push(request)'",
    "pull": "CREATE FUNCTION flawed.pull(request jsonb) RETURNS jsonb LANGUAGE sql STABLE AS"
            " 'SELECT sync.pull(request)'",
    "reconcile": "CREATE FUNCTION flawed.reconcile(request jsonb) RETURNS jsonb LANGUAGE sql AS"
                 " 'SELECT sync.reconcile(request)'",
    "end_session": "CREATE FUNCTION flawed.end_session(session uuid, last sync.cursor) RETURNS void LANGUAGE sql AS"
                   " 'SELECT sync.end_session(session, last)'",
}

RESULTS = """
CREATE FUNCTION flawed.push(request jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    answer jsonb;
BEGIN
    %s
    RETURN answer;
END $$"""

FLAWED = {
    "forgets": ("push", RESULTS % ("""
    answer := sync.push(request);
    PERFORM flawed.forget();""")),
    "blind": ("push", RESULTS % ("""
    answer := sync.push((request - 'since') || jsonb_build_object('mutations', coalesce(
        (SELECT jsonb_agg(m - 'base' - 'assumed' ORDER BY o)
           FROM jsonb_array_elements(request -> 'mutations') WITH ORDINALITY x(m, o)), '[]')));""")),
    "wins": ("push", RESULTS % ("""
    answer := sync.push(request || '{"policy": "client_wins"}');""")),
    "mute": ("push", RESULTS % ("""
    answer := sync.push(request);
    answer := answer || jsonb_build_object('results', coalesce(
        (SELECT jsonb_agg(r - 'data' ORDER BY o)
           FROM jsonb_array_elements(answer -> 'results') WITH ORDINALITY x(r, o)), '[]'));""")),
    "half": ("push", RESULTS % ("""
    answer := sync.push(request - 'atomic');""")),
    "moves-on": ("end_session", "CREATE FUNCTION flawed.end_session(session uuid, last sync.cursor) RETURNS void"
                 " LANGUAGE sql AS 'SELECT sync.end_session(session, sync.current_cursor())'"),
    "keeps": ("reconcile", """
CREATE FUNCTION flawed.reconcile(request jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    answer jsonb := sync.reconcile(request);
    d text;
BEGIN
    FOR d IN SELECT jsonb_object_keys(answer -> 'domains') LOOP
        answer := jsonb_set(answer, ARRAY['domains', d, 'remove'], '[]');
    END LOOP;
    RETURN answer;
END $$"""),
    "deletes": ("reconcile", """
CREATE FUNCTION flawed.reconcile(request jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    answer jsonb := sync.reconcile(request);
    d text;
BEGIN
    FOR d IN SELECT jsonb_object_keys(answer -> 'domains') LOOP
        answer := jsonb_set(answer, ARRAY['domains', d, 'upsert'], '[]');
    END LOOP;
    RETURN answer;
END $$"""),
}


def install(server, flaw):
    functions = dict(PLAIN)
    if flaw in FLAWED:
        name, sql = FLAWED[flaw]
        functions[name] = sql
    conn = server.sync()
    with conn.cursor() as cur:
        cur.execute("CREATE SCHEMA flawed; GRANT USAGE ON SCHEMA flawed TO PUBLIC")
        for sql in functions.values():
            cur.execute(sql)
    conn.close()
