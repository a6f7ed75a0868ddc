# The one door to the project. `make` alone lists what it does.

PYTHON ?= python3
VENV ?= .venv
# Which PyTorch to install, as pip spells it: TORCH_SPEC='torch==2.13.0'.
TORCH_SPEC ?= torch
# More arguments for pytest: make test ARGS='-k ring'.
ARGS ?=

BIN := $(VENV)/bin
DEMO := $(BIN)/python -m docs.examples.demo
# Each stamp stands for one finished installation; a change of pyproject.toml renews it.
DEMO_READY := $(VENV)/.demo-ready
DEV_READY := $(VENV)/.dev-ready
BENCH_READY := $(VENV)/.bench-ready
FUZZ_READY := $(VENV)/.fuzz-ready
# Of each fuzzer; CI takes 60.
export FUZZ_SECONDS ?= 3600
# A module each, or a package with a module `run`.
BENCHMARKS := $(subst /,.,$(basename $(sort $(wildcard tests/benchmarks/*.py tests/benchmarks/*/run.py))))
IMAGE ?= feedwater:dev

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-slow check bench bench-quick soak fuzz e2e frameworks frameworks-oldest nightly image chart monitoring proto docs pictures page format clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(DEMO_READY) ## Train with and without Feedwater on real files, and compare. ARGS=--json for machines.
	@$(DEMO) $(ARGS)

test: $(DEV_READY) ## Run the unit and integration tests, with a real PyTorch: some five minutes.
	$(BIN)/pytest tests/unit tests/integration -m 'not real and not soak and not slow' $(ARGS)

test-slow: $(DEV_READY) ## Run those that wait for real epochs or repeat what `make test` shows: as long again.
	$(BIN)/pytest tests/unit tests/integration -m 'slow and not real and not soak' $(ARGS)

check: $(DEV_READY) ## Check style, types, layering, protos and the tables in the docs.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	./protos/lint.sh
	./protos/check.sh
	./service/web/check.sh
	$(BIN)/pytest -q tests/unit/test_project.py tests/unit/docs

bench: $(BENCH_READY) ## Run every benchmark in full; each prints its table and the command that made it.
	@for module in $(BENCHMARKS); do echo "== $$module"; $(BIN)/python -m $$module $(ARGS) || exit 1; done

bench-quick: $(BENCH_READY) ## Run every benchmark shortly, to see that it still runs.
	@$(MAKE) --no-print-directory bench ARGS=--quick

soak: $(DEV_READY) ## Train for dozens of epochs with every start method; nothing may hang, crash or leak.
	$(BIN)/pytest tests/soak $(ARGS)

fuzz: $(FUZZ_READY) ## Fuzz what others may send or leave behind: an hour for each of five targets, or FUZZ_SECONDS=60.
	$(BIN)/pytest tests/fuzz -s $(ARGS)

e2e: $(DEV_READY) ## Run against the real parts: Prometheus, Kubernetes, podman, the wheel, the demo.
	$(BIN)/pytest tests -m 'real and not nightly' $(ARGS)

# Environments of their own: what a framework asks for must not decide what Feedwater is tested with.
frameworks: .venv-frameworks-newest/.ready ## Train by the frameworks that people use, on the newest PyTorch, as CI does.
	.venv-frameworks-newest/bin/pytest tests/frameworks -m 'frameworks and not nightly' $(ARGS)

frameworks-oldest: .venv-frameworks-oldest/.ready ## The same on the oldest PyTorch that is promised; fewer of them.
	.venv-frameworks-oldest/bin/pytest tests/frameworks -m 'frameworks and not nightly' $(ARGS)

nightly: $(DEV_READY) .venv-frameworks-newest/.ready .venv-frameworks-oldest/.ready ## Run what takes long: operators of Kubernetes, every framework.
	$(BIN)/pytest tests -m 'nightly and not frameworks' $(ARGS)
	.venv-frameworks-newest/bin/pytest tests/frameworks -m frameworks $(ARGS)
	.venv-frameworks-oldest/bin/pytest tests/frameworks -m frameworks $(ARGS)

image: ## Build the sidecar's image with docker, podman or buildah. IMAGE=registry/feedwater:0.1.0
	./deploy/build-image.sh $(IMAGE)

chart: $(DEV_READY) ## Generate what is generated of the Helm chart, and the manifest to copy.
	$(BIN)/python deploy/helm/generate.py

proto: ## Generate the wire code from protos/.
	./protos/generate.sh

monitoring: $(DEV_READY) ## Generate the chart's rules and dashboards from deploy/monitoring; needs Python 3.11.
	$(BIN)/python -m deploy.monitoring

docs: $(DEV_READY) ## Write the tables in docs/ from the settings and metrics in the code.
	$(BIN)/python -m docs.generate

pictures: $(DEV_READY) ## Take the pictures of the live page for docs/; needs Chromium, three minutes, a quiet machine.
	$(BIN)/python -m docs.images.page

page: ## Build the sidecar's live page from service/web/.
	./service/web/install.sh
	cd service/web && npm run --silent build

format: $(DEV_READY) ## Format the code and sort its imports.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove what was made here: environments, caches, builds.
	rm -rf $(VENV) .venv-frameworks-* .cache build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Feedwater needs Python 3.10 or newer; say which: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(DEMO_READY): pyproject.toml | $(VENV)/bin/python
	@echo "Setting up $(VENV): PyTorch is large, this takes some minutes, once."
	$(BIN)/pip install --quiet --disable-pip-version-check '$(TORCH_SPEC)' -e '.[demo]'
	@touch $@

$(DEV_READY): pyproject.toml | $(VENV)/bin/python
	@echo "Setting up $(VENV): PyTorch is large, this takes some minutes, once."
	$(BIN)/pip install --quiet --disable-pip-version-check '$(TORCH_SPEC)' -e '.[dev]'
	@touch $@ $(DEMO_READY)

.venv-frameworks-%/.ready: tests/frameworks/%.txt pyproject.toml
	@echo "Setting up .venv-frameworks-$*: PyTorch and the frameworks, five minutes, once."
	$(PYTHON) -m venv .venv-frameworks-$*
	.venv-frameworks-$*/bin/pip install --quiet --disable-pip-version-check -r $< -e '.[demo]' pytest pytest-timeout
	@touch $@

$(BENCH_READY): $(DEV_READY)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[bench]'
	@touch $@

# Apart: it has wheels for Python 3.11 to 3.13 on x86-64 alone.
$(FUZZ_READY): $(DEV_READY)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[fuzz]'
	@touch $@
