#include "maps/map_ops.hpp"

#include "maps/kinds.hpp"

namespace bpftime {

const MapOps& map_ops(MapCode code) {
  switch (code) {
    case MapCode::kArray:
      return kArrayOps;
    case MapCode::kHash4:
      return kHash4Ops;
    case MapCode::kHash8:
      return kHash8Ops;
    case MapCode::kHash16:
      return kHash16Ops;
    default:
      return kHashAnyOps;
  }
}

}  // namespace bpftime
