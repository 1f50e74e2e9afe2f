# sync_ext: build, install and test through PGXS.
#
#   make                        build against the pg_config in PATH
#   make install                install into that PostgreSQL
#   make installcheck           pg_regress and isolation tests, on a running server
#   make tapcheck               TAP tests (they start servers of their own)
#   make checkver               do all files name the same version?
#
# Another PostgreSQL (13 to 18): make PG_CONFIG=/path/to/pg_config ...
# Warnings as errors: make PROFILE=-Werror
# All of it, on a server made for the purpose: scripts/test

PG_CONFIG ?= pg_config

EXTENSION = sync_ext
EXTVERSION := $(shell sed -n "s/^default_version *= *'\([^']*\)'.*/\1/p" sync_ext.control)

MODULE_big = sync_ext
PGFILEDESC = "sync_ext - a PostgreSQL database as the sync server of an offline-capable application"
OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c)))

PG_CPPFLAGS = -DSYNC_EXT_VERSION='"$(EXTVERSION)"'

# These are the parts of -Wextra that the server's own headers (and every
# callback) trip.
# -Wignored-attributes is what clang says of a server that gcc configured.
PG_CFLAGS = -std=gnu11 -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -Wno-ignored-attributes

# The install script is these parts, in this order.  Upgrade scripts are
# written by hand, one for each release, and lie beside it.
SQL_PARTS = $(patsubst %,sql/parts/%.sql, \
	00_prelude \
	10_tables \
	12_journal_tables \
	20_cursor \
	30_tracking \
	35_access \
	36_policies \
	40_changes \
	45_routing \
	50_operations \
	60_worker \
	70_views \
	75_push \
	76_reconcile \
	80_journals \
	81_journal_ids \
	90_finish)
INSTALL_SQL = sql/$(EXTENSION)--$(EXTVERSION).sql

DATA = $(wildcard sql/$(EXTENSION)--*--*.sql)
DATA_built = $(INSTALL_SQL)

# pg_regress looks for ./sql/NAME.sql before test/sql/NAME.sql, so sql/ must
# not hold a file that is named like a test.
REGRESS = $(sort $(patsubst test/sql/%.sql,%,$(wildcard test/sql/*.sql)))
REGRESS_OPTS = --inputdir=test

# Packages of PostgreSQL 13 come without the isolation tester.
PGXS := $(shell $(PG_CONFIG) --pgxs)
ifneq ($(wildcard $(dir $(PGXS))../../src/test/isolation/pg_isolation_regress*),)
ISOLATION = $(sort $(patsubst test/specs/%.spec,%,$(wildcard test/specs/iso_*.spec)))
ISOLATION_OPTS = --inputdir=test --outputdir=.
endif

TAP_FILES = $(sort $(wildcard test/t/*.pl))

EXTRA_CLEAN = tmp_stage tmp_check log $(wildcard $(EXTENSION)-*.zip)

include $(PGXS)

# PGXS knows of no dependencies on headers; .bc is what the JIT inlines.
$(OBJS) $(OBJS:.o=.bc): $(wildcard src/*.h) sync_ext.control

$(INSTALL_SQL): $(SQL_PARTS) sync_ext.control
	cat $(SQL_PARTS) >$@.tmp
	mv $@.tmp $@

# The clusters of the TAP tests find the extension where it was installed, or
# below $SYNC_EXT_STAGE when that names the DESTDIR of a staged installation
# (Debian and Ubuntu: their servers know extension_destdir).
tapcheck:
ifneq ($(TAP_FILES),)
	rm -rf '$(CURDIR)/tmp_check'
	$(MKDIR_P) '$(CURDIR)/tmp_check/log'
	TESTDIR='$(CURDIR)' \
	TESTLOGDIR='$(CURDIR)/tmp_check/log' \
	TESTDATADIR='$(CURDIR)/tmp_check' \
	PATH="$(bindir):$$PATH" \
	PGPORT='6$(DEF_PGPORT)' \
	PG_REGRESS='$(top_builddir)/src/test/regress/pg_regress' \
	$(if $(PROVE),$(PROVE),prove) -I '$(top_srcdir)/src/test/perl' -I test/perl \
		$(PROVE_FLAGS) $(if $(PROVE_TESTS),$(PROVE_TESTS),$(TAP_FILES))
else
	@echo "no TAP tests"
endif

# The version is named once for the machine (sync_ext.control) and twice for
# people and for PGXN.
checkver:
	@grep -q '^  *"version": *"$(EXTVERSION)"' META.json || \
		{ echo "META.json does not name version $(EXTVERSION) of sync_ext.control" >&2; exit 1; }
	@grep -q '^## $(EXTVERSION) ' CHANGELOG.md || \
		{ echo "CHANGELOG.md has no section for version $(EXTVERSION) of sync_ext.control" >&2; exit 1; }
	@grep -A4 '"sync_ext": {' META.json | grep -q '"version": *"$(EXTVERSION)"' || \
		{ echo "META.json provides another version than $(EXTVERSION)" >&2; exit 1; }
	@echo "version $(EXTVERSION)"

# The archive for PGXN: the tree, and the install script that META.json names.
dist: checkver $(INSTALL_SQL)
	git archive --format=zip -o $(EXTENSION)-$(EXTVERSION).zip \
		--prefix=$(EXTENSION)-$(EXTVERSION)/sql/ --add-file=$(INSTALL_SQL) \
		--prefix=$(EXTENSION)-$(EXTVERSION)/ HEAD

.PHONY: tapcheck checkver dist
