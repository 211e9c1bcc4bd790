# Two commands matter: `make demo` and `make test`. Both set up .venv first, from the pins in requirements.lock.
PY   ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,$(shell $(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(p))))
VENV := .venv
BIN  := $(VENV)/bin
UV   := uv==0.13.8
# environments of the peers that do not work with our pins
PEERS := .venv-peers .venv-cheetah .venv-tomopt .venv-hgq .venv-conifer
PINNED := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 \
	XLA_FLAGS="--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
RUN  ?= runs/demo
# studies that are begun first, so that none is left to run alone at the end
LONGEST := higgs-diphoton ecal-layers muon-tomography
export UV_PYTHON_DOWNLOADS := never

.PHONY: help setup demo studies test test-long check lint types layers bench surrogate-benchmark trigger-benchmark trees-benchmark trigger-proofs lock wheel samples clean
.DEFAULT_GOAL := help

help:                            ## list every target
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

setup: $(VENV)/.ok               ## make .venv and install the pins (the other targets do it when needed)

demo: $(VENV)/.ok                ## optimise a detector on the shipped samples, and write the report
	$(BIN)/diffhep optimise higgs-diphoton -o $(RUN)

studies: $(VENV)/.ok             ## every shipped study with its report, into runs/studies, two at a time (nine minutes on 2 cores)
	mkdir -p runs/studies
	{ printf '%s\n' $(LONGEST); $(BIN)/diffhep studies | cut -d' ' -f1; } | awk '!seen[$$0]++' | xargs -P 2 -I NAME sh -c \
	    '$(BIN)/diffhep optimise NAME -o runs/studies/NAME > runs/studies/NAME.log 2>&1 \
	    && tail -1 runs/studies/NAME.log || { cat runs/studies/NAME.log; exit 255; }'

test: $(VENV)/.ok                ## run the tests
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not long"

test-long: $(VENV)/.ok           ## run the tests that compile for minutes and that `make test` leaves out
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m long

check: lint types layers test    ## lint, types, layers and tests: what continuous integration runs

lint: $(VENV)/.ok                ## ruff: style and format
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/.ok               ## pyright
	$(BIN)/pyright

layers: $(VENV)/.ok              ## import-linter: an import may only point down
	$(BIN)/lint-imports

bench: $(VENV)/.ok .venv-peers/.ok .venv-cheetah/.ok .venv-tomopt/.ok ## benchmarks: ratios to named peers, one pinned thread (a few minutes)
	$(PINNED) $(BIN)/python -m tests.benchmark.run && $(PINNED) $(BIN)/python -m tests.benchmark.facts

surrogate-benchmark: $(VENV)/.ok ## the shipped surrogates beside Geant4: time and slopes, kept beside their cards (minutes)
	$(PINNED) $(BIN)/python -m tests.benchmark.surrogate && $(PINNED) $(BIN)/python -m tests.benchmark.voxels

trigger-benchmark: $(VENV)/.ok .venv-hgq/.ok ## learned bit widths beside HGQ2: accuracy against lookup tables, steps a second (long)
	$(PINNED) $(BIN)/python -m tests.benchmark.formats

trees-benchmark: $(VENV)/.ok .venv-conifer/.ok ## learned bit widths beside boosted trees by conifer, on JETS=file.npz (needs ghdl, yosys)
	$(PINNED) $(BIN)/python -m tests.benchmark.trees $(JETS)

trigger-proofs: $(VENV)/.ok      ## seven kinds of network as C simulation and Verilog, a million inputs each against JAX (long)
	$(BIN)/python -m tests.benchmark.proofs

wheel: $(VENV)/.ok               ## build the sdist and the wheel from it, into dist/
	$(BIN)/python -m build --no-isolation --outdir dist .

samples: $(VENV)/.ok             ## make the shipped samples again with Pythia 8 and Geant4 (recorded seeds, about an hour)
	$(BIN)/python -m diffhep.generate.shipped

lock: $(VENV)/.ok                ## rewrite requirements.lock after a change in pyproject.toml
	$(BIN)/uv pip compile -q --universal --no-emit-index-url --no-emit-find-links --no-header --no-annotate \
	    --python-version 3.11 --group dev --extra pythia --extra jets --extra geant4 --extra fpga --extra timing pyproject.toml -o requirements.lock >/dev/null

clean:                           ## remove .venv and everything that was built
	rm -rf $(VENV) $(PEERS) dist .pytest_cache .ruff_cache .hypothesis

$(VENV)/.ok: pyproject.toml requirements.lock
	@test -n "$(PY)" || { echo "diffhep needs Python 3.11 or later: set PY=/path/to/python3"; exit 1; }
	test -x $(BIN)/python || $(PY) -m venv $(VENV)
	$(BIN)/python -m pip install -q $(UV)
	$(BIN)/uv pip install -q --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e .
	touch $@

.venv-%/.ok: tests/benchmark/%.txt $(VENV)/.ok
	test -x .venv-$*/bin/python || $(PY) -m venv .venv-$*
	$(BIN)/uv pip install -q --python .venv-$*/bin/python -r $<
	touch $@
