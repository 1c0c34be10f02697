# `make demo` and `make test` are the contract: both work from a fresh clone with nothing but Python 3.11 and make.
SHELL   := bash
VENV    := .venv
BIN     := $(VENV)/bin
PYTHON  ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
STAMP   := $(VENV)/.installed
WORKERS ?= 2
# numeric libraries get one thread a process: the work is spread over processes
THREADS := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
# hundreds of processes start here: what they import is compiled once
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo test lab bench readme check clean distclean help
help:  ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(STAMP)  ## make .venv with the pinned versions, and the git hooks of nbdev

$(STAMP): requirements.lock settings.ini setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; v=sys.version_info[:2]; sys.exit(0 if (3,11)<=v<(3,13) else f"Python {v[0]}.{v[1]} found, 3.11 or 3.12 needed: make PYTHON=/path/to/python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the pinned versions (one to three minutes)"
	@UV=$$(command -v uv || { $(BIN)/python -m pip install -q --disable-pip-version-check uv >/dev/null 2>&1 && echo $(BIN)/uv; }); \
	{ test -n "$$UV" && "$$UV" pip install -q --python $(BIN)/python --no-deps -r requirements.lock; } || \
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -r requirements.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@if git rev-parse --git-dir >/dev/null 2>&1; then $(BIN)/nbdev_install_hooks >/dev/null; git checkout -q -- .gitattributes 2>/dev/null || true; fi
	@touch $@

demo: setup  ## render data, annotate, train, and make Tables 1-5: open reports/demo/index.html
	$(THREADS) $(BIN)/fas_reproduce --tables 1,2,3,4,5 --profile demo --workers $(WORKERS)

check: setup  ## fail when notebooks and package disagree or a notebook is not clean
	$(BIN)/python tests/in_sync.py

test: setup check  ## notebooks in sync and clean, notebook tests, pytest
	$(THREADS) $(BIN)/nbdev_test --n_workers $(WORKERS) --do_print --pause 0
	$(THREADS) $(BIN)/python -m pytest -q -n $(WORKERS) --maxschedchunk 1 tests

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
