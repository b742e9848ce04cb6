# Every target first makes .venv, once; it is brought up to date when pyproject.toml or constraints.txt change.
PYTHON ?= python3
INSTALLED := .venv/.installed
WHAT := -c constraints.txt -e '.[dev,example,openvino,streams]'
TEST := .venv/bin/pytest -n 2 --dist worksteal

# Where an image for containers sets it, every process would compile torch and timm anew: 6 of 10 seconds of importing them.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run run-published test test-heavy check format clean

run: $(INSTALLED)
	.venv/bin/python -m scripts.run

run-published: $(INSTALLED)
	.venv/bin/python -m scripts.run --job published

test: $(INSTALLED)
	$(TEST) -m "not heavy"

test-heavy: $(INSTALLED)
	$(TEST) -m heavy

check: $(INSTALLED)
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	$(TEST) -m "not slow and not heavy"

format: $(INSTALLED)
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

clean:
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	@echo "Installing into .venv: a few minutes, once"
	@$(PYTHON) -m venv .venv
	@.venv/bin/pip install -qq -c constraints.txt uv
	@# uv takes less than half of pip's time, but knows nothing of pip's settings: where it finds no index, pip may
	@UV_HTTP_TIMEOUT=300 .venv/bin/uv pip install -q --python .venv/bin/python $(WHAT) || .venv/bin/pip install -qq $(WHAT)
	@touch $@
