# Two commands on a fresh machine: `make demo` and `make test`. Both set up what they need. `make test-slow` is a hundred
# killed runs, which take an hour and leave their outcome in bench/results/kills.json. `make screenshots` renews the
# pictures of Dagster's pages, of the search page, of the monitor and of a report in docs/. `make --keep-going peers` makes the
# environments of the other tools that `arxiv-embed bench embed` measures beside this one (7 GB, minutes); one that does
# not install is left out there.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-peers

.PHONY: demo test test-slow screenshots peers lint setup develop clean

demo: setup
	$(BIN)/arxiv-embed demo

test: lint
	$(BIN)/pytest

test-slow: develop
	$(BIN)/pytest -m slow --numprocesses=0 -s

screenshots: develop
	ARXIV_EMBED_SCREENSHOTS=docs $(BIN)/pytest arxiv_embed_tests/deployment/test_browser.py arxiv_embed_tests/web/test_browser.py \
		arxiv_embed_tests/monitor/test_app.py arxiv_embed_tests/report/test_browser.py

peers: $(patsubst bench/peers/%.txt,$(PEERS)/%/.ready,$(wildcard bench/peers/*.txt))

$(PEERS)/%/.ready: bench/peers/%.txt
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet torch==2.13.0
	$(@D)/bin/python -m pip install --quiet torch==2.13.0 --requirement $<
	touch $@

lint: develop
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

setup: $(VENV)/.ready

develop: $(VENV)/.develop

# torch first, by its exact version: asked for through another package it may come as a CUDA build of gigabytes.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=python3.11')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.develop: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) $(PEERS)
