// What of a program needs code: who reads what is computed, which ways jumps go, which calls are lookups in known arrays.
// Home: pure; the compiler's.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "isa/program.hpp"
#include "jit_x64/compile.hpp"

namespace bpftime {

class Flow {
 public:
  // What the arguments name stays as it is.
  Flow(std::span<const bpf_insn> insns, const CompileOptions& options);

  // False: no run gets there, or nobody reads what it computes, or it is a jump that never jumps.
  [[nodiscard]] bool needs_code(uint32_t i) const { return needless_.empty() || needless_[i] == 0; }
  [[nodiscard]] bool is_reached(uint32_t i) const { return !is_dead(i); }
  // Of conditional jumps.
  [[nodiscard]] bool always_jumps(uint32_t i) const { return ways(i) == kJumps; }
  // The array in which the call at `i` looks; null: it is another call, or is not compiled inline.
  [[nodiscard]] const KnownArray* looked_up(uint32_t i) const;
  // Of such a call: it always looks for the same element, which is there.
  [[nodiscard]] bool has_known_index(uint32_t i) const;
  // Nothing is known: null.
  [[nodiscard]] const OperandFacts* known(uint32_t i) const {
    return operands_.empty() ? nullptr : &operands_[i];
  }
  // Registers that may be read after instruction i. Computed when first asked for.
  [[nodiscard]] uint16_t live_after(uint32_t i);

 private:
  [[nodiscard]] uint8_t ways(uint32_t i) const { return operands_.empty() ? 0 : operands_[i].ways; }
  [[nodiscard]] bool is_dead(uint32_t i) const { return i < dead_.size() && dead_[i]; }
  [[nodiscard]] bool is_without_effect(uint32_t i) const;
  void uses_and_definitions(uint32_t i, uint16_t* uses, uint16_t* defines) const;
  void find_live();
  void find_needless();

  std::span<const bpf_insn> insns_;
  std::span<const OperandFacts> operands_;
  std::span<const KnownArray> arrays_;
  const std::vector<bool>& dead_;
  std::vector<uint16_t> live_;     // read at or after each instruction; empty until needed
  std::vector<uint8_t> needless_;  // empty: every instruction needs code
};

}  // namespace bpftime
