// The thunks (hook/thunks.hpp says what they promise). Home: injected *.
//
// Course of a hit: rcx, flags and rax are pushed; rcx = the thread's block (FIND_BLOCK). The block's address is pushed
// too and block->guard set to that place: the guard against nesting. (Should a signal handler longjmp out of the
// callback, that word is overwritten sooner or later, by which a later hit knows that the guard is stale.) Then
// all registers go into block->regs, r12 = block, rbp = the target's rsp with the four words above it, r13 =
// trampoline (return probes), rsp = hit stack; rbx is not touched, or names the return entry.
//
// A hit costs its stores, one a cycle, two where they follow each other in one cache line: hence their order. And
// each register of the target that is stored and loaded again costs that latency in a chain from hit to hit (7 cycles on
// Zen 4): none passes through memory twice, and the returned rax stays in a register (r14).
//
// Unwinding. At entry and return thunks stand in for the probed function at its first instruction (or after its ret): their
// caller is the function's caller, and the trampoline, which has no unwind data, is skipped. inside_thunk
// is described as a signal frame upon the probed instruction.
//
// While the body of a function with a return probe runs, its return address is return_point and rbx names the
// ReturnEntry: return address at *(rbx), caller's rbx at *(rbx+8), caller's rsp = our rsp. The CFA is rsp + 4,
// a value that no real frame has: unwinders tell frames apart by CFA, and were it rsp, this frame and its
// caller's would be one.
#include "hook/thunk_offsets.h"

// ---- CFI ---------------------------------------------------------------------------------------------------
// DW_CFA_expression (0x10) and DW_CFA_val_expression (0x16), DWARF 5 §6.4.2; registers by DWARF number:
// rdx 1, rcx 2, rbx 3, rbp 6, rsp 7, r12 12, return address 16. DW_OP_bregN = 0x70 + N.
// saved register `reg` lies at register `base` + `offset` (two byte SLEB128, offset in [0, 8192))
.macro CFI_SAVED_AT reg, base, offset
  .cfi_escape 0x10, \reg, 3, 0x70 + \base, ((\offset) & 0x7f) | 0x80, ((\offset) >> 7) & 0x7f
.endm
// return address and rbx of a return entry named by register `base`
.macro CFI_ENTRY base
  CFI_SAVED_AT 16, \base, ENTRY_RETURN_ADDRESS
  CFI_SAVED_AT 3, \base, ENTRY_SAVED_RBX
.endm
// caller's rsp = CFA - 4 (DW_OP_lit4, DW_OP_minus)
.macro CFI_SP_BELOW_CFA
  .cfi_escape 0x16, 7, 2, 0x34, 0x1c
.endm

// ---- Pieces ------------------------------------------------------------------------------------------------
// rcx = block of this thread; else control goes to \slow. Clobbers flags. \hashed: gs is not ours.
.macro FIND_BLOCK slow, hashed
  .if \hashed
  jmp \slow
  .else
  mov %gs:BLOCK_CHECK_OFFSET, %ecx
  mov %fs:(%rcx), %ecx
  cmp %gs:BLOCK_CHECK_VALUE, %ecx
  jne \slow
  mov %gs:BLOCK_SELF, %rcx
  .endif
.endm

// Into the block in rcx, line by line; rdx, rsi and rdi are free then.
.macro SAVE_ARGUMENTS
  mov %r9, R_R9(%rcx)
  mov %r8, R_R8(%rcx)
  mov %rdx, R_DX(%rcx)
  mov %rsi, R_SI(%rcx)
  mov %rdi, R_DI(%rcx)
.endm
.macro SAVE_OTHERS
  mov %r15, R_R15(%rcx)
  mov %r14, R_R14(%rcx)
  mov %r13, R_R13(%rcx)
  mov %r12, R_R12(%rcx)
  mov %rbp, R_BP(%rcx)
  mov %r10, R_R10(%rcx)
.endm

// The end of a hit: everything from the block in r12 but rax, rcx, rbx and flags; rcx = block.
.macro RESTORE_REGISTERS
  mov %r12, %rcx
  mov R_DX(%rcx), %rdx
  mov R_SI(%rcx), %rsi
  mov R_DI(%rcx), %rdi
  mov R_R8(%rcx), %r8
  mov R_R9(%rcx), %r9
  mov R_R10(%rcx), %r10
  mov R_R11(%rcx), %r11
  mov R_BP(%rcx), %rbp
  .cfi_same_value %rbp
  mov R_R12(%rcx), %r12
  .cfi_same_value %r12
