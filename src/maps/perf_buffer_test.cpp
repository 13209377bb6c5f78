#include "maps/perf_buffer.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <map>

#include "maps/testing/ring_reader.hpp"
#include "maps/testing/test_map.hpp"

namespace bpftime {
namespace {

using testing::PerfReader;
using testing::TestMap;
using testing::this_thread;

// Four indexes, two CPUs; buffer i is at index i and of CPU i.
struct Buffers {
  explicit Buffers(uint32_t bytes, uint32_t wakeup_events = 1, uint32_t watermark = 0)
      : map(MapSpec{BPF_MAP_TYPE_PERF_EVENT_ARRAY, 0, 4, 4, 4, 2, 0}) {
    for (uint32_t i = 0; i < 2; i++) {
      EXPECT_TRUE(perf_prepare(map.map, i, {100 + i, i, bytes, wakeup_events, watermark}));
      perf_set_slot(map.map, i, i);
    }
  }
  PerfReader reader(uint32_t index) {
    return PerfReader(map.base() + perf_buffer_offset(map.map, index));
  }
  int put(const void* data, uint64_t size, uint64_t flags = BPF_F_CURRENT_CPU, uint32_t cpu = 0) {
    Wake wake = Wake::kNothing;
    const int result = perf_output(map.map, who, cpu, flags, data, size, &wake);
    told = wake == Wake::kTellTheBroker;
    return result;
  }
  TestMap map;
  LockContext who = this_thread();
  bool told = false;
};

const auto kNoLost = [](uint64_t, uint64_t) { FAIL() << "lost"; };
const auto kIgnore = [](const char*, uint32_t) {};

TEST(PerfBuffer, EverySizeOverAThousandLaps) {
  Buffers b(8192);
  PerfReader reader = b.reader(0);
  std::string data(4096, 0);
  uint64_t seen = 0;
  uint64_t wrong = 0;
  uint64_t written = 0;
  const auto size_of = [](uint64_t number) { return number * 1237 % 4096 + 1; };
  const auto check = [&](const char* at, uint32_t size) {
    const uint64_t want = size_of(seen);
    // Kernel: the size that a reader is told counts the padding.
    wrong += size != (want + 4 + 7) / 8 * 8 - 4 ? 1 : 0;
    for (uint64_t i = 0; i < size; i++) {
      wrong += at[i] != (i < want ? static_cast<char>(seen + i * 3 + 1) : 0) ? 1 : 0;
    }
    seen++;
  };
  for (uint64_t bytes = 0; bytes < 1001ULL * 8192;) {
    const uint64_t size = size_of(written);
    for (uint64_t i = 0; i < size; i++) {
      data[i] = static_cast<char>(written + i * 3 + 1);
    }
    ASSERT_EQ(b.put(data.data(), size), 0);
    written++;
    bytes += size;
    // Two of the largest do not fit.
    if (written % 2 == 0 || size + size_of(written) > 8000) {
      ASSERT_NE(reader.read(check, kNoLost), ~0U);
    }
  }
  reader.read(check, kNoLost);
  EXPECT_EQ(seen, written);
  EXPECT_EQ(wrong, 0U);
}

TEST(PerfBuffer, IndexAndFlagsAreTheKernels) {
  Buffers b(4096);
  EXPECT_EQ(b.put("x", 1, BPF_F_CURRENT_CPU, 1), 0);
  EXPECT_EQ(b.reader(1).read(kIgnore, kNoLost), 1U);
  EXPECT_EQ(b.put("x", 1, 1, 1), 0);
  EXPECT_EQ(b.put("x", 1, 1, 0), -EOPNOTSUPP);
  EXPECT_EQ(b.put("x", 1, 2, 0), -ENOENT);
  EXPECT_EQ(b.put("x", 1, 4, 0), -E2BIG);
  EXPECT_EQ(b.put("x", 1, 1ULL << 32, 0), -EINVAL);
  EXPECT_EQ(b.put("x", 1ULL << 16, 0, 0), -E2BIG);
  perf_set_slot(b.map.map, 0, -1);
  EXPECT_EQ(b.put("x", 1), -ENOENT);
  uint32_t key = 0;
  EXPECT_EQ(map_sys_lookup(b.map.map, &key, &key), -524);
  EXPECT_EQ(map_next_key(b.map.map, nullptr, &key), 0);
  EXPECT_EQ(key, 0U);
  key = 3;
  EXPECT_EQ(map_next_key(b.map.map, &key, &key), -ENOENT);
}

TEST(PerfBuffer, WhatFindsNoRoomIsToldOf) {
  Buffers b(4096);
  int taken = 0;
  while (b.put("1234", 4) == 0) {
    taken++;
  }
  EXPECT_EQ(taken, 255);  // 16 bytes each, and a byte stays free
  EXPECT_EQ(b.put("1234", 4), -ENOSPC);
  EXPECT_EQ(perf_buffer(b.map.map, 0).dropped, 2U);
  PerfReader reader = b.reader(0);
  EXPECT_EQ(reader.read(kIgnore, kNoLost), 255U);
  EXPECT_EQ(b.put("1234", 4), 0);
  uint64_t lost = 0;
  uint64_t id = 0;
  EXPECT_EQ(reader.read(kIgnore,
                        [&](uint64_t who, uint64_t n) {
                          id = who;
                          lost = n;
                        }),
            2U);
  EXPECT_EQ(lost, 2U);
  EXPECT_EQ(id, 100U);
  EXPECT_EQ(b.put("1234", 4), 0);
  EXPECT_EQ(reader.read(kIgnore, kNoLost), 1U);
}

TEST(PerfBuffer, WakesByEventsAndByWatermark) {
  Buffers events(4096, 3);
  WakeWords& wake = perf_wake_words(events.map.map);
  wake.wants_byte = 1;
  const auto woken = [](Buffers& b) {
    EXPECT_EQ(b.put("1234", 4), 0);
    const bool readable = perf_is_readable(b.map.map, 0, true);
    EXPECT_FALSE(perf_is_readable(b.map.map, 0, true));  // said once
    return readable;
  };
  EXPECT_FALSE(woken(events));
  EXPECT_FALSE(woken(events));
  EXPECT_FALSE(events.told);
  EXPECT_TRUE(woken(events));
  EXPECT_TRUE(events.told);
  EXPECT_FALSE(woken(events));

  Buffers bytes(4096, 0, 40);
  EXPECT_FALSE(woken(bytes));
  EXPECT_FALSE(woken(bytes));
  EXPECT_TRUE(woken(bytes));  // 48 bytes
  EXPECT_FALSE(woken(bytes));
  Buffers half(4096, 0, 0);
  int count = 1;
  while (!woken(half)) {
    count++;
  }
  EXPECT_EQ(count, 129);  // more than half of the buffer
}

TEST(PerfBuffer, UnmappedOnesTakeNothing) {
  Buffers b(4096);
  ASSERT_TRUE(perf_prepare(b.map.map, 0, {1, 0, 0, 1, 0}));
  EXPECT_EQ(b.put("1234", 4), -ENOSPC);
  EXPECT_FALSE(perf_prepare(b.map.map, 0, {1, 0, 12288, 1, 0}));
  EXPECT_FALSE(perf_prepare(b.map.map, 0, {1, 0, 1U << 31, 1, 0}));
}

TEST(PerfBuffer, ManyProcessesKilledAtAnyMoment) {
  struct Sample {
    uint64_t producer, number, words[21];
  };
  static_assert(sizeof(Sample) % 8 == 0);
  Buffers b(16384);
  std::map<pid_t, uint32_t> running;
  uint32_t next_owner = 10;
  const auto start = [&] {
    const uint32_t owner = next_owner++;
    const pid_t child = ::fork();
    if (child == 0) {
      ::alarm(60);
      const LockContext me = this_thread(owner);
      Sample sample{};
      sample.producer = owner;
      for (uint64_t number = 1;; number++) {
        sample.number = number;
        const uint64_t words = number % 21;
        for (uint64_t i = 0; i < words; i++) {
          sample.words[i] = number ^ i;
        }
        Wake wake;
        while (perf_output(b.map.map, me, 0, BPF_F_CURRENT_CPU, &sample, 20 + words * 8, &wake) !=
               0) {
          ::sched_yield();
        }
      }
    }
    running[child] = owner;
  };
  for (int i = 0; i < 4; i++) {
    start();
  }
  PerfReader reader = b.reader(0);
  std::map<uint64_t, uint64_t> last;
  uint64_t seen = 0;
  uint64_t wrong = 0;
  const auto check = [&](const char* at, uint32_t size) {
    Sample sample;
    std::memcpy(&sample, at, size < sizeof(sample) ? size : sizeof(sample));
    wrong += sample.number != last[sample.producer] + 1 ? 1 : 0;
    last[sample.producer] = sample.number;
    wrong += size != 20 + sample.number % 21 * 8 ? 1 : 0;
    seen++;
  };
  const auto lost = [](uint64_t, uint64_t) {};
  for (int kills = 0; kills < 150; kills++) {
    const uint64_t until = seen + 200;
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (seen < until) {
      ASSERT_NE(reader.read(check, lost), ~0U);
      ASSERT_LT(std::chrono::steady_clock::now(), end) << "stuck after " << kills << " kills";
    }
    const pid_t pid = running.begin()->first;
    const uint32_t owner = running.begin()->second;
    ::kill(pid, SIGKILL);
    ASSERT_EQ(::waitpid(pid, nullptr, 0), pid);
    running.erase(pid);
    map_ops(b.map.map.code).sweep(b.map.map, b.who, OwnerId{owner});
    start();
  }
  for (const auto& [pid, owner] : running) {
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
  }
  EXPECT_EQ(wrong, 0U);
}

}  // namespace
}  // namespace bpftime
