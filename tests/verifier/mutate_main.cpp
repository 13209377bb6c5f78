// Real programs with a mistake or two put in, judged by us and by the running kernel: what we accept, it must accept.
// Usage: verifier_mutate [--each N] [--seed S] [--reasons] [--logs] FILE...   (BPF objects; as root)
// N mutants (50) of every program that both accept as it is. A mistake keeps the program's layout, so that types of
// functions and lines stay where they are: another register, number, offset, width, operator or called function; one
// instruction less, two changed places. Prints what only we accept, and counts. Exit status 1: something of that is
// unexplained (difference.hpp); 77: there is no kernel to ask.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <random>

#include "isa/opcode.hpp"
#include "isa/program.hpp"
#include "object/verifier_input.hpp"
#include "tests/verifier/difference.hpp"

namespace bpftime::testing {
namespace {

constexpr int kSkipped = 77;
constexpr uint64_t kMostProcessed = 3000;  // larger programs take too long

struct Counts {
  uint64_t mutants = 0, both_accept = 0, both_reject = 0, only_kernel = 0, explained = 0,
           unexplained = 0;
  std::map<std::string, uint64_t> only_kernel_reasons;
};

class Mutator {
 public:
  explicit Mutator(uint64_t seed) : random_(seed) {}

  std::vector<bpf_insn> mutant_of(std::vector<bpf_insn> insns) {
    const uint32_t mistakes = 1 + below(2);
    for (uint32_t i = 0; i < mistakes; ++i) {
      put_in(&insns);
    }
    return insns;
  }

 private:
  uint32_t below(size_t n) { return static_cast<uint32_t>(random_() % n); }
  static bool is_first_half(const bpf_insn& insn) { return insn.code == kOpLddw; }
  static bool is_second_half(const bpf_insn& insn) { return insn.code == 0; }

  // An instruction of one word.
  uint32_t pick(const std::vector<bpf_insn>& insns) {
    for (;;) {
      const uint32_t at = below(insns.size());
      if (!is_second_half(insns[at])) {
        return at;
      }
    }
  }

  void put_in(std::vector<bpf_insn>* insns) {
    const uint32_t at = pick(*insns);
    bpf_insn& insn = (*insns)[at];
    if (is_first_half(insn)) {
      insn.dst_reg = below(10) & 0xf;
      return;
    }
    switch (below(8)) {
      case 0:
        insn.dst_reg = below(11) & 0xf;
        return;
      case 1:
        change_source(*insns, &insn);
        return;
      case 2:
        insn.imm = number_near(insn.imm);
        return;
      case 3:
        insn.off = static_cast<int16_t>(number_near(insn.off));
        return;
      case 4:
        insn = bpf_insn{BPF_JMP | BPF_JA, 0, 0, 0, 0};
        return;
      case 5:
        change_code(&insn);
        return;
      case 6: {
        const uint32_t other = pick(*insns);
        if (!is_first_half((*insns)[other])) {
          std::swap(insn, (*insns)[other]);
        }
        return;
      }
      default: {
        const uint32_t other = pick(*insns);
        if (!is_first_half((*insns)[other])) {
          insn = (*insns)[other];
        }
        return;
      }
    }
  }

  int32_t number_near(int32_t number) {
    constexpr int32_t kSteps[] = {1, -1, 2, 4, -4, 8, -8, 16};
    return below(6) == 0 ? static_cast<int32_t>(below(64)) - 16
                         : static_cast<int32_t>(static_cast<uint32_t>(number) +
                                                static_cast<uint32_t>(kSteps[below(8)]));
  }

  // Of a call: what another one calls.
  void change_source(const std::vector<bpf_insn>& insns, bpf_insn* insn) {
    if (insn->code != kOpCall) {
      insn->src_reg = below(11) & 0xf;
      return;
    }
    for (uint32_t tries = 0; tries < 30; ++tries) {
      const bpf_insn& other = insns[pick(insns)];
      if (other.code == kOpCall && other.src_reg == insn->src_reg && other.imm != insn->imm &&
          other.src_reg != kCallLocal) {
        insn->imm = other.imm;
        insn->off = other.off;
        return;
      }
    }
  }

  void change_code(bpf_insn* insn) {
    const uint8_t group = insn_class(insn->code);
    if (group == BPF_LDX || group == BPF_ST || group == BPF_STX) {
      insn->code = static_cast<uint8_t>((insn->code & ~0x18U) | below(4) << 3);
    } else if (insn->code != kOpCall && insn->code != kOpExit) {
      insn->code = static_cast<uint8_t>((insn->code & 0x0fU) | below(14) << 4);
    }
  }

