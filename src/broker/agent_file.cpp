#include "broker/agent_file.hpp"

#include <cerrno>
#include <cstring>
#include <span>
#include <utility>

#include "abi/agent.hpp"
#include "elf/elf.hpp"

namespace bpftime {

Result<AgentFile> AgentFile::parse(std::vector<std::byte> file_bytes) {
  AgentFile file{};
  file.bytes = std::move(file_bytes);
  const ElfImage image = TRY(ElfImage::parse(file.bytes));
  std::unordered_map<uint64_t, uint64_t> words;
  for (const auto& reloc : TRY(image.relative_relocations())) {
    words[reloc.offset] = static_cast<uint64_t>(reloc.addend);
  }
  const ElfSymbol symbol = TRY(image.find_symbol("bpftime_agent_descriptor"));
  const auto raw_descriptor = TRY(image.bytes_at(symbol.address, 8));
  uint32_t magic_version[2];
  std::memcpy(magic_version, raw_descriptor.data(), 8);
  if (magic_version[0] != kAgentMagic || magic_version[1] != kAgentVersion) {
    return make_error(EINVAL, "the agent file is of another version");
  }
  const auto field = [&](size_t offset) -> uint64_t {
    const auto it = words.find(symbol.address + offset);
    return it == words.end() ? 0 : it->second;
  };
  file.state = field(offsetof(AgentDescriptor, state));
  file.entry_thunk = field(offsetof(AgentDescriptor, entry_thunk));
  file.return_thunk = field(offsetof(AgentDescriptor, return_thunk));
  file.return_point = field(offsetof(AgentDescriptor, return_point));
  file.inside_thunk = field(offsetof(AgentDescriptor, inside_thunk));
  file.entry_thunk_hashed = field(offsetof(AgentDescriptor, entry_thunk_hashed));
  file.return_thunk_hashed = field(offsetof(AgentDescriptor, return_thunk_hashed));
  file.inside_thunk_hashed = field(offsetof(AgentDescriptor, inside_thunk_hashed));
  file.fault_handler = field(offsetof(AgentDescriptor, fault_handler));
  file.signal_restorer = field(offsetof(AgentDescriptor, signal_restorer));
  file.on_libraries = field(offsetof(AgentDescriptor, on_libraries));
  file.on_sigaction = field(offsetof(AgentDescriptor, on_sigaction));
  file.on_exec = field(offsetof(AgentDescriptor, on_exec));
  file.run_timed = field(offsetof(AgentDescriptor, run_timed));
  file.run_session = field(offsetof(AgentDescriptor, run_session));
  file.read_aside = field(offsetof(AgentDescriptor, read_aside));
  file.run_tail_calls = field(offsetof(AgentDescriptor, run_tail_calls));
  file.nobody = field(offsetof(AgentDescriptor, nobody));
  const uint64_t table = field(offsetof(AgentDescriptor, helpers));
  const auto count_bytes =
      TRY(image.bytes_at(field(offsetof(AgentDescriptor, helper_count)), sizeof(uint32_t)));
  uint32_t count = 0;
  std::memcpy(&count, count_bytes.data(), sizeof(count));
  for (uint32_t i = 0; i < count; i++) {
    const uint64_t entry = table + i * sizeof(HelperEntry);
    const auto id_bytes = TRY(image.bytes_at(entry, sizeof(uint64_t)));
    uint64_t id = 0;
    std::memcpy(&id, id_bytes.data(), sizeof(id));
    file.helpers[static_cast<uint32_t>(id)] = words[entry + offsetof(HelperEntry, function)];
  }
  if (file.state == 0 || file.entry_thunk == 0 || file.return_thunk == 0 || file.nobody == 0) {
    return make_error(EINVAL, "the agent file has an incomplete descriptor");
  }
  return file;
}

}  // namespace bpftime
