# Everything runs inside .venv, which 'make setup' (or any other target) creates from requirements.lock.
PYTHON ?= python3
TRACK ?= digits
TABLE ?=
GRID ?= digits
DEVICE ?= cpu
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup reproduce-table grid test test-slow test-slurm check views report docs figures bench gpu-check dashboard lock clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

setup: $(READY) ## create .venv with pinned dependencies

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "erk-bench needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@echo "Installing the pinned dependencies into $(VENV): about 6 GB, some minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --progress-bar off -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $(READY)

reproduce-table: $(READY) ## compute a table and compare it: TABLE=4 for few evaluations; TRACK=imagenet512 TABLE=2 (or 3), TRACK=imagenet64 TABLE=4
	$(BIN)/erk-bench table table=$(TRACK)$(if $(TABLE),/table$(TABLE)) $(ARGS)

grid: $(READY) ## compute a grid and draw its figures: GRID=digits (minutes), or GRID=figure4_16 on GPUs
	$(BIN)/erk-bench grid grid=$(GRID) $(ARGS)

test: $(READY) ## run the fast tests
	$(BIN)/python -m pytest -q -n 2 $(ARGS)

test-slow: $(READY) ## run the slow tests
	$(BIN)/python -m pytest -q -n 2 -m slow $(ARGS)

test-slurm: $(READY) ## run the tests that start a one-node Slurm cluster (needs Debian's slurm-wlm and munge)
	$(BIN)/python -m pytest -q -m slurm $(ARGS)

check: $(READY) ## check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

views: $(READY) ## draw the committed tables and figures again from the committed records
	$(BIN)/erk-bench table table=digits from=results/records/digits to=results/tables
	$(BIN)/erk-bench table table=digits-table4 from=results/records/digits-table4 to=results/tables
	$(BIN)/erk-bench table table=digits-angle from=results/records/digits-angle to=results/tables
	$(BIN)/erk-bench table table=digits-rivals from=results/records/digits-rivals to=results/tables
	$(BIN)/erk-bench table table=rivals-convergence from=results/records/rivals-convergence to=results/tables
	$(BIN)/erk-bench table table=digits-corrections from=results/records/digits-corrections to=results/tables
	$(BIN)/erk-bench table table=digits-networks from=results/records/digits-networks to=results/tables
	$(BIN)/erk-bench table table=digits-guidance from=results/records/digits-guidance to=results/tables
	$(BIN)/python scripts/guidance_scale.py
	$(BIN)/erk-bench table table=convergence from=results/records/convergence to=results/tables
	for name in cifar16 cifar16-rivals cifar16-convergence cifar32 cifar32-rivals cifar32-convergence; do \
	  $(BIN)/erk-bench table table=$$name from=results/records/$$name to=results/tables || exit 1; done
	for name in digits cifar16 cifar32; do \
	  $(BIN)/erk-bench grid grid=$$name from=results/records/grid-$$name to=results/grids || exit 1; done
	$(BIN)/python scripts/training_curves.py

report: $(READY) ## a site of the committed results, with samples drawn anew: results/report/index.html
	$(BIN)/erk-bench report results/records samples=8 to=results/report $(ARGS)

docs: $(READY) ## build the documentation as a site, with strict links: results/docs/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict $(ARGS)

figures: $(READY) ## draw the paper's Figures 1 to 3 and Proposition 1 on an exact 2D mixture (a minute)
	$(BIN)/python scripts/make_figures.py $(ARGS)

bench: $(READY) ## time every fast way beside a plain one: DEVICE=cuda on a GPU (results/bench; 15 minutes on 2 cores)
	$(BIN)/python scripts/bench.py --device $(DEVICE) --repeats 3 $(ARGS)

gpu-check: $(READY) ## measure and check everything that only a GPU can tell (results/bench/gpu-NAME; 25 minutes on an H100)
	$(BIN)/python scripts/gpu_check.py $(ARGS)

dashboard: $(READY) ## build the W&B dashboard (ARGS="--help" tells)
	$(BIN)/python scripts/make_dashboard.py $(ARGS)

lock: ## pin the newest versions that pyproject.toml allows
	$(PYTHON) -m venv $(VENV)-lock && $(VENV)-lock/bin/python -m pip install --quiet uv
	{ echo "# Pinned versions, for Linux and macOS, Python 3.11 and newer. Made by 'make lock'."; \
	  $(VENV)-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate \
	  --no-emit-index-url --extra dev pyproject.toml; } > requirements.lock.new && mv requirements.lock.new requirements.lock
	rm -rf $(VENV)-lock

clean: ## remove the environment and computed runs
	rm -rf $(VENV) results/runs
