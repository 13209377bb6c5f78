// Death in the middle of an operation. First exhaustively: a child is single-stepped through one
// operation, and the region as it stood after each instruction is treated as what a kill -9 there
// leaves. Then for real: processes that hammer one map and are killed at random.
#include <gtest/gtest.h>
#include <linux/futex.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <functional>
#include <map>
#include <random>

#include "base/raw_syscall.hpp"
#include "maps/testing/test_map.hpp"

namespace bpftime {
namespace {

using testing::hash_spec;
using testing::TestMap;
using testing::this_thread;

using Contents = std::map<uint64_t, uint64_t>;

Contents contents(const TestMap& t) {
  Contents all;
  for (const uint64_t key : t.keys()) {
    EXPECT_EQ(all.count(key), 0U) << "key twice: " << key;
    all[key] = t.get(key);
  }
  return all;
}

// Exactly max_entries go in, no element is lost; leaves the map as it was.
void expect_whole(const TestMap& t, const Contents& now) {
  const uint64_t max = t.map.spec.max_entries;
  std::vector<uint64_t> added;
  uint64_t key = 1'000'000;
  while (now.size() + added.size() < max) {
    const int result = t.update(key, key, BPF_NOEXIST);
    ASSERT_EQ(result, 0) << "an element leaked: " << now.size() + added.size() << " of " << max;
    added.push_back(key++);
  }
  ASSERT_EQ(t.update(key, key, BPF_NOEXIST), -E2BIG) << "an element too many";
  for (const uint64_t one : added) {
    ASSERT_EQ(t.erase(one), 0);
  }
  ASSERT_EQ(contents(t), now);
}

struct Step {
  const char* name;
  MapSpec spec;
  std::function<void(const TestMap&)> prepare;
  std::function<void(const TestMap&)> act;
};

void run_step(const Step& step) {
  SCOPED_TRACE(step.name);
  const TestMap t(step.spec);
  step.prepare(t);
  const Contents before = contents(t);
  const pid_t child = ::fork();
  if (child == 0) {
    ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
    raw_syscall(SYS_kill, static_cast<uint64_t>(::getpid()), SIGSTOP);
    step.act(t);
    raw_syscall(SYS_kill, static_cast<uint64_t>(::getpid()), SIGSTOP);
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  std::vector<std::vector<std::byte>> states;
  const auto take = [&] {
    std::vector<std::byte> state(t.base(), t.base() + t.bytes());
    if (states.empty() || states.back() != state) {
      states.push_back(std::move(state));
    }
  };
  take();
  int steps = 0;
  for (; steps < 200'000; steps++) {
    ASSERT_EQ(::ptrace(PTRACE_SINGLESTEP, child, nullptr, nullptr), 0);
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSTOPPED(status));
    if (WSTOPSIG(status) == SIGSTOP) {
      break;
    }
    take();
  }
  ::kill(child, SIGKILL);
  ::waitpid(child, &status, 0);
  ASSERT_LT(steps, 200'000);
  ASSERT_GT(states.size(), 3U) << "the operation left no trace";
  std::memcpy(t.base(), states.back().data(), t.bytes());
  const Contents after = contents(t);
  EXPECT_NE(before, after);

  for (size_t i = 0; i < states.size(); i++) {
    SCOPED_TRACE("state " + std::to_string(i) + " of " + std::to_string(states.size()));
    std::memcpy(t.base(), states[i].data(), t.bytes());
    auto* const table = reinterpret_cast<HashBucket*>(t.map.table);
    bool was_held = false;
    for (uint64_t b = 0; b <= t.map.bucket_mask; b++) {
      if (table[b].lock.word.load() == static_cast<uint32_t>(child)) {
        table[b].lock.word =
            static_cast<uint32_t>(child) | FUTEX_OWNER_DIED;  // what the kernel does
        was_held = true;
      }
    }
    EXPECT_EQ(map_ops(t.map.code).sweep(t.map, this_thread(2), OwnerId{1}), was_held ? 1U : 0U);
    const Contents now = contents(t);
    ASSERT_TRUE(now == before || now == after);
    expect_whole(t, now);
    if (::testing::Test::HasFatalFailure()) {
      return;
    }
  }
}

void fill(const TestMap& t, uint64_t count) {
  for (uint64_t key = 0; key < count; key++) {
    ASSERT_EQ(t.update(key, key * 3), 0);
  }
}

// max_entries 3 makes one bucket; the chain is used from the eighth element of a bucket on, so a
// small map with ZERO_SEED and keys of one bucket would be needed: 24 entries in 8 buckets, keys
// chosen by looking.
std::vector<uint64_t> keys_of_bucket_0(const MapSpec& spec, size_t count) {
  const TestMap t(spec);
  std::vector<uint64_t> keys;
  for (uint64_t key = 0; keys.size() < count; key++) {
    (void)t.update(key, 1);
    if (reinterpret_cast<const HashBucket*>(t.map.table)[0].tags.load() != 0) {
      keys.push_back(key);
    }
    (void)t.erase(key);
  }
  return keys;
}

TEST(HashMapDeath, AtEveryInstructionOfAnInsertIntoASlot) {
  run_step({"insert", hash_spec(8, 40, 12), [](const TestMap& t) { fill(t, 5); },
            [](const TestMap& t) { (void)t.update(77, 7); }});
}

TEST(HashMapDeath, AtEveryInstructionOfTheInsertThatFillsTheMap) {
  run_step({"last insert", hash_spec(8, 8, 12), [](const TestMap& t) { fill(t, 11); },
            [](const TestMap& t) { (void)t.update(77, 7); }});
}

TEST(HashMapDeath, AtEveryInstructionOfAReplace) {
  run_step({"replace", hash_spec(8, 40, 12), [](const TestMap& t) { fill(t, 12); },
            [](const TestMap& t) { (void)t.update(5, 999); }});
}

TEST(HashMapDeath, AtEveryInstructionOfASecondReplaceWhenSparesAreNoLongerTheFirst) {
  run_step({"second replace", hash_spec(8, 40, 12),
            [](const TestMap& t) {
              fill(t, 12);
              fill(t, 12);
            },
            [](const TestMap& t) { (void)t.update(5, 999); }});
}

TEST(HashMapDeath, AtEveryInstructionOfADelete) {
  run_step({"delete", hash_spec(8, 8, 12), [](const TestMap& t) { fill(t, 12); },
            [](const TestMap& t) { (void)t.erase(5); }});
}

TEST(HashMapDeath, AtEveryInstructionInAChain) {
  const MapSpec spec = hash_spec(8, 8, 24, BPF_F_ZERO_SEED);
  const std::vector<uint64_t> keys = keys_of_bucket_0(spec, 11);
  const auto fill_chain = [&](size_t count) {
    return [&keys, count](const TestMap& t) {
      for (size_t i = 0; i < count; i++) {
        ASSERT_EQ(t.update(keys[i], i), 0);
      }
    };
  };
  for (const size_t count : {7U, 8U, 10U}) {
    run_step({"insert into the chain", spec, fill_chain(count),
              [&](const TestMap& t) { (void)t.update(keys[10], 7); }});
  }
  for (const size_t which : {7U, 8U, 9U}) {  // last, middle, first of the chain
    run_step({"replace in the chain", spec, fill_chain(10),
              [&](const TestMap& t) { (void)t.update(keys[which], 777); }});
    run_step({"delete from the chain", spec, fill_chain(10),
              [&](const TestMap& t) { (void)t.erase(keys[which]); }});
  }
  run_step({"delete the only one of the chain", spec, fill_chain(8),
            [&](const TestMap& t) { (void)t.erase(keys[7]); }});
}

// A value says its key in every word, so a torn or misplaced one shows.
constexpr uint32_t kWords = 12;
struct Value {
  uint64_t words[kWords];
};

[[noreturn]] void hammer(const TestMap& t, uint32_t owner, uint64_t seed, uint64_t own_begin) {
  LockContext who = this_thread(owner);
  std::mt19937_64 random(seed);
  Value value;
  for (uint64_t i = 0;; i++) {
    // Half of the work on keys of all, half on keys of this process alone.
    const uint64_t key = random() % 2 == 0 ? random() % 40 : own_begin + random() % 10;
    const uint64_t stamp = key << 32 | (i & 0xffffffff);
    std::fill(std::begin(value.words), std::end(value.words), stamp);
    switch (random() % 3) {
      case 0:
        (void)map_erase(t.map, who, &key);
        break;
      default:
        (void)map_update(t.map, who, &key, &value, random() % 3);
    }
  }
}

TEST(HashMapDeath, KilledAtRandomManyTimesNothingIsLostOrStuck) {
  const TestMap t(hash_spec(8, sizeof(Value), 60));
  constexpr int kProcesses = 4;
  pid_t children[kProcesses] = {};
  uint32_t owner = 10;
  std::mt19937_64 random(42);
  const auto start = [&](int i) {
    owner++;
    children[i] = ::fork();
    if (children[i] == 0) {
      hammer(t, owner, owner, 100 + static_cast<uint64_t>(i) * 100);
    }
  };
  for (int i = 0; i < kProcesses; i++) {
    start(i);
  }
  const LockContext who = this_thread(1);
  int repaired = 0;
  timespec begin = {};
  ::clock_gettime(CLOCK_MONOTONIC, &begin);
  int rounds = 0;
  for (;; rounds++) {
    timespec now = {};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    if (now.tv_sec - begin.tv_sec >= 5) {
      break;
    }
    const timespec nap = {0, static_cast<long>(random() % 2'000'000)};
    ::nanosleep(&nap, nullptr);
    const int victim = static_cast<int>(random() % kProcesses);
    ::kill(children[victim], SIGKILL);
    int status = 0;
    ASSERT_EQ(::waitpid(children[victim], &status, 0), children[victim]);
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    // No lock stays stuck: what the others have not taken over yet, sweep does.
    repaired += static_cast<int>(map_ops(t.map.code).sweep(t.map, who, OwnerId{owner + 1000}));
    // What is read is never torn or another key's.
    for (uint64_t key = 0; key < 40; key++) {
      Value value;
      if (map_sys_lookup(t.map, &key, &value) == 0) {
        for (const uint64_t word : value.words) {
          ASSERT_EQ(word, value.words[0]);
        }
        ASSERT_EQ(value.words[0] >> 32, key);
      }
    }
    start(victim);
  }
  for (const pid_t child : children) {
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
  }
  repaired += static_cast<int>(map_ops(t.map.code).sweep(t.map, who, OwnerId{0}));
  for (uint64_t b = 0; b <= t.map.bucket_mask; b++) {
    EXPECT_EQ(reinterpret_cast<HashBucket*>(t.map.table)[b].lock.word.load(), 0U);
  }
  RecordProperty("kills", rounds);
  RecordProperty("left_for_sweep", repaired);
  const Contents now = contents(t);
  EXPECT_LE(now.size(), 60U);
  expect_whole(t, now);
}

}  // namespace
}  // namespace bpftime
