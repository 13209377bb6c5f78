// Does an older state cover a newer one: whatever runs safely from the older runs so from the newer.
#include <algorithm>
#include <cstring>

#include "verifier/engine.hpp"

namespace bpftime {

bool IdMap::match(uint32_t older, uint32_t newer) {
  if ((older == 0) != (newer == 0)) {
    return false;
  }
  if (older == 0) {
    return true;
  }
  for (const auto& [a, b] : pairs) {
    if (a == older) {
      return b == newer;
    }
    if (b == newer) {
      return false;
    }
  }
  pairs.emplace_back(older, newer);
  return true;
}

// Scalars: an id of the older state says that two are equal; the newer must know so too. A newer id
// without an older one is no harm.
bool IdMap::match_scalar(uint32_t older, uint32_t newer) {
  if (older == 0) {
    return true;
  }
  return match(older, newer != 0 ? newer : ++next_temporary);
}

uint16_t Engine::live_registers(const State& state, size_t frame) const {
  if (frame + 1 == state.frames.size()) {
    return facts_[state.insn].live;
  }
  // What the caller needs after the call; r0..r5 are written by it.
  const uint32_t call = state.frames[frame + 1].call_insn;
  uint16_t live = facts_[call].live;
  if (call + 1 < facts_.size()) {
    live |= facts_[call + 1].live;
  }
  // A callback's call is made again, with the same arguments, when the callback returns.
  return live & (state.frames[frame + 1].kind == FrameKind::kCallback ? 0x7fe : 0x7c0);
}

bool Engine::reg_covers(const Reg& older, const Reg& newer, Exactness exact, IdMap* ids) {
  if (exact == Exactness::kExact) {
    return older.kind == newer.kind && older.flags == newer.flags && older.off == newer.off &&
           older.object == newer.object && older.size == newer.size && older.frame == newer.frame &&
           older.num == newer.num && older.has_delta == newer.has_delta &&
           older.delta == newer.delta && ids->match(older.id, newer.id) &&
           ids->match(older.ref, newer.ref) && ids->match(older.owner, newer.owner);
  }
  if (older.kind == RegKind::kNone) {
    return true;
  }
  if (older.kind != newer.kind) {
    return false;
  }
  if (older.is_scalar()) {
    if (exact == Exactness::kNotExact && !older.precise) {
      return true;
    }
    return older.num.includes(newer.num) && older.has_delta == newer.has_delta &&
           older.delta == newer.delta && ids->match_scalar(older.id, newer.id);
  }
  if (older.flags != newer.flags || older.object != newer.object || older.frame != newer.frame ||
      older.off != newer.off || !ids->match(older.ref, newer.ref) ||
      !ids->match(older.owner, newer.owner)) {
    return false;
  }
  switch (older.kind) {
    case RegKind::kPacket:
    case RegKind::kPacketMeta:
      return older.size <= newer.size && ids->match(older.id, newer.id) &&
             older.num.includes(newer.num);
    case RegKind::kMapValue:
    case RegKind::kMapKey:
    case RegKind::kMem:
      return older.size == newer.size && ids->match(older.id, newer.id) &&
             older.num.includes(newer.num);
    case RegKind::kArena:
      return true;
    default:
      return older.size == newer.size && ids->match(older.id, newer.id) && older.num == newer.num;
  }
}

bool Engine::stack_covers(const State& older, const State& newer, size_t frame, Exactness exact,
                          uint64_t live, IdMap* ids) {
  const auto& old_slots = older.frames[frame].slots;
  const auto& new_slots = newer.frames[frame].slots;
  static const StackSlot kEmpty{};
  const auto is_unknown_number = [](const StackSlot& slot) {
    return std::all_of(slot.bytes.begin(), slot.bytes.end(),
                       [](ByteKind b) { return b == ByteKind::kMisc || b == ByteKind::kInvalid; });
  };
  const size_t count =
      exact == Exactness::kExact ? std::max(old_slots.size(), new_slots.size()) : old_slots.size();
  for (size_t i = 0; i < count; ++i) {
    const StackSlot& o = i < old_slots.size() ? old_slots[i] : kEmpty;
    const StackSlot& n = i < new_slots.size() ? new_slots[i] : kEmpty;
    const bool has_special = o.bytes[0] == ByteKind::kDynptr || o.bytes[0] == ByteKind::kIterator ||
                             o.bytes[0] == ByteKind::kIrqFlag;
    if (exact != Exactness::kExact && (live >> i & 1) == 0 && !has_special) {
      continue;
    }
    if (has_special) {
      if (o.bytes != n.bytes || o.is_first != n.is_first || o.dynptr != n.dynptr ||
          o.dynptr_read_only != n.dynptr_read_only || o.iterator != n.iterator ||
          o.iterator_type != n.iterator_type || o.reg.flags != n.reg.flags ||
          !ids->match(o.reg.id, n.reg.id) || !ids->match(o.reg.ref, n.reg.ref)) {
        return false;
      }
      continue;
    }
    if (exact == Exactness::kExact) {
      if (o.bytes != n.bytes || (o.is_spill() && !reg_covers(o.reg, n.reg, exact, ids))) {
        return false;
      }
      continue;
    }
    if (o.is_spill()) {
      // A whole spilled number that nobody needs exactly is as good as eight bytes of anything.
      if (o.is_full_spill() && o.reg.is_scalar() && is_unknown_number(n)) {
        if (leaks_forbidden() &&
            std::count(n.bytes.begin(), n.bytes.end(), ByteKind::kInvalid) != 0) {
          return false;
        }
        if (!reg_covers(o.reg, Reg::unknown(), exact, ids)) {
          return false;
        }
        continue;
      }
      if (o.bytes != n.bytes || !reg_covers(o.reg, n.reg, exact, ids)) {
        return false;
      }
      continue;
    }
    // A pointer where the older had plain bytes may not be read in parts.
    if (n.is_spill() && !n.reg.is_scalar() &&
        std::any_of(o.bytes.begin(), o.bytes.end(),
                    [](ByteKind b) { return b != ByteKind::kInvalid; })) {
      return false;
    }
    for (size_t b = 0; b < 8; ++b) {
      const ByteKind was = o.bytes[b];
      const ByteKind is = n.bytes[b];
      const bool is_special =
          is == ByteKind::kDynptr || is == ByteKind::kIterator || is == ByteKind::kIrqFlag;
      if (was == ByteKind::kInvalid) {
        if (is_special && !leaks_forbidden()) {
          return false;  // the older may have been read as plain bytes
        }
        continue;
      }
      if (was == ByteKind::kZero) {
        if (is != ByteKind::kZero) {
          return false;
        }
        continue;
      }
      if (is_special || (is == ByteKind::kInvalid && leaks_forbidden())) {
        return false;
      }
    }
  }
  return true;
}

bool Engine::covers(State* older, State* newer, Exactness exact) {
  if (older->frames.size() != newer->frames.size() || older->refs.size() != newer->refs.size() ||
      older->rcu_depth != newer->rcu_depth || older->preempt_depth != newer->preempt_depth ||
      older->in_sleepable != newer->in_sleepable) {
    return false;
  }
  IdMap ids;
  for (size_t i = 0; i < older->refs.size(); ++i) {
    const Ref& o = older->refs[i];
    const Ref& n = newer->refs[i];
    if (o.kind != n.kind || o.helper != n.helper || !ids.match(o.id, n.id) ||
        !ids.match(o.owner, n.owner)) {
      return false;
    }
  }
  for (size_t f = 0; f < older->frames.size(); ++f) {
    const Frame& o = older->frames[f];
    const Frame& n = newer->frames[f];
    if (o.function != n.function || o.kind != n.kind || (f != 0 && o.call_insn != n.call_insn) ||
        // The older one had fewer rounds of a callback still to go.
        o.callback_depth > n.callback_depth) {
      return false;
    }
    const uint16_t live = live_registers(*older, f);
    for (size_t r = 0; r < 11; ++r) {
      if ((live >> r & 1) != 0 && !reg_covers(o.regs[r], n.regs[r], exact, &ids)) {
        return false;
      }
    }
    uint64_t stack_live = ~0ULL;
    if (exact == Exactness::kNotExact) {
      const uint32_t at =
          f + 1 == older->frames.size() ? older->insn : older->frames[f + 1].call_insn;
      stack_live = facts_[at].stack_live;
    }
    if (!stack_covers(*older, *newer, f, exact, stack_live, &ids)) {
      return false;
    }
  }
  return true;
}

void Engine::forget_dead(State* state) {
  for (size_t f = 0; f < state->frames.size(); ++f) {
    const uint16_t live = live_registers(*state, f);
    for (size_t r = 0; r < 10; ++r) {
      if ((live >> r & 1) == 0) {
        state->frames[f].regs[r] = Reg();
      }
    }
  }
}

}  // namespace bpftime
