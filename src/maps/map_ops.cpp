#include "maps/map_ops.hpp"

#include "maps/kinds.hpp"

namespace bpftime {
namespace {

// In the order of MapCode.
constinit const MapOps* const kRows[] = {
    &kArrayOps,       &kHash4Ops,       &kHash8Ops,          &kHash16Ops,       &kHashAnyOps,
    &kPercpuArrayOps, &kPercpuHash4Ops, &kPercpuHash8Ops,    &kPercpuHash16Ops, &kPercpuHashAnyOps,
    &kCgroupArrayOps, &kRingBufferOps,  &kPerfEventArrayOps, &kStackTraceOps,   &kQueueOps,
    &kStackOps,       &kProgArrayOps,
};
static_assert(sizeof kRows / sizeof kRows[0] == static_cast<size_t>(MapCode::kCount));

}  // namespace

const MapOps& map_ops(MapCode code) {
  return *kRows[code < MapCode::kCount ? static_cast<size_t>(code) : 0];
}

}  // namespace bpftime
