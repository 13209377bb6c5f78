// The map fds of this process: number -> view of the mapped region, without a system call. Home: shim *.
//
// A table of one word an fd number, in memory that a fork wipes. An fd is looked up by identity the first time
// (fstat, then the broker), by number afterwards; close, dup2, dup3, close_range forget the number. A reader
// holds no lock: it raises `users` of what the table names and looks again. Objects are never freed, only used
// again for another map once nobody uses them, so a late reader touches valid memory and finds the table changed.
//
// Who enters a number does it in two steps, since the number may be closed and given away at any moment: it stores a
// tentative word (odd, which readers take for "unknown"), looks whether `changes` is what it was before the fd was
// identified, and only then makes the word good. Who closes raises `changes` first and looks at the word then. One
// of the two always sees the other, and never does a reader see a map under a number that stands for another.
#pragma once
#include <atomic>
#include <cstdint>

#include "bpfcall/answer.hpp"

namespace bpftime::shim {

struct MapObject {
  std::atomic<uint32_t> users;  // readers just now
  std::atomic<uint32_t> frozen;
  LocalMap map;
  uint32_t map_id;
  uint32_t
      buffer;  // of an output event: number of its buffer in the map + 1; 0: this is the map itself
  uint32_t fds;  // numbers in the table; the rest only under the Lock
  uint64_t device, inode;
  void* region;
  uint64_t region_bytes;
  MapObject* next;  // in live, leaving or free
};

// A writable mapping that a map's mmap gave to the loader: while there is one the map cannot be frozen.
struct Mapping {
  uint64_t begin, end;
  uint32_t map_id;
  Mapping* next;
};

struct ObjectState {
  std::atomic<std::atomic<MapObject*>*> table;
  uint64_t table_fds;
  std::atomic<uint64_t> changes;  // raised before an fd number is looked at to be forgotten
  MapObject* live;
  MapObject* leaving;  // closed, but somebody may still be reading
  MapObject* free;
  std::atomic<Mapping*> mappings;
};

// Preconditions: the Lock is held.
Result<void> prepare_objects(ObjectState* objects);

// Keeps a map's region mapped while it lives.
class MapUse {
 public:
  explicit MapUse(MapObject* object) : object_(object) {}
  MapUse(MapUse&& other) noexcept : object_(other.object_) { other.object_ = nullptr; }
  MapUse(const MapUse&) = delete;
  MapUse& operator=(const MapUse&) = delete;
  ~MapUse() {
    if (object_ != nullptr) {
      object_->users.fetch_sub(1, std::memory_order_release);
    }
  }
  explicit operator bool() const { return object_ != nullptr; }
  MapObject* operator->() const { return object_; }

 private:
  MapObject* object_;
};

inline bool is_tentative(const MapObject* word) {
  return (reinterpret_cast<uintptr_t>(word) & 1) != 0;
}

// The map behind fd, when its number is known already. Preconditions: is_active().
inline MapUse known_map(ObjectState* objects, int fd) {
  std::atomic<MapObject*>* table = objects->table.load(std::memory_order_relaxed);
  if (table == nullptr || static_cast<uint64_t>(static_cast<uint32_t>(fd)) >= objects->table_fds) {
    return MapUse(nullptr);
  }
  std::atomic<MapObject*>& word = table[fd];
  MapObject* object = word.load(std::memory_order_acquire);
  if (object == nullptr || is_tentative(object)) {
    return MapUse(nullptr);
  }
  object->users.fetch_add(1, std::memory_order_seq_cst);
  if (word.load(std::memory_order_seq_cst) != object) [[unlikely]] {
    object->users.fetch_sub(1, std::memory_order_release);
    return MapUse(nullptr);
  }
  return MapUse(object);
}
// The same, asking the broker when the number is new. Errors: EBADF, EINVAL no map, those of ask().
Result<MapUse> find_map(int fd);
// A map, or the buffer of an output event that stands in one. Errors: those of find_map(), ENODATA an event in no map.
Result<MapUse> find_waitable(int fd);

// A number that names a link or an event. Not a map: readers take it for unknown.
inline MapObject* attachment_word() { return reinterpret_cast<MapObject*>(uintptr_t{3}); }
void note_attachment(int fd);
bool is_attachment(int fd);

// The fd's number will stand for something else, or nothing. Cheap when it is no map's.
void forget_fd(int fd);
void forget_fds(uint32_t first, uint32_t last);

void note_mapping(uint32_t map_id, uint64_t begin, uint64_t bytes);
void forget_mappings(uint64_t begin, uint64_t bytes);  // cheap when there are none
bool is_mapped_writable(uint32_t map_id);

// The map that fd names was frozen: every view of it in this process.
void mark_frozen(int fd);

// How the broker knows an fd. False when it is not open; inode 0 when it is no socket.
bool identify(int fd, ObjectRef* ref);

// Asks for the region of the map that `ref` names.
struct Region {
  MapRegionReply shape;
  UniqueFd file;
};
Result<Region> ask_for_region(const ObjectRef& ref);
// The same of an output event that the caller maps with `data_bytes` of data; `buffer` is 0 while it is in no map.
Result<MapRegionReply> ask_for_event(const ObjectRef& ref, int64_t data_bytes);
// The same file opened for reading only, or itself when that does not work. A write-sealed memfd can only be mapped
// shared through such a description (before Linux 6.7).
UniqueFd reader_of(UniqueFd file);

}  // namespace bpftime::shim
