// Makers of single instructions, for tests, generators and loaders' probes. Home: pure *.
#pragma once
#include "isa/opcode.hpp"

namespace bpftime {

constexpr bpf_insn make_insn(uint8_t code, uint8_t dst, uint8_t src, int16_t off, int32_t imm) {
  bpf_insn insn{};
  insn.code = code;
  insn.dst_reg = static_cast<uint8_t>(dst & 0xf);
  insn.src_reg = static_cast<uint8_t>(src & 0xf);
  insn.off = off;
  insn.imm = imm;
  return insn;
}
// `op` is BPF_ADD ... BPF_ARSH; `off` is 1 for signed division.
constexpr bpf_insn alu64_reg(uint8_t op, uint8_t dst, uint8_t src, int16_t off = 0) {
  return make_insn(static_cast<uint8_t>(BPF_ALU64 | BPF_X | op), dst, src, off, 0);
}
constexpr bpf_insn alu64_imm(uint8_t op, uint8_t dst, int32_t imm, int16_t off = 0) {
  return make_insn(static_cast<uint8_t>(BPF_ALU64 | BPF_K | op), dst, 0, off, imm);
}
constexpr bpf_insn alu32_reg(uint8_t op, uint8_t dst, uint8_t src, int16_t off = 0) {
  return make_insn(static_cast<uint8_t>(BPF_ALU | BPF_X | op), dst, src, off, 0);
}
constexpr bpf_insn alu32_imm(uint8_t op, uint8_t dst, int32_t imm, int16_t off = 0) {
  return make_insn(static_cast<uint8_t>(BPF_ALU | BPF_K | op), dst, 0, off, imm);
}
constexpr bpf_insn mov_reg(uint8_t dst, uint8_t src) { return alu64_reg(BPF_MOV, dst, src); }
constexpr bpf_insn mov_imm(uint8_t dst, int32_t imm) { return alu64_imm(BPF_MOV, dst, imm); }
// `size` is BPF_B, BPF_H, BPF_W or BPF_DW.
constexpr bpf_insn load(uint8_t size, uint8_t dst, uint8_t src, int16_t off) {
  return make_insn(static_cast<uint8_t>(BPF_LDX | BPF_MEM | size), dst, src, off, 0);
}
constexpr bpf_insn load_signed(uint8_t size, uint8_t dst, uint8_t src, int16_t off) {
  return make_insn(static_cast<uint8_t>(BPF_LDX | kModeMemSx | size), dst, src, off, 0);
}
constexpr bpf_insn store(uint8_t size, uint8_t dst, int16_t off, uint8_t src) {
  return make_insn(static_cast<uint8_t>(BPF_STX | BPF_MEM | size), dst, src, off, 0);
}
constexpr bpf_insn store_imm(uint8_t size, uint8_t dst, int16_t off, int32_t imm) {
  return make_insn(static_cast<uint8_t>(BPF_ST | BPF_MEM | size), dst, 0, off, imm);
}
constexpr bpf_insn atomic(uint8_t size, int32_t op, uint8_t dst, int16_t off, uint8_t src) {
  return make_insn(static_cast<uint8_t>(BPF_STX | BPF_ATOMIC | size), dst, src, off, op);
}
constexpr bpf_insn jump(int16_t off) { return make_insn(kOpJa, 0, 0, off, 0); }
// `jump_class` is BPF_JMP or BPF_JMP32.
constexpr bpf_insn jump_reg(uint8_t jump_class, uint8_t op, uint8_t dst, uint8_t src, int16_t off) {
  return make_insn(static_cast<uint8_t>(jump_class | BPF_X | op), dst, src, off, 0);
}
constexpr bpf_insn jump_imm(uint8_t jump_class, uint8_t op, uint8_t dst, int32_t imm, int16_t off) {
  return make_insn(static_cast<uint8_t>(jump_class | BPF_K | op), dst, 0, off, imm);
}
constexpr bpf_insn call_helper(int32_t id) { return make_insn(kOpCall, 0, kCallHelper, 0, id); }
constexpr bpf_insn call_local(int32_t distance) {
  return make_insn(kOpCall, 0, kCallLocal, 0, distance);
}
constexpr bpf_insn exit_insn() { return make_insn(kOpExit, 0, 0, 0, 0); }
constexpr bpf_insn lddw_first(uint8_t dst, PseudoLoad kind, uint64_t value) {
  return make_insn(kOpLddw, dst, kind, 0, static_cast<int32_t>(static_cast<uint32_t>(value)));
}
constexpr bpf_insn lddw_second(uint64_t value) {
  return make_insn(0, 0, 0, 0, static_cast<int32_t>(static_cast<uint32_t>(value >> 32)));
}

}  // namespace bpftime
