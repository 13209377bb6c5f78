// Offsets that the assembler of hook and of runtime share; runtime/run.cpp holds each against the C++ layout. Home: pure *.
#pragma once

// AttachedList and its first Attached
#define LIST_COUNT 0
#define LIST_FLAGS 4
#define LIST_ALIVE 8
#define LIST_ALIVE_EXPECTED 16
#define LIST_ITEMS 32
#define ATTACHED_PROGRAM 0
#define ATTACHED_SLOTS 8

// ThreadBlock
#define THREAD_REGS 64
#define THREAD_HITS 264
#define THREAD_HIT_SPACE 1024
#define PLAIN_SHIFT 20  // of plain_window

// ProbeHit, in ThreadBlock::hit_space
#define HIT_SLOTS 0
#define HIT_ENDED 16
#define HIT_ATTACHED 32
