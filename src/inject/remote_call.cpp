#include "inject/remote_call.hpp"

#include <elf.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "inject/mailbox.hpp"
#include "inject/signal_frame.hpp"
#include "inject/stopped_state.hpp"
#include "inject/syscall_code.hpp"

namespace bpftime {
namespace {

constexpr uint32_t kDrivenAtMost = 2;  // then the mailbox pays (about four driven calls to set up)

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
  remote.turns_ = Turns(state.pid, tid);
  // From here ~RemoteThread puts everything back. No handler of the target runs while its thread
  // works for us: its signals are blocked with the first call.
  if (thread->signal != 0) {
    TRY(process.set_signal_mask(tid, ~uint64_t{0}));
    remote.is_blocked_ = true;
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
      region_(other.region_),
      sequence_(other.sequence_),
      driven_(other.driven_),
      lifeline_(other.lifeline_),
      our_lifeline_(std::move(other.our_lifeline_)),
      xstate_(std::move(other.xstate_)),
      saved_(other.saved_),
      has_run_(other.has_run_),
      is_lost_(other.is_lost_),
      has_mailbox_(other.has_mailbox_),
      tried_mailbox_(other.tried_mailbox_),
      has_called_(other.has_called_),
      driven_sp_(other.driven_sp_),
      is_blocked_(other.is_blocked_),
      turns_(std::move(other.turns_)) {}

unsigned RemoteThread::spins() const { return turns_.shares_cpu() ? 0 : kSpinsForStop; }

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
    const auto status = wait_for_stop(tid_, deadline_ns_, spins(), Awaited::kEndOfCall);
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

// What the thread needs to come back without us, on its own stack.
void RemoteThread::prepare_way_back() {
  if (!xstate_.empty()) {
    return;
  }
  StoppedProcess& process = *process_;
  xstate_.resize(MailboxRegion::kXstateBytes);
  iovec range = {xstate_.data(), xstate_.size()};
  if (ptrace(PTRACE_GETREGSET, tid_, NT_X86_XSTATE, &range) != 0) {
    xstate_.clear();
    return;
  }
  xstate_.resize(range.iov_len);
  const auto way = find_way_back(process);
  if (!way) {
    return;
  }
  // Go's arenas, with the small stacks of goroutines in them, are from 0xc0'0000'0000 on.
  if (saved_.rsp >> 32 >= 0xc0 && saved_.rsp >> 32 <= 0xff) {
    return;
  }
  constexpr uint64_t kRedZone = 128;  // psABI 3.2.2
  const std::vector<std::byte> xstate = signal_frame_xstate(xstate_);
  const uint64_t xstate_at = (saved_.rsp - kRedZone - xstate.size()) & ~63ULL;
  const uint64_t frame_at = (xstate_at - kSignalFrameBytes) & ~15ULL;
  const std::vector<std::byte> frame = signal_frame(saved_, interrupted_syscall(process, saved_),
                                                    saved_mask_, xstate_at, way->sigreturn);
  if (process.write(RemoteAddr{xstate_at}, xstate) && process.write(RemoteAddr{frame_at}, frame)) {
    syscall_ip_ = way->syscall_ret;
    driven_sp_ = frame_at;
  }
}

Result<uint64_t> RemoteThread::drive(long number, const uint64_t (&args)[6]) {
  prepare_way_back();
  Registers registers = saved_;
  registers.rip = syscall_ip_;
  registers.rsp = driven_sp_ != 0 ? driven_sp_ : saved_.rsp;
  registers.rax = static_cast<unsigned long>(number);
  registers.orig_rax = ~0UL;  // nothing to restart
  registers.rdi = args[0];
  registers.rsi = args[1];
  registers.rdx = args[2];
  registers.r10 = args[3];
  registers.r8 = args[4];
  registers.r9 = args[5];
  registers.eflags = kFlagsKept;
  if (ptrace(PTRACE_SETREGS, tid_, nullptr, &registers) != 0) {
    return forget(make_error(ESRCH, "the process has ended")).error();
  }
  if (!is_blocked_) {
    TRY(process_->set_signal_mask(tid_, ~uint64_t{0}));
    is_blocked_ = true;
  }
  ++driven_;
  TRY(run_to_syscall_stop());
  return TRY(run_to_syscall_stop()).rax;
}

Result<uint64_t> RemoteThread::syscall(long number, uint64_t a, uint64_t b, uint64_t c, uint64_t d,
                                       uint64_t e, uint64_t f) {
  RemoteCalls calls;
  calls.add(number, {a, b, c, d, e, f});
  if (is_lost_) {
    return make_error(ESRCH, "the thread has ended");
  }
  if (driven_ >= kDrivenAtMost) {
    TRY(start_mailbox());
  }
  return check_result(TRY(run(calls))[0]);
}

Result<uint64_t> RemoteThread::check_result(uint64_t result) {
  if (result > ~uint64_t{4095}) {
    return make_error(static_cast<int>(-static_cast<int64_t>(result)),
                      "a system call in the target failed");
  }
  return result;
}

Result<std::vector<uint64_t>> RemoteThread::run(const RemoteCalls& calls) {
  if (is_lost_) {
    return make_error(ESRCH, "the thread has ended");
  }
  // Vector registers are a called function's (psABI 3.2.3), but not a thread's in a system call.
  has_called_ = has_called_ || std::any_of(calls.all().begin(), calls.all().end(),
                                           [](const auto& c) { return c.function != 0; });
  if (calls.all().size() > 1) {
    TRY(start_mailbox());
  }
  std::vector<uint64_t> results;
  if (has_mailbox_) {
    for (size_t done = 0; done < calls.all().size();) {
      done += TRY(post(std::span(calls.all()).subspan(done), &results));
    }
    return results;
  }
  for (const RemoteCalls::Call& call : calls.all()) {
    uint64_t args[6] = {};
    for (size_t i = 0; i < 6; i++) {
      args[i] = call.args[i].value;
      if (call.args[i].is_place) {
        args[i] =
            static_cast<uint64_t>(int64_t{TRY(process_->read_value<int32_t>(RemoteAddr{args[i]}))});
      }
    }
    results.push_back(call.function != 0 ? TRY(drive_call(call.function, args))
                                         : TRY(drive(call.number, args)));
  }
  return results;
}

Result<RemoteAddr> RemoteThread::scratch() {
  TRY(start_mailbox());
  return RemoteAddr{region_ + MailboxRegion::kScratchAt};
}

Result<uint64_t> RemoteThread::call(RemoteAddr function,
                                    std::initializer_list<RemoteCalls::Arg> args) {
  RemoteCalls calls;
  calls.call(function, args);
  TRY(start_mailbox());
  return TRY(run(calls))[0];
}

Result<uint64_t> RemoteThread::drive_call(uint64_t function, const uint64_t (&args)[6]) {
  const uint64_t stack = region_ + MailboxRegion::kStackTop;
  Registers registers = saved_;
  registers.rip = function;
  registers.rsp = stack - 8;  // psABI 3.2.2: 16-byte aligned before the call
  registers.rbp = 0;
  registers.rax = 0;
  registers.orig_rax = ~0UL;
  registers.rdi = args[0];
  registers.rsi = args[1];
  registers.rdx = args[2];
  registers.rcx = args[3];
  registers.r8 = args[4];
  registers.r9 = args[5];
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
      return result;
    }
  }
}

Result<void> RemoteThread::finish() {
  if (process_ == nullptr) {
    return {};
  }
  if (has_mailbox_ && !is_lost_) {
    (void)stop_mailbox();
  }
  our_lifeline_.reset();
  deadline_ns_ = std::max(deadline_ns_, deadline_in_ms(200));
  if (lifeline_ >= 0 && !is_lost_) {
    (void)drive(SYS_close, {static_cast<uint64_t>(lifeline_), 0, 0, 0, 0, 0});
  }
  if (region_ != 0 && !is_lost_) {
    (void)drive(SYS_munmap, {region_, MailboxRegion::kBytes, 0, 0, 0, 0});
    region_ = 0;
  }
  if (has_run_ && !is_lost_) {
    if (has_called_) {
      iovec range = {xstate_.data(), xstate_.size()};
      ptrace(PTRACE_SETREGSET, tid_, NT_X86_XSTATE, &range);
    }
    // The thread is at a system call's end, where the kernel does not look for a call to restart.
    // So it goes on to one more trap, before its first instruction: from there it does
    // (arch_do_signal_or_restart).
    ptrace(PTRACE_SETREGS, tid_, nullptr, &saved_);
    ptrace(PTRACE_INTERRUPT, tid_, nullptr, nullptr);
    for (;;) {
      if (ptrace(PTRACE_CONT, tid_, nullptr, nullptr) != 0) {
        (void)forget(make_error(ESRCH, "the thread has ended"));
        break;
      }
      const auto status = wait_for_stop(tid_, std::max(deadline_ns_, deadline_in_ms(200)), spins());
      if (!status || !WIFSTOPPED(*status) || *status >> 16 == PTRACE_EVENT_EXIT) {
        (void)forget(make_error(ESRCH, "the thread has ended"));
        break;
      }
      if (*status >> 16 == PTRACE_EVENT_STOP) {
        break;
      }
      if (*status >> 16 == 0 && WSTOPSIG(*status) == SIGSTOP) {
        process_->state().stop_afterwards = true;
      }
      ptrace(PTRACE_INTERRUPT, tid_, nullptr, nullptr);
    }
    if (!is_lost_ && !process_->set_registers(tid_, saved_)) {
      (void)forget(make_error(ESRCH, "the thread has ended"));
    }
  }
  StoppedProcess& process = *std::exchange(process_, nullptr);
  turns_.end();
  if (is_lost_) {
    return make_error(ESRCH, "the thread has ended");
  }
  (void)process.set_signal_mask(tid_, saved_mask_);
  ptrace(PTRACE_SETOPTIONS, tid_, nullptr, kBaseOptions);
  return {};
}

}  // namespace bpftime
