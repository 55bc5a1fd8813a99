# The two commands of the README do all the set-up: `make demo`, `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.docs-installed

.PHONY: demo test test-all check bench bench-phasing bench-networks docs clean

$(STAMP): pyproject.toml constraints.txt
	@echo "[1/4] environment in $(VENV)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade "pip>=24" "setuptools>=77" wheel
	@echo "[2/4] torch, the largest part: 200 MB or more, a few minutes"
	$(BIN)/python -m pip install --progress-bar on -c constraints.txt torch==2.13.0
	@echo "[3/4] the other dependencies and cdi-stream: a few minutes"
	$(BIN)/python -m pip install --progress-bar on -c constraints.txt -e '.[test]'
	@touch $(STAMP)
	@echo "[4/4] installed"

demo: $(STAMP)  ## simulate a scan, play it through the whole system, draw the crystal
	@echo "the demo simulates a scan the first time (a minute), compiles its kernels (a minute), then plays it"
	$(BIN)/cdi-stream demo --out demo-results --plot demo-results/crystal.png

test: $(STAMP)  ## the default suite
	OMP_WAIT_POLICY=PASSIVE OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

test-all: $(STAMP)  ## with the slow ones
	OMP_WAIT_POLICY=PASSIVE OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not gpu"

check: $(STAMP)  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(STAMP)  ## ingest and latency, as ratios
	$(BIN)/python -m tests.bench

bench-phasing: $(STAMP)  ## phasing, hours in all; goes on where it stopped; ARGS="--only speed,real --minutes 30"
	$(BIN)/python -m tests.bench.phasing $(ARGS)

bench-networks: $(STAMP)  ## networks: forward passes, and what a polish reaches from them; goes on where it stopped
	$(BIN)/python -m tests.bench.networks $(ARGS)

$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[docs]'
	@touch $(DOCS_STAMP)

docs: $(DOCS_STAMP)  ## the documentation, in build/docs/html; warnings are errors; nothing is loaded from the internet
	$(BIN)/python deploy/docs/figures/draw.py
	$(BIN)/python -m sphinx -W --keep-going -q -j auto -d build/docs/doctrees deploy/docs build/docs/html
	@echo "open build/docs/html/index.html"

clean:
	rm -rf demo-results build *.egg-info
