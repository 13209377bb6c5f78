// Offsets for thunks.S; each is held against the C++ layout in thread_state.cpp. Home: injected *.
#pragma once

// struct pt_regs within ThreadBlock::regs (asm/ptrace.h)
#define BLOCK_REGS 648
#define R_R15 648
#define R_R14 656
#define R_R13 664
#define R_R12 672
#define R_BP 680
#define R_BX 688
#define R_R11 696
#define R_R10 704
#define R_R9 712
#define R_R8 720
#define R_AX 728
#define R_CX 736
#define R_DX 744
#define R_SI 752
#define R_DI 760
#define R_IP 776
#define R_FLAGS 792
#define R_SP 800

#define BLOCK_DEPTH 12
#define BLOCK_HIT_STACK_TOP 16
#define BLOCK_FREE_ENTRIES 24
#define BLOCK_SEQUENCE 40
#define BLOCK_MISSED 96
#define BLOCK_SELF 104
#define BLOCK_CHECK_OFFSET 112
#define BLOCK_CHECK_VALUE 116
#define BLOCK_HIT_SP 120
#define BLOCK_PLAIN_STACKS 816
#define BLOCK_ALT_STACK 952

#define ENTRY_RETURN_ADDRESS 0
#define ENTRY_SAVED_RBX 8
#define ENTRY_SLOT 16
#define ENTRY_NEXT 24
#define ENTRY_SITE 32
#define ENTRY_HOME 40
#define ENTRY_SEQUENCE 48
#define ENTRY_RESUME 56

#define SITE_ON_ENTRY 0
#define SITE_ON_RETURN 8
#define SITE_ADDRESS 16

#define STATE_TABLE 32
#define STATE_USE_GS 96

#define FLAG_DF 0x400
// Least room on an alternate signal stack for a hit to run there.
#define ALT_STACK_ROOM 4096
#define NR_SIGALTSTACK 131
