# Every target sets up what it needs in .venv: Python 3.11 or 3.12 and make are all that a machine must have.
#
#   make quickstart   train in two stages on embedded data, evaluate, export          (runs/quickstart)
#   make real         the same recipe on the datasets of SEQGPT_DATA_DIR              (runs/real)
#   make test         the tests that end in minutes;  make slow: the others too
#   make soak         two hours of kills, full disks and mesh changes of toy runs, then an exact comparison
#   make lint         ruff and mypy

SHELL := /bin/bash
PYTHON ?= $(shell for python in python3.11 python3.12 python3 python; do \
  $$python -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
export SEQGPT_DATA_DIR ?= ../shared/data
PYTEST_WORKERS ?= 2
SOAK_MINUTES ?= 120

.PHONY: quickstart real test slow soak lint clean
.DELETE_ON_ERROR:

.venv/base.stamp: setup.py pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or 3.12 not found; install one, or run make PYTHON=/path/to/python"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	@touch $@

.venv/test.stamp: .venv/base.stamp
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@

quickstart: .venv/base.stamp
	$(BIN)/seqgpt train gin/recipes/quickstart.gin --run_dir runs/quickstart

real: .venv/base.stamp
	$(BIN)/seqgpt train gin/recipes/real.gin --run_dir runs/real

test: .venv/test.stamp
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) -m "not slow"

slow: .venv/test.stamp
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS)

soak: .venv/test.stamp
	$(BIN)/python -m tests.soak --minutes $(SOAK_MINUTES)

lint: .venv/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv .cache build dist *.egg-info
