// What the stack keeps of what is written to it.
#include <gtest/gtest.h>

#include "verifier/testing/engine_probe.hpp"

namespace bpftime {
namespace {

using testing::EngineProbe;

Reg between(uint64_t from, uint64_t to) { return Reg::scalar(Scalar::between(from, to)); }
// fp-16 and up to 7 more.
Reg somewhere() {
  Reg r = Reg::pointer(RegKind::kStack);
  r.off = -16;
  r.num = Scalar::between(0, 7);
  return r;
}

TEST(Stack, AWholeNumberComesBackAsTheSame) {
  EngineProbe probe;
  probe.reg(1) = between(3, 9);
  ASSERT_TRUE(probe.write(-8, 8, 1));
  ASSERT_TRUE(probe.read(-8, 8, 2));
  EXPECT_EQ(probe.reg(2).num, probe.reg(1).num);
  EXPECT_NE(probe.reg(2).id, 0U);
  EXPECT_EQ(probe.reg(2).id, probe.reg(1).id) << "a test of one bounds the other";
}

TEST(Stack, ANumberThatDoesNotFitIsCutAndNoLongerLinked) {
  EngineProbe probe;
  probe.reg(1) = between(0, 0x1'0000'0000);
  ASSERT_TRUE(probe.write(-8, 4, 1));
  ASSERT_TRUE(probe.read(-8, 4, 2));
  EXPECT_EQ(probe.reg(2).num.range.umax, UINT32_MAX);
  EXPECT_TRUE(probe.reg(2).id == 0 || probe.reg(2).id != probe.reg(1).id);
  ASSERT_TRUE(probe.read(-8, 8, 3));
  EXPECT_TRUE(probe.reg(3).num.is_unknown()) << "the upper half was never written";
}

TEST(Stack, ANarrowReadOfAWideNumberIsItsLowerPart) {
  EngineProbe probe;
  probe.reg(1) = Reg::scalar(Scalar::constant(0x1234));
  ASSERT_TRUE(probe.write(-8, 8, 1));
  ASSERT_TRUE(probe.read(-8, 1, 2));
  EXPECT_EQ(probe.reg(2).num, Scalar::constant(0x34));
  ASSERT_TRUE(probe.read(-7, 1, 2));
  EXPECT_EQ(probe.reg(2).num.range.umax, 255U) << "not the lowest part: any byte";
}

TEST(Stack, AByteInTheMiddleForgetsTheNumber) {
  EngineProbe probe;
  probe.reg(1) = between(3, 9);
  probe.reg(2) = between(0, 255);
  ASSERT_TRUE(probe.write(-8, 8, 1));
  ASSERT_TRUE(probe.write(-5, 1, 2));
  ASSERT_TRUE(probe.read(-8, 8, 3));
  EXPECT_TRUE(probe.reg(3).num.is_unknown());
}

TEST(Stack, APointerComesBackWholeAndOnlySo) {
  EngineProbe probe;
  probe.reg(1) = Reg::pointer(RegKind::kMapValue, 4);
  ASSERT_TRUE(probe.write(-8, 8, 1));
  ASSERT_TRUE(probe.read(-8, 8, 2));
  EXPECT_EQ(probe.reg(2).kind, RegKind::kMapValue);
  EXPECT_EQ(probe.reg(2).object, 4U);
  EXPECT_FALSE(probe.read(-8, 4, 3));
  EXPECT_EQ(probe.message(), "invalid size of register fill");
}

TEST(Stack, ZeroBytesStayZeroUnlessSomethingElseMayLieThere) {
  EngineProbe probe;
  probe.slot(1).bytes.fill(ByteKind::kZero);
  probe.reg(1) = Reg::scalar(Scalar::constant(0));
  ASSERT_TRUE(probe.write_somewhere(somewhere(), 1, 1));
  ASSERT_TRUE(probe.read(-16, 8, 2));
  EXPECT_TRUE(probe.reg(2).is_zero());
  probe.reg(1) = Reg::scalar(Scalar::constant(7));
  ASSERT_TRUE(probe.write_somewhere(somewhere(), 1, 1));
  ASSERT_TRUE(probe.read(-16, 8, 2));
  EXPECT_TRUE(probe.reg(2).num.is_unknown());
}

TEST(Stack, AWriteSomewhereForgetsEverySlotThatItMayHit) {
  EngineProbe probe;
  probe.reg(1) = between(3, 9);
  ASSERT_TRUE(probe.write(-16, 8, 1));
  ASSERT_TRUE(probe.write(-8, 8, 1));
  ASSERT_TRUE(probe.write(-24, 8, 1));
  probe.reg(2) = between(0, 255);
  ASSERT_TRUE(probe.write_somewhere(somewhere(), 1, 2));
  for (const auto& [off, is_kept] : {std::pair{-8, true}, {-16, false}, {-24, true}}) {
    ASSERT_TRUE(probe.read(off, 8, 3));
    EXPECT_EQ(probe.reg(3).num == probe.reg(1).num, is_kept) << off;
  }
}

TEST(Stack, ADynptrThatHoldsAReferenceIsNotOverwritten) {
  EngineProbe probe;
  for (const int n : {0, 1}) {
    probe.slot(n).bytes.fill(ByteKind::kDynptr);
    probe.slot(n).is_first = n == 1;
    probe.slot(n).reg.id = 7;
    probe.slot(n).reg.ref = 3;
  }
  probe.reg(1) = between(0, 1);
  EXPECT_FALSE(probe.write(-8, 8, 1));
  EXPECT_EQ(probe.message(), "cannot overwrite referenced dynptr");
}

TEST(Stack, InStrictModeASpilledPointerIsNotOverwrittenInPart) {
  EngineProbe strict(true);
  strict.reg(1) = Reg::pointer(RegKind::kCtx);
  strict.reg(2) = between(0, 255);
  ASSERT_TRUE(strict.write(-8, 8, 1));
  EXPECT_FALSE(strict.write(-8, 1, 2));
  EXPECT_EQ(strict.message(), "attempt to corrupt spilled pointer on stack");
  EXPECT_TRUE(strict.write(-8, 8, 2)) << "as a whole it may go";
}

}  // namespace
}  // namespace bpftime
