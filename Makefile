PYTHON ?= python3
# A Python that is named has a venv of its own, so that another one is never taken for it.
VENV := .venv$(if $(filter-out python3,$(PYTHON)),-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: demo test coverage lint types pictures screenshots bench accuracy chaos dist pgbouncer chromium clean

# One venv for everything; made anew when the dependencies change.
$(VENV)/.for-%: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(INSTALL)
	@touch $@

$(VENV)/.for-demo: INSTALL = -e '.[demo]'
$(VENV)/.for-test: INSTALL = -e '.[demo,api,dashboard,postgres,redis,tokens]' --group test
$(VENV)/.for-lint: INSTALL = -e '.[demo,api,dashboard,postgres,redis,tokens]' --group test --group lint --group peers
$(VENV)/.for-bench: INSTALL = -e '.[demo,postgres,redis]' --group peers
$(VENV)/.for-dist: INSTALL = 'hatchling>=1.26'

# What tests of older MCP need: a version of the SDK that does not go together with the newer one.
MCP_1_12 := .venv-mcp-1.12
$(MCP_1_12)/.made: pyproject.toml
	@test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check \
	    . 'mcp>=1.12.4,<1.13' 'pydantic<2.12' 'uvicorn>=0.37'
	@touch $@

# fastapi-limiter as it was before it counted otherwise; what it needs is in the tests' own venv.
FASTAPI_LIMITER_0_1 := .venv-fastapi-limiter-0.1
$(FASTAPI_LIMITER_0_1)/.made: $(VENV)/.for-test
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
	    --target $(@D) 'fastapi-limiter>=0.1.6,<0.2'
	@touch $@

# What tests run beside what they test.
BESIDE := $(MCP_1_12)/.made $(FASTAPI_LIMITER_0_1)/.made

demo: $(VENV)/.for-demo  ## the main job, on the embedded default
	@$(BIN)/keyrush demo

# Tests start hundreds of processes: none of them compiles all modules anew.
test coverage: export PYTHONDONTWRITEBYTECODE =

# As many as there are cores: with more, what has seconds to answer waits for too long. More than four
# gain nothing, for each has servers of its own.
WORKERS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n < 4 ? n : 4)))

test: $(VENV)/.for-test $(BESIDE)  ## every test, with real servers; WORKERS=0 for one process alone
	@$(BIN)/python -m pytest --numprocesses=$(WORKERS) $(TEST_FLAGS)

coverage: $(VENV)/.for-test $(BESIDE)  ## the same, and which lines they run; takes half as long again
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

lint: $(VENV)/.for-lint  ## ruff and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(MAKE) --no-print-directory types

types: $(VENV)/.for-lint  ## mypy --strict, and pyright as users see the public surface
	@$(BIN)/mypy
	@$(BIN)/pyright --pythonpath $(BIN)/python

pictures: $(VENV)/.for-test  ## docs/architecture.md and the table of docs/contract.md, from the code
	@$(BIN)/python -m tests.support.floors
	@$(BIN)/python -m tests.support.points

screenshots: $(VENV)/.for-test chromium  ## the pictures of docs/dashboard.md, as a browser has its pages now
	@$(BIN)/python -m pytest -q -k pictures_of_the_document tests/apps/dashboard/test_activity_in_a_browser.py
	@mkdir -p docs/pictures && cp build/screenshots/docs/*.png docs/pictures/

bench: $(VENV)/.for-bench  ## keyrush beside its peers, in one run
	@$(BIN)/python -m benchmarks $(BENCH_FLAGS)

accuracy: $(VENV)/.for-test  ## how exactly processes share a limit, on every backend; 12 minutes
	@$(BIN)/python -m benchmarks.accuracy $(ACCURACY_FLAGS)
	@$(BIN)/python -m benchmarks.several

chaos: $(VENV)/.for-test  ## a million random schedules, odd paths, mapped windows, then kills and outages; 50 minutes
	@$(BIN)/python -m tests.long.simulation --schedules 1000000
	@$(BIN)/python -m tests.long.path_fuzz --paths 20000
	@$(BIN)/python -m tests.long.mapped
	@$(BIN)/python -m tests.long.mapped_growth
	@$(BIN)/python -m tests.long.addresses
	@$(BIN)/python -m tests.long.chaos $(CHAOS_FLAGS)

dist: $(VENV)/.for-dist  ## the archives that are published
	@$(BIN)/python -m hatchling build

pgbouncer:  ## what tests of poolers need and no Python package brings; on Debian and its kin
	@command -v pgbouncer > /dev/null || { $(SUDO) apt-get update -qq && \
	    $(SUDO) apt-get install -qq -y --no-install-recommends pgbouncer; } > /dev/null

chromium:  ## what tests in a browser need and no Python package brings; on Debian and its kin
	@command -v chromium > /dev/null || { $(SUDO) apt-get update -qq && \
	    $(SUDO) apt-get install -qq -y --no-install-recommends chromium \
	    fonts-inter fonts-jetbrains-mono fonts-noto-color-emoji; } > /dev/null

clean:
	rm -rf .venv .venv-* build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache .coverage*
