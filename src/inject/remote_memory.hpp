// Mappings and file descriptors in a target, made through a RemoteThread. Home: edge, broker.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.hpp"
#include "base/unique_fd.hpp"
#include "inject/remote_call.hpp"

namespace bpftime {

// Anonymous private memory at exactly `at` (MAP_FIXED_NOREPLACE; EEXIST when taken). `extra_flags`:
// MAP_NORESERVE...
Result<void> remote_map_anonymous(RemoteThread& thread, RemoteAddr at, uint64_t bytes, int prot,
                                  int extra_flags = 0);
// A file descriptor of the target at exactly `at`. flags: MAP_SHARED or MAP_PRIVATE,
// MAP_NORESERVE...
Result<void> remote_map_fd(RemoteThread& thread, RemoteAddr at, uint64_t bytes, int prot, int flags,
                           int remote_fd, uint64_t offset);
Result<void> remote_unmap(RemoteThread& thread, RemoteAddr at, uint64_t bytes);
Result<void> remote_protect(RemoteThread& thread, RemoteAddr at, uint64_t bytes, int prot);
Result<void> remote_madvise(RemoteThread& thread, RemoteAddr at, uint64_t bytes, int advice);
Result<void> remote_close(RemoteThread& thread, int remote_fd);

// struct sigaction as the kernel has it: {handler, flags, restorer, mask}.
struct KernelSigaction {
  uint64_t handler, flags, restorer, mask;
};
// new_action null: only asks.
Result<KernelSigaction> remote_sigaction(RemoteThread& thread, int signal,
                                         const KernelSigaction* new_action);
// The same action for all of them; their old ones.
Result<std::vector<KernelSigaction>> remote_sigactions(RemoteThread& thread,
                                                       std::span<const int> signals,
                                                       const KernelSigaction* new_action);

// A SOCK_SEQPACKET pair with one end in the target. The target's end is CLOEXEC, as high as its
// table of descriptors reaches, at most at 500; ours came by pidfd_getfd.
struct RemoteChannel {
  int remote_fd = -1;
  uint64_t remote_inode = 0;  // st_ino of the target's end
  UniqueFd ours;
};
Result<RemoteChannel> remote_channel(RemoteThread& thread);

// Brings file descriptors of ours into the target (SCM_RIGHTS, one message); their numbers there,
// CLOEXEC, same order. At most kMaxFdsAtOnce. The caller closes them with remote_close when mapped.
inline constexpr size_t kMaxFdsAtOnce = 32;
Result<std::vector<int>> send_fds(RemoteThread& thread, const RemoteChannel& channel,
                                  std::span<const int> fds);
// One of several mappings made in one go.
struct RemoteMapping {
  RemoteAddr at;
  uint64_t bytes;
  int prot, flags;  // flags: MAP_SHARED or MAP_PRIVATE, MAP_NORESERVE...
  int fd = -1;      // ours; -1: anonymous memory
  int advice = 0;   // madvise(2)
};
// Either all are there, or none (EEXIST, EMFILE, ...) of those that were made at once (kMaxFdsAtOnce).
Result<void> remote_map(RemoteThread& thread, const RemoteChannel& channel,
                        std::span<const RemoteMapping> mappings);
// The other way: take_fd() in inject/process.hpp.

}  // namespace bpftime
