// Random programs for the stage, most of which a verifier should accept: structured code whose
// author knows what each register holds, checks bounds before it uses them, and errs now and then.
// Home: tests. Biased to where verifiers have been wrong (docs/verifier.md, "How it is tested"): copies and
// spills of numbers, comparisons of both widths, offsets at the very edge, atomics, loops, calls.
#pragma once
#include <cstdint>
#include <vector>

#include "isa/opcode.hpp"

namespace bpftime::testing {

enum class Flavour : uint8_t {
  kNumbers,   // arithmetic, comparisons, bounded accesses of one map value
  kPointers,  // and stack, spills, lookups, atomics
  kHeld,      // and ring buffer records
  kControl,   // and loops, may_goto, local functions
  kPackets,   // XDP
};
inline constexpr uint32_t kFlavours = 5;

struct RandomProgram {
  std::vector<bpf_insn> insns;
  uint32_t prog_type = 0;
};
// The same seed makes the same program.
RandomProgram make_program(uint64_t seed, Flavour flavour);

}  // namespace bpftime::testing
