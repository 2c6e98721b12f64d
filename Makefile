# Ten words: demo, demo-full, test, test-interop, check, bench, bench-peers,
# figures, goldens, backbones. Each makes its own venv and needs nothing but
# python3; VENV=... and PYTHON=... choose others.

MAKEFLAGS += --no-print-directory
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= test
# What `make bench` measures.
MODEL ?= t5_1_1_small
METHODS ?= prompt full
# What `make demo-full` and `make figures` are told besides.
FULL ?=
FIGURES ?=
# The data folder of `make backbones`, and what it is told besides.
DATA ?=
BACKBONES ?=

comma := ,
BIN := $(VENV)/bin
# One stamp per set of extras: made once, and again when setup.py changes.
STAMP := $(VENV)/installed-$(subst $(comma),-,$(EXTRAS))

.PHONY: demo demo-full test test-interop check bench bench-peers figures goldens backbones

# Trains, evaluates and exports a prompt, and shows what it is worth; the last
# line on stdout is JSON.
demo: $(STAMP)
	@$(BIN)/python -m launch.demo

# Fine-tunes the whole base, which the demo is too short for, and writes
# launch/full_tuning.json; FULL='--tasks ... --models ...' chooses.
demo-full: $(STAMP)
	@$(BIN)/python -m launch.full_tuning $(FULL)

# The whole suite, two tests at a time. A process takes up to 6 GB. What one test
# compiled the next does not have to.
test: $(STAMP)
	@JAX_COMPILATION_CACHE_DIR=$(abspath $(VENV))/compiled \
	  JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.1 \
	  $(BIN)/python -m pytest -n 2 --dist loadfile

# The tests against PEFT, in a venv of their own. Where the index offers torch
# for GPUs, PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu spares
# gigabytes.
test-interop:
	@$(MAKE) VENV=$(VENV)/interop EXTRAS=test,interop \
	  $(VENV)/interop/installed-test-interop
	@$(VENV)/interop/bin/python -m pytest tests/interop

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

# The same step beside PEFT's, whose packages get a venv of their own; a table,
# and one line of JSON.
bench-peers: $(STAMP)
	@$(BIN)/python benchmarks/peers.py --environment $(VENV)/peers \
	  --model $(MODEL) --json

# Prompt length against initialisation on both bases, a table and a picture
# each; an hour, and goes on where it stopped. FIGURES='--lengths ...' chooses.
figures: $(STAMP)
	@for model in mini midi; do \
	  $(BIN)/python -m launch.figures.lengths --model $$model $(FIGURES) \
	    || exit 1; done

# Writes tests/goldens anew; `git diff tests/goldens` shows what moved.
goldens: $(STAMP)
	@$(BIN)/python -m tests.goldens_test --update

# Pretrains the shipped bases, hours, and goes on where it stopped; see
# launch/pretrain/README.md. DATA=FOLDER has tasks/, text/ and vocab/;
# BACKBONES='FOLDER MODEL ...' chooses where to and which.
backbones:
	@test -d '$(DATA)/tasks' || { \
	  echo "make backbones needs the data folder, which has tasks/, text/ and" \
	    "vocab/; got DATA='$(DATA)'. Name it: make backbones DATA=FOLDER" >&2; \
	  exit 2; }
	@$(MAKE) EXTRAS=pretrain $(VENV)/installed-pretrain
	@PYTHON=$(BIN)/python bash launch/pretrain/backbones.sh '$(DATA)' $(BACKBONES)

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
