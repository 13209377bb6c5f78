#include "program.h"
static inline u32 log2_of(u32 v) {
  u32 shift = (v > 0xffff) << 4, r;
  v >>= shift;
  r = shift;
  shift = (v > 0xff) << 3;
  v >>= shift;
  r |= shift;
  shift = (v > 0xf) << 2;
  v >>= shift;
  r |= shift;
  shift = (v > 0x3) << 1;
  v >>= shift;
  return r | shift | v >> 1;
}
u64 program(const u8* memory, u64 size) {
  u64 sum = 0;
  NO_UNROLL for (u32 i = 0; i < 128; i++) sum += log2_of(((const u32*)memory)[i]);
  return sum;
}
