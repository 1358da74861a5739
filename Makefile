# Every target prepares what it needs itself; the second time that takes no time.

CORES := $(shell nproc)
# The tests that run QEMU wait for it a part of their time.
JOBS ?= $(shell expr $(CORES) + $(CORES) / 2)
BIN := .venv/bin

# Where it is set, each worker and each process that a test starts compiles all its modules anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup setup-demo test lint unit functional torture bench demo lock clean

help:
	@echo 'make test        everything: lint, types, layers, all tests with real QEMU 7.2 and 10'
	@echo 'make unit        the tests that need no QEMU'
	@echo 'make functional  the tests that run QEMU; ARGS="-k name" runs some'
	@echo 'make torture     kills supervisor and QEMU 600 times at random points, prints what was lost: nothing'
	@echo 'make lint        ruff, mypy, import-linter'
	@echo 'make demo        shows a VM going back in time'
	@echo 'make bench       measures'
	@echo 'make setup       Debian packages, .venv, the test guest, QEMU 10; the others do it too'
	@echo 'make lock        writes requirements-dev.lock anew, with the newest versions'
	@echo 'make clean       removes what make made in this folder'

setup:
	@scripts/setup.sh test

setup-demo:
	@scripts/setup.sh demo

test: lint
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: setup
	$(BIN)/python -m pytest -n $(CORES) --dist worksteal tests/unit $(ARGS)

functional: setup
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal tests/functional $(ARGS)

torture: setup
	SNAPTREE_TORTURE=long $(BIN)/python -m pytest -n $(JOBS) tests/functional/torture
	$(BIN)/python -m tests.torture $(ARGS)

bench: setup-demo
	$(BIN)/python -m bench $(ARGS)

demo: setup-demo
	$(BIN)/python scripts/demo.py

lock:
	python3 scripts/lock.py

clean:
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
