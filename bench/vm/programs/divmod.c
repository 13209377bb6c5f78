#include "program.h"
u64 program(const u8* memory, u64 size) {
  u64 value = 0xfedcba9876543210ULL ^ memory[0], sum = 0;
  NO_UNROLL for (u32 i = 1; i < 128; i++) {
    u64 by = ((const u16*)memory)[i] | 1;
    sum += value / by + value % (by + 2);
    value = value * 6364136223846793005ULL + 1;
  }
  return sum;
}
