// BPF_MAP_LOOKUP_BATCH, LOOKUP_AND_DELETE_BATCH, UPDATE_BATCH and DELETE_BATCH over a region that is mapped here.
// Home: edge *; the shim calls it on any thread of a loader. The attr and what it points to is hostile: copied once.
#pragma once
#include "bpfcall/answer.hpp"

namespace bpftime {

constexpr bool is_map_batch_command(uint32_t command) {
  return command >= BPF_MAP_LOOKUP_BATCH && command <= BPF_MAP_DELETE_BATCH;
}
constexpr bool changes_map(uint32_t command) {
  return command == BPF_MAP_UPDATE_ELEM || command == BPF_MAP_DELETE_ELEM ||
         command == BPF_MAP_LOOKUP_AND_DELETE_ELEM ||
         (is_map_batch_command(command) && command != BPF_MAP_LOOKUP_BATCH);
}

struct MapBatchCall {
  uint32_t command;
  int map_fd;
  uint64_t count_at;  // where batch.count stands
  uint64_t in_batch, out_batch, keys, values, elem_flags, flags;
  uint32_t count;
};
// Errors: EFAULT, E2BIG, EINVAL, before the fd is looked at.
Result<MapBatchCall> read_map_batch_call(const CallerMemory& memory, uint32_t command,
                                         uint64_t attr, uint32_t attr_bytes);

// 0 or -errno; how many elements were done stands in the attr. -ENOENT at the end of a map is the usual end.
int answer_map_batch_call(const LocalMap& map, const CallerMemory& memory, const MapBatchCall& call,
                          LockContext (*who)(void* self), void* self);

}  // namespace bpftime
