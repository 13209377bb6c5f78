// Pointers to structures: which member a read finds, and what the pointer in it may be used for.
#include <algorithm>
#include <cerrno>

#include "spec/trust.hpp"
#include "verifier/engine.hpp"

namespace bpftime {
namespace {

constexpr int kMostNesting = 32;

// An element of an array of any dimensions, or the type itself. Error: none that makes sense.
Result<BtfType> element_of(const Btf& btf, uint32_t id) {
  auto type = btf.resolve(id);
  for (int depth = 0; depth < kMostNesting && type && type->kind == BtfKind::kArray; ++depth) {
    type = btf.resolve(type->target);
  }
  return type;
}

// A read beyond the end may be of the array of no length that ends the structure.
const BtfMember* open_array(const Btf& btf, const std::vector<BtfMember>& members, int64_t off) {
  if (members.empty()) {
    return nullptr;
  }
  auto type = btf.resolve(members.back().type);
  const bool is_open = type && type->kind == BtfKind::kArray && type->array_length == 0;
  return is_open && off >= int64_t{members.back().bit_offset / 8} ? &members.back() : nullptr;
}

// The member that begins at or before `off` and does not end before. Bit fields count when they are read as a whole.
const BtfMember* member_at(const Btf& btf, const std::vector<BtfMember>& members, int64_t off,
                           int size) {
  for (const BtfMember& member : members) {
    const int64_t begin = member.bit_offset / 8;
    if (off + size <= begin) {
      return nullptr;
    }
    if (member.bitfield_bits != 0) {
      const int64_t end = (int64_t{member.bit_offset} + member.bitfield_bits + 7) / 8;
      if (off <= begin && end <= off + size) {
        return &member;
      }
      continue;
    }
    if (off < begin) {
      return nullptr;
    }
    auto bytes = btf.size_of(member.type);
    if (!bytes || off < begin + int64_t{*bytes}) {
      return &member;
    }
  }
  return nullptr;
}

}  // namespace

Reg Engine::reg_of_btf_pointer(uint32_t type, bool is_kernel, uint16_t flags) {
  const Btf* btf = is_kernel ? program_.kernel_btf : program_.btf;
  auto target = btf->resolve(type);
  if (!target || !target->is_structure()) {
    return Reg::unknown();
  }
  return Reg::pointer(RegKind::kBtf, target->id,
                      static_cast<uint16_t>(flags | (is_kernel ? kKernelBtf : 0)));
}

// Variables of which each processor has its own: what a program has of them is where they would lie, and
// bpf_this_cpu_ptr makes that an address.
bool Engine::is_per_cpu_variable(uint32_t id) {
  if (per_cpu_variables_.empty()) {
    per_cpu_variables_.push_back(0);
    auto section = program_.kernel_btf->find(".data..percpu", BtfKind::kDatasec);
    for (const BtfVariable& var :
         section ? program_.kernel_btf->variables(*section) : std::vector<BtfVariable>()) {
      per_cpu_variables_.push_back(var.type);
    }
    std::sort(per_cpu_variables_.begin(), per_cpu_variables_.end());
  }
  return std::binary_search(per_cpu_variables_.begin(), per_cpu_variables_.end(), id);
}

bool Engine::load_kernel_variable(uint32_t id, Reg* out) {
  if (program_.kernel_btf == nullptr) {
    return refuse(EINVAL, "kernel BTF is missing, ldimm64 with a BTF id cannot be checked");
  }
  const Btf& btf = *program_.kernel_btf;
  auto var = btf.type(id);
  if (!var) {
    return refuse(EINVAL, "ldimm64 insn specifies invalid btf_id %u", id);
  }
  if (var->kind == BtfKind::kFunc) {
    *out = Reg::pointer(RegKind::kMem, 0, kReadOnly);
    out->size = 0;
    return true;
  }
  if (var->kind != BtfKind::kVar) {
    return refuse(EINVAL, "btf_id %u is not a variable", id);
  }
  const uint16_t per_cpu = is_per_cpu_variable(id) ? kPerCpu : 0;
  auto type = btf.resolve(var->target);
  if (type && type->is_structure()) {
    *out = Reg::pointer(RegKind::kBtf, type->id, kKernelBtf | kTrusted | per_cpu);
  } else {
    auto bytes = btf.size_of(var->target);
    *out = Reg::pointer(RegKind::kMem, 0, kReadOnly | per_cpu);
    out->size = bytes ? *bytes : 0;
  }
  return true;
}

// A read lies within one member that is no structure, or within one array of numbers.
bool Engine::walk_structure(const Btf& btf, uint32_t type, int64_t off, int size, int regno,
                            FieldWalk* found) {
  const auto beyond = [&](const char* of, std::string_view name) {
    return refuse(EACCES, "R%d: access beyond the end of %s %.*s, off=%lld size=%d", regno, of,
                  static_cast<int>(name.size()), name.data(), static_cast<long long>(off), size);
  };
  for (int depth = 0; depth < kMostNesting; ++depth) {
    auto here = btf.resolve(type);
    if (!here || !here->is_structure()) {
      return refuse(EACCES, "R%d: a type makes no sense", regno);
    }
    const auto members = btf.members(*here);
    found->through_union |= here->kind == BtfKind::kUnion && members.size() != 1;
    const bool is_beyond = off + size > int64_t{here->size_bytes};
    const BtfMember* member =
        is_beyond ? open_array(btf, members, off) : member_at(btf, members, off, size);
    if (member == nullptr) {
      return beyond("struct", here->name);
    }
    if (member->bitfield_bits != 0) {
      return true;
    }
    auto element = element_of(btf, member->type);
    auto element_bytes = element ? btf.size_of(element->id) : Result<uint32_t>(element.error());
    if (!element_bytes || *element_bytes == 0) {
      return beyond("member", member->name);
    }
    const int64_t begin = member->bit_offset / 8;
    const int64_t inside = (off - begin) % int64_t{*element_bytes};
    if (element->is_structure()) {
      type = element->id;
      off = inside;
      continue;
    }
    found->name = member->name;
    found->is_at_begin = off == begin;
    if (element->kind == BtfKind::kPtr) {
      found->is_pointer = true;
      found->pointee = element->target;
      return (inside == 0 && size == 8 && !is_beyond) || beyond("pointer", member->name);
    }
    auto bytes = btf.size_of(member->type);
    const bool is_inside = is_beyond || (bytes && off + size <= begin + int64_t{*bytes});
    return is_inside || found->through_union || beyond("member", member->name);
  }
  return refuse(EACCES, "R%d: structures too deep", regno);
}

// How far a pointer that was read from a structure may be relied on (docs/verifier.md).
uint16_t Engine::flags_of_field(const Reg& base, const BtfType& type,
                                const FieldWalk& found) const {
  if ((base.flags & kUntrusted) != 0 || found.through_union) {
    return kUntrusted;
  }
  if (!is_trusted(base) && (base.flags & kRcu) == 0) {
    return 0;
  }
  const uint16_t otherwise = in_rcu_section() ? 0 : kUntrusted;
  switch (field_trust(type.name, found.name)) {
    case FieldTrust::kTrusted:
      return kTrusted;
    case FieldTrust::kTrustedOrNull:
      return kTrusted | kOrNull;
    case FieldTrust::kRcu:
      return otherwise == 0 ? kRcu : kUntrusted;
    case FieldTrust::kRcuOrNull:
      return otherwise == 0 ? kRcu | kOrNull : kUntrusted;
    case FieldTrust::kNone:
      break;
  }
  return otherwise;
}

bool Engine::check_btf_access(const Reg& base, int regno, int64_t off, int size, bool is_write,
                              Reg* out) {
  const bool is_kernel = (base.flags & kKernelBtf) != 0;
  const Btf* btf = is_kernel ? program_.kernel_btf : program_.btf;
  verdict_.reg = regno;
  if (btf == nullptr) {
    return refuse(EACCES, "R%d: types are missing", regno);
  }
  if (!base.num.is_constant()) {
    return refuse(EACCES, "R%d is a pointer to a structure at a variable offset", regno);
  }
  const int64_t at = off + base.off + static_cast<int64_t>(base.num.bits.value);
  auto type = btf->type(base.object);
  if (at < 0 || !type) {
    return refuse(EACCES, "R%d is a pointer to a structure, invalid negative access: off=%lld",
                  regno, static_cast<long long>(at));
  }
  const std::string_view writable = writable_field(program_.prog_type, type->name);
  const bool may_write = is_kernel && is_trusted(base) && !writable.empty();
  FieldWalk found;
  if ((!is_write || may_write) && !walk_structure(*btf, base.object, at, size, regno, &found)) {
    return false;
  }
  if (is_write) {
    return (may_write && found.name == writable && found.is_at_begin) ||
           refuse(EACCES, "only read is supported of R%d", regno);
  }
  verdict_.reg = -1;
  if (out == nullptr) {
    return true;
  }
  *out = Reg::unknown();
  if (!found.is_pointer) {
    return true;
  }
  const uint16_t flags = flags_of_field(base, *type, found);
  *out = reg_of_btf_pointer(found.pointee, is_kernel, flags);
  if (out->is_scalar()) {
    *out = Reg::pointer(RegKind::kMem, 0, kReadOnly | kUntrusted);
  } else if (out->or_null()) {
    out->id = new_id();
  }
  return true;
}

}  // namespace bpftime
