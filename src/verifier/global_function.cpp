// Global functions: what their arguments are by BTF and its tags, and whether a call brings such.
// Tags: bpf_helpers.h of libbpf 1.5 (__arg_ctx, __arg_nonnull, __arg_nullable, __arg_trusted, __arg_arena).
#include <cerrno>

#include "spec/context_types.hpp"
#include "verifier/engine.hpp"

namespace bpftime {
namespace {

enum ArgumentTag : uint8_t {
  kTagContext = 1,
  kTagNonnull = 2,
  kTagNullable = 4,
  kTagTrusted = 8,
  kTagArena = 16,
  kTagUntrusted = 32,
  kTagUnknown = 64,
};
constexpr std::pair<std::string_view, ArgumentTag> kTags[] = {
    {"arg:arena", kTagArena},       {"arg:ctx", kTagContext},     {"arg:nonnull", kTagNonnull},
    {"arg:nullable", kTagNullable}, {"arg:trusted", kTagTrusted}, {"arg:untrusted", kTagUntrusted}};

uint8_t tags_of(const Btf& btf, uint32_t function, size_t index) {
  uint8_t tags = 0;
  for (uint32_t id = 1; id <= btf.type_count(); ++id) {
    auto type = btf.type(id);
    if (!type || type->kind != BtfKind::kDeclTag || type->target != function ||
        btf.tag_component(*type) != static_cast<int32_t>(index)) {
      continue;
    }
    uint8_t known = kTagUnknown;
    for (const auto& [name, tag] : kTags) {
      if (type->name == name) {
        known = tag;
      }
    }
    tags |= known;
  }
  return tags;
}

// The name as programs may write it: `task_struct___mine` is task_struct.
std::string_view without_flavor(std::string_view name) {
  const size_t at = name.find("___");
  return at == std::string_view::npos || at == 0 ? name : name.substr(0, at);
}

bool names_context(uint32_t prog_type, const BtfType& pointee) {
  const ContextTypes* types = find_context_types(prog_type);
  if (types == nullptr || types->program.empty()) {
    return false;
  }
  return pointee.name == types->program ||
         (prog_type == BPF_PROG_TYPE_KPROBE && pointee.name == types->kernel);
}

}  // namespace

// What r1..r5 hold when a function begins: the context, or what BTF says of a global function.
bool Engine::set_arguments(uint32_t function, bool is_main) {
  if (is_main) {
    reg(1) = Reg::pointer(RegKind::kCtx);
    return true;
  }
  const FunctionFacts& facts = functions_[function];
  auto func = program_.btf->type(facts.type);
  auto proto = func ? program_.btf->type(func->target) : Result<BtfType>(func.error());
  if (!proto || proto->kind != BtfKind::kFuncProto) {
    return refuse(EINVAL, "function %s has no prototype", facts.name.c_str());
  }
  if (!gives_number(facts)) {
    return refuse(EINVAL, "global function %s does not return a number", facts.name.c_str());
  }
  const auto parameters = program_.btf->parameters(*proto);
  if (parameters.size() > 5) {
    return refuse(EINVAL, "function %s has %zu arguments; 5 are the most", facts.name.c_str(),
                  parameters.size());
  }
  for (size_t i = 0; i < parameters.size(); ++i) {
    auto type = program_.btf->resolve(parameters[i].type);
    if (!type) {
      return refuse(EINVAL, "arg#%zu of %s has a type that makes no sense", i, facts.name.c_str());
    }
    if (type->is_number()) {
      reg(static_cast<int>(i) + 1) = Reg::unknown();
      continue;
    }
    if (type->kind != BtfKind::kPtr) {
      return refuse(EINVAL, "arg#%zu of %s is neither a number nor a pointer", i,
                    facts.name.c_str());
    }
    if (!set_pointer_argument(facts, i, *type)) {
      return false;
    }
  }
  return true;
}

bool Engine::set_pointer_argument(const FunctionFacts& function, size_t index,
                                  const BtfType& pointer) {
  Reg& r = reg(static_cast<int>(index) + 1);
  const char* const name = function.name.c_str();
  const uint8_t tags = tags_of(*program_.btf, function.type, index);
  auto pointee = program_.btf->resolve(pointer.target);
  if ((tags & kTagUnknown) != 0) {
    return refuse(EOPNOTSUPP, "arg#%zu of %s has a tag that is not supported", index, name);
  }
  if ((tags & kTagArena) != 0) {
    r = Reg::unknown();
    r.kind = RegKind::kArena;
    return true;
  }
  if ((tags & kTagContext) != 0 || (pointee && names_context(program_.prog_type, *pointee))) {
    r = Reg::pointer(RegKind::kCtx);
    return true;
  }
  const bool is_nullable = (tags & kTagNullable) != 0;
  if ((tags & kTagTrusted) != 0 && (tags & kTagNonnull) != 0) {
    return refuse(EINVAL, "arg#%zu of %s: trusted is not null anyway", index, name);
  }
  if ((tags & kTagTrusted) != 0 && pointee) {
    return set_object_argument(function, index, *pointee,
                               is_nullable ? kTrusted | kOrNull : kTrusted);
  }
  if ((tags & kTagUntrusted) != 0) {
    if (pointee && pointee->kind == BtfKind::kStruct) {
      return set_object_argument(function, index, *pointee, kUntrusted);
    }
    r = Reg::pointer(RegKind::kMem, 0, kReadOnly | kUntrusted);
    return true;
  }
  if (is_nullable) {
    return refuse(EINVAL, "arg#%zu of %s is nullable, which only a trusted pointer may be", index,
                  name);
  }
  if (pointee && pointee->kind == BtfKind::kStruct && pointee->name == "bpf_dynptr") {
    r = Reg::pointer(RegKind::kDynptr);
    r.id = new_id();
    return true;
  }
  auto bytes = program_.btf->size_of(pointer.target);
  if (!bytes || *bytes == 0) {
    return refuse(EINVAL, "arg#%zu of %s points to a type of no size", index, name);
  }
  const bool is_nonnull = (tags & kTagNonnull) != 0;
  r = Reg::pointer(RegKind::kMem, 0, is_nonnull ? 0 : kOrNull);
  r.size = *bytes;
  r.id = is_nonnull ? 0 : new_id();
  return true;
}

// A structure of the kernel's, which the program's types name.
bool Engine::set_object_argument(const FunctionFacts& function, size_t index,
                                 const BtfType& pointee, uint16_t flags) {
  Reg& r = reg(static_cast<int>(index) + 1);
  const auto type = program_.kernel_btf == nullptr
                        ? Result<BtfType>(make_error(ENOENT, "no types of the kernel"))
                        : program_.kernel_btf->find(without_flavor(pointee.name), BtfKind::kStruct);
  if (!type) {
    return refuse(EINVAL, "arg#%zu of %s is no structure of the kernel's", index,
                  function.name.c_str());
  }
  r = Reg::pointer(RegKind::kBtf, type->id, static_cast<uint16_t>(flags | kKernelBtf));
  r.id = r.or_null() ? new_id() : 0;
  return true;
}

// A call passes a pointer where the function wants a structure of the kernel's.
bool Engine::check_passed_object(int regno, const Reg& want) {
  const Reg have = reg(regno);
  if ((want.flags & kUntrusted) != 0) {
    return true;  // whatever it is, it is only read, and with care
  }
  Reg as_nonnull = have;
  as_nonnull.flags &= static_cast<uint16_t>(~kOrNull);
  auto held = struct_behind(have);
  const auto wanted = program_.kernel_btf->type(want.object);
  if (!held || !wanted || have.kind != RegKind::kBtf || !is_trusted(as_nonnull) ||
      !have.num.is_constant() || have.num.bits.value != 0 ||
      !is_struct_at(*held, have.off, *wanted, false)) {
    return refuse(EINVAL, "R%d type=%s expected=trusted_ptr_", regno, kind_name(have));
  }
  return (!have.or_null() || want.or_null()) ||
         refuse(EINVAL, "Possibly NULL pointer passed to arg#%d", regno - 1);
}

// Does a call pass in `regno` what the function will take for granted?
bool Engine::check_passed(int regno, const Reg& want) {
  const Reg have = reg(regno);
  verdict_.reg = regno;
  if (want.is_scalar()) {
    return have.is_scalar() || refuse(EINVAL, "R%d is not a scalar", regno);
  }
  if (want.kind == RegKind::kCtx) {
    verdict_.facts.reads_unknown_context = true;
    return (have.kind == RegKind::kCtx && have.off == 0) ||
           refuse(EINVAL, "arg#%d expects pointer to ctx", regno - 1);
  }
  if (want.kind == RegKind::kArena) {
    return have.kind == RegKind::kArena || have.is_scalar() ||
           refuse(EINVAL, "R%d is not a pointer to arena or scalar", regno);
  }
  if (want.kind == RegKind::kDynptr) {
    CallArgs args;
    static constexpr Prototype kNoHelper{};
    return check_dynptr_argument(regno, ParamSpec{Param::kDynptr}, kNoHelper, &args);
  }
  if (want.or_null() && have.is_zero()) {
    return mark_precise(regno);
  }
  if (want.kind == RegKind::kBtf || (want.flags & kUntrusted) != 0) {
    return check_passed_object(regno, want);
  }
  if (!have.is_pointer() || (have.or_null() && !want.or_null())) {
    return refuse(EINVAL, "arg#%d expected a pointer to %u bytes", regno - 1, want.size);
  }
  reg(regno).flags &= static_cast<uint16_t>(~kOrNull);
  const bool ok = check_helper_memory(regno, want.size, false, false) &&
                  check_helper_memory(regno, want.size, true, false);
  reg(regno).flags = have.flags;
  return ok;
}

}  // namespace bpftime
