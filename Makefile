# The two commands of the README do all the set-up: `make demo`, `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := $(VENV)/.installed-demo
PIP := $(BIN)/python -m pip --disable-pip-version-check install
CONSTRAINTS := cdi_stream/constraints.txt

DOCS_STAMP := $(VENV)/.docs-installed
DEPLOY_STAMP := $(VENV)/.deploy-installed

.PHONY: demo test test-all check deploy-check docs fast wheel bench bench-phasing bench-networks gpu campaign clean

$(BIN)/python:
	@echo "environment in $(VENV)"
	$(PYTHON) -m venv $(VENV)

# Packages are compiled when they are first imported: compiling all of them takes longer than the demo.
$(DEMO): pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	@echo "what the demo needs; torch is the largest part, 200 MB or more"
	$(PIP) --no-compile --progress-bar on -c $(CONSTRAINTS) torch==2.13.0 -e '.[run,sim,plot,tiled]'
	@touch $(DEMO)

$(STAMP): pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	@echo "all dependencies; torch is the largest part, 200 MB or more"
	$(PIP) --progress-bar on -c $(CONSTRAINTS) torch==2.13.0 -e '.[test]'
	@touch $(DEMO) $(STAMP)

demo: $(DEMO)  ## simulate a scan, play it through the whole system, draw the crystal
	@echo "the first time the demo simulates a scan and compiles its kernels (a minute together), then it plays the scan"
	mkdir -p demo-results
	$(BIN)/cdi-stream demo --out demo-results --plot demo-results/crystal.png

fast: $(STAMP)  ## the decompressor of DECTRIS as well: needs a C++ compiler and some minutes
	$(PIP) -c $(CONSTRAINTS) -e '.[fast]'

wheel: | $(BIN)/python  ## dist/*.whl and the pinned versions it was tested with
	rm -rf dist build/lib build/bdist.*
	$(BIN)/python -m pip --disable-pip-version-check wheel --no-deps -w dist .
	cp $(CONSTRAINTS) dist/constraints.txt
	@echo "to install it elsewhere: python -m pip install -c dist/constraints.txt '$$(ls dist/*.whl)[all]'"

test: $(STAMP)  ## the default suite
	OMP_WAIT_POLICY=PASSIVE OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

test-all: fast  ## with the slow ones
	OMP_WAIT_POLICY=PASSIVE OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not gpu"

check: $(STAMP)  ## format, lint, types, architecture
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

bench: $(STAMP)  ## ingest and latency, as ratios
	$(BIN)/python -m tests.bench

bench-phasing: $(STAMP)  ## phasing, hours in all; goes on where it stopped; ARGS="--only speed,real --minutes 30"
	$(BIN)/python -m tests.bench.phasing $(ARGS)

bench-networks: $(STAMP)  ## networks: forward passes, and what a polish reaches from them; goes on where it stopped
	$(BIN)/python -m tests.bench.networks $(ARGS)

gpu: $(STAMP)  ## all that needs a GPU, in less than ten minutes: tests, figures and trainings, into gpu-results
	$(BIN)/python -m tests.bench.gpu $(ARGS)

campaign: $(STAMP)  ## faults alone and in pairs, then kills; goes on where it stopped; writes the page of the faults
	OMP_WAIT_POLICY=PASSIVE OPENBLAS_NUM_THREADS=1 $(BIN)/python -m tests.system.campaign --out campaign \
		--page deploy/docs/reference/faults.md $(ARGS)

$(DEPLOY_STAMP): $(STAMP)
	$(BIN)/python -m pip install -q -c $(CONSTRAINTS) -e '.[deploy]'
	@touch $(DEPLOY_STAMP)

deploy-check: $(DEPLOY_STAMP)  ## the files of a deployment, each by its own program (Debian: prometheus docker-compose kubernetes-client slurmctld slurmd slurm-client munge systemd)
	OMP_WAIT_POLICY=PASSIVE OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not gpu" tests/deploy

$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install -q -c $(CONSTRAINTS) -e '.[docs]'
	@touch $(DOCS_STAMP)

docs: $(DOCS_STAMP)  ## the documentation, in build/docs/html; warnings are errors; nothing is loaded from the internet
	$(BIN)/python deploy/docs/figures/draw.py
	$(BIN)/python -m sphinx -W --keep-going -q -j auto -d build/docs/doctrees deploy/docs build/docs/html
	@echo "open build/docs/html/index.html"

clean:
	rm -rf demo-results build *.egg-info