  std::mt19937_64 random_;
};

std::string without_numbers(std::string text) {
  std::replace_if(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; }, '#');
  return text;
}

void show(const char* file, const ObjectProgram& original, const ObjectProgram& mutant,
          const std::string& message) {
  std::printf("%s %s: only we accept; the kernel: %s\n", file, original.name.c_str(),
              message.c_str());
  for (uint32_t i = 0; i < mutant.insns.size(); ++i) {
    const bpf_insn& was = original.insns[i];
    const bpf_insn& is = mutant.insns[i];
    if (std::memcmp(&was, &is, sizeof(is)) != 0) {
      std::printf("  %s\n  -> %s\n", print(was, nullptr, i).c_str(), print(is, nullptr, i).c_str());
    }
  }
}

struct Settings {
  uint32_t each = 50;
  uint64_t seed = 1;
  bool show_reasons = false, show_logs = false;
};

void show_logs(const VerifierProgram& program, KernelVerifier* kernel) {
  VerifyOptions options;
  options.log_level = 2;
  std::printf("---- ours\n%s---- kernel\n%s", verify(program, options).log.c_str(),
              kernel->ask(program, {.log_level = 2}).log.c_str());
}

void judge_mutant(const char* file, const ObjectProgram& original, const ObjectProgram& mutant,
                  VerifierInput* input, KernelVerifier* kernel, const Settings& settings,
                  Counts* counts) {
  const auto subject = input->program(mutant);
  if (!subject) {
    return;
  }
  VerifyOptions options;
  options.insn_limit = 200'000;
  const Verdict ours = verify(*subject, options);
  if (ours.too_complex) {
    return;
  }
  const bool is_asked = ours.accepted() || counts->mutants % 4 == 0;
  ++counts->mutants;
  if (!is_asked) {
    return;
  }
  const KernelVerdict theirs = kernel->ask(*subject);
  if (theirs.accepted()) {
    ++(ours.accepted() ? counts->both_accept : counts->only_kernel);
    if (!ours.accepted()) {
      ++counts->only_kernel_reasons[without_numbers(ours.message)];
    }
  } else if (!ours.accepted()) {
    ++counts->both_reject;
  } else if (theirs.was_verified) {
    const bool is_explained = explain(*subject, theirs.message, kernel) != Difference::kUnexplained;
    ++(is_explained ? counts->explained : counts->unexplained);
    if (!is_explained) {
      show(file, original, mutant, theirs.message);
      if (settings.show_logs) {
        show_logs(*subject, kernel);
      }
    }
  }
}

void judge_object(const char* file, const BpfObject& object, const Btf* kernel_btf,
                  const Settings& settings, Counts* counts) {
  auto input = VerifierInput::make(object, kernel_btf);
  auto kernel = input ? KernelVerifier::make(input->maps(), input->btf())
                      : Result<KernelVerifier>(make_error(EINVAL, "no input"));
  if (!kernel) {
    return;
  }
  for (const ObjectProgram& program : object.programs) {
    if (!program.problem.empty()) {
      continue;
    }
    const auto subject = input->program(program);
    if (!subject) {
      continue;
    }
    const Verdict ours = verify(*subject, {});
    if (!ours.accepted() || ours.insns_processed > kMostProcessed ||
        !kernel->ask(*subject, {.log_level = 0}).accepted()) {
      continue;
    }
    Mutator mutator(settings.seed * 0x9e37'79b9ULL + std::hash<std::string>{}(program.name));
    ObjectProgram mutant = program;
    for (uint32_t i = 0; i < settings.each; ++i) {
      mutant.insns = mutator.mutant_of(program.insns);
      judge_mutant(file, program, mutant, &*input, &*kernel, settings, counts);
    }
  }
}

int run(int argc, char** argv) {
  Settings settings;
  Counts counts;
  if (!KernelVerifier::available()) {
    std::fputs("verifier_mutate: the running kernel cannot be asked\n", stderr);
    return kSkipped;
  }
  const auto kernel_btf = read_kernel_btf();
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (word == "--each" && i + 1 < argc) {
      settings.each = static_cast<uint32_t>(std::atoi(argv[++i]));
      continue;
    }
    if (word == "--seed" && i + 1 < argc) {
      settings.seed = std::strtoull(argv[++i], nullptr, 10);
      continue;
    }
    if (word == "--reasons") {
      settings.show_reasons = true;
      continue;
    }
    if (word == "--logs") {
      settings.show_logs = true;
      continue;
    }
    std::ifstream file(argv[i], std::ios::binary);
    const std::string data{std::istreambuf_iterator<char>(file), {}};
    std::string log;
    if (const auto object = read_object(std::as_bytes(std::span(data)), &log)) {
      judge_object(argv[i], *object, kernel_btf ? &kernel_btf.value() : nullptr, settings, &counts);
    }
  }
  std::printf(
      "%lu mutants: %lu accepted by both, %lu rejected by both of those asked, %lu by us alone, "
      "accepted by us alone: %lu explained, %lu not\n",
      counts.mutants, counts.both_accept, counts.both_reject, counts.only_kernel, counts.explained,
      counts.unexplained);
  if (settings.show_reasons) {
    for (const auto& [reason, count] : counts.only_kernel_reasons) {
      std::printf("%8lu %s\n", count, reason.c_str());
    }
  }
  return counts.unexplained == 0 ? 0 : 1;
}

}  // namespace
}  // namespace bpftime::testing

int main(int argc, char** argv) { return bpftime::testing::run(argc, argv); }
