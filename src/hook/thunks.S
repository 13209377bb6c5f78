// The thunks (hook/thunks.hpp says what they promise). Home: injected *.
//
// Course of a hit: rcx, rax and the arithmetic flags (lahf, seto) are pushed; rcx = the thread's block (FIND_BLOCK).
// The block's address is pushed too and block->guard set to that place: the guard against nesting. (Should a signal
// handler longjmp out of the callback, that word is overwritten sooner or later, by which a later hit knows that
// the guard is stale.) The registers that a call may change go into block->regs, three of them where the program leaves
// the others alone (kListFew). A plain program (kListPlain) is called at once, on the target's stack; a simple one
// (kListSimple) by bpftime_on_simple_hit on the hit stack; else the other registers follow, and are read back when
// bpftime_on_hit has run on the hit stack (bpftime_run_aside).
//
// A hit costs its branches that are taken (two cycles each: a call and its ret are 1.1 ns), hence what is written out
// in place here, and its stores (one a cycle, two where they follow each other in one cache line), hence their order.
// DF is never looked at: the agent has no instruction that depends on it (tools/check_agent).
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
// DW_CFA_def_cfa_expression (0x0f), _expression (0x10) and _val_expression (0x16), DWARF 5 §6.4.2; registers by DWARF number:
// rdx 1, rcx 2, rbx 3, rbp 6, rsp 7, r12 to r15, return address 16. DW_OP_bregN = 0x70 + N.
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
// `reg` lies in the block whose address is at rsp: breg7 0, deref, plus_uconst offset
.macro CFI_IN_BLOCK reg, offset
  .cfi_escape 0x10, \reg, 6, 0x77, 0, 0x06, 0x23, ((\offset) & 0x7f) | 0x80, ((\offset) >> 7) & 0x7f
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

// OF, SF, ZF, AF, PF, CF go to ax; into the stack with them. AL + 0x7f overflows when OF was set; sahf leaves OF alone.
.macro PUSH_FLAGS
  lahf
  seto %al
  push %rax
  .cfi_adjust_cfa_offset 8
.endm
.macro POP_FLAGS
  pop %rax
  .cfi_adjust_cfa_offset -8
  addb $0x7f, %al
  sahf
.endm
.macro PUSH_REG reg
  push \reg
  .cfi_adjust_cfa_offset 8
.endm
.macro POP_REG reg
  pop \reg
  .cfi_adjust_cfa_offset -8
.endm

// Registers that a call may change, but rax, rcx and r11, into the block in rcx; rdx is free then.
.macro SAVE_FEW
  mov %rdx, R_DX(%rcx)
  mov %rsi, R_SI(%rcx)
  mov %rdi, R_DI(%rcx)
.endm
.macro SAVE_MORE
  mov %r10, R_R10(%rcx)
  mov %r9, R_R9(%rcx)
  mov %r8, R_R8(%rcx)
.endm
.macro SAVE_ARGUMENTS
  SAVE_MORE
  SAVE_FEW
.endm
.macro RESTORE_FEW
  mov R_DX(%rcx), %rdx
  mov R_SI(%rcx), %rsi
  mov R_DI(%rcx), %rdi
.endm
.macro RESTORE_ARGUMENTS
  mov R_R10(%rcx), %r10
  mov R_R9(%rcx), %r9
  mov R_R8(%rcx), %r8
  RESTORE_FEW
.endm
// The rest of pt_regs but ip: rax and rcx lie above the flags at \flags(%rsp). Clobbers rdx and rsi. At a function's
// first instruction, and after its ret, DF is 0 (psABI 3.2.1); lahf gives bit 1, and IF is set.
.macro SAVE_CONTEXT flags, sp
  movzwl \flags(%rsp), %edx
  movzbl %dh, %esi
  movzbl %dl, %edx
  shl $11, %edx
  lea 0x200(%rsi, %rdx), %rdx
  mov %rdx, R_FLAGS(%rcx)
  lea \sp(%rsp), %rdx
  mov %rdx, R_SP(%rcx)
.endm