.endm

// OF, SF, ZF, AF, PF, CF from the flags word at \memory; clobbers rax. popfq would cost 8 ns.
// AL = 8 + 0x78 overflows when OF was set, 0 + 0x78 does not; sahf leaves OF alone.
.macro RESTORE_FLAGS memory
  mov \memory, %eax
  rolw $8, %ax
  andb $8, %al
  addb $0x78, %al
  sahf
.endm

// r12 = block, rbp = rsp = the target's. rsp becomes the stack for the callback. Clobbers rax.
.macro PICK_STACK query
  mov %rbp, %rax
  shr $PLAIN_SHIFT, %rax
  cmp %rax, BLOCK_PLAIN_WINDOW(%r12)
  jne \query
  mov BLOCK_HIT_STACK_TOP(%r12), %rsp
.endm
// Another stack than the last hit's (rax = its rsp >> PLAIN_SHIFT); if it is not among those known to be ordinary ones, ask.
// SS_ONSTACK (1) answers for the rsp of the call, which is the target's. Clobbers rcx, rdi, r8, r9, r11 too, not rsi.
.macro QUERY_STACK chosen, none
  mov %rax, %r8
  mov %eax, %r9d
  and $15, %r9d
  cmp %rax, BLOCK_PLAIN_STACKS(%r12, %r9, 8)
  je 2f
  mov %rsi, %r10
  xor %edi, %edi
  lea BLOCK_ALT_STACK(%r12), %rsi
  movl $0, 8(%rsi)
  mov $NR_SIGALTSTACK, %eax
  syscall
  testl $1, 8(%rsi)
  mov (%rsi), %rax
  mov %r10, %rsi
  jnz 1f
  mov %r8, BLOCK_PLAIN_STACKS(%r12, %r9, 8)
2:
  mov %r8, BLOCK_PLAIN_WINDOW(%r12)
  mov BLOCK_HIT_STACK_TOP(%r12), %rsp
  jmp \chosen
1:
  mov %rbp, %rdi
  sub %rax, %rdi
  cmp $ALT_STACK_ROOM, %rdi
  jb \none
  and $-16, %rsp
  jmp \chosen
.endm

  .hidden bpftime_agent_state
  .hidden bpftime_on_entry
  .hidden bpftime_on_return
  .hidden bpftime_cold_hit
  .hidden bpftime_thread_block_slow
  .hidden bpftime_guard_is_stale
  .hidden bpftime_take_entry_slow
  .text

// ---- entry_thunk, inside_thunk -----------------------------------------------------------------------------
// On entry: (rsp) = return address into the trampoline.
.macro ENTRY_THUNK name, site_offset, inside, hashed
  .globl \name
  .hidden \name
  .type \name, @function
  .p2align 6
\name:
  .cfi_startproc
  .if \inside
  .cfi_signal_frame
  .cfi_def_cfa %rsp, 8 + 128
  // return address = Site::address; the Site is found as the code below does:
  // *(*(CFA - 136) - site_offset) + 16. const1u, minus, deref, const1u, minus, deref, plus_uconst, deref
  .cfi_escape 0x16, 16, 11, 0x08, 136, 0x1c, 0x06, 0x08, \site_offset, 0x1c, 0x06, 0x23, SITE_ADDRESS, 0x06
  .else
  .cfi_def_cfa %rsp, 16
  .endif
  push %rcx
  .cfi_adjust_cfa_offset 8
  pushfq
  .cfi_adjust_cfa_offset 8
  push %rax
  .cfi_adjust_cfa_offset 8
  mov 24(%rsp), %rax
  mov -\site_offset(%rax), %rax
  cmpq $0, SITE_ON_ENTRY(%rax)
  je .Lunarmed_\name
.Larmed_\name:
  FIND_BLOCK .Lslow_\name, \hashed
.Lfound_\name:
  cmpq $0, BLOCK_GUARD(%rcx)
  jne .Lnested_\name
