// A region that is scribbled over between (never during) operations: no operation may crash, hang
// or touch what lies outside of the region. The first bytes choose the map, the rest is a list of
// operations and scribbles.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "maps/map_ops.hpp"

using bpftime::HashBucket;
using bpftime::LockContext;
using bpftime::MapSpec;
using bpftime::MapView;
using bpftime::OwnerId;

namespace {

struct Input {
  const uint8_t* at;
  const uint8_t* end;
  uint32_t take(uint32_t bytes) {
    uint32_t value = 0;
    for (uint32_t i = 0; i < bytes; i++) {
      value = value << 8 | (at < end ? *at++ : 0U);
    }
    return value;
  }
};

void require(bool holds) {
  if (!holds) {
    std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input in = {data, data + size};
  static const uint32_t kKeySizes[] = {4, 8, 16, 1, 3, 12, 33};
  MapSpec spec = {};
  spec.map_type = (in.take(1) & 7) == 0 ? BPF_MAP_TYPE_ARRAY : BPF_MAP_TYPE_HASH;
  spec.key_size = spec.map_type == BPF_MAP_TYPE_ARRAY ? 4 : kKeySizes[in.take(1) % 7];
  spec.value_size = in.take(1) % 100 + 1;
  spec.max_entries = in.take(1) % 80 + 1;
  spec.map_flags =
      spec.map_type == BPF_MAP_TYPE_ARRAY ? 0U : static_cast<uint32_t>(BPF_F_ZERO_SEED);
  spec.cpu_count = 1;
  const auto bytes = bpftime::region_bytes(spec);
  require(bytes.has_value());
  // A guard page on both sides.
  const uint64_t whole = *bytes + 8192;
  auto* const memory = static_cast<std::byte*>(
      ::mmap(nullptr, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  require(memory != MAP_FAILED);
  std::byte* const base = memory + 4096;
  ::mprotect(memory, 4096, PROT_NONE);
  ::mprotect(base + *bytes, 4096, PROT_NONE);
  require(bpftime::format_region(base, *bytes, spec, 1).has_value());
  const auto opened = bpftime::open_region(base, *bytes, spec);
  require(opened.has_value());
  const MapView map = *opened;
  const bool is_hash = spec.map_type == BPF_MAP_TYPE_HASH;

  LockContext who;
  who.owner = OwnerId{1};
  who.tid = static_cast<uint32_t>(::gettid());
  who.never_nested = true;
  uint8_t key[64] = {};
  uint8_t next[64] = {};
  uint8_t value[128] = {};
  for (int operations = 0; in.at < in.end && operations < 400; operations++) {
    const uint32_t op = in.take(1);
    key[0] = static_cast<uint8_t>(in.take(1) % 100);
    switch (op % 8) {
      case 0:
      case 1:
        (void)bpftime::map_update(map, who, key, value, op / 8 % 4);
        break;
      case 2:
        (void)bpftime::map_erase(map, who, key);
        break;
      case 3: {
        std::byte* const found = bpftime::map_lookup(map, key);
        if (found != nullptr) {
          require(found >= base && found + spec.value_size <= base + *bytes);
          found[spec.value_size - 1] = std::byte{1};
        }
        break;
      }
      case 4:
        (void)bpftime::map_sys_lookup(map, key, value);
        break;
      case 5:
        for (int i = 0; i < 200 && bpftime::map_next_key(map, i == 0 ? nullptr : key, next) == 0;
             i++) {
          std::memcpy(key, next, spec.key_size);
        }
        break;
      case 6:
        (void)bpftime::map_ops(map.code).sweep(map, who, OwnerId{in.take(1)});
        break;
      default: {
        const uint64_t offset = in.take(3) % *bytes;
        const uint32_t count = in.take(1) % 16 + 1;
        for (uint32_t i = 0; i < count && offset + i < *bytes; i++) {
          base[offset + i] = static_cast<std::byte>(in.take(1));
        }
        // A lock that someone seems to hold costs 20 ms each time: keep only what can be taken.
        for (uint64_t b = 0; is_hash && b <= map.bucket_mask; b++) {
          auto& lock = reinterpret_cast<HashBucket*>(map.table)[b].lock;
          lock.word = (lock.word & 0x40000000) != 0 ? 0x40000001U : 0U;
          lock.owner = 7;
        }
      }
    }
  }
  ::munmap(memory, whole);
  return 0;
}
