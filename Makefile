# `make help` prints the targets: the text after ## of each.
#
# CORES=4 sets the number of cores, CONFIG=config/full.yaml another configuration, PYTHON=/path/to/python the interpreter.

CORES ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
CONFIG ?= config/default.yaml
# Literally, as one word for the shell: a $ in it names no variable, and make runs no $(shell ...) in it for the environment.
$(foreach name,CONFIG ARMS NAME FROM,$(eval override $(name) := $$(value $(name))))
quoted = '$(subst ','\'',$(value $(1)))'
CONFIGFILE := --configfile $(call quoted,CONFIG)
FITS = import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))
PYTHON ?= $(firstword $(foreach python,python3 python3.11 python3.12 python3.13 python3.14,$(shell $(python) -c '$(FITS)' 2>/dev/null && echo $(python))))

# The Python of the environment starts its programs: their first line has its whole path, and the system
# reads no such line that is long or has a space in it.
BIN := .venv/bin
SNAKEMAKE := $(BIN)/python -m snakemake --cores $(CORES) $(CONFIGFILE)
PIECE := $(BIN)/python -m ppml.pipeline.piece
# At once: Python reads its packages for seconds, at a cold start for many.
START = @echo 'make $@: starting' >&2
SOURCES := src tests benchmarks
RULES := Snakefile workflow/rules/*.smk

INSTALL := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install -q --no-deps --no-build-isolation --no-compile
COMPILE := uv pip compile --universal --generate-hashes --python-version 3.11

.PHONY: help results everything report pdf quick only table figure status pull bundle publish test browser test-long lint style types environment lock sbom schema clean
# An hour of work does not start by accident.
.DEFAULT_GOAL := help

help: ## this list
	@echo 'make TARGET [CORES=4] [CONFIG=config/smoke.yaml] [PYTHON=/path/to/python]'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

results: environment ## environment, data, every table and figure of CONFIG
	$(START)
	@$(SNAKEMAKE)

everything: environment ## the results of every published configuration, one after another
	$(START)
	@$(BIN)/python -m ppml.pipeline.everything --cores $(CORES)

report: environment ## results, and one HTML file that opens offline
	$(START)
	@$(SNAKEMAKE)
	@$(BIN)/python -m ppml.pipeline.html_report $(CONFIGFILE)

pdf: environment ## results, and one PDF of all tables and figures
	$(START)
	@$(SNAKEMAKE)
	@$(BIN)/python -m ppml.pipeline.html_report --format pdf $(CONFIGFILE)

quick: environment ## the report of a small configuration, in two minutes
	@$(MAKE) --no-print-directory report CONFIG=config/smoke.yaml

only: environment ## the runs of some arms: make only ARMS=fl,dp
	$(START)
	@$(PIECE) only --cores $(CORES) $(CONFIGFILE) -- $(call quoted,ARMS)

table figure: environment
	$(START)
	@$(PIECE) $@ --cores $(CORES) $(CONFIGFILE) -- $(call quoted,NAME)
table: ## one table: make table NAME=techniques-summary
figure: ## one figure: make figure NAME=techniques-history

status: environment ## up-to-date and stale results, with reasons and the expected time; runs nothing
	$(START)
	@$(BIN)/python -B -m ppml.pipeline.status --cores $(CORES) $(CONFIGFILE)

pull: environment ## fetch published results; FROM=bundle.tar, a folder or an address: from there
	$(START)
	@$(BIN)/python -m ppml.pipeline.pull $(if $(value FROM),--from=$(call quoted,FROM))

bundle: environment ## one archive of the published files of the last commit, for make pull FROM=
	$(START)
	@$(BIN)/python -m ppml.pipeline.bundle

publish: environment ## publish the results of every published configuration (CONFIG has no effect)
	$(START)
	@$(BIN)/python -m ppml.pipeline.publish

# One process more than cores: many tests wait for a workflow.
test: environment ## lint, types, unit tests, the whole workflow on real data
	@$(MAKE) --no-print-directory -j3 style types browser
	@$(BIN)/python -m pytest --ignore=tests/long --numprocesses=$$(($(CORES) + 1)) --dist=loadfile --no-loadscope-reorder

# The browser of the report's test, where the system lacks it and apt installs it.
browser: export DEBIAN_FRONTEND = noninteractive
browser: ## Chromium, for the test of the report
	@for name in chromium chromium-browser google-chrome; do command -v $$name >/dev/null && exit 0; done; \
	test "$$(id -u)" = 0 && command -v apt-get >/dev/null || exit 0; \
	echo 'installing chromium for the test of the report (once; the test is skipped without it)'; \
	{ apt-get update && timeout 900 apt-get install -y --no-install-recommends chromium; } >/dev/null 2>&1 || true

test-long: environment ## longer tests: a hundred kills, Slurm
	@$(BIN)/python -m pytest -s -o timeout=0 -o faulthandler_timeout=0 tests/long

lint: style types ## style, types and language of the code

style: environment ## style and language of the code, a part of lint
	$(START)
	@$(BIN)/python -m ruff format --check -q $(SOURCES)
	@$(BIN)/python -m ruff check -q $(SOURCES)
	@$(BIN)/python -m snakefmt --check $(RULES) 2>/dev/null || { echo 'error: $(BIN)/python -m snakefmt $(RULES) changes something' >&2; exit 1; }
	@$(BIN)/python -m snakemake --lint --configfile config/smoke.yaml
	@$(BIN)/python tests/plain_english.py

types: environment ## types of the code, a part of lint
	@$(BIN)/python -m mypy

environment: .venv/.ready ## the pinned packages, in .venv

# The locks are complete: --no-deps takes them without resolution. build.lock has pip and the build tools. They build the
# packages of sdists.lock, and this package, without build isolation, which would fetch other tools, and again, since other
# tools may have built the wheels in pip's cache. All other packages are wheels. All modules are compiled at the end, on all
# cores: pip compiles on one, and where PYTHONDONTWRITEBYTECODE is set, as in many containers, each process would compile
# its imports again. A few files are for other versions of Python.
.venv/.ready: export INTERPRETER = $(PYTHON)
.venv/.ready: build.lock sdists.lock requirements.lock pyproject.toml
	@test -n "$$INTERPRETER" || { echo 'error: Python 3.11 to 3.14 is needed and none was found; set PYTHON=/path/to/python' >&2; exit 1; }
	@"$$INTERPRETER" -c '$(FITS)' || { echo "error: Python 3.11 to 3.14 is needed, $$INTERPRETER is $$("$$INTERPRETER" -V 2>&1)" >&2; exit 1; }
	@echo 'making the environment in .venv (once; about 6.5 GB, some minutes)'
	@"$$INTERPRETER" -m venv .venv
	@echo '1 of 4: pip and build tools'
	@$(INSTALL) --require-hashes --only-binary :all: -r build.lock
	@echo '2 of 4: packages without wheels'
	@$(INSTALL) --require-hashes --no-binary :all: --no-cache-dir --force-reinstall -r sdists.lock
	@echo '3 of 4: all other packages, the longest step'
	@$(INSTALL) --require-hashes --only-binary :all: -r requirements.lock
	@echo '4 of 4: this package, and the compilation of all modules'
	@$(INSTALL) --no-index -e .
	@$(BIN)/python -m compileall -qq -j 0 .venv/lib || true
	@mkdir -p .venv/share/vega && cp .venv/lib/python3*/site-packages/snakemake/assets/data/vega*/vega*.js .venv/share/vega
	@touch $@

# Resolve the pins again for Python 3.11 to 3.14 (needs uv). An unnamed package without a wheel is refused.
lock: ## resolve the pins again (needs uv)
	$(COMPILE) pyproject.toml --extra dev --only-binary :all: --no-binary antlr4-python3-runtime --no-binary connection-pool -o requirements.lock
	$(COMPILE) --group pyproject.toml:build --constraint requirements.lock --only-binary :all: -o build.lock
	$(COMPILE) --group pyproject.toml:sdists --constraint requirements.lock --no-binary :all: --no-deps -o sdists.lock

# The bill of materials: the pins of requirements.lock, with hashes and licences, in CycloneDX's JSON.
sbom: environment ## the bill of materials of the environment, CycloneDX
	@$(BIN)/python -m ppml.pipeline.sbom build/sbom.cdx.json

# config/schema.json, from the models.
schema: environment ## config/schema.json
	@$(BIN)/python -m ppml.config.schema > config/schema.json

# Remove all results of the workflow; .venv and the downloaded data stay.
clean: ## remove all results; .venv and the downloaded data stay
	rm -rf build logs logs-* artifacts artifacts-* reports-* data/subsets data/transformed data/features .snakemake
