// Jumps; the fuel that backward ones take; may_goto.
#include "jit_x64/compiler.hpp"

namespace bpftime::x64 {
namespace {

Condition condition_of(uint8_t op) {
  switch (op) {
    case BPF_JEQ:
      return kEqual;
    case BPF_JGT:
      return kAbove;
    case BPF_JGE:
      return kAboveEqual;
    case BPF_JLT:
      return kBelow;
    case BPF_JLE:
      return kBelowEqual;
    case BPF_JSGT:
      return kGreater;
    case BPF_JSGE:
      return kGreaterEqual;
    case BPF_JSLT:
      return kLess;
    case BPF_JSLE:
      return kLessEqual;
    default:  // BPF_JNE, BPF_JSET
      return kNotEqual;
  }
}

}  // namespace

void Compiler::emit_branch(uint32_t i) {
  const bpf_insn& insn = insns_[i];
  const auto target = static_cast<uint32_t>(jump_target(insn, i));
  if (target <= i && counts_fuel_) {
    out_.op_rr(true, 0xff, 1, kFuel);  // dec, which melts with jl
    emit_jump(kLess, i, count_);
  }
  if (is_unconditional_jump(insn.code) || flow_.always_jumps(i)) {
    if (first_with_code(i + 1) != first_with_code(target)) {
      emit_jump(kAlways, i, target);
    }
  } else if (insn.code == kOpMayGoto) {
    emit_may_goto(i, target);
  } else {
    emit_compare(insn);
    emit_jump(condition_of(insn_op(insn.code)), i, target);
  }
}

uint32_t Compiler::first_with_code(uint32_t i) const {
  while (i < count_ && !flow_.needs_code(i)) {
    ++i;
  }
  return i;
}

// At zero it jumps and stays at zero.
void Compiler::emit_may_goto(uint32_t i, uint32_t target) {
  out_.op_rm(true, 0x83, kSub, kRbp, kMayGotoLeft);
  out_.byte(1);
  const uint32_t over = out_.short_jump_if(kAboveEqual);
  out_.op_rm(true, 0xc7, 0, kRbp, kMayGotoLeft);
  out_.word32(0);
  emit_jump(kAlways, i, target);
  out_.land(over);
}

void Compiler::emit_compare(const bpf_insn& insn) {
  const bool is64 = insn_class(insn.code) == BPF_JMP;
  const bool is_test = insn_op(insn.code) == BPF_JSET;
  const unsigned dst = reg(insn.dst_reg);
  if (insn_has_reg(insn.code)) {
    if (is_test) {
      out_.test_rr(is64, dst, reg(insn.src_reg));
    } else {
      out_.group1_rr(is64, kCmp, dst, reg(insn.src_reg));
    }
  } else if (is_test) {
    const bool is_narrow = !is64 || insn.imm >= 0;
    out_.op_rr(!is_narrow, 0xf7, 0, dst);
    out_.word32(insn.imm);
  } else if (insn.imm == 0) {
    out_.test_rr(is64, dst, dst);
  } else {
    out_.group1_imm(is64, kCmp, dst, insn.imm);
  }
}

// `condition` kAlways: jmp. `from` is the instruction that jumps, `target` where to (count_ = the
// fuel stub).
void Compiler::emit_jump(int condition, uint32_t from, uint32_t target) {
  const bool is_backward = target <= from;
  bool is_short = false;
  if (is_backward) {
    is_short = int64_t{offset_of_[target]} - (int64_t{out_.position()} + 2) >= -128;
  } else if (is_last_round_) {
    // Both positions are of the round before, and nothing has grown since.
    is_short = int64_t{offset_of_[target]} - old_offset_ <= 127;
  }
  uint32_t at = 0;
  if (condition == kAlways) {
    at = is_short ? out_.short_jump() : out_.near_jump();
  } else {
    const auto met = static_cast<Condition>(condition);
    at = is_short ? out_.short_jump_if(met) : out_.near_jump_if(met);
  }
  if (!is_backward) {
    if (is_last_round_) {
      fixups_.push_back({at, target, is_short});
    }
  } else if (is_short) {
    out_.point8(at, offset_of_[target]);
  } else {
    out_.point32(at, offset_of_[target]);
  }
}

}  // namespace bpftime::x64
