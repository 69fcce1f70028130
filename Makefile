# make results   environment, data, every table and figure
# make report    the same, and one HTML file that opens offline
# make quick     the whole workflow on a small configuration, minutes
# make status    up-to-date and stale results, with the reasons; runs nothing
# make pull      fetch published results
# make publish   publish the results of this clone
# make test      environment, lint, types, unit tests, the whole workflow on real data
# make sbom      the bill of materials of the environment, CycloneDX
# make test-long longer tests: a hundred kills, Slurm
#
# CORES=4 sets the number of cores, CONFIG=config/full.yaml another configuration, PYTHON=/path/to/python the interpreter.

CORES ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
CONFIG ?= config/default.yaml
# Literally, as one word for the shell: a $ in it names no variable.
override CONFIG := $(value CONFIG)
CONFIGFILE := --configfile '$(subst ','\'',$(CONFIG))'
FITS = import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))
PYTHON ?= $(firstword $(foreach python,python3 python3.11 python3.12 python3.13 python3.14,$(shell $(python) -c '$(FITS)' 2>/dev/null && echo $(python))))

# The Python of the environment starts its programs: their first line has its whole path, and the system
# reads no such line that is long or has a space in it.
BIN := .venv/bin
SNAKEMAKE := $(BIN)/python -m snakemake --cores $(CORES) $(CONFIGFILE)
SOURCES := src tests benchmarks
RULES := Snakefile workflow/rules/*.smk

INSTALL := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install -q --no-deps --no-build-isolation
COMPILE := uv pip compile --universal --generate-hashes --python-version 3.11

.PHONY: results report quick status pull publish test test-long lint environment lock sbom schema clean
.DEFAULT_GOAL := results

results: environment
	@$(SNAKEMAKE)

report: environment
	@$(SNAKEMAKE)
	@$(BIN)/python -m ppml.pipeline.html_report $(CONFIGFILE)

quick: environment
	@$(MAKE) --no-print-directory report CONFIG=config/smoke.yaml

status: environment
	@$(BIN)/python -B -m ppml.pipeline.status $(CONFIGFILE)

pull: environment
	@$(BIN)/python -m ppml.pipeline.pull

publish: environment
	@$(BIN)/python -m ppml.pipeline.publish $(CONFIGFILE)

# One process more than cores: many tests wait for a workflow.
test: lint
	@$(BIN)/python -m pytest --ignore=tests/long --numprocesses=$$(($(CORES) + 1)) --dist=loadfile --no-loadscope-reorder

test-long: environment
	@$(BIN)/python -m pytest -s -o timeout=0 -o faulthandler_timeout=0 tests/long

lint: environment
	@$(BIN)/python -m ruff format --check -q $(SOURCES)
	@$(BIN)/python -m ruff check -q $(SOURCES)
	@$(BIN)/python -m snakefmt --check $(RULES) 2>/dev/null || { echo 'error: $(BIN)/python -m snakefmt $(RULES) changes something' >&2; exit 1; }
	@$(BIN)/python -m snakemake --lint --configfile config/smoke.yaml
	@$(BIN)/python -m mypy
	@$(BIN)/python tests/plain_english.py

environment: .venv/.ready

# The locks are complete: --no-deps takes them without resolution. build.lock has pip and the build tools. They build the
# packages of sdists.lock, and this package, without build isolation, which would fetch other tools, and again, since other
# tools may have built the wheels in pip's cache. All other packages are wheels.
.venv/.ready: export INTERPRETER = $(PYTHON)
.venv/.ready: build.lock sdists.lock requirements.lock pyproject.toml
	@test -n "$$INTERPRETER" || { echo 'error: Python 3.11 to 3.14 is needed and none was found; set PYTHON=/path/to/python' >&2; exit 1; }
	@"$$INTERPRETER" -c '$(FITS)' || { echo "error: Python 3.11 to 3.14 is needed, $$INTERPRETER is $$("$$INTERPRETER" -V 2>&1)" >&2; exit 1; }
	@echo 'making the environment in .venv (once; about 6 GB, some minutes)'
	@"$$INTERPRETER" -m venv .venv
	@$(INSTALL) --require-hashes --only-binary :all: -r build.lock
	@$(INSTALL) --require-hashes --no-binary :all: --no-cache-dir --force-reinstall -r sdists.lock
	@$(INSTALL) --require-hashes --only-binary :all: -r requirements.lock
	@$(INSTALL) --no-index -e .
	@touch $@

# Resolve the pins again for Python 3.11 to 3.14 (needs uv). An unnamed package without a wheel is refused.
lock:
	$(COMPILE) pyproject.toml --extra dev --only-binary :all: --no-binary antlr4-python3-runtime --no-binary connection-pool -o requirements.lock
	$(COMPILE) --group pyproject.toml:build --constraint requirements.lock --only-binary :all: -o build.lock
	$(COMPILE) --group pyproject.toml:sdists --constraint requirements.lock --no-binary :all: --no-deps -o sdists.lock

# The bill of materials: the pins of requirements.lock, with hashes and licences, in CycloneDX's JSON.
sbom: environment
	@$(BIN)/python -m ppml.pipeline.sbom build/sbom.cdx.json

# config/schema.json, from the models.
schema: environment
	@$(BIN)/python -m ppml.config.schema > config/schema.json

# Remove all results of the workflow; .venv and the downloaded data stay.
clean:
	rm -rf build logs logs-* artifacts artifacts-* reports-* data/subsets data/transformed data/features .snakemake
