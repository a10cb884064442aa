# What a person can ask of the project. Every target that needs Python first makes or reuses .venv from requirements.lock.
# Another interpreter than the first suitable one: make PYTHON=/path/to/python3.11 test

export PYTHON
RUN := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help quickstart test soak lint environment lock clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

quickstart: environment ## run the small study end to end on this machine (no GPU, no account), or resume it
	@$(RUN) -m orchestrator run conf/quickstart.yaml

test: lint ## lint, then run every test, as many at once as there are cores
	@$(RUN) -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal

soak: environment ## run the long tests, which `make test` leaves out; ROUNDS=4 for four times as many random moments
	@$(RUN) -m pytest -m soak

lint: environment ## ruff (rules and format) and mypy
	@$(RUN) -m ruff check
	@$(RUN) -m ruff format --check
	@$(RUN) -m mypy

environment: ## make or reuse .venv from requirements.lock
	@.ci/venv

lock: environment ## resolve the ranges of pyproject.toml into a new requirements.lock
	@$(RUN) .ci/lock.py

clean: ## remove the environment and caches; runs/ is kept
	@rm -rf .venv .mypy_cache .pytest_cache .ruff_cache
	@find . -path ./runs -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "Removed .venv and caches; runs/ is kept"
