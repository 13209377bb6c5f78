#include "btf/btf.hpp"

#include <linux/btf.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>

namespace bpftime {
namespace {

constexpr uint32_t kMaxChain = 32;  // kernel: MAX_RESOLVE_DEPTH

uint32_t tail_bytes(BtfKind kind, uint32_t count) {
  switch (kind) {
    case BtfKind::kInt:
    case BtfKind::kVar:
    case BtfKind::kDeclTag:
      return 4;
    case BtfKind::kArray:
      return sizeof(btf_array);
    case BtfKind::kStruct:
    case BtfKind::kUnion:
    case BtfKind::kDatasec:
    case BtfKind::kEnum64:
      return 12 * count;
    case BtfKind::kEnum:
    case BtfKind::kFuncProto:
      return 8 * count;
    default:
      return 0;
  }
}

bool names_a_type(BtfKind kind) {
  switch (kind) {
    case BtfKind::kPtr:
    case BtfKind::kTypedef:
    case BtfKind::kVolatile:
    case BtfKind::kConst:
    case BtfKind::kRestrict:
    case BtfKind::kFunc:
    case BtfKind::kFuncProto:
    case BtfKind::kVar:
    case BtfKind::kDeclTag:
    case BtfKind::kTypeTag:
      return true;
    default:
      return false;
  }
}

bool has_size(BtfKind kind) {
  return kind == BtfKind::kInt || kind == BtfKind::kStruct || kind == BtfKind::kUnion ||
         kind == BtfKind::kEnum || kind == BtfKind::kEnum64 || kind == BtfKind::kFloat ||
         kind == BtfKind::kDatasec;
}

bool is_alias(BtfKind kind) {
  return kind == BtfKind::kTypedef || kind == BtfKind::kVolatile || kind == BtfKind::kConst ||
         kind == BtfKind::kRestrict || kind == BtfKind::kTypeTag;
}

// SAFETY: callers give an offset whose bytes were checked to be there.
template <class T>
T read_at(std::span<const std::byte> bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(value));
  return value;
}

struct Header {
  btf_header fixed;
  std::span<const std::byte> body;
};

// Sections may lie anywhere behind the header (kernel asks for types, then strings, without gaps;
// what we read needs no order).
Result<Header> read_header(std::span<const std::byte> bytes) {
  Header header{};
  if (bytes.size() > kMaxBtfBytes) {
    return make_error(E2BIG, "BTF too large");
  }
  if (bytes.size() < sizeof(btf_header)) {
    return make_error(EINVAL, "BTF header cut off");
  }
  header.fixed = read_at<btf_header>(bytes, 0);
  const btf_header& fixed = header.fixed;
  if (fixed.magic != BTF_MAGIC || fixed.version != BTF_VERSION || fixed.flags != 0) {
    return make_error(EINVAL, "not BTF, or of another version");
  }
  if (fixed.hdr_len < sizeof(btf_header) || fixed.hdr_len > bytes.size()) {
    return make_error(EINVAL, "BTF header outside of the data");
  }
  header.body = bytes.subspan(fixed.hdr_len);
  const size_t body = header.body.size();
  if (fixed.type_off % 4 != 0 || fixed.type_off > body || fixed.type_len > body - fixed.type_off ||
      fixed.str_off > body || fixed.str_len > body - fixed.str_off) {
    return make_error(EINVAL, "BTF section outside of the data");
  }
  return header;
}

}  // namespace

