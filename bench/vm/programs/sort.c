#include "program.h"
u64 program(const u8* memory, u64 size) {
  u32 values[32];
  NO_UNROLL for (u32 i = 0; i < 32; i++) values[i] = ((const u32*)memory)[i];
  NO_UNROLL for (u32 i = 1; i < 32; i++) {
    u32 value = values[i], j = i;
    while (j > 0 && values[j - 1] > value) {
      values[j] = values[j - 1];
      j--;
    }
    values[j] = value;
  }
  return values[0] + values[31] * 3ULL + values[16] * 5ULL;
}
