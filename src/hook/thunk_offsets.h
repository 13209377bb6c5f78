// Offsets for thunks.S; each is held against the C++ layout in thread_state.cpp. Home: injected *.
#pragma once
#include "abi/hit_offsets.h"

// struct pt_regs within ThreadBlock::regs (asm/ptrace.h)
#define BLOCK_REGS 64
#define R_R15 64
#define R_R14 72
#define R_R13 80
#define R_R12 88
#define R_BP 96
#define R_BX 104
#define R_R11 112
#define R_R10 120
#define R_R9 128
#define R_R8 136
#define R_AX 144
#define R_CX 152
#define R_DX 160
#define R_SI 168
#define R_DI 176
#define R_IP 192
#define R_FLAGS 208
#define R_SP 216

#define BLOCK_SELF 8
#define BLOCK_CHECK_OFFSET 16
#define BLOCK_CHECK_VALUE 20
#define BLOCK_HIT_STACK_TOP 24
#define BLOCK_GUARD 232
#define BLOCK_FREE_ENTRIES 240
#define BLOCK_SEQUENCE 248
#define BLOCK_PLAIN_WINDOW 272
#define BLOCK_TRAMPOLINE 984
#define BLOCK_RETURNING 1016
#define BLOCK_ALT_STACK 304
#define BLOCK_PLAIN_STACKS 328

#define ENTRY_RETURN_ADDRESS 0
#define ENTRY_SAVED_RBX 8
#define ENTRY_SLOT 16
#define ENTRY_NEXT 24
#define ENTRY_HOME 40
#define ENTRY_SEQUENCE 48
#define ENTRY_RESUME 56

#define SITE_ON_ENTRY 0
#define SITE_ON_RETURN 8
#define SITE_ADDRESS 16

// ListFlags
#define LIST_PLAIN 1
#define LIST_SIMPLE 2
#define LIST_FEW 4
#define LIST_READS 8

#define STATE_TABLE 32

// Least room on an alternate signal stack for a hit to run there.
#define ALT_STACK_ROOM 4096
#define NR_SIGALTSTACK 131
