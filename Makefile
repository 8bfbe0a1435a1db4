# One word per command. `make help` lists them.
#
#   make test PYTEST_ARGS="-k layers"     pass arguments on to pytest
#   make bench BENCH_ARGS="--workloads w1"   and to the benchmarks
#   make run PYTHON=python3.12            choose the Python that .venv is made with
#
# Everything is installed into .venv through constraints.txt. A stamp file in .venv remembers what was
# installed; it is older than pyproject.toml or constraints.txt when these have changed, and make installs
# again. A .venv that make did not create has no stamp, so the first call installs what is missing there.

PYTHON ?= python3
PYTEST_ARGS ?=
BENCH_ARGS ?=

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt
# One thread per operation: sums come out in the same order on every machine, and workers don't fight.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 MPLBACKEND=Agg

DEPENDS := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: setup run test check faults doctor bench bench-peers bench-gpu wheel clean help

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

setup: $(VENV)/.stamp-dev  ## make .venv with everything a developer needs

run: $(VENV)/.stamp-run  ## train the quickstart example
	$(PY) examples/01_quickstart.py

test: $(VENV)/.stamp-dev  ## run the tests
	$(TEST_ENV) $(PY) -m pytest -n 2 --dist loadgroup $(PYTEST_ARGS)

check: $(VENV)/.stamp-dev  ## lint, format, types, layers and public names
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(TEST_ENV) $(PY) -m pytest tests/house/test_layers.py tests/house/test_public_names.py

faults: $(VENV)/.stamp-dev  ## kill, cut, damage and fill up, in full (up to 45 minutes)
	$(TEST_ENV) $(PY) tests/faults/all.py

doctor: $(VENV)/.stamp-dev  ## sweep what `trainer.check` names, and its false alarms (up to 10 minutes)
	$(TEST_ENV) $(PY) tests/doctor/sweep.py

bench: $(VENV)/.stamp-dev  ## measure what the loop costs, beside loops by hand (and peers, if they are there)
	$(PY) -m benchmarks $(BENCH_ARGS)

bench-peers: | $(PY)  ## make .venv-peers with the libraries that `make bench` compares with
	$(PY) -m benchmarks.install_peers

bench-gpu: $(VENV)/.stamp-dev  ## measure it on a GPU
	$(PY) -m benchmarks.gpu

wheel: $(VENV)/.stamp-dev  ## build the wheel into dist/
	$(PY) -m build --wheel --no-isolation

clean:  ## remove builds and caches (.venv stays; delete it to start afresh)
	rm -rf build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# Only when it is missing: its own date says nothing, hence "order-only" below.
$(PY):
	@echo "Making $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.stamp-run: $(DEPENDS) | $(PY)
	@echo "Installing deepepochs_like and what the examples need (the first time takes minutes)"
	@$(PIP) -e '.[examples]'
	@touch $@

# Holds all that the examples need too, so that `make run` after it installs nothing.
$(VENV)/.stamp-dev: $(DEPENDS) | $(PY)
	@echo "Installing deepepochs_like and the developers' tools (the first time takes minutes)"
	@$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.stamp-run