// rax = a list of one plain program, rcx = block, and that at (rsp). To \missed, with both as they were, when there is
// nothing to run; to \again when bpftime_on_hit must be called: the thread's hit is not set up yet, or the program did
// not end normally; else goes on, with rcx = block. OTHER_STACK with the same \run belongs to it.
.macro RUN_PLAIN run, missed, again
  mov LIST_ALIVE(%rax), %rdx
  mov (%rdx), %edx
  cmp LIST_ALIVE_EXPECTED(%rax), %edx
  jne \missed
  lea THREAD_HIT_SPACE(%rcx), %rsi
  cmp %rsi, HIT_ATTACHED(%rsi)
  jne \again
  mov %rsp, %rdx
  shr $PLAIN_SHIFT, %rdx
  cmp %rdx, BLOCK_PLAIN_WINDOW(%rcx)
  jne \run\()_other
\run\()_anyway:
  incq THREAD_HITS(%rcx)
  mov LIST_ITEMS + ATTACHED_SLOTS(%rax), %rdx
  mov %rdx, HIT_SLOTS(%rsi)
  lea BLOCK_REGS(%rcx), %rdi
  call *LIST_ITEMS + ATTACHED_PROGRAM(%rax)
  mov (%rsp), %rcx
  cmpq $0, THREAD_HIT_SPACE + HIT_ENDED(%rcx)
  jne \again
.endm
// It is not known that this stack is an ordinary one: the hit stack may not be had.
.macro OTHER_STACK run, again
\run\()_other:
  testb $LIST_READS, LIST_FLAGS(%rax)
  jz \run\()_anyway
  jmp \again
.endm
// rax = a list of one simple program, rcx = block, and that at (rsp), rdx = Site*; CFA = rsp + \cfa. To \again when
// bpftime_on_hit must be called, or when it is not known that this stack is an ordinary one.
.macro RUN_SIMPLE cfa, again
  mov %rsp, %rsi
  shr $PLAIN_SHIFT, %rsi
  cmp %rsi, BLOCK_PLAIN_WINDOW(%rcx)
  jne \again
  mov %rsp, %rsi
  mov BLOCK_HIT_STACK_TOP(%rcx), %rsp
  .cfi_remember_state
  .cfi_def_cfa %rsi, \cfa
  push %rsi
  push %rsi
  // CFA = *rsp + cfa: breg7 0, deref, plus_uconst (two bytes)
  .cfi_escape 0x0f, 6, 0x77, 0, 0x06, 0x23, ((\cfa) & 0x7f) | 0x80, (\cfa) >> 7
  call bpftime_on_simple_hit
  pop %rsp
  .cfi_restore_state
  mov (%rsp), %rcx
  test %eax, %eax
  jnz \again
.endm
// Nothing is armed here: perhaps the process has been forked, which bpftime_cold_hit then sees to. r11 is kept at \kept
// of the block. To \pass when there is nothing to see to; else goes on with rcx = block, and that at (rsp), the guard
// taken, the arguments as they were, and ZF when still nothing is armed.
.macro COLD_HIT kept, pass
  mov bpftime_agent_state(%rip), %rcx
  mov STATE_TABLE(%rcx), %rcx
  cmpq $0, (%rcx)                      // the table's guard word: 0 in a forked child
  jne \pass
  call bpftime_find_block_slow
  test %rcx, %rcx
  jz \pass
  cmpq $0, BLOCK_GUARD(%rcx)
  jne \pass
  PUSH_REG %rcx
  mov %rsp, BLOCK_GUARD(%rcx)
  mov %r11, \kept(%rcx)
  SAVE_ARGUMENTS
  lea bpftime_cold_hit(%rip), %rdi
  call bpftime_run_aside
  RESTORE_ARGUMENTS
  mov \kept(%rcx), %r11
  mov bpftime_agent_state(%rip), %rax
  mov STATE_TABLE(%rax), %rax
  cmpq $0, (%rax)
