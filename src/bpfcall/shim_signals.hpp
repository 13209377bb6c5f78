// Signals while a wait is prepared: what arrives before the thread sleeps ends the wait with EINTR, as it does in the
// kernel, where nothing comes between. Home: shim *, any thread.
#pragma once
#include <signal.h>

namespace bpftime::shim {

// All signals of this thread wait while it lives.
class SignalsHeld {
 public:
  explicit SignalsHeld(bool is_needed);
  ~SignalsHeld() { let_go(); }
  SignalsHeld(const SignalsHeld&) = delete;
  SignalsHeld& operator=(const SignalsHeld&) = delete;

  // One waits that has a handler and was not blocked before: the wait is over.
  [[nodiscard]] bool is_handler_due() const;
  // For epoll_pwait and the like, which put it in force in one step with their sleep; null: nothing is held.
  [[nodiscard]] const sigset_t* mask_before() const { return holds_ ? &before_ : nullptr; }
  void let_go();

 private:
  bool holds_;
  sigset_t before_;
};

}  // namespace bpftime::shim
