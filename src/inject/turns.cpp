#include "inject/turns.hpp"

#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "inject/process.hpp"

namespace bpftime {
namespace {

// struct sched_attr of sched_setattr(2), its first version.
struct SchedulingAttributes {
  uint32_t size, policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime, deadline, period;
};
constexpr uint64_t kShortSliceNs = 100000;

// Do more threads want to run than there are CPUs?
bool is_busy() {
  // proc_loadavg(5): the fourth field is RUNNABLE/ALL
  const auto load = read_text_file("/proc/loadavg");
  const size_t slash = load ? load->find('/') : std::string::npos;
  const size_t begin = slash == std::string::npos ? slash : load->rfind(' ', slash);
  return begin != std::string::npos &&
         std::strtol(load->c_str() + begin, nullptr, 10) > sysconf(_SC_NPROCESSORS_ONLN);
}

}  // namespace

// While it works for us it is to run soon after it wakes, even where all CPUs are busy (Linux 6.12: sched_runtime of
// SCHED_OTHER is the time slice). Its share of the CPU stays what it is.
void Turns::shorten_slice() {
  SchedulingAttributes now{};
  if (::syscall(SYS_sched_getattr, tid_, &now, sizeof now, 0) == 0 && now.policy == SCHED_OTHER &&
      now.runtime > kShortSliceNs) {
    slice_ns_ = std::exchange(now.runtime, kShortSliceNs);
    now.size = sizeof now;
    if (::syscall(SYS_sched_setattr, tid_, &now, 0) != 0) {
      slice_ns_ = 0;
    }
  }
}

// On one CPU each turn is a plain switch, where waking it on another that is busy waits for that one's slice. So we go where
// it ran last; nothing of the target's is changed for that.
void Turns::go_where_it_runs(pid_t pid) {
  shares_cpu_ = is_busy();
  if (const auto threads = read_threads(pid); !shares_cpu_ && (!threads || threads->size() < 2)) {
    return;  // nobody is in its way
  }
  const auto cpu = last_cpu(pid, tid_);
  auto before = std::make_unique<cpu_set_t>();
  cpu_set_t there;
  CPU_ZERO(&there);
  if (!cpu || *cpu >= CPU_SETSIZE || sched_getaffinity(0, sizeof *before, before.get()) != 0) {
    shares_cpu_ = false;
    return;
  }
  CPU_SET(*cpu, &there);
  if (sched_setaffinity(0, sizeof there, &there) == 0) {
    our_cpus_ = std::move(before);
  } else {
    shares_cpu_ = false;
  }
}

void Turns::end() {
  if (our_cpus_) {
    (void)sched_setaffinity(0, sizeof *our_cpus_, our_cpus_.get());
    our_cpus_.reset();
  }
  SchedulingAttributes now{};
  if (slice_ns_ != 0 && ::syscall(SYS_sched_getattr, tid_, &now, sizeof now, 0) == 0 &&
      now.policy == SCHED_OTHER) {
    now.runtime = slice_ns_;
    now.size = sizeof now;
    ::syscall(SYS_sched_setattr, tid_, &now, 0);
  }
  slice_ns_ = 0;
}

}  // namespace bpftime
