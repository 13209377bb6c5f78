// The slow way of a read that a program makes in its own code (SlotKind::kReadAside). Where a plain program runs on the
// target's stack, it is done on the hit stack, which is free then: hook runs such a program only on a stack that is known
// to be an ordinary one (kListReads). Elsewhere the stack is the hit stack already, or one that must not be left.
#include "runtime/run_offsets.h"

  .text
  .hidden bpftime_read_slowly

// int64_t bpftime_read_aside(void* to rdi, uint64_t size rsi, uint64_t from rdx, the program's leave stub rcx, Hit* r9)
  .globl bpftime_read_aside
  .hidden bpftime_read_aside
  .type bpftime_read_aside, @function
  .p2align 4
bpftime_read_aside:
  .cfi_startproc
  mov HIT_THREAD(%r9), %r8
  mov THREAD_HIT_STACK_TOP(%r8), %rax
  mov %rax, %r10
  sub %rsp, %r10
  cmp $HIT_STACK_BYTES, %r10
  jb .Lhere
  mov %rsp, %r10
  shr $PLAIN_SHIFT, %r10
  cmp %r10, THREAD_PLAIN_WINDOW(%r8)
  jne .Lhere
  mov %rsp, %r10
  .cfi_def_cfa_register %r10
  mov %rax, %rsp
  push %rbx                            // for the fault handler's sake, as in run_list.S
  push %rbp
  push %r12
  push %r13
  push %r14
  push %r15
  push %r10
  push %rcx                            // ASIDE_LEAVE(%rsp)
  push %r9
  push %r9
  // CFA = *(rsp + 24) + 8
  .cfi_escape 0x0f, 5, 0x77, 24, 0x06, 0x23, 8
  mov %rsp, HIT_LEAVE(%r9)
  lea HIT_READS(%r9), %rcx
  mov %rcx, HIT_ATTACHED(%r9)
  mov %r9, %rcx
  call bpftime_read_slowly
  mov (%rsp), %r9
  mov %r9, HIT_ATTACHED(%r9)
  mov 24(%rsp), %rsp
  .cfi_def_cfa %rsp, 8
  ret
.Lhere:
  mov %r9, %rcx
  jmp bpftime_read_slowly
// The fault handler comes here with rdi = hit, rsp = HIT_LEAVE: the program ends.
  .globl bpftime_read_left
  .hidden bpftime_read_left
bpftime_read_left:
  mov 72(%rsp), %rbx
  mov 64(%rsp), %rbp
  mov 56(%rsp), %r12
  mov 48(%rsp), %r13
  mov 40(%rsp), %r14
  mov 32(%rsp), %r15
  jmp *ASIDE_LEAVE(%rsp)
  .cfi_endproc
  .size bpftime_read_aside, . - bpftime_read_aside

  .section .note.GNU-stack, "", @progbits