.Lgo_\name:
  .cfi_remember_state
  push %rcx
  .cfi_adjust_cfa_offset 8
  mov %rsp, BLOCK_GUARD(%rcx)
  SAVE_ARGUMENTS
  mov 8(%rsp), %rdx
  mov %rdx, R_AX(%rcx)
  mov 24(%rsp), %rdx
  mov %rdx, R_CX(%rcx)
  SAVE_OTHERS
  mov %rbx, R_BX(%rcx)
  mov %r11, R_R11(%rcx)
  mov %rcx, %r12
  CFI_SAVED_AT 12, 12, R_R12
  .if \inside
  lea 40 + 128(%rsp), %rdx
  .else
  lea 40(%rsp), %rdx
  .endif
  mov %rdx, R_SP(%r12)
  mov SITE_ADDRESS(%rax), %rdx
  mov %rdx, R_IP(%r12)
  mov 16(%rsp), %rdx
  mov %rdx, R_FLAGS(%r12)
  mov %rax, %rsi
  mov %rsp, %rbp
  .cfi_def_cfa_register %rbp
  CFI_SAVED_AT 6, 12, R_BP
  test $FLAG_DF, %edx
  jnz .Ldf_\name
.Lstack_\name:
  PICK_STACK .Lquery_\name
.Lchosen_\name:
  mov SITE_ON_ENTRY(%rsi), %rcx
  test %rcx, %rcx
  jz .Lcold_\name
.Lcall_\name:
  lea BLOCK_REGS(%r12), %rdi
  mov %r12, %rdx
  call bpftime_on_entry
  .if !\inside
  test %rax, %rax
  jnz .Loverride_\name
  .endif
.Lleave_\name:
  mov %rbp, %rsp
  .cfi_def_cfa_register %rsp
  .if !\inside
  testl $FLAG_DF, 16(%rsp)
  jnz .Ldf_back_\name
.Lflags_\name:
  .endif
  RESTORE_REGISTERS
  .if !\inside
  RESTORE_FLAGS 16(%rsp)
  .endif
  mov 8(%rsp), %rax
  movq $0, BLOCK_GUARD(%rcx)
  .if \inside
  lea 16(%rsp), %rsp
  .cfi_adjust_cfa_offset -16
  popfq
  .cfi_adjust_cfa_offset -8
  .else
  lea 24(%rsp), %rsp
  .cfi_adjust_cfa_offset -24
  .endif
  pop %rcx
  .cfi_adjust_cfa_offset -8
  ret

  // ---- rare ----
  .cfi_restore_state
.Lslow_\name:
  call bpftime_find_block_slow
  test %rcx, %rcx
  jnz .Lfound_\name
  jmp .Lpass_\name
.Lunarmed_\name:
  mov bpftime_agent_state(%rip), %rcx
  mov STATE_TABLE(%rcx), %rcx
  cmpq $0, (%rcx)                      // the table's guard word
  je .Larmed_\name
  jmp .Lpass_\name
.Lnested_\name:
  call bpftime_check_guard
  jz .Lgo_\name
  incq BLOCK_MISSED(%rcx)
.Lpass_\name:
  .if \inside
  pop %rax
  .cfi_adjust_cfa_offset -8
  popfq
  .cfi_adjust_cfa_offset -8
  .else
  RESTORE_FLAGS 8(%rsp)
  pop %rax
  .cfi_adjust_cfa_offset -8
  lea 8(%rsp), %rsp
  .cfi_adjust_cfa_offset -8
  .endif
  pop %rcx
  .cfi_adjust_cfa_offset -8
  ret
  // the rest runs with r12 = block, rbp = the target's rsp
  .cfi_adjust_cfa_offset 32
  .cfi_def_cfa_register %rbp
  CFI_SAVED_AT 12, 12, R_R12
  CFI_SAVED_AT 6, 12, R_BP
.Ldf_\name:
  cld
  jmp .Lstack_\name
.Lquery_\name:
  QUERY_STACK .Lchosen_\name, .Lnoroom_\name
.Lnoroom_\name:
  incq BLOCK_MISSED(%r12)
  jmp .Lleave_\name
.Lcold_\name:
  mov bpftime_agent_state(%rip), %rcx
  mov STATE_TABLE(%rcx), %rcx
  cmpq $0, (%rcx)
  jne .Lleave_\name                    // disarmed meanwhile
  mov %rsi, %rdi
  mov %r12, %rsi
  call bpftime_cold_hit
  mov 32(%rbp), %rsi
  mov -\site_offset(%rsi), %rsi
  mov SITE_ADDRESS(%rsi), %rax
  mov %rax, R_IP(%r12)
  mov SITE_ON_ENTRY(%rsi), %rcx
  test %rcx, %rcx
  jnz .Lcall_\name
  jmp .Lleave_\name
  .if !\inside
