#include "bpfcall/shim_signals.hpp"

#include <cstdint>

#include "base/raw_syscall.hpp"

namespace bpftime::shim {
namespace {
constexpr uint64_t kSetBytes = 8;  // of the kernel's sigset_t; libc's begins with it
}

SignalsHeld::SignalsHeld(bool is_needed) : holds_(is_needed), before_{} {
  if (holds_) {
    const uint64_t all = ~uint64_t{0};
    raw_syscall(SYS_rt_sigprocmask, SIG_SETMASK, reinterpret_cast<uint64_t>(&all),
                reinterpret_cast<uint64_t>(&before_), kSetBytes);
  }
}

void SignalsHeld::let_go() {
  if (holds_) {
    holds_ = false;
    raw_syscall(SYS_rt_sigprocmask, SIG_SETMASK, reinterpret_cast<uint64_t>(&before_), 0,
                kSetBytes);
  }
}

bool SignalsHeld::is_handler_due() const {
  if (!holds_) {
    return false;
  }
  uint64_t pending = 0;
  uint64_t blocked = 0;
  __builtin_memcpy(&blocked, &before_, sizeof(blocked));
  raw_syscall(SYS_rt_sigpending, reinterpret_cast<uint64_t>(&pending), kSetBytes);
  for (uint64_t bits = pending & ~blocked; bits != 0; bits &= bits - 1) {
    // What is ignored waits too, as long as it is blocked. {handler, flags, restorer, mask}
    uint64_t action[4] = {};
    const auto signal = static_cast<uint64_t>(__builtin_ctzll(bits)) + 1;
    raw_syscall(SYS_rt_sigaction, signal, 0, reinterpret_cast<uint64_t>(action), kSetBytes);
    if (action[0] != reinterpret_cast<uint64_t>(SIG_DFL) &&
        action[0] != reinterpret_cast<uint64_t>(SIG_IGN)) {
      return true;
    }
  }
  return false;
}

}  // namespace bpftime::shim
