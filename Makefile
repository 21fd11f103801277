# The commands that people and CI run. What they make stays in this checkout: .venv, .cache, tests/gates/node_modules.
#
#   make demo        see the proxy at work; needs Python 3.11 or newer and nothing else
#   make test        the tests, without the slow and the long ones; twice is as good as once
#   make test-slow   the slow ones: whole conformance suites, more real peers, every cut and every bit
#   make test-all    all of them
#   make test-unit   what needs no whole program: neither real peers nor real faults nor raw HTTP
#   make bench       measure, into bench/results.json; ARGS="verify --quick"
#   make lint        format, style, types on three platforms
#   make clean       undo everything the others made
#
# PYTHON=python3.13 chooses the interpreter, VENV=... the environment, JOBS=4 the test processes, ARGS="-k redact" is
# handed to pytest.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= logical
ARGS ?=

RUN := $(VENV)/.run-$(notdir $(PYTHON))
TEST := $(VENV)/.test-$(notdir $(PYTHON))
NODE := tests/gates/node_modules/.package-lock.json
GO := $(VENV)/.go
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n $(JOBS)

.PHONY: demo setup test test-slow test-all test-unit lint format bench lock clean

demo: $(RUN)
	$(BIN)/mcp-audit demo

setup: $(TEST) $(NODE) $(GO)

test: $(TEST) $(NODE) $(GO)
	$(PYTEST) -m "not slow and not long" $(ARGS)

test-slow: $(TEST) $(NODE) $(GO)
	$(PYTEST) -m "slow and not long" $(ARGS)

test-all: $(TEST) $(NODE) $(GO)
	$(PYTEST) $(ARGS)

test-unit: $(TEST)
	$(PYTEST) -m "not slow and not long and not gate" --ignore tests/faults --ignore tests/http $(ARGS)

lint: $(TEST)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict
	for platform in darwin win32; do $(BIN)/mypy --strict --no-warn-unreachable --platform $$platform || exit 1; done

format: $(TEST)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(TEST)
	$(BIN)/python -m bench $(ARGS)

# Needs `uv`. Neither lock names an index, so everybody installs from their own.
lock:
	printf 'build\neditables\nhatchling\n' | uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--custom-compile-command "make lock" --extra test --extra lint --output-file requirements.lock pyproject.toml -
	npm install --prefix tests/gates --package-lock-only

clean:
	rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist tests/gates/node_modules
	find mcp_audit tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUN): pyproject.toml tests/setup.sh
	VENV="$(VENV)" PYTHON="$(PYTHON)" sh tests/setup.sh run
	@touch $@

$(TEST): pyproject.toml requirements.lock tests/setup.sh
	VENV="$(VENV)" PYTHON="$(PYTHON)" sh tests/setup.sh test
	@touch $(RUN) $@

# Without npm or Go there is no such file, and every run tries again.
$(NODE): tests/gates/package-lock.json
	@sh tests/setup.sh node

$(GO): tests/setup.sh
	@VENV="$(VENV)" sh tests/setup.sh go
