// Objects that the program allocates (bpf_obj_new). Who holds an owning reference must drop the object or hand it on: to
// a map's or object's kptr, or to a list or tree (graph.cpp). Source: docs.kernel.org/bpf/graph_ds_impl.html, and comments
// in Linux v6.12 tools/testing/selftests/bpf/bpf_experimental.h.
//
// A register with kAllocated points into an object of the program's type `object`, and has either
//   ref != 0     owning: nobody else frees it;
//   kNonOwning   alive until the lock is released that is held now (kRcu too, where references are counted);
//   kRcu         alive while the RCU section lasts (a kptr that was read out of a map);
//   kUntrusted   not any longer: it can be read, for what that is worth;
// with kPerCpu it names one copy a CPU, and nothing is read or written through it.
#include <algorithm>
#include <cerrno>

#include "spec/trust.hpp"
#include "verifier/engine.hpp"

namespace bpftime {
namespace {

constexpr uint32_t kMostPerCpuBytes = 512;  // kernel: BPF_GLOBAL_PERCPU_MA_MAX_SIZE

// Numbers, however deep one looks.
bool holds_numbers(const Btf& btf, uint32_t id, int depth) {
  auto type = btf.resolve(id);
  if (!type || depth == 0) {
    return false;
  }
  switch (type->kind) {
    case BtfKind::kInt:
    case BtfKind::kEnum:
    case BtfKind::kEnum64:
      return true;
    case BtfKind::kArray:
      return holds_numbers(btf, type->target, depth - 1);
    case BtfKind::kStruct: {
      const auto members = btf.members(*type);
      return std::all_of(members.begin(), members.end(), [&](const BtfMember& member) {
        return holds_numbers(btf, member.type, depth - 1);
      });
    }
    default:
      return false;
  }
}

}  // namespace

// The special fields of an object's type. nullptr: there can be no such object.
const std::vector<BtfField>* Engine::fields_of_object(uint32_t type) {
  const auto known = object_fields_.find(type);
  if (known != object_fields_.end()) {
    return known->second.get();
  }
  std::unique_ptr<std::vector<BtfField>> list;
  if (program_.btf != nullptr) {
    auto fields = find_fields(*program_.btf, type, FieldsOf::kObject);
    if (fields) {
      list = std::make_unique<std::vector<BtfField>>(std::move(fields).value());
    }
  }
  return object_fields_.emplace(type, std::move(list)).first->second.get();
}

bool Engine::is_owned(const Reg& r) {
  constexpr uint16_t kNot = kOrNull | kNonOwning | kRcu | kUntrusted | kPerCpu | kKernelBtf;
  return r.kind == RegKind::kBtf && (r.flags & kAllocated) != 0 && (r.flags & kNot) == 0 &&
         r.ref != 0;
}

// Where the special fields are of what `r` points into: a map's value, or an object that the program owns.
const std::vector<BtfField>* Engine::fields_behind(const Reg& r) {
  if (r.kind == RegKind::kMapValue && !r.or_null()) {
    return &fields_of(r.object);
  }
  return is_owned(r) ? fields_of_object(r.object) : nullptr;
}

const BtfField* Engine::field_at(const std::vector<BtfField>& fields, int64_t at) {
  const auto found = std::find_if(fields.begin(), fields.end(), [at](const BtfField& field) {
    return at == int64_t{field.offset};
  });
  return found == fields.end() ? nullptr : &*found;
}

// Loads and stores: as of a kernel structure, but that the special fields are left alone.
bool Engine::access_object(const Access& a, const Reg& base, Reg* out) {
  verdict_.reg = a.regno;
  if (a.is_write && ((base.flags & kUntrusted) != 0 ||
                     (base.ref == 0 && (base.flags & (kNonOwning | kRcu)) == 0))) {
    return refuse(EACCES, "only read is supported of R%d", a.regno);
  }
  if (!base.num.is_constant()) {
    return refuse(EACCES, "variable ptr_ access through R%d is prohibited", a.regno);
  }
  const int64_t at = a.off + base.off + static_cast<int64_t>(base.num.bits.value);
  if (at < 0) {
    return refuse(EACCES, "R%d is a pointer to an object, invalid negative access: off=%lld",
                  a.regno, static_cast<long long>(at));
  }
  const auto* fields = fields_of_object(base.object);
  if (fields == nullptr) {
    return refuse(EACCES, "R%d: a type makes no sense", a.regno);
  }
  for (const BtfField& field : *fields) {
    if (at < int64_t{field.offset} + field.size_bytes && int64_t{field.offset} < at + a.size) {
      return refuse(EACCES, "direct access to a special field at off=%u of the object",
                    field.offset);
    }
  }
  auto bytes = program_.btf->size_of(base.object);
  if (!bytes || at + a.size > int64_t{*bytes}) {
    return refuse(EACCES, "R%d: access beyond the end of struct, off=%lld size=%d", a.regno,
                  static_cast<long long>(at), a.size);
  }
  FieldWalk found;
  if (!walk_structure(*program_.btf, base.object, at, a.size, a.regno, &found) ||
      !check_no_leak(a, "mem")) {
    return false;
  }
  if (found.is_pointer && !a.is_write) {  // whatever the program put there
    *out = Reg::pointer(RegKind::kMem, 0, kReadOnly | kUntrusted);
  }
  return true;
}

bool Engine::is_counted(uint32_t type) {
  const auto* fields = fields_of_object(type);
  return fields != nullptr && std::any_of(fields->begin(), fields->end(), [](const BtfField& f) {
           return f.kind == BtfFieldKind::kRefcount;
         });
}

// Owning references become non-owning ones: the list or tree that the lock protects has the object now.
bool Engine::disown(uint32_t ref) {
  auto& refs = cur().refs;
  const auto held = std::find_if(refs.begin(), refs.end(), [ref](const Ref& r) {
    return r.id == ref && r.kind == RefKind::kPointer;
  });
  if (held == refs.end()) {
    return refuse(EINVAL, "release of a reference that is not held");
  }
  refs.erase(held);
  each_reg(&cur(), [this, ref](Reg& r) {
    if (r.ref == ref) {
      r.ref = r.id = 0;
      r.flags |= non_owning(r.object);
    }
  });
  return true;
}

// The lock is released: whoever takes it next may free what the lists and trees hold.
void Engine::drop_non_owning() {
  each_reg(&cur(), [this](Reg& r) {
    if ((r.flags & kNonOwning) != 0) {
      r = leaks_forbidden() ? Reg{} : Reg::unknown();
    }
  });
}

// ---- The functions ----

bool Engine::check_owned_argument(int regno, KfuncParam param, KfuncCall* call) {
  const Reg r = reg(regno);
  if (param != KfuncParam::kAllocated && param != KfuncParam::kRefcounted) {
    return check_graph_argument(regno, param, call);
  }
  const bool is_begin = r.num.is_constant() && r.off + static_cast<int64_t>(r.num.bits.value) == 0;
  if (r.kind == RegKind::kBtf && !is_begin) {
    return refuse(EINVAL, "R%d must have zero offset when passed to release func", regno);
  }
  if (param == KfuncParam::kAllocated) {
    const bool is_per_cpu = call->spec->rule == KfuncRule::kPerCpuDrop;
    Reg whole = r;
    whole.flags &= static_cast<uint16_t>(~kPerCpu);
    if (!is_owned(whole) || ((r.flags & kPerCpu) != 0) != is_per_cpu) {
      return refuse(EINVAL, "arg#%d expected pointer to allocated object%s", regno - 1,
                    is_per_cpu ? " of one copy a CPU" : "");
    }
    return true;
  }
  constexpr uint16_t kNot = kOrNull | kUntrusted | kPerCpu | kKernelBtf;
  if (r.kind != RegKind::kBtf || (r.flags & kAllocated) == 0 || (r.flags & kNot) != 0) {
    return refuse(EINVAL, "arg#%d is neither owning or non-owning ref", regno - 1);
  }
  if (!is_counted(r.object)) {
    return refuse(EINVAL, "arg#%d doesn't point to a type with bpf_refcount field", regno - 1);
  }
  call->object = r;
  return true;
}

bool Engine::make_object(bool is_per_cpu, KfuncCall* call) {
  const Btf* btf = program_.btf;
  if (btf == nullptr || call->constant > UINT32_MAX) {
    return refuse(EINVAL, "local type ID argument must be in range [0, U32_MAX]");
  }
  const auto id = static_cast<uint32_t>(call->constant);
  auto type = btf->type(id);
  if (!type || type->kind != BtfKind::kStruct || fields_of_object(id) == nullptr) {
    return refuse(EINVAL, "type ID argument must be of a struct");
  }
  if (is_per_cpu) {
    if (!holds_numbers(*btf, id, 4)) {
      return refuse(EINVAL, "type ID argument must be of a struct of scalars");
    }
    if (!fields_of_object(id)->empty()) {
      return refuse(EINVAL, "type ID argument must not contain special fields");
    }
    if (type->size_bytes > kMostPerCpuBytes) {
      return refuse(EINVAL, "type size (%u) is greater than %u", type->size_bytes,
                    kMostPerCpuBytes);
    }
  }
  give_object(id, 0, kOrNull | (is_per_cpu ? kPerCpu : 0), call);
  return true;
}

// An owning reference as the call's result.
void Engine::give_object(uint32_t type, uint32_t off, int flags, KfuncCall* call) {
  call->result = Reg::pointer(RegKind::kBtf, type, static_cast<uint16_t>(flags | kAllocated));
  call->result.off = static_cast<int32_t>(off);
  call->result.ref = call->result.id = acquire(RefKind::kPointer);
}

bool Engine::run_owned_rule(KfuncCall* call) {
  switch (call->spec->rule) {
    case KfuncRule::kObjectNew:
      return make_object(false, call);
    case KfuncRule::kPerCpuNew:
      return make_object(true, call);
    case KfuncRule::kObjectShare:
      // Who owns one reference surely gets another; else the last one may just be going.
      give_object(call->object.object, 0, call->object.ref != 0 ? 0 : kOrNull, call);
      return true;
    default:
      return run_graph_rule(call);
  }
}

// ---- kptrs to objects ----

bool Engine::is_own_types(const Btf* btf) const {
  return btf != nullptr && program_.btf != nullptr &&
         (btf == program_.btf || std::ranges::equal(btf->bytes(), program_.btf->bytes()));
}

// Is it the kernel's structure that a kptr points to, not one of the program's?
bool Engine::is_kptr_of_kernel(const BtfField& field, const Btf& btf) {
  const auto [known, is_new] = kptrs_of_kernel_.try_emplace({&btf, field.pointee}, false);
  if (is_new) {  // the search goes through all types of the kernel
    auto type = btf.resolve(field.pointee);
    known->second = type && program_.kernel_btf != nullptr &&
                    program_.kernel_btf->find(type->name, BtfKind::kStruct).has_value();
  }
  return known->second;
}

// An object of the program goes into a kptr: of just this type, one copy a CPU or not.
bool Engine::fits_kptr(const Reg& r, const BtfField& field, const Btf& btf) const {
  auto wanted = btf.resolve(field.pointee);
  const bool is_per_cpu = field.kind == BtfFieldKind::kKptrPercpu;
  return wanted && is_own_types(&btf) && wanted->id == r.object && (r.flags & kAllocated) != 0 &&
         ((r.flags & kPerCpu) != 0) == is_per_cpu;
}

// What a load of a kptr gives, and an exchange.
uint16_t Engine::flags_of_object_kptr(const BtfField& field, bool is_exchanged) const {
  const bool is_per_cpu = field.kind == BtfFieldKind::kKptrPercpu;
  if (is_exchanged) {
    return kOrNull | kAllocated | (is_per_cpu ? kPerCpu : 0);
  }
  const bool lives = current_->rcu_depth != 0 || !current_->in_sleepable;
  if (!lives || field.kind == BtfFieldKind::kKptrUntrusted) {
    return kOrNull | kUntrusted;
  }
  return kOrNull | kRcu | (is_per_cpu ? kPerCpu : kAllocated);
}

Reg Engine::load_kptr(const BtfField& field, const Btf& types) {
  if (is_kptr_of_kernel(field, types)) {
    return load_kernel_kptr(field, types);
  }
  Reg r = Reg::pointer(RegKind::kBtf, field.pointee,
                       is_own_types(&types) ? flags_of_object_kptr(field, false)
                                            : static_cast<uint16_t>(kUntrusted | kOrNull));
  r.id = new_id();
  return r;
}

// Within an RCU section an object stays that its type frees no sooner.
Reg Engine::load_kernel_kptr(const BtfField& field, const Btf& types) {
  const auto wanted = types.resolve(field.pointee);
  const auto type = wanted && program_.kernel_btf != nullptr
                        ? program_.kernel_btf->find(wanted->name, BtfKind::kStruct)
                        : Result<BtfType>(make_error(ENOENT, "no such type"));
  const bool stays = type && field.kind == BtfFieldKind::kKptr && in_rcu_section() &&
                     is_freed_after_rcu(type->name);
  Reg r = Reg::pointer(
      RegKind::kBtf, type ? type->id : field.pointee,
      static_cast<uint16_t>(kOrNull | (stays ? kRcu : kUntrusted) | (type ? kKernelBtf : 0)));
  r.id = new_id();
  return r;
}

// A map got what `ref` owned. Objects of one copy a CPU live on until the RCU section ends.
bool Engine::give_to_kptr(uint32_t ref) {
  if (current_->rcu_depth != 0 || !current_->in_sleepable) {
    each_reg(&cur(), [ref](Reg& r) {
      if (r.ref == ref && (r.flags & kPerCpu) != 0 && (r.flags & kAllocated) != 0) {
        r.ref = r.id = 0;
        r.flags = kRcu | kPerCpu;
      }
    });
  }
  return release_reference(ref);
}

}  // namespace bpftime
