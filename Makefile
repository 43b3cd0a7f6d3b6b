# The commands of a user. The first use of a target creates .venv and installs from pyproject.toml.
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.installed
ARGS ?=

# A result as benchmarks/results.py makes and stamps it; with ARGS the script itself, whose file is then no such result.
result = $(if $(ARGS),$(PY) benchmarks/$(1).py $(2) $(ARGS),$(PY) benchmarks/results.py --make $(1))

.DEFAULT_GOAL := help
.PHONY: help setup data calibrate feasible train evaluate pareto matched figure1 figures dashboard family explain table1 test verify lint bench dual \
	gpu mnist regret convergence alpha duality linear continuous sensitivity estimators interval anomaly fair factors images pictures screenshots inputs targets front results mutants faults \
	docs clean

help: ## Show this help
	@grep -hE '^[a-z0-9]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'
	@echo '  Settings go into ARGS: make train ARGS="alpha=minimize seed=1"'

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "lagvae needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..."; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "Installing lagvae and what it needs into $(VENV) (a few minutes, several GB) ..."
	@$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(VENV)/.docs: $(READY)
	@$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

setup: $(READY) ## Create .venv and install everything

data: $(READY) ## Look at the data before training: what they are, what is unusual, a picture of eight samples
	@$(PY) src/data.py $(ARGS)

calibrate: $(READY) ## Find which divergences the model can reach: ε̂ and θ*
	@$(PY) src/calibrate.py $(ARGS)

feasible: $(READY) ## Find which bounds the model can meet, alone and together, before training
	@$(PY) src/feasible.py $(ARGS)

train: $(READY) ## Train; calibrates first where no calibration fits
	@$(PY) src/train.py $(ARGS)

evaluate: $(READY) ## Measure and draw a run again: ARGS="run=NAME"
	@$(PY) src/evaluate.py $(ARGS)

pareto: $(READY) ## The paper's Figure 2, 76 runs
	@$(PY) src/train.py -m sweep=pareto $(ARGS)

figure1: $(READY) ## The paper's Figure 1, 48 runs; on digits about nine minutes on two cores
	@$(PY) src/train.py -m sweep=figure1 $(ARGS)

matched: $(READY) ## For each InfoVAE run of runs/pareto a LagVAE run whose bounds are what that run reached
	@$(PY) src/train.py -m sweep=matched $(ARGS)

dashboard: $(READY) ## Save a view and a report of the runs of a W&B project: ARGS=PROJECT
	@$(PY) src/dashboard.py $(ARGS)

figures: $(READY) ## Compare finished runs, the paper's Figures 1 and 2: RUNS="FOLDER …" (default: runs/pareto)
	@$(PY) src/pareto.py $(or $(RUNS),runs/pareto) $(ARGS)

family: $(READY) ## Train every member, three seeds: results/family.md (an hour on two cores)
	@$(PY) benchmarks/results.py --make family

explain: $(READY) ## Explain an objective: ARGS="family=infovae"; no training, no data
	@$(PY) src/explain.py $(ARGS)

table1: $(READY) ## The paper's Table 1, from the families here: docs/table1.md
	@$(PY) src/explain.py table=docs/table1.md

