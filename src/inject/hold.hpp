// HeldProcess: follows a process through its next exec and stops it at the new program's entry
// point (after the dynamic loader, before its first instruction), for `bpftime start`. Home: edge,
// broker.
//
//   auto held = TRY(HeldProcess::seize(pid));   // the process waits for our answer; it runs on
//   ... tell it to exec ...
//   auto state = TRY(held.wait(deadline));      // or step() from an event loop (SIGCHLD, or a
//   short timer) if (state == HeldState::kAtEntry) { auto stopped = TRY(held.take(deadline)); bring
//   the agent in ... }
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <memory>

#include "base/result.hpp"
#include "inject/stopped_process.hpp"

namespace bpftime {

enum class HeldState : uint32_t {
  kBeforeExec,   // runs; has not exec'ed yet (a failed exec changes nothing)
  kLoading,      // exec'ed; its loader and the constructors of its libraries run
  kAtEntry,      // stopped at the entry point: take() it
  kGone,         // ended
  kNotFollowed,  // exec of a set-user-id or unreadable program: let go, untouched
};

class HeldProcess {
 public:
  static Result<HeldProcess> seize(pid_t pid, uint64_t deadline_ns);
  ~HeldProcess();  // lets go wherever it is; the entry point's byte is restored
  HeldProcess(HeldProcess&&) noexcept;
  HeldProcess& operator=(HeldProcess&&) noexcept;

  [[nodiscard]] pid_t pid() const;
  // Handles what has happened, never waits.
  Result<HeldState> step();
  // Until it is none of kBeforeExec and kLoading. ETIMEDOUT: still held, may be called again.
  Result<HeldState> wait(uint64_t deadline_ns);
  // Precondition: kAtEntry. All threads stopped, registers and code as the program would have them.
  Result<StoppedProcess> take(uint64_t deadline_ns);

  struct State;

 private:
  explicit HeldProcess(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace bpftime
