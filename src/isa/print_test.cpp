#include <gtest/gtest.h>

#include "isa/encode.hpp"
#include "isa/program.hpp"
#include "isa/testing/assembler.hpp"

namespace bpftime {
namespace {

std::string printed(std::string_view line) {
  std::string message;
  const auto insns = testing::assemble(line, &message);
  EXPECT_TRUE(insns) << message;
  return insns ? print(insns.value()[0], insns.value().size() > 1 ? &insns.value()[1] : nullptr, 3)
               : "";
}

TEST(Print, IsTheSyntaxOfTheVerifierLog) {
  EXPECT_EQ(printed("mov %r1, -5"), "3: (b7) r1 = -5");
  EXPECT_EQ(printed("add32 %r1, %r2"), "3: (0c) w1 += w2");
  EXPECT_EQ(printed("sdiv %r1, 3"), "3: (37) r1 s/= 3");
  EXPECT_EQ(printed("movsx832 %r1, %r2"), "3: (bc) w1 = (s8)w2");
  EXPECT_EQ(printed("be16 %r3"), "3: (dc) r3 = be16 r3");
  EXPECT_EQ(printed("bswap64 %r3"), "3: (d7) r3 = bswap64 r3");
  EXPECT_EQ(printed("lddw %r1, 0x1122334455667788"), "3: (18) r1 = 0x1122334455667788 ll");
  EXPECT_EQ(printed("lddw %r1, mapvalue 7+16"), "3: (18) r1 = map[7][0]+16");
  EXPECT_EQ(printed("ldxw %r1, [%r2+8]"), "3: (61) r1 = *(u32 *)(r2 +8)");
  EXPECT_EQ(printed("ldxsb %r1, [%r2-8]"), "3: (91) r1 = *(s8 *)(r2 -8)");
  EXPECT_EQ(printed("stb [%r10-1], 5"), "3: (72) *(u8 *)(r10 -1) = 5");
  EXPECT_EQ(printed("stxdw [%r10-8], %r5"), "3: (7b) *(u64 *)(r10 -8) = r5");
  EXPECT_EQ(printed("lock add [%r1+0], %r2"), "3: (db) lock *(u64 *)(r1 +0) += r2");
  EXPECT_EQ(printed("lock fetch xor32 [%r1+0], %r2"),
            "3: (c3) r2 = atomic_fetch_xor((u32 *)(r1 +0), r2)");
  EXPECT_EQ(printed("lock cmpxchg [%r1+0], %r2"),
            "3: (db) r0 = atomic64_cmpxchg((u64 *)(r1 +0), r0, r2)");
  EXPECT_EQ(printed("ldacqh %r1, [%r2+0]"), "3: (cb) r1 = load_acquire((u16 *)(r2 +0))");
  EXPECT_EQ(printed("strelb [%r1+0], %r2"), "3: (d3) store_release((u8 *)(r1 +0), r2)");
  EXPECT_EQ(printed("jslt32 %r1, -1, +4"), "3: (c6) if w1 s< 0xffffffff goto pc+4");
  EXPECT_EQ(printed("ja32 -3"), "3: (06) gotol pc-3");
  EXPECT_EQ(printed("may_goto +2"), "3: (e5) may_goto pc+2");
  EXPECT_EQ(printed("call 6"), "3: (85) call helper#6");
  EXPECT_EQ(printed("call local +2"), "3: (85) call pc+2");
  EXPECT_EQ(printed("exit"), "3: (95) exit");
}

TEST(Print, EveryInstructionHasAText) {
  for (unsigned code = 0; code < 256; ++code) {
    EXPECT_FALSE(print(make_insn(static_cast<uint8_t>(code), 15, 15, -1, -1), nullptr, 0).empty());
  }
}

}  // namespace
}  // namespace bpftime
