# The two commands: `make demo` and `make test`. CMake and Ninja do the work; this file names the jobs.
PREFIX ?= /usr/local
PRESET ?= release
BUILD := build/$(PRESET)
JOBS ?= $(shell nproc)

.PHONY: all demo test test-asan test-tsan fuzz build bench soak check install uninstall clean setup
all: build

setup:
	@tools/setup

build: setup
	@cmake --preset $(PRESET) -DCMAKE_INSTALL_PREFIX=$(PREFIX) --log-level=WARNING
	@cmake --build $(BUILD) -j $(JOBS)

demo: build
	@tools/demo $(BUILD)

test: build
	@cd $(BUILD) && ctest --output-on-failure -j 1

test-asan test-tsan: test-%: setup
	@cmake --preset $* && cmake --build build/$* -j $(JOBS)
	@cd build/$* && ctest --output-on-failure -j 1 -LE no_sanitizer

fuzz: setup
	@tools/fuzz 20

bench: build
	@tools/bench $(BUILD)

soak: build
	@tools/soak $(BUILD)

check:
	@tools/check_layers && tools/check_docs

install: build
	@cmake --install $(BUILD)

uninstall:
	@xargs rm -fv < $(BUILD)/install_manifest.txt

clean:
	rm -rf build
