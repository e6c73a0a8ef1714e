# Each recipe is one line that can be typed by hand: `make` only saves the typing.
PYTHON ?= python3
PORT ?= 8000
HOST ?= 127.0.0.1
SEEDS ?= 200
VENV := .venv
PY := $(VENV)/bin/python

.DEFAULT_GOAL := help

help: ## List what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(VENV)/.run: pyproject.toml requirements/run.txt requirements/install.py
	$(PYTHON) requirements/install.py $(VENV) run

$(VENV)/.test: $(VENV)/.run requirements/test.txt
	$(PYTHON) requirements/install.py $(VENV) test

# A moved folder or an upgraded Python leaves an environment that no longer runs: make it anew.
ifneq ($(wildcard $(VENV)/.run),)
ifneq ($(shell $(PY) -c 'import windvane' 2>/dev/null && echo fine),fine)
$(shell rm -f $(VENV)/.run $(VENV)/.test)
endif
endif

run: $(VENV)/.run ## Gateway and simulated provider on http://127.0.0.1:8000, no key needed (PORT=, HOST=)
	$(PY) -m windvane demo --host $(HOST) --port $(PORT)

demo: run ## The same as run

test: $(VENV)/.test ## The tests that need nothing but Python
	$(PY) -m pytest

test-all: $(VENV)/.test ## All tests: also SIGKILL loops, long simulations, suites of other projects
	$(PY) -m pytest -m "slow or not slow"

sim: $(VENV)/.test ## Simulate SEEDS worlds on virtual time
	$(PY) -m pytest tests/simulation --seeds $(SEEDS)

golden: $(VENV)/.test ## Write the golden files anew; read the diff before you commit it
	$(PY) -m pytest tests/golden --write-golden

bench: $(VENV)/.test ## Measure CPU, latency, memory and start-up beside a plain proxy
	$(PY) -m benchmarks --output docs/benchmarks.md

bench-peers: $(VENV)/.test ## The same, beside LiteLLM and Portkey in environments of their own
	$(PY) -m benchmarks --peers --output docs/benchmarks.md

fmt: $(VENV)/.test ## Format
	$(VENV)/bin/ruff format src tests benchmarks requirements && $(VENV)/bin/ruff check --fix src tests benchmarks requirements

lint: $(VENV)/.test ## Lint and check the format
	$(VENV)/bin/ruff check src tests benchmarks requirements && $(VENV)/bin/ruff format --check src tests benchmarks requirements

types: $(VENV)/.test ## Check types
	$(VENV)/bin/mypy

floors: $(VENV)/.test ## Check that imports go down
	$(VENV)/bin/lint-imports

check: lint types floors test ## Everything a change must pass

lock: ## Pin what is installed, with hashes (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate pyproject.toml requirements/build.in -o requirements/run.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate pyproject.toml requirements/build.in --extra redis --extra test --extra check -c requirements/run.txt -o requirements/test.txt

clean: ## Remove what was made
	rm -rf $(VENV) .bench .pytest_cache .mypy_cache .ruff_cache .hypothesis

.PHONY: help run demo test test-all sim golden bench bench-peers fmt lint types floors check lock clean
