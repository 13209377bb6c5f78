// Shape of each kind's region, worked out from the MapSpec alone.
//   ARRAY: head page, values (stride round_up(value_size, 8)), page aligned so that BPF_F_MMAPABLE
//   can map them. PERCPU_ARRAY: head page, then such an array a lane, each at the beginning of a
//   cache line. HASH, PERCPU_HASH: head page, buckets, bit map of used elements, bit map of full words of it,
//   elements (page aligned). QUEUE, STACK: head page, QueueState, values. RINGBUF: consumer page, producer page, data twice, head page. PERF_EVENT_ARRAY: head page,
//   indexes, PerfBuffers, then for each a header page and room for its data.
#include <linux/bpf.h>

#include <cerrno>

#include "maps/bytes.hpp"
#include "maps/map_ops.hpp"
#include "maps/stack_trace.hpp"

namespace bpftime {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kCacheLine = 64;
constexpr uint64_t kMaxRegionBytes = 64ULL
                                     << 30;  // sparse; what is more is ENOMEM, as in the kernel

constexpr uint32_t kMostLanes = 1 << 16;

struct Shape {
  uint64_t buckets, elements, value_stride, element_stride, value_offset;
  uint64_t lane_stride, table_offset, used_offset, used_words, full_offset, full_words,
      values_offset, size_bytes;
  uint64_t head_offset, mask;
  MapCode code;
};

constexpr uint64_t kMostBuffersBytes =
    256ULL << 20;  // address space for the data of all perf buffers of a map
constexpr uint64_t kMostBufferBytes = 16ULL << 20;  // and of one
constexpr uint64_t kMoreBuffers = 14;

bool is_power_of_two(uint64_t n) { return n != 0 && (n & (n - 1)) == 0; }

uint32_t lanes(const MapSpec& spec) { return spec.cpu_count == 0 ? 1 : spec.cpu_count; }

MapCode hash_code(const MapSpec& spec) {
  const bool is_per_cpu = spec.map_type == BPF_MAP_TYPE_PERCPU_HASH;
  switch (spec.key_size) {
    case 4:
      return is_per_cpu ? MapCode::kPercpuHash4 : MapCode::kHash4;
    case 8:
      return is_per_cpu ? MapCode::kPercpuHash8 : MapCode::kHash8;
    case 16:
      return is_per_cpu ? MapCode::kPercpuHash16 : MapCode::kHash16;
    default:
      return is_per_cpu ? MapCode::kPercpuHashAny : MapCode::kHashAny;
  }
}

bool is_hash(const MapSpec& spec) {
  return spec.map_type == BPF_MAP_TYPE_HASH || spec.map_type == BPF_MAP_TYPE_PERCPU_HASH;
}

Result<Shape> shape_of(const MapSpec& spec) {
  Shape s = {};
  s.table_offset = kRegionHeadBytes;
  const bool is_queue = spec.map_type == BPF_MAP_TYPE_QUEUE || spec.map_type == BPF_MAP_TYPE_STACK;
  const bool has_values = spec.map_type != BPF_MAP_TYPE_RINGBUF;
  const bool has_keys = has_values && !is_queue;
  if (spec.max_entries == 0 || (has_values && spec.value_size == 0) ||
      (has_keys && spec.key_size == 0)) {
    return make_error(EINVAL, "map without entries, key or value");
  }
  switch (spec.map_type) {
    case BPF_MAP_TYPE_ARRAY:
      if (spec.key_size != 4) {
        return make_error(EINVAL, "array keys have 4 bytes");
      }
      s.code = MapCode::kArray;
      s.elements = spec.max_entries;
      s.value_stride = array_stride(spec.value_size);
      s.values_offset = kRegionHeadBytes;
      s.size_bytes = round_up(s.values_offset + s.elements * s.value_stride, kPage);
      break;
    case BPF_MAP_TYPE_PERCPU_ARRAY:
      if (spec.key_size != 4) {
        return make_error(EINVAL, "array keys have 4 bytes");
      }
      s.code = MapCode::kPercpuArray;
      s.elements = spec.max_entries;
      s.value_stride = array_stride(spec.value_size);
      s.lane_stride = round_up(s.elements * s.value_stride, kCacheLine);
      if (s.lane_stride > kMaxRegionBytes || lanes(spec) > kMostLanes) {
        return make_error(ENOMEM, "map too large");
      }
      s.values_offset = kRegionHeadBytes;
      s.size_bytes = round_up(s.values_offset + s.lane_stride * lanes(spec), kPage);
      break;
    case BPF_MAP_TYPE_CGROUP_ARRAY:
      s.code = MapCode::kCgroupArray;
      s.elements = spec.max_entries;
      s.value_stride = 8;
      s.values_offset = kRegionHeadBytes;
      s.size_bytes = kRegionHeadBytes;
      break;
    case BPF_MAP_TYPE_PERCPU_HASH:
    case BPF_MAP_TYPE_HASH: {
      s.buckets = 1;
      while (s.buckets * 3 < spec.max_entries) {
        s.buckets *= 2;
      }
      s.elements = spec.max_entries + s.buckets;
      s.value_stride = round_up(spec.value_size, 8);
      s.value_offset = sizeof(HashElement) + round_up(spec.key_size, 8);
      s.element_stride = s.value_offset + s.value_stride * lanes(spec);
      if (s.element_stride > ~0U) {
        return make_error(ENOMEM, "map too large");
      }
      s.used_offset = s.table_offset + s.buckets * sizeof(HashBucket);
      s.used_words = (s.elements + 63) / 64;
      s.full_offset = s.used_offset + s.used_words * 8;
      s.full_words = (s.used_words + 63) / 64;
      s.values_offset = round_up(s.full_offset + s.full_words * 8, kPage);
      s.size_bytes = round_up(s.values_offset + s.elements * s.element_stride, kPage);
      s.code = hash_code(spec);
      break;
    }
    case BPF_MAP_TYPE_STACK_TRACE:
      if (spec.key_size != 4 || spec.value_size % 8 != 0) {
        return make_error(EINVAL, "stack ids have 4 bytes, stacks are addresses");
      }
      s.code = MapCode::kStackTrace;
      s.buckets = 1;
      while (s.buckets < spec.max_entries) {
        s.buckets *= 2;
      }
      s.elements = s.buckets;
      s.element_stride = sizeof(StackBucket) + spec.value_size;
      s.values_offset = kRegionHeadBytes;
      s.size_bytes = round_up(s.values_offset + s.elements * s.element_stride, kPage);
      break;
    case BPF_MAP_TYPE_PROG_ARRAY:
      s.code = MapCode::kProgArray;
      s.elements = spec.max_entries;
      s.value_stride = sizeof(uint32_t);
      s.values_offset = kRegionHeadBytes;
      s.size_bytes = round_up(s.values_offset + s.elements * s.value_stride, kPage);
      break;
    case BPF_MAP_TYPE_QUEUE:
    case BPF_MAP_TYPE_STACK:
      if (spec.key_size != 0) {
        return make_error(EINVAL, "queues and stacks have no keys");
      }
      s.code = spec.map_type == BPF_MAP_TYPE_QUEUE ? MapCode::kQueue : MapCode::kStack;
      s.elements = spec.max_entries;
      s.value_stride = round_up(spec.value_size, 8);
      s.values_offset = s.table_offset + sizeof(QueueState);
      s.size_bytes = round_up(s.values_offset + s.elements * s.value_stride, kPage);
      break;
    case BPF_MAP_TYPE_RINGBUF:
      if (!is_power_of_two(spec.max_entries) || spec.max_entries % kPage != 0) {
        return make_error(EINVAL, "a ring buffer has a power of two of pages");
      }
      s.code = MapCode::kRingBuffer;
      s.elements = spec.max_entries;
      s.mask = spec.max_entries - 1;
      s.table_offset = kRingPageBytes;
      s.values_offset = 2 * kRingPageBytes;
      s.head_offset = s.values_offset + 2ULL * spec.max_entries;
      s.size_bytes = s.head_offset + kRegionHeadBytes;
      break;
    case BPF_MAP_TYPE_PERF_EVENT_ARRAY: {
      // An event that is replaced keeps its buffer while somebody reads it, hence twice as many.
      const uint64_t for_indexes = 2ULL * spec.max_entries;
      const uint64_t for_cpus = 2ULL * lanes(spec) + kMoreBuffers;
      uint64_t buffers = 1;
      while (buffers < for_indexes && buffers < for_cpus) {
        buffers *= 2;
      }
      uint64_t room = kMostBufferBytes;
      while (room * buffers > kMostBuffersBytes && room > kPage) {
        room /= 2;
      }
      s.code = MapCode::kPerfEventArray;
      s.elements = spec.max_entries;
      s.mask = buffers - 1;
      s.value_stride = kPage + room;
      s.used_offset = round_up(s.table_offset + s.elements * 4, sizeof(PerfBuffer));
      s.values_offset = round_up(s.used_offset + buffers * sizeof(PerfBuffer), kPage);
      s.size_bytes = s.values_offset + buffers * s.value_stride;
      break;
    }
    default:
      return make_error(EINVAL, "no such map kind");
  }
  if (s.elements >= ~0U || s.value_stride > ~0U || s.element_stride > ~0U ||
      s.size_bytes > kMaxRegionBytes) {
    return make_error(ENOMEM, "map too large");
  }
  return s;
}

RegionHeader header_of(const MapSpec& spec, const Shape& s, uint64_t seed) {
  RegionHeader h = {};
  h.magic = kRegionMagic;
  h.version = kRegionVersion;
  h.map_type = spec.map_type;
  h.map_flags = spec.map_flags;
  h.key_size = spec.key_size;
  h.value_size = spec.value_size;
  h.max_entries = spec.max_entries;
  h.cpu_count = lanes(spec);
  h.size_bytes = s.size_bytes;
  h.table_offset = s.table_offset;
  h.values_offset = s.values_offset;
  h.seed = (spec.map_flags & BPF_F_ZERO_SEED) != 0 ? 0 : seed;
  return h;
}

// Sets bits [begin, end) of a bit map.
void set_bits(std::byte* map, uint64_t begin, uint64_t end) {
  for (uint64_t i = begin; i < end;) {
    std::byte* const word = map + i / 64 * 8;
    const uint64_t count = end - i < 64 - i % 64 ? end - i : 64 - i % 64;
    const uint64_t ones = count == 64 ? ~0ULL : ((1ULL << count) - 1) << (i % 64);
    store_as<uint64_t>(word, load_as<uint64_t>(word) | ones);
    i += count;
  }
}

}  // namespace

