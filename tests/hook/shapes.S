// Functions of the shapes that patches meet. All exported, with sizes.
.macro FUNCTION name
  .p2align 4
  .globl \name
  .type \name, @function
\name:
  .cfi_startproc
.endm
.macro END name
  .cfi_endproc
  .size \name, . - \name
.endm
  .text

// five one-byte instructions: long shape_five(long a) { return a + 5; }
FUNCTION shape_five
  push %rdi
  nop
  nop
  nop
  pop %rax
  add $5, %rax
  ret
END shape_five

// jcc among the displaced: long shape_jcc(long a) { return a == 0 ? 11 : 22; }
FUNCTION shape_jcc
  test %rdi, %rdi
  je 1f
  mov $22, %eax
  ret
1: mov $11, %eax
  ret
END shape_jcc

// rip-relative operand: long shape_rip(void) { return shape_value; }
FUNCTION shape_rip
  mov shape_value(%rip), %rax
  ret
END shape_rip

// call: long shape_call(long a) { return shape_callee(a) + 1; }
FUNCTION shape_callee
  lea 100(%rdi), %rax
  mov (%rsp), %rdx
  mov %rdx, shape_call_returns_to(%rip)
  ret
END shape_callee
FUNCTION shape_call
  call shape_callee
  inc %rax
  ret
END shape_call

// jump only: tail call
FUNCTION shape_tail
  jmp shape_callee
END shape_tail
// tail call behind a few bytes, to be probed at both ends
FUNCTION shape_tail_to_five
  mov %rdi, %rax
  mov %rax, %rdi
  jmp shape_five
END shape_tail_to_five

// jrcxz: long shape_jrcxz(long, long, long, long rcx)
FUNCTION shape_jrcxz
  jrcxz 1f
  mov $1, %eax
  ret
1: mov $2, %eax
  ret
END shape_jrcxz

// loops back to its own first byte: counts down rdi, adds to rax
FUNCTION shape_loop_to_entry
  add $1, %rsi
  dec %rdi
  jnz shape_loop_to_entry
  mov %rsi, %rax
  ret
END shape_loop_to_entry

// something jumps into the bytes behind the first instruction
FUNCTION shape_jumped_into
  xor %eax, %eax
1: inc %rax
  dec %rdi
  jnz 1b
  ret
END shape_jumped_into

// a lone ret with padding
FUNCTION shape_ret
  ret
END shape_ret
  .p2align 4

// too short, and the next function follows at once, padding behind that
  .globl shape_short
  .type shape_short, @function
shape_short:
  mov %edi, %eax
  ret
  .size shape_short, . - shape_short
  .globl shape_after_short
  .type shape_after_short, @function
shape_after_short:
  lea 7(%rdi), %rax
  ret
  .size shape_after_short, . - shape_after_short
  .p2align 5

FUNCTION shape_endbr
  endbr64
  lea 3(%rdi), %rax
  ret
END shape_endbr

// syscall among the displaced bytes: long shape_syscall(long number in edi)
FUNCTION shape_syscall
  mov %edi, %eax
  syscall
  ret
END shape_syscall

// a probe inside: flags, red zone and all registers are live at shape_inside_site
FUNCTION shape_inside
  movq $0x1111, -8(%rsp)
  movq $0x2222, -128(%rsp)
  mov $0x7fffffff, %eax
  add $1, %eax               // OF, SF
  stc
  .globl shape_inside_site
  .type shape_inside_site, @function
shape_inside_site:
  mov $0, %eax
  mov $0, %edx
  .size shape_inside_site, . - shape_inside_site
  seto %al
  setc %dl
  shl $1, %edx
  or %edx, %eax
  mov -8(%rsp), %rdx
  cmp $0x1111, %rdx
  jne 1f
  mov -128(%rsp), %rdx
  cmp $0x2222, %rdx
  jne 1f
  ret
1: mov $-1, %rax
  ret
END shape_inside

// long shape_flags(void): flags as given by the caller of the body (hand-written conventions): OF|CF|ZF|SF|PF at entry
FUNCTION shape_flags
  nop
  nop
  nop
  nop
  nop
  pushfq
  .cfi_adjust_cfa_offset 8
  pop %rax
  .cfi_adjust_cfa_offset -8
  ret
END shape_flags

