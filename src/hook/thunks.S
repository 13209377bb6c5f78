// The thunks (hook/thunks.hpp says what they promise). Home: injected *.
//
// Course of a hit: flags, rcx and rax are pushed; rcx = the thread's block (FIND_BLOCK); its depth is the guard
// against nesting: 1 while the hit begins and ends, 2 while its callback runs. All registers go into
// block->regs, the pushes are popped again, and one word stays below the target's rsp: the hit's sequence number
// (should a signal handler longjmp out of the callback, that word is overwritten sooner or later, by which
// the next hit knows that the guard is stale). Then rbx = block, rbp = the target's rsp, r12 = trampoline or
// return entry (return probes), rsp = hit stack.
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
// rcx = block of this thread; else control goes to \slow. Clobbers rax, flags.
.macro FIND_BLOCK slow
  mov bpftime_agent_state(%rip), %rax
  movabs $0x100000001, %rcx               // use_gs and fs_self_pointer
  cmp %rcx, STATE_USE_GS(%rax)
  jne \slow
  mov %fs:0, %rax
  cmp %gs:0, %rax
  jne \slow
  mov %gs:BLOCK_CHECK_OFFSET, %eax
  mov %fs:(%rax), %eax
  cmp %gs:BLOCK_CHECK_VALUE, %eax
  jne \slow
  mov %gs:BLOCK_SELF, %rcx
.endm

// Everything but rax, rcx, rbx and flags into the block in rcx.
.macro SAVE_REGISTERS
  mov %rdx, R_DX(%rcx)
  mov %rsi, R_SI(%rcx)
  mov %rdi, R_DI(%rcx)
  mov %r8, R_R8(%rcx)
  mov %r9, R_R9(%rcx)
  mov %r10, R_R10(%rcx)
  mov %r12, R_R12(%rcx)
  mov %r13, R_R13(%rcx)
  mov %r14, R_R14(%rcx)
  mov %r15, R_R15(%rcx)
  mov %rbp, R_BP(%rcx)
.endm

// All call-clobbered registers from the block in rbx, but r11.
.macro RESTORE_REGISTERS
  mov R_DX(%rbx), %rdx
  mov R_SI(%rbx), %rsi
  mov R_DI(%rbx), %rdi
  mov R_R8(%rbx), %r8
  mov R_R9(%rbx), %r9
  mov R_R10(%rbx), %r10
  mov R_R11(%rbx), %r11
  mov R_CX(%rbx), %rcx
  mov R_AX(%rbx), %rax
.endm

// OF, SF, ZF, AF, PF, CF from the flags word at \memory; clobbers rax. popfq would cost 8 ns (facts: limits §6).
// AL = 8 + 0x78 overflows when OF was set, 0 + 0x78 does not; sahf leaves OF alone.
.macro RESTORE_FLAGS high, low
  movb \high, %al
  andb $8, %al
  addb $0x78, %al
  movb \low, %ah
  sahf
.endm

// rbx = block, rbp = rsp = the target's. rsp becomes the stack for the callback. Clobbers rax, rcx.
.macro PICK_STACK query
  mov %rbp, %rax
  shr $16, %rax
  mov %eax, %ecx
  and $15, %ecx
  cmp %rax, BLOCK_PLAIN_STACKS(%rbx, %rcx, 8)
  jne \query
  mov BLOCK_HIT_STACK_TOP(%rbx), %rsp
.endm
// Not known to be an ordinary stack: ask. SS_ONSTACK (1) answers for the rsp of the call, which is the target's.
// Clobbers rdi, rsi, r8, r9, r11 too.
.macro QUERY_STACK chosen, none
  xor %edi, %edi
  lea BLOCK_ALT_STACK(%rbx), %rsi
  movl $0, 8(%rsi)
  mov %rax, %r8
  mov %ecx, %r9d
  mov $NR_SIGALTSTACK, %eax
  syscall
  testl $1, 8(%rsi)
  jnz 1f
  mov %r8, BLOCK_PLAIN_STACKS(%rbx, %r9, 8)
  mov BLOCK_HIT_STACK_TOP(%rbx), %rsp
  jmp \chosen
