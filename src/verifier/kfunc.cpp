// Functions of the kernel: what is called is told by BTF, what BTF does not say by spec/kfunc.hpp.
#include <algorithm>
#include <cerrno>

#include "isa/opcode.hpp"
#include "spec/spec.hpp"
#include "verifier/engine.hpp"

namespace bpftime {

const KfuncSpec* Engine::kfunc_of(const bpf_insn& insn) const {
  if (insn.code != kOpCall || insn.src_reg != kCallKfunc || program_.kernel_btf == nullptr) {
    return nullptr;
  }
  auto func = program_.kernel_btf->type(static_cast<uint32_t>(insn.imm));
  return func && func->kind == BtfKind::kFunc ? find_kfunc_spec(func->name) : nullptr;
}

bool Engine::kfunc_not_allowed(std::string_view name) {
  return refuse(EACCES, "calling kernel function %.*s is not allowed",
                static_cast<int>(name.size()), name.data());
}

// What a program is in that may not sleep. nullptr: nothing.
const char* Engine::unsleepable_region() const {
  const auto& refs = current_->refs;
  const bool is_irq_off =
      std::any_of(refs.begin(), refs.end(), [](const Ref& r) { return r.kind == RefKind::kIrq; });
  return current_->rcu_depth != 0       ? "rcu_read_lock"
         : current_->preempt_depth != 0 ? "preempt"
         : is_irq_off                   ? "irq"
                                        : nullptr;
}

bool Engine::in_rcu_section() const {
  const auto& refs = current_->refs;
  return current_->rcu_depth != 0 || !current_->in_sleepable ||
         std::any_of(refs.begin(), refs.end(),
                     [](const Ref& ref) { return ref.kind == RefKind::kLock; });
}

// May a program like this one call it here?
bool Engine::check_kfunc_allowed(const KfuncSpec& spec) {
  const auto length = static_cast<int>(spec.name.size());
  const char* const name = spec.name.data();
  if ((spec.program_types & program_type_bit(program_.prog_type)) == 0) {
    return kfunc_not_allowed(spec.name);
  }
  if ((spec.flags & kKfSleepable) != 0) {
    if (!cur().in_sleepable) {
      return refuse(EACCES, "program must be sleepable to call sleepable kfunc %.*s", length, name);
    }
    if (const char* region = unsleepable_region(); region != nullptr) {
      return refuse(EACCES, "kernel func %.*s is sleepable within %s region", length, name, region);
    }
    verdict_.facts.may_sleep = true;
  }
  if ((spec.flags & kKfRcuProtected) != 0 && !in_rcu_section()) {
    return refuse(EACCES, "kernel func %.*s requires RCU critical section protection", length,
                  name);
  }
  for (const Ref& ref : cur().refs) {
    if (ref.kind == RefKind::kLock && (spec.flags & kKfUnderLock) == 0) {
      return refuse(EINVAL, "function calls are not allowed while holding a lock");
    }
  }
  return true;
}

bool Engine::enter_or_leave_rcu(bool enters) {
  if (enters) {
    if (cur().rcu_depth != 0) {
      return refuse(EINVAL, "nested rcu read lock (kernel function bpf_rcu_read_lock)");
    }
    ++cur().rcu_depth;
    return true;
  }
  if (cur().rcu_depth == 0) {
    return refuse(EINVAL, "unmatched rcu read unlock (kernel function bpf_rcu_read_unlock)");
  }
  if (--cur().rcu_depth != 0) {
    return true;
  }
  // What only this region kept alive is not to be trusted any longer.
  const auto distrust = [](Reg& r) {
    if ((r.flags & kRcu) != 0) {
      r.flags = static_cast<uint16_t>((r.flags & ~(kRcu | kTrusted)) | kUntrusted);
    }
  };
  each_reg(&cur(), distrust);
  for (Frame& frame : cur().frames) {
    for (StackSlot& slot : frame.slots) {
      if (slot.bytes[0] == ByteKind::kIterator) {
        distrust(slot.reg);
      }
    }
  }
  return true;
}

bool Engine::enter_or_leave_preemption(bool enters) {
  if (!enters && cur().preempt_depth == 0) {
    return refuse(EINVAL,
                  "unmatched attempt to enable preemption (kernel function bpf_preempt_enable)");
  }
  cur().preempt_depth += enters ? 1U : ~0U;
  return true;
}

// What a function does by a rule of its own, its arguments being right.
bool Engine::run_kfunc_rule(KfuncCall* call) {
  switch (call->spec->rule) {
    case KfuncRule::kNone:
      return true;
    case KfuncRule::kThrow:
      break;  // check_throw()
    case KfuncRule::kObjectNew:
    case KfuncRule::kObjectShare:
    case KfuncRule::kPerCpuNew:
    case KfuncRule::kListPush:
    case KfuncRule::kListPop:
    case KfuncRule::kListLook:
    case KfuncRule::kTreeAdd:
    case KfuncRule::kTreeRemove:
    case KfuncRule::kTreeLook:
    case KfuncRule::kTreeStep:
      return run_owned_rule(call);
    case KfuncRule::kPerCpuDrop:
      return true;
    case KfuncRule::kRcuLock:
    case KfuncRule::kRcuUnlock:
      return enter_or_leave_rcu(call->spec->rule == KfuncRule::kRcuLock);
    case KfuncRule::kPreemptDisable:
    case KfuncRule::kPreemptEnable:
      return enter_or_leave_preemption(call->spec->rule == KfuncRule::kPreemptDisable);
    case KfuncRule::kSession:
      return is_session() || kfunc_not_allowed(call->spec->name);
    case KfuncRule::kDynptrFromSkb:
    case KfuncRule::kDynptrFromSkbMeta:
    case KfuncRule::kDynptrFromXdp:
    case KfuncRule::kDynptrClone:
    case KfuncRule::kDynptrSlice:
    case KfuncRule::kDynptrSliceWrite:
    case KfuncRule::kDynptrWrite:
      return run_dynptr_rule(call);
    case KfuncRule::kContextCast:
    case KfuncRule::kReadOnlyCast:
      return run_cast(call);
    case KfuncRule::kUntrusted:
      return true;
    case KfuncRule::kCssTask:
      return is_program_type(BPF_PROG_TYPE_LSM) || is_iter() || cur().in_sleepable ||
             refuse(EACCES,
                    "css_task_iter is only allowed in bpf_lsm, bpf_iter and sleepable progs");
    case KfuncRule::kIterOnly:
      return is_iter() || kfunc_not_allowed(call->spec->name);
    case KfuncRule::kIrqSave:
    case KfuncRule::kIrqRestore:
      return run_irq_rule(call);
    case KfuncRule::kSessionCookie:
      call->result = Reg::pointer(RegKind::kMem);
      call->result.size = sizeof(uint64_t);
      return is_session() || kfunc_not_allowed(call->spec->name);
  }
  return refuse(EFAULT, "a kernel function with a rule that nobody knows");
}

// What the call gives when no rule has said so.
bool Engine::set_kfunc_result(KfuncCall* call) {
  const Btf& btf = *program_.kernel_btf;
  const uint16_t flags = call->spec->flags;
  clobber_caller_saved();
  if (call->result.kind != RegKind::kNone) {
    reg(0) = call->result;
    return true;
  }
  if (call->proto.target == 0) {
    return true;
  }
  auto type = btf.resolve(call->proto.target);
  if (!type) {
    return kfunc_not_allowed(call->spec->name);
  }
  if (type->kind != BtfKind::kPtr) {
    reg(0) = Reg::unknown();
    return true;
  }
  Reg r = reg_of_btf_pointer(type->target, true,
                             call->spec->rule == KfuncRule::kUntrusted ? kUntrusted
                             : (flags & kKfRcuProtected) != 0          ? kRcu
                             : (flags & kKfAcquire) != 0               ? kTrusted
                                                                       : 0);
  if (r.kind != RegKind::kBtf) {
    auto bytes = btf.size_of(type->target);
    if (!bytes) {
      return kfunc_not_allowed(call->spec->name);
    }
    r = Reg::pointer(RegKind::kMem, 0, kReadOnly);
    r.size = *bytes;
  }
  if ((flags & kKfRetNull) != 0) {
    r.flags |= kOrNull;
    r.id = new_id();
  }
  if ((flags & kKfAcquire) != 0) {
    r.ref = acquire(RefKind::kPointer);
    r.id = (flags & kKfRetNull) != 0 ? r.ref : 0;
  }
  reg(0) = r;
  return true;
}

bool Engine::check_kfunc(const bpf_insn& insn) {
  const Btf& btf = *program_.kernel_btf;
  auto func = btf.type(static_cast<uint32_t>(insn.imm));
  if (insn.imm == 0) {
    return refuse(EINVAL, "a kernel function that was not found");
  }
  KfuncCall call;
  call.spec = find_kfunc_spec(func->name);
  auto proto = btf.type(func->target);
  if (call.spec == nullptr || !proto || proto->kind != BtfKind::kFuncProto) {
    return kfunc_not_allowed(func->name);
  }
  call.proto = *proto;
  call.parameters = btf.parameters(*proto);
  if (call.parameters.size() > 5) {
    return kfunc_not_allowed(func->name);
  }
  if (!check_kfunc_allowed(*call.spec)) {
    return false;
  }
  for (size_t i = 0; i < call.parameters.size(); ++i) {
    if (!check_kfunc_argument(i, &call)) {
      return false;
    }
  }
  verdict_.reg = -1;
  if ((call.spec->flags & (kKfIterNew | kKfIterNext | kKfIterDestroy)) != 0) {
    return run_kfunc_rule(&call) && run_iterator(&call);
  }
  if ((call.spec->flags & kKfRelease) != 0) {
    if (call.args.ref == 0) {
      return refuse(EINVAL, "release kernel function %.*s expects refcounted PTR_TO_BTF_ID",
                    static_cast<int>(call.spec->name.size()), call.spec->name.data());
    }
    if (!release_reference(call.args.ref)) {
      return false;
    }
  }
  if (!run_kfunc_rule(&call)) {
    return false;
  }
  if ((call.spec->flags & kKfChangesPacket) != 0) {
    drop_packet_pointers();
  }
  if (!set_kfunc_result(&call)) {
    return false;
  }
  ++cur().insn;
  return true;
}

}  // namespace bpftime
