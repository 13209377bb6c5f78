#include "program.h"
u64 program(const u8* memory, u64 size) {
  u64 a = memory[0], b = 1;
  NO_UNROLL for (u32 i = 0; i < 1024; i++) {
    u64 next = a + b;
    a = b;
    b = next;
  }
  return a;
}
