# make results   environment, data, every table and figure
# make report    the same, and one HTML file that opens offline
# make quick     a first look: the whole workflow on a small configuration, minutes
# make status    what is up to date, and what is not because of what; runs nothing
# make pull      bring what others have computed and published
# make publish   publish what is computed here
# make test      environment, lint, types, unit tests, the whole workflow on real data
# make test-long what takes longer: a hundred kills, Slurm
#
# CORES=4 sets the number of cores, CONFIG=config/full.yaml another configuration, PYTHON=/path/to/python the interpreter.

CORES ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
CONFIG ?= config/default.yaml
FITS = import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))
PYTHON ?= $(firstword $(foreach python,python3 python3.11 python3.12 python3.13 python3.14,$(shell $(python) -c '$(FITS)' 2>/dev/null && echo $(python))))

BIN := .venv/bin
SNAKEMAKE := $(BIN)/snakemake --cores $(CORES) --configfile $(CONFIG)
SOURCES := src tests workflow benchmarks
RULES := Snakefile workflow/rules/*.smk

.PHONY: results report quick status pull publish test test-long lint environment lock schema clean
.DEFAULT_GOAL := results

results: environment
	@$(SNAKEMAKE)

report: environment
	@$(SNAKEMAKE)
	@$(BIN)/python workflow/html_report.py --configfile $(CONFIG)

quick: environment
	@$(MAKE) --no-print-directory report CONFIG=config/smoke.yaml

status: environment
	@$(BIN)/python workflow/status.py --configfile $(CONFIG)

pull: environment
	@$(BIN)/python workflow/pull.py

publish: environment
	@$(BIN)/python workflow/publish.py --configfile $(CONFIG)

test: lint
	@$(BIN)/python -m pytest --ignore=tests/long --numprocesses=auto --dist=loadfile

test-long: environment
	@$(BIN)/python -m pytest -s -o timeout=0 -o faulthandler_timeout=0 tests/long

lint: environment
	@$(BIN)/ruff format --check -q $(SOURCES)
	@$(BIN)/ruff check -q $(SOURCES)
	@$(BIN)/snakefmt --check $(RULES) 2>/dev/null || { echo 'error: $(BIN)/snakefmt $(RULES) changes something' >&2; exit 1; }
	@$(BIN)/snakemake --lint --configfile config/smoke.yaml
	@$(BIN)/mypy

environment: .venv/.ready

# The lock is complete, so nothing has to be resolved: --no-deps takes it as it stands.
.venv/.ready: requirements.lock pyproject.toml
	@test -n '$(PYTHON)' || { echo 'error: Python 3.11 to 3.14 is needed and none was found; set PYTHON=/path/to/python' >&2; exit 1; }
	@$(PYTHON) -c '$(FITS)' || { echo "error: Python 3.11 to 3.14 is needed, $(PYTHON) is $$($(PYTHON) -V 2>&1)" >&2; exit 1; }
	@echo 'making the environment in .venv (once; about 6 GB, some minutes)'
	@$(PYTHON) -m venv .venv
	@PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install -q --no-deps --require-hashes -r requirements.lock
	@PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install -q --no-deps --no-build-isolation --no-index -e .
	@touch $@

# The pins of requirements.lock, resolved anew for Python 3.11 to 3.14 (needs uv).
lock:
	uv pip compile pyproject.toml --extra dev --universal --generate-hashes --python-version 3.11 -o requirements.lock

# config/schema.json, from the models.
schema: environment
	@$(BIN)/python -m ppml.config.schema > config/schema.json

# Everything that the workflow made; .venv and the downloaded data stay.
clean:
	rm -rf build logs logs-* artifacts artifacts-* reports-* data/subsets data/features .snakemake
