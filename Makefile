# Volenti: the map of commands. Everything runs in .venv, which the first target makes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

# Stamps: what it takes to run, to develop, to measure against others. Each is redone when its lock file changes.
$(VENV)/.run: requirements/run.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Volenti needs Python 3.11 or newer: make PYTHON=python3.12 …")'
	@echo "setting up $(VENV) (once, about half a minute)" >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --require-hashes --no-deps -r requirements/run.txt
	@$(PIP) install --no-build-isolation --no-deps -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements/dev.txt
	@echo "installing the development tools (once, about a minute)" >&2
	@$(PIP) install --require-hashes --no-deps -r requirements/dev.txt
	@touch $@

# The engines that bench/evaluate.py measures against; nothing else needs them.
$(VENV)/.bench: $(VENV)/.dev requirements/bench.txt
	@$(PIP) install --require-hashes -r requirements/bench.txt
	@touch $@

demo: $(VENV)/.run ## start the service on an embedded PostgreSQL, with a workspace to play with
	@$(BIN)/volenti serve --demo

test: $(VENV)/.dev ## all tests, the linters and the types
	@$(MAKE) --no-print-directory lint types
	@$(BIN)/pytest -n 2 --dist worksteal

# Again where it may differ: on the oldest PostgreSQL that is supported, then with a PgBouncer between.
POSTGRESQL_15 ?= /usr/lib/postgresql/15/bin
# What asks no database, or brings its own, is the same on each.
ALIKE = --ignore tests/api/test_guard.py --ignore tests/store/test_anchor.py
DATABASE_TESTS = tests --ignore tests/core --ignore tests/keys --ignore tests/browser --ignore tests/fault/test_planted_bugs.py $(ALIKE)
POOLED_TESTS = tests/store tests/flows tests/api --ignore tests/store/test_embedded.py $(ALIKE)
test-databases: $(VENV)/.dev ## what touches a database again: on PostgreSQL 15, then through PgBouncer
	@if [ -x $(POSTGRESQL_15)/initdb ]; then \
		echo "on PostgreSQL 15"; VOLENTI_PG_BIN=$(POSTGRESQL_15) $(BIN)/pytest -n 2 --dist worksteal $(DATABASE_TESTS); \
	else echo "skipped: PostgreSQL 15 is not installed in $(POSTGRESQL_15)"; test -z "$$VOLENTI_TESTS_REQUIRE_TOOLS"; fi
	@if PATH="$$PATH:/usr/sbin" command -v pgbouncer >/dev/null; then \
		echo "through PgBouncer"; VOLENTI_TEST_POOLER=pgbouncer $(BIN)/pytest -n 2 --dist worksteal $(POOLED_TESTS); \
	else echo "skipped: PgBouncer is not installed"; test -z "$$VOLENTI_TESTS_REQUIRE_TOOLS"; fi

test-core: $(VENV)/.dev ## the pure core only: no database, a few seconds
	@$(BIN)/pytest tests/core

fault: $(VENV)/.dev ## the long form of the fault tests: kills, cuts, full disks, partitions, planted bugs (hours)
	@VOLENTI_FAULT_ROUNDS=20 VOLENTI_FAULT_APPENDS=1000 VOLENTI_FAULT_SUSPENDED=10 $(BIN)/pytest tests/fault

soak: $(VENV)/.dev ## the stateful machine for an hour, with examples that nobody has seen
	@VOLENTI_MACHINE=soak $(BIN)/pytest tests/scenario/test_machine.py

lint: $(VENV)/.dev ## style, import contracts, dependencies, SQL
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports
	@$(BIN)/deptry .
	@$(BIN)/squawk migrations/*.sql

types: $(VENV)/.dev ## mypy, strict
	@$(BIN)/mypy

openapi: $(VENV)/.dev ## write openapi/openapi.json and openapi/policy.schema.json from the code
	@$(BIN)/python -m volenti.api.openapi openapi

docs: $(VENV)/.dev ## write docs/jurisdictions.md and docs/reasons.md from the code and the data
	@$(BIN)/python -m volenti.flows.profiles docs/jurisdictions.md
	@$(BIN)/python -m volenti.core.reason > docs/reasons.md

mutants: $(VENV)/.dev ## mutation tests of the rules, and the survivors (an hour; MUTANTS="volenti.core.consent*" for a part)
	@rm -rf mutants && mkdir mutants && cp -RL service mutants/src
	@cp -R docs jurisdictions migrations openapi tests pyproject.toml mutants
	@cd mutants && nice ../$(BIN)/mutmut run --max-children 2 $(MUTANTS) && ../$(BIN)/mutmut results

bench: $(VENV)/.bench ## the benchmarks, one JSON line each
	@$(BIN)/python bench/append.py
	@$(BIN)/python bench/evaluate.py
	@$(BIN)/python bench/decision_log.py

lock: $(VENV)/.dev ## resolve the versions again: hashes, no addresses
	@$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --python-version 3.11 \
		--extra embedded --group build pyproject.toml -o requirements/run.txt
	@$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --python-version 3.11 \
		--no-strip-extras --extra embedded --extra s3 --group build --group dev --group interop pyproject.toml -o requirements/dev.txt
	@$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --python-version 3.11 \
		--group bench -o requirements/bench.txt

.PHONY: help demo test test-databases test-core fault soak lint types openapi docs mutants bench lock
