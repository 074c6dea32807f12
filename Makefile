# On a fresh machine with Python 3.11 or newer and make, `make plan` and `make test` do everything.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
USER_READY := $(VENV)/.ready
DEV_READY := $(VENV)/.ready-dev
UV := $(shell command -v uv 2>/dev/null)

.PHONY: plan test test-all lint types bench docs clean

plan: $(USER_READY) ## answer the packaged question: which hardware serves this chat traffic at least cost?
	$(BIN)/windtunnel plan --html report.html

test: $(DEV_READY) ## the default tests, a few minutes on two cores
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not slow"

test-all: $(DEV_READY) ## the slow ones too
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

lint: $(DEV_READY) ## style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(DEV_READY) ## speed of the hot loop and of a search; compare ratios, not seconds
	$(BIN)/python benchmarks/hot_loop.py
	$(BIN)/python benchmarks/training_search.py

docs: $(DEV_READY) ## regenerate the reference pages from the specs
	$(BIN)/python docs/generate.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Windtunnel needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
ifdef UV
	uv venv --quiet --python $(PYTHON) $(VENV)
else
	$(PYTHON) -m venv $(VENV)
endif

$(USER_READY): $(VENV)/pyvenv.cfg pyproject.toml
ifdef UV
	uv pip install --quiet --python $(BIN)/python -e .
else
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
endif
	@touch $@

$(DEV_READY): $(USER_READY)
ifdef UV
	uv pip install --quiet --python $(BIN)/python --group dev
else
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group dev
endif
	@touch $@
