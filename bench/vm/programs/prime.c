#include "program.h"
u64 program(const u8* memory, u64 size) {
  u64 count = 0;
  NO_UNROLL for (u32 n = 2; n < 200; n++) {
    u32 is_prime = 1;
    NO_UNROLL for (u32 d = 2; d * d <= n; d++) {
      if (n % d == 0) {
        is_prime = 0;
        break;
      }
    }
    count += is_prime;
  }
  return count;
}
