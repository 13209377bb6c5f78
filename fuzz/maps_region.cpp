// A region that is scribbled over between (never during) operations: no operation may crash, hang
// or touch what lies outside of the region. The first bytes choose the map, the rest is a list of
// operations and scribbles.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>

#include "fuzz/input.hpp"
#include "maps/queue.hpp"
#include "maps/stack_trace.hpp"

using namespace bpftime;        // NOLINT: a fuzz target
using namespace bpftime::fuzz;  // NOLINT

namespace {

constexpr uint32_t kLanes = 3;
constexpr uint32_t kMostValue = 256;

bool is_stack_trace(const MapSpec& spec) { return spec.map_type == BPF_MAP_TYPE_STACK_TRACE; }
bool has_queue(const MapSpec& spec) {
  return spec.map_type == BPF_MAP_TYPE_QUEUE || spec.map_type == BPF_MAP_TYPE_STACK;
}
bool has_buckets(const MapSpec& spec) {
  return spec.map_type == BPF_MAP_TYPE_HASH || spec.map_type == BPF_MAP_TYPE_PERCPU_HASH;
}

uint32_t type_of(uint32_t number) {
  switch (number & 7) {
    case 0:
      return BPF_MAP_TYPE_ARRAY;
    case 4:
      return BPF_MAP_TYPE_PERCPU_ARRAY;
    case 5:
      return BPF_MAP_TYPE_PERCPU_HASH;
    case 6:
      return (number & 8) == 0 ? BPF_MAP_TYPE_QUEUE : BPF_MAP_TYPE_STACK;
    case 7:
      return (number & 8) == 0 ? BPF_MAP_TYPE_STACK_TRACE : BPF_MAP_TYPE_HASH;
    default:
      return BPF_MAP_TYPE_HASH;
  }
}

MapSpec spec_of(Input* in) {
  static const uint32_t kKeySizes[] = {4, 8, 16, 1, 3, 12, 33};
  MapSpec spec = {};
  spec.map_type = type_of(in->take32(1));
  const bool is_per_cpu =
      spec.map_type == BPF_MAP_TYPE_PERCPU_ARRAY || spec.map_type == BPF_MAP_TYPE_PERCPU_HASH;
  spec.cpu_count = is_per_cpu ? kLanes : 1;
  spec.key_size = has_queue(spec) ? 0 : has_buckets(spec) ? kKeySizes[in->take32(1) % 7] : 4;
  spec.value_size = in->take32(1) % 100 + 1;
  spec.max_entries = in->take32(1) % 80 + 1;
  spec.map_flags = has_buckets(spec) ? uint32_t{BPF_F_ZERO_SEED} : 0;
  if (is_stack_trace(spec)) {
    const bool by_build_id = spec.value_size % 2 != 0;
    spec.map_flags = by_build_id ? uint32_t{BPF_F_STACK_BUILD_ID} : 0;
    spec.value_size = (spec.value_size % 8 + 1) * (by_build_id ? 32 : 8);
  }
  return spec;
}

// A region with a guard page on both sides.
class Region {
 public:
  explicit Region(const MapSpec& spec) : bytes_(*region_bytes(spec)) {
    memory_ = static_cast<std::byte*>(
        ::mmap(nullptr, bytes_ + 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    require(memory_ != MAP_FAILED);
    ::mprotect(memory_, 4096, PROT_NONE);
    ::mprotect(base() + bytes_, 4096, PROT_NONE);
    require(format_region(base(), bytes_, spec, 1).has_value());
  }
  ~Region() { ::munmap(memory_, bytes_ + 8192); }
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;
  [[nodiscard]] std::byte* base() const { return memory_ + 4096; }
  [[nodiscard]] uint64_t bytes() const { return bytes_; }

 private:
  uint64_t bytes_;
  std::byte* memory_;
};

void scribble(const Region& region, const MapView& map, Input* in) {
  const uint64_t offset = in->take(3) % region.bytes();
  const uint32_t count = in->take32(1) % 16 + 1;
  for (uint32_t i = 0; i < count && offset + i < region.bytes(); i++) {
    region.base()[offset + i] = static_cast<std::byte>(in->take32(1));
  }
  for (uint64_t b = 0; has_buckets(map.spec) && b <= map.bucket_mask; b++) {
    keep_takeable(reinterpret_cast<HashBucket*>(map.table)[b].lock);
  }
  for (uint64_t b = 0; is_stack_trace(map.spec) && b <= map.bucket_mask; b++) {
    keep_takeable(reinterpret_cast<StackBucket*>(map.values + b * map.element_stride)->lock);
  }
  if (has_queue(map.spec)) {
    keep_takeable(reinterpret_cast<QueueState*>(map.table)->lock);
  }
}

void update(const MapView& map, const LockContext& who, const uint8_t* key, const uint8_t* value,
            uint32_t how, Input* in) {
  if (is_stack_trace(map.spec)) {
    uint64_t ips[8] = {};
    const uint32_t count = how % 8 + 1;
    for (uint32_t i = 0; i < count; i++) {
      ips[i] = in->take(1);
    }
    (void)stack_id(map, who, nullptr, ips, count, (how & 8) != 0 ? BPF_F_REUSE_STACKID : 0);
  } else if (has_queue(map.spec)) {
    (void)queue_push(map, who, value, how % 4);
  } else if ((how & 4) != 0) {
    (void)map_sys_update(map, who, key, value, how % 4);
  } else {
    (void)map_update(map, who, key, value, how % 4, how / 8 % (kLanes + 1));
  }
}

void take_or_visit(const MapView& map, const LockContext& who, uint8_t* key, uint8_t* value,
                   const Region& region) {
  const MapOps& ops = map_ops(map.code);
  if (ops.sys_take != nullptr) {
    (void)ops.sys_take(map, who, key, value);
  }
  uint64_t cursor = 0;
  std::byte* found = nullptr;
  for (int i = 0; ops.visit != nullptr && i < 200 &&
                  ops.visit(map, &cursor, key, map.spec.cpu_count - 1, &found) == 0;
       i++) {
    require(found == nullptr || (found >= region.base() &&
                                 found + map.spec.value_size <= region.base() + region.bytes()));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input in = {data, data + size};
  const MapSpec spec = spec_of(&in);
  require(region_bytes(spec).has_value());
  const Region region(spec);
  const auto opened = open_region(region.base(), region.bytes(), spec);
  require(opened.has_value());
  const MapView map = *opened;

  LockContext who;
  who.owner = OwnerId{1};
  who.tid = static_cast<uint32_t>(::gettid());
  who.never_nested = true;
  uint8_t key[64] = {};
  uint8_t next[64] = {};
  uint8_t value[kLanes * kMostValue] = {};
  for (int operations = 0; in.at < in.end && operations < 400; operations++) {
    const uint32_t op = in.take32(1);
    key[0] = static_cast<uint8_t>(in.take32(1) % 100);
    switch (op % 8) {
      case 0:
      case 1:
        update(map, who, key, value, op / 8, &in);
        break;
      case 2:
        (void)map_erase(map, who, key);
        break;
      case 3: {
        std::byte* const found = map_lookup(map, key, op / 8 % (kLanes + 1));
        if (found != nullptr) {
          require(found >= region.base() &&
                  found + spec.value_size <= region.base() + region.bytes());
          found[spec.value_size - 1] = std::byte{1};
        }
        break;
      }
      case 4:
        (void)map_sys_lookup(map, key, value, 0, (op & 8) != 0 ? &who : nullptr);
        break;
      case 5:
        for (int i = 0; i < 200 && map_next_key(map, i == 0 ? nullptr : key, next) == 0; i++) {
          std::memcpy(key, next, spec.key_size);
        }
        take_or_visit(map, who, key, value, region);
        break;
      case 6:
        (void)map_ops(map.code).sweep(map, who, OwnerId{in.take32(1)});
        break;
      default:
        scribble(region, map, &in);
    }
  }
  return 0;
}