Result<Btf> Btf::parse(std::span<const std::byte> bytes) {
  const Header header = TRY(read_header(bytes));
  const auto types = header.body.subspan(header.fixed.type_off, header.fixed.type_len);
  const auto strings = header.body.subspan(header.fixed.str_off, header.fixed.str_len);
  if (strings.empty() || strings.front() != std::byte{0} || strings.back() != std::byte{0}) {
    return make_error(EINVAL, "BTF strings do not begin and end with a zero");
  }
  Btf btf;
  btf.bytes_.assign(bytes.begin(), bytes.end());
  btf.types_at_ = header.fixed.hdr_len + size_t{header.fixed.type_off};
  btf.strings_at_ = header.fixed.hdr_len + size_t{header.fixed.str_off};
  btf.strings_bytes_ = strings.size();
  btf.offsets_.push_back(0);
  for (size_t at = 0; at < types.size();) {
    if (types.size() - at < sizeof(btf_type)) {
      return make_error(EINVAL, "BTF type cut off");
    }
    if (btf.offsets_.size() > kMaxBtfTypes) {
      return make_error(E2BIG, "too many BTF types");
    }
    const auto type = read_at<btf_type>(types, at);
    const uint32_t kind = BTF_INFO_KIND(type.info);
    if (kind == 0 || kind > static_cast<uint32_t>(BtfKind::kEnum64)) {
      return make_error(EINVAL, "BTF type of no kind");
    }
    if (type.name_off >= strings.size()) {
      return make_error(EINVAL, "BTF name outside of the strings");
    }
    btf.offsets_.push_back(static_cast<uint32_t>(at));
    at += sizeof(btf_type);
    const uint32_t tail = tail_bytes(static_cast<BtfKind>(kind), BTF_INFO_VLEN(type.info));
    if (tail > types.size() - at) {
      return make_error(EINVAL, "BTF type cut off");
    }
    at += tail;
  }
  // References, now that it is known how many types there are.
  const uint32_t count = btf.type_count();
  const auto is_good = [&](uint32_t type, uint32_t name) {
    return type <= count && name < strings.size();
  };
  for (uint32_t id = 1; id <= count; ++id) {
    const auto raw = read_at<btf_type>(types, btf.offsets_[id]);
    const auto kind = static_cast<BtfKind>(BTF_INFO_KIND(raw.info));
    const uint32_t entries = BTF_INFO_VLEN(raw.info);
    bool good = !names_a_type(kind) || raw.type <= count;
    switch (kind) {
      case BtfKind::kArray: {
        const auto array = btf.tail<btf_array>(id, 0);
        good = array.type <= count && array.index_type <= count;
        break;
      }
      case BtfKind::kStruct:
      case BtfKind::kUnion:
        for (uint32_t i = 0; good && i < entries; ++i) {
          const auto member = btf.tail<btf_member>(id, i);
          good = is_good(member.type, member.name_off);
        }
        break;
      case BtfKind::kFuncProto:
        for (uint32_t i = 0; good && i < entries; ++i) {
          const auto param = btf.tail<btf_param>(id, i);
          good = is_good(param.type, param.name_off);
        }
        break;
      case BtfKind::kDatasec:
        for (uint32_t i = 0; good && i < entries; ++i) {
          good = btf.tail<btf_var_secinfo>(id, i).type <= count;
        }
        break;
      case BtfKind::kEnum:
        for (uint32_t i = 0; good && i < entries; ++i) {
          good = btf.tail<btf_enum>(id, i).name_off < strings.size();
        }
        break;
      case BtfKind::kEnum64:
        for (uint32_t i = 0; good && i < entries; ++i) {
          good = btf.tail<btf_enum64>(id, i).name_off < strings.size();
        }
        break;
      default:
        break;
    }
    if (!good) {
      return make_error(EINVAL, "BTF type names a type or string that does not exist");
    }
  }
  return btf;
}

template <class T>
T Btf::tail(uint32_t id, size_t index) const {
  return read_at<T>(bytes_, types_at_ + offsets_[id] + sizeof(btf_type) + index * sizeof(T));
}

std::string_view Btf::name_at(uint32_t offset) const {
  // SAFETY: parse() saw that the strings end with a zero and that the offset lies inside.
  return {reinterpret_cast<const char*>(bytes_.data()) + strings_at_ + offset};
}

Result<std::string_view> Btf::string(uint32_t offset) const {
  if (offset >= strings_bytes_) {
    return make_error(EINVAL, "no such BTF string");
  }
  return name_at(offset);
}

Result<BtfType> Btf::type(uint32_t id) const {
  BtfType type;
  if (id == 0) {
    return type;
  }
  if (id > type_count()) {
    return make_error(EINVAL, "no such BTF type");
  }
  const auto raw = read_at<btf_type>(bytes_, types_at_ + offsets_[id]);
  type.id = id;
  type.kind = static_cast<BtfKind>(BTF_INFO_KIND(raw.info));
  type.kind_flag = BTF_INFO_KFLAG(raw.info) != 0;
  type.count = static_cast<uint16_t>(BTF_INFO_VLEN(raw.info));
  type.name = name_at(raw.name_off);
  if (has_size(type.kind)) {
    type.size_bytes = raw.size;
  } else if (names_a_type(type.kind)) {
    type.target = raw.type;
  } else if (type.kind == BtfKind::kArray) {
    const auto array = tail<btf_array>(id, 0);
    type.target = array.type;
    type.array_length = array.nelems;
  }
  return type;
}

