// AgentFile: our own copy of the agent's ELF, and what its descriptor (abi/agent.hpp) says as offsets from the image's
// base. Home: broker.
#pragma once
#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "base/result.hpp"

namespace bpftime {

struct AgentFile {
  std::vector<std::byte> bytes;
  uint64_t state, entry_thunk, return_thunk, return_point, inside_thunk, entry_thunk_hashed,
      return_thunk_hashed, inside_thunk_hashed, fault_handler, signal_restorer, on_libraries,
      on_sigaction, run_timed, run_session, run_tail_calls, read_aside, nobody;
  std::unordered_map<uint32_t, uint64_t> helpers;  // id -> offset

  static Result<AgentFile> parse(std::vector<std::byte> bytes);
};

}  // namespace bpftime