.Loverride_\name:
  // Not the body, not the trampoline: straight to the caller, with R_AX as the result.
  mov %rbp, %rsp
  .cfi_def_cfa_register %rsp
  RESTORE_REGISTERS
  mov R_AX(%rcx), %rax
  movq $0, BLOCK_GUARD(%rcx)
  mov 24(%rsp), %rcx
  lea 40(%rsp), %rsp
  .cfi_adjust_cfa_offset -40
  ret
  .cfi_adjust_cfa_offset 40
  CFI_SAVED_AT 12, 12, R_R12
  CFI_SAVED_AT 6, 12, R_BP
.Ldf_back_\name:
  std
  jmp .Lflags_\name
  .endif
  .cfi_endproc
  .size \name, . - \name
.endm

ENTRY_THUNK bpftime_entry_thunk, 22, 0, 0
ENTRY_THUNK bpftime_inside_thunk, 27, 1, 0
ENTRY_THUNK bpftime_entry_thunk_hashed, 22, 0, 1
ENTRY_THUNK bpftime_inside_thunk_hashed, 27, 1, 1

// ---- return_thunk ------------------------------------------------------------------------------------------
// On entry: r11 = trampoline, (rsp) = the target's r11, 8(rsp) = the return address. S below is the address of the
// latter.
.macro RETURN_THUNK name, point, hashed
  .globl \name
  .hidden \name
  .type \name, @function
  .p2align 6
\name:
  .cfi_startproc
  .cfi_def_cfa %rsp, 16
  push %rcx
  .cfi_adjust_cfa_offset 8
  pushfq
  .cfi_adjust_cfa_offset 8
  push %rax
  .cfi_adjust_cfa_offset 8
  mov (%r11), %rax
  mov SITE_ON_ENTRY(%rax), %rcx
  or SITE_ON_RETURN(%rax), %rcx
  jz .Lrt_unarmed_\name
.Lrt_armed_\name:
  FIND_BLOCK .Lrt_slow_\name, \hashed
.Lrt_found_\name:
  cmpq $0, BLOCK_GUARD(%rcx)
  jne .Lrt_nested_\name
.Lrt_go_\name:
  cmpq $0, SITE_ON_ENTRY(%rax)
  jne .Lrt_both_\name
  cmpq $0, SITE_ON_RETURN(%rax)
  je .Lrt_both_\name                   // neither: cold
  mov BLOCK_FREE_ENTRIES(%rcx), %rax
  test %rax, %rax
  jz .Lrt_both_\name
  // Only a return probe: nothing is called now. rax = entry, rcx = block, r11 = trampoline; rbx is free once saved.
  movq $1, BLOCK_GUARD(%rcx)
  mov %rbx, ENTRY_SAVED_RBX(%rax)
  CFI_SAVED_AT 3, 0, ENTRY_SAVED_RBX
  mov ENTRY_NEXT(%rax), %rbx
  mov %rbx, BLOCK_FREE_ENTRIES(%rcx)
  mov BLOCK_SEQUENCE(%rcx), %rbx
  inc %rbx
  mov %rbx, BLOCK_SEQUENCE(%rcx)
  mov %rbx, ENTRY_SEQUENCE(%rax)
  mov 32(%rsp), %rbx
  mov %rbx, ENTRY_RETURN_ADDRESS(%rax)
  lea 32(%rsp), %rbx
  mov %rbx, ENTRY_SLOT(%rax)
  lea 32(%r11), %rbx
  mov %rbx, ENTRY_RESUME(%rax)
  mov %rax, %rbx
  CFI_ENTRY 3
  lea \point(%rip), %rax
  mov %rax, 32(%rsp)                   // S: what the call will put there; says that the entry lives
  movq $0, BLOCK_GUARD(%rcx)
  RESTORE_FLAGS 8(%rsp)
  mov (%rsp), %rax
  mov 16(%rsp), %rcx
  mov 24(%rsp), %r11
  lea 40(%rsp), %rsp
  .cfi_remember_state
  .cfi_def_cfa %rsp, 4
  CFI_SP_BELOW_CFA
  jmp .Lrt_body_\name
  .cfi_restore_state
  .cfi_same_value %rbx
  .cfi_offset 16, -8
