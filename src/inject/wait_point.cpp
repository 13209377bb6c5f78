#include "inject/wait_point.hpp"

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "inject/stopped_state.hpp"

namespace bpftime {
namespace {

constexpr int kLooks = 20, kLeadEvery = 4;
constexpr uint64_t kLookEveryNs = 5000000;
constexpr uint64_t kLedMs = 1000;   // all threads together
constexpr unsigned kLedCalls = 64;  // of one the first time; four times as many each time after
constexpr uint64_t kLedRunNs =
    2000000;  // CPU time from one call to the next: more, and it computes
constexpr uint64_t kLedSleepNs = 5000000;  // one that sleeps so long elsewhere comes to no wait

bool is_receive_syscall(long number) {
  return number == SYS_read || number == SYS_readv || number == SYS_recvfrom ||
         number == SYS_recvmsg;
}

// True for a pipe, socket or character device: what somebody else must write to. The loader, which
// holds locks while it reads, reads regular files only; malloc reads nothing.
bool waits_for_somebody(pid_t pid, uint64_t fd) {
  char name[64];
  std::snprintf(name, sizeof name, "/proc/%d/fd/%llu", pid, static_cast<unsigned long long>(fd));
  struct stat st{};
  return ::stat(name, &st) == 0 &&
         (S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode) || S_ISCHR(st.st_mode));
}

bool is_wait(pid_t pid, long number, uint64_t first_argument) {
  return is_wait_syscall(number) ||
         (is_receive_syscall(number) && waits_for_somebody(pid, first_argument));
}

void pause_ns(uint64_t ns) {
  const timespec pause = {0, static_cast<long>(ns)};
  nanosleep(&pause, nullptr);
}

// CPU time of a thread. proc(5): the first number of /proc/PID/task/TID/schedstat. 0: not known.
uint64_t run_time_ns(pid_t pid, pid_t tid) {
  char name[64];
  std::snprintf(name, sizeof name, "/proc/%d/task/%d/schedstat", pid, tid);
  const auto text = read_text_file(name, 4096);
  return text ? std::strtoull(text->c_str(), nullptr, 10) : 0;
}

class LedThread {
 public:
  LedThread(StoppedProcess& process, pid_t tid, unsigned most_calls, uint64_t deadline_ns)
      : pid_(process.pid()),
        thread_(*process.state().find(tid)),
        most_calls_(most_calls),
        deadline_ns_(deadline_ns) {}

  // Leads it to a wait. `since_ns`: when it came there. EAGAIN: it does not come to one; ESRCH. It is held in any case.
  Result<void> to_wait(uint64_t* since_ns);

 private:
  enum class Stop { kSyscallEntry, kSyscallExit, kInterrupted, kSignal, kExec };
  // Lets it run to its next stop. kInterrupted: it was made to stop, since it has used up its time or sleeps.
  Result<Stop> run(decltype(PTRACE_CONT) request);
  Result<int> next_stop();
  [[nodiscard]] bool is_worth_waiting(uint64_t run_before_ns, uint64_t* slept_since_ns) const;
  Result<void> lead(uint64_t* since_ns);

