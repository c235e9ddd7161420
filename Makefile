# Everything a person types here sets itself up on a fresh machine: Python 3.11 and make are enough.
#
#   make demo     three invented hospitals, federated training, a report with pictures
#   make consortium-demo   the same kind of run over real processes: SuperLink, nodes, TLS
#   make test     formatting, lint, types, tests: exactly what CI runs
#   make slow     the tests that take minutes
#   make docs     write the real --help texts into the READMEs
#   make format   format and fix what can be fixed without thinking
#   make bundle   everything to install without a network, in dist/bundle (ROLE=client or server)
#   make clean    remove the environment and caches; runs/ stays

SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WORKERS ?= 2
ROLE ?= client

# One thread per process: two threads on a busy core are slower than one.
export OMP_NUM_THREADS ?= 1
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: help demo consortium-demo test slow lint docs format bundle clean setup

help:
	@sed -n 's/^#   //p' Makefile

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@set -eu; \
	for candidate in "$${PYTHON:-}" $$(type -aP python3.11 python3 python || true); do \
	  [ -n "$$candidate" ] || continue; \
	  if "$$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != (3, 11))' \
	    >/dev/null 2>&1; then found="$$candidate"; break; fi; \
	done; \
	if [ -z "$${found:-}" ]; then \
	  echo "No Python 3.11 with venv found. Install it, or name one: make PYTHON=<its path>" >&2; \
	  exit 1; \
	fi; \
	echo "Setting up $(VENV) with $$($$found --version) (once; several minutes)"; \
	"$$found" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input \
	  -c constraints.txt -e '.[dev]'
	@touch $(READY)

demo: $(READY)
	$(BIN)/mfm-simulate run simulation/studies/demo.yaml

consortium-demo: $(READY)
	$(BIN)/mfm-simulate consortium simulation/studies/consortium.yaml

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

slow: $(READY)
	$(BIN)/python -m pytest -m slow

docs: $(READY)
	$(BIN)/python -m tests.house.help_text

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bundle: $(READY)
	$(BIN)/python deploy/airgap/build.py --role $(ROLE)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache *.egg-info