1:
  mov %rbp, %rax
  sub (%rsi), %rax
  cmp $ALT_STACK_ROOM, %rax
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
.macro ENTRY_THUNK name, site_offset, inside
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
  .cfi_escape 0x16, 16, 10, 0x08, 136, 0x1c, 0x06, 0x08, \site_offset, 0x1c, 0x06, 0x23, SITE_ADDRESS
  .else
  .cfi_def_cfa %rsp, 16
  .endif
  pushfq
  .cfi_adjust_cfa_offset 8
  push %rcx
  .cfi_adjust_cfa_offset 8
  push %rax
  .cfi_adjust_cfa_offset 8
  mov 24(%rsp), %rax
  mov -\site_offset(%rax), %rax
  cmpq $0, SITE_ON_ENTRY(%rax)
  je .Lunarmed_\name
.Larmed_\name:
  FIND_BLOCK .Lslow_\name
.Lfound_\name:
  cmpl $0, BLOCK_DEPTH(%rcx)
  jne .Lnested_\name
.Lgo_\name:
  .cfi_remember_state
  movl $1, BLOCK_DEPTH(%rcx)
  SAVE_REGISTERS
  mov %r11, R_R11(%rcx)
  mov %rbx, R_BX(%rcx)
  mov %rcx, %rbx
  CFI_SAVED_AT 3, 3, R_BX
  pop R_AX(%rbx)
  .cfi_adjust_cfa_offset -8
  pop R_CX(%rbx)
  .cfi_adjust_cfa_offset -8
  pop R_FLAGS(%rbx)
  .cfi_adjust_cfa_offset -8
  .if \inside
  lea 8 + 128(%rsp), %rax
  .else
  lea 8(%rsp), %rax
  .endif
  mov %rax, R_SP(%rbx)
  mov BLOCK_SEQUENCE(%rbx), %rax
  inc %rax
  mov %rax, BLOCK_SEQUENCE(%rbx)
  push %rax
  .cfi_adjust_cfa_offset 8
  mov %rsp, BLOCK_HIT_SP(%rbx)
  mov %rsp, %rbp
  .cfi_def_cfa_register %rbp
  CFI_SAVED_AT 6, 3, R_BP
  movl $2, BLOCK_DEPTH(%rbx)
  testl $FLAG_DF, R_FLAGS(%rbx)
  jnz .Ldf_\name
.Lstack_\name:
  PICK_STACK .Lquery_\name
.Lchosen_\name:
  mov 8(%rbp), %rsi
  mov -\site_offset(%rsi), %rsi
  mov SITE_ADDRESS(%rsi), %rax
  mov %rax, R_IP(%rbx)
  cmpq $0, SITE_ON_ENTRY(%rsi)
  je .Lcold_\name
  lea BLOCK_REGS(%rbx), %rdi
  mov %rbx, %rdx
  call bpftime_on_entry
  .if !\inside
  test %rax, %rax
  jnz .Loverride_\name
  .endif
.Lleave_\name:
  mov %rbp, %rsp
  .cfi_def_cfa_register %rsp
  movl $1, BLOCK_DEPTH(%rbx)
  mov R_BX(%rbx), %rax
  mov %rax, (%rsp)
  .if \inside
  push R_FLAGS(%rbx)
  .cfi_adjust_cfa_offset 8
  popfq
  .cfi_adjust_cfa_offset -8
  .else
  testl $FLAG_DF, R_FLAGS(%rbx)
  jnz .Ldf_back_\name
.Lflags_\name:
  RESTORE_FLAGS R_FLAGS+1(%rbx), R_FLAGS(%rbx)
  .endif
  RESTORE_REGISTERS
  mov R_BP(%rbx), %rbp
  .cfi_same_value %rbp
  movl $0, BLOCK_DEPTH(%rbx)
  CFI_SAVED_AT 3, 7, 0
  pop %rbx
  .cfi_adjust_cfa_offset -8
  .cfi_same_value %rbx
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
  pop %rcx
  .cfi_adjust_cfa_offset -8
  popfq
  .cfi_adjust_cfa_offset -8
  ret
  .cfi_adjust_cfa_offset 24
  .else
  RESTORE_FLAGS 17(%rsp), 16(%rsp)
  pop %rax
  .cfi_adjust_cfa_offset -8
  pop %rcx
  .cfi_adjust_cfa_offset -8
  lea 8(%rsp), %rsp
  .cfi_adjust_cfa_offset -8
  ret
  .cfi_adjust_cfa_offset 24
  .endif
  // the rest runs with rbx = block, rbp = the target's rsp
  CFI_SAVED_AT 3, 3, R_BX
  CFI_SAVED_AT 6, 3, R_BP
  .cfi_adjust_cfa_offset -16
  .cfi_def_cfa_register %rbp
