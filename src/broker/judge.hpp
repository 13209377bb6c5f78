// What happens to a program between PROG_LOAD and its code: it is judged, calls in its dead code are
// cut out, it is compiled. Home: broker; pure but for the clock. In life a worker process does it.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "abi/messages.hpp"
#include "base/result.hpp"
#include "isa/program.hpp"
#include "verifier/verifier.hpp"
#include "vm/program.hpp"

namespace bpftime {

// Map loads hold a MapId. What the pointers and spans name outlives the task.
struct ProgramTask {
  DecodedProgram program;
  uint32_t prog_type = 0, expected_attach_type = 0, prog_flags = 0;
  std::vector<VerifierMap> maps;
  std::vector<std::vector<std::byte>> contents;  // of frozen maps: what `constants` name
  const Btf* btf = nullptr;
  const Btf* kernel_btf = nullptr;  // what its calls of kernel functions name; null: it has none
  std::vector<std::byte> func_info, line_info;  // bpf_func_info, bpf_line_info
  uint32_t log_level = 0;
  uint64_t log_bytes = 0;
  bool let_through = false;  // --unverified: what is refused loads all the same
  VerifierChoice verifier = VerifierChoice::kOurs;
};

// The task as a verifier wants it. Points into the task, which outlives it.
struct JudgedProgram {
  explicit JudgedProgram(const ProgramTask& task);
  JudgedProgram(const JudgedProgram&) = delete;
  JudgedProgram& operator=(const JudgedProgram&) = delete;
  std::vector<BtfFuncInfo> functions;
  std::vector<BtfLineInfo> lines;
  VerifierProgram program;
};

struct Judgement {
  int32_t error = 0;  // 0 = accepted
  bool too_complex = false;
  uint64_t insns_processed = 0;
  std::string log;
  // ProgramFacts of a program that ours accepts.
  uint32_t stack_bytes = 0;               // 0: not known
  uint32_t most_back_edges = UINT32_MAX;  // UINT32_MAX: not known
  uint32_t context_use = kContextEscapes;
  std::vector<bool> dead;
  std::vector<OperandFacts> operands;  // empty: not known
};

// Our verifier's word. `seconds`: more is too complex.
Judgement judge(const ProgramTask& task, uint32_t seconds, uint32_t log_level);

// Calls that no path reaches may have any number (libbpf leaves such where it cut something out):
// they become `r0 = 0`. Errors: EINVAL: a helper that we do not have, where a path reaches it; *log
// gets what the kernel's would say.
// Calls of kernel functions that we have become calls of helpers.
Result<void> settle_calls(const std::vector<bool>& dead, uint32_t prog_type, const Btf* kernel_btf,
                          DecodedProgram* program, std::string* log);

bool calls_kernel_functions(const DecodedProgram& program);

}  // namespace bpftime
