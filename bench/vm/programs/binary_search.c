#include "program.h"
u64 program(const u8* memory, u64 size) {
  u64 found = 0;
  NO_UNROLL for (u32 key = 0; key < 32; key++) {
    u32 low = 0, high = 64;
    while (low < high) {
      u32 middle = (low + high) / 2;
      u8 at = memory[middle & 63];
      if (at < key * 8)
        low = middle + 1;
      else
        high = middle;
    }
    found += low;
  }
  return found;
}
