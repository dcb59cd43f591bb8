# `make` lists the targets. Two of them do all the set-up: `make demo` and `make test`.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
CLUSTER ?= local
BIN := .venv/bin
RUN := $(BIN)/python -m
LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url
export PATH := $(CURDIR)/$(BIN):$(PATH)
# torch and transformers take seconds to compile, in every process that imports them
unexport PYTHONDONTWRITEBYTECODE
# tests and benchmarks run side by side: idle threads of torch must not spin
export OMP_WAIT_POLICY ?= PASSIVE
# tests of each kind lie here and nowhere else: a worker imports what it looks through, torch among it
UNIT := tests/unit
INTEGRATION := tests/integration tests/faults tests/fuzz
E2E := tests/e2e
define ENVIRONMENTS
export QUANTIZATION_READER_PYTHON=$$($(RUN) tests.support.environments readers); \
	export QUANTIZATION_LEGACY_PYTHON=$$($(RUN) tests.support.environments legacy); \
	export QUANTIZATION_VLLM_PYTHON=$$($(RUN) tests.support.environments vllm)
endef

##@ Use
.PHONY: demo
demo: setup ## From nothing to a quantized model: cluster, S3, operator, one real job (CLUSTER=current: your own cluster)
	$(RUN) local_cluster demo --cluster $(CLUSTER)

.PHONY: down
down: setup ## Stop the local cluster; nothing is left running (WIPE=1 also removes its state)
	$(RUN) local_cluster down $(if $(WIPE),--wipe)

.PHONY: up
up: setup ## Start the local cluster only, and print how to use it
	$(RUN) local_cluster up

.PHONY: demo-monitoring
demo-monitoring: setup ## Prometheus beside the local cluster, until Ctrl-C (PORT=9091: elsewhere than at 9090)
	$(RUN) local_cluster monitoring $(if $(PORT),--port $(PORT))

.PHONY: uninstall
uninstall: setup ## Remove the operator (JOBS=keep: alone; JOBS=delete: with all QuantizationJobs; CLUSTER=current: of your own cluster)
	$(RUN) local_cluster uninstall --cluster $(CLUSTER) $(if $(JOBS),--jobs $(JOBS)) $(if $(PATIENCE),--patience $(PATIENCE))

.PHONY: install-plugin
install-plugin: setup ## `kubectl quantization`: put the plugin into ~/.local/bin (BIN_DIR=...: elsewhere)
	$(RUN) deploy.release --install-plugin $(or $(BIN_DIR),$(HOME)/.local/bin)

.PHONY: doctor
doctor: setup ## Say what this machine lacks for the local cluster: packages, kernel, ports, disk space; changes nothing
	$(RUN) local_cluster doctor

.PHONY: images
images: setup ## Build the images and push them to the local registry
	$(RUN) local_cluster images

##@ Test
.PHONY: test
test: lint types ## Before each merge: lint and types, then unit, integration and end to end at the same time
	@echo "unit, integration and end to end at the same time; the output of each comes when it has ended"
	@$(MAKE) --no-print-directory --jobs 3 --output-sync=target unit integration e2e  # servers wait while others compute

.PHONY: lint
lint: setup ## ruff, and the contracts between the rooms
	ruff check .
	ruff format --check .
	lint-imports

.PHONY: types
types: setup ## mypy --strict
	mypy

.PHONY: unit
unit: setup ## Pure code
	OMP_NUM_THREADS=1 nice pytest -q -m 'unit and not nightly' $(UNIT) -n 2 --dist worksteal --durations 15  # two workers: torch's threads would only get in their way; nice: they fill what servers leave idle

.PHONY: coverage
coverage: setup ## The unit tests, and how much of each room they run (up to twice as slow as `make unit`)
	OMP_NUM_THREADS=1 pytest -q -m unit $(UNIT) -n 2 --dist worksteal --cov --cov-report=
	$(RUN) tests.support.coverage_by_room

.PHONY: integration
integration: setup ## A real API server and a real S3 server on loopback
	$(RUN) local_cluster binaries
	$(RUN) local_cluster binaries helm
	@[ "$$(id -u)" != 0 ] || $(RUN) local_cluster packages --browser
	pytest -q -m 'integration and not nightly' $(INTEGRATION) -n 4 --dist loadfile --no-loadscope-reorder --durations 15  # mostly waits; a file shares its servers

.PHONY: e2e
e2e: setup ## The whole: cluster, images, S3, and independent readers of the result (needs root)
	@if [ "$$(id -u)" != 0 ]; then \
	  echo "not run: the end-to-end tests; they start containers, which needs root"; \
	  [ "$${ALLOW_PARTIAL:-0}" = 1 ] && exit 0; \
	  echo "run as root, or accept a partial test with ALLOW_PARTIAL=1"; exit 1; \
	fi; \
	$(RUN) local_cluster packages; \
	$(ENVIRONMENTS); \
	pytest -q -m 'e2e and not nightly' $(E2E) -n 2 --dist loadfile --durations 30  # one worker has the cluster, the other the readers of files

.PHONY: nightly
nightly: setup ## What `make test` leaves out, since it is slow and rarely red: all formats in all readers, attacks with large objects, ...
	$(RUN) local_cluster binaries
	$(RUN) local_cluster binaries helm
	@[ "$$(id -u)" != 0 ] || $(RUN) local_cluster packages
	$(ENVIRONMENTS); \
	pytest -q -m nightly -n 2 --dist loadfile
	-$(MAKE) models-newest  # may fail: it shows what the next transformers will ask for

