// The rows of map_ops(), each defined beside its kind. Home: injected *, maps only.
#pragma once
#include "maps/map_ops.hpp"

namespace bpftime {

extern const MapOps kArrayOps, kHash4Ops, kHash8Ops, kHash16Ops, kHashAnyOps;

}  // namespace bpftime
