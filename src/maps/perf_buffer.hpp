// PERF_EVENT_ARRAY: a buffer for each index that has an event, written by every process whose programs name it (the
// kernel's has one producer, its CPU), read as perf_event_open(2) describes. Home: injected *, any thread; the last part
// is the broker's. Kernel v6.18 kernel/events/ring_buffer.c, kernel/trace/bpf_trace.c. The region may be scribbled over
// at any moment: a record is lost then, or wrong, but no access goes outside of the region and nothing hangs.
#pragma once
#include "maps/map_ops.hpp"
#include "maps/wake.hpp"

namespace bpftime {

// The most that a record's size field can tell of, less its head and the size of the sample.
inline constexpr uint64_t kMostPerfBytes = (1ULL << 16) - 8 - 8 - 4;

// bpf_perf_event_output: `flags` is an index, or BPF_F_CURRENT_CPU for that of `cpu`. 0, or -EINVAL flags, -E2BIG index or
// size, -ENOENT no event there, -EOPNOTSUPP the event is another CPU's, -ENOSPC no room (counted), -EBUSY.
// `data` must be readable; it is touched before anything is locked.
int perf_output(const MapView& map, const LockContext& who, uint32_t cpu, uint64_t flags,
                const void* data, uint64_t size, Wake* wake);

inline WakeWords& perf_wake_words(const MapView& map) {
  return *reinterpret_cast<WakeWords*>(map.base + kPerfWakeOffset);
}
inline uint32_t perf_buffer_count(const MapView& map) { return map.bucket_mask + 1; }
// Preconditions: index < perf_buffer_count().
inline PerfBuffer& perf_buffer(const MapView& map, uint32_t index) {
  return reinterpret_cast<PerfBuffer*>(map.used)[index];
}
inline uint64_t perf_buffer_offset(const MapView& map, uint32_t index) {
  return static_cast<uint64_t>(map.values - map.base) +
         static_cast<uint64_t>(index) * map.value_stride;
}
inline uint64_t perf_buffer_room(const MapView& map) { return map.value_stride - 4096; }

// ---- For readers
// Readers were woken and have not looked since. As the kernel's poll, it says so once when `take`.
bool perf_is_readable(const MapView& map, uint32_t index, bool take);
bool perf_is_drained(const MapView& map, uint32_t index);  // the reader has caught up

// ---- For the broker
struct PerfEventShape {
  uint64_t id;
  uint32_t cpu, data_bytes, wakeup_events, watermark;  // watermark in bytes; 0: half of the buffer
};
// A buffer made fresh for an event. Errors: EINVAL data_bytes is no power of two, ENOMEM more than the map has room for.
Result<void> perf_prepare(const MapView& map, uint32_t index, const PerfEventShape& event);
// `buffer` < 0: none. Preconditions: key < max_entries.
void perf_set_slot(const MapView& map, uint32_t key, int64_t buffer);

}  // namespace bpftime
