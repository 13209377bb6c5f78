// map_lookup_elem, map_update_elem, map_delete_elem. A map pointer is the address of this process's
// MapView.
#include "helpers/all.hpp"
#include "helpers/lane.hpp"
#include "helpers/lock_context.hpp"
#include "maps/kinds.hpp"
#include "maps/map_ops.hpp"
#include "maps/queue.hpp"

namespace bpftime::helper {
namespace {

const MapView& view(uint64_t map) { return *reinterpret_cast<const MapView*>(map); }
const void* memory(uint64_t address) { return reinterpret_cast<const void*>(address); }

bool is_per_cpu(const MapView& map) {
  return map.code >= MapCode::kPercpuArray && map.code <= MapCode::kPercpuHashAny;
}
uint32_t lane_for(const MapView& map, Hit* hit) {
  return is_per_cpu(map) ? lane_of(probe(hit)) : 0;
}

// As in the kernel the room is zeroed where nothing is there.
int look_at_queue(const MapView& map, uint64_t to, Hit* hit, bool takes) {
  if (!is_queue(map)) {
    return -EINVAL;
  }
  const int error = queue_look(map, lock_context(probe(hit)), reinterpret_cast<void*>(to), takes);
  for (uint32_t i = 0; error != 0 && i < map.spec.value_size; i++) {
    reinterpret_cast<volatile char*>(to)[i] = 0;
  }
  return error;
}

uint64_t result(int code) { return static_cast<uint64_t>(static_cast<int64_t>(code)); }

}  // namespace

BPFTIME_HELPER(map_lookup_elem) {
  (void)a3, (void)a4, (void)a5;
  // The commonest kinds by a jump: nothing is saved over it.
  if (view(a1).code == MapCode::kArray) {
    return reinterpret_cast<uint64_t>(kArrayOps.lookup(view(a1), memory(a2), 0));
  }
  if (view(a1).code == MapCode::kHash4) {
    return reinterpret_cast<uint64_t>(kHash4Ops.lookup(view(a1), memory(a2), 0));
  }
  if (view(a1).code == MapCode::kHash8) {
    return reinterpret_cast<uint64_t>(kHash8Ops.lookup(view(a1), memory(a2), 0));
  }
  if (view(a1).code == MapCode::kPercpuArray) {
    const uint32_t lane = lane_of(probe(hit));
    return reinterpret_cast<uint64_t>(kPercpuArrayOps.lookup(view(a1), memory(a2), lane));
  }
  return reinterpret_cast<uint64_t>(map_lookup(view(a1), memory(a2), lane_for(view(a1), hit)));
}

// (map, key, u32 cpu): no lane is needed to look at another's value.
BPFTIME_HELPER(map_lookup_percpu_elem) {
  (void)a4, (void)a5, (void)hit;
  const auto lane = static_cast<uint32_t>(a3);
  return is_per_cpu(view(a1)) ? reinterpret_cast<uint64_t>(map_lookup(view(a1), memory(a2), lane))
                              : 0;
}

BPFTIME_HELPER(map_update_elem) {
  (void)a5;
  return result(map_update(view(a1), lock_context(probe(hit)), memory(a2), memory(a3), a4,
                           lane_for(view(a1), hit)));
}

BPFTIME_HELPER(map_delete_elem) {
  (void)a3, (void)a4, (void)a5;
  return result(map_erase(view(a1), lock_context(probe(hit)), memory(a2)));
}

// (map, value, flags), (map, value), (map, value): queues and stacks.
BPFTIME_HELPER(map_push_elem) {
  (void)a4, (void)a5;
  return result(is_queue(view(a1)) ? queue_push(view(a1), lock_context(probe(hit)), memory(a2), a3)
                                   : -EINVAL);
}
BPFTIME_HELPER(map_pop_elem) {
  (void)a3, (void)a4, (void)a5;
  return result(look_at_queue(view(a1), a2, hit, true));
}
BPFTIME_HELPER(map_peek_elem) {
  (void)a3, (void)a4, (void)a5;
  return result(look_at_queue(view(a1), a2, hit, false));
}

// (map, index). No slot is ever filled: see maps/cgroup_array.cpp.
BPFTIME_HELPER(current_task_under_cgroup) {
  (void)a3, (void)a4, (void)a5, (void)hit;
  return result(static_cast<uint32_t>(a2) >= view(a1).element_count ? -E2BIG : -EAGAIN);
}

}  // namespace bpftime::helper
