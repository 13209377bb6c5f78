// perf_event_output, ringbuf_output, ringbuf_reserve, _submit, _discard, _query. Kernel v6.18 kernel/bpf/ringbuf.c,
// kernel/trace/bpf_trace.c. A record that is open is noted in the thread's block: committing it trusts nothing that
// lies in the buffer, and what a program leaves open is found when its run ends.
#include <cerrno>

#include "helpers/all.hpp"
#include "helpers/lane.hpp"
#include "helpers/lock_context.hpp"
#include "maps/bytes.hpp"
#include "maps/perf_buffer.hpp"
#include "maps/ring_buffer.hpp"

namespace bpftime {
namespace {

[[gnu::noinline]] void tell_the_broker(ThreadBlock& thread, const MapView& map, WakeWords& wake) {
  if (!bpftime_say_wake(&thread, map.map_id)) {
    still_owe_a_byte(wake);
  }
}

}  // namespace

void discard_open_records(ThreadBlock& thread, OwnerId owner) {
  uint32_t count = thread.open_record_count;
  thread.open_record_count = 0;
  while (count-- > 0) {
    const OpenRecord& open = thread.open_records[count];
    const auto& map = *static_cast<const MapView*>(open.map);
    const Wake wake = ring_commit(map, owner, static_cast<std::byte*>(open.sample), open.size, 0,
                                  RingEnd::kDiscard);
    if (wake == Wake::kTellTheBroker) {
      tell_the_broker(thread, map, ring_wake_words(map));
    }
  }
}

namespace helper {
namespace {

constexpr uint64_t kWakeFlags = BPF_RB_NO_WAKEUP | BPF_RB_FORCE_WAKEUP;

const MapView& view(uint64_t map) { return *reinterpret_cast<const MapView*>(map); }
uint64_t result(int code) { return static_cast<uint64_t>(static_cast<int64_t>(code)); }

// Null: no room, in the buffer or in the thread's list.
std::byte* open_record(ThreadBlock& thread, const MapView& map, const LockContext& who,
                       uint64_t size) {
  if (thread.open_record_count == kOpenRecords) [[unlikely]] {
    ring_count_dropped(map);
    return nullptr;
  }
  std::byte* const sample = ring_reserve(map, who, size);
  if (sample != nullptr) [[likely]] {
    thread.open_records[thread.open_record_count++] = {&map, sample, size};
  }
  return sample;
}

void close_record(ProbeHit& hit, uint64_t sample, uint64_t flags, RingEnd how) {
  ThreadBlock& thread = *hit.thread;
  for (uint32_t i = thread.open_record_count; i-- > 0;) {
    const OpenRecord open = thread.open_records[i];
    if (reinterpret_cast<uint64_t>(open.sample) != sample) {
      continue;
    }
    const auto& map = *static_cast<const MapView*>(open.map);
    const Wake wake = ring_commit(map, OwnerId{hit.process->owner},
                                  static_cast<std::byte*>(open.sample), open.size, flags, how);
    thread.open_records[i] = thread.open_records[--thread.open_record_count];
    if (wake == Wake::kTellTheBroker) [[unlikely]] {
      tell_the_broker(thread, map, ring_wake_words(map));
    }
    return;
  }
}

}  // namespace

// (map, const void* data, u64 size, u64 flags)
BPFTIME_HELPER(ringbuf_output) {
  (void)a5;
  if ((a4 & ~kWakeFlags) != 0) {
    return result(-EINVAL);
  }
  ProbeHit& self = probe(hit);
  std::byte* const sample = open_record(*self.thread, view(a1), lock_context(self), a3);
  if (sample == nullptr) {
    return result(-EAGAIN);
  }
  copy_bytes(sample, reinterpret_cast<const void*>(a2), a3);
  close_record(self, reinterpret_cast<uint64_t>(sample), a4, RingEnd::kSubmit);
  return 0;
}

// (map, u64 size, u64 flags)
BPFTIME_HELPER(ringbuf_reserve) {
  (void)a4, (void)a5;
  if (a3 != 0) {
    return 0;
  }
  ProbeHit& self = probe(hit);
  std::byte* const sample = open_record(*self.thread, view(a1), lock_context(self), a2);
  if (sample != nullptr) {
    self.reserved |= kHitHasRecord;  // should the program end without committing it
  }
  return reinterpret_cast<uint64_t>(sample);
}

// (void* sample, u64 flags)
BPFTIME_HELPER(ringbuf_submit) {
  (void)a3, (void)a4, (void)a5;
  close_record(probe(hit), a1, a2, RingEnd::kSubmit);
  return 0;
}
BPFTIME_HELPER(ringbuf_discard) {
  (void)a3, (void)a4, (void)a5;
  close_record(probe(hit), a1, a2, RingEnd::kDiscard);
  return 0;
}

// (map, u64 what)
BPFTIME_HELPER(ringbuf_query) {
  (void)a3, (void)a4, (void)a5, (void)hit;
  return ring_query(view(a1), a2);
}

// (ctx, map, u64 flags, const void* data, u64 size)
BPFTIME_HELPER(perf_event_output) {
  (void)a1;
  ProbeHit& self = probe(hit);
  // The buffers are the CPUs'; a program that runs in a spill lane uses that of a CPU.
  const uint32_t cpu = cpu_of(self);
  const uint32_t cpus = self.process->cpu_lanes;
  const bool is_spill_lane = cpus != 0 && a3 >= cpus && a3 < self.process->lane_count;
  const uint64_t index = is_spill_lane ? a3 % cpus : a3;
  Wake wake = Wake::kNothing;
  const int code = perf_output(view(a2), lock_context(self), cpu, index,
                               reinterpret_cast<const void*>(a4), a5, &wake);
  if (wake == Wake::kTellTheBroker) [[unlikely]] {
    tell_the_broker(*self.thread, view(a2), perf_wake_words(view(a2)));
  }
  return result(code);
}

}  // namespace helper
}  // namespace bpftime
