// The rows of map_ops(), each defined beside its kind. Home: injected *, maps only.
#pragma once
#include "maps/map_ops.hpp"

namespace bpftime {

extern const MapOps kStackTraceOps, kQueueOps, kStackOps, kProgArrayOps;
extern const MapOps kArrayOps, kHash4Ops, kHash8Ops, kHash16Ops, kHashAnyOps, kPercpuArrayOps,
    kPercpuHash4Ops, kPercpuHash8Ops, kPercpuHash16Ops, kPercpuHashAnyOps, kCgroupArrayOps,
    kRingBufferOps, kPerfEventArrayOps;

// What every kind with an index as key answers alike.
int array_erase(const MapView& map, const LockContext& who, const void* key);
int array_next_key(const MapView& map, const void* key, void* next);
uint32_t array_sweep(const MapView& map, const LockContext& who, OwnerId dead);

// What kinds without elements answer: null, and ENOTSUPP.
std::byte* no_lookup(const MapView& map, const void* key, uint32_t lane);
int no_update(const MapView& map, const LockContext& who, uint32_t lane, const void* key,
              const void* value, uint64_t flags);
int no_erase(const MapView& map, const LockContext& who, const void* key);
int no_next_key(const MapView& map, const void* key, void* next);
int no_sys_lookup(const MapView& map, const void* key, void* value, uint64_t flags,
                  const LockContext* who);
int no_sys_update(const MapView& map, const LockContext& who, const void* key, const void* value,
                  uint64_t flags);

// What kinds answer that take no value so: EINVAL.
int invalid_update(const MapView& map, const LockContext& who, uint32_t lane, const void* key,
                   const void* value, uint64_t flags);
int invalid_sys_update(const MapView& map, const LockContext& who, const void* key,
                       const void* value, uint64_t flags);

}  // namespace bpftime
