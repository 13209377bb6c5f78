// tail_call. Linux 6.18 kernel/bpf/core.c: JMP_TAIL_CALL.
#include "helpers/all.hpp"
#include "maps/map_view.hpp"

namespace bpftime {

// Where the running program is left for the one that comes next (vm/program.hpp: FaultRange), which is noted; 0 where
// there is no such program, or too many were called already.
extern "C" __attribute__((visibility("hidden"))) uint64_t bpftime_next_program(
    uint64_t /*context*/, const MapView* map, uint32_t index, uint64_t, uint64_t, Hit* hit) {
  ProbeHit& self = helper::probe(hit);
  if (map->code != MapCode::kProgArray || map->used == nullptr || index >= map->element_count ||
      self.running == nullptr || self.tail_calls >= kMostTailCalls) {
    return 0;
  }
  // SAFETY: a table of max_entries words in this process's arena, which the broker writes while all threads stand still.
  const TailTarget* const target = reinterpret_cast<const TailTarget* const*>(map->used)[index];
  if (target == nullptr) {
    return 0;
  }
  self.tail_calls++;
  self.tail_target = target;
  return self.running->resume;
}

namespace helper {

// (ctx, map, u32 index): comes back only where nothing is called. The context is that of the hit, which is what the
// verifier lets a program give. The program is left from here, where what a callee keeps is as the program had it: what
// runs programs (runtime/tail_call.cpp) relies on it.
__attribute__((naked)) uint64_t tail_call(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, Hit*) {
  __asm__(R"(
    push %r9
    .cfi_adjust_cfa_offset 8
    call bpftime_next_program
    pop %rdi
    .cfi_adjust_cfa_offset -8
    test %rax, %rax
    jz 1f
    jmp *%rax
1:  ret
  )");
}

}  // namespace helper
}  // namespace bpftime
