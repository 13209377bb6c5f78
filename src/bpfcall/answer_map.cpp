// Commands on map elements, over a region that is mapped here.
#include <linux/bpf.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "bpfcall/answer_parts.hpp"
#include "spec/newer.hpp"

namespace bpftime {
namespace {

// A value on its way between caller and map, when it cannot be used in place.
class ValueBuffer {
 public:
  explicit ValueBuffer(uint64_t size) : size_(size) {
    if (size > sizeof(near_)) {
      far_.resize(size);
    }
  }
  std::byte* data() { return far_.empty() ? near_ : far_.data(); }
  std::span<std::byte> bytes() { return {data(), size_}; }

 private:
  uint64_t size_;
  std::byte near_[512];
  std::vector<std::byte> far_;
};

int change(const LocalMap& map, const CallerMemory& memory, const MapCall& call, const void* key,
           const LockContext& who) {
  if (call.command == BPF_MAP_DELETE_ELEM) {
    return map_sys_erase(map.view, who, key);
  }
  const uint64_t size = bpf_value_bytes(map.view.spec);
  const void* there = memory.in_place(memory.self, call.value, size, false);
  if (there != nullptr) {
    return map_sys_update(map.view, who, key, there, call.flags);
  }
  ValueBuffer value(size);
  const auto copied = memory.read(memory.self, call.value, value.bytes());
  if (!copied) {
    return -copied.error().code;
  }
  return map_sys_update(map.view, who, key, value.data(), call.flags);
}

// Linux 6.18 kernel/bpf/syscall.c: map_lookup_and_delete_elem.
int take(const LocalMap& map, const CallerMemory& memory, const MapCall& call, const void* key,
         const LockContext& who) {
  const auto sys_take = map_ops(map.view.code).sys_take;
  if (sys_take == nullptr) {
    return -kKernelEnotsupp;
  }
  ValueBuffer value(bpf_value_bytes(map.view.spec));
  const int error = sys_take(map.view, who, key, value.data());
  if (error != 0) {
    return error;
  }
  const auto copied = memory.write(memory.self, call.value, value.bytes());
  return copied ? 0 : -copied.error().code;
}

// `who` is asked only where it is needed: that costs a system call.
int look(const LocalMap& map, const CallerMemory& memory, const MapCall& call, const void* key,
         LockContext (*who)(void* self), void* self) {
  const bool is_lookup = call.command == BPF_MAP_LOOKUP_ELEM;
  const uint64_t size = is_lookup ? bpf_value_bytes(map.view.spec) : map.view.spec.key_size;
  void* there = memory.in_place(memory.self, call.value, size, true);
  const auto look_up = [&](void* to) {
    const int error = map_sys_lookup(map.view, key, to, call.flags);
    if (error != -EAGAIN) {
      return error;
    }
    const LockContext holder = who(self);
    return map_sys_lookup(map.view, key, to, call.flags, &holder);
  };
  if (there != nullptr) {
    return is_lookup ? look_up(there) : map_next_key(map.view, key, there);
  }
  ValueBuffer value(size);
  const int error = is_lookup ? look_up(value.data()) : map_next_key(map.view, key, value.data());
  if (error != 0) {
    return error;
  }
  const auto copied = memory.write(memory.self, call.value, value.bytes());
  return copied ? 0 : -copied.error().code;
}

}  // namespace

uint64_t bpf_value_bytes(const MapSpec& spec) {
  const uint64_t padded = (static_cast<uint64_t>(spec.value_size) + 7) & ~7ULL;
  return spec.cpu_count > 1 ? padded * spec.cpu_count : spec.value_size;
}

Result<MapCall> read_map_call(const CallerMemory& memory, uint32_t command, uint64_t attr_address,
                              uint32_t attr_bytes) {
  // The element commands use 32 bytes; what is known to others must be zero (EINVAL), the rest too (E2BIG).
  struct Fields {
    uint32_t map_fd, padding;
    uint64_t key, value, flags;
  } fields{};
  static_assert(sizeof(Fields) == 32 && offsetof(Fields, key) == AT(key) &&
                offsetof(Fields, value) == AT(value) && offsetof(Fields, flags) == AT(flags));
  if (attr_bytes <= sizeof(fields)) {
    TRY(memory.read(memory.self, attr_address,
                    std::span(reinterpret_cast<std::byte*>(&fields), attr_bytes)));
  } else {
    std::byte attr[kKnownAttrBytes];
    TRY(read_bpf_attr(memory, attr_address, attr_bytes, attr));
    std::memcpy(&fields, attr, sizeof(fields));
    if (!all_zero(std::span(attr).subspan(sizeof(fields)))) {
      return make_error(EINVAL, "fields of other commands are set");
    }
  }
  // Linux 6.18 kernel/bpf/syscall.c: CHECK_ATTR with BPF_MAP_*_LAST_FIELD.
  if ((command == BPF_MAP_DELETE_ELEM && (fields.value != 0 || fields.flags != 0)) ||
      (command == BPF_MAP_GET_NEXT_KEY && fields.flags != 0) ||
      ((command == BPF_MAP_LOOKUP_ELEM || command == BPF_MAP_LOOKUP_AND_DELETE_ELEM) &&
       (fields.flags & ~static_cast<uint64_t>(BPF_F_LOCK)) != 0)) {
    return make_error(EINVAL, "fields that the command does not know are set");
  }
  return MapCall{command, static_cast<int>(fields.map_fd), fields.key, fields.value, fields.flags};
}

int answer_map_call(const LocalMap& map, const CallerMemory& memory, const MapCall& call,
                    LockContext (*who)(void* self), void* self) {
  const bool takes = call.command == BPF_MAP_LOOKUP_AND_DELETE_ELEM;
  const bool changes = call.command == BPF_MAP_UPDATE_ELEM || call.command == BPF_MAP_DELETE_ELEM;
  if (((changes || takes) && !map.may_write) || (!changes && !map.may_read)) {
    return -EPERM;
  }
  if ((call.flags & BPF_F_LOCK) != 0) {
    return -EINVAL;  // no map of ours holds a bpf_spin_lock yet
  }
  const uint32_t key_size = map.view.spec.key_size;
  if (key_size > kMostKeyBytes) {
    return -E2BIG;
  }
  if (key_size == 0 && call.key != 0) {
    return -EINVAL;  // kernel/bpf/syscall.c: ___bpf_copy_key
  }
  // The key is copied: it is hashed and compared more than once.
  alignas(8) std::byte key[kMostKeyBytes];
  const void* key_pointer = key;
  if (call.key == 0 && call.command == BPF_MAP_GET_NEXT_KEY) {
    key_pointer = nullptr;  // the first one
  } else {
    const auto copied = memory.read(memory.self, call.key, std::span(key, key_size));
    if (!copied) {
      return -copied.error().code;
    }
  }
  if (takes) {
    return take(map, memory, call, key, who(self));
  }
  return changes ? change(map, memory, call, key, who(self))
                 : look(map, memory, call, key_pointer, who, self);
}

}  // namespace bpftime
