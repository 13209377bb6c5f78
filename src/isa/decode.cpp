// Structural check: one pass over the fields of each instruction, one to find the functions, one
// for jumps and ends.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "isa/opcode.hpp"
#include "isa/program.hpp"

namespace bpftime {
namespace {

// What is wrong with the fields of one instruction, or nullptr. Kernel v6.18 kernel/bpf/verifier.c:
// check_alu_op, check_cond_jmp_op, do_check, check_atomic, resolve_pseudo_ldimm64;
// kernel/bpf/core.c: BPF_INSN_MAP.
const char* check_alu(const bpf_insn& insn) {
  const bool is64 = insn_class(insn.code) == BPF_ALU64;
  const bool has_reg = insn_has_reg(insn.code);
  switch (insn_op(insn.code)) {
    case BPF_NEG:
      if (has_reg || insn.src_reg != 0 || insn.off != 0 || insn.imm != 0) {
        return "BPF_NEG uses reserved fields";
      }
      return nullptr;
    case BPF_END:
      if (is64 && has_reg) {
        return "unknown opcode";
      }
      if (insn.src_reg != 0 || insn.off != 0 ||
          (insn.imm != 16 && insn.imm != 32 && insn.imm != 64)) {
        return "BPF_END uses reserved fields";
      }
      return nullptr;
    case BPF_MOV:
      if (!has_reg) {
        return insn.src_reg != 0 || insn.off != 0 ? "BPF_MOV uses reserved fields" : nullptr;
      }
      if (is64 && insn.off == 1) {
        return insn.imm != 1 && insn.imm != 1 << 16
                   ? "addr_space_cast insn can only convert between address space 1 and 0"
                   : nullptr;
      }
      if (insn.imm != 0 ||
          (insn.off != 0 && insn.off != 8 && insn.off != 16 && (!is64 || insn.off != 32))) {
        return "BPF_MOV uses reserved fields";
      }
      return nullptr;
    case BPF_DIV:
    case BPF_MOD:
      if (insn.off != 0 && insn.off != 1) {
        return "BPF_ALU uses reserved fields";
      }
      break;
    case BPF_ADD:
    case BPF_SUB:
    case BPF_MUL:
    case BPF_OR:
    case BPF_AND:
    case BPF_LSH:
    case BPF_RSH:
    case BPF_XOR:
    case BPF_ARSH:
      if (insn.off != 0) {
        return "BPF_ALU uses reserved fields";
      }
      break;
    default:
      return "invalid BPF_ALU opcode";
  }
  if (has_reg ? insn.imm != 0 : insn.src_reg != 0) {
    return "BPF_ALU uses reserved fields";
  }
  return nullptr;
}

const char* check_jump(const bpf_insn& insn) {
  const bool is32 = insn_class(insn.code) == BPF_JMP32;
  const bool has_reg = insn_has_reg(insn.code);
  switch (insn_op(insn.code)) {
    case BPF_CALL:
      if (is32 || has_reg) {
        return "unknown opcode";
      }
      if (insn.src_reg > kCallKfunc || (insn.src_reg != kCallKfunc && insn.off != 0) ||
          insn.dst_reg != 0) {
        return "BPF_CALL uses reserved fields";
      }
      return nullptr;
    case BPF_EXIT:
      // The kernel leaves `off` unread; RFC 9669 §3.1: unused fields must be zero.
      if (is32 || has_reg || insn.imm != 0 || insn.src_reg != 0 || insn.dst_reg != 0 ||
          insn.off != 0) {
        return "BPF_EXIT uses reserved fields";
      }
      return nullptr;
    case BPF_JA:
      if (has_reg) {
        return "unknown opcode";  // 0x0d is gotox after v6.18
      }
      if (insn.src_reg != 0 || insn.dst_reg != 0 || (is32 ? insn.off != 0 : insn.imm != 0)) {
        return "BPF_JA uses reserved fields";
      }
      return nullptr;
    case kJumpCond:
      if (is32 || has_reg) {
        return "unknown opcode";
      }
      if (insn.src_reg != 0 || insn.dst_reg != 0 || insn.imm != 0) {
        return "invalid may_goto imm";
      }
      return nullptr;
    case 0xf0:
      return "unknown opcode";
    default:
      if (has_reg ? insn.imm != 0 : insn.src_reg != 0) {
        return "BPF_JMP/JMP32 uses reserved fields";
      }
      return nullptr;
  }
}

const char* check_atomic(const bpf_insn& insn) {
  switch (insn.imm) {
    case kLoadAcquire:
    case kStoreRelease:
      return nullptr;
    case BPF_ADD:
    case BPF_ADD | BPF_FETCH:
    case BPF_AND:
    case BPF_AND | BPF_FETCH:
    case BPF_OR:
    case BPF_OR | BPF_FETCH:
    case BPF_XOR:
    case BPF_XOR | BPF_FETCH:
    case BPF_XCHG:
    case BPF_CMPXCHG:
      return insn_size(insn.code) == BPF_W || insn_size(insn.code) == BPF_DW
                 ? nullptr
                 : "invalid atomic operand size";
    default:
      return "BPF_ATOMIC uses invalid atomic opcode";
  }
}

const char* check_packet_load(const bpf_insn& insn, bool is_for_engines) {
  if (is_for_engines) {
    return "BPF_LD_[ABS|IND] instructions not allowed for this program type";
  }
  if (insn_size(insn.code) == BPF_DW) {
    return "unknown opcode";
  }
  return insn.dst_reg != 0 || insn.off != 0 ||
                 (insn_mode(insn.code) == BPF_ABS && insn.src_reg != 0)
             ? "BPF_LD_[ABS|IND] uses reserved fields"
             : nullptr;
}

const char* check_fields(const bpf_insn& insn, bool is_for_engines) {
  if (insn.dst_reg > kFramePointer || insn.src_reg > kFramePointer) {
    return "register number is invalid";
  }
  const char* why = nullptr;
  switch (insn_class(insn.code)) {
    case BPF_ALU:
    case BPF_ALU64:
      why = check_alu(insn);
      break;
    case BPF_JMP:
    case BPF_JMP32:
      why = check_jump(insn);
      break;
    case BPF_LD:
      if (insn.code != kOpLddw) {
        return is_packet_load(insn.code) ? check_packet_load(insn, is_for_engines)
                                         : "unknown opcode";
      }
      if (insn.off != 0) {
        return "BPF_LD_IMM64 uses reserved fields";
      }
      if (insn.src_reg > kLoadMapIndexValue) {
        return "unrecognized bpf_ld_imm64 insn";
      }
      break;
    case BPF_LDX:
      if (insn_mode(insn.code) != BPF_MEM &&
          (insn_mode(insn.code) != kModeMemSx || insn_size(insn.code) == BPF_DW)) {
        return "unknown opcode";
      }
      if (insn.imm != 0) {
        return "BPF_LDX uses reserved fields";
      }
      break;
    case BPF_ST:
      if (insn_mode(insn.code) != BPF_MEM) {
        return "unknown opcode";
      }
      if (insn.src_reg != 0) {
        return "BPF_ST uses reserved fields";
      }
      break;
    default:  // BPF_STX
      if (insn_mode(insn.code) == BPF_ATOMIC) {
        why = check_atomic(insn);
        break;
      }
      if (insn_mode(insn.code) != BPF_MEM) {
        return "unknown opcode";
      }
      if (insn.imm != 0) {
        return "BPF_STX uses reserved fields";
      }
      break;
  }
  if (why == nullptr && is_for_engines && writes_frame_pointer(insn)) {
    return "frame pointer is read only";
  }
  return why;
}

Error fail(DecodeProblem* problem, uint32_t insn, const char* why, int code = EINVAL) {
  if (problem != nullptr) {
    *problem = {insn, why};
  }
  return make_error(code, why);
}

Result<DecodedProgram> decode_bytes(std::span<const std::byte> bytes, DecodeProblem* problem,
                                    bool is_for_engines) {
  if (bytes.size() % sizeof(bpf_insn) != 0) {
    return fail(problem, static_cast<uint32_t>(std::min<size_t>(bytes.size() / 8, kMaxInsns)),
                "program is not a whole number of instructions");
  }
  const size_t count = bytes.size() / sizeof(bpf_insn);
  if (count == 0 || count > kMaxInsns) {
    return fail(problem, 0, "program has no or too many instructions", E2BIG);
  }
  DecodedProgram program;
  program.insns.resize(count);
  std::memcpy(program.insns.data(), bytes.data(), bytes.size());
  const std::vector<bpf_insn>& insns = program.insns;

  std::vector<bool> is_second_half(count);
  std::vector<bool> is_start(count);
  for (uint32_t i = 0; i < count; ++i) {
    if (const char* why = check_fields(insns[i], is_for_engines); why != nullptr) {
      return fail(problem, i, why);
    }
    if (insns[i].code != kOpLddw) {
      continue;
    }
    if (i + 1 == count) {
      return fail(problem, i, "invalid bpf_ld_imm64 insn");
    }
    const bpf_insn& second = insns[i + 1];
    if (second.code != 0 || second.dst_reg != 0 || second.src_reg != 0 || second.off != 0) {
      return fail(problem, i, "invalid bpf_ld_imm64 insn");
    }
    const uint8_t kind = insns[i].src_reg;
    if ((kind == kLoadMapFd || kind == kLoadMapIndex) && second.imm != 0) {
      return fail(problem, i, "unrecognized bpf_ld_imm64 insn");
    }
    ++i;
    is_second_half[i] = true;
  }

  is_start[0] = true;
  uint32_t functions = 1;
  for (uint32_t i = 0; i < count; ++i) {
    const bool is_reference = insns[i].code == kOpLddw && insns[i].src_reg == kLoadFunction;
    const bool is_call = insns[i].code == kOpCall && insns[i].src_reg == kCallLocal;
    if (is_reference || is_call) {
      const int64_t target = int64_t{i} + 1 + insns[i].imm;
      if (target < 0 || target >= static_cast<int64_t>(count)) {
        return fail(problem, i, "call to invalid destination");
      }
      const auto start = static_cast<uint32_t>(target);
      if (is_second_half[start]) {
        return fail(problem, i, "call into the middle of a 64-bit load");
      }
      if (start == 0) {
        return fail(problem, i, "call to the main function");
      }
      if (!is_start[start]) {
        is_start[start] = true;
        if (++functions > kMaxFunctions) {
          return fail(problem, i, "too many subprograms", E2BIG);
        }
      }
    }
    if (insns[i].code == kOpLddw) {
      ++i;
    }
  }
  program.function_starts.reserve(functions);
  for (uint32_t i = 0; i < count; ++i) {
    if (is_start[i]) {
      program.function_starts.push_back(i);
    }
  }

  for (uint32_t f = 0; f < functions; ++f) {
    const uint32_t begin = program.function_starts[f];
    const uint32_t end =
        f + 1 < functions ? program.function_starts[f + 1] : static_cast<uint32_t>(count);
    for (uint32_t i = begin; i < end; ++i) {
      if (is_jump(insns[i].code) && !is_second_half[i]) {
        const int64_t target = jump_target(insns[i], i);
        if (target < begin || target >= end) {
          return fail(problem, i, "jump out of range");
        }
        if (is_second_half[static_cast<size_t>(target)]) {
          return fail(problem, i, "jump into the middle of a 64-bit load");
        }
      }
    }
    const uint8_t last = insns[end - 1].code;
    if (is_second_half[end - 1] || (last != kOpExit && !is_unconditional_jump(last))) {
      return fail(problem, end - 1, "last insn is not an exit or jmp");
    }
  }
  return program;
}

}  // namespace

Result<DecodedProgram> decode(std::span<const std::byte> bytes, DecodeProblem* problem) {
  return decode_bytes(bytes, problem, true);
}
Result<DecodedProgram> decode(std::span<const bpf_insn> insns, DecodeProblem* problem) {
  return decode_bytes(std::as_bytes(insns), problem, true);
}
Result<DecodedProgram> decode_for_verifier(std::span<const bpf_insn> insns,
                                           DecodeProblem* problem) {
  return decode_bytes(std::as_bytes(insns), problem, false);
}

uint32_t function_of(const DecodedProgram& program, uint32_t insn) {
  const auto& starts = program.function_starts;
  const auto after = std::upper_bound(starts.begin(), starts.end(), insn);
  return static_cast<uint32_t>(after - starts.begin()) - 1;
}

Result<uint32_t> call_depth(const DecodedProgram& program) {
  const size_t functions = program.function_starts.size();
  if (functions == 1) {
    return uint32_t{1};
  }
  // depth[f] = frames of the longest chain from main to f. One round of relaxation a frame; with a
  // cycle reachable from main there is no end, and kMaxCallFrames rounds show it. Functions that
  // main does not reach are held to the same bound.
  std::vector<std::pair<uint32_t, uint32_t>> calls;
  uint32_t function = 0;
  for (uint32_t i = 0; i < program.insns.size(); ++i) {
    const bpf_insn& insn = program.insns[i];
    if (function + 1 < functions && i >= program.function_starts[function + 1]) {
      ++function;
    }
    if ((insn.code == kOpCall && insn.src_reg == kCallLocal) ||
        (insn.code == kOpLddw && insn.src_reg == kLoadFunction)) {
      calls.emplace_back(function,
                         function_of(program, static_cast<uint32_t>(int64_t{i} + 1 + insn.imm)));
    }
    if (insn.code == kOpLddw) {
      ++i;
    }
  }
  std::sort(calls.begin(), calls.end());
  calls.erase(std::unique(calls.begin(), calls.end()), calls.end());
  std::vector<uint32_t> depth(functions, 1);
  uint32_t deepest = 1;
  for (bool changed = true; changed;) {
    changed = false;
    for (const auto& [caller, callee] : calls) {
      if (depth[callee] < depth[caller] + 1) {
        depth[callee] = depth[caller] + 1;
        if (depth[callee] > kMaxCallFrames) {
          return make_error(E2BIG, "call chain is deeper than 8 frames or recursive");
        }
        deepest = std::max(deepest, depth[callee]);
        changed = true;
      }
    }
  }
  return deepest;
}

}  // namespace bpftime