.endm
// What bpftime_on_hit needs beside SAVE_ARGUMENTS, at a function's first instruction or inside; rdx = Site*, clobbered; rax =
// the list. rax, rcx and flags lie at 16, 24 and 8(%rsp), the target's rsp is \sp higher.
.macro RUN_GENERAL sp
  mov SITE_ADDRESS(%rdx), %rsi
  mov %rsi, R_IP(%rcx)
  mov 16(%rsp), %rsi
  mov %rsi, R_AX(%rcx)
  mov 24(%rsp), %rsi
  mov %rsi, R_CX(%rcx)
  mov %rbx, R_BX(%rcx)
  mov %rdx, %rdi
  SAVE_CONTEXT 8, \sp
  mov %rdi, %rdx
  lea bpftime_on_hit(%rip), %rdi
  call bpftime_run_aside
.endm
// Neither body nor trampoline: straight to the caller, with R_AX as the result. CFA = rsp + 48.
.macro LEAVE_FUNCTION
  RESTORE_ARGUMENTS
  mov R_R11(%rcx), %r11
  mov R_AX(%rcx), %rax
  movq $0, BLOCK_GUARD(%rcx)
  mov 24(%rsp), %rcx
  .cfi_remember_state
  lea 40(%rsp), %rsp
  .cfi_adjust_cfa_offset -40
  ret
  .cfi_restore_state
.endm
// The way back to the trampoline, from above the block's address.
.macro LEAVE_ENTRY
  movq $0, BLOCK_GUARD(%rcx)
  POP_FLAGS
  POP_REG %rax
  POP_REG %rcx
  ret
.endm

  .hidden bpftime_agent_state
  .hidden bpftime_on_hit
  .hidden bpftime_on_simple_hit
  .hidden bpftime_cold_hit
  .hidden bpftime_thread_block_slow
  .hidden bpftime_guard_is_stale
  .hidden bpftime_take_entry_slow
  .hidden bpftime_missed_list
  .hidden bpftime_missed_call
  .hidden bpftime_missed_return
  .text

// ---- entry_thunk, inside_thunk -----------------------------------------------------------------------------
// On entry: (rsp) = return address into the trampoline.
.macro ENTRY_THUNK name, site_offset, cfa, inside, hashed
  .globl \name
  .hidden \name
  .type \name, @function
  .p2align 6
\name:
  .cfi_startproc
  .if \inside
  .cfi_signal_frame
  .cfi_def_cfa %rsp, \cfa
  // return address = Site::address; the Site is found as the code below does:
  // *(*(CFA - 136) - site_offset) + 16. const1u, minus, deref, const1u, minus, deref, plus_uconst, deref
  .cfi_escape 0x16, 16, 11, 0x08, 136, 0x1c, 0x06, 0x08, \site_offset, 0x1c, 0x06, 0x23, SITE_ADDRESS, 0x06
  .else
  .cfi_def_cfa %rsp, \cfa
  .endif
  PUSH_REG %rcx
  PUSH_REG %rax
  PUSH_FLAGS
  mov 24(%rsp), %rax
  mov -\site_offset(%rax), %rax
  mov SITE_ON_ENTRY(%rax), %rax
  test %rax, %rax
  jz .Lunarmed_\name
.Larmed_\name:
  FIND_BLOCK .Lslow_\name, \hashed
.Lfound_\name:
  cmpq $0, BLOCK_GUARD(%rcx)
  jne .Lnested_\name
.Lgo_\name:
  PUSH_REG %rcx
  mov %rsp, BLOCK_GUARD(%rcx)
  SAVE_FEW
  testb $LIST_FEW, LIST_FLAGS(%rax)
  jz .Lmore_\name
  RUN_PLAIN .Lrun_few_\name, .Lran_few_\name, .Lagain_few_\name
.Lran_few_\name:
  .cfi_remember_state
  POP_REG %rcx
  RESTORE_FEW
  LEAVE_ENTRY

  .cfi_restore_state
.Lmore_\name:
  mov %r11, R_R11(%rcx)
  SAVE_MORE
  testb $LIST_PLAIN, LIST_FLAGS(%rax)
  jz .Lnot_plain_\name
  RUN_PLAIN .Lrun_\name, .Lran_\name, .Lagain_\name
