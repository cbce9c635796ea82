# Everything a contributor runs. Each target builds what it needs.
#
#   make demo    build .venv and search for the embedded model (report in reports/demo)
#   make test    build .venv and run the tests: some minutes
#   make test-full  all of them: every engine, whole searches under faults, the wheel
#   make check   what CI runs: lint, imports, types, tests
#   make lock    resolve the versions in locks/ again

PYTHON ?= python3
STACK ?= ipex
VENV ?= .venv
comma := ,
MORE := openvino,onnxruntime,openmp,datasets,images,test,dev
EXTRAS := $(STACK),$(MORE)
BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(STACK)
DEMO ?= reports/demo
BESIDE ?= 2

.PHONY: demo test test-full check lint imports types lock clean help

help:
	@sed -n 's/^#   //p' Makefile

$(READY): pyproject.toml locks/$(STACK).txt
	$(PYTHON) -c 'import sys; v = sys.version_info; ok = (3, 11) <= v < (3, 14); sys.exit(None if ok else f"autotune needs Python 3.11 to 3.13, {sys.executable} is {v.major}.{v.minor}; run make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint locks/$(STACK).txt --editable '.[$(EXTRAS)]'
	touch $@

demo: $(READY)
	rm -rf $(DEMO)
	$(BIN)/autotune search --model demo --time-budget 5m --output $(DEMO)

# Real models use every core, so their tests run one at a time.
test: $(READY)
	$(BIN)/python -m pytest -m 'not model and not full' -n $(BESIDE) --dist loadfile
	$(BIN)/python -m pytest -m 'model and not full' --durations 10

test-full: $(READY)
	$(BIN)/python -m pytest -m 'not model' -n $(BESIDE) --dist loadfile
	$(BIN)/python -m pytest -m model --durations 20

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

imports: $(READY)
	$(BIN)/lint-imports

types: $(READY)
	$(BIN)/mypy

check: lint imports types test

# Versions only: no index addresses, so that an install asks whatever index its user has.
lock: $(READY)
	for stack in ipex torch; do \
		$(BIN)/uv pip compile pyproject.toml --quiet --universal --no-header --no-annotate \
			--no-emit-index-url --no-emit-find-links --python-version 3.11 \
			$(foreach extra,$(subst $(comma), ,$(MORE)),--extra $(extra)) --extra $$stack \
			--output-file locks/$$stack.txt || exit 1; \
	done

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
