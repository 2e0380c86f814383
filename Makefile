PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test coverage lint bench accuracy chaos clean

# One venv for everything; made anew when the dependencies change.
.venv/.for-%: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(INSTALL)
	@touch $@

.venv/.for-demo: INSTALL = -e '.[demo]'
.venv/.for-test: INSTALL = -e '.[demo,api,postgres,redis]' --group test
.venv/.for-lint: INSTALL = -e '.[demo,api,postgres,redis]' --group test --group lint --group peers
.venv/.for-bench: INSTALL = -e '.[demo,redis]' --group peers

demo: .venv/.for-demo  ## the main job, on the embedded default
	@$(BIN)/keyrush demo

test: .venv/.for-test  ## every test, with real servers
	@$(BIN)/python -m pytest

coverage: .venv/.for-test  ## the same, and which lines they run; takes half as long again
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

lint: .venv/.for-lint  ## ruff and mypy --strict
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: .venv/.for-bench  ## keyrush beside its peers, in one run
	@$(BIN)/python -m benchmarks $(BENCH_FLAGS)

accuracy: .venv/.for-test  ## how exactly processes share a limit, on every backend; 12 minutes
	@$(BIN)/python -m benchmarks.accuracy $(ACCURACY_FLAGS)

chaos: .venv/.for-test  ## a million random schedules, odd paths, mapped windows, then kills and outages; 50 minutes
	@$(BIN)/python -m tests.long.simulation --schedules 1000000
	@$(BIN)/python -m tests.long.path_fuzz --paths 20000
	@$(BIN)/python -m tests.long.mapped
	@$(BIN)/python -m tests.long.chaos $(CHAOS_FLAGS)

clean:
	rm -rf .venv .hypothesis .mypy_cache .pytest_cache .ruff_cache .coverage*
