// Head of every map's shared file, and the lock inside it. Home: pure *, mapped by loader, broker and targets.
// HOSTILE: any process that maps the file may write it. Copy once, check, use the copy; the shape of a map
// (sizes, offsets) is taken from the MapSpec that the broker gave, never from here after open_region().
// Layouts are documented in docs/abi.md; change kRegionVersion when one changes.
#pragma once
#include <atomic>
#include <cstdint>

namespace bpftime {

inline constexpr uint32_t kRegionMagic = 0x70616d62;  // "bmap"
inline constexpr uint32_t kRegionVersion = 1;

struct RegionHeader {
  uint32_t magic, version, map_type, map_flags, key_size, value_size, max_entries, cpu_count;
  uint64_t size_bytes, table_offset, values_offset, reserved;
};
static_assert(sizeof(RegionHeader) == 64);

// A futex word as the kernel's robust list knows it (Linux 6.18 kernel/futex/core.c: handle_futex_death):
// 0 = free, else the owner's tid; the kernel sets FUTEX_OWNER_DIED (0x40000000) when a thread dies whose
// robust_list_head.list_op_pending names it. tids repeat across pid namespaces: `owner` is the OwnerId of the
// process, stored just after the word was taken (DESIGN D4).
struct RobustLock {
  std::atomic<uint32_t> word;
  std::atomic<uint32_t> owner;
};
static_assert(sizeof(RobustLock) == 8);

}  // namespace bpftime
