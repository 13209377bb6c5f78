// AgentFile: our own copy of the agent's ELF, and what its descriptor (abi/agent.hpp) says as offsets from the image's
// base. Home: broker.
#pragma once
#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "base/result.hpp"

namespace bpftime {

// Places where the agent itself listens.
enum class InternalProbe : uint8_t {
  kNone,
  kLibraries,  // ld.so's _dl_debug_state: a library came
  kSigaction,  // libc's sigaction: answered from the shadow table (DESIGN D10)
  kExec,       // libc's execve: the broker follows
};

struct AgentFile {
  std::vector<std::byte> bytes;
  uint64_t state, entry_thunk, return_thunk, return_point, inside_thunk, entry_thunk_hashed,
      return_thunk_hashed, inside_thunk_hashed, fault_handler, signal_restorer, on_libraries,
      on_sigaction, on_exec, run_timed, run_session, run_tail_calls, read_aside, nobody;
  std::unordered_map<uint32_t, uint64_t> helpers;  // id -> offset

  // What runs there.
  [[nodiscard]] uint64_t program_at(InternalProbe internal) const {
    switch (internal) {
      case InternalProbe::kLibraries:
        return on_libraries;
      case InternalProbe::kSigaction:
        return on_sigaction;
      default:
        return on_exec;
    }
  }
  static Result<AgentFile> parse(std::vector<std::byte> bytes);
};

}  // namespace bpftime
