#include <gtest/gtest.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <set>

#include "maps/testing/test_map.hpp"

namespace bpftime {
namespace {

using testing::array_spec;
using testing::TestMap;

TEST(ArrayMap, EveryValueIsThereAndZeroAtFirst) {
  const TestMap t(array_spec(12, 5));
  for (uint64_t i = 0; i < 5; i++) {
    ASSERT_NE(t.lookup(i), nullptr);
    EXPECT_EQ(t.get(i), 0U);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(t.lookup(i)) % 8, 0U);
  }
  EXPECT_EQ(t.lookup(5), nullptr);
  EXPECT_EQ(t.lookup(0xffffffff), nullptr);
}

TEST(ArrayMap, UpdateChecksFlagsAndIndexLikeTheKernel) {
  const TestMap t(array_spec(8, 4));
  EXPECT_EQ(t.update(1, 77), 0);
  EXPECT_EQ(t.get(1), 77U);
  EXPECT_EQ(t.update(1, 78, BPF_EXIST), 0);
  EXPECT_EQ(t.get(1), 78U);
  EXPECT_EQ(t.update(1, 79, BPF_NOEXIST), -EEXIST);
  EXPECT_EQ(t.update(4, 79), -E2BIG);
  EXPECT_EQ(t.update(4, 79, BPF_NOEXIST), -E2BIG);
  EXPECT_EQ(t.update(1, 79, 3), -EINVAL);
  EXPECT_EQ(t.update(1, 79, BPF_F_LOCK), -EINVAL);
  EXPECT_EQ(t.get(1), 78U);
}

TEST(ArrayMap, EraseIsEinval) {
  const TestMap t(array_spec(8, 4));
  EXPECT_EQ(t.erase(1), -EINVAL);
}

TEST(ArrayMap, NextKeyCountsUpAndStartsAgainAfterAnUnknownKey) {
  const TestMap t(array_spec(8, 3));
  EXPECT_EQ(t.keys(), (std::vector<uint64_t>{0, 1, 2}));
  uint32_t next = 9;
  const uint32_t unknown = 100;
  EXPECT_EQ(map_next_key(t.map, &unknown, &next), 0);
  EXPECT_EQ(next, 0U);
  const uint32_t last = 2;
  EXPECT_EQ(map_next_key(t.map, &last, &next), -ENOENT);
}

TEST(ArrayMap, SysLookupCopiesAndKnowsNoFlags) {
  const TestMap t(array_spec(8, 3));
  ASSERT_EQ(t.update(2, 5), 0);
  uint64_t value = 0;
  uint32_t key = 2;
  EXPECT_EQ(map_sys_lookup(t.map, &key, &value), 0);
  EXPECT_EQ(value, 5U);
  EXPECT_EQ(map_sys_lookup(t.map, &key, &value, BPF_F_LOCK), -EINVAL);
  key = 3;
  EXPECT_EQ(map_sys_lookup(t.map, &key, &value), -ENOENT);
}

// No lock, no journal: what stands of an update when its process is killed is the words that it had stored.
TEST(ArrayMap, AnUpdateThatIsKilledLeavesEachWordOldOrNewAndNothingElseTouched) {
  const TestMap t(array_spec(20, 3));
  const std::array<uint32_t, 5> old{1, 2, 3, 4, 5}, wanted{11, 12, 13, 14, 15};
  const uint32_t key = 1;
  ASSERT_EQ(map_update(t.map, testing::this_thread(), &key, old.data(), 0), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
    ::raise(SIGSTOP);
    (void)map_update(t.map, testing::this_thread(), &key, wanted.data(), 0);
    ::raise(SIGSTOP);
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  std::set<std::array<uint32_t, 5>> seen;
  do {
    ASSERT_EQ(::ptrace(PTRACE_SINGLESTEP, child, nullptr, nullptr), 0);
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSTOPPED(status));
    std::array<uint32_t, 5> now{};
    std::memcpy(now.data(), t.lookup(1), 20);
    seen.insert(now);
    for (const size_t word : {0, 2}) {  // of 8 bytes
      ASSERT_EQ(now[word] == old[word], now[word + 1] == old[word + 1]);
    }
    ASSERT_EQ(t.get(0), 0U);
    ASSERT_EQ(t.get(2), 0U);
  } while (seen.size() < 2 || WSTOPSIG(status) != SIGSTOP);
  ::kill(child, SIGKILL);
  ::waitpid(child, &status, 0);
  EXPECT_TRUE(seen.contains(wanted));
  EXPECT_GT(seen.size(), 2U);  // half an update is what a kill may leave: docs/parity.md
}

TEST(ArrayMap, MmapableValuesStartOnAPage) {
  const TestMap t(array_spec(7732, 1, BPF_F_MMAPABLE));
  EXPECT_EQ((t.map.values - t.base()) % 4096, 0);
  EXPECT_GE(t.bytes() - static_cast<uint64_t>(t.map.values - t.base()), 8192U);
}

TEST(Region, AHeadThatDoesNotFitItsSpecIsRefused) {
  const MapSpec spec = array_spec(8, 4);
  const TestMap t(spec);
  ASSERT_TRUE(open_region(t.base(), t.bytes(), spec));
  MapSpec other = spec;
  other.max_entries = 5;
  EXPECT_FALSE(open_region(t.base(), t.bytes(), other));
  EXPECT_FALSE(open_region(t.base(), t.bytes() - 1, spec));
  t.base()[0] = std::byte{0};
  EXPECT_FALSE(open_region(t.base(), t.bytes(), spec));
}

TEST(Region, AViewIsRebasedWithAllItsPointers) {
  const TestMap t(testing::hash_spec(8, 8, 100));
  const MapView there = rebased(t.map, 0x10000);
  EXPECT_EQ(reinterpret_cast<uint64_t>(there.base), 0x10000U);
  EXPECT_EQ(there.values - there.base, t.map.values - t.map.base);
  EXPECT_EQ(there.table - there.base, t.map.table - t.map.base);
  EXPECT_EQ(there.used - there.base, t.map.used - t.map.base);
  EXPECT_EQ(there.full - there.base, t.map.full - t.map.base);
}

TEST(Region, TooLargeIsEnomem) {
  const auto bytes = region_bytes(array_spec(1 << 30, 1 << 30));
  ASSERT_FALSE(bytes);
  EXPECT_EQ(bytes.error().code, ENOMEM);
}

}  // namespace
}  // namespace bpftime
