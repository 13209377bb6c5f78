// run_list and run_simple (run.hpp says what they promise). In assembler because a hit is bound by its instructions and
// its stores. run_list does not save what a callee keeps: who calls it has all registers in memory already, so that a
// fault in the middle of a helper can be left from anywhere with nothing but rsp known.
// Between runs ProbeHit::attached is the hit itself: another value says that it was never set up, or that a signal
// handler jumped out of a run.
#include "runtime/run_offsets.h"

  .text
  .hidden bpftime_run_begin
  .hidden bpftime_run_ended

// uint64_t run_list(void* regs rdi, Site* rsi, ThreadBlock* rdx, const AttachedList* rcx)
  .globl bpftime_run_list
  .hidden bpftime_run_list
  .type bpftime_run_list, @function
  .p2align 6
bpftime_run_list:
  .cfi_startproc
  mov LIST_ALIVE(%rcx), %rax
  mov (%rax), %eax
  cmp LIST_ALIVE_EXPECTED(%rcx), %eax
  jne .Lnothing
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
  lea 8(%rsp), %rsp
  .cfi_adjust_cfa_offset -8
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
  mov %rdi, %rbx
  mov %rsi, %rbp
  mov %rdx, %r12
  mov %rdi, %rsi
  mov %rdx, %rdi
  mov %rcx, %rdx
  call bpftime_run_begin
  mov %rbx, %rdi
  mov %rbp, %rsi
  mov %r12, %rdx
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
  cmp %rdi, (%rsp)
  je .Lsimple_left
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

// eax run_simple(ThreadBlock* rcx, const AttachedList* rax, Site* rdx). What a callee keeps is pushed for the fault
// handler's sake only: as a rule it is not read again.
.macro SAVE register
  push \register
  .cfi_adjust_cfa_offset 8
  .cfi_rel_offset \register, 0
.endm
  .globl bpftime_run_simple
  .hidden bpftime_run_simple
  .type bpftime_run_simple, @function
  .p2align 6
bpftime_run_simple:
  .cfi_startproc
  mov LIST_ALIVE(%rax), %rsi
  mov (%rsi), %esi
  cmp LIST_ALIVE_EXPECTED(%rax), %esi
  jne .Lsimple_nothing
  lea THREAD_HIT_SPACE(%rcx), %rsi
  cmp %rsi, HIT_ATTACHED(%rsi)
  jne .Lnot_simple
  incq THREAD_HITS(%rcx)
  mov LIST_ITEMS + ATTACHED_SLOTS(%rax), %rdi
  mov %rdi, HIT_SLOTS(%rsi)
  lea LIST_ITEMS(%rax), %rdi
  mov %rdi, HIT_ATTACHED(%rsi)
  mov %rdx, HIT_SITE(%rsi)
  SAVE %rbx
  SAVE %rbp
  SAVE %r12
  SAVE %r13
  SAVE %r14
  SAVE %r15
  push %rsi                            // the hit: tells bpftime_program_left where it is
  .cfi_adjust_cfa_offset 8
  mov %rsp, HIT_LEAVE(%rsi)
  lea THREAD_REGS(%rcx), %rdi
  call *LIST_ITEMS + ATTACHED_PROGRAM(%rax)
  mov (%rsp), %rsi
  cmpq $0, HIT_ENDED(%rsi)             // and HIT_TOUCHED
  jne .Lsimple_ended
.Lsimple_back:
  mov %rsi, HIT_ATTACHED(%rsi)
  .cfi_remember_state
  lea 56(%rsp), %rsp
  .cfi_adjust_cfa_offset -56
.Lsimple_nothing:
  xor %eax, %eax
  ret
.Lnot_simple:
  mov $1, %eax
  ret
  .cfi_restore_state
.Lsimple_left:
  mov 48(%rsp), %rbx
  mov 40(%rsp), %rbp
  mov 32(%rsp), %r12
  mov 24(%rsp), %r13
  mov 16(%rsp), %r14
  mov 8(%rsp), %r15
.Lsimple_ended:
  mov (%rsp), %rdi
  call bpftime_run_ended
  mov (%rsp), %rsi
  jmp .Lsimple_back
  .cfi_endproc
  .size bpftime_run_simple, . - bpftime_run_simple

  .section .note.GNU-stack, "", @progbits
