#include "program.h"
#define CASE(n)                                         \
  case n:                                               \
    sum = (sum ^ (n * 37 + 11)) + (sum >> (n % 7 + 1)); \
    break;
#define CASES(n) \
  CASE(n) CASE(n + 1) CASE(n + 2) CASE(n + 3) CASE(n + 4) CASE(n + 5) CASE(n + 6) CASE(n + 7)
u64 program(const u8* memory, u64 size) {
  u64 sum = 1;
  NO_UNROLL for (u32 i = 0; i < 128; i++) {
    switch (memory[i] & 63) {
      CASES(0) CASES(8) CASES(16) CASES(24) CASES(32) CASES(40) CASES(48) CASES(56)
    }
  }
  return sum;
}