.Lran_\name:
  .cfi_remember_state
  POP_REG %rcx
.Lleave_\name:
  RESTORE_ARGUMENTS
  mov R_R11(%rcx), %r11
  LEAVE_ENTRY

  .cfi_restore_state
.Lnot_plain_\name:
  mov 32(%rsp), %rdx
  mov -\site_offset(%rdx), %rdx
  testb $LIST_SIMPLE, LIST_FLAGS(%rax)
  jz .Lgeneral_\name
  RUN_SIMPLE \cfa + 32, .Lagain_\name
  jmp .Lran_\name
  OTHER_STACK .Lrun_few_\name, .Lagain_few_\name
  OTHER_STACK .Lrun_\name, .Lagain_\name
.Lagain_few_\name:
  mov %r11, R_R11(%rcx)
  SAVE_MORE
.Lagain_\name:
  mov 32(%rsp), %rdx
  mov -\site_offset(%rdx), %rdx
  mov SITE_ON_ENTRY(%rdx), %rax
  test %rax, %rax
  jz .Lran_\name
.Lgeneral_\name:
  .if !\inside
  RUN_GENERAL \cfa + 24
  test %rax, %rax
  jz .Lran_\name
  LEAVE_FUNCTION
  .else
  RUN_GENERAL \cfa + 32
  jmp .Lran_\name
  .endif

  // ---- rare ----
  .cfi_adjust_cfa_offset -8
.Lslow_\name:
  call bpftime_find_block_slow
  test %rcx, %rcx
  jnz .Lfound_\name
  jmp .Lpass_\name
.Lunarmed_\name:
  COLD_HIT R_R11, .Lpass_\name
  POP_REG %rcx
  je .Lleave_\name
  movq $0, BLOCK_GUARD(%rcx)
  .cfi_remember_state
  POP_FLAGS
  POP_REG %rax
  POP_REG %rcx
  jmp \name                            // once more: the table says now what is armed
  .cfi_restore_state
.Lnested_\name:
  call bpftime_check_guard
  jz .Lgo_\name
  call bpftime_miss_list
.Lpass_\name:
  POP_FLAGS
  POP_REG %rax
  POP_REG %rcx
  ret
  .cfi_endproc
  .size \name, . - \name
.endm

ENTRY_THUNK bpftime_entry_thunk, 22, 16, 0, 0
ENTRY_THUNK bpftime_inside_thunk, 27, 8 + 128, 1, 0
ENTRY_THUNK bpftime_entry_thunk_hashed, 22, 16, 0, 1
ENTRY_THUNK bpftime_inside_thunk_hashed, 27, 8 + 128, 1, 1

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
  PUSH_REG %rcx
  PUSH_REG %rax
  PUSH_FLAGS
  mov (%r11), %rax
  mov SITE_ON_ENTRY(%rax), %rcx
  or SITE_ON_RETURN(%rax), %rcx
  jz .Lrt_unarmed_\name
  FIND_BLOCK .Lrt_slow_\name, \hashed
.Lrt_found_\name:
  cmpq $0, BLOCK_GUARD(%rcx)
  jne .Lrt_nested_\name
.Lrt_go_\name:
  PUSH_REG %rcx
  mov %rsp, BLOCK_GUARD(%rcx)
  cmpq $0, SITE_ON_ENTRY(%rax)
  jne .Lrt_both_\name
  // Nothing is called now. rcx = block, r11 = trampoline; rax = entry; rbx is free once saved.
.Lrt_take_\name:
  mov BLOCK_FREE_ENTRIES(%rcx), %rax
  test %rax, %rax
  jz .Lrt_no_entry_\name
