// Blocks are made by the thread itself at its first hit: one mmap holds block, return entries, a
// guard page and the hit stack. They are found again by gs base, or by hash of the fs base; the
// hash and the list only grow (the broker unmaps blocks at the last detach, with all threads
// stopped).
//
// A signal may interrupt any of this and its handler hit a probe, which comes here too: whoever
// puts its block into the hash first wins, the other's is unmapped.
#include "hook/thread_state.hpp"

#include <asm/ptrace.h>
#include <sys/mman.h>

#include "base/raw_syscall.hpp"
#include "hook/thunk_offsets.h"
#include "hook/thunks.hpp"

static_assert(offsetof(bpftime::ThreadBlock, regs) == BLOCK_REGS);
static_assert(sizeof(pt_regs) == sizeof(bpftime::ThreadBlock::regs));
#define CHECK_REG(name, field) static_assert((name) == BLOCK_REGS + offsetof(pt_regs, field))
CHECK_REG(R_R15, r15);
CHECK_REG(R_R14, r14);
CHECK_REG(R_R13, r13);
CHECK_REG(R_R12, r12);
CHECK_REG(R_BP, rbp);
CHECK_REG(R_BX, rbx);
CHECK_REG(R_R11, r11);
CHECK_REG(R_R10, r10);
CHECK_REG(R_R9, r9);
CHECK_REG(R_R8, r8);
CHECK_REG(R_AX, rax);
CHECK_REG(R_CX, rcx);
CHECK_REG(R_DX, rdx);
CHECK_REG(R_SI, rsi);
CHECK_REG(R_DI, rdi);
CHECK_REG(R_IP, rip);
CHECK_REG(R_FLAGS, eflags);
CHECK_REG(R_SP, rsp);
#define CHECK_OFFSET(name, type, field) static_assert((name) == offsetof(bpftime::type, field))
CHECK_OFFSET(BLOCK_PLAIN_WINDOW, ThreadBlock, plain_window);
CHECK_OFFSET(BLOCK_GUARD, ThreadBlock, guard);
CHECK_OFFSET(BLOCK_GUARD, ThreadBlock, depth);
CHECK_OFFSET(BLOCK_HIT_STACK_TOP, ThreadBlock, hit_stack_top);
CHECK_OFFSET(BLOCK_FREE_ENTRIES, ThreadBlock, free_entries);
CHECK_OFFSET(BLOCK_SEQUENCE, ThreadBlock, sequence);
CHECK_OFFSET(BLOCK_SELF, ThreadBlock, self);
CHECK_OFFSET(BLOCK_CHECK_OFFSET, ThreadBlock, check_offset);
CHECK_OFFSET(BLOCK_CHECK_VALUE, ThreadBlock, check_value);
CHECK_OFFSET(BLOCK_PLAIN_STACKS, ThreadBlock, plain_stacks);
CHECK_OFFSET(BLOCK_TRAMPOLINE, ThreadBlock, trampoline);
CHECK_OFFSET(BLOCK_RETURNING, ThreadBlock, returning);
CHECK_OFFSET(BLOCK_ALT_STACK, ThreadBlock, alt_stack);
CHECK_OFFSET(ENTRY_RETURN_ADDRESS, ReturnEntry, return_address);
CHECK_OFFSET(ENTRY_SAVED_RBX, ReturnEntry, saved_rbx);
CHECK_OFFSET(ENTRY_SLOT, ReturnEntry, slot);
CHECK_OFFSET(ENTRY_NEXT, ReturnEntry, next);
CHECK_OFFSET(ENTRY_HOME, ReturnEntry, home);
CHECK_OFFSET(ENTRY_SEQUENCE, ReturnEntry, sequence);
CHECK_OFFSET(ENTRY_RESUME, ReturnEntry, resume);
CHECK_OFFSET(SITE_ON_ENTRY, Site, on_entry);
CHECK_OFFSET(SITE_ON_RETURN, Site, on_return);
CHECK_OFFSET(SITE_ADDRESS, Site, address);
static_assert(LIST_PLAIN == bpftime::kListPlain && LIST_SIMPLE == bpftime::kListSimple &&
              LIST_FEW == bpftime::kListFew && LIST_READS == bpftime::kListReads);
