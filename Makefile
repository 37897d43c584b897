# Two commands do all the set-up: `make demo` shows it, `make test` proves it.
PYTHON ?= python3
# Another build of torch: make test TORCH_ARGS="torch --index-url ..."
TORCH_ARGS ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
CORPUS ?= tests/cases
# Bare copies of the repositories that the held-out texts stand in.
HELDOUT ?= .heldout
ROUNDS ?= 10
# Processes that test; one of them has all Ray clusters, one after the other. 0: this one.
TESTERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo check test test-long test-fast score chaos bench bench-quick healthy versions dashboards pictures clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# Torch first: what else needs it then takes this build, not one of several gigabytes.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV) || { echo "python3-venv is missing: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/pip install --quiet -c constraints.txt $(TORCH_ARGS)
	$(BIN)/pip install --quiet -c constraints.txt -e '.[ray,dev]'
	@touch $@

# What only Debian has.
$(VENV)/.tools: tests/tools/install | $(VENV)/.installed
	bash tests/tools/install
	@touch $@

demo: $(VENV)/.installed ## a spot node dies under a real Ray Train run, and training goes on
	$(BIN)/raywatch demo

check: $(VENV)/.installed ## format, lint, types, laws of the house
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/test_architecture.py

test: $(VENV)/.installed $(VENV)/.tools ## all tests but those that take minutes
	$(BIN)/pytest -q -n $(TESTERS) -m 'not long'

test-long: $(VENV)/.installed $(VENV)/.tools ## those that take minutes: real clusters beside Prometheus and Alertmanager
	$(BIN)/pytest -q -m long

test-fast: $(VENV)/.installed ## without Ray clusters and slow parts
	$(BIN)/pytest -q -m 'not ray and not slow and not long'

score: $(VENV)/.installed ## what a scan says of a corpus of real failures (CORPUS=...), and explain of held-out logs (HELDOUT=...)
	@status=0; $(BIN)/python -m tests.bench.score $(CORPUS) || status=1; \
	$(BIN)/python -m tests.bench.heldout --repos $(HELDOUT) || status=1; exit $$status

chaos: $(VENV)/.installed ## long: daemons killed at random, the demo again and again, with figures (ROUNDS=10)
	$(BIN)/python -m tests.bench.chaos $(ROUNDS)

# What the benches compare with.
$(VENV)/.peers: tests/tools/bench-install | $(VENV)/.installed
	bash tests/tools/bench-install
	$(BIN)/pip install --quiet -c constraints.txt 'ray[serve]'
	@touch $@

# Processor time and latency want a machine that does nothing else.
bench: $(VENV)/.installed $(VENV)/.peers ## long (an hour, 6 GB of disk): how fast, how late, how heavy, beside other tools and goals
	@status=0; for part in engines live scale latency idle exposition; do $(BIN)/python -m tests.bench.$$part || status=1; done; exit $$status

bench-quick: $(VENV)/.installed $(VENV)/.peers ## minutes: the same of little, where start-up weighs more than it should
	@status=0; $(BIN)/python -m tests.bench.engines --size 50M --rounds 3 || status=1; \
	$(BIN)/python -m tests.bench.live --small || status=1; \
	$(BIN)/python -m tests.bench.scale --files 5000 --seconds 10 || status=1; exit $$status

healthy: $(VENV)/.installed $(VENV)/.peers ## long (an hour): a gigabyte of logs of healthy Ray clusters, in which nothing must have failed
	$(BIN)/python -m tests.bench.healthy

versions: $(VENV)/.installed ## beside other versions of Ray, each downloaded (minutes)
	$(BIN)/python -m tests.bench.versions

dashboards: $(VENV)/.installed ## write dashboards/*.json anew from tests/boards (Python 3.11)
	$(BIN)/python -m tests.boards

pictures: $(VENV)/.installed $(VENV)/.tools ## ten minutes: draw what the dashboards show of a daemon in trouble, for docs/dashboards.md
	$(BIN)/python -m tests.boards.pictures

clean: ## remove what was built
	rm -rf $(VENV) .bench .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
