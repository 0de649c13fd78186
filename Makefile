# The commands of the README. Each needs only `make install`, which it runs by itself when something changed.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help install demo test cluster-test lint ui clean

help:  ## Show these commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-12s %s\n", $$1, $$2}'

install: .venv/installed  ## Create .venv with everything pinned in constraints.txt

# pip compiles what it installs; uv does when told to. Else each new process compiles the libraries for itself where
# Python may not write (PYTHONDONTWRITEBYTECODE, a read-only image), and takes twice as long to start.
.venv/installed: pyproject.toml constraints.txt
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv --quiet --clear --python $(PYTHON) .venv && \
	  UV_BUILD_CONSTRAINT=constraints.txt uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt -e '.[dev]'; \
	else \
	  $(PYTHON) -m venv --clear .venv && \
	  PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'; \
	fi
	@touch $@

demo: install  ## Run the whole story on a simulated energy company (under 6 minutes)
	@$(BIN)/lakehouse quickstart

ui: install  ## Open Dagster and MLflow on 127.0.0.1
	@$(BIN)/lakehouse ui

test: install  ## Run the test suite
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist worksteal

cluster-test: .venv/clustered  ## Train on a Dask and on a Ray cluster, a machine of which is killed
	@$(BIN)/python -m pytest -m cluster lakehouse_assets_tests/cluster

.venv/clustered: .venv/installed
	@if command -v uv >/dev/null 2>&1; then \
	  UV_BUILD_CONSTRAINT=constraints.txt uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt -e '.[dev,dask,ray]'; \
	else \
	  PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,dask,ray]'; \
	fi
	@touch $@

lint: install  ## Check style, types and who imports whom
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

clean:  ## Remove the environment and all state
	rm -rf .venv .lakehouse
