#include "broker/seen_threads.hpp"

#include <gtest/gtest.h>

namespace bpftime {
namespace {

constexpr pid_t kThread = 10, kOther = 11;

ThreadInside in_hit(pid_t tid, uint64_t hits) { return {tid, 0x1000, "", hits, std::nullopt}; }
ThreadInside interrupted(pid_t tid) { return {tid, 0, "", std::nullopt, std::nullopt}; }

// The look after which both have been outside, look by look.
uint64_t outside_after(const std::vector<std::vector<ThreadInside>>& looks) {
  SeenThreads seen;
  uint64_t number = 0;
  for (const auto& inside : looks) {
    seen = seen_by_look(++number, {kThread, kOther}, inside, seen);
  }
  return std::min(seen.at(kThread).outside, seen.at(kOther).outside);
}

TEST(SeenThreads, OutsideIsSeenAtOnceAndByEachForItself) {
  EXPECT_EQ(outside_after({{}}), 1U);
  EXPECT_EQ(outside_after({{in_hit(kThread, 5)}}), 0U);
  EXPECT_EQ(outside_after({{in_hit(kThread, 5)}, {in_hit(kOther, 7)}}), 1U);
  EXPECT_EQ(outside_after({{}, {in_hit(kThread, 5)}}), 1U);
}

TEST(SeenThreads, OneThatBeganOtherHitsHasBeenOutsideBetween) {
  EXPECT_EQ(outside_after({{in_hit(kThread, 5)}, {in_hit(kThread, 500)}}), 1U);
  EXPECT_EQ(outside_after({{in_hit(kThread, 5)}, {in_hit(kThread, 500)}, {in_hit(kThread, 900)}}),
            2U);
}

// At the first look it may have been on its way to the hit that it is in at the second: in the trampoline that leads
// there, to which it comes back.
TEST(SeenThreads, OneThatGoesOnWithItsHitHasNot) {
  EXPECT_EQ(outside_after({{in_hit(kThread, 5)}, {in_hit(kThread, 5)}}), 0U);
  EXPECT_EQ(outside_after({{in_hit(kThread, 5)}, {in_hit(kThread, 6)}}), 0U);
  EXPECT_EQ(outside_after({{in_hit(kThread, 5)}, {in_hit(kThread, 7)}}), 0U);
}

// What its handler calls is hit as often as it likes; where it was interrupted it comes back to all the same.
TEST(SeenThreads, AHandlersHitsSayNothingOfWhereItInterrupted) {
  EXPECT_EQ(outside_after({{in_hit(kThread, 5)}, {in_hit(kThread, 900), interrupted(kThread)}}),
            0U);
  EXPECT_EQ(outside_after({{in_hit(kThread, 5)}, {interrupted(kThread), in_hit(kThread, 900)}}),
            0U);
  EXPECT_EQ(outside_after({{interrupted(kThread), in_hit(kThread, 5)}, {in_hit(kThread, 900)}}),
            0U);
  EXPECT_EQ(outside_after({{in_hit(kThread, 5), interrupted(kThread)}, {in_hit(kThread, 900)}}),
            0U);
}

TEST(SeenThreads, OneThatIsNotKnownWhichMayBeAny) {
  EXPECT_EQ(outside_after({{interrupted(0)}}), 0U);
  EXPECT_EQ(outside_after({{}, {interrupted(0)}}), 1U);
}

TEST(SeenThreads, ANewOneIsNotTakenForAnother) {
  const SeenThreads first = seen_by_look(1, {kThread}, {}, {});
  const SeenThreads second = seen_by_look(2, {kThread, kOther}, {in_hit(kOther, 900)}, first);
  EXPECT_EQ(second.at(kOther).outside, 0U);
  EXPECT_EQ(second.at(kThread).outside, 2U);
}

}  // namespace
}  // namespace bpftime
