// Memory files of the broker: made unexecutable where the kernel can, sized once, sealed. Home:
// broker.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.hpp"
#include "base/unique_fd.hpp"

namespace bpftime {

// A sparse memfd of `size_bytes`, which may still be sealed.
// Errors: those of memfd_create(2) and ftruncate(2).
Result<UniqueFd> make_memfd(const char* name, uint64_t size_bytes);

// Nobody can change its size any more.
Result<void> seal_size(int memfd);

// Nobody can write it any more. Precondition: no writable mapping is left. F_SEAL_FUTURE_WRITE and
// not F_SEAL_WRITE, because with the latter kernels before 6.7 refuse even a shared mapping without
// PROT_WRITE.
Result<void> seal_content(int memfd);

Result<void> write_all(int fd, std::span<const std::byte> bytes, uint64_t offset);

// Copies `size_bytes` of one file to another. Holes stay holes where the file system tells them.
Result<void> copy_file(int from, int to, uint64_t size_bytes);

}  // namespace bpftime
