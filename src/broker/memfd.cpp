#include "broker/memfd.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U  // Linux 6.3, uapi/linux/memfd.h
#endif

namespace bpftime {

Result<UniqueFd> make_memfd(const char* name, uint64_t size_bytes) {
  UniqueFd fd(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL));
  if (!fd && errno == EINVAL) {
    fd.reset(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  }
  if (!fd) {
    return make_error(errno, "memfd_create");
  }
  if (::ftruncate(fd.get(), static_cast<off_t>(size_bytes)) != 0) {
    return make_error(errno, "ftruncate of a memfd");
  }
  return fd;
}

Result<void> seal_size(int memfd) {
  if (::fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0) {
    return make_error(errno, "F_ADD_SEALS");
  }
  return {};
}

Result<void> seal_content(int memfd) {
  if (::fcntl(memfd, F_ADD_SEALS,
              F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) != 0) {
    return make_error(errno, "F_ADD_SEALS");
  }
  return {};
}

Result<void> write_all(int fd, std::span<const std::byte> bytes, uint64_t offset) {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n =
        ::pwrite(fd, bytes.data() + done, bytes.size() - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) {
      continue;
    }
    if (n <= 0) {
      return make_error(n < 0 ? errno : EIO, "write to a memfd");
    }
    done += static_cast<size_t>(n);
  }
  return {};
}

Result<void> copy_file(int from, int to, uint64_t size_bytes) {
  std::vector<std::byte> buffer(256 << 10);
  uint64_t at = 0;
  while (at < size_bytes) {
    const off_t data = ::lseek(from, static_cast<off_t>(at), SEEK_DATA);
    if (data < 0) {
      return errno == ENXIO ? Result<void>() : Result<void>(make_error(errno, "SEEK_DATA"));
    }
    at = static_cast<uint64_t>(data);
    off_t hole = ::lseek(from, data, SEEK_HOLE);
    const uint64_t end = std::min(size_bytes, hole < 0 ? size_bytes : static_cast<uint64_t>(hole));
    while (at < end) {
      const ssize_t n = ::pread(from, buffer.data(), std::min<uint64_t>(buffer.size(), end - at),
                                static_cast<off_t>(at));
      if (n < 0 && errno == EINTR) {
        continue;
      }
      if (n <= 0) {
        return make_error(n < 0 ? errno : EIO, "read of a region");
      }
      TRY(write_all(to, std::span(buffer.data(), static_cast<size_t>(n)), at));
      at += static_cast<uint64_t>(n);
    }
  }
  return {};
}

}  // namespace bpftime
