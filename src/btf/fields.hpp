// The fields of a map value that programs may only touch through helpers: locks, timers, kernel
// pointers, list and tree parts. Home: pure; broker, verifier.
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
  uint32_t pointee = 0;  // kptrs: the type that is pointed to, in the program's BTF
};

inline constexpr uint32_t kMaxBtfFields = 11;  // kernel: BTF_FIELDS_MAX

// The fields of `type` (a struct, or an array or struct of such), by offset. Empty: plain bytes.
// Errors: EINVAL: a field at an odd place, or types that make no sense; E2BIG: too many fields, or a
// second lock or timer.
Result<std::vector<BtfField>> find_fields(const Btf& btf, uint32_t type);

}  // namespace bpftime
