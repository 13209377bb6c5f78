// Sequences that compilers write for one machine instruction.
#include <optional>

#include "jit_x64/compiler.hpp"

namespace bpftime::x64 {
namespace {

bool is_alu(const bpf_insn& insn, int op) {
  return insn.code == (BPF_ALU | op) || insn.code == (BPF_ALU64 | op);
}

struct Rotation {
  uint32_t count;  // instructions
  uint8_t from, to;
  uint8_t unread;  // what nobody may read afterwards
  unsigned left;
};

// mov t, s; shift t one way; [mov d, s;] shift d the other way; or d, t
std::optional<Rotation> as_rotation(std::span<const bpf_insn> at) {
  const bpf_insn& first = at[0];
  const uint8_t alu_class = insn_class(first.code);
  const int32_t width = alu_class == BPF_ALU64 ? 64 : 32;
  const auto is_shift = [&](const bpf_insn& insn) {
    return (insn.code == (alu_class | BPF_LSH | BPF_K) ||
            insn.code == (alu_class | BPF_RSH | BPF_K)) &&
           insn.imm > 0 && insn.imm < width;
  };
  if (at.size() < 4 || first.off != 0 || first.src_reg == first.dst_reg || !is_shift(at[1]) ||
      at[1].dst_reg != first.dst_reg) {
    return std::nullopt;
  }
  const bool has_copy = at[2].code == (alu_class | BPF_MOV | BPF_X);
  if (has_copy && (at.size() < 5 || at[2].off != 0 || at[2].src_reg != first.src_reg ||
                   at[2].dst_reg == first.dst_reg || at[2].dst_reg == first.src_reg)) {
    return std::nullopt;
  }
  const bpf_insn& other = has_copy ? at[3] : at[2];
  const bpf_insn& join = has_copy ? at[4] : at[3];
  const uint8_t second = has_copy ? at[2].dst_reg : first.src_reg;
  const bool joins_both = (join.dst_reg == second && join.src_reg == first.dst_reg) ||
                          (join.dst_reg == first.dst_reg && join.src_reg == second);
  if (!is_shift(other) || other.dst_reg != second || other.code == at[1].code ||
      other.imm + at[1].imm != width || join.code != (alu_class | BPF_OR | BPF_X) || !joins_both) {
    return std::nullopt;
  }
  const int32_t left = insn_op(at[1].code) == BPF_LSH ? at[1].imm : other.imm;
  return Rotation{has_copy ? 5U : 4U, first.src_reg, join.dst_reg, join.src_reg,
                  static_cast<unsigned>(left)};
}

// shift shifted, bits; or sum, part
bool joins(std::span<const bpf_insn, 2> at, uint8_t shifted, int32_t bits, uint8_t sum,
           uint8_t part) {
  return is_alu(at[0], BPF_LSH | BPF_K) && at[0].dst_reg == shifted && at[0].imm == bits &&
         is_alu(at[1], BPF_OR | BPF_X) && at[1].dst_reg == sum && at[1].src_reg == part;
}

struct JoinedLoad {
  uint8_t sum, base;
  int16_t off;
  uint32_t parts, wide_parts;  // registers that nobody may read afterwards
  bool is_wide;                // 4 bytes in 10 instructions; else 2 in 4
};

// Bytes loaded one by one and put together: two, the second shifted by 8 or the first, and two more.
std::optional<JoinedLoad> as_joined_load(std::span<const bpf_insn> at) {
  const uint8_t base = at[0].src_reg;
  if (at.size() < 4 || at[1].src_reg != base || at[0].dst_reg == base ||
      at[0].dst_reg == at[1].dst_reg) {
    return std::nullopt;
  }
  const bool is_low_first = at[1].off == at[0].off + 1;
  if (!is_low_first && at[0].off != at[1].off + 1) {
    return std::nullopt;
  }
  const bpf_insn& low = at[is_low_first ? 0 : 1];
  const uint8_t sum = at[is_low_first ? 1 : 0].dst_reg;
  if (!joins(at.subspan<2, 2>(), sum, 8, sum, low.dst_reg)) {
    return std::nullopt;
  }
  JoinedLoad load = {sum,
                     base,
                     low.off,
                     1U << low.dst_reg,
                     1U << low.dst_reg,
                     at.size() >= 10 && base != sum && base != low.dst_reg};
  for (int k = 0; k < 2 && load.is_wide; ++k) {
    const auto next = at.subspan(static_cast<size_t>(4 + 3 * k)).first<3>();
    const uint8_t part = next[0].dst_reg;
    load.is_wide = next[0].code == kByteLoad && next[0].src_reg == base &&
                   next[0].off == low.off + 2 + k && part != sum && (k == 1 || part != base) &&
                   joins(next.last<2>(), part, 16 + 8 * k, sum, part);
    load.wide_parts |= 1U << part;
  }
  return load;
}

}  // namespace

// Instruction i, and of those behind it what nothing jumps to: `most` of them in all.
std::span<const bpf_insn> Compiler::meltable(const Function& function, uint32_t i,
                                             uint32_t most) const {
  uint32_t count = 1;
  while (count < most && melts(function, i + count)) {
    ++count;
  }
  return {&insns_[i], count};
}

// A move and what follows it on the same register, as one instruction where x86 has one.
uint32_t Compiler::emit_move(const Function& function, uint32_t i) {
  const bpf_insn& insn = insns_[i];
  const unsigned dst = reg(insn.dst_reg);
  const unsigned src = reg(insn.src_reg);
  const bool is64 = is_alu64(insn);
  if (dst != src && melts(function, i + 1) && insns_[i + 1].dst_reg == insn.dst_reg) {
    if (const uint32_t taken = emit_rotation(function, i); taken != 0) {
      return taken;
    }
    if (const uint32_t taken = is64 ? emit_move_and_next(function, i) : 0; taken != 0) {
      return taken;
    }
  }
  if (!is64 || dst != src) {
    out_.mov(is64, dst, src);
  }
  return 1;
}

uint32_t Compiler::emit_rotation(const Function& function, uint32_t i) {
  const std::optional<Rotation> rotation = as_rotation(meltable(function, i, 5));
  if (!rotation || (flow_.live_after(i + rotation->count - 1) >> rotation->unread & 1) != 0) {
    return 0;
  }
  const bool is64 = is_alu64(insns_[i]);
  if (rotation->to != rotation->from) {
    out_.mov(is64, reg(rotation->to), reg(rotation->from));
  }
  out_.shift_imm(is64, kRol, reg(rotation->to), rotation->left);
  return rotation->count;
}

// The move has 64 bits; what follows melts, and has its register.
uint32_t Compiler::emit_move_and_next(const Function& function, uint32_t i) {
  const bpf_insn& insn = insns_[i];
  const bpf_insn& next = insns_[i + 1];
  const unsigned dst = reg(insn.dst_reg);
  const unsigned src = reg(insn.src_reg);
  switch (next.code) {
    case BPF_ALU64 | BPF_ADD | BPF_K:
      out_.lea(true, dst, src, next.imm);
      return 2;
    case BPF_ALU64 | BPF_ADD | BPF_X:
      out_.lea(true, dst, src, next.src_reg == insn.dst_reg ? src : reg(next.src_reg), 0, 0);
      return 2;
    case BPF_ALU64 | BPF_AND | BPF_K:
      if (next.imm != 0xff && next.imm != 0xffff) {
        return 0;
      }
      emit_zero_extend(dst, src, next.imm == 0xff ? 8 : 16);
      return 2;
    case BPF_ALU64 | BPF_LSH | BPF_K: {
      const uint32_t taken = emit_shift_pair(function, i + 1, dst, src);
      return taken == 0 ? 0 : 1 + taken;
    }
    case BPF_ALU64 | BPF_LSH | BPF_X:
    case BPF_ALU64 | BPF_RSH | BPF_X:
    case BPF_ALU64 | BPF_ARSH | BPF_X:
      if (!options_.has_bmi2 || next.src_reg == insn.dst_reg) {
        return 0;
      }
      out_.shift_bmi2(true, group2_of(next.code), dst, src, reg(next.src_reg));
      return 2;
    default:
      return 0;
  }
}

// lsh k; rsh k or arsh k, as an extension of `src` into `dst`.
uint32_t Compiler::emit_shift_pair(const Function& function, uint32_t i, unsigned dst,
                                   unsigned src) {
  const bpf_insn& left = insns_[i];
  if (left.imm != 32 && left.imm != 48 && left.imm != 56) {
    return 0;
  }
  if (!melts(function, i + 1)) {
    return 0;
  }
  const bpf_insn& right = insns_[i + 1];
  if (right.dst_reg != left.dst_reg || right.imm != left.imm) {
    return 0;
  }
  const unsigned bits = 64U - static_cast<unsigned>(left.imm);
  switch (right.code) {
    case BPF_ALU64 | BPF_RSH | BPF_K:
      emit_zero_extend(dst, src, bits);
      return 2;
    case BPF_ALU64 | BPF_ARSH | BPF_K:
      emit_sign_extend(true, dst, src, bits);
      return 2;
    default:
      return 0;
  }
}

// A byte load and what follows as one load of 2 or 4 bytes, when the parts are not read any more.
uint32_t Compiler::emit_joined_load(const Function& function, uint32_t i) {
  if (!melts(function, i + 1) || insns_[i + 1].code != kByteLoad) {
    return 0;
  }
  const std::optional<JoinedLoad> load = as_joined_load(meltable(function, i, 10));
  if (!load) {
    return 0;
  }
  if (load->is_wide && (flow_.live_after(i + 9) & load->wide_parts) == 0) {
    out_.op_rm(false, 0x8b, reg(load->sum), reg(load->base), load->off);
    return 10;
  }
  if ((flow_.live_after(i + 3) & load->parts) != 0) {
    return 0;
  }
  out_.op_rm(false, 0x0fb7, reg(load->sum), reg(load->base), load->off);
  return 4;
}

}  // namespace bpftime::x64
