// A signal frame made by hand, for a thread that is to go back with rt_sigreturn(2) to where it was: registers, vector state,
// signal mask. Home: edge, this room; pure.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "inject/stopped_process.hpp"

namespace bpftime {

inline constexpr uint64_t kSignalFrameBytes = 8 + 40 + 256 + 8;

// `from` as ptrace gives it, in the system call `interrupted` perhaps, which is done again; xstate_at: where the vector
// state will lie, 0: none. The first 8 bytes are `caller`, who is to call rt_sigreturn; it looks 8 below its stack pointer.
std::vector<std::byte> signal_frame(const Registers& from, long interrupted, uint64_t mask,
                                    uint64_t xstate_at, uint64_t caller = 0);
// The vector state as a frame has it, from what PTRACE_GETREGSET gives.
std::vector<std::byte> signal_frame_xstate(std::vector<std::byte> xstate);

}  // namespace bpftime