.Lrt_took_\name:
  mov %rbx, ENTRY_SAVED_RBX(%rax)
  CFI_SAVED_AT 3, 0, ENTRY_SAVED_RBX
  mov ENTRY_NEXT(%rax), %rbx
  mov %rbx, BLOCK_FREE_ENTRIES(%rcx)
  mov BLOCK_SEQUENCE(%rcx), %rbx
  inc %rbx
  mov %rbx, BLOCK_SEQUENCE(%rcx)
  mov %rbx, ENTRY_SEQUENCE(%rax)
  mov 40(%rsp), %rbx
  mov %rbx, ENTRY_RETURN_ADDRESS(%rax)
  lea 40(%rsp), %rbx
  mov %rbx, ENTRY_SLOT(%rax)
  lea 32(%r11), %rbx
  mov %rbx, ENTRY_RESUME(%rax)
  mov %rax, %rbx
  CFI_ENTRY 3
  lea \point(%rip), %rax
  mov %rax, 40(%rsp)                   // S: what the call will put there; says that the entry lives
  movq $0, BLOCK_GUARD(%rcx)
  lea 8(%rsp), %rsp
  .cfi_adjust_cfa_offset -8
  POP_FLAGS
  POP_REG %rax
  POP_REG %rcx
  POP_REG %r11
  lea 8(%rsp), %rsp
  .cfi_def_cfa %rsp, 4
  CFI_SP_BELOW_CFA
  call *ENTRY_RESUME(%rbx)

// ---- return_point: the body has returned; rbx = entry, rsp = S + 8 -----------------------------------------
  .globl \point
  .hidden \point
\point:
  lea -8(%rsp), %rsp                   // S still holds our address: the entry lives
  .cfi_adjust_cfa_offset 8
  PUSH_REG %rcx
  PUSH_REG %r11
  mov %rax, %r11
  PUSH_FLAGS
  FIND_BLOCK .Lrp_slow_\name, \hashed
.Lrp_found_\name:
  cmpq $0, BLOCK_GUARD(%rcx)
  jne .Lrp_nested_\name
.Lrp_go_\name:
  PUSH_REG %rcx
  mov %rsp, BLOCK_GUARD(%rcx)
  mov %r11, R_AX(%rcx)
  SAVE_ARGUMENTS
  mov ENTRY_RESUME(%rbx), %rdx
  mov -32(%rdx), %rdx                  // Site*: first word of the trampoline
  mov SITE_ON_RETURN(%rdx), %rax
  test %rax, %rax
  jz .Lrp_ran_\name
  testb $LIST_PLAIN, LIST_FLAGS(%rax)
  jz .Lrp_not_plain_\name
  RUN_PLAIN .Lrp_run_\name, .Lrp_ran_\name, .Lrp_again_\name
.Lrp_ran_\name:
  mov ENTRY_RETURN_ADDRESS(%rbx), %rax
  mov ENTRY_SAVED_RBX(%rbx), %rdx
  movq $0, ENTRY_SLOT(%rbx)            // free: after this, an entry of another thread is not ours to touch
  cmp %rcx, ENTRY_HOME(%rbx)
  jne .Lrp_freed_\name
  mov BLOCK_FREE_ENTRIES(%rcx), %rsi
  cmp %rsi, ENTRY_NEXT(%rbx)           // as a rule it is: no store, so that the next take need not wait for it
  jne .Lrp_relink_\name
.Lrp_relinked_\name:
  mov %rbx, BLOCK_FREE_ENTRIES(%rcx)
.Lrp_freed_\name:
  mov %rax, 32(%rsp)                   // S
  .cfi_remember_state
  .cfi_def_cfa %rsp, 40
  .cfi_offset 16, -8
  .cfi_escape 0x16, 7, 0               // caller's rsp = CFA again
  mov %rdx, %rbx
  .cfi_same_value %rbx
  RESTORE_ARGUMENTS
  lea 8(%rsp), %rsp
  .cfi_adjust_cfa_offset -8
  POP_FLAGS
  mov R_AX(%rcx), %rax
  movq $0, BLOCK_GUARD(%rcx)
  POP_REG %r11
  POP_REG %rcx
  ret
  .cfi_restore_state

.Lrp_not_plain_\name:
  testb $LIST_SIMPLE, LIST_FLAGS(%rax)
  jz .Lrp_general_\name
  RUN_SIMPLE 44, .Lrp_again_\name
  jmp .Lrp_ran_\name
  OTHER_STACK .Lrp_run_\name, .Lrp_again_\name
