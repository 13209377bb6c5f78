#include "maps/ring_buffer.hpp"

#include <cerrno>

#include "maps/bytes.hpp"
#include "maps/kinds.hpp"

namespace bpftime {
namespace {

constexpr uint64_t kHeadBytes = sizeof(RingRecordHead);
constexpr uint64_t kPageShift = 12;
// Of the first data page in struct bpf_ringbuf, where the kernel counts RingRecordHead::place from.
constexpr uint64_t kPagesBeforeData = 3;
// Heads no further back are as a rule still in the cache: a walk over a whole buffer of megabytes is a miss a record.
constexpr uint64_t kWalkBytes = 16 << 10;

// SAFETY (all casts): open_region() has checked that the pages lie in the region, and a position is masked first.
RingProducerPage& producer(const MapView& map) {
  return *reinterpret_cast<RingProducerPage*>(map.table);
}
RingConsumerPage& consumer(const MapView& map) {
  return *reinterpret_cast<RingConsumerPage*>(map.base);
}
uint64_t offset_of(const MapView& map, uint64_t position) {
  return position & map.bucket_mask & ~7ULL;
}
RingRecordHead& head_at(const MapView& map, uint64_t position) {
  return *reinterpret_cast<RingRecordHead*>(map.values + offset_of(map, position));
}
uint64_t record_bytes(uint32_t length) {
  return round_up((length & ~(kRingBusy | kRingDiscard)) + kHeadBytes, 8);
}

// Of a walk over records: what is left of `left` bytes behind one of `length`. Walks count down what is left and compare
// no positions, since a position that was scribbled over may wrap: that costs records, and no loop without end.
uint64_t left_behind(uint64_t left, uint32_t length) {
  const uint64_t bytes = record_bytes(length);
  return bytes < left ? left - bytes : 0;
}

// Where the oldest record lies that is not committed.
uint64_t advance_pending(const MapView& map, uint64_t pending, uint64_t end) {
  uint64_t left = end - pending;
  if (left > static_cast<uint64_t>(map.bucket_mask) + 1) {
    left = 0;
  }
  while (left > 0) {
    const uint32_t length = head_at(map, end - left).length.load(std::memory_order_acquire);
    if ((length & kRingBusy) != 0) {
      break;
    }
    left = left_behind(left, length);
  }
  return end - left;
}

// Ends the record: what lies behind the end of the data is also put where a second mapping of the same bytes would show
// it, for readers that mask the position anew behind the head (docs/abi-regions.md).
Wake end_record(const MapView& map, uint64_t offset, uint64_t size, uint64_t flags, RingEnd how) {
  const uint64_t bytes = static_cast<uint64_t>(map.bucket_mask) + 1;
  std::byte* const data = map.values;
  const uint64_t end = offset + kHeadBytes + size;
  if (end > bytes && how == RingEnd::kSubmit) [[unlikely]] {
    copy_bytes(data, data + bytes, round_up(end - bytes, 8));
  }
  uint32_t length = static_cast<uint32_t>(size);
  if (how == RingEnd::kDiscard) {
    length |= kRingDiscard;
  }
  const uint64_t place = (offset >> kPageShift) + kPagesBeforeData;
  const uint64_t head = place << 32 | length;  // both words at once
  // SAFETY: 8-byte aligned.
  auto* const at = reinterpret_cast<uint64_t*>(data + offset);
  const bool wakes = (flags & BPF_RB_FORCE_WAKEUP) != 0;
  const bool asks = !wakes && (flags & BPF_RB_NO_WAKEUP) == 0;
  if (wakes || asks) {
    // With the fence between the record and the question where the reader is.
    __atomic_exchange_n(at, head, __ATOMIC_SEQ_CST);
  } else {
    __atomic_store_n(at, head, __ATOMIC_RELEASE);
  }
  if (wakes ||
      (asks && offset_of(map, consumer(map).position.load(std::memory_order_acquire)) == offset) ||
      producer(map).wake.wants_byte.load(std::memory_order_relaxed) == kByteOwed) [[unlikely]] {
    return wake_readers(producer(map).wake);
  }
  return Wake::kNothing;
}

// Discards what `dead` was filling. Records are looked at from the reader's position on.
uint32_t sweep(const MapView& map, const LockContext& who, OwnerId dead) {
  RingProducerPage& page = producer(map);
  const uint64_t bytes = static_cast<uint64_t>(map.bucket_mask) + 1;
  uint32_t count = release_of_dead(page.lock, who, dead) ? 1 : 0;
  const uint64_t end = page.position.load(std::memory_order_acquire);
  uint64_t left = end - consumer(map).position.load(std::memory_order_acquire);
  if (left > bytes) {
    left = bytes;
  }
  while (left > 0) {
    RingRecordHead& head = head_at(map, end - left);
    uint32_t length = head.length.load(std::memory_order_acquire);
    if ((length & kRingBusy) != 0 && head.place.load(std::memory_order_relaxed) == raw(dead)) {
      length &= ~kRingBusy;
      const uint64_t offset = offset_of(map, end - left);
      const uint64_t place = (offset >> kPageShift) + kPagesBeforeData;
      // SAFETY: 8-byte aligned.
      __atomic_store_n(reinterpret_cast<uint64_t*>(map.values + offset),
                       place << 32 | length | kRingDiscard, __ATOMIC_SEQ_CST);
      count++;
    }
    left = left_behind(left, length);
  }
  // It may have died between a record and the reader's waking.
  wake_all_readers(page.wake);
  return count;
}

}  // namespace

std::byte* ring_reserve(const MapView& map, const LockContext& who, uint64_t size) {
  RingProducerPage& page = producer(map);
  const uint64_t mask = map.bucket_mask;
  const uint64_t need = round_up(size + kHeadBytes, 8);
  // Kernel: RINGBUF_MAX_RECORD_SZ, which the map's own size does not reach.
  if (size > mask || need > mask + 1) {
    return nullptr;
  }
  const uint64_t read = consumer(map).position.load(std::memory_order_acquire);
  const HeldLock held(page.lock, who);
  if (!held) [[unlikely]] {
    ring_count_dropped(map);
    return nullptr;
  }
  const uint64_t begin = page.position.load(std::memory_order_relaxed) & ~7ULL;
  const uint64_t end = begin + need;
  uint64_t pending = page.pending.load(std::memory_order_relaxed);
  // Walking is put off until there is enough to walk over, or what is known does not tell that there is room.
  if (end - pending > (mask < kWalkBytes ? mask : kWalkBytes) || end - pending < need)
      [[unlikely]] {
    pending = advance_pending(map, pending, begin);
    page.pending.store(pending, std::memory_order_relaxed);
  }
  if (end - read > mask || end - pending > mask) [[unlikely]] {
    ring_count_dropped(map);
    return nullptr;
  }
  RingRecordHead& head = head_at(map, begin);
  head.place.store(raw(who.owner), std::memory_order_relaxed);
  head.length.store(static_cast<uint32_t>(size) | kRingBusy, std::memory_order_relaxed);
  page.position.store(end, std::memory_order_release);
  return reinterpret_cast<std::byte*>(&head) + kHeadBytes;
}

Wake ring_commit(const MapView& map, OwnerId owner, std::byte* sample, uint64_t size,
                 uint64_t flags, RingEnd how) {
  const auto offset = static_cast<uint64_t>(sample - kHeadBytes - map.values);
  RingRecordHead& head = head_at(map, offset);
  if (head.length.load(std::memory_order_relaxed) != (static_cast<uint32_t>(size) | kRingBusy) ||
      head.place.load(std::memory_order_relaxed) != raw(owner)) [[unlikely]] {
    return Wake::kNothing;
  }
  return end_record(map, offset, size, flags, how);
}

uint64_t ring_query(const MapView& map, uint64_t what) {
  const uint64_t read = consumer(map).position.load(std::memory_order_acquire);
  const uint64_t written = producer(map).position.load(std::memory_order_acquire);
  switch (what) {
    case BPF_RB_AVAIL_DATA:
      return written - read;
    case BPF_RB_RING_SIZE:
      return static_cast<uint64_t>(map.bucket_mask) + 1;
    case BPF_RB_CONS_POS:
      return read;
    case BPF_RB_PROD_POS:
      return written;
    default:
      return 0;
  }
}

bool ring_is_readable(const MapView& map) {
  const uint64_t read = consumer(map).position.load(std::memory_order_seq_cst);
  return producer(map).position.load(std::memory_order_seq_cst) != read &&
         (head_at(map, read).length.load(std::memory_order_seq_cst) & kRingBusy) == 0;
}

constinit const MapOps kRingBufferOps = {
    BPF_MAP_TYPE_RINGBUF, no_lookup,     no_update,     no_erase,
    no_next_key,          no_sys_lookup, no_sys_update, sweep};

}  // namespace bpftime
