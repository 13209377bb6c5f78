// bpftime map dump|get: elements as their BTF says, read from the shared region itself.
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "btf/print_value.hpp"
#include "cli/commands.hpp"
#include "cli/loaded_map.hpp"

namespace bpftime::cli {
namespace {

constexpr int kTries = 1000;  // a value that is being written is looked at again

std::string text_of(const LoadedMap& map, uint32_t type, std::span<const std::byte> bytes) {
  return map.types() && type != 0 ? value_text(*map.types(), type, bytes) : value_text(bytes);
}

// One value, or for per-CPU kinds an array with one a lane.
std::string value_of(const LoadedMap& map, std::span<const std::byte> bytes) {
  const MapSpec& spec = map.view().spec;
  const uint32_t type = map.info().btf_value_type_id;
  if (spec.cpu_count <= 1) {
    return text_of(map, type, bytes);
  }
  const size_t padded = (size_t{spec.value_size} + 7) & ~size_t{7};
  std::string text = "[";
  for (uint32_t cpu = 0; cpu < spec.cpu_count; cpu++) {
    text += cpu == 0 ? "" : ",";
    text += text_of(map, type, bytes.subspan(cpu * padded, spec.value_size));
  }
  return text + "]";
}

// 0 or -errno.
int look_up(const LoadedMap& map, const void* key, std::vector<std::byte>* value) {
  int error = -EAGAIN;
  for (int i = 0; i < kTries && error == -EAGAIN; i++) {
    error = map_sys_lookup(map.view(), key, value->data());
  }
  return error;
}

int dump(const LoadedMap& map, bool json) {
  std::vector<std::byte> key(map.view().spec.key_size), next(key.size());
  std::vector<std::byte> value(map.value_bytes());
  bool first = true;
  int error = map_next_key(map.view(), nullptr, next.data());
  if (json) {
    std::fputs("[", stdout);
  }
  // What programs insert meanwhile may turn the walk back; it ends all the same.
  const uint64_t most = uint64_t{map.view().spec.max_entries} * 2 + 16;
  for (uint64_t i = 0; error == 0 && i < most; i++) {
    key.swap(next);
    if (look_up(map, key.data(), &value) == 0) {
      const std::string shown = text_of(map, map.info().btf_key_type_id, key);
      std::printf(json ? "%s\n  {\"key\": %s, \"value\": %s}" : "%s%s: %s\n",
                  json && !first ? "," : "", shown.c_str(), value_of(map, value).c_str());
      first = false;
    }
    error = map_next_key(map.view(), key.data(), next.data());
  }
  if (json) {
    std::fputs("\n]\n", stdout);
  }
  return 0;
}

// One word is a number, or text for a key that is char[]; several are bytes, in hexadecimal.
bool parse_key(const LoadedMap& map, const std::vector<std::string>& words,
               std::vector<std::byte>* key) {
  if (words.size() > 1 || key->size() == 1) {
    if (words.size() != key->size()) {
      return false;
    }
    for (size_t i = 0; i < words.size(); i++) {
      char* end = nullptr;
      const unsigned long byte = std::strtoul(words[i].c_str(), &end, words.size() > 1 ? 16 : 0);
      if (*end != 0 || byte > 0xff) {
        return false;
      }
      (*key)[i] = static_cast<std::byte>(byte);
    }
    return true;
  }
  const std::string& word = words[0];
  char* end = nullptr;
  errno = 0;
  const bool is_negative = word[0] == '-';
  const uint64_t number = is_negative ? static_cast<uint64_t>(std::strtoll(word.c_str(), &end, 0))
                                      : std::strtoull(word.c_str(), &end, 0);
  if (!word.empty() && *end == 0 && errno == 0 && key->size() <= sizeof(number)) {
    std::memcpy(key->data(), &number, key->size());
    return key->size() == sizeof(number) || is_negative || number >> (key->size() * 8) == 0;
  }
  if (map.types() && map.info().btf_key_type_id != 0 && word.size() <= key->size()) {
    const auto type = map.types()->resolve(map.info().btf_key_type_id);
    if (type && type->kind == BtfKind::kArray) {
      std::memcpy(key->data(), word.data(), word.size());
      return true;
    }
  }
  return false;
}

}  // namespace

int run_map(const Surroundings& here, const Invocation& invocation) {
  const bool is_get = invocation.command == Command::kMapGet;
  const std::string what = std::string(is_get ? "map get " : "map dump ") + invocation.map;
  auto broker = reach_broker(here, Role::kCommand, false);
  if (!broker) {
    return broker.error().code == ENOENT ? complain(what, "no such map", "see bpftime map list")
                                         : complain(what, broker.error(), "", 0);
  }
  const auto map = LoadedMap::find(&*broker, invocation.map);
  if (!map) {
    const int code = map.error().code;
    return code == ENOENT ? complain(what, "no such map", "see bpftime map list")
                          : complain(what, map.error(), "", 0);
  }
  std::vector<std::byte> key(map->view().spec.key_size);
  if (key.empty()) {
    return complain(what, "maps of this kind have no elements", "see bpftime map list");
  }
  if (!is_get) {
    return dump(*map, invocation.json);
  }
  if (!parse_key(*map, invocation.key, &key)) {
    return complain(what, "the key does not fit " + std::to_string(key.size()) + " bytes",
                    "give a number, text, or each byte in hexadecimal");
  }
  std::vector<std::byte> value(map->value_bytes());
  const int error = look_up(*map, key.data(), &value);
  if (error != 0) {
    return complain(what, std::strerror(-error), "see bpftime map dump " + invocation.map);
  }
  const std::string shown = text_of(*map, map->info().btf_key_type_id, key);
  std::printf(invocation.json ? "{\"key\": %s, \"value\": %s}\n" : "%s: %s\n", shown.c_str(),
              value_of(*map, value).c_str());
  return 0;
}

}  // namespace bpftime::cli
