#include "maps/perf_buffer.hpp"

#include <linux/perf_event.h>

#include <cerrno>

#include "maps/bytes.hpp"
#include "maps/kinds.hpp"

namespace bpftime {
namespace {

constexpr uint64_t kPage = 4096;

struct RawSample {
  perf_event_header header;
  uint32_t size;  // with the padding, as the kernel counts
};
struct LostRecord {
  perf_event_header header;
  uint64_t id, lost;
};
static_assert(sizeof(LostRecord) == 24 && offsetof(RawSample, size) == 8);
constexpr uint64_t kSampleHead = 12;

// SAFETY (all casts): open_region() has checked that tables and buffers lie in the region; indexes are checked.
std::atomic<uint32_t>& slot(const MapView& map, uint32_t key) {
  return reinterpret_cast<std::atomic<uint32_t>*>(map.table)[key];
}
std::byte* header_page(const MapView& map, uint32_t index) {
  return map.values + static_cast<uint64_t>(index) * map.value_stride;
}
std::atomic<uint64_t>& word_at(std::byte* page, uint64_t offset) {
  return *reinterpret_cast<std::atomic<uint64_t>*>(page + offset);
}
std::atomic<uint64_t>& data_head(std::byte* page) {
  return word_at(page, offsetof(perf_event_mmap_page, data_head));
}
std::atomic<uint64_t>& data_tail(std::byte* page) {
  return word_at(page, offsetof(perf_event_mmap_page, data_tail));
}

bool is_power_of_two(uint64_t n) { return n != 0 && (n & (n - 1)) == 0; }

// Into the data, over its end if need be.
void put(std::byte* data, uint64_t mask, uint64_t position, const void* from, uint64_t size) {
  const uint64_t offset = position & mask;
  const uint64_t first = size < mask + 1 - offset ? size : mask + 1 - offset;
  copy_bytes(data + offset, from, first);
  if (first != size) [[unlikely]] {
    copy_bytes(data, static_cast<const std::byte*>(from) + first, size - first);
  }
}
void put_zeros(std::byte* data, uint64_t mask, uint64_t position, uint64_t size) {
  for (uint64_t i = 0; i < size; i++) {
    store_as<uint8_t>(data + ((position + i) & mask), 0);
  }
}

// A fault is to come before the lock is taken.
void touch(const void* data, uint64_t size) {
  const auto begin = reinterpret_cast<uint64_t>(data);
  if (size == 0) {
    return;
  }
  (void)*reinterpret_cast<const volatile uint8_t*>(begin);
  for (uint64_t at = (begin & ~(kPage - 1)) + kPage; at < begin + size; at += kPage) {
    (void)*reinterpret_cast<const volatile uint8_t*>(at);
  }
}

// Preconditions: the buffer's lock is held. True when readers are to be woken.
int append(PerfBuffer& buffer, std::byte* page, uint64_t bytes, const void* data, uint64_t size,
           bool* wakes) {
  const uint64_t mask = bytes - 1;
  // With the size as a u32 before it, the sample fills whole words (kernel: perf_sample_save_raw_data).
  const uint64_t raw = round_up(size + sizeof(uint32_t), 8) - sizeof(uint32_t);
  const uint64_t record = kSampleHead + raw;
  uint64_t head = buffer.head.load(std::memory_order_relaxed) & ~7ULL;
  const uint64_t tail = data_tail(page).load(std::memory_order_acquire);
  const uint64_t lost = buffer.lost.load(std::memory_order_relaxed);
  const uint64_t need = record + (lost != 0 ? sizeof(LostRecord) : 0);
  // linux/circ_buf.h: CIRC_SPACE; a byte stays free.
  if (((tail - (head + 1)) & mask) < need) {
    buffer.lost.store(lost + 1, std::memory_order_relaxed);
    buffer.dropped.fetch_add(1, std::memory_order_relaxed);
    return -ENOSPC;
  }
  std::byte* const to = page + kPage;
  if (lost != 0) {
    const LostRecord told = {
        {PERF_RECORD_LOST, 0, sizeof(LostRecord)}, buffer.id.load(std::memory_order_relaxed), lost};
    put(to, mask, head, &told, sizeof(told));
    buffer.lost.store(0, std::memory_order_relaxed);
    head += sizeof(told);
  }
  const RawSample sample = {
      {PERF_RECORD_SAMPLE, PERF_RECORD_MISC_USER, static_cast<uint16_t>(record)},
      static_cast<uint32_t>(raw)};
  put(to, mask, head, &sample, kSampleHead);
  put(to, mask, head + kSampleHead, data, size);
  put_zeros(to, mask, head + kSampleHead + size, raw - size);
  head += record;
  buffer.head.store(head, std::memory_order_relaxed);
  data_head(page).store(head, std::memory_order_release);

  // kernel/events/core.c: perf_output_sample; ring_buffer.c: __perf_output_begin, perf_output_put_handle
  const uint32_t wakeup_events = buffer.wakeup_events.load(std::memory_order_relaxed);
  if (wakeup_events != 0) {
    const uint32_t events = buffer.events.load(std::memory_order_relaxed) + 1;
    *wakes = events >= wakeup_events;
    buffer.events.store(*wakes ? 0 : events, std::memory_order_relaxed);
  }
  const uint64_t woken_at = buffer.woken_at.load(std::memory_order_relaxed);
  const uint64_t watermark = buffer.watermark.load(std::memory_order_relaxed);
  if (head - woken_at > watermark) {
    buffer.woken_at.store(woken_at + watermark, std::memory_order_relaxed);
    *wakes = true;
  }
  return 0;
}

// A lock leaves nothing to repair: what was not published does not exist.
uint32_t sweep(const MapView& map, const LockContext& who, OwnerId dead) {
  uint32_t count = 0;
  for (uint32_t i = 0; i < perf_buffer_count(map); i++) {
    count += release_of_dead(perf_buffer(map, i).lock, who, dead) ? 1 : 0;
  }
  // It may have died between a record and the reader's waking.
  for (uint32_t i = 0; i < perf_buffer_count(map); i++) {
    if (!perf_is_drained(map, i)) {
      perf_buffer(map, i).poll.store(1, std::memory_order_relaxed);
    }
  }
  wake_all_readers(perf_wake_words(map));
  return count;
}

}  // namespace

int perf_output(const MapView& map, const LockContext& who, uint32_t cpu, uint64_t flags,
                const void* data, uint64_t size, Wake* wake) {
  if ((flags & ~BPF_F_INDEX_MASK) != 0) {
    return -EINVAL;
  }
  const uint64_t index = flags == BPF_F_CURRENT_CPU ? cpu : flags;
  if (index >= map.element_count) {
    return -E2BIG;
  }
  const uint32_t name = slot(map, static_cast<uint32_t>(index)).load(std::memory_order_acquire);
  if (name == 0 || name - 1 > map.bucket_mask) {
    return -ENOENT;
  }
  PerfBuffer& buffer = perf_buffer(map, name - 1);
  if (buffer.cpu.load(std::memory_order_relaxed) != cpu) {
    return -EOPNOTSUPP;
  }
  const uint64_t bytes = buffer.data_bytes.load(std::memory_order_acquire);
  if (bytes == 0) {
    return -ENOSPC;  // nobody has mapped it
  }
  if (size > kMostPerfBytes) {
    return -E2BIG;
  }
  if (!is_power_of_two(bytes) || bytes > perf_buffer_room(map)) {
    return -ENOSPC;  // scribbled over
  }
  touch(data, size);
  bool wakes = false;
  int result = 0;
  {
    const HeldLock held(buffer.lock, who);
    if (!held) [[unlikely]] {
      buffer.dropped.fetch_add(1, std::memory_order_relaxed);
      return -EBUSY;
    }
    result = append(buffer, header_page(map, name - 1), bytes, data, size, &wakes);
  }
  if (wakes) {
    buffer.poll.exchange(1, std::memory_order_seq_cst);  // and the fence that wake_readers() wants
    *wake = wake_readers(perf_wake_words(map));
  }
  return result;
}

bool perf_is_readable(const MapView& map, uint32_t index, bool take) {
  std::atomic<uint32_t>& poll = perf_buffer(map, index).poll;
  return poll.load(std::memory_order_seq_cst) != 0 &&
         (!take || poll.exchange(0, std::memory_order_seq_cst) != 0);
}

bool perf_is_drained(const MapView& map, uint32_t index) {
  std::byte* const page = header_page(map, index);
  return data_head(page).load(std::memory_order_seq_cst) ==
         data_tail(page).load(std::memory_order_seq_cst);
}

Result<void> perf_prepare(const MapView& map, uint32_t index, const PerfEventShape& event) {
  if (event.data_bytes != 0 &&
      (!is_power_of_two(event.data_bytes) || event.data_bytes % kPage != 0)) {
    return make_error(EINVAL, "a perf buffer has a power of two of pages");
  }
  if (event.data_bytes > perf_buffer_room(map)) {
    return make_error(ENOMEM, "perf buffer too large");
  }
  PerfBuffer& buffer = perf_buffer(map, index);
  buffer.data_bytes.store(0, std::memory_order_seq_cst);
  buffer.head.store(0);
  buffer.lost.store(0);
  buffer.dropped.store(0);
  buffer.woken_at.store(0);
  buffer.events.store(0);
  buffer.poll.store(0);
  buffer.wakeup_events.store(event.wakeup_events);
  // kernel/events/ring_buffer.c: ring_buffer_init
  const uint32_t half = event.data_bytes / 2;
  buffer.watermark.store(
      event.watermark == 0 || event.watermark > event.data_bytes ? half : event.watermark);
  buffer.cpu.store(event.cpu);
  buffer.id.store(event.id);
  std::byte* const page = header_page(map, index);
  word_at(page, offsetof(perf_event_mmap_page, data_offset)).store(kPage);
  word_at(page, offsetof(perf_event_mmap_page, data_size)).store(event.data_bytes);
  data_head(page).store(0);
  data_tail(page).store(0);
  buffer.data_bytes.store(event.data_bytes, std::memory_order_seq_cst);
  return {};
}

void perf_set_slot(const MapView& map, uint32_t key, int64_t buffer) {
  slot(map, key).store(static_cast<uint32_t>(buffer + 1), std::memory_order_seq_cst);
}

constinit const MapOps kPerfEventArrayOps = {BPF_MAP_TYPE_PERF_EVENT_ARRAY,
                                             no_lookup,
                                             no_update,
                                             no_erase,
                                             array_next_key,
                                             no_sys_lookup,
                                             no_sys_update,
                                             sweep};

}  // namespace bpftime
