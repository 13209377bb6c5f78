// map_lookup_elem, map_update_elem, map_delete_elem. A map pointer is the address of this process's
// MapView.
#include "helpers/all.hpp"
#include "helpers/lock_context.hpp"
#include "maps/kinds.hpp"
#include "maps/map_ops.hpp"

namespace bpftime::helper {
namespace {

const MapView& view(uint64_t map) { return *reinterpret_cast<const MapView*>(map); }
const void* memory(uint64_t address) { return reinterpret_cast<const void*>(address); }

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
  return reinterpret_cast<uint64_t>(map_lookup(view(a1), memory(a2), probe(hit).cpu));
}

BPFTIME_HELPER(map_update_elem) {
  (void)a5;
  return result(
      map_update(view(a1), lock_context(probe(hit)), memory(a2), memory(a3), a4, probe(hit).cpu));
}

BPFTIME_HELPER(map_delete_elem) {
  (void)a3, (void)a4, (void)a5;
  return result(map_erase(view(a1), lock_context(probe(hit)), memory(a2)));
}

// (map, index). No slot is ever filled: see maps/cgroup_array.cpp.
BPFTIME_HELPER(current_task_under_cgroup) {
  (void)a3, (void)a4, (void)a5, (void)hit;
  return result(static_cast<uint32_t>(a2) >= view(a1).element_count ? -E2BIG : -EAGAIN);
}

}  // namespace bpftime::helper
