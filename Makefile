# The two commands: `make demo` and `make test`. CMake and Ninja do the work; this file names the jobs.
PREFIX ?= /usr/local
PRESET ?= release
BUILD := build/$(PRESET)
JOBS ?= $(shell nproc)
TARGET ?= all

.PHONY: all demo test test-asan test-tsan fuzz build bench bench-work soak check install uninstall clean setup
all: build

setup:
	@tools/setup

build: setup
	@cmake --preset $(PRESET) -DCMAKE_INSTALL_PREFIX=$(PREFIX) --log-level=WARNING
	@cmake --build $(BUILD) -j $(JOBS) --target $(TARGET)

demo: build
	@tools/demo $(BUILD)

test: build
	@cd $(BUILD) && ctest --output-on-failure -j 1

# Tests labelled no_sanitizer do not run so: see bpftime_no_sanitizer in cmake/modules.cmake.
test-asan:
	@$(MAKE) --no-print-directory build PRESET=asan
	@cd build/asan && UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 ctest --output-on-failure -j 1 -LE no_sanitizer

# Only what is shared among threads: see BPFTIME_THREADED_TESTS there.
test-tsan:
	@$(MAKE) --no-print-directory build PRESET=tsan TARGET=unit_tests
	@cd build/tsan && TSAN_OPTIONS=halt_on_error=1 ctest --output-on-failure -j 1 -L threaded -LE no_sanitizer

fuzz: setup
	@tools/fuzz 20

bench: build
	@tools/bench $(BUILD)

# What tracing costs servers under load: about 6 minutes, as root, on a quiet machine.
bench-work: build
	@tools/bench_work $(BUILD)

soak: build
	@tools/soak $(BUILD)

check:
	@tools/check_layers && tools/check_docs && tools/check_format

install: build
	@cmake --install $(BUILD)

uninstall:
	@xargs -r -d '\n' rm -fv < $(BUILD)/install_manifest.txt
	@sed -n 's|/[^/]*$$||p' $(BUILD)/install_manifest.txt | sort -ru | grep '/bpftime$$' \
	  | xargs -r -d '\n' rmdir --ignore-fail-on-non-empty

clean:
	rm -rf build
