#include "runtime/tail_call.hpp"

#include "helpers/probe_hit.hpp"

namespace bpftime {

uint64_t run_tail_calls(void* regs, Hit* base) {
  auto& hit = *static_cast<ProbeHit*>(base);
  // SAFETY: the broker wrote the program's address there (broker/target_mappings.cpp).
  const auto program = reinterpret_cast<ProgramFn>(hit.slots[-1]);
  hit.tail_calls = 0;
  hit.tail_target = nullptr;
  hit.running = hit.attached->code;
  uint64_t result = program(regs, base);
  while (hit.tail_target != nullptr) {
    const TailTarget& next = *hit.tail_target;
    hit.tail_target = nullptr;
    hit.slots = next.slots;
    hit.running = next.code;
    result = next.program(regs, base);
  }
  hit.running = nullptr;
  return result;
}

}  // namespace bpftime
