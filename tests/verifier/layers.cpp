#include "tests/verifier/layers.hpp"

#include <algorithm>
#include <cctype>
#include <cstdio>

#include "tests/verifier/difference.hpp"
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
  const Difference difference = explain(subject, message, kernel_.get());
  if (difference == Difference::kUnexplained) {
    return "the kernel rejects: " + message;
  }
  if (difference == Difference::kTooLarge || difference == Difference::kItsFault) {
    ++counts->too_large;
    return "";
  }
  ++(difference == Difference::kRange ? counts->more_precise : counts->off_paths);
  LayerCounts own;
  return embed(seed, &own, kRuns * 16);
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