  pid_t pid_;
  HeldThread& thread_;
  unsigned most_calls_;
  uint64_t deadline_ns_;
};

bool LedThread::is_worth_waiting(uint64_t run_before_ns, uint64_t* slept_since_ns) const {
  const uint64_t now = monotonic_ns();
  if (now > deadline_ns_ || run_time_ns(pid_, thread_.tid) > run_before_ns + kLedRunNs) {
    return false;
  }
  const auto status = read_thread_status(pid_, thread_.tid);
  if (!status) {
    return false;
  }
  if (status->state != 'S' && status->state != 'D') {
    *slept_since_ns = 0;
    return true;
  }
  if (*slept_since_ns == 0) {
    *slept_since_ns = now;
  }
  return now < *slept_since_ns + kLedSleepNs;
}

Result<int> LedThread::next_stop() {
  constexpr uint64_t kLookAgainNs = 20000;
  uint64_t slept_since_ns = 0, run_before_ns = 0;
  for (unsigned round = 0;; ++round) {
    auto status = wait_for_stop(thread_.tid, 0);  // looks once
    if (status || status.error().code != ETIMEDOUT) {
      return status;
    }
    if (round < kSpinsForStop) {
      continue;
    }
    if (round == kSpinsForStop) {
      run_before_ns = run_time_ns(pid_, thread_.tid);
    }
    if (!is_worth_waiting(run_before_ns, &slept_since_ns)) {
      ptrace(PTRACE_INTERRUPT, thread_.tid, nullptr, nullptr);
      return wait_for_stop(thread_.tid, deadline_in_ms(kLedMs));
    }
    pause_ns(kLookAgainNs);
  }
}

Result<LedThread::Stop> LedThread::run(decltype(PTRACE_CONT) request) {
  if (ptrace(request, thread_.tid, nullptr, static_cast<long>(thread_.signal)) != 0) {
    return make_error(ESRCH, "the thread has ended");
  }
  const int status = TRY(next_stop());
  if (WIFSTOPPED(status) && WSTOPSIG(status) == (SIGTRAP | 0x80)) {
    // As it is: what held_from_status() mends is mended on the way back from a call.
    thread_.signal = 0;
    if (ptrace(PTRACE_GETREGS, thread_.tid, nullptr, &thread_.registers) != 0) {
      return make_error(ESRCH, "the thread has ended");
    }
    return static_cast<long>(thread_.registers.rax) == -ENOSYS ? Stop::kSyscallEntry
                                                               : Stop::kSyscallExit;
  }
  thread_ = TRY(held_from_status(thread_.tid, status));
  if (thread_.is_exiting) {
    return make_error(ESRCH, "the thread has ended");
  }
  const int event = status >> 16;
  return event == PTRACE_EVENT_EXEC ? Stop::kExec : event != 0 ? Stop::kInterrupted : Stop::kSignal;
}

Result<void> LedThread::lead(uint64_t* since_ns) {
  for (unsigned stops = 0; stops < 2 * most_calls_; ++stops) {
    const Stop stop = TRY(run(PTRACE_SYSCALL));
    if (stop == Stop::kExec) {
      return make_error(ESRCH, "the process runs another program now");
    }
    if (stop == Stop::kInterrupted) {
      return make_error(EAGAIN, "the thread comes to no safe point in time");
    }
    const Registers before = thread_.registers;
    if (stop != Stop::kSyscallEntry ||
        !is_wait(pid_, static_cast<long>(before.orig_rax), before.rdi)) {
      continue;
    }
    // It makes the call and stops at its end: at once, since there is somebody who wants it to stop.
    *since_ns = monotonic_ns();
    ptrace(PTRACE_INTERRUPT, thread_.tid, nullptr, nullptr);
    const Stop behind = TRY(run(PTRACE_CONT));
    const Registers& now = thread_.registers;
    if (behind == Stop::kInterrupted && now.orig_rax == before.orig_rax && now.rip == before.rip &&
        now.rsp == before.rsp) {
      return {};
    }
    if (behind == Stop::kExec) {
      return make_error(ESRCH, "the process runs another program now");
    }
  }
  return make_error(EAGAIN, "the thread comes to no safe point in time");
}

Result<void> LedThread::to_wait(uint64_t* since_ns) {
  if (thread_.signal != 0) {
    return make_error(EAGAIN, "the thread has a signal to take first");
  }
  if (ptrace(PTRACE_SETOPTIONS, thread_.tid, nullptr,
             kBaseOptions | PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEEXEC) != 0) {
    return make_error(ESRCH, "the thread has ended");
  }
  const auto led = lead(since_ns);
  ptrace(PTRACE_SETOPTIONS, thread_.tid, nullptr, kBaseOptions);
  return led;
}

// Holds the thread if it stands at a wait, or comes to one within so many system calls. EAGAIN, ESRCH: not this one.
Result<WaitingThread> try_thread(pid_t pid, pid_t tid, unsigned lead_calls, uint64_t deadline_ns) {
  uint64_t since_ns = monotonic_ns();
  auto process = TRY(StoppedProcess::borrow(pid, tid, deadline_ns));
  const HeldThread* held = process.state().find(tid);
  if (!stands_in_wait(process, tid) || held->signal != 0) {
    if (lead_calls == 0) {
      return make_error(EAGAIN, "no thread at a safe point in time");
    }
    TRY(LedThread(process, tid, lead_calls, deadline_ns).to_wait(&since_ns));
  }
  return WaitingThread{std::move(process), tid, since_ns};
}

// One pass over all threads: those that wait and, with `lead_calls`, those that run.
Result<WaitingThread> try_threads(pid_t pid, unsigned lead_calls, uint64_t deadline_ns) {
  for (const pid_t tid : TRY(read_threads(pid))) {
    if (monotonic_ns() > deadline_ns) {
      break;
    }
    const auto number = waiting_syscall(pid, tid);
    if (!number) {
      if (number.error().code != ESRCH && number.error().code != EINVAL) {
        return make_error(EAGAIN, "cannot see what the process's threads wait for");
      }
      continue;
    }
    const bool may_wait =
        is_wait_syscall(*number) || is_receive_syscall(*number) || *number == SYS_restart_syscall;
    if (!may_wait && !(lead_calls != 0 && *number == -1)) {
      continue;
    }
    auto found = try_thread(pid, tid, lead_calls, deadline_ns);
    // ESRCH: this thread has ended; the process is asked again by read_threads.
    if (found || (found.error().code != ESRCH && found.error().code != EAGAIN)) {
      return found;
    }
  }
  return make_error(EAGAIN, "no thread at a safe point in time");
}

}  // namespace

