// trace_printk's text. What is accepted is what kernel/bpf/helpers.c: bpf_bprintf_prepare accepts
// (6.18), and what comes out is what its vsnprintf makes of it, but for pointers: there is no
// kernel symbol to print, and no reason to hide an address, so every %p prints 16 hex digits.
#include <cerrno>

#include "helpers/helpers.hpp"

namespace bpftime {
namespace {

constexpr uint64_t kLongestString = 512;  // MAX_BPRINTF_BIN_ARGS: what the kernel copies of a %s

bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool is_print(char c) { return c >= ' ' && c <= '~'; }
bool is_alnum(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}
bool ends_word(char c) { return c == 0 || is_space(c) || (is_print(c) && !is_alnum(c)); }

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

struct Field {
  bool zero = false, plus = false, minus = false, space = false;
  uint32_t width = 0;
};

void put_padded(Out& out, const Field& field, const char* text, uint64_t length) {
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

void put_number(Out& out, const Field& field, uint64_t magnitude, char sign, uint32_t base,
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

void put_pointer(Out& out, Field field, uint64_t value) {
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
    Field field;
    field.zero = zeros;
    field.width = zeros ? 3 : 0;
    put_number(out, field, bytes[i], 0, 10, false);
  }
}

void put_ip6(Out& out, const unsigned char* bytes, bool colons) {
  Field field;
  field.zero = true;
  field.width = 4;
  for (int i = 0; i < 16; i += 2) {
    if (i > 0 && colons) {
      out.put(':');
    }
    put_number(out, field, static_cast<uint64_t>(bytes[i]) << 8 | bytes[i + 1], 0, 16, false);
  }
}

}  // namespace

int64_t format_trace(ThreadBlock* thread, char* out_text, uint64_t out_bytes, const char* format,
                     uint64_t format_bytes, const uint64_t* args, uint32_t arg_count) {
  uint64_t size = 0;
  while (size < format_bytes && format[size] != 0) {
    size++;
  }
  if (size == format_bytes || out_bytes == 0) {
    return -EINVAL;  // no NUL
  }
  Out out = {out_text, out_bytes};
  uint32_t used = 0;
  // format[i + 1] may be read while format[i] is not the NUL.
  for (uint64_t i = 0; i < size; i++) {
    // Bytes from 0x80 on are text (UTF-8), since 6.17.
    if (!is_print(format[i]) && !is_space(format[i]) && static_cast<signed char>(format[i]) >= 0) {
      return -EINVAL;
    }
    if (format[i] != '%') {
      out.put(format[i]);
      continue;
    }
    if (format[i + 1] == '%') {
      out.put('%');
      i++;
      continue;
    }
    if (used >= arg_count) {
      return -EINVAL;
    }
    const uint64_t arg = args[used++];
    Field field;
    for (i++;; i++) {
      if (format[i] == '0') {
        field.zero = true;
      } else if (format[i] == '+') {
        field.plus = true;
      } else if (format[i] == '-') {
        field.minus = true;
      } else if (format[i] == ' ') {
        field.space = true;
      } else {
        break;
      }
    }
    for (; format[i] >= '0' && format[i] <= '9'; i++) {
      field.width = field.width * 10 + static_cast<uint32_t>(format[i] - '0');
      if (field.width > 1024) {
        field.width = 1024;
      }
    }
    bool is_string = format[i] == 's';
    if (format[i] == 'p') {
      const char kind = format[i + 1];
      if (kind == 'k' || kind == 'u') {
        if (format[i + 2] != 's') {
          return -EINVAL;
        }
        i += 2;
        is_string = true;
      } else if (ends_word(kind)) {
        put_pointer(out, field, arg);
        continue;
      } else if (kind == 's' || kind == 'S' ||
                 kind == 'B') {  // a symbol; without one the kernel prints 0x...
        out.put('0');
        out.put('x');
        put_number(out, Field(), arg, 0, 16, false);
        i++;
        continue;
      } else if (kind == 'K' || kind == 'x') {
        put_pointer(out, field, arg);
        i++;
        continue;
      } else if ((kind == 'i' || kind == 'I') && (format[i + 2] == '4' || format[i + 2] == '6')) {
        unsigned char address[16];
        (void)checked_read(thread, address, arg, format[i + 2] == '4' ? 4 : 16);  // zeros when bad
        if (format[i + 2] == '4') {
          put_ip4(out, address, kind == 'i');
        } else {
          put_ip6(out, address, kind == 'I');
        }
        i += 2;
        continue;
      } else {
        return -EINVAL;
      }
    }
    if (is_string) {
      if (!ends_word(format[i + 1])) {
        return -EINVAL;
      }
      char text[kLongestString];
      const int64_t bytes = checked_read_string(thread, text, arg, sizeof text);
      put_padded(out, field, text, bytes > 0 ? static_cast<uint64_t>(bytes) - 1 : 0);
      continue;
    }
    if (format[i] == 'c') {
      const char one = static_cast<char>(arg);
      put_padded(out, field, &one, 1);
      continue;
    }
    bool is_long = false;
    for (int l = 0; l < 2 && format[i] == 'l'; l++, i++) {
      is_long = true;
    }
    switch (format[i]) {
      case 'd':
      case 'i': {
        const auto value = is_long ? static_cast<int64_t>(arg) : static_cast<int32_t>(arg);
        const char sign = value < 0 ? '-' : field.plus ? '+' : field.space ? ' ' : '\0';
        put_number(out, field,
                   value < 0 ? 0 - static_cast<uint64_t>(value) : static_cast<uint64_t>(value),
                   sign, 10, false);
        break;
      }
      case 'u':
        put_number(out, field, is_long ? arg : static_cast<uint32_t>(arg), 0, 10, false);
        break;
      case 'x':
      case 'X':
        put_number(out, field, is_long ? arg : static_cast<uint32_t>(arg), 0, 16, format[i] == 'X');
        break;
      default:
        return -EINVAL;
    }
  }
  out_text[out.length < out_bytes ? out.length : out_bytes - 1] = 0;
  return static_cast<int64_t>(out.length);
}

}  // namespace bpftime
