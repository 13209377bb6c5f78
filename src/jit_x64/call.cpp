// Calls of functions and helpers; lookups in arrays.
#include "jit_x64/compiler.hpp"

namespace bpftime::x64 {

// By a local call, or a function reference.
uint32_t Compiler::function_named_by(uint32_t i) const {
  return function_of(program_, static_cast<uint32_t>(int64_t{i} + 1 + insns_[i].imm));
}

void Compiler::emit_call(uint32_t i) {
  const bpf_insn& insn = insns_[i];
  if (insn.src_reg == kCallLocal) {
    out_.byte(0xe8);
    if (is_last_round_) {
      call_fixups_.push_back({out_.position(), function_named_by(i), false});
    }
    out_.word32(0);
    return;
  }
  if (flow_.looked_up(i) != nullptr) {
    emit_lookup(i);
  } else if (const uint32_t bytes = inline_read_bytes(i); bytes != 0) {
    emit_read(bytes);
  } else {
    emit_slot_call(slots_.intern(SlotKind::kHelper, static_cast<uint32_t>(insn.imm), 0));
  }
}

// With the hit as the sixth argument.
void Compiler::emit_slot_call(uint32_t slot) {
  if (counts_fuel_) {
    out_.store64(kHit, kHitFuel, kFuel);
  }
  out_.load64(kRax, kHit, kHitSlots);
  out_.mov(true, kR9, kHit);
  out_.op_rm(false, 0xff, 2, kRax, static_cast<int32_t>(slot * 8));
  if (counts_fuel_) {
    out_.load64(kFuel, kHit, kHitFuel);
  }
}

// Where in its array a lookup begins: at the element, when the index is known.
uint64_t Compiler::first_byte_looked_up(uint32_t i) const {
  return flow_.has_known_index(i) ? flow_.known(i)->lowest * flow_.looked_up(i)->stride : 0;
}

// The address of an array's element: of a known one, or of the one that the four bytes at rsi (r2) tell. Changes rax and
// rcx, what a helper may change.
void Compiler::emit_lookup(uint32_t i) {
  const KnownArray& array = *flow_.looked_up(i);
  const uint32_t slot = slots_.intern(SlotKind::kMapValue, array.map, first_byte_looked_up(i));
  if (flow_.has_known_index(i)) {
    emit_load_slot(kRax, slot);
    return;
  }
  emit_load_slot(kRcx, slot);
  out_.op_rm(false, 0x8b, kRax, kRsi, 0);
  const bool may_be_beyond = flow_.known(i)->highest >= array.element_count;
  uint32_t beyond = 0;
  if (may_be_beyond) {
    out_.group1_imm(false, kCmp, kRax, static_cast<int32_t>(array.element_count));
    beyond = out_.short_jump_if(kAboveEqual);
  }
  if (array.stride == 8) {
    out_.lea(true, kRax, kRcx, kRax, 3, 0);
  } else {
    out_.op_rr(true, 0x69, kRax, kRax);
    out_.word32(static_cast<int32_t>(array.stride));
    out_.group1_rr(true, kAdd, kRax, kRcx);
  }
  if (may_be_beyond) {
    const uint32_t done = out_.short_jump();
    out_.land(beyond);
    out_.mov_imm(kRax, 0);
    out_.land(done);
  }
}

}  // namespace bpftime::x64