.Ldf_\name:
  cld
  jmp .Lstack_\name
.Lquery_\name:
  QUERY_STACK .Lchosen_\name, .Lnoroom_\name
.Lnoroom_\name:
  incq BLOCK_MISSED(%rbx)
  jmp .Lleave_\name
.Lcold_\name:
  mov bpftime_agent_state(%rip), %rcx
  mov STATE_TABLE(%rcx), %rcx
  cmpq $0, (%rcx)
  jne .Lleave_\name                    // disarmed meanwhile
  mov %rsi, %rdi
  mov %rbx, %rsi
  call bpftime_cold_hit
  mov 8(%rbp), %rsi
  mov -\site_offset(%rsi), %rsi
  cmpq $0, SITE_ON_ENTRY(%rsi)
  je .Lleave_\name
  mov SITE_ADDRESS(%rsi), %rax
  mov %rax, R_IP(%rbx)
  lea BLOCK_REGS(%rbx), %rdi
  mov %rbx, %rdx
  call bpftime_on_entry
  .if \inside
  jmp .Lleave_\name
  .else
  test %rax, %rax
  jz .Lleave_\name
.Loverride_\name:
  // Not the body, not the trampoline: straight to the caller, with R_AX as the result. rbx's word takes the place of
  // the return address into the trampoline.
  add $8, %rbp
  .cfi_adjust_cfa_offset -8
  jmp .Lleave_override_\name
.Lleave_override_\name:
  mov %rbp, %rsp
  movl $1, BLOCK_DEPTH(%rbx)
  mov R_BX(%rbx), %rax
  mov %rax, (%rsp)
  RESTORE_REGISTERS
  .cfi_def_cfa_register %rsp
  mov R_BP(%rbx), %rbp
  .cfi_same_value %rbp
  movl $0, BLOCK_DEPTH(%rbx)
  CFI_SAVED_AT 3, 7, 0
  pop %rbx
  .cfi_adjust_cfa_offset -8
  .cfi_same_value %rbx
  ret
  CFI_SAVED_AT 3, 3, R_BX
  CFI_SAVED_AT 6, 3, R_BP
  .cfi_def_cfa %rsp, 24
.Ldf_back_\name:
  std
  jmp .Lflags_\name
  .endif
  .cfi_endproc
  .size \name, . - \name
.endm

ENTRY_THUNK bpftime_entry_thunk, 22, 0
ENTRY_THUNK bpftime_inside_thunk, 27, 1

// ---- return_thunk ------------------------------------------------------------------------------------------
// On entry: r11 = trampoline, (rsp) = the target's r11, 8(rsp) = the return address. S below is the address of the
// latter.
  .globl bpftime_return_thunk
  .hidden bpftime_return_thunk
  .type bpftime_return_thunk, @function
  .p2align 6
bpftime_return_thunk:
  .cfi_startproc
  .cfi_def_cfa %rsp, 16
  pushfq
  .cfi_adjust_cfa_offset 8
  push %rcx
  .cfi_adjust_cfa_offset 8
  push %rax
  .cfi_adjust_cfa_offset 8
  mov (%r11), %rax
  mov SITE_ON_ENTRY(%rax), %rcx
  or SITE_ON_RETURN(%rax), %rcx
  jz .Lrt_unarmed
.Lrt_armed:
  FIND_BLOCK .Lrt_slow
.Lrt_found:
  cmpl $0, BLOCK_DEPTH(%rcx)
  jne .Lrt_nested
