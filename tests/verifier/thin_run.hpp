// A run that leaves out what the compiler writes no code for (jit_x64/flow.hpp): it has to end as the whole one does.
// Home: tests.
#pragma once
#include <string>

#include "jit_x64/flow.hpp"
#include "tests/verifier/machine.hpp"

namespace bpftime::testing {

// Empty: both ended with the same result and the same map values, or neither within `most_steps`. The machines are equal
// and at the start. What is left out gets a number of no meaning instead.
std::string run_thin(std::span<const bpf_insn> insns, const Flow& flow, Machine* whole,
                     Machine* thin, uint32_t most_steps);

}  // namespace bpftime::testing
