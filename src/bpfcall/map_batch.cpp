// Linux 6.18 kernel/bpf/syscall.c: bpf_map_do_batch, generic_map_lookup_batch, generic_map_update_batch,
// generic_map_delete_batch; kernel/bpf/hashtab.c: __htab_map_lookup_and_delete_batch. A hash's place is a number of 32
// bits (there: of a bucket), an array's is the last key.
#include "bpfcall/map_batch.hpp"

#include <cerrno>
#include <cstring>

namespace bpftime {
namespace {

class Batch {
 public:
  Batch(const LocalMap& map, const CallerMemory& memory, const MapBatchCall& call,
        LockContext (*who)(void* self), void* self)
      : map_(map),
        view_(map.view),
        memory_(memory),
        call_(call),
        who_(who),
        self_(self),
        value_bytes_(bpf_value_bytes(map.view.spec)),
        value_(value_bytes_) {}

  int run() {
    const bool reads =
        call_.command == BPF_MAP_LOOKUP_BATCH || call_.command == BPF_MAP_LOOKUP_AND_DELETE_BATCH;
    if ((reads && !map_.may_read) || (changes_map(call_.command) && !map_.may_write)) {
      return -EPERM;
    }
    const uint32_t type = view_.spec.map_type;
    const bool is_hash = type == BPF_MAP_TYPE_HASH || type == BPF_MAP_TYPE_PERCPU_HASH;
    const bool is_array = type == BPF_MAP_TYPE_ARRAY || type == BPF_MAP_TYPE_PERCPU_ARRAY;
    const bool deletes =
        call_.command == BPF_MAP_LOOKUP_AND_DELETE_BATCH || call_.command == BPF_MAP_DELETE_BATCH;
    if (!is_hash && (!is_array || deletes)) {
      return -kKernelEnotsupp;
    }
    // No map of ours holds a bpf_spin_lock yet, so BPF_F_LOCK is refused with the rest.
    if (call_.elem_flags != 0 || (is_hash && reads && call_.flags != 0)) {
      return -EINVAL;
    }
    if (view_.spec.key_size > kMostKeyBytes) {
      return -E2BIG;
    }
    if (call_.count == 0) {
      return 0;
    }
    if (!write_count(0)) {
      return -EFAULT;
    }
    const int error = !reads ? change() : is_hash ? look_by_place() : look_by_key();
    return error == -EFAULT || write_count(done_) ? error : -EFAULT;
  }

 private:
  bool write_count(uint32_t count) const { return write(call_.count_at, &count, sizeof(count)); }
  [[nodiscard]] bool write(uint64_t to, const void* from, uint64_t bytes) const {
    return memory_.write(memory_.self, to, {static_cast<const std::byte*>(from), bytes})
        .has_value();
  }
  bool read(uint64_t from, void* to, uint64_t bytes) const {
    return memory_.read(memory_.self, from, {static_cast<std::byte*>(to), bytes}).has_value();
  }
  [[nodiscard]] uint64_t key_at(uint32_t n) const {
    return call_.keys + uint64_t{n} * view_.spec.key_size;
  }
  [[nodiscard]] uint64_t value_at(uint32_t n) const {
    return call_.values + uint64_t{n} * value_bytes_;
  }
  bool give_element() {
    if (!write(key_at(done_), key_, view_.spec.key_size) ||
        !write(value_at(done_), value_.data(), value_bytes_)) {
      return false;
    }
    done_++;
    return true;
  }
  int look_up() {
    const int error = map_sys_lookup(view_, key_, value_.data());
    if (error != -EAGAIN) {
      return error;
    }
    const LockContext holder = who_(self_);
    return map_sys_lookup(view_, key_, value_.data(), 0, &holder);
  }