std::vector<BtfMember> Btf::members(const BtfType& of) const {
  std::vector<BtfMember> list;
  if (!of.is_structure()) {
    return list;
  }
  list.reserve(of.count);
  for (uint32_t i = 0; i < of.count; ++i) {
    const auto raw = tail<btf_member>(of.id, i);
    BtfMember member{name_at(raw.name_off), raw.type, raw.offset, 0};
    if (of.kind_flag) {
      member.bit_offset = BTF_MEMBER_BIT_OFFSET(raw.offset);
      member.bitfield_bits = BTF_MEMBER_BITFIELD_SIZE(raw.offset);
    }
    list.push_back(member);
  }
  return list;
}

std::vector<BtfParameter> Btf::parameters(const BtfType& of) const {
  std::vector<BtfParameter> list;
  for (uint32_t i = 0; of.kind == BtfKind::kFuncProto && i < of.count; ++i) {
    const auto raw = tail<btf_param>(of.id, i);
    list.push_back({name_at(raw.name_off), raw.type});
  }
  return list;
}

std::vector<BtfVariable> Btf::variables(const BtfType& of) const {
  std::vector<BtfVariable> list;
  for (uint32_t i = 0; of.kind == BtfKind::kDatasec && i < of.count; ++i) {
    const auto raw = tail<btf_var_secinfo>(of.id, i);
    list.push_back({raw.type, raw.offset, raw.size});
  }
  return list;
}

std::vector<BtfEnumerator> Btf::enumerators(const BtfType& of) const {
  std::vector<BtfEnumerator> list;
  for (uint32_t i = 0; of.kind == BtfKind::kEnum && i < of.count; ++i) {
    const auto raw = tail<btf_enum>(of.id, i);
    const uint64_t value = of.kind_flag ? static_cast<uint64_t>(int64_t{raw.val})
                                        : uint64_t{static_cast<uint32_t>(raw.val)};
    list.push_back({name_at(raw.name_off), value});
  }
  for (uint32_t i = 0; of.kind == BtfKind::kEnum64 && i < of.count; ++i) {
    const auto raw = tail<btf_enum64>(of.id, i);
    list.push_back({name_at(raw.name_off), uint64_t{raw.val_hi32} << 32 | raw.val_lo32});
  }
  return list;
}

BtfInt Btf::int_of(const BtfType& of) const {
  if (of.kind != BtfKind::kInt) {
    return {};
  }
  const auto raw = tail<uint32_t>(of.id, 0);
  const uint32_t encoding = BTF_INT_ENCODING(raw);
  return {(encoding & BTF_INT_SIGNED) != 0, (encoding & BTF_INT_CHAR) != 0,
          (encoding & BTF_INT_BOOL) != 0, static_cast<uint8_t>(BTF_INT_OFFSET(raw)),
          static_cast<uint8_t>(BTF_INT_BITS(raw))};
}

int32_t Btf::tag_component(const BtfType& of) const {
  return of.kind == BtfKind::kDeclTag ? tail<btf_decl_tag>(of.id, 0).component_idx : -1;
}

uint32_t Btf::var_linkage(const BtfType& of) const {
  return of.kind == BtfKind::kVar ? tail<btf_var>(of.id, 0).linkage : 0;
}

Result<BtfType> Btf::resolve(uint32_t id) const {
  for (uint32_t step = 0; step < kMaxChain; ++step) {
    const BtfType at = TRY(type(id));
    if (!is_alias(at.kind)) {
      return at;
    }
    id = at.target;
  }
  return make_error(EINVAL, "BTF types go in a circle");
}

