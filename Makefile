# partitiond: everything a clone needs, with Python 3.11 to 3.13 and make only.
#
#   make tour       plan twelve small models on GPUs: no engine, no GPU, half a minute
#   make tour-gpus  eight simulated A100s: MPS, MIG and memory shares, with things breaking, 2 minutes
#   make tour-hosts three hosts on this machine, on Ray: one is lost, the plan is repaired, it comes back
#   make demo       the whole loop on this machine with a real engine
#   make test       lint, types, import contracts, tests (with the real engine)
#   make test-full  the slow tests: chaos, fuzz, many seeds
#
# Variables: PYTHON (interpreter), VENV (environment), DEMO_ARGS, PYTEST_ARGS, WORKERS (test processes).

SHELL := /bin/sh
.DEFAULT_GOAL := help

# Python keeps what it compiles, also where the environment says otherwise (images of containers
# do): a daemon is several processes, each of which would compile all sources at each start.
unexport PYTHONDONTWRITEBYTECODE

VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	if command -v $$p >/dev/null 2>&1 && \
	   $$p -c 'import sys; raise SystemExit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; \
	then command -v $$p; break; fi; done)

.PHONY: browser help tour tour-gpus tour-hosts setup setup-dev demo engine native test test-full hunt wrong-versions soak \
	lint lint-style lint-types lint-imports kernels compiled-tests format types imports bench gpu-check docs \
	lock clean

help: ## show this
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | awk -F '\t' '{printf "  make %-10s %s\n", $$1, $$2}'

# --- environments ----------------------------------------------------------------------------

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 to 3.13 found: install one, or make PYTHON=/path/to/python3.12"; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip' 2>/dev/null || { echo "$(PYTHON) cannot make environments: install its venv package (Debian: python3-venv)"; exit 1; }
	@echo "Making $(VENV) with $(PYTHON)"
	@"$(PYTHON)" -m venv $(VENV)

# The lock file holds development tools, too: one set of versions for everyone. pip fetches uv alone,
# and uv the rest, from the sources that pip is configured with.
UV := $(BIN)/python -I partitiond/engines/install/package_sources.py

$(STAMP): requirements.lock pyproject.toml | $(BIN)/python
	@echo "Installing what partitiond needs, as pinned in requirements.lock"
	@sed -n '/^uv==/,/^    #/p' requirements.lock >$(VENV)/uv.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $(VENV)/uv.lock
	@$(UV) pip install --require-hashes --requirements requirements.lock
	@$(UV) pip install --quiet --no-deps --editable .
	@touch $@

setup: $(STAMP) ## make the daemon's environment in .venv (quick the second time)
	@$(BIN)/partitiond --version

engine: $(STAMP) ## install the vLLM that fits this machine, in an environment of its own
	@$(BIN)/partitiond setup engine install

# --- seeing it -------------------------------------------------------------------------------

tour: $(STAMP) ## plan twelve small models on A100s: no engine, no GPU
	@$(BIN)/partitiond plan --from examples/twelve-models.toml
	@echo "Next: \`make demo\` serves models on this machine; \`$(BIN)/partitiond plan --from FILE\` plans a fleet of yours (docs/how-to/plan.md)."

tour-gpus: $(STAMP) ## eight simulated A100s: MPS, MIG, memory shares, and what happens when they break
	@PARTITIOND=$(BIN)/partitiond PYTHON=$(BIN)/python examples/simulated-gpus/tour.sh

tour-hosts: $(STAMP) ## three hosts on this machine, on Ray: one plan, one host lost, repaired, and back (PICTURE=FILE draws it)
	@PARTITIOND=$(BIN)/partitiond PYTHON=$(BIN)/python PICTURE="$(PICTURE)" examples/several-hosts/tour.sh

demo: $(STAMP) ## the whole loop on this machine with a real engine
	@$(BIN)/partitiond demo $(DEMO_ARGS)

# --- checking it -----------------------------------------------------------------------------

# Tests wait for processes more than they compute: four at a time, also on two cores. 0 for one
# after the other in one process, which a debugger wants.
WORKERS ?= 4

# Sockets lie in the folders of tests, and their paths may have 107 bytes: a short one for all.
define pytest
	@folder=$$(mktemp -d "$${TMPDIR:-/tmp}/pd.XXXXXX") || exit 1; \
	echo "The folders of the tests are below $$folder, and stay there if one fails."; \
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --basetemp="$$folder" \
		--durations=50 --durations-min=2 $(1) $(PYTEST_ARGS); \
	status=$$?; case $$status in 0|5) rm -rf "$$folder";; esac;
endef

lint: lint-style lint-types lint-imports ## lint, format check, types, import contracts

lint-style: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lint-types: $(STAMP)
	$(BIN)/mypy

