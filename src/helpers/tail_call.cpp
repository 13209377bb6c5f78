// tail_call. Linux 6.18 kernel/bpf/core.c: JMP_TAIL_CALL.
#include "helpers/all.hpp"
#include "maps/map_view.hpp"

namespace bpftime::helper {

// (ctx, map, u32 index): comes back only where there is no such program, or too many were called already. The context is
// that of the hit, which is what the verifier lets a program give.
BPFTIME_HELPER(tail_call) {
  (void)a1, (void)a4, (void)a5;
  ProbeHit& self = probe(hit);
  const MapView& map = *reinterpret_cast<const MapView*>(a2);
  const auto index = static_cast<uint32_t>(a3);
  if (map.code != MapCode::kProgArray || map.used == nullptr || index >= map.element_count ||
      self.running == nullptr || self.tail_calls >= kMostTailCalls) {
    return 0;
  }
  // SAFETY: a table of max_entries words in this process's arena, which the broker writes while all threads stand still.
  const TailTarget* const target = reinterpret_cast<const TailTarget* const*>(map.used)[index];
  if (target == nullptr) {
    return 0;
  }
  self.tail_calls++;
  self.tail_target = target;
  // As the fault handler leaves a program (vm/program.hpp: FaultRange).
  __asm__ volatile("mov %0, %%rdi\n\tjmp *%1" : : "r"(hit), "r"(self.running->resume) : "rdi");
  __builtin_unreachable();
}

}  // namespace bpftime::helper