.Lrp_again_\name:
  mov ENTRY_RESUME(%rbx), %rdx
  mov -32(%rdx), %rdx
  mov SITE_ON_RETURN(%rdx), %rax
  test %rax, %rax
  jz .Lrp_ran_\name
.Lrp_general_\name:
  mov %rbx, BLOCK_RETURNING(%rcx)
  mov 16(%rsp), %rsi
  mov %rsi, R_R11(%rcx)
  mov 24(%rsp), %rsi
  mov %rsi, R_CX(%rcx)
  mov ENTRY_SAVED_RBX(%rbx), %rsi
  mov %rsi, R_BX(%rcx)
  mov ENTRY_RETURN_ADDRESS(%rbx), %rsi
  mov %rsi, R_IP(%rcx)
  mov %rdx, %rdi
  SAVE_CONTEXT 8, 40
  mov %rdi, %rdx
  lea bpftime_on_hit(%rip), %rdi
  call bpftime_run_aside
  jmp .Lrp_ran_\name

  // ---- rare ----
.Lrp_relink_\name:
  mov %rsi, ENTRY_NEXT(%rbx)
  jmp .Lrp_relinked_\name
  .cfi_adjust_cfa_offset -8
.Lrp_slow_\name:
  call bpftime_find_block_slow
  test %rcx, %rcx
  jnz .Lrp_found_\name
  jmp .Lrp_pass_\name
.Lrp_nested_\name:
  call bpftime_check_guard
  jz .Lrp_go_\name
  mov ENTRY_RESUME(%rbx), %rax
  mov -32(%rax), %rax
  mov SITE_ON_RETURN(%rax), %rax
  call bpftime_miss_list
.Lrp_pass_\name:
  mov ENTRY_SAVED_RBX(%rbx), %rcx
  mov ENTRY_RETURN_ADDRESS(%rbx), %rax
  movq $0, ENTRY_SLOT(%rbx)            // the next scan finds it
  mov %rax, 24(%rsp)                   // S
  .cfi_def_cfa %rsp, 32
  .cfi_offset 16, -8
  .cfi_escape 0x16, 7, 0
  mov %rcx, %rbx
  .cfi_same_value %rbx
  POP_FLAGS
  mov %r11, %rax
  POP_REG %r11
  POP_REG %rcx
  ret
  .cfi_endproc
  .size \name, . - \name

// ---- the entry probe of a function that has a return probe too, and rare ways ------------------------------
  .type \name\()_both, @function
\name\()_both:
  .cfi_startproc
  .cfi_def_cfa %rsp, 16 + 32           // pushed: r11, rcx, rax, flags, block
.Lrt_both_\name:
  mov %r11, BLOCK_TRAMPOLINE(%rcx)
  SAVE_ARGUMENTS
  mov 32(%rsp), %rdx
  mov %rdx, R_R11(%rcx)
  mov %rax, %rdx
  mov SITE_ON_ENTRY(%rdx), %rax
  test %rax, %rax
  jz .Lrt_ran_\name                    // disarmed meanwhile
  testb $LIST_PLAIN, LIST_FLAGS(%rax)
  jz .Lrt_not_plain_\name
  RUN_PLAIN .Lrt_run_\name, .Lrt_ran_\name, .Lrt_again_\name
.Lrt_ran_\name:
  RESTORE_ARGUMENTS
  mov BLOCK_TRAMPOLINE(%rcx), %r11
  mov (%r11), %rax
  cmpq $0, SITE_ON_RETURN(%rax)
  jne .Lrt_take_\name
  jmp .Lrt_leave_\name
.Lrt_not_plain_\name:
  testb $LIST_SIMPLE, LIST_FLAGS(%rax)
  jz .Lrt_general_\name
  RUN_SIMPLE 48, .Lrt_again_\name
  jmp .Lrt_ran_\name
  OTHER_STACK .Lrt_run_\name, .Lrt_again_\name
.Lrt_again_\name:
  mov BLOCK_TRAMPOLINE(%rcx), %rdx
  mov (%rdx), %rdx
  mov SITE_ON_ENTRY(%rdx), %rax
  test %rax, %rax
  jz .Lrt_ran_\name
