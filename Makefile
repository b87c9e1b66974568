# Everything a newcomer types: `make demo`, `make test`. Needs git, make, python3 >= 3.11 and PyPI.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
ARGS   ?=
WORKERS ?= 4
# Compiled once here: nine processes start together, also where PYTHONDONTWRITEBYTECODE is set (that halves their start).
SOURCES := groundwork metasrv datanode_agent metasrv_frontend metactl protos

.DEFAULT_GOAL := help
.PHONY: help setup demo test mutants soak check format protos lock clean

help: ## list the commands
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make the virtual environment from the hashed lock

$(VENV)/bin/uv: requirements/uv.lock
	$(PYTHON) -c 'import sys; sys.exit("metasrv needs python3 >= 3.11, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.lock
	@touch $@

$(STAMP): $(VENV)/bin/uv requirements/build.lock requirements/all.lock pyproject.toml
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/build.lock
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes --no-build-isolation -r requirements/all.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --no-index -e .
	$(BIN)/python -m compileall -q $(SOURCES)
	@touch $@

demo: $(STAMP) ## lose a site on this machine and watch nothing get lost (ARGS='--fault=site --json')
	@$(BIN)/metactl demo $(ARGS)

test: $(STAMP) ## run the tests
	@$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

soak: $(STAMP) ## run fresh simulated histories on every core (SECONDS=600)
	@$(BIN)/python -m tests.sim.run --soak $(or $(SECONDS),60)

mutants: $(STAMP) ## plant each listed defect and see that a test notices (ARGS='raft' for one area, ARGS='seal' by name)
	@$(BIN)/python -m tests.mutants.run $(ARGS)

check: $(STAMP) ## format, lint, types, import contracts, tidy
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pytest -q tests/house

format: $(STAMP) ## rewrite the sources in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

protos: $(STAMP) ## generate the protobuf modules beside their sources
	$(BIN)/python -m grpc_tools.protoc -I. --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
		--python_out=. --grpc_python_out=. --mypy_out=. --mypy_grpc_out=. $$(find protos -name '*.proto' | sort)

lock: $(VENV)/bin/uv ## pin every dependency with its hashes
	$(BIN)/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-header --universal --python-version 3.11 $(UPGRADE) -o requirements/all.lock --extra dev pyproject.toml
	printf 'setuptools\nwheel\n' | $(BIN)/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-header --universal --python-version 3.11 -c requirements/all.lock -o requirements/build.lock -
	printf 'uv\n' | $(BIN)/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-header --universal --python-version 3.11 $(UPGRADE) -o requirements/uv.lock -

clean: ## remove the virtual environment and the caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
