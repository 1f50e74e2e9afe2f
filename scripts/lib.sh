# shellcheck shell=bash
# What scripts/* share: the packages that are needed, a private copy of the
# tree to build in, a throw-away cluster on a unix socket, and the cleaning up.
#
# A script sources this file and then calls, in this order:
#
#   need_packages EXTRA...    install what is missing
#   begin NAME                make $work, copy the tree to $src, set the trap
#   build [MAKE ARGUMENTS]    compile the copy and install it below $stage
#   start_cluster [SETTING]...
#
# and runs everything that follows with `as_user`, which is the invoking user
# or, for root (as whom PostgreSQL refuses to run), the user postgres.
#
# Nothing outside $work is touched, save for the packages; no other cluster is
# started, stopped or connected to; nothing listens on the network.

set -euo pipefail

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
keep=${keep:-no}            # leave $work behind (--keep)
work=                       # everything that the run makes
src=                        # the copy of the tree
stage=                      # DESTDIR of the installed extension
user=                       # who builds and runs the servers
wrapper=()                  # how to become that user
sudo=()                     # how to become root
pg_major=
bindir=
createcluster_dropin=
server_preload=             # LD_PRELOAD of the server (sanitizers)
server_launcher=            # a program that runs the server (valgrind)

# shellcheck disable=SC2034 # used by the scripts
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
  bold=$'\e[1m' red=$'\e[31m' green=$'\e[32m' plain=$'\e[0m'
else
  bold='' red='' green='' plain=''
fi