.Lrt_both_\name:
  push %rcx
  .cfi_adjust_cfa_offset 8
  mov %rsp, BLOCK_GUARD(%rcx)
  SAVE_ARGUMENTS
  mov 8(%rsp), %rax
  mov %rax, R_AX(%rcx)
  mov 24(%rsp), %rdx
  mov %rdx, R_CX(%rcx)
  SAVE_OTHERS
  mov %rbx, R_BX(%rcx)
  mov 32(%rsp), %rdx
  mov %rdx, R_R11(%rcx)
  mov %rcx, %r12
  CFI_SAVED_AT 12, 12, R_R12
  mov %r11, %r13
  CFI_SAVED_AT 13, 12, R_R13
  mov 16(%rsp), %rax
  mov %rax, R_FLAGS(%r12)
  lea 40(%rsp), %rdx
  mov %rdx, R_SP(%r12)
  mov %rsp, %rbp
  .cfi_def_cfa_register %rbp
  CFI_SAVED_AT 6, 12, R_BP
  test $FLAG_DF, %eax
  jnz .Lrt_df_\name
.Lrt_stack_\name:
  mov (%r13), %rsi
  cmpq $0, SITE_ON_ENTRY(%rsi)
  je .Lrt_no_entry_probe_\name
  PICK_STACK .Lrt_query_\name
.Lrt_chosen_\name:
  mov (%r13), %rsi
  mov SITE_ON_ENTRY(%rsi), %rcx
  test %rcx, %rcx
  jz .Lrt_after_entry_\name
  mov SITE_ADDRESS(%rsi), %rax
  mov %rax, R_IP(%r12)
  lea BLOCK_REGS(%r12), %rdi
  mov %r12, %rdx
  call bpftime_on_entry
  test %rax, %rax
  jnz .Lrt_override_\name
  mov (%r13), %rsi
.Lrt_after_entry_\name:
  cmpq $0, SITE_ON_RETURN(%rsi)
  je .Lrt_run_unhooked_\name
  mov BLOCK_FREE_ENTRIES(%r12), %rax
  test %rax, %rax
  jz .Lrt_no_entry_\name
.Lrt_take_\name:
  mov ENTRY_NEXT(%rax), %rcx
  mov %rcx, BLOCK_FREE_ENTRIES(%r12)
  mov BLOCK_SEQUENCE(%r12), %rcx
  inc %rcx
  mov %rcx, BLOCK_SEQUENCE(%r12)
  mov %rcx, ENTRY_SEQUENCE(%rax)
  mov 40(%rbp), %rcx
  mov %rcx, ENTRY_RETURN_ADDRESS(%rax)
  mov %rbx, ENTRY_SAVED_RBX(%rax)
  lea 40(%rbp), %rcx
  mov %rcx, ENTRY_SLOT(%rax)
  lea 32(%r13), %rcx
  mov %rcx, ENTRY_RESUME(%rax)
  mov %rbp, %rsp
  .cfi_def_cfa_register %rsp
  mov %rax, %rbx
  CFI_ENTRY 3
  lea \point(%rip), %rcx
  mov %rcx, 40(%rsp)                   // S: what the call will put there; says that the entry lives
  testl $FLAG_DF, 16(%rsp)
  jnz .Lrt_df_back_\name
.Lrt_flags_\name:
  mov R_R13(%r12), %r13
  .cfi_same_value %r13
  RESTORE_REGISTERS
  RESTORE_FLAGS 16(%rsp)
  mov 8(%rsp), %rax
  movq $0, BLOCK_GUARD(%rcx)
  mov 24(%rsp), %rcx
  lea 48(%rsp), %rsp
  .cfi_def_cfa %rsp, 4
  CFI_SP_BELOW_CFA
.Lrt_body_\name:
  call *ENTRY_RESUME(%rbx)

// ---- return_point: the body has returned; rbx = entry, rsp = S + 8 -----------------------------------------
  .globl \point
  .hidden \point
\point:
  lea -8(%rsp), %rsp                   // S still holds our address: the entry lives
  .cfi_adjust_cfa_offset 8
  push %rcx
  .cfi_adjust_cfa_offset 8
  pushfq
  .cfi_adjust_cfa_offset 8
  push %r11
  .cfi_adjust_cfa_offset 8
  FIND_BLOCK .Lrp_slow_\name, \hashed
.Lrp_found_\name:
  cmpq $0, BLOCK_GUARD(%rcx)
  jne .Lrp_nested_\name
