// PROG_ARRAY: the region tells loaders the programs' ids; what a program calls stands in a table of each target
// (abi/agent.hpp: TailTarget). Both are the broker's, as are UPDATE and DELETE. Linux 6.18 kernel/bpf/arraymap.c:
// bpf_fd_array_map_lookup_elem.
#include <linux/bpf.h>

#include <cerrno>

#include "maps/bytes.hpp"
#include "maps/kinds.hpp"

namespace bpftime {
namespace {

int sys_lookup(const MapView& map, const void* key, void* value, uint64_t flags,
               const LockContext* /*who*/) {
  if (flags != 0) {
    return -EINVAL;
  }
  const auto index = load_as<uint32_t>(key);
  if (index >= map.element_count) {
    return -ENOENT;
  }
  const auto id = load_as<uint32_t>(map.values + static_cast<uint64_t>(index) * map.value_stride);
  if (id == 0) {
    return -ENOENT;
  }
  store_as(value, id);
  return 0;
}

}  // namespace

constinit const MapOps kProgArrayOps = {
    BPF_MAP_TYPE_PROG_ARRAY, no_lookup,  no_update,     no_erase,
    array_next_key,          sys_lookup, no_sys_update, array_sweep};

}  // namespace bpftime
