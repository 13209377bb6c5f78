// Names of instruction fields that the system's <linux/bpf.h> may be too old to know. Home: pure *.
// Values: RFC 9669 and kernel v6.18 include/uapi/linux/bpf.h. Which kernel takes what: see docs of
// decode().
#pragma once
#include <linux/bpf.h>

#include <cstdint>

namespace bpftime {

inline constexpr uint8_t kModeMemSx = 0x80;  // BPF_MEMSX: sign-extending load
inline constexpr uint8_t kJumpCond = 0xe0;   // BPF_JCOND: may_goto
inline constexpr int32_t kLoadAcquire = 0x100;
inline constexpr int32_t kStoreRelease = 0x110;
inline constexpr uint8_t kOpLddw = BPF_LD | BPF_IMM | BPF_DW;
inline constexpr uint8_t kOpExit = BPF_JMP | BPF_EXIT;
inline constexpr uint8_t kOpCall = BPF_JMP | BPF_CALL;
inline constexpr uint8_t kOpJa = BPF_JMP | BPF_JA;
inline constexpr uint8_t kOpJa32 = BPF_JMP32 | BPF_JA;
inline constexpr uint8_t kOpMayGoto = BPF_JMP | kJumpCond;
inline constexpr uint32_t kMayGotoRounds = 8U << 20;  // kernel: BPF_MAX_LOOPS, counted a frame

enum PseudoLoad : uint8_t {  // src_reg of a 64-bit immediate load
  kLoadImm = 0,
  kLoadMapFd = 1,
  kLoadMapValue = 2,
  kLoadBtfId = 3,
  kLoadFunction = 4,
  kLoadMapIndex = 5,
  kLoadMapIndexValue = 6,
};
enum PseudoCall : uint8_t { kCallHelper = 0, kCallLocal = 1, kCallKfunc = 2 };  // src_reg of a call

constexpr uint8_t insn_class(uint8_t code) { return code & 0x07; }
constexpr uint8_t insn_size(uint8_t code) { return code & 0x18; }
constexpr uint8_t insn_mode(uint8_t code) { return code & 0xe0; }
constexpr uint8_t insn_op(uint8_t code) { return code & 0xf0; }
constexpr bool insn_has_reg(uint8_t code) { return (code & BPF_X) != 0; }

// Bytes of a load or store: 1, 2, 4 or 8.
constexpr uint32_t access_bytes(uint8_t code) {
  switch (insn_size(code)) {
    case BPF_B:
      return 1;
    case BPF_H:
      return 2;
    case BPF_W:
      return 4;
    default:
      return 8;
  }
}

constexpr bool is_alu_class(uint8_t code) {
  return insn_class(code) == BPF_ALU || insn_class(code) == BPF_ALU64;
}
constexpr bool is_jump_class(uint8_t code) {
  return insn_class(code) == BPF_JMP || insn_class(code) == BPF_JMP32;
}
// Jumps with a target in the instruction: not calls, not exit.
constexpr bool is_jump(uint8_t code) {
  return is_jump_class(code) && insn_op(code) != BPF_CALL && insn_op(code) != BPF_EXIT;
}
constexpr bool is_unconditional_jump(uint8_t code) { return code == kOpJa || code == kOpJa32; }
constexpr bool is_atomic(uint8_t code) {
  return insn_class(code) == BPF_STX && insn_mode(code) == BPF_ATOMIC;
}
constexpr bool is_packet_load(uint8_t code) {
  return insn_class(code) == BPF_LD && (insn_mode(code) == BPF_ABS || insn_mode(code) == BPF_IND);
}

inline constexpr uint8_t kFramePointer = 10;  // r10, which programs read only
constexpr bool writes_frame_pointer(const bpf_insn& insn) {
  switch (insn_class(insn.code)) {
    case BPF_ALU:
    case BPF_ALU64:
    case BPF_LDX:
      return insn.dst_reg == kFramePointer;
    case BPF_LD:
      return insn.code == kOpLddw && insn.dst_reg == kFramePointer;
    case BPF_STX:
      if (!is_atomic(insn.code) || insn.imm == kStoreRelease || insn.imm == BPF_CMPXCHG) {
        return false;
      }
      return insn.imm == kLoadAcquire
                 ? insn.dst_reg == kFramePointer
                 : (insn.imm & BPF_FETCH) != 0 && insn.src_reg == kFramePointer;
    default:
      return false;
  }
}

// Where a jump at `index` goes (it is inside the program when decode() took it).
constexpr int64_t jump_target(const bpf_insn& insn, uint32_t index) {
  return int64_t{index} + 1 + (insn.code == kOpJa32 ? insn.imm : insn.off);
}
constexpr uint64_t lddw_value(const bpf_insn& first, const bpf_insn& second) {
  return static_cast<uint32_t>(first.imm) | uint64_t{static_cast<uint32_t>(second.imm)} << 32;
}

}  // namespace bpftime
