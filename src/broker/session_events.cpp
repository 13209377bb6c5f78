// Ring buffers and perf buffers: events that are output for programs, their places in maps, and waking who waits for
// them (docs/decisions/0002-waking-readers.md). Kernel v6.18 kernel/bpf/arraymap.c, kernel/events/core.c.
#include <fcntl.h>
#include <linux/perf_event.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "broker/bpf_call.hpp"
#include "maps/perf_buffer.hpp"
#include "maps/ring_buffer.hpp"

namespace bpftime {
namespace {

constexpr uint64_t kPage = 4096;

// A map's region in the broker's own memory, while it lives. HOSTILE: only src/maps reads it.
class OpenRegion {
 public:
  explicit OpenRegion(const MapObject& map)
      : bytes_(map.region_bytes),
        base_(::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
                     map.file_in_use(), 0)) {
    if (base_ != MAP_FAILED) {
      auto opened = open_region(static_cast<std::byte*>(base_), bytes_, map.spec);
      if (opened) {
        view = *opened;
        is_open = true;
      }
    }
  }
  OpenRegion(const OpenRegion&) = delete;
  OpenRegion& operator=(const OpenRegion&) = delete;
  ~OpenRegion() {
    if (base_ != MAP_FAILED) {
      ::munmap(base_, bytes_);
    }
  }

  MapView view{};
  bool is_open = false;

 private:
  uint64_t bytes_;
  void* base_;
};

bool is_buffer(const MapObject& map) {
  return map.spec.map_type == BPF_MAP_TYPE_RINGBUF ||
         map.spec.map_type == BPF_MAP_TYPE_PERF_EVENT_ARRAY;
}

PerfEventShape shape_of(const PerfOutputObject& event) {
  return {event.id, event.cpu, event.data_bytes, event.wakeup_events, event.watermark};
}

// Gives the event a buffer of the map, for its life. Errors: EBUSY it has one of another map, ENOSPC.
Result<void> give_buffer(const std::shared_ptr<MapObject>& map,
                         const std::shared_ptr<PerfOutputObject>& event, const MapView& view) {
  const auto has = event->map.lock();
  if (has == map) {
    return {};
  }
  if (has != nullptr) {
    return make_error(EBUSY, "the event stands in another map");
  }
  map->buffers.resize(perf_buffer_count(view));
  const auto free = std::find_if(map->buffers.begin(), map->buffers.end(),
                                 [](const auto& buffer) { return buffer.expired(); });
  if (free == map->buffers.end()) {
    return make_error(ENOSPC, "no buffer left in the map");
  }
  const auto index = static_cast<uint32_t>(free - map->buffers.begin());
  TRY(perf_prepare(view, index, shape_of(*event)));
  *free = event;
  event->map = map;
  event->buffer = index;
  return {};
}

}  // namespace

void MapObject::reference_ended(uint64_t inode, bool is_last) {
  if (is_last) {
    clear_programs();  // kernel: bpf_fd_array_map_clear
  }
  // Kernel: perf_event_fd_array_release.
  if (slots.empty() || (spec.map_flags & BPF_F_PRESERVE_ELEMS) != 0) {
    return;
  }
  const OpenRegion here(*this);
  std::erase_if(slots, [&](const auto& entry) {
    const bool goes = entry.second.by_inode == inode;
    if (goes && here.is_open) {
      perf_set_slot(here.view, entry.first, -1);
    }
    return goes;
  });
}

uint64_t dropped_of(const MapObject& map) {
  if (!is_buffer(map)) {
    return 0;
  }
  const OpenRegion here(map);
  if (!here.is_open) {
    return 0;
  }
  if (map.spec.map_type == BPF_MAP_TYPE_RINGBUF) {
    return ring_dropped(here.view);
  }
  uint64_t dropped = 0;
  for (uint32_t i = 0; i < perf_buffer_count(here.view); i++) {
    dropped += perf_buffer(here.view, i).dropped.load(std::memory_order_relaxed);
  }
  return dropped;
}

Result<Reply> Session::open_output(const Caller& caller, const perf_event_attr& attr, int64_t pid,
                                   int64_t cpu) {
  if (pid != -1) {
    return make_error(EOPNOTSUPP, "output events are for a CPU, not for a process");
  }
  if (cpu < 0 || cpu >= ::sysconf(_SC_NPROCESSORS_CONF)) {
    return make_error(EINVAL, "no such CPU");
  }
  if (attr.sample_type != PERF_SAMPLE_RAW || attr.write_backward != 0) {
    return make_error(EOPNOTSUPP, "output events have raw samples, and nothing else");
  }
  auto event = std::make_shared<PerfOutputObject>();
  event->cpu = static_cast<uint32_t>(cpu);
  event->wakeup_events = attr.watermark == 0 ? attr.wakeup_events : 0;
  event->watermark = attr.watermark != 0 ? attr.wakeup_watermark : 0;
  return give(caller, event);
}