Result<uint32_t> Btf::size_of(uint32_t id) const {
  uint64_t times = 1;
  for (uint32_t step = 0; step < kMaxChain; ++step) {
    const BtfType at = TRY(resolve(id));
    uint64_t size = 0;
    switch (at.kind) {
      case BtfKind::kArray:
        if (__builtin_mul_overflow(times, uint64_t{at.array_length}, &times) ||
            times > std::numeric_limits<uint32_t>::max()) {
          return make_error(E2BIG, "BTF array too large");
        }
        id = at.target;
        continue;
      case BtfKind::kVar:
        id = at.target;
        continue;
      case BtfKind::kPtr:
        size = 8;
        break;
      case BtfKind::kVoid:
      case BtfKind::kFwd:
      case BtfKind::kFunc:
      case BtfKind::kFuncProto:
      case BtfKind::kDeclTag:
        return make_error(EINVAL, "BTF type without a size");
      default:
        size = at.size_bytes;
        break;
    }
    if (size * times > std::numeric_limits<uint32_t>::max()) {
      return make_error(E2BIG, "BTF type too large");
    }
    return static_cast<uint32_t>(size * times);
  }
  return make_error(EINVAL, "BTF types go in a circle");
}

Result<BtfType> Btf::find(std::string_view name, BtfKind kind) const {
  for (uint32_t id = 1; id <= type_count(); ++id) {
    const auto raw = read_at<btf_type>(bytes_, types_at_ + offsets_[id]);
    if (static_cast<BtfKind>(BTF_INFO_KIND(raw.info)) == kind && name_at(raw.name_off) == name) {
      return type(id);
    }
  }
  return make_error(ENOENT, "no BTF type of this name");
}

namespace {

// Looks in `of` and in its anonymous members. `budget` bounds what hostile nesting may cost.
Result<BtfMember> member_named(const Btf& btf, const BtfType& of, std::string_view name,
                               uint32_t depth, uint32_t* budget) {
  if (depth == 0) {
    return make_error(EINVAL, "BTF types nest too deeply");
  }
  for (const BtfMember& member : btf.members(of)) {
    if ((*budget)-- == 0) {
      return make_error(EINVAL, "BTF struct too large to look through");
    }
    if (member.name == name) {
      return member;
    }
    if (!member.name.empty()) {
      continue;
    }
    auto inside = member_named(btf, TRY(btf.resolve(member.type)), name, depth - 1, budget);
    if (inside) {
      inside->bit_offset += member.bit_offset;
      return inside;
    }
    if (inside.error().code != ENOENT) {
      return inside.error();
    }
  }
  return make_error(ENOENT, "no such member");
}

}  // namespace

Result<BtfMember> Btf::find_member(uint32_t id, std::string_view path) const {
  uint32_t budget = 100'000;
  BtfMember found{{}, id, 0, 0};
  while (!path.empty()) {
    const size_t dot = std::min(path.find('.'), path.size());
    const BtfType holder = TRY(resolve(found.type));
    BtfMember member = TRY(member_named(*this, holder, path.substr(0, dot), kMaxChain, &budget));
    member.bit_offset += found.bit_offset;
    found = member;
    path.remove_prefix(std::min(dot + 1, path.size()));
  }
  return found;
}

// ---- func_info, line_info, .BTF.ext ----

namespace {

constexpr uint32_t kMaxRecordBytes = 252;  // kernel: MAX_FUNCINFO_REC_SIZE, MAX_LINEINFO_REC_SIZE

template <class T>
Result<std::vector<T>> read_records(std::span<const std::byte> bytes, uint32_t record_bytes) {
  if (record_bytes < sizeof(T) || record_bytes > kMaxRecordBytes || record_bytes % 4 != 0 ||
      bytes.size() % record_bytes != 0) {
    return make_error(EINVAL, "records of an impossible size");
  }
  std::vector<T> records;
  records.reserve(bytes.size() / record_bytes);
  for (size_t at = 0; at < bytes.size(); at += record_bytes) {
    const auto rest = bytes.subspan(at + sizeof(T), record_bytes - sizeof(T));
    if (std::any_of(rest.begin(), rest.end(), [](std::byte b) { return b != std::byte{0}; })) {
      return make_error(E2BIG, "record with parts that we do not know");
    }
    records.push_back(read_at<T>(bytes, at));
  }
  return records;
}

}  // namespace

