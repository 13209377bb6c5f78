// The bytes are made at compile time. Layout: Linux Documentation/bpf/btf.rst.
#include "spec/kernel_types.hpp"

#include <array>
#include <cstdint>
#include <string_view>

namespace bpftime {
namespace {

constexpr uint32_t kInt = 1, kPointer = 2, kArray = 3, kStruct = 4;  // BTF_KIND_*
constexpr uint32_t kFunction = 12, kFunctionProto = 13;
constexpr uint32_t kSigned = 1, kChar = 2, kBool = 4;  // BTF_INT_*
constexpr size_t kMostWords = 512, kMostChars = 2048;

struct Field {
  std::string_view name;
  uint32_t type, at;  // in bytes
};

struct Blob {
  std::array<uint32_t, kMostWords> words{};
  std::array<char, kMostChars> chars{};
  size_t word_count = 0, char_count = 1;  // the string at 0 is empty
  uint32_t types = 0;

  constexpr uint32_t string(std::string_view text) {
    const size_t at = char_count;
    for (const char c : text) {
      chars[char_count++] = c;
    }
    char_count++;
    return text.empty() ? 0 : static_cast<uint32_t>(at);
  }
  constexpr void put(uint32_t word) { words[word_count++] = word; }
  constexpr uint32_t integer(std::string_view name, uint32_t bytes, uint32_t encoding) {
    put(string(name));
    put(kInt << 24);
    put(bytes);
    put(encoding << 24 | bytes * 8);
    return ++types;
  }
  constexpr uint32_t array(uint32_t element, uint32_t index, uint32_t length) {
    put(0);
    put(kArray << 24);
    put(0);
    put(element);
    put(index);
    put(length);
    return ++types;
  }
  constexpr uint32_t pointer(uint32_t target) {
    put(0);
    put(kPointer << 24);
    put(target);
    return ++types;
  }
  // Without parameters.
  constexpr uint32_t function(std::string_view name, uint32_t returned) {
    put(0);
    put(kFunctionProto << 24);
    put(returned);
    const uint32_t proto = ++types;
    put(string(name));
    put(kFunction << 24);
    put(proto);
    return ++types;
  }
  template <size_t kCount>
  constexpr uint32_t structure(std::string_view name, uint32_t bytes,
                               const std::array<Field, kCount>& fields) {
    put(string(name));
    put(kStruct << 24 | static_cast<uint32_t>(kCount));
    put(bytes);
    for (const Field& field : fields) {
      put(string(field.name));
      put(field.type);
      put(field.at * 8);
    }
    return ++types;
  }
};

constexpr Blob make_blob() {
  Blob b;
  const uint32_t ulong = b.integer("unsigned long", 8, 0);
  const uint32_t slong = b.integer("long", 8, kSigned);
  const uint32_t sint = b.integer("int", 4, kSigned);
  const uint32_t ushort = b.integer("unsigned short", 2, 0);
  const uint32_t uchar = b.integer("unsigned char", 1, 0);
  const uint32_t character = b.integer("char", 1, kSigned | kChar);
  constexpr std::array<std::string_view, 21> kRegisters = {
      "r15", "r14", "r13", "r12", "bp",      "bx", "r11", "r10",   "r9", "r8", "ax",
      "cx",  "dx",  "si",  "di",  "orig_ax", "ip", "cs",  "flags", "sp", "ss"};
  std::array<Field, kRegisters.size()> registers{};
  for (uint32_t i = 0; i < kRegisters.size(); i++) {
    registers[i] = {kRegisters[i], ulong, i * 8};
  }
  b.structure("pt_regs", 168, registers);
  const uint32_t entry = b.structure("trace_entry", 8,
                                     std::array<Field, 4>{{{"type", ushort, 0},
                                                           {"flags", uchar, 2},
                                                           {"preempt_count", uchar, 3},
                                                           {"pid", sint, 4}}});
  const uint32_t six = b.array(ulong, sint, 6);
  const uint32_t data = b.array(character, sint, 0);
  b.structure("trace_event_raw_sys_enter", 64,
              std::array<Field, 4>{
                  {{"ent", entry, 0}, {"id", slong, 8}, {"args", six, 16}, {"__data", data, 64}}});
  b.structure("trace_event_raw_sys_exit", 24,
              std::array<Field, 4>{
                  {{"ent", entry, 0}, {"id", slong, 8}, {"ret", slong, 16}, {"__data", data, 24}}});
  b.function("bpf_session_is_return", b.integer("_Bool", 1, kBool));
  b.function("bpf_session_cookie", b.pointer(ulong));
  return b;
}

constexpr Blob kBlob = make_blob();
constexpr size_t kHeaderBytes = 24;
constexpr size_t kTypeBytes = kBlob.word_count * 4;
constexpr size_t kBytes = kHeaderBytes + kTypeBytes + kBlob.char_count;

constexpr std::array<std::byte, kBytes> make_bytes() {
  std::array<std::byte, kBytes> bytes{};
  size_t at = 0;
  const auto put = [&](uint32_t word) {
    for (int i = 0; i < 4; i++) {
      bytes[at++] = static_cast<std::byte>(word >> i * 8);
    }
  };
  put(0x0001eb9f);  // magic, version 1, no flags
  put(kHeaderBytes);
  put(0);
  put(kTypeBytes);
  put(kTypeBytes);
  put(kBlob.char_count);
  for (size_t i = 0; i < kBlob.word_count; i++) {
    put(kBlob.words[i]);
  }
  for (size_t i = 0; i < kBlob.char_count; i++) {
    bytes[at++] = static_cast<std::byte>(kBlob.chars[i]);
  }
  return bytes;
}
constexpr auto kTypes = make_bytes();

}  // namespace

std::span<const std::byte> kernel_types() { return kTypes; }

}  // namespace bpftime
