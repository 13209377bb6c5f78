// PERCPU_HASH: a value for each lane in an element (abi/lanes.hpp). A present key's update writes its
// own lane's value in place, under the bucket's lock so that the element stays this key's; Linux
// 6.18 kernel/bpf/hashtab.c: pcpu_copy_value, pcpu_init_value.
#include <linux/bpf.h>

#include <cerrno>

#include "maps/hash_table.hpp"
#include "maps/kinds.hpp"

namespace bpftime {
namespace {

using namespace hash_table;  // NOLINT: this file is that table's

// `lane` < spec.cpu_count.
std::byte* lane_of(const MapView& map, HashElement& element, uint32_t lane) {
  return value_of(map, element) + lane_place(map, lane) * map.value_stride;
}

// From the shape that bpf(2) knows, lane after lane, and to it.
void copy_in(const MapView& map, HashElement& element, const void* values) {
  const auto* from = static_cast<const std::byte*>(values);
  for (uint32_t lane = 0; lane < map.spec.cpu_count; lane++, from += map.value_stride) {
    copy_bytes(lane_of(map, element, lane), from, map.value_stride);
  }
}
void copy_out(const MapView& map, HashElement& element, void* values) {
  auto* to = static_cast<std::byte*>(values);
  for (uint32_t lane = 0; lane < map.spec.cpu_count; lane++, to += map.value_stride) {
    copy_bytes(to, lane_of(map, element, lane), map.value_stride);
  }
}

template <class Key>
std::byte* lookup(const MapView& map, const void* key, uint32_t lane) {
  if (lane >= map.spec.cpu_count) [[unlikely]] {
    return nullptr;
  }
  HashElement* const found = hash_table::lookup(map, Key(key));
  return found == nullptr ? nullptr : lane_of(map, *found, lane);
}

// For update_with(): changes a present element where it stands.
template <class Change>
auto in_place(const MapView& map, Change change) {
  return [&map, change](HashBucket& /*bucket*/, const Place& place, const auto& /*key*/) {
    change(element_at(map, place.name));
  };
}

template <class Key>
int update(const MapView& map, const LockContext& who, uint32_t lane, const void* key,
           const void* value, uint64_t flags) {
  if (lane >= map.spec.cpu_count) {
    return -EBUSY;
  }
  const auto change = [&](HashElement& element) {
    copy_bytes(lane_of(map, element, lane), value, map.spec.value_size);
  };
  return update_with<Key>(map, who, key, flags, in_place(map, change), [&](HashElement& element) {
    zero_bytes(value_of(map, element), uint64_t{map.value_stride} * map.spec.cpu_count);
    change(element);
  });
}

template <class Key>
int erase(const MapView& map, const LockContext& who, const void* key) {
  return hash_table::erase<Key>(map, who, key, [](HashElement&) {});
}

template <class Key>
int sys_lookup(const MapView& map, const void* key, void* value, uint64_t flags,
               const LockContext* /*who*/) {
  if (flags != 0) {
    return -EINVAL;
  }
  HashElement* const found = hash_table::lookup(map, Key(key));
  if (found == nullptr) {
    return -ENOENT;
  }
  copy_out(map, *found, value);
  return 0;
}

template <class Key>
int sys_update(const MapView& map, const LockContext& who, const void* key, const void* value,
               uint64_t flags) {
  const auto all = [&](HashElement& element) { copy_in(map, element, value); };
  return update_with<Key>(map, who, key, flags, in_place(map, all), all);
}

template <class Key>
int sys_take(const MapView& map, const LockContext& who, const void* key, void* value) {
  return hash_table::erase<Key>(map, who, key,
                                [&](HashElement& element) { copy_out(map, element, value); });
}

int visit(const MapView& map, uint64_t* cursor, void* key, uint32_t lane, std::byte** value) {
  HashElement* const element = hash_table::visit(map, cursor, key);
  if (element == nullptr) {
    return -ENOENT;
  }
  *value = lane < map.spec.cpu_count ? lane_of(map, *element, lane) : nullptr;
  return 0;
}

template <class Key>
constexpr MapOps ops() {
  return {
      BPF_MAP_TYPE_PERCPU_HASH, lookup<Key>,     update<Key>, erase<Key>, hash_table::next_key<Key>,
      sys_lookup<Key>,          sys_update<Key>, sweep,       visit,      sys_take<Key>};
}

}  // namespace

constinit const MapOps kPercpuHash4Ops = ops<Key4>();
constinit const MapOps kPercpuHash8Ops = ops<Key8>();
constinit const MapOps kPercpuHash16Ops = ops<Key16>();
constinit const MapOps kPercpuHashAnyOps = ops<KeyAny>();

}  // namespace bpftime
