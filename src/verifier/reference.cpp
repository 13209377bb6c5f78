// What a path holds: references, locks.
#include <algorithm>
#include <cerrno>

#include "verifier/engine.hpp"

namespace bpftime {
uint32_t Engine::acquire(RefKind kind, uint32_t helper) {
  const uint32_t id = new_id();
  Ref ref;
  ref.id = id;
  ref.kind = kind;
  ref.insn = cur().insn;
  ref.helper = helper;
  cur().refs.push_back(ref);
  return id;
}

bool Engine::release_reference(uint32_t id) {
  auto& refs = cur().refs;
  const auto it = std::find_if(refs.begin(), refs.end(), [id](const Ref& r) { return r.id == id; });
  if (it == refs.end()) {
    return refuse(EINVAL, "release of a reference that is not held");
  }
  refs.erase(it);
  each_reg(&cur(), [this, id](Reg& r) {
    if (r.ref == id) {
      r = leaks_forbidden() ? Reg{} : Reg::unknown();
    }
  });
  return true;
}

bool Engine::check_no_references(const char* where) {
  for (const Ref& ref : cur().refs) {
    if (ref.kind == RefKind::kLock || ref.kind == RefKind::kResLock) {
      return refuse(EINVAL, "%s cannot be used inside bpf_spin_lock-ed region", where);
    }
    if (ref.kind == RefKind::kIrq) {
      return refuse(EINVAL, "%s cannot be used inside bpf_local_irq_save-ed region", where);
    }
    return refuse(EINVAL, "Unreleased reference id=%u alloc_insn=%u: %s would lose it", ref.id,
                  ref.insn, where);
  }
  if (cur().rcu_depth != 0) {
    return refuse(EINVAL, "%s cannot be used inside bpf_rcu_read_lock-ed region", where);
  }
  if (cur().preempt_depth != 0) {
    return refuse(EINVAL, "%s cannot be used inside bpf_preempt_disable-ed region", where);
  }
  return true;
}

bool Engine::check_lock(bool is_unlock, const Reg& r, int regno) {
  verdict_.reg = regno;
  const std::vector<BtfField>* fields = fields_behind(r);
  if (fields == nullptr) {
    return refuse(EINVAL, "R%d does not point to a value with a bpf_spin_lock", regno);
  }
  if (!r.num.is_constant()) {
    return refuse(
        EINVAL, "R%d doesn't have constant offset. bpf_spin_lock has to be at the constant offset",
        regno);
  }
  const int64_t at = r.off + static_cast<int64_t>(r.num.bits.value);
  const BtfField* field = field_at(*fields, at);
  if (field == nullptr || field->kind != BtfFieldKind::kSpinLock) {
    return refuse(EINVAL, "off %lld doesn't point to 'struct bpf_spin_lock'",
                  static_cast<long long>(at));
  }
  if (in_tree_callback()) {
    return refuse(EINVAL, "can't spin_{lock,unlock} in rbtree cb");
  }
  auto& refs = cur().refs;
  const auto held = std::find_if(refs.begin(), refs.end(),
                                 [](const Ref& ref) { return ref.kind == RefKind::kLock; });
  Ref lock = lock_beside(r);
  if (!is_unlock) {
    if (held != refs.end()) {
      return refuse(EINVAL, "Locking two bpf_spin_locks are not allowed");
    }
    lock.id = new_id();
    lock.insn = cur().insn;
    refs.push_back(lock);
  } else {
    if (held == refs.end()) {
      return refuse(EINVAL, "bpf_spin_unlock without taking a lock");
    }
    if (held->owner != lock.owner || held->helper != lock.helper) {
      return refuse(EINVAL, "bpf_spin_unlock of different lock");
    }
    refs.erase(held);
    drop_non_owning();
  }
  verdict_.reg = -1;
  return true;
}

}  // namespace bpftime