.Lrt_go:
  .cfi_remember_state
  movl $1, BLOCK_DEPTH(%rcx)
  SAVE_REGISTERS
  mov %rbx, R_BX(%rcx)
  mov %rcx, %rbx
  CFI_SAVED_AT 3, 3, R_BX
  pop R_AX(%rbx)
  .cfi_adjust_cfa_offset -8
  pop R_CX(%rbx)
  .cfi_adjust_cfa_offset -8
  pop R_FLAGS(%rbx)
  .cfi_adjust_cfa_offset -8
  pop R_R11(%rbx)
  .cfi_adjust_cfa_offset -8
  mov %r11, %r12
  CFI_SAVED_AT 12, 3, R_R12
  mov %rsp, R_SP(%rbx)
  mov BLOCK_SEQUENCE(%rbx), %rax
  inc %rax
  mov %rax, BLOCK_SEQUENCE(%rbx)
  push %rax
  .cfi_adjust_cfa_offset 8
  mov %rsp, BLOCK_HIT_SP(%rbx)
  mov %rsp, %rbp
  .cfi_def_cfa_register %rbp
  CFI_SAVED_AT 6, 3, R_BP
  movl $2, BLOCK_DEPTH(%rbx)
  testl $FLAG_DF, R_FLAGS(%rbx)
  jnz .Lrt_df
.Lrt_stack:
  PICK_STACK .Lrt_query
.Lrt_chosen:
  mov (%r12), %rsi
  cmpq $0, SITE_ON_ENTRY(%rsi)
  je .Lrt_no_entry_probe
.Lrt_call:
  mov SITE_ADDRESS(%rsi), %rax
  mov %rax, R_IP(%rbx)
  lea BLOCK_REGS(%rbx), %rdi
  mov %rbx, %rdx
  call bpftime_on_entry
  test %rax, %rax
  jnz .Lrt_override
.Lrt_after_entry:
  mov (%r12), %rsi
  cmpq $0, SITE_ON_RETURN(%rsi)
  je .Lrt_run_unhooked
  mov BLOCK_FREE_ENTRIES(%rbx), %rax
  test %rax, %rax
  jz .Lrt_no_entry
.Lrt_take:
  mov ENTRY_NEXT(%rax), %rcx
  mov %rcx, BLOCK_FREE_ENTRIES(%rbx)
  mov 8(%rbp), %rcx
  mov %rcx, ENTRY_RETURN_ADDRESS(%rax)
  mov R_BX(%rbx), %rcx
  mov %rcx, ENTRY_SAVED_RBX(%rax)
  mov %rsi, ENTRY_SITE(%rax)
  mov BLOCK_SEQUENCE(%rbx), %rcx
  mov %rcx, ENTRY_SEQUENCE(%rax)
  lea 32(%r12), %rcx
  mov %rcx, ENTRY_RESUME(%rax)
  mov %rbp, %rsp
  .cfi_def_cfa_register %rsp
  movl $1, BLOCK_DEPTH(%rbx)
  lea 8(%rsp), %rsp
  .cfi_adjust_cfa_offset -8
  mov %rsp, ENTRY_SLOT(%rax)
  mov %rax, (%rsp)
  // return address: at the address that *(CFA - 8) holds. lit8, minus, deref
  .cfi_escape 0x10, 16, 3, 0x38, 0x1c, 0x06
  testl $FLAG_DF, R_FLAGS(%rbx)
  jnz .Lrt_df_back
.Lrt_flags:
  RESTORE_FLAGS R_FLAGS+1(%rbx), R_FLAGS(%rbx)
  RESTORE_REGISTERS
  mov R_R12(%rbx), %r12
  .cfi_same_value %r12
  mov R_BP(%rbx), %rbp
  .cfi_same_value %rbp
  movl $0, BLOCK_DEPTH(%rbx)
  // caller's rbx: at *(CFA - 8) + 8. lit8, minus, deref, plus_uconst 8
  .cfi_escape 0x10, 3, 5, 0x38, 0x1c, 0x06, 0x23, ENTRY_SAVED_RBX
  pop %rbx
  .cfi_def_cfa %rsp, 4
  CFI_ENTRY 3
  CFI_SP_BELOW_CFA
  call *ENTRY_RESUME(%rbx)

