#include "inject/remote_call.hpp"

#include <elf.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "inject/process_maps.hpp"
#include "inject/stopped_state.hpp"

namespace bpftime {
namespace {

constexpr uint64_t kStackBytes = 128 << 10;  // for called functions: above the scratch page
constexpr size_t kXstateBytes = 16 << 10;    // AVX-512 needs 2.7 KB, AMX 11 KB
constexpr uint64_t kFlagsKept = 0x246;       // IF, ZF, PF and bit 1: DF, TF, AC clear (psABI 3.2.1)

// Somewhere to run a system call from: two bytes, 0f 05 (Intel SDM 2B, SYSCALL).
Result<uint64_t> find_syscall_instruction(const StoppedProcess& process) {
  const std::vector<Mapping> maps = TRY(read_maps(process.pid()));
  std::vector<std::byte> code;
  for (const bool want_vdso : {true, false}) {
    for (const Mapping& mapping : maps) {
      if ((mapping.prot & PROT_EXEC) == 0 || (mapping.path == "[vdso]") != want_vdso ||
          mapping.path == "[vsyscall]") {
        continue;
      }
      constexpr uint64_t kChunk = 256 << 10;
      for (uint64_t at = mapping.begin; at < mapping.end; at += kChunk - 1) {
        code.resize(std::min(kChunk, mapping.end - at));
        if (!process.read(RemoteAddr{at}, code)) {
          break;
        }
        for (size_t i = 0; i + 1 < code.size(); ++i) {
          if (code[i] == std::byte{0x0f} && code[i + 1] == std::byte{0x05}) {
            return at + i;
          }
        }
      }
    }
  }
  return make_error(ENOENT, "no syscall instruction in the process");
}

// Our calls must not meet a filter that kills. A filter that we run under ourselves has let us live
// so far.
Result<long> seccomp_option(pid_t pid, pid_t tid) {
  const ProcessStatus status = TRY(read_thread_status(pid, tid));
  if (status.seccomp == 0) {
    return 0L;
  }
  if (ptrace(PTRACE_SETOPTIONS, tid, nullptr, kBaseOptions | PTRACE_O_SUSPEND_SECCOMP) == 0) {
    return static_cast<long>(PTRACE_O_SUSPEND_SECCOMP);
  }
  const auto own = read_status(getpid());
  if (status.seccomp == 2 && own && own->seccomp == 2 &&
      own->seccomp_filters == status.seccomp_filters && status.seccomp_filters != 0) {
    return 0L;
  }
  return make_error(EACCES, "the process has a seccomp filter, which only root can suspend");
}

}  // namespace

Result<RemoteThread> RemoteThread::begin(StoppedProcess& process, pid_t tid, uint64_t deadline_ns) {
  StoppedProcess::State& state = process.state();
  if (tid == 0) {
    // One that was not just about to take a signal, if there is one.
    for (const HeldThread& thread : state.threads) {
      if (!thread.is_exiting && (tid == 0 || thread.signal == 0)) {
        tid = thread.tid;
        if (thread.signal == 0) {
          break;
        }
      }
    }
  }
  HeldThread* thread = state.find(tid);
  if (thread == nullptr || thread->is_exiting) {
    return make_error(ESRCH, "no thread to work with");
  }
  if (state.syscall_ip == 0) {
    state.syscall_ip = TRY(find_syscall_instruction(process));
  }
  const long options = kBaseOptions | PTRACE_O_TRACESYSGOOD | TRY(seccomp_option(state.pid, tid));
  const uint64_t mask = TRY(process.signal_mask(tid));
  if (ptrace(PTRACE_SETOPTIONS, tid, nullptr, options) != 0) {
    return make_error(errno, "PTRACE_SETOPTIONS");
  }

  RemoteThread remote;
  remote.process_ = &process;
  remote.tid_ = tid;
  remote.deadline_ns_ = deadline_ns;
  remote.syscall_ip_ = state.syscall_ip;
  remote.saved_mask_ = mask;
  remote.saved_ = thread->registers;
  // From here ~RemoteThread puts everything back. No handler of the target runs while its thread
  // works for us.
  TRY(process.set_signal_mask(tid, ~uint64_t{0}));
  if (thread->signal != 0) {
    // A signal is in our hands. Delivered while it is blocked, the kernel queues it again with its
    // siginfo (Kernel v6.12 kernel/signal.c: ptrace_signal) and comes to the trap that we ask for.
    // SIGSTOP cannot be blocked.
    int signal = thread->signal;
    if (signal == SIGSTOP) {
      state.stop_afterwards = true;
      signal = 0;
    }
    thread->signal = 0;
    ptrace(PTRACE_INTERRUPT, tid, nullptr, nullptr);
    if (ptrace(PTRACE_CONT, tid, nullptr, static_cast<long>(signal)) != 0) {
      return remote.forget(make_error(ESRCH, "the thread has ended")).error();
    }
    const int status = TRY(wait_for_stop(tid, deadline_ns));
    if (!WIFSTOPPED(status) || status >> 16 != PTRACE_EVENT_STOP) {
      return remote.forget(make_error(ESRCH, "the thread has ended")).error();
    }
  }
  return remote;
}

RemoteThread::RemoteThread(RemoteThread&& other) noexcept
    : process_(std::exchange(other.process_, nullptr)),
      tid_(other.tid_),
      deadline_ns_(other.deadline_ns_),
      syscall_ip_(other.syscall_ip_),
      saved_mask_(other.saved_mask_),
      scratch_(other.scratch_),
      saved_(other.saved_),
      has_run_(other.has_run_),
      is_lost_(other.is_lost_) {}

RemoteThread::~RemoteThread() { (void)finish(); }

// The thread is ending, or does not answer: it is not put back.
Result<void> RemoteThread::forget(Error why) {
  is_lost_ = true;
  if (HeldThread* thread = process_->state().find(tid_)) {
    thread->is_exiting = true;
    thread->signal = 0;
  }
  return why;
}

Result<Registers> RemoteThread::run_to_syscall_stop() {
  has_run_ = true;
  for (;;) {
    if (is_lost_) {
      return make_error(ESRCH, "the thread has ended");
    }
    if (ptrace(PTRACE_SYSCALL, tid_, nullptr, nullptr) != 0) {
      return forget(make_error(ESRCH, "the thread has ended")).error();
    }
    const auto status = wait_for_stop(tid_, deadline_ns_);
    if (!status && status.error().code == ETIMEDOUT) {
      // It waits for something (a lock of the loader): called off, finish() puts it back to where
      // it was.
      ptrace(PTRACE_INTERRUPT, tid_, nullptr, nullptr);
      if (!wait_for_stop(tid_, deadline_in_ms(200))) {
        return forget(status.error()).error();
      }
      return status.error();
    }
    if (!status || !WIFSTOPPED(*status) || *status >> 16 == PTRACE_EVENT_EXIT) {
      return forget(make_error(ESRCH, "the process has ended")).error();
    }
    if (*status >> 16 == 0 && WSTOPSIG(*status) == (SIGTRAP | 0x80)) {
      Registers registers;
      if (ptrace(PTRACE_GETREGS, tid_, nullptr, &registers) != 0) {
        return forget(make_error(ESRCH, "the process has ended")).error();
      }
      return registers;
    }
    if (*status >> 16 == 0) {
      const int signal = WSTOPSIG(*status);
      if (signal == SIGSTOP) {
        process_->state().stop_afterwards = true;  // later, not in the middle
      } else {
        // All others are blocked: this is a fault of the code that we called.
        return make_error(EFAULT, "the called function faulted");
      }
    }
    // A trap for job control (SIGCONT, group stop of others): not for this thread now.
  }
}

Result<uint64_t> RemoteThread::syscall(long number, uint64_t a, uint64_t b, uint64_t c, uint64_t d,
                                       uint64_t e, uint64_t f) {
  if (is_lost_) {
    return make_error(ESRCH, "the thread has ended");
  }
  Registers registers = saved_;
  registers.rip = syscall_ip_;
  registers.rax = static_cast<unsigned long>(number);
  registers.orig_rax = ~0UL;  // nothing to restart
  registers.rdi = a;
  registers.rsi = b;
  registers.rdx = c;
  registers.r10 = d;
  registers.r8 = e;
  registers.r9 = f;
  registers.eflags = kFlagsKept;
  if (ptrace(PTRACE_SETREGS, tid_, nullptr, &registers) != 0) {
    return forget(make_error(ESRCH, "the process has ended")).error();
  }
  TRY(run_to_syscall_stop());
  const Registers after = TRY(run_to_syscall_stop());
  const auto result = static_cast<long>(after.rax);
  if (result < 0 && result > -4096) {
    return make_error(static_cast<int>(-result), "a system call in the target failed");
  }
  return after.rax;
}

Result<RemoteAddr> RemoteThread::scratch() {
  if (scratch_ == 0) {
    scratch_ = TRY(syscall(SYS_mmap, 0, kScratchBytes + kStackBytes, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, ~uint64_t{0}, 0));
  }
  return RemoteAddr{scratch_};
}

Result<uint64_t> RemoteThread::call(RemoteAddr function, std::initializer_list<uint64_t> args) {
  if (args.size() > 6) {
    return make_error(EINVAL, "call: more than six arguments");
  }
  TRY(scratch());
  // Vector registers belong to the called function (psABI 3.2.3) but not to a thread in a system
  // call.
  std::vector<std::byte> xstate(kXstateBytes);
  iovec xstate_range = {xstate.data(), xstate.size()};
  if (ptrace(PTRACE_GETREGSET, tid_, NT_X86_XSTATE, &xstate_range) != 0) {
    return make_error(errno, "PTRACE_GETREGSET");
  }
  uint64_t values[6] = {};
  std::copy(args.begin(), args.end(), values);
  const uint64_t stack = scratch_ + kScratchBytes + kStackBytes - 64;
  Registers registers = saved_;
  registers.rip = raw(function);
  registers.rsp = stack - 8;  // psABI 3.2.2: 16-byte aligned before the call
  registers.rbp = 0;
  registers.rax = 0;
  registers.orig_rax = ~0UL;
  registers.rdi = values[0];
  registers.rsi = values[1];
  registers.rdx = values[2];
  registers.rcx = values[3];
  registers.r8 = values[4];
  registers.r9 = values[5];
  registers.eflags = kFlagsKept;
  // It returns to a `syscall` instruction: the stop there is ours to see, and its number is taken
  // away.
  TRY(process_->write_value(RemoteAddr{stack - 8}, syscall_ip_));
  if (ptrace(PTRACE_SETREGS, tid_, nullptr, &registers) != 0) {
    return forget(make_error(ESRCH, "the process has ended")).error();
  }
  for (;;) {
    Registers at = TRY(run_to_syscall_stop());  // entering one
    const bool returned = at.rip == syscall_ip_ + 2 && at.rsp == stack;
    const uint64_t result = at.orig_rax;
    if (returned) {
      at.orig_rax = ~0UL;
      if (ptrace(PTRACE_SETREGS, tid_, nullptr, &at) != 0) {
        return forget(make_error(ESRCH, "the process has ended")).error();
      }
    }
    TRY(run_to_syscall_stop());  // leaving it
    if (returned) {
      if (ptrace(PTRACE_SETREGSET, tid_, NT_X86_XSTATE, &xstate_range) != 0) {
        return make_error(errno, "PTRACE_SETREGSET");
      }
      return result;
    }
  }
}

Result<void> RemoteThread::finish() {
  if (process_ == nullptr) {
    return {};
  }
  if (scratch_ != 0 && !is_lost_) {
    const uint64_t scratch = std::exchange(scratch_, 0);
    (void)syscall(SYS_munmap, scratch, kScratchBytes + kStackBytes);
  }
  StoppedProcess& process = *std::exchange(process_, nullptr);
  if (is_lost_) {
    return make_error(ESRCH, "the thread has ended");
  }
  Result<void> done;
  if (has_run_) {
    // The thread is at a system call's end, where the kernel does not look for a call to restart.
    // So it goes on to one more trap, before its first instruction: from there it does
    // (arch_do_signal_or_restart).
    ptrace(PTRACE_SETREGS, tid_, nullptr, &saved_);
    ptrace(PTRACE_INTERRUPT, tid_, nullptr, nullptr);
    for (;;) {
      if (ptrace(PTRACE_CONT, tid_, nullptr, nullptr) != 0) {
        process_ = &process;
        done = forget(make_error(ESRCH, "the thread has ended"));
        process_ = nullptr;
        return done;
      }
      const auto status = wait_for_stop(tid_, std::max(deadline_ns_, deadline_in_ms(100)));
      if (!status || !WIFSTOPPED(*status) || *status >> 16 == PTRACE_EVENT_EXIT) {
        process_ = &process;
        done = forget(make_error(ESRCH, "the thread has ended"));
        process_ = nullptr;
        return done;
      }
      if (*status >> 16 == PTRACE_EVENT_STOP) {
        break;
      }
      if (WSTOPSIG(*status) == SIGSTOP) {
        process.state().stop_afterwards = true;
        ptrace(PTRACE_INTERRUPT, tid_, nullptr, nullptr);
      }
    }
    if (!process.set_registers(tid_, saved_)) {
      done = make_error(ESRCH, "the thread has ended");
    }
  }
  (void)process.set_signal_mask(tid_, saved_mask_);
  ptrace(PTRACE_SETOPTIONS, tid_, nullptr, kBaseOptions);
  return done;
}

}  // namespace bpftime
