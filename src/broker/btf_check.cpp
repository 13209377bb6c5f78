#include "broker/btf_check.hpp"

#include <linux/btf.h>

#include <cerrno>
#include <cstdint>
#include <cstring>

namespace bpftime {
namespace {

constexpr uint32_t kKindInt = 1, kKindArray = 3, kKindStruct = 4, kKindUnion = 5, kKindEnum = 6,
                   kKindFuncProto = 13, kKindVar = 14, kKindDatasec = 15, kKindDeclTag = 17,
                   kKindEnum64 = 19;
constexpr uint32_t kMaxTypes = 1U << 20;  // kernel: BTF_MAX_TYPE

// Bytes that follow a type of this kind; -1 = no such kind.
int64_t tail_bytes(uint32_t kind, uint32_t vlen) {
  switch (kind) {
    case kKindInt:
    case kKindVar:
    case kKindDeclTag:
      return 4;
    case kKindArray:
    case kKindStruct:
    case kKindUnion:
    case kKindDatasec:
    case kKindEnum64:
      return kind == kKindArray ? 12 : int64_t{12} * vlen;
    case kKindEnum:
    case kKindFuncProto:
      return int64_t{8} * vlen;
    default:
      return kind == 0 || kind > kKindEnum64 ? -1 : 0;
  }
}

}  // namespace

Result<void> check_btf(std::span<const std::byte> bytes) {
  btf_header header{};
  if (bytes.size() < sizeof(header) || bytes.size() > kMaxBtfBytes) {
    return make_error(EINVAL, "BTF of an impossible size");
  }
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (header.magic != BTF_MAGIC || header.version != BTF_VERSION || header.flags != 0) {
    return make_error(EINVAL, "not BTF, or of another version");
  }
  if (header.hdr_len < sizeof(header) || header.hdr_len > bytes.size()) {
    return make_error(EINVAL, "BTF header outside of the data");
  }
  const auto body = bytes.subspan(header.hdr_len);
  if (header.type_off % 4 != 0 || header.type_off > body.size() ||
      header.type_len > body.size() - header.type_off || header.str_off > body.size() ||
      header.str_len > body.size() - header.str_off) {
    return make_error(EINVAL, "BTF section outside of the data");
  }
  const auto types = body.subspan(header.type_off, header.type_len);
  const auto strings = body.subspan(header.str_off, header.str_len);
  if (strings.empty() || strings.front() != std::byte{0} || strings.back() != std::byte{0}) {
    return make_error(EINVAL, "BTF strings do not begin and end with a zero");
  }
  size_t at = 0;
  uint32_t count = 0;
  while (at < types.size()) {
    btf_type type{};
    if (types.size() - at < sizeof(type) || ++count > kMaxTypes) {
      return make_error(EINVAL, "BTF type cut off");
    }
    std::memcpy(&type, types.data() + at, sizeof(type));
    at += sizeof(type);
    const uint32_t kind = (type.info >> 24) & 0x1f;
    const int64_t tail = tail_bytes(kind, type.info & 0xffff);
    if (tail < 0 || static_cast<size_t>(tail) > types.size() - at) {
      return make_error(EINVAL, "BTF type of no kind, or cut off");
    }
    if (type.name_off >= strings.size()) {
      return make_error(EINVAL, "BTF name outside of the strings");
    }
    at += static_cast<size_t>(tail);
  }
  return {};
}

}  // namespace bpftime
