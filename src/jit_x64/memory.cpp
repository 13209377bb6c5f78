// Loads of 64-bit constants and of what slots hold; loads, stores and atomics.
#include "jit_x64/compiler.hpp"

namespace bpftime::x64 {
namespace {

constexpr unsigned kLock = 0xf0;

Group1 group1_of(int32_t atomic_op) {
  switch (atomic_op & 0xf0) {
    case BPF_ADD:
      return kAdd;
    case BPF_OR:
      return kOr;
    case BPF_AND:
      return kAnd;
    default:
      return kXor;
  }
}

bpf_insn plain_load(bpf_insn insn) {
  insn.code = static_cast<uint8_t>(BPF_LDX | BPF_MEM | insn_size(insn.code));
  insn.imm = 0;
  return insn;
}

}  // namespace

void Compiler::emit_load_constant(uint32_t i) {
  const bpf_insn& insn = insns_[i];
  const bpf_insn& second = insns_[i + 1];
  const unsigned dst = reg(insn.dst_reg);
  const auto id = static_cast<uint32_t>(insn.imm);
  switch (insn.src_reg) {
    case kLoadMapFd:
      emit_load_slot(dst, slots_.intern(SlotKind::kMap, id, 0));
      break;
    case kLoadMapValue:
      emit_load_slot(dst,
                     slots_.intern(SlotKind::kMapValue, id, static_cast<uint32_t>(second.imm)));
      break;
    case kLoadFunction: {
      const uint32_t at = out_.lea_rip(dst);
      if (is_last_round_) {
        thunk_fixups_.push_back({at, function_named_by(i), false});
      }
      break;
    }
    default:
      out_.mov_imm(dst, lddw_value(insn, second));
      break;
  }
}

void Compiler::emit_load_slot(unsigned dst, uint32_t slot) {
  out_.load64(dst, kHit, kHitSlots);
  out_.load64(dst, dst, static_cast<int32_t>(slot * 8));
}

void Compiler::emit_load(const bpf_insn& insn) {
  const unsigned dst = reg(insn.dst_reg);
  const unsigned base = reg(insn.src_reg);
  if (insn_mode(insn.code) != kModeMemSx) {
    emit_load_sized(insn_size(insn.code), dst, base, insn.off);
    return;
  }
  const uint8_t size = insn_size(insn.code);
  out_.op_rm(true, size == BPF_B ? 0x0fbe : size == BPF_H ? 0x0fbf : 0x63, dst, base, insn.off);
}

// Without sign; 1, 2 and 4 bytes become 8.
void Compiler::emit_load_sized(uint8_t size, unsigned dst, unsigned base, int32_t disp) {
  const unsigned opcode = size == BPF_B ? 0x0fb6 : size == BPF_H ? 0x0fb7 : 0x8b;
  out_.op_rm(size == BPF_DW, opcode, dst, base, disp);
}

void Compiler::emit_store(const bpf_insn& insn) {
  emit_store_sized(insn_size(insn.code), reg(insn.dst_reg), insn.off, reg(insn.src_reg));
}

void Compiler::emit_store_sized(uint8_t size, unsigned base, int32_t disp, unsigned src) {
  switch (size) {
    case BPF_B:
      out_.op_rm(false, 0x88, src, base, disp, src >= kRsp);
      break;
    case BPF_H:
      out_.byte(0x66);
      out_.op_rm(false, 0x89, src, base, disp);
      break;
    default:
      out_.op_rm(size == BPF_DW, 0x89, src, base, disp);
      break;
  }
}

void Compiler::emit_store_imm(const bpf_insn& insn) {
  const unsigned base = reg(insn.dst_reg);
  switch (insn_size(insn.code)) {
    case BPF_B:
      out_.op_rm(false, 0xc6, 0, base, insn.off);
      out_.byte(static_cast<unsigned>(insn.imm));
      break;
    case BPF_H:
      out_.byte(0x66);
      out_.op_rm(false, 0xc7, 0, base, insn.off);
      out_.byte(static_cast<unsigned>(insn.imm));
      out_.byte(static_cast<unsigned>(insn.imm) >> 8);
      break;
    default:
      out_.op_rm(insn_size(insn.code) == BPF_DW, 0xc7, 0, base, insn.off);
      out_.word32(insn.imm);
      break;
  }
}

void Compiler::emit_atomic(const bpf_insn& insn) {
  const bool is64 = insn_size(insn.code) == BPF_DW;
  const unsigned base = reg(insn.dst_reg);
  const unsigned src = reg(insn.src_reg);
  switch (insn.imm) {
    case kLoadAcquire:  // x86 loads acquire and stores release (SDM 3A §9.2.2)
      emit_load(plain_load(insn));
      return;
    case kStoreRelease:
      emit_store(insn);
      return;
    case BPF_ADD:
    case BPF_OR:
    case BPF_AND:
    case BPF_XOR:
      out_.byte(kLock);
      out_.op_rm(is64, group1_of(insn.imm) << 3 | 1U, src, base, insn.off);
      return;
    case BPF_ADD | BPF_FETCH:
      out_.byte(kLock);
      out_.op_rm(is64, 0x0fc1, src, base, insn.off);
      return;
    case BPF_XCHG:
      out_.op_rm(is64, 0x87, src, base, insn.off);
      return;
    case BPF_CMPXCHG:
      out_.byte(kLock);
      out_.op_rm(is64, 0x0fb1, src, base, insn.off);
      if (!is64) {
        out_.mov(false, kRax, kRax);
      }
      return;
    default:
      emit_fetch_loop(insn);
      return;
  }
}

// fetch or, and, xor: a loop around cmpxchg, whose expected value is rax.
void Compiler::emit_fetch_loop(const bpf_insn& insn) {
  const bool is64 = insn_size(insn.code) == BPF_DW;
  const bool keeps_rax = reg(insn.src_reg) != kRax;
  const unsigned src = keeps_rax ? reg(insn.src_reg) : unsigned{kScratch};
  const unsigned base = reg(insn.dst_reg) == kRax ? unsigned{kScratch} : reg(insn.dst_reg);
  out_.mov(true, kScratch, kRax);
  out_.op_rm(is64, 0x8b, kRax, base, insn.off);
  const uint32_t again = out_.position();
  out_.mov(is64, kScratch2, kRax);
  out_.group1_rr(is64, group1_of(insn.imm), kScratch2, src);
  out_.byte(kLock);
  out_.op_rm(is64, 0x0fb1, kScratch2, base, insn.off);
  out_.point8(out_.short_jump_if(kNotEqual), again);
  if (keeps_rax) {
    out_.mov(is64, src, kRax);
    out_.mov(true, kRax, kScratch);
  } else if (!is64) {
    out_.mov(false, kRax, kRax);
  }
}

}  // namespace bpftime::x64
