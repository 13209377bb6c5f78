// Head of every map's shared file, and the lock inside it. Home: pure *, mapped by loader, broker
// and targets. HOSTILE: any process that maps the file may write it. Copy once, check, use the
// copy; the shape of a map (sizes, offsets) is taken from the MapSpec that the broker gave, never
// from here after open_region(). Layouts are documented in docs/abi.md; change kRegionVersion when
// one changes.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace bpftime {

inline constexpr uint32_t kRegionMagic = 0x70616d62;  // "bmap"
inline constexpr uint32_t kRegionVersion = 1;

struct RegionHeader {
  uint32_t magic, version, map_type, map_flags, key_size, value_size, max_entries, cpu_count;
  uint64_t size_bytes, table_offset, values_offset;
  uint64_t seed;  // of the hash function; 0 with BPF_F_ZERO_SEED. Any value is safe.
};
static_assert(sizeof(RegionHeader) == 64);
inline constexpr uint64_t kRegionHeadBytes = 4096;  // what follows the header in its page is zero

// A futex word as the kernel's robust list knows it (Linux 6.18 kernel/futex/core.c:
// handle_futex_death): 0 = free, else the owner's tid; the kernel sets FUTEX_OWNER_DIED
// (0x40000000) when a thread dies whose robust_list_head.list_op_pending names it. tids repeat
// across pid namespaces: `owner` is the OwnerId of the process, stored just after the word was
// taken (DESIGN D4).
struct RobustLock {
  std::atomic<uint32_t> word;
  std::atomic<uint32_t> owner;
};
static_assert(sizeof(RobustLock) == 8);

// HASH: one cache line a bucket, at table_offset. An element is named by its number + 1; 0 = none.
// A writer holds `lock`; readers hold nothing and check `version` afterwards. docs/abi-regions.md
// tells the order of the stores, which is what makes a bucket whole again after kill -9 at any
// instruction.
inline constexpr uint32_t kBucketSlots = 7;
struct HashBucket {
  RobustLock lock;
  std::atomic<uint32_t>
      version;  // + 1 after each change, before the element taken out is used again
  std::atomic<uint32_t>
      spare;  // the bucket's own free element; 0 = max_entries + number of the bucket
  std::atomic<uint64_t> journal;  // kJournal* | slot << 8 | element << 32
  std::atomic<uint64_t>
      tags;  // byte i: 0 = slot i is empty, else 0x80 | 7 bits of the hash; byte 7: 1 = chain
  std::atomic<uint32_t> slots[kBucketSlots];
  std::atomic<uint32_t>
      chain;  // first of the elements that found no slot, through HashElement::next
};
static_assert(sizeof(HashBucket) == 64 && offsetof(HashBucket, tags) == 24 &&
              offsetof(HashBucket, slots) == 32 && offsetof(HashBucket, chain) == 60);
inline constexpr uint64_t kJournalNone = 0;
inline constexpr uint64_t kJournalTransit = 1;    // the element is on its way in or out
inline constexpr uint64_t kJournalSwapSlot = 2;   // the element replaces what stands in the slot
inline constexpr uint64_t kJournalSwapChain = 3;  // the element replaces the new spare in the chain

// Then the key, padded to 8 bytes, and the value, padded to 8 bytes (times lanes for per-CPU
// kinds).
struct HashElement {
  std::atomic<uint32_t> next;
  std::atomic<uint32_t> home;  // number of the bucket it belongs to + 1; 0 = free
};
static_assert(sizeof(HashElement) == 8);

}  // namespace bpftime
