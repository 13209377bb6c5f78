// memcpy, memmove, memset, memcmp, strlen for the agent, which has no libc: the compiler emits calls to
// them. In ordinary builds this file is empty and libc's are used. Hidden: only the agent's own code
// reaches them (checked by tools/check_agent).
#include <cstddef>
#include <cstdint>

#ifdef BPFTIME_AGENT
// No string instruction: they depend on DF, which is the target's.
using Unaligned = uint64_t __attribute__((aligned(1), may_alias));

extern "C" {
__attribute__((visibility("hidden"), optimize("no-tree-loop-distribute-patterns"))) void* memcpy(
    void* to, const void* from, size_t n) {
  auto* d = static_cast<unsigned char*>(to);
  const auto* s = static_cast<const unsigned char*>(from);
  for (; n >= 8; n -= 8, d += 8, s += 8) {
    *reinterpret_cast<Unaligned*>(d) = *reinterpret_cast<const Unaligned*>(s);
  }
  for (; n > 0; n--) {
    *d++ = *s++;
  }
  return to;
}
__attribute__((visibility("hidden"), optimize("no-tree-loop-distribute-patterns"))) void* memset(
    void* to, int value, size_t n) {
  auto* d = static_cast<unsigned char*>(to);
  const uint64_t eight = static_cast<unsigned char>(value) * 0x0101010101010101ULL;
  for (; n >= 8; n -= 8, d += 8) {
    *reinterpret_cast<Unaligned*>(d) = eight;
  }
  for (; n > 0; n--) {
    *d++ = static_cast<unsigned char>(value);
  }
  return to;
}
__attribute__((visibility("hidden"))) void* memmove(void* to, const void* from, size_t n) {
  auto* d = static_cast<volatile unsigned char*>(to);
  const auto* s = static_cast<const volatile unsigned char*>(from);
  if (reinterpret_cast<uintptr_t>(to) <= reinterpret_cast<uintptr_t>(from)) {
    for (size_t i = 0; i < n; i++) {
      d[i] = s[i];
    }
  } else {
    for (size_t i = n; i > 0; i--) {
      d[i - 1] = s[i - 1];
    }
  }
  return to;
}
__attribute__((visibility("hidden"))) int memcmp(const void* a, const void* b, size_t n) {
  const auto* x = static_cast<const volatile unsigned char*>(a);
  const auto* y = static_cast<const volatile unsigned char*>(b);
  for (size_t i = 0; i < n; i++) {
    if (x[i] != y[i]) {
      return x[i] < y[i] ? -1 : 1;
    }
  }
  return 0;
}
__attribute__((visibility("hidden"))) size_t strlen(const char* s) {
  size_t n = 0;
  while (static_cast<const volatile char*>(s)[n] != 0) {
    n++;
  }
  return n;
}
}
#else
namespace bpftime {
extern const char kFreestandingIsEmpty;  // an ordinary build has nothing here
const char kFreestandingIsEmpty = 0;
}  // namespace bpftime
#endif
