// System calls without libc: errno is never touched. Home: pure *, any thread, any signal state.
// x86-64 psABI appendix A.2.1: number in rax, arguments rdi rsi rdx r10 r8 r9, rcx and r11 clobbered,
// result in rax, -4095..-1 is -errno.
#pragma once
#include <sys/syscall.h>

#include <cstdint>

namespace bpftime {

inline long raw_syscall(long number, uint64_t a = 0, uint64_t b = 0, uint64_t c = 0, uint64_t d = 0,
                        uint64_t e = 0, uint64_t f = 0) {
  long result;
  register uint64_t r10 __asm__("r10") = d;
  register uint64_t r8 __asm__("r8") = e;
  register uint64_t r9 __asm__("r9") = f;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return result;
}

// True when a raw_syscall result is -errno.
inline bool is_syscall_error(long result) { return static_cast<unsigned long>(result) > -4096UL; }

}  // namespace bpftime
