# Needs only python3 (3.11 or newer, with venv): uv is fetched into .uv/ when it is not on the path.
UV := $(shell command -v uv || echo .uv/bin/uv)
RUN := $(UV) run --frozen --no-sync
PYTHON_DIRS := packages shared tests docs/conf.py docs/generated_pages.py
SYNC := $(UV) sync --frozen --compile-bytecode --group docs

# TORCH=cpu, auto, cu130, …: that build of torch instead of the lock file's, which on Linux has CUDA
ifdef TORCH
export UV_TORCH_BACKEND := $(TORCH)
PIN := $(shell sed -n '/^name = "torch"$$/{n;s/version = "\(.*\)"/torch==\1/p;}' uv.lock)
OTHERS := $(shell sed -n 's/^name = "\(torch\|triton\|nvidia-.*\|cuda-.*\)"$$/--no-install-package \1/p' uv.lock)
SYNC += --inexact $(OTHERS) && $(UV) pip install --python .venv --compile-bytecode $(PIN)
endif

.PHONY: setup demo test check docs bench wheels

$(UV):
	python3 -m venv .uv
	.uv/bin/pip install --quiet uv

setup: $(UV)
	$(SYNC)

demo: setup
	$(RUN) sciml run pnde/rigid-body --preset small --set repeats=1

check: setup
	$(RUN) ruff format --check $(PYTHON_DIRS)
	$(RUN) ruff check $(PYTHON_DIRS)
	$(RUN) pyright

# builds the documentation too: tests/test_docs.py
test: check
	$(RUN) pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

docs: setup
	$(RUN) sphinx-build -W --keep-going -b html docs docs/_build/html

bench: setup
	$(RUN) python -m shared.bench

# ours, and the pins of everything else; with COMPLETE=1 also the wheels of everything else, for this platform
wheels: setup
	rm -rf dist
	$(UV) build --quiet --all-packages --wheel --out-dir dist
	$(UV) export --quiet --frozen --package sciml --all-extras --no-dev --no-emit-workspace --output-file dist/requirements.txt
	$(if $(COMPLETE),$(UV) tool run --python .venv pip download --only-binary :all: --no-deps --dest dist --requirement dist/requirements.txt)
