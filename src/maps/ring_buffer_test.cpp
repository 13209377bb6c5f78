#include "maps/ring_buffer.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <map>
#include <thread>

#include "maps/testing/ring_reader.hpp"
#include "maps/testing/test_map.hpp"

namespace bpftime {
namespace {

using testing::RingReader;
using testing::TestMap;
using testing::this_thread;

MapSpec ring_spec(uint32_t bytes) { return MapSpec{BPF_MAP_TYPE_RINGBUF, 0, 0, 0, bytes, 1, 0}; }

struct Ring {
  explicit Ring(uint32_t bytes) : map(ring_spec(bytes)) {}
  RingReader reader(RingReader::Wrap wrap = RingReader::Wrap::kContiguous) {
    return {map.base(), map.base() + 4096, map.map.spec.max_entries, wrap};
  }
  std::byte* reserve(uint64_t size) { return ring_reserve(map.map, who, size); }
  Wake commit(std::byte* sample, uint64_t size, uint64_t flags = 0,
              RingEnd how = RingEnd::kSubmit) {
    return ring_commit(map.map, who.owner, sample, size, flags, how);
  }
  bool put(const void* data, uint64_t size, uint64_t flags = 0) {
    std::byte* const at = reserve(size);
    if (at == nullptr) {
      return false;
    }
    std::memcpy(at, data, size);
    commit(at, size, flags);
    return true;
  }
  TestMap map;
  LockContext who = this_thread();
};

char byte_of(uint64_t number, uint64_t i) { return static_cast<char>(number * 131 + i * 7 + 1); }

// Every size from 1 to 4,096 over more than a thousand laps.
void thousand_laps(RingReader::Wrap wrap) {
  Ring ring(8192);
  RingReader reader = ring.reader(wrap);
  std::string sample(4096, 0);
  uint64_t written = 0;
  uint64_t seen = 0;
  uint64_t bytes = 0;
  uint64_t wrong = 0;
  const auto size_of = [](uint64_t number) { return number * 1237 % 4096 + 1; };
  const auto check = [&](const char* at, uint32_t size) {
    wrong += size != size_of(seen) ? 1 : 0;
    for (uint32_t i = 0; i < size; i++) {
      wrong += at[i] != byte_of(seen, i) ? 1 : 0;
    }
    seen++;
  };
  while (bytes < 1001ULL * 8192) {
    const uint64_t size = size_of(written);
    for (uint64_t i = 0; i < size; i++) {
      sample[i] = byte_of(written, i);
    }
    while (!ring.put(sample.data(), size)) {
      ASSERT_NE(reader.read(check, 1), 0U);
    }
    written++;
    bytes += size;
    if (written % 3 == 0) {
      reader.read(check);
    }
  }
  reader.read(check);
  EXPECT_EQ(seen, written);
  EXPECT_EQ(wrong, 0U);
}

TEST(RingBuffer, EverySizeOverAThousandLaps) { thousand_laps(RingReader::Wrap::kContiguous); }

// cilium/ebpf masks the position again behind the head of a record.
TEST(RingBuffer, AReaderThatMasksBehindTheHeadSeesTheSame) {
  thousand_laps(RingReader::Wrap::kMaskAfterHead);
}

TEST(RingBuffer, HeadsAreTheKernels) {
  Ring ring(4096);
  ASSERT_TRUE(ring.put("12345", 5));
  std::byte* const open = ring.reserve(9);
  ASSERT_NE(open, nullptr);
  const std::byte* const data = ring.map.base() + 8192;
  uint32_t words[2];
  std::memcpy(words, data, 8);
  EXPECT_EQ(words[0], 5U);
  EXPECT_EQ(words[1], 3U);  // pages from the kernel's own head
  std::memcpy(words, data + 16, 8);
  EXPECT_EQ(words[0], 9U | BPF_RINGBUF_BUSY_BIT);
  EXPECT_EQ(ring_query(ring.map.map, BPF_RB_PROD_POS), 40U);
  EXPECT_EQ(ring_query(ring.map.map, BPF_RB_CONS_POS), 0U);
  EXPECT_EQ(ring_query(ring.map.map, BPF_RB_AVAIL_DATA), 40U);
  EXPECT_EQ(ring_query(ring.map.map, BPF_RB_RING_SIZE), 4096U);
  EXPECT_EQ(ring_query(ring.map.map, 4), 0U);
  ring.commit(open, 9, 0, RingEnd::kDiscard);
  std::memcpy(words, data + 16, 8);
  EXPECT_EQ(words[0], 9U | BPF_RINGBUF_DISCARD_BIT);
  EXPECT_EQ(words[1], 3U);
}

TEST(RingBuffer, AFullOneRefusesAndCounts) {
  Ring ring(4096);
  EXPECT_EQ(ring.reserve(4096), nullptr);
  EXPECT_EQ(ring_dropped(ring.map.map), 0U);  // could never fit
  int taken = 0;
  while (ring.put("123456", 6)) {
    taken++;
  }
  EXPECT_EQ(taken, 255);  // 16 bytes each, and a byte stays free
  EXPECT_EQ(ring_dropped(ring.map.map), 1U);
  EXPECT_EQ(ring.reader().read([](const char*, uint32_t) {}, 1), 1U);
  EXPECT_TRUE(ring.put("123456", 6));
  EXPECT_FALSE(ring.put("123456", 6));
}

// Kernel: __bpf_ringbuf_reserve: the reader may be far, but an open record holds everything behind it.
TEST(RingBuffer, AnOpenRecordHoldsTheSpaceBehindIt) {
  Ring ring(4096);
  std::byte* const open = ring.reserve(8);
  int taken = 0;
  while (ring.put("12345678", 8)) {
    taken++;
  }
  EXPECT_EQ(taken, 254);
  EXPECT_EQ(ring.reader().read([](const char*, uint32_t) {}), 0U);
  // A reader that moved on by itself does not free it.
  reinterpret_cast<RingConsumerPage*>(ring.map.base())->position = 4080;
  EXPECT_EQ(ring.reserve(8), nullptr);
  ring.commit(open, 8);
  EXPECT_NE(ring.reserve(8), nullptr);
}

TEST(RingBuffer, CommitsInAnyOrderAreReadInTheOrderOfReserving) {
  Ring ring(4096);
  std::byte* const a = ring.reserve(1);
  std::byte* const b = ring.reserve(1);
  std::byte* const c = ring.reserve(1);
  *a = std::byte{'a'};
  *b = std::byte{'b'};
  *c = std::byte{'c'};
  std::string seen;
  RingReader reader = ring.reader();
  const auto note = [&](const char* at, uint32_t) { seen += *at; };
  ring.commit(c, 1);
  EXPECT_EQ(reader.read(note), 0U);
  EXPECT_FALSE(ring_is_readable(ring.map.map));
  ring.commit(a, 1);
  EXPECT_TRUE(ring_is_readable(ring.map.map));
  EXPECT_EQ(reader.read(note), 1U);
  ring.commit(b, 1, 0, RingEnd::kDiscard);
  EXPECT_EQ(reader.read(note), 2U);
  EXPECT_EQ(seen, "ac");
  EXPECT_FALSE(ring_is_readable(ring.map.map));
}

TEST(RingBuffer, OnlyWhoReservedCommitsAndOnlyOnce) {
  Ring ring(4096);
  std::byte* const a = ring.reserve(8);
  ring_commit(ring.map.map, OwnerId{99}, a, 8, 0, RingEnd::kSubmit);
  EXPECT_EQ(ring.reader().read([](const char*, uint32_t) {}), 0U);
  ring.commit(a, 8);
  ring.commit(a, 8, 0, RingEnd::kDiscard);
  int seen = 0;
  ring.reader().read([&](const char*, uint32_t) { seen++; });
  EXPECT_EQ(seen, 1);
}

// Kernel: bpf_ringbuf_commit.
TEST(RingBuffer, WakesAReaderThatHasCaughtUpAndByFlags) {
  Ring ring(4096);
  WakeWords& wake = ring_wake_words(ring.map.map);
  const auto wakes = [&](uint64_t flags) {
    wake.wants_byte = 1;
    wake.sleeping = 1;
    const uint32_t before = wake.sequence;
    std::byte* const at = ring.reserve(8);
    const bool tells = ring.commit(at, 8, flags) == Wake::kTellTheBroker;
    EXPECT_EQ(tells, wake.sequence != before);
    EXPECT_EQ(tells, wake.sleeping == 0U);
    EXPECT_EQ(tells, wake.wants_byte == 0U);
    return tells;
  };
  EXPECT_TRUE(wakes(0));
  EXPECT_FALSE(wakes(0));  // it has not read the first yet
  EXPECT_TRUE(wakes(BPF_RB_FORCE_WAKEUP));
  ring.reader().read([](const char*, uint32_t) {});
  EXPECT_FALSE(wakes(BPF_RB_NO_WAKEUP));
  EXPECT_FALSE(wakes(0));
  ring.reader().read([](const char*, uint32_t) {});
  EXPECT_TRUE(wakes(0));
}

TEST(RingBuffer, ElementCommandsAreNotForIt) {
  const Ring ring(4096);
  uint64_t any = 0;
  EXPECT_EQ(map_sys_lookup(ring.map.map, &any, &any), -524);
  EXPECT_EQ(map_sys_update(ring.map.map, this_thread(), &any, &any, 0), -524);
  EXPECT_EQ(map_sys_erase(ring.map.map, this_thread(), &any), -524);
  EXPECT_EQ(map_next_key(ring.map.map, nullptr, &any), -524);
}

TEST(RingBuffer, ADeadProducersOpenRecordsAreDiscarded) {
  Ring ring(4096);
  ring.put("before", 6);
  const pid_t child = ::fork();
  if (child == 0) {
    const LockContext dying = this_thread(77);
    (void)ring_reserve(ring.map.map, dying, 100);
    void* saved = nullptr;
    (void)lock(reinterpret_cast<RingProducerPage*>(ring.map.map.table)->lock, dying, &saved);
    ::kill(::getpid(), SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(ring.put("behind", 6));  // the lock is taken over
  std::string seen;
  RingReader reader = ring.reader();
  const auto note = [&](const char* at, uint32_t size) { seen.append(at, size); };
  EXPECT_EQ(reader.read(note), 1U);
  WakeWords& wake = ring_wake_words(ring.map.map);
  const uint32_t before = wake.sequence;
  EXPECT_EQ(map_ops(ring.map.map.code).sweep(ring.map.map, ring.who, OwnerId{77}), 1U);
  EXPECT_EQ(wake.sequence, before + 1);
  EXPECT_EQ(reader.read(note), 2U);
  EXPECT_EQ(seen, "beforebehind");
}

// Positions are memory that others write: one just below where they wrap ends walks over records as any other does.
TEST(RingBuffer, PositionsThatWrapEndEachWalk) {
  Ring ring(4096);
  auto& page = *reinterpret_cast<RingProducerPage*>(ring.map.map.table);
  const uint64_t last = ~0ULL & ~7ULL;
  page.position.store(last);
  page.pending.store(last - 4096);
  reinterpret_cast<RingConsumerPage*>(ring.map.map.base)->position.store(last - 4096);
  const uint32_t length = 4000;  // the second record would begin behind the wrap
  for (uint64_t at = 0; at < 4096; at += 8) {
    std::memcpy(ring.map.map.values + at, &length, sizeof(length));
  }
  EXPECT_EQ(map_ops(ring.map.map.code).sweep(ring.map.map, ring.who, OwnerId{77}), 0U);
  (void)ring.reserve(100);
}

// Many producers in many processes, some of which are killed at any moment: what is delivered is whole, in order for
// each producer, and the buffer goes on.
TEST(RingBuffer, ManyProcessesKilledAtAnyMoment) {
  constexpr uint32_t kProcesses = 4;
  constexpr int kKills = 150;
  struct Sample {
    uint32_t producer, size;
    uint64_t number;
    uint64_t bytes[40];
  };
  Ring ring(16384);
  uint32_t next_owner = 10;
  std::map<pid_t, uint32_t> running;
  const auto start = [&] {
    const uint32_t owner = next_owner++;
    const pid_t child = ::fork();
    if (child == 0) {
      ::alarm(60);
      const LockContext me = this_thread(owner);
      for (uint64_t number = 1;; number++) {
        const uint64_t words = number * 7 % 40;
        const uint64_t size = offsetof(Sample, bytes) + words * 8;
        std::byte* const at = ring_reserve(ring.map.map, me, size);
        if (at == nullptr) {
          ::sched_yield();
          number--;
          continue;
        }
        auto* const sample = reinterpret_cast<Sample*>(at);
        sample->producer = owner;
        sample->size = static_cast<uint32_t>(size);
        sample->number = number;
        for (uint64_t i = 0; i < words; i++) {
          sample->bytes[i] = number ^ i;
        }
        ring_commit(ring.map.map, me.owner, at, size, 0, RingEnd::kSubmit);
      }
    }
    running[child] = owner;
  };
  for (uint32_t i = 0; i < kProcesses; i++) {
    start();
  }
  RingReader reader = ring.reader();
  std::map<uint32_t, uint64_t> last;
  uint64_t wrong = 0;
  uint64_t seen = 0;
  const auto check = [&](const char* at, uint32_t size) {
    Sample sample;
    std::memcpy(&sample, at, size < sizeof(sample) ? size : sizeof(sample));
    wrong += sample.size != size || sample.number != last[sample.producer] + 1 ? 1 : 0;
    last[sample.producer] = sample.number;
    for (uint64_t i = 0; i < (size - offsetof(Sample, bytes)) / 8; i++) {
      wrong += sample.bytes[i] != (sample.number ^ i) ? 1 : 0;
    }
    seen++;
  };
  for (int kills = 0; kills < kKills; kills++) {
    const uint64_t until = seen + 200;
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (seen < until) {
      reader.read(check);
      ASSERT_LT(std::chrono::steady_clock::now(), end) << "stuck after " << kills << " kills";
    }
    const auto victim = running.begin();
    const pid_t pid = victim->first;
    const uint32_t owner = victim->second;
    ::kill(pid, SIGKILL);
    int status = 0;
    ASSERT_EQ(::waitpid(pid, &status, 0), pid);
    running.erase(victim);
    map_ops(ring.map.map.code).sweep(ring.map.map, ring.who, OwnerId{owner});
    start();
  }
  for (const auto& [pid, owner] : running) {
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    map_ops(ring.map.map.code).sweep(ring.map.map, ring.who, OwnerId{owner});
  }
  reader.read(check);
  EXPECT_EQ(wrong, 0U);
  EXPECT_EQ(ring_query(ring.map.map, BPF_RB_AVAIL_DATA), 0U);
}

TEST(RingBuffer, ManyThreadsLoseNothing) {
  constexpr int kThreads = 4;
  constexpr uint64_t kEach = 20000;
  Ring ring(65536);
  std::vector<std::thread> threads;
  for (uint32_t t = 0; t < kThreads; t++) {
    threads.emplace_back([&ring, t] {
      const LockContext me = this_thread(1);
      for (uint64_t i = 0; i < kEach;) {
        std::byte* const at = ring_reserve(ring.map.map, me, 16);
        if (at == nullptr) {
          std::this_thread::yield();
          continue;
        }
        const uint64_t words[2] = {t, i};
        std::memcpy(at, words, sizeof(words));
        ring_commit(ring.map.map, me.owner, at, 16, 0, RingEnd::kSubmit);
        i++;
      }
    });
  }
  uint64_t next[kThreads] = {};
  uint64_t seen = 0;
  uint64_t wrong = 0;
  RingReader reader = ring.reader();
  while (seen < kThreads * kEach) {
    reader.read([&](const char* at, uint32_t) {
      uint64_t words[2];
      std::memcpy(words, at, sizeof(words));
      wrong += words[0] >= kThreads || words[1] != next[words[0]]++ ? 1 : 0;
      seen++;
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(wrong, 0U);
}

}  // namespace
}  // namespace bpftime
