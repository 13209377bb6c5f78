#include "runtime/tail_call.hpp"

namespace bpftime {

uint64_t run_chain(const TailTarget& first, void* context, ProbeHit& hit) {
  hit.tail_calls = 0;
  uint64_t result = 0;
  for (const TailTarget* next = &first; next != nullptr; next = hit.tail_target) {
    hit.tail_target = nullptr;
    hit.slots = next->slots;
    hit.running = next->code;
    result = next->program(context, &hit);
  }
  hit.running = nullptr;
  return result;
}

uint64_t run_tail_calls(void* regs, Hit* base) {
  auto& hit = *static_cast<ProbeHit*>(base);
  // SAFETY: the broker wrote the program's address there (broker/target_mappings.cpp).
  const auto program = reinterpret_cast<ProgramFn>(hit.slots[-1]);
  return run_chain({program, hit.slots, hit.attached->code}, regs, hit);
}

}  // namespace bpftime
