#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <set>
#include <thread>
#include <vector>

#include "maps/testing/test_map.hpp"

namespace bpftime {
namespace {

using testing::percpu_spec;
using testing::TestMap;
using testing::this_thread;

constexpr uint32_t kLanes = 64;
using AllLanes = std::vector<uint64_t>;

AllLanes all_lanes(const MapView& map, const void* key) {
  AllLanes values(kLanes, ~0ULL);
  EXPECT_EQ(map_sys_lookup(map, key, values.data()), 0);
  return values;
}

void expect_each_lane_has_its_value(const TestMap& map, const void* key) {
  for (uint32_t lane = 0; lane < kLanes; lane++) {
    const uint64_t value = 1000 + lane;
    ASSERT_EQ(map_update(map.map, this_thread(), key, &value, BPF_ANY, lane), 0);
  }
  std::set<const std::byte*> places;
  for (uint32_t lane = 0; lane < kLanes; lane++) {
    std::byte* const at = map_lookup(map.map, key, lane);
    ASSERT_NE(at, nullptr);
    uint64_t value = 0;
    std::memcpy(&value, at, sizeof(value));
    EXPECT_EQ(value, 1000 + lane);
    places.insert(at);
  }
  EXPECT_EQ(places.size(), kLanes);
  const AllLanes values = all_lanes(map.map, key);
  for (uint32_t lane = 0; lane < kLanes; lane++) {
    EXPECT_EQ(values[lane], 1000 + lane);
  }
}

TEST(PercpuArray, EachLaneHasItsValue) {
  const TestMap map(percpu_spec(BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, 5));
  for (const uint32_t key : {0U, 3U, 4U}) {
    expect_each_lane_has_its_value(map, &key);
  }
}

TEST(PercpuHash, EachLaneHasItsValueForEveryKeySize) {
  for (const uint32_t key_size : {1U, 4U, 8U, 16U, 23U}) {
    const TestMap map(percpu_spec(BPF_MAP_TYPE_PERCPU_HASH, key_size, 8, 100));
    for (const char first : {'a', 'b', 'c'}) {
      std::string key(key_size, 'k');
      key[0] = first;
      expect_each_lane_has_its_value(map, key.data());
    }
  }
}

TEST(PercpuMaps, CpusShareNoCacheLine) {
  const TestMap array(percpu_spec(BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, 1));
  const TestMap hash(percpu_spec(BPF_MAP_TYPE_PERCPU_HASH, 4, 8, 10));
  const uint32_t key = 0;
  const uint64_t value = 0;
  ASSERT_EQ(map_update(hash.map, this_thread(), &key, &value, BPF_ANY, 0), 0);
  for (const TestMap* map : {&array, &hash}) {
    for (uint32_t lane = 0; lane < 7; lane++) {
      const auto distance = map_lookup(map->map, &key, lane + 1) - map_lookup(map->map, &key, lane);
      EXPECT_GE(distance, 64) << lane;
    }
  }
}

TEST(PercpuMaps, LanesThatAreNoneAreRefused) {
  const TestMap array(percpu_spec(BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, 1));
  const TestMap hash(percpu_spec(BPF_MAP_TYPE_PERCPU_HASH, 4, 8, 10));
  const uint32_t key = 0;
  const uint64_t value = 0;
  ASSERT_EQ(map_update(hash.map, this_thread(), &key, &value, BPF_ANY, 0), 0);
  for (const TestMap* map : {&array, &hash}) {
    for (const uint32_t lane : {kLanes, ~0U}) {
      EXPECT_EQ(map_lookup(map->map, &key, lane), nullptr);
      EXPECT_EQ(map_update(map->map, this_thread(), &key, &value, BPF_ANY, lane), -EBUSY);
    }
  }
}

TEST(PercpuHash, ANewElementIsZeroInOtherLanesAlsoWhenItsMemoryIsUsedAgain) {
  const TestMap map(percpu_spec(BPF_MAP_TYPE_PERCPU_HASH, 4, 12, 2));
  std::vector<uint8_t> ones(kLanes * size_t{16}, 1);
  for (uint32_t round = 0; round < 6; round++) {
    ASSERT_EQ(map_sys_update(map.map, this_thread(), &round, ones.data(), BPF_NOEXIST), 0);
    ASSERT_EQ(map_erase(map.map, this_thread(), &round), 0);
  }
  for (uint32_t key : {10U, 11U}) {
    const uint8_t value[12] = {7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7};
    ASSERT_EQ(map_update(map.map, this_thread(), &key, value, BPF_ANY, 5), 0);
    std::vector<uint8_t> got(kLanes * size_t{16}, 9);
    ASSERT_EQ(map_sys_lookup(map.map, &key, got.data()), 0);
    for (size_t i = 0; i < got.size(); i++) {
      EXPECT_EQ(got[i], i / 16 == 5 && i % 16 < 12 ? 7 : 0) << i;
    }
  }
}

TEST(PercpuHash, AnUpdateFromAProgramLeavesTheOtherLanes) {
  const TestMap map(percpu_spec(BPF_MAP_TYPE_PERCPU_HASH, 8, 8, 4));
  const uint64_t key = 3;
  AllLanes values(kLanes, 5);
  ASSERT_EQ(map_sys_update(map.map, this_thread(), &key, values.data(), BPF_ANY), 0);
  const uint64_t nine = 9;
  std::byte* const before = map_lookup(map.map, &key, 1);
  ASSERT_EQ(map_update(map.map, this_thread(), &key, &nine, BPF_EXIST, 1), 0);
  EXPECT_EQ(map_lookup(map.map, &key, 1), before);  // in place, as in the kernel
  values[1] = 9;
  EXPECT_EQ(all_lanes(map.map, &key), values);
}

TEST(PercpuHash, FlagsAndFullness) {
  const TestMap map(percpu_spec(BPF_MAP_TYPE_PERCPU_HASH, 4, 8, 3));
  const uint64_t value = 1;
  const auto update = [&](uint32_t key, uint64_t flags) {
    return map_update(map.map, this_thread(), &key, &value, flags, 0);
  };
  EXPECT_EQ(update(1, BPF_EXIST), -ENOENT);
  EXPECT_EQ(update(1, BPF_NOEXIST), 0);
  EXPECT_EQ(update(1, BPF_NOEXIST), -EEXIST);
  EXPECT_EQ(update(1, 4), -EINVAL);
  EXPECT_EQ(update(2, BPF_ANY), 0);
  EXPECT_EQ(update(3, BPF_ANY), 0);
  EXPECT_EQ(update(4, BPF_ANY), -E2BIG);
  EXPECT_EQ(update(3, BPF_ANY), 0);
  EXPECT_EQ(map.erase(2), 0);
  EXPECT_EQ(update(4, BPF_ANY), 0);
}

TEST(PercpuHash, AddsInLanesOfTheirOwnAreExact) {
  const TestMap map(percpu_spec(BPF_MAP_TYPE_PERCPU_HASH, 4, 8, 64));
  constexpr uint32_t kThreads = 8;
  constexpr uint32_t kAdds = 20000;
  std::vector<std::thread> threads;
  for (uint32_t lane = 0; lane < kThreads; lane++) {
    threads.emplace_back([&, lane] {
      for (uint32_t i = 0; i < kAdds; i++) {
        const uint32_t key = i % 16;
        std::byte* at = map_lookup(map.map, &key, lane);
        if (at == nullptr) {
          const uint64_t zero = 0;
          (void)map_update(map.map, this_thread(), &key, &zero, BPF_NOEXIST, lane);
          at = map_lookup(map.map, &key, lane);
        }
        auto* const count = reinterpret_cast<volatile uint64_t*>(at);
        *count = *count + 1;
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  uint64_t sum = 0;
  for (uint32_t key = 0; key < 16; key++) {
    for (const uint64_t value : all_lanes(map.map, &key)) {
      sum += value;
    }
  }
  EXPECT_EQ(sum, uint64_t{kThreads} * kAdds);
}

TEST(PercpuMaps, TakeGivesAllLanesAndErases) {
  const TestMap map(percpu_spec(BPF_MAP_TYPE_PERCPU_HASH, 4, 8, 4));
  const uint32_t key = 1;
  AllLanes values(kLanes, 3);
  values[40] = 4;
  ASSERT_EQ(map_sys_update(map.map, this_thread(), &key, values.data(), BPF_ANY), 0);
  AllLanes got(kLanes, 0);
  const MapOps& ops = map_ops(map.map.code);
  EXPECT_EQ(ops.sys_take(map.map, this_thread(), &key, got.data()), 0);
  EXPECT_EQ(got, values);
  EXPECT_EQ(ops.sys_take(map.map, this_thread(), &key, got.data()), -ENOENT);
}

// ---- MapOps::visit, for every kind

TEST(Visit, MeetsEachElementOnceAlsoWhenTheOneItGaveIsErased) {
  for (const uint32_t type : {BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_PERCPU_HASH}) {
    for (const bool erases : {false, true}) {
      MapSpec spec = percpu_spec(type, 4, 8, 5000);
      spec.cpu_count = type == BPF_MAP_TYPE_HASH ? 1 : 8;
      const TestMap map(spec);
      const uint64_t zero = 0;
      for (uint32_t key = 0; key < 5000; key++) {
        ASSERT_EQ(map_update(map.map, this_thread(), &key, &zero, BPF_ANY, 0), 0);
      }
      std::set<uint32_t> met;
      uint64_t cursor = 0;
      uint32_t key = 0;
      std::byte* value = nullptr;
      while (map_ops(map.map.code).visit(map.map, &cursor, &key, 0, &value) == 0) {
        EXPECT_TRUE(met.insert(key).second) << key;
        EXPECT_EQ(value, map_lookup(map.map, &key, 0));
        if (erases) {
          ASSERT_EQ(map.erase(key), 0);
        }
      }
      EXPECT_EQ(met.size(), 5000U);
      EXPECT_EQ(map.keys().size(), erases ? 0U : 5000U);
    }
  }
}

// One bucket: seven slots and a long chain.
TEST(Visit, AChainIsMetWholeWhileItsElementsGo) {
  for (const bool erases : {false, true}) {
    MapSpec spec = testing::hash_spec(4, 8, 3);
    spec.max_entries = 600;
    const TestMap map(spec, 0);
    std::vector<uint32_t> same;  // keys of bucket 0
    for (uint32_t key = 0; same.size() < 40 && key < 100000; key++) {
      if (map.update(key, 0) == 0) {
        uint64_t cursor = 0;
        uint32_t first = 0;
        std::byte* value = nullptr;
        ASSERT_EQ(map_ops(map.map.code).visit(map.map, &cursor, &first, 0, &value), 0);
        if ((cursor & ~0U) >> 3 <= 1) {
          same.push_back(key);
        }
        ASSERT_EQ(map.erase(key), 0);
      }
    }
    ASSERT_EQ(same.size(), 40U);
    for (const uint32_t key : same) {
      ASSERT_EQ(map.update(key, key), 0);
    }
    std::set<uint32_t> met;
    uint64_t cursor = 0;
    uint32_t key = 0;
    std::byte* value = nullptr;
    while (map_ops(map.map.code).visit(map.map, &cursor, &key, 0, &value) == 0) {
      EXPECT_TRUE(met.insert(key).second) << key;
      if (erases) {
        ASSERT_EQ(map.erase(key), 0);
      }
    }
    EXPECT_EQ(met.size(), same.size()) << erases;
  }
}

TEST(Visit, ArraysGiveEveryIndex) {
  for (const uint32_t type : {BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_PERCPU_ARRAY}) {
    const TestMap map(percpu_spec(type, 4, 8, 7));
    uint64_t cursor = 0;
    uint32_t key = 0;
    std::byte* value = nullptr;
    for (uint32_t want = 0; want < 7; want++) {
      ASSERT_EQ(map_ops(map.map.code).visit(map.map, &cursor, &key, 3, &value), 0);
      EXPECT_EQ(key, want);
      EXPECT_EQ(value, map_lookup(map.map, &key, 3));
    }
    EXPECT_EQ(map_ops(map.map.code).visit(map.map, &cursor, &key, 3, &value), -ENOENT);
  }
}

}  // namespace
}  // namespace bpftime