say() { printf '%s\n' "${bold}== $*${plain}"; }
fail() {
  printf '%s\n' "${red}${0##*/}: $1${plain}" >&2
  shift
  [ $# -eq 0 ] || printf '   %s\n' "$@" >&2
  exit 1
}

# The comment at a script's head is its help.
usage() {
  sed -n '2,${/^#/!q;s/^# \{0,1\}//p;}' "$0"
  exit "${1:-0}"
}

# ---------------------------------------------------------------------------
# Packages
# ---------------------------------------------------------------------------

have_package() {
  [ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null | cut -c1-2)" = ii ]
}

# The major version to build against: $PG_MAJOR, else the newest one whose
# server headers are installed, else the distribution's own.
find_major() {
  local dir
  if [ -n "${PG_MAJOR:-}" ]; then
    pg_major=$PG_MAJOR
    return
  fi
  for dir in $(printf '%s\n' /usr/lib/postgresql/*/bin/pg_config | sort -Vr); do
    [ -x "$dir" ] || continue
    dir=${dir%/bin/pg_config}
    if [ -f "$dir/lib/pgxs/src/makefiles/pgxs.mk" ] && [ -x "$dir/bin/postgres" ]; then
      pg_major=${dir##*/}
      return
    fi
  done
  pg_major=$(apt-cache depends postgresql 2>/dev/null |
    sed -n 's/^ *Depends: postgresql-\([0-9][0-9]*\)$/\1/p' | head -1)
  pg_major=${pg_major:-15}
}

need_packages() {
  local package missing=()

  if [ ! -f /etc/debian_version ] || ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    fail "this is not Debian (or a relative of it), and this script knows no other way to set itself up" \
      "With PostgreSQL 13 to 18, its server headers, pgTAP, a C compiler and make at hand:" \
      "make && make install && make installcheck (README.md, \"Installing\")"
  fi
  if [ "$(id -u)" -ne 0 ] && command -v sudo >/dev/null; then
    sudo=(sudo)
  fi

  find_major
  for package in make gcc libc6-dev perl "postgresql-$pg_major" "postgresql-server-dev-$pg_major" "$@"; do
    package=${package//@/$pg_major}
    [[ " ${missing[*]} " == *" $package "* ]] || have_package "$package" || missing+=("$package")
  done
  if [ ${#missing[@]} -gt 0 ]; then
    install_packages "${missing[@]}"
  fi

  bindir=/usr/lib/postgresql/$pg_major/bin
  [ -x "$bindir/postgres" ] || fail "$bindir/postgres is missing though postgresql-$pg_major is installed"
}

# Install packages, but let a newly installed PostgreSQL neither create nor
# start the distribution's own cluster.
install_packages() {
  local status=0 log

  if [ "$(id -u)" -ne 0 ]; then
    if [ ${#sudo[@]} -eq 0 ]; then
      fail "these packages are missing, and there is neither root nor sudo to install them: $*" \
        "As root: apt-get install $*"
    elif ! sudo -n true 2>/dev/null && [ ! -t 0 ]; then
      fail "these packages are missing, and sudo asks for a password that nobody here can type: $*" \
        "As root: apt-get install $*"
    fi
  fi

  say "installing $*"
  if ! have_package "postgresql-$pg_major"; then
    createcluster_dropin=/etc/postgresql-common/createcluster.d/zz-sync_ext-scripts.conf
    trap remove_dropin EXIT
    "${sudo[@]}" mkdir -p "${createcluster_dropin%/*}"
    echo "create_main_cluster = false" | "${sudo[@]}" tee "$createcluster_dropin" >/dev/null
  fi
  log=$(TMPDIR=/tmp mktemp)
  {
    "${sudo[@]}" apt-get -qq update &&
      "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq -o Dpkg::Use-Pty=0 install --yes --no-install-recommends "$@"
  } >"$log" 2>&1 || status=$?
  remove_dropin
  trap - EXIT
  [ $status -eq 0 ] || cat "$log" >&2
  rm -f "$log"
  [ $status -eq 0 ] || fail "apt-get could not install: $*" "Its messages are above."
}

remove_dropin() {
  [ -n "$createcluster_dropin" ] || return 0
  "${sudo[@]}" rm -f "$createcluster_dropin"
  "${sudo[@]}" rmdir --ignore-fail-on-non-empty "${createcluster_dropin%/*}" 2>/dev/null || true
  createcluster_dropin=
}

# ---------------------------------------------------------------------------
# The place to work in
# ---------------------------------------------------------------------------

as_user() { "${wrapper[@]}" "$@"; }

begin() {
  local name=$1 variable

  if [ "$(id -u)" -eq 0 ]; then
    user=postgres
    id -u $user >/dev/null 2>&1 || fail "there is no user $user to run PostgreSQL as, and it refuses root"
    wrapper=(runuser -u "$user" --)
  else
    user=$(id -un)
    wrapper=()
  fi

  # No setting of the caller's may lead to a cluster of theirs.
  for variable in $(compgen -e); do
    case $variable in
      PG_MAJOR) ;;
      PG* | MAKEFLAGS | MAKELEVEL) unset "$variable" ;;
    esac
  done
  unset CDPATH

  trap cleanup EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP

  # Below the checkout where that user gets there and a socket's name stays
  # below the system's limit of 107 bytes, else in /tmp.
  if mkdir -p "$top/tmp_run" 2>/dev/null &&
    work=$(mktemp -d "$top/tmp_run/$name.XXXXXX" 2>/dev/null); then
    chmod 755 "$top/tmp_run"
    if [ ${#work} -gt 64 ] || ! own_work; then
      rm -rf "$work"
      work=
    fi
  fi
  if [ -z "$work" ]; then
    rmdir "$top/tmp_run" 2>/dev/null || true
    work=$(TMPDIR=/tmp mktemp -d "/tmp/sync_ext.XXXXXX")
    own_work || fail "the user $user cannot work in $work"
    say "working in $work (below $top the user $user cannot, or its path is too long for a socket)"
  fi
  src=$work/src
  stage=$work/stage

  # The tree without what was built or left behind in it.
  as_user mkdir -p "$src" "$work/home" "$work/t" "$work/s"
  tar -C "$top" --exclude=./.git --exclude=./tmp_run --exclude=./tmp_check --exclude=./tmp_check_iso \
    --exclude=./tmp_stage --exclude=./results --exclude=./output_iso --exclude=./log \
    --exclude='./regression.*' --exclude='./*.so' --exclude='./src/*.o' --exclude='./src/*.bc' \
    --exclude='__pycache__' --exclude='./sql/sync_ext--*[0-9].sql' -cf - . |
    as_user tar -C "$src" --no-same-owner -xf -
  # Upgrade scripts match the pattern of what is built, but belong to the tree.
  for variable in "$top"/sql/sync_ext--*--*.sql; do
    [ ! -f "$variable" ] || as_user tee "$src/sql/${variable##*/}" <"$variable" >/dev/null
  done

  export HOME=$work/home TMPDIR=$work/t LC_ALL=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
  export PATH=$bindir:$PATH PG_CONFIG=$bindir/pg_config
  cd "$src"
}

own_work() {
  chmod 755 "$work"
  [ "$(id -u)" -ne 0 ] || chown "$user" "$work"
  (cd / && as_user test -w "$work") && (cd / && as_user test -x "$work")
}

cleanup() {
  local status=$? pidfile

  trap - EXIT
  trap '' INT TERM HUP
  cd /
  remove_dropin
  if [ -n "$work" ] && [ -d "$work" ]; then
    # Every server below $work, also one that an interrupted test left.
    find "$work" -name postmaster.pid 2>/dev/null | while read -r pidfile; do
      as_user "$bindir/pg_ctl" -s -D "${pidfile%/*}" -m immediate -w stop >/dev/null 2>&1 || true
    done
    # One that never got so far as to write that file.
    if [ -f "$work/launched.pid" ] && grep -qsF "$work/data" "/proc/$(cat "$work/launched.pid")/cmdline"; then
      as_user kill -9 "$(cat "$work/launched.pid")" || true
    fi
    if [ "$keep" = yes ]; then
      printf 'left for you to look at: %s\n' "$work"
    else
      rm -rf "$work" || true
      rmdir "$top/tmp_run" 2>/dev/null || true
    fi
  fi
  exit "$status"
}

# ---------------------------------------------------------------------------
# Building, and the cluster
# ---------------------------------------------------------------------------

make_ext() { as_user make --no-print-directory PG_CONFIG="$bindir/pg_config" "$@"; }

# The settings by which a server finds what is installed below $stage: Debian's
# own, or what PostgreSQL has had since version 18.
staged_settings() {
  local known
  known=$(as_user "$bindir/postgres" --describe-config | cut -f1)
  if grep -qx extension_destdir <<<"$known"; then
    echo "extension_destdir = '$stage'"
  elif grep -qx extension_control_path <<<"$known"; then
    echo "extension_control_path = '$stage$("$bindir/pg_config" --sharedir):\$system'"
    echo "dynamic_library_path = '$stage$("$bindir/pg_config" --pkglibdir):\$libdir'"
  else
    return 1
  fi
}

# Compile the copy and install it below $stage.  Prints only what is worth
# reading.  The suites that start servers of their own find it by
# SYNC_EXT_STAGE.
build() {
  local log=$work/build.log

  export SYNC_EXT_STAGE=$stage
  staged_settings >/dev/null ||
    fail "this PostgreSQL $pg_major can only load an extension that is installed into the system (Debian's can)" \
      "To do that: make && make install && make installcheck"
  say "building against PostgreSQL $pg_major"
  if ! { make_ext -j"$(nproc)" "$@" && make_ext "$@" install DESTDIR="$stage"; } >"$log" 2>&1; then
    grep -vE '^(gcc|cc|clang|/usr/bin/clang[^ ]*) ' "$log" | tail -60
    fail "the extension does not build"
  fi
  ! grep -E 'warning:' -A6 "$log" || true
}

# The cluster: $work/data, reached through PGHOST=$work/s and nothing else.
# Arguments are further lines of its configuration.
start_cluster() {
  local line

  as_user "$bindir/initdb" -D "$work/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync \
    >"$work/initdb.log" 2>&1 || { cat "$work/initdb.log"; fail "initdb failed"; }
  {
    echo "listen_addresses = ''"
    echo "unix_socket_directories = '$work/s'"
    echo "unix_socket_permissions = 0700"
    staged_settings
    echo "max_connections = 60"
    echo "max_prepared_transactions = 20"
    echo "shared_buffers = 64MB"
    echo "lc_messages = 'C'"
    echo "timezone = 'UTC'"
    echo "log_line_prefix = '%m [%p] %q%a '"
    for line in "$@"; do
      echo "$line"
    done
  } | as_user tee -a "$work/data/postgresql.conf" >/dev/null

  export PGHOST=$work/s PGPORT=5432 PGUSER=postgres PGDATABASE=postgres
  start_server
}

# A launcher (valgrind, a preloaded sanitizer) has to be the program that
# pg_ctl starts; exec keeps its process id, which pg_ctl looks for.
start_server() {
  local program=$bindir/postgres

  if [ -n "$server_preload$server_launcher" ]; then
    program=$work/postgres
    {
      echo '#!/bin/sh'
      echo "echo \$\$ >'$work/launched.pid'"
      [ -z "$server_preload" ] || echo "export LD_PRELOAD='$server_preload'"
      echo "exec $server_launcher '$bindir/postgres' \"\$@\""
    } | as_user tee "$program" >/dev/null
    as_user chmod 755 "$program"
  fi
  as_user "$bindir/pg_ctl" -s -D "$work/data" -l "$work/server.log" -p "$program" -w -t 180 start >/dev/null ||
    server_failed
}

server_failed() {
  tail -40 "$work/server.log" >&2
  fail "the server did not start"
}
