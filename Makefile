# Everything that a person types. Needs Python >= 3.11 and make; brings the rest.
SHELL := /bin/bash
PYTHON ?= python3
export UV := $(or $(shell command -v uv),$(CURDIR)/.uv/bin/uv)
BIN := $(CURDIR)/.venv/bin
MEMBERS := packages/contracts packages/features packages/bundle packages/chassis \
	services/ingestor services/trainer services/promoter services/inference services/monitor services/ui infra/local
NEW_VENV = $(UV) venv --quiet --clear --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test test-alone lint format requirements secrets images load notebook clean

help: ## what can be done here
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/.demo ## the whole loop on this machine; ARGS="--help" lists the options
	@PATH="$(BIN):$$PATH" $(BIN)/readmit up $(ARGS)

test: .venv/.development .venv-locust/.ready .venv-airflow/.ready ## all three rings of tests, with real parts; ARGS="-k word" narrows them
	PATH="$(BIN):$$PATH" $(BIN)/pytest $(ARGS)

test-alone: $(UV) ## each service installed from its own lock, its own tests, nothing else
	@for service in ingestor trainer promoter inference monitor ui; do infra/test-alone $$service || exit 1; done

lint: .venv/.development .venv-airflow/.ready ## style, types, import law, dependencies, locks, generated files, manifests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@for member in $(MEMBERS); do (cd $$member && echo "deptry $$member" && $(BIN)/deptry src) || exit 1; done
	MYPYPATH=infra/airflow/src $(BIN)/mypy --config-file= --strict --explicit-package-bases \
		--python-executable .venv-airflow/bin/python infra/airflow/src infra/airflow/dags infra/airflow/tests
	$(BIN)/python -m readmit_contracts check
	PYTHONPATH=infra/grafana $(BIN)/python -m readmit_dashboards check
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	requirements/compile --check

format: .venv/.development ## put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

requirements: $(UV) ## refresh the locks after a pyproject.toml changed
	requirements/compile

secrets: ## a file per secret in ./secrets, for Compose and Kubernetes; ARGS="--rotate NAME" replaces one
	@$(PYTHON) infra/secrets/generate.py $(ARGS)

images: ## the container images, with docker or podman; ARGS="ingestor ui" for some, --help for the rest
	@infra/images/build $(ARGS)

load: .venv-locust/.ready ## the load test against a running platform; READMIT_URL, LOCUST_SHAPE=original|steps|users
	infra/locust/run $(ARGS)

notebook: .venv-jupyter/.ready ## JupyterLab on the notebook, for a running `make demo`
	infra/jupyter/laptop $(ARGS)

clean: ## forget the environments and the demo's state
	rm -rf .venv .venv-airflow .venv-jupyter .venv-locust .uv .readmit load-report

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

# Environments of their own: what these programs bring would disturb the others.
.venv-locust/.ready .venv-jupyter/.ready: .venv-%/.ready: requirements/%.txt packages/contracts/pyproject.toml packages/features/pyproject.toml | $(UV)
	$(NEW_VENV) .venv-$*
	$(UV) pip install --quiet --python .venv-$*/bin/python --require-hashes -r requirements/$*.txt
	$(UV) pip install --quiet --python .venv-$*/bin/python --no-deps --no-build-isolation --no-sources \
		-e ./packages/contracts -e ./packages/features
	@touch $@

.venv-airflow/.ready: requirements/airflow.txt infra/airflow/pyproject.toml packages/contracts/pyproject.toml packages/chassis/pyproject.toml | $(UV)
	$(NEW_VENV) .venv-airflow
	$(UV) pip install --quiet --python .venv-airflow/bin/python --require-hashes -r requirements/airflow.txt
	$(UV) pip install --quiet --python .venv-airflow/bin/python --no-deps --no-build-isolation --no-sources \
		-e ./packages/contracts -e ./packages/chassis -e ./infra/airflow
	@touch $@
