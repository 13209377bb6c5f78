#include "broker/arena_reader.hpp"

#include <cerrno>

#include "broker/arena.hpp"

namespace bpftime {

Result<void> read_state(StoppedProcess& process, uint64_t arena, AgentState* state) {
  TRY(process.read(RemoteAddr{arena}, {reinterpret_cast<std::byte*>(state), sizeof(AgentState)}));
  if (state->magic != kAgentMagic || state->version != kAgentVersion ||
      state->arena_bytes != kArenaBytes) {
    return make_error(EPROTO, "the arena is of another version");
  }
  return {};
}

Result<std::vector<MappedRange>> our_ranges(StoppedProcess& process, uint64_t arena,
                                            const AgentState& state) {
  auto ranges = TRY(read_array<MappedRange>(process, arena + kMappingsOffset,
                                            state.mapping_count.load(), kMaxMappings));
  ranges.push_back({state.agent_base, state.agent_bytes});
  return ranges;
}

Result<std::vector<BlockHead>> thread_blocks(StoppedProcess& process, const AgentState& state) {
  std::vector<BlockHead> blocks;
  uint64_t at = address(state.blocks.load());
  while (at != 0 && blocks.size() < 65536) {
    alignas(ThreadBlock) std::byte raw_block[sizeof(ThreadBlock)];
    TRY(process.read(RemoteAddr{at}, raw_block));
    const auto* block = reinterpret_cast<const ThreadBlock*>(raw_block);
    blocks.push_back({at, block->guard, block->hits, block->tid, block->block_bytes});
    at = address(block->next_block);
  }
  return blocks;
}

Result<std::vector<ReturnEntry>> open_entries(StoppedProcess& process, const AgentState& state,
                                              const BlockHead& block) {
  const auto at =
      TRY(process.read_value<uint64_t>(RemoteAddr{block.at + offsetof(ThreadBlock, entries)}));
  auto entries = TRY(read_array<ReturnEntry>(process, at, kReturnEntries, kReturnEntries));
  std::erase_if(entries, [&](const ReturnEntry& e) {
    const auto word = e.slot != 0 ? process.read_value<uint64_t>(RemoteAddr{e.slot})
                                  : Result<uint64_t>(uint64_t{0});
    return !word || *word < state.agent_base || *word >= state.agent_base + state.agent_bytes;
  });
  return entries;
}

}  // namespace bpftime
