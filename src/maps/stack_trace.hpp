// STACK_TRACE as get_stackid(2) uses it. Home: injected *, any thread.
#pragma once
#include "abi/build_ids.hpp"
#include "maps/map_ops.hpp"

namespace bpftime {

// STACK_TRACE: one for each id, at values_offset; `words` of the value follow (a stack, or what
// BPF_F_STACK_BUILD_ID makes of it). A writer holds `lock` and makes `version` odd meanwhile; readers
// hold nothing and check that it was even and did not change.
struct StackBucket {
  RobustLock lock;
  std::atomic<uint32_t> version;
  std::atomic<uint32_t> words;  // 0 = none
  std::atomic<uint32_t> hash;
  uint32_t reserved;
};
static_assert(sizeof(StackBucket) == 24);

inline constexpr uint32_t kMostFrames = 127;  // kernel: sysctl_perf_event_max_stack

inline constexpr uint32_t kFrameWords = 4;  // of struct bpf_stack_build_id

// An address by build id: BPF_STACK_BUILD_ID_VALID with the offset in the file, or BPF_STACK_BUILD_ID_IP where no file
// with a build id is mapped there. `words`: kFrameWords.
void stack_frame(const BuildIdTable* build_ids, uint64_t ip, uint64_t* words);

// The id of a stack of `count` addresses, stored if it is new. Negative: -EEXIST another stack has
// the id (and BPF_F_REUSE_STACKID is not among `flags`), -EBUSY. Linux 6.18 kernel/bpf/stackmap.c:
// __bpf_get_stackid. `count` is at most what a value holds.
int64_t stack_id(const MapView& map, const LockContext& who, const BuildIdTable* build_ids,
                 const uint64_t* ips, uint32_t count, uint64_t flags);

// Addresses that a value holds.
uint32_t stack_depth(const MapView& map);

}  // namespace bpftime
