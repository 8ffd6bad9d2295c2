# The only door: every check and every run goes through a target here. 'make help' lists them.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
PORT ?= 8000
DEVICE ?= cuda
MINUTES ?= 10
# Tests run in so many processes, each with one thread; one more than CPUs, for many of them wait.
JOBS ?= $(shell echo $$(($$(nproc 2>/dev/null || echo 2) + 1)))
# Serving has an environment of its own, so that it is seen to need nothing of training.
SERVE := .venv
DEV := .venv-dev
# Of other servers, whose requirements clash with ours: tests run them.
CLIENTS := .venv-clients
SUPPLY := .venv-supply
TORCH := torch==2.13.0
PIP := -m pip --disable-pip-version-check install --quiet
SOURCES := service training tests benchmarks

# The GPU build where an NVIDIA GPU answers, else the CPU build; EXTRA=cpu or EXTRA=gpu decides.
EXTRA ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

.PHONY: serve
serve: $(SERVE)/.installed-$(EXTRA) ## Serve models/ on port 8000; PORT=9000 changes it
	@echo "make serve: serving models/ at http://localhost:$(PORT), see http://localhost:$(PORT)/docs (Ctrl-C stops)"
	@exec $(SERVE)/bin/adaresnet serve --models models --port $(PORT) $(ARGS)

.PHONY: install
install: $(DEV)/.installed ## Install everything for development and training into .venv-dev

.PHONY: check
check: lint types ## Lint, formatting, import rules, spelling, types

.PHONY: lint
lint: $(DEV)/.installed ## Lint, formatting, import rules, spelling
	$(DEV)/bin/ruff check $(SOURCES)
	$(DEV)/bin/ruff format --check $(SOURCES)
	$(DEV)/bin/lint-imports
	$(DEV)/bin/codespell $(SOURCES) docs README.md CHANGELOG.md Makefile models/README.md

.PHONY: types
types: $(DEV)/.installed ## Strict type check
	$(DEV)/bin/mypy

.PHONY: format
format: $(DEV)/.installed ## Format the code
	$(DEV)/bin/ruff check --fix $(SOURCES)
	$(DEV)/bin/ruff format $(SOURCES)

.PHONY: test-clients
test-clients: $(CLIENTS)/.installed ## Install the clients of other servers, which tests run, into .venv-clients

.PHONY: test
test: $(DEV)/.installed ## Run the tests (no GPU, no network)
	@$(MAKE) --no-print-directory test-clients || echo "make: so the tests with these clients are skipped"
	OMP_NUM_THREADS=1 $(DEV)/bin/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

.PHONY: device-check
device-check: $(SERVE)/.installed-$(EXTRA) ## Run the models on DEVICE=cuda (or cpu) and compare with PyTorch and the CPU
	$(SERVE)/bin/python benchmarks/device_check.py --device $(DEVICE)

.PHONY: gpu-benchmark
gpu-benchmark: $(SERVE)/.installed-$(EXTRA) ## Time every way of serving on DEVICE=cuda; ARGS="--device cpu --quick" tries the steps
	$(SERVE)/bin/python benchmarks/gpu_serving.py --device $(DEVICE) $(ARGS)

.PHONY: benchmark
benchmark: $(DEV)/.installed ## Compare with other servers, forty minutes; ARGS=--quick for a smoke run
	$(DEV)/bin/python benchmarks/serving.py $(ARGS)

.PHONY: resilience
resilience: $(DEV)/.installed ## Hostile input and faults against the real service, some minutes; ARGS=--quick for fewer
	OMP_NUM_THREADS=1 $(DEV)/bin/python -m tests.resilience $(ARGS)

FUZZ_MINUTES ?= 60

.PHONY: fuzz
fuzz: $(DEV)/.installed ## Send mutated files and requests for FUZZ_MINUTES=60; a failure prints how to have it once more
	OMP_NUM_THREADS=1 $(DEV)/bin/python -m tests.resilience.fuzz --minutes $(FUZZ_MINUTES) $(ARGS)

.PHONY: check-supply
check-supply: $(SUPPLY)/.installed ## Look up known vulnerabilities of what serving installs, and write SBOMs to runs/supply
	@mkdir -p runs/supply
	@for target in cpu gpu; do \
		$(SUPPLY)/bin/python -W ignore -m cyclonedx_py requirements requirements/serve-$$target.txt \
			--pyproject pyproject.toml --of JSON --output-reproducible -o runs/supply/sbom-$$target.json; \
		echo "make: wrote runs/supply/sbom-$$target.json"; done
	@for target in cpu gpu; do \
		$(SUPPLY)/bin/pip-audit --strict --disable-pip --require-hashes -r requirements/serve-$$target.txt \
			|| { echo "make: a vulnerability, or no answer from PyPI's advisories, see above"; exit 1; }; done

