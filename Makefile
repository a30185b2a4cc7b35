# make demo    sets up, trains three small levels on the starter corpus, shows the report
# make test    sets up if needed, runs the tests
# Everything else: make help

PYTHON ?= python3
VENV   ?= .venv
# torch's build depends on the machine, so it is not in the lock. PyPI serves the CUDA build for Linux; for the small CPU
# build: make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH       ?= $(shell cat containers/torch.txt)
TORCH_INDEX ?=

RUN_LOCKS = containers/requirements-cpu.txt containers/requirements-demo.txt
LOCKS = $(RUN_LOCKS) containers/requirements-dev.txt
CUDA_LOCKS = containers/requirements-cuda.txt containers/requirements-dev.txt containers/requirements-demo.txt
BIN   = $(VENV)/bin
SCRIPTS = .ci/run containers/cc containers/steps.sh tests/clusters/*.sh tools/*.sh
TEXTS   = *.md *.cfg *.toml Makefile CITATION.cff .github cefr_batch containers docs jobs k8s slurm tests tools
# Test processes side by side.
WORKERS    ?= 2
DEMO_STORE  = runs/demo
DEMO_REPORT = report
DEMO_LEVELS = --level A1 --level A2 --level B1
# make demo OPEN=1 serves the report's folder at the end
OPEN       ?=
OPEN_PORT  ?= 8000

# Images: anything that builds as docker does, such as podman, nerdctl, or tests/clusters/image.sh where there is none.
ENGINE     ?= docker
IMAGE      ?= cefr-batch
VERSION     = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' cefr_batch/__init__.py)
REVISION    = $(shell git describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null)
BUILD_IMAGE = $(ENGINE) build --file containers/Dockerfile $(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) \
	--build-arg VERSION=$(VERSION) $(if $(REVISION),--build-arg REVISION=$(REVISION))

.PHONY: help setup setup-unsloth demo test test-slow coverage lint docs hooks e2e e2e-export e2e-gpu e2e-long e2e-slurm e2e-slurm-all e2e-k8s chaos tools bench version \
	locks dist fresh image image-cpu sbom audit clean

help: ## this list
	@grep -hE '^[[:alnum:]-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(VENV)/.installed ## .venv with cefr-batch and all it needs
	@echo "cefr-batch is installed in $(VENV); next: . $(VENV)/bin/activate"

$(VENV)/.running: setup.cfg pyproject.toml $(RUN_LOCKS) containers/torch.txt tools/venv.sh
	PYTHON="$(PYTHON)" tools/venv.sh $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps $(addprefix -r ,$(RUN_LOCKS))
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

# And what the tests need.
$(VENV)/.installed: $(VENV)/.running containers/requirements-dev.txt
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r containers/requirements-dev.txt
	touch $@

setup-unsloth: .venv-unsloth/.installed ## .venv-unsloth with the Unsloth backend (7 GB: a CUDA build of torch)

.venv-unsloth/.installed: setup.cfg pyproject.toml $(CUDA_LOCKS) tools/venv.sh
	PYTHON="$(PYTHON)" tools/venv.sh .venv-unsloth
	.venv-unsloth/bin/python -m pip install --quiet --no-compile --require-hashes --no-deps $(addprefix -r ,$(CUDA_LOCKS))
	.venv-unsloth/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

demo: $(VENV)/.running ## train A1, A2 and B1 on the starter corpus with a small real model, then compare them
	$(BIN)/cefr-batch submit $(DEMO_LEVELS) --profile smoke --cluster local --store $(DEMO_STORE) --wait
	$(BIN)/cefr-batch report $(DEMO_LEVELS) --store $(DEMO_STORE) --out $(DEMO_REPORT)
	@echo "Read $(DEMO_REPORT)/report.html. Try the models: $(BIN)/cefr-batch serve $(DEMO_LEVELS) --store $(DEMO_STORE)"
	$(if $(OPEN),@echo "Here: http://127.0.0.1:$(OPEN_PORT)/report.html (Ctrl-C ends it)" && \
	  $(BIN)/python -m http.server --bind 127.0.0.1 --directory $(DEMO_REPORT) $(OPEN_PORT))

test: setup lint ## lint, types, and the tests that take less than a second each
	$(BIN)/python -m pytest -m "not e2e and not slow" -n $(WORKERS) --dist worksteal

test-slow: setup ## the other tests of the package's parts: they train and convert tiny models, draw pictures, kill and damage
	$(BIN)/python -m pytest -m "slow and not e2e" -n $(WORKERS) --dist worksteal

coverage: setup ## both, with the share of the package that they reach
	$(BIN)/python -m pytest -m "not e2e" -n $(WORKERS) --dist worksteal --cov --cov-report=term

lint: setup ## format, lint, types, shell scripts, workflows, spelling
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/shellcheck $(SCRIPTS)
	$(BIN)/zizmor --offline --quiet .github
	$(BIN)/codespell $(TEXTS)

docs: setup ## the documentation as a site, every link checked: build/site/index.html
	$(BIN)/mkdocs build --quiet

hooks: setup ## check each commit before it is made (pre-commit)
	$(BIN)/pre-commit install

e2e: tools setup-unsloth test-slow ## test-slow, then whole runs: real models, kill -9 and resume, both training backends, object stores, clusters, pages
	$(BIN)/python -m pytest -m e2e --durations=15 -n $(WORKERS) --dist loadfile --no-loadscope-reorder

e2e-long: tools ## of these, the ones that take longer when whole: ten kills of each run, what the docs show, searches, a run that migrates
	CEFR_BATCH_TEST_LONG=1 $(BIN)/python -m pytest -m e2e tests/e2e/test_resume.py tests/e2e/test_shown_commands.py tests/e2e/test_search.py tests/e2e/test_bench.py -n $(WORKERS)
	CEFR_BATCH_TEST_LONG=1 $(BIN)/python -m pytest -m e2e tests/e2e/test_slurm.py tests/e2e/test_k8s.py -k "search or begun_here_and_resumed_on_slurm or job_that_failed" -s
	CEFR_BATCH_TEST_LONG=1 $(BIN)/python -m pytest -m e2e tests/e2e/test_slurm_over_ssh.py -s

# Whatever environment is there: the machine may have no network. Figures of a run: build/bench-gpu.
GPU_PYTHON ?= $(firstword $(wildcard .venv-unsloth/bin/python $(BIN)/python) $(PYTHON))
e2e-gpu: ## what only a GPU can show, in 10 minutes: speed, memory, 4-bit, both backends, kill and resume (GPU_PYTHON=python3)
	$(GPU_PYTHON) -m pytest -m gpu tests/e2e/test_bench.py -s

e2e-export: .venv-export/.installed ## exported GGUF files run by llama.cpp, which an environment of its own compiles
	.venv-export/bin/python -m pytest -m "e2e or not e2e" tests/export tests/e2e/test_export.py

.venv-export/.installed: setup.cfg pyproject.toml $(LOCKS) containers/torch.txt tools/venv.sh
	PYTHON="$(PYTHON)" tools/venv.sh .venv-export
	.venv-export/bin/python -m pip install --quiet --require-hashes --no-deps $(addprefix -r ,$(LOCKS))
	.venv-export/bin/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
	.venv-export/bin/python -m pip install --quiet -e '.[export]' # compiles llama.cpp, with tools of its own
	touch $@

e2e-slurm: tools ## of these, the ones on a real Slurm, which it brings up (Debian 12 and root)
	$(BIN)/python -m pytest -m e2e tests/e2e/test_slurm.py -s

e2e-slurm-all: tools ## all of these on Slurm 22.05, 24.11 and 26.05, one after another
	CEFR_BATCH_TEST_SLURM="22.05 24.11 26.05" $(BIN)/python -m pytest -m e2e tests/e2e/test_slurm.py -s

# With KUBECONFIG, on that cluster: docs/development.md says what it needs.
CEFR_BATCH_TEST_IMAGE ?= $(IMAGE):$(VERSION)-cpu
e2e-k8s: tools ## the ones on a real Kubernetes, which it builds and brings up (Debian 12 and root), or on KUBECONFIG's
	$(if $(KUBECONFIG),CEFR_BATCH_TEST_IMAGE="$(CEFR_BATCH_TEST_IMAGE)") \
		$(BIN)/python -m pytest -m e2e tests/e2e/test_k8s$(if $(KUBECONFIG),_of_your_own).py -s

# How many faults, half of them on a folder and half on an S3 server; SEED=… repeats a campaign, ONLY="disk full" takes these alone.
FAULTS ?= 200
SEED   ?=
ONLY   ?=
chaos: tools ## faults at random moments: each run must end as if nothing had happened (about an hour; FAULTS=200, SEED=, ONLY=)
	@! { command -v apt-get && [ "$$(id -u)" = 0 ]; } >/dev/null || tests/clusters/packages.sh gcc libc6-dev
	CEFR_BATCH_TEST_FAULTS=$(FAULTS) CEFR_BATCH_TEST_SEED=$(SEED) CEFR_BATCH_TEST_ONLY="$(ONLY)" \
		$(BIN)/python -m pytest -m e2e tests/e2e/test_chaos.py -s

tools: setup
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r containers/requirements-e2e.txt
	@! { command -v apt-get && [ "$$(id -u)" = 0 ]; } >/dev/null || tests/clusters/packages.sh chromium

bench: setup ## compare speeds with what a user would run instead: docs/benchmarks.md (about 40 minutes; ROW=merge for one row)
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r containers/requirements-e2e.txt
	PYTHONPATH=tests $(BIN)/python -m benchmarks $(ROW)

version: ## the version, from cefr_batch/__init__.py
	@echo $(VERSION)

locks: build/tools/.installed ## renew the locked requirements in containers/ from setup.cfg (UPGRADE=--upgrade for the newest versions)
	tools/locks.sh build/tools/bin/uv $(UPGRADE)

dist: build/tools/.installed ## the sdist and the wheel, checked as PyPI checks them: dist/
	rm -rf dist
	build/tools/bin/python -m build --no-isolation
	build/tools/bin/twine check --strict dist/*

# What a user can install beside the bare package; of train the newest versions alone: the lowest need an older torch.
EXTRAS ?= core xlsx notify search s3 slurm k8s
fresh: dist ## install the wheel in fresh environments, with each extra, newest and lowest versions, and use it there
	$(if $(TORCH_INDEX),UV_INDEX="$(TORCH_INDEX)" UV_INDEX_STRATEGY=unsafe-best-match) tools/fresh_install.sh build/tools/bin/uv dist/*.whl $(EXTRAS) train
	tools/fresh_install.sh build/tools/bin/uv dist/*.whl --lowest $(EXTRAS)

image: ## the container image for CUDA, cefr-batch:VERSION-cuda (ENGINE=docker, BASE_IMAGE=debian:bookworm-slim)
	$(BUILD_IMAGE) --target cuda --tag $(IMAGE):$(VERSION)-cuda .

image-cpu: ## the small one without, cefr-batch:VERSION-cpu; TORCH and TORCH_INDEX say where torch's CPU build comes from
	$(BUILD_IMAGE) --target cpu --tag $(IMAGE):$(VERSION)-cpu --build-arg TORCH="$(TORCH)" \
		$(if $(filter-out file,$(origin TORCH_INDEX)),--build-arg TORCH_INDEX="$(TORCH_INDEX)") .

build/tools/.installed: tools/venv.sh containers/requirements-release.txt
	PYTHON="$(PYTHON)" tools/venv.sh build/tools
	build/tools/bin/python -m pip install --quiet --require-hashes --no-deps -r containers/requirements-release.txt
	touch $@

sbom: build/tools/.installed ## the Python packages of each image as CycloneDX: build/sbom-cuda.json, build/sbom-cpu.json
	build/tools/bin/cyclonedx-py requirements --output-reproducible -o build/sbom-cuda.json containers/requirements-cuda.txt
	{ cat containers/requirements-cpu.txt; echo "$(TORCH)"; } | \
		build/tools/bin/cyclonedx-py requirements --output-reproducible -o build/sbom-cpu.json -

audit: build/tools/.installed ## known vulnerabilities of the locked packages (asks pypi.org)
	build/tools/bin/pip-audit --disable-pip --require-hashes -r containers/requirements-cuda.txt
	build/tools/bin/pip-audit --disable-pip --require-hashes -r containers/requirements-cpu.txt

clean: ## remove the virtual environments, caches and distributions
	rm -rf $(VENV) .venv-unsloth .venv-export .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage build dist *.egg-info