.Lrt_general_\name:
  RUN_GENERAL 40
  test %rax, %rax
  jz .Lrt_ran_\name
  LEAVE_FUNCTION
.Lrt_no_entry_\name:
  mov %r11, BLOCK_TRAMPOLINE(%rcx)
  SAVE_ARGUMENTS
  lea 40(%rsp), %rax
  lea bpftime_take_entry_slow(%rip), %rdi
  call bpftime_run_aside
  RESTORE_ARGUMENTS
  mov BLOCK_TRAMPOLINE(%rcx), %r11
  test %rax, %rax
  jnz .Lrt_took_\name
  mov (%r11), %rax
  call bpftime_miss_return
.Lrt_leave_\name:
  .cfi_remember_state
  lea 8(%rsp), %rsp
  .cfi_adjust_cfa_offset -8
  movq $0, BLOCK_GUARD(%rcx)
  jmp .Lrt_pass_\name
.Lrt_slow_\name:
  call bpftime_find_block_slow
  test %rcx, %rcx
  jnz .Lrt_found_\name
  jmp .Lrt_pass_\name
.Lrt_unarmed_\name:
  COLD_HIT BLOCK_TRAMPOLINE, .Lrt_pass_\name
  je .Lrt_leave_\name
  movq $0, BLOCK_GUARD(%rcx)
  lea 8(%rsp), %rsp
  .cfi_adjust_cfa_offset -8
  POP_FLAGS
  POP_REG %rax
  POP_REG %rcx
  jmp \name                            // once more: the table says now what is armed
  .cfi_restore_state
  .cfi_adjust_cfa_offset -8
.Lrt_nested_\name:
  call bpftime_check_guard
  jz .Lrt_go_\name
  call bpftime_miss_call
.Lrt_pass_\name:
  lea 32(%r11), %rcx
  POP_FLAGS
  mov 16(%rsp), %r11
  mov %rcx, 16(%rsp)                   // S - 8: where the body begins
  POP_REG %rax
  POP_REG %rcx
  lea 8(%rsp), %rsp
  .cfi_adjust_cfa_offset -8
  jmp *-8(%rsp)                        // no ret: the return predictor stays balanced
  .cfi_endproc
  .size \name\()_both, . - \name\()_both
.endm

RETURN_THUNK bpftime_return_thunk, bpftime_return_point, 0
RETURN_THUNK bpftime_return_thunk_hashed, bpftime_return_point_hashed, 1

// ---- run_aside ---------------------------------------------------------------------------------------------
// rax = rdi(regs, rdx: Site*, rcx: block, rax), on the hit stack; 0 when there is no room for it. Arguments are saved already. Back with
// rcx = block, what a callee keeps as it was (the function may change all but rsp), the others undefined.
  .type bpftime_run_aside, @function
  .p2align 6
bpftime_run_aside:
  .cfi_startproc
  mov %r15, R_R15(%rcx)
  mov %r14, R_R14(%rcx)
  mov %r13, R_R13(%rcx)
  mov %r12, R_R12(%rcx)
  mov %rbp, R_BP(%rcx)
  mov %rcx, %r12
  CFI_SAVED_AT 12, 12, R_R12
  mov %rsp, %rbp
  .cfi_def_cfa %rbp, 8
  CFI_SAVED_AT 6, 12, R_BP
  mov %rsp, %rsi
  shr $PLAIN_SHIFT, %rsi
  cmp %rsi, BLOCK_PLAIN_WINDOW(%r12)
  jne .Lquery
  mov BLOCK_HIT_STACK_TOP(%r12), %rsp
