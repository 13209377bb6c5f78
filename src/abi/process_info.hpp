// What helpers know about the process they run in. Home: pure *. Written from outside by the broker
// (in a target) or by the test; constant while programs run. Every field may be 0 = not known: the
// helper then asks the kernel.
#pragma once
#include <cstdint>

namespace bpftime {

struct ProcessInfo {
  uint32_t owner;  // OwnerId, stands beside every lock that this process takes
  uint32_t tgid;
  int (*vdso_clock_gettime)(int clock, void* timespec);  // __vdso_clock_gettime
  int64_t rseq_offset;                                   // fs-relative struct rseq
  uint32_t rseq_offset_valid;
  uint32_t cpu_count;  // lanes of per-CPU maps
  void* user;          // handed to the sinks
  uint64_t reserved[2];
};
static_assert(sizeof(ProcessInfo) == 56);

}  // namespace bpftime
