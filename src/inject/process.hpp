// What /proc says of a process. Home: edge, broker. Every answer is of the moment it was read.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "base/unique_fd.hpp"

namespace bpftime {

// CLOCK_MONOTONIC nanoseconds; every function that can wait takes a deadline on this clock.
uint64_t monotonic_ns();
inline uint64_t deadline_in_ms(uint64_t ms) { return monotonic_ns() + ms * 1000000; }

// A pid is reused; a pid with its start time is not. Field 22 of /proc/PID/stat, in clock ticks
// since boot.
struct ProcessIdentity {
  pid_t pid;
  uint64_t start_time;
  friend bool operator==(const ProcessIdentity&, const ProcessIdentity&) = default;
};
Result<ProcessIdentity> identify(pid_t pid);  // ESRCH

struct ProcessStatus {
  pid_t tgid, parent, tracer;   // tracer: 0 = none
  pid_t inner_tgid, inner_tid;  // as numbered in the process's own pid namespace
  uint32_t uid, effective_uid, gid;
  uint32_t seccomp;          // 0 none, 1 strict, 2 filter
  uint32_t seccomp_filters;  // 0 when the kernel does not say (before 5.9)
  uint32_t thread_count;
  uint32_t descriptor_slots;  // room in its table of file descriptors as it is now
  char state;                 // R S D T t Z X I
  uint64_t signals_blocked, signals_ignored, signals_caught;  // bit signo - 1
  std::string name;
  [[nodiscard]] bool is_zombie() const { return state == 'Z' || state == 'X'; }
};
Result<ProcessStatus> read_status(pid_t pid);  // ESRCH
Result<ProcessStatus> read_thread_status(pid_t pid, pid_t tid);
Result<std::vector<pid_t>> read_threads(pid_t pid);  // ESRCH
Result<std::string> read_executable(pid_t pid);      // ENOENT: kernel thread; EACCES
// The system call a thread waits in: number, or -1 when it runs or is in none.
// /proc/PID/task/TID/syscall.
Result<long> waiting_syscall(pid_t pid, pid_t tid);
Result<uint32_t> last_cpu(pid_t pid, pid_t tid);  // where the thread ran last
Result<UniqueFd> open_pidfd(pid_t pid);           // readable when the process has ended
// A duplicate of a file descriptor of the process (pidfd_getfd, Linux 5.6).
Result<UniqueFd> take_fd(pid_t pid, int remote_fd);
Result<std::vector<std::pair<uint64_t, uint64_t>>> read_auxv(pid_t pid);
// A whole file, at most `limit` bytes (EFBIG).
Result<std::string> read_text_file(const char* path, size_t limit = 64 << 20);

}  // namespace bpftime
