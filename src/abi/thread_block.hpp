// State of one thread of a target, and the entries of its open return probes. Home: pure *. Private
// memory of the target; written by the thread itself (also in signal handlers), read by the broker
// while the thread is stopped. Found through one function, hook/thread_state.hpp: `%gs:0` when its
// owner check holds, else by hash (DESIGN D8). Offsets are used by src/hook/*.S; each is asserted
// below.
#pragma once
#include <cstddef>
#include <cstdint>

namespace bpftime {

struct ThreadBlock;

// One open return probe (hooking.md §3): while the body of a hooked function runs, rbx names its
// entry. The first two words are what the constant CFI of the return stub reads: do not move them.
struct ReturnEntry {
  uint64_t return_address;  // +0  RA = *(rbx+0)
  uint64_t saved_rbx;       // +8  rbx = *(rbx+8)
  uint64_t slot;            // +16 stack address that held the return address; 0 = free
  ReturnEntry* next;        // +24 free list
  uint64_t unused;          // +32
  ThreadBlock* home;        // +40 whose array it lies in (a coroutine may return on another thread)
  uint64_t sequence;        // +48 order of taking, for the reclaiming scan
  uint64_t resume;          // +56 displaced copy to call
};
static_assert(sizeof(ReturnEntry) == 64);

inline constexpr uint32_t kReturnEntries =
    256;  // a thread; deeper = counted as missed, as the kernel at 64

// What a uprobe.session link keeps of one call, from its entry to its return. Valid while `sequence` is the return
// entry's: a cell need not be given back.
struct SessionCell {
  uint64_t sequence;  // ReturnEntry::sequence of the call
  uint64_t hits;      // ThreadBlock::hits of the hit that took it
  uint64_t cookie;    // the program's own, 0 at first
  uint32_t link, flags;
};
static_assert(sizeof(SessionCell) == 32);
inline constexpr uint32_t kSessionSkipsReturn = 1;  // the program said so at the entry
inline constexpr uint32_t kSessionReturned = 2;     // and is not to be found again
inline constexpr uint32_t kSessionsOfCall = 32;     // at one place

inline constexpr uint64_t kHitStackBytes = 64 << 10;  // and a guard page below
inline constexpr uint32_t kPlainStacks = 16;          // direct mapped
inline constexpr uint32_t kPageCacheSize = 64;        // direct mapped, by page number
inline constexpr uint64_t kCachedPage = 4095;         // what an address of the page is by `or`
inline constexpr uint32_t kPageCacheAge = 8;          // a cache lives for 2^8 hits of its thread

// A record of a ring buffer that this thread's program has reserved and not committed yet.
struct OpenRecord {
  const void* map;  // MapView
  void* sample;
  uint64_t size;
};
inline constexpr uint32_t kOpenRecords = 16;  // at once; the kernel has no bound

// The first four cache lines are the hit path's: one that is only read, then three whose stores
// follow each other (two stores a cycle go to one line, else one: a hit is bound by its stores).
struct alignas(64) ThreadBlock {
  uint64_t owner_fs;  // +0  fs base of the thread; 0 = nobody (the shared "no owner" block)
  ThreadBlock* self;  // +8
  // %fs:check_offset holds this thread's tid, check_value, where libc keeps it in the TCB: proof
  // that the block behind %gs is this thread's own.
  uint32_t check_offset, check_value;  // +16
  uint64_t hit_stack_top;              // +24 16-byte aligned
  ReturnEntry* entries;                // +32 kReturnEntries of them
  uint32_t tid, tgid;                  // +40
  ThreadBlock* next_block;             // +48 all blocks of the process, for the broker
  uint32_t block_bytes;   // +56 size of the whole mapping (block, entries, guard, hit stack)
  uint32_t scan_backoff;  // +60 hits to go without an entry before the next reclaiming scan

  uint64_t regs[21];  // +64 struct pt_regs of the running hit
  // While a hit runs: the target's rsp at which it runs; the word there is this block's
  // address. 0: none. A nested hit is counted as missed, never run.
  union {
    uint64_t guard;  // +232
    uint32_t depth;  // != 0: inside a hit
  };
  ReturnEntry* free_entries;  // +240
  uint64_t sequence;          // +248

  uint64_t missed;        // +256 nested hits and exhausted return entries
  uint64_t hits;          // +264
  uint64_t plain_window;  // rsp >> 20 where the last hit ran; else plain_stacks is asked
  void* fault_resume;     // +272 set while a checked copy runs: where the fault handler continues
  struct Hit* hit;        // hit_space once this thread has run a program; for the fault handler
  void* robust_head;      // struct robust_list_head* of the thread; null = not asked yet
  uint64_t alt_stack[3];  // stack_t of the last sigaltstack query
  uint64_t plain_stacks[kPlainStacks];  // rsp >> 16 known not to be on the alternate stack
  uint64_t page_cache[kPageCacheSize];  // page address | kCachedPage when readable; 0 = empty
  uint64_t page_cache_time;             // hits >> kPageCacheAge when it was last emptied
  uint64_t random_state;                // of get_prandom_u32; 0 = not seeded
  uint64_t trampoline;     // of the running hit, where a return probe follows its entry probe
  uint64_t own_robust[3];  // struct robust_list_head of ours, for threads without one (musl, Go)
  ReturnEntry* returning;  // of the hit that runs at a return, where it is not plain or simple
  alignas(64) uint64_t hit_space[24];  // ProbeHit (helpers/probe_hit.hpp)
  uint32_t open_record_count, reserved;
  OpenRecord open_records[kOpenRecords];
  SessionCell* sessions;  // kSessionsOfCall for each of entries
};
static_assert(offsetof(ThreadBlock, regs) == 64 && offsetof(ThreadBlock, guard) == 232 &&
              offsetof(ThreadBlock, missed) == 256);

}  // namespace bpftime
