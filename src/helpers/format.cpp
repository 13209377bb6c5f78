// trace_printk's text. What is accepted: spec/format.hpp. What comes out is what the kernel's
// vsnprintf makes of it, but for pointers: there is no kernel symbol to print, and no reason to hide
// an address, so every %p prints 16 hex digits.
#include <cerrno>

#include "helpers/helpers.hpp"
#include "spec/format.hpp"

namespace bpftime {
namespace {

constexpr uint64_t kLongestString = 512;  // MAX_BPRINTF_BIN_ARGS: what the kernel copies of a %s

struct Out {
  char* to;
  uint64_t size, length = 0;
  void put(char c) {
    if (length + 1 < size) {
      to[length] = c;
    }
    length++;
  }
};

void put_padded(Out& out, const Conversion& field, const char* text, uint64_t length) {
  const uint64_t fill = field.width > length ? field.width - length : 0;
  for (uint64_t i = 0; !field.minus && i < fill; i++) {
    out.put(' ');
  }
  for (uint64_t i = 0; i < length; i++) {
    out.put(text[i]);
  }
  for (uint64_t i = 0; field.minus && i < fill; i++) {
    out.put(' ');
  }
}

void put_number(Out& out, const Conversion& field, uint64_t magnitude, char sign, uint32_t base,
                bool upper) {
  char digits[24];
  uint32_t count = 0;
  do {
    const auto digit = static_cast<uint32_t>(magnitude % base);
    digits[count++] =
        static_cast<char>(digit < 10 ? '0' + digit : (upper ? 'A' : 'a') + digit - 10);
    magnitude /= base;
  } while (magnitude != 0);
  const uint32_t length = count + (sign != 0 ? 1 : 0);
  const uint32_t fill = field.width > length ? field.width - length : 0;
  const bool zeros = field.zero && !field.minus;
  for (uint32_t i = 0; !field.minus && !zeros && i < fill; i++) {
    out.put(' ');
  }
  if (sign != 0) {
    out.put(sign);
  }
  for (uint32_t i = 0; zeros && i < fill; i++) {
    out.put('0');
  }
  while (count > 0) {
    out.put(digits[--count]);
  }
  for (uint32_t i = 0; field.minus && i < fill; i++) {
    out.put(' ');
  }
}

void put_pointer(Out& out, Conversion field, uint64_t value) {
  if (field.width == 0) {
    field.width = 16;
    field.zero = true;
  }
  put_number(out, field, value, 0, 16, false);
}

void put_ip4(Out& out, const unsigned char* bytes, bool zeros) {
  for (int i = 0; i < 4; i++) {
    if (i > 0) {
      out.put('.');
    }
    Conversion field;
    field.zero = zeros;
    field.width = zeros ? 3 : 0;
    put_number(out, field, bytes[i], 0, 10, false);
  }
}

void put_ip6(Out& out, const unsigned char* bytes, bool colons) {
  Conversion field;
  field.zero = true;
  field.width = 4;
  for (int i = 0; i < 16; i += 2) {
    if (i > 0 && colons) {
      out.put(':');
    }
    put_number(out, field, static_cast<uint64_t>(bytes[i]) << 8 | bytes[i + 1], 0, 16, false);
  }
}

// One conversion that takes a number.
void put(ThreadBlock* thread, Out& out, const Conversion& c, uint64_t arg) {
  switch (c.kind) {
    case ConversionKind::kPercent:
      break;
    case ConversionKind::kText: {
      char text[kLongestString];
      const int64_t bytes = checked_read_string(thread, text, arg, sizeof text);
      put_padded(out, c, text, bytes > 0 ? static_cast<uint64_t>(bytes) - 1 : 0);
      break;
    }
    case ConversionKind::kChar: {
      const char one = static_cast<char>(arg);
      put_padded(out, c, &one, 1);
      break;
    }
    case ConversionKind::kSigned: {
      const auto value = c.is_long ? static_cast<int64_t>(arg) : static_cast<int32_t>(arg);
      const char sign = value < 0 ? '-' : c.plus ? '+' : c.space ? ' ' : '\0';
      put_number(out, c,
                 value < 0 ? 0 - static_cast<uint64_t>(value) : static_cast<uint64_t>(value), sign,
                 10, false);
      break;
    }
    case ConversionKind::kUnsigned:
      put_number(out, c, c.is_long ? arg : static_cast<uint32_t>(arg), 0, 10, false);
      break;
    case ConversionKind::kHex:
      put_number(out, c, c.is_long ? arg : static_cast<uint32_t>(arg), 0, 16, c.is_upper);
      break;
    case ConversionKind::kPointer:
      put_pointer(out, c, arg);
      break;
    case ConversionKind::kSymbol:  // without one the kernel prints 0x...
      out.put('0');
      out.put('x');
      put_number(out, Conversion(), arg, 0, 16, false);
      break;
    case ConversionKind::kAddress: {
      unsigned char address[16];
      (void)checked_read(thread, address, arg, c.is_ip6 ? 16 : 4);  // zeros when bad
      if (c.is_ip6) {
        put_ip6(out, address, !c.is_short);
      } else {
        put_ip4(out, address, c.is_short);
      }
      break;
    }
  }
}

}  // namespace

int64_t format_trace(ThreadBlock* thread, char* out_text, uint64_t out_bytes, const char* format,
                     uint64_t format_bytes, const uint64_t* args, uint32_t arg_count) {
  uint64_t size = 0;
  while (size < format_bytes && format[size] != 0) {
    size++;
  }
  if (size == format_bytes || out_bytes == 0 || !is_format_right(format, arg_count)) {
    return -EINVAL;  // no NUL
  }
  Out out = {out_text, out_bytes};
  uint32_t used = 0;
  // Another thread may change the text meanwhile: so nothing of the look above is relied on.
  const char* at = format;
  while (at < format + size) {
    if (*at++ != '%') {
      out.put(at[-1]);
      continue;
    }
    Conversion c;
    at = read_conversion(at, &c);
    if (at == nullptr) {
      return -EINVAL;
    }
    if (c.kind == ConversionKind::kPercent) {
      out.put('%');
    } else if (used == arg_count) {
      return -EINVAL;
    } else {
      put(thread, out, c, args[used++]);
    }
  }
  out_text[out.length < out_bytes ? out.length : out_bytes - 1] = 0;
  return static_cast<int64_t>(out.length);
}

}  // namespace bpftime
