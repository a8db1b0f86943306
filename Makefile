# `make` lists the targets. Nothing here needs root once the system's packages are there.

PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
STAMPS := build/stamps
REPORTS := build/reports
JOBS ?= 2
FUZZ_SECONDS ?= 60
SOAK_FOR ?= 1h
IMAGE ?= fastmesh
BASE ?= python:3.13-slim-bookworm
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Debian keeps nginx and haproxy where the PATH of an ordinary user does not look.
export PATH := $(PATH):/usr/sbin:/sbin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
unexport PYTHONPATH PYTHONHOME

# A .venv whose interpreter is gone (an upgraded system, a copied folder) is made again.
venv_python := $(shell $(BIN)/python -c 'import sys; print(sys.prefix)' 2>/dev/null)
ifneq ($(venv_python),$(abspath $(VENV)))
    $(shell rm -f $(STAMPS)/venv 2>/dev/null)
endif
# Folders are listed too: their time changes when a file in them is deleted.
native_sources := setup.py $(shell find src_ext ! -name '*.c')

pytest := $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup
reported = --junitxml=$(REPORTS)/$(1).xml

##@ To use it
.PHONY: run
run: build ## build, then start `fastmesh demo`: three origins behind the proxy
	$(BIN)/fastmesh demo

.PHONY: build
build: $(STAMPS)/native ## make .venv and compile; leaves .venv/bin/fastmesh

.PHONY: image
image: ## the images fastmesh and fastmesh-init (IMAGE=name, BASE=a Debian with Python)
	@version=$$(sed -n 's/^ARG VERSION=//p' docker/Dockerfile); set -x; \
	docker build -f docker/Dockerfile -t $(IMAGE) -t $(IMAGE):$$version --build-arg BASE=$(BASE) \
	    --build-arg REVISION="$$(git rev-parse HEAD 2>/dev/null)" . && \
	docker build -f docker/init.Dockerfile -t $(IMAGE)-init -t $(IMAGE)-init:$$version \
	    --build-arg IMAGE=$(IMAGE) .

