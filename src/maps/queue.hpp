// QUEUE and STACK: values without keys. Home: injected *, any thread; bounded, no heap, no libc.
#pragma once
#include "maps/map_ops.hpp"

namespace bpftime {

inline bool is_queue(const MapView& map) {
  return map.code == MapCode::kQueue || map.code == MapCode::kStack;
}

// Preconditions: is_queue(map). Results are 0 or -errno as the kernel's: EINVAL flags, E2BIG full (with BPF_EXIST the
// oldest goes instead), ENOENT empty, EBUSY.
int queue_push(const MapView& map, const LockContext& who, const void* value, uint64_t flags);
// `takes`: pop, else peek.
int queue_look(const MapView& map, const LockContext& who, void* value, bool takes);

}  // namespace bpftime
