.DEFAULT_GOAL := help
.PHONY: help setup demo run rehearse-emr ui history test test-emr bench bench-full lint lock clean

PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export VIRTUAL_ENV := $(CURDIR)/.venv

# The demo has its own photos, store and Dagster home, apart from yours.
DEMO_ENV := FRUITS_IMAGES=.demo/images FRUITS_STORE=.demo/store DAGSTER_HOME="$(CURDIR)/.demo/dagster" \
	FRUITS_WEIGHTS=$${FRUITS_WEIGHTS:-embedded}

# Where neither photos nor a store are named, in the environment or in .env, UI and history show the demo.
OWN_ROOTS := $(FRUITS_IMAGES)$(FRUITS_STORE)$(shell grep -sE '^FRUITS_(IMAGES|STORE)=.' .env)

help:
	@echo "make demo   copy sample photos and run the whole pipeline on them"
	@echo "make run    run the whole pipeline on FRUITS_IMAGES"
	@echo "make rehearse-emr   run the pipeline as steps of an EMR cluster, played by a YARN of this machine"
	@echo "make ui     open Dagster's UI on http://127.0.0.1:3000"
	@echo "make history   open Spark's History Server on http://127.0.0.1:18080"
	@echo "make test   run the tests"
	@echo "make test-emr   run the tests of EMR steps, on a YARN of this machine"
	@echo "make bench  compare the speed with the notebook's on two classes (bench-full: all, 40 minutes)"
	@echo "make lint   check style and types"
	@echo "make lock   resolve the dependencies of pyproject.toml anew"

setup: .venv/ready .env

# A Python of 3.11 or later makes the environment; uv fills it from the lock file, checking every hash, and
# compiles it: where PYTHONDONTWRITEBYTECODE is set, every process and worker would do so anew.
.venv/ready: requirements.lock requirements-uv.lock pyproject.toml
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 14), "Python 3.11, 3.12 or 3.13 is needed"'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.lock
	$(BIN)/uv pip install --quiet --compile-bytecode --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e .
	@touch .venv/ready

# What is exported in the shell wins over .env.
.env:
	sed 's|/path/to/this/folder|$(CURDIR)|' .env.example > .env

demo: setup
	@mkdir -p .demo/dagster && cp .dagster/dagster.yaml .demo/dagster
	fruits samples .demo/images
	$(DEMO_ENV) fruits run

run: setup
	fruits run

# Photos where FRUITS_IMAGES names none; without them, the samples.
SHARED_PHOTOS := $(wildcard ../shared/data/fruits-360-5928.tar.gz)

rehearse-emr: setup
	python -m rehearsal.rehearse $(if $(SHARED_PHOTOS),--photos $(SHARED_PHOTOS))

ui: setup
	$(if $(OWN_ROOTS),,$(DEMO_ENV)) dagster dev --host 127.0.0.1 --port $${PORT:-3000}

history: setup
	$(if $(OWN_ROOTS),,$(DEMO_ENV)) fruits history

test: setup
	pytest

test-emr: setup
	pytest tests/yarn

bench: setup
	@python -m benchmarks $(BENCH)

bench-full: setup
	@python -m benchmarks --full $(BENCH)

lint: setup
	ruff check .
	ruff format --check .
	mypy
	lint-imports --no-logo
	shellcheck emr_bootstrap/bootstrap.sh
	cfn-lint --regions eu-west-3 -- emr_bootstrap/template.yaml

lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes --all-extras --upgrade --no-header \
		--no-emit-index-url --no-emit-find-links --quiet pyproject.toml -o requirements.lock
	uv pip compile --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes --upgrade \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links --quiet \
		--constraint requirements.lock emr_bootstrap/requirements.in -o emr_bootstrap/requirements.lock
	echo uv | uv pip compile - --generate-hashes --upgrade --no-header --no-annotate \
		--no-emit-index-url --no-emit-find-links --quiet -o requirements-uv.lock

clean:
	rm -rf .venv .demo .bench
