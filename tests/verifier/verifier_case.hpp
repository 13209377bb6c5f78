// A verifier's case: a program, what it runs in, and what becomes of it. The format of the files is
// described in tests/data/verifier/README.md. Home: tests.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "isa/testing/assembler.hpp"
#include "object/object.hpp"

namespace bpftime::testing {

struct VerifierCase {
  std::string title;
  BpfObject object;  // one program
  bool no_pointer_leaks = false;
  bool accept = false;
  std::string reason;  // part of our message, when rejected; may be empty
  // The kernel's verdict where it is not ours, and the row of docs/verifier.md that says why.
  bool kernel_accepts = false;
  std::string policy;  // empty: the same verdict
  [[nodiscard]] const ObjectProgram& program() const { return object.programs[0]; }
};

// Errors: EINVAL; *message says what is wrong.
Result<VerifierCase> read_verifier_case(const Case& text, std::string* message);

}  // namespace bpftime::testing
