// ProbeHit: one run of one program at one probe. Home: injected *. Lies in the block of the thread
// that runs the program; helpers cast their Hit* to it.
#pragma once
#include <cstdint>

#include "abi/agent.hpp"
#include "vm/program.hpp"

namespace bpftime {

// A hit is bound by its stores, so what is the same from hit to hit is written once
// (bpftime_run_begin in runtime/run.cpp), what a run seldom changes is compared, and what every run
// writes lies in one line.
struct alignas(64) ProbeHit : Hit {
  // What runs; the hit itself between runs and while a plain program runs (kListPlain); null in tests,
  // and when a program left its run in another way than its caller expects.
  const Attached* attached;
  Site* site;
  uint64_t leave_rsp;  // run_list's, for leaving a program in the middle of a helper that faulted
  // Internal programs set 1: return to the caller with regs->rax instead of running the function. 0 between hits.
  uint64_t answer;
  // ---- seldom written
  ThreadBlock* thread;
  void* regs;  // struct pt_regs of the hit; the program's context
  const ProcessInfo* process;
  AgentState* state;
  SessionCell* session;  // of the session program that runs (runtime/session.hpp)
  uint32_t cpu;          // lane of the program that runs (helpers/lane.hpp); kNoCpu = not asked yet
  uint32_t tail_calls;   // made in this run
  const CodeRange* faulted;  // Attached::code of the plain program that did, where `ended` says so
  const TailTarget* tail_target;  // what the program that ended has called; else null
  const CodeRange* running;       // of the program that runs, where it may make tail calls
};
static_assert(sizeof(ProbeHit) == sizeof(ThreadBlock::hit_space));
inline constexpr uint32_t kNoCpu = ~0U;

// Hit::reserved: what the end of the run has to put back.
inline constexpr uint32_t kHitHasLane = 1;
inline constexpr uint32_t kHitMissedLane = 2;  // no lane was free, and that is counted
inline constexpr uint32_t kHitHasCpu = 4;      // `cpu` is no lane, only where the thread ran
inline constexpr uint32_t kHitHasRecord = 8;   // of a ring buffer, open

// SAFETY: never read through: only compared.
inline void set_idle(ProbeHit& hit) { hit.attached = reinterpret_cast<const Attached*>(&hit); }
// A plain program that reads, on the hit stack for a while (runtime/read_aside.S).
inline bool is_reading_aside(const ProbeHit& hit) {
  return reinterpret_cast<uint64_t>(hit.attached) == reinterpret_cast<uint64_t>(&hit) + 1;
}
inline bool is_running(const ProbeHit& hit) {
  return hit.attached != nullptr && hit.attached != reinterpret_cast<const Attached*>(&hit) &&
         !is_reading_aside(hit);
}

inline bool runs_in(const ProbeHit& hit, const std::atomic<const AttachedList*>& of_site) {
  const AttachedList* const list = of_site.load(std::memory_order_relaxed);
  return list != nullptr && hit.attached >= list->items && hit.attached < list->items + list->count;
}
inline bool runs_at_entry(const ProbeHit& hit) {
  return hit.site != nullptr && runs_in(hit, hit.site->on_entry);
}
inline bool runs_at_return(const ProbeHit& hit) {
  return hit.site != nullptr && runs_in(hit, hit.site->on_return);
}

// Back edges and callback iterations that one run may take: what bpf_loop allows at most (1 << 23).
inline constexpr int64_t kHitFuel = 1LL << 23;

}  // namespace bpftime
