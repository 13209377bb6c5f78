// How long a command of redis-server takes, as both sides of redis-latency count it.
#pragma once

enum { kMostCommands = 256, kSlots = 32 };

struct latency {
  unsigned long long count, total_ns;
  unsigned long long slots[kSlots];  // slot n: 2^n <= ns < 2^(n+1), the last one also what is above
};
