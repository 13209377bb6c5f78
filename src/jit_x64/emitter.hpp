// Writes x86-64 instructions into a growing buffer. Home: pure; only this room includes it.
// Intel SDM 2A §2.1.5 (ModRM, SIB), §2.2.1 (REX): base rsp/r12 needs a SIB byte, base rbp/r13 a
// displacement.
#pragma once
#include <cstdint>
#include <cstring>
#include <memory>

namespace bpftime::x64 {

enum Reg : uint8_t {
  kRax,
  kRcx,
  kRdx,
  kRbx,
  kRsp,
  kRbp,
  kRsi,
  kRdi,
  kR8,
  kR9,
  kR10,
  kR11,
  kR12,
  kR13,
  kR14,
  kR15,
};

enum Condition : uint8_t {
  kOverflow,
  kNoOverflow,
  kBelow,
  kAboveEqual,
  kEqual,
  kNotEqual,
  kBelowEqual,
  kAbove,
  kSign,
  kNoSign,
  kParity,
  kNoParity,
  kLess,
  kGreaterEqual,
  kLessEqual,
  kGreater,
};

// The /digit of group 1 (81, 83) and, shifted by 3, the opcode of the register form.
enum Group1 : uint8_t { kAdd = 0, kOr = 1, kAnd = 4, kSub = 5, kXor = 6, kCmp = 7 };
// The /digit of group 2 (C1, D3).
enum Group2 : uint8_t { kRol = 0, kRor = 1, kShl = 4, kShr = 5, kSar = 7 };

class Emitter {
 public:
  static constexpr size_t kRoomForOne = 160;  // more than any one eBPF instruction needs

  explicit Emitter(size_t expected_bytes)
      : capacity_(expected_bytes + 2 * kRoomForOne), bytes_(new uint8_t[capacity_]) {}
  // Call before each eBPF instruction.
  void make_room() {
    if (capacity_ - size_ < kRoomForOne) {
      std::unique_ptr<uint8_t[]> more(new uint8_t[capacity_ * 2]);
      std::memcpy(more.get(), bytes_.get(), size_);
      bytes_ = std::move(more);
      capacity_ *= 2;
    }
  }
  void clear() { size_ = 0; }
  // Any instruction since the beginning named r8, r9, r10 or r11.
  [[nodiscard]] bool touches_more() const { return touches_more_; }
  [[nodiscard]] uint32_t position() const { return static_cast<uint32_t>(size_); }
  [[nodiscard]] const uint8_t* data() const { return bytes_.get(); }
  // The displacement at `at`, of one byte or of four, leads to `to`.
  void point8(uint32_t at, uint32_t to) { bytes_[at] = static_cast<uint8_t>(to - at - 1); }
  void point32(uint32_t at, uint32_t to) {
    const uint32_t distance = to - at - 4;
    std::memcpy(&bytes_[at], &distance, 4);
  }
  // That of one byte leads here.
  void land(uint32_t at) { point8(at, position()); }

  void byte(unsigned value) { bytes_[size_++] = static_cast<uint8_t>(value); }
  void word32(int32_t value) {
    std::memcpy(&bytes_[size_], &value, 4);
    size_ += 4;
  }
  void word64(uint64_t value) {
    std::memcpy(&bytes_[size_], &value, 8);
    size_ += 8;
  }

  // opcode reg, rm (both registers). `force_rex` makes sil, dil, bpl out of the byte
  // registers 4..7.
  void op_rr(bool wide, unsigned opcode, unsigned reg, unsigned rm, bool force_rex = false) {
    rex(wide, reg, 0, rm, force_rex);
    op(opcode);
    byte(0xc0 | (reg & 7) << 3 | (rm & 7));
  }
  // opcode reg, [base + disp]
  void op_rm(bool wide, unsigned opcode, unsigned reg, unsigned base, int32_t disp,
             bool force_rex = false) {
    rex(wide, reg, 0, base, force_rex);
    op(opcode);
    const bool has_sib = (base & 7) == 4;
    const unsigned low = (reg & 7) << 3 | (base & 7);
    if (disp == 0 && (base & 7) != 5) {
      byte(low);
      if (has_sib) {
        byte(0x24);
      }
    } else if (disp >= -128 && disp <= 127) {
      byte(0x40 | low);
      if (has_sib) {
        byte(0x24);
      }
      byte(static_cast<unsigned>(disp));
    } else {
      byte(0x80 | low);
      if (has_sib) {
        byte(0x24);
      }
      word32(disp);
    }
  }
  // lea reg, [base + index * (1 << scale) + disp]; index is not rsp
  void lea(bool wide, unsigned reg, unsigned base, unsigned index, unsigned scale, int32_t disp) {
    rex(wide, reg, index, base, false);
    byte(0x8d);
    const unsigned sib = scale << 6 | (index & 7) << 3 | (base & 7);
    if (disp == 0 && (base & 7) != 5) {
      byte((reg & 7) << 3 | 4);
      byte(sib);
    } else if (disp >= -128 && disp <= 127) {
      byte(0x40 | (reg & 7) << 3 | 4);
      byte(sib);
      byte(static_cast<unsigned>(disp));
    } else {
      byte(0x80 | (reg & 7) << 3 | 4);
      byte(sib);
      word32(disp);
    }
  }
  void lea(bool wide, unsigned reg, unsigned base, int32_t disp) {
    op_rm(wide, 0x8d, reg, base, disp);
  }

