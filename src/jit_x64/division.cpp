// Unsigned and signed division and remainder: x / 0 = 0, x % 0 = x, INT_MIN / -1 = INT_MIN,
// INT_MIN % -1 = 0.
#include <bit>

#include "jit_x64/compiler.hpp"

namespace bpftime::x64 {
namespace {

bool is_signed(const bpf_insn& insn) { return insn.off == 1; }
bool is_remainder(const bpf_insn& insn) { return insn_op(insn.code) == BPF_MOD; }

}  // namespace

void Compiler::emit_division(const bpf_insn& insn, const OperandFacts* divisor) {
  if (!insn_has_reg(insn.code)) {
    if (!emit_easy_division(insn)) {
      emit_divide(insn);
    }
    return;
  }
  const bool is64 = is_alu64(insn);
  const unsigned src = reg(insn.src_reg);
  const bool may_be_zero = divisor == nullptr || divisor->lowest == 0;
  const bool may_be_minus_one =
      is_signed(insn) &&
      (divisor == nullptr || divisor->highest >= (is64 ? UINT64_MAX : uint64_t{UINT32_MAX}));
  std::array<uint32_t, 2> to_end = {};
  uint32_t ends = 0;
  if (may_be_zero) {
    out_.test_rr(is64, src, src);
    const uint32_t not_zero = out_.short_jump_if(kNotEqual);
    emit_division_by_zero(insn);
    to_end[ends++] = out_.short_jump();
    out_.land(not_zero);
  }
  if (may_be_minus_one) {
    out_.group1_imm(is64, kCmp, src, -1);
    const uint32_t not_minus_one = out_.short_jump_if(kNotEqual);
    emit_signed_division_by_one(insn, true);
    to_end[ends++] = out_.short_jump();
    out_.land(not_minus_one);
  }
  emit_divide(insn);
  while (ends > 0) {
    out_.land(to_end[--ends]);
  }
}

// Division by a constant that needs no division. False when it needs one.
bool Compiler::emit_easy_division(const bpf_insn& insn) {
  if (insn.imm == 0) {
    emit_division_by_zero(insn);
    return true;
  }
  if (is_signed(insn)) {
    if (insn.imm != -1 && insn.imm != 1) {
      return false;
    }
    emit_signed_division_by_one(insn, insn.imm == -1);
    return true;
  }
  const uint64_t divisor = alu_constant(insn);
  const unsigned dst = reg(insn.dst_reg);
  if (!std::has_single_bit(divisor)) {
    return false;
  }
  if (is_remainder(insn)) {
    out_.group1_imm(false, kAnd, dst, static_cast<int32_t>(static_cast<uint32_t>(divisor - 1)));
  } else {
    emit_shift_imm(is_alu64(insn), kShr, dst, static_cast<unsigned>(std::countr_zero(divisor)));
  }
  return true;
}

void Compiler::emit_division_by_zero(const bpf_insn& insn) {
  const unsigned dst = reg(insn.dst_reg);
  if (!is_remainder(insn)) {
    out_.mov_imm(dst, 0);
  } else if (!is_alu64(insn)) {
    out_.mov(false, dst, dst);
  }
}

// By 1 or -1.
void Compiler::emit_signed_division_by_one(const bpf_insn& insn, bool is_minus) {
  const bool is64 = is_alu64(insn);
  const unsigned dst = reg(insn.dst_reg);
  if (is_remainder(insn)) {
    out_.mov_imm(dst, 0);
  } else if (is_minus) {
    out_.op_rr(is64, 0xf7, 3, dst);
  } else if (!is64) {
    out_.mov(false, dst, dst);
  }
}

// The machine's own: rdx:rax by a register, the quotient into rax, the remainder into rdx. What the program has there is
// in the scratch registers meanwhile.
void Compiler::emit_divide(const bpf_insn& insn) {
  const bool is64 = is_alu64(insn);
  const bool has_reg = insn_has_reg(insn.code);
  const unsigned dst = reg(insn.dst_reg);
  const unsigned src = reg(insn.src_reg);
  const bool saves_rax = dst != kRax || (has_reg && src == kRax);
  const bool saves_rdx = dst != kRdx || (has_reg && src == kRdx);
  if (saves_rax) {
    out_.mov(true, kScratch, kRax);
  }
  if (saves_rdx) {
    out_.mov(true, kScratch2, kRdx);
  }
  // A constant takes dst's own register, which is free then, or the scratch that saves nothing.
  const unsigned wanted = has_reg ? src : dst;
  const unsigned divisor = wanted == kRax ? kScratch : wanted == kRdx ? kScratch2 : wanted;
  if (dst != kRax) {
    out_.mov(true, kRax, dst);
  }
  if (!has_reg) {
    out_.mov_imm(divisor, alu_constant(insn));
  }
  if (is_signed(insn)) {
    if (is64) {
      out_.byte(0x48);
    }
    out_.byte(0x99);  // cqo, cdq
    out_.op_rr(is64, 0xf7, 7, divisor);
  } else {
    out_.mov_imm(kRdx, 0);
    out_.op_rr(is64, 0xf7, 6, divisor);
  }
  const unsigned result = is_remainder(insn) ? kRdx : kRax;
  if (dst != result) {
    out_.mov(true, dst, result);
  }
  if (dst != kRax && saves_rax) {
    out_.mov(true, kRax, kScratch);
  }
  if (dst != kRdx && saves_rdx) {
    out_.mov(true, kRdx, kScratch2);
  }
}

}  // namespace bpftime::x64
