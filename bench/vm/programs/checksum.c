#include "program.h"
u64 program(const u8* memory, u64 size) {
  u32 sum = 0;
  NO_UNROLL for (u32 round = 0; round < 16; round++) {
    NO_UNROLL for (u32 i = 0; i < 512; i++) sum += ((const u16*)memory)[i];
    sum = (sum & 0xffff) + (sum >> 16);
  }
  return (u16) ~((sum & 0xffff) + (sum >> 16));
}
