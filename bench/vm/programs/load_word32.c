#include "program.h"
u64 program(const u8* memory, u64 size) {
  u64 sum = 0;
  NO_UNROLL for (u32 i = 0; i < 128; i++) {
    const u8* p = memory + i * 4;
    sum += (u32)p[0] | (u32)p[1] << 8 | (u32)p[2] << 16 | (u32)p[3] << 24;
  }
  return sum;
}
