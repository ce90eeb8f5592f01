# Targets do their own set-up: a virtual environment in .venv, with the versions of constraints.txt.
# Another Python: `make install PYTHON=python3.12`. Another place for the environment: `make test VENV=/path/to/venv`.
# Tests run in two processes; another number: `make test WORKERS=8`.

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
BIN = $(VENV)/bin
INSTALLED = $(VENV)/.installed
TYPED = build/typed
OLDEST = build/oldest
# Tests of a file stay together: they share what is slow to make.
IN_PARALLEL = --numprocesses $(WORKERS) --dist loadfile
PIP_INSTALL = $(BIN)/python -m pip install --disable-pip-version-check $(if $(CI),--quiet)

.DEFAULT_GOAL := help
.PHONY: help install style quality test test-fast test-exhaustive test-oldest test-all demo clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED)  ## virtual environment with the package (editable) and the tools of its developers

$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; choose one with PYTHON=..." if sys.version_info < (3, 11) else 0)'
	@echo "Installing PyTorch, transformers and the tools into $(VENV): a few minutes, once."
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --constraint constraints.txt --editable '.[dev]'
	@touch $@

style: $(INSTALLED)  ## format the code and repair what ruff can repair
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

quality: $(INSTALLED)  ## ruff without changes; mypy on a regular install of the package
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build
	$(PIP_INSTALL) --quiet --no-deps --no-build-isolation --target $(TYPED) .
	MYPYPATH=$(TYPED) $(BIN)/mypy --package albef_amc

test: $(INSTALLED)  ## the whole suite
	$(BIN)/pytest $(IN_PARALLEL)

test-fast: $(INSTALLED)  ## the suite without slow tests: under a minute
	$(BIN)/pytest $(IN_PARALLEL) -m "not slow and not exhaustive"

test-oldest: $(INSTALLED)  ## the whole suite with the oldest versions that setup.cfg allows, in build/oldest
	$(PYTHON) -m venv --clear $(OLDEST)
	$(PYTHON) .ci/oldest_versions.py setup.cfg constraints.txt > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pip install --disable-pip-version-check --quiet \
	    --constraint $(OLDEST)/constraints.txt --editable '.[dev]'
	$(OLDEST)/bin/pytest $(IN_PARALLEL) -p no:cacheprovider

test-exhaustive: $(INSTALLED)  ## all combinations and long benchmarks, which `make test` skips
	$(BIN)/pytest $(IN_PARALLEL) -m exhaustive

test-all: quality test test-exhaustive test-oldest  ## ruff and mypy, every test, and the suite with the oldest versions
	@echo "test-all ran: quality, test and test-exhaustive ($(VENV)), test-oldest ($(OLDEST))"

demo: $(INSTALLED)  ## AMC's experiment from the base model that ships, without a download; writes runs/demo
	$(BIN)/albef-amc demo

clean:  ## remove the environment, build products and caches (runs/ stays)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
