// One case file: sections asm or raw, mem, result (r0 in hex) or error (an errno's name). Extra
// sections of our own: `fuel` (a number), `ended` (fuel: the program must run out).
#pragma once
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "isa/encode.hpp"
#include "isa/testing/assembler.hpp"
#include "tests/vm/engines.hpp"

namespace bpftime::testing {

inline std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// The same program with every constant operand loaded from memory, so that no engine sees its
// value: each ALU or jump immediate becomes a load of it from behind the input, through a register
// that the program does not use (nullopt when it uses all of them) . Jumps are laid anew.
struct FromMemory {
  std::vector<bpf_insn> insns;
  std::vector<std::byte> memory;
};
inline std::optional<FromMemory> operands_from_memory(const std::vector<bpf_insn>& insns,
                                                      std::span<const std::byte> memory) {
  bool is_used[11] = {};
  is_used[0] = true;
  is_used[1] = true;
  is_used[2] = !memory.empty();
  std::vector<bool> is_second(insns.size());
  for (size_t i = 0; i < insns.size(); ++i) {
    if (insns[i].code == kOpCall) {
      return std::nullopt;  // the address must live in a register that nothing but this uses
    }
    is_used[insns[i].dst_reg] = true;
    is_used[insns[i].src_reg] = true;
    if (insns[i].code == kOpLddw) {
      if (++i == insns.size()) {
        return std::nullopt;
      }
      is_second[i] = true;
    }
  }
  uint8_t spare[2] = {};
  size_t spares = 0;
  for (uint8_t reg = 2; reg < 10 && spares < 2; ++reg) {
    if (!is_used[reg]) {
      spare[spares++] = reg;
    }
  }
  if (spares < 2) {
    return std::nullopt;
  }
  const uint8_t operand = spare[0];
  const uint8_t base = spare[1];
  FromMemory out;
  out.memory.assign(memory.begin(), memory.end());
  out.memory.resize((out.memory.size() + 7) / 8 * 8);
  out.insns.push_back(mov_reg(base, 1));
  std::vector<uint32_t> moved_to(insns.size() + 1);
  std::vector<std::pair<uint32_t, uint32_t>> jumps;  // new index, old target
  for (uint32_t i = 0; i < insns.size(); ++i) {
    bpf_insn insn = insns[i];
    moved_to[i] = static_cast<uint32_t>(out.insns.size());
    const uint8_t insn_kind = insn_class(insn.code);
    const bool is_alu = (insn_kind == BPF_ALU || insn_kind == BPF_ALU64) &&
                        insn_op(insn.code) != BPF_END && insn_op(insn.code) != BPF_NEG;
    const bool is_compare =
        is_jump(insn.code) && !is_unconditional_jump(insn.code) && insn.code != kOpMayGoto;
    uint64_t value = static_cast<uint64_t>(int64_t{insn.imm});
    const bool is_wide = insn.code == kOpLddw && insn.src_reg == 0 && !is_second[i];
    if (((is_alu || is_compare) && !insn_has_reg(insn.code)) || is_wide) {
      if (is_wide) {
        value = lddw_value(insn, insns[i + 1]);
      }
      const size_t at = out.memory.size();
      if (at > 30000) {
        return std::nullopt;
      }
      out.memory.resize(at + 8);
      std::memcpy(&out.memory[at], &value, 8);
      if (is_wide) {
        out.insns.push_back(load(BPF_DW, insn.dst_reg, base, static_cast<int16_t>(at)));
        ++i;
        moved_to[i] = static_cast<uint32_t>(out.insns.size());
        continue;
      }
      out.insns.push_back(load(BPF_DW, operand, base, static_cast<int16_t>(at)));
      insn.code |= BPF_X;
      insn.src_reg = operand & 0xf;
      insn.imm = 0;
    }
    if (is_jump(insn.code)) {
      jumps.emplace_back(out.insns.size(), static_cast<uint32_t>(jump_target(insn, i)));
    }
    out.insns.push_back(insn);
  }
  for (const auto& [at, target] : jumps) {
    const auto distance = static_cast<int32_t>(moved_to[target]) - static_cast<int32_t>(at) - 1;
    if (out.insns[at].code == kOpJa32) {
      out.insns[at].imm = distance;
    } else {
      out.insns[at].off = static_cast<int16_t>(distance);
    }
  }
  return out;
}

}  // namespace bpftime::testing
