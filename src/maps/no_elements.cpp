// Kinds whose contents are not elements, or whose elements bpf(2) does not give: ring buffers, and perf event arrays, whose
// descriptors the broker keeps; and kinds that are filled in another way.
#include <cerrno>

#include "maps/kinds.hpp"

namespace bpftime {

std::byte* no_lookup(const MapView& /*map*/, const void* /*key*/, uint32_t /*lane*/) {
  return nullptr;
}
int no_update(const MapView& /*map*/, const LockContext& /*who*/, uint32_t /*lane*/,
              const void* /*key*/, const void* /*value*/, uint64_t /*flags*/) {
  return -kKernelEnotsupp;
}
int no_erase(const MapView& /*map*/, const LockContext& /*who*/, const void* /*key*/) {
  return -kKernelEnotsupp;
}
int no_next_key(const MapView& /*map*/, const void* /*key*/, void* /*next*/) {
  return -kKernelEnotsupp;
}
int no_sys_lookup(const MapView& /*map*/, const void* /*key*/, void* /*value*/, uint64_t /*flags*/,
                  const LockContext* /*who*/) {
  return -kKernelEnotsupp;
}
int no_sys_update(const MapView& /*map*/, const LockContext& /*who*/, const void* /*key*/,
                  const void* /*value*/, uint64_t /*flags*/) {
  return -kKernelEnotsupp;
}

int invalid_update(const MapView& /*map*/, const LockContext& /*who*/, uint32_t /*lane*/,
                   const void* /*key*/, const void* /*value*/, uint64_t /*flags*/) {
  return -EINVAL;
}
int invalid_sys_update(const MapView& /*map*/, const LockContext& /*who*/, const void* /*key*/,
                       const void* /*value*/, uint64_t /*flags*/) {
  return -EINVAL;
}

}  // namespace bpftime
