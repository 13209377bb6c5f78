// When is a path cut off: an older state covers a newer one.
#include <gtest/gtest.h>

#include "verifier/testing/engine_probe.hpp"

namespace bpftime {
namespace {

using testing::EngineProbe;

Reg number(uint64_t from, uint64_t to, bool is_precise = true, uint32_t id = 0) {
  Reg r = Reg::scalar(Scalar::between(from, to));
  r.precise = is_precise;
  r.id = id;
  return r;
}
State with(int n, const Reg& reg) {
  State state = EngineProbe::empty_state();
  state.top().regs[static_cast<size_t>(n)] = reg;
  return state;
}
State with_slot(const StackSlot& slot) {
  State state = EngineProbe::empty_state();
  state.top().slots.push_back(slot);
  return state;
}
StackSlot bytes(ByteKind kind) {
  StackSlot slot;
  slot.bytes.fill(kind);
  return slot;
}
StackSlot spill(const Reg& reg) {
  StackSlot slot = bytes(ByteKind::kSpill);
  slot.reg = reg;
  return slot;
}

TEST(Covers, APreciseNumberOnlyWhatItIncludes) {
  EngineProbe probe;
  ASSERT_TRUE(probe.is_ready());
  EXPECT_TRUE(probe.covers(with(6, number(0, 10)), with(6, number(2, 3))));
  EXPECT_FALSE(probe.covers(with(6, number(2, 3)), with(6, number(0, 10))));
}

TEST(Covers, ANumberThatNothingReliedOnAnyNumberButInLoopsUnderWay) {
  EngineProbe probe;
  const State older = with(6, number(2, 3, false));
  EXPECT_TRUE(probe.covers(older, with(6, number(0, 10))));
  EXPECT_FALSE(probe.covers(older, with(6, number(0, 10)), Exactness::kRangeWithin));
  EXPECT_TRUE(probe.covers(older, with(6, number(3, 3)), Exactness::kRangeWithin));
}

TEST(Covers, WhatWasNeverWrittenAnythingAndNothingElseThat) {
  EngineProbe probe;
  EXPECT_TRUE(probe.covers(EngineProbe::empty_state(), with(6, number(1, 1))));
  EXPECT_FALSE(probe.covers(with(6, number(0, 10, false)), EngineProbe::empty_state()));
  EXPECT_FALSE(probe.covers(with(6, Reg::unknown()), with(6, Reg::pointer(RegKind::kCtx))));
}

TEST(Covers, LinkedNumbersOnlyLinkedOnes) {
  EngineProbe probe;
  State older = with(6, number(0, 10, true, 5));
  older.top().regs[7] = number(0, 10, true, 5);
  State linked = with(6, number(1, 9, true, 8));
  linked.top().regs[7] = number(1, 9, true, 8);
  State apart = linked;
  apart.top().regs[7].id = 9;
  State none = linked;
  none.top().regs[6].id = none.top().regs[7].id = 0;
  EXPECT_TRUE(probe.covers(older, linked));
  EXPECT_FALSE(probe.covers(older, apart));
  EXPECT_FALSE(probe.covers(older, none));
  EXPECT_TRUE(probe.covers(none, linked)) << "links that the older did not know do no harm";
}

TEST(Covers, APacketPointerOneBehindWhichMoreIsKnownToBe) {
  EngineProbe probe;
  Reg packet = Reg::pointer(RegKind::kPacket);
  packet.size = 14;
  Reg more = packet;
  more.size = 34;
  EXPECT_TRUE(probe.covers(with(6, packet), with(6, more)));
  EXPECT_FALSE(probe.covers(with(6, more), with(6, packet)));
}

TEST(Covers, APointerNeitherAnotherOffsetNorOneThatMayBeNull) {
  EngineProbe probe;
  Reg value = Reg::pointer(RegKind::kMapValue, 1);
  Reg moved = value;
  moved.off = 8;
  Reg maybe = Reg::pointer(RegKind::kMapValue, 1, kOrNull);
  maybe.id = 3;
  EXPECT_TRUE(probe.covers(with(6, value), with(6, value)));
  EXPECT_FALSE(probe.covers(with(6, value), with(6, moved)));
  EXPECT_FALSE(probe.covers(with(6, value), with(6, maybe)));
}

TEST(Covers, OnlyWhoHoldsTheSameReferences) {
  EngineProbe probe;
  State held = EngineProbe::empty_state();
  held.refs.push_back({1, RefKind::kPointer, 0, 0, 131});
  State other = held;
  other.refs[0].id = 2;
  State lock = held;
  lock.refs[0].kind = RefKind::kLock;
  EXPECT_TRUE(probe.covers(held, other)) << "ids are names";
  EXPECT_FALSE(probe.covers(held, lock));
  EXPECT_FALSE(probe.covers(held, EngineProbe::empty_state()));
  EXPECT_FALSE(probe.covers(EngineProbe::empty_state(), held));
}

TEST(Covers, StackBytesThatAreReadTheSameWay) {
  EngineProbe probe;
  const State misc = with_slot(bytes(ByteKind::kMisc));
  const State zero = with_slot(bytes(ByteKind::kZero));
  const State pointer = with_slot(spill(Reg::pointer(RegKind::kCtx)));
  EXPECT_TRUE(probe.covers(misc, zero));
  EXPECT_FALSE(probe.covers(zero, misc));
  EXPECT_FALSE(probe.covers(misc, pointer)) << "a pointer cannot be read in parts";
  EXPECT_FALSE(probe.covers(pointer, misc));
  EXPECT_TRUE(probe.covers(with_slot(bytes(ByteKind::kInvalid)), pointer));
}

TEST(Covers, ASpilledNumberPlainBytesWhereNothingReliedOnIt) {
  EngineProbe probe;
  const State misc = with_slot(bytes(ByteKind::kMisc));
  EXPECT_TRUE(probe.covers(with_slot(spill(number(1, 2, false))), misc));
  EXPECT_FALSE(probe.covers(with_slot(spill(number(1, 2, true))), misc));
}

TEST(Covers, ASlotThatIsReadNoMoreWhateverItHolds) {
  EngineProbe probe;
  probe.slot_is_dead(0);
  const State zero = with_slot(bytes(ByteKind::kZero));
  const State misc = with_slot(bytes(ByteKind::kMisc));
  EXPECT_TRUE(probe.covers(zero, misc));
  EXPECT_FALSE(probe.covers(zero, misc, Exactness::kRangeWithin)) << "not in a loop under way";
  EXPECT_FALSE(probe.covers(with_slot(bytes(ByteKind::kDynptr)), misc)) << "nor a dynptr";
}

TEST(Covers, ACallbackWithAtLeastAsManyRoundsBehindIt) {
  EngineProbe probe;
  State early = EngineProbe::empty_state();
  State late = early;
  late.top().callback_depth = 3;
  EXPECT_TRUE(probe.covers(early, late));
  EXPECT_FALSE(probe.covers(late, early));
}

TEST(Covers, InStrictModeNoStackThatWasNeverWritten) {
  EngineProbe strict(true);
  EngineProbe plain;
  const State misc = with_slot(bytes(ByteKind::kMisc));
  const State invalid = with_slot(bytes(ByteKind::kInvalid));
  EXPECT_FALSE(strict.covers(misc, invalid));
  EXPECT_TRUE(plain.covers(misc, invalid));
}

}  // namespace
}  // namespace bpftime
