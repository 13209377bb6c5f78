// What the answers to bpf(2) and to perf_event_open(2) share: bytes of the caller, copied once, and the request's parts.
// Home: edge *, this room.
#pragma once
#include <linux/bpf.h>

#include <cstring>
#include <vector>

#include "bpfcall/answer.hpp"

// The offset of a field of union bpf_attr.
#define AT(field) static_cast<uint16_t>(offsetof(union bpf_attr, field))

namespace bpftime {

inline constexpr uint32_t kPageBytes = 4096;

template <class T>
T field(const std::byte* attr, uint16_t at) {
  T value;
  std::memcpy(&value, attr + at, sizeof(T));
  return value;
}
bool all_zero(std::span<const std::byte> bytes);

// Errors: E2BIG: more than a page, or anything but zeros behind what is known; EFAULT.
Result<void> check_tail(const CallerMemory& memory, uint64_t from, uint32_t known, uint32_t given);
// A string of at most `most` bytes with its NUL. Never reads a page behind the one the string ends in.
// Errors: EFAULT; ENAMETOOLONG when there is no NUL.
Result<std::vector<std::byte>> read_string(const CallerMemory& memory, uint64_t from,
                                           uint64_t most);
Result<void> write_u32(const CallerMemory& memory, uint64_t to, uint32_t value);

// Names `fd` in the request, if it is one of ours.
void add_ref(const Caller& caller, int fd, Request* request);
Answer failed(int code);

// What a reply to a command holds goes where the caller's attr says. `attr`: our copy of it; attr_bytes: as the caller said.
Result<void> write_back(const CallerMemory& memory, uint32_t command, uint64_t attr_address,
                        uint32_t attr_bytes, const std::byte* attr, const Reply& reply);

}  // namespace bpftime
