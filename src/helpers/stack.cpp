// get_stack, get_stackid: the user's stack by frame pointers, as the kernel walks it (Linux 6.18
// arch/x86/events/core.c: perf_callchain_user). At a function's first instruction its caller is told
// by the return address on top, which the kernel may miss. There is no
// kernel stack: EFAULT, as where the kernel finds none.
#include <linux/bpf.h>

#include <cerrno>

#include "helpers/all.hpp"
#include "helpers/lock_context.hpp"
#include "maps/stack_trace.hpp"

namespace bpftime::helper {
namespace {

// In struct pt_regs, as 64-bit words.
constexpr uint32_t kRbp = 4;
constexpr uint32_t kRip = 16;
constexpr uint32_t kRsp = 19;
constexpr uint64_t kLowest = 4096;  // no frame lies below: the end of the chain is mostly 0

uint64_t error(int code) { return static_cast<uint64_t>(static_cast<int64_t>(-code)); }

// Functions with a return probe return into the agent; their entries know where they return to.
uint64_t true_return_address(const ProbeHit& hit, uint64_t address, uint64_t at) {
  const AgentState* const state = hit.state;
  if (state == nullptr || address - state->agent_base >= state->agent_bytes) [[likely]] {
    return address;
  }
  const ReturnEntry* const entries = hit.thread->entries;
  for (uint32_t i = 0; entries != nullptr && i < kReturnEntries; i++) {
    if (entries[i].slot != 0 && entries[i].slot + 16 >= at && entries[i].slot <= at + 16) {
      return entries[i].return_address;
    }
  }
  return address;
}

bool is_at_function_begin(const ProbeHit& hit) {
  return is_running(hit) && runs_at_entry(hit) && hit.site->reserved != 0;
}

// At most `most` addresses; 0 when there are no registers to begin with.
uint32_t walk(const ProbeHit& hit, uint64_t* ips, uint32_t most) {
  const auto* const regs = static_cast<const uint64_t*>(hit.regs);
  if (regs == nullptr || most == 0) {
    return 0;
  }
  uint32_t count = 0;
  ips[count++] = regs[kRip];
  if (count < most && is_at_function_begin(hit)) {
    uint64_t caller = 0;
    if (checked_read(hit.thread, &caller, regs[kRsp], sizeof(caller)) == 0) {
      ips[count++] = true_return_address(hit, caller, regs[kRsp]);
    }
  }
  struct {
    uint64_t next, return_address;
  } frame;
  for (uint64_t at = regs[kRbp]; count < most && at >= kLowest; at = frame.next) {
    if (checked_read(hit.thread, &frame, at, sizeof(frame)) != 0) {
      break;
    }
    ips[count++] = true_return_address(hit, frame.return_address, at + 8);
  }
  return count;
}

uint32_t least(uint64_t a, uint64_t b) { return static_cast<uint32_t>(a < b ? a : b); }

void zero(uint64_t to, uint64_t from, uint64_t end) {
  auto* const bytes = reinterpret_cast<volatile char*>(to);
  for (; from < end; from++) {
    bytes[from] = 0;
  }
}

}  // namespace

// (ctx, void* buf, u32 size, u64 flags): bytes written.
BPFTIME_HELPER(get_stack) {
  (void)a1, (void)a5;
  const ProbeHit& self = probe(hit);
  const auto size = static_cast<uint32_t>(a3);
  const bool is_user = (a4 & BPF_F_USER_STACK) != 0;
  const bool with_build_id = (a4 & BPF_F_USER_BUILD_ID) != 0;
  const uint32_t frame = with_build_id ? sizeof(bpf_stack_build_id) : sizeof(uint64_t);
  if ((a4 & ~(uint64_t{BPF_F_SKIP_FIELD_MASK} | BPF_F_USER_STACK | BPF_F_USER_BUILD_ID)) != 0 ||
      (with_build_id && !is_user) || size % frame != 0) {
    zero(a2, 0, size);
    return error(EINVAL);
  }
  uint64_t ips[kMostFrames];
  const auto skip = static_cast<uint32_t>(a4 & BPF_F_SKIP_FIELD_MASK);
  const uint32_t count =
      is_user ? walk(self, ips, least(uint64_t{size} / frame + skip, kMostFrames)) : 0;
  if (count == 0 || count < skip) {
    zero(a2, 0, size);
    return error(EFAULT);
  }
  const uint32_t given = least(count - skip, size / frame);
  for (uint32_t i = 0; i < given; i++) {
    if (with_build_id) {
      stack_frame(self.process->build_ids, ips[skip + i],
                  reinterpret_cast<uint64_t*>(a2) + uint64_t{i} * kFrameWords);
    } else {
      reinterpret_cast<uint64_t*>(a2)[i] = ips[skip + i];
    }
  }
  zero(a2, uint64_t{given} * frame, size);
  return uint64_t{given} * frame;
}

// (ctx, map, u64 flags): the id.
BPFTIME_HELPER(get_stackid) {
  (void)a1, (void)a4, (void)a5;
  const ProbeHit& self = probe(hit);
  const MapView& map = *reinterpret_cast<const MapView*>(a2);
  if ((a3 & ~(uint64_t{BPF_F_SKIP_FIELD_MASK} | BPF_F_USER_STACK | BPF_F_FAST_STACK_CMP |
              BPF_F_REUSE_STACKID)) != 0) {
    return error(EINVAL);
  }
  const auto skip = static_cast<uint32_t>(a3 & BPF_F_SKIP_FIELD_MASK);
  uint64_t ips[kMostFrames];
  const uint32_t count =
      (a3 & BPF_F_USER_STACK) != 0
          ? walk(self, ips, least(uint64_t{stack_depth(map)} + skip, kMostFrames))
          : 0;
  if (count <= skip) {
    return error(EFAULT);
  }
  return static_cast<uint64_t>(
      stack_id(map, lock_context(self), self.process->build_ids, ips + skip, count - skip, a3));
}

}  // namespace bpftime::helper
