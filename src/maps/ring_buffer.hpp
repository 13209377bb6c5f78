// RINGBUF: one buffer of records from many producers in many processes to one reader. Home: injected *, any thread.
// Kernel v6.18 kernel/bpf/ringbuf.c. The region may be scribbled over at any moment: a record is lost then, or wrong,
// but no access goes outside of the region and nothing hangs.
//
// 1. Reserving takes the lock; committing takes none. A producer that dies with the lock leaves it to the next one,
//    with nothing to repair: a record exists once producer_pos has passed it, which is the last store under the lock.
// 2. A record that is being filled names its process; ring_sweep() discards those of a dead one.
#pragma once
#include "maps/map_ops.hpp"
#include "maps/wake.hpp"

namespace bpftime {

// Room for `size` bytes, 8-byte aligned; null when there is none (counted as dropped).
std::byte* ring_reserve(const MapView& map, const LockContext& who, uint64_t size);

// `sample` and `size` are of ring_reserve; `flags` BPF_RB_NO_WAKEUP, BPF_RB_FORCE_WAKEUP. Does nothing to a record that
// is not busy, or another process's.
enum class RingEnd : uint32_t { kSubmit, kDiscard };
Wake ring_commit(const MapView& map, OwnerId owner, std::byte* sample, uint64_t size,
                 uint64_t flags, RingEnd how);

// bpf_ringbuf_query: BPF_RB_AVAIL_DATA, _RING_SIZE, _CONS_POS, _PROD_POS; else 0.
uint64_t ring_query(const MapView& map, uint64_t what);

// For readers: a record, or a discarded one, lies at consumer_pos. (The kernel's poll also counts a record that is
// being filled.)
bool ring_is_readable(const MapView& map);
inline void ring_count_dropped(const MapView& map) {
  reinterpret_cast<RingProducerPage*>(map.table)->dropped.fetch_add(1, std::memory_order_relaxed);
}
inline uint64_t ring_dropped(const MapView& map) {
  return reinterpret_cast<RingProducerPage*>(map.table)->dropped.load(std::memory_order_relaxed);
}
inline WakeWords& ring_wake_words(const MapView& map) {
  return reinterpret_cast<RingProducerPage*>(map.table)->wake;
}

}  // namespace bpftime
