-- ---------------------------------------------------------------------------
-- Tables of the journals
-- ---------------------------------------------------------------------------

-- These are data, so all of them are dumped. src/catalog.h knows the order of
-- the columns. There are no foreign keys between them: whoever writes here
-- holds the stream's lock, and drop_stream takes everything away.

-- A stream's row is what rights on the stream are rights on: see the README.
CREATE TABLE sync.streams (
    id         pg_catalog.int4 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stream     pg_catalog.text COLLATE pg_catalog."C" NOT NULL UNIQUE,
    kind       pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
    created_at pg_catalog.timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    CHECK (pg_catalog.octet_length(stream) BETWEEN 1 AND 255),
    CHECK (kind IN ('actions', 'opaque'))
);
COMMENT ON TABLE sync.streams IS 'Journals. SELECT on a row is the right to read the stream, UPDATE to append, DELETE to compact and to drop';
COMMENT ON COLUMN sync.streams.id IS 'its number: a stream that is dropped and made again is another';
COMMENT ON COLUMN sync.streams.stream IS 'its name';
COMMENT ON COLUMN sync.streams.kind IS '"actions": entries are JSON, "opaque": entries are bytes that the server cannot read';
COMMENT ON COLUMN sync.streams.created_at IS 'when it was made';
COMMENT ON SEQUENCE sync.streams_id_seq IS 'numbers for streams; none is used again';
REVOKE ALL ON sync.streams FROM PUBLIC;
REVOKE ALL ON SEQUENCE sync.streams_id_seq FROM PUBLIC;

-- pg_dump leaves row-level security of an extension's tables out. So that a
-- restored database does not show everything to everybody, it is remembered
-- here, which is dumped; src/journal.c then refuses until it is there again.
CREATE TABLE sync.stream_security (
    enabled pg_catalog.bool CONSTRAINT stream_security_pkey PRIMARY KEY,
    CHECK (enabled)
);
COMMENT ON TABLE sync.stream_security IS 'A row: row-level security was enabled on sync.streams';
COMMENT ON COLUMN sync.stream_security.enabled IS 'true';
REVOKE ALL ON sync.stream_security FROM PUBLIC;

-- The hash stands for the id in the index: it has a fixed size whatever the
-- id, and its order is the one that set reconciliation goes by.
CREATE TABLE sync.entry (
    stream_id pg_catalog.int4 NOT NULL,
    ord       pg_catalog.int4 NOT NULL,
    at        pg_catalog.timestamptz NOT NULL,
    xid       pg_catalog.xid8 NOT NULL,
    hash      pg_catalog.bytea NOT NULL,
    id        pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
    origin    pg_catalog.text COLLATE pg_catalog."C",
    data      pg_catalog.jsonb,
    bytes     pg_catalog.bytea,
    CONSTRAINT entry_pkey PRIMARY KEY (stream_id, at, ord),
    CONSTRAINT entry_hash_key UNIQUE (stream_id, hash)
);
-- One for each call: the entries of a call are of one stream.
CREATE INDEX entry_by_xid ON sync.entry (xid) WHERE ord = 0;
COMMENT ON TABLE sync.entry IS 'Entries of the streams; immutable';
COMMENT ON COLUMN sync.entry.stream_id IS 'the stream';
COMMENT ON COLUMN sync.entry.ord IS 'the order of entries that one call stored, which share a time; from 0 on';
COMMENT ON COLUMN sync.entry.at IS 'when it was stored: later than all before it, in whole milliseconds';
COMMENT ON COLUMN sync.entry.xid IS 'the transaction that stored it';
COMMENT ON COLUMN sync.entry.hash IS 'SHA-256 of the id';
COMMENT ON COLUMN sync.entry.id IS 'what the client named it';
COMMENT ON COLUMN sync.entry.origin IS 'the client that stored it, where sync.client said so';
COMMENT ON COLUMN sync.entry.data IS 'the actions, in a stream of kind "actions"';
COMMENT ON COLUMN sync.entry.bytes IS 'the bytes, in a stream of kind "opaque"';
COMMENT ON INDEX sync.entry_by_xid IS 'for finding what transactions have stored, whatever the stream: the first entry of each call';
REVOKE ALL ON sync.entry FROM PUBLIC;