// void shape_all(void): changes nothing at all
FUNCTION shape_all
  nop
  nop
  nop
  nop
  nop
  nop
  ret
END shape_all

// int call_and_compare(void (*function)(void)): fills all registers, calls, tells what changed (bit per register:
// rax rcx rdx rsi rdi r8 r9 r10 r11 rbx rbp r12-r15 = 0..14, xmm0-15 = 16.., flags = 32, DF is set when
// compare_with_df is not 0 = 33, red zone above = 34)
  .globl call_and_compare
  .type call_and_compare, @function
call_and_compare:
  .cfi_startproc
  push %rbp
  .cfi_adjust_cfa_offset 8
  .cfi_rel_offset %rbp, 0
  mov %rsp, %rbp
  .cfi_def_cfa_register %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  sub $8+128, %rsp
  mov %rdi, call_target(%rip)
  mov %rbp, kept_rbp(%rip)
  mov %rsp, kept_rsp(%rip)
  .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
  mov $0x1000 + \n, %eax
  movq %rax, %xmm\n
  punpcklqdq %xmm\n, %xmm\n
  .endr
  mov $0x2001, %ecx
  mov $0x2002, %edx
  mov $0x2003, %esi
  mov $0x2004, %edi
  mov $0x2005, %r8d
  mov $0x2006, %r9d
  mov $0x2007, %r10d
  mov $0x2008, %r11d
  mov $0x2009, %ebx
  mov $0x200b, %r12d
  mov $0x200c, %r13d
  mov $0x200d, %r14d
  mov $0x200e, %r15d
  cmpl $0, compare_with_df(%rip)
  je 1f
  std
1:
  mov $0x7fffffff, %eax
  add $1, %eax               // OF SF PF AF
  stc
  mov $0x2000, %eax
  call *call_target(%rip)
  pushfq
  mov %rax, got(%rip)
  pop %rax
  mov %rax, got_flags(%rip)
  cld
  xor %eax, %eax
  .macro CHECK_GPR reg, value, bit
  cmp $\value, \reg
  je 9f
  bts $\bit, %rax
9:
  .endm
  CHECK_GPR %rcx, 0x2001, 1
  CHECK_GPR %rdx, 0x2002, 2
  CHECK_GPR %rsi, 0x2003, 3
  CHECK_GPR %rdi, 0x2004, 4
  CHECK_GPR %r8, 0x2005, 5
  CHECK_GPR %r9, 0x2006, 6
  CHECK_GPR %r10, 0x2007, 7
  CHECK_GPR %r11, 0x2008, 8
  CHECK_GPR %rbx, 0x2009, 9
  CHECK_GPR %r12, 0x200b, 11
  CHECK_GPR %r13, 0x200c, 12
  CHECK_GPR %r14, 0x200d, 13
  CHECK_GPR %r15, 0x200e, 14
  mov kept_rbp(%rip), %rcx
  cmp %rcx, %rbp
  je 1f
  bts $10, %rax
1:
  mov kept_rsp(%rip), %rcx
  cmp %rcx, %rsp
  je 1f
  bts $35, %rax
1:
  mov got(%rip), %rcx
  CHECK_GPR %rcx, 0x2000, 0
  mov got_flags(%rip), %rcx
  and $0x8d5, %rcx
  CHECK_GPR %rcx, 0x895, 32  // OF SF AF PF CF
  mov got_flags(%rip), %rcx
  shr $10, %rcx
  and $1, %ecx
  cmp compare_with_df(%rip), %ecx
  je 1f
  bts $33, %rax
1:
  .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
  movq %xmm\n, %rcx
  CHECK_GPR %rcx, 0x1000 + \n, 16 + \n
  .endr
  add $8+128, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  .cfi_def_cfa %rsp, 8
  ret
  .cfi_endproc
  .size call_and_compare, . - call_and_compare

  .data
  .globl shape_value
  .globl shape_call_returns_to
  .globl compare_with_df
  .p2align 3
shape_value: .quad 0x1122334455667788
shape_call_returns_to: .quad 0
call_target: .quad 0
kept_rbp: .quad 0
kept_rsp: .quad 0
got: .quad 0
got_flags: .quad 0
compare_with_df: .long 0
  .section .note.GNU-stack, "", @progbits
