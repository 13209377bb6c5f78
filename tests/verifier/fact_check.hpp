// What compilers rely on, against a run. Home: tests.
#pragma once
#include <span>
#include <string>

#include "tests/verifier/machine.hpp"
#include "verifier/verifier.hpp"

namespace bpftime::testing {

class FactCheck {
 public:
  FactCheck(std::span<const bpf_insn> insns, const ProgramFacts& facts)
      : insns_(insns), facts_(facts) {}

  // Of the instruction that the machine runs next. Empty: all holds.
  [[nodiscard]] std::string before(const Machine& machine) const;
  // Of the instruction at `at`, that it has run.
  [[nodiscard]] std::string after(uint32_t at, const Machine& machine) const;

 private:
  [[nodiscard]] std::string access(const bpf_insn& insn, const OperandFacts& known,
                                   const Machine& machine) const;
  [[nodiscard]] std::string call(const bpf_insn& insn, const OperandFacts& known,
                                 const Machine& machine) const;

  std::span<const bpf_insn> insns_;
  const ProgramFacts& facts_;
};

}  // namespace bpftime::testing
