// run_list (run.hpp says what it promises). In assembler because a hit is bound by its instructions, its stores and
// the registers that pass through memory. The six that a callee keeps are written once a hit, so that a fault in
// the middle of a helper can be left from anywhere (only rsp must be known for that); but only the three used here are
// read again as a rule, and they are none that a thunk waits for (rbp is its rsp, r12 its block).
// Between runs ProbeHit::attached is the hit itself: another value says that it was never set up, or that a signal
// handler jumped out of a run.
#include "runtime/run_offsets.h"

.macro SAVE register
  push \register
  .cfi_adjust_cfa_offset 8
  .cfi_rel_offset \register, 0
.endm

  .text
  .hidden bpftime_run_begin
  .hidden bpftime_run_ended

// uint64_t run_list(void* regs rdi, Site* rsi, ThreadBlock* rdx, const AttachedList* rcx, AgentState* r8)
  .globl bpftime_run_list
  .hidden bpftime_run_list
  .type bpftime_run_list, @function
  .p2align 6
bpftime_run_list:
  .cfi_startproc
  mov STATE_ALIVE(%r8), %rax
  test %rax, %rax
  jz .Lnothing
  mov (%rax), %eax
  cmp STATE_ALIVE_EXPECTED(%r8), %eax
  jne .Lnothing
  SAVE %rbx
  SAVE %rbp
  SAVE %r12
  SAVE %r13
  SAVE %r14
  SAVE %r15
  push %rcx                            // the list
  .cfi_adjust_cfa_offset 8
  // r13 = hit, r14 = items left, r15 = the item that runs
  lea THREAD_HIT_SPACE(%rdx), %r13
  lea LIST_ITEMS(%rcx), %r15
  mov LIST_COUNT(%rcx), %r14d
  cmp %r13, HIT_ATTACHED(%r13)
  jne .Lbegin
.Lbegun:
  incq THREAD_HITS(%rdx)
  mov %rsi, HIT_SITE(%r13)
  mov %rsp, HIT_LEAVE(%r13)
.Litem:
  mov ATTACHED_COUNTS(%r15), %rax
  cmpq $0, COUNTS_DISARMED(%rax)
  jne .Lnext
  mov ATTACHED_SLOTS(%r15), %rax
  mov %rax, HIT_SLOTS(%r13)
  mov %r15, HIT_ATTACHED(%r13)
  mov %r13, %rsi
  call *ATTACHED_PROGRAM(%r15)
  cmpq $0, HIT_ENDED(%r13)             // and HIT_TOUCHED
  jne .Lended
.Lback:
  cmpq $FUEL, HIT_FUEL(%r13)
  jne .Lrefuel
.Lfuelled:
  mov %r13, HIT_ATTACHED(%r13)
  testb $ATTACHED_COUNTED, ATTACHED_FLAGS(%r15)
  jnz .Lcount
.Lnext:
  dec %r14d
  jnz .Lanother
  mov HIT_ANSWER(%r13), %rax
  test %rax, %rax
  jnz .Lanswer
.Ldone:
  .cfi_remember_state
  mov 8(%rsp), %r15
  .cfi_restore %r15
  mov 16(%rsp), %r14
  .cfi_restore %r14
  mov 24(%rsp), %r13
  .cfi_restore %r13
  lea 56(%rsp), %rsp
  .cfi_adjust_cfa_offset -56
  ret

  // ---- rare ----
.Lnothing:
  xor %eax, %eax
  ret
  .cfi_restore_state
.Lanswer:
  movq $0, HIT_ANSWER(%r13)
  jmp .Ldone
.Lanother:
  add $ATTACHED_BYTES, %r15
  mov HIT_REGS(%r13), %rdi
  jmp .Litem
.Lbegin:
  mov %rdi, %rbx                       // rbx, rbp and r12 are given back as they are in the stack
  mov %rsi, %rbp
  mov %rdx, %r12
  mov %rdi, %rsi
  mov %rdx, %rdi
  mov %r8, %rdx
  call bpftime_run_begin
  mov %rbx, %rdi
  mov %rbp, %rsi
  mov %r12, %rdx
  mov 32(%rsp), %r12
  mov 40(%rsp), %rbp
  mov 48(%rsp), %rbx
  jmp .Lbegun
.Lrefuel:
  movq $FUEL, HIT_FUEL(%r13)
  jmp .Lfuelled
.Lcount:
  mov ATTACHED_COUNTS(%r15), %rax
  lock incq COUNTS_RUN(%rax)
  jmp .Lnext
// The fault handler comes here with rdi = hit, rsp = HIT_LEAVE, other registers as the helper had them.
  .globl bpftime_program_left
  .hidden bpftime_program_left
bpftime_program_left:
  cld
  mov 32(%rsp), %r12
  mov 40(%rsp), %rbp
  mov 48(%rsp), %rbx
  mov %rdi, %r13
  mov HIT_ATTACHED(%r13), %r15
  mov (%rsp), %rcx
  lea LIST_ITEMS(%rcx), %rax
  mov LIST_COUNT(%rcx), %r14d          // less those before the item
1:
  cmp %rax, %r15
  je .Lended
  add $ATTACHED_BYTES, %rax
  dec %r14d
  jmp 1b
.Lended:
  mov %r13, %rdi
  call bpftime_run_ended
  jmp .Lback
  .cfi_endproc
  .size bpftime_run_list, . - bpftime_run_list

  .section .note.GNU-stack, "", @progbits
