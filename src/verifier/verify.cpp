#include "verifier/engine.hpp"

namespace bpftime {

Verdict verify(const VerifierProgram& program, const VerifyOptions& options) {
  return Engine(program, options).run();
}

}  // namespace bpftime
