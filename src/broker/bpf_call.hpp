// One bpf(2) request on its way through the session's commands. Home: broker, its one thread; the session_*.cpp files
// only.
#pragma once
#include <linux/bpf.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <string>

#include "broker/session.hpp"

namespace bpftime {

struct Session::BpfCall {
  const Caller& caller;
  const Request& request;
  bpf_attr attr;
};

// How payloads name the pointer they stand for: its offset in the attr.
template <class T>
uint32_t tag_of(const bpf_attr& attr, const T& field) {
  return static_cast<uint32_t>(reinterpret_cast<const char*>(&field) -
                               reinterpret_cast<const char*>(&attr));
}

inline bool is_zero(std::span<const std::byte> bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0}; });
}

inline void copy_name(char* to, const std::string& name) {
  std::memset(to, 0, BPF_OBJ_NAME_LEN);
  std::memcpy(to, name.data(), std::min<size_t>(name.size(), BPF_OBJ_NAME_LEN - 1));
}

}  // namespace bpftime
