# `make smoke` runs the main job, `make test` the fast tests. Both set up .venv when it is missing.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help smoke test test-all cover contract faults doors check format bench ui picture clean
help:
	@echo "make smoke     train baseline, +SEL and +L_align and print the table (about 4 minutes on two cores)"
	@echo "make test      fast tests;  make test-all: also slow and browser tests"
	@echo "make cover     the contract of variants: each on two backbones, each backbone with two (a minute on two cores)"
	@echo "make contract  the contract of every variant on every backbone, with labels and without (some 5 minutes on two cores)"
	@echo "make faults    kill, fill, freeze, spoil: the fault trials, written to docs/faults.md (about 20 minutes on two cores)"
	@echo "make doors     as root: two users on one machine, and what listens, written to docs/security.md (2 to 15 minutes)"
	@echo "make check     ruff and mypy over source and tests"
	@echo "make bench     measure speed and cost; figures go to bench/"
	@echo "make ui        MLflow over results/"
	@echo "make picture   draw the report's picture for README again"

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"python {v[0]}.{v[1]}: Nashboard needs 3.11 to 3.13; run make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

smoke: $(READY)
	$(BIN)/python cli.py matrix experiments/smoke.yaml

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4

test-all: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not gpu"

cover: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m cover tests/contract

CELLS ?=
contract: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.contract $(CELLS)

faults: $(READY)
	NASHBOARD_FAULTS=docs/faults.md $(BIN)/python -m pytest -m slow tests/faults

doors: $(READY)
	NASHBOARD_DOORS=docs/security.md $(BIN)/python -m pytest -m slow tests/e2e/test_doors.py

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/python -m bench

ui: $(READY)
	$(BIN)/python cli.py ui

EXPERIMENT ?= rehearsal
picture: $(READY)
	$(BIN)/python docs/picture.py $(EXPERIMENT)

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache
