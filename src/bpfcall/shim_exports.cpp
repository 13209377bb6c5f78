// The interposed libc functions but those for files: each is one step away from shim_calls.cpp. Home: shim *.
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/types.h>
#include <unistd.h>

#include <cerrno>

#include "bpfcall/shim_calls.hpp"
#include "bpfcall/shim_events.hpp"
#include "bpfcall/shim_next.hpp"
#include "bpfcall/shim_session.hpp"
#include "bpfcall/shim_signals.hpp"

using bpftime::is_syscall_error;
using bpftime::raw_syscall;
using bpftime::shim::finish;
using bpftime::shim::Next;
namespace shim = bpftime::shim;

namespace {

template <class T>
uint64_t word(T value) {
  if constexpr (std::is_pointer_v<T>) {
    return reinterpret_cast<uint64_t>(value);
  } else {
    return static_cast<uint64_t>(static_cast<int64_t>(value));
  }
}

constinit Next<int (*)(int)> g_next_close("close");
constinit Next<int (*)(int, int, ...)> g_next_fcntl("fcntl");
constinit Next<int (*)(pollfd*, nfds_t, int)> g_next_poll("poll");
constinit Next<int (*)(pollfd*, nfds_t, const timespec*, const sigset_t*)> g_next_ppoll("ppoll");
constinit Next<int (*)(int, fd_set*, fd_set*, fd_set*, timeval*)> g_next_select("select");
constinit Next<int (*)(int, fd_set*, fd_set*, fd_set*, const timespec*, const sigset_t*)>
    g_next_pselect("pselect");
constinit Next<int (*)(int, epoll_event*, int, int)> g_next_epoll_wait("epoll_wait");
constinit Next<int (*)(int, epoll_event*, int, int, const sigset_t*)> g_next_epoll_pwait(
    "epoll_pwait");

int kernel_poll(pollfd* fds, nfds_t count, int timeout_ms, const sigset_t* mask) {
  const timespec timeout = {timeout_ms / 1000, timeout_ms % 1000 * 1'000'000L};
  if (mask != nullptr) {
    return g_next_ppoll.get()(fds, count, timeout_ms < 0 ? nullptr : &timeout, mask);
  }
  const auto next = g_next_poll.get();
  return next != nullptr
             ? next(fds, count, timeout_ms)
             : static_cast<int>(finish(raw_syscall(SYS_poll, word(fds), count, word(timeout_ms))));
}
int kernel_epoll_wait(int epoll, epoll_event* events, int most, int timeout_ms,
                      const sigset_t* mask) {
  if (mask != nullptr) {
    return g_next_epoll_pwait.get()(epoll, events, most, timeout_ms, mask);
  }
  const auto next = g_next_epoll_wait.get();
  return next != nullptr
             ? next(epoll, events, most, timeout_ms)
             : static_cast<int>(finish(raw_syscall(SYS_epoll_wait, word(epoll), word(events),
                                                   word(most), word(timeout_ms))));
}

int close_fd(int fd) {
  const shim::Closing closing = shim::before_close(fd);
  if (!closing.allowed) {
    errno = EBADF;
    return -1;
  }
  const auto next = g_next_close.get();
  const int result =
      next != nullptr ? next(fd) : static_cast<int>(finish(raw_syscall(SYS_close, word(fd))));
  const int error = errno;
  shim::after_close(fd, closing);
  errno = error;
  return result;
}

int fcntl_any(int fd, int command, void* argument) {
  if (command == F_DUPFD || command == F_DUPFD_CLOEXEC) {
    return static_cast<int>(finish(shim::fcntl_call(word(fd), word(command), word(argument))));
  }
  const auto next = g_next_fcntl.get();
  return next != nullptr ? next(fd, command, argument)
                         : static_cast<int>(finish(
                               raw_syscall(SYS_fcntl, word(fd), word(command), word(argument))));
}

// A tool that raises RLIMIT_MEMLOCK only does so for the kernel's accounting of maps, which is not ours.
int set_limit(pid_t pid, int resource, const void* limit, void* old) {
  const long result = raw_syscall(SYS_prlimit64, word(pid), word(resource), word(limit), word(old));
  if (result == -EPERM && resource == RLIMIT_MEMLOCK && limit != nullptr && shim::has_session()) {
    return 0;
  }
  return static_cast<int>(finish(result));
}

// Whether this program has libbpf as a library. Asked once; what is loaded later asks nobody for its user.
bool has_libbpf() {
  static constinit std::atomic<int> known{-1};
  int value = known.load(std::memory_order_relaxed);
  if (value < 0) {
    const int saved = errno;
    value = ::dlsym(RTLD_DEFAULT, "libbpf_num_possible_cpus") != nullptr ? 1 : 0;
    errno = saved;
    known.store(value, std::memory_order_relaxed);
  }
  return value != 0;
}

}  // namespace

// From shim_syscall.S, for the numbers that matter here.
extern "C" __attribute__((visibility("hidden"))) long bpftime_shim_syscall(long number, uint64_t a,
                                                                           uint64_t b, uint64_t c,
                                                                           uint64_t d, uint64_t e,
                                                                           uint64_t f) {
  switch (number) {
    case SYS_bpf:
      return finish(shim::bpf_call(a, b, c));
    case SYS_perf_event_open:
      return finish(shim::perf_event_open_call(a, b, c, d, e));
    case SYS_ioctl:
      return finish(shim::ioctl_call(a, b, c));
    case SYS_mmap:
      return finish(shim::mmap_call(a, b, c, d, e, f));
    case SYS_munmap:
      return finish(shim::munmap_call(a, b));
    case SYS_mprotect:
      return finish(shim::mprotect_call(a, b, c));
    case SYS_mremap:
      return finish(shim::mremap_call(a, b, c, d, e));
    case SYS_close: {
      const auto fd = static_cast<int>(a);
      const shim::Closing closing = shim::before_close(fd);
      if (!closing.allowed) {
        return finish(-EBADF);
      }
      const long result = raw_syscall(SYS_close, a);
      shim::after_close(fd, closing);
      return finish(result);
    }
    case SYS_dup:
      return finish(shim::dup_call(a));
    case SYS_dup2:
    case SYS_dup3:
      return finish(shim::dup3_call(number, a, b, c));
    case SYS_close_range:
      return finish(shim::close_range_call(a, b, c));
    default:
      return finish(raw_syscall(number, a, b, c, d, e, f));
  }
}

extern "C" __attribute__((visibility("hidden"))) long bpftime_shim_failed(long result) {
  return finish(result);
}

BPFTIME_EXPORT void* mmap(void* address, size_t length, int protection, int flags, int fd,
                          off_t offset) {
  const long result =
      shim::mmap_call(word(address), length, word(protection), word(flags), word(fd), word(offset));
  return reinterpret_cast<void*>(finish(result));
}
BPFTIME_EXPORT void* mmap64(void* address, size_t length, int protection, int flags, int fd,
                            off64_t offset) {
  return mmap(address, length, protection, flags, fd, offset);
}
BPFTIME_EXPORT int munmap(void* address, size_t length) {
  return static_cast<int>(finish(shim::munmap_call(word(address), length)));
}
BPFTIME_EXPORT int mprotect(void* address, size_t length, int protection) {
  return static_cast<int>(finish(shim::mprotect_call(word(address), length, word(protection))));
}
BPFTIME_EXPORT void* mremap(void* address, size_t length, size_t new_length, int flags, ...) {
  va_list list;
  va_start(list, flags);
  void* new_address = va_arg(list, void*);
  va_end(list);
  return reinterpret_cast<void*>(
      finish(shim::mremap_call(word(address), length, new_length, word(flags), word(new_address))));
}
BPFTIME_EXPORT int ioctl(int fd, unsigned long request, ...) {
  va_list list;
  va_start(list, request);
  void* argument = va_arg(list, void*);
  va_end(list);
  return static_cast<int>(finish(shim::ioctl_call(word(fd), request, word(argument))));
}
// ---- Waits: object fds are sockets, which epoll and poll know; shim_events.cpp does the rest.
BPFTIME_EXPORT int epoll_create(int size) noexcept {
  const long fd = raw_syscall(SYS_epoll_create, word(size));
  if (fd >= 0 && shim::has_session()) {
    shim::note_epoll(static_cast<int>(fd));
  }
  return static_cast<int>(finish(fd));
}
BPFTIME_EXPORT int epoll_create1(int flags) noexcept {
  const long fd = raw_syscall(SYS_epoll_create1, word(flags));
  if (fd >= 0 && shim::has_session()) {
    shim::note_epoll(static_cast<int>(fd));
  }
  return static_cast<int>(finish(fd));
}
BPFTIME_EXPORT int epoll_ctl(int epoll, int operation, int fd, epoll_event* event) noexcept {
  const long result =
      raw_syscall(SYS_epoll_ctl, word(epoll), word(operation), word(fd), word(event));
  if (result == 0) {
    const int saved = errno;
    shim::note_epoll_change(epoll, operation, fd, event);
    errno = saved;
  }
  return static_cast<int>(finish(result));
}
BPFTIME_EXPORT int epoll_wait(int epoll, epoll_event* events, int most, int timeout_ms) {
  return shim::wait_epoll(epoll, events, most, timeout_ms, kernel_epoll_wait);
}
BPFTIME_EXPORT int epoll_pwait(int epoll, epoll_event* events, int most, int timeout_ms,
                               const sigset_t* mask) {
  if (mask == nullptr) {
    return epoll_wait(epoll, events, most, timeout_ms);
  }
  const shim::SignalsHeld signals(shim::is_any_waitable());
  shim::before_wait(epoll);
  return g_next_epoll_pwait.get()(epoll, events, most, timeout_ms, mask);
}
BPFTIME_EXPORT int epoll_pwait2(int epoll, epoll_event* events, int most, const timespec* timeout,
                                const sigset_t* mask) {
  const shim::SignalsHeld signals(shim::is_any_waitable());
  shim::before_wait(epoll);
  const sigset_t* const asleep = mask != nullptr ? mask : signals.mask_before();
  return static_cast<int>(finish(raw_syscall(SYS_epoll_pwait2, word(epoll), word(events),
                                             word(most), word(timeout), word(asleep), 8)));
}
BPFTIME_EXPORT int poll(pollfd* fds, nfds_t count, int timeout_ms) {
  return shim::wait_poll(fds, count, timeout_ms, kernel_poll);
}
BPFTIME_EXPORT int __poll_chk(pollfd* fds, nfds_t count, int timeout_ms, size_t room) {
  if (room / sizeof(pollfd) < count) {
    __builtin_trap();
  }
  return poll(fds, count, timeout_ms);
}
BPFTIME_EXPORT int ppoll(pollfd* fds, nfds_t count, const timespec* timeout, const sigset_t* mask) {
  const pollfd* asked = fds;
  __asm__("" : "+r"(asked));  // libc declares that fds is only written
  const shim::SignalsHeld signals(shim::is_any_waitable());
  shim::before_wait(asked, count);
  return g_next_ppoll.get()(fds, count, timeout, mask != nullptr ? mask : signals.mask_before());
}
BPFTIME_EXPORT int __ppoll_chk(pollfd* fds, nfds_t count, const timespec* timeout,
                               const sigset_t* mask, size_t room) {
  if (room / sizeof(pollfd) < count) {
    __builtin_trap();
  }
  return ppoll(fds, count, timeout, mask);
}
BPFTIME_EXPORT int select(int count, fd_set* read, fd_set* write, fd_set* except,
                          timeval* timeout) {
  {
    const shim::SignalsHeld signals(shim::is_any_waitable());
    shim::before_wait(count, read);
    if (signals.is_handler_due()) {
      errno = EINTR;
      return -1;
    }
  }
  return g_next_select.get()(count, read, write, except, timeout);
}
BPFTIME_EXPORT int pselect(int count, fd_set* read, fd_set* write, fd_set* except,
                           const timespec* timeout, const sigset_t* mask) {
  const shim::SignalsHeld signals(shim::is_any_waitable());
  shim::before_wait(count, read);
  return g_next_pselect.get()(count, read, write, except, timeout,
                              mask != nullptr ? mask : signals.mask_before());
}
BPFTIME_EXPORT int close(int fd) { return close_fd(fd); }
BPFTIME_EXPORT int dup(int fd) noexcept {
  return static_cast<int>(finish(shim::dup_call(word(fd))));
}
BPFTIME_EXPORT int dup2(int from, int to) noexcept {
  return static_cast<int>(finish(shim::dup3_call(SYS_dup2, word(from), word(to), 0)));
}
BPFTIME_EXPORT int dup3(int from, int to, int flags) noexcept {
  return static_cast<int>(finish(shim::dup3_call(SYS_dup3, word(from), word(to), word(flags))));
}
BPFTIME_EXPORT int fcntl(int fd, int command, ...) {
  va_list list;
  va_start(list, command);
  void* argument = va_arg(list, void*);
  va_end(list);
  return fcntl_any(fd, command, argument);
}
BPFTIME_EXPORT int fcntl64(int fd, int command, ...) {
  va_list list;
  va_start(list, command);
  void* argument = va_arg(list, void*);
  va_end(list);
  return fcntl_any(fd, command, argument);
}
BPFTIME_EXPORT int close_range(unsigned first, unsigned last, int flags) noexcept {
  return static_cast<int>(finish(shim::close_range_call(first, last, word(flags))));
}
BPFTIME_EXPORT void closefrom(int first) noexcept {
  shim::close_range_call(first < 0 ? 0 : word(first), ~0U, 0);
}
BPFTIME_EXPORT int setrlimit(__rlimit_resource_t resource, const struct rlimit* limit) noexcept {
  return set_limit(0, static_cast<int>(resource), limit, nullptr);
}
BPFTIME_EXPORT int setrlimit64(__rlimit_resource_t resource,
                               const struct rlimit64* limit) noexcept {
  return set_limit(0, static_cast<int>(resource), limit, nullptr);
}
BPFTIME_EXPORT int prlimit(pid_t pid, enum __rlimit_resource resource, const struct rlimit* limit,
                           struct rlimit* old) noexcept {
  return set_limit(pid, static_cast<int>(resource), limit, old);
}
BPFTIME_EXPORT int prlimit64(pid_t pid, enum __rlimit_resource resource,
                             const struct rlimit64* limit, struct rlimit64* old) noexcept {
  return set_limit(pid, static_cast<int>(resource), limit, old);
}

// bpftrace wants to be root before it asks for anything. Shells and other programs under `load` get the truth.
BPFTIME_EXPORT uid_t geteuid() noexcept {
  if (shim::has_session() && has_libbpf()) {
    return 0;
  }
  return static_cast<uid_t>(raw_syscall(SYS_geteuid));
}