.Lrp_go_\name:
  push %rcx
  .cfi_adjust_cfa_offset 8
  mov %rsp, BLOCK_GUARD(%rcx)
  SAVE_ARGUMENTS
  mov %rax, R_AX(%rcx)
  mov 24(%rsp), %rdx
  mov %rdx, R_CX(%rcx)
  SAVE_OTHERS
  mov ENTRY_SAVED_RBX(%rbx), %r11
  mov %r11, R_BX(%rcx)
  mov 8(%rsp), %r11
  mov %r11, R_R11(%rcx)
  mov %rcx, %r12
  CFI_SAVED_AT 12, 12, R_R12
  mov %rax, %r14
  CFI_SAVED_AT 14, 12, R_R14
  mov ENTRY_RETURN_ADDRESS(%rbx), %rax
  mov %rax, R_IP(%r12)
  mov 16(%rsp), %rax
  mov %rax, R_FLAGS(%r12)
  lea 40(%rsp), %rdx
  mov %rdx, R_SP(%r12)
  mov %rsp, %rbp
  .cfi_def_cfa_register %rbp
  CFI_SAVED_AT 6, 12, R_BP
  test $FLAG_DF, %eax
  jnz .Lrp_df_\name
.Lrp_stack_\name:
  PICK_STACK .Lrp_query_\name
.Lrp_chosen_\name:
  mov ENTRY_RESUME(%rbx), %rsi
  mov -32(%rsi), %rsi                  // Site*: first word of the trampoline
  mov SITE_ON_RETURN(%rsi), %rcx
  test %rcx, %rcx
  jz .Lrp_leave_\name
  lea BLOCK_REGS(%r12), %rdi
  mov %r12, %rdx
  call bpftime_on_return
.Lrp_leave_\name:
  mov %rbp, %rsp
  .cfi_def_cfa_register %rsp
  mov ENTRY_RETURN_ADDRESS(%rbx), %rax
  mov ENTRY_SAVED_RBX(%rbx), %rcx
  movq $0, ENTRY_SLOT(%rbx)            // free: after this, an entry of another thread is not ours to touch
  cmp %r12, ENTRY_HOME(%rbx)
  jne .Lrp_freed_\name
  mov BLOCK_FREE_ENTRIES(%r12), %rdx
  cmp %rdx, ENTRY_NEXT(%rbx)           // as a rule it is: no store, so that the next take need not wait for it
  jne .Lrp_relink_\name
.Lrp_relinked_\name:
  mov %rbx, BLOCK_FREE_ENTRIES(%r12)
.Lrp_freed_\name:
  mov %rax, 32(%rsp)                   // S
  .cfi_def_cfa %rsp, 40
  .cfi_offset 16, -8
  .cfi_escape 0x16, 7, 0               // caller's rsp = CFA again
  mov %rcx, %rbx
  .cfi_same_value %rbx
  testl $FLAG_DF, 16(%rsp)
  jnz .Lrp_df_back_\name
.Lrp_flags_\name:
  RESTORE_REGISTERS
  RESTORE_FLAGS 16(%rsp)
  mov %r14, %rax
  mov R_R14(%rcx), %r14
  .cfi_same_value %r14
  movq $0, BLOCK_GUARD(%rcx)
  mov 24(%rsp), %rcx
  lea 32(%rsp), %rsp
  .cfi_adjust_cfa_offset -32
  ret

  // ---- rare ----
  .cfi_def_cfa %rsp, 40
  CFI_SAVED_AT 6, 12, R_BP
  CFI_SAVED_AT 12, 12, R_R12
  CFI_SAVED_AT 14, 12, R_R14
.Lrp_df_back_\name:
  std
  jmp .Lrp_flags_\name
  .cfi_same_value %rbp
  .cfi_same_value %r12
  .cfi_same_value %r14
  .cfi_def_cfa %rsp, 24 + 12           // pushed: rcx, flags, r11; rbx = entry
  CFI_ENTRY 3
  CFI_SP_BELOW_CFA
.Lrp_slow_\name:
  call bpftime_find_block_slow
  test %rcx, %rcx
  jnz .Lrp_found_\name
  jmp .Lrp_pass_\name
.Lrp_nested_\name:
  call bpftime_check_guard
  jz .Lrp_go_\name
  incq BLOCK_MISSED(%rcx)
