// loop, for_each_map_elem. Each iteration costs one of the hit's budget, as a back edge does. Linux
// 6.18 kernel/bpf/bpf_iter.c: bpf_loop; hashtab.c, arraymap.c: bpf_for_each_hash_elem and others.
#include <cerrno>

#include "helpers/all.hpp"
#include "helpers/lane.hpp"
#include "maps/map_ops.hpp"

namespace bpftime::helper {
namespace {

constexpr uint32_t kMostLoops = 8 << 20;  // BPF_MAX_LOOPS
constexpr uint32_t kMostKeyBytes = 512;

uint64_t error(int code) { return static_cast<uint64_t>(static_cast<int64_t>(-code)); }
// SAFETY: a slot of kind kFunction holds the address of a HelperFn (vm/program.hpp).
HelperFn callback_at(uint64_t address) { return reinterpret_cast<HelperFn>(address); }

bool spend(Hit* hit) {
  if (--hit->fuel >= 0) [[likely]] {
    return true;
  }
  hit->ended = kHitOutOfFuel;
  return false;
}

}  // namespace

// (u32 count, long callback(u32 i, void* context), void* context, u64 flags): iterations made.
BPFTIME_HELPER(loop) {
  (void)a5;
  const auto count = static_cast<uint32_t>(a1);
  if (a4 != 0) {
    return error(EINVAL);
  }
  if (count > kMostLoops) {
    return static_cast<uint32_t>(
        -E2BIG);  // 32 bits, as what the kernel puts in the call's place gives
  }
  for (uint32_t i = 0; i < count; i++) {
    if (!spend(hit)) {
      return i;
    }
    if (callback_at(a2)(i, a3, 0, 0, 0, hit) != 0) {
      return i + 1;
    }
  }
  return count;
}

// (map, long callback(map, key, value, void* context), void* context, u64 flags): elements met.
BPFTIME_HELPER(for_each_map_elem) {
  (void)a5;
  const MapView& map = *reinterpret_cast<const MapView*>(a1);
  const auto visit = map_ops(map.code).visit;
  if (a4 != 0 || visit == nullptr || map.spec.key_size > kMostKeyBytes ||
      map.code == MapCode::kStackTrace) {
    return error(EINVAL);
  }
  uint32_t lane = 0;
  if (map.spec.cpu_count > 1) {
    lane = lane_of(probe(hit));
    if (lane == kNoCpu) {
      return 0;
    }
  }
  alignas(8) std::byte key[kMostKeyBytes];
  std::byte* value = nullptr;
  uint64_t cursor = 0;
  uint64_t count = 0;
  while (spend(hit) && visit(map, &cursor, key, lane, &value) == 0) {
    count++;
    if (callback_at(a2)(a1, reinterpret_cast<uint64_t>(key), reinterpret_cast<uint64_t>(value), a3,
                        0, hit) != 0) {
      break;
    }
  }
  return count;
}

}  // namespace bpftime::helper
