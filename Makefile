# Every target first makes .venv, once; it is brought up to date when pyproject.toml or constraints.txt change.
PYTHON ?= python3
INSTALLED := .venv/.installed

.PHONY: run test check format clean

run: $(INSTALLED)
	.venv/bin/python scripts/run.py

test: $(INSTALLED)
	.venv/bin/pytest -n 2

check: $(INSTALLED)
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/pytest -n 2 -m "not slow"

format: $(INSTALLED)
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

clean:
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	@echo "Installing into .venv: a few minutes, once"
	@$(PYTHON) -m venv .venv
	@.venv/bin/pip install -qq -c constraints.txt -e '.[dev,openvino,streams]'
	@touch $@
