// Helpers about time, the thread and the process.
#include <fcntl.h>
#include <linux/prctl.h>
#include <sys/stat.h>
#include <time.h>

#include <cerrno>

#include "base/raw_syscall.hpp"
#include "helpers/all.hpp"
#include "helpers/lane.hpp"

namespace bpftime::helper {
namespace {

uint64_t clock_ns(const ProbeHit& hit, int clock) {
  timespec time = {0, 0};
  if (hit.process == nullptr || hit.process->vdso_clock_gettime == nullptr ||
      hit.process->vdso_clock_gettime(clock, &time) != 0) {
    raw_syscall(SYS_clock_gettime, static_cast<uint64_t>(clock), reinterpret_cast<uint64_t>(&time));
  }
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
}

uint64_t seed(const ThreadBlock* thread) {
  uint64_t random = 0;
  constexpr uint64_t kNonBlock = 1;
  raw_syscall(SYS_getrandom, reinterpret_cast<uint64_t>(&random), sizeof random, kNonBlock);
  uint32_t low = 0;
  uint32_t high = 0;
  __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
  random ^= (static_cast<uint64_t>(high) << 32 | low) * 0x9e3779b97f4a7c15;
  random ^= reinterpret_cast<uint64_t>(thread);
  return random != 0 ? random : 1;
}

}  // namespace

BPFTIME_HELPER(ktime_get_ns) {
  (void)a1, (void)a2, (void)a3, (void)a4, (void)a5;
  return clock_ns(probe(hit), CLOCK_MONOTONIC);
}
BPFTIME_HELPER(ktime_get_boot_ns) {
  (void)a1, (void)a2, (void)a3, (void)a4, (void)a5;
  return clock_ns(probe(hit), CLOCK_BOOTTIME);
}
BPFTIME_HELPER(ktime_get_coarse_ns) {
  (void)a1, (void)a2, (void)a3, (void)a4, (void)a5;
  return clock_ns(probe(hit), CLOCK_MONOTONIC_COARSE);
}

// xorshift64* (Vigna 2014); the kernel's is no stronger a promise.
BPFTIME_HELPER(get_prandom_u32) {
  (void)a1, (void)a2, (void)a3, (void)a4, (void)a5;
  ThreadBlock& thread = *probe(hit).thread;
  uint64_t x = thread.random_state;
  if (x == 0) [[unlikely]] {
    x = seed(&thread);
  }
  x ^= x >> 12;
  x ^= x << 25;
  x ^= x >> 27;
  thread.random_state = x;
  return x * 0x2545f4914f6cdd1d >> 32;
}

// A lane, so that what the program keeps by it is its own; with none free the CPU. The same for the
// whole run.
BPFTIME_HELPER(get_smp_processor_id) {
  (void)a1, (void)a2, (void)a3, (void)a4, (void)a5;
  ProbeHit& self = probe(hit);
  if (lane_of(self) == kNoCpu) [[unlikely]] {
    self.cpu = cpu_of(self);
    self.reserved |= kHitHasCpu;
  }
  return self.cpu;
}

BPFTIME_HELPER(get_current_pid_tgid) {
  (void)a1, (void)a2, (void)a3, (void)a4, (void)a5;
  const ThreadBlock& thread = *probe(hit).thread;
  return static_cast<uint64_t>(thread.tgid) << 32 | thread.tid;
}

// Asked each time: a process may change its ids.
BPFTIME_HELPER(get_current_uid_gid) {
  (void)a1, (void)a2, (void)a3, (void)a4, (void)a5, (void)hit;
  return static_cast<uint64_t>(raw_syscall(SYS_getgid)) << 32 |
         static_cast<uint32_t>(raw_syscall(SYS_getuid));
}

BPFTIME_HELPER(get_current_cgroup_id) {
  (void)a1, (void)a2, (void)a3, (void)a4, (void)a5;
  return probe(hit).process->cgroup_id;
}

// (char* buf, u32 size): the thread's name, filled up with NUL.
BPFTIME_HELPER(get_current_comm) {
  (void)a3, (void)a4, (void)a5, (void)hit;
  const auto size = static_cast<uint32_t>(a2);
  auto* const to = reinterpret_cast<volatile char*>(a1);
  char name[16] = {};
  if (size == 0 || to == nullptr) {
    return static_cast<uint64_t>(-EINVAL);
  }
  raw_syscall(SYS_prctl, PR_GET_NAME, reinterpret_cast<uint64_t>(name));
  uint32_t i = 0;
  for (; i + 1 < size && i < 15 && name[i] != 0; i++) {
    to[i] = name[i];
  }
  for (; i < size; i++) {
    to[i] = 0;
  }
  return 0;
}

BPFTIME_HELPER(ktime_get_tai_ns) {
  (void)a1, (void)a2, (void)a3, (void)a4, (void)a5;
  return clock_ns(probe(hit), CLOCK_TAI);
}

// A token: the same for a thread, no other thread's. It lies where nothing can be read, so that what
// a program expects in a task_struct is EFAULT and not nonsense.
BPFTIME_HELPER(get_current_task) {
  (void)a1, (void)a2, (void)a3, (void)a4, (void)a5;
  constexpr uint64_t kKernelHalf = 0xffff888000000000;
  return kKernelHalf | static_cast<uint64_t>(probe(hit).thread->tid) << 12;
}

// (u64 dev, u64 ino, struct bpf_pidns_info* to, u32 size): of the thread's own pid namespace only.
BPFTIME_HELPER(get_ns_current_pid_tgid) {
  (void)a5;
  const ThreadBlock& thread = *probe(hit).thread;
  auto* const to = reinterpret_cast<volatile uint32_t*>(a3);
  const auto size = static_cast<uint32_t>(a4);
  struct stat own = {};
  constexpr char kPath[] = "/proc/self/ns/pid";
  if (size != 2 * sizeof(uint32_t) ||
      raw_syscall(SYS_newfstatat, static_cast<uint64_t>(AT_FDCWD),
                  reinterpret_cast<uint64_t>(kPath), reinterpret_cast<uint64_t>(&own), 0) != 0 ||
      own.st_dev != a1 || own.st_ino != a2) {
    for (uint32_t i = 0; i < size; i++) {
      reinterpret_cast<volatile char*>(a3)[i] = 0;
    }
    return static_cast<uint64_t>(-EINVAL);
  }
  to[0] = thread.tid;
  to[1] = thread.tgid;
  return 0;
}

// (u32 signal): to the process, to the thread. It comes when the hit is over, or on top of it.
BPFTIME_HELPER(send_signal) {
  (void)a2, (void)a3, (void)a4, (void)a5;
  return static_cast<uint64_t>(raw_syscall(SYS_kill, probe(hit).thread->tgid, a1 & 0xffffffff));
}
BPFTIME_HELPER(send_signal_thread) {
  (void)a2, (void)a3, (void)a4, (void)a5;
  const ThreadBlock& thread = *probe(hit).thread;
  return static_cast<uint64_t>(raw_syscall(SYS_tgkill, thread.tgid, thread.tid, a1 & 0xffffffff));
}

// (void* to, const void* from, u32 size): through the kernel, which knows what may be written.
BPFTIME_HELPER(probe_write_user) {
  (void)a4, (void)a5, (void)hit;
  struct {
    uint64_t base, size;
  } local = {a2, a3 & 0xffffffff}, remote = {a1, a3 & 0xffffffff};
  const long pid = raw_syscall(SYS_getpid);
  const long written =
      raw_syscall(SYS_process_vm_writev, static_cast<uint64_t>(pid),
                  reinterpret_cast<uint64_t>(&local), 1, reinterpret_cast<uint64_t>(&remote), 1, 0);
  return written == static_cast<long>(local.size) ? 0 : static_cast<uint64_t>(-EFAULT);
}

// (ctx, u32 n, u64* value): the n-th argument that the System V ABI passes in a register.
BPFTIME_HELPER(get_func_arg) {
  (void)a1, (void)a4, (void)a5;
  constexpr uint8_t kWords[] = {14, 13, 12, 11, 9, 8};  // rdi rsi rdx rcx r8 r9 in struct pt_regs
  const auto n = static_cast<uint32_t>(a2);
  const auto* const regs = static_cast<const uint64_t*>(probe(hit).regs);
  if (n >= sizeof(kWords) || regs == nullptr) {
    return static_cast<uint64_t>(-EINVAL);
  }
  *reinterpret_cast<volatile uint64_t*>(a3) = regs[kWords[n]];
  return 0;
}
// (ctx, u64* value): what the function returned; at its return only.
BPFTIME_HELPER(get_func_ret) {
  (void)a1, (void)a3, (void)a4, (void)a5;
  const ProbeHit& self = probe(hit);
  constexpr uint32_t kRax = 10;
  if (!runs_at_return(self) || self.regs == nullptr) {
    return static_cast<uint64_t>(-EOPNOTSUPP);
  }
  *reinterpret_cast<volatile uint64_t*>(a2) = static_cast<const uint64_t*>(self.regs)[kRax];
  return 0;
}
// How many get_func_arg() can give: how many a function takes is not known.
BPFTIME_HELPER(get_func_arg_cnt) {
  (void)a1, (void)a2, (void)a3, (void)a4, (void)a5, (void)hit;
  return 6;
}

BPFTIME_HELPER(get_func_ip) {
  (void)a1, (void)a2, (void)a3, (void)a4, (void)a5;
  const Site* const site = probe(hit).site;
  return site == nullptr ? 0 : site->address;
}

BPFTIME_HELPER(get_attach_cookie) {
  (void)a1, (void)a2, (void)a3, (void)a4, (void)a5;
  const Attached* const attached = probe(hit).attached;
  return attached == nullptr ? 0 : attached->cookie;
}

// Functions of the kernel, without arguments; in programs of session links only.
BPFTIME_HELPER(session_is_return) {
  (void)a1, (void)a2, (void)a3, (void)a4, (void)a5;
  return runs_at_return(probe(hit)) ? 1 : 0;
}
BPFTIME_HELPER(session_cookie) {
  (void)a1, (void)a2, (void)a3, (void)a4, (void)a5;
  return reinterpret_cast<uint64_t>(&probe(hit).session->cookie);
}

}  // namespace bpftime::helper
