# Everything runs from a virtual environment of its own in .venv; nothing else on the machine is changed.
#   TORCH=default   torch from the Python package index (on Linux: with CUDA; runs on a CPU as well)
#   TORCH=cpu       the much smaller CPU build, from PyTorch's own index
#   PYTHON=…        the Python to build the environment with (3.10 or newer)
#   WORKERS=…       test processes, one core each

TORCH  ?= default
PYTHON ?= python3
PYTEST_ARGS ?=
WORKERS ?= 2
DEMO_ARGS ?=
BENCH_ARGS ?=
STARTER_ARGS ?= --minutes 90 --seed 0

PY  := .venv/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --no-input
# An environment belongs to one choice of wheels, one Python and one place: the stamp's name carries them.
KEY   := $(TORCH)-$(firstword $(shell printf '%s' '$(CURDIR) $(PYTHON)' | cksum))
STAMP := .venv/.ready-$(KEY)
PAGE  := nnsam3d/server/page

ifeq ($(filter $(TORCH),default cpu),)
$(error TORCH=$(TORCH) is not known: use TORCH=default or TORCH=cpu)
endif

.PHONY: help setup page demo examples test test-slow bench starter lint docs clean
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

help:
	@echo 'make demo       set up, then train and prompt a tiny network on phantoms and write pictures'
	@echo 'make examples   set up, then run the notebooks in examples/ on the demo'
	@echo 'make test       set up, then run the tests'
	@echo 'make test-slow  set up, then run the tests that take minutes each'
	@echo 'make bench      set up, then measure what the network costs and write docs/performance.md'
	@echo 'make starter    set up, then train the model that comes with nnsam3d (1.5 hours) and install it'
	@echo 'make lint       set up, then ruff, mypy, the import rules and spelling'
	@echo 'make docs       build the documentation site in site/; warnings are errors'
	@echo 'make setup      only the set-up: .venv with everything (about 3 minutes, 6.5 GB; TORCH=cpu: much less)'
	@echo 'make page       bring NiiVue for the page of `nnsam3d serve` (needs npm; part of the set-up where npm is)'
	@echo 'make clean      remove .venv and the caches'
	@echo
	@echo 'Options: TORCH=default|cpu   PYTHON=python3   PYTEST_ARGS="-k link"   WORKERS=2   DEMO_ARGS="--help"'
	@echo '         BENCH_ARGS="--full" (ViT-B at 128³: tens of minutes)'

setup: $(STAMP)

# torchvision is installed with torch, because nnU-Net needs it (through timm) and the two must match.
$(STAMP): setup.py pyproject.toml
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	  echo 'error: $(PYTHON) is not on the PATH. Install Python 3.10 or newer (Debian, Ubuntu: apt-get install python3 python3-venv),' >&2; \
	  echo '       or name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1); nnsam3d needs Python 3.10 or newer." >&2; \
	  echo '       Name another one: make $(MAKECMDGOALS) PYTHON=python3.11' >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo 'error: $(PYTHON) cannot make virtual environments (venv or ensurepip is missing).' >&2; \
	  echo '       Debian, Ubuntu: apt-get install python3-venv' >&2; exit 1; }
	@if [ '$(TORCH)' = cpu ]; then size='much less than the 6.5 GB of the default'; else size='about 6.5 GB of disk (TORCH=cpu needs much less)'; fi; \
	  echo "==> Setting up .venv with $$($(PYTHON) --version): PyTorch ($(TORCH) wheels), nnU-Net, nnsam3d."; \
	  echo "    Once only. About 3 minutes on a fast connection; $$size."
	@if [ -e .venv/.key ] && [ "$$(cat .venv/.key)" != '$(KEY)' ]; then \
	  echo '==> .venv was made for another TORCH=, PYTHON= or place: making it anew.'; \
	  $(PYTHON) -m venv --clear .venv; \
	else $(PYTHON) -m venv .venv; fi
	@rm -f .venv/.ready-*; printf '%s' '$(KEY)' > .venv/.key
	@start=$$(date +%s); set -e; \
	  echo '==> 1 of 2: PyTorch (the large download)'; \
	  if [ '$(TORCH)' = cpu ]; then \
	    $(PIP) install --index-url https://download.pytorch.org/whl/cpu 'torch>=2.6' torchvision; \
	  else $(PIP) install 'torch>=2.6' torchvision; fi; \
	  echo '==> 2 of 2: nnU-Net, nnsam3d and the tools for the tests'; \
	  $(PIP) install -e '.[dev]'; \
	  if command -v npm >/dev/null 2>&1; then \
	    $(MAKE) --no-print-directory page || echo '==> The page of `nnsam3d serve` is missing; try again with: make page'; \
	  else echo '==> No npm: `nnsam3d serve` will serve viewers and no page of its own (make page brings it).'; fi; \
	  echo "==> Set-up done in $$(( $$(date +%s) - start )) s. Start over with: make clean"
	@touch $@

page: $(PAGE)/niivue.js

$(PAGE)/niivue.js: $(PAGE)/package.json $(PAGE)/package-lock.json
	@command -v npm >/dev/null 2>&1 || { echo 'error: npm is missing (Debian, Ubuntu: apt-get install npm)' >&2; exit 1; }
	@cd $(PAGE) && npm ci --ignore-scripts --omit=optional --no-audit --no-fund --silent && npm run --silent page
	@touch $@

# A few cores are shared by torch's threads and nnU-Net's worker processes: let idle threads sleep, not spin.
demo test test-slow bench: export OMP_WAIT_POLICY = passive
demo test test-slow: export nnUNet_n_proc_DA = 1
demo test test-slow: export nnUNet_def_n_proc = 2

demo: $(STAMP)
	@.venv/bin/nnsam3d demo --overwrite $(DEMO_ARGS)

examples: $(STAMP)
	@test -d demo/results || { echo 'error: run `make demo` first' >&2; exit 1; }
	$(PIP) install --quiet -e '.[examples]'
	$(PY) -m jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.store_widget_state=False --ExecutePreprocessor.record_timing=False examples/*.ipynb

test: $(STAMP)
	$(PY) -m pytest -m 'not slow' -n $(WORKERS) --dist loadfile --durations=15 -ra $(PYTEST_ARGS)

test-slow: $(STAMP)
	$(PY) -m pytest -m slow --durations=15 -ra $(PYTEST_ARGS)

bench: $(STAMP)
	$(PY) -m benchmarks.bench --output docs/performance.md $(BENCH_ARGS)
	$(PY) -m benchmarks.opening --into docs/performance.md
	$(PY) -m benchmarks.headers --into docs/performance.md

starter: $(STAMP)
	OMP_WAIT_POLICY=passive $(PY) -m benchmarks.starter --install $(STARTER_ARGS)

lint: $(STAMP)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check --quiet .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/codespell

# An environment of its own: the site needs neither torch nor nnU-Net.
DOCS := .venv/docs
$(DOCS)/.ready: pyproject.toml
	@mkdir -p .venv
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --disable-pip-version-check --no-input --quiet 'mkdocs-material>=9.5'
	@touch $@

docs: $(DOCS)/.ready
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict --quiet

clean:
	rm -rf $(PAGE)/node_modules $(PAGE)/niivue.js
	rm -rf .venv build dist site nnsam3d.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
