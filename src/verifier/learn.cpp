// What compilers may rely on of single instructions (isa/operand_facts.hpp): joined over all paths. Paths that were cut off
// are covered: pointers have to be alike for that, and the numbers that are noted are marked precise.
#include <algorithm>
#include <bit>

#include "isa/opcode.hpp"
#include "verifier/engine.hpp"

namespace bpftime {
namespace {

uint8_t place_of(const Reg& base) {
  switch (base.kind) {
    case RegKind::kStack:
      return kToStack;
    case RegKind::kCtx:
      return kToContext;
    case RegKind::kMapValue:
      return kToMapValue;
    case RegKind::kPacket:
    case RegKind::kPacketMeta:
      return kToPacket;
    case RegKind::kMem:
      return (base.flags & kRingbufRecord) != 0 ? kToRecord : kToOther;
    default:
      return kToOther;
  }
}

// log2; the objects themselves are at multiples of 8, as far as they are known.
uint8_t alignment_of(const Reg& base, int64_t off, uint8_t place) {
  if (place == kToOther || place == kToPacket) {
    return 0;
  }
  const uint64_t bits =
      base.num.bits.value | base.num.bits.mask | static_cast<uint64_t>(off + int64_t{base.off});
  return static_cast<uint8_t>(std::min(std::countr_zero(bits), 3));
}

bool is_access(const bpf_insn& insn) {
  const uint8_t insn_group = insn_class(insn.code);
  const uint8_t mode = insn_mode(insn.code);
  return insn_group == BPF_ST || insn_group == BPF_STX ||
         (insn_group == BPF_LDX && (mode == BPF_MEM || mode == kModeMemSx));
}

// Helpers that are handed the context and do not look at it.
bool is_context_token(uint32_t helper) {
  return helper == BPF_FUNC_perf_event_output || helper == BPF_FUNC_get_func_ip ||
         helper == BPF_FUNC_get_attach_cookie;
}

bool is_division(const bpf_insn& insn) {
  return is_alu_class(insn.code) &&
         (insn_op(insn.code) == BPF_DIV || insn_op(insn.code) == BPF_MOD);
}

}  // namespace

void Engine::learn_access(uint32_t at) {
  const bpf_insn& insn = code_.insns[at];
  const bool is_load = insn_class(insn.code) == BPF_LDX ||
                       (insn_mode(insn.code) == BPF_ATOMIC && insn.imm == kLoadAcquire &&
                        insn_class(insn.code) == BPF_STX);
  const Reg& base = reg(is_load ? insn.src_reg : insn.dst_reg);
  OperandFacts& known = verdict_.facts.operands[at];
  const uint8_t place = place_of(base);
  const uint8_t alignment = alignment_of(base, insn.off, place);
  known.alignment = is_first_visit_ ? alignment : std::min(known.alignment, alignment);
  known.points_to |= place;
}

// A number that lies in [lowest, highest] on this path.
void Engine::learn_number(uint32_t at, uint64_t lowest, uint64_t highest) {
  OperandFacts& known = verdict_.facts.operands[at];
  known.lowest = is_first_visit_ ? lowest : std::min(known.lowest, lowest);
  known.highest = is_first_visit_ ? highest : std::max(known.highest, highest);
}

// That a divisor is not zero is worth knowing; to know it, the path has to rely on it.
bool Engine::learn_divisor(uint32_t at) {
  const bpf_insn& insn = code_.insns[at];
  if (!insn_has_reg(insn.code) || !reg(insn.src_reg).is_scalar()) {
    return true;
  }
  const Scalar& divisor = reg(insn.src_reg).num;
  const bool is_half = insn_class(insn.code) == BPF_ALU;
  const uint64_t lowest = is_half ? divisor.low.umin : divisor.range.umin;
  const bool was_lost = !is_first_visit_ && verdict_.facts.operands[at].lowest == 0;
  if (lowest == 0 || was_lost) {
    learn_number(at, 0, UINT64_MAX);
    return true;
  }
  learn_number(at, lowest, is_half ? divisor.low.umax : divisor.range.umax);
  return mark_precise(insn.src_reg);
}

// Where the context's address becomes a number or goes into memory of others, whoever finds it there may read all.
void Engine::learn_context(uint32_t at) {
  const bpf_insn& insn = code_.insns[at];
  const auto is_context = [&](int n) { return reg(n).kind == RegKind::kCtx; };
  const uint8_t insn_group = insn_class(insn.code);
  if (insn_group == BPF_STX) {
    const bool stays = insn_mode(insn.code) == BPF_MEM && reg(insn.dst_reg).kind == RegKind::kStack;
    verdict_.facts.passes_context |= is_context(insn.src_reg) && !stays;
  } else if (is_alu_class(insn.code)) {
    const uint8_t op = insn_op(insn.code);
    const bool has_reg = insn_has_reg(insn.code);
    const bool is_sum =
        (op == BPF_ADD || op == BPF_SUB) &&
        !(has_reg && reg(insn.src_reg).is_pointer() && reg(insn.dst_reg).is_pointer());
    const bool stays = insn_group == BPF_ALU64 && insn.off == 0 && (op == BPF_MOV || is_sum);
    const bool is_read =
        (op != BPF_MOV && is_context(insn.dst_reg)) || (has_reg && is_context(insn.src_reg));
    verdict_.facts.passes_context |= is_read && !stays;
  } else if (insn.code == kOpCall && insn.src_reg == kCallKfunc) {
    for (int n = 1; n <= 5; ++n) {
      verdict_.facts.passes_context |= is_context(n);
    }
  }
}

bool Engine::learn_before(uint32_t at) {
  const bpf_insn& insn = code_.insns[at];
  learn_context(at);
  if (is_access(insn)) {
    learn_access(at);
  } else if (is_division(insn)) {
    return learn_divisor(at);
  }
  return true;
}

// The index of an array's element, which lies in the stack; worth knowing when it is below `end`.
bool Engine::learn_index(uint32_t at, const Reg& key, uint32_t end) {
  const bool was_lost = !is_first_visit_ && verdict_.facts.operands[at].highest >= end;
  const int64_t address = key.off + static_cast<int64_t>(key.num.bits.value);
  if (was_lost || key.kind != RegKind::kStack || !key.num.is_constant() || address % 4 != 0) {
    learn_number(at, 0, UINT64_MAX);
    return true;
  }
  const auto slot = static_cast<int>((-address - 1) / 8);
  const StackSlot& s = slot_at(key.frame, slot);
  const auto* const begin = s.bytes.data() + (address % 8 == 0 ? 0 : 4);
  if (end > 0 && std::all_of(begin, begin + 4, [](ByteKind b) { return b == ByteKind::kZero; })) {
    learn_number(at, 0, 0);
    return true;
  }
  const bool is_number = address % 8 == 0 && s.is_spill() && s.bytes[3] == ByteKind::kSpill &&
                         s.reg.is_scalar() && s.reg.num.low.umax < end;
  if (!is_number) {
    learn_number(at, 0, UINT64_MAX);
    return true;
  }
  learn_number(at, s.reg.num.low.umin, s.reg.num.low.umax);
  return mark_slot_precise(key.frame, slot);
}

// Of a jump that was just walked; `both`: the other side waits.
void Engine::learn_ways(uint32_t at, bool both) {
  const bpf_insn& insn = code_.insns[at];
  if (!is_jump_class(insn.code) || insn.code == kOpExit || insn.code == kOpCall) {
    return;
  }
  const bool jumps = cur().insn == static_cast<uint32_t>(jump_target(insn, at));
  verdict_.facts.operands[at].ways |= both ? kGoesOn | kJumps : jumps ? kJumps : kGoesOn;
}

// Of a call whose arguments are in order.
bool Engine::learn_call(uint32_t at, const Prototype& proto, const CallArgs& args) {
  OperandFacts& known = verdict_.facts.operands[at];
  for (int n = 1; n <= 5; ++n) {
    const Param kind = proto.args[n - 1].kind;
    verdict_.facts.passes_context |= reg(n).kind == RegKind::kCtx && kind != Param::kNone &&
                                     (kind != Param::kCtx || !is_context_token(proto.id));
  }
  const Reg& r1 = reg(1);
  const bool is_map = r1.kind == RegKind::kMap && (r1.flags & kMapUid) == 0;
  const uint32_t map_id = is_map ? map(r1.object).id : UINT32_MAX;
  known.map = is_first_visit_ || known.map == map_id ? map_id : UINT32_MAX;
  if (args.size_count == 1) {
    learn_number(at, args.size_min, static_cast<uint64_t>(args.size_max));
    return true;
  }
  if (code_.insns[at].imm == BPF_FUNC_map_lookup_elem && is_map &&
      map(r1.object).map_type == BPF_MAP_TYPE_ARRAY) {
    return learn_index(at, reg(2), map(r1.object).max_entries);
  }
  learn_number(at, 0, UINT64_MAX);
  return true;
}

}  // namespace bpftime
