#include "program.h"
u64 program(const u8* memory, u64 size) {
  NO_UNROLL for (u32 i = 0; i < 256; i++) {
    u8 a = memory[2048 + i], b = memory[3072 + i];
    if (a != b)
      return a - b;
    if (a == 0)
      return 1000;
  }
  return 2000;
}
