#include "program.h"
static u64 middle(u64 a, u64 b);
static u64 leaf(u64 a, u64 b);
u64 program(const u8* memory, u64 size) {
  u64 sum = 0;
  NO_UNROLL for (u32 i = 0; i < 128; i++) sum = middle(sum, memory[i]);
  return sum;
}
static __attribute__((noinline)) u64 middle(u64 a, u64 b) { return leaf(a, b) + leaf(b, a); }
static __attribute__((noinline)) u64 leaf(u64 a, u64 b) { return a * 31 + (b ^ a >> 7); }