test: $(READY) ## Run the tests
	@$(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

verify: $(READY) ## Run every test, the slow proofs too
	@$(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "slow or not slow" $(ARGS)

gpu: $(READY) ## Run the tests of a GPU on this machine's; all others leave it alone
	@$(PY) -m pytest -m gpu $(ARGS)

lint: $(READY) ## Check style and types
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

bench: $(READY) ## Time a step, and an ensemble of runs, against a plain loop: results/step.md, ensemble.md (ten minutes)
	@$(PY) benchmarks/results.py --make step ensemble

dual: $(READY) ## Compare dual optimizers on digits: results/dual.md (half an hour on two cores)
	@$(call result,dual,--out results/dual.md)

regret: $(READY) ## LagVAE against a perfect search over multipliers: results/regret.md and .png (an hour and a half)
	@$(PY) benchmarks/results.py --make regret

alpha: $(READY) ## Only the sign of α matters: results/alpha.md (10 minutes)
	@$(PY) benchmarks/results.py --make alpha

convergence: $(READY) ## What longer training gains, and what runs say about it: results/convergence.md (15 minutes)
	@$(PY) benchmarks/results.py --make convergence

mnist: $(READY) ## Both signs on MNIST with a small network: results/mnist.md and .png
	@$(call result,mnist)

duality: $(READY) ## Certify strong duality on tables, and show where it fails: results/duality.md, maximising.md (five minutes)
	@$(PY) benchmarks/results.py --make duality maximising

linear: $(READY) ## LagVAE against the exact optimum of a linear-Gaussian world: results/linear_gaussian.md (half an hour)
	@$(call result,linear_gaussian,--out results/linear_gaussian.md)

continuous: $(READY) ## LagVAE on continuous data, with a learned scale: results/continuous.md (eight minutes on two cores)
	@$(call result,continuous,--out results/continuous.md)

sensitivity: $(READY) ## What more slack gains, predicted from λ and measured: results/sensitivity.md (five minutes)
	@$(call result,sensitivity,--out results/sensitivity.md)

estimators: $(READY) ## Test estimators of information and MMD where the truth is known: docs/estimators.md (ten minutes)
	@$(call result,estimators)

interval: $(READY) ## The interval for I of trained models, before and now: results/interval.md
	@$(call result,interval)

anomaly: $(READY) ## log p(x) as an anomaly score, beside IsolationForest and PCA: results/anomaly.md (five minutes)
	@$(PY) benchmarks/results.py --make anomaly

fair: $(READY) ## how well a group is predicted from codes, over the bound on I(z;u): results/fair.md (ten minutes)
	@$(PY) benchmarks/results.py --make fair

factors: $(READY) ## MIG and DCI on made shapes, three members and three seeds: results/factors.md (a quarter of an hour)
	@$(PY) benchmarks/results.py --make factors

pictures: $(READY) ## Pictures of what models make of four kinds of data: docs/data-*.png (fifteen minutes)
	@$(PY) benchmarks/pictures.py $(ARGS)

screenshots: $(READY) ## Screenshots of two pages, by Chromium: docs/page-*.png; ARGS="RUN/report.html SWEEP/pareto-analysis/pareto.html"
	@$(PY) benchmarks/screenshots.py $(ARGS)

images: $(READY) ## Time and memory that images of 64×64 pixels take: results/images.md (eight minutes)
	@$(PY) benchmarks/results.py --make images

inputs: $(READY) ## Files of every kind, what is said of them, and the same data as clean floats: results/inputs.md (four minutes)
	@$(PY) benchmarks/results.py --make inputs

targets: $(READY) ## Whether geco and target_rate end at their targets: results/targets.md (ten minutes)
	@$(PY) benchmarks/results.py --make targets

front: $(READY) ## One model for all slacks against separate runs and the exact front: results/front.md (an hour)
	@$(PY) benchmarks/results.py --make front

results: $(READY) ## List which results are stale; ARGS=remake makes these again, ARGS="--make dual mnist" those
	@$(PY) benchmarks/results.py $(ARGS)

mutants: $(READY) ## See what faults the tests notice: results/mutants.md (ARGS="--packages data metrics --count 20"; all packages: hours)
	@$(PY) benchmarks/mutants.py $(ARGS)

faults: $(READY) ## Do faults to runs and sweeps, and see what is lost: results/faults.md (ARGS="--kind damage --limit 20")
	@$(PY) benchmarks/faults.py $(ARGS)

docs: $(VENV)/.docs ## Build the documentation as a site; a warning is an error: site/index.html
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

clean: ## Remove caches; runs, calibrations and data stay
	@rm -rf .pytest_cache .mypy_cache .ruff_cache build dist site src/*.egg-info
	@find src tests benchmarks -name __pycache__ -type d -exec rm -rf {} +
