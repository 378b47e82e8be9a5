# Each target sets itself up in .venv, and uses it again when it is there.
#   make demo · make test · make lint · make test-slow · make notebooks · make bench [BENCH="training --nets resnet18"]

PYTHON ?= python3
VENV ?= .venv
READY := $(VENV)/.ready-$(shell cksum pyproject.toml | cut -d ' ' -f 1)

# Tests start many processes: without byte code on disk, each of them would compile the package again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-slow lint notebooks bench

demo: $(READY)
	$(VENV)/bin/resnetlab train quickstart

test: $(READY)
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile -m "not slow"

test-slow: $(READY)
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile -m slow

lint: $(READY)
	$(VENV)/bin/ruff check src tests benchmarks tools notebooks
	$(VENV)/bin/ruff format --check src tests benchmarks tools notebooks
	$(VENV)/bin/mypy

notebooks: $(READY)
	$(VENV)/bin/python tools/notebooks.py run --quick --into build/notebooks
	$(VENV)/bin/python tools/notebooks.py check
	$(VENV)/bin/python tools/prose.py --check

bench: $(READY)
	$(VENV)/bin/python -m benchmarks $(BENCH)

$(READY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "resnetlab needs Python 3.11 or later; say which: make PYTHON=python3.11")'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --editable '.[dev]'
	@touch $@
