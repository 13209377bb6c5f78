// Ring buffers and perf buffers whose memory is scribbled over between operations, all of it or only what a reader may
// write: nothing may crash, hang or touch what lies outside of the region. The first bytes choose the map, the rest is a
// list of operations and scribbles.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>

#include "fuzz/input.hpp"
#include "maps/perf_buffer.hpp"
#include "maps/ring_buffer.hpp"

using namespace bpftime;        // NOLINT: a fuzz target
using namespace bpftime::fuzz;  // NOLINT

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input in = {data, data + size};
  const bool is_ring = (in.take(1) & 1) == 0;
  MapSpec spec = {};
  spec.cpu_count = 1;
  spec.map_type = is_ring ? BPF_MAP_TYPE_RINGBUF : BPF_MAP_TYPE_PERF_EVENT_ARRAY;
  spec.key_size = spec.value_size = is_ring ? 0 : 4;
  spec.max_entries =
      is_ring ? 4096U << (in.take(1) % 3) : static_cast<uint32_t>(in.take(1) % 5 + 1);
  const auto bytes = region_bytes(spec);
  require(bytes.has_value());
  // A guard page on both sides.
  const uint64_t whole = *bytes + 8192;
  auto* const memory = static_cast<std::byte*>(::mmap(
      nullptr, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  require(memory != MAP_FAILED);
  std::byte* const base = memory + 4096;
  ::mprotect(memory, 4096, PROT_NONE);
  ::mprotect(base + *bytes, 4096, PROT_NONE);
  require(format_region(base, *bytes, spec, 1).has_value());
  const MapView map = *open_region(base, *bytes, spec);
  LockContext who;
  who.owner = OwnerId{1};
  who.tid = static_cast<uint32_t>(::gettid());
  who.never_nested = true;
  static uint8_t sample[8192];
  std::byte* open = nullptr;
  uint64_t open_bytes = 0;
  Wake wake = Wake::kNothing;
  if (!is_ring) {
    (void)perf_prepare(map, 0, {1, 0, 4096U << (in.take(1) % 4), 1, 0});
    perf_set_slot(map, 0, 0);
  }
  for (int operations = 0; in.at < in.end && operations < 400; operations++) {
    switch (in.take(1) % 8) {
      case 0:
      case 1: {
        const uint64_t want = in.take(2) % 6000;
        if (!is_ring) {
          (void)perf_output(map, who, 0, in.take(1) % 8, sample, want, &wake);
          break;
        }
        open = ring_reserve(map, who, want);
        open_bytes = want;
        if (open != nullptr) {
          require(open >= map.values && open + want <= base + *bytes - kRegionHeadBytes);
          std::memset(open, 0x5a, want);
        }
        break;
      }
      case 2:
        if (is_ring && open != nullptr) {
          (void)ring_commit(map, who.owner, open, open_bytes, in.take(1) % 4,
                            (in.take(1) & 1) != 0 ? RingEnd::kDiscard : RingEnd::kSubmit);
          open = nullptr;
        }
        break;
      case 3:
        (void)map_ops(map.code).sweep(map, who, OwnerId{static_cast<uint32_t>(in.take(1) % 9)});
        break;
      case 4:
        if (is_ring) {
          (void)ring_is_readable(map);
          (void)ring_query(map, in.take(1));
        } else {
          (void)perf_is_readable(map, 0, true);
          (void)perf_is_drained(map, 0);
        }
        break;
      case 5: {  // what a reader may write: its page
        const uint64_t offset = is_ring ? 0 : perf_buffer_offset(map, 0) + 1024;
        const uint64_t value = in.take(8);
        std::memcpy(base + offset + (is_ring ? 0 : in.take(1) % 2 * 8), &value, sizeof(value));
        break;
      }
      default: {
        // Near the beginning, where all but data lies, or anywhere.
        const uint64_t offset = in.take(3) % ((in.take(1) & 1) != 0 ? *bytes : 16384);
        const uint64_t count = in.take(1) % 16 + 1;
        for (uint64_t i = 0; i < count && offset + i < *bytes; i++) {
          base[offset + i] = static_cast<std::byte>(in.take(1));
        }
        if (is_ring) {
          keep_takeable(reinterpret_cast<RingProducerPage*>(map.table)->lock);
        } else {
          for (uint32_t i = 0; i < perf_buffer_count(map); i++) {
            keep_takeable(perf_buffer(map, i).lock);
          }
        }
      }
    }
  }
  ::munmap(memory, whole);
  return 0;
}