CHECK_OFFSET(STATE_TABLE, AgentState, table);

extern "C" {
constinit bpftime::AgentState* bpftime_agent_state = nullptr;
// No TCB holds -1 as a tid.
constinit bpftime::ThreadBlock bpftime_nobody = [] {
  bpftime::ThreadBlock block{};
  block.check_value = 0xffffffff;
  return block;
}();

// For thunks.S; `sp` is the target's.
BPFTIME_HIDDEN bpftime::ThreadBlock* bpftime_thread_block_slow();
BPFTIME_HIDDEN bool bpftime_guard_is_stale(bpftime::ThreadBlock* block, uint64_t sp);
}

namespace bpftime {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kFixedBytes = (sizeof(ThreadBlock) + 63) / 64 * 64;
constexpr uint64_t kEntriesEnd = kFixedBytes + kReturnEntries * sizeof(ReturnEntry);
constexpr uint64_t kSessionsBytes = kReturnEntries * kSessionsOfCall * sizeof(SessionCell);
constexpr uint64_t kGuardAt = (kEntriesEnd + kSessionsBytes + kPage - 1) / kPage * kPage;
constexpr uint64_t kBlockBytes = kGuardAt + kPage + kHitStackBytes;
constexpr uint32_t kScanBackoff = 256;
constexpr uint64_t kArchSetGs = 0x1001, kArchGetFs = 0x1003;  // asm/prctl.h

uint64_t read_fs_base(const AgentState* state) {
  uint64_t base = 0;
  if (state->no_fsgsbase != 0) {
    raw_syscall(SYS_arch_prctl, kArchGetFs, reinterpret_cast<uint64_t>(&base));
  } else {
    __asm__ volatile("rdfsbase %0" : "=r"(base));
  }
  return base;
}

void write_gs_base(const AgentState* state, ThreadBlock* block) {
  if (state->no_fsgsbase != 0) {
    raw_syscall(SYS_arch_prctl, kArchSetGs, reinterpret_cast<uint64_t>(block));
  } else {
    __asm__ volatile("wrgsbase %0" : : "r"(block));
  }
}

uint32_t read_fs_word(uint32_t offset) {
  uint32_t value;
  // SAFETY: offset is where the broker found libc to keep the tid in this process's TCBs.
  __asm__ volatile("movl %%fs:(%1), %0" : "=r"(value) : "r"(static_cast<uint64_t>(offset)));
  return value;
}

uint32_t hash_slot(uint64_t fs) {
  return static_cast<uint32_t>((fs >> 6) * 0x9e3779b97f4a7c15ULL >> 54);  // 10 bits
}
static_assert(sizeof(AgentState::block_hash) / sizeof(void*) == 1024);

// A frame of no more than a line or two: this may run on a goroutine's stack.
ThreadBlock* find_by_fs(AgentState* state, uint64_t fs) {
  for (uint32_t i = 0; i < 1024; i++) {
    ThreadBlock* const block =
        state->block_hash[(hash_slot(fs) + i) % 1024].load(std::memory_order_acquire);
    if (block == nullptr) {
      return nullptr;
    }
    if (block->owner_fs == fs) {
      return block;
    }
  }
  // The hash is full; later blocks are in the list only.
  for (ThreadBlock* block = state->blocks.load(std::memory_order_acquire); block != nullptr;
       block = block->next_block) {
    if (block->owner_fs == fs) {
      return block;
    }
  }
  return nullptr;
}

void rebuild_free_list(ThreadBlock* block) {
  block->free_entries = nullptr;
  for (uint32_t i = kReturnEntries; i-- > 0;) {
    ReturnEntry* const entry = &block->entries[i];
    entry->slot = 0;
    entry->home = block;
    entry->next = block->free_entries;
    block->free_entries = entry;
  }
}

void set_owner(AgentState* state, ThreadBlock* block) {
  block->tid = static_cast<uint32_t>(raw_syscall(SYS_gettid));
  block->tgid = static_cast<uint32_t>(raw_syscall(SYS_getpid));
  block->check_offset = state->tcb_tid_offset;
  block->check_value = state->tcb_tid_offset != 0 ? read_fs_word(state->tcb_tid_offset) : 0;
}

ThreadBlock* make_block(AgentState* state, uint64_t fs) {
  const long mapped =
      raw_syscall(SYS_mmap, 0, kBlockBytes, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, static_cast<uint64_t>(-1), 0);
  if (is_syscall_error(mapped)) {
    return nullptr;
  }
  const auto at = static_cast<uint64_t>(mapped);
  raw_syscall(SYS_mprotect, at + kGuardAt, kPage, PROT_NONE);
  auto* const block = reinterpret_cast<ThreadBlock*>(at);
  block->owner_fs = fs;
  block->self = block;
  block->hit_stack_top = at + kBlockBytes;
  block->block_bytes = kBlockBytes;
  block->entries = reinterpret_cast<ReturnEntry*>(at + kFixedBytes);
  block->sessions = reinterpret_cast<SessionCell*>(at + kEntriesEnd);
  auto* const regs = reinterpret_cast<pt_regs*>(block->regs);
  // As the kernel shows a 64-bit user thread outside a system call.
  regs->orig_rax = static_cast<unsigned long>(-1);
  regs->cs = 0x33;
  regs->ss = 0x2b;
  rebuild_free_list(block);
  set_owner(state, block);
  for (uint32_t i = 0; i < 1024; i++) {
    std::atomic<ThreadBlock*>& slot = state->block_hash[(hash_slot(fs) + i) % 1024];
    ThreadBlock* there = nullptr;
    if (slot.compare_exchange_strong(there, block, std::memory_order_acq_rel)) {
      break;
    }
    if (there->owner_fs == fs) {  // a signal handler on this thread was faster
      raw_syscall(SYS_munmap, at, kBlockBytes);
      return there;
    }
  }
  ThreadBlock* head = state->blocks.load(std::memory_order_relaxed);
  do {
    block->next_block = head;
  } while (!state->blocks.compare_exchange_weak(head, block, std::memory_order_release));
  state->block_count.fetch_add(1, std::memory_order_relaxed);
  return block;
}

// The block was found by fs base; is its thread still the one that runs here?
void check_owner(AgentState* state, ThreadBlock* block) {
  if (state->tcb_tid_offset != 0) {
    if (read_fs_word(state->tcb_tid_offset) == block->check_value) {
      return;
    }
  } else if (state->use_gs == 0 ||  // asked at every hit: not worth a system call
             static_cast<uint32_t>(raw_syscall(SYS_gettid)) == block->tid) {
    return;
  }
  const auto pid = static_cast<uint32_t>(raw_syscall(SYS_getpid));
  if (pid != block->tgid && static_cast<uint32_t>(raw_syscall(SYS_gettid)) == pid) {
    take_over_after_fork(block);  // open frames and a running hit were copied with the process
    return;
  }
  // A new thread with a dead one's TCB.
  rebuild_free_list(block);
  block->scan_backoff = 0;
  block->fault_resume = nullptr;
  block->hit = nullptr;
  block->robust_head = nullptr;
  block->plain_window = 0;
  for (uint64_t& stack : block->plain_stacks) {
    stack = 0;
  }
  for (uint64_t& page : block->page_cache) {
    page = 0;
  }
  set_owner(state, block);
  __atomic_store_n(&block->guard, 0, __ATOMIC_RELEASE);
}

// EFAULT or EINVAL, and no other effect: `how` is checked after the set is read (kernel v6.18
// kernel/signal.c: rt_sigprocmask).
bool can_read_word(uint64_t address) {
  return raw_syscall(SYS_rt_sigprocmask, 0x7fff, address, 0, 8) == -22;
}

uint64_t word_at(uint64_t address) { return *reinterpret_cast<const volatile uint64_t*>(address); }

}  // namespace

