// bpftime-vm: runs one program and prints r0. Home: edge.
// The protocol is that of bpf_conformance's plugins: `bpftime-vm [MEMORY] [--engine
// interpreter|jit] [--print]`, MEMORY in hex bytes; the program comes on standard input, in hex
// bytes too. r0 goes to standard output in hex; errors there too, exit 1.
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <vector>

#include "bpftime/vm.h"

namespace {

// Hex bytes with anything blank between them; false when something else is there.
bool parse_bytes(const std::string& text, std::vector<unsigned char>* bytes) {
  int high = -1;
  for (const char c : text) {
    if (std::isspace(static_cast<unsigned char>(c)) != 0) {
      continue;
    }
    const char* digits = "0123456789abcdef";
    const char* digit = std::strchr(digits, std::tolower(static_cast<unsigned char>(c)));
    if (digit == nullptr || c == '\0') {
      return false;
    }
    const int value = static_cast<int>(digit - digits);
    if (high < 0) {
      high = value;
    } else {
      bytes->push_back(static_cast<unsigned char>(high << 4 | value));
      high = -1;
    }
  }
  return high < 0;
}

int usage() {
  std::fputs(
      "usage: bpftime-vm [MEMORY] [--engine interpreter|jit] [--budget N] [--print]\n"
      "Reads an eBPF program in hex from standard input, runs it with r1 = MEMORY (hex bytes) and "
      "r2 = its size,\n"
      "and prints r0. Helpers: 5 ktime_get_ns, 7 get_prandom_u32, 8 get_smp_processor_id (0).\n",
      stderr);
  return 2;
}

uint64_t ktime_get_ns(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, void*) {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000U + static_cast<uint64_t>(now.tv_nsec);
}
uint64_t get_prandom_u32(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, void*) {
  return static_cast<uint32_t>(random());
}
uint64_t get_smp_processor_id(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, void*) { return 0; }

int fail(const char* why) {
  std::printf("%s\n", why);
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  bool uses_jit = false;
  bool prints = false;
  long long budget = 1LL << 40;
  std::vector<unsigned char> memory;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg == "--engine" && i + 1 < argc) {
      const std::string engine = argv[++i];
      uses_jit = engine == "jit";
      if (!uses_jit && engine != "interpreter") {
        return usage();
      }
    } else if (arg == "--budget" && i + 1 < argc) {
      budget = std::atoll(argv[++i]);
    } else if (arg == "--print") {
      prints = true;
    } else if (i == 1 && (arg.empty() || arg[0] != '-')) {
      if (!parse_bytes(arg, &memory)) {
        return fail("memory is not hex bytes");
      }
    } else {
      return usage();
    }
  }
  std::string text;
  char chunk[65536];
  for (size_t got = 0; (got = std::fread(chunk, 1, sizeof chunk, stdin)) > 0;) {
    text.append(chunk, got);
  }
  std::vector<unsigned char> program;
  if (!parse_bytes(text, &program)) {
    return fail("program is not hex bytes");
  }
  bpftime_vm* vm = bpftime_vm_new();
  bpftime_vm_register_helper(vm, 5, ktime_get_ns);
  bpftime_vm_register_helper(vm, 7, get_prandom_u32);
  bpftime_vm_register_helper(vm, 8, get_smp_processor_id);
  bpftime_vm_set_budget(vm, budget);
  uint64_t r0 = 0;
  int error = bpftime_vm_load(vm, program.data(), program.size());
  if (error == 0 && prints) {
    std::fputs(bpftime_vm_print(vm), stdout);
    bpftime_vm_free(vm);
    return 0;
  }
  if (error == 0 && uses_jit) {
    error = bpftime_vm_compile(vm);
  }
  if (error == 0) {
    error = uses_jit ? bpftime_vm_run_compiled(vm, memory.data(), memory.size(), &r0)
                     : bpftime_vm_run(vm, memory.data(), memory.size(), &r0);
  }
  if (error != 0) {
    fail(bpftime_vm_message(vm));
  } else {
    std::printf("%llx\n", static_cast<unsigned long long>(r0));
  }
  bpftime_vm_free(vm);
  return error == 0 ? 0 : 1;
}
