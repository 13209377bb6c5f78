// The floor: what a hook written by hand for one function costs (facts: full pt_regs by push, thread-local guard,
// one call of an empty C function; the balanced form for returns). No site, no owner check, no own stack.
  .text
  .globl floor_entry_trampoline
  .globl floor_entry_back
  .type floor_entry_trampoline, @function
floor_entry_trampoline:
  lea -40(%rsp), %rsp
  pushfq
  push %rdi
  push %rsi
  push %rdx
  push %rcx
  push %rax
  push %r8
  push %r9
  push %r10
  push %r11
  push %rbx
  push %rbp
  push %r12
  push %r13
  push %r14
  push %r15
  mov floor_depth@gottpoff(%rip), %rax
  cmpl $0, %fs:(%rax)
  jne 1f
  movl $1, %fs:(%rax)
  mov %rsp, %rdi
  call floor_callback
  mov floor_depth@gottpoff(%rip), %rax
  movl $0, %fs:(%rax)
1:
  mov 40(%rsp), %r11
  lea 48(%rsp), %rsp
  pop %r11
  pop %r10
  pop %r9
  pop %r8
  pop %rax
  pop %rcx
  pop %rdx
  pop %rsi
  pop %rdi
  lea 48(%rsp), %rsp
  .byte 0x0f, 0x1f, 0x44, 0x00, 0x00   // the displaced nop
  jmp *floor_entry_back(%rip)

  .globl floor_return_trampoline
  .globl floor_return_back
  .type floor_return_trampoline, @function
floor_return_trampoline:
  mov floor_ra@gottpoff(%rip), %r11
  pop %fs:(%r11)
  call *floor_return_back(%rip)
  mov floor_ra@gottpoff(%rip), %r11
  push %fs:(%r11)
  push %rax
  push %rdx
  lea -128(%rsp), %rsp
  mov %rsp, %rdi
  mov %rbx, 8(%rdi)
  mov %rbp, 16(%rdi)
  mov %r12, 24(%rdi)
  mov %r13, 32(%rdi)
  mov %r14, 40(%rdi)
  mov %r15, 48(%rdi)
  mov %rcx, 56(%rdi)
  mov %rsi, 64(%rdi)
  mov %r8, 72(%rdi)
  mov %r9, 80(%rdi)
  mov %r10, 88(%rdi)
  mov floor_depth@gottpoff(%rip), %rax
  cmpl $0, %fs:(%rax)
  jne 1f
  movl $1, %fs:(%rax)
  call floor_callback
  mov floor_depth@gottpoff(%rip), %rax
  movl $0, %fs:(%rax)
1:
  lea 128(%rsp), %rsp
  pop %rdx
  pop %rax
  ret
  .section .tbss, "awT", @nobits
  .p2align 3
floor_ra: .quad 0
floor_depth: .long 0
  .data
  .p2align 3
floor_entry_back: .quad 0
floor_return_back: .quad 0
  .section .note.GNU-stack, "", @progbits
