// What the broker does to a target, done by a test to its own process: a site table, rooms for
// trampolines, patches written through /proc/self/mem (text is never made writable). For tests and
// benchmarks of hook.
#pragma once
#include <cstdint>

#include "abi/agent.hpp"
#include "hook/thread_state.hpp"
#include "hook/thunks.hpp"
#include "patchplan/plan.hpp"

namespace bpftime::testing {

enum class Probe : uint32_t { kEntry, kReturn, kBoth };

struct Hooked {
  Site* site = nullptr;
  Plan plan{};
  void arm(Probe probe);
  void disarm();
  void restore();  // the bytes as before; the trampoline stays
};

// Sets up AgentState and this thread's gs base (threads made later inherit it). Idempotent.
AgentState* start_fake_broker();
// Size by the dynamic symbol table: link with exports. Aborts with a message on refusal, unless
// `refusal` is given.
Hooked hook_function(void* function, Probe probe, uint64_t offset = 0,
                     const Error** refusal = nullptr);
Hooked hook_bytes(void* function, uint64_t function_bytes, Probe probe, uint64_t offset = 0,
                  const Error** refusal = nullptr);
template <class F>
Hooked hook(F* function, Probe probe) {
  return hook_function(reinterpret_cast<void*>(function), probe);
}
// From now on hits are of this kind (ListFlags), on this thread; `program` is for plain ones.
using Program = uint64_t (*)(void* regs, Hit* hit);
void use_lists(uint32_t flags, Program program = nullptr);
uint64_t missed_runs();  // HitCounts::missed of what is attached everywhere
void kill_broker(bool is_dead);
// From now on: hook through the thunks that do not use gs.
void use_hashed_thunks(bool yes);
void write_text(uint64_t at, const void* bytes, uint64_t size);

}  // namespace bpftime::testing
