#include "inject/remote_memory.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "inject/stopped_state.hpp"

namespace bpftime {
namespace {

constexpr uint64_t kNoFd = ~uint64_t{0};
constexpr int kChannelLowest = 500;
constexpr int kChannelBelowEnd = 8;  // of the table of descriptors

uint64_t number(int value) { return static_cast<uint64_t>(static_cast<int64_t>(value)); }

}  // namespace

Result<void> remote_map_anonymous(RemoteThread& thread, RemoteAddr at, uint64_t bytes, int prot,
                                  int extra_flags) {
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | extra_flags;
  const uint64_t got =
      TRY(thread.syscall(SYS_mmap, raw(at), bytes, number(prot), number(flags), kNoFd, 0));
  if (got != raw(at)) {  // a kernel before 4.17 takes the address as a hint
    (void)thread.syscall(SYS_munmap, got, bytes);
    return make_error(EEXIST, "the address is taken");
  }
  return {};
}

Result<void> remote_map_fd(RemoteThread& thread, RemoteAddr at, uint64_t bytes, int prot, int flags,
                           int remote_fd, uint64_t offset) {
  const uint64_t got =
      TRY(thread.syscall(SYS_mmap, raw(at), bytes, number(prot),
                         number(flags | MAP_FIXED_NOREPLACE), number(remote_fd), offset));
  if (got != raw(at)) {
    (void)thread.syscall(SYS_munmap, got, bytes);
    return make_error(EEXIST, "the address is taken");
  }
  return {};
}

Result<void> remote_unmap(RemoteThread& thread, RemoteAddr at, uint64_t bytes) {
  TRY(thread.syscall(SYS_munmap, raw(at), bytes));
  return {};
}

Result<void> remote_protect(RemoteThread& thread, RemoteAddr at, uint64_t bytes, int prot) {
  TRY(thread.syscall(SYS_mprotect, raw(at), bytes, number(prot)));
  return {};
}

Result<void> remote_madvise(RemoteThread& thread, RemoteAddr at, uint64_t bytes, int advice) {
  TRY(thread.syscall(SYS_madvise, raw(at), bytes, number(advice)));
  return {};
}

Result<void> remote_close(RemoteThread& thread, int remote_fd) {
  TRY(thread.syscall(SYS_close, number(remote_fd)));
  return {};
}

Result<KernelSigaction> remote_sigaction(RemoteThread& thread, int signal,
                                         const KernelSigaction* new_action) {
  const uint64_t scratch = raw(TRY(thread.scratch()));
  if (new_action != nullptr) {
    TRY(thread.process().write_value(RemoteAddr{scratch}, *new_action));
  }
  const uint64_t old_at = scratch + sizeof(KernelSigaction);
  TRY(thread.syscall(SYS_rt_sigaction, number(signal), new_action != nullptr ? scratch : 0, old_at,
                     8));
  return thread.process().read_value<KernelSigaction>(RemoteAddr{old_at});
}

Result<RemoteChannel> remote_channel(RemoteThread& thread) {
  const uint64_t scratch = raw(TRY(thread.scratch()));
  TRY(thread.syscall(SYS_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, scratch));
  const auto pair = TRY((thread.process().read_value<std::pair<int, int>>(RemoteAddr{scratch})));
  RemoteChannel channel;
  channel.remote_fd = pair.first;
  auto ours = take_fd(thread.process().pid(), pair.second);
  (void)remote_close(thread, pair.second);
  if (!ours) {
    (void)remote_close(thread, pair.first);
    return ours.error();
  }
  channel.ours = std::move(*ours);
  // Programs count on low numbers (dup2, select, "the next free one"). But only as high as the table reaches now: making
  // it larger waits for an RCU grace period where threads share it (Linux 6.18 fs/file.c: expand_fdtable), 10 ms and more.
  const auto status = read_status(thread.process().pid());
  const int slots = status ? static_cast<int>(status->descriptor_slots) : 0;
  const int lowest = std::clamp(slots - kChannelBelowEnd, 0, kChannelLowest);
  const auto high = thread.syscall(SYS_fcntl, number(pair.first), F_DUPFD_CLOEXEC, number(lowest));
  if (high) {
    channel.remote_fd = static_cast<int>(*high);
    (void)remote_close(thread, pair.first);
  }
  char path[64];
  std::snprintf(path, sizeof path, "/proc/%d/fd/%d", thread.process().pid(), channel.remote_fd);
  struct stat info = {};
  if (stat(path, &info) != 0) {
    (void)remote_close(thread, channel.remote_fd);
    return make_error(errno, "cannot stat the target's end of the channel");
  }
  channel.remote_inode = info.st_ino;
  return channel;
}

Result<std::vector<int>> send_fds(RemoteThread& thread, const RemoteChannel& channel,
                                  std::span<const int> fds) {
  if (fds.empty() || fds.size() > kMaxFdsAtOnce) {
    return make_error(EINVAL, "send_fds: none, or too many at once");
  }
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxFdsAtOnce * sizeof(int))] = {};
  char byte = 'f';
  iovec part = {&byte, 1};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
  std::memcpy(CMSG_DATA(header), fds.data(), fds.size() * sizeof(int));
  if (sendmsg(channel.ours.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT) != 1) {
    return make_error(errno, "cannot send file descriptors to the target");
  }

  // The same structures once more, in the target: msghdr, iovec, the byte, the control buffer.
  struct Remote {
    msghdr message;
    iovec part;
    uint64_t byte;
    alignas(cmsghdr) char room[sizeof control];
  };
  static_assert(sizeof(Remote) <= RemoteThread::kScratchBytes);
  const uint64_t scratch = raw(TRY(thread.scratch()));
  Remote remote = {};
  // SAFETY: addresses of the target, never dereferenced here.
  remote.part = {reinterpret_cast<void*>(scratch + offsetof(Remote, byte)), 1};
  remote.message.msg_iov = reinterpret_cast<iovec*>(scratch + offsetof(Remote, part));
  remote.message.msg_iovlen = 1;
  remote.message.msg_control = reinterpret_cast<void*>(scratch + offsetof(Remote, room));
  remote.message.msg_controllen = sizeof remote.room;
  TRY(thread.process().write_value(RemoteAddr{scratch}, remote));
  TRY(thread.syscall(SYS_recvmsg, number(channel.remote_fd), scratch,
                     MSG_CMSG_CLOEXEC | MSG_DONTWAIT));
  remote = TRY(thread.process().read_value<Remote>(RemoteAddr{scratch}));
  cmsghdr got;
  std::memcpy(&got, remote.room, sizeof got);
  const size_t most = sizeof remote.room - CMSG_LEN(0);
  if (remote.message.msg_controllen < sizeof got || got.cmsg_type != SCM_RIGHTS ||
      got.cmsg_len < CMSG_LEN(0) || got.cmsg_len - CMSG_LEN(0) > most) {
    return make_error(EMFILE, "the target received no file descriptor");
  }
  std::vector<int> numbers((got.cmsg_len - CMSG_LEN(0)) / sizeof(int));
  std::memcpy(numbers.data(), remote.room + CMSG_LEN(0), numbers.size() * sizeof(int));
  if (numbers.size() != fds.size()) {
    for (const int fd : numbers) {
      (void)remote_close(thread, fd);
    }
    return make_error(EMFILE, "the target has no room for file descriptors");
  }
  return numbers;
}

}  // namespace bpftime
