// Arithmetic: numbers by the scalar domain, pointers by the rules below.
#include <cerrno>

#include "isa/opcode.hpp"
#include "verifier/engine.hpp"

namespace bpftime {

bool Engine::check_readable(int n) {
  if (reg(n).kind == RegKind::kNone) {
    verdict_.reg = n;
    return refuse(EACCES, "R%d !read_ok", n);
  }
  return true;
}

// Before it is copied: what is equal has one id. A number at a distance from others gets an id of its
// own, else a loop that counts with copies would be new in each round.
void Engine::name_copies(Reg* source) {
  if (source->has_delta) {
    source->id = 0;
    source->has_delta = false;
    source->delta = 0;
  }
  if (source->id == 0 && !source->num.is_constant()) {
    source->id = new_id();
  }
}

// Pointers stay so close to their object that no later sum can wrap.
bool Engine::check_offset_sane(const Reg& r, int regno) {
  const auto& range = r.num.range;
  const bool out = r.num.is_constant() ? range.smin >= kMostOffset || range.smin <= -kMostOffset
                                       : range.smin >= kMostOffset || range.smin <= -kMostOffset;
  if (range.smin == INT64_MIN) {
    return refuse(EACCES,
                  "math between %s pointer and register with unbounded min value is not allowed",
                  kind_name(r));
  }
  if (out || r.off >= kMostOffset || r.off <= -kMostOffset) {
    verdict_.reg = regno;
    return refuse(EACCES, "value %lld makes %s pointer be out of bounds",
                  static_cast<long long>(out ? range.smin : r.off), kind_name(r));
  }
  return true;
}

bool Engine::check_pointer_alu(const bpf_insn& insn, Reg* dst, Reg pointer, const Reg& number,
                               bool is_dst_pointer) {
  const uint8_t op = insn_op(insn.code);
  const int regno = insn.dst_reg;
  verdict_.reg = regno;
  if (insn_class(insn.code) != BPF_ALU64) {
    if (op == BPF_SUB && !leaks_forbidden()) {
      *dst = Reg::scalar(Scalar::unknown().zero_extended(32));
      return true;
    }
    return refuse(EACCES, "R%d 32-bit pointer arithmetic prohibited", regno);
  }
  if (pointer.or_null()) {
    return refuse(EACCES, "R%d pointer arithmetic on %s prohibited, null-check it first", regno,
                  kind_name(pointer));
  }
  const Scalar& n = number.num;
  if (pointer.kind == RegKind::kMem && (pointer.flags & kUntrusted) != 0) {
    // It may lie anywhere before and after.
    *dst = is_dst_pointer ? pointer : Reg::unknown();
    return true;
  }
  switch (pointer.kind) {
    case RegKind::kMap:
      if (op == BPF_ADD && n.is_constant() && n.bits.value == 0) {
        break;
      }
      return refuse(EACCES, "R%d pointer arithmetic on %s prohibited", regno, kind_name(pointer));
    case RegKind::kFlowKeys:
      if (n.is_constant()) {
        break;
      }
      [[fallthrough]];
    case RegKind::kPacketEnd:
    case RegKind::kSocket:
    case RegKind::kFunction:
    case RegKind::kDynptr:
      return refuse(EACCES, "R%d pointer arithmetic on %s prohibited", regno, kind_name(pointer));
    default:
      break;
  }
  if (op != BPF_ADD && op != BPF_SUB) {
    return refuse(EACCES, "R%d %s on pointer prohibited", regno,
                  op == BPF_AND || op == BPF_OR || op == BPF_XOR ? "bitwise operator"
                                                                 : "arithmetic with this operator");
  }
  if (op == BPF_SUB && !is_dst_pointer) {
    return refuse(EACCES, "R%d tried to subtract pointer from scalar", regno);
  }
  if (op == BPF_SUB && pointer.kind == RegKind::kStack) {
    return refuse(EACCES, "R%d subtraction from stack pointer prohibited", regno);
  }
  Reg as_pointer = pointer;
  as_pointer.num = n;
  as_pointer.off = 0;
  if (!check_offset_sane(as_pointer, regno) || !check_offset_sane(pointer, regno)) {
    return false;
  }
  Reg result = pointer;
  const int64_t known = n.is_constant() ? static_cast<int64_t>(n.bits.value) : 0;
  const int64_t sum = op == BPF_ADD ? int64_t{pointer.off} + known : int64_t{pointer.off} - known;
  if (n.is_constant() && sum >= INT32_MIN && sum <= INT32_MAX) {
    result.off = static_cast<int32_t>(sum);
  } else {
    result.num = alu(op, false, pointer.num, n);
    if (pointer.kind == RegKind::kPacket || pointer.kind == RegKind::kPacketMeta) {
      result.id = new_id();
      result.size = 0;
    }
  }
  if (!check_offset_sane(result, regno)) {
    return false;
  }
  if (leaks_forbidden() && result.kind == RegKind::kStack &&
      (!result.num.is_constant() || result.off >= 0 || result.off < -kMostStack)) {
    return refuse(EACCES,
                  "R%d stack pointer leaves its frame or moves by an unknown number, "
                  "prohibited in strict mode",
                  regno);
  }
  *dst = result;
  verdict_.reg = -1;
  return true;
}

bool Engine::check_alu(const bpf_insn& insn) {
  const uint8_t op = insn_op(insn.code);
  const bool is64 = insn_class(insn.code) == BPF_ALU64;
  const bool has_reg = insn_has_reg(insn.code);
  Reg& dst = reg(insn.dst_reg);
  if (op == BPF_NEG || op == BPF_END) {
    if (!check_readable(insn.dst_reg)) {
      return false;
    }
    if (!dst.is_scalar()) {
      if (leaks_forbidden()) {
        return refuse(EACCES, "R%d pointer arithmetic prohibited", insn.dst_reg);
      }
      dst = Reg::unknown();
      if (!is64 && op == BPF_NEG) {
        dst.num = dst.num.zero_extended(32);
      }
      return true;
    }
    if (op == BPF_NEG) {
      dst = Reg::scalar(alu(BPF_NEG, !is64, dst.num, Scalar::constant(0)));
    } else {
      const auto n = static_cast<unsigned>(insn.imm);
      const bool swaps = is64 || has_reg;  // bswap, or to big endian
      dst = Reg::scalar(swaps ? byte_swapped(dst.num, n) : dst.num.zero_extended(n));
    }
    return true;
  }
  if (op == BPF_MOV) {
    if (!has_reg) {
      dst = Reg::scalar(is64 ? Scalar::constant(static_cast<uint64_t>(int64_t{insn.imm}))
                             : Scalar::constant(static_cast<uint32_t>(insn.imm)));
      return true;
    }
    if (!check_readable(insn.src_reg)) {
      return false;
    }
    Reg& src = reg(insn.src_reg);
    if (is64 && insn.off == 1) {
      bool has_arena = false;
      for (const VerifierMap& m : program_.maps) {
        has_arena |= m.map_type == 33;
      }
      if (!has_arena) {
        return refuse(
            EINVAL,
            "addr_space_cast insn can only be used in a program that has an associated arena");
      }
      dst = Reg::unknown();
      if (insn.imm == 1) {
        dst.kind = RegKind::kArena;
      }
      return true;
    }
    if (!src.is_scalar()) {
      if (is64 && insn.off == 0) {
        dst = src;
        return true;
      }
      if (leaks_forbidden()) {
        return refuse(EACCES, "R%d partial copy of pointer", insn.src_reg);
      }
      dst = Reg::unknown();
      if (!is64) {
        dst.num = dst.num.zero_extended(32);
      }
      return true;
    }
    // Does the copy have the same value as the whole register?
    const uint64_t umax = src.num.range.umax;
    const bool is_same = insn.off == 0 ? is64 || umax <= UINT32_MAX : umax < 1ULL << (insn.off - 1);
    if (is_same) {
      name_copies(&src);
    }
    Reg copy = src;
    if (!is_same) {
      copy.id = 0;
      copy.has_delta = false;
      copy.delta = 0;
    }
    copy.precise = false;
    if (insn.off != 0) {
      copy.num = copy.num.sign_extended(static_cast<unsigned>(insn.off));
    }
    if (!is64) {
      copy.num = copy.num.zero_extended(32);
    }
    dst = copy;
    return true;
  }
  if (!check_readable(insn.dst_reg) || (has_reg && !check_readable(insn.src_reg))) {
    return false;
  }
  if (!has_reg) {
    if ((op == BPF_DIV || op == BPF_MOD) && insn.imm == 0) {
      return refuse(EINVAL, "div by zero");
    }
    if ((op == BPF_LSH || op == BPF_RSH || op == BPF_ARSH) &&
        (insn.imm < 0 || insn.imm >= (is64 ? 64 : 32))) {
      return refuse(EINVAL, "invalid shift %d", insn.imm);
    }
  }
  const Reg number = has_reg
                         ? reg(insn.src_reg)
                         : Reg::scalar(Scalar::constant(static_cast<uint64_t>(int64_t{insn.imm})));
  if (dst.kind == RegKind::kArena || number.kind == RegKind::kArena) {
    if (!is64) {
      dst = Reg::scalar(Scalar::unknown().zero_extended(32));
    } else {
      dst = Reg::unknown();
      dst.kind = RegKind::kArena;
    }
    return true;
  }
  if (!dst.is_scalar() && !number.is_scalar()) {
    if (op == BPF_SUB && !leaks_forbidden()) {
      dst = Reg::unknown();
      if (!is64) {
        dst.num = dst.num.zero_extended(32);
      }
      return true;
    }
    verdict_.reg = insn.dst_reg;
    return refuse(EACCES, "R%d pointer arithmetic prohibited", insn.dst_reg);
  }
  if (!dst.is_scalar()) {
    return (!has_reg || mark_precise(insn.src_reg)) &&
           check_pointer_alu(insn, &dst, dst, number, true);
  }
  if (!number.is_scalar()) {
    return mark_precise(insn.dst_reg) && check_pointer_alu(insn, &dst, number, Reg(dst), false);
  }
  Reg result;
  if (op == BPF_DIV || op == BPF_MOD) {
    result = Reg::unknown();
    if (!is64) {
      result.num = result.num.zero_extended(32);
    }
  } else {
    result = Reg::scalar(alu(op, !is64, dst.num, number.num));
  }
  // r2 = r1; r2 += 4 keeps them linked.
  if (is64 && op == BPF_ADD && dst.id != 0 && !dst.has_delta && number.num.is_constant() &&
      !(has_reg && insn.src_reg == insn.dst_reg)) {
    const auto delta = static_cast<int64_t>(number.num.bits.value);
    if (delta >= INT32_MIN && delta <= INT32_MAX) {
      result.id = dst.id;
      result.has_delta = true;
      result.delta = static_cast<int32_t>(delta);
    }
  }
  dst = result;
  return true;
}

}  // namespace bpftime
