# What one does with Valet. Needs python3 (3.11 or later); everything else goes into .venv.

ENGINE ?= cpu
PYTHON ?= python3
VENV_PYTHON := .venv/bin/python
# Processes of the tests: one of them has those that start engines.
SPREAD ?= -n 2

.DEFAULT_GOAL := help
.PHONY: help serve doctor test check lock bench-resume bench-overhead bench-store bench-endurance bench-sessions bench-joining bench-returns bench-tiers bench-shift bench-arbiter bench-stall bench-infinite bench-prefetch bench-twin bench-ssd-order load fuzz secrets clean install install-dev

help:  ## This list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 18

serve: install  ## Install what is needed and serve (PORT, VALET_…; ENGINE=cuda for GPUs)
	@exec $(VENV_PYTHON) -m app serve

doctor: install  ## Check this machine against the settings
	@$(VENV_PYTHON) -m app doctor

test: install-dev  ## All tests but the benchmarks (ARGS=tests/unit for the quick ones)
	$(VENV_PYTHON) -m pytest $(SPREAD) $(or $(ARGS),tests)

check: install-dev  ## Lint, format, types, imports between packages
	$(VENV_PYTHON) -m ruff check
	$(VENV_PYTHON) -m ruff format --check
	$(VENV_PYTHON) -m mypy
	.venv/bin/lint-imports

bench-resume: install  ## How fast a parked session comes back (ARGS=--quick)
	$(VENV_PYTHON) -m load.bench_resume $(ARGS)

bench-overhead: install  ## What Valet costs beside the bare engine (ARGS=--quick)
	$(VENV_PYTHON) -m load.bench_overhead $(ARGS)

bench-store: install  ## What the SSD store costs beside the bare disk (ARGS=--quick)
	$(VENV_PYTHON) -m load.bench_store $(ARGS)

bench-endurance: install  ## How much reuse a daily write budget leaves, from recorded sessions
	$(VENV_PYTHON) -m load.bench_endurance $(ARGS)

bench-sessions: install-dev  ## What sessions add to a request with a million in the database (ARGS=--quick)
	$(VENV_PYTHON) -m tests.benchmarks.bench_sessions $(ARGS)

bench-joining: install-dev  ## How many turns of unnamed sessions are joined to the right one
	$(VENV_PYTHON) -m tests.benchmarks.bench_joining $(ARGS)

bench-returns: install  ## How well the next turn is predicted, and whether a shift is noticed (recorded sessions)
	$(VENV_PYTHON) -m load.bench_returns $(ARGS)

bench-tiers: install  ## What is at hand when it is asked for, every policy and an offline optimum (simulated; ARGS=--quick)
	$(VENV_PYTHON) -m load.bench_tiers $(ARGS)

bench-shift: install  ## When the gaps become others in mid-trace (simulated)
	$(VENV_PYTHON) -m load.bench_shift $(ARGS)

bench-ssd-order: install  ## What an SSD that is too small keeps (recorded sessions, simulated)
	$(VENV_PYTHON) -m load.bench_ssd_order $(ARGS)

bench-arbiter: install  ## Whether a hit is ever slower than a miss, on a throttled disk too (ARGS=--quick)
	$(VENV_PYTHON) -m load.bench_arbiter $(ARGS)

bench-stall: install  ## What a load costs those who decode meanwhile (ARGS=--quick)
	$(VENV_PYTHON) -m load.bench_stall $(ARGS)

bench-infinite: install  ## Eight devices' worth of sessions against a device that holds all (ARGS=--quick)
	$(VENV_PYTHON) -m load.bench_infinite $(ARGS)

bench-prefetch: install  ## Resumed turns with prefetch against without (ARGS=--quick)
	$(VENV_PYTHON) -m load.bench_prefetch $(ARGS)

bench-twin: install  ## The twin against the server on the same work (ARGS=--quick)
	$(VENV_PYTHON) -m load.bench_twin $(ARGS)

load: install-dev  ## Agents at work, two minutes (HOST=URL of a running server, ARGS=…)
	$(VENV_PYTHON) -m load $(if $(HOST),--host $(HOST)) $(ARGS)

fuzz: install-dev  ## Hostile bytes for every reader of the SSD store's files, minutes
	$(VENV_PYTHON) -m tests.fuzz

secrets:  ## Passwords for docker-compose.yml, in secrets/
	@$(PYTHON) deploy/make_secrets.py

lock: install  ## Resolve requirements/*.in again
	$(VENV_PYTHON) requirements/lock.py

clean:  ## Remove what these commands made here (not VALET_HOME)
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf .import_linter_cache

install:
	@$(PYTHON) requirements/install.py $(ENGINE)

install-dev:
	@$(PYTHON) requirements/install.py $(ENGINE) dev
