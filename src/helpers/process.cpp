// Helpers about time, the thread and the process.
#include <linux/prctl.h>
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

}  // namespace bpftime::helper