// ---- return_point: the body has returned; rbx = entry, rsp = S + 8 -----------------------------------------
  .globl bpftime_return_point
  .hidden bpftime_return_point
bpftime_return_point:
  lea -8(%rsp), %rsp                   // S still holds our address, which says that the entry lives
  .cfi_adjust_cfa_offset 8
  // caller's rsp: CFA - 4 whatever is pushed now
  pushfq
  .cfi_adjust_cfa_offset 8
  push %rcx
  .cfi_adjust_cfa_offset 8
  push %rax
  .cfi_adjust_cfa_offset 8
  // Now the caller's rsp is S + 8 = CFA - 4.
  FIND_BLOCK .Lrp_slow
.Lrp_found:
  cmpl $0, BLOCK_DEPTH(%rcx)
  jne .Lrp_nested
.Lrp_go:
  movl $1, BLOCK_DEPTH(%rcx)
  SAVE_REGISTERS
  mov %r11, R_R11(%rcx)
  mov ENTRY_SAVED_RBX(%rbx), %rax
  mov %rax, R_BX(%rcx)
  .cfi_remember_state
  mov %rbx, %r12
  CFI_SAVED_AT 12, 2, R_R12
  mov %rcx, %rbx
  CFI_ENTRY 12
  CFI_SAVED_AT 12, 3, R_R12
  pop R_AX(%rbx)
  .cfi_adjust_cfa_offset -8
  pop R_CX(%rbx)
  .cfi_adjust_cfa_offset -8
  pop R_FLAGS(%rbx)
  .cfi_adjust_cfa_offset -8
  mov ENTRY_RETURN_ADDRESS(%r12), %rax
  mov %rax, R_IP(%rbx)
  lea 8(%rsp), %rax
  mov %rax, R_SP(%rbx)
  mov BLOCK_SEQUENCE(%rbx), %rax
  inc %rax
  mov %rax, BLOCK_SEQUENCE(%rbx)
  push %rax
  .cfi_adjust_cfa_offset 8
  mov %rsp, BLOCK_HIT_SP(%rbx)
  mov %rsp, %rbp
  .cfi_def_cfa_register %rbp
  CFI_SAVED_AT 6, 3, R_BP
  movl $2, BLOCK_DEPTH(%rbx)
  testl $FLAG_DF, R_FLAGS(%rbx)
  jnz .Lrp_df
.Lrp_stack:
  PICK_STACK .Lrp_query
.Lrp_chosen:
  mov ENTRY_SITE(%r12), %rsi
  cmpq $0, SITE_ON_RETURN(%rsi)
  je .Lrp_leave
  lea BLOCK_REGS(%rbx), %rdi
  mov %rbx, %rdx
  call bpftime_on_return
.Lrp_leave:
  mov %rbp, %rsp
  .cfi_def_cfa_register %rsp
  movl $1, BLOCK_DEPTH(%rbx)
  mov ENTRY_RETURN_ADDRESS(%r12), %rax
  movq $0, ENTRY_SLOT(%r12)            // free: after this, an entry of another thread is not ours to touch
  cmp %rbx, ENTRY_HOME(%r12)
  jne .Lrp_freed
  mov BLOCK_FREE_ENTRIES(%rbx), %rcx
  mov %rcx, ENTRY_NEXT(%r12)
  mov %r12, BLOCK_FREE_ENTRIES(%rbx)
.Lrp_freed:
  mov %rax, 8(%rsp)                    // S
  .cfi_def_cfa %rsp, 16
  .cfi_offset 16, -8
  .cfi_escape 0x16, 7, 0               // caller's rsp = CFA again
  CFI_SAVED_AT 3, 3, R_BX
  mov R_BX(%rbx), %rax
  mov %rax, (%rsp)
  testl $FLAG_DF, R_FLAGS(%rbx)
  jnz .Lrp_df_back
