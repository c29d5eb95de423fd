# Everything that a person types. Needs Python >= 3.11 and make; brings the rest.
SHELL := /bin/bash
PYTHON ?= python3
export UV := $(or $(shell command -v uv),$(CURDIR)/.uv/bin/uv)
BIN := $(CURDIR)/.venv/bin
MEMBERS := packages/contracts packages/features packages/bundle packages/chassis \
	services/ingestor services/trainer services/promoter services/inference services/ui infra/local
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test test-alone lint format requirements clean

help: ## what can be done here
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/.demo ## the whole loop on this machine; ARGS="--help" lists the options
	@PATH="$(BIN):$$PATH" $(BIN)/readmit up $(ARGS)

test: .venv/.development ## all three rings of tests, with real parts; ARGS="-k word" narrows them
	PATH="$(BIN):$$PATH" $(BIN)/pytest $(ARGS)

test-alone: $(UV) ## each service installed from its own lock, its own tests, nothing else
	@for service in ingestor trainer promoter inference ui; do infra/test-alone $$service || exit 1; done

lint: .venv/.development ## style, types, import law, dependencies, locks, generated files, manifests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@for member in $(MEMBERS); do (cd $$member && echo "deptry $$member" && $(BIN)/deptry src) || exit 1; done
	$(BIN)/python -m readmit_contracts check
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	requirements/compile --check

format: .venv/.development ## put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

requirements: $(UV) ## refresh the locks after a pyproject.toml changed
	requirements/compile

clean: ## forget the environments and the demo's state
	rm -rf .venv .uv .readmit

$(CURDIR)/.uv/bin/uv: requirements/uv.txt
	$(PYTHON) -m venv .uv
	.uv/bin/pip install --quiet --require-hashes -r requirements/uv.txt

.venv/bin/python: | $(UV)
	$(UV) venv --quiet --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" .venv

# What `make demo` needs is a part of what development needs, at the same versions.
.venv/.demo: requirements/local.txt $(MEMBERS:%=%/pyproject.toml) | .venv/bin/python
	$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements/local.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation $(MEMBERS:%=-e ./%)
	@touch $@

.venv/.development: requirements/development.txt $(MEMBERS:%=%/pyproject.toml) | .venv/bin/python
	$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements/development.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation $(MEMBERS:%=-e ./%)
	@touch $@ .venv/.demo
