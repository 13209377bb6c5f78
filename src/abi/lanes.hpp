// Lanes: what user space has where the kernel has "this CPU" (DESIGN D4). Home: pure *.
//
// A program that touches per-CPU data owns a lane from its first touch to its end; per-CPU values
// have one entry a lane, so that a plain add is exact although threads are preempted. Lanes
// [0, cpus) are the CPUs': only a thread that runs on the CPU takes one, in a restartable sequence
// (rseq(2)), by a plain store. The rest are spill lanes, for whoever finds its CPU's lane taken, and
// for threads without rseq; they are taken by compare and swap. What loaders see as the number of
// possible CPUs is the number of lanes.
//
// The words lie in one file of the broker, mapped by all targets. HOSTILE: any of them may scribble.
// A lane's number is never read from there; who scribbles makes others lose hits or exactness.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace bpftime {

inline constexpr char kLanesName[] = "bpftime-lanes";

// OwnerId of the process whose hit has it; 0 = free. A killed process's are freed by the broker.
struct alignas(64) LaneWord {
  std::atomic<uint32_t> owner;
};
static_assert(sizeof(LaneWord) == 64);

// A thread that is preempted inside a hit keeps its lane until it runs again, so there are lanes
// for many more threads than CPUs.
inline constexpr uint32_t kLeastSpillLanes = 32;
constexpr uint32_t lane_count(uint32_t cpus) { return (cpus + kLeastSpillLanes + 63) / 64 * 64; }

}  // namespace bpftime
