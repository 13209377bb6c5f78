// MapView: one process's view of a map's region: where it is mapped, its checked shape, and what
// follows from the shape. Home: injected *. Private to its process, constant after open_region(); a
// program holds its address as the map pointer. Plain data without pointers but `base`, so the
// broker can build it for a target: open the region in the broker, then rebased().
#pragma once
#include <cstddef>
#include <cstdint>

#include "abi/region.hpp"
#include "spec/spec.hpp"

namespace bpftime {

// Which code serves the map: the kind, and for hashes the key size. Index into map_ops().
enum class MapCode : uint32_t {
  kArray,
  kHash4,
  kHash8,
  kHash16,
  kHashAny,
  kPercpuArray,
  kPercpuHash4,
  kPercpuHash8,
  kPercpuHash16,
  kPercpuHashAny,
  kCgroupArray,
  kRingBuffer,
  kPerfEventArray,
  kStackTrace,
  kQueue,
  kStack,
  kProgArray,
  kCount
};

// ARRAY, PERCPU_ARRAY: bytes from value to value.
constexpr uint64_t array_stride(uint64_t value_size) { return (value_size + 7) / 8 * 8; }

struct MapView {
  std::byte* base;         // +0
  std::byte* values;       // +8  base + values_offset
  MapCode code;            // +16
  uint32_t element_count;  // +20 ARRAY, PERF_EVENT_ARRAY: max_entries; HASH: max_entries + buckets
  uint32_t
      value_stride;  // +24 ARRAY: bytes from value to value; PERF_EVENT_ARRAY: from buffer to buffer
  uint32_t element_stride;  // +28 HASH: bytes from element to element
  uint32_t value_offset;    // +32 HASH: from element to value
  uint32_t bucket_mask;  // +36 HASH: buckets - 1; RINGBUF: bytes - 1; PERF_EVENT_ARRAY: buffers - 1
  uint64_t seed;         // +40
  std::byte* table;      // +48 base + table_offset; RINGBUF: the producer's page
  uint64_t size_bytes;   // +56
  MapSpec spec;          // +64
  std::byte*
      used;  // +96 HASH: bit map of used elements; PERF_EVENT_ARRAY: the PerfBuffers; PROG_ARRAY in a
             // target: its table of TailTarget*, else null
  std::byte* full;       // +104 HASH: bit map of full words of it
  uint32_t map_id;       // +112 for messages only
  uint32_t lane_eighth;  // +116 lane_place()
  uint64_t lane_stride;  // +120 PERCPU_ARRAY: bytes from lane to lane
};
static_assert(sizeof(MapView) == 128 && offsetof(MapView, values) == 8 &&
              offsetof(MapView, element_count) == 20 && offsetof(MapView, value_stride) == 24);

// Where a lane's value stands among the values of one element: neighbours, which are CPUs, stand an
// eighth of all apart, so that they do not write into the same cache line.
inline uint64_t lane_place(const MapView& map, uint32_t lane) {
  return map.lane_eighth == 0 ? lane
                              : static_cast<uint64_t>(lane & 7) * map.lane_eighth + (lane >> 3);
}

// Bytes of the region that `spec` needs; page multiple. Errors: EINVAL unknown kind, ENOMEM too
// large.
Result<uint64_t> region_bytes(const MapSpec& spec);

// Writes head and start state into a zero-filled region of region_bytes(spec) bytes; done once by
// the maker. `seed` should be random; ignored with BPF_F_ZERO_SEED.
Result<void> format_region(std::byte* base, uint64_t size_bytes, const MapSpec& spec,
                           uint64_t seed);

// Errors: EINVAL when the region's head does not fit `spec`, which is the one believed.
Result<MapView> open_region(std::byte* base, uint64_t size_bytes, const MapSpec& spec);

// The same view as the process sees it that has the region at `base`.
MapView rebased(const MapView& view, uint64_t base);

}  // namespace bpftime
