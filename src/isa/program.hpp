// A decoded eBPF program, and the check that makes one. Home: pure *, bytes in, value out; any
// process, any thread.
//
// What decode() promises of a DecodedProgram (engines rely on it and check nothing again):
//  1. every instruction is one of RFC 9669 or of the later ones that kernel 6.18 takes
//  (isa/opcode.hpp), with reserved
//     fields as kernel v6.18 kernel/bpf/verifier.c wants them, registers at most r10, and r10 never
//     written;
//  2. a 64-bit immediate load has both its halves; no jump, call or function reference goes to the
//  second one;
//  3. a jump stays inside its function; a function ends with `exit` or an unconditional jump
//  (forward or backward);
//  4. function_starts is sorted, begins with 0, has every target of a local call and of a function
//  reference;
//     no call or reference goes to function 0;
//  5. at most kMaxInsns instructions and kMaxFunctions functions.
// What it does not look at is the verifier's: types, bounds, termination, unreachable code, helper
// numbers, and two things with a run-time meaning of their own: division by a zero immediate, shift
// immediates beyond the width.
#pragma once
#include <linux/bpf.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.hpp"

namespace bpftime {

inline constexpr uint32_t kMaxInsns = 1'000'000;  // kernel: BPF_COMPLEXITY_LIMIT_INSNS
inline constexpr uint32_t kMaxFunctions = 256;    // kernel: BPF_MAX_SUBPROGS
inline constexpr uint32_t kMaxCallFrames = 8;     // kernel: MAX_CALL_FRAMES, main included
inline constexpr uint32_t kFrameBytes = 512;  // kernel: MAX_BPF_STACK; each frame has its own here

struct DecodedProgram {
  std::vector<bpf_insn> insns;
  std::vector<uint32_t> function_starts;
};

// Where a program is wrong. `why` is a literal.
struct DecodeProblem {
  uint32_t insn = 0;
  const char* why = "";
};

// Errors: E2BIG for none or too many instructions (kernel: bpf_prog_load) or too many functions;
// EINVAL otherwise. When it fails and `problem` is given, *problem says at which instruction.
Result<DecodedProgram> decode(std::span<const std::byte> bytes, DecodeProblem* problem = nullptr);
Result<DecodedProgram> decode(std::span<const bpf_insn> insns, DecodeProblem* problem = nullptr);
// For the verifier, which no engine follows: also loads of packet bytes (LD_ABS, LD_IND), and r10 may
// be written where no path goes.
Result<DecodedProgram> decode_for_verifier(std::span<const bpf_insn> insns,
                                           DecodeProblem* problem = nullptr);

// How many frames the deepest chain of calls has, main included; a function reference
// (BPF_PSEUDO_FUNC) counts as a call, since a helper may make it. Errors: E2BIG for more than
// kMaxCallFrames, or for recursion.
Result<uint32_t> call_depth(const DecodedProgram& program);

// The function (index into function_starts) that holds instruction `insn`.
uint32_t function_of(const DecodedProgram& program, uint32_t insn);

// One instruction as text, in the syntax of the kernel's verifier log; `second` is the other half
// of a 64-bit load.
std::string print(const bpf_insn& insn, const bpf_insn* second, uint32_t index);
std::string print(const DecodedProgram& program);

}  // namespace bpftime
