// Kernel functions with a rule of their own: casts, interrupts.
#include <algorithm>
#include <cerrno>

#include "spec/context_types.hpp"
#include "verifier/engine.hpp"

namespace bpftime {

bool Engine::run_cast(KfuncCall* call) {
  const Btf& btf = *program_.kernel_btf;
  if (call->spec->rule == KfuncRule::kContextCast) {
    const ContextTypes* types = find_context_types(program_.prog_type);
    const auto type = types == nullptr || types->kernel.empty()
                          ? Result<BtfType>(make_error(EINVAL, "no structure"))
                          : btf.find(types->kernel, BtfKind::kStruct);
    if (!type) {
      return refuse(EINVAL, "the context of this program type is no structure of the kernel's");
    }
    call->result = Reg::pointer(RegKind::kBtf, type->id, kKernelBtf | kTrusted);
    return true;
  }
  if (call->constant == 0) {
    call->result = Reg::pointer(RegKind::kMem, 0, kReadOnly | kUntrusted);
    return true;
  }
  const auto type = call->constant > UINT32_MAX ? Result<BtfType>(make_error(EINVAL, "no type"))
                                                : btf.type(static_cast<uint32_t>(call->constant));
  if (!type || !type->is_structure()) {
    return refuse(EINVAL, "kfunc bpf_rdonly_cast type ID argument must be of a struct or void");
  }
  call->result = Reg::pointer(RegKind::kBtf, type->id, kKernelBtf | kUntrusted);
  return true;
}

// Eight bytes of stack: free before they are saved to, and holding saved flags before they are restored.
bool Engine::check_irq_flag(int regno, KfuncCall* call) {
  const Reg r = reg(regno);
  const int64_t at = r.off + static_cast<int64_t>(r.num.bits.value);
  if (r.kind != RegKind::kStack || !r.num.is_constant() || at % 8 != 0 || at < -kMostStack ||
      at + 8 > 0) {
    return refuse(EINVAL, "arg#%d doesn't point to an irq flag on stack", regno - 1);
  }
  call->irq_flag = {r.frame, static_cast<int>((-at - 1) / 8), 1, 0};
  note_stack_depth(r.frame, at);
  const StackSlot& slot = slot_at(r.frame, call->irq_flag.first);
  const ByteKind kind = slot.bytes[0];
  if (call->spec->rule == KfuncRule::kIrqSave) {
    return (kind != ByteKind::kIrqFlag && kind != ByteKind::kDynptr &&
            kind != ByteKind::kIterator) ||
           refuse(EINVAL, "expected uninitialized irq flag as arg#%d", regno - 1);
  }
  touch_stack(r.frame, call->irq_flag.first, false);
  return kind == ByteKind::kIrqFlag ||
         refuse(EINVAL, "expected an initialized irq flag as arg#%d", regno - 1);
}

bool Engine::run_irq_rule(KfuncCall* call) {
  const IteratorPlace& place = call->irq_flag;
  StackSlot& slot = slot_at(place.frame, place.first);
  if (call->spec->rule == KfuncRule::kIrqSave) {
    const uint32_t id = acquire(RefKind::kIrq);
    slot = StackSlot{};
    slot.bytes.fill(ByteKind::kIrqFlag);
    slot.reg.id = slot.reg.ref = id;
    touch_stack(place.frame, place.first, true);
    return true;
  }
  const auto& refs = cur().refs;
  const auto last = std::find_if(refs.rbegin(), refs.rend(),
                                 [](const Ref& ref) { return ref.kind == RefKind::kIrq; });
  if (last == refs.rend() || last->id != slot.reg.ref) {
    return refuse(EACCES, "cannot restore irq state out of order");
  }
  if (!release_reference(slot.reg.ref)) {
    return false;
  }
  slot = StackSlot{};
  return true;
}

}  // namespace bpftime
