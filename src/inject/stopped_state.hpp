// What StoppedProcess, RemoteThread and HeldProcess share. Home: edge, this room only.
#pragma once
#include <sys/ptrace.h>
#include <sys/types.h>

#include <cstdint>
#include <vector>

#include "base/unique_fd.hpp"
#include "inject/stopped_process.hpp"

namespace bpftime {

struct HeldThread {
  pid_t tid;
  int signal;  // met in its delivery stop, not yet delivered; 0: stopped by us, or in a group stop
  bool is_exiting;  // in PTRACE_EVENT_EXIT: runs no more code
  Registers registers;
};

struct StoppedProcess::State {
  pid_t pid = 0;
  pid_t memory_tid = 0;          // whose /proc entry the memory is reached through
  bool is_whole = false;         // every thread is held
  bool stop_afterwards = false;  // a SIGSTOP was held back from a thread that worked for us
  uint64_t syscall_ip = 0;       // a `syscall` instruction of the target, once looked for
  UniqueFd memory;               // /proc/PID/mem
  std::vector<HeldThread> threads;
  std::vector<pid_t> undone;  // seized, but killed before they stopped: reaped by release()

  HeldThread* find(pid_t tid);
  ~State();
};

// PTRACE_O_TRACEEXIT: a thread that ends stops once more, so it can be let go and is never left to
// us as a zombie.
inline constexpr long kBaseOptions = PTRACE_O_TRACEEXIT;

// What a thread is waited for: to stop because it was interrupted, or because it has done what it was sent to do, in
// which it may wait for a lock.
enum class Awaited { kInterrupt, kEndOfCall };
// When to give up on a thread: after the deadline, when it is asleep each time that we look, for a while (it may sleep
// for ever). Another one needs nothing but a CPU, and comes; where many want one, kTurnNs after the deadline at the
// latest. (The deadline may be over before we have looked at all: we too need a CPU.)
class Patience {
 public:
  Patience(pid_t tid, Awaited what, uint64_t deadline_ns)
      : tid_(tid), what_(what), deadline_ns_(deadline_ns) {}
  // To be asked after each look that has found nothing, `looked_at_ns` taken before it.
  bool is_over(uint64_t looked_at_ns);

 private:
  pid_t tid_;
  Awaited what_;
  uint64_t deadline_ns_, asleep_since_ns_ = 0;
  unsigned looks_asleep_ = 0;
};

// A wait status of `tid`: looked for during some microseconds, then slept for. No signal handler is touched; a pending
// SIGCHLD may be consumed. ESRCH: not our tracee any more. ETIMEDOUT.
inline constexpr unsigned kSpinsForStop = 40;
Result<int> wait_for_stop(pid_t tid, uint64_t deadline_ns, unsigned spins = kSpinsForStop,
                          Awaited what = Awaited::kInterrupt);

// Seizes one thread; the errors of StoppedProcess::stop.
Result<void> seize_thread(pid_t pid, pid_t tid, long options);

// Makes a HeldThread of a wait status that is a stop; reads and mends its registers (see the .cpp).
// ESRCH.
Result<HeldThread> held_from_status(pid_t tid, int status);

// Interrupts the threads that are not held yet until there are none; `state` may hold some already.
Result<void> hold_all(StoppedProcess::State& state, uint64_t deadline_ns);

// The number of the system call that these registers stand in. A call interrupted before (poll,
// nanosleep, futex with a time limit) has SYS_restart_syscall in its place: then it is read from
// the code, or stays so when that is not `mov $nr, %eax; syscall`.
long interrupted_syscall(const StoppedProcess& process, const Registers& registers);

Result<void> open_memory(StoppedProcess::State& state);

}  // namespace bpftime
