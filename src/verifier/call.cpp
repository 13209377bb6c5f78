// Calls of helpers; other calls are handed on.
#include <algorithm>
#include <cerrno>

#include "isa/opcode.hpp"
#include "spec/spec.hpp"
#include "spec/trust.hpp"
#include "verifier/engine.hpp"

namespace bpftime {
void Engine::clobber_caller_saved() {
  for (int r = 0; r <= 5; ++r) {
    reg(r) = Reg{};
  }
}

void Engine::drop_packet_pointers() {
  each_reg(&cur(), [this](Reg& r) {
    if (r.kind == RegKind::kPacket || r.kind == RegKind::kPacketMeta ||
        r.kind == RegKind::kPacketEnd ||
        (r.kind == RegKind::kMem && (r.flags & kPacketSlice) != 0)) {
      r = leaks_forbidden() ? Reg{} : Reg::unknown();
    }
  });
}

// Options of a socket (helpers 49, 57): of iterators, some targets give them.
bool Engine::gives_options() const {
  const auto target = program_.kernel_btf != nullptr
                          ? program_.kernel_btf->type(program_.attach_btf_id)
                          : Result<BtfType>(make_error(ENOENT, ""));
  return !is_program_type(BPF_PROG_TYPE_TRACING) || (target && gives_socket_options(target->name));
}

// May a program like this one call it here?
bool Engine::check_helper_allowed(uint32_t id, const Prototype* proto) {
  if (options_.has_helper && !options_.has_helper(id)) {
    return refuse(EINVAL, "unknown func bpf_%s#%u", proto->name, id);
  }
  if (!options_.no_helper_gate &&
      (!is_offered(*proto, program_.prog_type, program_.expected_attach_type) ||
       ((id == BPF_FUNC_setsockopt || id == BPF_FUNC_getsockopt) && !gives_options()))) {
    return refuse(EINVAL, "program of this type cannot use helper bpf_%s#%u", proto->name, id);
  }
  if ((proto->effects & kSleeps) != 0) {
    if (!cur().in_sleepable) {
      return refuse(EINVAL, "helper call might sleep in a non-sleepable prog");
    }
    if (unsleepable_region() != nullptr) {
      return refuse(EINVAL, "sleepable helper bpf_%s#%u in a region that may not sleep",
                    proto->name, id);
    }
    verdict_.facts.may_sleep = true;
  }
  for (const Ref& ref : cur().refs) {
    if (ref.kind == RefKind::kLock && id != 94) {
      return refuse(EINVAL, "function calls are not allowed while holding a lock");
    }
  }
  return true;
}

// What several arguments have to be together, or the path for this helper.
bool Engine::check_together(uint32_t id, CallArgs* args) {
  if (id == BPF_FUNC_snprintf && !check_format()) {
    return false;
  }
  if (id == 153 || id == 154) {
    args->dynptr = reg(1);
  }
  if (id == 169 && reg(2).object != reg(1).object) {
    return refuse(EINVAL, "timer pointer in R1 and map pointer in R2 doesn't match");
  }
  if (id == 169 && ((reg(1).flags & kMapUid) != 0 || (reg(2).flags & kMapUid) != 0)) {
    if (reg(1).owner != reg(2).owner) {
      return refuse(EINVAL, "timer pointer in R1 and map pointer in R2 doesn't match");
    }
  }
  if (id == 12) {
    verdict_.facts.has_tail_calls = true;
    if (!check_no_references("tail_call")) {
      return false;
    }
    if (cur().top().kind == FrameKind::kAsync) {
      return refuse(EINVAL, "tail_call is not allowed in an asynchronous callback");
    }
  }
  return true;
}

// An array's element at a known index in range is always there: a lookup (helper 1) then gives no null.
bool Engine::check_known_index(const CallArgs& args, bool* surely_there) {
  if (reg(2).kind != RegKind::kStack || !reg(2).num.is_constant() || args.map_uid != 0) {
    return true;
  }
  const VerifierMap& m = map(static_cast<uint32_t>(args.map));
  if (m.map_type != BPF_MAP_TYPE_ARRAY && m.map_type != BPF_MAP_TYPE_PERCPU_ARRAY) {
    return true;
  }
  const int64_t at = reg(2).off + static_cast<int64_t>(reg(2).num.bits.value);
  const auto slot = static_cast<int>((-at - 1) / 8);
  const auto first = static_cast<size_t>(((at % 8) + 8) % 8);
  const StackSlot& s = slot_at(reg(2).frame, slot);
  if (first > 4) {
    return true;
  }
  if (first == 0 && s.is_spill() && s.bytes[3] == ByteKind::kSpill &&
      s.bytes[4] != ByteKind::kSpill && s.reg.is_scalar() && s.reg.num.low_is_constant()) {
    const uint64_t key = s.reg.num.bits.value & UINT32_MAX;
    *surely_there = key < m.max_entries;
    return !*surely_there || mark_slot_precise(reg(2).frame, slot);
  }
  const auto begin = s.bytes.begin() + static_cast<ptrdiff_t>(first);
  *surely_there = m.max_entries > 0 &&
                  std::all_of(begin, begin + 4, [](ByteKind b) { return b == ByteKind::kZero; });
  return true;
}

// Dynptrs that this call makes or ends.
bool Engine::settle_dynptrs(uint32_t id, const CallArgs& args) {
  if (id == 197) {
    const Reg& data = reg(1);
    if (data.kind != RegKind::kMapValue && data.kind != RegKind::kMem) {
      return refuse(EINVAL, "Unsupported reg type %s for bpf_dynptr_from_mem data",
                    kind_name(data));
    }
    if (!make_dynptr(4, DynptrKind::kLocal, false, 0)) {
      return false;
    }
  } else if (id == 198) {
    const uint32_t ref = acquire(RefKind::kDynptr, id);
    if (!make_dynptr(4, DynptrKind::kRingbuf, false, ref)) {
      return false;
    }
  } else if (id == 199 || id == 200) {
    const uint32_t ref = args.ref;
    for (Frame& frame : cur().frames) {
      for (StackSlot& slot : frame.slots) {
        if (slot.bytes[0] == ByteKind::kDynptr && slot.reg.ref == ref) {
          drop_slices(slot.reg.id);
          slot = StackSlot{};
        }
      }
    }
  }
  return true;
}

bool Engine::check_helper(const bpf_insn& insn) {
  const auto id = static_cast<uint32_t>(insn.imm);
  const Prototype* proto = find_prototype(id, program_.prog_type);
  if (proto == nullptr) {
    return refuse(EINVAL, "invalid func unknown#%d", insn.imm);
  }
  if (!check_helper_allowed(id, proto)) {
    return false;
  }
  helper_bits_[id / 64] |= 1ULL << (id % 64);
  CallArgs args;
  for (int i = 0; i < 5; ++i) {
    if (!check_argument(i + 1, proto->args[i], *proto, i, &args)) {
      return false;
    }
  }
  if (!check_together(id, &args)) {
    return false;
  }
  bool surely_there = false;
  if (!learn_call(cur().insn, *proto, args)) {
    return false;
  }
  if (id == 1 && !check_known_index(args, &surely_there)) {
    return false;
  }
  if (args.has_function && !push_callback(*proto, args)) {
    return false;
  }
  if (!settle_dynptrs(id, args)) {
    return false;
  }
  if (args.ref != 0 && args.release_reg > 0) {
    if (!(id == 194 ? give_to_kptr(args.ref) : release_reference(args.ref))) {
      return false;
    }
  }
  const bool writes_packet = id == 202 && is_of_skb(args.dynptr_kind);
  if ((proto->effects & kChangesPacket) != 0 || writes_packet) {
    drop_packet_pointers();
  }
  const CallArgs kept = args;
  clobber_caller_saved();
  if (!set_return(*proto, kept)) {
    return false;
  }
  if (surely_there) {
    reg(0).flags &= static_cast<uint16_t>(~kOrNull);
    const uint32_t given = reg(0).id;
    reg(0).id = 0;
    if (!fields_of(reg(0).object).empty()) {
      reg(0).owner = given;
    }
  }
  ++cur().insn;
  return id != 12 || cur().frames.size() == 1 || leave_by_tail_call();
}

bool Engine::check_call(const bpf_insn& insn) {
  if (insn.src_reg == kCallLocal) {
    return check_local_call(insn);
  }
  return insn.src_reg == kCallKfunc ? check_kfunc(insn) : check_helper(insn);
}

}  // namespace bpftime
