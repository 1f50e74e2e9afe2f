-- What every regression test begins with: \i test/setup.sql
-- From here on only the tests' own lines are printed.
\set ECHO none
\set QUIET 1
\set ON_ERROR_STOP 1
\set SHOW_CONTEXT never
\pset format unaligned
\pset tuples_only true
\pset pager off
SET client_min_messages = warning;
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET intervalstyle = 'postgres';
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS sync_ext;
RESET client_min_messages;
