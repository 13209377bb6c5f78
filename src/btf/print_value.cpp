#include "btf/print_value.hpp"

#include <algorithm>
#include <cstdio>
#include <cstring>

namespace bpftime {
namespace {

constexpr int kMostDepth = 32;

// Little endian, as the machines that we run on.
uint64_t number_at(std::span<const std::byte> bytes) {
  uint64_t value = 0;
  std::memcpy(&value, bytes.data(), std::min(bytes.size(), sizeof(value)));
  return value;
}

template <class T>
std::string formatted(const char* format, T value) {
  char text[64];
  std::snprintf(text, sizeof(text), format, value);
  return text;
}

std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20 || byte >= 0x7f) {
      out += formatted("\\u%04x", static_cast<unsigned>(byte));
    } else {
      out += c;
    }
  }
  return out + '"';
}

std::string integer(uint64_t value, uint32_t bits, bool is_signed) {
  if (bits < 64) {
    value &= (1ULL << bits) - 1;
    if (is_signed && bits != 0 && (value >> (bits - 1)) != 0) {
      value |= ~0ULL << bits;
    }
  }
  return is_signed ? formatted("%lld", static_cast<long long>(value))
                   : formatted("%llu", static_cast<unsigned long long>(value));
}

class Printer {
 public:
  explicit Printer(const Btf& btf) : btf_(btf) {}
  std::string take() { return std::move(out_); }

  void print(uint32_t id, std::span<const std::byte> bytes, int depth) {
    if (out_.size() > kMostValueText) {
      out_ += "\"...\"";
      return;
    }
    const auto type = btf_.resolve(id);
    const auto size = btf_.size_of(id);
    if (depth > kMostDepth || !type || !size || *size > bytes.size()) {
      out_ += value_text(bytes);
      return;
    }
    bytes = bytes.first(*size);
    switch (type->kind) {
      case BtfKind::kInt:
        print_int(*type, number_at(bytes), bytes);
        return;
      case BtfKind::kEnum:
      case BtfKind::kEnum64:
        print_enum(*type, number_at(bytes), *size * 8);
        return;
      case BtfKind::kFloat:
        print_float(bytes);
        return;
      case BtfKind::kPtr:
        out_ += quoted(formatted("0x%llx", static_cast<unsigned long long>(number_at(bytes))));
        return;
      case BtfKind::kArray:
        print_array(*type, bytes, depth);
        return;
      case BtfKind::kStruct:
      case BtfKind::kUnion:
        out_ += '{';
        print_members(*type, bytes, depth, true);
        out_ += '}';
        return;
      case BtfKind::kDatasec:
        print_variables(*type, bytes, depth);
        return;
      default:
        out_ += value_text(bytes);
    }
  }

 private:
  void print_int(const BtfType& type, uint64_t value, std::span<const std::byte> bytes) {
    const BtfInt about = btf_.int_of(type);
    if (bytes.size() > sizeof(value)) {
      out_ += value_text(bytes);
    } else if (about.is_bool) {
      out_ += value != 0 ? "true" : "false";
    } else {
      out_ += integer(value >> about.bit_offset, about.bits, about.is_signed);
    }
  }

  void print_enum(const BtfType& type, uint64_t value, uint32_t bits) {
    const uint64_t mask = bits < 64 ? (1ULL << bits) - 1 : ~0ULL;
    for (const BtfEnumerator& one : btf_.enumerators(type)) {
      if ((one.value & mask) == (value & mask)) {
        out_ += quoted(one.name);
        return;
      }
    }
    out_ += integer(value, bits, type.kind_flag);
  }

  void print_float(std::span<const std::byte> bytes) {
    double value = 0;
    if (bytes.size() == sizeof(float)) {
      float small = 0;
      std::memcpy(&small, bytes.data(), sizeof(small));
      value = static_cast<double>(small);
    } else if (bytes.size() == sizeof(double)) {
      std::memcpy(&value, bytes.data(), sizeof(value));
    } else {
      out_ += value_text(bytes);
      return;
    }
    const std::string text = formatted("%.17g", value);
    const bool is_number = text.find_first_of("ni") == std::string::npos;  // nan, inf
    out_ += is_number ? text : quoted(text);
  }

