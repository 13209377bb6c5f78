#include "program.h"
u64 program(const u8* memory, u64 size) {
  u8* to = (u8*)memory + 1024;
  NO_UNROLL for (u32 i = 0; i < 512; i++) * (volatile u8*)(to + i) = memory[i];
  return to[511];
}
