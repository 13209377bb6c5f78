#include "btf/fields.hpp"

#include <algorithm>
#include <cerrno>

namespace bpftime {
namespace {

struct NamedField {
  std::string_view name;
  BtfFieldKind kind;
  uint32_t size_bytes, align;
  bool is_only_one;  // one in a map value
};
// Kernel uapi linux/bpf.h: struct bpf_spin_lock, bpf_timer, ...
constexpr NamedField kNamed[] = {
    {"bpf_spin_lock", BtfFieldKind::kSpinLock, 4, 4, true},
    {"bpf_res_spin_lock", BtfFieldKind::kResSpinLock, 8, 4, true},
    {"bpf_timer", BtfFieldKind::kTimer, 16, 8, true},
    {"bpf_wq", BtfFieldKind::kWorkqueue, 16, 8, true},
    {"bpf_task_work", BtfFieldKind::kTaskWork, 8, 8, true},
    {"bpf_list_head", BtfFieldKind::kListHead, 16, 8, false},
    {"bpf_list_node", BtfFieldKind::kListNode, 24, 8, false},
    {"bpf_rb_root", BtfFieldKind::kTreeRoot, 16, 8, false},
    {"bpf_rb_node", BtfFieldKind::kTreeNode, 32, 8, false},
    {"bpf_refcount", BtfFieldKind::kRefcount, 4, 4, true},
};
constexpr uint32_t kMaxNesting = 4;         // kernel: MAX_RESOLVE_DEPTH of fields inside structs
constexpr uint32_t kMaxLookedAt = 100'000;  // members, so that hostile BTF costs no time

class Finder {
 public:
  Finder(const Btf& btf, FieldsOf of) : btf_(btf), of_(of) {}

  Result<void> look_at_all(uint32_t id) {
    const BtfType type = TRY(btf_.resolve(id));
    if (type.kind != BtfKind::kDatasec) {
      return look(id, 0, kMaxNesting, {});
    }
    for (const BtfVariable& variable : btf_.variables(type)) {
      const BtfType var = TRY(btf_.type(variable.type));
      TRY(look(var.target, variable.offset, kMaxNesting, {var.id, -1}));
    }
    return {};
  }

  // Where a declaration tag about the field would be: a member of a type, or a variable (-1).
  struct Holder {
    uint32_t type = 0;
    int32_t component = -1;
  };

  Result<void> look(uint32_t id, uint64_t offset, uint32_t depth, Holder holder) {
    if (++looked_at_ > kMaxLookedAt) {
      return make_error(E2BIG, "BTF struct too large to look through");
    }
    const BtfType type = TRY(btf_.resolve(id));
    switch (type.kind) {
      case BtfKind::kPtr:
        return look_at_pointer(type, offset);
      case BtfKind::kArray: {
        const auto size = btf_.size_of(type.target);
        if (!size || *size == 0 || type.array_length == 0) {
          return {};
        }
        const size_t before = found_.size();
        for (uint32_t i = 0; i < type.array_length; ++i) {
          TRY(look(type.target, offset + uint64_t{i} * *size, depth, holder));
          if (found_.size() == before) {
            return {};  // plain elements: one tells of all
          }
        }
        return {};
      }
      case BtfKind::kStruct:
        break;
      default:
        return {};
    }
    for (const NamedField& named : kNamed) {
      if (type.name == named.name && belongs(named.kind)) {
        BtfField field{named.kind, static_cast<uint32_t>(offset), named.size_bytes};
        if (field.is_root()) {
          TRY(look_at_contents(holder, &field));
        }
        return add(field, named, type.size_bytes);
      }
    }
    if (depth == 0) {
      return {};
    }
    int32_t component = 0;
    for (const BtfMember& member : btf_.members(type)) {
      if (member.bitfield_bits == 0 && member.bit_offset % 8 == 0) {
        TRY(look(member.type, offset + member.bit_offset / 8, depth - 1, {type.id, component}));
      }
      ++component;
    }
    return {};
  }

  std::vector<BtfField> take() {
    std::sort(found_.begin(), found_.end(),
              [](const BtfField& a, const BtfField& b) { return a.offset < b.offset; });
    return std::move(found_);
  }

 private:
  [[nodiscard]] bool belongs(BtfFieldKind kind) const {
    const bool is_node = BtfField{kind}.is_node();
    const bool is_for_maps = kind == BtfFieldKind::kTimer || kind == BtfFieldKind::kWorkqueue ||
                             kind == BtfFieldKind::kTaskWork;
    return of_ == FieldsOf::kObject ? !is_for_maps : !is_node;
  }

