# Commands of the suite. `make` alone lists them; each installs what is missing into .venv first.

SUITE ?=
JUNIT ?=
PART ?=
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# One thread in each test process: results do not depend on the number of cores.
one_thread := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
python := .venv/bin/python
suite_name := $(if $(SUITE),"$(SUITE)")

.PHONY: help setup paper-results dry-run test check baseline bench verify docs lint

help:
	@echo 'make setup            install into .venv (PYTHON=… names the Python 3.11 or 3.12 to use)'
	@echo 'make paper-results    every table and figure, in results/SUITE/'
	@echo 'make dry-run          check the settings and list the stages, without computing anything'
	@echo 'make test             the tests'
	@echo 'make check            are the results worse than the baseline? (JUNIT=FILE writes XML)'
	@echo 'make baseline         accept the present results as the baseline'
	@echo 'make bench            the benchmarks; writes docs/performance.md'
	@echo 'make verify           the long checks, or those named: PART="kills fuzzing"; writes docs/verification.md'
	@echo 'make lint             ruff and mypy'
	@echo 'make docs             the documentation as a site, in site/'
	@echo
	@echo 'SUITE=NAME chooses a suite of params.yaml, for all but test, bench, docs and lint.'

setup: .venv/installed
	@:

.venv/installed: pyproject.toml constraints.txt
	@PYTHON="$(PYTHON)" sh stages/setup

paper-results: setup
	@$(python) -m stages.suite "$(SUITE)" -- dvc repro
	@$(python) -m stages.provenance $(suite_name)

# Without --force DVC would look for each stage's input, which the stage before it has yet to make.
dry-run: setup
	@$(python) -m stages.settings $(suite_name)
	@$(python) -m stages.suite "$(SUITE)" -- dvc repro --dry --force

test: setup
	@$(one_thread) $(python) -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile \
		--no-loadscope-reorder

check: setup
	@$(python) -m stages.check $(suite_name) $(if $(JUNIT),--junit "$(JUNIT)")

baseline: setup
	@$(python) -m stages.baseline $(suite_name)

# The tests' own options leave the benchmarks out. Once as in a process that is left as it is, once
# as in the pipeline's stages, which keep freed memory (stages/run).
bench_run := $(one_thread) $(python) -m pytest benchmarks --override-ini 'addopts=-q' \
	--benchmark-only
bench: setup
	@mkdir -p work
	@$(bench_run) --benchmark-json=work/benchmarks.json
	@MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=4294967296 $(bench_run) \
		-k 'not (growth or profile or start or worker or dvc or memory or processes)' \
		--benchmark-json=work/benchmarks_kept.json
	@$(python) -m benchmarks.page work/benchmarks.json work/benchmarks_kept.json

verify: setup
	@$(python) -m stages.verify $(suite_name) $(PART)

docs: setup
	@NO_MKDOCS_2_WARNING=1 $(python) -m mkdocs build --strict --quiet
	@echo 'The documentation is in site/: open site/index.html'

lint: setup
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check
	@.venv/bin/mypy
