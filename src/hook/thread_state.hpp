// Finds the ThreadBlock of the calling thread, making it at a thread's first hit. Home: injected *,
// any thread of the target, any signal state; no libc. The thunks have the fast path in assembler;
// this is for C++.
#pragma once
#include <asm/ptrace.h>

#include "abi/agent.hpp"

#define BPFTIME_HIDDEN __attribute__((visibility("hidden")))

extern "C" {
// The image's one variable: where the arena is. Set by the broker (AgentDescriptor::state) before
// any site is armed.
extern BPFTIME_HIDDEN bpftime::AgentState* bpftime_agent_state;
// The block of threads that have none: its owner never matches. The broker sets each thread's gs
// base to it.
extern BPFTIME_HIDDEN bpftime::ThreadBlock bpftime_nobody;
// The entry that the next call takes, when none was free; null: none. `sp`: of the target. Under the guard.
BPFTIME_HIDDEN bpftime::ReturnEntry* bpftime_take_entry_slow(pt_regs* regs, bpftime::Site* site,
                                                             bpftime::ThreadBlock* block,
                                                             uint64_t sp);
}

namespace bpftime {

// Null: no memory for a block (the hit passes through).
BPFTIME_HIDDEN ThreadBlock* thread_block();

// After fork, in the child, on its only thread: the block is now of this tid and tgid. Open return
// entries stay: the frames they belong to are open in the child too.
BPFTIME_HIDDEN void take_over_after_fork(ThreadBlock* block);

// Puts dead entries (unwound or jumped over) of the block back on its free list; how many. `rsp`:
// of the target. Precondition: the free list is empty, block->depth is held.
BPFTIME_HIDDEN uint32_t reclaim_entries(ThreadBlock* block, uint64_t rsp);

}  // namespace bpftime
