// Offsets for run_list.S; each is held against the C++ layout in run.cpp. Home: injected *.
#pragma once

#define LIST_COUNT 0
#define LIST_ALIVE 8
#define LIST_ALIVE_EXPECTED 16
#define LIST_ITEMS 32

#define THREAD_REGS 64
#define THREAD_HITS 264
#define THREAD_HIT_SPACE 1024

#define HIT_SLOTS 0
#define HIT_FUEL 8
#define HIT_ENDED 16
#define HIT_TOUCHED 20
#define HIT_ATTACHED 32
#define HIT_SITE 40
#define HIT_LEAVE 48
#define HIT_ANSWER 56
#define HIT_REGS 72

#define ATTACHED_PROGRAM 0
#define ATTACHED_SLOTS 8
#define ATTACHED_COUNTS 16
#define ATTACHED_FLAGS 36
#define ATTACHED_BYTES 48
#define ATTACHED_COUNTED 2
#define COUNTS_RUN 0
#define COUNTS_DISARMED 32

#define FUEL 0x800000
