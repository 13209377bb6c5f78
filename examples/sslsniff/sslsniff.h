// What sslsniff's programs tell its user side: one record a call that moved plain text.
#pragma once

enum { kMostBytes = 8192 };  // of one call; a power of two

enum direction { kRead, kWrite };

struct event {
  unsigned long long end_ns;  // CLOCK_MONOTONIC, when the call returned
  unsigned pid, tid;
  unsigned bytes;   // that the call moved
  unsigned copied;  // of them in `data`
  enum direction direction;
  char comm[16];
  char data[kMostBytes];
};
