// What is acquired is released once, on every path.
#include <gtest/gtest.h>

#include "verifier/testing/engine_probe.hpp"

namespace bpftime {
namespace {

using testing::EngineProbe;

Reg record(uint32_t ref) {
  Reg r = Reg::pointer(RegKind::kMem, 0, kRingbufRecord);
  r.ref = ref;
  return r;
}

TEST(References, WhatIsHeldMustBeReleasedBeforeTheEnd) {
  EngineProbe probe;
  EXPECT_TRUE(probe.holds_nothing());
  const uint32_t ref = probe.acquire();
  EXPECT_FALSE(probe.holds_nothing());
  EXPECT_NE(probe.message().find("Unreleased reference"), std::string::npos);
  EXPECT_TRUE(probe.release(ref));
  EXPECT_TRUE(probe.holds_nothing());
}

TEST(References, ReleasedTwiceIsRefused) {
  EngineProbe probe;
  const uint32_t ref = probe.acquire();
  ASSERT_TRUE(probe.release(ref));
  EXPECT_FALSE(probe.release(ref));
}

TEST(References, AReleaseTakesEveryCopy) {
  EngineProbe probe;
  const uint32_t ref = probe.acquire();
  const uint32_t other = probe.acquire();
  probe.reg(6) = record(ref);
  probe.reg(7) = record(other);
  probe.slot(0).bytes.fill(ByteKind::kSpill);
  probe.slot(0).reg = record(ref);
  ASSERT_TRUE(probe.release(ref));
  EXPECT_FALSE(probe.reg(6).is_pointer());
  EXPECT_FALSE(probe.slot(0).reg.is_pointer());
  EXPECT_TRUE(probe.reg(7).is_pointer());
}

TEST(References, WhatWasNotGivenNeedNotBeReleased) {
  EngineProbe probe;
  const uint32_t ref = probe.acquire();
  probe.reg(0) = record(ref);
  probe.reg(0).flags |= kOrNull;
  probe.reg(0).id = ref;
  probe.reg(6) = probe.reg(0);
  probe.mark_null(ref, true);
  EXPECT_TRUE(probe.reg(0).is_zero() && probe.reg(6).is_zero()) << "null together";
  EXPECT_TRUE(probe.holds_nothing());
}

TEST(References, WhatIsNotNullIsStillHeld) {
  EngineProbe probe;
  const uint32_t ref = probe.acquire();
  probe.reg(0) = record(ref);
  probe.reg(0).flags |= kOrNull;
  probe.reg(0).id = ref;
  probe.mark_null(ref, false);
  EXPECT_FALSE(probe.reg(0).or_null());
  EXPECT_FALSE(probe.holds_nothing());
}

TEST(References, ANullSliceLeavesItsDynptrHeld) {
  EngineProbe probe;
  const uint32_t ref = probe.acquire();
  Reg slice = Reg::pointer(RegKind::kMem, 0, kOrNull | kSlice);
  slice.ref = ref;
  slice.id = ref + 1;
  probe.reg(0) = slice;
  probe.mark_null(slice.id, true);
  EXPECT_TRUE(probe.reg(0).is_zero());
  EXPECT_FALSE(probe.holds_nothing());
}

}  // namespace
}  // namespace bpftime
