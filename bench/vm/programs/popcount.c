#include "program.h"
u64 program(const u8* memory, u64 size) {
  u64 sum = 0;
  NO_UNROLL for (u32 i = 0; i < 128; i++) {
    u64 v = ((const u64*)memory)[i];
    v -= v >> 1 & 0x5555555555555555ULL;
    v = (v & 0x3333333333333333ULL) + (v >> 2 & 0x3333333333333333ULL);
    v = (v + (v >> 4)) & 0x0f0f0f0f0f0f0f0fULL;
    sum += v * 0x0101010101010101ULL >> 56;
  }
  return sum;
}
