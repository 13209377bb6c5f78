// Which scalars pruning must respect. A check that relied on a number's value walks the path
// backwards and marks, in every stored state on it, the scalars that the number was made of. Where
// the walk cannot follow, everything is marked.
#include "isa/opcode.hpp"
#include "verifier/engine.hpp"

namespace bpftime {
namespace {

struct Linked {
  bool used, is_slot;
  uint8_t frame, index;
};
Linked linked_at(uint64_t packed, int i) {
  const auto bits = static_cast<uint32_t>(packed >> (12 * i) & 0xfff);
  return {(bits & 1) != 0, (bits >> 4 & 1) != 0, static_cast<uint8_t>(bits >> 1 & 7),
          static_cast<uint8_t>(bits >> 5 & 0x7f)};
}

}  // namespace

// One instruction backwards: from what must be precise after it to what must be before it.
void Engine::step_back(const Step& step, PreciseSet* set, bool* give_up, uint8_t* depth) {
  const bpf_insn& insn = code_.insns[step.insn];
  const uint8_t d = step.depth;
  if (set->regs.size() <= d) {
    set->regs.resize(d + 1U);
    set->slots.resize(d + 1U);
  }
  uint16_t& regs = set->regs[d];
  const auto has = [&regs](int r) { return (regs >> r & 1) != 0; };
  const auto add = [&regs](int r) { regs |= static_cast<uint16_t>(1U << r); };
  const auto drop = [&regs](int r) { regs &= static_cast<uint16_t>(~(1U << r)); };
  const auto slot_of = [&]() -> uint64_t* {
    if (step.stack_frame == 255) {
      return nullptr;
    }
    if (set->slots.size() <= step.stack_frame) {
      set->regs.resize(step.stack_frame + 1U);
      set->slots.resize(step.stack_frame + 1U);
    }
    return &set->slots[step.stack_frame];
  };
  const auto touches_linked = [&] {
    for (int i = 0; i < 5; ++i) {
      const Linked l = linked_at(step.linked, i);
      if (l.used && l.frame < set->regs.size() &&
          ((l.is_slot ? set->slots[l.frame] : set->regs[l.frame]) >> l.index & 1) != 0) {
        return true;
      }
    }
    return false;
  };
  const auto add_linked = [&] {
    for (int i = 0; i < 5; ++i) {
      const Linked l = linked_at(step.linked, i);
      if (!l.used) {
        continue;
      }
      if (set->regs.size() <= l.frame) {
        set->regs.resize(l.frame + 1U);
        set->slots.resize(l.frame + 1U);
      }
      if (l.is_slot) {
        set->slots[l.frame] |= 1ULL << l.index;
      } else {
        set->regs[l.frame] |= static_cast<uint16_t>(1U << l.index);
      }
    }
  };
  const uint8_t cls = insn_class(insn.code);
  if (*depth > d && insn.code != kOpCall) {
    *give_up = true;  // a frame came from nowhere
    return;
  }
  switch (cls) {
    case BPF_ALU:
    case BPF_ALU64: {
      if (!has(insn.dst_reg)) {
        break;
      }
      const uint8_t op = insn_op(insn.code);
      if (op == BPF_MOV) {
        drop(insn.dst_reg);
        if (insn_has_reg(insn.code)) {
          add(insn.src_reg);
        }
      } else if (op != BPF_NEG && op != BPF_END && insn_has_reg(insn.code)) {
        add(insn.src_reg);
      }
      break;
    }
    case BPF_LD:
      drop(insn.dst_reg);
      break;
    case BPF_LDX:
      if (has(insn.dst_reg)) {
        drop(insn.dst_reg);
        if (uint64_t* slots = slot_of()) {
          *slots |= 1ULL << step.stack_slot;
        }
      }
      break;
    case BPF_ST:
    case BPF_STX:
      if (is_atomic(insn.code)) {
        if (insn.imm == kLoadAcquire) {
          if (has(insn.dst_reg)) {
            drop(insn.dst_reg);
            if (uint64_t* slots = slot_of()) {
              *slots |= 1ULL << step.stack_slot;
            }
          }
          break;
        }
        if (insn.imm != kStoreRelease) {
          // What lies there afterwards is unknown; what lay there before may be in a register now.
          uint64_t* slots = slot_of();
          if (slots != nullptr) {
            *slots &= ~(1ULL << step.stack_slot);
          }
          const int result = insn.imm == BPF_CMPXCHG ? 0 : insn.src_reg;
          if ((insn.imm & BPF_FETCH) != 0 && ((set->regs[d] >> result) & 1) != 0) {
            set->regs[d] &= static_cast<uint16_t>(~(1U << result));
            if (slots != nullptr) {
              *slots |= 1ULL << step.stack_slot;
            }
          }
          break;
        }
      }
      if (uint64_t* slots = slot_of()) {
        if ((*slots >> step.stack_slot & 1) != 0) {
          *slots &= ~(1ULL << step.stack_slot);
          if (cls == BPF_STX) {
            add(insn.src_reg);
          }
        }
      }
      break;
    default:
      if (insn.code == kOpExit || step.ends_function) {
        // Going backwards into a function: its r0 became the caller's. What a callback gave did not,
        // nor what another program gave.
        if (d == 0) {
          break;
        }
        if (set->regs.size() < d + 1U) {
          set->regs.resize(d + 1U);
          set->slots.resize(d + 1U);
        }
        set->regs[d] = 0;
        set->slots[d] = 0;
        uint16_t& caller = set->regs[d - 1U];
        if (!step.returns_callback && (caller & 1) != 0) {
          caller &= static_cast<uint16_t>(~1U);
          set->regs[d] |= step.ends_function ? 0 : 1;
        }
        *depth = d;
        break;
      }
      if (insn.code == kOpCall) {
        if (*depth > d) {
          // The callee's first instruction was just undone: its arguments are the caller's.
          const uint16_t inner = set->regs.size() > d + 1U ? set->regs[d + 1U] : 0;
          if (set->regs.size() > d + 1U) {
            if (insn.src_reg == kCallLocal) {
              if ((inner & ~0x3e) != 0 || set->slots[d + 1U] != 0) {
                *give_up = true;
              }
              regs |= inner & 0x3e;
            }
            set->regs[d + 1U] = 0;
            set->slots[d + 1U] = 0;
          }
          *depth = d;
          break;
        }
        for (int r = 0; r <= 5; ++r) {
          drop(r);
        }
        break;
      }
      if (is_unconditional_jump(insn.code) || insn.code == kOpMayGoto) {
        break;
      }
      if (touches_linked()) {
        add_linked();
      }
      if (insn_has_reg(insn.code) && (has(insn.dst_reg) || has(insn.src_reg))) {
        add(insn.dst_reg);
        add(insn.src_reg);
      }
      if (touches_linked()) {
        add_linked();
      }
      break;
  }
}

void Engine::mark_all_precise(State* from) {
  for (State* state = from; state != nullptr; state = state->parent) {
    each_reg(state, [](Reg& r) {
      if (r.is_scalar()) {
        r.precise = true;
      }
    });
  }
}

// `set` holds at the end of from->steps.
bool Engine::mark_set_precise(State* from, PreciseSet set) {
  auto depth = static_cast<uint8_t>(from->depth());
  for (State* state = from; state != nullptr; state = state->parent) {
    bool give_up = false;
    for (size_t i = state->steps.size(); i-- > 0;) {
      if (set.empty()) {
        return true;
      }
      step_back(state->steps[i], &set, &give_up, &depth);
      if (give_up) {
        mark_all_precise(state->parent);
        return true;
      }
    }
    State* parent = state->parent;
    if (parent == nullptr) {
      return true;
    }
    for (size_t f = 0; f < set.regs.size(); ++f) {
      if (f >= parent->frames.size()) {
        if (set.regs[f] != 0 || set.slots[f] != 0) {
          mark_all_precise(parent);
          return true;
        }
        continue;
      }
      Frame& frame = parent->frames[f];
      for (size_t r = 0; r < 11; ++r) {
        if ((set.regs[f] >> r & 1) == 0) {
          continue;
        }
        Reg& reg = frame.regs[r];
        if (!reg.is_scalar() || reg.precise) {
          set.regs[f] &= static_cast<uint16_t>(~(1U << r));
        } else {
          reg.precise = true;
        }
      }
      for (size_t s = 0; s < 64; ++s) {
        if ((set.slots[f] >> s & 1) == 0) {
          continue;
        }
        if (s >= frame.slots.size() || !frame.slots[s].is_spill() ||
            !frame.slots[s].reg.is_scalar() || frame.slots[s].reg.precise) {
          set.slots[f] &= ~(1ULL << s);
        } else {
          frame.slots[s].reg.precise = true;
        }
      }
    }
    if (set.empty()) {
      return true;
    }
    depth = parent->depth();
  }
  return true;
}

// Register `n` of the current frame, before the current instruction.
bool Engine::mark_precise(int n) {
  if (!reg(n).is_scalar()) {
    return true;
  }
  PreciseSet set;
  set.regs.resize(cur().frames.size());
  set.slots.resize(cur().frames.size());
  set.regs.back() = static_cast<uint16_t>(1U << n);
  // The current instruction has its step already, and has not changed anything yet.
  const Step last = cur().steps.back();
  cur().steps.pop_back();
  const bool ok = mark_set_precise(&cur(), std::move(set));
  cur().steps.push_back(last);
  return ok;
}

bool Engine::mark_slot_precise(uint8_t frame, int slot) {
  PreciseSet set;
  set.regs.resize(cur().frames.size());
  set.slots.resize(cur().frames.size());
  set.slots[frame] = 1ULL << slot;
  const Step last = cur().steps.back();
  cur().steps.pop_back();
  const bool ok = mark_set_precise(&cur(), std::move(set));
  cur().steps.push_back(last);
  return ok;
}

// `newer` was found covered by `older`: what is precise there must be so on the way to `newer`.
bool Engine::propagate_precision(const State& older, State* newer) {
  PreciseSet set;
  set.regs.resize(newer->frames.size());
  set.slots.resize(newer->frames.size());
  for (size_t f = 0; f < older.frames.size() && f < newer->frames.size(); ++f) {
    const uint16_t live = live_registers(older, f);
    for (size_t r = 0; r < 10; ++r) {
      const Reg& reg = older.frames[f].regs[r];
      if ((live >> r & 1) != 0 && reg.is_scalar() && reg.precise) {
        set.regs[f] |= static_cast<uint16_t>(1U << r);
      }
    }
    for (size_t s = 0; s < older.frames[f].slots.size(); ++s) {
      const StackSlot& slot = older.frames[f].slots[s];
      if (slot.is_spill() && slot.reg.is_scalar() && slot.reg.precise &&
          s < newer->frames[f].slots.size() && newer->frames[f].slots[s].is_spill()) {
        set.slots[f] |= 1ULL << s;
      }
    }
  }
  return set.empty() || mark_set_precise(newer, std::move(set));
}

}  // namespace bpftime