bool is_wait_syscall(long number) {
  switch (number) {
    case SYS_nanosleep:
    case SYS_clock_nanosleep:
    case SYS_poll:
    case SYS_ppoll:
    case SYS_select:
    case SYS_pselect6:
    case SYS_epoll_wait:
    case SYS_epoll_pwait:
    case SYS_epoll_pwait2:
    case SYS_accept:
    case SYS_accept4:
    case SYS_wait4:
    case SYS_waitid:
    case SYS_pause:
    case SYS_rt_sigsuspend:
    case SYS_rt_sigtimedwait:
      return true;
    default:
      return false;
  }
}

bool stands_in_wait(const StoppedProcess& process, pid_t tid) {
  const auto registers = process.registers(tid);
  if (!registers) {
    return false;
  }
  const auto result = static_cast<long>(registers->rax);
  if (result > -512 || result < -516) {
    return false;
  }
  return is_wait(process.pid(), interrupted_syscall(process, *registers), registers->rdi);
}

Result<WaitingThread> borrow_waiting(pid_t pid, uint64_t deadline_ns) {
  Error last = make_error(EAGAIN, "no thread at a safe point in time");
  unsigned next_calls = kLedCalls;
  for (int look = 0; look < kLooks && monotonic_ns() < deadline_ns; ++look) {
    if (look != 0) {
      pause_ns(kLookEveryNs);
    }
    unsigned calls = 0;
    uint64_t until_ns = deadline_ns;
    if (look % kLeadEvery == kLeadEvery - 1 && look < 3 * kLeadEvery) {
      calls = next_calls;
      next_calls *= 4;
      until_ns = std::min(deadline_ns, deadline_in_ms(kLedMs));
    }
    auto found = try_threads(pid, calls, until_ns);
    if (found || found.error().code != EAGAIN) {
      return found;
    }
    last = found.error();
  }
  return last;
}

}  // namespace bpftime
