# Two commands do everything on a fresh machine: make demo, make test.
# Each makes .venv if it is missing, installs, and runs.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test conformance check format lint types tests test-long clean

demo: $(VENV)/.demo  ## a real clip: boxes, one pass, index, tracks, pictures
	$(BIN)/onepass demo

test: $(VENV)/.dev   ## all tests; set ONEPASS_DATA for those on real images
	$(BIN)/python -m pytest

conformance: $(VENV)/.dev  ## half an hour: every family of models; writes docs/models.md
	$(BIN)/python -m tests.conformance

check: lint types tests  ## what CI runs

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/mypy

tests: test

test-long: $(VENV)/.dev  ## minutes: repeated kills
	$(BIN)/python -m pytest -m long --timeout 1800

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) demo-out .cache

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "onepass needs Python 3.11 or newer; give one with: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo]'
	touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
