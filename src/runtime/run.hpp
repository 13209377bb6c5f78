// Runs what is attached at a site for one hit, and ends programs that fault. Home: injected *, on
// any thread of the target, also in signal handlers. Knows no hooking: thunks call it with the
// thread's block, after the recursion guard (thread->depth) is taken. errno, flags and vector
// registers stay as they are: no libc is called.
#pragma once
#include <cstdint>

#include "abi/agent.hpp"

namespace bpftime {

// `list` has an item at least, and every item has counts. `regs` is the thread's own
// (ThreadBlock::regs), always the same for a thread. Passes through when the broker is dead. A
// program that ends otherwise than normally is disarmed (counts->disarmed) and said
// (bpftime_say_disarmed). Returns 0: the probed function runs.
// Not for C++ to call: every register but rsp may have changed when it comes back
// (testing/call_run.hpp has a caller for tests).
uint64_t run_list(void* regs, Site* site, ThreadBlock* thread,
                  const AttachedList* list) __asm__("bpftime_run_list")
    __attribute__((visibility("hidden")));

// The same for a list with kListSimple, with rcx = thread, rax = list, rdx = site, on the hit stack; changes what a
// callee may change. eax = 0, or 1: run_list must be called, since the thread's hit is not set up yet.
void run_simple() __asm__("bpftime_run_simple") __attribute__((visibility("hidden")));

// True while the broker lives and this process's hits may run programs.
inline bool is_armed(const AgentState* state) {
  const AlivePage* const alive = state->alive;
  return alive != nullptr && alive->word.load(std::memory_order_relaxed) == state->alive_expected;
}

// The action for SIGSEGV and SIGBUS (also SIGTRAP, SIGSYS: only the chaining then).
// `info` is siginfo_t*, `ucontext` ucontext_t*, as the kernel gives them. `thread` may be null.
//  - ip in a program's code: continues where the program ends with r0 = 0; hit->ended = kHitFault
//  - ip in a checked copy: continues at its error path
//  - else: does what state->old_actions says, as the kernel would have done without us.
// The handler that is still to run, with the same arguments and the signal mask that is set by now; 0: none. It returns
// to `restorer` (0: to what the frame says): nothing of ours is below it on the stack, since it may run for long, and
// the agent be unmapped meanwhile.
struct NextHandler {
  uint64_t handler, restorer;
};
NextHandler handle_fault(int signo, void* info, void* ucontext, ThreadBlock* thread,
                         AgentState* state);

}  // namespace bpftime

extern "C" __attribute__((visibility("hidden"))) void bpftime_read_aside();  // read_aside.S

// Sinks, resolved at link time: by src/agent in a target, by the test in a test.
extern "C" {
void bpftime_say_disarmed(bpftime::ThreadBlock* thread, bpftime::AgentState* state, uint32_t link,
                          uint32_t why);
}
