// What helpers know about the process they run in. Home: pure *. Written from outside by the broker
// (in a target) or by the test; constant while programs run. Every field may be 0 = not known: the
// helper then asks the kernel.
#pragma once
#include <cstddef>
#include <cstdint>

#include "abi/lanes.hpp"

namespace bpftime {

struct ProcessInfo {
  uint32_t owner;  // OwnerId, stands beside every lock that this process takes
  uint32_t tgid;
  int (*vdso_clock_gettime)(int clock, void* timespec);  // __vdso_clock_gettime
  int64_t rseq_offset;                                   // fs-relative struct rseq
  uint32_t rseq_offset_valid;
  uint32_t lane_count;
  void* user;          // handed to the sinks
  LaneWord* lanes;     // lane_count of them; null: hits that need one are missed
  uint32_t cpu_lanes;  // the CPUs' own, the first ones
  uint32_t reserved;
  uint64_t cgroup_id;                    // when the agent came
  const struct BuildIdTable* build_ids;  // build_ids.hpp
};
// For src/helpers/lane.S.
static_assert(sizeof(ProcessInfo) == 72 && offsetof(ProcessInfo, owner) == 0 &&
              offsetof(ProcessInfo, rseq_offset) == 16 && offsetof(ProcessInfo, lanes) == 40 &&
              offsetof(ProcessInfo, cpu_lanes) == 48);

}  // namespace bpftime