  int look_by_key() {
    alignas(8) std::byte last[kMostKeyBytes];
    bool has_last = call_.in_batch != 0;
    if (has_last && !read(call_.in_batch, last, view_.spec.key_size)) {
      return -EFAULT;
    }
    int error = 0;
    while (done_ < call_.count) {
      error = map_next_key(view_, has_last ? last : nullptr, key_);
      if (error != 0) {
        break;
      }
      error = look_up();
      if (error == 0 && !give_element()) {
        return -EFAULT;
      }
      if (error != 0 && error != -ENOENT) {
        return error;
      }
      std::memcpy(last, key_, view_.spec.key_size);
      has_last = true;
    }
    if (done_ != 0 && !write(call_.out_batch, last, view_.spec.key_size)) {
      return -EFAULT;
    }
    return error;
  }

  // A place that 32 bits do not tell lies in the middle of a bucket's chain: the chain is given whole, or not at all.
  int look_by_place() {
    const bool takes = call_.command == BPF_MAP_LOOKUP_AND_DELETE_BATCH;
    uint32_t place = 0;
    if (call_.in_batch != 0 && !read(call_.in_batch, &place, sizeof(place))) {
      return -EFAULT;
    }
    uint64_t cursor = place;
    uint32_t done_at_place = 0;
    int error = 0;
    while (error == 0) {
      if (cursor <= UINT32_MAX) {
        place = static_cast<uint32_t>(cursor);
        done_at_place = done_;
      }
      uint64_t next = cursor;
      std::byte* live = nullptr;
      error = map_ops(view_.code).visit(view_, &next, key_, 0, &live);
      if (error != 0) {
        place = static_cast<uint32_t>(next);
        break;
      }
      if (done_ == call_.count) {
        if (cursor > UINT32_MAX && !takes) {
          done_ = done_at_place;
        }
        error = done_ == 0 ? -ENOSPC : 0;
        break;
      }
      const int found =
          takes ? map_ops(view_.code).sys_take(view_, who_(self_), key_, value_.data()) : look_up();
      if (found == 0 && !give_element()) {
        return -EFAULT;
      }
      if (found != 0 && found != -ENOENT) {
        return found;
      }
      cursor = next;
    }
    return write(call_.out_batch, &place, sizeof(place)) ? error : -EFAULT;
  }

  int change() {
    const bool updates = call_.command == BPF_MAP_UPDATE_BATCH;
    const LockContext who = who_(self_);
    for (; done_ < call_.count; done_++) {
      if (!read(key_at(done_), key_, view_.spec.key_size) ||
          (updates && !read(value_at(done_), value_.data(), value_bytes_))) {
        (void)write_count(done_);
        return -EFAULT;
      }
      const int error = updates ? map_sys_update(view_, who, key_, value_.data(), BPF_ANY)
                                : map_sys_erase(view_, who, key_);
      if (error != 0) {
        return error;
      }
    }
    return 0;
  }

  const LocalMap& map_;
  const MapView& view_;
  const CallerMemory& memory_;
  const MapBatchCall& call_;
  LockContext (*who_)(void* self);
  void* self_;
  uint64_t value_bytes_;
  std::vector<std::byte> value_;
  alignas(8) std::byte key_[kMostKeyBytes];
  uint32_t done_ = 0;
};

}  // namespace

Result<MapBatchCall> read_map_batch_call(const CallerMemory& memory, uint32_t command,
                                         uint64_t attr_address, uint32_t attr_bytes) {
  std::byte attr[kKnownAttrBytes];
  TRY(read_bpf_attr(memory, attr_address, attr_bytes, attr));
  decltype(bpf_attr::batch) batch;
  std::memcpy(&batch, attr, sizeof(batch));
  for (size_t i = sizeof(batch); i < sizeof(attr); i++) {
    if (attr[i] != std::byte{0}) {
      return make_error(EINVAL, "fields of other commands are set");
    }
  }
  return MapBatchCall{command,
                      static_cast<int>(batch.map_fd),
                      attr_address + offsetof(bpf_attr, batch.count),
                      batch.in_batch,
                      batch.out_batch,
                      batch.keys,
                      batch.values,
                      batch.elem_flags,
                      batch.flags,
                      batch.count};
}

int answer_map_batch_call(const LocalMap& map, const CallerMemory& memory, const MapBatchCall& call,
                          LockContext (*who)(void* self), void* self) {
  return Batch(map, memory, call, who, self).run();
}

}  // namespace bpftime
