// PERCPU_ARRAY: an array for each lane (abi/lanes.hpp), one behind the other, so that CPUs share no
// cache line. Linux 6.18 kernel/bpf/arraymap.c: percpu_array_map_lookup_elem, bpf_percpu_array_copy,
// bpf_percpu_array_update.
#include <linux/bpf.h>

#include <cerrno>

#include "maps/bytes.hpp"
#include "maps/kinds.hpp"

namespace bpftime {
namespace {

std::byte* value_at(const MapView& map, uint32_t index, uint32_t lane) {
  return map.values + lane * map.lane_stride + static_cast<uint64_t>(index) * map.value_stride;
}

std::byte* lookup(const MapView& map, const void* key, uint32_t lane) {
  const auto index = load_as<uint32_t>(key);
  if (index >= map.element_count || lane >= map.spec.cpu_count) [[unlikely]] {
    return nullptr;
  }
  return value_at(map, index, lane);
}

int check_update(const MapView& map, uint32_t index, uint64_t flags) {
  if (flags > BPF_EXIST) {
    return -EINVAL;
  }
  if (index >= map.element_count) {
    return -E2BIG;
  }
  return flags == BPF_NOEXIST ? -EEXIST : 0;
}

int update(const MapView& map, const LockContext& /*who*/, uint32_t lane, const void* key,
           const void* value, uint64_t flags) {
  const auto index = load_as<uint32_t>(key);
  const int error = check_update(map, index, flags);
  if (error != 0) {
    return error;
  }
  if (lane >= map.spec.cpu_count) {
    return -EBUSY;
  }
  copy_bytes(value_at(map, index, lane), value, map.spec.value_size);
  return 0;
}

int sys_lookup(const MapView& map, const void* key, void* value, uint64_t flags,
               const LockContext* /*who*/) {
  if (flags != 0) {
    return -EINVAL;
  }
  const auto index = load_as<uint32_t>(key);
  if (index >= map.element_count) {
    return -ENOENT;
  }
  auto* to = static_cast<std::byte*>(value);
  for (uint32_t lane = 0; lane < map.spec.cpu_count; lane++, to += map.value_stride) {
    copy_bytes(to, value_at(map, index, lane), map.value_stride);
  }
  return 0;
}

int sys_update(const MapView& map, const LockContext& /*who*/, const void* key, const void* value,
               uint64_t flags) {
  const auto index = load_as<uint32_t>(key);
  const int error = check_update(map, index, flags);
  const auto* from = static_cast<const std::byte*>(value);
  for (uint32_t lane = 0; error == 0 && lane < map.spec.cpu_count;
       lane++, from += map.value_stride) {
    copy_bytes(value_at(map, index, lane), from, map.value_stride);
  }
  return error;
}

int visit(const MapView& map, uint64_t* cursor, void* key, uint32_t lane, std::byte** value) {
  if (*cursor >= map.element_count) {
    return -ENOENT;
  }
  const auto index = static_cast<uint32_t>((*cursor)++);
  store_as<uint32_t>(key, index);
  *value = lane < map.spec.cpu_count ? value_at(map, index, lane) : nullptr;
  return 0;
}

}  // namespace

constinit const MapOps kPercpuArrayOps = {BPF_MAP_TYPE_PERCPU_ARRAY,
                                          lookup,
                                          update,
                                          array_erase,
                                          array_next_key,
                                          sys_lookup,
                                          sys_update,
                                          array_sweep,
                                          visit,
                                          nullptr};

}  // namespace bpftime
