# make demo    sets up, trains three small levels on the starter corpus, shows the report
# make test    sets up if needed, runs the tests
# Everything else: make help

PYTHON ?= python3
VENV   ?= .venv
# torch's build depends on the machine, so it is not in the lock. PyPI serves the CUDA build for Linux; for the small CPU
# build: make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH       ?= torch==2.13.0
TORCH_INDEX ?=

LOCKS = containers/requirements-cpu.txt containers/requirements-dev.txt containers/requirements-demo.txt
CUDA_LOCKS = containers/requirements-cuda.txt containers/requirements-dev.txt containers/requirements-demo.txt
BIN   = $(VENV)/bin
DEMO_STORE  = runs/demo
DEMO_REPORT = report
DEMO_LEVELS = --level A1 --level A2 --level B1

.PHONY: help setup setup-unsloth demo test lint e2e benchmark locks clean

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(VENV)/.installed ## .venv with cefr-batch and all it needs

$(VENV)/.installed: setup.cfg pyproject.toml $(LOCKS) tools/venv.sh
	PYTHON="$(PYTHON)" tools/venv.sh $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps $(addprefix -r ,$(LOCKS))
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

setup-unsloth: .venv-unsloth/.installed ## .venv-unsloth with the Unsloth backend (5.6 GB: a CUDA build of torch)

.venv-unsloth/.installed: setup.cfg pyproject.toml $(CUDA_LOCKS) tools/venv.sh
	PYTHON="$(PYTHON)" tools/venv.sh .venv-unsloth
	.venv-unsloth/bin/python -m pip install --quiet --require-hashes --no-deps $(addprefix -r ,$(CUDA_LOCKS))
	.venv-unsloth/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

demo: setup ## train A1, A2 and B1 on the starter corpus with a small real model, then compare them
	$(BIN)/cefr-batch submit $(DEMO_LEVELS) --profile smoke --cluster local --store $(DEMO_STORE) --wait
	$(BIN)/cefr-batch report $(DEMO_LEVELS) --store $(DEMO_STORE) --out $(DEMO_REPORT)
	@cat $(DEMO_REPORT)/report.md

test: setup lint ## lint, types, tests (the ones marked e2e run by make e2e)
	$(BIN)/python -m pytest -m "not e2e and not benchmark"

lint: setup ## format, lint, types
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy

e2e: setup setup-unsloth ## whole runs: real models, kill -9 and resume, both training backends, object stores
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r containers/requirements-e2e.txt
	$(BIN)/python -m pytest -m e2e

benchmark: setup ## transfers against s5cmd, rclone and boto3 on one SeaweedFS
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r containers/requirements-e2e.txt
	$(BIN)/python -m pytest -m benchmark -s

locks: setup ## renew the locked requirements in containers/ from setup.cfg
	$(BIN)/python -m pip install --quiet uv
	tools/locks.sh $(BIN)/uv

clean: ## remove the virtual environments and caches
	rm -rf $(VENV) .venv-unsloth .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
