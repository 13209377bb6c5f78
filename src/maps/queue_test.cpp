#include "maps/queue.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <thread>

#include "maps/testing/test_map.hpp"

namespace bpftime::testing {
namespace {

MapSpec queue_spec(uint32_t type, uint32_t entries, uint32_t value_size = 8) {
  return MapSpec{type, 0, 0, value_size, entries, 1, 0};
}
int push(const TestMap& m, uint64_t value, uint64_t flags = BPF_ANY) {
  return queue_push(m.map, this_thread(), &value, flags);
}
int64_t pop(const TestMap& m) {
  uint64_t value = 0;
  const int error = queue_look(m.map, this_thread(), &value, true);
  return error != 0 ? error : static_cast<int64_t>(value);
}

TEST(Queue, GivesTheOldestFirstAndAStackTheNewest) {
  const TestMap queue(queue_spec(BPF_MAP_TYPE_QUEUE, 3)), stack(queue_spec(BPF_MAP_TYPE_STACK, 3));
  for (uint64_t i = 1; i <= 3; i++) {
    EXPECT_EQ(push(queue, i), 0);
    EXPECT_EQ(push(stack, i), 0);
  }
  uint64_t value = 0;
  EXPECT_EQ(queue_look(queue.map, this_thread(), &value, false), 0);
  EXPECT_EQ(value, 1U);
  for (int i = 1; i <= 3; i++) {
    EXPECT_EQ(pop(queue), i);
    EXPECT_EQ(pop(stack), 4 - i);
  }
  EXPECT_EQ(pop(queue), -ENOENT);
  EXPECT_EQ(pop(stack), -ENOENT);
}

TEST(Queue, FullIsE2bigAndWithExistTheOldestGoes) {
  for (const uint32_t type : {BPF_MAP_TYPE_QUEUE, BPF_MAP_TYPE_STACK}) {
    const TestMap m(queue_spec(type, 2));
    EXPECT_EQ(push(m, 1), 0);
    EXPECT_EQ(push(m, 2), 0);
    EXPECT_EQ(push(m, 3), -E2BIG);
    EXPECT_EQ(push(m, 3, BPF_NOEXIST), -EINVAL);
    EXPECT_EQ(push(m, 3, BPF_EXIST), 0);
    EXPECT_EQ(pop(m), type == BPF_MAP_TYPE_QUEUE ? 2 : 3);
    EXPECT_EQ(pop(m), type == BPF_MAP_TYPE_QUEUE ? 3 : 2);
    EXPECT_EQ(pop(m), -ENOENT);
  }
}

TEST(Queue, ScribbledNumbersMeanEmptyAndStayInside) {
  const TestMap m(queue_spec(BPF_MAP_TYPE_STACK, 5));
  auto& state = *reinterpret_cast<QueueState*>(m.map.table);
  state.head = 3;
  state.tail = 1ULL << 60;
  EXPECT_EQ(pop(m), -ENOENT);
  state.head = ~0ULL;
  state.tail = ~0ULL;
  EXPECT_EQ(push(m, 9), 0);
  EXPECT_EQ(pop(m), 9);
}

TEST(Queue, ManyThreadsLoseAndDoubleNothing) {
  const TestMap m(queue_spec(BPF_MAP_TYPE_QUEUE, 64));
  constexpr uint64_t kEach = 5000;
  constexpr int kThreads = 4;
  std::atomic<uint64_t> pushed_sum{0}, popped_sum{0}, popped{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; t++) {
    threads.emplace_back([&, t] {
      for (uint64_t i = 0; i < kEach; i++) {
        const uint64_t value = static_cast<uint64_t>(t) * kEach + i + 1;
        for (int error = push(m, value); error != 0; error = push(m, value)) {
          ASSERT_TRUE(error == -E2BIG || error == -EBUSY);
          std::this_thread::yield();
        }
        pushed_sum += value;
      }
    });
    threads.emplace_back([&] {
      while (popped < kThreads * kEach) {
        if (const int64_t value = pop(m); value > 0) {
          popped_sum += static_cast<uint64_t>(value);
          popped++;
        } else {
          std::this_thread::yield();
        }
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(popped_sum, pushed_sum);
  EXPECT_EQ(pop(m), -ENOENT);
}

TEST(Queue, ALockOfTheDeadIsFreedBySweep) {
  const TestMap m(queue_spec(BPF_MAP_TYPE_QUEUE, 4));
  EXPECT_EQ(push(m, 1), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    void* saved = nullptr;
    LockContext who = this_thread(7);
    who.robust = nullptr;  // the kernel marks nothing
    ::_exit(lock(reinterpret_cast<QueueState*>(m.map.table)->lock, who, &saved) == Locked::kTaken
                ? 0
                : 1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  ASSERT_EQ(status, 0);
  EXPECT_EQ(push(m, 2), -EBUSY);
  EXPECT_EQ(map_ops(m.map.code).sweep(m.map, this_thread(), OwnerId{7}), 1U);
  EXPECT_EQ(push(m, 2), 0);
  EXPECT_EQ(pop(m), 1);
}

}  // namespace
}  // namespace bpftime::testing
