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
# Test processes side by side.
WORKERS    ?= 2
DEMO_STORE  = runs/demo
DEMO_REPORT = report
DEMO_LEVELS = --level A1 --level A2 --level B1

# Images: anything that builds as docker does, such as podman, nerdctl, or tests/clusters/image.sh where there is none.
ENGINE     ?= docker
IMAGE      ?= cefr-batch
VERSION     = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' cefr_batch/__init__.py)
REVISION    = $(shell git describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null)
BUILD_IMAGE = $(ENGINE) build --file containers/Dockerfile $(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) \
	--build-arg VERSION=$(VERSION) $(if $(REVISION),--build-arg REVISION=$(REVISION))

.PHONY: help setup setup-unsloth demo test lint e2e e2e-slurm e2e-k8s tools bench locks image image-cpu sbom audit clean

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(VENV)/.installed ## .venv with cefr-batch and all it needs

$(VENV)/.installed: setup.cfg pyproject.toml $(LOCKS) tools/venv.sh
	PYTHON="$(PYTHON)" tools/venv.sh $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps $(addprefix -r ,$(LOCKS))
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

setup-unsloth: .venv-unsloth/.installed ## .venv-unsloth with the Unsloth backend (6.7 GB: a CUDA build of torch)

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
	$(BIN)/python -m pytest -m "not e2e" -n $(WORKERS) --dist worksteal

lint: setup ## format, lint, types
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy

e2e: tools setup-unsloth ## whole runs: real models, kill -9 and resume, both training backends, object stores, clusters, pages
	$(BIN)/python -m pytest -m e2e --durations=15 -n $(WORKERS) --dist loadfile --no-loadscope-reorder

e2e-slurm: tools ## of these, the ones on a real Slurm, which it brings up (Debian 12 and root)
	$(BIN)/python -m pytest -m e2e tests/e2e/test_slurm.py -s

e2e-k8s: tools ## the ones on a real Kubernetes, which it builds and brings up (Debian 12 and root), or on KUBECONFIG's
	$(BIN)/python -m pytest -m e2e tests/e2e/test_k8s.py -s

tools: setup
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r containers/requirements-e2e.txt
	@! { command -v apt-get && [ "$$(id -u)" = 0 ]; } >/dev/null || tests/clusters/packages.sh chromium

bench: setup ## compare speeds with what a user would run instead: docs/benchmarks.md (about 40 minutes; ROW=merge for one row)
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r containers/requirements-e2e.txt
	PYTHONPATH=tests $(BIN)/python -m benchmarks $(ROW)

locks: setup ## renew the locked requirements in containers/ from setup.cfg
	$(BIN)/python -m pip install --quiet uv
	tools/locks.sh $(BIN)/uv

image: ## the container image for CUDA, cefr-batch:VERSION-cuda (ENGINE=docker, BASE_IMAGE=debian:bookworm-slim)
	$(BUILD_IMAGE) --target cuda --tag $(IMAGE):$(VERSION)-cuda .

image-cpu: ## the small one without, cefr-batch:VERSION-cpu; TORCH and TORCH_INDEX say where torch's CPU build comes from
	$(BUILD_IMAGE) --target cpu --tag $(IMAGE):$(VERSION)-cpu --build-arg TORCH="$(TORCH)" \
		$(if $(filter-out file,$(origin TORCH_INDEX)),--build-arg TORCH_INDEX="$(TORCH_INDEX)") .

build/tools/.installed: tools/venv.sh
	PYTHON="$(PYTHON)" tools/venv.sh build/tools
	build/tools/bin/python -m pip install --quiet cyclonedx-bom pip-audit
	touch $@

sbom: build/tools/.installed ## the Python packages of each image as CycloneDX: build/sbom-cuda.json, build/sbom-cpu.json
	build/tools/bin/cyclonedx-py requirements --output-reproducible -o build/sbom-cuda.json containers/requirements-cuda.txt
	{ cat containers/requirements-cpu.txt; echo "$(TORCH)"; } | \
		build/tools/bin/cyclonedx-py requirements --output-reproducible -o build/sbom-cpu.json -

audit: build/tools/.installed ## known vulnerabilities of the locked packages (asks pypi.org)
	build/tools/bin/pip-audit --disable-pip --require-hashes -r containers/requirements-cuda.txt
	build/tools/bin/pip-audit --disable-pip --require-hashes -r containers/requirements-cpu.txt

clean: ## remove the virtual environments and caches
	rm -rf $(VENV) .venv-unsloth .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
