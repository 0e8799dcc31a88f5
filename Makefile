# make train   set up .venv and run the main job
# make test    set up .venv, with all extras, and run all tests
# make lint    ruff check, ruff format, mypy

PYTHON ?= python3
# Of pytest: a process per core; each must keep to one thread to gain from it.
PYTEST_FLAGS ?= -n auto
# Of experiments/quickstart.py: for how long, which seed, where to.
TRAIN_FLAGS ?=
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

.PHONY: train test lint setup clean

train: $(VENV)/installed
	$(BIN)/python experiments/quickstart.py $(TRAIN_FLAGS)

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_FLAGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: $(VENV)/installed-dev

# What a run needs; then the extras and the tools of the tests.
$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python 3.11 or newer is needed; name one with make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(INSTALL) '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
