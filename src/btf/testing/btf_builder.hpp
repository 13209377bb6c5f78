// Makes BTF for tests, type by type; ids are given in order from 1. Home: pure, tests only.
#pragma once
#include <linux/btf.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace bpftime::testing {

class BtfBuilder {
 public:
  struct Member {
    std::string_view name;
    uint32_t type, byte_offset;
  };

  uint32_t string(std::string_view text) {
    if (text.empty()) {
      return 0;
    }
    const auto at = static_cast<uint32_t>(strings_.size());
    strings_.append(text).push_back('\0');
    return at;
  }
  // Any type: `words` follow the fixed part.
  uint32_t raw(std::string_view name, uint32_t kind, uint32_t count, uint32_t size_or_type,
               const std::vector<uint32_t>& words = {}, bool kind_flag = false) {
    push(string(name));
    push((kind_flag ? 1U << 31 : 0U) | kind << 24 | count);
    push(size_or_type);
    for (const uint32_t word : words) {
      push(word);
    }
    return ++count_;
  }
  uint32_t add_int(std::string_view name, uint32_t bytes, uint32_t encoding = 0) {
    return raw(name, BTF_KIND_INT, 0, bytes, {encoding << 24 | bytes * 8});
  }
  uint32_t add_pointer(uint32_t to) { return raw("", BTF_KIND_PTR, 0, to); }
  uint32_t add_typedef(std::string_view name, uint32_t to) {
    return raw(name, BTF_KIND_TYPEDEF, 0, to);
  }
  uint32_t add_type_tag(std::string_view name, uint32_t to) {
    return raw(name, BTF_KIND_TYPE_TAG, 0, to);
  }
  // `component`: a member or parameter, -1 = the type itself.
  uint32_t add_decl_tag(std::string_view text, uint32_t type, int32_t component) {
    return raw(text, BTF_KIND_DECL_TAG, 0, type, {static_cast<uint32_t>(component)});
  }
  uint32_t add_array(uint32_t element, uint32_t index, uint32_t length) {
    return raw("", BTF_KIND_ARRAY, 0, 0, {element, index, length});
  }
  uint32_t add_struct(std::string_view name, uint32_t bytes, const std::vector<Member>& members,
                      uint32_t kind = BTF_KIND_STRUCT) {
    std::vector<uint32_t> words;
    for (const Member& member : members) {
      words.insert(words.end(), {string(member.name), member.type, member.byte_offset * 8});
    }
    return raw(name, kind, static_cast<uint32_t>(members.size()), bytes, words);
  }
  uint32_t add_prototype(uint32_t returns, const std::vector<Member>& parameters) {
    std::vector<uint32_t> words;
    for (const Member& parameter : parameters) {
      words.insert(words.end(), {string(parameter.name), parameter.type});
    }
    return raw("", BTF_KIND_FUNC_PROTO, static_cast<uint32_t>(parameters.size()), returns, words);
  }
  // `linkage` is BTF_FUNC_STATIC or BTF_FUNC_GLOBAL.
  uint32_t add_function(std::string_view name, uint32_t prototype, uint32_t linkage) {
    return raw(name, BTF_KIND_FUNC, linkage, prototype);
  }

  [[nodiscard]] std::vector<std::byte> bytes() const {
    btf_header header{};
    header.magic = BTF_MAGIC;
    header.version = BTF_VERSION;
    header.hdr_len = sizeof(header);
    header.type_len = static_cast<uint32_t>(types_.size() * 4);
    header.str_off = header.type_len;
    header.str_len = static_cast<uint32_t>(strings_.size());
    std::vector<std::byte> all(sizeof(header) + header.type_len + strings_.size());
    std::memcpy(all.data(), &header, sizeof(header));
    if (!types_.empty()) {
      std::memcpy(all.data() + sizeof(header), types_.data(), header.type_len);
    }
    std::memcpy(all.data() + sizeof(header) + header.type_len, strings_.data(), strings_.size());
    return all;
  }

 private:
  void push(uint32_t word) { types_.push_back(word); }
  std::vector<uint32_t> types_;
  std::string strings_ = std::string(1, '\0');
  uint32_t count_ = 0;
};

}  // namespace bpftime::testing
