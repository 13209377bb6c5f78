// Where a thread of a running process may call dlopen and dlclose: in, or just behind, a wait-type system call it holds
// no lock of libc (facts: hooking §1). Home: edge, this room only.
#pragma once
#include <sys/types.h>

#include <cstdint>

#include "base/result.hpp"
#include "inject/stopped_process.hpp"

namespace bpftime {

bool is_wait_syscall(long number);

// Is the stopped thread inside such a call that will be restarted?
bool stands_in_wait(const StoppedProcess& process, pid_t tid);

struct WaitingThread {
  StoppedProcess process;  // this thread of it is held
  pid_t tid;
  uint64_t stopped_since_ns;
};
// One that is found waiting (20 looks in 100 ms), or, where the process is too busy to be found so, one that is led
// there: it runs from system call to system call until it comes to a wait (bounded in calls, CPU time and time; three
// tries). EAGAIN: none.
Result<WaitingThread> borrow_waiting(pid_t pid, uint64_t deadline_ns);

}  // namespace bpftime
