#include "inject/signal_frame.hpp"

#include <cstring>
#include <span>

namespace bpftime {
namespace {

// What rt_sigreturn reads. Kernel v6.12 arch/x86/include/uapi/asm/{ucontext,sigcontext}.h.
struct Frame {
  uint64_t return_address, flags, link, stack_at, stack_flags, stack_bytes;
  uint64_t r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip,
      eflags;
  uint16_t cs, gs, fs, ss;
  uint64_t error, trap, old_mask, cr2, xstate, reserved[8], mask;
};
static_assert(offsetof(Frame, r8) == 8 + 40 && offsetof(Frame, mask) == 8 + 40 + 256 &&
              sizeof(Frame) == kSignalFrameBytes);

}  // namespace

std::vector<std::byte> signal_frame(const Registers& from, long interrupted, uint64_t mask,
                                    uint64_t xstate_at, uint64_t caller) {
  Frame frame = {};
  frame.return_address = caller;
  frame.flags = 7;                 // UC_FP_XSTATE, UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS
  frame.stack_flags = 0x7fffffff;  // no such mode: sigaltstack stays as it is (restore_altstack)
  frame.r8 = from.r8, frame.r9 = from.r9, frame.r10 = from.r10, frame.r11 = from.r11;
  frame.r12 = from.r12, frame.r13 = from.r13, frame.r14 = from.r14, frame.r15 = from.r15;
  frame.rdi = from.rdi, frame.rsi = from.rsi, frame.rbp = from.rbp, frame.rbx = from.rbx;
  frame.rdx = from.rdx, frame.rax = from.rax, frame.rcx = from.rcx, frame.rsp = from.rsp;
  frame.rip = from.rip, frame.eflags = from.eflags;
  const auto result = static_cast<long>(from.rax);
  if (static_cast<long>(from.orig_rax) >= 0 && result <= -512 && result >= -516) {
    frame.rax = static_cast<uint64_t>(interrupted);  // the interrupted call again
    frame.rip = from.rip - 2;
  }
  frame.cs = static_cast<uint16_t>(from.cs);
  frame.ss = static_cast<uint16_t>(from.ss);
  frame.xstate = xstate_at;
  frame.mask = mask;
  const auto bytes = std::as_bytes(std::span(&frame, 1));
  return {bytes.begin(), bytes.end()};
}

// Marked at byte 464 and behind its end (struct _fpx_sw_bytes).
std::vector<std::byte> signal_frame_xstate(std::vector<std::byte> xstate) {
  if (xstate.size() < 576) {
    return xstate;
  }
  struct {
    uint32_t magic1, extended_bytes;
    uint64_t features;
    uint32_t bytes, padding[7];
  } mark = {};
  static_assert(sizeof mark == 48);
  std::memcpy(&mark.features, xstate.data() + 464, 8);  // as PTRACE_GETREGSET gives it
  const uint32_t magic2 = 0x46505845;
  mark.magic1 = 0x46505853;
  mark.bytes = static_cast<uint32_t>(xstate.size());
  mark.extended_bytes = mark.bytes + sizeof magic2;
  std::memcpy(xstate.data() + 464, &mark, sizeof mark);
  xstate.resize(xstate.size() + sizeof magic2);
  std::memcpy(xstate.data() + mark.bytes, &magic2, sizeof magic2);
  return xstate;
}

}  // namespace bpftime
