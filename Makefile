# make train   set up .venv and run the main job
# make test    set up .venv and run all tests
# make lint    ruff check, ruff format, mypy

PYTHON ?= python3
# Of experiments/quickstart.py: which dataset, how many updates.
TRAIN_FLAGS ?=
VENV := .venv
BIN := $(VENV)/bin

.PHONY: train test lint setup clean

train: setup
	$(BIN)/python experiments/quickstart.py $(TRAIN_FLAGS)

test: setup
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python 3.11 or newer is needed; name one with make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
