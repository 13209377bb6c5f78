// What random programs run on: the same few maps for all, in the kernel, in the verifier's eyes and
// in the machine of machine.hpp. Home: tests.
#pragma once
#include "object/object.hpp"

namespace bpftime::testing {

inline constexpr uint32_t kArrayMap = 0, kHashMap = 1, kRingMap = 2;
inline constexpr uint32_t kValueBytes = 32;
inline constexpr uint32_t kContextBytes = 168;  // struct pt_regs
inline constexpr uint32_t kPacketBytes = 64;

inline BpfObject make_stage() {
  BpfObject object;
  object.license = "GPL";
  const auto add = [&](const char* name, uint32_t type, uint32_t key, uint32_t value,
                       uint32_t entries) {
    ObjectMap map;
    map.name = name;
    map.map_type = type;
    map.key_size = key;
    map.value_size = value;
    map.max_entries = entries;
    object.maps.push_back(map);
  };
  add("array", BPF_MAP_TYPE_ARRAY, 4, kValueBytes, 1);
  add("hash", BPF_MAP_TYPE_HASH, 8, kValueBytes, 4);
  add("ring", BPF_MAP_TYPE_RINGBUF, 0, 0, 4096);
  return object;
}

}  // namespace bpftime::testing
