#include "broker/judge.hpp"

#include <time.h>

#include <cerrno>

#include "broker/program_check.hpp"
#include "isa/opcode.hpp"
#include "spec/spec.hpp"

namespace bpftime {
namespace {

constexpr uint64_t kStateBytes = 400ULL << 20;

uint64_t now_ns() {
  timespec t{};
  ::clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(t.tv_nsec);
}

uint32_t context_use(const ProgramFacts& facts) {
  const bool is_known = !facts.reads_unknown_context && !facts.passes_context &&
                        !facts.writes_context && facts.context_words < kContextEscapes;
  return is_known ? static_cast<uint32_t>(facts.context_words) : kContextEscapes;
}

bool has_helper(uint32_t id) { return find_helper(id) != nullptr; }

}  // namespace

JudgedProgram::JudgedProgram(const ProgramTask& task) {
  program.insns = task.program.insns;
  program.prog_type = task.prog_type;
  program.expected_attach_type = task.expected_attach_type;
  program.prog_flags = task.prog_flags;
  program.maps = task.maps;
  program.btf = task.btf;
  program.kernel_btf = task.kernel_btf;
  if (task.btf != nullptr) {
    const auto count = static_cast<uint32_t>(task.program.insns.size());
    auto read = read_func_info(*task.btf, task.func_info, sizeof(bpf_func_info), count);
    if (read) {
      functions = std::move(read).value();
    }
    auto read_lines = read_line_info(*task.btf, task.line_info, sizeof(bpf_line_info), count);
    if (read_lines) {
      lines = std::move(read_lines).value();
    }
  }
  program.functions = functions;
  program.lines = lines;
}

Judgement judge(const ProgramTask& task, uint32_t seconds, uint32_t log_level) {
  const JudgedProgram judged(task);
  VerifyOptions options;
  options.log_level = log_level;
  options.log_bytes = task.log_bytes;
  options.memory_bytes = kStateBytes;
  options.has_helper = has_helper;
  const uint64_t end = now_ns() + uint64_t{seconds} * 1'000'000'000;
  options.should_stop = [end] { return now_ns() > end; };
  Verdict verdict = verify(judged.program, options);
  Judgement judgement;
  judgement.error = verdict.error;
  judgement.too_complex = verdict.too_complex;
  judgement.insns_processed = verdict.insns_processed;
  judgement.log = std::move(verdict.log);
  if (verdict.accepted()) {
    judgement.stack_bytes = std::max(verdict.facts.stack_bytes, 1U);
    judgement.most_back_edges = verdict.facts.most_back_edges;
    judgement.context_use = context_use(verdict.facts);
    judgement.dead = std::move(verdict.facts.dead);
    judgement.operands = std::move(verdict.facts.operands);
  } else {
    judgement.dead = reachable(task.program);
    judgement.dead.flip();
  }
  return judgement;
}

namespace {

// Null: it names nothing that we have.
const HelperSpec* kfunc_of(const bpf_insn& insn, const Btf* kernel_btf) {
  if (kernel_btf == nullptr || insn.off != 0) {
    return nullptr;
  }
  const auto type = kernel_btf->type(static_cast<uint32_t>(insn.imm));
  return type && type->kind == BtfKind::kFunc ? find_kfunc(type->name.data(), type->name.size())
                                              : nullptr;
}

}  // namespace

bool calls_kernel_functions(const DecodedProgram& program) {
  for (uint32_t i = 0; i < program.insns.size(); i++) {
    const bpf_insn& insn = program.insns[i];
    if (insn.code == kOpCall && insn.src_reg == kCallKfunc) {
      return true;
    }
    i += insn.code == kOpLddw ? 1 : 0;
  }
  return false;
}

Result<void> settle_calls(const std::vector<bool>& dead, uint32_t prog_type, const Btf* kernel_btf,
                          DecodedProgram* program, std::string* log) {
  for (uint32_t i = 0; i < program->insns.size(); i++) {
    bpf_insn& insn = program->insns[i];
    if (insn.code == kOpLddw) {
      i++;
      continue;
    }
    if (insn.code != kOpCall || insn.src_reg == kCallLocal) {
      continue;
    }
    const bool is_kfunc = insn.src_reg == kCallKfunc;
    const HelperSpec* helper =
        is_kfunc ? kfunc_of(insn, kernel_btf) : find_helper(static_cast<uint32_t>(insn.imm));
    if (helper != nullptr && !is_kfunc && helper->id >= kKfuncSessionIsReturn) {
      helper = nullptr;
    }
    if (helper != nullptr && (helper->program_types & program_type_bit(prog_type)) != 0) {
      if (helper->id == kHelperTailCall && function_of(*program, i) != 0) {
        *log += "tail_call is not supported in functions\n";
        return make_error(EINVAL, "tail call in a function");
      }
      if (is_kfunc) {
        insn.src_reg = kCallHelper;
        insn.imm = static_cast<int32_t>(helper->id);
      }
      continue;
    }
    if (i < dead.size() && dead[i]) {
      insn = bpf_insn{BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0};
      continue;
    }
    // The words tools look for.
    *log += print(insn, nullptr, i) + "\n";
    *log += helper == nullptr ? "invalid func unknown#" + std::to_string(insn.imm)
                              : std::string("program of this type cannot use helper ") +
                                    helper->name + "#" + std::to_string(insn.imm);
    *log += "\n";
    return make_error(EINVAL, "unknown helper");
  }
  return {};
}

}  // namespace bpftime