.Lrp_pass_\name:
  mov ENTRY_SAVED_RBX(%rbx), %rcx
  mov ENTRY_RETURN_ADDRESS(%rbx), %r11
  movq $0, ENTRY_SLOT(%rbx)            // the next scan finds it
  mov %r11, 24(%rsp)                   // S
  .cfi_def_cfa %rsp, 32
  .cfi_offset 16, -8
  .cfi_escape 0x16, 7, 0
  mov %rcx, %rbx
  .cfi_same_value %rbx
  mov %rax, %r11
  RESTORE_FLAGS 8(%rsp)
  mov %r11, %rax
  pop %r11
  .cfi_adjust_cfa_offset -8
  lea 8(%rsp), %rsp
  .cfi_adjust_cfa_offset -8
  pop %rcx
  .cfi_adjust_cfa_offset -8
  ret
  .cfi_def_cfa %rbp, 32 + 12           // r12 = block, rbp = S - 32, rbx = entry
  CFI_ENTRY 3
  CFI_SP_BELOW_CFA
  CFI_SAVED_AT 6, 12, R_BP
  CFI_SAVED_AT 12, 12, R_R12
  CFI_SAVED_AT 14, 12, R_R14
.Lrp_df_\name:
  cld
  jmp .Lrp_stack_\name
.Lrp_relink_\name:
  mov %rdx, ENTRY_NEXT(%rbx)
  jmp .Lrp_relinked_\name
.Lrp_query_\name:
  QUERY_STACK .Lrp_chosen_\name, .Lrp_noroom_\name
.Lrp_noroom_\name:
  incq BLOCK_MISSED(%r12)
  jmp .Lrp_leave_\name
  .cfi_endproc
  .size \name, . - \name

// ---- rare ways through return_thunk ------------------------------------------------------------------------
  .type \name\()_rare, @function
\name\()_rare:
  .cfi_startproc
  .cfi_def_cfa %rsp, 16 + 24           // pushed: r11, rcx, flags, rax
.Lrt_slow_\name:
  call bpftime_find_block_slow
  test %rcx, %rcx
  jnz .Lrt_found_\name
  jmp .Lrt_pass_\name
.Lrt_unarmed_\name:
  mov bpftime_agent_state(%rip), %rcx
  mov STATE_TABLE(%rcx), %rcx
  cmpq $0, (%rcx)
  je .Lrt_armed_\name
  jmp .Lrt_pass_\name
.Lrt_nested_\name:
  call bpftime_check_guard
  jz .Lrt_go_\name
  incq BLOCK_MISSED(%rcx)
.Lrt_pass_\name:
  RESTORE_FLAGS 8(%rsp)
  lea 32(%r11), %rcx
  mov %rcx, 8(%rsp)                    // S - 24
  mov (%rsp), %rax
  mov 16(%rsp), %rcx
  mov 24(%rsp), %r11
  lea 32(%rsp), %rsp
  .cfi_adjust_cfa_offset -32
  jmp *-24(%rsp)

  .cfi_def_cfa %rbp, 48                // r12 = block, rbp = S - 40, r13 = trampoline
  CFI_SAVED_AT 6, 12, R_BP
  CFI_SAVED_AT 12, 12, R_R12
  CFI_SAVED_AT 13, 12, R_R13
.Lrt_df_\name:
  cld
  jmp .Lrt_stack_\name
.Lrt_query_\name:
  QUERY_STACK .Lrt_chosen_\name, .Lrt_noroom_\name
.Lrt_noroom_\name:
  incq BLOCK_MISSED(%r12)
  jmp .Lrt_run_unhooked_\name
.Lrt_no_entry_probe_\name:
  mov bpftime_agent_state(%rip), %rcx
  mov STATE_TABLE(%rcx), %rcx
  cmpq $0, (%rcx)
  jne .Lrt_after_entry_\name
  PICK_STACK .Lrt_cold_query_\name
.Lrt_cold_\name:
  mov (%r13), %rdi
  mov %r12, %rsi
  call bpftime_cold_hit
  mov %rbp, %rsp
  mov (%r13), %rsi
  cmpq $0, SITE_ON_ENTRY(%rsi)
  je .Lrt_after_entry_\name
  PICK_STACK .Lrt_query_\name
  jmp .Lrt_chosen_\name
.Lrt_cold_query_\name:
  QUERY_STACK .Lrt_cold_\name, .Lrt_noroom_\name
.Lrt_no_entry_\name:
  mov %rbp, %rsp
  PICK_STACK .Lrt_slow_query_\name
