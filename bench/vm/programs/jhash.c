#include "program.h"
static inline u32 rol(u32 v, u32 n) { return v << n | v >> (32 - n); }
u64 program(const u8* memory, u64 size) {
  u32 a = 0xdeadbeef, b = a, c = a;
  NO_UNROLL for (u32 i = 0; i < 96; i += 3) {
    const u32* k = (const u32*)memory + i;
    a += k[0];
    b += k[1];
    c += k[2];
    a -= c;
    a ^= rol(c, 4);
    c += b;
    b -= a;
    b ^= rol(a, 6);
    a += c;
    c -= b;
    c ^= rol(b, 8);
    b += a;
    a -= c;
    a ^= rol(c, 16);
    c += b;
    b -= a;
    b ^= rol(a, 19);
    a += c;
    c -= b;
    c ^= rol(b, 4);
    b += a;
  }
  return c;
}
