#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <map>
#include <random>
#include <thread>
#include <utility>

#include "maps/testing/test_map.hpp"

namespace bpftime {
namespace {

using testing::hash_spec;
using testing::patient_thread;
using testing::TestMap;
using testing::this_thread;

TEST(HashMap, UpdateNoexistOnPresentKeyFailsWithEexist) {
  const TestMap t(hash_spec(4, 8, 8));
  EXPECT_EQ(t.update(1, 10, BPF_NOEXIST), 0);
  EXPECT_EQ(t.update(1, 11, BPF_NOEXIST), -EEXIST);
  EXPECT_EQ(t.get(1), 10U);
}

TEST(HashMap, UpdateExistOnMissingKeyFailsWithEnoent) {
  const TestMap t(hash_spec(4, 8, 8));
  EXPECT_EQ(t.update(1, 10, BPF_EXIST), -ENOENT);
  EXPECT_EQ(t.lookup(1), nullptr);
  EXPECT_EQ(t.update(1, 10), 0);
  EXPECT_EQ(t.update(1, 11, BPF_EXIST), 0);
  EXPECT_EQ(t.get(1), 11U);
}

TEST(HashMap, UpdateWithUnknownFlagsFailsWithEinval) {
  const TestMap t(hash_spec(4, 8, 8));
  EXPECT_EQ(t.update(1, 10, 3), -EINVAL);
  EXPECT_EQ(t.update(1, 10, BPF_F_LOCK), -EINVAL);
  EXPECT_EQ(t.update(1, 10, 1ULL << 40), -EINVAL);
  EXPECT_EQ(t.lookup(1), nullptr);
}

TEST(HashMap, EraseOfMissingKeyFailsWithEnoent) {
  const TestMap t(hash_spec(4, 8, 8));
  EXPECT_EQ(t.erase(1), -ENOENT);
  ASSERT_EQ(t.update(1, 1), 0);
  EXPECT_EQ(t.erase(1), 0);
  EXPECT_EQ(t.erase(1), -ENOENT);
}

// The incumbent's defect 2: it takes what does not fit and says 0.
TEST(HashMap, FullAtExactlyMaxEntriesWithE2bigAndPresentKeysCanStillChange) {
  for (const uint32_t max : {1U, 2U, 7U, 8U, 63U, 64U, 65U, 1000U, 5000U}) {
    const TestMap t(hash_spec(8, 8, max));
    for (int round = 0; round < 3; round++) {
      for (uint64_t key = 0; key < max; key++) {
        ASSERT_EQ(t.update(key * 977, key), 0) << max << " " << key;
      }
      EXPECT_EQ(t.update(999'999'999, 1), -E2BIG) << max;
      EXPECT_EQ(t.update(999'999'999, 1, BPF_NOEXIST), -E2BIG) << max;
      EXPECT_EQ(t.update(0, 4711), 0);
      EXPECT_EQ(t.get(0), 4711U);
      EXPECT_EQ(t.keys().size(), max);
      for (uint64_t key = 0; key < max; key++) {
        ASSERT_EQ(t.erase(key * 977), 0);
      }
      EXPECT_TRUE(t.keys().empty());
    }
  }
}

// The incumbent's defect 1: a delete lost other keys.
TEST(HashMap, DeletingHalfOf600KeysLosesNoOther) {
  const TestMap t(hash_spec(8, 8, 1024));
  std::mt19937_64 random(1);
  std::vector<uint64_t> keys(600);
  for (uint64_t& key : keys) {
    key = random();
    ASSERT_EQ(t.update(key, ~key >> 1), 0);
  }
  for (size_t i = 0; i < 300; i++) {
    ASSERT_EQ(t.erase(keys[i]), 0);
  }
  for (size_t i = 0; i < 600; i++) {
    EXPECT_EQ(t.get(keys[i]), i < 300 ? ~0ULL : ~keys[i] >> 1);
  }
  EXPECT_EQ(t.keys().size(), 300U);
}

// The incumbent's defect 3: iteration left out the last buckets.
TEST(HashMap, IterationVisitsEveryKeyOnce) {
  for (uint64_t count = 1; count <= 300; count++) {
    const TestMap t(hash_spec(8, 8, static_cast<uint32_t>(count)));
    for (uint64_t key = 0; key < count; key++) {
      ASSERT_EQ(t.update(key * key * 31, key), 0);
    }
    std::vector<uint64_t> seen = t.keys();
    std::sort(seen.begin(), seen.end());
    ASSERT_EQ(seen.size(), count);
    EXPECT_EQ(std::unique(seen.begin(), seen.end()), seen.end());
  }
}

TEST(HashMap, NextKeyOfAnUnknownKeyIsTheFirstAndOfAnEmptyMapEnoent) {
  const TestMap t(hash_spec(8, 8, 16));
  uint64_t next = 0;
  uint64_t unknown = 5;
  EXPECT_EQ(map_next_key(t.map, nullptr, &next), -ENOENT);
  EXPECT_EQ(map_next_key(t.map, &unknown, &next), -ENOENT);
  ASSERT_EQ(t.update(1, 1), 0);
  ASSERT_EQ(t.update(2, 1), 0);
  const uint64_t first = t.keys().at(0);
  EXPECT_EQ(map_next_key(t.map, &unknown, &next), 0);
  EXPECT_EQ(next, first);
}

// The incumbent's defect 6: 8-byte keys put u64 values on odd addresses.
TEST(HashMap, ValuesAre8ByteAlignedForEveryKeySize) {
  for (const uint32_t key_size : {1U, 2U, 3U, 4U, 5U, 7U, 8U, 9U, 12U, 16U, 20U, 31U, 64U, 512U}) {
    for (const uint32_t value_size : {1U, 4U, 8U, 12U, 7720U}) {
      const TestMap t(hash_spec(key_size, value_size, 50));
      for (uint64_t key = 0; key < 50; key++) {
        ASSERT_EQ(t.update(key, key & 0xff), 0);
      }
      for (uint64_t key = 0; key < 50; key++) {
        ASSERT_EQ(reinterpret_cast<uintptr_t>(t.lookup(key)) % 8, 0U);
        ASSERT_EQ(t.get(key), key & 0xff) << key_size << " " << value_size;
      }
      EXPECT_EQ(t.keys().size(), 50U);
    }
  }
}

TEST(HashMap, KeysThatDifferInOneByteAreDifferent) {
  for (const uint32_t key_size : {1U, 3U, 4U, 6U, 8U, 11U, 16U, 17U, 40U}) {
    const TestMap t(hash_spec(key_size, 4, 64));
    const std::string zero(key_size, '\0');
    uint32_t value = 0;
    ASSERT_EQ(map_update(t.map, this_thread(), zero.data(), &value, 0), 0);
    for (uint32_t i = 0; i < key_size; i++) {
      std::string key = zero;
      key[i] = 1;
      EXPECT_EQ(map_lookup(t.map, key.data()), nullptr);
      value = i + 1;
      ASSERT_EQ(map_update(t.map, this_thread(), key.data(), &value, BPF_NOEXIST), 0);
    }
    EXPECT_EQ(t.keys().size(), key_size + 1);
  }
}

TEST(HashMap, AgreesWithAModelOverRandomOperations) {
  for (const uint32_t key_size : {4U, 8U, 16U, 12U}) {
    // A seed of zero and few buckets: chains are used too.
    const TestMap t(hash_spec(key_size, 8, 200, BPF_F_ZERO_SEED));
    std::map<uint64_t, uint64_t> model;
    std::mt19937_64 random(key_size);
    for (int i = 0; i < 200'000; i++) {
      const uint64_t key = random() % 300;
      const uint64_t value = random() >> 1;
      const bool present = model.count(key) != 0;
      switch (random() % 4) {
        case 0:
        case 1: {
          const uint64_t flags = random() % 3;
          int expected = 0;
          if (flags == BPF_NOEXIST && present) {
            expected = -EEXIST;
          } else if (flags == BPF_EXIST && !present) {
            expected = -ENOENT;
          } else if (!present && model.size() == 200) {
            expected = -E2BIG;
          } else {
            model[key] = value;
          }
          ASSERT_EQ(t.update(key, value, flags), expected);
          break;
        }
        case 2:
          ASSERT_EQ(t.erase(key), present ? 0 : -ENOENT);
          model.erase(key);
          break;
        default:
          ASSERT_EQ(t.get(key), present ? model[key] : ~0ULL);
      }
    }
    EXPECT_EQ(t.keys().size(), model.size());
  }
}

// All keys in one bucket: one bucket only, so the chain holds all but seven.
TEST(HashMap, ChainsWorkWhenABucketOverflows) {
  const TestMap t(hash_spec(4, 8, 3));
  ASSERT_EQ(t.map.bucket_mask, 0U);
  const TestMap big(hash_spec(4, 8, 3000, BPF_F_ZERO_SEED));
  // Keys of one bucket, found by trying.
  std::vector<uint64_t> keys;
  const auto* const table = reinterpret_cast<const HashBucket*>(big.map.table);
  for (uint64_t key = 0; keys.size() < 40; key++) {
    ASSERT_EQ(big.update(key, key), 0);
    if (table[0].tags.load() != 0) {
      keys.push_back(key);
    }
    ASSERT_EQ(big.erase(key), 0);
  }
  for (const uint64_t key : keys) {
    ASSERT_EQ(big.update(key, key + 1, BPF_NOEXIST), 0);
  }
  EXPECT_NE(table[0].chain.load(), 0U);
  EXPECT_EQ(big.keys().size(), 40U);
  for (const uint64_t key : keys) {
    EXPECT_EQ(big.get(key), key + 1);
    EXPECT_EQ(big.update(key, key + 2, BPF_EXIST), 0);
  }
  for (size_t i = 0; i < keys.size(); i += 2) {
    EXPECT_EQ(big.erase(keys[i]), 0);
  }
  for (size_t i = 0; i < keys.size(); i++) {
    EXPECT_EQ(big.get(keys[i]), i % 2 == 0 ? ~0ULL : keys[i] + 2);
  }
  for (size_t i = 1; i < keys.size(); i += 2) {
    EXPECT_EQ(big.erase(keys[i]), 0);
  }
  EXPECT_EQ(table[0].chain.load(), 0U);
  EXPECT_TRUE(big.keys().empty());
}

// The incumbent's defect 7: what a program holds stays memory of the map.
TEST(HashMap, AValuePointerStaysUsableAfterDelete) {
  const TestMap t(hash_spec(8, 8, 16));
  ASSERT_EQ(t.update(1, 1), 0);
  std::byte* const value = t.lookup(1);
  ASSERT_EQ(t.erase(1), 0);
  EXPECT_GE(value, t.base());
  EXPECT_LE(value + 8, t.base() + t.bytes());
  __atomic_fetch_add(reinterpret_cast<uint64_t*>(value), 1, __ATOMIC_RELAXED);
  EXPECT_EQ(t.lookup(1), nullptr);
}

TEST(HashMap, SeedChangesTheOrderAndZeroSeedDoesNot) {
  const TestMap a(hash_spec(8, 8, 100), 1);
  const TestMap b(hash_spec(8, 8, 100), 0x123456789abcdef);
  const TestMap c(hash_spec(8, 8, 100, BPF_F_ZERO_SEED), 1);
  const TestMap d(hash_spec(8, 8, 100, BPF_F_ZERO_SEED), 0x123456789abcdef);
  for (uint64_t key = 0; key < 100; key++) {
    for (const TestMap* t : {&a, &b, &c, &d}) {
      ASSERT_EQ(t->update(key, 1), 0);
    }
  }
  EXPECT_NE(a.keys(), b.keys());
  EXPECT_EQ(c.keys(), d.keys());
}

// What readers without a lock go by: who sees another version looks again.
TEST(HashMap, EachChangeOfABucketCountsItsVersionAndWhatChangesNothingDoesNot) {
  const TestMap t(hash_spec(8, 8, 3));
  const auto version = [&] {
    uint64_t sum = 0;
    for (uint64_t b = 0; b <= t.map.bucket_mask; b++) {
      sum += reinterpret_cast<const HashBucket*>(t.map.table)[b].version.load();
    }
    return sum;
  };
  uint64_t last = version();
  const auto counts = [&](int result) {
    const uint64_t before = std::exchange(last, version());
    return result == 0 ? last - before : ~0ULL;
  };
  EXPECT_EQ(counts(t.update(1, 10)), 1U);
  EXPECT_EQ(counts(t.update(1, 11)), 1U);
  EXPECT_EQ(counts(t.update(2, 20)), 1U);
  EXPECT_EQ(counts(t.erase(1)), 1U);
  EXPECT_EQ(counts(t.update(1, 12)), 1U);
  EXPECT_EQ(t.update(1, 13, BPF_NOEXIST), -EEXIST);
  EXPECT_EQ(t.erase(7), -ENOENT);
  EXPECT_EQ(version(), last);
}

TEST(HashMap, SysLookupNeverSeesHalfAValue) {
  constexpr uint32_t kValue = 512;
  const TestMap t(hash_spec(8, kValue, 4));
  const uint64_t key = 1;
  std::vector<uint8_t> value(kValue, 0);
  ASSERT_EQ(map_update(t.map, this_thread(), &key, value.data(), 0), 0);
  std::atomic<bool> stop = false;
  std::thread writer([&] {
    const LockContext who = patient_thread();
    std::vector<uint8_t> mine(kValue);
    for (uint8_t i = 0; !stop.load(); i++) {
      std::fill(mine.begin(), mine.end(), i);
      ASSERT_EQ(map_update(t.map, who, &key, mine.data(), 0), 0);
    }
  });
  const LockContext who = patient_thread();
  for (int i = 0; i < 100'000; i++) {
    ASSERT_EQ(map_sys_lookup(t.map, &key, value.data(), 0, &who), 0);
    ASSERT_EQ(std::count(value.begin(), value.end(), value[0]), kValue);
  }
  stop = true;
  writer.join();
}

// Keys that are always there must be found at every moment, whatever happens beside them.
TEST(HashMap, LookupsFindPresentKeysWhileOthersComeAndGo) {
  const TestMap t(hash_spec(8, 8, 64));
  for (uint64_t key = 0; key < 32; key++) {
    ASSERT_EQ(t.update(key, key), 0);
  }
  std::atomic<bool> stop = false;
  std::vector<std::thread> writers;
  for (uint64_t w = 0; w < 3; w++) {
    writers.emplace_back([&, w] {
      const LockContext who = patient_thread();
      for (uint64_t i = 0; !stop.load(); i++) {
        const uint64_t key = 1000 + (i * 3 + w) % 33;
        const uint64_t same = i % 32;
        (void)map_update(t.map, who, &key, &key, BPF_ANY);
        (void)map_update(t.map, who, &same, &same, BPF_EXIST);
        (void)map_erase(t.map, who, &key);
      }
    });
  }
  for (int i = 0; i < 300'000; i++) {
    const uint64_t key = static_cast<uint64_t>(i) % 32;
    ASSERT_NE(map_lookup(t.map, &key), nullptr) << key;
  }
  stop = true;
  for (std::thread& writer : writers) {
    writer.join();
  }
  std::set<uint64_t> left;
  for (const uint64_t key : t.keys()) {
    left.insert(key);
  }
  for (uint64_t key = 0; key < 32; key++) {
    EXPECT_EQ(left.count(key), 1U);
    EXPECT_EQ(t.get(key), key);
  }
}

TEST(HashMap, ConcurrentInsertsStopAtExactlyMaxEntries) {
  for (int round = 0; round < 20; round++) {
    const TestMap t(hash_spec(8, 8, 500));
    std::atomic<int> inserted = 0;
    std::vector<std::thread> threads;
    for (uint64_t w = 0; w < 4; w++) {
      threads.emplace_back([&, w] {
        const LockContext who = patient_thread();
        for (uint64_t i = 0; i < 200; i++) {
          const uint64_t key = w * 1000 + i;
          const int result = map_update(t.map, who, &key, &key, BPF_NOEXIST);
          inserted += result == 0 ? 1 : 0;
          ASSERT_TRUE(result == 0 || result == -E2BIG) << result;
        }
      });
    }
    for (std::thread& thread : threads) {
      thread.join();
    }
    EXPECT_EQ(inserted.load(), 500);
    EXPECT_EQ(t.keys().size(), 500U);
  }
}

}  // namespace
}  // namespace bpftime
