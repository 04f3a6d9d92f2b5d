# Every verb implies `setup`, which does nothing when nothing changed: the second run needs no network.
PYTHON = $(shell for python in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done)
BIN = .venv/bin
CODE = clickledger enricher ingest_api reporting shared sink bench tools
unexport PYTHONDONTWRITEBYTECODE # else each process of a stack compiles all of its modules again
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input

.PHONY: setup demo up test check audit-deps bench torture

setup: .venv/.jars

demo: setup
	@$(BIN)/clickledger up --demo $(ARGS)

up: setup
	@$(BIN)/clickledger up $(ARGS)

# Three processes keep two cores busy: each waits a quarter of its time, for sessions, time-outs and pauses.
test: setup tests/clients/node_modules/.installed
	@$(BIN)/python -m pytest -n 3 --no-loadscope-reorder $(ARGS)

check: setup
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/mypy && $(BIN)/lint-imports
	@$(BIN)/bandit -q -c pyproject.toml -r $(CODE) && $(BIN)/python -m tools.audit_dependencies

# Unlike in `check`, a database of known vulnerabilities that cannot be reached is a failure.
audit-deps: setup
	@$(BIN)/python -m tools.audit_dependencies --strict

bench: setup
	@$(BIN)/python -m bench $(ARGS)

torture: setup # FAULT=kill-sink,kill-all ROUNDS=5 SEED=1; without: all that docs/torture.json lacks
	@FAULT='$(FAULT)' ROUNDS='$(ROUNDS)' SEED='$(SEED)' $(BIN)/python -m tests.torture

# Tools of the clients' tests, where npm is; without it these tests say so and are skipped.
tests/clients/node_modules/.installed: tests/clients/package-lock.json
	@{ command -v npm >/dev/null && npm ci --prefix tests/clients --ignore-scripts --no-audit --no-fund --silent && touch $@; } || \
		echo "npm is absent or failed: the tests of the Postman collection and of the TypeScript client are skipped"

# One stamp for each step of the set-up.
$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: install it, or run: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "this Python has no venv module; on Debian: apt-get install python3-venv"; exit 1; }

.venv/.requirements: requirements.lock | $(BIN)/python
	@echo "installing the locked requirements into .venv: at the first start some 900 MB and some minutes" && $(PIP) --require-hashes -r requirements.lock
	@touch $@

.venv/.project: pyproject.toml .venv/.requirements
	@$(PIP) --no-deps --no-build-isolation --no-index --editable .
	@touch $@

.venv/.jars: clickledger/stack/kafka.lock clickledger/stack/java_archive.py .venv/.project
	@$(BIN)/python -m clickledger.stack.jars
	@touch $@
