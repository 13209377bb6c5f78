// The six things an agent says (abi/agent.hpp: AgentSays). Home: injected, inside a target, on any thread, also
// in signal handlers. Raw system calls only; nothing here waits except where it says so.
#pragma once
#include <cstddef>
#include <cstdint>

#include "abi/agent.hpp"

namespace bpftime {

// False when the channel's number names something else by now (the target closed it), so that nothing of ours is
// ever written into a file of the target's.
bool channel_is_ours(const AgentState* state);

// A trace_printk line; dropped when the queue is full.
void say_printk(const AgentState* state, uint32_t tid, const char* text, size_t bytes);
// Link `link` ended by `why` and will not run again in this process.
void say_disarmed(const AgentState* state, uint32_t link, uint32_t why);
// Readers of map `map` wait on a descriptor. False when the channel is full or not ours: nobody has heard.
bool say_wake(const AgentState* state, uint32_t tid, uint32_t map);
// The link map has changed: waits at most kAgentWaitMs until the broker has looked.
void say_libraries_and_wait(AgentState* state);
// Returns when the broker has seen to it that the next program is a target, or need not be. `path`: an address.
void say_exec_and_wait(AgentState* state, uint64_t path);
// In a forked child, once: a channel of its own is offered over the inherited one; waits at most kAgentWaitMs. When
// it returns, the broker has either made this process a target (table and state are its own) or declined.
void say_forked_and_wait(AgentState* state);

}  // namespace bpftime
