#include "broker/lane_table.hpp"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

namespace bpftime {
namespace {

TEST(LaneCount, IsAMultipleOf64WithAtLeast32ToSpare) {
  EXPECT_EQ(lane_count(1), 64U);
  EXPECT_EQ(lane_count(2), 64U);
  EXPECT_EQ(lane_count(32), 64U);
  EXPECT_EQ(lane_count(33), 128U);
  for (uint32_t cpus = 1; cpus < 5000; cpus++) {
    EXPECT_EQ(lane_count(cpus) % 64, 0U);
    EXPECT_GE(lane_count(cpus), cpus + kLeastSpillLanes);
  }
}

TEST(LaneTable, FreesWhatOneProcessHeldAndNothingElse) {
  auto table = LaneTable::create(2);
  ASSERT_TRUE(table);
  auto* const words = static_cast<LaneWord*>(
      ::mmap(nullptr, table->bytes(), PROT_READ | PROT_WRITE, MAP_SHARED, table->fd(), 0));
  ASSERT_NE(words, MAP_FAILED);
  words[0].owner = 1000;
  words[1].owner = 1001;
  words[63].owner = 1000;
  EXPECT_EQ(table->free_of(OwnerId{0}), 0U);
  EXPECT_EQ(table->free_of(OwnerId{1000}), 2U);
  EXPECT_EQ(words[0].owner, 0U);
  EXPECT_EQ(words[1].owner, 1001U);
  EXPECT_EQ(words[63].owner, 0U);
  EXPECT_EQ(table->free_of(OwnerId{1000}), 0U);
  ::munmap(words, table->bytes());
}

TEST(LaneTable, CannotBeMadeSmallerByWhoMapsIt) {
  auto table = LaneTable::create(2);
  ASSERT_TRUE(table);
  EXPECT_NE(::ftruncate(table->fd(), 0), 0);
}

}  // namespace
}  // namespace bpftime
