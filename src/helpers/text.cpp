// snprintf, strncmp, strtol, strtoul. Linux 6.18 kernel/bpf/helpers.c: bpf_snprintf, bpf_strncmp,
// __bpf_strtoull.
#include <linux/bpf.h>

#include <cerrno>

#include "helpers/all.hpp"

namespace bpftime::helper {
namespace {

constexpr uint64_t kMostArgs = 12;  // MAX_BPRINTF_VARARGS
constexpr uint64_t kBaseMask = 0x1f;
constexpr uint32_t kMostDigits = 63;

uint64_t error(int code) { return static_cast<uint64_t>(static_cast<int64_t>(-code)); }

bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r') || c == '\xa0'; }
char lower(char c) { return static_cast<char>(c | 0x20); }
int digit_of(char c) {
  if (c >= '0' && c <= '9') {
    return c - '0';
  }
  const char l = lower(c);
  return l >= 'a' && l <= 'f' ? l - 'a' + 10 : 99;
}

struct Parsed {
  int64_t consumed;  // or -errno
  uint64_t value;
  bool is_negative;
};

Parsed parse(const char* text, uint64_t size, uint64_t flags) {
  const uint64_t base_given = flags & kBaseMask;
  if (text == nullptr || size == 0 || (flags & ~kBaseMask) != 0 ||
      (base_given != 0 && base_given != 8 && base_given != 10 && base_given != 16)) {
    return {-EINVAL, 0, false};
  }
  uint64_t at = 0;
  while (at < size && is_space(text[at])) {
    at++;
  }
  const bool is_negative = at < size && text[at] == '-';
  at += is_negative ? 1 : 0;
  const uint64_t end = size - at < kMostDigits ? size : at + kMostDigits;
  const auto char_at = [&](uint64_t i) { return i < end ? text[i] : '\0'; };
  auto base = static_cast<uint32_t>(base_given);
  const bool has_x = char_at(at) == '0' && lower(char_at(at + 1)) == 'x';
  if (base == 0) {
    base = char_at(at) != '0' ? 10 : has_x && digit_of(char_at(at + 2)) < 16 ? 16 : 8;
  }
  at += base == 16 && has_x ? 2 : 0;
  const uint64_t first = at;
  uint64_t value = 0;
  bool is_too_large = false;
  for (; static_cast<uint32_t>(digit_of(char_at(at))) < base; at++) {
    const auto digit = static_cast<uint64_t>(digit_of(char_at(at)));
    is_too_large = is_too_large || value > (~0ULL - digit) / base;
    value = value * base + digit;
  }
  if (is_too_large) {
    return {-ERANGE, 0, is_negative};
  }
  return {at == first ? -EINVAL : static_cast<int64_t>(at), value, is_negative};
}

}  // namespace

// (const char* text, size, flags, long* result): bytes read.
BPFTIME_HELPER(strtol) {
  (void)a5, (void)hit;
  auto& result = *reinterpret_cast<volatile int64_t*>(a4);
  result = 0;
  const Parsed parsed = parse(reinterpret_cast<const char*>(a1), a2, a3);
  if (parsed.consumed < 0) {
    return static_cast<uint64_t>(parsed.consumed);
  }
  const uint64_t limit = (1ULL << 63) - (parsed.is_negative ? 0 : 1);
  if (parsed.value > limit) {
    return error(ERANGE);
  }
  result = static_cast<int64_t>(parsed.is_negative ? 0 - parsed.value : parsed.value);
  return static_cast<uint64_t>(parsed.consumed);
}
BPFTIME_HELPER(strtoul) {
  (void)a5, (void)hit;
  auto& result = *reinterpret_cast<volatile uint64_t*>(a4);
  result = 0;
  const Parsed parsed = parse(reinterpret_cast<const char*>(a1), a2, a3);
  if (parsed.consumed < 0) {
    return static_cast<uint64_t>(parsed.consumed);
  }
  if (parsed.is_negative) {
    return error(EINVAL);
  }
  result = parsed.value;
  return static_cast<uint64_t>(parsed.consumed);
}

// (const char* first, u32 size, const char* second)
BPFTIME_HELPER(strncmp) {
  (void)a4, (void)a5, (void)hit;
  const auto* first = reinterpret_cast<const volatile unsigned char*>(a1);
  const auto* second = reinterpret_cast<const volatile unsigned char*>(a3);
  for (uint32_t left = static_cast<uint32_t>(a2); left > 0; left--, first++, second++) {
    const unsigned char one = *first;
    const unsigned char other = *second;
    if (one != other) {
      return one < other ? ~0ULL : 1;
    }
    if (one == 0) {
      break;
    }
  }
  return 0;
}

// (char* text, u32 size, const char* format, const u64* args, u32 args_bytes): length with the NUL.
BPFTIME_HELPER(snprintf) {
  const auto bytes = static_cast<uint32_t>(a5);
  if (bytes % 8 != 0 || bytes > kMostArgs * 8 || (bytes != 0 && a4 == 0)) {
    return error(EINVAL);
  }
  const auto* const format = reinterpret_cast<const char*>(a3);
  uint64_t format_bytes = 0;
  while (const_cast<const volatile char*>(format)[format_bytes++] != 0) {
  }
  char nothing[1];
  const auto size = static_cast<uint32_t>(a2);
  char* const to = a1 == 0 || size == 0 ? nothing : reinterpret_cast<char*>(a1);
  const int64_t length =
      format_trace(probe(hit).thread, to, to == nothing ? 1 : size, format, format_bytes,
                   reinterpret_cast<const uint64_t*>(a4), bytes / 8);
  return static_cast<uint64_t>(length < 0 ? length : length + 1);
}

}  // namespace bpftime::helper
