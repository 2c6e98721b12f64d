# Five words: demo, test, check, bench, goldens. Each makes its own venv and
# needs nothing but python3; VENV=... and PYTHON=... choose others.

MAKEFLAGS += --no-print-directory
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= test
# What `make bench` measures.
MODEL ?= t5_1_1_small
METHODS ?= prompt full

comma := ,
BIN := $(VENV)/bin
# One stamp per set of extras: made once, and again when setup.py changes.
STAMP := $(VENV)/installed-$(subst $(comma),-,$(EXTRAS))

.PHONY: demo test check bench goldens

# Trains, evaluates and exports a prompt; the last line on stdout is JSON.
demo: $(STAMP)
	@$(BIN)/python launch/demo.py

# The whole suite.
test: $(STAMP)
	@$(BIN)/python -m pytest

# What a change has to pass: style, the fast tests, and the wheel as built.
check: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/python -m pytest -m 'not slow'
	@$(BIN)/python -m pytest tests/packaging_test.py

# Seconds per step, as a table; reported and never asserted.
bench: $(STAMP)
	@rm -f $(VENV)/bench.jsonl
	@for method in $(METHODS); do \
	  $(BIN)/python benchmarks/step.py --model $(MODEL) --method $$method \
	    --json $(VENV)/bench.jsonl > /dev/null || exit 1; done
	@$(BIN)/python benchmarks/table.py $(VENV)/bench.jsonl

# Writes tests/goldens anew; `git diff tests/goldens` shows what moved.
goldens: $(STAMP)
	@$(BIN)/python -m tests.goldens_test --update

# All of pip's words go to stderr: stdout belongs to the command.
$(STAMP): setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "prompt_jax needs Python 3.11 or newer, and '$(PYTHON)' is not." \
	    "Install one and name it: make PYTHON=/path/to/python3.11" >&2; \
	  exit 1; }
	@echo "Installing .[$(EXTRAS)] into $(VENV); minutes the first time." >&2
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) >&2
	@$(BIN)/python -m pip install -q -e '.[$(EXTRAS)]' >&2
	@touch $@
