// The region that RemoteThread maps in a process, and the code in it: a thread works on a mailbox there, call after call,
// until it is stopped or we die. Home: edge, this room.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "inject/remote_call.hpp"

namespace bpftime {

// The region, from its start: code, scratch page for arguments, mailbox and way back, calls, vector state, stack.
struct MailboxRegion {
  static constexpr uint64_t kPage = 4096;
  static constexpr uint64_t kXstateBytes = 16 << 10;  // AVX-512 needs 2.7 KB, AMX 11 KB
  static constexpr uint64_t kStackBytes = 128 << 10;  // for called functions
  static constexpr uint64_t kScratchAt = kPage, kMailboxAt = 2 * kPage;
  static constexpr uint64_t kFrameAt = kMailboxAt + 1024;
  static constexpr uint64_t kCallsAt = kMailboxAt + kPage, kXstateAt = kCallsAt + kPage;
  static constexpr uint64_t kBytes = kXstateAt + kXstateBytes + kPage + kStackBytes;
  static constexpr uint64_t kStackTop = kBytes - 64;
};

struct Mailbox {
  uint32_t sequence, done, count;
  uint32_t is_waited_for;  // we sleep until a byte comes from the lifeline
  uint64_t frame;
  int32_t lifeline;
  uint32_t sleeping;
  char wake_bytes[32];
  uint32_t spins;  // looks for more before it sleeps; at least 1
  uint32_t reserved;
  // The way back that leaves nothing; 0: not known.
  uint64_t syscall_ret, return_sp, region, region_bytes;
};

// One call as the mailbox's code has it.
struct PostedCall {
  uint64_t function, number, args[6], result;
};
inline constexpr size_t kPostedAtOnce = MailboxRegion::kPage / sizeof(PostedCall);

struct PostedCalls {
  std::vector<PostedCall> all;
  std::vector<size_t> places;  // of what was asked for among them
  [[nodiscard]] size_t bytes() const { return all.size() * sizeof(PostedCall); }
};
// As many of `calls` as there is room for, in a region at this address.
PostedCalls posted_calls(std::span<const RemoteCalls::Call> calls, uint64_t region);

// Position independent, for the start of the region. It begins with a system call (rax, rdi) for which rbx is the mailbox,
// rbp 0, and rsp the stack's top.
std::span<const std::byte> mailbox_code();

}  // namespace bpftime