CREATE TABLE sync.stream_snapshot (
    stream_id pg_catalog.int4 NOT NULL,
    upto      pg_catalog.timestamptz NOT NULL,
    xid       pg_catalog.xid8 NOT NULL,
    id        pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
    origin    pg_catalog.text COLLATE pg_catalog."C",
    data      pg_catalog.jsonb,
    bytes     pg_catalog.bytea,
    CONSTRAINT stream_snapshot_pkey PRIMARY KEY (stream_id, upto)
);
CREATE INDEX stream_snapshot_by_xid ON sync.stream_snapshot (xid);
COMMENT ON TABLE sync.stream_snapshot IS 'Snapshots of streams: what all entries up to a time come to; immutable';
COMMENT ON COLUMN sync.stream_snapshot.stream_id IS 'the stream';
COMMENT ON COLUMN sync.stream_snapshot.upto IS 'the time of the last entry that it holds';
COMMENT ON COLUMN sync.stream_snapshot.xid IS 'the transaction that stored it';
COMMENT ON COLUMN sync.stream_snapshot.id IS 'its name, made by the server; clients give it to sync.missing()';
COMMENT ON COLUMN sync.stream_snapshot.origin IS 'the client that stored it, where sync.client said so';
COMMENT ON COLUMN sync.stream_snapshot.data IS 'the state, as JSON';
COMMENT ON COLUMN sync.stream_snapshot.bytes IS 'the state, as bytes';
COMMENT ON INDEX sync.stream_snapshot_by_xid IS 'for finding what transactions have stored, whatever the stream';
REVOKE ALL ON sync.stream_snapshot FROM PUBLIC;

CREATE TABLE sync.stream_trimmed (
    stream_id pg_catalog.int4 CONSTRAINT stream_trimmed_pkey PRIMARY KEY,
    upto      pg_catalog.timestamptz NOT NULL
);
COMMENT ON TABLE sync.stream_trimmed IS 'How far streams were trimmed';
COMMENT ON COLUMN sync.stream_trimmed.stream_id IS 'the stream';
COMMENT ON COLUMN sync.stream_trimmed.upto IS 'entries up to this time are gone; a snapshot holds them';
REVOKE ALL ON sync.stream_trimmed FROM PUBLIC;

-- An id is known for ever. While its entry exists it is known from there.
CREATE TABLE sync.entry_ledger (
    stream_id pg_catalog.int4 NOT NULL,
    at        pg_catalog.timestamptz NOT NULL,
    hash      pg_catalog.bytea NOT NULL,
    digest    pg_catalog.bytea NOT NULL,
    held_by   pg_catalog.bytea,
    CONSTRAINT entry_ledger_pkey PRIMARY KEY (stream_id, hash)
);
COMMENT ON TABLE sync.entry_ledger IS 'Ids of entries that were combined or trimmed away';
COMMENT ON COLUMN sync.entry_ledger.stream_id IS 'the stream';
COMMENT ON COLUMN sync.entry_ledger.at IS 'the time at which it was stored';
COMMENT ON COLUMN sync.entry_ledger.hash IS 'SHA-256 of the id';
COMMENT ON COLUMN sync.entry_ledger.digest IS 'SHA-256 of the content: of the bytes, or of the text of the JSON';
COMMENT ON COLUMN sync.entry_ledger.held_by IS 'hash of the entry that it was combined into; null: a snapshot holds it';
REVOKE ALL ON sync.entry_ledger FROM PUBLIC;

-- Derived from sync.entry, so it is not dumped: the next appends make it anew.
-- Out of line and not compressed, since hashes are not compressible.
CREATE TABLE sync.journal_sums (
    stream_id pg_catalog.int4 CONSTRAINT journal_sums_pkey PRIMARY KEY,
    at        pg_catalog.timestamptz NOT NULL,
    bits      pg_catalog.int4 NOT NULL,
    sums      pg_catalog.bytea NOT NULL
);
ALTER TABLE sync.journal_sums ALTER COLUMN sums SET STORAGE EXTERNAL;
COMMENT ON TABLE sync.journal_sums IS 'Sums over the ids of streams, by how their hashes begin: what makes sync.reconcile_ids() cheap';
COMMENT ON COLUMN sync.journal_sums.stream_id IS 'the stream';
COMMENT ON COLUMN sync.journal_sums.at IS 'entries up to this time are counted here';
COMMENT ON COLUMN sync.journal_sums.bits IS 'so many bits at the beginning of a hash are the number of its bucket';
COMMENT ON COLUMN sync.journal_sums.sums IS 'for each bucket, the number of ids and the sum of their hashes';
REVOKE ALL ON sync.journal_sums FROM PUBLIC;