.Lchosen:
  push %rbx
  push %rbx
  push %rbp
  push %r12
  // CFA = *(rsp + 8) + 8: breg7 8, deref, plus_uconst 8
  .cfi_remember_state
  .cfi_escape 0x0f, 5, 0x77, 8, 0x06, 0x23, 8
  CFI_SAVED_AT 3, 7, 16
  CFI_IN_BLOCK 6, R_BP
  CFI_IN_BLOCK 12, R_R12
  CFI_IN_BLOCK 13, R_R13
  CFI_IN_BLOCK 14, R_R14
  CFI_IN_BLOCK 15, R_R15
  mov %rdi, %rbp
  lea BLOCK_REGS(%r12), %rdi
  mov %rdx, %rsi
  mov %r12, %rdx
  mov %rax, %rcx
  call *%rbp
  mov (%rsp), %rcx
  mov 16(%rsp), %rbx
  mov 8(%rsp), %rsp
  .cfi_def_cfa %rsp, 8
  .cfi_same_value %rbx
  CFI_SAVED_AT 6, 2, R_BP
  CFI_SAVED_AT 12, 2, R_R12
  CFI_SAVED_AT 13, 2, R_R13
  CFI_SAVED_AT 14, 2, R_R14
  CFI_SAVED_AT 15, 2, R_R15
  mov R_R15(%rcx), %r15
  mov R_R14(%rcx), %r14
  mov R_R13(%rcx), %r13
  mov R_R12(%rcx), %r12
  mov R_BP(%rcx), %rbp
  ret
  .cfi_restore_state
// Another stack than the last hit's (rsi = its rsp >> PLAIN_SHIFT); if it is not among those known to be ordinary ones, ask.
// SS_ONSTACK (1) answers for the rsp of the call, which is the target's.
.Lquery:
  mov %esi, %r8d
  and $15, %r8d
  cmp %rsi, BLOCK_PLAIN_STACKS(%r12, %r8, 8)
  je 2f
  mov %rsi, %r9
  mov %rdi, %r10
  mov %rax, %r13
  CFI_SAVED_AT 13, 12, R_R13
  xor %edi, %edi
  lea BLOCK_ALT_STACK(%r12), %rsi
  movl $0, 8(%rsi)
  mov $NR_SIGALTSTACK, %eax
  syscall
  testl $1, 8(%rsi)
  mov (%rsi), %rcx
  mov %r13, %rax
  mov R_R13(%r12), %r13
  .cfi_same_value %r13
  mov %r10, %rdi
  jnz 1f
  mov %r9, %rsi
  mov %rsi, BLOCK_PLAIN_STACKS(%r12, %r8, 8)
2:
  mov %rsi, BLOCK_PLAIN_WINDOW(%r12)
  mov BLOCK_HIT_STACK_TOP(%r12), %rsp
  jmp .Lchosen
1:
  mov %rbp, %rsi
  sub %rcx, %rsi
  cmp $ALT_STACK_ROOM, %rsi
  jb 3f
  and $-16, %rsp
  jmp .Lchosen
3:
  mov %r12, %rcx
  lea bpftime_on_hit(%rip), %rsi
  cmp %rsi, %rdi
  jne 4f
  call bpftime_miss_list
4:
  CFI_SAVED_AT 6, 2, R_BP
  CFI_SAVED_AT 12, 2, R_R12
  mov R_BP(%rcx), %rbp
  .cfi_def_cfa %rsp, 8
  mov R_R12(%rcx), %r12
  xor %eax, %eax
  ret
  .cfi_endproc
  .size bpftime_run_aside, . - bpftime_run_aside

// ---- out of line -------------------------------------------------------------------------------------------
// Called by thunks with all registers of the target live but rcx and flags, and aligned as it happens: the function
// gets rcx, the thunk's rsp and rax.
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
  mov %rax, %rdx
  and $-16, %rsp
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

// A hit that runs nothing, or is not seen to return; rcx = block.
.macro MISS name, function
  .type \name, @function
\name:
  .cfi_startproc
  CALL_C \function
  BACK_FROM_C
  ret
  .cfi_endproc
  .size \name, . - \name
.endm
MISS bpftime_miss_list, bpftime_missed_list      // rax = the list, or 0
MISS bpftime_miss_call, bpftime_missed_call      // rax = Site*
MISS bpftime_miss_return, bpftime_missed_return  // rax = Site*

  .section .note.GNU-stack, "", @progbits
