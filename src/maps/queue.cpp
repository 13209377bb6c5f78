// Linux 6.18 kernel/bpf/queue_stack_maps.c. What is there is [tail, head), numbers that only grow (a stack's head goes back
// too); number n lies at n mod max_entries. Each operation ends with one store, so a death under the lock
// leaves nothing to repair.
#include "maps/queue.hpp"

#include <linux/bpf.h>

#include <cerrno>

#include "maps/bytes.hpp"
#include "maps/kinds.hpp"

namespace bpftime {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;

// SAFETY: open_region() has checked that it lies in the region, 64-byte aligned.
QueueState& state_of(const MapView& map) { return *reinterpret_cast<QueueState*>(map.table); }
std::byte* value_at(const MapView& map, uint64_t number) {
  return map.values + number % map.element_count * map.value_stride;
}

// How many there are; numbers that were scribbled over mean none.
uint64_t count_of(const MapView& map, QueueState& state) {
  const uint64_t head = state.head.load(kRelaxed);
  const uint64_t count = head - state.tail.load(kRelaxed);
  if (count > map.element_count) {
    state.tail.store(head, kRelaxed);
    return 0;
  }
  return count;
}

int next_key(const MapView& /*map*/, const void* /*key*/, void* /*next*/) { return -EINVAL; }
int sys_lookup(const MapView& map, const void* /*key*/, void* value, uint64_t flags,
               const LockContext* who) {
  if (flags != 0) {
    return -EINVAL;
  }
  return who == nullptr ? -EAGAIN : queue_look(map, *who, value, false);
}
int sys_update(const MapView& map, const LockContext& who, const void* /*key*/, const void* value,
               uint64_t flags) {
  return queue_push(map, who, value, flags);
}
int sys_take(const MapView& map, const LockContext& who, const void* /*key*/, void* value) {
  return queue_look(map, who, value, true);
}
uint32_t sweep(const MapView& map, const LockContext& who, OwnerId dead) {
  return release_of_dead(state_of(map).lock, who, dead) ? 1 : 0;
}

constexpr MapOps ops(uint32_t type) {
  return {type,       no_lookup,  invalid_update, array_erase, next_key,
          sys_lookup, sys_update, sweep,          nullptr,     sys_take};
}

}  // namespace

int queue_push(const MapView& map, const LockContext& who, const void* value, uint64_t flags) {
  if (flags != BPF_ANY && flags != BPF_EXIST) {
    return -EINVAL;
  }
  QueueState& state = state_of(map);
  const HeldLock held(state.lock, who);
  if (!held) {
    return -EBUSY;
  }
  if (count_of(map, state) == map.element_count) {
    if (flags != BPF_EXIST) {
      return -E2BIG;
    }
    state.tail.store(state.tail.load(kRelaxed) + 1, kRelaxed);
  }
  const uint64_t head = state.head.load(kRelaxed);
  copy_bytes(value_at(map, head), value, map.spec.value_size);
  state.head.store(head + 1, std::memory_order_release);
  return 0;
}

int queue_look(const MapView& map, const LockContext& who, void* value, bool takes) {
  QueueState& state = state_of(map);
  const HeldLock held(state.lock, who);
  if (!held) {
    return -EBUSY;
  }
  if (count_of(map, state) == 0) {
    return -ENOENT;
  }
  const bool is_stack = map.code == MapCode::kStack;
  std::atomic<uint64_t>& end = is_stack ? state.head : state.tail;
  const uint64_t at = end.load(kRelaxed) - (is_stack ? 1 : 0);
  copy_bytes(value, value_at(map, at), map.spec.value_size);
  if (takes) {
    end.store(is_stack ? at : at + 1, std::memory_order_release);
  }
  return 0;
}

constinit const MapOps kQueueOps = ops(BPF_MAP_TYPE_QUEUE);
constinit const MapOps kStackOps = ops(BPF_MAP_TYPE_STACK);

}  // namespace bpftime
