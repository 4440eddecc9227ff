PYTHON ?= python3
PIP ?= .venv/bin/pip
# Python compiles what it imports, which is a small part of what is installed.
export PIP_COMPILE ?= 0
# A worker for each of CI's two cores; the tests of a file stay together, for they share what takes long to make.
PYTEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder

BIN := .venv/bin
NEWEST ?= .venv-newest
LIBTPU := 0.0.42.1
LIBCUDA := jax-cuda12-plugin==0.10.2 jax-cuda12-pjrt==0.10.2 nvidia-cuda-nvcc-cu12==12.9.86
STAMP := .venv/.installed
TEST_STAMP := .venv/.installed-test

# What depends on the versions of other packages: their networks, schedules, tokenizers and files, one run, the
# page, and the command that runs PyTorch beside ours. `make test` runs these with the newest packages alone.
NEWEST_TESTS := tests/test_newest.py tests/pipelines/test_pytorch.py tests/diffusion/test_diffusers_parity.py \
	tests/networks/test_unet_2d.py tests/networks/test_autoencoder_kl.py tests/networks/test_flux.py \
	tests/networks/test_sd3.py tests/networks/test_t5.py tests/networks/test_clip.py \
	tests/networks/test_clip_text.py tests/weights/test_hub.py tests/weights/test_tokenizers.py \
	tests/pipelines/test_flows.py::test_pictures_are_those_of_pytorch tests/demonstration tests/test_demo.py \
	tests/verification tests/test_verify.py

.PHONY: venv test-venv newest-venv run test test-newest stress lint types docs clean

venv: $(STAMP)

$(STAMP): requirements.txt setup.py
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(PIP) install -r requirements.txt
	$(PIP) install -e .
	@touch $@

test-venv: $(TEST_STAMP)

# libtpu compiles for TPUs that are not there, and jax's plugin for GPUs. They lie beside the packages, or jax would
# look for such chips each time.
# open_clip's networks work without torchvision, whose builds on PyPI are for CUDA and break beside a CPU torch.
$(TEST_STAMP): $(STAMP) requirements-test.txt Makefile
	$(PIP) install -r requirements-test.txt
	$(PIP) install --no-deps open-clip-torch==3.3.0
	$(PIP) install -q --no-deps --upgrade --target .venv/libtpu libtpu==$(LIBTPU)
	$(PIP) install -q --no-deps --upgrade --target .venv/libcuda $(LIBCUDA)
	@touch $@

newest-venv: $(NEWEST)/.installed

# The newest of all that pip finds for $(PYTHON), but for torch, which is only what is compared with. Gradio is here,
# and not in requirements-test.txt, because it asks for an older pillow and a newer hub than are pinned there.
$(NEWEST)/.installed: setup.py Makefile
	$(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/pip install --upgrade --upgrade-strategy eager \
		-e ".[demo]" diffusers hypothesis peft pytest pytest-xdist torch==2.13.0
	$(NEWEST)/bin/pip install --no-deps open-clip-torch
	@touch $@

run: venv
	$(BIN)/python -m rats_jax.main --config=configs/emoji_cpu.py --workdir=runs/emoji

# What is compiled once is there for both environments (two versions of jax share nothing), the next run and the next
# clone, until two weeks pass without a use of it. jax's own bound on a folder reads all of it at every write.
COMPILED := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/rats_jax_tests
test test-newest: export JAX_COMPILATION_CACHE_DIR ?= $(COMPILED)

# pip uses one core, so environments are made side by side.
test:
	@mkdir -p $(COMPILED) && find $(COMPILED) -type f -atime +14 -delete
	$(MAKE) -j 2 lint types docs newest-venv
	$(BIN)/python -m pytest -m "not network" $(NEWEST_TESTS:%=--deselect=%) $(PYTEST_ARGS)
	$(MAKE) test-newest

# With the newest packages instead of the pinned ones: `make test-newest PYTHON=python3.13 NEWEST=.venv-3.13`.
test-newest: newest-venv
	$(NEWEST)/bin/python -m pytest $(NEWEST_TESTS) $(PYTEST_ARGS)

# The whole campaign of tests/stress, of which `make test` runs a small dose; it takes hours.
stress: test-venv
	$(BIN)/python -m pytest tests/stress --stress -n 0 -q

lint: test-venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: test-venv
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright

# The site: build/site/index.html. It reads the package without importing it.
docs: .venv-docs/.installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/python -m mkdocs build -q

.venv-docs/.installed: requirements-docs.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/pip install -q -r requirements-docs.txt
	@touch $@

clean:
	rm -rf .venv .venv-docs $(NEWEST) .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
