#include "inject/syscall_code.hpp"

#include <elf.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "inject/process.hpp"
#include "inject/process_maps.hpp"

namespace bpftime {
namespace {

constexpr uint64_t kPage = 4096;

// Somewhere to run a system call from: two bytes, 0f 05 (Intel SDM 2B, SYSCALL).
Result<uint64_t> find_syscall_in(const StoppedProcess& process, uint64_t begin, uint64_t end) {
  constexpr uint64_t kChunk = 64 << 10;
  std::vector<std::byte> code;
  for (uint64_t at = begin; at < end; at += kChunk - 1) {
    code.resize(std::min(kChunk, end - at));
    TRY(process.read(RemoteAddr{at}, code));
    for (size_t i = 0; i + 1 < code.size(); ++i) {
      if (code[i] == std::byte{0x0f} && code[i + 1] == std::byte{0x05}) {
        return at + i;
      }
    }
  }
  return make_error(ENOENT, "no syscall instruction there");
}

constexpr uint8_t kSyscallRet[] = {0x0f, 0x05, 0xc3};
constexpr uint8_t kSigreturn[] = {0x48, 0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05};

bool has_code(const StoppedProcess& process, uint64_t at, std::span<const uint8_t> wanted) {
  std::byte code[16];
  return at != 0 && process.read(RemoteAddr{at}, std::span(code, wanted.size())) &&
         std::memcmp(code, wanted.data(), wanted.size()) == 0;
}

std::map<pid_t, WayBack>& known_ways_back() {
  static thread_local std::map<pid_t, WayBack> known;
  return known;
}

// What an executable mapping of a file has.
struct InFile {
  dev_t device;
  ino_t inode;
  uint64_t offset, end, syscall_ret, sigreturn;  // of the mapping; ~0: not there
};

InFile look_in_file(pid_t pid, const Mapping& m) {
  InFile file = {m.device, m.inode, m.offset, m.offset + (m.end - m.begin), ~0ULL, ~0ULL};
  std::vector<std::byte> code(std::min<uint64_t>(m.end - m.begin, 32 << 20));
  if (read_memory(pid, RemoteAddr{m.begin}, code)) {
    const auto offset_of = [&](std::span<const uint8_t> wanted) -> uint64_t {
      const auto pattern = std::as_bytes(wanted);
      const auto at =
          std::search(code.begin(), code.end(),
                      std::boyer_moore_horspool_searcher(pattern.begin(), pattern.end()));
      return at == code.end() ? ~0ULL : static_cast<uint64_t>(at - code.begin());
    };
    file.syscall_ret = offset_of(kSyscallRet);
    file.sigreturn = offset_of(kSigreturn);
  }
  return file;
}

const InFile& known_in_file(pid_t pid, const Mapping& m) {
  static thread_local std::vector<InFile> files;
  const auto known = std::find_if(files.begin(), files.end(), [&](const InFile& f) {
    return f.device == m.device && f.inode == m.inode && f.offset == m.offset &&
           f.end == m.offset + (m.end - m.begin);
  });
  if (known != files.end()) {
    return *known;
  }
  if (files.size() > 256) {
    files.clear();
  }
  return files.emplace_back(look_in_file(pid, m));
}

WayBack look_in(pid_t pid) {
  const auto maps = read_maps(pid);
  WayBack way;
  if (!maps) {
    return way;
  }
  for (const Mapping& m : *maps) {
    const bool is_library = m.path.find("/libc.") != std::string::npos ||
                            m.path.find("/libc-") != std::string::npos ||
                            m.path.find("/ld-musl") != std::string::npos;
    const bool is_first = &m == &maps->front() || m.path == maps->front().path;  // a static program
    if ((m.prot & PROT_EXEC) == 0 || m.inode == 0 || (!is_library && !is_first) ||
        (way.syscall_ret != 0 && way.sigreturn != 0)) {
      continue;
    }
    const InFile& known = known_in_file(pid, m);
    if (way.syscall_ret == 0 && known.syscall_ret != ~0ULL) {
      way.syscall_ret = m.begin + known.syscall_ret;
    }
    if (way.sigreturn == 0 && known.sigreturn != ~0ULL) {
      way.sigreturn = m.begin + known.sigreturn;
    }
  }
  return way;
}

}  // namespace

Result<uint64_t> find_syscall_instruction(const StoppedProcess& process) {
  if (const auto auxv = read_auxv(process.pid())) {
    for (const auto& [key, value] : *auxv) {
      if (key == AT_SYSINFO_EHDR) {
        for (uint64_t page = value; page < value + 4 * kPage; page += kPage) {
          if (const auto found = find_syscall_in(process, page, page + kPage)) {
            return *found;
          }
        }
      }
    }
  }
  const std::vector<Mapping> maps = TRY(read_maps(process.pid()));
  for (const Mapping& mapping : maps) {
    if ((mapping.prot & PROT_EXEC) != 0 && mapping.path != "[vsyscall]") {
      if (const auto found = find_syscall_in(process, mapping.begin, mapping.end)) {
        return *found;
      }
    }
  }
  return make_error(ENOENT, "no syscall instruction in the process");
}

void look_for_way_back(pid_t pid) {
  auto& known = known_ways_back();
  if (known.size() > 1024) {
    known.clear();
  }
  known[pid] = look_in(pid);
}

std::optional<WayBack> find_way_back(const StoppedProcess& process) {
  const WayBack known = known_ways_back()[process.pid()];
  if (has_code(process, known.syscall_ret, kSyscallRet) &&
      has_code(process, known.sigreturn, kSigreturn)) {
    return known;
  }
  look_for_way_back(process.pid());
  const WayBack way = known_ways_back()[process.pid()];
  return way.syscall_ret != 0 && way.sigreturn != 0 ? std::optional(way) : std::nullopt;
}

}  // namespace bpftime
