# Every target installs what it needs and may be repeated at any time. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CODE := operator trainer charts manifests images docs tests benchmarks
MONITORING := PYTHONPATH=manifests $(BIN)/python -m monitoring

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | column -t -s $$'\t'

# TORCH=cpu installs torch without CUDA, on platforms where PyTorch has such wheels. It counts when .venv is created.
TORCH ?=
torch-index.cpu := --extra-index-url https://download.pytorch.org/whl/cpu
torch-index = $(if $(TORCH),$(or $(torch-index.$(TORCH)),$(error TORCH: got '$(TORCH)', must be cpu or empty)))
PIP_INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt $(torch-index)

# A stamp is older than its sources after a change of a dependency, which installs again.
$(VENV)/run.stamp: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) -e '.[trainer]'
	touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt $(VENV)/run.stamp
	$(PIP_INSTALL) -e '.[dev]'
	touch $@

.PHONY: install
install: $(VENV)/dev.stamp ## Create the virtual environment for development

.PHONY: audit
audit: ## Look every pinned package up in PyPI's database of known vulnerabilities
	test -x build/audit/bin/pip-audit || { $(PYTHON) -m venv build/audit && build/audit/bin/pip install --quiet 'pip-audit>=2.10,<3'; }
	build/audit/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

JOB := manifests/samples/smallest.yaml
.PHONY: demo
demo: $(VENV)/run.stamp ## Train a detector on generated shapes and print its row; JOB=... runs another job
	$(BIN)/kubedet run $(JOB) --output build/demo

.PHONY: fmt
fmt: $(VENV)/dev.stamp ## Format the code
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

.PHONY: lint
lint: type verify ## Check format, lint, types, import contracts and generated files
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/lint-imports
	$(BIN)/hadolint images/*/Dockerfile

.PHONY: type
type: $(VENV)/dev.stamp ## Check the types
	$(BIN)/mypy

.PHONY: generate
generate: $(VENV)/dev.stamp ## Write the generated files
	$(MONITORING) write
	$(BIN)/python charts/generate.py
	$(BIN)/python docs/generate.py

.PHONY: costs
costs: $(VENV)/dev.stamp ## Count the cost of every recipe, after a change of a detector; takes some minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m kubedet_trainer.training.counting
	$(BIN)/python docs/generate.py

.PHONY: verify
verify: $(VENV)/dev.stamp ## Fail if a generated file is out of date
	$(MONITORING) verify
	$(BIN)/python charts/generate.py --check
	$(BIN)/python docs/generate.py --check

TESTS :=
PROCESSES := 2
.PHONY: test
test: $(VENV)/dev.stamp ## Run every test that needs no real node; TESTS=tests/unit runs a part, PROCESSES=1 one after another
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(PROCESSES) --dist loadfile -m 'not e2e' $(TESTS)

.PHONY: e2e
e2e: $(VENV)/dev.stamp ## Build the images and train on a real cluster with a real object store
	$(BIN)/pytest -m e2e tests/e2e

include images/images.mk

.PHONY: bench
bench: $(VENV)/dev.stamp ## Print the figures of benchmarks/ as JSON
	for name in commands data evaluation job_events loader_workers metrics models operator_idle step_cost; do $(BIN)/python benchmarks/$$name.py; done

.PHONY: bench-operator
bench-operator: $(VENV)/dev.stamp ## Measure the operator with 100, 1000 and 3000 jobs, and the API server's limit
	$(BIN)/python benchmarks/operator_load.py

.PHONY: bench-gpu
bench-gpu: $(VENV)/dev.stamp ## Measure training steps of the zoo on this machine's GPU, and check them against its CPU
	$(BIN)/python benchmarks/gpu.py --output build/gpu.json

.PHONY: clean
clean: ## Remove build results, but not the virtual environment
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
