PYTHON ?= python3
PIP ?= .venv/bin/pip
PYTEST_ARGS ?=

BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: venv run test lint types clean

venv: $(STAMP)

$(STAMP): requirements.txt setup.py
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(PIP) install -r requirements.txt
	$(PIP) install -e .
	@touch $@

run: venv
	$(BIN)/python -m rats_jax.main --config=configs/emoji_cpu.py --workdir=runs/emoji

test: lint types
	$(BIN)/python -m pytest -m "not network" $(PYTEST_ARGS)

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: venv
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
