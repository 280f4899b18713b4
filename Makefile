# Two commands on a fresh machine: `make demo` and `make test`. Both build the environment first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# pytest: two workers, one thread each. `make test JOBS=8` on a bigger machine.
JOBS   ?= 2
# Extra arguments, as in `make demo ARGS="--lengths 4k,64k"` or `make test ARGS="tests/rmt -k memory"`.
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help install demo test check format bench train clean

help: ## show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# torch goes first and alone, so that nothing that depends on it can pull in another build.
# An environment that is already there is kept and completed.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev,offline]"
	touch $@

install: $(STAMP) ## build .venv and install everything into it

demo: $(STAMP) ## the main job on real text, start to end
	$(BIN)/rmt demo $(ARGS)

test: $(STAMP) ## the whole test suite, without a network
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) $(ARGS)

check: $(STAMP) ## linter, formatter, types, import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(STAMP) ## let ruff fix and format what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## reading speed and peak memory against the reference
	$(BIN)/python scripts/bench/reading.py $(ARGS)

train: $(STAMP) ## train a model; ARGS="--help" lists the settings
	$(BIN)/rmt train $(ARGS)

clean: ## remove caches and builds, keep the environment and runs
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find rmt efficiency multimodal evals tests scripts -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
