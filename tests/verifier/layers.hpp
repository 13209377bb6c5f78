// The two checks that random programs serve for (docs/verifier.md, "How it is tested"). Home: tests.
#pragma once
#include <map>
#include <memory>
#include <string>

#include "kernel/kernel_verifier.hpp"
#include "object/verifier_input.hpp"
#include "tests/verifier/program_maker.hpp"

namespace bpftime::testing {

struct LayerCounts {
  uint64_t programs = 0, accepted = 0, runs = 0, compared = 0;
  uint64_t kernel_accepted = 0, both_accepted = 0, both_rejected = 0;
  uint64_t refused_unpruned = 0;  // accepted with pruning, refused without
  uint64_t bounded_loops =
      0;  // programs that go back, no more often than a number that the verifier told
  uint64_t reached_bounds = 0;                              // runs that went back just as often
  uint64_t too_large = 0, more_precise = 0, off_paths = 0;  // differences on the policy list
  std::map<std::string, uint64_t>
      reasons;  // embed: of all rejections; compare: of those that the kernel does not share
};

class Layers {
 public:
  static constexpr uint32_t kRuns = 4;  // of an accepted program, each with other inputs

  // Errors: when `with_kernel`, what the kernel says to the stage.
  static Result<std::unique_ptr<Layers>> make(bool with_kernel);

  // Layer B: what the verifier accepts runs inside of what it saw, a few times with other inputs;
  // and what is accepted without pruning is so with it. Empty: so it is. Else what is wrong.
  std::string embed(uint64_t seed, LayerCounts* counts, uint32_t runs = kRuns);
  // Layer C: the kernel accepts what we accept, but for three rows of docs/verifier.md's policy
  // list: it gave up for the program's size; it did not know a range as well, where layer B is the
  // judge; what it rejects lies on a path that we know nobody takes. Empty: so it is.
  std::string compare(uint64_t seed, LayerCounts* counts);
  // The program of a seed with both logs: for whoever looks into it.
  std::string show(uint64_t seed, bool prune = true);

  static RandomProgram program_of(uint64_t seed) {
    return make_program(seed, static_cast<Flavour>(seed % kFlavours));
  }

 private:
  // Of three in eight a state is stored wherever paths may meet, so that more is pruned.
  static ObjectProgram embedded_program(uint64_t seed);

  BpfObject stage_;
  std::unique_ptr<VerifierInput> input_;
  std::unique_ptr<KernelVerifier> kernel_;
};

}  // namespace bpftime::testing
