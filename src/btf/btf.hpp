// Bounded reading of BTF, the type information of BPF objects. Home: pure; broker, verifier, tools.
// The bytes are HOSTILE (a loader's): nothing outside of them is read, every malformed blob is an
// Error, and no walk over types is longer than a bound, whatever circles the types make.
// Source: Linux 6.18 Documentation/bpf/btf.rst, uapi linux/btf.h.
//
// What parse() promises: every type id that a type names exists, every name lies in the strings and
// ends there, every list of members, values or parameters is whole. What it does not look at:
// whether sizes and circles make sense; size_of() and resolve() answer EINVAL where they do not.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.hpp"

namespace bpftime {

inline constexpr size_t kMaxBtfBytes = 16 << 20;       // kernel: BTF_MAX_SIZE
inline constexpr uint32_t kMaxBtfTypes = 0x000f'ffff;  // kernel: BTF_MAX_TYPE

enum class BtfKind : uint8_t {  // values of BTF_KIND_*
  kVoid,
  kInt,
  kPtr,
  kArray,
  kStruct,
  kUnion,
  kEnum,
  kFwd,
  kTypedef,
  kVolatile,
  kConst,
  kRestrict,
  kFunc,
  kFuncProto,
  kVar,
  kDatasec,
  kFloat,
  kDeclTag,
  kTypeTag,
  kEnum64,
};

struct BtfType {
  uint32_t id = 0;
  BtfKind kind = BtfKind::kVoid;
  bool kind_flag = false;     // struct: members carry bitfield sizes; enum: signed; fwd: union
  uint16_t count = 0;         // members, values, parameters, variables; kFunc: linkage
  std::string_view name;      // into the Btf's bytes
  uint32_t size_bytes = 0;    // int, struct, union, enum, enum64, float, datasec; else 0
  uint32_t target = 0;        // ptr, typedef, modifiers, func, var, decl_tag; array: element;
                              // func_proto: what it returns
  uint32_t array_length = 0;  // array

  [[nodiscard]] bool is_number() const {
    return kind == BtfKind::kInt || kind == BtfKind::kEnum || kind == BtfKind::kEnum64;
  }
  [[nodiscard]] bool is_structure() const {
    return kind == BtfKind::kStruct || kind == BtfKind::kUnion;
  }
};
struct BtfMember {
  std::string_view name;
  uint32_t type = 0, bit_offset = 0, bitfield_bits = 0;  // bitfield_bits: 0 = no bitfield
};
struct BtfParameter {
  std::string_view name;
  uint32_t type = 0;  // 0 as the last one: `...`
};
struct BtfVariable {
  uint32_t type = 0, offset = 0, size_bytes = 0;  // type: a kVar
};
struct BtfEnumerator {
  std::string_view name;
  uint64_t value = 0;  // sign-extended where the enum is signed
};
struct BtfInt {
  bool is_signed = false, is_char = false, is_bool = false;
  uint8_t bit_offset = 0, bits = 0;
};

class Btf {
 public:
  // Keeps a copy of the bytes. Errors: EINVAL (kernel kernel/bpf/btf.c: btf_parse_hdr and the check
  // of each type's shape); E2BIG: too large, too many types.
  static Result<Btf> parse(std::span<const std::byte> bytes);

  [[nodiscard]] std::span<const std::byte> bytes() const { return bytes_; }

  // Ids go from 1 to type_count(); 0 is void.
  [[nodiscard]] uint32_t type_count() const { return static_cast<uint32_t>(offsets_.size()) - 1; }
  // Errors: EINVAL for an id that does not exist.
  [[nodiscard]] Result<BtfType> type(uint32_t id) const;
  // Errors: EINVAL for a string offset outside of the strings.
  [[nodiscard]] Result<std::string_view> string(uint32_t offset) const;

  // Lists of one type; empty when it has none.
  [[nodiscard]] std::vector<BtfMember> members(const BtfType& of) const;  // struct, union
  [[nodiscard]] std::vector<BtfParameter> parameters(const BtfType& of) const;
  [[nodiscard]] std::vector<BtfVariable> variables(const BtfType& of) const;      // datasec
  [[nodiscard]] std::vector<BtfEnumerator> enumerators(const BtfType& of) const;  // both enums
  [[nodiscard]] BtfInt int_of(const BtfType& of) const;
  // What a declaration tag speaks of: a member or parameter, or -1 for the type itself.
  [[nodiscard]] int32_t tag_component(const BtfType& of) const;
  [[nodiscard]] uint32_t var_linkage(const BtfType& of) const;

  // The type behind typedefs, qualifiers and type tags. Errors: EINVAL: none such, or a circle.
  [[nodiscard]] Result<BtfType> resolve(uint32_t id) const;
  // Errors: EINVAL: void, functions, forward declarations, circles; E2BIG: larger than 4 GB.
  [[nodiscard]] Result<uint32_t> size_of(uint32_t id) const;
  // The first type of this kind and name. Errors: ENOENT.
  [[nodiscard]] Result<BtfType> find(std::string_view name, BtfKind kind) const;
  // The member at a path "a.b" through anonymous structs too. Its bit_offset counts from the
  // beginning of `id`. Errors: ENOENT, EINVAL.
  [[nodiscard]] Result<BtfMember> find_member(uint32_t id, std::string_view path) const;

 private:
  Btf() = default;
  [[nodiscard]] std::string_view name_at(uint32_t offset) const;
  template <class T>
  [[nodiscard]] T tail(uint32_t id, size_t index) const;

  std::vector<std::byte> bytes_;
  size_t types_at_ = 0, strings_at_ = 0, strings_bytes_ = 0;
  std::vector<uint32_t> offsets_;  // of type i in the type section; [0] unused
};

// ---- What programs bring along (BPF_PROG_LOAD, or section .BTF.ext) ----

struct BtfFuncInfo {
  uint32_t insn = 0, type = 0;  // type: a kFunc
};
struct BtfLineInfo {
  uint32_t insn = 0;
  std::string_view file, text;
  uint32_t line = 0, column = 0;
};
// Records as bpf_attr's func_info and line_info hold them: `record_bytes` each, of which we read the
// known head. Instruction numbers ascend, the first one is 0 (kernel: check_btf_func, check_btf_line).
// Errors: EINVAL; E2BIG: unknown bytes of a record are not zero.
Result<std::vector<BtfFuncInfo>> read_func_info(const Btf& btf, std::span<const std::byte> bytes,
                                                uint32_t record_bytes, uint32_t insn_count);
Result<std::vector<BtfLineInfo>> read_line_info(const Btf& btf, std::span<const std::byte> bytes,
                                                uint32_t record_bytes, uint32_t insn_count);

// One section's records of .BTF.ext; instruction offsets are in bytes of that section, as written.
struct BtfExtSection {
  std::string_view section;
  uint32_t record_bytes = 0;
  std::span<const std::byte> records;
};
struct BtfExt {
  std::vector<BtfExtSection> func_info, line_info, core_relo;
};
// The views point into `bytes` and into `btf`. Errors: EINVAL.
Result<BtfExt> read_btf_ext(const Btf& btf, std::span<const std::byte> bytes);

}  // namespace bpftime
