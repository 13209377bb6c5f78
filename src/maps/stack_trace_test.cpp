#include "maps/stack_trace.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <thread>
#include <vector>

#include "maps/testing/test_map.hpp"

namespace bpftime {
namespace {

using testing::TestMap;
using testing::this_thread;

MapSpec stack_spec(uint32_t frames, uint32_t entries, uint32_t flags = 0) {
  const uint32_t frame = (flags & BPF_F_STACK_BUILD_ID) != 0 ? 32 : 8;
  return MapSpec{BPF_MAP_TYPE_STACK_TRACE, flags, 4, frames * frame, entries, 1, 0};
}

const BuildIdTable* build_ids = nullptr;

int64_t put(const TestMap& map, const std::vector<uint64_t>& ips, uint64_t flags = 0) {
  return stack_id(map.map, this_thread(), build_ids, ips.data(), static_cast<uint32_t>(ips.size()),
                  flags);
}

std::vector<uint64_t> get(const TestMap& map, int64_t id) {
  std::vector<uint64_t> value(map.map.spec.value_size / 8, ~0ULL);
  const auto key = static_cast<uint32_t>(id);
  EXPECT_EQ(map_sys_lookup(map.map, &key, value.data()), 0);
  return value;
}

TEST(StackTrace, TheSameStackHasTheSameId) {
  const TestMap map(stack_spec(5, 1000));
  const int64_t id = put(map, {1, 2, 3});
  ASSERT_GE(id, 0);
  EXPECT_LT(id, 1024);
  EXPECT_EQ(put(map, {1, 2, 3}), id);
  EXPECT_EQ(get(map, id), (std::vector<uint64_t>{1, 2, 3, 0, 0}));
  EXPECT_EQ(put(map, {1, 2, 3, 4, 5, 6}), -EINVAL);
}

// One id for every stack.
TEST(StackTrace, AnotherStackUnderAnIdIsEexistUnlessItMayBeReplaced) {
  const TestMap map(stack_spec(4, 1));
  ASSERT_EQ(put(map, {1, 2}), 0);
  EXPECT_EQ(put(map, {1, 3}), -EEXIST);
  EXPECT_EQ(put(map, {1, 2, 0}), -EEXIST);
  EXPECT_EQ(get(map, 0), (std::vector<uint64_t>{1, 2, 0, 0}));
  EXPECT_EQ(put(map, {7}, BPF_F_REUSE_STACKID), 0);
  EXPECT_EQ(get(map, 0), (std::vector<uint64_t>{7, 0, 0, 0}));
}

TEST(StackTrace, DeleteIterationAndErrnos) {
  const TestMap map(stack_spec(2, 64));
  const uint32_t behind = 64;
  std::vector<uint64_t> value(2);
  EXPECT_EQ(map_sys_lookup(map.map, &behind, value.data()), -ENOENT);
  EXPECT_EQ(map_erase(map.map, this_thread(), &behind), -E2BIG);
  std::set<uint64_t> ids;
  for (uint64_t n = 1; n <= 10; n++) {
    const int64_t id = put(map, {n, n * 77}, BPF_F_REUSE_STACKID);
    ASSERT_GE(id, 0);
    ids.insert(static_cast<uint64_t>(id));
  }
  const auto keys = map.keys();
  EXPECT_EQ(std::set<uint64_t>(keys.begin(), keys.end()), ids);
  const auto first = static_cast<uint32_t>(*ids.begin());
  EXPECT_EQ(map_update(map.map, this_thread(), &first, value.data(), BPF_ANY), -EINVAL);
  EXPECT_EQ(map_lookup(map.map, &first), nullptr);
  EXPECT_EQ(map_erase(map.map, this_thread(), &first), 0);
  EXPECT_EQ(map_erase(map.map, this_thread(), &first), -ENOENT);
  EXPECT_EQ(map_sys_lookup(map.map, &first, value.data()), -ENOENT);
}

TEST(StackTrace, InBuildIdModeAddressesAreMarkedAsSuch) {
  const TestMap map(stack_spec(3, 16, BPF_F_STACK_BUILD_ID));
  const int64_t id = put(map, {0x1234, 0x5678});
  ASSERT_GE(id, 0);
  EXPECT_EQ(put(map, {0x1234, 0x5678}), id);
  bpf_stack_build_id frames[3];
  const auto key = static_cast<uint32_t>(id);
  ASSERT_EQ(map_sys_lookup(map.map, &key, frames), 0);
  EXPECT_EQ(frames[0].status, BPF_STACK_BUILD_ID_IP);
  EXPECT_EQ(frames[0].ip, 0x1234U);
  EXPECT_EQ(frames[1].ip, 0x5678U);
  EXPECT_EQ(frames[2].status, BPF_STACK_BUILD_ID_EMPTY);
}

TEST(StackTrace, InBuildIdModeAFileIsNamedByItsBuildIdAndTheOffset) {
  struct {
    BuildIdTable head{2};
    BuildIdRow rows[2] = {{0x1000, 0x3000, 0x5000, {1, 2, 3}, 0}, {0x4000, 0x5000, 0, {9}, 0}};
  } table;
  const TestMap map(stack_spec(4, 16, BPF_F_STACK_BUILD_ID));
  build_ids = &table.head;
  const int64_t id = put(map, {0x1234, 0x3000, 0x4fff, 0xfff});
  EXPECT_EQ(put(map, {0x1234, 0x3000, 0x4fff, 0xfff}), id);
  build_ids = nullptr;
  ASSERT_GE(id, 0);
  bpf_stack_build_id frames[4];
  const auto key = static_cast<uint32_t>(id);
  ASSERT_EQ(map_sys_lookup(map.map, &key, frames), 0);
  EXPECT_EQ(frames[0].status, BPF_STACK_BUILD_ID_VALID);
  EXPECT_EQ(frames[0].offset, 0x5234U);
  EXPECT_EQ(frames[0].build_id[2], 3);
  EXPECT_EQ(frames[0].build_id[19], 0);
  EXPECT_EQ(frames[1].status, BPF_STACK_BUILD_ID_IP);
  EXPECT_EQ(frames[2].status, BPF_STACK_BUILD_ID_VALID);
  EXPECT_EQ(frames[2].offset, 0xfffU);
  EXPECT_EQ(frames[2].build_id[0], 9);
  EXPECT_EQ(frames[3].status, BPF_STACK_BUILD_ID_IP);
  EXPECT_EQ(frames[3].ip, 0xfffU);
}

// Stacks that fight for one id: whoever reads meets one of them whole.
TEST(StackTrace, ReadersMeetWholeStacks) {
  const TestMap map(stack_spec(16, 1));
  std::atomic<bool> stop{false};
  std::vector<std::thread> writers;
  for (uint64_t n = 1; n <= 3; n++) {
    writers.emplace_back([&, n] {
      const std::vector<uint64_t> stack(16, n);
      while (!stop) {
        EXPECT_EQ(put(map, stack, BPF_F_REUSE_STACKID), 0);
      }
    });
  }
  const uint32_t key = 0;
  for (int i = 0; i < 20000;) {
    uint64_t value[16];
    const auto who = this_thread();
    const int result = map_sys_lookup(map.map, &key, value, 0, &who);
    if (result == 0) {
      for (const uint64_t word : value) {
        ASSERT_EQ(word, value[0]);
      }
      i++;
    }
  }
  stop = true;
  for (std::thread& writer : writers) {
    writer.join();
  }
}

// Killed while they replace stacks: the id goes on to work, and nobody meets half a stack.
TEST(StackTrace, WritersMayBeKilledAtAnyMoment) {
  const TestMap map(stack_spec(64, 1));
  for (int round = 0; round < 30; round++) {
    int ready[2];
    ASSERT_EQ(::pipe(ready), 0);
    const pid_t child = ::fork();
    if (child == 0) {
      const std::vector<uint64_t> one(64, 1);
      const std::vector<uint64_t> other(60, 2);
      for (bool said = false;; said = true) {
        (void)put(map, one, BPF_F_REUSE_STACKID);
        (void)put(map, other, BPF_F_REUSE_STACKID);
        if (!said) {
          (void)!::write(ready[1], "x", 1);
        }
      }
    }
    char byte;
    ASSERT_EQ(::read(ready[0], &byte, 1), 1);
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    ::close(ready[0]);
    ::close(ready[1]);
    ASSERT_EQ(put(map, std::vector<uint64_t>(64, 3), BPF_F_REUSE_STACKID), 0);
    EXPECT_EQ(get(map, 0), std::vector<uint64_t>(64, 3));
  }
}

}  // namespace
}  // namespace bpftime
