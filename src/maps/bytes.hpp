// Copies and compares without libc: whole words where it can, never a call to memcpy. Home:
// injected *, maps only. Other threads may be writing the same bytes: what was read is only
// believed after a version check.
#pragma once
#include <cstddef>
#include <cstdint>

namespace bpftime {

#define BPFTIME_RACY __attribute__((no_sanitize("thread")))

template <class T>
BPFTIME_RACY inline T load_as(const void* from) {
  T value;
  __builtin_memcpy(&value, from, sizeof value);
  return value;
}
template <class T>
BPFTIME_RACY inline void store_as(void* to, T value) {
  __builtin_memcpy(to, &value, sizeof value);
}

BPFTIME_RACY inline void copy_bytes(void* to, const void* from, uint64_t size) {
  auto* d = static_cast<std::byte*>(to);
  auto* s = static_cast<const std::byte*>(from);
  for (; size >= 8; size -= 8, d += 8, s += 8) {
    store_as<uint64_t>(d, load_as<uint64_t>(s));
    __asm__ volatile("" : "+r"(d));  // keeps the loop a loop
  }
  if ((size & 4) != 0) {
    store_as<uint32_t>(d, load_as<uint32_t>(s));
    d += 4;
    s += 4;
  }
  if ((size & 2) != 0) {
    store_as<uint16_t>(d, load_as<uint16_t>(s));
    d += 2;
    s += 2;
  }
  if ((size & 1) != 0) {
    *d = *s;
  }
}

// `size` is a multiple of 8.
BPFTIME_RACY inline void zero_bytes(void* to, uint64_t size) {
  auto* d = static_cast<std::byte*>(to);
  for (; size >= 8; size -= 8, d += 8) {
    store_as<uint64_t>(d, 0);
    __asm__ volatile("" : "+r"(d));
  }
}

BPFTIME_RACY inline bool equal_bytes(const void* a, const void* b, uint64_t size) {
  auto* x = static_cast<const std::byte*>(a);
  auto* y = static_cast<const std::byte*>(b);
  for (; size >= 8; size -= 8, x += 8, y += 8) {
    if (load_as<uint64_t>(x) != load_as<uint64_t>(y)) {
      return false;
    }
  }
  if ((size & 4) != 0) {
    if (load_as<uint32_t>(x) != load_as<uint32_t>(y)) {
      return false;
    }
    x += 4;
    y += 4;
  }
  if ((size & 2) != 0) {
    if (load_as<uint16_t>(x) != load_as<uint16_t>(y)) {
      return false;
    }
    x += 2;
    y += 2;
  }
  return (size & 1) == 0 || *x == *y;
}

constexpr uint64_t round_up(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }

}  // namespace bpftime
