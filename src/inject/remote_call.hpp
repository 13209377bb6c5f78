// RemoteThread: a stopped thread does system calls, or calls a function, for us, and is then
// exactly as before: registers, the state of an interrupted system call, signal mask, pending
// signals. Home: edge, broker.
//
// System calls are driven by two ptrace stops at a `syscall` instruction of the vdso (or of any
// executable mapping): no code is written, no signal action of the target is touched, none of its
// handlers runs meanwhile.
//
// Should we be killed in the middle, the thread finds its way back by itself: from the mailbox when its lifeline hangs
// up, from a driven call by returning to a signal frame below its stack's red zone. Not where that memory may be
// somebody else's (a goroutine's stack) or the process has no code for it: there a driven call is a matter of
// microseconds, and a kill in them is fatal.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <utility>
#include <vector>

#include "base/result.hpp"
#include "base/unique_fd.hpp"
#include "inject/stopped_process.hpp"
#include "inject/syscall_code.hpp"
#include "inject/turns.hpp"

namespace bpftime {

// Calls to be made in one go, in this order; one that fails keeps none of the others from being made.
class RemoteCalls {
 public:
  struct Arg {
    uint64_t value;
    bool is_place = false;
    Arg(uint64_t number) : value(number) {}  // NOLINT(google-explicit-constructor)
    // The 32-bit number that lies there when its call is made: what a call before it has written.
    static Arg at(RemoteAddr place) {
      Arg arg(raw(place));
      arg.is_place = true;
      return arg;
    }
  };
  struct Call {
    uint64_t function;  // 0: a system call
    long number;
    std::array<Arg, 6> args;
  };
  // At most 6 arguments each. Returns the index of the call's result.
  size_t add(long number, std::initializer_list<Arg> args) { return put(0, number, args); }
  size_t call(RemoteAddr function, std::initializer_list<Arg> args) {
    return put(raw(function), 0, args);
  }
  [[nodiscard]] size_t size() const { return calls_.size(); }
  [[nodiscard]] std::span<const Call> all() const { return calls_; }

 private:
  size_t put(uint64_t function, long number, std::initializer_list<Arg> args) {
    Call call{function, number, {0, 0, 0, 0, 0, 0}};
    std::copy_n(args.begin(), std::min<size_t>(args.size(), 6), call.args.begin());
    calls_.push_back(call);
    return calls_.size() - 1;
  }
  std::vector<Call> calls_;
};

struct PostedCalls;  // mailbox.hpp

class RemoteThread {
 public:
  // `process` must outlive it and hold `tid` (0: a suitable one is chosen). Errors: as
  // StoppedProcess, and EACCES: a seccomp filter of the target might kill it for our calls and
  // cannot be suspended.
  static Result<RemoteThread> begin(StoppedProcess& process, pid_t tid, uint64_t deadline_ns);
  // What begin() would have to look for in the process's code: called before anything is stopped, it shortens the stop.
  static void look_before(pid_t pid) { look_for_way_back(pid); }
  ~RemoteThread();  // finish()
  RemoteThread(RemoteThread&& other) noexcept;
  RemoteThread& operator=(RemoteThread&&) = delete;

  [[nodiscard]] StoppedProcess& process() const { return *process_; }
  [[nodiscard]] pid_t tid() const { return tid_; }

  // The call's result; -errno becomes an Error with that code. Never a call that can block.
  Result<uint64_t> syscall(long number, uint64_t a = 0, uint64_t b = 0, uint64_t c = 0,
                           uint64_t d = 0, uint64_t e = 0, uint64_t f = 0);
  // Calls function(args...) (at most 6) on this thread's stack below the red zone; rax. Only where
  // that is sound: dlopen and dlclose at a wait point or at the entry point (facts: hooking §1).
  // ETIMEDOUT leaves the thread in the call: the process must then be considered broken, and is let
  // go as it is.
  Result<uint64_t> call(RemoteAddr function, std::initializer_list<RemoteCalls::Arg> args);
  // Several of both at the price of one; their results as they are (check_result()).
  Result<std::vector<uint64_t>> run(const RemoteCalls& calls);
  static Result<uint64_t> check_result(uint64_t result);  // of a system call

  // Memory in the target for arguments and results, kScratchBytes, mapped at the first use and
  // unmapped by finish(). (The thread's own stack may be a goroutine's.)
  Result<RemoteAddr> scratch();
  static constexpr uint64_t kScratchBytes = 4096;

  // Memory of this kind that somebody left in the process who was killed while its thread worked (begin, bytes). Nothing
  // while any of its threads is traced: it may be in use.
  static std::vector<std::pair<RemoteAddr, uint64_t>> left_behind(pid_t pid);

  // Puts the thread back. Also done by the destructor.
  Result<void> finish();

 private:
  RemoteThread() = default;
  // IF, ZF, PF and bit 1: DF, TF, AC clear (psABI 3.2.1).
  static constexpr uint64_t kFlagsKept = 0x246;

  // remote_mailbox.cpp
  Result<void> start_mailbox();
  Result<bool> map_region();
  Result<int> open_lifeline();
  Result<void> write_mailbox();
  Result<size_t> post(std::span<const RemoteCalls::Call> calls, std::vector<uint64_t>* results);
  Result<void> write_calls(const PostedCalls& posted);
  Result<void> await_results(PostedCalls* posted);
  void sleep_until_told(bool* is_announced);
  Result<void> look_for_stop();
  Error call_off();
  Result<void> see_stop(int status);
  Result<void> stop_mailbox();

  Result<uint64_t> drive(long number, const uint64_t (&args)[6]);
  Result<uint64_t> drive_call(uint64_t function, const uint64_t (&args)[6]);
  // Resumes to the next system call stop; returns its registers.
  Result<Registers> run_to_syscall_stop();
  Result<void> forget(Error why);
  void prepare_way_back();
  [[nodiscard]] unsigned spins() const;
  StoppedProcess* process_ = nullptr;
  pid_t tid_ = 0;
  uint64_t deadline_ns_ = 0, syscall_ip_ = 0, saved_mask_ = 0;
  uint64_t region_ = 0;    // ours in the target: code, scratch, mailbox, stack; 0 = none yet
  uint32_t sequence_ = 0;  // of the mailbox
  uint32_t driven_ = 0;    // system calls driven so far
  int lifeline_ = -1;      // the target's end of a socket pair: hangs up when we die
  UniqueFd our_lifeline_;
  std::vector<std::byte> xstate_;
  Registers saved_{};
  bool has_run_ = false, is_lost_ = false, has_mailbox_ = false, tried_mailbox_ = false;
  bool has_called_ = false;
  uint64_t driven_sp_ = 0;   // of driven calls: leads the thread back should we die; 0: as it was
  bool is_blocked_ = false;  // its signals
  Turns turns_;
};

}  // namespace bpftime
