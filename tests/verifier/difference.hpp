// Why the running kernel rejects what we accept, where that is known to be no fault of ours. Home: tests.
#pragma once
#include "kernel/kernel_verifier.hpp"

namespace bpftime::testing {

enum class Difference : uint8_t {
  kUnexplained,
  kTooLarge,  // it gave up for the program's size
  kItsFault,  // it found that it had lost itself ("verifier bug")
  kRange,     // it knew a range less well; what runs do has to show that we are right
  kOffPaths,  // what it rejects lies where our verifier, without pruning, never goes; the same
};

// `message`: the kernel's. May ask both verifiers again.
Difference explain(const VerifierProgram& program, const std::string& message,
                   KernelVerifier* kernel);

}  // namespace bpftime::testing
