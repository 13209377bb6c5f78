// run_list and run_simple for C++: keeps the registers that a callee keeps. Tests and benchmarks only.
#pragma once
#include "runtime/run.hpp"

namespace bpftime::testing {

__attribute__((naked, noinline)) inline uint64_t call_run_list(void* /*regs*/, Site* /*site*/,
                                                               ThreadBlock* /*thread*/,
                                                               const AttachedList* /*list*/) {
  __asm__(
      "push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15; sub $8, %rsp;"
      "call bpftime_run_list;"
      "add $8, %rsp; pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx; ret");
}

__attribute__((naked, noinline)) inline uint32_t call_run_simple(ThreadBlock* /*thread*/,
                                                                 const AttachedList* /*list*/,
                                                                 Site* /*site*/) {
  __asm__("mov %rdi, %rcx; mov %rsi, %rax; jmp bpftime_run_simple");
}

}  // namespace bpftime::testing
