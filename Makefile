# Everything happens in .venv, which is made when it is missing and made anew when what it should hold has changed.
PYTHON ?= python3
PIP := .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo compare test lint mutants audit wheel clean

help:  ## what can be made
	@sed -n 's/^\([a-z]*\):.*## /make \1	/p' Makefile | expand -t 14

demo: .venv/installed  ## generate scans, train with and without the unlabeled ones, compare; about 3 minutes on 2 cores
	.venv/bin/patchcl demo

compare: .venv/installed  ## generate scans, train every method on them, and show the table; about 6 minutes on 2 cores
	.venv/bin/patchcl demo --all

test: lint  ## every check: style, types, tests
	OMP_NUM_THREADS=1 .venv/bin/pytest -n 2 --dist loadfile

lint: .venv/installed-dev  ## style, types and what bandit finds, alone
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/bandit --quiet --recursive src --configfile pyproject.toml

mutants: .venv/installed-dev  ## plant faults in methods, losses, contrast and evaluation, and see what the tests miss; about an hour
	$(PIP) --editable ".[mutation]"
	nice .venv/bin/python benchmarks/mutation.py
	.venv/bin/python benchmarks/document.py

audit:  ## look the pinned packages up in the database of known weaknesses; needs pypi.org
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	.venv-audit/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

wheel: .venv/installed-dev  ## build the wheel and import every module of it where only its dependencies are installed
	rm -rf dist .venv-wheel
	.venv/bin/python -m build --outdir dist
	$(PYTHON) -m venv .venv-wheel
	$(subst .venv,.venv-wheel,$(PIP)) --no-compile dist/*.whl
	cd .venv-wheel && bin/python -c "$$IMPORT_ALL" && bin/patchcl --help >/dev/null

clean:  ## remove what make has made
	rm -rf .venv .venv-wheel .venv-audit dist mutants .mypy_cache .pytest_cache .ruff_cache

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c "$$KNOWN_PYTHON"
	@echo "Installing into .venv; this takes a minute or two, once."
	$(PYTHON) -m venv --clear .venv
	$(PIP) --editable .
	@touch $@

.venv/installed-dev: .venv/installed
	$(PIP) --editable ".[dev]"
	@touch $@

define KNOWN_PYTHON
import sys
if not (3, 11) <= sys.version_info < (3, 14):
    sys.exit(f"This is Python {sys.version.split()[0]}, and Python 3.11, 3.12 or 3.13 is needed. "
             "Name one with, for example: make demo PYTHON=python3.12")
endef
export KNOWN_PYTHON

define IMPORT_ALL
import importlib, pkgutil, patchcl
names = [module.name for module in pkgutil.walk_packages(patchcl.__path__, "patchcl.")]
for name in names:
    importlib.import_module(name)
print(f"patchcl {patchcl.__version__}: all {len(names)} modules of the wheel import")
endef
export IMPORT_ALL
