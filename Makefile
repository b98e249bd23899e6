# Each target installs what it needs by itself: a bare machine has Python 3.11 alone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What a user installs, and what the tests and the documentation need besides.
BASE := $(VENV)/.base
INSTALLED := $(VENV)/.installed
PIP_INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt
RECIPE ?= recipes/compact.toml
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo picture test slow check docs train clean

help:
	@echo "make demo      segment a real scan and a generated one into demo/"
	@echo "make picture   draw the README's picture with the weights as they are"
	@echo "make test      check, then run the tests"
	@echo "make slow      run the slow tests: browsers, servers, long runs"
	@echo "make check     format, lint and types"
	@echo "make docs      build the site into site/"
	@echo "make train     train the network of RECIPE=$(RECIPE)"
	@echo "make clean     remove .venv, caches and demo/"

# The build backend comes first and from the constraints, so that the package itself is built without an
# isolated environment: nothing is resolved that is not pinned, and torch least of all.
$(BASE): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "medsam2 needs Python 3.11 or later: make PYTHON=python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) hatchling editables
	$(PIP_INSTALL) --no-build-isolation --editable .
	touch $@

$(INSTALLED): $(BASE)
	$(PIP_INSTALL) --no-build-isolation --editable '.[dev]'
	touch $@

demo: $(BASE)
	$(BIN)/medsam2 demo -o demo

# Greys lose their two lowest bits, which are noise: the file is half as large.
picture: $(INSTALLED)
	$(BIN)/medsam2 demo --scan real -o demo
	$(BIN)/python -c 'from PIL import Image; \
		Image.open("demo/heart.png").point(lambda grey: grey & 0xFC).save("docs/demo.png", optimize=True)'

check: $(INSTALLED)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

# One thread for each worker: two that take all cores each are slower than one after the other.
test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

slow: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n $(WORKERS) --dist loadfile

# What would be a dead link, or a name that the reference no longer finds, ends the build.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

train: $(INSTALLED)
	$(BIN)/medsam2 train $(RECIPE)

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist demo site
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