.PHONY: faults
faults: setup ## Every fault of docs/faults.md, also on the cluster (needs root), 500 schedules, a long storm (FAULTS="-k schedules": some)
	$(RUN) local_cluster binaries
	@[ "$$(id -u)" != 0 ] || $(RUN) local_cluster packages
	pytest -q -m "faults and not e2e" -s --timeout 1800 $(FAULTS)

.PHONY: fuzz
fuzz: setup ## 10,000 spoiled models, texts, artifacts and manifests: each ends with its cause (most of an hour; FUZZ="--count 500 --seed 7": some)
	$(RUN) tests.fuzz $(FUZZ)

.PHONY: stock
stock: setup ## Jobs of the stock auto-gptq and autoawq on the cluster, in their own image (needs root; minutes)
	$(RUN) local_cluster packages
	pytest -q -m stock -s

.PHONY: recordings
recordings: setup ## Provoke every state of a pod that one node can show, and keep what the API server says of it (needs root)
	$(RUN) local_cluster packages
	QUANTIZATION_RECORD_STATUSES=1 pytest -q -m faults -s --timeout 1800 tests/e2e/cluster/test_pod_statuses.py tests/e2e/cluster/test_disruptions.py

.PHONY: bench
bench: setup ## Native beside auto-gptq, autoawq, gptqmodel and llm-compressor (BENCH="--quick": a smoke test)
	$(RUN) tests.benchmarks.quantization $(BENCH)

.PHONY: bench-memory
bench-memory: setup ## Peak memory of a run: beside the parts it must hold, and of many layers beside 4; fails when a bound is passed (MEMORY="--only depth": some)
	$(BIN)/python tests/benchmarks/peak_memory.py $(MEMORY)

.PHONY: bench-finding
bench-finding: setup ## Time and memory that finding the structure of the largest models takes; fails when a bound is passed (FINDING="--only Kimi-K2": some)
	$(BIN)/python tests/benchmarks/finding.py $(FINDING)

.PHONY: bench-eta
bench-eta: setup ## How well a run tells when it ends, at each quarter of it; fails when that is too far off
	$(BIN)/python tests/benchmarks/time_to_the_end.py

.PHONY: bench-search
bench-search: setup ## A search of 24 points beside 24 separate jobs; fails when it is not 3 times faster, or figures differ
	$(RUN) tests.benchmarks.search

.PHONY: tuning-guide
tuning-guide: setup ## The figures and the picture of docs/tuning.md, by a search for each question and model (TUNING="--model DIR ...": yours too)
	$(RUN) tests.benchmarks.tuning_guide $(TUNING)

.PHONY: models
models: setup ## docs/models.md: what each pass does with every causal language model type of transformers
	$(RUN) tests.support.model_table > models.new
	mv models.new docs/models.md

.PHONY: models-newest
models-newest: setup ## The same table with the newest transformers, in an environment of its own: build/models/newest.md, and what is not as in docs/models.md
	$(RUN) tests.support.newest_models

.PHONY: scale
scale: setup ## 10,000 jobs on a real API server with KWOK, beside JobSet (SCALE="--jobs 200 --churn 0 ..."; SCALE=--help)
	pytest -q -m scale tests/scale
	$(RUN) tests.scale $(SCALE)

##@ Develop
.PHONY: setup
setup: .venv/complete

.venv/complete: requirements/installer.txt requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed (PYTHON=...)"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq python3-venv; } \
	  || { echo "the Python module venv is missing: install python3-venv"; exit 1; }
	@echo "setting up .venv"
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/installer.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --require-hashes -r requirements/dev.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

.PHONY: generate
generate: setup ## Write the CRD and the reference pages from the models
	$(RUN) quantization_api crd > crds/quantizationjobs.yaml
	$(RUN) quantization_api api > docs/api.md
	$(RUN) quantization_api failures > docs/failures.md
	$(RUN) quantization_operator.metrics > docs/metrics.md
	$(RUN) quantization_operator.settings > docs/settings.md
	$(RUN) deploy.release --values-schema > deploy/chart/values.schema.json

.PHONY: docs
docs: setup ## The pages of docs/ as a site in build/site; fails for a link that leads nowhere
	NO_MKDOCS_2_WARNING=1 $$($(RUN) tests.support.environments docs) -m mkdocs build --strict --quiet

.PHONY: release
release: setup ## Manifests, Helm chart, wheel, lists of packages and checksums in dist/ (REGISTRY=...; IMAGES=1: images too, needs root)
	$(RUN) deploy.release $(if $(REGISTRY),--registry $(REGISTRY)) $(if $(IMAGES),--images)

.PHONY: format
format: setup ## Format the code
	ruff check --fix .
	ruff format .

.PHONY: lock
lock: setup ## Solve the requirements again (newest versions that fit)
	$(LOCK) pyproject.toml --extra operator --output-file requirements/operator.txt
	$(LOCK) pyproject.toml --extra quantizer --override requirements/quantizer-overrides.in --output-file requirements/quantizer.txt
	$(LOCK) pyproject.toml --extra operator --extra quantizer --extra dev --override requirements/quantizer-overrides.in --output-file requirements/dev.txt
	for set in docs installer seaweedfs legacy readers bench-llm-compressor bench-auto-round; do $(LOCK) requirements/$$set.in --output-file requirements/$$set.txt; done
	$(LOCK) requirements/vllm.in --override requirements/vllm-overrides.in --output-file requirements/vllm.txt
	$(LOCK) requirements/torch.in --constraint requirements/legacy.txt --output-file requirements/torch.txt  # the layer that both job images share

.PHONY: clean
clean: ## Remove what the tools left in this folder (caches outside stay)
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage build dist

.PHONY: help
help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  \033[36m%-12s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)