Result<std::vector<BtfFuncInfo>> read_func_info(const Btf& btf, std::span<const std::byte> bytes,
                                                uint32_t record_bytes, uint32_t insn_count) {
  struct Raw {
    uint32_t insn, type;
  };
  std::vector<BtfFuncInfo> list;
  for (const Raw& raw : TRY(read_records<Raw>(bytes, record_bytes))) {
    if (raw.insn >= insn_count || (list.empty() ? raw.insn != 0 : raw.insn <= list.back().insn)) {
      return make_error(EINVAL, "func_info does not begin at 0 or does not ascend");
    }
    const BtfType func = TRY(btf.type(raw.type));
    if (func.kind != BtfKind::kFunc || TRY(btf.type(func.target)).kind != BtfKind::kFuncProto) {
      return make_error(EINVAL, "func_info names no function");
    }
    list.push_back({raw.insn, raw.type});
  }
  return list;
}

Result<std::vector<BtfLineInfo>> read_line_info(const Btf& btf, std::span<const std::byte> bytes,
                                                uint32_t record_bytes, uint32_t insn_count) {
  struct Raw {
    uint32_t insn, file, text, line_column;
  };
  std::vector<BtfLineInfo> list;
  for (const Raw& raw : TRY(read_records<Raw>(bytes, record_bytes))) {
    if (raw.insn >= insn_count || (list.empty() ? raw.insn != 0 : raw.insn <= list.back().insn)) {
      return make_error(EINVAL, "line_info does not begin at 0 or does not ascend");
    }
    list.push_back({raw.insn, TRY(btf.string(raw.file)), TRY(btf.string(raw.text)),
                    raw.line_column >> 10, raw.line_column & 0x3ff});
  }
  return list;
}

namespace {

// One of the three tables: record size, then for each section its name, count and records.
Result<std::vector<BtfExtSection>> read_ext_table(const Btf& btf, std::span<const std::byte> table,
                                                  uint32_t least_record_bytes) {
  std::vector<BtfExtSection> list;
  if (table.empty()) {
    return list;
  }
  if (table.size() < 4) {
    return make_error(EINVAL, ".BTF.ext table cut off");
  }
  const auto record_bytes = read_at<uint32_t>(table, 0);
  if (record_bytes < least_record_bytes || record_bytes > kMaxRecordBytes ||
      record_bytes % 4 != 0) {
    return make_error(EINVAL, ".BTF.ext records of an impossible size");
  }
  for (size_t at = 4; at < table.size();) {
    if (table.size() - at < 8) {
      return make_error(EINVAL, ".BTF.ext section cut off");
    }
    const auto name = read_at<uint32_t>(table, at);
    const auto count = read_at<uint32_t>(table, at + 4);
    at += 8;
    const uint64_t bytes = uint64_t{count} * record_bytes;
    if (count == 0 || bytes > table.size() - at) {
      return make_error(EINVAL, ".BTF.ext section cut off");
    }
    list.push_back({TRY(btf.string(name)), record_bytes, table.subspan(at, bytes)});
    at += bytes;
  }
  return list;
}

}  // namespace

Result<BtfExt> read_btf_ext(const Btf& btf, std::span<const std::byte> bytes) {
  struct Head {
    uint16_t magic;
    uint8_t version, flags;
    uint32_t header_bytes;
    uint32_t tables[6];  // offset and length of func_info, line_info, core_relo
  };
  constexpr size_t kLeast = 24;  // core_relo came later
  Head head{};
  if (bytes.size() < kLeast || bytes.size() > kMaxBtfBytes) {
    return make_error(EINVAL, ".BTF.ext of an impossible size");
  }
  std::memcpy(&head, bytes.data(), kLeast);
  if (head.magic != BTF_MAGIC || head.version != BTF_VERSION || head.flags != 0 ||
      head.header_bytes < kLeast || head.header_bytes > bytes.size()) {
    return make_error(EINVAL, "not .BTF.ext, or of another version");
  }
  std::memcpy(&head, bytes.data(), std::min<size_t>(sizeof(head), head.header_bytes));
  const auto body = bytes.subspan(head.header_bytes);
  const auto table = [&](int i, uint32_t least) -> Result<std::vector<BtfExtSection>> {
    const uint32_t offset = head.tables[2 * i], length = head.tables[2 * i + 1];
    if (offset % 4 != 0 || offset > body.size() || length > body.size() - offset) {
      return make_error(EINVAL, ".BTF.ext table outside of the data");
    }
    return read_ext_table(btf, body.subspan(offset, length), least);
  };
  BtfExt ext;
  ext.func_info = TRY(table(0, 8));
  ext.line_info = TRY(table(1, 16));
  ext.core_relo = TRY(table(2, 16));
  return ext;
}

}  // namespace bpftime