lint-imports: $(STAMP)
	$(BIN)/lint-imports --no-cache

format: $(STAMP) ## put the code into its format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Kernels and tests are compiled once, before several processes of tests do so at the same time.
# What is wrong with a test file is said when tests run.
compiled-tests: $(STAMP)
	@$(BIN)/pytest --collect-only -qq >/dev/null 2>&1 || true

kernels: $(STAMP)
	@$(BIN)/python -m partitiond.planner

native: $(STAMP) ## compile the proxy's hot path, where there is a C compiler (done by demo and test)
	@$(BIN)/python -m partitiond.native

# Types take as long as all the rest that comes before the tests.
test: $(STAMP) engine ## everything but the slow tests, the real engine included
	@$(MAKE) --no-print-directory -j2 --output-sync=target \
		lint-types native kernels compiled-tests lint-style lint-imports
	@$(BIN)/python -c 'import shutil; shutil.which("nvidia-smi") or print("skip: no NVIDIA GPU here, GPU tests do not run")'
	$(call pytest,-m "not full and not soak and not quarantine and not gpu") exit $$status

# Only files with such tests are read: reading all of them takes each process 15 s.
SLOW_FILES = $(sort $(shell grep -rlE 'mark\.(full|gpu)' --include='test_*.py' tests))

# pytest's status 5 means that no test carries these markers (yet): no failure.
test-full: $(STAMP) engine kernels ## the slow tests: chaos, fuzz, many seeds, browser, GPU
	@$(MAKE) --no-print-directory browser || echo "skip: no Chromium can be had here, tests of the dashboard do not run"
	$(call pytest,-m "(full or gpu) and not soak and not quarantine" $(SLOW_FILES)) test $$status -eq 5 && exit 0; exit $$status

# Debian and Ubuntu; elsewhere install Chromium yourself, or name one in PARTITIOND_CHROMIUM.
browser: ## get Chromium, which the tests of the dashboard need
	@for name in "$$PARTITIOND_CHROMIUM" chromium chromium-browser google-chrome google-chrome-stable; do \
		test -n "$$name" && command -v "$$name" && exit 0; done; \
	test "$$(id -u)" = 0 || sudo="sudo -n"; \
	command -v apt-get >/dev/null && $$sudo apt-get update -qq && \
	$$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium

hunt: $(STAMP) ## the planner against a brute force, and the property tests with new examples
	$(BIN)/python -m tests.oracle --questions 10000
	HYPOTHESIS_PROFILE=hunt $(BIN)/pytest tests/property tests/security/test_api_fuzz.py tests/security/test_fuzz.py \
		-m "not engine and not gpu" $(PYTEST_ARGS)

wrong-versions: $(STAMP) ## that tests refuse wrong versions of the product; RULES="words of a rule"
	@$(BIN)/python -m tests.wrong_versions $(RULES)

SECONDS ?= 600

soak: $(STAMP) native ## random harm under load for SECONDS, with real processes; SOAK_ARGS="--seed 7"
	@$(BIN)/python -m tests.soak --seconds $(SECONDS) $(SOAK_ARGS)

BENCHES := bench.planner bench.planner.cases bench.planner.replanning bench.planner.from_file \
	bench.simulator.replay bench.serving.mixed_plan bench.serving.admission bench.serving.plan \
	bench.proxy bench.search bench.profiler.intervals bench.profiler.capacity_power \
	bench.profiler.estimate bench.profiler.transfer bench.loadgen.compare \
	bench.control.cost bench.control.loop bench.control.store bench.control.hosts

bench: $(STAMP) engine ## benchmarks that print ratios against a baseline run beside them
	@for name in $(BENCHES); do echo "== python -m $$name"; $(BIN)/python -m $$name || exit 1; done

BUDGET ?= 540
OUT ?= gpu-check

gpu-check: $(STAMP) ## measure what fits into BUDGET seconds on this machine's GPU; results in OUT
	@$(BIN)/python -m bench.gpu_check --budget $(BUDGET) --out $(OUT) $(GPU_CHECK_ARGS)

# --- keeping it ------------------------------------------------------------------------------

docs: $(STAMP) ## generate the reference pages and pictures from the code
	$(BIN)/python docs/generate.py

# No index address may enter the lock file: whoever installs uses the index they are set up for.
lock: | $(STAMP) ## pin the versions anew
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --group dev \
		--no-emit-index-url --no-emit-find-links --no-header pyproject.toml -o requirements.lock

DIST := dist

dist: $(STAMP) ## build sdist and wheel, check them, and run the tour from each in an empty environment
	@rm -rf $(DIST)
	@$(UV) build --quiet --out-dir $(DIST) .
	@$(BIN)/python -m deploy.check.distributions $(DIST)

clean: ## remove the environment, caches and the demo's folder
	rm -rf $(VENV) .demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
