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

// How readers of a buffer are woken (docs/decisions/0002-waking-readers.md). A producer that has to wake looks at
// `sleeping` and `wants_byte` behind a full fence; who sets them looks at the buffer behind one.
struct WakeWords {
  std::atomic<uint32_t> sequence;  // + 1 at each wake-up; readers sleep on it (futex)
  std::atomic<uint32_t> sleeping;  // 1: a reader may sleep on `sequence`
  std::atomic<uint32_t>
      wants_byte;  // a reader waits on its descriptor: the broker is to make it readable
  std::atomic<uint32_t> reserved;
};
static_assert(sizeof(WakeWords) == 16);
inline constexpr uint32_t kByteWanted = 1;
inline constexpr uint32_t kByteOwed = 2;  // a producer had to wake and could not tell the broker

// RINGBUF: the loader maps the file from 0 as it would the kernel's: a page that it may write, with consumer_pos; a
// page with producer_pos; the data, then as many bytes again, into which a record that passes the end goes on (see
// docs/abi-regions.md). The head page comes last.
inline constexpr uint64_t kRingPageBytes = 4096;
struct RingConsumerPage {
  std::atomic<uint64_t> position;
};
struct RingProducerPage {
  std::atomic<uint64_t> position;  // the kernel's place for it
  std::atomic<uint64_t> pending;   // every record before it is committed
  RobustLock lock;                 // of reserving
  std::atomic<uint64_t> dropped;   // records that found no room
  uint64_t unused[4];
  WakeWords wake;
};
static_assert(sizeof(RingProducerPage) == 80 && offsetof(RingProducerPage, wake) == 64);
// Before each record, at a multiple of 8. While kRingBusy is set `place` is the OwnerId of the producer; then it is what
// the kernel has there: the distance from the (kernel's) head of the buffer in pages.
struct RingRecordHead {
  std::atomic<uint32_t> length;
  std::atomic<uint32_t> place;
};
static_assert(sizeof(RingRecordHead) == 8);
inline constexpr uint32_t kRingBusy = 1U << 31;     // BPF_RINGBUF_BUSY_BIT
inline constexpr uint32_t kRingDiscard = 1U << 30;  // BPF_RINGBUF_DISCARD_BIT

// QUEUE, STACK: at table_offset; the values follow.
struct alignas(64) QueueState {
  RobustLock lock;
  std::atomic<uint64_t> head, tail;  // numbers of values; [tail, head) are there
};
static_assert(sizeof(QueueState) == 64);

// PERF_EVENT_ARRAY: the head page, with WakeWords of the whole map at kPerfWakeOffset; at table_offset a word for each
// index (number of its buffer + 1; 0 = none), then the PerfBuffers; at values_offset what the loader maps of each:
// struct perf_event_mmap_page in its page, then the data.
inline constexpr uint64_t kPerfWakeOffset = 128;
struct alignas(64) PerfBuffer {
  RobustLock lock;
  std::atomic<uint64_t> head;  // data_head as producers believe it
  std::atomic<uint64_t>
      lost;  // records that found no room and that no PERF_RECORD_LOST has told of yet
  std::atomic<uint64_t> dropped;   // all of them
  std::atomic<uint64_t> woken_at;  // + the watermark at each time that it woke readers
  std::atomic<uint32_t> events;    // records since then
  std::atomic<uint32_t> poll;      // 1: readers were woken and have not looked
  uint64_t unused[2];
  // Written by the broker.
  std::atomic<uint32_t> data_bytes;     // a power of two; 0: nobody has mapped it
  std::atomic<uint32_t> wakeup_events;  // 0: by watermark alone
  std::atomic<uint32_t> watermark;      // in bytes
  std::atomic<uint32_t> cpu;            // of the event
  std::atomic<uint64_t> id;             // of the event, for PERF_RECORD_LOST
  uint64_t unused_too[5];
};
static_assert(sizeof(PerfBuffer) == 128 && offsetof(PerfBuffer, data_bytes) == 64);

}  // namespace bpftime
