// What the program is asked to do at a hit, and what came of it.
#pragma once

enum operation {
  kRingOutput,
  kRingReserve,  // 64 bytes
  kRingDiscard,  // 64 bytes
  kRingQuery,    // size = what
  kPerfOutput,   // flags: index or BPF_F_CURRENT_CPU
};
struct ask {
  unsigned operation;
  unsigned size;
  unsigned long long flags, number;
};
#define MOST_BYTES 4096
#define RING_BYTES 16384
