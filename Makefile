# Each target first makes what it needs: an environment in .venv, the package installed there in
# place, and its extension. Each of them is made again only if a file that it depends on has changed.
#
#   make demo    train a small multimodal model that needs its recurrent layer
#   make test    run the tests, except those marked slow or exhaustive; MARK= selects other marks,
#                TESTS= some files or folders
#   make try     run the tests with other versions of dependencies, WITH="triton==3.9.0", in a
#                separate environment
#   make lint    run ruff, clang-format and mypy
#   make docs    build the documentation in build/docs; a warning is an error
#   make bench   measure fastrnn and the baselines, small to large layers, in a few minutes; SHAPES=
#                names other shapes, FLAGS= goes to `python -m benchmarks run`
#   make bench-full  measure all shapes, in an hour or more; like bench, it leaves a record in
#                benchmarks/results
#   make gpu-check  verify the GPU kernels on a machine with a GPU; does not use .venv. SECONDS=
#                limits its time
#   make clean   remove everything that was built, except .venv

PYTHON ?= python3
MARK ?= not (slow or exhaustive or gpu)
TESTS ?= tests
WITH ?=
FLAGS ?=
SHAPES ?= quick
SECONDS ?=
# A process takes neighbouring tests, which share fixtures, and in the end the others' last tests.
PYTEST := -n auto --maxprocesses 4 --dist worksteal --benchmark-disable

# These tests need a process of their own, in which Triton's interpreter runs every kernel. Exit
# status 5 means that none of them has the given mark.
INTERPRETED := $(wildcard tests/ops/backends/triton/test_interpreter*.py)
WITHIN := tests tests/ops tests/ops/backends tests/ops/backends/triton $(INTERPRETED)

# C++ and CUDA.
CXX_SOURCES = $(shell find csrc tests benchmarks tools \
    -name '*.h' -o -name '*.inc' -o -name '*.cpp' -o -name '*.cu')

VENV := .venv
BIN := $(VENV)/bin
export PATH := $(abspath $(BIN)):$(PATH)
# Compiled modules save every test process seconds.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := test
.PHONY: demo test try lint docs bench bench-full gpu-check clean

demo: $(VENV)/built
	python -m examples.multimodal cued-recall

test: $(VENV)/built
	$(if $(filter-out $(INTERPRETED),$(TESTS)),python -m pytest $(TESTS) -m "$(MARK)" $(PYTEST))
	$(if $(filter $(WITHIN),$(TESTS:%/=%)),TRITON_INTERPRET=1 python -m pytest $(INTERPRETED) \
	    -m "$(MARK)" $(PYTEST) || test $$? -eq 5)

try:
	WITH='$(WITH)' .ci/try

lint: $(VENV)/installed
	ruff check .
	ruff format --check .
	clang-format --dry-run -Werror $(CXX_SOURCES)
	mypy

docs: $(VENV)/installed
	python -m sphinx -E -W --keep-going -q -b html docs build/docs

bench: $(VENV)/built
	python -m benchmarks run --shapes $(SHAPES) --baselines most $(FLAGS)

bench-full: $(VENV)/built
	python -m benchmarks run --shapes full --budget 0.8 $(FLAGS)

# Without .venv: a machine with a GPU has its own torch, and may have no network.
gpu-check:
	$(PYTHON) -m tools.gpu_validation $(if $(SECONDS),--seconds $(SECONDS))

clean:
	rm -rf build *.egg-info fastrnn/_C.*.so fastrnn/_cuda.*.so fastrnn/*_build_error.txt $(VENV)/built
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks

# --no-compile: Python compiles a module when it is first imported, and all take a minute. The next
# rule builds the extension, and shows the compiler's output.
$(VENV)/installed: constraints.txt pyproject.toml
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	python -m pip install --no-compile -c constraints.txt torch setuptools ninja pybind11
	FASTRNN_BUILD=none python -m pip install --no-compile -c constraints.txt --no-build-isolation \
	    -e ".[fusion,onnx,triton,bench,dev,docs]"
	touch $@

# A failed build runs again next time, when there may be a compiler.
$(VENV)/built: $(VENV)/installed setup.py fastrnn/_version.py $(shell find csrc)
	python setup.py build_ext --inplace
	test -e fastrnn/_build_error.txt || touch $@
