// The verifier: may this program run in somebody else's process? Home: pure; (instructions, spec,
// BTF, options) in, Verdict out; no I/O, no globals, any thread. Who calls it caps memory and time
// (the broker: a worker process); `VerifyOptions::should_stop` serves the same in one process.
//
// It explores the program's paths one by one with abstract values (scalar.hpp, state.hpp), as the
// kernel does, and accepts a subset of what cannot go wrong: every memory access inside an object
// that the program may touch, every helper called as its prototype says (spec/prototype.hpp), an
// end to every path, nothing acquired left unreleased. docs/verifier.md has the rules.
#pragma once
#include <linux/bpf.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "btf/btf.hpp"
#include "isa/operand_facts.hpp"

namespace bpftime {

class VerifierTrace;  // verifier/trace.hpp

// A map that the program names.
struct VerifierMap {
  uint32_t id = 0;  // what stands in the `imm` of a map load
  std::string name;
  uint32_t map_type = 0, map_flags = 0, key_size = 0, value_size = 0, max_entries = 0;
  uint64_t map_extra = 0;
  // The content of an array that is frozen and that programs may not write: loads from it are
  // constants. Empty: nothing is known.
  std::span<const std::byte> constants;
  std::shared_ptr<const VerifierMap> inner;  // of map-in-map kinds
  const Btf* btf = nullptr;
  uint32_t btf_key_type_id = 0, btf_value_type_id = 0;
};

struct VerifierProgram {
  // A map load has src_reg kLoadMapFd or kLoadMapValue and a VerifierMap::id in `imm`.
  std::span<const bpf_insn> insns;
  uint32_t prog_type = 0, expected_attach_type = 0;
  uint32_t attach_btf_id = 0;  // BPF_PROG_TYPE_TRACING and the like; in kernel_btf
  uint32_t prog_flags = 0;     // BPF_F_STRICT_ALIGNMENT, BPF_F_SLEEPABLE ...
  std::vector<VerifierMap> maps;
  const Btf* btf = nullptr;         // the program's own types
  const Btf* kernel_btf = nullptr;  // vmlinux: kfuncs, kernel structures
  std::span<const BtfFuncInfo> functions;
  std::span<const BtfLineInfo> lines;
};

enum LogLevel : uint32_t { kLogBrief = 1, kLogStates = 2, kLogStats = 4 };

struct VerifyOptions {
  uint32_t log_level = 0;  // bits of LogLevel, as in bpf(2)
  uint64_t log_bytes =
      16ULL << 20;  // the log keeps its last bytes (as the kernel: its first with bit 8)
  uint32_t insn_limit = 1'000'000;  // instructions processed; more is "too complex"
  uint32_t pending_limit = 8192;    // branches not yet taken
  uint64_t memory_bytes = 400ULL << 20;
  bool no_pointer_leaks = false;                // strict mode: no pointer may become a number
  std::function<bool(uint32_t id)> has_helper;  // not set: all that the kernel has
  bool no_helper_gate = false;                  // helpers of other program types are allowed
  bool prune = true;                            // tests compare verdicts with and without
  std::function<bool()> should_stop;            // asked now and then; true ends it as "too complex"
  VerifierTrace* trace = nullptr;               // tests: what was seen on the way
};

// What the verifier learned; engines and runtime may rely on it for an accepted program.
struct ProgramFacts {
  // Bit i: the 8 bytes of the context at 8*i are read by a load (512 bytes are told apart; a read
  // beyond, or a global function that is handed the context, sets reads_unknown_context). passes_context:
  // something else may read it: a helper that is handed it (but for perf_event_output, get_func_ip and
  // get_attach_cookie, to which it is a token), or whoever finds its address.
  uint64_t context_words = 0;
  bool reads_unknown_context = false, passes_context = false, writes_context = false;
  uint32_t stack_bytes = 0;  // deepest chain of frames
  // A run executes at most this many jumps that go back, taken or not; 0 when there is none, UINT32_MAX = unknown.
  uint32_t most_back_edges = 0;
  bool has_callbacks = false, has_tail_calls = false, may_sleep = false;
  std::vector<uint32_t> helpers;       // numbers called on explored paths, sorted
  std::vector<bool> dead;              // instructions that no path reaches
  std::vector<OperandFacts> operands;  // of each instruction
};

struct Verdict {
  int error =
      0;  // 0 = accepted; else the errno for the loader: EACCES, EINVAL, EPERM, E2BIG, EFAULT
  bool too_complex = false;  // refused for a limit of ours, not because something is wrong
  uint32_t insn = 0;         // where
  int reg = -1;              // the offending register, if there is one
  std::string message;       // one line, no newline
  std::string log;  // docs/verifier.md; always ends in the "processed ..." line when log_level != 0
  uint64_t insns_processed = 0;
  uint32_t max_states_per_insn = 0, total_states = 0, peak_states = 0;
  ProgramFacts facts;  // of an accepted program
  [[nodiscard]] bool accepted() const { return error == 0; }
};

Verdict verify(const VerifierProgram& program, const VerifyOptions& options);

}  // namespace bpftime
