// probe_read and its kin. There is one address space: a "kernel" address that a program has here is
// one of ours.
#include <cerrno>

#include "helpers/all.hpp"

namespace bpftime::helper {
namespace {

constexpr uint64_t kLargestRead = 1ULL << 29;  // BPF_MAX_VAR_SIZ

}  // namespace

// (void* dst, u32 size, const void* unsafe): probe_read, probe_read_user, probe_read_kernel
BPFTIME_HELPER(probe_read) {
  (void)a4, (void)a5;
  const auto size = static_cast<uint32_t>(a2);
  if (size > kLargestRead) {
    return static_cast<uint64_t>(-EFAULT);
  }
  return static_cast<uint64_t>(
      checked_read(probe(hit).thread, reinterpret_cast<void*>(a1), a3, size));
}

// The same for strings: probe_read_str, probe_read_user_str, probe_read_kernel_str
BPFTIME_HELPER(probe_read_str) {
  (void)a4, (void)a5;
  const auto size = static_cast<uint32_t>(a2);
  if (size > kLargestRead) {
    return static_cast<uint64_t>(-EFAULT);
  }
  return static_cast<uint64_t>(
      checked_read_string(probe(hit).thread, reinterpret_cast<char*>(a1), a3, size));
}

}  // namespace bpftime::helper
