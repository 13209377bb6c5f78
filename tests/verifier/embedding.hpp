// State embedding: every state of a concrete run lies in a state that the verifier saw on the way.
// Home: tests. The idea is that of Sun and Su, "Validating the eBPF Verifier via State Embedding",
// OSDI 2024. What compilers rely on is compared too.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "tests/verifier/fact_check.hpp"
#include "tests/verifier/machine.hpp"
#include "verifier/trace.hpp"

namespace bpftime::testing {

class Embedding {
 public:
  Embedding(const VerifierTrace& trace, const FactCheck& facts);

  // Runs the program once. Empty: the run fits; else what does not, and where.
  std::string run(Machine* machine, uint32_t most_steps);
  // States that were compared so far.
  [[nodiscard]] uint64_t compared() const { return compared_; }

 private:
  // What is compared: everything; after a pruned path only what pruning has to look at: the slots
  // that some path from there reads, numbers that are marked, and what is no number.
  enum class Care : uint8_t { kAll, kPruned };
  struct Place {
    uint32_t node;
    Care care;
    friend bool operator==(const Place&, const Place&) = default;
  };
  void find_live_slots();
  void follow(uint32_t node, Care care, const Machine& machine, std::vector<Place>* to);
  bool fits(const VerifierTrace::Node& node, Care care, const Machine& machine);
  bool fits(const Reg& reg, uint64_t value, bool numbers_count, const Machine& machine) const;

  const VerifierTrace& trace_;
  const FactCheck& facts_;
  std::vector<std::vector<uint32_t>> children_;
  std::vector<std::array<uint64_t, 8>> live_slots_;  // by node and frame
  uint64_t compared_ = 0;
  bool was_cut_ = false;  // a path was pruned into a state that was not noted
  std::string misfit_;    // what did not fit last
};

}  // namespace bpftime::testing
