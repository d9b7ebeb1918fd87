# Two commands do everything on a fresh machine: make demo, make test.
# Each makes .venv if it is missing, installs, and runs.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# Debian's own programs, where they are missing and this is root.
MAY_INSTALL := test "$$(id -u)" = 0 && command -v apt-get >/dev/null
APT_INSTALL := apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
  apt-get install -qq -y --no-install-recommends
HAS_POSTGRES := command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1

.PHONY: demo test test-browser test-cluster conformance check docs hashes format lint types audit tests test-long size clean

demo: $(VENV)/.demo  ## a real clip: boxes, one pass, index, tracks, pictures
	$(BIN)/onepass demo

test: $(VENV)/.dev   ## all tests; set ONEPASS_DATA for those on real images
	@if ! { $(HAS_POSTGRES); }; then \
	  if $(MAY_INSTALL); then $(APT_INSTALL) postgresql; \
	  else echo "no PostgreSQL here: its tests are skipped; 'sudo apt-get install postgresql'" >&2; fi; \
	fi
	@# Ray's tests mostly wait, so they run beside the others, in a process of their own.
	@log=$$(mktemp); trap 'kill $$ray 2>/dev/null; rm -f $$log' EXIT; \
	$(BIN)/python -m pytest -m ray -p no:cacheprovider > $$log 2>&1 & ray=$$!; \
	$(BIN)/python -m pytest -m "not ray" --cov --cov-report=; code=$$?; \
	wait $$ray || code=1; cat $$log; \
	echo "lines run in this process, without commands and Ray's workers: $$($(BIN)/coverage report --format=total) %"; \
	exit $$code

test-browser: $(VENV)/.dev  ## the page in Debian's chromium, which it installs where it may
	@if test -z "$$CHROMIUM" && ! command -v chromium >/dev/null && ! command -v google-chrome >/dev/null; then \
	  if $(MAY_INSTALL); then $(APT_INSTALL) chromium fonts-dejavu-core; \
	  else \
	    echo "no chromium here, and only root may install it: run 'sudo apt-get install chromium'," \
	      "or name a browser of its family: make test-browser CHROMIUM=/path/to/chrome" >&2; exit 1; \
	  fi; \
	fi
	$(BIN)/python -m pytest tests/browser

test-cluster: $(VENV)/.dev  ## four minutes: faults on three nodes, in a pytest of their own
	$(BIN)/python -m pytest tests/cluster

conformance: $(VENV)/.dev  ## half an hour: every family of models; writes docs/models.md
	$(BIN)/python -m tests.conformance

check: lint types audit docs tests  ## what CI runs, beside test-browser

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache

types: $(VENV)/.dev
	$(BIN)/mypy

audit: $(VENV)/.dev  ## known vulnerabilities of what is installed; says so where it cannot ask
	$(BIN)/python -m tests.helpers.audit

docs: $(VENV)/.dev  ## the documentation as pages, in site/; needs no network
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

tests: test

test-long: $(VENV)/.dev  ## minutes: repeated kills
	$(BIN)/python -m pytest -m long --timeout 1800

size:  ## what the weight of the code is judged by
	$(PYTHON) benchmarks/code_size.py

hashes: $(VENV)/.dev  ## after constraints.txt has changed: the sha256 of what it names; asks PyPI
	$(BIN)/python -m tests.helpers.hashes

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) demo-out site .cache

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "onepass needs Python 3.11 or newer; give one with: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo]'
	touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps trackers
	touch $@