.PHONY: wheel
wheel: $(STAMPS)/python ## a wheel in dist/, without test modules
	rm -rf build/lib* build/bdist* build/temp*
	$(BIN)/python -m pip wheel -q --no-build-isolation --no-deps -w dist .
	ls -l dist/*.whl

##@ To check it
.PHONY: test
test: build test-packages ## all tests but the slow ones, in about 7 minutes
	$(pytest) -m "not slow and not docker" $(call reported,test)

.PHONY: test-slow
test-slow: build test-packages $(STAMPS)/bench ## the tests that `make test` leaves out
	$(pytest) -m "slow and not docker" $(call reported,test-slow)

# One after another: they share the engine. Needs root where no engine answers.
.PHONY: test-docker
test-docker: build ## the image and the examples on a real Docker engine, started if none answers
	@tools/packages docker $(PYTHON)
	$(BIN)/python -m pytest -m docker $(call reported,test-docker) tests/docker

.PHONY: lint
lint: build ## ruff, mypy strict, cython-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/cython-lint src_ext # it starts pycodestyle by name

.PHONY: format
format: $(STAMPS)/python ## let ruff mend layout and imports
	$(BIN)/ruff check --fix --exit-zero -q .
	$(BIN)/ruff format .

.PHONY: asan ubsan tsan
asan: build test-packages ## the data-plane tests under AddressSanitizer and UndefinedBehaviorSanitizer
	tools/sanitize address
ubsan: build test-packages ## the same for undefined behaviour alone: quicker
	tools/sanitize undefined
tsan: build test-packages ## the threaded scenario under ThreadSanitizer
	tools/sanitize thread

.PHONY: fuzz
fuzz: build ## fuzz each parser for FUZZ_SECONDS (60) under AddressSanitizer
	tools/sanitize fuzz $(FUZZ_SECONDS)

.PHONY: chaos
chaos: build test-packages ## spoil endpoints, change, overload, drain under load: what do clients see?
	$(BIN)/python -m tests.chaos

.PHONY: soak
soak: build test-packages ## mixed traffic, faults and changes for SOAK_FOR (1h), then a verdict on answers and leaks
	$(BIN)/python -m tests.soak --for $(SOAK_FOR) --report $(REPORTS)/soak.xml

.PHONY: invert
invert: build test-packages ## invert each branch of tools/inversions.toml: does its test notice? (long)
	$(BIN)/python tools/invert --jobs $(JOBS)

.PHONY: check
check: ## everything that .ci/run runs; goes on after a failure, and counts
	@tools/check

##@ To measure it
.PHONY: bench-quick
bench-quick: build test-packages ## the table of costs beside nginx and HAProxy, in less than 4 minutes
	$(BIN)/python -m bench.quick

.PHONY: bench-instructions
bench-instructions: build test-packages ## instructions of the hot paths, counted by callgrind: 1 % shows
	$(BIN)/python -m bench.instructions

.PHONY: bench-sensitivity
bench-sensitivity: build test-packages ## does the suite see a fastmesh that is 3 µs a request slower?
	$(BIN)/python -m bench.sensitivity

.PHONY: bench-packages
bench-packages: test-packages $(STAMPS)/bench ## install the proxies that `make bench` compares with

.PHONY: bench
bench: build test-packages $(STAMPS)/bench ## all scenarios beside all peers, in less than 40 minutes
	$(BIN)/python -m bench

.PHONY: bench-sidecar
bench-sidecar: build test-packages $(STAMPS)/bench ## the latency that a hop through a sidecar adds, beside Envoy's
	$(BIN)/python -m bench.sidecar

.PHONY: bench-endurance
bench-endurance: build test-packages ## ten million requests while the configuration changes
	$(BIN)/python -m bench.endurance

##@ Housekeeping
.PHONY: help
help: ## this list
	@awk 'BEGIN {FS = ":.*## "} \
	    /^##@/ {printf "%s%s\n", (n++ ? "\n" : ""), substr($$0, 5)} \
	    /^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' Makefile

.PHONY: clean
clean: ## remove all that was built, .venv too
	rm -rf build dist .venv *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find fastmesh -name '*.so' -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: test-packages
test-packages:
	@tools/packages test $(PYTHON)

$(STAMPS)/venv:
	@mkdir -p $(STAMPS) 2>/dev/null || { echo "Cannot write to $(CURDIR): fastmesh is built in its folder." >&2; exit 1; }
	@tools/packages build $(PYTHON)
	rm -rf $(VENV)
	"$$(tools/find-python $(PYTHON))" -m venv $(VENV)
	@touch $@

# Only what concerns dependencies and metadata; the native half is compiled below, in place.
$(STAMPS)/python: $(STAMPS)/venv pyproject.toml
	@echo "Installing the Python packages of pyproject.toml into $(VENV)"
	@$(BIN)/python -m pip install -q 'setuptools>=77' wheel 'cython>=3.3' && \
	    FASTMESH_SKIP_NATIVE=1 $(BIN)/python -m pip install -q --no-build-isolation -e '.[dev]' || \
	    { echo "pip failed; it needs the Python package index (or PIP_FIND_LINKS / PIP_INDEX_URL)." >&2; exit 1; }
	@touch $@

$(STAMPS)/bench: $(STAMPS)/python
	@echo "Installing the proxies of pyproject.toml that are compared with into $(VENV)"
	@FASTMESH_SKIP_NATIVE=1 $(BIN)/python -m pip install -q --no-build-isolation -e '.[bench]' || \
	    { echo "pip failed; it needs the Python package index (or PIP_FIND_LINKS / PIP_INDEX_URL)." >&2; exit 1; }
	@touch $@

$(STAMPS)/native: $(STAMPS)/python $(native_sources)
	@echo "Compiling the native half"
	@FASTMESH_TEST_MODULES=1 $(BIN)/python setup.py -q build_ext --inplace
	@touch $@
