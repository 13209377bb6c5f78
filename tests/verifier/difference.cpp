#include "tests/verifier/difference.hpp"

#include <algorithm>
#include <cctype>
#include <cstdio>

#include "verifier/trace.hpp"

namespace bpftime::testing {
namespace {

// The kernel did not find a number small enough, which is no matter of right or wrong. The last one:
// a byte of a pointer on the stack is read as a number, which both verifiers let pass where the slot
// was empty on the path that they took first.
bool is_about_ranges(const std::string& message) {
  constexpr const char* kParts[] = {"unbounded",
                                    "min value is",
                                    "max value is",
                                    "out of bounds",
                                    "is outside of",
                                    "variable-offset",
                                    "pointer offset",
                                    "invalid read from stack",
                                    "infinite loop",
                                    "invalid write to stack",
                                    "misaligned stack access off (",  // known bits
                                    "invalid size of register fill"};
  return std::any_of(std::begin(kParts), std::end(kParts),
                     [&](const char* part) { return message.find(part) != std::string::npos; });
}

// The instructions on the path at whose end the kernel's log (level 2) stops.
std::vector<uint32_t> last_path(const std::string& log) {
  struct Visit {
    uint32_t insn;
    int parent;
    bool was_resumed;
  };
  std::vector<Visit> visits;
  int at = -1;
  for (size_t begin = 0; begin < log.size();) {
    const size_t end = std::min(log.find('\n', begin), log.size());
    const std::string line = log.substr(begin, end - begin);
    begin = end + 1;
    unsigned from = 0, to = 0;
    char bracket = 0;
    if (std::sscanf(line.c_str(), "from %u to %u", &from, &to) == 2) {
      // The branch that was put aside last.
      at = static_cast<int>(visits.size()) - 1;
      while (at >= 0 && (visits[static_cast<size_t>(at)].insn != from ||
                         visits[static_cast<size_t>(at)].was_resumed)) {
        --at;
      }
      if (at >= 0) {
        visits[static_cast<size_t>(at)].was_resumed = true;
      }
    } else if (std::isdigit(static_cast<unsigned char>(line[0])) != 0 &&
               std::sscanf(line.c_str(), "%u: %c", &from, &bracket) == 2 && bracket == '(') {
      visits.push_back({from, at, false});
      at = static_cast<int>(visits.size()) - 1;
    }
  }
  std::vector<uint32_t> path;
  for (; at >= 0; at = visits[static_cast<size_t>(at)].parent) {
    path.push_back(visits[static_cast<size_t>(at)].insn);
  }
  std::reverse(path.begin(), path.end());
  return path;
}

// Did the verifier, without pruning, never go that way? Then it knows a branch on it not to be taken.
bool is_off_our_paths(const VerifierProgram& subject, const std::string& log) {
  VerifierTrace trace;
  VerifyOptions options;
  options.insn_limit = 200'000;
  options.prune = false;
  options.trace = &trace;
  if (!verify(subject, options).accepted()) {
    return false;
  }
  std::vector<std::vector<uint32_t>> children(trace.nodes.size());
  for (uint32_t i = 1; i < trace.nodes.size(); ++i) {
    if (trace.nodes[i].parent < i) {  // a global function begins without
      children[trace.nodes[i].parent].push_back(i);
    }
  }
  const std::vector<uint32_t> path = last_path(log);
  std::vector<uint32_t> now = {0}, next;
  for (size_t step = 1; step < path.size(); ++step) {
    next.clear();
    for (const uint32_t node : now) {
      if (trace.nodes[node].pruned_into != VerifierTrace::kNone) {
        return false;  // loops end so, even without pruning
      }
      for (const uint32_t child : children[node]) {
        if (trace.nodes[child].insn == path[step]) {
          next.push_back(child);
        }
      }
    }
    if (next.empty()) {
      return true;
    }
    std::swap(now, next);
  }
  return false;
}

}  // namespace

Difference explain(const VerifierProgram& program, const std::string& message,
                   KernelVerifier* kernel) {
  if (message.find("too large") != std::string::npos ||
      message.find("too complex") != std::string::npos) {
    return Difference::kTooLarge;
  }
  if (message.starts_with("verifier bug")) {
    return Difference::kItsFault;
  }
  if (is_about_ranges(message)) {
    return Difference::kRange;
  }
  return is_off_our_paths(program, kernel->ask(program, {.log_level = 2}).log)
             ? Difference::kOffPaths
             : Difference::kUnexplained;
}

}  // namespace bpftime::testing
