// The input makes a valid program (tests/vm/generator.hpp): all engines must come to the same
// value, fuel and memory.
#include <cstdio>
#include <cstdlib>

#include "tests/vm/engines.hpp"
#include "tests/vm/generator.hpp"

namespace {
uint64_t mix(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, bpftime::Hit*) {
  return a + b * 3 + c * 5 + d * 7 + e * 11;
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace bpftime;
  using namespace bpftime::testing;
  ByteSource source(std::span(data, size));
  GeneratorOptions options;
  options.max_units = 100;
  const int64_t fuel = source.byte() * 8;
  const std::vector<bpf_insn> insns = Generator(source, options).run();
  const auto program = decode(std::span(insns));
  if (!program) {
    std::abort();
  }
  Host host;
  host.helpers = {{kMixHelper, mix}};
  Outcome first;
  std::vector<std::byte> first_memory;
  for (const Engine engine : {Engine::kInterpreter, Engine::kJit, Engine::kJitBmi2}) {
    std::vector<std::byte> memory(kInputBytes, std::byte{0x5a});
    const Outcome outcome = run_on(engine, program.value(), memory, host, fuel);
    if (engine == Engine::kInterpreter) {
      first = outcome;
      first_memory = memory;
    } else if (outcome.error != 0 || outcome.value != first.value || outcome.fuel != first.fuel ||
               outcome.ended != first.ended || memory != first_memory) {
      std::fprintf(stderr, "%s: %llx, interpreter: %llx\n%s", name_of(engine),
                   static_cast<unsigned long long>(outcome.value),
                   static_cast<unsigned long long>(first.value), print(program.value()).c_str());
      std::abort();
    }
  }
  return 0;
}
