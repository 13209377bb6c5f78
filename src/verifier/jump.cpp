// Conditional jumps: which ways are open, and what is known on each.
#include <algorithm>
#include <cerrno>

#include "isa/opcode.hpp"
#include "verifier/engine.hpp"

namespace bpftime {
namespace {

constexpr uint32_t kMostPacket = 0xffff;

uint64_t pack_linked(int position, uint8_t frame, bool is_slot, size_t index) {
  const uint64_t entry = 1U | frame << 1U | (is_slot ? 1U : 0U) << 4U | index << 5U;
  return entry << (12 * position);
}

bool is_known_not_null(const Reg& r) {
  if (r.or_null() || (r.flags & kUntrusted) != 0) {
    return false;
  }
  switch (r.kind) {
    case RegKind::kMap:
    case RegKind::kMapValue:
    case RegKind::kMapKey:
    case RegKind::kSocket:
    case RegKind::kMem:
      return true;
    case RegKind::kBtf:
      return (r.flags & (kTrusted | kAllocated)) != 0 && (r.flags & kRcu) == 0;
    default:
      return false;
  }
}

}  // namespace

// Everything that has one of the ids of two registers of the top frame (`b` < 0: of one), at most five:
// first these two, since what the others become depends on them.
uint64_t Engine::find_linked(const State& state, int a, int b) {
  const auto& top = state.top().regs;
  const uint32_t id_a = top[static_cast<size_t>(a)].id;
  const uint32_t id_b = b < 0 ? 0 : top[static_cast<size_t>(b)].id;
  uint64_t linked = 0;
  int count = 0;
  const auto take = [&](const Reg& r, uint8_t frame, bool is_slot, size_t index) {
    if (count < 5 && r.is_scalar() && r.id != 0 && (r.id == id_a || r.id == id_b)) {
      linked |= pack_linked(count++, frame, is_slot, index);
    }
  };
  const auto is_operand = [&](size_t r) {
    return static_cast<int>(r) == a || static_cast<int>(r) == b;
  };
  for (size_t r = 0; r < 10; ++r) {
    if (is_operand(r)) {
      take(top[r], state.depth(), false, r);
    }
  }
  for (size_t f = state.frames.size(); f-- > 0;) {
    const Frame& frame = state.frames[f];
    for (size_t r = 0; r < 10; ++r) {
      if (f != state.depth() || !is_operand(r)) {
        take(frame.regs[r], static_cast<uint8_t>(f), false, r);
      }
    }
    for (size_t s = 0; s < frame.slots.size(); ++s) {
      if (frame.slots[s].is_spill()) {
        take(frame.slots[s].reg, static_cast<uint8_t>(f), true, s);
      }
    }
  }
  return count > 1 ? linked : 0;
}

// What became known of one number holds for those linked with it.
void Engine::sync_linked(State* state, const Reg& known, uint64_t linked) {
  for (int i = 0; i < 5; ++i) {
    const auto bits = static_cast<uint32_t>(linked >> (12 * i) & 0xfff);
    if ((bits & 1) == 0) {
      continue;
    }
    Frame& frame = state->frames[bits >> 1 & 7];
    Reg& r = (bits >> 4 & 1) != 0 ? frame.slots[bits >> 5].reg : frame.regs[bits >> 5];
    if (&r == &known || r.id != known.id) {
      continue;
    }
    if (r.has_delta == known.has_delta && r.delta == known.delta) {
      r.num = known.num;
      continue;
    }
    const int64_t delta = int64_t{r.delta} - int64_t{known.delta};
    Scalar moved = alu(BPF_ADD, false, known.num, Scalar::constant(static_cast<uint64_t>(delta)));
    // Both are true of it.
    Scalar own = r.num;
    if (refine(BPF_JEQ, false, true, &own, &moved)) {
      r.num = own;
    }
  }
}

void Engine::mark_null(State* state, uint32_t id, bool is_null) {
  if (id == 0) {
    return;
  }
  uint32_t released = 0;
  each_reg(state, [&](Reg& r) {
    if (!r.or_null() || r.id != id) {
      return;
    }
    if (is_null) {
      released = r.ref == id ? r.ref : released;  // a dynptr's slice does not own what it names
      const bool was_precise = r.precise;
      r = Reg::scalar(Scalar::constant(0));
      r.precise = was_precise;
      return;
    }
    r.flags &= static_cast<uint16_t>(~kOrNull);
    if (r.kind == RegKind::kMapValue) {
      const VerifierMap& m = map(r.object);
      if (m.inner != nullptr) {
        Reg inner = Reg::pointer(RegKind::kMap, map_index(m.inner.get()), kMapUid);
        inner.owner = r.id;
        r = inner;
        return;
      }
      if (fields_of(r.object).empty()) {
        r.id = 0;
      } else if (r.owner == 0) {
        r.owner = r.id;  // tells values with a lock apart
        r.id = 0;
      }
    } else if (r.ref == 0) {
      r.id = 0;
    }
  });
  if (is_null && released != 0) {
    // What was not given need not be released.
    auto& refs = state->refs;
    refs.erase(std::remove_if(refs.begin(), refs.end(),
                              [&](const Ref& ref) { return ref.id == released; }),
               refs.end());
  }
}

// `pointer` is at most the packet's end (`beyond` = 1: below it).
void Engine::match_packet(State* state, const Reg& pointer, bool is_meta, int beyond) {
  if (pointer.off < 0 || (pointer.off == 0 && beyond == 0)) {
    return;
  }
  if (pointer.num.range.smin < 0 || pointer.num.range.umax > kMostPacket ||
      static_cast<uint64_t>(pointer.off) + pointer.num.range.umax > kMostPacket) {
    return;
  }
  const auto size = static_cast<uint32_t>(pointer.off + beyond);
  const RegKind kind = is_meta ? RegKind::kPacketMeta : RegKind::kPacket;
  each_reg(state, [&](Reg& r) {
    if (r.kind == kind && r.id == pointer.id) {
      r.size = std::max(r.size, size);
    }
  });
}

bool Engine::packet_compare(const bpf_insn& insn, State* taken, State* fallthrough) {
  if (!insn_has_reg(insn.code) || insn_class(insn.code) != BPF_JMP) {
    return false;
  }
  const Reg dst = reg(insn.dst_reg);
  const Reg src = reg(insn.src_reg);
  const auto is_begin = [](const Reg& r) {
    return r.kind == RegKind::kPacket && r.off == 0 && r.num.is_constant() && r.num.bits.value == 0;
  };
  const auto is_pair = [&](const Reg& p, const Reg& end) {
    return (p.kind == RegKind::kPacket && end.kind == RegKind::kPacketEnd) ||
           (p.kind == RegKind::kPacketMeta && is_begin(end));
  };
  uint8_t op = insn_op(insn.code);
  const Reg* pointer = nullptr;
  if (is_pair(dst, src)) {
    pointer = &dst;
  } else if (is_pair(src, dst)) {
    pointer = &src;
    switch (op) {  // end OP p is p OP' end
      case BPF_JGT:
        op = BPF_JLT;
        break;
      case BPF_JLT:
        op = BPF_JGT;
        break;
      case BPF_JGE:
        op = BPF_JLE;
        break;
      case BPF_JLE:
        op = BPF_JGE;
        break;
      default:
        return false;
    }
  } else {
    return false;
  }
  const bool is_meta = pointer->kind == RegKind::kPacketMeta;
  switch (op) {
    case BPF_JGT:
      match_packet(fallthrough, *pointer, is_meta, 0);
      return true;
    case BPF_JGE:
      match_packet(fallthrough, *pointer, is_meta, 1);
      return true;
    case BPF_JLT:
      match_packet(taken, *pointer, is_meta, 1);
      return true;
    case BPF_JLE:
      match_packet(taken, *pointer, is_meta, 0);
      return true;
    default:
      return false;
  }
}

bool Engine::check_may_goto(const bpf_insn& insn) {
  const uint32_t at = cur().insn;
  if (!push_branch(static_cast<uint32_t>(jump_target(insn, at)))) {
    return false;
  }
  // The branch that leaves may find any round's numbers; the one that stays, this round's. When a
  // round's numbers differ from the one before and nothing relied on them, they are forgotten.
  // (This state itself was stored just now: the round before is the one above it.)
  State& state = cur();
  const State* previous = nullptr;
  for (State* s = state.parent; s != nullptr; s = s->parent) {
    if (s->insn == at && s->may_goto_depth != state.may_goto_depth &&
        s->frames.size() == state.frames.size()) {
      previous = s;
      break;
    }
  }
  if (previous != nullptr) {
    widen_against(&state, *previous);
  }
  ++state.may_goto_depth;
  verdict_.facts.most_back_edges = UINT32_MAX;
  state.insn = at + 1;
  return true;
}

bool Engine::go(const Comparison& c, bool taken) {
  cur().insn = taken ? c.target : cur().insn + 1;
  return true;
}

// More numbers are linked than a step can name: those left out are not linked any longer.
void Engine::unlink_others(State* state, const Comparison& c, uint64_t linked) {
  const auto in_list = [&](size_t f, bool is_slot, size_t index) {
    for (int i = 0; i < 5; ++i) {
      const auto bits = static_cast<uint32_t>(linked >> (12 * i) & 0xfff);
      if ((bits & 1) != 0 && (bits >> 1 & 7) == f && ((bits >> 4 & 1) != 0) == is_slot &&
          bits >> 5 == index) {
        return true;
      }
    }
    return false;
  };
  const auto unlink = [&](Reg* r) {
    if (r->is_scalar() && r->id != 0 && (r->id == c.dst.id || r->id == c.src.id)) {
      r->id = 0;
      r->has_delta = false;
      r->delta = 0;
    }
  };
  for (size_t f = 0; f < state->frames.size(); ++f) {
    Frame& frame = state->frames[f];
    for (size_t r = 0; r < 10; ++r) {
      if (!in_list(f, false, r)) {
        unlink(&frame.regs[r]);
      }
    }
    for (size_t i = 0; i < frame.slots.size(); ++i) {
      if (frame.slots[i].is_spill() && !in_list(f, true, i)) {
        unlink(&frame.slots[i].reg);
      }
    }
  }
}

// What a branch knows of both operands, and of what is linked with them.
void Engine::put_operands(State* state, const Comparison& c, const Scalar& dst, const Scalar& src,
                          uint64_t linked) {
  auto& regs = state->top().regs;
  regs[c.insn.dst_reg].num = dst;
  if (c.has_reg && !c.is_same_reg) {
    regs[c.insn.src_reg].num = src;
  }
  if (linked != 0 && c.dst.id != 0) {
    sync_linked(state, regs[c.insn.dst_reg], linked);
  }
  if (linked != 0 && c.has_reg && c.src.id != 0) {
    sync_linked(state, regs[c.insn.src_reg], linked);
  }
  if ((c.dst.id != 0 || c.src.id != 0) && linked >> 48 != 0) {
    unlink_others(state, c, linked);
  }
}

bool Engine::branch_on_numbers(const Comparison& c) {
  Scalar taken_dst = c.dst.num, taken_src = c.src.num;
  Scalar other_dst = c.dst.num, other_src = c.src.num;
  const bool may_take = refine(c.op, c.is_half, true, &taken_dst, &taken_src);
  const bool may_pass = refine(c.op, c.is_half, false, &other_dst, &other_src);
  if (may_take != may_pass) {
    return mark_precise(c.insn.dst_reg) && (!c.has_reg || mark_precise(c.insn.src_reg)) &&
           go(c, may_take);
  }
  if (!may_take || c.is_same_reg) {
    taken_dst = other_dst = c.dst.num;
    taken_src = other_src = c.src.num;
  }
  const uint64_t linked = find_linked(cur(), c.insn.dst_reg, c.has_reg ? c.insn.src_reg : -1);
  now().linked = linked;
  State* taken = nullptr;
  if (!push_branch(c.target, &taken)) {
    return false;
  }
  put_operands(taken, c, taken_dst, taken_src, linked);
  put_operands(&cur(), c, other_dst, other_src, linked);
  return go(c, false);
}

bool Engine::branch_on_pointers(const Comparison& c) {
  const bool is_equality = !c.is_half && (c.op == BPF_JEQ || c.op == BPF_JNE);
  State* taken = nullptr;
  // A pointer that may be null against null.
  if (is_equality && c.dst.is_pointer() && c.src.is_scalar() && c.src.is_zero()) {
    if (c.dst.or_null() && !c.has_reg) {
      if (!push_branch(c.target, &taken)) {
        return false;
      }
      mark_null(taken, c.dst.id, c.op == BPF_JEQ);
      mark_null(&cur(), c.dst.id, c.op == BPF_JNE);
      return go(c, false);
    }
    if (is_known_not_null(c.dst)) {
      return (!c.has_reg || mark_precise(c.insn.src_reg)) && go(c, c.op == BPF_JNE);
    }
  }
  if (!push_branch(c.target, &taken)) {
    return false;
  }
  if (!packet_compare(c.insn, taken, &cur()) && leaks_forbidden()) {
    verdict_.reg = c.insn.dst_reg;
    return refuse(EACCES, "R%d pointer comparison prohibited", c.insn.dst_reg);
  }
  // Equal to a pointer that is not null: not null.
  if (is_equality && c.dst.is_pointer() && c.src.is_pointer()) {
    State* equal = c.op == BPF_JEQ ? taken : &cur();
    if (c.dst.or_null() && is_known_not_null(c.src)) {
      mark_null(equal, c.dst.id, false);
    } else if (c.src.or_null() && is_known_not_null(c.dst)) {
      mark_null(equal, c.src.id, false);
    }
  }
  return go(c, false);
}

bool Engine::check_jump(const bpf_insn& insn) {
  const uint32_t at = cur().insn;
  if (is_unconditional_jump(insn.code)) {
    cur().insn = static_cast<uint32_t>(jump_target(insn, at));
    return true;
  }
  if (insn.code == kOpMayGoto) {
    return check_may_goto(insn);
  }
  const bool has_reg = insn_has_reg(insn.code);
  if (!check_readable(insn.dst_reg) || (has_reg && !check_readable(insn.src_reg))) {
    return false;
  }
  const Comparison c = {
      insn,
      insn_op(insn.code),
      insn_class(insn.code) == BPF_JMP32,
      has_reg,
      has_reg && insn.dst_reg == insn.src_reg,
      static_cast<uint32_t>(jump_target(insn, at)),
      reg(insn.dst_reg),
      has_reg ? reg(insn.src_reg)
              : Reg::scalar(Scalar::constant(static_cast<uint64_t>(int64_t{insn.imm})))};
  if (c.is_same_reg && c.op != BPF_JSET && !(c.dst.is_pointer() && leaks_forbidden())) {
    return go(c, c.op == BPF_JEQ || c.op == BPF_JGE || c.op == BPF_JLE || c.op == BPF_JSGE ||
                     c.op == BPF_JSLE);
  }
  return c.dst.is_scalar() && c.src.is_scalar() ? branch_on_numbers(c) : branch_on_pointers(c);
}

}  // namespace bpftime
