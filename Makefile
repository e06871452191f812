# make demo   sets up an environment, trains on handwritten digits and draws a poster (about two minutes after the set-up)
# make test   sets up an environment and passes the tests

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TEST_READY := $(VENV)/.test-ready

.PHONY: demo test lint types tests bench reference clean

demo: $(READY)
	$(BIN)/undiffuse demo

test: lint types tests

lint: $(TEST_READY)
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/ruff format --check src tests benchmarks examples

types: $(TEST_READY)
	$(BIN)/mypy

tests: $(TEST_READY)
	$(BIN)/python -m pytest -n auto --dist worksteal

# settings.json and docs/reference/settings.md, from the fields of the settings
reference: $(READY)
	$(BIN)/python -m undiffuse.cli.reference docs/reference

bench: $(TEST_READY)
	$(BIN)/python -m benchmarks.overhead
	$(BIN)/python -m benchmarks.digits

# torch comes first and pinned: a range would admit a newer build that brings gigabytes of CUDA packages.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("undiffuse needs Python 3.11 or newer: make PYTHON=python3.11 demo") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(TEST_READY): $(READY)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

clean:
	rm -rf $(VENV) build src/*.egg-info .mypy_cache .ruff_cache .pytest_cache
