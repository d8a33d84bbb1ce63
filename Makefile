# The verbs of the project. `make help` lists them.
PY ?= python3
BIN := .venv/bin
# Arguments of `make run`, `make test` and `make dvc`: make run ARGS="-S train.epochs=5"
ARGS ?=
JOBS ?= 2
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help install run test test-all test-team-stack lint ui deploy worker dvc docs docs-serve docs-tables lock clean

help:  ## list the verbs
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The lock is whole, so nothing is resolved (--no-deps): what [tool.uv] leaves out stays out.
# uv installs the same locked set in under a minute; where it cannot be had or does not get through, pip does it in a few.
# `.installing` stays behind when the install is killed: a package may then be half there, so the next one starts anew.
.venv/.installed: requirements.lock requirements-uv.lock pyproject.toml
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PY=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@if test -e .venv/.installing || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then rm -rf .venv && $(PY) -m venv .venv; fi
	@echo "Installing the locked packages into .venv ..."
	@touch .venv/.installing
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements-uv.lock 2>/dev/null || true
	@{ $(BIN)/uv pip install -q --python $(BIN)/python --compile-bytecode --no-deps --require-hashes -r requirements.lock 2>.venv/uv.log || \
	   $(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r requirements.lock; } && \
	 $(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e . || \
	 { rm -f .venv/.installing; echo "The install did not end well: see above. What uv said is in .venv/uv.log. Run it again."; exit 1; }
	@rm -f .venv/.installing
	@touch $@

install: .venv/.installed  ## create .venv with the locked set

run: install  ## the whole pipeline on the demo dataset: prepare, train, validate, export, register
	@$(BIN)/detectflow run $(ARGS)

# Two processes with one thread each: torch's threads beside another process make everything slower, not faster.
# Files stay whole, because some are a story told in order; the longest come first (tests/conftest.py), so that all processes
# end together. A process that dies over a test is not replaced: xdist would give the test to the next one.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder \
  --max-worker-restart 0 --durations 20 --durations-min 1

test: install  ## the tests of everything that one process can show: make test JOBS=4, make test ARGS=tests/core
	@$(PYTEST) -m "not system" $(ARGS)

test-all: install  ## the others: with real servers, workers, remotes, two drivers, full disks, killed processes
	@$(PYTEST) -m system $(ARGS)

test-team-stack: install  ## docs/deploy.md for real: PostgreSQL behind Prefect, MLflow and Optuna, logins, S3 (minutes)
	@$(BIN)/python tests/team/stack.py $(ARGS)

lint: install  ## ruff
	@$(BIN)/ruff check .

ui: install  ## open the MLflow and Prefect UIs on loopback
	@$(BIN)/detectflow ui

deploy: install  ## register the pipeline's deployments with the Prefect server that is up: make deploy ARGS="nightly"
	@$(BIN)/detectflow deploy $(ARGS)

worker: install  ## run on this machine what the Prefect server starts
	@$(BIN)/detectflow worker $(ARGS)

dvc: install  ## DVC with the project's environment: make dvc ARGS="repro", ARGS="metrics diff"
	@PATH="$(CURDIR)/$(BIN):$$PATH" dvc $(ARGS)

# Material tells at every start that MkDocs 1 will end one day; the variable silences that notice alone, no warning.
docs: install  ## the documentation, into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict $(ARGS)

docs-serve: install  ## show the documentation on 127.0.0.1:8000, anew after every change
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve --strict --dev-addr 127.0.0.1:8000 --watch engine $(ARGS)

docs-tables: install  ## renew the tables in docs/ that are made from the code: settings, findings, errors, commands
	@$(BIN)/python docs/hooks.py

lock:  ## resolve the dependencies anew (then run the tests)
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --extra dev --extra docs --extra cluster --extra team --extra track --extra hf pyproject.toml -o requirements.lock
	echo uv | $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --no-annotate --upgrade - -o requirements-uv.lock

clean:  ## remove caches and runs; keeps data, weights, the MLflow database and .venv
	rm -rf runs .cache .pytest_cache .ruff_cache site dvc_plots
