// One planned rewriting of code in a target. Home: pure *. Made by patchplan, applied by inject;
// plain data, no x86 knowledge needed to apply it.
#pragma once
#include <cstdint>
#include <type_traits>

#include "abi/ids.hpp"

namespace bpftime {

// A displaced instruction and its copy: a thread whose ip stood at site + offset_in_site goes on at
// resume_at.
struct IpMove {
  uint64_t offset_in_site, resume_at;
};

struct Patch {
  RemoteAddr site, trampoline;
  uint32_t site_bytes;  // bytes of the site that are overwritten, at most 16
  uint32_t trampoline_bytes, site_index, move_count;
  uint8_t before[16], after[16];  // `before` is compared first: ESTALE when the code has changed
  IpMove moves[15];
};
static_assert(std::is_trivially_copyable_v<Patch> && sizeof(Patch) == 304);

}  // namespace bpftime
