# Targets only call the scripts in tasks/, so that continuous integration and people run the same thing.
.DEFAULT_GOAL := help
.PHONY: help env demo test test-all lint smoke evidence docs pip-tools

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env:  ## Create .venv from the locked requirements; instant when they have not changed
	@tasks/setup.sh

demo: env  ## Search, meta-train and compare on the built-in data; writes runs/demo/report.html
	@tasks/demo.sh

test: env  ## Run the tests, without the slow ones; real data too when FEW_SHOT_NAS_DATA names its folder
	@tasks/test.sh

test-all: env  ## Run every test and the smoke run
	@tasks/test.sh --slow
	@tasks/smoke.sh

lint: env  ## Run flake8, mypy and the shell checks
	@tasks/lint.sh

smoke: env  ## Run one tiny search through the command line
	@tasks/smoke.sh

evidence: env  ## List what each table of the documents was made with and what that costs
	@.venv/bin/python benchmarks/evidence.py

docs:  ## Build the pages of docs/ into site/, in an environment of their own
	@tasks/docs.sh

# Hashes of every file, also of setuptools, with which this project is installed; and no word of this machine's index.
PIP_COMPILE := .venv/bin/pip-compile --quiet --strip-extras --generate-hashes --allow-unsafe \
	--no-emit-index-url --no-emit-find-links --no-emit-trusted-host

pip-tools: env  ## Compile requirements/*.in to the locks, then install them
	$(PIP_COMPILE) requirements/prod.in --output-file requirements/prod.txt
	$(PIP_COMPILE) requirements/dev.in --output-file requirements/dev.txt
	$(PIP_COMPILE) requirements/docs.in --output-file requirements/docs.txt
	@tasks/setup.sh