  void print_array(const BtfType& type, std::span<const std::byte> bytes, int depth) {
    const auto element = btf_.resolve(type.target);
    const auto size = btf_.size_of(type.target);
    if (element && element->kind == BtfKind::kInt && element->name == "char" && is_text(bytes)) {
      const auto* text = reinterpret_cast<const char*>(bytes.data());
      out_ += quoted({text, ::strnlen(text, bytes.size())});
      return;
    }
    out_ += '[';
    for (size_t at = 0; size && *size != 0 && at + *size <= bytes.size() && is_room();
         at += *size) {
      out_ += at == 0 ? "" : ",";
      print(type.target, bytes.subspan(at, *size), depth + 1);
    }
    out_ += ']';
  }

  void print_members(const BtfType& type, std::span<const std::byte> bytes, int depth, bool first) {
    for (const BtfMember& member : btf_.members(type)) {
      if (!is_room()) {
        return;
      }
      const uint64_t at = member.bit_offset / 8;
      const auto size = btf_.size_of(member.type);
      if (!size || at > bytes.size()) {
        continue;
      }
      const auto inner = btf_.resolve(member.type);
      const bool is_anonymous = member.name.empty() && inner && inner->is_structure();
      if (member.name.empty() && !is_anonymous) {
        continue;
      }
      out_ += first ? "" : ",";
      first = false;
      out_ += quoted(member.name) + ":";
      const auto rest = bytes.subspan(at);
      if (member.bitfield_bits != 0) {
        const bool is_signed =
            inner &&
            (inner->kind == BtfKind::kInt ? btf_.int_of(*inner).is_signed : inner->kind_flag);
        out_ += integer(number_at(rest) >> member.bit_offset % 8, member.bitfield_bits, is_signed);
      } else {
        print(member.type, rest.first(std::min<size_t>(*size, rest.size())), depth + 1);
      }
    }
  }

  void print_variables(const BtfType& type, std::span<const std::byte> bytes, int depth) {
    out_ += '{';
    bool first = true;
    for (const BtfVariable& variable : btf_.variables(type)) {
      const auto named = btf_.type(variable.type);
      if (!named || variable.offset > bytes.size() || !is_room()) {
        continue;
      }
      const auto rest = bytes.subspan(variable.offset);
      out_ += (first ? "" : ",") + quoted(named->name) + ":";
      first = false;
      print(named->target, rest.first(std::min<size_t>(variable.size_bytes, rest.size())),
            depth + 1);
    }
    out_ += '}';
  }

  // Printable characters, then nothing but NULs.
  static bool is_text(std::span<const std::byte> bytes) {
    const auto end = std::find(bytes.begin(), bytes.end(), std::byte{0});
    return std::all_of(bytes.begin(), end, [](std::byte b) {
      const auto c = static_cast<unsigned char>(b);
      return (c >= 0x20 && c < 0x7f) || c == '\t' || c == '\n';
    });
  }
  [[nodiscard]] bool is_room() const { return out_.size() <= kMostValueText; }

  const Btf& btf_;
  std::string out_;
};

}  // namespace

std::string value_text(const Btf& btf, uint32_t type, std::span<const std::byte> bytes) {
  Printer printer(btf);
  printer.print(type, bytes, 0);
  return printer.take();
}

std::string value_text(std::span<const std::byte> bytes) {
  if (bytes.size() == 1 || bytes.size() == 2 || bytes.size() == 4 || bytes.size() == 8) {
    return formatted("%llu", static_cast<unsigned long long>(number_at(bytes)));
  }
  std::string text = "\"";
  for (size_t i = 0; i < bytes.size() && text.size() <= kMostValueText; i++) {
    text += formatted(i == 0 ? "%02x" : " %02x", static_cast<unsigned>(bytes[i]));
  }
  return text + '"';
}

}  // namespace bpftime
