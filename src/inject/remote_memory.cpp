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
#include <cstring>
#include <string>

#include "inject/stopped_state.hpp"

namespace bpftime {
namespace {

constexpr uint64_t kNoFd = ~uint64_t{0};
constexpr int kChannelLowest = 500;
constexpr int kChannelBelowEnd = 8;  // of the table of descriptors

uint64_t number(int value) { return static_cast<uint64_t>(static_cast<int64_t>(value)); }

std::string fd_path(pid_t pid, int fd) {
  return "/proc/" + std::to_string(pid) + "/fd/" + std::to_string(fd);
}

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

Result<std::vector<KernelSigaction>> remote_sigactions(RemoteThread& thread,
                                                       std::span<const int> signals,
                                                       const KernelSigaction* new_action) {
  const uint64_t scratch = raw(TRY(thread.scratch()));
  if (signals.size() >= RemoteThread::kScratchBytes / sizeof(KernelSigaction)) {
    return make_error(EINVAL, "too many signals");
  }
  if (new_action != nullptr) {
    TRY(thread.process().write_value(RemoteAddr{scratch}, *new_action));
  }
  const uint64_t old_at = scratch + sizeof(KernelSigaction);
  RemoteCalls calls;
  for (size_t i = 0; i < signals.size(); i++) {
    calls.add(SYS_rt_sigaction, {number(signals[i]), new_action != nullptr ? scratch : 0,
                                 old_at + i * sizeof(KernelSigaction), 8});
  }
  const std::vector<uint64_t> results = TRY(thread.run(calls));
  for (const uint64_t result : results) {
    TRY(RemoteThread::check_result(result));
  }
  std::vector<KernelSigaction> old(signals.size());
  TRY(thread.process().read(RemoteAddr{old_at}, std::as_writable_bytes(std::span(old))));
  return old;
}

Result<KernelSigaction> remote_sigaction(RemoteThread& thread, int signal,
                                         const KernelSigaction* new_action) {
  return TRY(remote_sigactions(thread, {&signal, 1}, new_action))[0];
}

Result<RemoteChannel> remote_channel(RemoteThread& thread) {
  const pid_t pid = thread.process().pid();
  const RemoteAddr scratch = TRY(thread.scratch());
  TRY(thread.syscall(SYS_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, raw(scratch)));
  const auto pair = TRY((thread.process().read_value<std::pair<int, int>>(scratch)));
  auto ours = take_fd(pid, pair.second);
  // Programs count on low numbers (dup2, select, "the next free one"). But only as high as the table reaches now: making
  // it larger waits for an RCU grace period where threads share it (Linux 6.18 fs/file.c: expand_fdtable), 10 ms and more.
  const auto status = read_status(pid);
  const int slots = status ? static_cast<int>(status->descriptor_slots) : 0;
  const int lowest = std::clamp(slots - kChannelBelowEnd, 0, kChannelLowest);
  RemoteCalls calls;
  calls.add(SYS_close, {number(pair.second)});
  const size_t moved = calls.add(SYS_fcntl, {number(pair.first), F_DUPFD_CLOEXEC, number(lowest)});
  const auto high = RemoteThread::check_result(TRY(thread.run(calls))[moved]);
  RemoteChannel channel;
  channel.remote_fd = pair.first;
  if (high) {
    channel.remote_fd = static_cast<int>(*high);
    (void)remote_close(thread, pair.first);
  }
  struct stat info = {};
  if (ours && ::stat(fd_path(pid, channel.remote_fd).c_str(), &info) == 0) {
    channel.ours = std::move(*ours);
    channel.remote_inode = info.st_ino;
    return channel;
  }
  (void)remote_close(thread, channel.remote_fd);
  return ours ? make_error(errno, "cannot stat the target's end of the channel") : ours.error();
}

namespace {

// What recvmsg needs in the target's scratch memory.
struct RemoteReceipt {
  msghdr message;
  iovec part;
  uint64_t byte;
  alignas(cmsghdr) char room[CMSG_SPACE(kMaxFdsAtOnce * sizeof(int))];
};
static_assert(sizeof(RemoteReceipt) <= RemoteThread::kScratchBytes);

// Sends the descriptors, and adds the call that receives them. Their numbers are then at received_fd(scratch, i), or -1.
Result<void> send_and_receive(RemoteThread& thread, const RemoteChannel& channel,
                              std::span<const int> fds, RemoteCalls* calls) {
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
  const uint64_t scratch = raw(TRY(thread.scratch()));
  RemoteReceipt receipt = {};
  std::memset(receipt.room, 0xff, sizeof receipt.room);  // a descriptor that does not come is -1
  // SAFETY: addresses of the target, never dereferenced here.
  receipt.part = {reinterpret_cast<void*>(scratch + offsetof(RemoteReceipt, byte)), 1};
  receipt.message.msg_iov = reinterpret_cast<iovec*>(scratch + offsetof(RemoteReceipt, part));
  receipt.message.msg_iovlen = 1;
  receipt.message.msg_control = reinterpret_cast<void*>(scratch + offsetof(RemoteReceipt, room));
  receipt.message.msg_controllen = sizeof receipt.room;
  TRY(thread.process().write_value(RemoteAddr{scratch}, receipt));
  calls->add(SYS_recvmsg, {number(channel.remote_fd), scratch, MSG_CMSG_CLOEXEC | MSG_DONTWAIT});
  return {};
}

RemoteAddr received_fd(RemoteAddr scratch, size_t i) {
  return RemoteAddr{raw(scratch) + offsetof(RemoteReceipt, room) + CMSG_LEN(0) + i * sizeof(int)};
}

}  // namespace

Result<std::vector<int>> send_fds(RemoteThread& thread, const RemoteChannel& channel,
                                  std::span<const int> fds) {
  RemoteCalls calls;
  TRY(send_and_receive(thread, channel, fds, &calls));
  const std::vector<uint64_t> results = TRY(thread.run(calls));
  TRY(RemoteThread::check_result(results[0]));
  const RemoteAddr scratch = TRY(thread.scratch());
  std::vector<int> numbers(fds.size());
  TRY(thread.process().read(received_fd(scratch, 0), std::as_writable_bytes(std::span(numbers))));
  if (std::find(numbers.begin(), numbers.end(), -1) != numbers.end()) {
    for (const int fd : numbers) {
      if (fd >= 0) {
        (void)remote_close(thread, fd);
      }
    }
    return make_error(EMFILE, "the target has no room for file descriptors");
  }
  return numbers;
}

namespace {

Result<void> map_some(RemoteThread& thread, const RemoteChannel& channel,
                      std::span<const RemoteMapping> mappings) {
  const RemoteAddr scratch = TRY(thread.scratch());
  RemoteCalls calls;
  std::vector<int> fds;
  for (const RemoteMapping& m : mappings) {
    if (m.fd >= 0) {
      fds.push_back(m.fd);
    }
  }
  if (!fds.empty()) {
    TRY(send_and_receive(thread, channel, fds, &calls));
  }
  std::vector<size_t> places;
  size_t received = 0;
  for (const RemoteMapping& m : mappings) {
    const bool is_file = m.fd >= 0;
    const int flags = m.flags | MAP_FIXED_NOREPLACE | (is_file ? 0 : MAP_ANONYMOUS);
    const RemoteCalls::Arg fd =
        is_file ? RemoteCalls::Arg::at(received_fd(scratch, received)) : RemoteCalls::Arg(kNoFd);
    places.push_back(
        calls.add(SYS_mmap, {raw(m.at), m.bytes, number(m.prot), number(flags), fd, uint64_t{0}}));
    if (is_file) {
      calls.add(SYS_close, {fd});
      received++;
    }
  }
  const std::vector<uint64_t> results = TRY(thread.run(calls));
  Result<void> mapped{};
  for (size_t i = 0; i < mappings.size() && mapped; i++) {
    const auto at = RemoteThread::check_result(results[places[i]]);
    if (!at && at.error().code == EBADF) {
      mapped = make_error(EMFILE, "the target has no room for file descriptors");
    } else if (!at) {
      mapped = at.error();
    } else if (*at != raw(mappings[i].at)) {  // a kernel before 4.17 takes the address as a hint
      mapped = make_error(EEXIST, "the address is taken");
    }
  }
  RemoteCalls more;
  for (size_t i = 0; i < mappings.size(); i++) {
    if (mapped && mappings[i].advice != 0) {
      more.add(SYS_madvise, {raw(mappings[i].at), mappings[i].bytes, number(mappings[i].advice)});
    } else if (!mapped && RemoteThread::check_result(results[places[i]])) {
      more.add(SYS_munmap, {results[places[i]], mappings[i].bytes});
    }
  }
  const std::vector<uint64_t> done = TRY(thread.run(more));
  for (size_t i = 0; i < done.size() && mapped; i++) {
    TRY(RemoteThread::check_result(done[i]));
  }
  return mapped;
}

}  // namespace

Result<void> remote_map(RemoteThread& thread, const RemoteChannel& channel,
                        std::span<const RemoteMapping> mappings) {
  for (size_t begin = 0; begin < mappings.size(); begin += kMaxFdsAtOnce) {
    TRY(map_some(thread, channel,
                 mappings.subspan(begin, std::min(kMaxFdsAtOnce, mappings.size() - begin))));
  }
  return {};
}

}  // namespace bpftime
