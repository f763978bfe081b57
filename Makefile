# Needs only python3 (3.11 or newer, with venv): uv is fetched into .uv/ when it is not on the path.
UV := $(shell command -v uv || echo .uv/bin/uv)
RUN := $(UV) run --frozen --no-sync
PYTHON_DIRS := packages shared tests

.PHONY: setup demo test check docs bench wheels

$(UV):
	python3 -m venv .uv
	.uv/bin/pip install --quiet uv

setup: $(UV)
	$(UV) sync --frozen --compile-bytecode

demo: setup
	$(RUN) sciml run pnde/double-pendulum --preset small

check: setup
	$(RUN) ruff format --check $(PYTHON_DIRS)
	$(RUN) ruff check $(PYTHON_DIRS)
	$(RUN) pyright

test: check
	$(RUN) pytest

docs: setup
	$(UV) sync --frozen --group docs
	$(RUN) sphinx-build -W --keep-going -b html docs docs/_build/html

bench: setup
	$(RUN) python -m shared.bench

wheels: $(UV)
	rm -rf dist
	$(UV) build --all-packages --wheel --out-dir dist