Result<uint64_t> region_bytes(const MapSpec& spec) {
  const Shape s = TRY(shape_of(spec));
  return s.size_bytes;
}

Result<void> format_region(std::byte* base, uint64_t size_bytes, const MapSpec& spec,
                           uint64_t seed) {
  const Shape s = TRY(shape_of(spec));
  if (size_bytes < s.size_bytes) {
    return make_error(EINVAL, "region too small");
  }
  if (is_hash(spec)) {
    // The spares, and what the last words have too much, are never free.
    set_bits(base + s.used_offset, spec.max_entries, s.used_words * 64);
    set_bits(base + s.full_offset, (spec.max_entries + 63) / 64, s.full_words * 64);
  }
  store_as(base + s.head_offset, header_of(spec, s, seed));
  return {};
}

Result<MapView> open_region(std::byte* base, uint64_t size_bytes, const MapSpec& spec) {
  const Shape s = TRY(shape_of(spec));
  if (base == nullptr || size_bytes < s.size_bytes) {
    return make_error(EINVAL, "region too small");
  }
  // SAFETY: copied once; used only from the copy
  const auto head = load_as<RegionHeader>(base + s.head_offset);
  const RegionHeader expected = header_of(spec, s, head.seed);
  if (!equal_bytes(&head, &expected, sizeof head)) {
    return make_error(EINVAL, "region does not have the shape it should have");
  }
  MapView view = {};
  view.base = base;
  view.values = base + s.values_offset;
  view.code = s.code;
  view.element_count = static_cast<uint32_t>(s.elements);
  view.value_stride = static_cast<uint32_t>(s.value_stride);
  view.element_stride = static_cast<uint32_t>(s.element_stride);
  view.value_offset = static_cast<uint32_t>(s.value_offset);
  view.bucket_mask = static_cast<uint32_t>(s.buckets == 0 ? s.mask : s.buckets - 1);
  view.seed = head.seed;
  view.table = base + s.table_offset;
  view.size_bytes = s.size_bytes;
  view.spec = spec;
  view.lane_stride = s.lane_stride;
  view.lane_eighth = lanes(spec) % 8 == 0 ? lanes(spec) / 8 : 0;
  view.used = base + s.used_offset;
  view.full = base + s.full_offset;
  if (s.code == MapCode::kProgArray) {
    view.used = nullptr;
  }
  return view;
}

MapView rebased(const MapView& view, uint64_t base) {
  MapView other = view;
  const auto move = [&](std::byte* p) {
    return reinterpret_cast<std::byte*>(base + static_cast<uint64_t>(p - view.base));
  };
  other.base = move(view.base);
  other.values = move(view.values);
  other.table = move(view.table);
  other.used = move(view.used);
  other.full = move(view.full);
  return other;
}

}  // namespace bpftime
