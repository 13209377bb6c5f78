#include "bpfcall/shim_signals.hpp"

#include <gtest/gtest.h>
#include <signal.h>

namespace bpftime::shim {
namespace {

volatile sig_atomic_t g_handled = 0;
void handle(int /*signal*/) { g_handled = g_handled + 1; }

class Action {
 public:
  Action(int signal, void (*handler)(int)) : signal_(signal), before_(::signal(signal, handler)) {}
  ~Action() { ::signal(signal_, before_); }
  Action(const Action&) = delete;
  Action& operator=(const Action&) = delete;

 private:
  int signal_;
  void (*before_)(int);
};

TEST(SignalsHeld, ASignalWithAHandlerIsDueAndRunsWhenLetGo) {
  const Action action(SIGUSR1, handle);
  g_handled = 0;
  SignalsHeld signals(true);
  EXPECT_FALSE(signals.is_handler_due());
  ::raise(SIGUSR1);
  EXPECT_EQ(g_handled, 0);
  EXPECT_TRUE(signals.is_handler_due());
  signals.let_go();
  EXPECT_EQ(g_handled, 1);
  EXPECT_FALSE(signals.is_handler_due());
}

TEST(SignalsHeld, AnIgnoredSignalIsNotDue) {
  const Action ignored(SIGUSR1, SIG_IGN);
  const Action by_default(SIGCHLD, SIG_DFL);
  const SignalsHeld signals(true);
  ::raise(SIGUSR1);
  ::raise(SIGCHLD);
  EXPECT_FALSE(signals.is_handler_due());
}

TEST(SignalsHeld, ASignalThatWasBlockedBeforeIsNotDueAndStaysBlocked) {
  const Action action(SIGUSR1, handle);
  g_handled = 0;
  sigset_t usr1, before;
  sigemptyset(&usr1);
  sigaddset(&usr1, SIGUSR1);
  ::pthread_sigmask(SIG_BLOCK, &usr1, &before);
  {
    const SignalsHeld signals(true);
    EXPECT_EQ(sigismember(signals.mask_before(), SIGUSR1), 1);
    EXPECT_EQ(sigismember(signals.mask_before(), SIGUSR2), 0);
    ::raise(SIGUSR1);
    EXPECT_FALSE(signals.is_handler_due());
  }
  EXPECT_EQ(g_handled, 0);
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  EXPECT_EQ(g_handled, 1);
}

TEST(SignalsHeld, WhereNothingIsToBeHeldNothingIs) {
  const Action action(SIGUSR1, handle);
  g_handled = 0;
  const SignalsHeld signals(false);
  EXPECT_EQ(signals.mask_before(), nullptr);
  ::raise(SIGUSR1);
  EXPECT_EQ(g_handled, 1);
}

}  // namespace
}  // namespace bpftime::shim
