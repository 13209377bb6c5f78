// Texts with conversions, as trace_printk, snprintf and the like take them: what Linux 6.18 accepts
// (kernel/bpf/helpers.c: bpf_bprintf_prepare). Home: pure *, header only.
#pragma once
#include <cstdint>

namespace bpftime {

enum class ConversionKind : uint8_t {
  kPercent,
  kText,
  kChar,
  kSigned,
  kUnsigned,
  kHex,
  kPointer,
  kSymbol,
  kAddress
};

struct Conversion {
  ConversionKind kind = ConversionKind::kPercent;
  bool zero = false, plus = false, minus = false, space = false;
  bool is_long = false, is_upper = false;
  bool is_ip6 = false, is_short = false;  // kAddress: %pi4, %pi6: leading zeros, no colons
  uint32_t width = 0;
};

namespace format_inside {

inline bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
inline bool is_print(char c) { return c >= ' ' && c <= '~'; }
inline bool is_alnum(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}
inline bool ends_word(char c) { return c == 0 || is_space(c) || (is_print(c) && !is_alnum(c)); }

inline const char* read_flags(const char* at, Conversion* c) {
  constexpr uint32_t kWidest = 1024;
  for (;; at++) {
    if (*at == '0') {
      c->zero = true;
    } else if (*at == '+') {
      c->plus = true;
    } else if (*at == '-') {
      c->minus = true;
    } else if (*at == ' ') {
      c->space = true;
    } else {
      break;
    }
  }
  for (; *at >= '0' && *at <= '9'; at++) {
    const uint32_t width = c->width * 10 + static_cast<uint32_t>(*at - '0');
    c->width = width < kWidest ? width : kWidest;
  }
  return at;
}

// Behind %p. Null: not known.
inline const char* read_pointer(const char* at, Conversion* c) {
  const char kind = *at;
  if (kind == 'k' || kind == 'u') {
    c->kind = ConversionKind::kText;
    return at[1] == 's' && ends_word(at[2]) ? at + 2 : nullptr;
  }
  c->kind = ConversionKind::kPointer;
  if (ends_word(kind)) {
    return at;
  }
  if (kind == 'K' || kind == 'x') {
    return at + 1;
  }
  if (kind == 's' || kind == 'S' || kind == 'B') {
    c->kind = ConversionKind::kSymbol;
    return at + 1;
  }
  if ((kind == 'i' || kind == 'I') && (at[1] == '4' || at[1] == '6')) {
    c->kind = ConversionKind::kAddress;
    c->is_short = kind == 'i';
    c->is_ip6 = at[1] == '6';
    return at + 2;
  }
  return nullptr;
}

}  // namespace format_inside

// Text outside of conversions. Bytes from 0x80 on are UTF-8, since 6.17.
inline bool is_format_text(char c) {
  return format_inside::is_print(c) || format_inside::is_space(c) ||
         static_cast<signed char>(c) < 0;
}

// `at` is behind a '%', in a text that ends in NUL. What follows the conversion; null: it is none.
inline const char* read_conversion(const char* at, Conversion* c) {
  *c = Conversion();
  if (*at == '%') {
    return at + 1;
  }
  at = format_inside::read_flags(at, c);
  if (*at == 'p') {
    return format_inside::read_pointer(at + 1, c);
  }
  if (*at == 's') {
    c->kind = ConversionKind::kText;
    return format_inside::ends_word(at[1]) ? at + 1 : nullptr;
  }
  if (*at == 'c') {
    c->kind = ConversionKind::kChar;
    return at + 1;
  }
  for (int i = 0; i < 2 && *at == 'l'; i++, at++) {
    c->is_long = true;
  }
  c->kind = *at == 'd' || *at == 'i'   ? ConversionKind::kSigned
            : *at == 'u'               ? ConversionKind::kUnsigned
            : *at == 'x' || *at == 'X' ? ConversionKind::kHex
                                       : ConversionKind::kPercent;
  c->is_upper = *at == 'X';
  return c->kind != ConversionKind::kPercent ? at + 1 : nullptr;
}

// May a text that ends in NUL be printed with so many numbers?
inline bool is_format_right(const char* text, uint64_t numbers) {
  Conversion c;
  while (*text != 0) {
    if (!is_format_text(*text)) {
      return false;
    }
    if (*text++ != '%') {
      continue;
    }
    text = read_conversion(text, &c);
    if (text == nullptr || (c.kind != ConversionKind::kPercent && numbers-- == 0)) {
      return false;
    }
  }
  return true;
}

}  // namespace bpftime
