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
  explicit Finder(const Btf& btf) : btf_(btf) {}

  Result<void> look(uint32_t id, uint64_t offset, uint32_t depth) {
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
          TRY(look(type.target, offset + uint64_t{i} * *size, depth));
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
      if (type.name == named.name) {
        return add({named.kind, static_cast<uint32_t>(offset), named.size_bytes, 0}, named,
                   type.size_bytes);
      }
    }
    if (depth == 0) {
      return {};
    }
    for (const BtfMember& member : btf_.members(type)) {
      if (member.bitfield_bits == 0 && member.bit_offset % 8 == 0) {
        TRY(look(member.type, offset + member.bit_offset / 8, depth - 1));
      }
    }
    return {};
  }

  std::vector<BtfField> take() {
    std::sort(found_.begin(), found_.end(),
              [](const BtfField& a, const BtfField& b) { return a.offset < b.offset; });
    return std::move(found_);
  }

 private:
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
  std::vector<BtfField> found_;
  uint32_t looked_at_ = 0;
};

}  // namespace

Result<std::vector<BtfField>> find_fields(const Btf& btf, uint32_t type) {
  Finder finder(btf);
  TRY(finder.look(type, 0, kMaxNesting));
  return finder.take();
}

}  // namespace bpftime