ThreadBlock* thread_block() {
  AgentState* const state = bpftime_agent_state;
  if (state->use_gs != 0 && state->tcb_tid_offset != 0) {
    ThreadBlock* block;
    uint32_t offset;
    uint32_t value;
    __asm__ volatile("movl %%gs:%c1, %0" : "=r"(offset) : "i"(BLOCK_CHECK_OFFSET));
    __asm__ volatile("movl %%gs:%c1, %0" : "=r"(value) : "i"(BLOCK_CHECK_VALUE));
    if (read_fs_word(offset) == value) {
      __asm__ volatile("movq %%gs:%c1, %0" : "=r"(block) : "i"(BLOCK_SELF));
      return block;
    }
  }
  return bpftime_thread_block_slow();
}

void take_over_after_fork(ThreadBlock* block) {
  set_owner(bpftime_agent_state, block);
  block->robust_head = nullptr;  // the child has registered its own
}

uint32_t reclaim_entries(ThreadBlock* block, uint64_t rsp) {
  const auto point = reinterpret_cast<uint64_t>(
      bpftime_agent_state->use_gs != 0 ? &bpftime_return_point : &bpftime_return_point_hashed);
  uint32_t freed = 0;
  uint64_t readable_page = 0;
  ReturnEntry* free_entries = nullptr;
  for (uint32_t i = 0; i < kReturnEntries; i++) {
    ReturnEntry* const entry = &block->entries[i];
    const uint64_t slot = __atomic_load_n(&entry->slot, __ATOMIC_ACQUIRE);
    bool is_dead = slot == 0;
    if (!is_dead && slot < rsp && (slot ^ rsp) < kPage) {
      is_dead = true;  // below rsp on the same stack: no two stacks share a page
    }
    if (!is_dead && slot / kPage != readable_page) {
      if (can_read_word(slot)) {
        readable_page = slot / kPage;
      } else {
        is_dead = true;  // that stack is gone
      }
    }
    if (!is_dead) {
      is_dead = word_at(slot) != point;
    }
    if (!is_dead) {
      // A newer entry for the same slot, unless that one leads here: functions that were entered by
      // tail calls share the slot, each returning into the one before.
      const ReturnEntry* newest = entry;
      for (uint32_t j = 0; j < kReturnEntries; j++) {
        const ReturnEntry* const other = &block->entries[j];
        if (other->slot == slot && other->sequence > newest->sequence) {
          newest = other;
        }
      }
      while (newest != entry && newest->return_address == point) {
        const auto* const older = reinterpret_cast<const ReturnEntry*>(newest->saved_rbx);
        if (older < block->entries || older >= block->entries + kReturnEntries ||
            older->sequence >= newest->sequence) {
          break;
        }
        newest = older;
      }
      is_dead = newest != entry;
    }
    if (is_dead) {
      __atomic_store_n(&entry->slot, 0, __ATOMIC_RELAXED);
      entry->next = free_entries;
      free_entries = entry;
      freed++;
    }
  }
  block->free_entries = free_entries;
  return freed;
}

}  // namespace bpftime

