// Functions of the kernel by their BTF, and open-coded iterators.
#include <algorithm>
#include <cerrno>

#include "isa/opcode.hpp"
#include "spec/spec.hpp"
#include "verifier/engine.hpp"

namespace bpftime {
namespace {

enum KfuncFlag : uint8_t { kGivesRef = 1, kTakesRef = 2, kMayGiveNull = 4, kGeneric = 8 };

// What BTF does not say. kGeneric: tracing, tc, XDP and system call programs only.
struct KnownKfunc {
  std::string_view name;
  uint8_t flags;
};
constexpr KnownKfunc kKnown[] = {
    {"bpf_task_acquire", kGivesRef | kMayGiveNull | kGeneric},
    {"bpf_task_from_pid", kGivesRef | kMayGiveNull | kGeneric},
    {"bpf_task_from_vpid", kGivesRef | kMayGiveNull | kGeneric},
    {"bpf_task_release", kTakesRef | kGeneric},
    {"bpf_cgroup_acquire", kGivesRef | kMayGiveNull | kGeneric},
    {"bpf_cgroup_ancestor", kGivesRef | kMayGiveNull | kGeneric},
    {"bpf_cgroup_from_id", kGivesRef | kMayGiveNull | kGeneric},
    {"bpf_cgroup_release", kTakesRef | kGeneric},
    {"bpf_task_under_cgroup", kGeneric},
    {"bpf_cpumask_create", kGivesRef | kMayGiveNull | kGeneric},
    {"bpf_cpumask_acquire", kGivesRef | kGeneric},
    {"bpf_cpumask_release", kTakesRef | kGeneric},
    {"bpf_cpumask_first", kGeneric},
    {"bpf_cpumask_set_cpu", kGeneric},
    {"bpf_cpumask_clear_cpu", kGeneric},
    {"bpf_cpumask_test_cpu", kGeneric},
};

constexpr size_t kNumIteratorSlots = 1;  // sizeof(struct bpf_iter_num) is 8

}  // namespace

bool Engine::is_iterator_next(const bpf_insn& insn) const {
  if (insn.code != kOpCall || insn.src_reg != kCallKfunc || program_.kernel_btf == nullptr) {
    return false;
  }
  auto func = program_.kernel_btf->type(static_cast<uint32_t>(insn.imm));
  return func && func->kind == BtfKind::kFunc && func->name == "bpf_iter_num_next";
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

// bpf_iter_num_new, _next, _destroy: the iterator is a slot of the stack.
bool Engine::check_number_iterator(std::string_view what) {
  const Reg r = reg(1);
  verdict_.reg = 1;
  const int64_t at = r.off + static_cast<int64_t>(r.num.bits.value);
  if (r.kind != RegKind::kStack || !r.num.is_constant() || at % 8 != 0 || at < -kMostStack ||
      at + 8 * static_cast<int64_t>(kNumIteratorSlots) > 0) {
    return refuse(EINVAL, "R1: an iterator lies at a constant, aligned place in the stack");
  }
  const auto slot = static_cast<int>((-at - 1) / 8);
  note_stack_depth(r.frame, at);
  Frame& frame = cur().frames[r.frame];
  const bool is_there = slot_at(r.frame, slot).bytes[0] == ByteKind::kIterator;
  const uint32_t next = cur().insn + 1;
  if (what == "new") {
    if (is_there) {
      return refuse(EINVAL, "expected uninitialized iter_num as arg #0");
    }
    for (const int n : {2, 3}) {
      if (!check_readable(n)) {
        return false;
      }
      if (!reg(n).is_scalar()) {
        verdict_.reg = n;
        return refuse(EINVAL, "R%d is not a scalar", n);
      }
    }
    if (!drop_special_slot(&frame, slot)) {
      return false;
    }
    const uint32_t ref = acquire(RefKind::kIterator);
    StackSlot& s = slot_at(r.frame, slot);
    s = StackSlot{};
    s.bytes.fill(ByteKind::kIterator);
    s.is_first = true;
    s.iterator = IteratorState::kActive;
    s.reg.ref = ref;
    s.reg.id = ref;
    touch_stack(r.frame, slot, true);
    clobber_caller_saved();
    reg(0) = Reg::unknown();
    reg(0).num = reg(0).num.zero_extended(32);
    cur().insn = next;
    verdict_.reg = -1;
    return true;
  }
  if (!is_there) {
    return refuse(EINVAL, "expected an initialized iter_num as arg #0");
  }
  touch_stack(r.frame, slot, false);
  if (what == "destroy") {
    if (!release_reference(slot_at(r.frame, slot).reg.ref)) {
      return false;
    }
    slot_at(r.frame, slot) = StackSlot{};
    clobber_caller_saved();
    cur().insn = next;
    verdict_.reg = -1;
    return true;
  }
  verdict_.facts.most_back_edges = UINT32_MAX;
  if (slot_at(r.frame, slot).iterator == IteratorState::kActive) {
    // One path on which there is a next number, one on which there is none.
    const State* older = nullptr;
    for (const State* s = cur().parent; s != nullptr; s = s->parent) {
      if (s->insn == cur().insn && s->frames.size() == cur().frames.size() &&
          static_cast<size_t>(slot) < s->frames[r.frame].slots.size() &&
          s->frames[r.frame].slots[static_cast<size_t>(slot)].iterator_depth !=
              slot_at(r.frame, slot).iterator_depth) {
        older = s;
        break;
      }
    }
    State* goes_on = nullptr;
    if (!push_branch(next, &goes_on)) {
      return false;
    }
    if (older != nullptr) {
      widen_against(goes_on, *older);
    }
    StackSlot& s = goes_on->frames[r.frame].slots[static_cast<size_t>(slot)];
    ++s.iterator_depth;
    for (size_t n = 0; n <= 5; ++n) {
      goes_on->top().regs[n] = Reg{};
    }
    Reg value = Reg::pointer(RegKind::kMem, 0, kReadOnly);
    value.size = 4;
    value.ref = s.reg.ref;
    goes_on->top().regs[0] = value;
  }
  slot_at(r.frame, slot).iterator = IteratorState::kDrained;
  clobber_caller_saved();
  reg(0) = Reg::scalar(Scalar::constant(0));
  cur().insn = next;
  verdict_.reg = -1;
  return true;
}

bool Engine::check_kfunc(const bpf_insn& insn) {
  if (program_.kernel_btf == nullptr) {
    return refuse(EINVAL, "calling kernel function is not supported without kernel BTF");
  }
  const Btf& btf = *program_.kernel_btf;
  auto func = btf.type(static_cast<uint32_t>(insn.imm));
  if (!func || func->kind != BtfKind::kFunc) {
    return refuse(EINVAL, "kernel btf_id %d is not a function", insn.imm);
  }
  const std::string_view name = func->name;
  const auto not_allowed = [&] {
    return refuse(EACCES, "calling kernel function %.*s is not allowed",
                  static_cast<int>(name.size()), name.data());
  };
  for (const Ref& ref : cur().refs) {
    if (ref.kind == RefKind::kLock) {
      return refuse(EINVAL, "function calls are not allowed while holding a lock");
    }
  }
  if (name.substr(0, 13) == "bpf_iter_num_") {
    return check_number_iterator(name.substr(13));
  }
  const auto number_result = [&] {
    clobber_caller_saved();
    ++cur().insn;
    return true;
  };
  if (name == "bpf_rcu_read_lock") {
    if (cur().rcu_depth != 0) {
      return refuse(EINVAL, "nested rcu read lock (kernel function bpf_rcu_read_lock)");
    }
    ++cur().rcu_depth;
    return number_result();
  }
  if (name == "bpf_rcu_read_unlock") {
    if (cur().rcu_depth == 0) {
      return refuse(EINVAL, "unmatched rcu read unlock (kernel function bpf_rcu_read_unlock)");
    }
    --cur().rcu_depth;
    // What only this region kept alive is not to be trusted any longer.
    each_reg(&cur(), [](Reg& r) {
      if (r.kind == RegKind::kBtf && (r.flags & kRcu) != 0) {
        r.flags = static_cast<uint16_t>((r.flags & ~(kRcu | kTrusted)) | kUntrusted);
      }
    });
    return number_result();
  }
  if (name == "bpf_preempt_disable") {
    ++cur().preempt_depth;
    return number_result();
  }
  if (name == "bpf_preempt_enable") {
    if (cur().preempt_depth == 0) {
      return refuse(EINVAL,
                    "unmatched attempt to enable preemption (kernel function bpf_preempt_enable)");
    }
    --cur().preempt_depth;
    return number_result();
  }
  if (name == "bpf_session_is_return" || name == "bpf_session_cookie") {
    if (!is_session()) {
      return not_allowed();
    }
    clobber_caller_saved();
    reg(0) = Reg::unknown();
    if (name == "bpf_session_cookie") {
      reg(0) = Reg::pointer(RegKind::kMem, 0, 0);
      reg(0).size = sizeof(uint64_t);
    }
    ++cur().insn;
    return true;
  }
  const auto known = std::find_if(std::begin(kKnown), std::end(kKnown),
                                  [name](const KnownKfunc& k) { return k.name == name; });
  const bool is_generic_type =
      is_program_type(BPF_PROG_TYPE_TRACING) || is_program_type(BPF_PROG_TYPE_SCHED_CLS) ||
      is_program_type(BPF_PROG_TYPE_XDP) || is_program_type(BPF_PROG_TYPE_SYSCALL) ||
      is_program_type(BPF_PROG_TYPE_STRUCT_OPS) || is_program_type(BPF_PROG_TYPE_CGROUP_SKB);
  if (known == std::end(kKnown) || ((known->flags & kGeneric) != 0 && !is_generic_type)) {
    return not_allowed();
  }
  auto proto = btf.type(func->target);
  if (!proto || proto->kind != BtfKind::kFuncProto) {
    return not_allowed();
  }
  const auto parameters = btf.parameters(*proto);
  uint32_t released = 0;
  for (size_t i = 0; i < parameters.size() && i < 5; ++i) {
    const int n = static_cast<int>(i) + 1;
    if (!check_readable(n)) {
      return false;
    }
    const Reg r = reg(n);
    verdict_.reg = n;
    auto type = btf.resolve(parameters[i].type);
    if (!type) {
      return not_allowed();
    }
    if (type->kind != BtfKind::kPtr) {
      if (!r.is_scalar()) {
        return refuse(EINVAL, "R%d is not a scalar", n);
      }
      continue;
    }
    auto wanted = btf.resolve(type->target);
    auto held = r.kind == RegKind::kBtf && (r.flags & kKernelBtf) != 0
                    ? btf.type(r.object)
                    : Result<BtfType>(make_error(EINVAL, ""));
    const bool is_cpumask =
        wanted && held && wanted->name == "cpumask" && held->name == "bpf_cpumask";
    if (!wanted || wanted->kind != BtfKind::kStruct || !held ||
        (held->name != wanted->name && !is_cpumask) || r.off != 0 || !r.num.is_constant() ||
        r.num.bits.value != 0) {
      return refuse(EINVAL, "arg#%zu expected pointer to a kernel structure but R%d has %s", i, n,
                    kind_name(r));
    }
    if (r.or_null()) {
      return refuse(EACCES, "Possibly NULL pointer passed to trusted arg%zu", i);
    }
    if (r.ref == 0 && (r.flags & (kTrusted | kRcu)) == 0) {
      return refuse(EINVAL, "R%d must be referenced or trusted", n);
    }
    if ((known->flags & kTakesRef) != 0) {
      if (r.ref == 0) {
        return refuse(EINVAL, "release kernel function %.*s expects refcounted PTR_TO_BTF_ID",
                      static_cast<int>(name.size()), name.data());
      }
      released = r.ref;
    }
  }
  verdict_.reg = -1;
  if (released != 0 && !release_reference(released)) {
    return false;
  }
  clobber_caller_saved();
  auto result =
      proto->target == 0 ? Result<BtfType>(make_error(ENOENT, "")) : btf.resolve(proto->target);
  if (result && result->kind == BtfKind::kPtr) {
    Reg r = reg_of_btf_pointer(result->target, true, kTrusted);
    if (r.kind != RegKind::kBtf) {
      return not_allowed();
    }
    if ((known->flags & kMayGiveNull) != 0) {
      r.flags |= kOrNull;
      r.id = new_id();
    }
    if ((known->flags & kGivesRef) != 0) {
      r.ref = acquire(RefKind::kPointer);
      r.id = (known->flags & kMayGiveNull) != 0 ? r.ref : 0;
    }
    reg(0) = r;
  } else if (result) {
    reg(0) = Reg::unknown();
    auto bytes = btf.size_of(proto->target);
    if (bytes && *bytes < 8) {
      reg(0).num = reg(0).num.zero_extended(*bytes * 8);
    }
  }
  ++cur().insn;
  return true;
}

}  // namespace bpftime
