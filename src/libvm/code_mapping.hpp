// Compiled code mapped for this process: read and execute, never writable at the same time. Home:
// edge.
#pragma once
#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <span>
#include <utility>

#include "base/result.hpp"

namespace bpftime {

class CodeMapping {
 public:
  // Errors: ENOMEM, or what mmap and mprotect say.
  static Result<CodeMapping> map(std::span<const std::byte> code) {
    void* at =
        ::mmap(nullptr, code.size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) {
      return make_error(errno, "no memory for code");
    }
    CodeMapping mapping(at, code.size());
    std::memcpy(at, code.data(), code.size());
    // SAFETY: the page holds compiled code only, and is not writable from here on.
    if (::mprotect(at, code.size(), PROT_READ | PROT_EXEC) != 0) {
      return make_error(errno, "code may not be made executable");
    }
    return mapping;
  }
  CodeMapping(CodeMapping&& other) noexcept
      : at_(std::exchange(other.at_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  CodeMapping& operator=(CodeMapping&& other) noexcept {
    std::swap(at_, other.at_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~CodeMapping() {
    if (at_ != nullptr) {
      ::munmap(at_, bytes_);
    }
  }
  template <class Function>
  [[nodiscard]] Function entry() const {
    return reinterpret_cast<Function>(at_);
  }
  [[nodiscard]] uint64_t begin() const { return reinterpret_cast<uint64_t>(at_); }

 private:
  CodeMapping(void* at, size_t bytes) : at_(at), bytes_(bytes) {}
  void* at_;
  size_t bytes_;
};

}  // namespace bpftime
