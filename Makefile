# The verbs of the project. `make help` lists them.
PY ?= python3
BIN := .venv/bin
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help install run test lint ui lock clean

help:  ## list the verbs
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# uv installs the same locked set in under a minute; where it cannot run, pip does it in a few.
.venv/.installed: requirements.lock pyproject.toml
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PY=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PY) -m venv .venv
	@echo "Installing the locked packages into .venv ..."
	@$(BIN)/pip install -q --disable-pip-version-check uv 2>/dev/null || true
	@if test -x $(BIN)/uv; then \
	  $(BIN)/uv pip install -q --compile-bytecode --require-hashes -r requirements.lock && \
	  $(BIN)/uv pip install -q --no-deps --no-build-isolation -e . ; \
	else \
	  $(BIN)/pip install -q --require-hashes -r requirements.lock && \
	  $(BIN)/pip install -q --no-deps --no-build-isolation -e . ; \
	fi
	@touch $@

install: .venv/.installed  ## create .venv with the locked set

run: install  ## the whole pipeline on the demo dataset: prepare, train, validate, export, register
	@$(BIN)/detectflow run

test: install  ## the tests
	@$(BIN)/python -m pytest -q

lint: install  ## ruff
	@$(BIN)/ruff check .

ui: install  ## open the MLflow and Prefect UIs on loopback
	@$(BIN)/detectflow ui

lock:  ## resolve the dependencies anew (then run the tests)
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --extra dev --extra docs --extra cluster pyproject.toml -o requirements.lock

clean:  ## remove caches and runs; keeps data, weights, the MLflow database and .venv
	rm -rf runs .cache .pytest_cache .ruff_cache site
