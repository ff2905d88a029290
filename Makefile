# Two commands do everything on a fresh Debian machine:
#   make demo    installs, builds, fetches the small default model, captures a real generation and shows it
#   make test    builds and runs every test
# Both can be repeated at any time; they do only what is missing.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
BIN := build/bin/attnscope
# Configures build/ with or without tests, silently unless it fails.
configure = cmake --preset release -DATTNSCOPE_BENCH=OFF -DATTNSCOPE_TESTS=$(1) >build-configure.log 2>&1 || { cat build-configure.log; echo "error: cmake failed; see above" >&2; exit 2; }; rm -f build-configure.log
JOBS ?= $(shell nproc)

.PHONY: help setup sources build program demo test bench wheel python-heavy notebooks fuzz asan tsan clang cuda rpc clean

help:
	@grep -E '^[a-z -]+:.*##' Makefile | sed -E 's/^([a-z -]+):.*## /  make \1\t/' | expand -t 24

setup: ## install the Debian packages that are missing (asks apt-get; needs root or sudo)
	@scripts/setup.sh

sources: setup
	@scripts/fetch-sources.sh

build: sources ## build into build/
	@$(call configure,ON)
	echo "build: llama.cpp once, then attnscope and its tests"
	cmake --build --preset release -j $(JOBS)

# A build folder that has tests keeps them.
define build_program
scripts/setup.sh build
scripts/fetch-sources.sh
echo "build: llama.cpp once, then attnscope"
$(call configure,$(if $(wildcard build/CMakeCache.txt),$(shell sed -n 's/^ATTNSCOPE_TESTS:BOOL=//p' build/CMakeCache.txt),OFF))
cmake --build --preset release -j $(JOBS) --target $(1)
endef

program: ## build attnscope alone: fewer packages, no tests
	@$(call build_program,attnscope_program)

demo: ## install, build, fetch a small model, capture a real generation and show it
	@$(call build_program,attnscope_bin)
	scripts/demo.sh

test: build ## build and run every test
	@$(BIN) models get smollm2
	$(BIN) models get gemma3-270m
	ctest --test-dir build --output-on-failure -j $(JOBS)

bench: sources ## build the benchmarks as well
	@cmake --preset release -DATTNSCOPE_BENCH=ON >/dev/null && cmake --build --preset release -j $(JOBS)

wheel: program ## the Python package as a wheel in dist/ (docs/python.md); pip install dist/*.whl needs no compiler
	@scripts/build-wheel.sh dist build

python-heavy: program ## the Python package against torch, transformers, TransformerLens, BertViz and CircuitsVis (5 GB of packages)
	@scripts/test-python.sh build --heavy

notebooks: program ## execute the notebooks in python/notebooks/
	@scripts/run-notebooks.sh build

asan tsan clang: sources ## build and run the tests under ASan and UBSan, under TSan, or with Clang
	@cmake --preset $@ >/dev/null && cmake --build --preset $@ -j $(JOBS)
	TSAN_OPTIONS="suppressions=$(CURDIR)/tests/tsan.supp report_mutex_bugs=0" LSAN_OPTIONS="suppressions=$(CURDIR)/tests/lsan.supp" \
		ctest --test-dir build-$@ --output-on-failure

fuzz: sources ## run every fuzzer for FUZZ_SECONDS (60)
	@scripts/fuzz.sh

cuda: sources ## build with llama.cpp's CUDA back end (needs NVIDIA's CUDA toolkit; ARCH=90a for one GPU architecture)
	@export PATH="$$PATH:/usr/local/cuda/bin"
	command -v nvcc >/dev/null || { echo "error: no nvcc. Install NVIDIA's CUDA toolkit (12.4 or newer; Debian: nvidia-cuda-toolkit in non-free), or put its bin folder on the PATH, then run this again" >&2; exit 2; }
	cmake --preset cuda $(if $(ARCH),-DATTNSCOPE_CUDA_ARCHITECTURES=$(ARCH)) && cmake --build --preset cuda -j $(JOBS)

rpc: build ## build build/bin/rpc-server, which lends this machine to captures on another one
	@cmake --build --preset release --target rpc-server -j $(JOBS)
	echo "start it with: build/bin/rpc-server -H ADDRESS -p 50052   (trusted networks only: it has no authentication)"

clean: ## remove the build folders
	rm -rf build build-*
