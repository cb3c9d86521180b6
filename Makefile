# Two commands for a fresh machine with Python 3.10-3.13: make quickstart, make test. Both set up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: quickstart test test-slow lint clean

quickstart: $(STAMP)  ## draw a data set; train, test and predict with all four tasks (3 minutes on 2 cores)
	$(BIN)/lit-vision quickstart

test: $(STAMP)  ## the default suite
	$(BIN)/python -m pytest -n auto --maxprocesses 8

test-slow: $(STAMP)  ## the longer tests
	$(BIN)/python -m pytest -m slow -n auto --maxprocesses 8 --dist loadgroup

lint: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(STAMP): pyproject.toml requirements/pins.txt
	$(PYTHON) -c "import sys; sys.exit(0 if (3, 10) <= sys.version_info[:2] <= (3, 13) else 'lit_vision needs Python 3.10 to 3.13, this is ' + sys.version.split()[0] + ': make PYTHON=python3.11 ...')"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements/pins.txt -e ".[dev]"
	touch $(STAMP)

clean:  ## remove the environment (runs/ stays)
	rm -rf $(VENV)
