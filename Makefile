.DEFAULT_GOAL := help
# A target whose recipe fails is removed: a half-written file would count as made.
.DELETE_ON_ERROR:
.PHONY: help setup setup-run demo run rehearse-emr ui history test test-random test-emr test-slow test-all bench bench-full faults lint lock clean

PYTHON ?= python3
BIN := .venv/bin
# The name of this folder may have any character but a colon, a right brace or a line break. Recipes never get it
# as text of make, which their shell would execute, but as PWD. `value` keeps make from expanding a $ in a variable.
export PATH := $(CURDIR)/$(BIN):$(value PATH)
export VIRTUAL_ENV := $(CURDIR)/.venv

# The demo has its own photos, store and Dagster home, apart from yours.
DEMO_ENV := FRUITS_IMAGES=.demo/images FRUITS_STORE=.demo/store DAGSTER_HOME="$$PWD/.demo/dagster" \
	FRUITS_WEIGHTS=$${FRUITS_WEIGHTS:-embedded}

# If neither the environment nor .env names photos or a store, the UI and the history show the demo.
OWN_ROOTS := $(value FRUITS_IMAGES)$(value FRUITS_STORE)$(shell grep -sE '^FRUITS_(IMAGES|STORE)=.' .env)

help:
	@echo "make demo          run the whole pipeline on sample photos"
	@echo "make run           run the whole pipeline on FRUITS_IMAGES"
	@echo "make ui            start Dagster's UI on http://127.0.0.1:3000"
	@echo "make history       start Spark's History Server on http://127.0.0.1:18080"
	@echo "make rehearse-emr  run the pipeline on an EMR cluster that this machine simulates"
	@echo
	@echo "make setup         install everything that development needs into .venv"
	@echo "make lint          check style, types, imports, shell, CloudFormation and Dockerfile"
	@echo "make test          run the quick tests"
	@echo "make test-emr      run the tests of EMR steps, on a YARN cluster on this machine"
	@echo "make test-slow     run the tests that take minutes each, also those of EMR steps; 30 minutes"
	@echo "make test-random   change photos 200 times, kill runs, and compare the store with a fresh run"
	@echo "make test-all      run lint, all tests, the rehearsal of EMR and the demo"
	@echo "make bench         compare the speed with the notebook baseline on two classes"
	@echo "make bench-full    the same on all classes; 90 minutes"
	@echo "make faults        kill runs, cut the power and flip bits, and show what is lost; 40 minutes, as root"
	@echo "make lock          upgrade all lock files; UPGRADE= keeps the versions that they have"
	@echo "make clean         delete .venv and the outputs of the demo and the benchmarks"

setup: .venv/ready .env

setup-run: .venv/run .env

# A Python of 3.11 or later creates the environment. uv installs the lock file and checks each hash. It compiles
# the packages: where PYTHONDONTWRITEBYTECODE is set, each process and Spark worker would compile them again.
.venv/run: requirements.lock requirements-build.lock pyproject.toml
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 14), "Python 3.11, 3.12 or 3.13 is needed"'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-build.lock
	$(BIN)/uv pip install --quiet --compile-bytecode --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e .
	@touch .venv/run

.venv/ready: .venv/run requirements-dev.lock
	$(BIN)/uv pip install --quiet --compile-bytecode --require-hashes -r requirements-dev.lock
	@touch .venv/ready

# A variable that the shell exports overrides its line in .env. The file is for its owner alone, because it may hold
# keys of AWS, and so is the folder of Dagster's records. The file is renamed when it is whole. The first sed is for
# the quotes in .env, the second for the third.
.env:
	@case "$$PWD" in *[:}]*) \
		echo "The folder $$PWD has a : or a } in its name. Move it to a folder without them." >&2; exit 1;; esac
	umask 077 && folder=$$(printf '%s' "$$PWD" | sed 's/[\\"]/\\&/g' | sed 's/[\\&|]/\\&/g') && \
		sed "s|/path/to/this/folder|$$folder|" .env.example > .env.new && mv .env.new .env
	@mkdir -p .dagster && chmod 700 .dagster

demo: setup-run
	@umask 077 && mkdir -p .demo/dagster && cp .dagster/dagster.yaml .demo/dagster
	fruits samples .demo/images
	$(DEMO_ENV) fruits run

run: setup-run
	fruits run

# If FRUITS_IMAGES names no photos: those of the shared folder, else the sample photos.
SHARED_PHOTOS := $(wildcard ../shared/data/fruits-360-5928.tar.gz)

rehearse-emr: setup
	python -m rehearsal.rehearse $(if $(SHARED_PHOTOS),--photos $(SHARED_PHOTOS))

ui: setup-run
	$(if $(OWN_ROOTS),,$(DEMO_ENV)) fruits ui --port $${PORT:-3000}

history: setup-run
	$(if $(OWN_ROOTS),,$(DEMO_ENV)) fruits history

test: setup
	pytest

test-emr: setup
	pytest tests/yarn

test-slow: setup
	pytest -m slow
	pytest -m slow tests/yarn

test-random: setup
	pytest tests/fruits_assets/test_random_changes.py --random-changes 200

test-all: lint test test-random test-emr test-slow rehearse-emr demo

bench: setup
	@python -m benchmarks $(BENCH)

bench-full: setup
	@python -m benchmarks --full $(BENCH)

# ROW=kills runs one row. A call that was cut goes on after its last finished round.
faults: setup
	@python -m benchmarks.faults --page docs/reliability.md $(ROW)

lint: setup
	ruff check .
	ruff format --check .
	mypy
	lint-imports --no-logo
	shellcheck .ci/run emr_bootstrap/bootstrap.sh
	cfn-lint --regions eu-west-3 -- emr_bootstrap/template.yaml
	hadolint Dockerfile

# requirements-dev.lock has the run-time packages and those of the extra `dev`. The other locks take their
# versions from it. The lock of the nodes has the hashes of the wheels for all platforms. It is resolved for x86-64,
# because uv refuses the name of OpenVINO's wheel for aarch64 (resources/emr/wheels.py).
UPGRADE := --upgrade
COMPILE = uv pip compile --generate-hashes --no-header --no-emit-index-url --no-emit-find-links --quiet $(UPGRADE)
UNIVERSAL := --universal --python-version 3.11

lock:
	$(COMPILE) $(UNIVERSAL) --extra dev pyproject.toml -o requirements-dev.lock
	$(COMPILE) $(UNIVERSAL) --constraint requirements-dev.lock pyproject.toml -o requirements.lock
	printf 'uv\nsetuptools\n' | $(COMPILE) $(UNIVERSAL) --no-annotate --constraint requirements-dev.lock - \
		-o requirements-build.lock
	$(COMPILE) --python-version 3.11 --python-platform x86_64-manylinux_2_28 --no-annotate \
		--constraint requirements-dev.lock emr_bootstrap/requirements.in -o emr_bootstrap/requirements.lock

clean:
	rm -rf .venv .demo .bench .faults
