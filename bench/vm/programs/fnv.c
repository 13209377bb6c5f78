#include "program.h"
u64 program(const u8* memory, u64 size) {
  u64 hash = 0xcbf29ce484222325ULL;
  NO_UNROLL for (u32 i = 0; i < 1024; i++) hash = (hash ^ memory[i]) * 0x100000001b3ULL;
  return hash;
}
