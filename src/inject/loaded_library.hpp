// A shared library as it lies in a process's memory: its exported symbols. Home: edge, broker.
// From memory, not from the file: that may be out of reach (chroot, mount namespace), replaced or
// deleted. What is read is HOSTILE: every walk is bounded, every address only handed to the kernel.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <string_view>

#include "base/result.hpp"

namespace bpftime {

class LoadedLibrary {
 public:
  // `begin`: where its first page (the ELF header) is mapped. Errors: ENOEXEC, EFAULT, ENOENT (no
  // hash table).
  static Result<LoadedLibrary> open(pid_t pid, uint64_t begin);
  [[nodiscard]] uint64_t bias() const { return bias_; }
  // Address of an exported, defined, ordinary symbol in the process (no indirect function). ENOENT.
  [[nodiscard]] Result<uint64_t> find(std::string_view name) const;

 private:
  LoadedLibrary() = default;
  pid_t pid_ = 0;
  uint64_t bias_ = 0, symbols_ = 0, strings_ = 0, buckets_ = 0, chains_ = 0;
  uint32_t bucket_count_ = 0, first_symbol_ = 0;
};

}  // namespace bpftime
