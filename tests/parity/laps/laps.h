// What the programs of laps and its user side both know.
#pragma once

enum { kProducers = 6, kMostBytes = 4096, kRingBytes = 64 << 10 };

// The first bytes of each record, as far as it is long enough; then `fill` all the way.
struct record_head {
  unsigned producer, size;
  unsigned long long number;
};
enum { kHeadBytes = sizeof(struct record_head) };
