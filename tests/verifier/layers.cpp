#include "tests/verifier/layers.hpp"

#include <algorithm>
#include <cctype>
#include <cstdio>

#include "tests/verifier/embedding.hpp"
#include "tests/verifier/machine.hpp"
#include "tests/verifier/stage.hpp"
#include "tests/verifier/thin_run.hpp"

namespace bpftime::testing {
namespace {

constexpr uint32_t kMostSteps = 5000;

ObjectProgram as_object(const RandomProgram& from) {
  ObjectProgram program;
  program.name = "random";
  program.insns = from.insns;
  program.prog_type = from.prog_type;
  return program;
}

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
    children[trace.nodes[i].parent].push_back(i);
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

std::string without_numbers(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c < '0' || c > '9') {
      out += c;
    } else if (out.empty() || out.back() != '#') {
      out += '#';
    }
  }
  return out;
}

}  // namespace

Result<std::unique_ptr<Layers>> Layers::make(bool with_kernel) {
  auto layers = std::make_unique<Layers>();
  layers->stage_ = make_stage();
  layers->input_ =
      std::make_unique<VerifierInput>(TRY(VerifierInput::make(layers->stage_, nullptr)));
  if (with_kernel) {
    layers->kernel_ = std::make_unique<KernelVerifier>(
        TRY(KernelVerifier::make(layers->input_->maps(), layers->input_->btf())));
  }
  return layers;
}

ObjectProgram Layers::embedded_program(uint64_t seed) {
  ObjectProgram program = as_object(program_of(seed));
  const uint64_t of_eight = seed / kFlavours % 8;
  program.prog_flags |= of_eight >= 3 && of_eight <= 5 ? BPF_F_TEST_STATE_FREQ : 0;
  return program;
}

std::string Layers::embed(uint64_t seed, LayerCounts* counts, uint32_t runs) {
  const ObjectProgram program = embedded_program(seed);
  const VerifierProgram subject = *input_->program(program);
  VerifierTrace trace;
  VerifyOptions options;
  options.insn_limit = 20'000;
  options.trace = &trace;
  ++counts->programs;
  const Verdict verdict = verify(subject, options);
  VerifyOptions plain;
  plain.insn_limit = 20'000;
  plain.prune = false;
  if (counts->programs % 4 == 0) {
    const Verdict unpruned = verify(subject, plain);
    if (unpruned.accepted() != verdict.accepted() && !unpruned.too_complex &&
        !verdict.too_complex) {
      if (!verdict.accepted()) {
        return "accepted without pruning, with not: " + verdict.message;
      }
      // A narrower state may be refused where a wider one passes, so this alone is no fault.
      ++counts->refused_unpruned;
      runs *= 16;
    }
  }
  if (!verdict.accepted()) {
    ++counts->reasons[without_numbers(verdict.message)];
    return "";
  }
  ++counts->accepted;
  const FactCheck facts(program.insns, verdict.facts);
  Embedding embedding(trace, facts);
  CompileOptions options_of_facts;
  options_of_facts.operands = verdict.facts.operands;
  options_of_facts.dead = &verdict.facts.dead;
  const Flow flow(program.insns, options_of_facts);
  const uint32_t most_back = verdict.facts.most_back_edges;
  counts->bounded_loops += most_back != 0 && most_back != UINT32_MAX ? 1 : 0;
  for (uint32_t run = 0; run < runs; ++run) {
    Machine machine(program.insns, program.prog_type, seed * 64 + run);
    const std::string misfit = embedding.run(&machine, kMostSteps);
    ++counts->runs;
    if (!misfit.empty()) {
      return misfit;
    }
    if (machine.back_jumps() > most_back) {
      return std::to_string(machine.back_jumps()) + " jumps back, " + std::to_string(most_back) +
             " were the most";
    }
    if (run % 2 == 0) {
      Machine whole(program.insns, program.prog_type, seed * 64 + run);
      Machine thin(program.insns, program.prog_type, seed * 64 + run);
      const std::string other = run_thin(program.insns, flow, &whole, &thin, kMostSteps);
      if (!other.empty()) {
        return other;
      }
    }
    counts->reached_bounds += most_back != 0 && machine.back_jumps() == most_back ? 1 : 0;
  }
  counts->compared += embedding.compared();
  return "";
}

std::string Layers::compare(uint64_t seed, LayerCounts* counts) {
  const ObjectProgram program = as_object(program_of(seed));
  // The kernel may walk through a million instructions of a loop with may_goto: seconds, so seldom.
  const bool has_may_goto = std::any_of(program.insns.begin(), program.insns.end(),
                                        [](const bpf_insn& insn) { return insn.code == 0xe5; });
  if (has_may_goto && seed % 1024 != 3) {
    return "";
  }
  ++counts->programs;
  const VerifierProgram subject = *input_->program(program);
  const Verdict verdict = verify(subject, {});
  const bool kernel = kernel_->ask(subject, {.log_level = 0}).accepted();
  counts->accepted += verdict.accepted() ? 1 : 0;
  counts->kernel_accepted += kernel ? 1 : 0;
  counts->both_accepted += kernel && verdict.accepted() ? 1 : 0;
  counts->both_rejected += !kernel && !verdict.accepted() ? 1 : 0;
  if (kernel && !verdict.accepted()) {
    ++counts->reasons[without_numbers(verdict.message)];
  }
  if (!verdict.accepted() || kernel) {
    return "";
  }
  const std::string message = kernel_->ask(subject).message;
  if (message.find("too large") != std::string::npos ||
      message.find("too complex") != std::string::npos) {
    ++counts->too_large;
    return "";
  }
  if (is_about_ranges(message)) {
    ++counts->more_precise;
    LayerCounts own;
    return embed(seed, &own, kRuns * 16);
  }
  if (is_off_our_paths(subject, kernel_->ask(subject, {.log_level = 2}).log)) {
    ++counts->off_paths;
    LayerCounts own;
    return embed(seed, &own, kRuns * 16);
  }
  return "the kernel rejects: " + message;
}

std::string Layers::show(uint64_t seed, bool prune) {
  const ObjectProgram program = embedded_program(seed);
  const VerifierProgram subject = *input_->program(program);
  VerifyOptions options;
  options.log_level = 2;
  options.prune = prune;
  const Verdict verdict = verify(subject, options);
  std::string text = "seed " + std::to_string(seed) + "\n---- ours: " +
                     (verdict.accepted() ? "accept" : "reject: " + verdict.message) + "\n" +
                     verdict.log;
  if (kernel_ != nullptr) {
    const KernelVerdict theirs = kernel_->ask(subject, {.log_level = 2});
    text +=
        "---- kernel: " + std::string(theirs.accepted() ? "accept" : "reject") + "\n" + theirs.log;
  }
  return text;
}

}  // namespace bpftime::testing
