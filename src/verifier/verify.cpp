#include <cerrno>

#include "isa/program.hpp"
#include "verifier/verifier.hpp"

namespace bpftime {

Verdict verify(const VerifierProgram& program, const VerifyOptions& options) {
  Verdict verdict;
  DecodeProblem problem;
  auto decoded = decode(program.insns, &problem);
  if (!decoded) {
    verdict.error = decoded.error().code;
    verdict.insn = problem.insn;
    verdict.message = problem.why;
  } else {
    verdict.error = EACCES;
    verdict.message = "no program is known to be safe yet";
  }
  if (options.log_level != 0) {
    verdict.log = verdict.message +
                  "\nprocessed 0 insns (limit 1000000) max_states_per_insn 0 total_states 0 "
                  "peak_states 0 mark_read 0\n";
  }
  return verdict;
}

}  // namespace bpftime
