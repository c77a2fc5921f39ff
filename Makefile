# partitiond: everything a clone needs, with Python 3.11 to 3.13 and make only.
#
#   make tour       plan twelve small models on GPUs: no engine, no GPU, half a minute
#   make tour-gpus  eight simulated A100s: MPS, MIG and memory shares, with things breaking, 2 minutes
#   make tour-hosts three hosts on this machine, on Ray: one is lost, the plan is repaired, it comes back
#   make demo       the whole loop on this machine with a real engine
#   make test       lint, types, import contracts, decisions, and one real engine
#   make test-full  processes killed, Ray, a browser, each fault once (`make check`: both in one run)
#   make soak       many seeds, long chaos, mutations: hours, before a release
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

.PHONY: browser help tour tour-gpus tour-hosts setup demo engine native test test-full check prepared soak \
	hot-path lint lint-style lint-types lint-imports kernels format bench gpu-check docs lock dist clean \
	browser-or-none $(addprefix soak-,tests oracle properties mutations harm harm-hosts harm-hosts-ray)

help: ## show this
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | awk -F '\t' '{printf "  make %-10s %s\n", $$1, $$2}'

# --- environments ----------------------------------------------------------------------------

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 to 3.13 found: install one, or make PYTHON=/path/to/python3.12"; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip' 2>/dev/null || { echo "$(PYTHON) cannot make environments: install its venv package (Debian: python3-venv)"; exit 1; }
	@echo "Making $(VENV) with $(PYTHON)"
	@"$(PYTHON)" -m venv $(VENV)

# The lock file holds development tools, too: one set of versions for everyone. pip fetches uv alone,
# and uv the rest. uv reads none of pip's configuration: where pip alone has an index, or wheels, uv is told.
PIP_SAYS = $(BIN)/python -m pip config list 2>/dev/null | sed -n "s/.*[.]$(1)='\(.*\)'/\1/p" | tail -1
UV_AS_PIP = : "$${UV_DEFAULT_INDEX=$$($(call PIP_SAYS,index-url))}" "$${UV_FIND_LINKS=$$($(call PIP_SAYS,find-links))}"; \
	export UV_DEFAULT_INDEX UV_FIND_LINKS UV_SYSTEM_CERTS=1;
UV := $(BIN)/uv

# What a daemon and its planner import as they start is compiled to bytecode here, readable for
# everybody: the user of a service cannot write it, and would compile for seconds at each start.
IMPORTED := partitiond.daemon, partitiond.planner.api, partitiond.proxy.__main__, partitiond.cli.tree

$(STAMP): requirements.lock pyproject.toml | $(BIN)/python
	@echo "Installing what partitiond needs, as pinned in requirements.lock"
	@sed -n '/^uv==/,/^    #/p' requirements.lock >$(VENV)/uv.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $(VENV)/uv.lock
	@$(UV_AS_PIP) $(UV) pip install --python $(BIN)/python --quiet --require-hashes -r requirements.lock && \
		$(UV) pip install --python $(BIN)/python --quiet --no-deps --editable .
	@$(BIN)/python -c "import $(IMPORTED)"
	@touch $@

setup: $(STAMP) ## make the daemon's environment in .venv (quick the second time)
	@$(BIN)/partitiond --version

engine: $(STAMP) ## install the vLLM that fits this machine, in an environment of its own
	@$(UV_AS_PIP) $(BIN)/partitiond setup engine install

# --- seeing it -------------------------------------------------------------------------------

tour: $(STAMP) ## plan twelve small models on A100s: no engine, no GPU
	@$(BIN)/partitiond plan --from examples/twelve-models.toml
	@echo "Next: \`make demo\` serves models on this machine; \`$(BIN)/partitiond plan --from FILE\` plans a fleet of yours (docs/how-to/plan.md)."

tour-gpus: $(STAMP) ## eight simulated A100s: MPS, MIG, memory shares, and what happens when they break
	@PARTITIOND=$(BIN)/partitiond PYTHON=$(BIN)/python examples/simulated-gpus/tour.sh

tour-hosts: $(STAMP) ## three hosts on this machine, on Ray: one plan, one host lost, repaired, and back (PICTURE=FILE draws it)
	@PARTITIOND=$(BIN)/partitiond PYTHON=$(BIN)/python PICTURE="$(PICTURE)" examples/several-hosts/tour.sh

demo: $(STAMP) ## the whole loop on this machine with a real engine
	@$(BIN)/python -m examples.demo $(DEMO_ARGS)

# --- checking it -----------------------------------------------------------------------------

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

kernels: $(STAMP) ## compile the planner's loops, once for these sources on this machine
	@$(BIN)/python -m partitiond.native planner

hot-path: $(STAMP)
	@$(BIN)/python -m partitiond.native proxy

native: $(STAMP) ## compile the proxy's hot path and the planner's loops, where there is a C compiler
	@$(BIN)/python -m partitiond.native

