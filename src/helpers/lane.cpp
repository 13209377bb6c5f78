#include "helpers/lane.hpp"

#include "base/raw_syscall.hpp"

extern "C" __attribute__((visibility("hidden"))) uint32_t
bpftime_take_cpu_lane(const bpftime::ProcessInfo* process);

namespace bpftime {
namespace {

uint32_t current_cpu(const ProbeHit& hit) {
  if (hit.process != nullptr && hit.process->rseq_offset_valid != 0) {
    uint32_t cpu = 0;  // struct rseq: cpu_id at 4
    __asm__ volatile("movl %%fs:4(%1), %0" : "=r"(cpu) : "r"(hit.process->rseq_offset));
    if (static_cast<int32_t>(cpu) >= 0) {
      return cpu;
    }
  }
  uint32_t cpu = 0;
  raw_syscall(SYS_getcpu, reinterpret_cast<uint64_t>(&cpu), 0, 0);
  return cpu;
}

// Each thread begins at another one, where it most likely was before.
uint32_t take_spill_lane(const ProcessInfo& process, uint32_t tid) {
  const uint32_t spill_lanes = process.lane_count - process.cpu_lanes;
  uint32_t at = spill_lanes == 0 ? 0 : tid % spill_lanes;
  for (uint32_t tries = 0; tries < spill_lanes; tries++) {
    const uint32_t lane = process.cpu_lanes + at;
    std::atomic<uint32_t>& owner = process.lanes[lane].owner;
    uint32_t free = 0;
    if (owner.load(std::memory_order_relaxed) == 0 &&
        owner.compare_exchange_strong(free, process.owner, std::memory_order_acquire)) {
      return lane;
    }
    at = at + 1 == spill_lanes ? 0 : at + 1;
  }
  return kNoCpu;
}

[[gnu::noinline]] uint32_t take_slowly(ProbeHit& hit) {
  const ProcessInfo* const process = hit.process;
  const uint32_t lane = process == nullptr || process->lanes == nullptr
                            ? kNoCpu
                            : take_spill_lane(*process, hit.thread->tid);
  if (lane != kNoCpu) {
    hit.cpu = lane;
    hit.reserved |= kHitHasLane;
  } else if ((hit.reserved & kHitMissedLane) == 0) {
    hit.reserved |= kHitMissedLane;
    if (is_running(hit)) {
      hit.attached->counts->missed.fetch_add(1, std::memory_order_relaxed);
    }
  }
  return lane;
}

}  // namespace

uint32_t cpu_of(ProbeHit& hit) {
  if (hit.cpu == kNoCpu) {
    return current_cpu(hit);
  }
  const uint32_t cpus = hit.process == nullptr ? 0 : hit.process->cpu_lanes;
  return cpus == 0 || hit.cpu < cpus ? hit.cpu : hit.cpu % cpus;
}

uint32_t take_lane(ProbeHit& hit) {
  const ProcessInfo* const process = hit.process;
  if (process != nullptr && process->rseq_offset_valid != 0 && process->lanes != nullptr)
      [[likely]] {
    const uint32_t lane = bpftime_take_cpu_lane(process);
    if (lane != kNoCpu) [[likely]] {
      hit.cpu = lane;
      hit.reserved |= kHitHasLane;
      return lane;
    }
  }
  return take_slowly(hit);
}

}  // namespace bpftime