// MAP_UPDATE_ELEM and MAP_DELETE_ELEM where values are descriptors.
Result<Reply> Session::slot_command(const BpfCall& call) {
  const ObjectRef* ref = call.request.ref(static_cast<int>(call.attr.map_fd));
  const auto map =
      TRY(object_of<MapObject>(call.request, static_cast<int>(call.attr.map_fd), EINVAL));
  const bool has_programs = map->spec.map_type == BPF_MAP_TYPE_PROG_ARRAY;
  if (map->spec.map_type != BPF_MAP_TYPE_PERF_EVENT_ARRAY && !has_programs) {
    return make_error(EINVAL, "the elements of this map are in its region");
  }
  const bool is_update = call.request.command == BPF_MAP_UPDATE_ELEM;
  const auto key = static_cast<uint32_t>(call.request.args[0]);
  if (is_update && call.attr.flags != BPF_ANY) {
    return make_error(EINVAL, "flags are not for descriptors");
  }
  if (key >= map->spec.max_entries) {
    return make_error(E2BIG, "no such index");
  }
  if (has_programs) {
    return program_slot(call, map);
  }
  const OpenRegion region(*map);
  if (!region.is_open) {
    return make_error(ENOMEM, "cannot map a region");
  }
  if (!is_update) {
    if (map->slots.erase(key) == 0) {
      return make_error(ENOENT, "nothing at this index");
    }
    perf_set_slot(region.view, key, -1);
    return Reply{};
  }
  const auto event =
      TRY(object_of<PerfOutputObject>(call.request, static_cast<int>(call.request.args[1]), EBADF));
  TRY(give_buffer(map, event, region.view));
  map->slots[key] = {event, ref->inode};
  perf_set_slot(region.view, key, event->buffer);
  return Reply{};
}

Result<Reply> Session::region_reply(const MapObject& map, uint32_t buffer) {
  MapRegionReply about{};
  about.map_id = map.id;
  about.map_type = map.spec.map_type;
  about.map_flags = map.spec.map_flags;
  about.key_size = map.spec.key_size;
  about.value_size = map.spec.value_size;
  about.max_entries = map.spec.max_entries;
  about.cpu_count = map.spec.cpu_count;
  about.frozen = map.frozen ? 1 : 0;
  about.map_extra = map.map_extra;
  about.region_bytes = map.region_bytes;
  about.buffer = buffer;
  Reply reply;
  const auto bytes = std::as_bytes(std::span(&about, 1));
  reply.output.assign(bytes.begin(), bytes.end());
  reply.fd.reset(::fcntl(map.file_in_use(), F_DUPFD_CLOEXEC, 3));
  if (!reply.fd) {
    return make_error(errno, "cannot pass the region");
  }
  reply.object = ObjectKind::kMap;
  reply.object_id = map.id;
  return reply;
}

// What a loader maps of an event, and where its readers look. `data_bytes` as kMapRegion says.
Result<Reply> Session::event_region(const std::shared_ptr<PerfOutputObject>& event,
                                    int64_t data_bytes) {
  const auto map = event->map.lock();
  if (data_bytes >= 0) {
    // Kernel: perf_mmap.
    const auto bytes = static_cast<uint64_t>(data_bytes);
    const bool is_size =
        bytes % kPage == 0 && (bytes & (bytes - 1)) == 0 && bytes <= uint64_t{1} << 30;
    if (!is_size || (event->is_mapped && event->data_bytes != bytes)) {
      return make_error(EINVAL, "pages: one and a power of two, the same each time");
    }
    if (!event->is_mapped) {
      event->data_bytes = static_cast<uint32_t>(bytes);
      if (map != nullptr) {
        const OpenRegion region(*map);
        if (!region.is_open) {
          return make_error(ENOMEM, "cannot map a region");
        }
        TRY(perf_prepare(region.view, event->buffer, shape_of(*event)));
      }
      event->is_mapped = true;
    }
  }
  if (map != nullptr) {
    return region_reply(*map, event->buffer + 1);
  }
  Reply reply;
  MapRegionReply about{};
  about.map_type = BPF_MAP_TYPE_PERF_EVENT_ARRAY;
  const auto bytes = std::as_bytes(std::span(&about, 1));
  reply.output.assign(bytes.begin(), bytes.end());
  return reply;
}

Result<Reply> Session::make_readable(const Request& request) {
  if (request.refs.empty()) {
    return make_error(EBADF, "nothing named");
  }
  const auto object = objects_.find(request.refs[0].device, request.refs[0].inode);
  if (object == nullptr) {
    return make_error(EBADF, "no such object");
  }
  objects_.make_readable(*object);
  return Reply{};
}

void Session::target_said_wake(MapId id) {
  const auto map = std::static_pointer_cast<MapObject>(objects_.find(ObjectKind::kMap, raw(id)));
  if (map == nullptr || !is_buffer(*map)) {
    return;
  }
  if (map->spec.map_type == BPF_MAP_TYPE_RINGBUF) {
    objects_.make_readable(*map);
    return;
  }
  const OpenRegion region(*map);
  for (const auto& [key, slot] : map->slots) {
    if (region.is_open && perf_is_readable(region.view, slot.event->buffer, false)) {
      objects_.make_readable(*slot.event);
    }
  }
}

void Session::sweep_buffers(OwnerId dead) {
  LockContext who;
  who.tid = static_cast<uint32_t>(::gettid());
  who.robust = find_robust_head(nullptr);
  for (const auto& map : objects_.all<MapObject>()) {
    if (!is_buffer(*map)) {
      continue;
    }
    {
      const OpenRegion region(*map);
      if (!region.is_open) {
        continue;
      }
      (void)map_ops(region.view.code).sweep(region.view, who, dead);
    }
    target_said_wake(MapId{map->id});
  }
}

}  // namespace bpftime
