# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# A waiting thread must not spin: shared machines would slow down up to 25 times.
export OMP_WAIT_POLICY := PASSIVE
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: setup demo test test-slow check bench papers clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or later is needed: make PYTHON=python3.12 ..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[datasets,dev,faithfulness,peft,trl]'
	touch $(STAMP)

# The main job: tune the embedded model towards "its programs compile", measure, write the page.
# First the likelihood of exact samples of the target, which is the cheapest way near to it; then
# a divergence that puts a higher price on what doesn't compile.
TOWARDS := --base tiny-python --constrain compiles
demo: setup
	rm -rf runs/demo runs/demo-start
	$(BIN)/attune tune $(TOWARDS) --divergence forward_kl --proposal base --baseline none \
		--batch-size 1024 --max-steps 50 --measure-size 512 --output-dir runs/demo-start
	$(BIN)/attune tune $(TOWARDS) --policy runs/demo-start --divergence alpha:0.5 --keep last \
		--learning-rate 1.75e-5 --batch-size 512 --max-steps 24 --seed 1 --output-dir runs/demo

test: check
	$(BIN)/python -m pytest -q -n 2

test-slow: setup
	$(BIN)/python -m pytest -q -n 2 -m slow

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python benchmarks/decode.py
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/coverage.py
	$(BIN)/python benchmarks/coverage_contexts.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/samples_to_target.py
	$(BIN)/python benchmarks/scaling.py

# The tables of docs/papers, from the results beside them.
papers: setup
	$(BIN)/python -m attunement.reproduce.documents docs/papers

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