prepared: $(STAMP)
	@$(MAKE) --no-print-directory -j2 native browser

# Tests wait for processes more than they compute, so there are more workers than cores. 0 for one
# test after the other in one process, which a debugger wants.
WORKERS ?= 4
# The hot path is compiled for tests without optimization, which takes a third of the time less.
TESTS = MYPYC_OPT_LEVEL=0 WORKERS=$(WORKERS) IMPORTED=kernels BEFORE="$(BEFORE)" BESIDE=lint \
	$(BIN)/python -m tests.run
BEFORE = engine hot-path browser

# The proxies of `make test` run from their sources: compiling them is a matter of `make test-full`.
test: BEFORE = engine
test: $(STAMP) ## decisions, contracts of the fakes, one real engine; lint and types
	@PARTITIOND_NATIVE=0 $(TESTS) test $(PYTEST_ARGS)

test-full: $(STAMP) ## what needs more: processes killed, Ray, browser, GPU
	@$(TESTS) full $(PYTEST_ARGS)

check: $(STAMP) ## both in one run: what must pass before a change lands
	@$(TESTS) all $(PYTEST_ARGS)

# Debian and Ubuntu; elsewhere install Chromium yourself, or name one in PARTITIOND_CHROMIUM.
# Without it the tests of the dashboard are skipped, and the summary of the run counts them.
browser: ## get Chromium, which the tests of the dashboard need
	@$(MAKE) --no-print-directory browser-or-none || echo "skip: no Chromium can be had here, tests of the dashboard do not run"

browser-or-none:
	@for name in "$$PARTITIOND_CHROMIUM" chromium chromium-browser google-chrome google-chrome-stable; do \
		test -n "$$name" && command -v "$$name" && exit 0; done; \
	test "$$(id -u)" = 0 || sudo="sudo -n"; \
	command -v apt-get >/dev/null && $$sudo apt-get update -qq && \
	$$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium

SECONDS ?= 600
QUESTIONS ?= 20000
FIRST ?= 0
SOAK := tests oracle properties mutations harm harm-hosts harm-hosts-ray
PARTS ?= $(SOAK)

soak: $(STAMP) engine prepared ## for hours, before a release (docs/soak.md); PARTS="oracle harm"
	@status=0; for part in $(PARTS); do \
		echo "== $$part"; $(MAKE) --no-print-directory soak-$$part || status=1; done; exit $$status

soak-tests:
	@$(BIN)/python -m tests.run soak $(PYTEST_ARGS)
soak-oracle:
	@$(BIN)/python -m tests.oracle --first $(FIRST) --questions $(QUESTIONS)
soak-properties:
	@HYPOTHESIS_PROFILE=hunt $(BIN)/pytest tests/property tests/security/test_api_fuzz.py \
		tests/security/test_fuzz.py -m "not engine and not gpu" $(PYTEST_ARGS)
soak-mutations:
	@$(BIN)/python -m tests.mutations --rules --seconds $(SECONDS)
	@$(BIN)/python -m tests.mutations --rooms --sample 40 --seconds $(SECONDS)
soak-harm:
	@$(BIN)/python -m tests.soak --seconds $(SECONDS) $(SOAK_ARGS)
soak-harm-hosts:
	@$(BIN)/python -m tests.soak --hosts --seconds $(SECONDS) $(SOAK_ARGS)
soak-harm-hosts-ray:
	@$(BIN)/python -m tests.soak --ray --seconds $(SECONDS) $(SOAK_ARGS)

BENCHES := bench.planner bench.planner.cases bench.planner.replanning bench.planner.from_file \
	bench.serving.mixed_plan bench.serving.admission bench.serving.plan \
	bench.proxy bench.search bench.profiler.capacity_power \
	bench.profiler.transfer bench.loadgen.compare \
	bench.control.cost bench.control.loop bench.control.store bench.control.hosts

bench: $(STAMP) engine ## benchmarks that print ratios against a baseline run beside them
	@for name in $(BENCHES); do echo "== python -m $$name"; $(BIN)/python -m $$name || exit 1; done

BUDGET ?=
OUT ?= gpu-check
SCALE ?= full

gpu-check: $(STAMP) ## measure what fits into BUDGET seconds on this machine's GPU (SCALE=quick|full|paper); results in OUT
	@$(BIN)/python -m bench.gpu_check --scale $(SCALE) $(if $(BUDGET),--budget $(BUDGET)) --out $(OUT) $(GPU_CHECK_ARGS)

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
	@$(UV_AS_PIP) $(UV) build --quiet --out-dir $(DIST) .
	@$(BIN)/python -m deploy.check.distributions $(DIST)

clean: ## remove the environment, caches and the demo's folder
	rm -rf $(VENV) .demo build dist *.egg-info .test-logs .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
