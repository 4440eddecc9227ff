PYTHON ?= python3
PIP ?= .venv/bin/pip
# A worker for each of CI's two cores; the tests of a file stay together, for they share what takes long to make.
PYTEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder

BIN := .venv/bin
LIBTPU := 0.0.42.1
STAMP := .venv/.installed
TEST_STAMP := .venv/.installed-test

.PHONY: venv test-venv run test lint types clean

venv: $(STAMP)

$(STAMP): requirements.txt setup.py
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(PIP) install -r requirements.txt
	$(PIP) install -e .
	@touch $@

test-venv: $(TEST_STAMP)

# libtpu compiles for TPUs that are not there. It lies beside the packages, or jax would look for a TPU each time.
# open_clip's networks work without torchvision, whose builds on PyPI are for CUDA and break beside a CPU torch.
$(TEST_STAMP): $(STAMP) requirements-test.txt
	$(PIP) install -r requirements-test.txt
	$(PIP) install --no-deps open-clip-torch==3.3.0
	$(PIP) install -q --no-deps --upgrade --target .venv/libtpu libtpu==$(LIBTPU)
	@touch $@

run: venv
	$(BIN)/python -m rats_jax.main --config=configs/emoji_cpu.py --workdir=runs/emoji

test: lint types
	$(BIN)/python -m pytest -m "not network" $(PYTEST_ARGS)

lint: test-venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: test-venv
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
