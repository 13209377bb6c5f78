// Offsets for run_list.S; each is held against the C++ layout in run.cpp. Home: injected *.
#pragma once
#include "abi/hit_offsets.h"

#define THREAD_HIT_STACK_TOP 24
#define THREAD_PLAIN_WINDOW 272
#define HIT_STACK_BYTES 65536

#define HIT_FUEL 8
#define HIT_TOUCHED 20
#define HIT_SITE 40
#define HIT_LEAVE 48
#define HIT_ANSWER 56
#define HIT_THREAD 64
#define HIT_REGS 72
#define HIT_READS 1     // HIT_ATTACHED is that much above the hit
#define ASIDE_LEAVE 16  // from HIT_LEAVE then: the program's leave stub

#define ATTACHED_COUNTS 16
#define ATTACHED_FLAGS 36
#define ATTACHED_BYTES 48
#define ATTACHED_COUNTED 2
#define COUNTS_RUN 0
#define COUNTS_DISARMED 32

#define FUEL 0x800000