.Lrt_slow_take_\name:
  mov %r12, %rdi
  lea 40(%rbp), %rsi
  call bpftime_take_entry_slow
  mov (%r13), %rsi
  test %rax, %rax
  jnz .Lrt_take_\name
  jmp .Lrt_noroom_\name
.Lrt_slow_query_\name:
  QUERY_STACK .Lrt_slow_take_\name, .Lrt_noroom_\name
.Lrt_run_unhooked_\name:
  mov %rbp, %rsp
  testl $FLAG_DF, 16(%rsp)
  jz .Lrt_no_std_\name
  std
.Lrt_no_std_\name:
  .cfi_def_cfa_register %rsp
  RESTORE_FLAGS 16(%rsp)
  lea 32(%r13), %rax
  mov %rax, 16(%rsp)                   // S - 24
  mov R_R13(%r12), %r13
  .cfi_same_value %r13
  RESTORE_REGISTERS
  mov 8(%rsp), %rax
  movq $0, BLOCK_GUARD(%rcx)
  mov 24(%rsp), %rcx
  lea 40(%rsp), %rsp
  .cfi_adjust_cfa_offset -40
  jmp *-24(%rsp)

  .cfi_def_cfa %rbp, 48
  CFI_SAVED_AT 6, 12, R_BP
  CFI_SAVED_AT 12, 12, R_R12
  CFI_SAVED_AT 13, 12, R_R13
.Lrt_override_\name:
  mov %rbp, %rsp
  .cfi_def_cfa_register %rsp
  mov R_R13(%r12), %r13
  .cfi_same_value %r13
  RESTORE_REGISTERS
  mov R_AX(%rcx), %rax
  movq $0, BLOCK_GUARD(%rcx)
  mov 24(%rsp), %rcx
  lea 40(%rsp), %rsp
  .cfi_adjust_cfa_offset -40
  ret

  .cfi_def_cfa %rsp, 48                // rbx = entry, rsp = S - 40
  CFI_ENTRY 3
  CFI_SAVED_AT 6, 12, R_BP
  CFI_SAVED_AT 12, 12, R_R12
  CFI_SAVED_AT 13, 12, R_R13
.Lrt_df_back_\name:
  std
  jmp .Lrt_flags_\name
  .cfi_endproc
  .size \name\()_rare, . - \name\()_rare
.endm

RETURN_THUNK bpftime_return_thunk, bpftime_return_point, 0
RETURN_THUNK bpftime_return_thunk_hashed, bpftime_return_point_hashed, 1

// ---- out of line -------------------------------------------------------------------------------------------
// Called by thunks with all registers of the target live but rcx and flags, and aligned as it happens.
.macro CALL_C function
  push %rbp
  .cfi_adjust_cfa_offset 8
  .cfi_rel_offset %rbp, 0
  mov %rsp, %rbp
  .cfi_def_cfa_register %rbp
  push %rdi
  push %rsi
  push %rdx
  push %r8
  push %r9
  push %r10
  push %r11
  push %rax
  push %rcx
  mov %rcx, %rdi
  lea 16(%rbp), %rsi                   // the thunk's rsp
  and $-16, %rsp
  cld
  call \function
.endm
.macro BACK_FROM_C
  lea -72(%rbp), %rsp
  pop %rcx
  pop %rax
  pop %r11
  pop %r10
  pop %r9
  pop %r8
  pop %rdx
  pop %rsi
  pop %rdi
  pop %rbp
  .cfi_def_cfa %rsp, 8
  .cfi_same_value %rbp
.endm

// rcx = the thread's block, found or made; 0: none
  .type bpftime_find_block_slow, @function
bpftime_find_block_slow:
  .cfi_startproc
  CALL_C bpftime_thread_block_slow
  mov %rax, -72(%rbp)
  BACK_FROM_C
  ret
  .cfi_endproc
  .size bpftime_find_block_slow, . - bpftime_find_block_slow

// rcx = block whose guard is not 0. ZF: the hit that holds it is gone for ever.
  .type bpftime_check_guard, @function
bpftime_check_guard:
  .cfi_startproc
  CALL_C bpftime_guard_is_stale
  cmp $1, %al
  BACK_FROM_C
  ret
  .cfi_endproc
  .size bpftime_check_guard, . - bpftime_check_guard

  .section .note.GNU-stack, "", @progbits
