# Commands of the suite. `make` alone lists them; each installs what is missing into .venv first.

SUITE ?=
JUNIT ?=
PART ?=
REV ?=
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# One thread in each test process: results do not depend on the number of cores.
one_thread := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
python := .venv/bin/python
suite_name := $(if $(SUITE),"$(SUITE)")
space := $() $()
# The suite's pipeline: the default suite's lies here, the others' in suites/.
pipeline = $$($(python) -m stages.pipeline $(suite_name))

.PHONY: help setup paper-results dry-run report overview reported status fingerprints diff test check baseline bench verify \
	plots suites house clean-work docs lint

help:
	@echo 'make setup            install into .venv (PYTHON=… names the Python 3.11 or 3.12 to use)'
	@echo 'make paper-results    every table and figure, in results/SUITE/'
	@echo 'make dry-run          check the settings and list the stages, without computing anything'
	@echo 'make report           draw the report again from the committed results'
	@echo 'make overview         one report over all published suites, in results/overview/'
	@echo 'make reported         measure what others published again; writes docs/reported.md'
	@echo 'make status           which stages are stale, and why'
	@echo 'make fingerprints     record an edit that changes no result, without computing anything'
	@echo 'make diff             what changed against the committed results (REV=… another revision)'
	@echo 'make test             the tests'
	@echo 'make check            are the results worse than the baseline? (JUNIT=FILE writes XML)'
	@echo 'make baseline         accept the present results as the baseline'
	@echo 'make plots            the plots of DVC on a page that needs no network'
	@echo 'make bench            the benchmarks; writes docs/performance.md'
	@echo 'make verify           the long tests, or those named: PART="kills fuzzing"; writes docs/verification.md'
	@echo 'make suites           copy dvc.yaml into the folder of every suite'
	@echo 'make house            draw the packages and their imports into docs/house.md'
	@echo 'make clean-work       remove the saved results of trainings that no suite uses any more'
	@echo 'make lint             ruff and mypy'
	@echo 'make docs             the documentation as a site, in site/'
	@echo
	@echo 'SUITE=NAME chooses a suite: the default one of params.yaml, or one of suites/.'

setup: .venv/installed
	@:

.venv/installed: pyproject.toml constraints.txt
	@PYTHON="$(PYTHON)" sh stages/setup

# A second DVC waits while the first one has the lock of the repository.
paper-results: setup
	@pipeline=$(pipeline) && dvc --wait-for-lock repro "$$pipeline"
	@$(python) -m stages.provenance $(suite_name)

# Without --force DVC would look for each stage's input, which the stage before it has yet to make.
dry-run: setup
	@$(python) -m stages.settings.suite $(suite_name)
	@pipeline=$(pipeline) && dvc repro --dry --force "$$pipeline"

# From the committed results, without any training.
report: setup
	@pipeline=$(pipeline) && dvc --wait-for-lock repro --single-item "$$pipeline:fingerprint" && \
		dvc --wait-for-lock repro --single-item "$$pipeline:report"

overview: setup
	@$(python) -m stages.overview

reported: setup
	@$(python) -m stages.reported

status: setup
	@$(python) -m stages.status $(suite_name)

fingerprints: setup
	@pipeline=$(pipeline) && dvc --wait-for-lock repro --single-item "$$pipeline:fingerprint"

diff: setup
	@$(python) -m stages.diff $(suite_name) $(if $(REV),--rev "$(REV)")

test: setup
	@$(one_thread) $(python) -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile \
		--no-loadscope-reorder

check: setup
	@$(python) -m stages.check $(suite_name) $(if $(JUNIT),--junit "$(JUNIT)")

baseline: setup
	@$(python) -m stages.baseline $(suite_name)

plots: setup
	@$(python) -m stages.plots $(suite_name)

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

# The page is written whatever they find.
verify: setup
	@mkdir -p work && rm -f work/verify.xml
	@$(one_thread) $(python) -m pytest tests/long -m long --durations 10 --junit-xml work/verify.xml \
		$(if $(SUITE),--suite "$(SUITE)") $(if $(PART),-k "$(subst $(space), or ,$(strip $(PART)))"); \
		code=$$?; [ -f work/verify.xml ] && $(python) tests/long/page.py work/verify.xml; exit $$code

suites:
	@for folder in suites/*/; do cp dvc.yaml "$$folder"dvc.yaml; done

house: setup
	@$(python) -m stages.house

clean-work: setup
	@$(python) -m stages.clean_work

docs: setup
	@NO_MKDOCS_2_WARNING=1 $(python) -m mkdocs build --strict --quiet
	@echo 'The documentation is in site/: open site/index.html'

lint: setup
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check
	@.venv/bin/mypy
