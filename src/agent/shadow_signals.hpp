// What the target's sigaction() finds while the agent owns a signal (DESIGN D10): its own action,
// as if we were not there. Home: injected, on any thread of the target at the first instruction of
// libc's sigaction.
#pragma once
#include <asm/ptrace.h>

#include "abi/agent.hpp"

namespace bpftime {

// True when the call is answered: regs->rax holds the result, and old_actions what the target wants
// from now on. False: libc's function is to run (another signal, another process's copy, addresses
// that it shall fault on itself).
bool answer_sigaction(pt_regs* regs, ThreadBlock* thread, AgentState* state);

}  // namespace bpftime
