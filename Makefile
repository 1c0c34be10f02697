# `make demo` and `make test` are the contract: both work from a fresh clone with nothing but make and Python 3.11 to 3.14, or uv.
SHELL   := bash
VENV    := .venv
BIN     := $(VENV)/bin
# the newest Python that fits and can make environments; `make PYTHON=/path/to/python` takes another
FITS    := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))
PYTHON  ?= $(shell for p in python3.14 python3.13 python3.12 python3.11 python3; do $$p -c '$(FITS)' 2>/dev/null && echo $$p && break; done)
# `make setup TORCH=cpu` installs PyTorch without CUDA (from PyTorch's own index): a third of the disk
TORCH   ?=
STAMP   := $(VENV)/.installed
WORKERS ?= 2
# numeric libraries get one thread a process: the work is spread over processes
THREADS := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
# hundreds of processes start here: what they import is compiled once
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo reference test test-long lab bench readme check clean distclean help
help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# in an environment of an older lock: two distributions of OpenCV overwrite each other
FORMER   := mediapipe opencv-contrib-python-headless
FIND_UV  := UV=$$(command -v uv || { test -x $(BIN)/python && $(BIN)/python -m pip install -q --disable-pip-version-check uv >/dev/null 2>&1 && echo $(BIN)/uv; })
NO_PYTHON = no Python 3.11 to 3.14 was found, and no uv to fetch one: install either, or name one, make PYTHON=/path/to/python3.13
define MAKE_VENV
if test -n "$(PYTHON)"; then $(PYTHON) -c '$(FITS)' && $(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) is not Python 3.11 to 3.14 with venv: make PYTHON=/path/to/python3.13"; exit 1; }; \
elif UV=$$(command -v uv || { python3 -m pip install -q --disable-pip-version-check --target build/uv uv >/dev/null 2>&1 && echo build/uv/bin/uv; }); then \
  echo "no Python 3.11 to 3.14 found: uv brings one"; "$$UV" venv -q --seed --python '>=3.11,<3.15' $(VENV); \
else echo "$(NO_PYTHON)"; exit 1; fi
endef

setup: $(STAMP)  ## make .venv with the pinned versions, and the git hooks of nbdev

$(STAMP): requirements.lock settings.ini setup.py pyproject.toml
	@test -x $(BIN)/python || { $(MAKE_VENV); }
	@echo "installing the pinned versions (one to three minutes)"
	@$(FIND_UV); $(if $(TORCH),grep -vE '^(nvidia|cuda|triton)',cat) requirements.lock > $(VENV)/pins.txt; \
	if test -n "$$UV"; then \
	  "$$UV" pip uninstall -q --python $(BIN)/python $(FORMER) 2>/dev/null; \
	  "$$UV" pip install -q --python $(BIN)/python --no-deps $(if $(TORCH),--torch-backend=$(TORCH)) -r $(VENV)/pins.txt; \
	else $(BIN)/python -m pip uninstall -q -y $(FORMER) 2>/dev/null; \
	  $(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -r $(VENV)/pins.txt; fi
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@if test -d .git; then $(BIN)/nbdev_install_hooks >/dev/null; git checkout -q -- .gitattributes 2>/dev/null || true; fi
	@touch $@

demo: setup  ## annotate faces, score the networks that travel, Tables 1-5: open reports/demo/index.html
	$(THREADS) $(BIN)/fas_reproduce --tables 1,2,3,4,5 --profile demo --workers $(WORKERS)

reference: setup  ## render, annotate and train those networks over night, resumable, and ship them
	$(THREADS) $(BIN)/fas_reproduce --tables 1,2,3,4,5 --profile reference --workers $(WORKERS) --ship

check: setup  ## fail when notebooks and package disagree or a notebook is not clean
	$(BIN)/python tests/in_sync.py

test: setup check  ## notebooks in sync and clean, notebook tests, pytest
	$(THREADS) $(BIN)/nbdev_test --n_workers $(WORKERS) --do_print --pause 0
	$(THREADS) $(BIN)/python -m pytest -q -n $(WORKERS) --maxschedchunk 1 -m "not long" tests

test-long: setup  ## the tests that `make test` leaves out for their time: whole commands again, under rarer circumstances
	$(THREADS) $(BIN)/python -m pytest -q -n $(WORKERS) --maxschedchunk 1 -m long tests

lab: setup  ## open JupyterLab
	$(BIN)/jupyter lab nbs

bench: setup  ## run the long measurements of nbs/bench
	@for notebook in nbs/bench/*.ipynb; do echo "$$notebook"; $(BIN)/jupyter execute --inplace "$$notebook" || exit 1; done

readme: setup  ## rewrite README.md from nbs/index.ipynb
	$(BIN)/python tests/in_sync.py --write-readme

clean:  ## remove the environment, caches and rendered data; files that were not rendered here, runs and reports stay
	rm -rf $(VENV) build *.egg-info .pytest_cache .hypothesis
	@find data -maxdepth 3 \( -name RENDERED.json -o -name RENDERING.json \) 2>/dev/null | while IFS= read -r marker; do \
	  set="$${marker%/*}"; echo "rm -rf $$set"; rm -rf "$$set" "$$set.truth" "$$set.stills"; done
	@test ! -d data || find data -type d -empty -delete

distclean: clean  ## remove runs (trained weights) and reports, too
	rm -rf runs
	find reports -mindepth 1 -maxdepth 1 ! -name published -exec rm -rf {} +
