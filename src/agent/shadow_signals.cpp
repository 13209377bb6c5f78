#include "agent/shadow_signals.hpp"

#include "base/raw_syscall.hpp"
#include "helpers/helpers.hpp"

namespace bpftime {
namespace {

// libc's struct sigaction (glibc's and musl's are the same on x86-64). Of the mask the kernel knows
// 64 bits.
struct LibcAction {
  uint64_t handler, mask, more_mask[15];
  uint32_t flags, padding;
  uint64_t restorer;
};
static_assert(sizeof(LibcAction) == 152);

// Kernel v6.18 include/uapi/asm-generic/signal-defs.h, arch/x86/include/uapi/asm/signal.h: flags
// that it knows.
constexpr uint64_t kKnownFlags = 0xdc000807;
constexpr uint64_t kSaRestorer = 0x04000000;
constexpr uint64_t kNeverBlocked = 1ULL << (9 - 1) | 1ULL << (19 - 1);  // SIGKILL, SIGSTOP

}  // namespace

bool answer_sigaction(pt_regs* regs, ThreadBlock* thread, AgentState* state) {
  const auto signo = static_cast<uint32_t>(regs->rdi);
  if (signo == 0 || signo > 31 || (state->signals_owned >> signo & 1) == 0 ||
      state->libc_restorer == 0) {
    return false;
  }
  // A vfork child shares this memory, but its actions are its own.
  if (static_cast<uint32_t>(raw_syscall(SYS_getpid)) != state->tgid) {
    return false;
  }
  LibcAction wanted;  // NOLINT(cppcoreguidelines-pro-type-member-init): read below
  if (regs->rsi != 0 && checked_read(thread, &wanted, regs->rsi, sizeof(wanted)) != 0) {
    return false;
  }
  LibcAction before = {};
  if (regs->rdx != 0 && checked_read(thread, &before, regs->rdx, sizeof(before)) != 0) {
    return false;
  }
  uint64_t(&shadow)[4] = state->old_actions[signo];
  if (regs->rdx != 0) {
    // Bits of the mask that the kernel does not know stay as they were in the caller's memory, as
    // with libc.
    before.handler = shadow[0];
    before.flags = static_cast<uint32_t>(shadow[1]);
    before.restorer = shadow[2];
    before.mask = shadow[3];
    __builtin_memcpy(reinterpret_cast<void*>(regs->rdx), &before, sizeof(before));
  }
  if (regs->rsi != 0) {
    // The handler last: a fault meanwhile finds the old one, or the new one with its own flags.
    shadow[1] = (wanted.flags & kKnownFlags) | kSaRestorer;
    shadow[2] = state->libc_restorer;
    shadow[3] = wanted.mask & ~kNeverBlocked;
    __atomic_store_n(&shadow[0], wanted.handler, __ATOMIC_RELEASE);
  }
  regs->rax = 0;
  return true;
}

}  // namespace bpftime
