#!/usr/bin/env bash
# Tests of set reconciliation: src/reconset.c in programs of its own, which
# need PostgreSQL's headers and no server, and sync.reconcile_ids() on one.
#
#   test/reconset/check.sh                  check.c, and wire.py on top of it
#   test/reconset/check.sh server [SECONDS] server.py, on the server that psql finds
#   test/reconset/check.sh build FILE       only makes the program of check.c
#   test/reconset/check.sh fuzz [SECONDS]   libFuzzer (clang), 60 seconds
#
# Fuzzing starts with the messages in corpus/ and leaves its own finds, and a
# file for each failure, below $TMPDIR.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

pg_config=${PG_CONFIG:-pg_config}
work=$(mktemp -d)
[ "${1:-check}" = fuzz ] || trap 'rm -rf "$work"' EXIT
flags=(-std=gnu11 -Wall -Wextra -g -DFRONTEND -Isrc
  "-I$("$pg_config" --includedir)" "-I$("$pg_config" --includedir-server)")
# The server's own libraries for programs; Debian keeps them with the modules.
libraries=("-L$("$pg_config" --libdir)" "-L$("$pg_config" --pkglibdir)"
  -lpgcommon -lpgport -lcrypto -lm)

build_check() {
  ${CC:-gcc} "${flags[@]}" -O2 test/reconset/check.c src/reconset.c -o "$1" "${libraries[@]}"
}

case ${1:-check} in
  check)
    build_check "$work/check"
    status=0
    "$work/check" || status=$?
    python3 test/reconset/wire.py "$work/check" || status=$?
    exit $status
    ;;
  server)
    build_check "$work/check"
    python3 test/reconset/server.py "$work/check" "${2:-10}"
    ;;
  build)
    build_check "$2"
    ;;
  fuzz)
    clang "${flags[@]}" -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined \
      test/reconset/fuzz.c src/reconset.c -o "$work/fuzz" "${libraries[@]}"
    mkdir "$work/found"
    cd "$work"
    ./fuzz -max_total_time="${2:-60}" -max_len=4096 -print_final_stats=1 found "$OLDPWD/test/reconset/corpus"
    ;;
  *)
    sed -n '2,${/^#/!q;s/^# \{0,1\}//p;}' "$0"
    exit 2
    ;;
esac
