// What the verifier saw on the way: the tree of its states. Home: pure; tests only. A concrete run
// of an accepted program must fit it: begin at node 0; after each instruction go on to a child whose
// instruction is the next one and whose state contains the machine's; at a node with `pruned_into`
// go on at that node instead, where only precise numbers and what is no number must fit.
#pragma once
#include <array>
#include <cstdint>
#include <vector>

#include "verifier/state.hpp"

namespace bpftime {

class VerifierTrace {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;
  struct Node {
    uint32_t parent, insn;
    uint32_t pruned_into = kNone;
    bool is_stored = false;     // its `precise` marks are final
    std::vector<Frame> frames;  // before the instruction; Reg::precise only where is_stored
    // Stack slots, by frame, that the instruction read, or surely wrote whole.
    std::array<uint64_t, 8> reads{}, writes{};
  };
  std::vector<Node> nodes;

  // For the engine.
  void before(State* state) {
    const auto index = static_cast<uint32_t>(nodes.size());
    nodes.push_back({state->trace_node, state->insn, kNone, false, state->frames, {}, {}});
    state->trace_node = index;
    if (state->steps.size() == 1 && state->parent != nullptr &&
        state->parent->insn == state->insn) {
      state->parent->trace_own = index;
    }
  }
  void pruned(const State& state, const State& older) {
    nodes.push_back({state.trace_node, state.insn, older.trace_own, false, state.frames, {}, {}});
  }
  void touched(const State& state, uint8_t frame, int slot, bool is_write) {
    Node& node = nodes[state.trace_node];
    (is_write ? node.writes : node.reads)[frame] |= 1ULL << slot;
  }
  void keep_marks(const State& stored) {
    if (stored.trace_own == kNone || stored.frames.empty()) {
      return;
    }
    Node& node = nodes[stored.trace_own];
    node.is_stored = true;
    node.frames = stored.frames;
  }
};

}  // namespace bpftime
