# Each target is the only command needed on a fresh machine: it makes the virtual environment
# first where that is missing or older than the pins.

PYTHON ?= python3
VENV ?= .venv
AGENTS ?= .venv-agents
AUDIT ?= .venv-audit
ARGS ?=
# Where `install-service` puts things, and where the daemon that they start is installed.
DESTDIR ?=
BINDIR ?= /opt/realtimed/bin
UNITDIR ?= /etc/systemd/system
CONFDIR ?= /etc/realtimed

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NODE_STAMP := tests/node/node_modules/.installed
AGENTS_STAMP := $(AGENTS)/.installed
AUDIT_STAMP := $(AUDIT)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# The one pin of torch is in the requirements; only its CPU build will do.
TORCH := $(shell sed -n 's/^torch==.*/&+cpu/p' conf/requirements-cpu.txt)
TORCH_INDEX := https://download.pytorch.org/whl/cpu

.DEFAULT_GOAL := help
.PHONY: help venv demo serve bench test test-agents lint audit fmt install-service clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 17

venv: $(STAMP) $(NODE_STAMP) ## Make the virtual environment: CPU engine, development tools

demo: $(STAMP) ## Serve the bundled model, stream a sample through it, show the words, stop
	$(BIN)/python -m realtimed demo $(ARGS)

serve: $(STAMP) ## Serve the bundled model until interrupted; ARGS="MODEL --port 9000" for another
	$(BIN)/realtimed serve $(ARGS)

bench: $(STAMP) ## The daemon beside vLLM's own server, in one run
	$(BIN)/python -m benchmarks.frontend $(ARGS)

test: $(STAMP) $(NODE_STAMP) ## Run all tests; ARGS="tests/test_config.py" for some
ifdef ARGS
	$(BIN)/python -m pytest -q -rs $(ARGS)
else
	$(BIN)/python -m pytest -q -rs -n 2 --dist loadfile -m 'not alone'
	$(BIN)/python -m pytest -q -rs -m alone
endif

test-agents: $(STAMP) $(AGENTS_STAMP) ## Run LiveKit's and pipecat's own clients against the daemon (800 MB more)
	AGENTS_PYTHON=$(abspath $(AGENTS)/bin/python) \
	    $(BIN)/python -m pytest -q -rA tests/test_real_agents.py $(ARGS)

lint: $(STAMP) ## Check style, types and the floors of the architecture
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict realtimed
	$(BIN)/lint-imports

audit: $(AUDIT_STAMP) ## Look all pins up for known vulnerabilities; needs the network
	@$(AUDIT)/bin/python conf/audit.py $(ARGS)

fmt: $(STAMP) ## Format the code and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install-service: ## Install the systemd units; BINDIR= is where realtimed is installed, DESTDIR= a root
	install -d $(DESTDIR)$(UNITDIR) $(DESTDIR)$(CONFDIR)
	for unit in realtimed.service realtimed@.service realtimed.socket; do \
	    sed 's|@BINDIR@|$(BINDIR)|' conf/$$unit > $(DESTDIR)$(UNITDIR)/$$unit || exit 1; \
	done
	test -e $(DESTDIR)$(CONFDIR)/realtimed.toml || \
	    install -m 644 conf/realtimed.toml $(DESTDIR)$(CONFDIR)/realtimed.toml

clean: ## Remove the virtual environment and all caches
	rm -rf $(VENV) $(AGENTS) $(AUDIT) tests/node/node_modules build dist *.egg-info .mypy_cache \
	    .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch goes first: once its CPU build is there, the pin in the requirements is satisfied. It
# comes from a directory of wheels where pip is set up with one, else from PyTorch's own index.
# Then everything else that a daemon runs with, each file by its hash.
$(STAMP): conf/requirements-cpu.txt conf/hashes-cpu.txt conf/requirements-dev.txt setup.cfg
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo 'realtimed needs Python 3.11 or newer: make PYTHON=/path/to/python3.11' >&2; exit 1; }
	@echo 'Installing the CPU engine into $(VENV): a minute or two, 2 GB.'
	@$(PYTHON) -m venv $(VENV) || \
	    { echo 'Cannot make $(VENV); on Debian or Ubuntu, install python3-venv.' >&2; exit 1; }
	@$(PIP) install --no-deps --no-index $(TORCH) 2>/dev/null || \
	    $(PIP) install --no-deps --index-url $(TORCH_INDEX) $(TORCH)
	@$(PIP) install --no-deps --require-hashes -r conf/hashes-cpu.txt
	@$(PIP) install --no-deps -r conf/requirements-cpu.txt -r conf/requirements-dev.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

# Node is no requirement: without it, or its packages, the tests of Node's clients skip.
$(NODE_STAMP): tests/node/package-lock.json
	@if ! command -v npm >/dev/null; then \
	    echo 'There is no npm here: the tests of Node clients will be skipped.'; \
	elif npm ci --prefix tests/node --ignore-scripts --no-audit --no-fund --silent \
	    --prefer-offline --fetch-retries=1 --fetch-timeout=30000; then \
	    touch $@; \
	else \
	    echo 'npm ci failed: the tests of Node clients will be skipped.'; \
	fi

$(AGENTS_STAMP): conf/requirements-agents.txt
	@$(PYTHON) -m venv $(AGENTS)
	@$(AGENTS)/bin/python -m pip --disable-pip-version-check --quiet install --no-deps -r $<
	@touch $@

$(AUDIT_STAMP): conf/requirements-audit.txt
	@$(PYTHON) -m venv $(AUDIT)
	@$(AUDIT)/bin/python -m pip --disable-pip-version-check --quiet install --no-deps -r $<
	@touch $@