.PHONY: soak
soak: $(DEV)/.installed ## Everything at once for MINUTES=10, with memory, files, threads and latency drawn over time
	$(DEV)/bin/python benchmarks/soak.py --minutes $(MINUTES) $(ARGS)

.PHONY: openapi
openapi: $(DEV)/.installed ## Write the OpenAPI snapshot that a test compares with
	$(DEV)/bin/python -c 'import json; from service.api.app import create_app; from service.settings import Settings; \
		print(json.dumps(create_app(Settings(), print).app.openapi(), indent=1))' > docs/openapi.json

.PHONY: typescript-client
typescript-client: ## Write the TypeScript client's types from docs/openapi.json, and build it (needs npm)
	cd clients/typescript && npm install --no-package-lock --no-audit --no-fund && npm run generate && npm run build

.PHONY: lock
lock: $(DEV)/.installed ## Resolve the locked requirements again
	cd requirements && for target in cpu gpu; do \
		../$(DEV)/bin/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url \
			--no-header --generate-hashes --extra $$target --extra tracing ../pyproject.toml -o serve-$$target.txt; done
	cd requirements && ../$(DEV)/bin/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url \
		--no-header --generate-hashes build.in -o build.txt
	cd requirements && ../$(DEV)/bin/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url \
		--no-header --override without-torch.txt --extra cpu --extra train --extra dev \
		../pyproject.toml -o dev.txt
	cd requirements && ../$(DEV)/bin/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url \
		--no-header --override clients-override.txt clients.in -o clients.txt
	cd requirements && ../$(DEV)/bin/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url \
		--no-header --generate-hashes supply.in -o supply.txt

.PHONY: clean
clean: ## Remove the environments and every cache
	rm -rf clients/typescript/node_modules clients/typescript/dist $(SERVE) $(DEV) $(CLIENTS) $(SUPPLY) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(SERVE)/.installed-$(EXTRA): requirements/serve-$(EXTRA).txt requirements/build.txt pyproject.toml
	@$(call need_python)
	@echo "make: installing the service ($(EXTRA)) into $(SERVE); this takes a minute the first time"
	@# The two builds of ONNX Runtime share files: a change of extra starts afresh.
	@ls $(SERVE)/.installed-* 2>/dev/null | grep -qv 'installed-$(EXTRA)$$' && rm -rf $(SERVE) || true
	@"$(PYTHON)" -m venv $(SERVE) || $(call no_venv)
	@$(SERVE)/bin/python $(PIP) --require-hashes -r requirements/build.txt -r requirements/serve-$(EXTRA).txt \
		|| $(call no_index)
	@$(SERVE)/bin/python $(PIP) --no-deps --no-build-isolation -e . || $(call no_index)
	@touch $@

$(SUPPLY)/.installed: requirements/supply.txt
	@$(call need_python)
	@"$(PYTHON)" -m venv $(SUPPLY) || $(call no_venv)
	@$(SUPPLY)/bin/python $(PIP) --require-hashes -r requirements/supply.txt || $(call no_index)
	@touch $@

$(DEV)/.installed: requirements/dev.txt requirements/build.txt pyproject.toml
	@$(call need_python)
	@echo "make: installing the development tools and PyTorch into $(DEV); this takes some minutes the first time"
	@"$(PYTHON)" -m venv $(DEV) || $(call no_venv)
	@$(DEV)/bin/python $(PIP) $(TORCH) || $(call no_index)
	@$(DEV)/bin/python $(PIP) --require-hashes -r requirements/build.txt || $(call no_index)
	@$(DEV)/bin/python $(PIP) -r requirements/dev.txt || $(call no_index)
	@$(DEV)/bin/python $(PIP) --no-deps --no-build-isolation -e . || $(call no_index)
	@touch $@

$(CLIENTS)/.installed: requirements/clients.txt
	@$(call need_python)
	@echo "make: installing the clients of other servers into $(CLIENTS); this takes a minute the first time"
	@"$(PYTHON)" -m venv $(CLIENTS) || $(call no_venv)
	@# Without dependencies: the list has them all, and some say that they don't go together.
	@$(CLIENTS)/bin/python $(PIP) --retries 1 --no-deps --no-compile -r requirements/clients.txt || $(call no_index)
	@touch $@

define need_python
test -n "$(PYTHON)" || { echo "make: PYTHON is empty; say which to use: make PYTHON=/path/to/python3.12"; exit 1; }; \
"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	echo "make: Python 3.11 or newer is needed; '$(PYTHON)' is $$("$(PYTHON)" --version 2>&1 || true)." \
	"Install it, or say which to use: make PYTHON=/path/to/python3.12"; exit 1; }
endef

define no_index
{ echo "make: a package could not be installed, see above; is the package index reachable, and is there a build for this Python and platform?"; exit 1; }
endef

define no_venv
{ echo "make: '$(PYTHON) -m venv' failed; on Debian and Ubuntu install the package python3-venv"; exit 1; }
endef
