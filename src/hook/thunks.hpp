// The code that trampolines run: builds pt_regs, calls the agent, goes on with the probed function.
// Home: injected *, any thread of the target, any signal state. Knows no eBPF.
//
// What a hit keeps as it was: every general register (also those that a call may clobber), the
// arithmetic flags (all flags inside a function), DF, vector registers and x87 (never touched),
// errno, the red zone. Of the target's own stack a hit uses 56 bytes below rsp at the probed
// instruction, kPlainStackBytes + 24 more for plain programs, 200 more at a thread's first hit and
// where a hit is missed; inside a function these begin below the red zone. The other callbacks run
// on the thread's hit stack of 64 KB, or on the
// alternate signal stack where the hit is in a handler that runs there (else the kernel would begin
// a further handler at its top; with less than 4 KB left there the hit is missed). A hit while
// another runs on the same thread, in a signal handler of the target, is missed: it passes through,
// and is counted in ThreadBlock::missed and HitCounts::missed of each link at the site. So is a
// return that finds no free ReturnEntry.
//
// A site with null `on_entry` and `on_return` passes through at once. When the site table was wiped
// by a fork (its first word is not kTableGuard) bpftime_cold_hit is called before that, and the
// site looked at once more.
//
// Return probes (docs/hooking.md; DESIGN D6): the body is called with rbx naming a ReturnEntry. rbx
// is call-saved in the System V ABI; functions of other conventions (Go) must not get return
// probes. The CFI of the call is understood by libgcc, LLVM's libunwind, glibc's backtrace and gdb;
// nongnu libunwind (libunwind.so.8) takes every CFA for the caller's rsp and cannot walk past it,
// so a process that unwinds with it must not get return probes either.
#pragma once
#include <asm/ptrace.h>

#include "abi/agent.hpp"

#define BPFTIME_HIDDEN __attribute__((visibility("hidden")))

extern "C" {

// Addresses for AgentDescriptor and trampolines; never called from C.
BPFTIME_HIDDEN void bpftime_entry_thunk();
BPFTIME_HIDDEN void bpftime_inside_thunk();
BPFTIME_HIDDEN void bpftime_return_thunk();
BPFTIME_HIDDEN void bpftime_return_point();
// The same where gs is not ours (AgentState::use_gs == 0, or tcb_tid_offset == 0): the block is
// found by hash of the fs base. All trampolines of a process go to one kind or to the other.
BPFTIME_HIDDEN void bpftime_entry_thunk_hashed();
BPFTIME_HIDDEN void bpftime_inside_thunk_hashed();
BPFTIME_HIDDEN void bpftime_return_thunk_hashed();
BPFTIME_HIDDEN void bpftime_return_point_hashed();

// ---- Given by the user of hook (the agent, a test) ----------------------------------------------
// regs: the kernel's user pt_regs. At entry ip = Site::address and sp as at the probed instruction;
// at return ip = the address the function returns to, sp = as after its `ret`, rax and rdx the
// returned value. They must not touch vector registers, errno or TLS. Changes to *regs are ignored,
// but for rax where 1 is returned.

// 0: run the function. 1: do not; return to its caller with rax = regs->rax (at a function's first
// instruction only; else ignored). Runs on the hit stack; may change every register but rsp.
// `list` is site->on_entry (on_return), never null.
BPFTIME_HIDDEN uint64_t bpftime_on_hit(pt_regs* regs, bpftime::Site* site,
                                       bpftime::ThreadBlock* block,
                                       const bpftime::AttachedList* list);
// For a list with kListSimple: rcx = block, rax = list, rdx = site; of block->regs only kPlainEntryWords
// (kPlainReturnWords) are there. Runs on the hit stack, once the thread's hit was set up. eax = 0: done; else bpftime_on_hit follows.
BPFTIME_HIDDEN void bpftime_on_simple_hit();
// The program of a list with kListPlain is called as program(block->regs, block->hit_space), as bpftime_on_simple_hit but on
// the target's stack; where hit_space says that it did not end normally, bpftime_on_hit follows.
// The site table was wiped: this is a forked child's first hit. Runs on the hit stack under the
// guard. Sets that word, or the next hit comes here again.
BPFTIME_HIDDEN void bpftime_cold_hit(pt_regs* regs, bpftime::Site* site,
                                     bpftime::ThreadBlock* block);

}  // extern "C"