  // The tag "contains:STRUCT:MEMBER" of a head or root.
  Result<void> look_at_contents(Holder holder, BtfField* field) const {
    constexpr std::string_view kTag = "contains:";
    std::string_view contents;
    for (uint32_t id = 1; id <= btf_.type_count(); ++id) {
      const BtfType tag = TRY(btf_.type(id));
      if (tag.kind != BtfKind::kDeclTag || tag.target != holder.type ||
          btf_.tag_component(tag) != holder.component || !tag.name.starts_with(kTag)) {
        continue;
      }
      if (!contents.empty()) {
        return make_error(EINVAL, "a head or root with two tags of what it contains");
      }
      contents = tag.name.substr(kTag.size());
    }
    const size_t colon = contents.find(':');
    if (colon == std::string_view::npos) {
      return make_error(EINVAL, "a head or root that does not say what it contains");
    }
    const auto type = btf_.find(contents.substr(0, colon), BtfKind::kStruct);
    if (!type) {
      return make_error(EINVAL, "a head or root that contains what does not exist");
    }
    const bool is_list = field->kind == BtfFieldKind::kListHead;
    for (const BtfMember& member : btf_.members(*type)) {
      const auto node = btf_.resolve(member.type);
      if (member.name == contents.substr(colon + 1) && node && node->kind == BtfKind::kStruct &&
          node->name == (is_list ? "bpf_list_node" : "bpf_rb_node") && member.bitfield_bits == 0 &&
          member.bit_offset % 8 == 0) {
        field->pointee = type->id;
        field->node_offset = member.bit_offset / 8;
        return {};
      }
    }
    return make_error(EINVAL, "a head or root that contains what has no such node");
  }

  // __kptr and its relatives are type tags between the pointer and what it points to.
  Result<void> look_at_pointer(const BtfType& pointer, uint64_t offset) {
    const BtfType tag = TRY(btf_.type(pointer.target));
    if (tag.kind != BtfKind::kTypeTag) {
      return {};
    }
    BtfFieldKind kind{};
    if (tag.name == "kptr_untrusted") {
      kind = BtfFieldKind::kKptrUntrusted;
    } else if (tag.name == "kptr") {
      kind = BtfFieldKind::kKptr;
    } else if (tag.name == "percpu_kptr") {
      kind = BtfFieldKind::kKptrPercpu;
    } else {
      return {};
    }
    const BtfType pointee = TRY(btf_.resolve(tag.target));
    if (pointee.kind != BtfKind::kStruct) {
      return make_error(EINVAL, "a kernel pointer to what is no struct");
    }
    return add({kind, static_cast<uint32_t>(offset), 8, pointee.id}, {"", kind, 8, 8, false}, 8);
  }

  Result<void> add(const BtfField& field, const NamedField& named, uint32_t declared_bytes) {
    if (declared_bytes != named.size_bytes || field.offset % named.align != 0) {
      return make_error(EINVAL, "a special field of another size, or at an odd place");
    }
    const bool is_second = std::any_of(found_.begin(), found_.end(),
                                       [&](const BtfField& f) { return f.kind == field.kind; });
    if (found_.size() >= kMaxBtfFields || (named.is_only_one && is_second)) {
      return make_error(E2BIG, "too many special fields in a map value");
    }
    found_.push_back(field);
    return {};
  }

  const Btf& btf_;
  FieldsOf of_;
  std::vector<BtfField> found_;
  uint32_t looked_at_ = 0;
};

template <class Fn>
bool any(const std::vector<BtfField>& fields, Fn fn) {
  return std::any_of(fields.begin(), fields.end(), fn);
}
bool has(const std::vector<BtfField>& fields, BtfFieldKind kind) {
  return any(fields, [kind](const BtfField& f) { return f.kind == kind; });
}

Result<std::vector<BtfField>> collect(const Btf& btf, uint32_t type, FieldsOf of) {
  Finder finder(btf, of);
  TRY(finder.look_at_all(type));
  return finder.take();
}

// No object may come to own itself: what has nodes and roots is owned by what has no node, and owns what has no root.
Result<void> check_ownership(const Btf& btf, const std::vector<BtfField>& fields) {
  const auto is_root = [](const BtfField& f) { return f.is_root(); };
  const auto is_node = [](const BtfField& f) { return f.is_node(); };
  for (const BtfField& field : fields) {
    if (!field.is_root()) {
      continue;
    }
    const auto owned = TRY(collect(btf, field.pointee, FieldsOf::kObject));
    if (any(owned, is_root) && any(fields, is_node)) {
      return make_error(ELOOP, "an owner that is owned owns an owner");
    }
    for (const BtfField& inner : owned) {
      if (inner.is_root() && any(TRY(collect(btf, inner.pointee, FieldsOf::kObject)), is_root)) {
        return make_error(ELOOP, "owners three deep");
      }
    }
  }
  return {};
}

}  // namespace

Result<std::vector<BtfField>> find_fields(const Btf& btf, uint32_t type, FieldsOf of) {
  auto fields = TRY(collect(btf, type, of));
  const bool has_root = any(fields, [](const BtfField& f) { return f.is_root(); });
  const bool has_node = any(fields, [](const BtfField& f) { return f.is_node(); });
  if (has_root && !has(fields, BtfFieldKind::kSpinLock) &&
      !has(fields, BtfFieldKind::kResSpinLock)) {
    return make_error(EINVAL, "a head or root that no lock protects");
  }
  if (of == FieldsOf::kObject && has(fields, BtfFieldKind::kRefcount) && !has_node) {
    return make_error(EINVAL, "a count of references without a node");
  }
  TRY(check_ownership(btf, fields));
  return fields;
}

}  // namespace bpftime