.Lrp_flags:
  RESTORE_FLAGS R_FLAGS+1(%rbx), R_FLAGS(%rbx)
  RESTORE_REGISTERS
  mov R_R12(%rbx), %r12
  .cfi_same_value %r12
  mov R_BP(%rbx), %rbp
  .cfi_same_value %rbp
  movl $0, BLOCK_DEPTH(%rbx)
  CFI_SAVED_AT 3, 7, 0
  pop %rbx
  .cfi_adjust_cfa_offset -8
  .cfi_same_value %rbx
  ret
  // ---- rare ----
  .cfi_def_cfa %rsp, 16
  CFI_SAVED_AT 3, 3, R_BX
  CFI_SAVED_AT 6, 3, R_BP
  CFI_SAVED_AT 12, 3, R_R12
.Lrp_df_back:
  std
  jmp .Lrp_flags
  .cfi_restore_state
.Lrp_slow:
  call bpftime_find_block_slow
  test %rcx, %rcx
  jnz .Lrp_found
  jmp .Lrp_pass
.Lrp_nested:
  call bpftime_check_guard
  jz .Lrp_go
  incq BLOCK_MISSED(%rcx)
.Lrp_pass:
  mov ENTRY_SAVED_RBX(%rbx), %rcx
  mov ENTRY_RETURN_ADDRESS(%rbx), %rax
  movq $0, ENTRY_SLOT(%rbx)            // the next scan finds it
  mov %rax, 24(%rsp)                   // S
  .cfi_def_cfa %rsp, 32
  .cfi_offset 16, -8
  .cfi_escape 0x16, 7, 0
  CFI_SAVED_AT 3, 3, ENTRY_SAVED_RBX
  mov %rcx, %rbx
  .cfi_same_value %rbx
  RESTORE_FLAGS 17(%rsp), 16(%rsp)
  pop %rax
  .cfi_adjust_cfa_offset -8
  pop %rcx
  .cfi_adjust_cfa_offset -8
  lea 8(%rsp), %rsp
  .cfi_adjust_cfa_offset -8
  ret
  .cfi_def_cfa %rbp, 8 + 12
  CFI_ENTRY 12
  CFI_SP_BELOW_CFA
  CFI_SAVED_AT 12, 3, R_R12
  CFI_SAVED_AT 6, 3, R_BP
.Lrp_df:
  cld
  jmp .Lrp_stack
.Lrp_query:
  QUERY_STACK .Lrp_chosen, .Lrp_noroom
.Lrp_noroom:
  incq BLOCK_MISSED(%rbx)
  jmp .Lrp_leave
  .cfi_endproc
  .size bpftime_return_thunk, . - bpftime_return_thunk

// ---- rare ways through return_thunk ------------------------------------------------------------------------
  .type bpftime_return_thunk_rare, @function
bpftime_return_thunk_rare:
  .cfi_startproc
  .cfi_def_cfa %rsp, 16 + 24           // pushed: r11, flags, rcx, rax
.Lrt_slow:
  call bpftime_find_block_slow
  test %rcx, %rcx
  jnz .Lrt_found
  jmp .Lrt_pass
.Lrt_unarmed:
  mov bpftime_agent_state(%rip), %rcx
  mov STATE_TABLE(%rcx), %rcx
  cmpq $0, (%rcx)
  je .Lrt_armed
  jmp .Lrt_pass
.Lrt_nested:
  call bpftime_check_guard
  jz .Lrt_go
  incq BLOCK_MISSED(%rcx)
.Lrt_pass:
  RESTORE_FLAGS 17(%rsp), 16(%rsp)
  lea 32(%r11), %rcx
  mov %rcx, 16(%rsp)                   // S - 16
  pop %rax
  .cfi_adjust_cfa_offset -8
  pop %rcx
  .cfi_adjust_cfa_offset -8
  mov 8(%rsp), %r11
  lea 16(%rsp), %rsp
  .cfi_adjust_cfa_offset -16
  jmp *-16(%rsp)

  .cfi_def_cfa %rbp, 16                // rbx = block, rbp = S - 8
  CFI_SAVED_AT 3, 3, R_BX
  CFI_SAVED_AT 6, 3, R_BP
  CFI_SAVED_AT 12, 3, R_R12
.Lrt_df:
  cld
  jmp .Lrt_stack
.Lrt_query:
  QUERY_STACK .Lrt_chosen, .Lrt_noroom
.Lrt_noroom:
  incq BLOCK_MISSED(%rbx)
  jmp .Lrt_run_unhooked
