// What can be done with a map, one row a MapCode. Home: injected *, any thread; a signal handler on
// top of an operation of its own thread gets EBUSY from updates. No heap, no libc, bounded; results
// are 0 or -errno. The region may be scribbled over at any moment: an error or null then, never an
// access outside of it.
#pragma once
#include "maps/lock.hpp"
#include "maps/map_view.hpp"

namespace bpftime {

struct MapOps {
  uint32_t map_type;
  // For programs. Null = no such key. Takes no lock. `lane` is for per-CPU kinds.
  std::byte* (*lookup)(const MapView& map, const void* key, uint32_t lane);
  // Kernel semantics (bpf-helpers(7)): EINVAL flags, EEXIST, ENOENT, E2BIG full, EBUSY.
  int (*update)(const MapView& map, const LockContext& who, uint32_t lane, const void* key,
                const void* value, uint64_t flags);
  int (*erase)(const MapView& map, const LockContext& who, const void* key);
  // key null or not found = first. ENOENT at the end.
  int (*next_key)(const MapView& map, const void* key, void* next);
  // bpf(2) shape. `value` has value_size bytes (per-CPU kinds: round_up(value_size, 8) *
  // cpu_count).
  // Takes no lock, but where the value does not stand still for long enough to be copied whole: then `who` takes it, or,
  // where it is null, EAGAIN. (A writer that does nothing else can outrun every copy of a large value.)
  int (*sys_lookup)(const MapView& map, const void* key, void* value, uint64_t flags,
                    const LockContext* who);
  int (*sys_update)(const MapView& map, const LockContext& who, const void* key, const void* value,
                    uint64_t flags);
  // Frees and repairs every lock that `dead` holds (or that the kernel marked); the count.
  // For the broker at a process's death; not needed for others to go on.
  uint32_t (*sweep)(const MapView& map, const LockContext& who, OwnerId dead);
  // The first element at or behind *cursor (0: of all): copies its key, gives its value of `lane`
  // (null where there is no such lane), and moves the cursor behind it. ENOENT at the end. What
  // stays in the map is met once, whatever comes and goes beside it, the element given included.
  int (*visit)(const MapView& map, uint64_t* cursor, void* key, uint32_t lane,
               std::byte** value) = nullptr;
  // Gives the value in bpf(2) shape and erases in one step. Null: the kind does not have it.
  int (*sys_take)(const MapView& map, const LockContext& who, const void* key,
                  void* value) = nullptr;
};
const MapOps& map_ops(MapCode code);

// Shorthands, used by helpers, shim and broker.
inline std::byte* map_lookup(const MapView& map, const void* key, uint32_t lane = 0) {
  return map_ops(map.code).lookup(map, key, lane);
}
inline int map_update(const MapView& map, const LockContext& who, const void* key,
                      const void* value, uint64_t flags, uint32_t lane = 0) {
  return map_ops(map.code).update(map, who, lane, key, value, flags);
}
inline int map_erase(const MapView& map, const LockContext& who, const void* key) {
  return map_ops(map.code).erase(map, who, key);
}
inline int map_next_key(const MapView& map, const void* key, void* next) {
  return map_ops(map.code).next_key(map, key, next);
}
inline int map_sys_lookup(const MapView& map, const void* key, void* value, uint64_t flags = 0,
                          const LockContext* who = nullptr) {
  return map_ops(map.code).sys_lookup(map, key, value, flags, who);
}
inline int map_sys_update(const MapView& map, const LockContext& who, const void* key,
                          const void* value, uint64_t flags) {
  return map_ops(map.code).sys_update(map, who, key, value, flags);
}
// BPF_MAP_DELETE_ELEM; erase() is what a program's helper does, and the same.
inline int map_sys_erase(const MapView& map, const LockContext& who, const void* key) {
  return map_ops(map.code).erase(map, who, key);
}

}  // namespace bpftime
