# Everything a checkout needs: `make demo`, `make test`, `make check`. Only Python 3.11+ and make are expected.
PYTHON ?= python3
BIN = .venv/bin
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test check install clean

demo: install
	$(BIN)/attriscope demo --out demo

# One process for each core (at most four), each with one thread: tiny networks gain nothing from more.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 attriscope tests

check: install
	$(BIN)/ruff check .
	$(BIN)/mypy

# The strict editable install links single files, so a new file needs it again: it takes two seconds.
install: .venv/installed
	$(INSTALL) --no-deps --no-build-isolation --editable . --config-settings editable_mode=strict

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "attriscope needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(INSTALL) --upgrade pip setuptools wheel
	$(INSTALL) --no-build-isolation --editable '.[demo,dev]' --config-settings editable_mode=strict
	touch $@

clean:
	rm -rf .venv build dist *.egg-info demo runs
