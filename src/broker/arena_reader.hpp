// Reads what an agent's arena says of itself. Home: broker. HOSTILE: it is the target's memory; counts are bounded
// here, addresses are only read from.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "abi/agent.hpp"
#include "base/result.hpp"
#include "inject/stopped_process.hpp"

namespace bpftime {

template <class T>
std::span<std::byte> bytes_of(std::vector<T>* v) {
  return std::as_writable_bytes(std::span(*v));
}
inline uint64_t address(const void* p) { return reinterpret_cast<uint64_t>(p); }

// EPROTO: not an arena of this version.
Result<void> read_state(StoppedProcess& process, uint64_t arena, AgentState* state);

template <class T>
Result<std::vector<T>> read_array(StoppedProcess& process, uint64_t at, uint64_t count,
                                  uint64_t most) {
  std::vector<T> items(std::min(count, most));
  if (!items.empty()) {
    TRY(process.read(RemoteAddr{at}, bytes_of(&items)));
  }
  return items;
}

// The image, and what was mapped beside it.
Result<std::vector<MappedRange>> our_ranges(StoppedProcess& process, uint64_t arena,
                                            const AgentState& state);

// The fields of a thread block that we need; the rest of it is not read.
struct BlockHead {
  uint64_t at, guard, hits;
  uint32_t tid, block_bytes;
};
Result<std::vector<BlockHead>> thread_blocks(StoppedProcess& process, const AgentState& state);

// Its return probes that are open: what returns there still leads to the agent.
Result<std::vector<ReturnEntry>> open_entries(StoppedProcess& process, const AgentState& state,
                                              const BlockHead& block);

}  // namespace bpftime
