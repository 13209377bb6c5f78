// Arguments of kernel functions: what is wanted is told by the type and by the ending of the name.
#include <algorithm>
#include <cerrno>

#include "spec/context_types.hpp"
#include "verifier/engine.hpp"

namespace bpftime {
namespace {

// Bytes that hold no pointer, however deep one looks.
bool holds_numbers_only(const Btf& btf, uint32_t id, int depth = 0) {
  auto type = btf.resolve(id);
  if (!type || depth > 4) {
    return false;
  }
  if (type->kind == BtfKind::kArray) {
    return holds_numbers_only(btf, type->target, depth + 1);
  }
  if (!type->is_structure()) {
    return type->is_number();
  }
  const auto members = btf.members(*type);
  return std::all_of(members.begin(), members.end(), [&](const BtfMember& member) {
    return holds_numbers_only(btf, member.type, depth + 1);
  });
}

constexpr std::pair<std::string_view, KfuncParam> kByStruct[] = {
    {"bpf_dynptr", KfuncParam::kDynptr},      {"bpf_list_head", KfuncParam::kListHead},
    {"bpf_list_node", KfuncParam::kListNode}, {"bpf_rb_node", KfuncParam::kTreeNode},
    {"bpf_rb_root", KfuncParam::kTreeRoot},   {"bpf_res_spin_lock", KfuncParam::kLock},
    {"bpf_task_work", KfuncParam::kTaskWork}, {"bpf_timer", KfuncParam::kTimer},
    {"bpf_wq", KfuncParam::kWorkqueue}};

constexpr std::pair<std::string_view, KfuncParam> kByEnding[] = {
    {"__alloc", KfuncParam::kAllocated},
    {"__irq_flag", KfuncParam::kIrqFlag},
    {"__iter", KfuncParam::kIterator},
    {"__map", KfuncParam::kMap},
    {"__refcounted_kptr", KfuncParam::kRefcounted},
    {"__str", KfuncParam::kConstString}};

}  // namespace

bool Engine::is_trusted(const Reg& r) const {
  return r.ref != 0 || r.kind == RegKind::kSocket || r.kind == RegKind::kMap ||
         ((r.flags & kTrusted) != 0 && (r.flags & (kUntrusted | kOrNull | kRcu | kPerCpu)) == 0);
}

// The kernel's structure that a register points to. Error: none.
Result<BtfType> Engine::struct_behind(const Reg& r) const {
  static constexpr const char* kSockets[] = {"sock", "sock_common", "tcp_sock", "xdp_sock"};
  const Btf& btf = *program_.kernel_btf;
  if (r.kind == RegKind::kBtf && (r.flags & kKernelBtf) != 0) {
    return btf.type(r.object);
  }
  if (r.kind == RegKind::kMap) {
    return btf.find("bpf_map", BtfKind::kStruct);
  }
  return r.kind == RegKind::kSocket ? btf.find(kSockets[r.object], BtfKind::kStruct)
                                    : Result<BtfType>(make_error(EINVAL, "no structure"));
}

// Does `wanted` lie just there in `type`, as the whole or as a part of it?
bool Engine::is_struct_at(const BtfType& type, int64_t at, const BtfType& wanted,
                          bool is_strict) const {
  const Btf& btf = *program_.kernel_btf;
  BtfType here = type;
  for (int depth = 0; depth < 16; ++depth) {
    if (at == 0 && (here.id == wanted.id ||
                    (here.name == wanted.name && here.kind == wanted.kind && !here.name.empty()))) {
      return true;
    }
    if (is_strict) {
      return false;
    }
    const auto members = btf.members(here);
    const auto inside = std::find_if(members.begin(), members.end(), [&](const BtfMember& m) {
      auto bytes = btf.size_of(m.type);
      return m.bitfield_bits == 0 && bytes && at >= int64_t{m.bit_offset / 8} &&
             at < int64_t{m.bit_offset / 8} + int64_t{*bytes};
    });
    if (inside == members.end()) {
      return false;
    }
    at -= inside->bit_offset / 8;
    auto next = btf.resolve(inside->type);
    if (!next || !next->is_structure()) {
      return false;
    }
    here = *next;
  }
  return false;
}

KfuncParam Engine::kfunc_param(const KfuncCall& call, size_t index, const BtfType& pointee) const {
  const Btf& btf = *program_.kernel_btf;
  const std::string_view name = call.parameters[index].name;
  const Reg& r = current_->top().regs[index + 1];
  if (is_context_argument(program_.prog_type, pointee.name) ||
      call.spec->rule == KfuncRule::kContextCast) {
    return KfuncParam::kContext;
  }
  if (name.ends_with("__uninit") && pointee.name == "bpf_dynptr") {
    return KfuncParam::kNewDynptr;
  }
  for (const auto& [ending, param] : kByEnding) {
    if (name.ends_with(ending)) {
      return param;
    }
  }
  if (index == 0 && (call.spec->flags & (kKfIterNew | kKfIterNext | kKfIterDestroy)) != 0) {
    return KfuncParam::kIterator;
  }
  for (const auto& [type, param] : kByStruct) {
    if (pointee.kind == BtfKind::kStruct && pointee.name == type) {
      return param;
    }
  }
  if (pointee.kind == BtfKind::kFuncProto) {
    return KfuncParam::kCallback;
  }
  if (pointee.kind == BtfKind::kStruct && struct_behind(r)) {
    return KfuncParam::kObject;
  }
  const bool has_next = index + 1 < call.parameters.size();
  const std::string_view next = has_next ? call.parameters[index + 1].name : "";
  const bool has_size = next.ends_with("__sz") || next.ends_with("__szk");
  if ((has_size && pointee.kind == BtfKind::kVoid) || holds_numbers_only(btf, pointee.id)) {
    return has_size ? KfuncParam::kSizedMemory : KfuncParam::kMemory;
  }
  return pointee.kind == BtfKind::kStruct ? KfuncParam::kObject : KfuncParam::kUnknown;
}

// A kernel object of the wanted type; where the flags say so, one that is sure to be alive.
bool Engine::check_object_argument(int regno, const BtfType& wanted, const KfuncCall& call) {
  const Reg r = reg(regno);
  const uint16_t flags = call.spec->flags;
  auto held = struct_behind(r);
  if (!held || !r.num.is_constant() || r.num.bits.value != 0) {
    return refuse(EINVAL, "arg#%d expected pointer to a kernel structure but R%d has %s", regno - 1,
                  regno, kind_name(r));
  }
  const bool needs_trust = (flags & (kKfTrustedArgs | kKfRcu | kKfRelease)) != 0;
  const bool is_rcu_enough = (flags & kKfRcu) != 0 && (r.flags & kRcu) != 0;
  if (needs_trust && !is_trusted(r) && !is_rcu_enough) {
    return refuse(EINVAL, "R%d must be %s", regno,
                  (flags & kKfRcu) != 0 ? "a rcu pointer, or referenced or trusted"
                                        : "referenced or trusted");
  }
  const bool is_released = (flags & kKfRelease) != 0 && r.ref != 0;
  if (is_released && r.off != 0) {
    return refuse(EINVAL, "R%d must have zero offset when passed to release func", regno);
  }
  const bool is_strict = (flags & kKfAcquire) != 0 || is_released ||
                         held->name.ends_with("___init") || wanted.name.ends_with("___init");
  const bool is_packet_in_traced = (wanted.name == "__sk_buff" && held->name == "sk_buff") ||
                                   (wanted.name == "xdp_md" && held->name == "xdp_buff");
  if (!(is_packet_in_traced && r.off == 0) && !is_struct_at(*held, r.off, wanted, is_strict)) {
    return refuse(EINVAL, "arg#%d expected pointer to %.*s but R%d has a pointer to %.*s",
                  regno - 1, static_cast<int>(wanted.name.size()), wanted.name.data(), regno,
                  static_cast<int>(held->name.size()), held->name.data());
  }
  return true;
}

// Read and written alike, whatever the prototype says.
bool Engine::check_kfunc_memory(int regno, int64_t size) {
  return check_helper_memory(regno, size, false, true) &&
         check_helper_memory(regno, size, true, true);
}

bool Engine::check_sized_memory(int regno, KfuncCall* call) {
  const auto index = static_cast<size_t>(regno) - 1;
  const bool is_optional = call->parameters[index].name.ends_with("__opt");
  const int size_reg = regno + 1;
  if (!check_readable(size_reg)) {
    return false;
  }
  if (call->parameters[index + 1].name.ends_with("__szk")) {
    if (!reg(size_reg).is_scalar() || !reg(size_reg).num.is_constant() ||
        reg(size_reg).num.bits.value > kMostMemory) {
      verdict_.reg = size_reg;
      return refuse(EINVAL, "R%d must be a known constant", size_reg);
    }
    call->constant = reg(size_reg).num.bits.value;
    if (!mark_precise(size_reg)) {
      return false;
    }
  }
  CallArgs sizes;
  if (reg(regno).is_zero() && is_optional) {
    return mark_precise(regno);
  }
  return check_size_argument(size_reg, false, true, &sizes) &&
         check_size_argument(size_reg, true, true, &sizes);
}

bool Engine::check_kfunc_pointer(int regno, KfuncParam param, const BtfType& pointee,
                                 KfuncCall* call) {
  static constexpr Prototype kNoHelper{};
  const Reg r = reg(regno);
  switch (param) {
    case KfuncParam::kContext:
      return check_argument_kind(regno, ParamSpec{Param::kCtx}, kNoHelper, regno - 1, &call->args);
    case KfuncParam::kObject:
      return check_object_argument(regno, pointee, *call);
    case KfuncParam::kMemory: {
      auto bytes = program_.kernel_btf->size_of(pointee.id);
      return bytes && check_kfunc_memory(regno, *bytes);
    }
    case KfuncParam::kSizedMemory:
      return check_sized_memory(regno, call);
    case KfuncParam::kConstString:
      return check_constant_string(regno);
    case KfuncParam::kDynptr:
    case KfuncParam::kNewDynptr: {
      const bool is_new = param == KfuncParam::kNewDynptr;
      if (!check_dynptr_argument(regno, ParamSpec{is_new ? Param::kDynptrOut : Param::kDynptr},
                                 kNoHelper, &call->args)) {
        return false;
      }
      call->new_dynptr = is_new ? regno : call->new_dynptr;
      call->first_dynptr = regno == 1 ? call->args.dynptr_kind : call->first_dynptr;
      return true;
    }
    case KfuncParam::kAllocated:
    case KfuncParam::kRefcounted:
    case KfuncParam::kListHead:
    case KfuncParam::kListNode:
    case KfuncParam::kTreeRoot:
    case KfuncParam::kTreeNode:
      return check_owned_argument(regno, param, call);
    case KfuncParam::kIrqFlag:
      return check_irq_flag(regno, call);
    case KfuncParam::kIterator:
      return check_iterator_argument(regno, pointee.id, call);
    case KfuncParam::kCallback:
      return check_argument_kind(regno, ParamSpec{Param::kFunction}, kNoHelper, regno - 1,
                                 &call->args);
    case KfuncParam::kMap:
      if (r.kind != RegKind::kMap || r.off != 0) {
        return refuse(EINVAL, "arg#%d expected a map, R%d has %s", regno - 1, regno, kind_name(r));
      }
      call->args.map = static_cast<int32_t>(r.object);
      call->args.map_uid = r.owner;
      return true;
    default:
      return refuse(EINVAL, "arg#%d of %.*s is of a kind that is not supported", regno - 1,
                    static_cast<int>(call->spec->name.size()), call->spec->name.data());
  }
}

bool Engine::check_kfunc_number(int regno, std::string_view name, KfuncCall* call) {
  if (!reg(regno).is_scalar()) {
    return refuse(EINVAL, "R%d is not a scalar", regno);
  }
  if (!name.ends_with("__k")) {
    return true;
  }
  if (!reg(regno).num.is_constant()) {
    return refuse(EINVAL, "R%d must be a known constant", regno);
  }
  call->constant = reg(regno).num.bits.value;
  return mark_precise(regno);
}

bool Engine::check_kfunc_argument(size_t index, KfuncCall* call) {
  const Btf& btf = *program_.kernel_btf;
  const std::string_view name = call->parameters[index].name;
  const int regno = static_cast<int>(index) + 1;
  if (name.ends_with("__ign") || name.ends_with("__prog")) {
    return true;
  }
  if (!check_readable(regno)) {
    return false;
  }
  verdict_.reg = regno;
  const Reg r = reg(regno);
  auto type = btf.resolve(call->parameters[index].type);
  if (!type) {
    return kfunc_not_allowed(call->spec->name);
  }
  if (type->kind != BtfKind::kPtr) {
    return type->is_number() ? check_kfunc_number(regno, name, call)
                             : kfunc_not_allowed(call->spec->name);
  }
  auto pointee = type->target == 0 ? Result<BtfType>(BtfType{}) : btf.resolve(type->target);
  if (!pointee) {
    return kfunc_not_allowed(call->spec->name);
  }
  const bool is_nullable = name.ends_with("__nullable");
  if (is_nullable && r.is_zero()) {
    return mark_precise(regno);
  }
  const bool needs_trust = (call->spec->flags & (kKfTrustedArgs | kKfRcu | kKfRelease)) != 0;
  if (!is_nullable && needs_trust && (r.is_zero() || r.or_null())) {
    return refuse(EACCES, "Possibly NULL pointer passed to trusted arg%zu", index);
  }
  if ((call->spec->flags & kKfRelease) != 0 && r.ref != 0) {
    call->args.ref = r.ref;
    call->args.release_reg = regno;
  }
  return check_kfunc_pointer(regno, kfunc_param(*call, index, *pointee), *pointee, call);
}

}  // namespace bpftime
