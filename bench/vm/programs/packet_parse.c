#include "program.h"
u64 program(const u8* memory, u64 size) {
  u64 sum = 0;
  NO_UNROLL for (u32 i = 0; i < 16; i++) {
    const u8* p = memory + i * 64;
    if (p + 54 > memory + size)
      return 0;
    u16 type = *(const u16*)(p + 12);
    if ((type & 0xf) == 3) {
      sum += 1;
      continue;
    }
    u32 length = (p[14] & 0xf) * 4;
    if (length < 20) {
      sum += 3;
      continue;
    }
    u32 from = *(const u32*)(p + 26), to = *(const u32*)(p + 30);
    sum += __builtin_bswap32(from) ^ __builtin_bswap32(to);
    if (p[23] & 1)
      sum += __builtin_bswap16(*(const u16*)(p + 34)) + __builtin_bswap16(*(const u16*)(p + 36));
  }
  return sum;
}
