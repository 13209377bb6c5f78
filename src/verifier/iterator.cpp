// Open-coded iterators: a structure on the stack that `new` makes, `next` asks and `destroy` ends.
#include <algorithm>
#include <cerrno>

#include "verifier/engine.hpp"

namespace bpftime {

bool Engine::is_iterator_next(const bpf_insn& insn) const {
  const KfuncSpec* spec = kfunc_of(insn);
  return spec != nullptr && (spec->flags & kKfIterNext) != 0;
}

// The iterator that `pointer` points to. Null: none.
const StackSlot* Engine::iterator_in(const Reg& pointer) const {
  if (pointer.kind != RegKind::kStack || !pointer.num.is_constant()) {
    return nullptr;
  }
  const int64_t at = pointer.off + static_cast<int64_t>(pointer.num.bits.value);
  const auto& slots = current_->frames[pointer.frame].slots;
  const int64_t slot = (-at - 1) / 8;
  if (at >= 0 || slot >= static_cast<int64_t>(slots.size()) ||
      slots[static_cast<size_t>(slot)].bytes[0] != ByteKind::kIterator) {
    return nullptr;
  }
  return &slots[static_cast<size_t>(slot)];
}

// The place of the iterator, and whether there is one of this type as the function wants it.
bool Engine::check_iterator_argument(int regno, uint32_t type, KfuncCall* call) {
  const Reg r = reg(regno);
  const auto bytes = program_.kernel_btf->size_of(type);
  const auto named = program_.kernel_btf->type(type);
  std::string name(named ? named->name : "");  // bpf_iter_num, of which messages say iter_num
  name.erase(0, std::min(name.size(), std::string_view("bpf_").size()));
  const auto size = static_cast<int64_t>(bytes ? *bytes : 0);
  const int64_t at = r.off + static_cast<int64_t>(r.num.bits.value);
  if (r.kind != RegKind::kStack || !r.num.is_constant() || at % 8 != 0 || at < -kMostStack ||
      size == 0 || size % 8 != 0 || at + size > 0) {
    return refuse(EINVAL, "R%d: an iterator lies at a constant, aligned place in the stack", regno);
  }
  IteratorPlace& place = call->iterator;
  place = {r.frame, static_cast<int>((-at - 1) / 8), static_cast<int>(size / 8), type};
  note_stack_depth(r.frame, at);
  int there = 0;
  for (int i = 0; i < place.count; ++i) {
    const StackSlot& slot = slot_at(place.frame, place.first - i);
    const StackSlot& head = slot_at(place.frame, place.first);
    const bool is_part = slot.bytes[0] == ByteKind::kIterator && slot.iterator_type == type &&
                         slot.is_first == (i == 0) && slot.reg.id == head.reg.id;
    there += is_part ? 1 : 0;
    if ((call->spec->flags & kKfIterNew) != 0 && slot.bytes[0] == ByteKind::kIterator) {
      return refuse(EINVAL, "expected uninitialized %s as arg #%d", name.c_str(), regno - 1);
    }
  }
  if ((call->spec->flags & kKfIterNew) == 0) {
    if (there != place.count) {
      return refuse(EINVAL, "expected an initialized %s as arg #%d", name.c_str(), regno - 1);
    }
    for (int i = 0; i < place.count; ++i) {
      touch_stack(place.frame, place.first - i, false);
    }
    if ((slot_at(place.frame, place.first).reg.flags & kUntrusted) != 0) {
      return refuse(EINVAL, "expected an RCU CS when using %.*s",
                    static_cast<int>(call->spec->name.size()), call->spec->name.data());
    }
  }
  return true;
}

bool Engine::make_iterator(const KfuncCall& call) {
  const IteratorPlace& place = call.iterator;
  for (int i = 0; i < place.count; ++i) {
    if (!drop_special_slot(&cur().frames[place.frame], place.first - i)) {
      return false;
    }
  }
  const uint32_t ref = acquire(RefKind::kIterator);
  for (int i = 0; i < place.count; ++i) {
    StackSlot& slot = slot_at(place.frame, place.first - i);
    slot = StackSlot{};
    slot.bytes.fill(ByteKind::kIterator);
    slot.is_first = i == 0;
    slot.iterator = IteratorState::kActive;
    slot.iterator_type = place.type;
    slot.reg.ref = slot.reg.id = ref;
    slot.reg.flags = (call.spec->flags & kKfRcuProtected) != 0 ? kRcu : 0;
    touch_stack(place.frame, place.first - i, true);
  }
  return true;
}

// What `next` gives while there is something.
Reg Engine::iterator_element(const KfuncCall& call, const StackSlot& slot) {
  const Btf& btf = *program_.kernel_btf;
  auto type = btf.resolve(call.proto.target);
  const uint32_t pointee = type && type->kind == BtfKind::kPtr ? type->target : 0;
  Reg r = reg_of_btf_pointer(pointee, true, (slot.reg.flags & kRcu) != 0 ? kRcu : kTrusted);
  if (r.kind != RegKind::kBtf) {
    auto bytes = btf.size_of(pointee);
    r = Reg::pointer(RegKind::kMem, 0, kReadOnly);
    r.size = bytes ? *bytes : 0;
    r.ref = slot.reg.ref;
  }
  return r;
}

// One path on which there is a next element, one on which there is none.
bool Engine::ask_iterator(const KfuncCall& call) {
  const IteratorPlace& place = call.iterator;
  const auto first = static_cast<size_t>(place.first);
  verdict_.facts.most_back_edges = UINT32_MAX;
  if (slot_at(place.frame, place.first).iterator == IteratorState::kActive) {
    const uint32_t depth = slot_at(place.frame, place.first).iterator_depth;
    const State* older = cur().parent;
    while (older != nullptr &&
           (older->insn != cur().insn || older->frames.size() != cur().frames.size() ||
            first >= older->frames[place.frame].slots.size() ||
            older->frames[place.frame].slots[first].iterator_depth == depth)) {
      older = older->parent;
    }
    State* goes_on = nullptr;
    if (!push_branch(cur().insn + 1, &goes_on)) {
      return false;
    }
    if (older != nullptr) {
      widen_against(goes_on, *older);
    }
    StackSlot& slot = goes_on->frames[place.frame].slots[first];
    ++slot.iterator_depth;
    for (size_t n = 0; n <= 5; ++n) {
      goes_on->top().regs[n] = Reg{};
    }
    goes_on->top().regs[0] = iterator_element(call, slot);
  }
  for (int i = 0; i < place.count; ++i) {
    slot_at(place.frame, place.first - i).iterator = IteratorState::kDrained;
  }
  return true;
}

bool Engine::run_iterator(KfuncCall* call) {
  const IteratorPlace& place = call->iterator;
  Reg result;
  if (place.count == 0) {
    return kfunc_not_allowed(call->spec->name);
  }
  if ((call->spec->flags & kKfIterNew) != 0) {
    if (!make_iterator(*call)) {
      return false;
    }
    result = Reg::unknown();
  } else if ((call->spec->flags & kKfIterNext) != 0) {
    if (!ask_iterator(*call)) {
      return false;
    }
    result = Reg::scalar(Scalar::constant(0));
  } else {
    if (!release_reference(slot_at(place.frame, place.first).reg.ref)) {
      return false;
    }
    for (int i = 0; i < place.count; ++i) {
      slot_at(place.frame, place.first - i) = StackSlot{};
    }
  }
  clobber_caller_saved();
  reg(0) = result;
  ++cur().insn;
  return true;
}

}  // namespace bpftime
