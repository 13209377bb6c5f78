// Any bytes: decode() answers; what it takes can be printed, interpreted within bounds and fuel,
// and compiled.
#include <cstdlib>

#include "interpreter/interpreter.hpp"
#include "isa/program.hpp"
#include "jit_x64/compile.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace bpftime;
  DecodeProblem problem;
  const auto program = decode(std::as_bytes(std::span(data, size)), &problem);
  if (!program) {
    return 0;
  }
  (void)print(program.value());
  for (const bool has_bmi2 : {false, true}) {
    const auto compiled = compile_x64(program.value(), {true, has_bmi2, has_bmi2});
    (void)compiled;
  }
  const auto interpreter = Interpreter::prepare(program.value());
  if (!interpreter) {
    return 0;
  }
  // Exactly the input, on the heap: one byte beside it is AddressSanitizer's.
  std::vector<uint64_t> memory(8, 0x0102030405060708);
  const std::vector<uint64_t> slots(interpreter.value().slots().size(), 0);
  Hit hit{slots.data(), 2000, kHitNormal, 0, 0};
  const uint64_t args[] = {reinterpret_cast<uint64_t>(memory.data()), 64};
  const MemoryRange range{args[0], 64, true};
  const auto value = interpreter.value().run(args, std::span(&range, 1), &hit);
  (void)value;
  if (hit.program_rsp != 0) {
    std::abort();
  }
  return 0;
}
