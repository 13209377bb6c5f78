// The fields of a map value, or of an object that a program allocates, that programs may only touch
// through helpers: locks, timers, kernel pointers, list and tree parts. Home: pure; broker, verifier.
// Source: docs.kernel.org/bpf/graph_ds_impl.html; what is refused: Linux 6.18's answers.
#pragma once
#include <vector>

#include "btf/btf.hpp"

namespace bpftime {

enum class BtfFieldKind : uint8_t {
  kSpinLock,
  kResSpinLock,
  kTimer,
  kWorkqueue,
  kTaskWork,
  kKptrUntrusted,  // __kptr_untrusted
  kKptr,           // __kptr: referenced
  kKptrPercpu,     // __percpu_kptr
  kListHead,
  kListNode,
  kTreeRoot,
  kTreeNode,
  kRefcount,
};
struct BtfField {
  BtfFieldKind kind = BtfFieldKind::kSpinLock;
  uint32_t offset = 0, size_bytes = 0;
  uint32_t pointee = 0;  // kptrs: the type that is pointed to; heads and roots: that of the nodes
  uint32_t node_offset = 0;  // heads and roots: where the node lies in `pointee`

  [[nodiscard]] bool is_kptr() const {
    return kind == BtfFieldKind::kKptr || kind == BtfFieldKind::kKptrUntrusted ||
           kind == BtfFieldKind::kKptrPercpu;
  }
  [[nodiscard]] bool is_root() const {
    return kind == BtfFieldKind::kListHead || kind == BtfFieldKind::kTreeRoot;
  }
  [[nodiscard]] bool is_node() const {
    return kind == BtfFieldKind::kListNode || kind == BtfFieldKind::kTreeNode;
  }
};

inline constexpr uint32_t kMaxBtfFields = 11;  // kernel: BTF_FIELDS_MAX

// What a value has that an object has not (timers), and the other way (nodes), is plain bytes.
enum class FieldsOf : uint8_t { kMapValue, kObject };

// The fields of `type` (a struct, an array or struct of such, or a section of variables), by offset.
// Empty: plain bytes.
// Errors: EINVAL: a field at an odd place, a head or root that does not say what it contains or that
// no lock protects, a count without a node, or types that make no sense; E2BIG: too many fields, or a
// second lock or timer; ELOOP: what a list or tree contains may own itself.
Result<std::vector<BtfField>> find_fields(const Btf& btf, uint32_t type,
                                          FieldsOf of = FieldsOf::kMapValue);

}  // namespace bpftime
