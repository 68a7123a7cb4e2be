# Two commands: `make repro` runs the pipeline, `make test` the quick tests. Both make .venv first, if it is missing.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
IS_NEW_ENOUGH := -c 'import sys; sys.exit(sys.version_info < (3, 11))'
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export PYTHONUNBUFFERED := 1

.PHONY: repro full results scm test test-old-processor test-nudged test-pipeline test-slow faults test-triton test-triton-cards check lint types deps bench bench-density bench-width bench-quality bench-forward bench-harvest bench-store gpu-check setup clean

repro: setup scm
	dvc repro

# From a zip or a tarball, without git: DVC is told, in .dvc/config.local here and in full/, which is a DVC repository of its own.
scm: setup
	@git rev-parse --git-dir >/dev/null 2>&1 || for folder in . full; do (cd $$folder && dvc config --quiet --local core.no_scm true); done

# Two transformers, a control with shuffled weights, four dictionaries, compared: some 50 minutes, 5 GB, in full/ (README, "Several dictionaries").
full: setup scm
	cd full && dvc repro

# docs/results.md and its pictures, from what `make full` left.
results: setup
	cd full && python -m pipelines.results --docs ../docs

# A file's tests stay together, since they share what its fixtures made.
test: setup
	python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# What depends on rounding, as a processor of 2008 would compute it, and with every other product a unit in the last place off.
NUMERIC := tests/splitting tests/features tests/claims tests/causal tests/metrics tests/automata
OLD_PROCESSOR := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2 OPENBLAS_CORETYPE=Nehalem NUMBA_CPU_NAME=haswell
test-old-processor: setup
	$(OLD_PROCESSOR) python -m pytest -n 2 --dist loadfile $(NUMERIC)

test-nudged: setup
	SAE_NUDGE_PRODUCTS=1 python -m pytest -n 2 --dist loadfile $(NUMERIC)

# The pipeline under DVC at a tiny size, killed and started again.
test-pipeline: setup
	python -m pytest -m slow tests/test_pipeline_dvc.py -k "not live"

test-slow: setup
	python -m pytest -m slow

# A store's writers killed, raced and refused by the disk, every stage killed or refused at its file calls (this needs `cc`), and the
# files of all outputs damaged; prints what was counted (docs/log.md, 2026-11-24 and 2026-11-28). Half an hour.
faults: setup
	python -m pytest -s -m "slow or not slow" tests/faults

# The GPU's kernels in Triton's interpreter, and compiled for an H100 (test-triton-cards: for five kinds of cards). Beside the environment, so that nothing else imports it; on a GPU torch brings its own.
TRITON := triton==3.7.1
test-triton: setup $(VENV)/triton/installed
	PYTHONPATH=$(VENV)/triton python -m pytest -n 2 tests/kernels -k "triton or cuda" -m "not slow or ahead"

test-triton-cards: setup $(VENV)/triton/installed
	SAE_COMPILE_FOR="80 86 90 100 120" PYTHONPATH=$(VENV)/triton python -m pytest -n 2 tests/kernels/test_triton_compile.py -m ahead

$(VENV)/triton/installed: pyproject.toml
	python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(VENV)/triton $(TRITON)
	touch $@

check: lint types test

lint: setup
	ruff format --check .
	ruff check .

types: setup
	mypy

deps: setup
	python -m tests.import_graph --write

# docs/benchmarks.md says what these measure. Another shape: make bench BENCH="--m 16384 --l0 20 5%"
bench: setup
	python -m benchmarks.train_step --json build/bench/train_step.json $(BENCH)

bench-density: setup
	python -m benchmarks.train_step --rows relu-half --contestants plain_fused plain_autocast ours --l0 20 60 200 5% 10% 20% 50% \
		--json build/bench/density.json $(BENCH)

bench-width: setup
	python -m benchmarks.train_step --rows relu-half --contestants plain_fused ours --m 16384 --l0 20 60 200 5% --json build/bench/width-16384.json $(BENCH)
	python -m benchmarks.train_step --rows relu-half --contestants plain_fused ours --m 65536 --l0 20 60 200 5% --json build/bench/width-65536.json $(BENCH)

bench-quality: setup
	python -m benchmarks.quality synthetic --json build/bench/quality-synthetic.json $(BENCH)
	python -m benchmarks.quality activations --json build/bench/quality-activations.json $(BENCH)

bench-forward: setup
	python -m benchmarks.harvest_forward --json build/bench/harvest_forward.json $(BENCH)

bench-harvest: setup
	python -m benchmarks.harvest_store --json build/bench/harvest_store.json $(BENCH)

# The codecs are tried on the pipeline's own rows: after `make repro`.
bench-store: setup
	python -m benchmarks.store read --json build/bench/store-read.json $(BENCH)
	python -m benchmarks.store codecs --json build/bench/store-codecs.json $(BENCH)
	python -m benchmarks.store memory --json build/bench/store-memory.json $(BENCH)

# The first minutes on a GPU that nobody has tried: what it is, whether all is right there, how fast; a record for docs/gpu.md.
gpu-check: setup
	python -m benchmarks.gpu_check $(BENCH)

setup: $(VENV)/installed

# pyproject.toml is the package, requirements.lock the exact versions of all that it needs.
$(VENV)/installed: requirements.lock pyproject.toml
	# One of an older Python is of no use: it goes. So does one whose Python is gone.
	@if test -e $(VENV) && ! $(VENV)/bin/python $(IS_NEW_ENOUGH) 2>/dev/null; then echo "$(VENV) is of an older Python: made anew" >&2; rm -rf $(VENV); fi
	@test -x $(VENV)/bin/python || "$(PYTHON)" $(IS_NEW_ENOUGH) 2>/dev/null || { \
		echo "Python 3.11 or newer is needed; this is '$(PYTHON)', $$("$(PYTHON)" --version 2>&1). Name another: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	# The stages are no part of the package: full/ finds them in the checkout.
	echo "$(CURDIR)" > "$$($(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/sae_checkout.pth"
	touch $@

clean:
	rm -rf data reports logs full/data full/reports full/logs .dvc/cache .dvc/tmp full/.dvc/tmp dvc.lock full/dvc.lock