extern "C" {

bpftime::ThreadBlock* bpftime_thread_block_slow() {
  using namespace bpftime;
  AgentState* const state = bpftime_agent_state;
  const uint64_t fs = read_fs_base(state);
  if (fs == 0) {
    return nullptr;  // a thread without a TCB: nothing names it
  }
  ThreadBlock* block = find_by_fs(state, fs);
  if (block == nullptr) {
    block = make_block(state, fs);
    if (block == nullptr) {
      return nullptr;
    }
  } else {
    check_owner(state, block);
  }
  if (state->use_gs != 0 && state->tcb_tid_offset != 0) {
    write_gs_base(state, block);
  }
  return block;
}

// A hit that runs, or was put aside by a signal handler that switched stacks, has its stack words
// above the guard's address for itself, and in the lowest the block's address. `sp`: the new hit's,
// with four words of its own above.
bool bpftime_guard_is_stale(bpftime::ThreadBlock* block, uint64_t sp) {
  using namespace bpftime;
  const uint64_t at = block->guard;
  if (at >= sp - 8 && at < sp + 48) {
    return true;  // our words lie where that hit's should be
  }
  return !can_read_word(at) || word_at(at) != reinterpret_cast<uint64_t>(block);
}

bpftime::ReturnEntry* bpftime_take_entry_slow(pt_regs* /*regs*/, bpftime::Site* /*site*/,
                                              bpftime::ThreadBlock* block, uint64_t sp) {
  using namespace bpftime;
  if (block->scan_backoff > 0) {
    block->scan_backoff--;
    return nullptr;
  }
  if (reclaim_entries(block, sp) < kReturnEntries / 16) {
    block->scan_backoff = kScanBackoff;  // deep recursion: a scan a hit would cost 20 us each
  }
  return block->free_entries;
}

}  // extern "C"
