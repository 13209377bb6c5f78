// The stack: eight-byte slots with a kind for each byte; whole numbers and pointers are kept.
#include <algorithm>
#include <cerrno>

#include "isa/opcode.hpp"
#include "verifier/engine.hpp"

namespace bpftime {

Step& Engine::now() { return cur().steps.back(); }

StackSlot& Engine::slot_at(uint8_t frame, int slot) {
  auto& slots = cur().frames[frame].slots;
  if (slots.size() <= static_cast<size_t>(slot)) {
    slots.resize(static_cast<size_t>(slot) + 1);
  }
  return slots[static_cast<size_t>(slot)];
}

void Engine::note_stack_depth(uint8_t frame, int64_t off) {
  FunctionFacts& function = functions_[cur().frames[frame].function];
  function.stack_bytes = std::max(function.stack_bytes, static_cast<uint32_t>(-off));
}

// A spilled value is about to be overwritten in part: the rest becomes plain bytes.
void Engine::scrub(StackSlot* slot) {
  for (ByteKind& byte : slot->bytes) {
    byte = byte == ByteKind::kSpill ? ByteKind::kMisc : byte;
  }
  slot->reg = Reg{};
}

// In strict mode a spilled pointer is overwritten as a whole or not at all: what would remain of it
// could be read as a number.
bool Engine::check_spill_stays(const StackSlot& slot) {
  return !leaks_forbidden() || !slot.is_spill() || slot.reg.is_scalar() ||
         refuse(EACCES, "attempt to corrupt spilled pointer on stack");
}

// A write over a dynptr or an iterator: it is gone, which is an error if something hangs on it.
bool Engine::drop_special_slot(Frame* frame, int slot) {
  StackSlot& at = frame->slots[static_cast<size_t>(slot)];
  if (at.bytes[0] == ByteKind::kDynptr) {
    if (at.reg.ref != 0) {
      // One of several that share the memory may go.
      int sharers = 0;
      for (const Frame& f : cur().frames) {
        for (const StackSlot& s : f.slots) {
          sharers +=
              s.bytes[0] == ByteKind::kDynptr && s.is_first && s.reg.ref == at.reg.ref ? 1 : 0;
        }
      }
      if (sharers < 2) {
        return refuse(EINVAL, "cannot overwrite referenced dynptr");
      }
    }
    const uint32_t id = at.reg.id;
    for (StackSlot& s : frame->slots) {
      if (s.bytes[0] == ByteKind::kDynptr && s.reg.id == id) {
        s = StackSlot{};
      }
    }
    drop_slices(id);
  } else if (at.bytes[0] == ByteKind::kIterator || at.bytes[0] == ByteKind::kIrqFlag) {
    for (ByteKind& byte : at.bytes) {
      byte = ByteKind::kMisc;  // its destruction will miss it
    }
    at.reg = Reg{};
  }
  return true;
}

bool Engine::stack_write(uint8_t frame_index, const Reg&, int64_t off, int size, const Reg& value,
                         int value_reg) {
  Frame& frame = cur().frames[frame_index];
  const auto slot = static_cast<int>((-off - 1) / 8);
  const auto first = static_cast<size_t>(((off % 8) + 8) % 8);
  note_stack_depth(frame_index, off);
  slot_at(frame_index, slot);
  if (!drop_special_slot(&frame, slot)) {
    return false;
  }
  StackSlot& at = slot_at(frame_index, slot);
  if (first + static_cast<size_t>(size) > 8) {
    // Only misaligned accesses cross slots, and those do not come here.
    return refuse(EFAULT, "a stack write crosses a slot");
  }
  if (size == 8) {
    touch_stack(frame_index, slot, true);
  } else if (!check_spill_stays(at)) {
    return false;
  }
  const bool is_whole_register = first == 0 && value.kind != RegKind::kNone;
  if (is_whole_register && (value.is_scalar() || size == 8)) {
    if (value.kind == RegKind::kStack && frame_index != cur().depth()) {
      return refuse(EINVAL, "cannot spill pointers to stack into stack frame of the caller");
    }
    if (value.is_scalar()) {
      Reg kept = value;
      kept.precise = false;
      const bool fits = size == 8 || value.num.range.umax <= (1ULL << (size * 8)) - 1;
      if (fits && value_reg >= 0) {
        name_copies(&reg(value_reg));
        kept.id = reg(value_reg).id;
        kept.has_delta = false;
        kept.delta = 0;
      } else {
        kept.id = 0;
        kept.has_delta = false;
        kept.delta = 0;
      }
      if (!fits) {
        kept.num = kept.num.zero_extended(static_cast<unsigned>(size) * 8);
      }
      scrub(&at);
      at.reg = kept;
      for (size_t b = 0; b < static_cast<size_t>(size); ++b) {
        at.bytes[b] = ByteKind::kSpill;
      }
    } else {
      at.reg = value;
      at.bytes.fill(ByteKind::kSpill);
    }
    now().stack_frame = frame_index;
    now().stack_slot = static_cast<uint8_t>(slot);
    return true;
  }
  if (value.is_pointer()) {
    if (size != 8 || first != 0) {
      return refuse(EACCES, "invalid size of register spill");
    }
  }
  const bool is_zero = value.is_zero();
  if (is_zero && value_reg >= 0 && !mark_precise(value_reg)) {
    return false;
  }
  if (at.is_spill()) {
    scrub(&at);
  }
  for (size_t b = first; b < first + static_cast<size_t>(size); ++b) {
    at.bytes[b] = is_zero ? ByteKind::kZero : ByteKind::kMisc;
  }
  return true;
}

// Somewhere in a range: every byte of it may have been written, none surely.
bool Engine::stack_write_variable(const Reg& pointer, int64_t off, int size, const Reg& value,
                                  int value_reg) {
  Frame& frame = cur().frames[pointer.frame];
  const int64_t lowest = off + pointer.off + pointer.num.range.smin;
  const int64_t highest = off + pointer.off + pointer.num.range.smax + size;
  note_stack_depth(pointer.frame, lowest);
  const bool is_zero = value.is_zero();
  if (value.is_pointer() && leaks_forbidden()) {
    return refuse(EACCES, "a pointer would be written somewhere in the stack");
  }
  bool used_zero = false;
  for (int64_t at = lowest; at < highest; ++at) {
    const auto slot = static_cast<int>((-at - 1) / 8);
    const auto byte = static_cast<size_t>(((at % 8) + 8) % 8);
    slot_at(pointer.frame, slot);
    if (!drop_special_slot(&frame, slot)) {
      return false;
    }
    StackSlot& s = slot_at(pointer.frame, slot);
    if (!check_spill_stays(s)) {
      return false;
    }
    if (s.is_spill()) {
      scrub(&s);
    }
    if (s.bytes[byte] == ByteKind::kInvalid && leaks_forbidden()) {
      return refuse(
          EINVAL, "uninitialised stack would count as initialised by a write at a variable offset");
    }
    if (is_zero && s.bytes[byte] == ByteKind::kZero) {
      used_zero = true;
      continue;
    }
    s.bytes[byte] = ByteKind::kMisc;
  }
  return !used_zero || value_reg < 0 || mark_precise(value_reg);
}

bool Engine::stack_read(const Reg& pointer, int64_t off, int size, bool is_signed, Reg* out) {
  const uint8_t frame_index = pointer.frame;
  if (!pointer.num.is_constant()) {
    const int64_t lowest = off + pointer.off + pointer.num.range.smin;
    const int64_t highest = off + pointer.off + pointer.num.range.smax + size;
    for (int64_t at = lowest; at < highest; ++at) {
      const auto slot = static_cast<int>((-at - 1) / 8);
      const auto byte = static_cast<size_t>(((at % 8) + 8) % 8);
      const StackSlot& s = slot_at(frame_index, slot);
      touch_stack(frame_index, slot, false);
      const ByteKind kind = s.bytes[byte];
      const bool is_bad = kind == ByteKind::kDynptr || kind == ByteKind::kIterator ||
                          kind == ByteKind::kIrqFlag ||
                          (kind == ByteKind::kInvalid && leaks_forbidden()) ||
                          (s.is_spill() && !s.reg.is_scalar() && leaks_forbidden());
      if (is_bad) {
        return refuse(EACCES, "invalid read from stack at a variable offset, off %lld size %d",
                      static_cast<long long>(at), size);
      }
    }
    *out = Reg::unknown();
    if (size < 8) {
      out->num = is_signed ? out->num.sign_extended(static_cast<unsigned>(size) * 8)
                           : out->num.zero_extended(static_cast<unsigned>(size) * 8);
    }
    return true;
  }
  const int64_t at = off + pointer.off + static_cast<int64_t>(pointer.num.bits.value);
  const auto slot = static_cast<int>((-at - 1) / 8);
  const auto first = static_cast<size_t>(((at % 8) + 8) % 8);
  StackSlot& s = slot_at(frame_index, slot);
  touch_stack(frame_index, slot, false);
  if (first + static_cast<size_t>(size) > 8) {
    return refuse(EFAULT, "a stack read crosses a slot");
  }
  const auto narrow = [&](Reg* r) {
    if (size < 8) {
      r->num = is_signed ? r->num.sign_extended(static_cast<unsigned>(size) * 8)
                         : r->num.zero_extended(static_cast<unsigned>(size) * 8);
    }
  };
  if (s.is_spill()) {
    if (!s.reg.is_scalar()) {
      if (size != 8) {
        return refuse(EACCES, "invalid size of register fill");
      }
      *out = s.reg;
      now().stack_frame = frame_index;
      now().stack_slot = static_cast<uint8_t>(slot);
      return true;
    }
    const auto spilled =
        static_cast<size_t>(std::count(s.bytes.begin(), s.bytes.end(), ByteKind::kSpill));
    if (first == 0 && static_cast<size_t>(size) <= spilled) {
      const bool fits = size == 8 || s.reg.num.range.umax <= (1ULL << (size * 8)) - 1;
      const bool is_same =
          fits && (!is_signed || size == 8 || s.reg.num.range.umax < 1ULL << (size * 8 - 1));
      if (is_same && s.reg.id == 0 && !s.reg.num.is_constant()) {
        s.reg.id = new_id();
      }
      *out = s.reg;
      out->precise = false;
      if (!is_same) {
        out->id = 0;
        out->has_delta = false;
        out->delta = 0;
      }
      narrow(out);
      now().stack_frame = frame_index;
      now().stack_slot = static_cast<uint8_t>(slot);
      return true;
    }
  }
  // A spilled zero is as many zero bytes.
  const bool is_spilled_zero = s.is_spill() && s.reg.is_zero();
  bool all_zero = true;
  bool uses_spill = false;
  for (size_t b = first; b < first + static_cast<size_t>(size); ++b) {
    switch (s.bytes[b]) {
      case ByteKind::kZero:
        break;
      case ByteKind::kSpill:
        all_zero = all_zero && is_spilled_zero;
        uses_spill = true;
        break;
      case ByteKind::kMisc:
        all_zero = false;
        break;
      case ByteKind::kInvalid:
        all_zero = false;
        if (!leaks_forbidden()) {
          break;
        }
        [[fallthrough]];
      default:
        return refuse(EACCES, "invalid read from stack off %lld+%zu size %d",
                      static_cast<long long>(at), b - first, size);
    }
  }
  if (all_zero && uses_spill) {
    now().stack_frame = frame_index;
    now().stack_slot = static_cast<uint8_t>(slot);
  }
  *out = all_zero ? Reg::scalar(Scalar::constant(0)) : Reg::unknown();
  narrow(out);
  return true;
}

// A helper reads or writes `size` bytes (at most) from `pointer` on.
bool Engine::stack_range(int regno, const Reg& pointer, int64_t size, bool is_write,
                         const char* what) {
  const int64_t lowest = int64_t{pointer.off} + pointer.num.range.smin;
  const int64_t highest = int64_t{pointer.off} + pointer.num.range.smax + size;
  verdict_.reg = regno;
  if (pointer.num.range.smin <= -kMostOffset || pointer.num.range.smax >= kMostOffset ||
      lowest < -kMostStack || highest > 0 || (size != 0 && lowest >= 0)) {
    return refuse(EACCES, "invalid %s stack access by a helper through R%d: off %lld size %lld",
                  what, regno, static_cast<long long>(lowest), static_cast<long long>(size));
  }
  if (size == 0) {
    verdict_.reg = -1;
    return true;
  }
  note_stack_depth(pointer.frame, lowest);
  Frame& frame = cur().frames[pointer.frame];
  const bool is_fixed = pointer.num.is_constant();
  for (int64_t at = lowest; at < highest; ++at) {
    const auto slot = static_cast<int>((-at - 1) / 8);
    const auto byte = static_cast<size_t>(((at % 8) + 8) % 8);
    slot_at(pointer.frame, slot);
    if (is_write) {
      if (!drop_special_slot(&frame, slot)) {
        return false;
      }
    }
    StackSlot& s = slot_at(pointer.frame, slot);
    if (!is_write) {
      touch_stack(pointer.frame, slot, false);
      const ByteKind kind = s.bytes[byte];
      if (kind == ByteKind::kDynptr || kind == ByteKind::kIterator || kind == ByteKind::kIrqFlag ||
          (kind == ByteKind::kInvalid && leaks_forbidden())) {
        return refuse(EACCES, "invalid %s stack R%d off %lld+%lld size %lld", what, regno,
                      static_cast<long long>(lowest), static_cast<long long>(at - lowest),
                      static_cast<long long>(size));
      }
      if (s.is_spill() && !s.reg.is_scalar() && leaks_forbidden()) {
        return refuse(EACCES, "R%d points to a spilled pointer that would leak", regno);
      }
      continue;
    }
    if (!check_spill_stays(s)) {
      return false;
    }
    if (s.is_spill()) {
      scrub(&s);
    }
    s.bytes[byte] = ByteKind::kMisc;
    // The first of eight bytes of a slot that is inside as a whole; a helper that fails may leave
    // bytes as they were, which are no secret to the program: they are not what it wrote either.
    static_cast<void>(is_fixed);
  }
  verdict_.reg = -1;
  return true;
}

}  // namespace bpftime
