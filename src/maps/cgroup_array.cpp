// CGROUP_ARRAY: tools make one and fill it only where their user asks for a cgroup. Which cgroup a thread is in cannot be
// had at a hit, so no cgroup can be put in: the answer is that of an fd that is none. Linux 6.18
// kernel/bpf/arraymap.c: bpf_fd_array_map_update_elem, fd_array_map_delete_elem, cgroup_fd_array_get_ptr.
#include <linux/bpf.h>

#include <cerrno>

#include "maps/bytes.hpp"
#include "maps/kinds.hpp"

namespace bpftime {
namespace {

int erase(const MapView& map, const LockContext& /*who*/, const void* key) {
  return load_as<uint32_t>(key) >= map.element_count ? -E2BIG : -ENOENT;
}

int sys_update(const MapView& map, const LockContext& /*who*/, const void* key,
               const void* /*value*/, uint64_t flags) {
  if (flags != BPF_ANY) {
    return -EINVAL;
  }
  return load_as<uint32_t>(key) >= map.element_count ? -E2BIG : -EBADF;
}

}  // namespace

constinit const MapOps kCgroupArrayOps = {BPF_MAP_TYPE_CGROUP_ARRAY,
                                          no_lookup,
                                          invalid_update,
                                          erase,
                                          array_next_key,
                                          no_sys_lookup,
                                          sys_update,
                                          array_sweep};

}  // namespace bpftime
