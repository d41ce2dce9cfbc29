# Front door. Needs Python >= 3.11, make and git; everything else lands in .tools, .venv and the
# cache ($KUBETUNE_CACHE). `make` alone lists the targets.
SHELL := /bin/bash -eu -o pipefail
.DEFAULT_GOAL := help
.PHONY: help env quickstart up down test test-fast test-all chaos bench generate lint format clean

# A uv on PATH is used when it runs (a version manager's shim may not), else one is installed here.
UV := $(shell uv --version >/dev/null 2>&1 && command -v uv || echo .tools/bin/uv)
export PATH := $(CURDIR)/.venv/bin:$(CURDIR)/.tools/bin:$(PATH)
export UV_PYTHON_DOWNLOADS := never
# Each process would compile all of torch and transformers anew.
unexport PYTHONDONTWRITEBYTECODE

ENVIRONMENT := .venv/.synced
PYTEST := .venv/bin/python -m pytest
CODE := operator runners devcluster tests tools

# Files of tests run side by side, each worker with a cluster of its own; 0 for a debugger. Tests wait
# for as long as they compute, so three workers keep two cores busy. Each takes up to 3 GB of memory.
TEST_WORKERS ?= 3
# In the order of their names: the short files of tests/unit come last, and no worker waits for another.
SPREAD := -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder
# A fifth of an API server's time is the collection of garbage; memory is what tests have.
test test-all chaos: export GOGC ?= 400

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

env: $(ENVIRONMENT) ## Make the Python environment in .venv

# An environment that exists keeps its interpreter.
$(ENVIRONMENT): pyproject.toml uv.lock $(filter .tools/%,$(UV))
	@if ! [ -x .venv/bin/python ]; then export UV_PYTHON="$$(tools/find-python)"; fi; \
	echo "Installing the locked packages into .venv (7 GB the first time)" >&2; \
	$(UV) sync --frozen --all-extras --quiet
	@touch $@

.tools/bin/uv:
	@python="$$(tools/find-python)"; echo "Installing uv into .tools" >&2; \
	"$$python" -m venv .tools && .tools/bin/python -m pip install --quiet 'uv>=0.9'

# Before the environment is made, which takes minutes.
ifneq ($(filter-out local cml,$(TARGET)),)
$(error TARGET=$(TARGET) is unknown: give TARGET=local, the default, or TARGET=cml)
endif

quickstart: $(ENVIRONMENT) ## Fine-tune a model on this machine, from nothing (TARGET=cml, MODEL=<hugging face repo>)
	@.venv/bin/kubetune quickstart $(if $(TARGET),--target '$(TARGET)') \
		$(if $(MODEL),--model '$(MODEL)')

up: $(ENVIRONMENT) ## Start the local cluster
	@.venv/bin/kubetune up

down: ## Stop the local cluster; its state stays for the next start
	@if [ -x .venv/bin/kubetune ]; then .venv/bin/kubetune down; fi

test: $(ENVIRONMENT) ## Run the tests, with a real control plane, MLflow and trainings
	@$(PYTEST) $(SPREAD) -m 'not exhaustive' $(ARGS)

test-fast: $(ENVIRONMENT) ## Run the tests that need no cluster (under a minute)
	@$(PYTEST) tests/unit -m 'not exhaustive' $(ARGS)

test-all: $(ENVIRONMENT) ## Run the tests and their long forms
	@$(PYTEST) $(SPREAD) $(ARGS)

# Schedules of the simulation: a million takes hours.
SCHEDULES ?= 1000000

# Jobs of the storm, and its minutes; with ARGS=--seed=<number> it is the same again.
JOBS ?= 200
MINUTES ?= 9

chaos: $(ENVIRONMENT) ## Let real servers and operators die under 200 jobs, and simulate schedules (JOBS, SCHEDULES)
	@.venv/bin/python -m tests.chaos.storm --jobs $(JOBS) --minutes $(MINUTES) $(ARGS)
	@$(PYTEST) $(SPREAD) tests/chaos
	@.venv/bin/python -m tests.simulation --schedules $(SCHEDULES)

bench: $(ENVIRONMENT) ## Measure the operator against the floor of a bare client
	@.venv/bin/python -m tests.bench $(ARGS)

generate: $(ENVIRONMENT) ## Render what is made from the models: CRDs, types, argument list, reference
	@.venv/bin/python tools/generate_trl_arguments.py
	@.venv/bin/python -m kubetune.api.crd
	@.venv/bin/python tools/generate_reference.py
	@.venv/bin/python tools/generate_status_types.py
	@.venv/bin/python tools/generate_cluster_role.py
	@.venv/bin/python tools/generate_people_roles.py
	@.venv/bin/python tools/generate_chart.py
	@.venv/bin/python tools/generate_architectures.py

lint: $(ENVIRONMENT) ## Check format, style, types, import contracts and rendered files
	@.venv/bin/ruff format --check $(CODE)
	@.venv/bin/ruff check $(CODE)
	@.venv/bin/pyright
	@.venv/bin/lint-imports
	@.venv/bin/python tools/generate_trl_arguments.py --check
	@.venv/bin/python -m kubetune.api.crd --check
	@.venv/bin/python tools/generate_reference.py --check
	@.venv/bin/python tools/generate_status_types.py --check
	@.venv/bin/python tools/generate_cluster_role.py --check
	@.venv/bin/python tools/generate_people_roles.py --check
	@.venv/bin/python tools/generate_chart.py --check
	@.venv/bin/python tools/generate_architectures.py --check

format: $(ENVIRONMENT) ## Format the code and repair what can be repaired
	@.venv/bin/ruff check --fix --quiet $(CODE) || true
	@.venv/bin/ruff format $(CODE)

clean: ## Remove the environment and caches of this checkout (not the local cluster's state)
	rm -rf .venv .tools .pytest_cache .ruff_cache .hypothesis .import_linter_cache dist build
