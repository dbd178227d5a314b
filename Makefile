# make run: the demo.  make test: everything.  make check: the fast part.  make bench: the figures.
# make chaos: everything at once, for a minute or SECONDS=N, by chance or SEED=N.  make readme: the README's tables.
# Needs Python 3.11 or later and nothing else; what is missing is installed into .venv, and for the tests from Debian's packages.

PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check
UNIT := tests --ignore=tests/real --ignore=tests/chaos --ignore=tests/conformance --ignore=tests/bench

.PHONY: run test check bench chaos readme clean

run: $(VENV)/.run
	@exec $(BIN)/python deploy/examples/run.py

test: $(VENV)/.dev
	@$(BIN)/python -m tests.components --install
	$(BIN)/python -m tests.lanes $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest $(UNIT) -m "not slow" --hypothesis-profile=quick -n auto --dist worksteal $(ARGS)

bench: $(VENV)/.dev
	@$(BIN)/python -m tests.components --install --bench
	$(BIN)/python -m pytest tests/bench --timeout=0 $(ARGS)

chaos: $(VENV)/.dev
	$(BIN)/python -m pytest tests/chaos -s $(ARGS)

readme: $(VENV)/.dev
	$(BIN)/python -m tests.readme

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "clusterd needs Python 3.11 or later; found: $$(python3 --version 2>&1)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "$(PYTHON) has no working venv module; on Debian: apt-get install python3-venv" >&2; exit 1; }

$(VENV)/.run: pyproject.toml | $(BIN)/python
	@echo "setting up $(VENV) …"
	@$(PIP) install --editable .
	@touch $@

# Dependency groups need pip 25.1; Debian 12's is older.
$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@echo "setting up $(VENV) with what the tests need …"
	@$(PIP) install --upgrade 'pip>=25.1'
	@$(PIP) install --editable . --group dev
	@touch $@ $(VENV)/.run
