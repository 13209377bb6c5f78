// Modules: the executable files that targets map, parsed once. Home: broker. A file is read, never mapped: its owner
// may truncate it at any moment.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "elf/elf.hpp"
#include "inject/process_maps.hpp"
#include "patchplan/plan.hpp"

namespace bpftime {

struct Module {
  uint64_t device, inode, size;
  int64_t mtime_ns;
  std::vector<std::byte> bytes;
  ElfImage image;
  std::vector<uint64_t> starts;  // addresses of all functions, sorted, each once

  // Address in the process of an address in the file, for a module mapped by `m`.
  [[nodiscard]] Result<uint64_t> bias(const Mapping& m) const;
};

// What plan_patch wants to know about the place at `address` (in the file); the spans live as long as the module.
struct FunctionPlace {
  uint64_t begin;  // of the function, in the file's addresses
  uint64_t bytes, bytes_to_next;
  std::string_view name;  // empty: no symbol
  std::span<const uint8_t> code;
};
Result<FunctionPlace> place_of(const Module& module, uint64_t address);
// Padding between functions within 160 bytes of `address`; ranges as addresses in the file.
std::vector<PaddingRange> padding_near(const Module& module, uint64_t address);

class Modules {
 public:
  // The file that `m` maps in process `pid`, opened through the process's own root. Errors: ENOENT (deleted), ESTALE
  // (another file has that name now), EFBIG, ENOEXEC.
  Result<std::shared_ptr<const Module>> of_mapping(pid_t pid, const Mapping& m);

 private:
  std::list<std::shared_ptr<const Module>> recent_;  // most recent first, at most kKept
  static constexpr size_t kKept = 16;
};

}  // namespace bpftime
