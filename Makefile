# On a fresh machine `make demo` runs the main job, `make test` the tests, `make docs` builds the documentation. Each makes
# .venv if it is missing.
PYTHON ?= python3
BIN := .venv/bin
CONTRIB := $(wildcard plugins/contrib/*)

.PHONY: demo test check docs clean

demo: .venv/ready
	$(BIN)/forge run recipes/quickstart.toml

# One thread for each of two processes: the tests' networks are too small to share out. Long files come early.
test: .venv/contrib
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 15

check: .venv/contrib
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The documentation as a site, in site/index.html; its reference is of what is installed.
docs: .venv/contrib
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,docs]'
	touch $@

# Packages of their own, installed beside the core as their users would install them.
.venv/contrib: .venv/ready $(CONTRIB:%=%/pyproject.toml)
	$(BIN)/pip install --quiet --constraint constraints.txt --no-build-isolation $(CONTRIB:%=--editable %)
	touch $@

clean:
	rm -rf .venv runs dist site
