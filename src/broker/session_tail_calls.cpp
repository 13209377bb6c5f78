// Programs in a PROG_ARRAY. Linux 6.18 kernel/bpf/arraymap.c: bpf_fd_array_map_update_elem, prog_fd_array_get_ptr;
// kernel/bpf/core.c: bpf_prog_map_compatible.
#include <linux/bpf.h>
#include <sys/mman.h>

#include <cerrno>

#include "broker/bpf_call.hpp"
#include "maps/map_view.hpp"

namespace bpftime {
namespace {

// For loaders, who look there for themselves.
void show_id(const MapObject& map, uint32_t index, uint32_t id) {
  void* const base =
      ::mmap(nullptr, map.region_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, map.region.get(), 0);
  if (base == MAP_FAILED) {
    return;
  }
  if (auto view = open_region(static_cast<std::byte*>(base), map.region_bytes, map.spec)) {
    __atomic_store_n(
        reinterpret_cast<uint32_t*>(view->values + uint64_t{index} * view->value_stride), id,
        __ATOMIC_RELAXED);
  }
  ::munmap(base, map.region_bytes);
}

}  // namespace

bool fits_in(const MapObject& array, const ProgramObject& program) {
  return !array.callers ||
         *array.callers == ProgramKind{program.type, program.expected_attach_type};
}

void MapObject::clear_programs() {
  for (const auto& [index, program] : programs) {
    show_id(*this, index, 0);
  }
  programs.clear();
}

std::map<uint32_t, ProgId> Session::called_programs(MapId id) {
  std::map<uint32_t, ProgId> called;
  const auto map = std::static_pointer_cast<MapObject>(objects_.find(ObjectKind::kMap, raw(id)));
  if (map != nullptr) {
    for (const auto& [index, program] : map->programs) {
      called[index] = ProgId{program->id};
    }
  }
  return called;
}

// UPDATE and DELETE. Preconditions: the index is in range.
Result<Reply> Session::program_slot(const BpfCall& call, const std::shared_ptr<MapObject>& map) {
  const auto index = static_cast<uint32_t>(call.request.args[0]);
  if (call.request.command == BPF_MAP_DELETE_ELEM) {
    if (map->programs.erase(index) == 0) {
      return make_error(ENOENT, "nothing at this index");
    }
    show_id(*map, index, 0);
  } else {
    const auto program =
        TRY(object_of<ProgramObject>(call.request, static_cast<int>(call.request.args[1]), EINVAL));
    if (!fits_in(*map, *program)) {
      return make_error(EINVAL, "the array has programs of another kind");
    }
    map->callers = ProgramKind{program->type, program->expected_attach_type};
    map->programs[index] = program;
    show_id(*map, index, program->id);
  }
  if (targets_ != nullptr) {
    TRY(targets_->sync(nullptr));
  }
  return Reply{};
}

}  // namespace bpftime
