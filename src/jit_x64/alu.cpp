// Arithmetic, shifts and byte swaps.
#include <bit>

#include "jit_x64/compiler.hpp"

namespace bpftime::x64 {

uint32_t Compiler::emit_alu(const Function& function, uint32_t i) {
  const bpf_insn& insn = insns_[i];
  switch (insn_op(insn.code)) {
    case BPF_MOV:
      return emit_mov(function, i);
    case BPF_LSH:
    case BPF_RSH:
    case BPF_ARSH:
      return emit_shift(function, i);
    case BPF_ADD:
      emit_group1(insn, kAdd);
      return 1;
    case BPF_SUB:
      emit_group1(insn, kSub);
      return 1;
    case BPF_OR:
      emit_group1(insn, kOr);
      return 1;
    case BPF_XOR:
      emit_group1(insn, kXor);
      return 1;
    case BPF_AND:
      emit_and(insn);
      return 1;
    case BPF_MUL:
      emit_multiplication(insn);
      return 1;
    case BPF_NEG:
      out_.op_rr(is_alu64(insn), 0xf7, 3, reg(insn.dst_reg));
      return 1;
    case BPF_END:
      emit_endian(insn);
      return 1;
    default:
      emit_division(insn, flow_.known(i));
      return 1;
  }
}

uint32_t Compiler::emit_mov(const Function& function, uint32_t i) {
  const bpf_insn& insn = insns_[i];
  if (!insn_has_reg(insn.code)) {
    out_.mov_imm(reg(insn.dst_reg), alu_constant(insn));
    return 1;
  }
  if (insn.off != 0) {
    emit_sign_extend(is_alu64(insn), reg(insn.dst_reg), reg(insn.src_reg),
                     static_cast<unsigned>(insn.off));
    return 1;
  }
  return emit_move(function, i);
}

void Compiler::emit_group1(const bpf_insn& insn, Group1 kind) {
  const bool is64 = is_alu64(insn);
  const unsigned dst = reg(insn.dst_reg);
  if (insn_has_reg(insn.code)) {
    out_.group1_rr(is64, kind, dst, reg(insn.src_reg));
  } else if (insn.imm == 128 && (kind == kAdd || kind == kSub)) {
    out_.group1_imm(is64, kind == kAdd ? kSub : kAdd, dst, -128);
  } else {
    out_.group1_imm(is64, kind, dst, insn.imm);
  }
}

void Compiler::emit_and(const bpf_insn& insn) {
  const bool has_reg = insn_has_reg(insn.code);
  const unsigned dst = reg(insn.dst_reg);
  if (!has_reg && (insn.imm == 0xff || insn.imm == 0xffff)) {
    emit_zero_extend(dst, dst, insn.imm == 0xff ? 8 : 16);
  } else if (!has_reg && insn.imm >= 0) {
    out_.group1_imm(false, kAnd, dst, insn.imm);  // the upper half becomes zero either way
  } else {
    emit_group1(insn, kAnd);
  }
}

void Compiler::emit_multiplication(const bpf_insn& insn) {
  const bool is64 = is_alu64(insn);
  const unsigned dst = reg(insn.dst_reg);
  if (insn_has_reg(insn.code)) {
    out_.op_rr(is64, 0x0faf, dst, reg(insn.src_reg));
  } else if (insn.imm > 0 && std::has_single_bit(static_cast<uint32_t>(insn.imm))) {
    emit_shift_imm(is64, kShl, dst,
                   static_cast<unsigned>(std::countr_zero(static_cast<uint32_t>(insn.imm))));
  } else if (insn.imm >= -128 && insn.imm <= 127) {
    out_.op_rr(is64, 0x6b, dst, dst);
    out_.byte(static_cast<unsigned>(insn.imm));
  } else {
    out_.op_rr(is64, 0x69, dst, dst);
    out_.word32(insn.imm);
  }
}

uint32_t Compiler::emit_shift(const Function& function, uint32_t i) {
  const bpf_insn& insn = insns_[i];
  const bool is64 = is_alu64(insn);
  const unsigned dst = reg(insn.dst_reg);
  const Group2 kind = group2_of(insn.code);
  if (insn_has_reg(insn.code)) {
    emit_shift_reg(is64, kind, dst, reg(insn.src_reg));
    return 1;
  }
  if (is64 && kind == kShl) {
    if (const uint32_t taken = emit_shift_pair(function, i, dst, dst); taken != 0) {
      return taken;
    }
  }
  emit_shift_imm(is64, kind, dst, static_cast<unsigned>(insn.imm) & (is64 ? 63U : 31U));
  return 1;
}

void Compiler::emit_shift_imm(bool is64, Group2 kind, unsigned dst, unsigned count) {
  if (count != 0) {
    out_.shift_imm(is64, kind, dst, count);
  } else if (!is64) {
    out_.mov(false, dst, dst);
  }
}

// A 32-bit shift by cl = 0 leaves flags alone but still writes, and so clears, the upper half
// (SDM 1 §3.4.1.1).
void Compiler::emit_shift_reg(bool is64, Group2 kind, unsigned dst, unsigned src) {
  if (src == kRcx) {
    out_.shift_cl(is64, kind, dst);
    return;
  }
  if (options_.has_bmi2) {
    out_.shift_bmi2(is64, kind, dst, dst, src);
    return;
  }
  out_.mov(true, kScratch, kRcx);
  out_.mov(false, kRcx, src);
  out_.shift_cl(is64, kind, dst == kRcx ? kScratch : dst);
  out_.mov(true, kRcx, kScratch);
}

void Compiler::emit_endian(const bpf_insn& insn) {
  const bool swaps = is_alu64(insn) || insn_has_reg(insn.code);
  const unsigned dst = reg(insn.dst_reg);
  if (insn.imm == 16) {
    if (swaps) {
      out_.byte(0x66);
      out_.op_rr(false, 0xc1, kRor, dst);
      out_.byte(8);
    }
    emit_zero_extend(dst, dst, 16);
    return;
  }
  const bool is64 = insn.imm == 64;
  if (swaps) {
    out_.bswap(is64, dst);
    return;
  }
  if (!is64) {
    out_.mov(false, dst, dst);
  }
}

void Compiler::emit_zero_extend(unsigned dst, unsigned src, unsigned bits) {
  if (bits == 32) {
    out_.mov(false, dst, src);
  } else if (bits == 16) {
    out_.op_rr(false, 0x0fb7, dst, src);
  } else {
    out_.op_rr(false, 0x0fb6, dst, src, src >= kRsp);
  }
}

void Compiler::emit_sign_extend(bool wide, unsigned dst, unsigned src, unsigned bits) {
  if (bits == 32) {
    out_.op_rr(true, 0x63, dst, src);
  } else if (bits == 16) {
    out_.op_rr(wide, 0x0fbf, dst, src);
  } else {
    out_.op_rr(wide, 0x0fbe, dst, src, src >= kRsp);
  }
}

}  // namespace bpftime::x64
