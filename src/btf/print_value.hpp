// A value as its BTF says, as JSON text. Home: pure; command line. Types and bytes are HOSTILE: nothing outside of
// `bytes` is read, and the text is bounded.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "btf/btf.hpp"

namespace bpftime {

inline constexpr size_t kMostValueText =
    4 << 20;  // what would be longer ends in the middle, as "..."

// Numbers are numbers, `char[]` that holds text is a string, enumerators have their names, pointers are "0x...", structs
// are objects. Where the type does not fit the bytes: as without a type.
std::string value_text(const Btf& btf, uint32_t type, std::span<const std::byte> bytes);
// 1, 2, 4 and 8 bytes are an unsigned number, others a string of hexadecimal bytes.
std::string value_text(std::span<const std::byte> bytes);

}  // namespace bpftime
