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
  struct Site* site;        // +32
  ThreadBlock* home;        // +40 whose array it lies in (a coroutine may return on another thread)
  uint64_t sequence;        // +48 order of taking, for the reclaiming scan
  uint64_t resume;          // +56 displaced copy to call
};
static_assert(sizeof(ReturnEntry) == 64);

inline constexpr uint32_t kReturnEntries =
    256;  // a thread; deeper = counted as missed, as the kernel at 64
inline constexpr uint64_t kHitStackBytes = 64 << 10;  // and a guard page below
inline constexpr uint32_t kPlainStacks = 16;          // direct mapped
inline constexpr uint32_t kPageCacheSize = 64;        // direct mapped, by page number

struct ThreadBlock {
  uint64_t owner_fs;          // +0  fs base of the thread; 0 = nobody (the shared "no owner" block)
  uint32_t tid;               // +8
  uint32_t depth;  // +12 > 0: inside a hit (2: hit_sp holds); a nested hit is missed, never run
  uint64_t hit_stack_top;     // +16 16-byte aligned
  ReturnEntry* free_entries;  // +24
  ReturnEntry* entries;       // +32 kReturnEntries of them
  uint64_t sequence;          // +40
  void* fault_resume;       // +48 set while a checked copy runs: where the fault handler continues
  struct Hit* hit;          // +56 the running hit, for the fault handler; null outside programs
  void* robust_head;        // +64 struct robust_list_head* of the thread; null = not asked yet
  uint64_t hits;            // +72
  uint32_t tgid;            // +80
  uint32_t block_bytes;     // +84 size of the whole mapping (block, entries, guard, hit stack)
  ThreadBlock* next_block;  // +88 all blocks of the process, for the broker
  uint64_t missed;          // +96 nested hits and exhausted return entries
  ThreadBlock* self;        // +104
  // %fs:check_offset must hold check_value, else a new thread has this TCB: where libc keeps the tid;
  // where that is unknown: 0 and the low half of the fs base.
  uint32_t check_offset;  // +112
  uint32_t check_value;   // +116
  uint64_t hit_sp;        // +120 the target's rsp when the running hit began
  uint64_t page_cache[kPageCacheSize];  // +128 page address | 1 when readable; 0 = empty
  uint64_t page_cache_time;             // +640
  uint64_t regs[21];                    // +648 struct pt_regs of the running hit
  uint64_t plain_stacks[kPlainStacks];  // +816 rsp >> 16 known not to be on the alternate stack
  uint32_t scan_backoff;  // +944 hits to go without an entry before the next reclaiming scan
  uint32_t reserved_word;
  uint64_t alt_stack[3];                // +952 stack_t of the last sigaltstack query
  uint64_t random_state;   // of get_prandom_u32; 0 = not seeded
  uint64_t own_robust[3];  // struct robust_list_head of ours, for threads without one (musl, Go)
};
static_assert(offsetof(ThreadBlock, tid) == 8 && offsetof(ThreadBlock, depth) == 12 &&
              offsetof(ThreadBlock, hit_stack_top) == 16 &&
              offsetof(ThreadBlock, free_entries) == 24 && offsetof(ThreadBlock, entries) == 32 &&
              offsetof(ThreadBlock, sequence) == 40 && offsetof(ThreadBlock, hits) == 72 &&
              offsetof(ThreadBlock, page_cache) == 128 && offsetof(ThreadBlock, self) == 104 &&
              offsetof(ThreadBlock, check_offset) == 112 && offsetof(ThreadBlock, hit_sp) == 120 &&
              offsetof(ThreadBlock, regs) == 648 && offsetof(ThreadBlock, plain_stacks) == 816 &&
              offsetof(ThreadBlock, missed) == 96 &&
              offsetof(ThreadBlock, alt_stack) == 952);

}  // namespace bpftime
