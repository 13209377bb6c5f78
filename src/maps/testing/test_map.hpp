// A map over shared anonymous memory, and a LockContext for this thread. Tests and benchmarks only.
#pragma once
#include <linux/bpf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "maps/map_ops.hpp"

namespace bpftime::testing {

inline LockContext this_thread(uint32_t owner = 1) {
  LockContext who;
  who.owner = OwnerId{owner};
  who.tid = static_cast<uint32_t>(::gettid());
  who.robust = find_robust_head(nullptr);
  return who;
}

// For tests whose threads contend: a busy machine keeps a holder from its CPU for longer than a hit waits.
inline LockContext patient_thread(uint32_t owner = 1) {
  LockContext who = this_thread(owner);
  who.is_patient = true;
  return who;
}

class TestMap {
 public:
  explicit TestMap(const MapSpec& spec, uint64_t seed = 0x5eed) {
    const auto bytes = region_bytes(spec);
    if (!bytes) {
      std::abort();
    }
    bytes_ = *bytes;
    base_ = static_cast<std::byte*>(::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                                           MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (base_ == MAP_FAILED || !format_region(base_, bytes_, spec, seed)) {
      std::abort();
    }
    auto view = open_region(base_, bytes_, spec);
    if (!view) {
      std::abort();
    }
    map = *view;
  }
  TestMap(const TestMap&) = delete;
  TestMap& operator=(const TestMap&) = delete;
  ~TestMap() { ::munmap(base_, bytes_); }

  [[nodiscard]] std::byte* base() const { return base_; }
  [[nodiscard]] uint64_t bytes() const { return bytes_; }

  // Keys and values are filled up with zeros, or cut.
  std::string padded(const void* from, size_t have, size_t want) const {
    std::string out(want, '\0');
    std::memcpy(out.data(), from, have < want ? have : want);
    return out;
  }
  int update(uint64_t key, uint64_t value, uint64_t flags = BPF_ANY) const {
    return map_update(map, this_thread(), padded(&key, 8, map.spec.key_size).data(),
                      padded(&value, 8, map.spec.value_size).data(), flags);
  }
  int erase(uint64_t key) const {
    return map_erase(map, this_thread(), padded(&key, 8, map.spec.key_size).data());
  }
  std::byte* lookup(uint64_t key) const {
    return map_lookup(map, padded(&key, 8, map.spec.key_size).data());
  }
  // The first 8 bytes of the value, or ~0 when the key is not there.
  uint64_t get(uint64_t key) const {
    const std::byte* const at = lookup(key);
    uint64_t value = ~0ULL;
    if (at != nullptr) {
      value = 0;
      std::memcpy(&value, at, map.spec.value_size < 8 ? map.spec.value_size : 8);
    }
    return value;
  }
  // Every key that iteration visits, in order.
  std::vector<uint64_t> keys() const {
    std::vector<uint64_t> all;
    std::string key(map.spec.key_size, '\0');
    std::string next(map.spec.key_size, '\0');
    const void* from = nullptr;
    while (map_next_key(map, from, next.data()) == 0) {
      uint64_t number = 0;
      std::memcpy(&number, next.data(), next.size() < 8 ? next.size() : 8);
      all.push_back(number);
      key = next;
      from = key.data();
      if (all.size() > 2ULL * map.element_count) {
        std::abort();
      }
    }
    return all;
  }

  MapView map;

 private:
  std::byte* base_ = nullptr;
  uint64_t bytes_ = 0;
};

inline MapSpec hash_spec(uint32_t key_size, uint32_t value_size, uint32_t max_entries,
                         uint32_t flags = 0) {
  return MapSpec{BPF_MAP_TYPE_HASH, flags, key_size, value_size, max_entries, 1, 0};
}
inline MapSpec array_spec(uint32_t value_size, uint32_t max_entries, uint32_t flags = 0) {
  return MapSpec{BPF_MAP_TYPE_ARRAY, flags, 4, value_size, max_entries, 1, 0};
}

inline MapSpec percpu_spec(uint32_t type, uint32_t key_size, uint32_t value_size,
                           uint32_t max_entries, uint32_t lanes = 64) {
  return MapSpec{type, 0, key_size, value_size, max_entries, lanes, 0};
}

}  // namespace bpftime::testing