  // lea reg, [rip + 0]; returns the position of the displacement
  uint32_t lea_rip(unsigned reg) {
    rex(true, reg, 0, 0, false);
    byte(0x8d);
    byte((reg & 7) << 3 | 5);
    word32(0);
    return position() - 4;
  }
  void bswap(bool wide, unsigned reg) {
    rex(wide, 0, 0, reg, false);
    byte(0x0f);
    byte(0xc8 | (reg & 7));
  }

  void mov(bool wide, unsigned to, unsigned from) { op_rr(wide, 0x8b, to, from); }
  void mov_imm(unsigned to, uint64_t value) {
    if (value == 0) {
      op_rr(false, 0x31, to, to);
    } else if (value <= UINT32_MAX) {
      rex(false, 0, 0, to, false);
      byte(0xb8 | (to & 7));
      word32(static_cast<int32_t>(static_cast<uint32_t>(value)));
    } else if (static_cast<int64_t>(value) == static_cast<int32_t>(value)) {
      op_rr(true, 0xc7, 0, to);
      word32(static_cast<int32_t>(value));
    } else {
      rex(true, 0, 0, to, false);
      byte(0xb8 | (to & 7));
      word64(value);
    }
  }
  void load64(unsigned to, unsigned base, int32_t disp) { op_rm(true, 0x8b, to, base, disp); }
  void store64(unsigned base, int32_t disp, unsigned from) { op_rm(true, 0x89, from, base, disp); }
  void group1_rr(bool wide, Group1 kind, unsigned dst, unsigned src) {
    op_rr(wide, kind << 3 | 3U, dst, src);
  }
  void group1_imm(bool wide, Group1 kind, unsigned dst, int32_t imm) {
    if (imm >= -128 && imm <= 127) {
      op_rr(wide, 0x83, kind, dst);
      byte(static_cast<unsigned>(imm));
    } else if (dst == kRax) {
      rex(wide, 0, 0, 0, false);
      byte(kind << 3 | 5U);
      word32(imm);
    } else {
      op_rr(wide, 0x81, kind, dst);
      word32(imm);
    }
  }
  void shift_imm(bool wide, Group2 kind, unsigned dst, unsigned count) {
    if (count == 1) {
      op_rr(wide, 0xd1, kind, dst);
    } else {
      op_rr(wide, 0xc1, kind, dst);
      byte(count);
    }
  }
  void shift_cl(bool wide, Group2 kind, unsigned dst) { op_rr(wide, 0xd3, kind, dst); }
  // BMI2 shlx, shrx, sarx dst, src, count (VEX.LZ.{66,F2,F3}.0F38.W F7 /r; SDM 2A §2.3)
  void shift_bmi2(bool wide, Group2 kind, unsigned dst, unsigned src, unsigned count) {
    const unsigned prefix = kind == kShl ? 1 : kind == kShr ? 3 : 2;
    note(dst);
    note(src);
    note(count);
    byte(0xc4);
    byte(((dst < 8) ? 0x80U : 0U) | 0x40U | ((src < 8) ? 0x20U : 0U) | 2U);
    byte((wide ? 0x80U : 0U) | (~count & 15U) << 3 | prefix);
    byte(0xf7);
    byte(0xc0 | (dst & 7) << 3 | (src & 7));
  }
  void test_rr(bool wide, unsigned a, unsigned b) { op_rr(wide, 0x85, a, b); }
  void push(unsigned reg) {
    note(reg);
    if (reg >= 8) {
      byte(0x41);
    }
    byte(0x50 | (reg & 7));
  }
  void pop(unsigned reg) {
    note(reg);
    if (reg >= 8) {
      byte(0x41);
    }
    byte(0x58 | (reg & 7));
  }
  void ret() { byte(0xc3); }
  // Jumps of which nobody knows yet where to; each returns the position of its displacement.
  uint32_t short_jump() { return short_form(0xeb); }
  uint32_t short_jump_if(Condition condition) { return short_form(0x70U | condition); }
  uint32_t near_jump() { return near_form(0xe9); }
  uint32_t near_jump_if(Condition condition) { return near_form(0x0f80U | condition); }

 private:
  uint32_t short_form(unsigned opcode) {
    byte(opcode);
    byte(0);
    return position() - 1;
  }
  uint32_t near_form(unsigned opcode) {
    op(opcode);
    word32(0);
    return position() - 4;
  }
  void note(unsigned reg) { touches_more_ = touches_more_ || (reg >= kR8 && reg <= kR11); }
  void rex(bool wide, unsigned reg, unsigned index, unsigned base, bool force) {
    note(reg);
    note(index);
    note(base);
    const unsigned bits = (wide ? 8U : 0U) | (reg >> 3) << 2 | (index >> 3) << 1 | base >> 3;
    if (bits != 0 || force) {
      byte(0x40 | bits);
    }
  }
  void op(unsigned opcode) {  // one byte, or two with 0f in front
    if (opcode > 0xff) {
      byte(opcode >> 8);
    }
    byte(opcode);
  }

  size_t size_ = 0;
  size_t capacity_;
  bool touches_more_ = false;
  std::unique_ptr<uint8_t[]> bytes_;
};

}  // namespace bpftime::x64
