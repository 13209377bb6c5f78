// Is this BTF whole? Home: broker; pure. Only the shape is looked at: header, sections, each type's
// length, kind and references, names inside the string section. What types mean is for who reads
// them.
#pragma once
#include <cstddef>
#include <span>

#include "base/result.hpp"

namespace bpftime {

inline constexpr size_t kMaxBtfBytes = 16 << 20;  // kernel: BTF_MAX_SIZE

// Errors: EINVAL (kernel v6.18 kernel/bpf/btf.c: btf_parse_hdr, btf_check_all_metas).
Result<void> check_btf(std::span<const std::byte> bytes);

}  // namespace bpftime
