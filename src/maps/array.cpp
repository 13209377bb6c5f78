// ARRAY: values side by side, all of them always there. Kernel v6.12 kernel/bpf/arraymap.c.
#include <linux/bpf.h>

#include <cerrno>

#include "maps/bytes.hpp"
#include "maps/kinds.hpp"

namespace bpftime {
namespace {

std::byte* lookup(const MapView& map, const void* key, uint32_t /*lane*/) {
  const auto index = load_as<uint32_t>(key);
  if (index >= map.element_count) [[unlikely]] {
    return nullptr;
  }
  return map.values + static_cast<uint64_t>(index) * map.value_stride;
}

int update(const MapView& map, const LockContext& /*who*/, uint32_t /*lane*/, const void* key,
           const void* value, uint64_t flags) {
  if (flags > BPF_EXIST) {
    return -EINVAL;  // BPF_F_LOCK too: no spin lock in the value
  }
  const auto index = load_as<uint32_t>(key);
  if (index >= map.element_count) {
    return -E2BIG;
  }
  if (flags == BPF_NOEXIST) {
    return -EEXIST;
  }
  copy_bytes(map.values + static_cast<uint64_t>(index) * map.value_stride, value,
             map.spec.value_size);
  return 0;
}

int sys_lookup(const MapView& map, const void* key, void* value, uint64_t flags,
               const LockContext* /*who*/) {
  if (flags != 0) {
    return -EINVAL;
  }
  const std::byte* const from = lookup(map, key, 0);
  if (from == nullptr) {
    return -ENOENT;
  }
  copy_bytes(value, from, map.spec.value_size);
  return 0;
}

int sys_update(const MapView& map, const LockContext& who, const void* key, const void* value,
               uint64_t flags) {
  return update(map, who, 0, key, value, flags);
}

int visit(const MapView& map, uint64_t* cursor, void* key, uint32_t /*lane*/, std::byte** value) {
  if (*cursor >= map.element_count) {
    return -ENOENT;
  }
  const auto index = static_cast<uint32_t>((*cursor)++);
  store_as<uint32_t>(key, index);
  *value = map.values + static_cast<uint64_t>(index) * map.value_stride;
  return 0;
}

}  // namespace

int array_erase(const MapView& /*map*/, const LockContext& /*who*/, const void* /*key*/) {
  return -EINVAL;
}

int array_next_key(const MapView& map, const void* key, void* next) {
  const uint32_t index = key == nullptr ? ~0U : load_as<uint32_t>(key);
  if (index >= map.element_count) {
    store_as<uint32_t>(next, 0);
    return 0;
  }
  if (index == map.element_count - 1) {
    return -ENOENT;
  }
  store_as<uint32_t>(next, index + 1);
  return 0;
}

uint32_t array_sweep(const MapView& /*map*/, const LockContext& /*who*/, OwnerId /*dead*/) {
  return 0;
}

constinit const MapOps kArrayOps = {
    BPF_MAP_TYPE_ARRAY, lookup,     update,      array_erase, array_next_key,
    sys_lookup,         sys_update, array_sweep, visit,       nullptr};

}  // namespace bpftime
