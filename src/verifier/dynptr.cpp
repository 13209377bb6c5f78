// Dynptrs on the stack, and the slices of them.
#include <cerrno>

#include "verifier/engine.hpp"

namespace bpftime {
void Engine::drop_slices(uint32_t id) {
  if (id == 0) {
    return;
  }
  each_reg(&cur(), [this, id](Reg& r) {
    if ((r.flags & kSlice) != 0 && r.owner == id) {
      r = leaks_forbidden() ? Reg{} : Reg::unknown();
    }
  });
}

bool Engine::make_dynptr(int regno, DynptrKind kind, bool read_only, uint32_t ref) {
  const Reg r = reg(regno);
  verdict_.reg = regno;
  const int64_t at = r.off + static_cast<int64_t>(r.num.bits.value);
  if (r.kind != RegKind::kStack || !r.num.is_constant() || at % 8 != 0 || at < -kMostStack ||
      at + 16 > 0) {
    return refuse(EINVAL, "R%d: a dynptr lies at a constant, aligned place in the stack", regno);
  }
  const auto upper = static_cast<int>((-(at + 8) - 1) / 8);
  const int lower = upper + 1;
  note_stack_depth(r.frame, at);
  Frame& frame = cur().frames[r.frame];
  slot_at(r.frame, lower);
  if (!drop_special_slot(&frame, upper) || !drop_special_slot(&frame, lower)) {
    return false;
  }
  const uint32_t id = new_id();
  for (const int slot : {upper, lower}) {
    StackSlot& s = slot_at(r.frame, slot);
    s = StackSlot{};
    s.bytes.fill(ByteKind::kDynptr);
    s.is_first = slot == lower;
    s.dynptr = kind;
    s.dynptr_read_only = read_only;
    s.reg.id = id;
    s.reg.ref = ref;
    touch_stack(r.frame, slot, true);
  }
  verdict_.reg = -1;
  return true;
}

bool Engine::check_dynptr_argument(int regno, const ParamSpec& spec, const Prototype& proto,
                                   CallArgs* args) {
  const Reg r = reg(regno);
  verdict_.reg = regno;
  if (r.kind == RegKind::kDynptr) {
    if (spec.kind == Param::kDynptrOut || (spec.flags & kReleases) != 0) {
      return refuse(EINVAL, "R%d is a dynptr of the kernel's", regno);
    }
    args->dynptr = r;
    args->dynptr_kind = DynptrKind::kLocal;
    return true;
  }
  const int64_t at = r.off + static_cast<int64_t>(r.num.bits.value);
  if (r.kind != RegKind::kStack || r.or_null() || !r.num.is_constant() || at % 8 != 0 ||
      at < -kMostStack || at + 16 > 0) {
    return refuse(EINVAL, "arg#%d expected pointer to stack or const struct bpf_dynptr", regno - 1);
  }
  if (spec.kind == Param::kDynptrOut) {
    return true;  // made when the call is through
  }
  const auto upper = static_cast<int>((-(at + 8) - 1) / 8);
  const int lower = upper + 1;
  StackSlot& low = slot_at(r.frame, lower);
  StackSlot& high = slot_at(r.frame, upper);
  touch_stack(r.frame, lower, false);
  touch_stack(r.frame, upper, false);
  if (low.bytes[0] != ByteKind::kDynptr || high.bytes[0] != ByteKind::kDynptr || !low.is_first ||
      low.reg.id != high.reg.id) {
    return refuse(EINVAL, "Expected an initialized dynptr as arg #%d", regno - 1);
  }
  if ((spec.flags & kReleases) != 0) {
    if (low.dynptr != DynptrKind::kRingbuf) {
      return refuse(EINVAL, "arg %d is an unacquired reference", regno);
    }
    args->ref = low.reg.ref;
    args->release_reg = regno;
  }
  if (proto.id == 202 && low.dynptr_read_only) {
    return refuse(EINVAL, "cannot pass read-only dynptr as arg #%d", regno - 1);
  }
  args->dynptr = low.reg;
  args->dynptr_kind = low.dynptr;
  args->dynptr_read_only = low.dynptr_read_only;
  verdict_.reg = -1;
  return true;
}

// Memory of a dynptr, as many bytes as the constant says; in a buffer of the program's when it is in pieces.
bool Engine::slice_dynptr(KfuncCall* call) {
  const bool is_written = call->spec->rule == KfuncRule::kDynptrSliceWrite;
  if (is_written && !may_use_packet(kWritesPacket)) {
    return refuse(EINVAL, "the prog does not allow writes to packet data");
  }
  const int flags = kOrNull | kSlice | (is_written ? 0 : kReadOnly) |
                    (is_of_packet(call->args.dynptr_kind) ? kPacketSlice : 0);
  Reg r = Reg::pointer(RegKind::kMem, 0, static_cast<uint16_t>(flags));
  r.size = static_cast<uint32_t>(call->constant);
  r.owner = call->args.dynptr.id;
  r.id = new_id();
  call->result = r;
  return true;
}

bool Engine::run_dynptr_rule(KfuncCall* call) {
  switch (call->spec->rule) {
    case KfuncRule::kDynptrFromSkb:
      return make_dynptr(call->new_dynptr, DynptrKind::kSkb, false, 0);
    case KfuncRule::kDynptrFromSkbMeta:
      return make_dynptr(call->new_dynptr, DynptrKind::kSkbMeta, false, 0);
    case KfuncRule::kDynptrFromXdp:
      return make_dynptr(call->new_dynptr, DynptrKind::kXdp, false, 0);
    case KfuncRule::kDynptrClone:
      return make_dynptr(call->new_dynptr, call->args.dynptr_kind, call->args.dynptr_read_only,
                         call->args.dynptr.ref);
    case KfuncRule::kDynptrWrite:
      if (is_of_skb(call->first_dynptr)) {
        drop_packet_pointers();
      }
      return true;
    default:
      return slice_dynptr(call);
  }
}

}  // namespace bpftime