.Lrt_no_entry_probe:
  mov bpftime_agent_state(%rip), %rcx
  mov STATE_TABLE(%rcx), %rcx
  cmpq $0, (%rcx)
  jne .Lrt_after_entry
  mov %rsi, %rdi
  mov %rbx, %rsi
  call bpftime_cold_hit
  mov (%r12), %rsi
  cmpq $0, SITE_ON_ENTRY(%rsi)
  jne .Lrt_call
  jmp .Lrt_after_entry
.Lrt_no_entry:
  mov %rbx, %rdi
  lea 8(%rbp), %rsi
  call bpftime_take_entry_slow
  mov (%r12), %rsi
  test %rax, %rax
  jnz .Lrt_take
  incq BLOCK_MISSED(%rbx)
.Lrt_run_unhooked:
  mov %rbp, %rsp
  movl $1, BLOCK_DEPTH(%rbx)
  lea 32(%r12), %rax
  mov %rax, -8(%rsp)                   // S - 16, in the red zone
  mov R_BX(%rbx), %rax
  mov %rax, (%rsp)
  testl $FLAG_DF, R_FLAGS(%rbx)
  jz 1f
  std
1:
  RESTORE_FLAGS R_FLAGS+1(%rbx), R_FLAGS(%rbx)
  RESTORE_REGISTERS
  mov R_R12(%rbx), %r12
  .cfi_same_value %r12
  .cfi_def_cfa_register %rsp
  mov R_BP(%rbx), %rbp
  .cfi_same_value %rbp
  movl $0, BLOCK_DEPTH(%rbx)
  CFI_SAVED_AT 3, 7, 0
  pop %rbx
  .cfi_adjust_cfa_offset -8
  .cfi_same_value %rbx
  jmp *-16(%rsp)

  .cfi_def_cfa %rbp, 16
  CFI_SAVED_AT 3, 3, R_BX
  CFI_SAVED_AT 6, 3, R_BP
  CFI_SAVED_AT 12, 3, R_R12
.Lrt_override:
  mov %rbp, %rsp
  movl $1, BLOCK_DEPTH(%rbx)
  mov R_BX(%rbx), %rax
  mov %rax, (%rsp)
  RESTORE_REGISTERS
  mov R_R12(%rbx), %r12
  .cfi_same_value %r12
  .cfi_def_cfa_register %rsp
  mov R_BP(%rbx), %rbp
  .cfi_same_value %rbp
  movl $0, BLOCK_DEPTH(%rbx)
  CFI_SAVED_AT 3, 7, 0
  pop %rbx
  .cfi_adjust_cfa_offset -8
  .cfi_same_value %rbx
  ret

  .cfi_def_cfa %rsp, 8                 // rsp = S, which names the entry; rbx = block
  .cfi_escape 0x10, 16, 3, 0x38, 0x1c, 0x06
  CFI_SAVED_AT 3, 3, R_BX
  CFI_SAVED_AT 6, 3, R_BP
  CFI_SAVED_AT 12, 3, R_R12
.Lrt_df_back:
  std
  jmp .Lrt_flags
  .cfi_endproc
  .size bpftime_return_thunk_rare, . - bpftime_return_thunk_rare

// ---- out of line -------------------------------------------------------------------------------------------
// Both are called by thunks with all registers of the target live but rax, rcx and flags.
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
  push %rcx
  mov %rcx, %rdi
  lea 24(%rbp), %rsi
  and $-16, %rsp
  cld
  call \function
  lea -64(%rbp), %rsp
  pop %rcx
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
  mov %rax, %rcx
  ret
  .cfi_endproc
  .size bpftime_find_block_slow, . - bpftime_find_block_slow

// rcx = block whose depth is not 0. ZF: the hit that holds it is gone for ever (its stack word was overwritten).
  .type bpftime_check_guard, @function
bpftime_check_guard:
  .cfi_startproc
  cmpl $2, BLOCK_DEPTH(%rcx)
  jne 1f
  CALL_C bpftime_guard_is_stale
  cmp $1, %eax
1:
  ret
  .cfi_endproc
  .size bpftime_check_guard, . - bpftime_check_guard

  .section .note.GNU-stack, "", @progbits
