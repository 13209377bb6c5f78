#include "bpfcall/shim_objects.hpp"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <new>

#include "base/raw_syscall.hpp"
#include "bpfcall/shim_events.hpp"
#include "bpfcall/shim_session.hpp"

namespace bpftime::shim {
namespace {

constexpr uint64_t kTableFds = 1 << 20;  // higher numbers go the slow way

// Preconditions: the Lock is held.
void reclaim(ObjectState* objects) {
  MapObject** link = &objects->leaving;
  while (*link != nullptr) {
    MapObject* object = *link;
    if (object->users.load(std::memory_order_seq_cst) != 0) {
      link = &object->next;
      continue;
    }
    raw_syscall(SYS_munmap, reinterpret_cast<uint64_t>(object->region), object->region_bytes);
    object->region = nullptr;
    *link = object->next;
    object->next = objects->free;
    objects->free = object;
  }
}

// Nobody can find the object any more; its region goes when the last use has ended.
void retire(ObjectState* objects, MapObject* object) {
  for (MapObject** link = &objects->live; *link != nullptr; link = &(*link)->next) {
    if (*link == object) {
      *link = object->next;
      object->next = objects->leaving;
      objects->leaving = object;
      break;
    }
  }
}

void forget_locked(ObjectState* objects, std::atomic<MapObject*>* word) {
  MapObject* object = word->exchange(nullptr, std::memory_order_seq_cst);
  if (object != nullptr && !is_tentative(object) && --object->fds == 0) {
    retire(objects, object);
  }
}

MapObject* take_free(ObjectState* objects) {
  MapObject* object = objects->free;
  if (object != nullptr) {
    objects->free = object->next;
    return object;
  }
  void* memory = ::malloc(sizeof(MapObject));
  return memory == nullptr ? nullptr : ::new (memory) MapObject{};
}

// Preconditions: the Lock is held; `object` is live; `changes` is older than the look at what fd is.
// Enters it under its number, unless numbers have changed since, and gives one use.
MapUse publish(ObjectState* objects, int fd, MapObject* object, uint64_t changes) {
  object->users.fetch_add(1, std::memory_order_seq_cst);
  MapUse use(object);
  if (static_cast<uint64_t>(static_cast<uint32_t>(fd)) < objects->table_fds) {
    std::atomic<MapObject*>* word = &objects->table.load()[fd];
    if (word->load() == object) {
      return use;
    }
    forget_locked(objects, word);
    auto* tentative = reinterpret_cast<MapObject*>(reinterpret_cast<uintptr_t>(object) | 1);
    word->store(tentative, std::memory_order_seq_cst);
    const bool is_same = objects->changes.load(std::memory_order_seq_cst) == changes;
    word->store(is_same ? object : nullptr, std::memory_order_seq_cst);
    object->fds += is_same ? 1 : 0;
  }
  if (object->fds == 0) {
    retire(objects, object);
  }
  return use;
}

MapObject* find_live(ObjectState* objects, const ObjectRef& ref) {
  for (MapObject* object = objects->live; object != nullptr; object = object->next) {
    if (object->inode == ref.inode && object->device == ref.device) {
      return object;
    }
  }
  return nullptr;
}

struct MappedRegion {
  void* base = nullptr;
  uint64_t size = 0;
  ~MappedRegion() {
    if (base != nullptr) {
      raw_syscall(SYS_munmap, reinterpret_cast<uint64_t>(base), size);
    }
  }
};

Result<void> map_region(Region* region_pointer, MappedRegion* mapped) {
  Region& region = *region_pointer;
  struct stat st{};
  auto file = static_cast<uint64_t>(region.file.get());
  if (raw_syscall(SYS_fstat, file, reinterpret_cast<uint64_t>(&st)) != 0 ||
      static_cast<uint64_t>(st.st_size) < region.shape.region_bytes) {
    return make_error(EPROTO, "region is smaller than announced");
  }
  long address = raw_syscall(SYS_mmap, 0, region.shape.region_bytes, PROT_READ | PROT_WRITE,
                             MAP_SHARED, file, 0);
  if (is_syscall_error(address)) {
    // A frozen map's sealed copy.
    region.file = reader_of(std::move(region.file));
    file = static_cast<uint64_t>(region.file.get());
    address = raw_syscall(SYS_mmap, 0, region.shape.region_bytes, PROT_READ, MAP_SHARED, file, 0);
  }
  if (is_syscall_error(address)) {
    return make_error(static_cast<int>(-address), "cannot map the region");
  }
  mapped->base = reinterpret_cast<void*>(address);
  mapped->size = region.shape.region_bytes;
  // A child has its own view, or none: its fd table is wiped.
  raw_syscall(SYS_madvise, static_cast<uint64_t>(address), mapped->size, MADV_DONTFORK);
  return {};
}

}  // namespace

Result<void> prepare_objects(ObjectState* objects) {
  if (objects->table.load() != nullptr) {
    return {};
  }
  void* memory = wiped_memory(kTableFds * sizeof(std::atomic<MapObject*>));
  if (memory == nullptr) {
    return make_error(ENOMEM, "no memory for the fd table");
  }
  objects->table_fds = kTableFds;
  // SAFETY: zero bytes are null pointers, and std::atomic of a pointer is that pointer on this ABI.
  objects->table.store(static_cast<std::atomic<MapObject*>*>(memory));
  return {};
}

bool identify(int fd, ObjectRef* ref) {
  struct stat st{};
  if (raw_syscall(SYS_fstat, static_cast<uint64_t>(fd), reinterpret_cast<uint64_t>(&st)) != 0) {
    return false;
  }
  *ref = ObjectRef{fd, 0, 0, 0};
  if (S_ISSOCK(st.st_mode)) {
    ref->device = st.st_dev;
    ref->inode = st.st_ino;
  }
  return true;
}

UniqueFd reader_of(UniqueFd file) {
  char name[32];
  ::snprintf(name, sizeof(name), "/proc/self/fd/%d", file.get());
  const long reader = raw_syscall(SYS_openat, static_cast<uint64_t>(AT_FDCWD),
                                  reinterpret_cast<uint64_t>(name), O_RDONLY | O_CLOEXEC, 0);
  return reader < 0 ? std::move(file) : UniqueFd(static_cast<int>(reader));
}

namespace {
Result<Region> ask_about(const ObjectRef& ref, int64_t data_bytes) {
  Request request;
  request.kind = MessageKind::kMapRegion;
  request.args[0] = data_bytes;
  request.refs.push_back(ref);
  Reply reply = TRY(ask(&request));
  if (reply.value < 0) {
    return make_error(static_cast<int>(-reply.value), "not a map");
  }
  Region region;
  if (reply.output.size() < sizeof(region.shape)) {
    return make_error(EPROTO, "no region in the answer");
  }
  std::memcpy(&region.shape, reply.output.data(), sizeof(region.shape));
  region.file = std::move(reply.fd);
  return region;
}
}  // namespace

Result<Region> ask_for_region(const ObjectRef& ref) {
  Region region = TRY(ask_about(ref, -1));
  if (!region.file) {
    return make_error(ENODATA, "an event in no map");
  }
  return region;
}

Result<MapRegionReply> ask_for_event(const ObjectRef& ref, int64_t data_bytes) {
  const Region region = TRY(ask_about(ref, data_bytes));
  return region.shape;
}

namespace {

// Finds or makes the object of `ref`, which fd was when there had been so many `changes`.
Result<MapUse> resolve(ObjectState* objects, int fd, const ObjectRef& ref, uint64_t changes) {
  {
    const Lock lock;
    reclaim(objects);
    MapObject* object = find_live(objects, ref);
    if (object != nullptr) {
      return publish(objects, fd, object, changes);
    }
  }
  Region region = TRY(ask_for_region(ref));
  MappedRegion mapped;
  TRY(map_region(&region, &mapped));
  const MapRegionReply& shape = region.shape;
  const MapSpec spec{shape.map_type,    shape.map_flags, shape.key_size, shape.value_size,
                     shape.max_entries, shape.cpu_count, shape.map_extra};
  const MapView view = TRY(open_region(static_cast<std::byte*>(mapped.base), mapped.size, spec));

  const Lock lock;
  MapObject* object = find_live(objects, ref);
  if (object != nullptr) {
    return publish(objects, fd, object, changes);  // another thread was quicker
  }
  object = take_free(objects);
  if (object == nullptr) {
    return make_error(ENOMEM, "no memory");
  }
  object->frozen.store(shape.frozen != 0 ? 1 : 0);
  object->map =
      LocalMap{view, (shape.map_flags & BPF_F_WRONLY) == 0, (shape.map_flags & BPF_F_RDONLY) == 0};
  object->map_id = shape.map_id;
  object->buffer = shape.buffer;
  object->fds = 0;
  object->device = ref.device;
  object->inode = ref.inode;
  object->region = std::exchange(mapped.base, nullptr);
  object->region_bytes = mapped.size;
  object->next = objects->live;
  objects->live = object;
  return publish(objects, fd, object, changes);
}

}  // namespace

Result<MapUse> find_map(int fd) {
  MapUse found = TRY(find_waitable(fd));
  if (found->buffer != 0) {
    return make_error(EINVAL, "an event, not a map");
  }
  return found;
}

Result<MapUse> find_waitable(int fd) {
  if (!is_active() && !activate(Loudness::kQuiet)) {
    return make_error(ENOSYS, "no broker");
  }
  ObjectState* objects = object_state();
  MapUse known = known_map(objects, fd);
  if (known) {
    return known;
  }
  const uint64_t changes = objects->changes.load(std::memory_order_seq_cst);
  ObjectRef ref{};
  if (!identify(fd, &ref)) {
    return make_error(EBADF, "not open");
  }
  if (ref.inode == 0) {
    return make_error(EINVAL, "not a map");
  }
  return resolve(objects, fd, ref, changes);
}

void note_attachment(int fd) {
  ObjectState* objects = object_state();
  if (static_cast<uint64_t>(static_cast<uint32_t>(fd)) < objects->table_fds) {
    const Lock lock;
    std::atomic<MapObject*>* word = &objects->table.load()[fd];
    forget_locked(objects, word);
    word->store(attachment_word(), std::memory_order_seq_cst);
  }
}

bool is_attachment(int fd) {
  if (fd < 0 || !is_active()) {
    return false;
  }
  ObjectState* objects = object_state();
  return static_cast<uint64_t>(fd) < objects->table_fds &&
         objects->table.load()[fd].load(std::memory_order_relaxed) == attachment_word();
}

void forget_fd(int fd) {
  if (fd >= 0) {
    forget_fds(static_cast<uint32_t>(fd), static_cast<uint32_t>(fd));
  }
}

void forget_fds(uint32_t first, uint32_t last) {
  forget_waitables(first, last);
  if (!is_active()) {
    return;
  }
  ObjectState* objects = object_state();
  std::atomic<MapObject*>* table = objects->table.load();
  objects->changes.fetch_add(1, std::memory_order_seq_cst);
  // close_range(3, ~0) must not touch every page of the table: only the live maps' numbers matter.
  if (first == last) {
    if (first >= objects->table_fds || table[first].load(std::memory_order_seq_cst) == nullptr) {
      return;
    }
    const Lock lock;
    forget_locked(objects, &table[first]);
    reclaim(objects);
    return;
  }
  const Lock lock;
  if (objects->live == nullptr || first >= objects->table_fds) {
    return;  // attachments stay noted: a number used again is forgotten when it is given out
  }
  const uint64_t end = std::min<uint64_t>(static_cast<uint64_t>(last) + 1, objects->table_fds);
  for (uint64_t fd = first; fd < end && objects->live != nullptr; fd++) {
    forget_locked(objects, &table[fd]);
  }
  reclaim(objects);
}

void note_mapping(uint32_t map_id, uint64_t begin, uint64_t bytes) {
  void* memory = ::malloc(sizeof(Mapping));
  if (memory == nullptr) {
    return;
  }
  const Lock lock;
  ObjectState* objects = object_state();
  objects->mappings.store(::new (memory)
                              Mapping{begin, begin + bytes, map_id, objects->mappings.load()});
}

void forget_mappings(uint64_t begin, uint64_t bytes) {
  forget_event_mappings(begin, bytes);
  if (!is_active() || object_state()->mappings.load(std::memory_order_relaxed) == nullptr) {
    return;
  }
  const uint64_t end = begin + bytes;
  void* spare = ::malloc(sizeof(Mapping));  // before the Lock: should one have to be cut in two
  Mapping* gone = nullptr;
  {
    const Lock lock;
    ObjectState* objects = object_state();
    Mapping* kept = nullptr;
    Mapping* next = nullptr;
    for (Mapping* m = objects->mappings.load(); m != nullptr; m = next) {
      next = m->next;
      Mapping* right = nullptr;
      if (begin < m->end && m->begin < end) {
        if (m->begin < begin && end < m->end && spare != nullptr) {
          right = ::new (std::exchange(spare, nullptr)) Mapping{end, m->end, m->map_id, nullptr};
        }
        if (m->begin >= begin) {
          m->begin = std::min(end, m->end);
        } else {
          m->end = begin;
        }
      }
      Mapping** list = m->begin < m->end ? &kept : &gone;
      m->next = *list;
      *list = m;
      if (right != nullptr) {
        right->next = kept;
        kept = right;
      }
    }
    objects->mappings.store(kept);
  }
  while (gone != nullptr) {
    ::free(std::exchange(gone, gone->next));
  }
  ::free(spare);
}

bool is_mapped_writable(uint32_t map_id) {
  const Lock lock;
  for (const Mapping* m = object_state()->mappings.load(); m != nullptr; m = m->next) {
    if (m->map_id == map_id) {
      return true;
    }
  }
  return false;
}

void mark_frozen(int fd) {
  auto use = find_map(fd);
  if (!use) {
    return;
  }
  const uint32_t id = (*use)->map_id;
  const Lock lock;
  for (MapObject* object = object_state()->live; object != nullptr; object = object->next) {
    if (object->map_id == id) {
      object->frozen.store(1);
    }
  }
}

}  // namespace bpftime::shim
